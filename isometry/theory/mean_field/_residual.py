"""Signals in a chain of residual blocks x' = s x + a F(x), at infinite width.

A stream of N units is known by the products x_a · x_b/N of all pairs of inputs, and by
its means over units. Each block has weights of its own, so what its branch returns is
independent of the stream, unit by unit:

    x'_a · x'_b/N = s² x_a · x_b/N + s a (m_a e_b + e_a m_b) + a² F_a · F_b/N,

with m the means of the stream, and e those of F, which are zero unless an activation is
last. Squared gradients grow by a factor at each step of a branch: fan_in · Var W at a
weight layer, E phi'² at an activation (Schoenholz et al., 2017; of skips, Yang and
Schoenholz, 2017). LayerNorm and RMSNorm act as a division, but for one or two
directions among N.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float

from isometry._internal.errors import NotDefined
from isometry.activations import Activation
from isometry.theory.mean_field._host import evaluate
from isometry.theory.mean_field._maps import LARGEST
from isometry.theory.mean_field._moments import differentiable
from isometry.theory.mean_field._products import Activated, Gram, PerInput, activated
from isometry.theory.mean_field._quadrature import expectation

# Units of the wide network that stands for one whose first input is no Gaussian: the
# error of what a branch adds is some 0.3 %. Ten times as many take ten times as long,
# a second for 20 blocks; with a tenth the error is 1 %.
_SITES = 2**16

Values = Float[np.ndarray, "inputs units"]
Slopes = Float[np.ndarray, "blocks sites"]


class Order(NamedTuple):
    """The order of weight layers and activations on a branch.

    Attributes:
        num_layers: The number of weight layers, with an activation between each two.
        before: Whether an activation stands before the first layer.
        behind: Whether an activation stands behind the last layer.
    """

    num_layers: int
    before: bool
    behind: bool


ORDERS = {
    "two_layer": Order(num_layers=2, before=False, behind=False),
    "post_activation": Order(num_layers=1, before=False, behind=True),
    "pre_activation": Order(num_layers=1, before=True, behind=False),
    "v2": Order(num_layers=2, before=True, behind=False),
}


@dataclass(frozen=True)
class Block:
    """A residual block as theory sees it.

    Attributes:
        skip: s.
        branch: a.
        squares: fan_in · Var W of each weight layer of the branch.
        bias: The variance of the biases of these layers.
        shortcut: fan_in · Var W of a projection on the skip; None without.
    """

    skip: float
    branch: float
    squares: tuple[float, ...]
    bias: float = 0.0
    shortcut: float | None = None


class Norm(NamedTuple):
    """The norms of a network, one in each block.

    Attributes:
        kind: "layer" or "rms"; or "batch" in inference before any training, where it
            divides by 1.
        at: "pre": F(norm(x)). "post": norm(s x + a F(x)).
        epsilon: What is added to variances.
    """

    kind: str
    at: str
    epsilon: float


@dataclass(frozen=True)
class Stream:
    """The stream between two blocks.

    Attributes:
        start: The part that skips pass on of a first input whose values are known.
            None if that was Gaussian over units, as behind a stem, and is part of the
            rest.
        rest: Mean products over units of the rest of the stream.
        rest_mean: Its mean over units.
    """

    start: Values | None
    rest: Gram
    rest_mean: PerInput

    @classmethod
    def of_values(cls, xs: Values) -> Self:
        """Return the stream that consists of these values."""
        num_inputs = len(xs)
        zeros = np.zeros((num_inputs, num_inputs))
        return cls(np.asarray(xs, np.float64), zeros, np.zeros(num_inputs))

    @classmethod
    def gaussian(cls, gram: Gram) -> Self:
        """Return a stream that is Gaussian over units, with mean zero."""
        return cls(None, gram, np.zeros(len(gram)))

    @property
    def mean(self) -> PerInput:
        """The mean over units."""
        if self.start is None:
            return self.rest_mean
        return self.rest_mean + self.start.mean(axis=1)

    @property
    def gram(self) -> Gram:
        """Mean products of all pairs of inputs."""
        if self.start is None:
            return self.rest
        crossed = np.outer(self.start.mean(axis=1), self.rest_mean)
        own = self.start @ self.start.T / self.start.shape[1]
        return own + self.rest + crossed + crossed.T

    @property
    def first_mean(self) -> float:
        """The mean of the first input, where it is the only one."""
        return float(self.mean[0])

    @property
    def first_square(self) -> float:
        """The mean square of the first input."""
        return float(self.gram[0, 0])

    def normed(self, norm: Norm) -> tuple["Stream", PerInput]:
        """Return the stream behind a norm, and what the norm divides by."""
        stream = self
        if norm.kind == "layer":
            stream = self._centred()
        square = np.diag(stream.gram)
        # Before any training the statistics of a batch norm are mean 0 and variance 1.
        if norm.kind == "batch":
            square = np.ones(len(square))
        scale = np.sqrt(square + norm.epsilon)
        start = stream.start
        if start is not None:
            start = start / scale[:, None]
        rest = stream.rest / np.outer(scale, scale)
        return Stream(start, rest, stream.rest_mean / scale), scale

    def _centred(self) -> "Stream":
        """Return the stream less its mean over units."""
        start = self.start
        if start is not None:
            start = start - start.mean(axis=1, keepdims=True)
        # Start and rest are independent, so that each loses a mean of its own.
        rest = self.rest - np.outer(self.rest_mean, self.rest_mean)
        return Stream(start, rest, np.zeros_like(self.rest_mean))

    def skipped(self, block: Block) -> "Stream":
        """Return the stream behind the skip of a block, before the branch is added."""
        if block.shortcut is not None:
            # The shortcut is a layer with fresh weights. Behind it the units are
            # Gaussian of mean 0, even if those in front of it had known values.
            return Stream.gaussian(block.skip**2 * block.shortcut * self.gram)
        start = self.start
        if start is not None:
            start = block.skip * start
        return Stream(start, block.skip**2 * self.rest, block.skip * self.rest_mean)

    def joined(self, branch: float, gram: Gram, mean: PerInput) -> "Stream":
        """Add the output of a branch, scaled by the multiplier of the branch.

        Args:
            branch: The multiplier.
            gram: Mean products over units of the branch's output, (inputs, inputs).
            mean: The mean of that output over units, (inputs,).
        """
        # The weights of the branch are fresh, so its output is independent of the
        # stream unit by unit: of the mixed products only those of the means are left.
        crossed = branch * np.outer(self.rest_mean, mean)
        rest = self.rest + crossed + crossed.T + branch**2 * gram
        return Stream(self.start, rest, self.rest_mean + branch * mean)

    def activated(self, phi: Activation) -> Activated:
        """Return what phi makes of the stream itself.

        Behind a Gaussian start it is a quadrature. Otherwise units are sampled.
        """
        if self.start is None:
            return _activated(phi, self.rest)
        num_inputs = len(self.rest)
        values = self.start.T
        # As long as nothing has been added, the units are known, and none is sampled.
        if self.rest.any():
            copies = math.ceil(_SITES / len(values))
            values = np.tile(values, (copies, 1))
            noise = _standard_normal(len(values), num_inputs)
            values = values + noise @ _root(self.rest)
        value, slope = evaluate(phi, values)
        return Activated(value.T @ value / len(values), (slope**2).mean(axis=0))


def _root(gram: Gram) -> Gram:
    """Return the symmetric square root of a positive matrix."""
    squares, vectors = np.linalg.eigh(gram)
    # Rounding may leave values below zero.
    roots = np.sqrt(np.maximum(squares, 0.0))
    return (vectors * roots) @ vectors.T


@functools.lru_cache(maxsize=2)
def _standard_normal(num: int, columns: int) -> Float[np.ndarray, "num columns"]:
    """Draw standard normals, with means and products that are exactly so."""
    drawn = np.random.default_rng(0).standard_normal((num, columns))
    drawn -= drawn.mean(axis=0)
    factor = np.linalg.cholesky(drawn.T @ drawn / num)
    return np.linalg.solve(factor, drawn.T).T


class Station(NamedTuple):
    """A value on a branch, behind a weight layer or an activation.

    Attributes:
        gram: Mean products over units of all pairs of inputs.
        factor: By how much this step multiplies a squared gradient.
    """

    gram: Gram
    factor: PerInput

    @property
    def first_square(self) -> float:
        """The mean square of the first input."""
        return float(self.gram[0, 0])


@dataclass(frozen=True)
class Passage:
    """What happens to a stream in one block.

    Attributes:
        block: The block.
        before: The stream in front of it.
        read: What the branch reads: the stream, or behind a norm "pre".
        read_scale: What that norm divides by; 1 without.
        stations: The values on the branch, in order. The last is what it returns.
        mean: The mean over units of what it returns.
        sum: The stream behind the sum.
        scale: What a norm "post" divides the sum by; 1 without.
        after: The stream behind the block.
    """

    block: Block
    before: Stream
    read: Stream
    read_scale: PerInput
    stations: tuple[Station, ...]
    mean: PerInput
    sum: Stream
    scale: PerInput
    after: Stream


class Gradients(NamedTuple):
    """Mean squares of a gradient in one block, summed over units.

    Attributes:
        before: At the stream in front of the block.
        stations: At the values on the branch.
        sum: At the sum of branch and skip.
    """

    before: PerInput
    stations: tuple[PerInput, ...]
    sum: PerInput


def follow(
    phi: Activation,
    blocks: Sequence[Block],
    *,
    order: str,
    stream: Stream,
    norm: Norm | None = None,
) -> list[Passage]:
    """Follow a stream through blocks, from first to last.

    Raises:
        NotDefined: phi jumps; the stream grows beyond what can be squared.
    """
    found: list[Passage] = []
    for block in blocks:
        passage = _through(phi, block, ORDERS[order], stream=stream, norm=norm)
        found.append(passage)
        stream = passage.after
        # Negated, so that NaN is refused too.
        if not np.diag(stream.gram).max() < LARGEST:
            raise NotDefined(
                f"the mean square of the stream exceeds {LARGEST:g} behind block "
                f"{len(found)}; there is a prediction for fewer blocks, or a smaller "
                "branch."
            )
    return found


def _through(
    phi: Activation,
    block: Block,
    order: Order,
    *,
    stream: Stream,
    norm: Norm | None,
) -> Passage:
    """Return what happens to a stream in one block."""
    ones = np.ones(len(stream.rest))
    read, read_scale = stream, ones
    if norm is not None and norm.at == "pre":
        read, read_scale = stream.normed(norm)
    stations: list[Station] = []
    if order.before:
        stations.append(Station(*read.activated(phi)))
    gram = stations[-1].gram if stations else read.gram
    for index, square in enumerate(block.squares):
        if index:
            stations.append(Station(*_activated(phi, gram)))
            gram = stations[-1].gram
        gram = square * gram + block.bias
        stations.append(Station(gram, square * ones))
    # Behind fresh weights the mean over units is zero, behind an activation E phi.
    mean = 0 * ones
    if order.behind:
        mean = _means(phi, np.diag(gram))
        stations.append(Station(*_activated(phi, gram)))
    total = stream.skipped(block).joined(
        block.branch,
        gram=stations[-1].gram,
        mean=mean,
    )
    after, scale = total, ones
    if norm is not None and norm.at == "post":
        after, scale = total.normed(norm)
    return Passage(
        block=block,
        before=stream,
        read=read,
        read_scale=read_scale,
        stations=tuple(stations),
        mean=mean,
        sum=total,
        scale=scale,
        after=after,
    )


def _activated(phi: Activation, gram: Gram) -> Activated:
    """Return what phi makes of Gaussians; refuse a phi that jumps.

    Raises:
        NotDefined: It jumps where these Gaussians see it.
    """
    differentiable(phi, float(np.diag(gram).max()))
    return activated(phi, gram)


def _means(phi: Activation, variances: PerInput) -> PerInput:
    """Return E phi at each variance."""
    # Inputs are often of one length, and each variance takes a quadrature.
    distinct, index = np.unique(variances, return_inverse=True)
    means = [expectation(phi.fn, q, phi.kinks) for q in distinct.tolist()]
    return np.array(means)[index]


def pull_back(passage: Passage, behind: PerInput) -> Gradients:
    """Return the squared gradients in a block, from that at the stream behind it."""
    block = passage.block
    at_sum = behind / passage.scale**2
    now = block.branch**2 * at_sum
    stations = []
    for station in reversed(passage.stations):
        stations.append(now)
        now = station.factor * now
    of_skip = block.skip**2 * at_sum
    if block.shortcut is not None:
        of_skip = block.shortcut * of_skip
    # Branch and skip have no matrix in common, so their squares add.
    before = of_skip + now / passage.read_scale**2
    return Gradients(before, tuple(stations[::-1]), at_sum)


def sampled_slopes(phi: Activation, passages: Sequence[Passage]) -> Slopes:
    """Draw phi'² of the stream at every block, unit by unit, for the first input.

    For a first input that is not Gaussian: each unit keeps its value there, and what
    branches add is Gaussian.
    """
    start = passages[0].before.start
    assert start is not None, "a Gaussian stream needs no samples"
    copies = math.ceil(_SITES / start.shape[1])
    x = np.tile(start[0], copies)
    rng = np.random.default_rng(0)
    slopes = []
    for passage in passages:
        read = _divided(x, passage.before, passage.read, scale=passage.read_scale)
        slopes.append(evaluate(phi, read)[1] ** 2)
        # Independent of the unit: the last layer of the branch has fresh weights.
        noise = rng.standard_normal(len(x))
        added = math.sqrt(passage.stations[-1].first_square) * noise
        block = passage.block
        x = block.skip * x + block.branch * added
        x = _divided(x, passage.sum, passage.after, scale=passage.scale)
    return np.stack(slopes)


def _divided(
    x: Float[np.ndarray, " sites"],
    before: Stream,
    behind: Stream,
    *,
    scale: PerInput,
) -> Float[np.ndarray, " sites"]:
    """Apply the norm that has these streams in front of it and behind it."""
    # What it takes off and divides by is the same for all units.
    centred = x - before.first_mean
    return behind.first_mean + centred / scale[0]
