"""The probe: a short training of the first seeds, and the ranks of what it moves."""

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

from isometry._internal import randomness
from isometry._internal.errors import InputError
from isometry._internal.types import Key, Params
from isometry.certificates import Certificate
from isometry.certificates._certify import certify_each
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

# The number of records along the training, besides that after the first step. Each
# costs a factorization of every weight of every seed.
RECORDS = 8

# If the weights have more entries than this in all, ranks are taken only after the
# first and the last step: a matrix of 2048 × 2048 takes half a second.
_MOST_ENTRIES = 2_000_000

# The multiples of the input dimension at which trajectories are compared.
_WIDTHS = (1, 2, 4)


@dataclass(frozen=True, eq=False)
class Probe:
    """What a short training moved.

    Ranks are followed for matrices and kernels between the first layer and the last.
    Those two are left out, because their rank is at most the size of the input and of
    the output. A tap is one position in the window of a kernel.

    Attributes:
        steps: The steps after which the probe recorded.
        layers: The names of the weights whose rank is followed.
        shapes: The shapes (rows, columns) of these weights as matrices; the rows of all
            taps of a kernel are counted together.
        gradient_rank: The rank of the sum of all gradients so far. Singular values
            count above eps times the sum of the norms of the gradients, so that
            rounding does not. Weight decay does not either.
        tap_shapes: The shapes of the matrix of one tap.
        tap_rank: The rank of the sum of all gradients of one tap, the largest of all
            taps.
        loss: The loss on the batch of each of these steps, before the step.
        weights: The names of all weights.
        first_signal: The first step at which any entry of the gradient of a weight is
            not zero; -1 for not yet.
        learning_rate: The learning rate, or None if the optimizer is the user's.
        signals: How units that are equal in exact arithmetic drift apart; None for
            control networks, whose units are not watched.
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
        """Where the loss was not finite first, in words; or ""."""
        # The first record is the loss of the initial weights.
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
        num_seeds: The number of seeds at most.

    Returns:
        The certificates. If the network cannot be certified, because its gradients are
        not finite at random parameters for example, an empty tuple, with a warning.
    """
    # `certify` takes x from the network, if the network has an example of its own.
    network = subject.network
    x = None
    if network is None or network.example is None:
        x = _draws.row_shapes(subject.xs)
    count = min(num_seeds, subject.num_seeds)
    draws = [subject.params_of(i) for i in range(count)]
    try:
        return certify_each(subject.f, draws, x)
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

    An optimizer of the user's is used as it is. The training mode is used where the
    network has one.

    Args:
        subject: The network.
        task: Examples, targets, loss and optimizer.
        certificates: The certificates of these seeds. Units that they show to be equal
            are watched.
        num_seeds: The number of seeds at most.

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
    """Train some seeds on the same batches, and record what training moves.

    Args:
        subject: The network.
        task: Examples, targets, loss and optimizer.
        params: The parameters of each seed.
        certificates: A certificate of each seed, to watch units that it shows to be
            equal; None watches no units.
        num_records: How many records to make after that of the first step.
        learning_rate: The learning rate of the optimizer, for the record.
    """
    weights = _weights.weights_of(subject.anatomy, params[0])
    training = Training(task, weights, params)
    ranked = followed(weights)
    num_entries = sum(math.prod(weight.shape) * len(weight.names) for weight in ranked)
    if num_entries > _MOST_ENTRIES:
        num_records = 1
    steps = _steps_to_record(len(task.batches), num_records)
    watch = None
    if certificates is not None:
        watch = Watch(subject, certificates)
        watch.look(training.params)
    ranks, losses = [], []
    for begin, end in itertools.pairwise([0, *steps]):
        training.advance(begin, end)
        # Ranks are taken on the host, because a factorization inside the compiled
        # program would be compiled for every shape.
        ranks.append(training.ranks())
        losses.append(training.losses)
        if watch is not None:
            watch.look(training.params)
    first = [np.asarray(state.first) for state in training.states]
    return Probe(
        steps=np.array(steps),
        layers=_weights.names_of(ranked),
        shapes=_of_slices(ranked, [weight.matrix_shape for weight in ranked]),
        gradient_rank=np.stack([rank.whole for rank in ranks], 1),
        tap_shapes=_of_slices(ranked, [weight.tap_shape for weight in ranked]),
        tap_rank=np.stack([rank.taps for rank in ranks], 1),
        loss=np.array(losses).T,
        weights=_weights.names_of(weights),
        first_signal=np.stack(first),
        learning_rate=learning_rate,
        signals=None if watch is None else watch.record(steps),
    )


def _steps_to_record(
    num_steps: int,
    num_records: int,
) -> list[int]:
    """Return the steps after which the probe records: the first, and some beyond."""
    spaced = np.linspace(0, num_steps, num_records + 1).astype(int)[1:].tolist()
    return sorted({1, *spaced} - {0})


def _of_slices(
    weights: Sequence[Weight],
    shapes: Sequence[tuple[int, int]],
) -> tuple[tuple[int, int], ...]:
    """Repeat the shape of each weight for each of its slices."""
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
    """Train control networks on the batches of the probe, one after another.

    A control is the first seed with every weight replaced by a Gaussian one of the same
    Frobenius norm; biases and norm scales stay.

    Args:
        subject: The network.
        task: The task of the probe, with the optimizer that the probe used.
        key: A key of the weights.
        num_controls: The number of controls.

    Yields:
        The record of each control.
    """
    first = subject.params_of(0)
    weights = _weights.weights_of(subject.anatomy, first)
    # A generator, because the caller stops when one control has decided the question.
    for key_of_one in jax.random.split(key, num_controls):
        params = gaussian_like(weights, first, key_of_one)
        yield trained(subject, task, [params], num_records=1)


def gaussian_like(
    weights: Sequence[Weight],
    params: Params,
    key: Key,
) -> Params:
    """Return the parameters with each slice of a weight Gaussian, of the same norm.

    Args:
        weights: The weights.
        params: The parameters of one seed.
        key: A random key.
    """
    split = Split(params)
    # Drawn by NumPy: JAX would compile a program for each shape.
    leaves = [np.asarray(leaf) for leaf in Split.floating(params)]
    rng = randomness.host_generator(key)
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
    """Measure the ranks of the first seed at hidden widths N_x, 2 N_x and 4 N_x.

    N_x is the number of features that the first layer reads: see
    `_weights.input_features`. If no rank exceeds N_x, more width adds nothing, and the
    ranks are equal at all three widths.

    Args:
        subject: The network.
        task: The task of the probe, with the optimizer that the probe used.

    Returns:
        The steps, the ranks by width, and the largest difference between ranks of two
        widths. None if the parameters were given, or if the network cannot be made at
        other widths.
    """
    with_width = getattr(subject.network, "with_width", None)
    if with_width is None or not subject.is_drawn:
        return None
    num_features = _weights.input_features(subject.anatomy)[1]
    # One seed only, because each width compiles a program of its own.
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
    """Return the first seed of a network of another width as a subject."""
    first = jax.tree.map(lambda keys: keys[:1], subject.seeds.source)
    seeds = Seeds(first, 1, draw=network.init, net=network)
    return dataclasses.replace(subject, f=network, seeds=seeds, anatomy=network.anatomy)
