"""Predicted signals of convolutional networks, position by position."""

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from isometry.activations import Activation
from isometry.networks import _cnn_law, _spatial
from isometry.networks._cnn_law import Chain
from isometry.records import Signals
from isometry.theory.laws._jacobian_law import is_scale_free
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
    "behind pooling it depends on how positions are correlated, which is not followed."
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

    def q(self) -> Float[np.ndarray, " inputs"]:
        """Return the mean square of all entries, for each input."""
        return _over_positions(self.variances)

    def c(self) -> Float[np.ndarray, "inputs inputs"]:
        """Return the cosines of all pairs of inputs."""
        q = self.q()
        cosines = np.eye(len(q))
        shared = _over_positions(self.covariances)
        for (a, b), product in zip(_pairs(len(q)), shared, strict=True):
            size = math.sqrt(q[a] * q[b])
            # A value that is zero has no direction.
            cosine = product / size if size else np.nan
            cosines[a, b] = cosines[b, a] = cosine
        cosines[q == 0] = np.nan
        return cosines


def _over_positions(images: Images) -> Float[np.ndarray, " inputs"]:
    return images.mean(axis=tuple(range(1, images.ndim)))


def _pairs(count: int) -> list[tuple[int, int]]:
    """Return the pairs of different inputs."""
    return list(itertools.combinations(range(count), 2))


def mean_field(net: "Cnn", xs: ArrayLike) -> Signals:
    """Return the predicted signals, for `Cnn.mean_field`."""
    chain = _cnn_law.chain(net)
    phi = chain.activation
    if net.function.num_activations:
        differentiable(phi, 1.0)
    before, behind = _forward(chain, np.asarray(xs, float))
    apjn = _backward(chain, before)
    # Points come in the order of the layers, each with its activation behind it.
    names = net.anatomy.points
    layers = [
        name for name in names[1:] if name != "output" and not name.endswith(":out")
    ]
    found: dict[str, Signal | None] = {"input": behind[0], "output": before[-1]}
    for i, name in enumerate(layers):
        found[name] = before[i] if i < len(before) else None
        found[f"{name}:out"] = behind[i + 1] if i + 1 < len(behind) else None
    if chain.head is not None or chain.is_averaged:
        found["output"] = None
    end = net.anatomy.place("output")
    points = [
        name for name in names if name == "output" or net.anatomy.place(name) != end
    ]
    return _signals(
        net,
        points,
        found,
        apjn=_named(apjn, layers),
        num_inputs=len(np.asarray(xs)),
    )


def _forward(
    chain: Chain,
    xs: Float[np.ndarray, "inputs *size channels"],
) -> tuple[list[Signal | None], list[Signal | None]]:
    """Return the pre-activations of all convolutions, and what each layer reads."""
    covariances = [(xs[a] * xs[b]).mean(axis=-1) for a, b in _pairs(len(xs))]
    size = xs.shape[1:-1]
    signal: Signal | None = Signal(
        (xs**2).mean(axis=-1),
        np.array(covariances).reshape(-1, *size),
    )
    before: list[Signal | None] = []
    behind: list[Signal | None] = [signal]
    last = len(chain.filters) - 1
    for index, layer in enumerate(chain.filters):
        if layer.layer.pooling is not None:
            # The layer before returns what is pooled.
            signal = behind[-1] = None
        if signal is not None:
            signal = _convolved(layer, signal)
        before.append(signal)
        if signal is not None and index < last:
            signal = _activated(chain.activation, signal)
        behind.append(signal)
    # Behind the last one stands the output, or a mean over positions.
    behind[-1] = None
    return before, behind


def _convolved(layer: _cnn_law.Filter, signal: Signal) -> Signal:
    """Return the pre-activation of a layer."""

    def through(images: Images) -> Others:
        size_out = layer.averaging.size_out
        averages = [layer.averaging.forward(image) for image in images]
        shaped = np.array(averages).reshape(-1, *size_out)
        return layer.square * shaped + layer.sigma_b**2

    return Signal(through(signal.variances), through(signal.covariances))


def _activated(phi: Activation, signal: Signal) -> Signal:
    """Return the activation of a pre-activation."""
    variances = signal.variances
    distinct, index = np.unique(variances, return_inverse=True)
    squares = moments(phi, distinct).square[index].reshape(variances.shape)
    pairs = _pairs(len(variances))
    if not pairs:
        return Signal(squares, signal.covariances)
    first, second = (
        np.stack([variances[pair[end]] for pair in pairs]) for end in (0, 1)
    )
    means = products(
        phi,
        first.ravel(),
        second.ravel(),
        covariance=signal.covariances.ravel(),
    )
    return Signal(squares, means.reshape(signal.covariances.shape))


@dataclass(frozen=True)
class Growth:
    """apjn of each input at all points, NaN where it is not known.

    Attributes:
        before: At the pre-activation of each weight layer, the head included.
        behind: At the input, and at what each later layer reads.
        output: At the output.
    """

    before: list[Float[np.ndarray, " inputs"]]
    behind: list[Float[np.ndarray, " inputs"]]
    output: Float[np.ndarray, " inputs"]


def _backward(chain: Chain, before: list[Signal | None]) -> Growth:
    """Follow the squared Jacobian of the output back to the input."""
    known = next(signal for signal in before if signal is not None)
    one = np.ones(len(known.variances))
    size = chain.filters[-1].averaging.size_out
    shape = (len(one), *size)
    positions = math.prod(size)
    of_layers: list[Float[np.ndarray, " inputs"]] = []
    behind: list[Float[np.ndarray, " inputs"]] = []
    # Squares of derivatives, summed over channels and divided by the outputs. At the
    # mean over positions each has 1/positions of the derivative.
    squares = np.full(shape, 1.0 / positions)
    if chain.is_averaged:
        squares = squares / positions
    if chain.head is not None:
        of_layers.append(one)
        square = chain.head.drawn.gain(chain.head.layer) ** 2
        behind.append(square * one)
        squares = square * squares / positions
        squares = squares * _slopes(chain.activation, before[-1], shape)
    for index in reversed(range(len(chain.filters))):
        layer = chain.filters[index]
        of_layers.append(squares.reshape(len(one), -1).sum(axis=1))
        back = [layer.averaging.backward(image) for image in squares]
        squares = layer.square * np.array(back)
        behind.append(squares.reshape(len(one), -1).sum(axis=1))
        if layer.layer.pooling is not None:
            squares = _unpooled(squares, layer.layer.pooling, layer.layer.size)
        if index:
            slopes = _slopes(chain.activation, before[index - 1], squares.shape)
            squares = squares * slopes
    return Growth(of_layers[::-1], behind[::-1], one)


def _slopes(
    phi: Activation,
    signal: Signal | None,
    shape: tuple[int, ...],
) -> Images:
    """Return E phi'² at each position, NaN where it is not known."""
    if is_scale_free(phi, SMALLEST_Q, LARGEST_Q):
        return np.full(shape, float(moments(phi, 1.0).slope[0]))
    if signal is None:
        return np.full(shape, np.nan)
    distinct, index = np.unique(signal.variances, return_inverse=True)
    return moments(phi, distinct).slope[index].reshape(shape)


def _unpooled(
    squares: Others,
    pooling: str,
    size: tuple[int, ...],
) -> Images:
    """Return squared derivatives in front of pooling."""
    whole = np.zeros((len(squares), *size))
    # Which of several units is the largest depends on their values, and so do their
    # derivatives.
    if pooling == "max":
        return np.full_like(whole, np.nan)
    num_axes = len(size)
    shared = squares / _spatial.POOL ** (2 * num_axes)
    for axis in range(1, num_axes + 1):
        shared = np.repeat(shared, _spatial.POOL, axis=axis)
    # A last row that fills no window is not read.
    whole[tuple(map(slice, shared.shape))] = shared
    return whole


def _named(
    growth: Growth, layers: list[str]
) -> dict[str, Float[np.ndarray, " inputs"]]:
    """Return apjn by the name of the point."""
    named = {"input": growth.behind[0], "output": growth.output}
    named |= dict(zip(layers, growth.before, strict=True))
    outs = [f"{name}:out" for name in layers]
    named |= dict(zip(outs, growth.behind[1:], strict=False))
    return named


def _signals(
    net: "Cnn",
    points: list[str],
    found: dict[str, Signal | None],
    *,
    apjn: dict[str, Float[np.ndarray, " inputs"]],
    num_inputs: int,
) -> Signals:
    """Put the fields together, point by point."""
    sizes = tuple(math.prod(net.anatomy.shape(name).shape) for name in points)
    unknown_q = np.full(num_inputs, np.nan)
    unknown_c = np.full((num_inputs, num_inputs), np.nan)
    q, c, growth = [], [], []
    for name in points:
        signal = found[name]
        q.append(unknown_q if signal is None else signal.q())
        c.append(unknown_c if signal is None else signal.c())
        growth.append(apjn[name])
    fields = {
        "q": np.stack(q, axis=-1),
        "c": np.stack(c, axis=-1),
        "apjn": np.stack(growth, axis=-1),
    }
    fields["gradient"] = fields["apjn"] / np.array(sizes)
    fields["chi"] = _chi(fields["apjn"], points)
    reasons = []
    if any(found[name] is None for name in points):
        reasons += [("q", _BEHIND_POOLING), ("c", _BEHIND_POOLING)]
    if np.isnan(fields["apjn"]).any():
        unknown = ("gradient", "apjn", "chi")
        reasons += [(field, _BEFORE_POOLING) for field in unknown]
    # In float64, as all of theory, whatever the x64 flag says.
    with jax.enable_x64(True):
        arrays = {name: jnp.asarray(value[None]) for name, value in fields.items()}
    return Signals(
        q=arrays["q"],
        c=arrays["c"],
        gradient=arrays["gradient"],
        apjn=arrays["apjn"],
        chi=arrays["chi"],
        points=tuple(points),
        sizes=sizes,
        reasons=tuple(reasons),
    )


def _chi(
    apjn: Float[np.ndarray, "inputs points"],
    points: list[str],
) -> Float[np.ndarray, "inputs points"]:
    """Return apjn at the previous point of the same kind, divided by apjn here."""
    chi = np.full_like(apjn, np.nan)
    latest: dict[bool, int] = {}
    for i, name in enumerate(points):
        is_out = name.endswith(":out")
        if is_out in latest:
            chi[:, i] = apjn[:, latest[is_out]] / apjn[:, i]
        latest[is_out] = i
    return chi
