"""A scheme: which initializer each layer gets, and what branches start from."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from isometry import initializers
from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, public
from isometry._internal.types import Elementwise, Params
from isometry._internal.types import Initializer as Init
from isometry.activations import Activation
from isometry.initializers._critical import critical_point
from isometry.schemes._layer import Branch, Layer
from isometry.structure import Anatomy


class Residual(NamedTuple):
    """Initial multipliers of a residual block: `skip`·x + `branch`·F(x).

    Attributes:
        branch: That of the branch.
        skip: That of the skip.

    Example:
        >>> schemes.Residual(branch=0.0)
        Residual(branch=0.0, skip=1.0)
    """

    branch: float = 1.0
    skip: float = 1.0


class Mixed(NamedTuple):
    """Initial coefficients of an attention matrix: `alpha` I + `beta` A - `gamma` C.

    A is the softmax, and C what it becomes at logits of 0: uniform over the visible
    tokens.

    Attributes:
        alpha: That of the identity.
        beta: That of the softmax.
        gamma: That of the uniform matrix, which is subtracted.

    Example:
        >>> schemes.get("value_skipinit").attention
        Mixed(alpha=1.0, beta=0.0, gamma=0.0)
    """

    alpha: float = 0.0
    beta: float = 1.0
    gamma: float = 0.0


class Drawn(NamedTuple):
    """The ensemble from which the weights of a layer are drawn.

    Attributes:
        weights: "gaussian", of variance sigma_w²/fan_in, or "orthogonal": Haar, with
            every singular value sigma_w.
        sigma_w: The scale.

    Example:
        >>> layer = schemes.Layer("stem", index=0, depth=2, fan_in=9, fan_out=36)
        >>> schemes.get("kaiming").drawn(layer).weights
        'gaussian'
    """

    weights: str
    sigma_w: float

    def gain(self, layer: Layer) -> float:
        """Compute √(fan_in · Var W), which `theory.q_map` takes for sigma_w.

        Args:
            layer: The layer whose weights they are.

        Returns:
            The gain; below sigma_w where an orthogonal layer widens.

        Example:
            >>> layer = schemes.Layer("stem", index=0, depth=2, fan_in=9, fan_out=36)
            >>> schemes.Drawn("orthogonal", 1.0).gain(layer)
            0.5
        """
        if self.weights != "orthogonal":
            return self.sigma_w
        kept = layer.fan_in / max(layer.fan_in, layer.fan_out)
        return self.sigma_w * kept**0.5


Choose: TypeAlias = Callable[[Layer, float], Init]
Multipliers: TypeAlias = Callable[[Branch], Residual]
Ensemble: TypeAlias = Callable[[Layer, float], Drawn]

# For each residual block: how many activations its branch has in a row, and the
# multiplier of the branch.
Blocks: TypeAlias = tuple[tuple[int, float], ...]


class Transform(Protocol):
    """How a scheme changes an activation, for `depth` of them in a row and blocks."""

    def __call__(
        self, activation: Activation, depth: int, blocks: Blocks = ()
    ) -> Activation: ...


Suits: TypeAlias = Callable[[Anatomy], None]


class Fit(Protocol):
    """What a scheme that looks at data does to drawn parameters."""

    def __call__(
        self,
        net: Callable[[Params, PyTree], PyTree],
        params: Params,
        xs: PyTree,
    ) -> Params: ...


@dataclass(frozen=True, eq=False)
class Scheme:
    """A rule that chooses the initializer of each layer.

    Attributes:
        name: The name by which users ask for it, such as "orthogonal".
        choose: `choose(layer, sigma_w)`: the initializer of the weights. It is called
            with the shape of one group, (*window, inputs, outputs); an initializer made
            with `groups=` is called once, with the shape of all groups.
        definition: What it does, in one line.
        citation: Who published it.
        law: The distribution of the weights, or their exact structure.
        isometric: Networks that it makes isometric, in words.
        aliases: Its other names.
        differs: How it differs from the paper, or from other implementations.
        free: Whether users choose sigma_w and sigma_b. If not, the scheme fixes its own
            scale and draws no biases.
        alike: Whether layers that differ only in their index, and in the index of their
            branch, get the same initializer. They are then drawn as one batch.
        multipliers: `multipliers(branch)`: the initial factors of the branch and of its
            skip, a `Residual`. None leaves all factors as the network draws them.
        closes: Which leaf at the end of a branch is set to the factor of the branch:
            "any" (a scalar, or else a scale per channel) or "norm" (the scale of the
            norm after the last layer).
        attention: The initial coefficients of the identity, the softmax and the uniform
            matrix in each attention, a `Mixed`. None leaves them as drawn.
        fit: `fit(net, params, xs)`: the parameters adjusted to data, for a scheme that
            looks at data.
        ensemble: `ensemble(layer, sigma_w)`: the distribution of the weights, a
            `Drawn`, if they are independent and Gaussian or Haar.
        pairs: Pairs of roles whose layers, one of each in an attention, are drawn from
            the same key: their weights are two factors of one random matrix.
        embeddings: Whether the scheme draws embeddings; if not, they stay as drawn.
        transform: `transform(activation, depth)`: the activation that replaces the
            given one, in a network with `depth` activations in a row. If the network
            has residual blocks, they are a further argument.
        suits: `suits(anatomy)` raises `NotDefined` for a network that the scheme is not
            made for.
        made_for: The part of a network for which the scheme is named: "branches",
            "attentions", "windows" (of convolutions), "widths" (of more than one
            layer), or "" for any network.
        otherwise: What the scheme does in a network without that part, as the end of a
            sentence that begins with its name.
        sigma_w: The scale of the weights of a free scheme.
        sigma_b: The standard deviation of the biases of a free scheme.
        settled: Whether the sigmas of a free scheme have been chosen, by `at`.

    Example:
        >>> def choose(layer, sigma_w):
        ...     return initializers.normal(std=0.5 / layer.fan_in)
        >>> scheme = schemes.Scheme("small", choose, "weights that fall with width")
        >>> networks.mlp([4, 8, 2], "tanh", scheme).scheme
        Scheme('small')
    """

    name: str
    choose: Choose
    definition: str
    citation: str = ""
    law: str = ""
    isometric: str = ""
    aliases: tuple[str, ...] = ()
    differs: str = ""
    free: bool = False
    alike: bool = True
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
        return self.choose(layer, self.sigma_w)

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
        if self.sigma_b:
            return initializers.normal(std=self.sigma_b)
        return initializers.zeros()

    @public("Scheme.residual")
    def residual(self, branch: Branch) -> Residual:
        """Return the initial multipliers of the block that a branch belongs to.

        Args:
            branch: A `Branch`.

        Returns:
            The multipliers of branch and skip: (1, 1) unless the scheme has a rule.

        Raises:
            InputError: Not a `Branch`.

        Example:
            >>> branch = schemes.Branch(index=0, count=4, position=0, length=2)
            >>> schemes.get("rezero").residual(branch)
            Residual(branch=0.0, skip=1.0)
        """
        _check_kind("branch", branch, Branch)
        # Without a rule, `assign` leaves the scalars of a network as they are drawn;
        # with a rule that returns (1, 1) it would set them to 1.
        if self.multipliers is None:
            return Residual()
        return self.multipliers(branch)

    @public("Scheme.drawn")
    def drawn(self, layer: Layer) -> Drawn:
        """Return the ensemble of the weights of a layer, where theory has laws for it.

        Args:
            layer: A `Layer`.

        Returns:
            The ensemble and its scale.

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
        """Whether `adjust` changes anything."""
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
            InputError: The inputs are not finite, or have no leading axis; what the
                scheme itself refuses.
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
        """Fix the scale of a scheme.

        A free scheme that is given neither sigma is critical for the activation at
        sigma_b = 0; given sigma_b alone, critical at that sigma_b; sigma_w alone means
        sigma_b = 0.

        Args:
            activation: A name, an elementwise callable, or an `Activation`.
            sigma_w: The scale of the weights, or None.
            sigma_b: The standard deviation of the biases, or None.

        Returns:
            The scheme with its scale fixed. A scheme that fixes its own is returned as
            it is.

        Raises:
            InputError: A sigma for a scheme that fixes its own scale, or one that is
                not finite and non-negative.
            NoCriticalPoint: The activation has none.
            NotDefined: The scheme transforms the activation, which has not been done.

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


def _check_kind(name: str, value: object, kind: type[Layer] | type[Branch]) -> None:
    if isinstance(value, kind):
        return
    fields = ", ".join(field.name for field in dataclasses.fields(kind)[:5])
    raise InputError(
        f"{name}={checks.show(value)} is not a {kind.__name__}; write "
        f"schemes.{kind.__name__}({fields}, ...)."
    )


def _check_inputs(net: Callable[[Params, PyTree], PyTree], xs: PyTree) -> None:
    """Require finite arrays with a leading axis, the same for all."""
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
    """Refuse a sigma that is negative, not finite, or ignored by the scheme."""
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
