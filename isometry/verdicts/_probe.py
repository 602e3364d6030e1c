"""A short training of the first seeds: what it moves in each weight."""

import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from isometry._internal.errors import InputError
from isometry._internal.types import Key, Params
from isometry.certificates import Certificate, certify
from isometry.measure import _draws
from isometry.measure._draws import Seeds
from isometry.networks import Network
from isometry.verdicts import _weights
from isometry.verdicts._objective import Split
from isometry.verdicts._spread import Spread, Watch
from isometry.verdicts._subject import Subject
from isometry.verdicts._task import SGD, Task
from isometry.verdicts._training import Training, followed
from isometry.verdicts._weights import Weight

# Points of a trajectory, evenly spaced after the first step. Each costs a factorization
# of every weight of every seed.
RECORDS = 8

# Of weights with more entries in all, ranks are taken after the first step and the last
# alone: a matrix of 2048 × 2048 takes half a second.
_MOST_ENTRIES = 2_000_000

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


def certificates(
    subject: Subject,
    num_seeds: int,
) -> tuple[Certificate, ...]:
    """Certify the first seeds.

    Args:
        subject: The network.
        num_seeds: How many seeds, if there are as many.

    Returns:
        The certificates. None, with a warning, of a network that cannot be certified,
        such as one whose gradients are not finite at random parameters.
    """
    # A network knows its own example, and then x is left to it.
    network = subject.network
    x = None
    if network is None or network.example is None:
        x = _draws.row_shapes(subject.xs)
    count = min(num_seeds, subject.num_seeds)
    try:
        return tuple(certify(subject.f, subject.params_of(i), x) for i in range(count))
    except InputError as error:
        warnings.warn(f"nothing is certified: {error.message}", stacklevel=2)
        return ()


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
    # A user's own optimizer is kept, whatever becomes of the loss.
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
    training = Training(task, weights, params)
    ranked = followed(weights)
    num_entries = sum(math.prod(weight.shape) * len(weight.names) for weight in ranked)
    if num_entries > _MOST_ENTRIES:
        num_records = 1
    marks = _marks(len(task.batches), num_records)
    watch = None
    if certificates is not None:
        watch = Watch(subject, certificates)
        watch.look(training.params)
    ranks, losses = [], []
    for begin, end in itertools.pairwise([0, *marks]):
        training.advance(begin, end)
        # On the host, between compiled intervals: a factorization inside the program
        # would be compiled for every shape.
        ranks.append(training.ranks())
        losses.append(training.losses)
        if watch is not None:
            watch.look(training.params)
    first = [np.asarray(state.first) for state in training.states]
    return Probe(
        steps=np.array(marks),
        layers=_weights.names_of(ranked),
        shapes=_of_slices(ranked, [weight.matrix_shape for weight in ranked]),
        gradient_rank=np.stack([rank.whole for rank in ranks], 1),
        tap_shapes=_of_slices(ranked, [weight.tap_shape for weight in ranked]),
        tap_rank=np.stack([rank.taps for rank in ranks], 1),
        loss=np.array(losses).T,
        weights=_weights.names_of(weights),
        first_signal=np.stack(first),
        learning_rate=learning_rate,
        signals=None if watch is None else watch.record(marks),
    )


def _marks(
    num_steps: int,
    num_records: int,
) -> list[int]:
    """Return the steps after which is recorded: the first, and evenly spaced ones."""
    spaced = np.linspace(0, num_steps, num_records + 1).astype(int)[1:].tolist()
    return sorted({1, *spaced} - {0})


def _of_slices(
    weights: Sequence[Weight],
    shapes: Sequence[tuple[int, int]],
) -> tuple[tuple[int, int], ...]:
    """Return the shape of each slice."""
    repeated: list[tuple[int, int]] = []
    for weight, shape in zip(weights, shapes, strict=True):
        repeated += [shape] * len(weight.names)
    return tuple(repeated)


def controls(
    subject: Subject,
    task: Task,
    key: Key,
    num_controls: int,
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
    # One at a time, because the caller stops as soon as one of them has told enough.
    for key_of_one in jax.random.split(key, num_controls):
        params = gaussian_like(weights, first, key_of_one)
        yield trained(subject, task, [params], num_records=1)


def gaussian_like(
    weights: Sequence[Weight],
    params: Params,
    key: Key,
) -> Params:
    """Return parameters whose weights are Gaussian of the same norms, slice by slice.

    Args:
        weights: The weights.
        params: The parameters of one seed.
        key: A random key.
    """
    split = Split(params)
    # Drawn by NumPy, which compiles nothing for shapes that are used once.
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


def ranks_by_width(
    subject: Subject,
    task: Task,
) -> dict[str, Any] | None:
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
    # Each width is another program, so that one seed has to do.
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


def _of_width(
    subject: Subject,
    network: Network,
) -> Subject:
    """Return the first seed of another network as a subject."""
    first = jax.tree.map(lambda keys: keys[:1], subject.seeds.source)
    seeds = Seeds(first, 1, draw=network.init, net=network)
    return dataclasses.replace(subject, f=network, seeds=seeds, anatomy=network.anatomy)
