"""A short training of the first seeds: what it moves in each weight."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from isometry._internal import compilation, precision, randomness
from isometry._internal.types import Key, Params
from isometry.certificates import Certificate, certify
from isometry.measure import _draws
from isometry.measure._draws import Seeds
from isometry.networks import Network
from isometry.verdicts import _ranks, _weights
from isometry.verdicts._objective import Objective, Split, objective_of
from isometry.verdicts._spread import Spread, Watch
from isometry.verdicts._subject import Subject
from isometry.verdicts._task import SGD, Task
from isometry.verdicts._weights import Weight

# Points of a trajectory, evenly spaced after the first step. Each costs a factorization
# of every weight of every seed.
RECORDS = 8

# The multiples of the input dimension at which trajectories are compared.
_WIDTHS = (1, 2, 4)


@dataclass(frozen=True, eq=False)
class Probe:
    """What a short training moved.

    Ranks are of weights that are matrices or kernels, between the first layer and the
    last, which have no more than the input and the output.

    Attributes:
        steps: The steps at which was recorded.
        layers: The names of the weights whose rank is followed.
        shapes: Their shapes as matrices (rows, columns), taps among the rows.
        gradient_rank: The rank of the accumulated gradient: singular values above eps
            times the sum of the norms. What rounding of the summed gradients could fake
            is not counted, and decay of the weights has no part in it.
        tap_shapes: The shapes of the matrix of one tap.
        tap_rank: The largest rank of the accumulated gradient of a tap.
        loss: Of the batch of that step.
        weights: The names of all weights.
        first_signal: The first step at which any entry of the gradient of a weight is
            not zero; -1 for not yet.
        learning_rate: Of the package's own optimizer; None of the user's.
        signals: What became of units that are equal in exact arithmetic; None of
            controls.
    """

    steps: Int[np.ndarray, " records"]
    layers: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    gradient_rank: Int[np.ndarray, "seeds records layers"]
    tap_shapes: tuple[tuple[int, int], ...]
    tap_rank: Int[np.ndarray, "seeds records layers"]
    loss: Float[np.ndarray, "seeds records"]
    weights: tuple[str, ...]
    first_signal: Int[np.ndarray, "seeds weights"]
    learning_rate: float | None
    signals: Spread | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; a loss that is NaN is "inf"."""
        fields = dict(vars(self))
        fields["loss"] = np.where(np.isnan(self.loss), np.inf, self.loss)
        fields["signals"] = None if self.signals is None else self.signals.as_dict()
        return fields

    @property
    def is_finite(self) -> bool:
        """Whether the loss stayed finite."""
        return bool(np.isfinite(self.loss).all())

    @property
    def trouble(self) -> str:
        """What became of a loss that is not finite, in words; or ""."""
        # The first is that of the initial weights, before any step.
        first = self.loss[:, 0]
        if not np.isfinite(first).all():
            what = "NaN" if np.isnan(first).any() else "infinite"
            return (
                f"the loss is {what} at step 1, before anything is trained: the loss "
                "or the outputs are at fault"
            )
        if not self.is_finite:
            return "the probe's loss overflowed; lower the learning rate"
        return ""


class State(NamedTuple):
    """The training of one seed.

    Attributes:
        params: The parameters.
        optimizer: The state of the optimizer.
        sums: The sum of the gradients of each floating leaf.
        norms: The sum of the norms of the gradients of each slice.
        first: The first step with a gradient of each slice; -1 for not yet.
        loss: Of the last batch, before its step.
    """

    params: Params
    optimizer: PyTree
    sums: list[Array]
    norms: Float[Array, " weights"]
    first: Int[Array, " weights"]
    loss: Array


def certificates(subject: Subject, num_seeds: int) -> tuple[Certificate, ...]:
    """Certify the first seeds.

    Args:
        subject: The network.
        num_seeds: How many seeds, if there are as many.
    """
    # A network knows its own example.
    x = None
    is_network = isinstance(subject.f, Network)
    if not is_network or subject.f.example is None:
        x = _draws.row_shapes(subject.xs)
    count = min(num_seeds, subject.num_seeds)
    return tuple(certify(subject.f, subject.params_of(i), x) for i in range(count))


def run(
    subject: Subject,
    task: Task,
    certificates: Sequence[Certificate],
    num_seeds: int,
) -> Probe | None:
    """Train the first seeds, with the largest learning rate that does not overflow.

    A rate of the user's own is kept. The training mode is used where there is one.

    Args:
        subject: The network.
        task: What is trained on.
        certificates: Of these seeds; their equal units are watched.
        num_seeds: How many seeds, if there are as many.

    Returns:
        The record; None if the task has no steps.
    """
    if not task.num_steps:
        return None
    count = min(num_seeds, subject.num_seeds)
    params = [subject.params_of(i) for i in range(count)]
    watched = tuple(certificates[:count])
    if not any(task.optimizer is ours for ours in SGD.values()):
        return trained(subject, task, params, certificates=watched)
    probe = None
    for rate, optimizer in SGD.items():
        slower = dataclasses.replace(task, optimizer=optimizer)
        probe = trained(
            subject, slower, params, certificates=watched, learning_rate=rate
        )
        # The loss of the initial weights does not depend on the rate.
        if probe.is_finite or not np.isfinite(probe.loss[:, 0]).all():
            break
    return probe


def trained(
    subject: Subject,
    task: Task,
    params: Sequence[Params],
    *,
    certificates: Sequence[Certificate] | None = None,
    num_records: int = RECORDS,
    learning_rate: float | None = None,
) -> Probe:
    """Train some seeds alike, and record what it moves.

    Args:
        subject: The network.
        task: What is trained on.
        params: The parameters of each seed.
        certificates: Of each seed, whose equal units are watched; None for controls.
        num_records: How many records to make after the first.
        learning_rate: What is told as the rate.
    """
    weights = _weights.weights_of(subject.anatomy, params[0])
    objective = objective_of(task)
    dtype = precision.measuring_dtype(None, params[0])
    xs, given = precision.cast((task.xs, list(params)), dtype)
    states = [_started(task, weights, one) for one in given]
    num_steps = len(task.batches)
    marks = _marks(num_steps, num_records)
    watch = None if certificates is None else Watch(subject, certificates)
    if watch is not None:
        watch.look(given)
    ranks, tap_ranks, losses = [], [], []
    for begin, end in zip([0, *marks], marks, strict=False):
        states = [
            _advanced(
                objective,
                weights,
                task.optimizer,
                state=state,
                data=(xs, task.targets),
                batches=task.batches,
                interval=(begin, end),
            )
            for state in states
        ]
        of_whole, of_taps = _ranks_of(weights, states)
        ranks.append(of_whole)
        tap_ranks.append(of_taps)
        losses.append([float(state.loss) for state in states])
        if watch is not None:
            watch.look([state.params for state in states])
    ranked = list(followed(weights))
    return Probe(
        steps=np.array(marks),
        layers=tuple(name for weight in ranked for name in weight.names),
        shapes=_repeated(ranked, "matrix_shape"),
        gradient_rank=np.stack(ranks, 1),
        tap_shapes=_repeated(ranked, "tap_shape"),
        tap_rank=np.stack(tap_ranks, 1),
        loss=np.array(losses).T,
        weights=_weights.names_of(weights),
        first_signal=np.stack([np.asarray(state.first) for state in states]),
        learning_rate=learning_rate,
        signals=None if watch is None else watch.record(marks),
    )


def _marks(num_steps: int, num_records: int) -> list[int]:
    """Return the steps after which is recorded: the first, and evenly spaced ones."""
    spaced = np.linspace(0, num_steps, num_records + 1).astype(int)[1:].tolist()
    return sorted({1, *spaced} - {0})


def _repeated(weights: Sequence[Weight], name: str) -> tuple[tuple[int, int], ...]:
    """Return a shape of each slice."""
    return tuple(getattr(weight, name) for weight in weights for _ in weight.names)


def followed(weights: Sequence[Weight]) -> Iterator[Weight]:
    """Yield the weights whose rank is followed."""
    for weight in weights:
        if weight.is_matrix and weight.layer.role not in ("stem", "head"):
            yield weight


def _started(task: Task, weights: Sequence[Weight], params: Params) -> State:
    """Return the state before the first step."""
    floating = Split.floating(params)
    num_slices = sum(len(weight.names) for weight in weights)
    with jax.numpy_dtype_promotion("standard"):
        optimizer = task.optimizer.init(Split(params).trained(floating))
    return State(
        params=params,
        optimizer=optimizer,
        # Made by NumPy, which compiles nothing.
        sums=[np.zeros(leaf.shape, leaf.dtype) for leaf in floating],
        norms=np.zeros(num_slices, np.float32),
        first=np.full(num_slices, -1, np.int32),
        loss=np.array(np.inf, np.float32),
    )


def _advanced(
    objective: Objective,
    weights: tuple[Weight, ...],
    optimizer: optax.GradientTransformation,
    *,
    state: State,
    data: tuple[PyTree[Array], PyTree[Array]],
    batches: Int[Array, "steps batch"],
    interval: tuple[int, int],
) -> State:
    """Return the state after the steps of an interval."""
    # Optimizers and losses are written for JAX's standard promotion: optax's Adam fails
    # under the strict one.
    with precision.full(), jax.numpy_dtype_promotion("standard"):
        return _advance(
            objective,
            weights,
            optimizer,
            state,
            data,
            batches,
            *map(np.int32, interval),
        )


@functools.partial(compilation.jit, static_argnums=(0, 1, 2))
def _advance(
    objective: Objective,
    weights: tuple[Weight, ...],
    optimizer: optax.GradientTransformation,
    state: State,
    data: tuple[PyTree[Array], PyTree[Array]],
    batches: Int[Array, "steps batch"],
    begin: Array,
    end: Array,
) -> State:
    """Make the steps begin ... end - 1, in one program for all intervals."""
    split = Split(state.params)

    def step(t: Array, state: State) -> State:
        index = batches[t]
        xs, targets = jax.tree.map(lambda leaf: leaf[index], data)
        # The same dropout for all seeds, and for controls.
        key = jax.random.fold_in(jax.random.key(0), t)

        def of_floating(floating: list[Array]) -> Array:
            params = split.joined(floating)
            return objective.of_batch(params, xs, targets, key)

        floating = Split.floating(state.params)
        loss, gradient = jax.value_and_grad(of_floating)(floating)
        log_norms = _weights.log_norms(weights, gradient)
        updates, optimizer_state = optimizer.update(
            split.trained(gradient), state.optimizer, split.trained(floating)
        )
        moved = optax.apply_updates(split.trained(floating), updates)
        is_first = (state.first < 0) & (log_norms != -jnp.inf)
        return State(
            params=split.joined(Split.floating(moved)),
            optimizer=optimizer_state,
            sums=jax.tree.map(jnp.add, state.sums, gradient),
            norms=state.norms + jnp.exp(log_norms).astype(state.norms.dtype),
            first=jnp.where(is_first, (t + 1).astype(state.first.dtype), state.first),
            loss=loss.astype(state.loss.dtype),
        )

    return jax.lax.fori_loop(begin, end, step, state)


def _ranks_of(
    weights: Sequence[Weight], states: Sequence[State]
) -> tuple[Int[np.ndarray, "seeds layers"], Int[np.ndarray, "seeds layers"]]:
    """Return the ranks of the accumulated gradients: of whole weights, and of taps."""
    by_seed, taps_by_seed = [], []
    for state in states:
        norms = np.asarray(state.norms, float)
        starts = np.cumsum([0, *(len(weight.names) for weight in weights)])
        whole: list[int] = []
        taps: list[int] = []
        for weight, start in zip(weights, starts[:-1], strict=True):
            if weight not in list(followed(weights)):
                continue
            sums = np.asarray(weight.slices(state.sums[weight.leaf]))
            own = norms[start : start + len(weight.names)]
            eps = float(jnp.finfo(sums.dtype).eps)
            of_whole, of_taps = _ranks_of_slices(weight, sums, eps * own)
            whole += of_whole
            taps += of_taps
        by_seed.append(whole)
        taps_by_seed.append(taps)
    return np.array(by_seed, int), np.array(taps_by_seed, int)


def _ranks_of_slices(
    weight: Weight,
    sums: Float[np.ndarray, "slices ..."],
    tolerance: Float[np.ndarray, " slices"],
) -> tuple[list[int], list[int]]:
    """Return the rank of each slice of a weight, and the largest of its taps."""
    by_tap = weight.matrices(sums)
    *leading, num_taps, rows, columns = by_tap.shape
    flat = by_tap.reshape(*leading, num_taps * rows, columns)
    # Of experts, the largest rank counts.
    of_whole = _ranks.rank_above(flat, tolerance[:, None]).max(1)
    if num_taps == 1:
        return of_whole.tolist(), of_whole.tolist()
    of_taps = _ranks.rank_above(by_tap, tolerance[:, None, None]).max((1, 2))
    return of_whole.tolist(), of_taps.tolist()


def controls(
    subject: Subject, task: Task, key: Key, num_controls: int
) -> Iterator[Probe]:
    """Train Gaussian networks of equal norms alike, one after another.

    Each is the first seed with every weight replaced by a Gaussian one of the same
    Frobenius norm; biases and norm scales stay.

    Args:
        subject: The network.
        task: What is trained on, with the optimizer that the probe used.
        key: A key of the weights.
        num_controls: How many.
    """
    first = subject.params_of(0)
    weights = _weights.weights_of(subject.anatomy, first)
    for key_of_one in jax.random.split(key, num_controls):
        params = gaussian_like(weights, first, key_of_one)
        yield trained(subject, task, [params], num_records=1)


def gaussian_like(weights: Sequence[Weight], params: Params, key: Key) -> Params:
    """Return parameters whose weights are Gaussian of the same norms, slice by slice.

    Args:
        weights: The weights.
        params: The parameters of one seed.
        key: A random key.
    """
    split = Split(params)
    leaves = [np.asarray(leaf) for leaf in Split.floating(params)]
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    for weight in weights:
        old = np.asarray(weight.slices(jnp.asarray(leaves[weight.leaf])), float)
        noise = rng.standard_normal(old.shape)
        axes = tuple(range(1, old.ndim))
        size = np.sqrt((old**2).sum(axes, keepdims=True))
        size_of_noise = np.sqrt((noise**2).sum(axes, keepdims=True))
        new = noise * (size / size_of_noise)
        leaves[weight.leaf] = weight.replaced(leaves[weight.leaf], new)
    return split.joined(leaves)


def same_trajectory(subject: Subject, task: Task) -> dict[str, Any] | None:
    """Compare the ranks of the first seed at hidden widths N_x, 2 N_x and 4 N_x.

    Where training never leaves the dimension of the input, the width adds nothing, and
    all records are equal.

    Args:
        subject: The network.
        task: What is trained on, with the optimizer that the probe used.

    Returns:
        The steps, the ranks by width and their largest difference. None for parameters
        that were given, and networks that are not made of any width.
    """
    with_width = getattr(subject.network, "with_width", None)
    if with_width is None or not subject.is_drawn:
        return None
    num_features = _weights.input_features(subject.anatomy)[1]
    ranks: dict[int, Int[np.ndarray, "records layers"]] = {}
    steps = np.zeros(0, int)
    for factor in _WIDTHS:
        other = _of_width(subject, with_width(factor * num_features))
        of_width = dataclasses.replace(task, f=other.f)
        probe = trained(other, of_width, [other.params_of(0)])
        ranks[factor * num_features] = probe.gradient_rank[0]
        steps = probe.steps
    first = ranks[num_features]
    gaps = [int(np.abs(rank - first).max(initial=0)) for rank in ranks.values()]
    return {"steps": steps, "gradient_rank": ranks, "largest_difference": max(gaps)}


def _of_width(subject: Subject, network: Network) -> Subject:
    """Return the first seed of another network as a subject."""
    first = jax.tree.map(lambda keys: keys[:1], subject.seeds.source)
    seeds = Seeds(first, 1, draw=network.init, net=network)
    return dataclasses.replace(subject, f=network, seeds=seeds, anatomy=network.anatomy)
