"""Predicted signals of convolutional networks, position by position."""

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from isometry.activations import Activation
from isometry.networks import _cnn_law, _predicted, _spatial
from isometry.networks._cnn_law import Chain
from isometry.networks._predicted import Gram, PerInput
from isometry.records import Signals
from isometry.theory.laws._jacobian_law import is_scale_free
from isometry.theory.mean_field import _field
from isometry.theory.mean_field._field import Field
from isometry.theory.mean_field._moments import (
    LARGEST_Q,
    SMALLEST_Q,
    differentiable,
    moments,
)
from isometry.theory.mean_field._products import products

if TYPE_CHECKING:
    from isometry.networks._cnn import Cnn

# A quantity at every position, for each input.
Images = Float[np.ndarray, "inputs *size"]
Others = Float[np.ndarray, "inputs *other_size"]

_BEHIND_POOLING = (
    "behind pooling it depends on how positions are correlated, which is followed for "
    f"up to {_field.LARGEST} values, positions times inputs."
)
_BEFORE_POOLING = (
    "before pooling it needs derivatives at variances behind it, which are not known, "
    "or at the largest of several units."
)


@dataclass(frozen=True)
class Signal:
    """Variances and covariances of inputs at every position.

    Attributes:
        variances: Mean squares over channels.
        covariances: Mean products of two inputs, one row for each pair.
    """

    variances: Images
    covariances: Float[np.ndarray, "pairs *size"]

    @classmethod
    def of(cls, field: Field) -> "Signal":
        """Return what a field says of single positions."""
        # Of all pairs of positions those of a position with itself.
        products = np.einsum("apbp->abp", field.over_inputs())
        all_inputs = np.arange(field.num_inputs)
        variances = products[all_inputs, all_inputs]
        pairs = _pairs(field.num_inputs)
        covariances = np.array([products[pair] for pair in pairs])
        return cls(
            variances.reshape(-1, *field.size),
            covariances.reshape(-1, *field.size),
        )

    def gram(self) -> Gram:
        """Return mean products over all entries, for any two inputs."""
        gram = np.diag(_over_positions(self.variances))
        shared = _over_positions(self.covariances)
        pairs = _pairs(len(gram))
        for (a, b), product in zip(pairs, shared, strict=True):
            gram[a, b] = product
            gram[b, a] = product
        return gram


def _over_positions(images: Images) -> PerInput:
    """Average over all axes but the first."""
    positions = tuple(range(1, images.ndim))
    return images.mean(axis=positions)


def _pairs(count: int) -> list[tuple[int, int]]:
    """Return the pairs of different inputs."""
    return list(itertools.combinations(range(count), 2))


@dataclass
class Forward:
    """What is known of the values at all points.

    Attributes:
        before: The pre-activations of the convolutions.
        behind: What each convolution reads, the input first.
        passed: For each convolution, what max pooling in front of it passes on of a
            squared gradient, to the pre-activations before it. None without.
        averaged: Products over inputs of what is averaged over positions at the end.
    """

    before: list[Signal | None]
    behind: list[Signal | None]
    passed: list[Images | None]
    averaged: Gram | None = None


@dataclass(frozen=True)
class Values:
    """What is known of values, position by position and of all of them together.

    Attributes:
        signal: Single positions, None if they are not known.
        field: All of them, None if correlations are not followed.
    """

    signal: Signal | None
    field: Field | None

    @classmethod
    def of(cls, chain: Chain, xs: Float[np.ndarray, "inputs *size channels"]) -> Self:
        """Return what is known of the inputs."""
        num_inputs, *size, _ = xs.shape
        covariances = []
        for a, b in _pairs(num_inputs):
            product = xs[a] * xs[b]
            covariances.append(product.mean(axis=-1))
        # A single input has no pairs, and its array of them no shape of its own.
        signal = Signal(
            variances=(xs**2).mean(axis=-1),
            covariances=np.array(covariances).reshape(-1, *size),
        )
        # Correlations of positions are needed by poolings alone.
        has_mean = chain.head is not None or chain.is_averaged
        poolings = [layer.layer.pooling for layer in chain.filters]
        has_pooling = any(pooling is not None for pooling in poolings)
        num_values = math.prod((num_inputs, *size))
        is_small = num_values <= _field.LARGEST
        field = None
        if (has_mean or has_pooling) and is_small:
            field = Field.of_values(xs)
        return cls(signal, field)

    def convolved(self, layer: _cnn_law.Filter) -> "Values":
        """Apply a convolution with fresh weights; return its pre-activation."""
        signal, field = self.signal, self.field
        if signal is not None:
            signal = _convolved(layer, signal)
        if field is not None:
            field = field.convolved(
                layer.averaging,
                layer.square,
                bias=layer.sigma_b**2,
            )
        return Values(signal, field)

    def activated(self, phi: Activation) -> "Values":
        """Return what an activation makes of Gaussian values at each position."""
        signal, field = self.signal, self.field
        if signal is not None:
            signal = _activated(phi, signal)
        if field is not None:
            field = field.activated(phi)
        return Values(signal, field)

    def pooled(
        self,
        pooling: str,
        phi: Activation,
        before: "Values",
    ) -> tuple["Values", Images | None]:
        """Return the result of pooling, and what max pooling passes on.

        Args:
            pooling: "average" or "max".
            phi: The activation behind which these values stand.
            before: The pre-activation of that.
        """
        if self.field is None or before.field is None:
            return Values(None, None), None
        if pooling == "average":
            field = self.field.averaged(_spatial.POOL)
            return Values(Signal.of(field), field), None
        # The largest of several activations follows from their joint distribution,
        # which is Gaussian in front of the activation alone.
        found = _field.largest_of_gaussian(phi, before.field, _spatial.POOL)
        return Values(Signal.of(found.field), found.field), found.passed


def mean_field(net: "Cnn", xs: ArrayLike) -> Signals:
    """Return the predicted signals, for `Cnn.mean_field`."""
    chain = _cnn_law.chain(net)
    if net.function.num_activations:
        differentiable(chain.activation, 1.0)
    images = np.asarray(xs, float)
    forward = _forward(chain, images)
    growth = _backward(chain, forward)
    # Points come in the order of the layers, each with its activation behind it.
    layers = [
        name
        for name in net.anatomy.points[1:]
        if name != "output" and not name.endswith(":out")
    ]
    num_inputs = len(images)
    unknown = np.full((num_inputs, num_inputs), np.nan)
    grams = dict.fromkeys(net.anatomy.points, unknown)
    grams |= _grams(chain, forward, layers)
    apjn = _named(growth, layers)
    reasons = [("q", _BEHIND_POOLING), ("c", _BEHIND_POOLING)]
    reasons += [(field, _BEFORE_POOLING) for field in ("gradient", "apjn", "chi")]
    return _predicted.signals(net.anatomy, grams, apjn, reasons=reasons)


def _grams(
    chain: Chain,
    forward: Forward,
    layers: list[str],
) -> dict[str, Gram]:
    """Return the products of inputs at the points where they are known."""
    ends = [f"{name}:out" for name in layers]
    # Each point with what stands there. `layers` holds the head too, which is no
    # convolution and has no entry.
    points = [
        ("input", forward.behind[0]),
        *zip(layers, forward.before, strict=False),
        *zip(ends, forward.behind[1:], strict=False),
    ]
    found = {}
    for name, signal in points:
        if signal is not None:
            found[name] = signal.gram()
    last = forward.before[-1]
    averaged = forward.averaged
    if chain.head is not None:
        if averaged is not None:
            found[ends[len(chain.filters) - 1]] = averaged
            head = chain.head
            square = head.drawn.gain(head.layer) ** 2
            # A scheme has a sigma_b whether the network has biases or not.
            sigma_b = head.sigma_b if chain.filters[-1].has_bias else 0.0
            output = square * averaged + sigma_b**2
            found["output"] = output
            found[layers[-1]] = output
    elif chain.is_averaged:
        if averaged is not None:
            found["output"] = averaged
    elif last is not None:
        found["output"] = last.gram()
    return found


def _forward(
    chain: Chain,
    xs: Float[np.ndarray, "inputs *size channels"],
) -> Forward:
    """Follow the values from the input to the last convolution."""
    read = Values.of(chain, xs)
    before = read
    found = Forward([], [read.signal], [])
    last = len(chain.filters) - 1
    for index, layer in enumerate(chain.filters):
        passed = None
        pooling = layer.layer.pooling
        if pooling is not None:
            read, passed = read.pooled(pooling, chain.activation, before)
            # The point of the layer before holds what is pooled.
            found.behind[-1] = read.signal
        found.passed.append(passed)
        read = before = read.convolved(layer)
        found.before.append(before.signal)
        # The last layer of a network has no activation behind it.
        if index < last or chain.head is not None:
            read = before.activated(chain.activation)
        found.behind.append(read.signal)
    # Behind the last one stands the output, or a mean over positions.
    found.behind[-1] = None
    if read.field is not None:
        found.averaged = read.field.mean()
    return found


def _convolved(layer: _cnn_law.Filter, signal: Signal) -> Signal:
    """Return the signal behind a convolution with fresh weights."""

    # Both kinds of images are averaged over the taps alike, and biases, which the
    # inputs share, add to both.
    def through(images: Images) -> Others:
        size_out = layer.averaging.size_out
        averages = [layer.averaging.forward(image) for image in images]
        # Without any image, as where there is one input, the shape is not known.
        shaped = np.array(averages).reshape(-1, *size_out)
        return layer.square * shaped + layer.sigma_b**2

    return Signal(
        variances=through(signal.variances),
        covariances=through(signal.covariances),
    )


def _activated(phi: Activation, signal: Signal) -> Signal:
    """Return what an activation makes of Gaussian values at each position."""
    variances = signal.variances
    # Positions often have the same variance, and each takes a quadrature.
    distinct, index = np.unique(variances, return_inverse=True)
    of_distinct = moments(phi, distinct).square
    squares = of_distinct[index].reshape(variances.shape)
    pairs = _pairs(len(variances))
    covariances = signal.covariances
    if not pairs:
        return Signal(squares, covariances)
    first, second = np.array(pairs).T
    means = products(
        phi,
        variances[first].ravel(),
        variances[second].ravel(),
        covariance=covariances.ravel(),
    )
    return Signal(squares, means.reshape(covariances.shape))


@dataclass(frozen=True)
class Growth:
    """apjn of each input at all points, NaN where it is not known.

    Attributes:
        before: At the pre-activation of each weight layer, the head included.
        behind: At the input, and at what each later layer reads.
        output: At the output.
    """

    before: list[PerInput]
    behind: list[PerInput]
    output: PerInput


def _backward(chain: Chain, forward: Forward) -> Growth:
    """Follow the squared Jacobian of the output back to the input."""
    before = forward.before
    # At least one convolution is known, and all have as many inputs.
    known = next(signal for signal in before if signal is not None)
    num_inputs = len(known.variances)
    one = np.ones(num_inputs)
    size = chain.filters[-1].averaging.size_out
    shape = (num_inputs, *size)
    positions = math.prod(size)
    of_layers: list[PerInput] = []
    behind: list[PerInput] = []
    # Squares of derivatives, summed over channels and divided by the outputs. At the
    # mean over positions each has 1/positions of the derivative.
    squares = np.full(shape, 1.0 / positions)
    if chain.is_averaged:
        squares = squares / positions
    if chain.head is not None:
        of_layers.append(one)
        head = chain.head
        square = head.drawn.gain(head.layer) ** 2
        behind.append(square * one)
        squares = square * squares / positions
        slopes = _slopes(chain.activation, before[-1], shape)
        squares = squares * slopes
    for index in reversed(range(len(chain.filters))):
        layer = chain.filters[index]
        of_layers.append(_total(squares))
        # A position is read by several taps with independent weights: squares add.
        back = [layer.averaging.backward(image) for image in squares]
        squares = layer.square * np.array(back)
        behind.append(_total(squares))
        pooling = layer.layer.pooling
        passed = forward.passed[index]
        if passed is not None:
            # It holds the derivatives of the activation too.
            squares = _spread(squares, layer.layer.size) * passed
            continue
        if pooling is not None:
            squares = _unpooled(squares, pooling, layer.layer.size)
        if index:
            slopes = _slopes(chain.activation, before[index - 1], squares.shape)
            squares = squares * slopes
    return Growth(
        before=of_layers[::-1],
        behind=behind[::-1],
        output=one,
    )


def _total(squares: Images) -> PerInput:
    """Sum over positions."""
    return squares.reshape(len(squares), -1).sum(axis=1)


def _slopes(
    phi: Activation,
    signal: Signal | None,
    shape: tuple[int, ...],
) -> Images:
    """Return E phi'² at each position, NaN where it is not known."""
    # The slopes of ReLU, say, do not depend on the variance, which may be unknown.
    if is_scale_free(phi, SMALLEST_Q, LARGEST_Q):
        slope = float(moments(phi, 1.0).slope[0])
        return np.full(shape, slope)
    if signal is None:
        return np.full(shape, np.nan)
    distinct, index = np.unique(signal.variances, return_inverse=True)
    of_distinct = moments(phi, distinct).slope
    return of_distinct[index].reshape(shape)


def _unpooled(
    squares: Others,
    pooling: str,
    size: tuple[int, ...],
) -> Images:
    """Return squared derivatives in front of pooling."""
    # Which of several units is the largest depends on their values, and so do their
    # derivatives.
    if pooling == "max":
        return np.full((len(squares), *size), np.nan)
    # Each value of a window enters the average with 1/window, and its square with
    # 1/window².
    window = _spatial.POOL ** len(size)
    return _spread(squares / window**2, size)


def _spread(squares: Others, size: tuple[int, ...]) -> Images:
    """Return the values of windows at all of their positions."""
    whole = np.zeros((len(squares), *size))
    for axis in range(1, squares.ndim):
        squares = np.repeat(squares, _spatial.POOL, axis=axis)
    # A last row that fills no window is not read.
    whole[tuple(map(slice, squares.shape))] = squares
    return whole


def _named(growth: Growth, layers: list[str]) -> dict[str, PerInput]:
    """Return apjn by the name of the point."""
    named = {"input": growth.behind[0], "output": growth.output}
    named |= dict(zip(layers, growth.before, strict=True))
    outs = [f"{name}:out" for name in layers]
    named |= dict(zip(outs, growth.behind[1:], strict=False))
    return named
