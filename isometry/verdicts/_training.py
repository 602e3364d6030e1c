"""Training of some seeds, step by step, and the ranks of their summed gradients."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from isometry._internal import checks, compilation, precision
from isometry._internal.types import Params
from isometry.verdicts import _ranks, _weights
from isometry.verdicts._objective import Batch, Objective, Split, objective_of
from isometry.verdicts._task import Task
from isometry.verdicts._weights import Weight


class State(NamedTuple):
    """The training of one seed.

    Attributes:
        params: The parameters.
        optimizer: The state of the optimizer.
        sums: The sum of the gradients of each floating leaf.
        lost: What rounding took off each sum in the last addition: see `_summed`.
        norms: The sum of the norms of the gradients of each slice.
        first: The first step at which the gradient of each slice is not zero; -1 for
            not yet.
        loss: The loss on the last batch, before its step.
    """

    params: Params
    optimizer: PyTree
    sums: list[Array]
    lost: list[Array]
    norms: Float[Array, " slices"]
    first: Int[Array, " slices"]
    loss: Array


class _Static(NamedTuple):
    """What a program of the training depends on, besides shapes.

    Attributes:
        objective: The loss.
        weights: The weights that are followed.
        optimizer: The optimizer.
    """

    objective: Objective
    weights: tuple[Weight, ...]
    optimizer: optax.GradientTransformation


class _Data(NamedTuple):
    """All examples, their targets, and the examples of every step."""

    xs: PyTree[Array]
    targets: PyTree[Array]
    batches: Int[Array, "steps batch"]


class Training:
    """Trains some seeds on the same batches.

    Args:
        task: Examples, targets, loss and optimizer.
        weights: The weights whose gradients are followed.
        params: The parameters of each seed.
    """

    def __init__(
        self,
        task: Task,
        weights: tuple[Weight, ...],
        params: Sequence[Params],
    ) -> None:
        # In 16 bits the sums of gradients would soon be too large for a further
        # gradient to change them.
        dtype = precision.measuring_dtype(None, params[0])
        xs, params = precision.cast((task.xs, list(params)), dtype)
        self._static = _Static(objective_of(task), weights, task.optimizer)
        self._data = _Data(xs, task.targets, task.batches)
        self.states = [_started(self._static, one) for one in params]

    @property
    def params(self) -> list[Params]:
        """The parameters of each seed."""
        return [state.params for state in self.states]

    @property
    def losses(self) -> list[float]:
        """The loss of each seed on its last batch, before the step."""
        return [float(state.loss) for state in self.states]

    def advance(
        self,
        begin: int,
        end: int,
    ) -> None:
        """Make the steps with numbers from `begin` to `end` - 1."""
        # The numbers of steps are arguments, so that one program serves all intervals.
        interval = (jnp.asarray(begin, np.int32), jnp.asarray(end, np.int32))
        # Optimizers and losses are written for JAX's standard promotion: optax's Adam
        # fails under the strict one.
        with precision.full(), jax.numpy_dtype_promotion("standard"):
            self.states = [
                _advanced(self._static, self._data, state, interval=interval)
                for state in self.states
            ]

    def ranks(self) -> "Ranks":
        """Return the ranks of the summed gradients."""
        by_seed = [_ranks_of_seed(self._static.weights, one) for one in self.states]
        whole, taps = zip(*by_seed, strict=True)
        return Ranks(np.array(whole, int), np.array(taps, int))


class Ranks(NamedTuple):
    """Ranks of summed gradients: of each weight, and the largest of one of its taps."""

    whole: Int[np.ndarray, "seeds layers"]
    taps: Int[np.ndarray, "seeds layers"]


def followed(weights: Sequence[Weight]) -> list[Weight]:
    """Return the weights whose rank is followed."""
    return [weight for weight in weights if _is_followed(weight)]


def _is_followed(weight: Weight) -> bool:
    """Tell whether a weight is a matrix between the first layer and the last.

    The ranks of the first and the last are at most the sizes of input and output.
    """
    return weight.is_matrix and weight.layer.role not in ("stem", "head")


def _started(
    static: _Static,
    params: Params,
) -> State:
    """Return the state before the first step."""
    floating = Split.floating(params)
    # Made by NumPy: JAX would compile a program for each shape.
    zeros = [checks.on_device(np.zeros(leaf.shape, leaf.dtype)) for leaf in floating]
    num_slices = len(_weights.names_of(static.weights))
    with jax.numpy_dtype_promotion("standard"):
        optimizer = static.optimizer.init(Split(params).trained(floating))
    return State(
        params=params,
        optimizer=optimizer,
        sums=zeros,
        lost=zeros,
        norms=checks.on_device(np.zeros(num_slices, np.float32)),
        first=checks.on_device(np.full(num_slices, -1, np.int32)),
        loss=jnp.asarray(np.inf, np.float32),
    )


@functools.partial(compilation.jit, static_argnums=0)
def _advanced(
    static: _Static,
    data: _Data,
    state: State,
    interval: tuple[Array, Array],
) -> State:
    """Return the state after the steps of an interval."""

    def step(
        t: Array | int,
        state: State,
    ) -> State:
        return _stepped(static, data, state, t=t)

    # The interval is one program, because calling a program costs more than a step of a
    # small network.
    return jax.lax.fori_loop(*interval, step, state)


def _stepped(
    static: _Static,
    data: _Data,
    state: State,
    t: Array | int,
) -> State:
    """Make one step."""
    split = Split(state.params)
    index = data.batches[t]
    xs, targets = jax.tree.map(lambda leaf: leaf[index], (data.xs, data.targets))
    # A fixed key, so that dropout is the same for all seeds and for controls.
    key = jax.random.fold_in(jax.random.key(0), t)

    def loss_of(floating: list[Array]) -> Array:
        batch = Batch(split.joined(floating), xs, targets, key=key)
        return static.objective.of_batch(batch)

    floating = split.floating(state.params)
    loss, gradient = jax.value_and_grad(loss_of)(floating)
    params = split.trained(floating)
    # An optimizer may go by the names of leaves, so it is given the whole tree.
    updates, optimizer = static.optimizer.update(
        split.trained(gradient), state.optimizer, params
    )
    moved = optax.apply_updates(params, updates)
    sums, lost = _summed(state.sums, state.lost, gradient)
    log_norms = _weights.log_norms(static.weights, gradient)
    is_first = (state.first < 0) & (log_norms != -jnp.inf)
    return State(
        params=split.joined(split.floating(moved)),
        optimizer=optimizer,
        sums=sums,
        lost=lost,
        norms=state.norms + jnp.exp(log_norms).astype(state.norms.dtype),
        first=jnp.where(is_first, jnp.asarray(t + 1, state.first.dtype), state.first),
        loss=loss.astype(state.loss.dtype),
    )


def _summed(
    sums: list[Array],
    lost: list[Array],
    gradient: list[Array],
) -> tuple[list[Array], list[Array]]:
    """Return the sums with a gradient added, and what rounding took off.

    This is compensated summation (Kahan, 1965): what rounding takes off in one addition
    is added in the next, so that sums of 10,000 gradients are as exact as the gradients
    themselves. Without it, the rounding errors of 1,000 late, small gradients of a
    converged network would look like directions in which it trains.
    """
    terms = jax.tree.map(jnp.add, gradient, lost)
    totals = jax.tree.map(jnp.add, sums, terms)
    # Both differences are exact where a total is larger than what is added to it.
    added = jax.tree.map(jnp.subtract, totals, sums)
    return totals, jax.tree.map(jnp.subtract, terms, added)


def _ranks_of_seed(
    weights: Sequence[Weight],
    state: State,
) -> tuple[list[int], list[int]]:
    """Return the ranks of the followed weights, whole and by tap."""
    eps = float(jnp.finfo(state.sums[0].dtype).eps)
    # Singular values of each slice up to these may be due to rounding of the gradients.
    tolerances = eps * np.asarray(state.norms, float)
    whole: list[int] = []
    taps: list[int] = []
    for weight, tolerance in zip(weights, _by_weight(weights, tolerances), strict=True):
        if not _is_followed(weight):
            continue
        sums = np.asarray(weight.slices(state.sums[weight.leaf]))
        of_whole, of_taps = ranks_of_slices(weight, sums, tolerance)
        whole += of_whole
        taps += of_taps
    return whole, taps


def _by_weight(
    weights: Sequence[Weight],
    of_slices: Float[np.ndarray, " all_slices"],
) -> Iterator[Float[np.ndarray, " slices"]]:
    """Yield for each weight the numbers of its slices, which lie side by side."""
    begin = 0
    for weight in weights:
        end = begin + len(weight.names)
        yield of_slices[begin:end]
        begin = end


def ranks_of_slices(
    weight: Weight,
    sums: Float[np.ndarray, "slices ..."],
    tolerance: Float[np.ndarray, " slices"],
) -> tuple[list[int], list[int]]:
    """Return the rank of each slice of a weight, and the largest rank of its taps.

    Args:
        weight: The weight.
        sums: The summed gradient of each slice.
        tolerance: The singular value of each slice up to which none counts.
    """
    by_tap = weight.matrices(sums)
    *leading, num_taps, rows, columns = by_tap.shape
    flat = by_tap.reshape(*leading, num_taps * rows, columns)
    # Experts are matrices of their own; the largest of their ranks counts.
    whole = _ranks.rank_above(flat, tolerance[:, None]).max(1).tolist()
    if num_taps == 1:
        return whole, whole
    taps = _ranks.rank_above(by_tap, tolerance[:, None, None]).max((1, 2))
    return whole, taps.tolist()
