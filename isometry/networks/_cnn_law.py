"""Laws and moments of convolutional networks, from scheme, image and inputs."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from isometry import theory
from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined
from isometry.activations import Activation
from isometry.networks._network import SPANS
from isometry.schemes import Drawn
from isometry.schemes._assignment import Ensemble
from isometry.theory import Law, Moments
from isometry.theory.laws import _convolution_moments as position_moments
from isometry.theory.laws._convolution_moments import Convolved, Step
from isometry.theory.laws._jacobian_law import is_scale_free
from isometry.theory.laws._span_law import span_law
from isometry.theory.mean_field._maps import mean_square
from isometry.theory.mean_field._moments import LARGEST_Q, SMALLEST_Q, differentiable
from isometry.theory.mean_field._quadrature import gauss_rule
from isometry.theory.mean_field._sites import Averaging

if TYPE_CHECKING:
    from isometry.networks._cnn import Cnn, Convolution

# Variances at each position, in front of a layer and behind it.
Image = Float[np.ndarray, "*size"]
Result = Float[np.ndarray, "*size_out"]

# Laws of a mixture: so many, and so many more for each factor of e in the range of the
# variances. Over a range of e², seven laws of tanh are right to 2e-4 of mass, and three
# to 1e-3: their edges are few where those of all positions are smeared.
_NODES = 3
_NODES_PER_LOG = 2.0

# How far mean and second moment of the law at averaged variances may be from those of
# varying ones, relatively. An image of 64 Gaussian channels on 8 positions is off by
# 0.003, and a tenth would refuse it; ten times as much would be seen in a spectrum.
_TOLERATED = 0.01

# Variances that differ by less, relatively, are equal: the inputs are float32.
_ALIKE = 1e-6


@dataclasses.dataclass(frozen=True)
class Filter:
    """A convolution as theory sees it.

    Attributes:
        layer: The layer without its weights.
        name: What it is called in messages.
        ensemble: The distribution of its weights and biases.
        has_bias: Whether it has biases.
    """

    layer: "Convolution"
    name: str
    ensemble: Ensemble
    has_bias: bool

    @property
    def drawn(self) -> Drawn:
        """The distribution of the weights."""
        return self.ensemble.drawn

    @property
    def square(self) -> float:
        """fan_in · Var W: the factor of the variance map."""
        return self.drawn.gain(self.ensemble.layer) ** 2

    @property
    def sigma_b(self) -> float:
        """The standard deviation of the biases."""
        return self.ensemble.sigma_b if self.has_bias else 0.0

    @property
    def is_gaussian(self) -> bool:
        """Whether the taps are independent Gaussians."""
        return self.drawn.weights == "gaussian"

    @property
    def num_taps(self) -> int:
        """The number of taps of the window."""
        return math.prod(self.layer.window)

    @property
    def is_pointwise(self) -> bool:
        """Whether every position is mapped by itself, to one of the result at most.

        A kernel with one tap reads each position once or, with strides or without
        padding, not at all.
        """
        return self.num_taps == 1 or self.drawn.weights == "delta_orthogonal"

    @property
    def is_strided(self) -> bool:
        """Whether windows are more than one position apart."""
        return max(self.layer.strides) > 1

    @property
    def is_circular(self) -> bool:
        """Whether no window sees a margin."""
        return self.num_taps == 1 or self.layer.padding == "circular"

    @functools.cached_property
    def averaging(self) -> Averaging:
        """The average of variances over the positions of a window."""
        layer = self.layer
        kind = self.drawn.weights
        sides = [_side_variances(k, kind) for k in layer.window]
        variances = functools.reduce(np.multiply.outer, sides)
        return Averaging(
            variances,
            layer.size_read,
            padding=layer.padding,
            strides=layer.strides,
        )

    @property
    def convolved(self) -> Convolved:
        """The convolution with independent taps of these variances."""
        ratio = self.layer.n_out / self.layer.n_in
        return Convolved(self.averaging, self.square, ratio)


def _side_variances(taps: int, kind: str) -> Float[np.ndarray, " taps"]:
    """Return the variances of the taps along one axis, as shares."""
    if kind == "delta_orthogonal":
        return np.eye(taps)[(taps - 1) // 2]
    if kind == "block_orthogonal":
        # Each of the k − 1 factors shifts a random half of the directions by a tap.
        counts = [math.comb(taps - 1, i) for i in range(taps)]
        return np.array(counts) / 2.0 ** (taps - 1)
    return np.full(taps, 1 / taps)


@dataclasses.dataclass(frozen=True)
class Chain:
    """A convolutional network as theory sees it.

    Attributes:
        filters: The convolutions, from first to last.
        head: The distribution of the dense layer behind them, or None.
        activation: The activation.
        is_averaged: Whether the output is a mean over positions.
    """

    filters: tuple[Filter, ...]
    head: Ensemble | None
    activation: Activation
    is_averaged: bool

    def next_variance(
        self,
        index: int,
        q: Image,
    ) -> Result:
        """Return the variances of pre-activations `index`, from those before it."""
        layer = self.filters[index]
        return position_moments.next_variance(
            self.activation,
            q,
            layer.convolved,
            sigma_b=layer.sigma_b,
        )

    def first_variance(self, squares: Image) -> Result:
        """Return the variances of the first pre-activations.

        Args:
            squares: The mean square of the channels of the input at each position.
        """
        stem = self.filters[0]
        return stem.square * stem.averaging.forward(squares) + stem.sigma_b**2


def chain(net: "Cnn") -> Chain:
    """Return what theory needs to know of a network.

    Raises:
        NotDefined: The scheme has no law.
    """
    layers = [run.layer for run in net.function.runs for _ in range(run.length)]
    ensembles = net.require_assignment().drawn()
    filters = tuple(
        Filter(layer, f"layer {i}", ensemble, has_bias=net.bias)
        for i, (layer, ensemble) in enumerate(zip(layers, ensembles, strict=False))
    )
    head = ensembles[-1] if net.function.head is not None else None
    return Chain(
        filters,
        head,
        activation=net.function.activation,
        is_averaged=net.function.is_averaged,
    )


@dataclasses.dataclass(frozen=True)
class Spanned:
    """The part of a network between the ends of a span.

    Attributes:
        chain: The network.
        first: The index of the first convolution inside.
        last: The index of the first convolution behind the span, so that
            `filters[first:last]` are those inside.
    """

    chain: Chain
    first: int
    last: int

    @property
    def filters(self) -> tuple[Filter, ...]:
        """The convolutions inside."""
        return self.chain.filters[self.first : self.last]

    @property
    def has_stem(self) -> bool:
        """Whether the span begins at the input, where no activation stands."""
        return self.first == 0

    def path(self, squares: Image) -> list[Float[np.ndarray, "..."]]:
        """Return the variances at each activation inside, at every position.

        Args:
            squares: The mean square of the channels of the input at each position.
        """
        q = [self.chain.first_variance(squares)]
        for index in range(1, self.last - 1):
            q.append(self.chain.next_variance(index, q[-1]))
        return q[: self.last - max(self.first, 1)]


def spanned(net: "Cnn", span: str) -> Spanned:
    """Return the part of a network that a span means.

    Raises:
        InputError: An unknown span; "hidden" of fewer than three weight layers.
        NotDefined: The span ends behind a mean over positions; a layer pools; a layer
            has no sum over channels.
    """
    checks.one_of("span", span, SPANS)
    whole = chain(net)
    count = len(whole.filters)
    ends = (0, count)
    if span == "hidden":
        num_layers = count + (whole.head is not None)
        if num_layers < 3:
            raise InputError(
                'span="hidden" runs from the first pre-activation to the last before '
                f"the output and needs three weight layers; this network has "
                f"{num_layers}."
            )
        ends = (1, num_layers - 1)
    elif whole.head is not None or whole.is_averaged:
        raise NotDefined(
            "the output is a mean over positions, of which no law is known: its "
            'Jacobian has one value for many. Write "hidden", or a network without '
            "head and global pooling."
        )
    inside = Spanned(whole, *ends)
    for layer in inside.filters:
        if layer.layer.pooling is not None:
            raise NotDefined(
                f"{layer.layer.pooling} pooling stands in front of {layer.name}, "
                "inside the span, and no law is known behind it; measure with "
                "isometry.ensemble."
            )
        # The limit is that of many channels in each group.
        if layer.layer.groups > 1 and layer.layer.n_in == layer.layer.groups:
            raise NotDefined(
                f"{layer.name} is depthwise, groups={layer.layer.groups}: channels do "
                "not mix, and no law of free factors holds; theory.depthwise_moments "
                "has mean and variance of one such layer."
            )
    return inside


def law(net: "Cnn", span: str, xs: ArrayLike) -> Law:
    """Return the law of the singular values, for `Cnn.law`.

    Raises:
        NotDefined: There is none; the message says why.
    """
    inside = spanned(net, span)
    is_pointwise = all(layer.is_pointwise for layer in inside.filters)
    if not is_pointwise:
        for layer in inside.filters:
            _require_law(layer)
    kinds = {layer.is_gaussian for layer in inside.filters}
    if len(kinds) > 1:
        raise NotDefined(
            "some weights of the span are Gaussian and some orthogonal; no law of such "
            "a mixture is put together here."
        )
    # The channels are averaged, and with them nothing else.
    squares = (np.asarray(xs, float) ** 2).mean(axis=-1)
    # A single layer has no activation.
    if len(inside.chain.filters) == 1:
        if is_pointwise:
            return _with_unread(inside, [_law_at(inside, [])], [1.0])
        return _law_at(inside, [])
    phi = inside.chain.activation
    differentiable(phi, 1.0)
    images = np.stack([inside.chain.first_variance(image) for image in squares])
    _require_variance(phi, images)
    if is_scale_free(phi, SMALLEST_Q, LARGEST_Q):
        # The law does not depend on variances.
        found = _law_at(inside, [1.0] * (inside.last - max(inside.first, 1)))
        return _with_unread(inside, [found], [1.0]) if is_pointwise else found
    if is_pointwise:
        return _mixture(inside, images)
    return _uniform(inside, squares.mean(axis=0))


def _require_variance(phi: Activation, images: Float[np.ndarray, "..."]) -> None:
    """Refuse pre-activations that are zero where the slope of phi jumps."""
    zeros = float((images == 0).mean())
    if zeros and any(kink == 0 for kink in phi.kinks):
        raise NotDefined(
            f"{zeros:.2g} of the first pre-activations are zero, and {phi.name} has a "
            "kink there; write inputs that are not zero at any position, or sigma_b."
        )


def _require_law(layer: Filter) -> None:
    """Refuse a layer whose moments differ from position to position.

    Raises:
        NotDefined: They do.
    """
    kind = layer.drawn.weights
    if not layer.is_circular and not layer.is_pointwise:
        has_moments = ""
        if layer.is_gaussian:
            has_moments = "; net.moments has mean and variance"
        raise NotDefined(
            f"{layer.name} has kernels of several taps and "
            f"padding={layer.layer.padding!r}: positions at the margin differ from "
            f"those inside, and no law is known{has_moments}. There is one for "
            "padding='circular', and for delta-orthogonal kernels with 'same'."
        )
    if not layer.is_strided:
        return
    if kind in ("delta_orthogonal", "block_orthogonal"):
        raise NotDefined(
            f"{layer.name} has strides {layer.layer.strides} and {kind} kernels, and "
            "the span has kernels of several taps: no law is known. There is one of "
            "Gaussian and flattened orthogonal kernels whose sides are multiples of "
            "the stride, and of delta-orthogonal kernels alone."
        )
    sides = zip(
        layer.layer.strides,
        layer.layer.window,
        layer.layer.size_read,
        strict=True,
    )
    if any(k % s or n % s for s, k, n in sides):
        raise NotDefined(
            f"{layer.name} has strides {layer.layer.strides} that do not divide its "
            f"window {layer.layer.window} and image {layer.layer.size_read}: some "
            "positions are read more often than others, and no law is known"
            f"{'; net.moments has mean and variance' if layer.is_gaussian else ''}."
        )


def _law_at(inside: Spanned, q: Sequence[float]) -> Law:
    """Return the law where all positions have the same variances, one a layer."""
    filters = inside.filters
    hits = []
    for layer in filters:
        # Of Haar kernels only the flattened ones read each input several times.
        is_flattened = layer.drawn.weights == "orthogonal_kernel"
        stride = math.prod(layer.layer.strides)
        hits.append(layer.num_taps / stride if is_flattened else 1.0)
    first = filters[0].layer
    outputs = [f.layer.n_out * math.prod(f.layer.size_out) for f in filters]
    widths = [first.n_in * math.prod(first.size_read), *outputs]
    if all(layer.is_pointwise for layer in filters):
        # The law of each position that is read to the end.
        widths = [first.n_in, *(layer.layer.n_out for layer in filters)]
        hits = [1.0] * len(filters)
    found = span_law(
        inside.chain.activation,
        q,
        [layer.drawn.sigma_w for layer in filters],
        widths=widths,
        is_gaussian=filters[0].is_gaussian,
        taps=hits,
    )
    found = dataclasses.replace(found, positions=_positions(filters))
    weights = filters[-1].drawn.weights.replace("_", " ")
    name = f"{inside.chain.activation.name}, depth {len(filters)}, {weights}"
    if inside.has_stem:
        name += ", end to end"
        return dataclasses.replace(found, name=name, span="end_to_end", pairs=None)
    return dataclasses.replace(found, name=name)


def _positions(filters: Sequence[Filter]) -> int:
    """Return how many values share a unit, at the narrower end of a span.

    Groups that do not mix are as many networks, of fewer channels each.
    """
    first, last = filters[0].layer, filters[-1].layer
    num_read = math.prod(first.size_read)
    num_out = math.prod(last.size_out)
    groups = max(layer.layer.groups for layer in filters)
    if first.n_in * num_read < last.n_out * num_out:
        return num_read * math.gcd(groups, first.n_in)
    return num_out * math.gcd(groups, last.n_out)


def _mixture(inside: Spanned, images: Float[np.ndarray, "inputs *size"]) -> Law:
    """Return the average of laws, where each position keeps a variance of its own.

    Args:
        inside: The span.
        images: The variances of the first pre-activations.
    """
    # Of positions that later layers do not read nothing comes to the end.
    for layer in inside.chain.filters[1 : inside.last]:
        images = np.stack([layer.averaging.forward(image) for image in images])
    q = images.ravel()
    zeros = float((q == 0).mean())
    nodes, shares = _nodes(q[q > 0])
    shares = (1 - zeros) * shares
    if zeros:
        nodes, shares = np.append(nodes, 0.0), np.append(shares, zeros)
    laws = [_law_at(inside, _dense_path(inside, float(node))) for node in nodes]
    return _with_unread(inside, laws, shares.tolist())


def _with_unread(inside: Spanned, laws: Sequence[Law], shares: Sequence[float]) -> Law:
    """Return the average of laws, and the zeros of positions that nothing reads.

    Args:
        inside: The span, of layers that map every position by itself.
        laws: Laws of single positions.
        shares: The share of positions that have each.
    """
    first, last = inside.filters[0].layer, inside.filters[-1].layer
    num_in = math.prod(first.size_read)
    num_out = math.prod(last.size_out)
    # A stride may skip positions of the input, of which no output knows.
    sizes = (first.n_in * num_in, last.n_out * num_out)
    known = num_out * min(first.n_in, last.n_out) / min(sizes)
    lacking = abs(sizes[0] - sizes[1]) / min(sizes)
    laws = [dataclasses.replace(one, structural_zeros=lacking) for one in laws]
    if len(laws) == 1 and known == 1:
        return laws[0]
    name = laws[0].name
    if len(laws) > 1:
        name += f", {len(laws)} variances"
    return theory.Mixture(
        laws,
        [known * share for share in shares],
        name,
        zeros=1 - known,
    )


def _nodes(
    q: Float[np.ndarray, " positions"],
) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    """Return a few variances and their shares that stand for all.

    A law is smooth in ln q, so a Gauss rule over the positions converges fast.
    """
    # There may be no position with a variance off zero.
    if not len(q):
        return np.zeros(0), np.zeros(0)
    spread = math.log(q.max() / q.min())
    if spread <= _ALIKE:
        return np.array([q.mean()]), np.ones(1)
    # Variances that are all but equal would break the recurrence of the rule.
    distinct = np.unique(np.round(np.log(q), 9))
    # As the law has more shape over a wider range, it needs more nodes.
    wanted = _NODES + math.ceil(_NODES_PER_LOG * spread)
    count = min(len(distinct), wanted)
    shares = np.full(len(q), 1 / len(q))
    rule = gauss_rule(np.log(q), shares, count)
    return np.exp(rule.nodes), rule.weights


def _dense_path(inside: Spanned, q: float) -> list[float]:
    """Return the variances of one position at each activation of the span."""
    path = [q]
    for index in range(1, inside.last - 1):
        layer = inside.chain.filters[index]
        square = mean_square(inside.chain.activation, path[-1])
        path.append(layer.square * square + layer.sigma_b**2)
    return path[: inside.last - max(inside.first, 1)]


def _uniform(inside: Spanned, squares: Image) -> Law:
    """Return the law at the variances' means over positions, if they differ little.

    Raises:
        NotDefined: They differ so much that mean or variance of lam show it.
    """
    path = inside.path(squares)
    means = [float(q.mean()) for q in path]
    found = _law_at(inside, means)
    if all(np.ptp(q) <= _ALIKE * q.max() for q in path):
        return found
    # Of Gaussian kernels both are known, and others feel the positions as much.
    levelled = [np.full_like(q, mean) for q, mean in zip(path, means, strict=True)]
    varying, level = (_followed(inside, images) for images in (path, levelled))
    changes = (varying.mean / level.mean, varying.second / level.second)
    if max(abs(change - 1) for change in changes) <= _TOLERATED:
        return found
    spread = float(path[0].max() / path[0].min())
    raise NotDefined(
        f"the variance of pre-activations differs between positions, by a factor of "
        f"{spread:.3g} in the first layer, and windows mix them: no law is known. "
        "Normalize the inputs at each position (data.normalize over channels), or "
        "take more of them; net.moments has mean and variance for Gaussian kernels."
    )


def _followed(
    inside: Spanned,
    path: Sequence[Float[np.ndarray, "..."]],
) -> position_moments.PositionMoments:
    """Follow both moments of Gaussian kernels of the same scale through the span."""
    steps: list[Step] = []
    remaining = iter(path)
    for index, layer in enumerate(inside.filters):
        # At the input no activation stands in front of the weights.
        if index or not inside.has_stem:
            image = next(remaining)
            steps.append(position_moments.slopes(inside.chain.activation, image))
        steps.append(layer.convolved)
    return position_moments.through(steps, inside.filters[0].layer.size_read)


def moments(net: "Cnn", span: str, xs: ArrayLike) -> Moments:
    """Return mean and variance of lam, for `Cnn.moments`.

    Raises:
        NotDefined: They are not known.
    """
    inside = spanned(net, span)
    if not all(layer.is_gaussian for layer in inside.filters):
        found = law(net, span, xs)
        return Moments(found.moment(1), found.variance)
    squares = (np.asarray(xs, float) ** 2).mean(axis=(0, -1))
    if len(inside.chain.filters) > 1:
        differentiable(inside.chain.activation, 1.0)
    found = _followed(inside, inside.path(squares))
    first, last = inside.filters[0].layer, inside.filters[-1].layer
    num_inputs = first.n_in * math.prod(first.size_read)
    num_outputs = last.n_out * math.prod(last.size_out)
    # Over the singular values, which are as many as the smaller side has entries.
    per_value = num_outputs / min(num_inputs, num_outputs)
    mean = per_value * found.mean
    return Moments(mean, per_value * found.second - mean**2)
