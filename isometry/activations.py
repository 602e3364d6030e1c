"""Elementwise activations: one record for networks, theory and flags alike."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks
from isometry._internal.errors import InputError, public


@dataclasses.dataclass(frozen=True)
class Activation:
    """Describe an elementwise function: what theory needs to know of it.

    Args:
        fn: Takes an array and returns one of the same shape, entry by entry.
        kinks: Points where `fn` or a derivative of it jumps. Integrals are split there.
        odd: Whether fn(-x) = -fn(x). None if it is not known.
        name: For tables and messages. By default the function's own name.

    Raises:
        InputError: `fn` is not callable or a function of NumPy, or a kink is no number.

    Example:
        >>> def leaky(x):
        ...     return jnp.maximum(x, 0.2 * x)
        >>> phi = activations.Activation(leaky, kinks=(0.0,), odd=False)
        >>> phi(jnp.array([-1.0, 2.0]))
        Array([-0.2,  2. ], dtype=float32)
        >>> phi.name
        'leaky'
    """

    fn: Callable[[Array], Array]
    kinks: tuple[float, ...] = ()
    odd: bool | None = None
    name: str | None = None

    @public("Activation")
    def __post_init__(self):
        if not callable(self.fn):
            raise InputError(f"fn={checks.show(self.fn)} is not callable.")
        # Tracing a ufunc of NumPy can end in a segmentation fault (JAX 0.10.2).
        if isinstance(self.fn, np.ufunc):
            name = self.fn.__name__
            home = "jnp" if hasattr(jnp, name) else "jax.scipy.special"
            raise InputError(
                f"fn={name} is a NumPy ufunc, which JAX cannot trace; "
                f"write {home}.{name}."
            )
        # `kinks` may be any sequence of numbers and is kept as floats; without a `name`
        # that of the function is kept. The record is frozen, hence `__setattr__`.
        object.__setattr__(self, "kinks", _as_floats(self.kinks))
        if not self.name:
            own_name = getattr(self.fn, "__name__", "activation")
            object.__setattr__(self, "name", own_name)

    @property
    def named(self) -> bool:
        """Whether this is one of the package's own records.

        The tests show of those that they are elementwise and where their kinks are, so
        `mlp` checks only other activations.

        Example:
            >>> activations.get("tanh").named, activations.get(lambda x: x**2).named
            (True, False)
        """
        return self.name is not None and _NAMED.get(self.name) == self

    # Functions of JAX are others after pickling, and networks with them would no longer
    # be equal, so that each process would compile their programs again and again.
    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[object, ...]:
        """Pickle one of the package's own records as its name."""
        if self.named:
            return get, (self.name,)
        return super().__reduce_ex__(protocol)

    # What `fn` returns is the user's; `checks.elementwise` judges it.
    def __call__(self, x: Array) -> Array:
        """Apply the activation to every entry."""
        return self.fn(x)

    def slope(self, x: Float[Array | np.ndarray, "*axes"]) -> Float[Array, "*axes"]:
        """Compute the derivative of the activation at every entry.

        At a kink it is the value that training itself would use.

        Args:
            x: Pre-activations.

        Returns:
            The derivative, by forward autodiff.

        Example:
            >>> activations.relu.slope(jnp.array([-1.0, 0.0, 1.0]))
            Array([0., 0., 1.], dtype=float32)
        """
        _, derivative = jax.jvp(self.fn, (x,), (jnp.ones_like(x),))
        return derivative


def _as_floats(kinks: Iterable[float]) -> tuple[float, ...]:
    try:
        return tuple(float(kink) for kink in kinks)
    except (TypeError, ValueError):
        raise InputError(
            f"kinks={checks.show(kinks)} is not a tuple of numbers; "
            "write (0.0,) for one at 0."
        ) from None


_NAMED: dict[str, Activation] = {}


def _named(
    name: str,
    fn: Callable[[Array], Array],
    *,
    odd: bool = False,
    kinks: tuple[float, ...] = (),
) -> Activation:
    """Make an activation that `get` finds by its name."""
    activation = Activation(fn, kinks=kinks, odd=odd, name=name)
    _NAMED[name] = activation
    return activation


def _identity(x: Array) -> Array:
    return x


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


def _gelu_tanh(x: Array) -> Array:
    # jax.nn.gelu(x, approximate=True) holds 1 + tanh, which cancels at negative x.
    # Since (1 + tanh(y)) / 2 = sigmoid(2 y), this is the same function without the
    # cancellation.
    inner = math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)
    return x * jax.nn.sigmoid(inner)


def _shifted_relu(x: Array) -> Array:
    return jnp.maximum(x, -1.0)


linear = _named("linear", _identity, odd=True)
relu = _named(
    "relu",
    jax.nn.relu,
    kinks=(0.0,),
)
leaky_relu = _named(
    "leaky_relu",
    jax.nn.leaky_relu,
    kinks=(0.0,),
)
elu = _named(
    "elu",
    jax.nn.elu,
    kinks=(0.0,),
)
selu = _named(
    "selu",
    jax.nn.selu,
    kinks=(0.0,),
)
gelu = _named("gelu", _gelu)
gelu_tanh = _named("gelu_tanh", _gelu_tanh)
silu = _named("silu", jax.nn.silu)
softplus = _named("softplus", jax.nn.softplus)
sigmoid = _named("sigmoid", jax.nn.sigmoid)
tanh = _named("tanh", jnp.tanh, odd=True)
hard_tanh = _named(
    "hard_tanh",
    jax.nn.hard_tanh,
    odd=True,
    kinks=(-1.0, 1.0),
)
erf = _named("erf", jax.scipy.special.erf, odd=True)
arctan = _named("arctan", jnp.arctan, odd=True)
softsign = _named(
    "softsign",
    jax.nn.soft_sign,
    odd=True,
    kinks=(0.0,),
)
sin = _named("sin", jnp.sin, odd=True)
# The SReLU that Clevert et al. (2016) compare the ELU with: max(x, -1).
shifted_relu = _named(
    "shifted_relu",
    _shifted_relu,
    kinks=(-1.0,),
)
# (x + sqrt(x^2 + 4)) / 2, a softplus without exponentials (Barron, 2021).
squareplus = _named("squareplus", jax.nn.squareplus)


def names() -> tuple[str, ...]:
    """Return the names that `get` knows.

    Returns:
        The names, in lower case.

    Example:
        >>> activations.names()[:4]
        ('linear', 'relu', 'leaky_relu', 'elu')
    """
    return tuple(_NAMED)


@public("activations.get")
def get(activation: str | Activation | Callable[[Array], Array]) -> Activation:
    """Look up the activation that a user means.

    Args:
        activation: A name (`names()`) in upper or lower case, an elementwise callable,
            or an `Activation`, which is returned as it is.

    Returns:
        The record. For a callable, kinks and symmetry are unknown.

    Raises:
        InputError: A name that is not known (the nearest is suggested), or something
            that is neither a name nor callable.

    Example:
        >>> activations.get("ReLU").kinks
        (0.0,)
        >>> activations.get(jnp.sinh).name
        'sinh'
    """
    if isinstance(activation, Activation):
        return activation
    if callable(activation):
        return Activation(activation)
    name = checks.one_of_any_case("activation", activation, _NAMED)
    return _NAMED[name]
