"""Elementwise activations: one record for the network, the theory and the flags alike."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry import _checks


@dataclass(frozen=True)
class Activation:
    """An elementwise function and what the theory needs to know of it.

    **Arguments**
    - `fn`: array in, array of the same shape out, elementwise.
    - `kinks`: points where `fn` or a derivative of it jumps; integrals are split there.
    - `odd`: whether fn(-x) = -fn(x); None if unknown.
    - `name`: for tables and messages; the function's own name by default.

    **Raises** `ValueError`: fn not callable, or NumPy's; kinks that are not numbers.
    """

    fn: Callable[[Any], Any]
    kinks: tuple[float, ...] = ()
    odd: bool | None = None
    name: str | None = None

    def __post_init__(self):
        if not callable(self.fn):
            raise _checks.InputError(f"Activation(): fn={_checks.show(self.fn)} is not callable.")
        if isinstance(self.fn, np.ufunc):  # tracing one can end in a segmentation fault (JAX 0.10.2)
            name = self.fn.__name__
            home = "jnp" if hasattr(jnp, name) else "jax.scipy.special"
            raise _checks.InputError(f"Activation(): fn={name} is NumPy's, not JAX's; write {home}.{name}.")
        try:
            object.__setattr__(self, "kinks", tuple(float(k) for k in self.kinks))
        except (TypeError, ValueError):
            raise _checks.InputError(
                f"Activation(): kinks={_checks.show(self.kinks)} is not a tuple of numbers; write (0.0,) for one at 0."
            ) from None
        object.__setattr__(self, "name", self.name or getattr(self.fn, "__name__", "activation"))

    @property
    def named(self) -> bool:
        """Whether it is the one that `get` gives for its name: of those everything is known."""
        return _NAMED.get(str(self.name)) == self

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """phi(x)."""
        return self.fn(x)

    def slope(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """phi' at every entry of `x`, by forward autodiff: at a kink the value that training itself would use."""
        return jax.jvp(self.fn, (x,), (jnp.ones_like(x),))[1]


def _identity(x: Any) -> Any:
    return x


def _gelu(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


def _gelu_tanh(x: Any) -> Any:
    # jax.nn.gelu(x, approximate=True) without 1 + tanh, which cancels where the slope is small
    return x * jax.nn.sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))


def _shifted_relu(x: Any) -> Any:
    return jnp.maximum(x, -1.0)


linear = Activation(_identity, odd=True, name="linear")
relu = Activation(jax.nn.relu, kinks=(0.0,), odd=False, name="relu")
leaky_relu = Activation(jax.nn.leaky_relu, kinks=(0.0,), odd=False, name="leaky_relu")
elu = Activation(jax.nn.elu, kinks=(0.0,), odd=False, name="elu")
selu = Activation(jax.nn.selu, kinks=(0.0,), odd=False, name="selu")
gelu = Activation(_gelu, odd=False, name="gelu")
gelu_tanh = Activation(_gelu_tanh, odd=False, name="gelu_tanh")
silu = Activation(jax.nn.silu, odd=False, name="silu")
softplus = Activation(jax.nn.softplus, odd=False, name="softplus")
sigmoid = Activation(jax.nn.sigmoid, odd=False, name="sigmoid")
tanh = Activation(jnp.tanh, odd=True, name="tanh")
hard_tanh = Activation(jax.nn.hard_tanh, kinks=(-1.0, 1.0), odd=True, name="hard_tanh")
erf = Activation(jax.scipy.special.erf, odd=True, name="erf")
arctan = Activation(jnp.arctan, odd=True, name="arctan")
softsign = Activation(jax.nn.soft_sign, kinks=(0.0,), odd=True, name="softsign")
sin = Activation(jnp.sin, odd=True, name="sin")
shifted_relu = Activation(_shifted_relu, kinks=(-1.0,), odd=False, name="shifted_relu")  # SReLU: max(x, −1)
squareplus = Activation(jax.nn.squareplus, odd=False, name="squareplus")  # (x + √(x² + 4))/2

_NAMED = {str(a.name): a for a in list(globals().values()) if isinstance(a, Activation)}


def names() -> tuple[str, ...]:
    """The names that `get` knows."""
    return tuple(_NAMED)


def get(activation: "str | Activation | Callable[[Any], Any]", call: str = "activations.get") -> Activation:
    """The `Activation` meant by `activation`: a name, any elementwise callable, or an `Activation` itself.

    `call`: the name that messages of errors begin with.

    **Raises** `ValueError`: a name that is not known (the nearest is suggested), or neither a name nor a callable.
    """
    if isinstance(activation, Activation):
        return activation
    if callable(activation):
        return Activation(activation)
    _checks.one_of(call, among=_NAMED, activation=activation)
    return _NAMED[activation]
