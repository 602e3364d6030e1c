"""Schemes: the initializer of each layer, and the initial multipliers of branches."""

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from isometry import initializers
from isometry._internal import checks
from isometry._internal.errors import FromCall, InputError, NotDefined, public
from isometry._internal.types import Elementwise, Key, Params, Shape
from isometry._internal.types import Initializer as Init
from isometry.activations import Activation
from isometry.initializers._critical import critical_point
from isometry.schemes._layer import Branch, Layer, Watched
from isometry.structure import Anatomy


class Residual(NamedTuple):
    """Initial multipliers of a residual block: `skip`·x + `branch`·F(x).

    Attributes:
        branch: The multiplier of the branch.
        skip: The multiplier of the skip.

    Example:
        >>> schemes.Residual(branch=0.0)
        Residual(branch=0.0, skip=1.0)
    """

    branch: float = 1.0
    skip: float = 1.0


class Mixed(NamedTuple):
    """Initial coefficients of an attention matrix: `alpha` I + `beta` A - `gamma` C.

    I is the identity, A the softmax of the logits, and C this softmax at logits of 0,
    where all visible tokens have the same weight.

    Attributes:
        alpha: The coefficient of I.
        beta: The coefficient of A.
        gamma: The coefficient of C, which is subtracted.

    Example:
        >>> schemes.get("value_skipinit").attention
        Mixed(alpha=1.0, beta=0.0, gamma=0.0)
    """

    alpha: float = 0.0
    beta: float = 1.0
    gamma: float = 0.0


class Drawn(NamedTuple):
    """The distribution of the weights of a layer, if theory has laws for it.

    Attributes:
        weights: "gaussian": independent, of variance sigma_w²/fan_in. "orthogonal":
            Haar, with all singular values sigma_w. Of kernels with a window:
            "orthogonal_kernel", flattened into a matrix (window and inputs) × outputs
            that is Haar; "delta_orthogonal", Haar at one tap; "block_orthogonal", whose
            convolution on a circle is orthogonal.
        sigma_w: The scale of the weights.

    Example:
        >>> layer = schemes.Layer("stem", index=0, depth=2, fan_in=9, fan_out=36)
        >>> schemes.get("kaiming").drawn(layer).weights
        'gaussian'
    """

    weights: str
    sigma_w: float

    def gain(self, layer: Layer) -> float:
        """Compute √(fan_in · Var W), the sigma_w of `theory.q_map`.

        Args:
            layer: The layer to which the weights belong.

        Returns:
            The gain. It is below sigma_w if the weights are orthogonal and the layer
            has more outputs than inputs.

        Example:
            >>> layer = schemes.Layer("stem", index=0, depth=2, fan_in=9, fan_out=36)
            >>> schemes.Drawn("orthogonal", 1.0).gain(layer)
            0.5
        """
        if self.weights == "gaussian":
            return self.sigma_w
        num_outputs = layer.fan_out
        # Both fans count the window, and a flattened kernel has it at its inputs alone.
        if self.weights == "orthogonal_kernel":
            num_outputs = layer.num_outputs
        kept = layer.fan_in / max(layer.fan_in, num_outputs)
        return self.sigma_w * kept**0.5


# The types of the functions in a `Scheme`; the float is its sigma_w.
Choose: TypeAlias = Callable[[Layer, float], Init]
Multipliers: TypeAlias = Callable[[Branch], Residual]
Ensemble: TypeAlias = Callable[[Layer, float], Drawn]

# For each residual block: the number of activations on its branch, and the multiplier
# of the branch.
Blocks: TypeAlias = tuple[tuple[int, float], ...]


class Transform(Protocol):
    """A function that returns the activation by which a scheme replaces another.

    It is called as `transform(activation, depth, blocks)`: `depth` activations follow
    one another on the stream, and `blocks` describes the residual blocks.
    """

    def __call__(
        self, activation: Activation, depth: int, blocks: Blocks = ()
    ) -> Activation: ...


Suits: TypeAlias = Callable[[Anatomy], None]


class Fit(Protocol):
    """A function `fit(net, params, xs)` that returns params adjusted to inputs xs."""

    def __call__(
        self,
        net: Callable[[Params, PyTree], PyTree],
        params: Params,
        xs: PyTree,
    ) -> Params: ...


@dataclass(frozen=True, eq=False)
class Scheme:
    """A rule that chooses the initializer of each layer.

    `name`, `choose` and `definition` are required, and enough for most schemes. Whoever
    writes a scheme sets the others as needed, except the last three, which `at` sets.
    The fields are listed in groups:

    - the initializers, which `schemes.assign` reads: `choose` to `embeddings`;
    - multipliers and coefficients beside the weights, which `schemes.assign` sets too:
      `multipliers` to `attention`;
    - the theory of the weights, which `Network.law` reads: `ensemble`;
    - changes of the parameters by data, for `adjust`, and of the activation, for
      `schemes.transformed`: `fit` and `transform`;
    - the networks that the scheme is for, which `schemes.assign` checks: `suits` to
      `otherwise`;
    - texts, which `schemes.listing` shows: `name` to `differs`;
    - the sigmas, which `at` sets: `sigma_w` to `settled`.

    Attributes:
        choose: `choose(layer, sigma_w)` returns the initializer of the weights of a
            layer. The initializer is called with the shape of one group of channels,
            (*window, inputs, outputs); if it was made with `groups=`, it is called
            once, with the shape of all groups.
        free: Whether users choose sigma_w and sigma_b. If not, the scheme fixes its own
            scale and draws no biases.
        alike: Whether `choose` returns the same initializer for layers that differ only
            in their index and the index of their branch. They are then drawn together.
            None: it does if it reads neither.
        pairs: Pairs of roles of an attention whose two layers are drawn from the same
            key, because their weights are two factors of one random matrix.
        embeddings: Whether the scheme draws embeddings. If not, they stay as drawn by
            the network's own code.
        multipliers: `multipliers(branch)` returns the initial multipliers of a branch
            and of its skip, a `Residual`. None: they stay as drawn.
        closes: Which leaf is set to the multiplier of a branch. "any": a scalar that
            multiplies the branch, or if there is none a scale per channel. "norm": the
            scale of the norm behind the last layer of the branch.
        attention: The initial coefficients of the matrix of each attention, a `Mixed`.
            None: they stay as drawn.
        ensemble: `ensemble(layer, sigma_w)` returns the distribution of the weights of
            a layer, a `Drawn`. None if they are not independent Gaussian or Haar.
        fit: `fit(net, params, xs)` returns drawn parameters adjusted to inputs xs. None
            if the scheme is not data-driven.
        transform: `transform(activation, depth, blocks)` returns the activation that
            replaces the given one, in a network with `depth` activations in a row and
            these residual blocks. None: activations stay as they are.
        suits: `suits(anatomy)` raises `NotDefined` for a network for which the scheme
            has no meaning. None: it has one for all networks.
        made_for: The part of a network for which the scheme was made: "branches",
            "attentions", "windows" (of convolutions), "widths" (two layers or more), or
            "" for any network.
        otherwise: What the scheme does in a network without the part `made_for`, a
            verb phrase such as "draws what kaiming does".
        name: The name by which users ask for the scheme, such as "orthogonal".
        definition: What the scheme does, in one line.
        citation: The paper in which it was published.
        law: The distribution of the weights, or their exact structure.
        isometric: The networks that it makes isometric, in words.
        aliases: Other names of the scheme.
        differs: How it differs from the paper, or from other implementations.
        sigma_w: The scale of the weights, for a free scheme.
        sigma_b: The standard deviation of the biases, for a free scheme.
        settled: Whether `at` has chosen the sigmas of a free scheme.

    Example:
        >>> def choose(layer, sigma_w):
        ...     return initializers.normal(std=0.5 / layer.fan_in)
        >>> scheme = schemes.Scheme("small", choose, "weights that fall with width")
        >>> networks.mlp([4, 8, 2], "tanh", scheme).scheme
        Scheme('small')
    """

    # The order is that of the arguments; the docstring groups the fields by their use.
    name: str
    choose: Choose
    definition: str
    citation: str = ""
    law: str = ""
    isometric: str = ""
    aliases: tuple[str, ...] = ()
    differs: str = ""
    free: bool = False
    alike: bool | None = None
    multipliers: Multipliers | None = None
    closes: str = "any"
    attention: Mixed | None = None
    fit: Fit | None = None
    ensemble: Ensemble | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    embeddings: bool = False
    transform: Transform | None = None
    suits: Suits | None = None
    made_for: str = ""
    otherwise: str = ""
    sigma_w: float = 1.0
    sigma_b: float = 0.0
    settled: bool = False

    @public("Scheme.initializer")
    def initializer(self, layer: Layer) -> Init:
        """Choose the initializer of the weights of a layer.

        Args:
            layer: A `Layer`.

        Returns:
            The initializer.

        Raises:
            InputError: Not a `Layer`.
            NotDefined: The scheme has no weights for such a layer.

        Example:
            >>> layer = schemes.Layer("hidden", index=1, depth=3, fan_in=4, fan_out=4)
            >>> schemes.get("orthogonal").initializer(layer)
            orthogonal(gain=1.0)
        """
        _check_kind("layer", layer, Layer)
        init = self.choose(layer, self.sigma_w)
        # A factory is callable too.
        factories = [entry.factory for entry in initializers.catalogue()]
        if not callable(init) or init in factories:
            raise InputError(
                f"choose of scheme {self.name!r} returned {checks.show(init)} for a "
                f"layer of role {layer.role!r}; return an initializer, such as "
                "initializers.orthogonal(), with the parentheses."
            )
        return init

    @public("Scheme.bias_initializer")
    def bias_initializer(self, layer: Layer) -> Init:
        """Choose the initializer of the biases of a layer: N(0, sigma_b²), or zeros.

        Args:
            layer: A `Layer`.

        Returns:
            The initializer.

        Raises:
            InputError: Not a `Layer`.

        Example:
            >>> layer = schemes.Layer("hidden", index=1, depth=3, fan_in=4, fan_out=4)
            >>> schemes.get("kaiming").bias_initializer(layer)
            zeros()
        """
        _check_kind("layer", layer, Layer)
        # N(0, 0) would be zeros as well, but would draw numbers first.
        # A traced sigma_b may be any number, 0 as well.
        if checks.is_traced(self.sigma_b) or self.sigma_b:
            return initializers.normal(std=self.sigma_b)
        return initializers.zeros()

    @public("Scheme.residual")
    def residual(self, branch: Branch) -> Residual:
        """Return the initial multipliers of a branch and of its skip.

        Args:
            branch: The place of the branch in its network.

        Returns:
            The two multipliers; both are 1 if the scheme has no rule for them.

        Raises:
            InputError: Not a `Branch`.

        Example:
            >>> branch = schemes.Branch(index=0, count=4, position=0, length=2)
            >>> schemes.get("rezero").residual(branch)
            Residual(branch=0.0, skip=1.0)
        """
        _check_kind("branch", branch, Branch)
        # No rule is None, and not one that returns (1, 1): by that one `assign` would
        # set the scalars of a network to 1, and without a rule it leaves them as drawn.
        if self.multipliers is None:
            return Residual()
        multipliers = self.multipliers(branch)
        if not isinstance(multipliers, Residual):
            raise InputError(
                f"multipliers of scheme {self.name!r} returned "
                f"{checks.show(multipliers)}; return schemes.Residual(branch, skip)."
            )
        return multipliers

    @public("Scheme.drawn")
    def drawn(self, layer: Layer) -> Drawn:
        """Return the distribution of the weights of a layer, if theory has laws for it.

        Args:
            layer: A `Layer`.

        Returns:
            The distribution and its scale.

        Raises:
            InputError: Not a `Layer`.
            NotDefined: The weights are not independent between layers, or neither
                Gaussian nor Haar orthogonal.

        Example:
            >>> layer = schemes.Layer("hidden", index=1, depth=3, fan_in=4, fan_out=4)
            >>> schemes.get("kaiming").drawn(layer)
            Drawn(weights='gaussian', sigma_w=1.4142135623730951)
        """
        _check_kind("layer", layer, Layer)
        # Theory has no law for mirrored weights, whose blocks repeat, for deterministic
        # ones (ZerO), or for sparse ones.
        if self.ensemble is None:
            raise NotDefined(
                f"no law is known of {self.name}: there is one of weights drawn "
                "Gaussian or Haar, layer by layer."
            )
        return self.ensemble(layer, self.sigma_w)

    @property
    def data_driven(self) -> bool:
        """Whether `adjust` changes the parameters.

        Example:
            >>> schemes.get("lsuv").data_driven
            True
        """
        return self.fit is not None

    @public("adjust")
    def adjust(
        self,
        net: Callable[[Params, PyTree], PyTree],
        params: Params,
        xs: PyTree,
    ) -> Params:
        """Adjust drawn parameters to inputs, as `lsuv` and `admin` do.

        `ensemble` and `audit` call it on what they draw, with the inputs that they are
        given; `net.init` cannot. Runs on the host.

        Args:
            net: A `Network`, or any f(params, x).
            params: Its parameters, as drawn by this scheme.
            xs: Inputs: a tree of arrays with a leading axis over examples.

        Returns:
            The adjusted parameters; `params` themselves if the scheme is not data
            driven.

        Raises:
            InputError: The inputs are not finite, or have no leading axis; or the
                scheme refuses the network or the inputs.
            TracedError: An argument is traced.

        Example:
            >>> net = networks.mlp([4, 8, 2], "relu", "lsuv")
            >>> params = net.init(jax.random.key(0))
            >>> xs = jax.random.normal(jax.random.key(1), (32, 4))
            >>> params = net.scheme.adjust(net, params, xs)
            >>> z = jax.vmap(net, (None, 0))(params, xs)
            >>> round(float(z.std()), 4)
            1.0
        """
        checks.on_host("params", params)
        checks.on_host("xs", xs)
        _check_inputs(net, xs)
        if self.fit is None:
            return params
        return self.fit(net, params, xs)

    @public("Scheme.at")
    def at(
        self,
        activation: str | Elementwise | Activation,
        sigma_w: float | None = None,
        sigma_b: float | None = None,
    ) -> "Scheme":
        """Return a copy of the scheme with sigma_w and sigma_b for an activation.

        Args:
            activation: A name, an elementwise callable, or an `Activation`.
            sigma_w: The scale of the weights. None: critical for the activation, at
                this sigma_b.
            sigma_b: The standard deviation of the biases. None: 0.

        Returns:
            The copy. A scheme that fixes its own scale is returned as it is.

        Raises:
            InputError: A sigma for a scheme that fixes its own scale, or a sigma that
                is not finite and non-negative.
            NoCriticalPoint: The activation has no critical point.
            NotDefined: The scheme transforms the activation: `schemes.transformed` has
                to be called first.

        Example:
            >>> schemes.get("gaussian").at("relu")
            Scheme('gaussian', sigma_w=1.41421, sigma_b=0)
        """
        check_sigmas(self, sigma_w, sigma_b)
        if self.transform is not None:
            raise NotDefined(
                f"scheme {self.name!r} transforms the activation; write "
                f"activation, scheme = schemes.transformed({self.name!r}, activation, "
                "depth) and build the network with both."
            )
        if not self.free:
            return self
        # Without a sigma_w the scale is critical.
        if sigma_w is None:
            point = critical_point(activation, sigma_b=sigma_b)
            sigma_w, sigma_b = point.sigma_w, point.sigma_b
        return dataclasses.replace(
            self,
            sigma_w=float(sigma_w),
            sigma_b=float(sigma_b or 0.0),
            settled=True,
        )

    def __repr__(self) -> str:
        if not self.free:
            return f"Scheme({self.name!r})"
        scale = f"sigma_w={self.sigma_w:.6g}, sigma_b={self.sigma_b:.6g}"
        return f"Scheme({self.name!r}, {scale})"


def draw(init: Init, key: Key, shape: Shape, *, dtype: jnp.dtype) -> Array:
    """Draw an array by an initializer, which may be the user's own.

    Raises:
        InputError: The initializer returns anything but an array of this shape.
    """
    drawn = init(key, shape, dtype)
    returned = getattr(drawn, "shape", None)
    # Reshaped, an array of another layout would have its entries in other places.
    if returned != tuple(shape):
        what = f"an array of shape {returned}" if returned else checks.show(drawn)
        raise InputError(
            f"the initializer {init!r} returned {what} for shape={shape}; write one "
            "that maps (key, shape, dtype) to an array of this shape."
        )
    return jnp.asarray(drawn, dtype)


def is_alike(scheme: Scheme, layer: Layer) -> bool:
    """Tell whether layers that differ only in their indices get one initializer.

    Args:
        scheme: The scheme.
        layer: One of these layers.
    """
    if scheme.alike is not None:
        return scheme.alike
    watched = Watched.of(layer)
    # A scheme that refuses the layer refuses it again when `initializer` is called.
    with contextlib.suppress(FromCall):
        scheme.choose(watched, scheme.sigma_w)
    return not watched.has_read_index


def _check_kind(name: str, value: object, kind: type[Layer] | type[Branch]) -> None:
    """Refuse an argument that is not an instance of `kind`."""
    if isinstance(value, kind):
        return
    fields = ", ".join(field.name for field in dataclasses.fields(kind)[:5])
    raise InputError(
        f"{name}={checks.show(value)} is not a {kind.__name__}; write "
        f"schemes.{kind.__name__}({fields}, ...)."
    )


def _check_inputs(net: Callable[[Params, PyTree], PyTree], xs: PyTree) -> None:
    """Require finite arrays whose first axes have the same length.

    Args:
        net: The network. If it knows the shape of one example, xs must have it too.
        xs: The inputs.

    Raises:
        InputError: xs are not of this form.
    """
    shape = getattr(net, "input_shape", None)
    leaves = jax.tree.leaves(xs)
    # Networks of this package know the shape of their input. Other functions may take
    # any tree, whose shapes cannot be checked.
    example = getattr(net, "example", None)
    takes_floats = jnp.issubdtype(getattr(example, "dtype", float), jnp.floating)
    if shape is not None and takes_floats:
        checks.examples("xs", xs, shape)
    checks.real("xs", xs)
    if not leaves or any(jnp.ndim(leaf) == 0 for leaf in leaves):
        raise InputError(
            f"xs is {checks.show(xs)}; write an array of examples, one a row, or a "
            "tree of them."
        )
    counts = {jnp.shape(leaf)[0] for leaf in leaves}
    # Leaves of different lengths cannot be split into examples, and no example has no
    # variance.
    if len(counts) > 1 or 0 in counts:
        raise InputError(
            f"the leaves of xs have {sorted(counts)} rows; write the same number, at "
            "least one, of each."
        )
    checks.all_finite("xs", xs)


def same(init: Init) -> Choose:
    """Return a rule that gives every layer the same initializer."""

    def choose(layer: Layer, sigma_w: float) -> Init:
        # The initializer has its scale already.
        del layer, sigma_w
        return init

    return choose


def check_sigmas(scheme: Scheme, sigma_w: float | None, sigma_b: float | None) -> None:
    """Refuse a sigma that is negative, not finite, or ignored by the scheme.

    Args:
        scheme: The scheme.
        sigma_w: The scale of the weights, or None.
        sigma_b: The standard deviation of the biases, or None.

    Raises:
        InputError: A sigma is such a number.
    """
    for name, value in (("sigma_w", sigma_w), ("sigma_b", sigma_b)):
        if value is None:
            continue
        # The user would believe that a sigma is in effect which the scheme ignores.
        if not scheme.free:
            raise InputError(
                f"{name}={value}: scheme {scheme.name!r} fixes its own scale. Leave "
                f"{name} out, or use one that leaves it to you, gaussian or orthogonal."
            )
        checks.number(name, value, low=0.0)
