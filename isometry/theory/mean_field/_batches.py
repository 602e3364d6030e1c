"""Residual blocks whose batch norm takes the statistics of the batch that they read.

A unit is then a vector over the examples of a batch, and a norm acts on this vector
alone: BN(x) = (x − mean)/√(variance + ε), with the Jacobian (P − u uᵀ/B)/√(variance +
ε), u = BN(x) and P = 1 − 11ᵀ/B. Units are independent and alike, so some thousand of
them stand for all: behind fresh weights they are Gaussian with the covariance of what
the weights read (Yang et al., 2019, arXiv:1902.08129). Gradients are independent of
the values but where both belong to the same unit, as on the stream; there each unit
keeps the covariance of its gradient over the batch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from isometry.activations import Activation
from isometry.theory.mean_field._host import evaluate
from isometry.theory.mean_field._moments import differentiable
from isometry.theory.mean_field._products import PerInput
from isometry.theory.mean_field._residual import ORDERS, Block, Norm, Order

# Units: with four times as many, errors are half as large, and it takes four times as
# long. Products over the batch that are held for each are at most so many.
_UNITS = 2**14
_PRODUCTS = 2**22
_FEWEST = 2**10

Units = Float[np.ndarray, "units inputs batch"]
Scales = Float[np.ndarray, "units inputs 1"]
Gram = Float[np.ndarray, "values values"]
# Over the batch, of each unit or of all.
Covariances = Float[np.ndarray, "#units inputs batch batch"]


class Value(NamedTuple):
    """What is known at a point.

    Attributes:
        gram: Mean products over units and examples, of any two inputs.
    """

    gram: Float[np.ndarray, "inputs inputs"]


class Normed(NamedTuple):
    """What a norm makes of units.

    Attributes:
        values: The result.
        scale: What it divides by.
    """

    values: Units
    scale: Scales


class Step(NamedTuple):
    """A weight layer or an activation on a branch.

    Attributes:
        gram: As in `Value`.
        square: fan_in · Var W; None of an activation.
        slopes: phi' of each unit; of an activation between two weight layers E phi'
            phi' over the batch. None of a weight layer.
    """

    gram: Float[np.ndarray, "inputs inputs"]
    square: float | None = None
    slopes: Units | Covariances | None = None


@dataclass(frozen=True)
class BatchPassage:
    """What happens to units in one block; see `_residual.Passage`."""

    block: Block
    before: Value
    stations: tuple[Step, ...]
    sum: Value
    after: Value
    read_norm: Normed | None
    sum_norm: Normed | None


class BatchGradients(NamedTuple):
    """Squared gradients in one block; see `_residual.Gradients`.

    Attributes:
        before: The covariances at the stream in front of the block, of each unit.
        stations: The sums of squares at the values on the branch.
        sum: That at the sum of branch and skip.
    """

    before: Covariances
    stations: tuple[PerInput, ...]
    sum: PerInput


class Crowd:
    """Units that stand for those of a wide network."""

    def __init__(self, phi: Activation, num_inputs: int, batch: int):
        self.phi = phi
        self.shape = (num_inputs, batch)
        largest = _PRODUCTS // (num_inputs * batch**2)
        self.size = max(_FEWEST, min(_UNITS, largest))
        self.rng = np.random.default_rng(0)

    def of_values(self, xs: Float[np.ndarray, "inputs batch units"]) -> Units:
        """Return units with known values, each as often as another."""
        units = np.moveaxis(xs, -1, 0)
        # Copies share a value at the input, and part where branches add to it.
        copies = math.ceil(self.size / len(units))
        return np.tile(units, (copies, 1, 1))

    def gaussian(self, gram: Gram, count: int) -> Units:
        """Draw units with this covariance."""
        squares, vectors = np.linalg.eigh(gram)
        # Rounding may leave values below zero.
        scales = np.sqrt(np.maximum(squares, 0.0))
        root = vectors * scales
        shape = (count, len(gram))
        noise = self.rng.standard_normal(shape)
        units = noise @ root.T
        return units.reshape(count, *self.shape)

    def activated(self, values: Units) -> tuple[Units, Units]:
        """Return phi and phi' of all values."""
        variance = float((values**2).mean())
        differentiable(self.phi, variance)
        return evaluate(self.phi, values)


def _gram(values: Units) -> Gram:
    """Return mean products over units of all pairs of inputs and examples."""
    count = len(values)
    rows = values.reshape(count, -1)
    return rows.T @ rows / count


def over_inputs(gram: Gram, batch: int) -> Float[np.ndarray, "inputs inputs"]:
    """Average products of the same example over the batch."""
    num_inputs = len(gram) // batch
    shape = (num_inputs, batch)
    shaped = gram.reshape(*shape, *shape)
    return np.einsum("aibi->ab", shaped) / batch


def _normed(values: Units, epsilon: float) -> Normed:
    """Return units standardized over the batch."""
    mean = values.mean(axis=-1, keepdims=True)
    centred = values - mean
    variance = (centred**2).mean(axis=-1, keepdims=True)
    scale = np.sqrt(variance + epsilon)
    return Normed(centred / scale, scale)


def follow_batches(
    crowd: Crowd,
    blocks: Sequence[Block],
    *,
    order: str,
    units: Units,
    norm: Norm,
) -> tuple[list[BatchPassage], Units]:
    """Follow units through blocks; return what happens, and what they are behind.

    Args:
        crowd: Draws units.
        blocks: The blocks.
        order: A key of `ORDERS`.
        units: The stream in front of the first.
        norm: The norms of the blocks, of kind "batch".
    """
    found = []
    for block in blocks:
        passage, units = _through(
            crowd,
            block,
            ORDERS[order],
            units=units,
            norm=norm,
        )
        found.append(passage)
    return found, units


def _through(
    crowd: Crowd,
    block: Block,
    order: Order,
    *,
    units: Units,
    norm: Norm,
) -> tuple[BatchPassage, Units]:
    """Return what happens to units in one block, and what they are behind it."""
    count, _, batch = units.shape

    def value_of(gram: Gram) -> Float[np.ndarray, "inputs inputs"]:
        return over_inputs(gram, batch)

    def drawn(gram: Gram) -> Units:
        return crowd.gaussian(gram, count)

    before = _gram(units)
    read, read_norm = units, None
    if norm.at == "pre":
        read_norm = _normed(units, norm.epsilon)
        read = read_norm.values
    stations: list[Step] = []
    gram = _gram(read)
    if order.before:
        value, slope = crowd.activated(read)
        gram = _gram(value)
        stations.append(Step(value_of(gram), slopes=slope))
    for index, square in enumerate(block.squares):
        if index:
            value, slope = crowd.activated(drawn(gram))
            gram = _gram(value)
            # These units are on no stream, and only their mean is seen.
            means = np.einsum("uia,uib->iab", slope, slope) / count
            stations.append(Step(value_of(gram), slopes=means[None]))
        gram = square * gram + block.bias
        stations.append(Step(value_of(gram), square=square))
    # Fresh weights: what the branch adds to a unit is independent of the unit.
    added = drawn(gram)
    if order.behind:
        added, slope = crowd.activated(added)
        stations.append(Step(value_of(_gram(added)), slopes=slope))
    if block.shortcut is not None:
        units = drawn(block.shortcut * before)
    total = block.skip * units + block.branch * added
    after, sum_norm = total, None
    if norm.at == "post":
        sum_norm = _normed(total, norm.epsilon)
        after = sum_norm.values
    passage = BatchPassage(
        block=block,
        before=Value(value_of(before)),
        stations=tuple(stations),
        sum=Value(value_of(_gram(total))),
        after=Value(value_of(_gram(after))),
        read_norm=read_norm,
        sum_norm=sum_norm,
    )
    return passage, after


def at_output(crowd: Crowd) -> Covariances:
    """Return the covariances of gradients at the output, whose sum of squares is 1."""
    num_inputs, batch = crowd.shape
    # Gradients at different examples are independent, and those of all units alike.
    of_input = np.eye(batch) / batch
    return np.tile(of_input, (1, num_inputs, 1, 1))


def total(covariances: Covariances) -> PerInput:
    """Return the sum of squares over the batch, of the mean unit."""
    over_units = np.einsum("uiaa->i", covariances)
    return over_units / len(covariances)


def pull_back_batches(passage: BatchPassage, behind: Covariances) -> BatchGradients:
    """Return the squared gradients in a block, from those at the stream behind it."""
    block = passage.block
    at_sum = behind
    if passage.sum_norm is not None:
        at_sum = _through_norm(passage.sum_norm, behind)
    now = block.branch**2 * at_sum
    stations = []
    for step in reversed(passage.stations):
        stations.append(total(now))
        if step.square is not None:
            # Each input of a weight layer sees all units.
            now = step.square * now.mean(axis=0, keepdims=True)
            continue
        slopes = step.slopes
        assert slopes is not None, "an activation has slopes"
        # A unit has its own slopes, and their products over the batch.
        if slopes.ndim == 3:
            slopes = slopes[..., :, None] * slopes[..., None, :]
        now = slopes * now
    if passage.read_norm is not None:
        now = _through_norm(passage.read_norm, now)
    of_skip = block.skip**2 * at_sum
    if block.shortcut is not None:
        of_skip = block.shortcut * of_skip.mean(axis=0, keepdims=True)
    return BatchGradients(
        before=of_skip + now,
        stations=tuple(stations[::-1]),
        sum=total(at_sum),
    )


def _through_norm(norm: Normed, behind: Covariances) -> Covariances:
    """Return J C J of every unit, with J = (P − u uᵀ/B)/scale."""
    u = norm.values
    batch = u.shape[-1]
    # C' = P C P.
    centred = behind - behind.mean(axis=-1, keepdims=True)
    centred = centred - centred.mean(axis=-2, keepdims=True)
    # J C J = (C' − (u vᵀ + v uᵀ)/B + u uᵀ (u·v)/B²)/scale² with v = C' u.
    v = np.einsum("...ab,...b->...a", centred, u)
    along = (u * v).sum(axis=-1, keepdims=True)
    # u vᵀ − u uᵀ (u·v)/2B, and its transpose.
    rest = v - along * u / (2 * batch)
    product = u[..., :, None] * rest[..., None, :]
    transposed = np.swapaxes(product, -1, -2)
    crossed = product + transposed
    square = norm.scale[..., None] ** 2
    return (centred - crossed / batch) / square
