"""The flag rank_constrained_training: weights that move in few directions alone."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from isometry._internal.types import Key
from isometry.certificates import Certificate, LayerLock
from isometry.verdicts import _probe, _weights
from isometry.verdicts._flag import CLEAR, NOT_RUN, RAISED, UNDECIDED, Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._mode import mode_of_training
from isometry.verdicts._names import listed
from isometry.verdicts._probe import Probe
from isometry.verdicts._registry import flag
from isometry.verdicts._task import SGD
from isometry.verdicts._training import followed
from isometry.verdicts._weights import Weight

_NAME = "rank_constrained_training"
_REMEDY = (
    'random weights: net.with_scheme("orthogonal"), isometric as well; or Gaussian '
    "noise of std 0.1/√fan_in on the weights, which spreads ln s by 0.1·√(depth/2) "
    "(ZerO is no repair: its Hadamard layer has a ceiling of its own)"
)
_BOUND = (
    "rank of what a certificate lets move; for partial identity Theorem 1, "
    "arXiv:2110.12661"
)

# Grades of a certificate's claims, the surest first.
_BIT_FOR_BIT = "bit for bit"
_EVIDENCE = "evidence"


class _Line(NamedTuple):
    """In how many directions a weight can move: as the input and its shape allow.

    Attributes:
        line: N_x: the number of features that the first layer reads.
        size: The rank that the weight could have.
        is_tap: Whether both are counted for one tap of a kernel.
    """

    line: int
    size: int
    is_tap: bool


@flag(_NAME, threshold="controls", rank=20, source=_BOUND)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Raise where training moves a weight wider than the input in N_x directions.

    N_x is the number of features that the first layer reads: the dimension of the input
    of a perceptron. Of a kernel both its taps are judged, by the channels that the
    first kernel reads, and the whole, by the entries that it reads.

    It is raised by proof where a certificate bounds the rank, unless the probe breaks
    that bound: then rounding or the optimizer has undone the equal sums that it rests
    on. Without a proof it is raised where, after the probe, the rank of the accumulated
    gradient is at most N_x in every seed, although every one of the control networks
    (Gaussian weights of equal norms, same data, batches and optimizer) passes N_x. If a
    control does not pass it either, the probe is too short to tell: undecided.

    Partial identity is such a network (Theorem 1 of the ZerO paper): units beyond
    max(N_x, N_y) have zero incoming and outgoing weights, and with phi(0) = 0 neither
    signal nor gradient ever reaches them. That the bound is N_x also for N_y > N_x
    needs phi'(0) = 0 at the tie, as `jax.nn.relu` has it (`jnp.maximum(x, 0)` has ½).
    """
    subject = measured.subject
    of_tap, of_window = _weights.input_features(subject.anatomy)
    evidence: dict[str, Any] = {"input_dimension": of_window}
    if of_tap != of_window:
        evidence["input_channels"] = of_tap
    slope = _slope_at_zero(measured)
    if slope is not None:
        evidence["slope_at_zero"] = slope
    # The proof comes first, because the probe is then a check of it, and the controls,
    # which cost as many trainings, are spared.
    proof = _proof(measured, of_tap, of_window)
    probe = measured.probe
    if probe is None:
        return _without_probe(measured, proof, evidence, line=of_window)
    ranks = probe.gradient_rank[:, -1].max(0, initial=0)
    evidence |= {
        "steps": int(probe.steps[-1]),
        "learning_rate": probe.learning_rate,
        "layers": probe.layers,
        "gradient_rank": ranks,
        "tap_rank": probe.tap_rank[:, -1].max(0, initial=0),
    }
    if proof is not None:
        evidence |= proof.evidence
        if _is_kept(probe, evidence["certified_rank"]):
            reason = proof.reason
            if probe.trouble:
                reason += f"; {probe.trouble}"
            return dataclasses.replace(proof, reason=reason, evidence=evidence)
    return _by_controls(
        measured, probe, key, evidence=evidence, lines=(of_tap, of_window)
    )


def _slope_at_zero(measured: Measured) -> float | None:
    """Return the slope at zero of the one activation, where there is one."""
    # With phi'(0) = 0 units on exact zero stay there, and with ½ they wake.
    network = measured.subject.network
    if network is None or network.activation is None:
        return None
    return float(network.activation.slope(jnp.zeros(())))


def _without_probe(
    measured: Measured,
    proof: Flag | None,
    evidence: dict[str, Any],
    line: int,
) -> Flag:
    """Return what is known without training."""
    if proof is not None:
        return dataclasses.replace(proof, evidence=evidence | proof.evidence)
    return Flag(
        _NAME,
        NOT_RUN,
        "train_steps=0: no probe was run",
        remedy=_REMEDY,
        threshold=line,
        source=_source(measured),
        evidence=evidence,
    )


def _source(measured: Measured) -> str:
    count = int(measured.threshold("controls"))
    return (
        f"Theorem 1 of arXiv:2110.12661; below all of {count} controls, "
        f"p ≤ {1 / (count + 1):g}"
    )


def _proof(
    measured: Measured,
    of_tap: int,
    of_window: int,
) -> Flag | None:
    """Return the flag as a theorem; None where no bound holds in every seed."""
    weights = _followed(measured)
    certificates = measured.certificates
    bounds, held = [], []
    for weight, name in weights:
        locks = _locks(certificates, name)
        full = min(weight.matrix_shape)
        bound = max((_bound(weight, lock) for lock in locks), default=full)
        bounds.append(bound)
        # Evidence is no proof; the probe is left to judge.
        if not locks or any(lock.grade == _EVIDENCE for lock in locks):
            continue
        lines = _lines(weight, of_tap, of_window)
        if any(bound <= line.line < line.size for line in lines):
            held.append((name, bound, full, locks))
    if not held:
        return None
    # The weakest of the claims, so that it holds for every weight that is named.
    value = max(bound for _, bound, _, _ in held)
    size = min(full for _, _, full, _ in held)
    names = tuple(name for name, _, _, _ in held)
    locks_of_held = [lock for _, _, _, locks in held for lock in locks]
    is_bit = all(lock.grade == _BIT_FOR_BIT for lock in locks_of_held)
    grade = _BIT_FOR_BIT if is_bit else "in exact arithmetic"
    reason = (
        f"{listed(names)} cannot train in more than {value} of {size} directions, "
        f"N_x = {of_window}; {grade}, at every step{mode_of_training(measured)}"
    )
    return Flag(
        _NAME,
        RAISED,
        reason,
        remedy=_REMEDY,
        value=value,
        threshold=of_window,
        source=_BOUND,
        evidence={"input_dimension": of_window, "certified_rank": np.array(bounds)},
        where=names,
    )


def _followed(measured: Measured) -> list[tuple[Weight, str]]:
    """Return the weights whose rank is followed, slice by slice."""
    anatomy, params = measured.subject.anatomy, measured.subject.params_of(0)
    weights = _weights.weights_of(anatomy, params)
    return [(weight, name) for weight in followed(weights) for name in weight.names]


def _locks(
    certificates: Sequence[Certificate],
    name: str,
) -> list[LayerLock]:
    """Return what the certificate of each seed says of a weight."""
    return [
        layer
        for certificate in certificates
        for layer in certificate.layers
        if layer.name == name
    ]


def _bound(
    weight: Weight,
    lock: LayerLock,
) -> int:
    """Return the highest rank that a weight can move with, as it is laid out here.

    A certificate bounds the rank of all axes but the last by the last. Where outputs
    have several axes, as heads and their channels, that is another matrix; its slices
    that can differ bound the rank in any layout.
    """
    layer = weight.layer
    rows = [lock.distinct[axis] for axis in (*layer.window_axes, *layer.in_axes)]
    columns = [lock.distinct[axis] for axis in layer.out_axes]
    bound = min(math.prod(rows), math.prod(columns))
    is_laid_out_alike = layer.out_axes == (len(lock.shape) - 1,)
    if is_laid_out_alike and not layer.batch_axes:
        bound = min(bound, lock.rank_bound)
    return bound


def _lines(
    weight: Weight,
    of_tap: int,
    of_window: int,
) -> list[_Line]:
    """Return the lines by which a weight is judged."""
    lines = [_Line(of_window, min(weight.matrix_shape), is_tap=False)]
    if weight.num_taps > 1:
        lines.append(_Line(of_tap, min(weight.tap_shape), is_tap=True))
    return lines


def _is_kept(
    probe: Probe,
    bound: Int[np.ndarray, " layers"],
) -> bool:
    """Tell whether no rank of the probe is above what is certified."""
    return bool((probe.gradient_rank <= bound).all())


def _by_controls(
    measured: Measured,
    probe: Probe,
    key: Key,
    evidence: dict[str, Any],
    *,
    lines: tuple[int, int],
) -> Flag:
    """Judge what the probe shows, beside what Gaussian networks reach."""
    common = {"remedy": _REMEDY, "threshold": lines[1], "source": _source(measured)}

    def flag_of(state: str, reason: str, **more: Any) -> Flag:
        return Flag(_NAME, state, reason, evidence=evidence, **common, **more)

    # Gradients that are not finite have no rank.
    if probe.trouble:
        return flag_of(UNDECIDED, probe.trouble)
    judged = _judged(measured, probe, *lines)
    if not judged:
        return flag_of(
            CLEAR,
            f"no hidden layer is wider than the input ({lines[1]}): there is nothing "
            "to constrain",
        )
    lowest = min(judged, key=lambda one: one.rank - one.line.line)
    low = [one for one in judged if one.rank <= one.line.line]
    if not low:
        return flag_of(
            CLEAR,
            f"rank at least {lowest.rank} after {probe.steps[-1]} steps, above "
            f"{_n_x(lowest.line)}",
            value=lowest.rank,
        )
    reached = _reached(measured, probe, key, low=low)
    evidence["control_rank"] = np.array(reached)
    pairs = zip(low, reached, strict=True)
    held = [(one, rank) for one, rank in pairs if rank > one.line.line]
    if not held:
        return flag_of(
            UNDECIDED,
            f"rank {lowest.rank} of {_n_x(lowest.line)}, but control networks reach "
            f"only {min(reached)}: {probe.steps[-1]} steps are too few to tell, "
            "train_steps= takes more",
            value=lowest.rank,
        )
    names = tuple(one.name for one, _ in held)
    bound = max(one.rank for one, _ in held)
    size = min(one.line.size for one, _ in held)
    return flag_of(
        RAISED,
        f"{listed(names)} trained in {bound} of {size} directions, never above "
        f"{_n_x(held[0][0].line)}; Gaussian controls reach "
        f"{min(rank for _, rank in held)}{mode_of_training(measured)}",
        value=bound,
        where=names,
    )


class _Judged(NamedTuple):
    """The rank that a weight, or its taps, reached in the best seed.

    Attributes:
        name: The name of the weight.
        column: Its column in the probe.
        rank: The rank.
        line: What it is compared with.
    """

    name: str
    column: int
    rank: int
    line: _Line


def _judged(
    measured: Measured,
    probe: Probe,
    of_tap: int,
    of_window: int,
) -> list[_Judged]:
    """Return the ranks of all weights that could be above their line."""
    judged = []
    for column, (weight, name) in enumerate(_followed(measured)):
        for line in _lines(weight, of_tap, of_window):
            # Its shape alone keeps such a weight below the line.
            if line.size <= line.line:
                continue
            # The best seed counts: what one draw overcomes is no constraint.
            rank = int(_ranks(probe, line)[:, -1, column].max())
            one = _Judged(name=name, column=column, rank=rank, line=line)
            judged.append(one)
    return judged


def _ranks(
    probe: Probe,
    line: _Line,
) -> Int[np.ndarray, "seeds records layers"]:
    return probe.tap_rank if line.is_tap else probe.gradient_rank


def _reached(
    measured: Measured,
    probe: Probe,
    key: Key,
    low: Sequence[_Judged],
) -> list[int]:
    """Return the rank that every control reaches, for each of the low ones."""
    task = measured.task
    # The rate that the probe came down to, if it is one of the package's own.
    if probe.learning_rate is not None:
        task = dataclasses.replace(task, optimizer=SGD[probe.learning_rate])
    count = int(measured.threshold("controls"))
    reached = [np.inf] * len(low)
    key_of_controls = jax.random.fold_in(key, 0)
    controls = _probe.controls(
        measured.subject, task, key_of_controls, num_controls=count
    )
    # A generator: each control is trained only when the loop comes to it.
    for control in controls:
        for i, one in enumerate(low):
            rank = int(_ranks(control, one.line)[:, -1, one.column].max())
            reached[i] = min(reached[i], rank)
        # One that fails is enough, and each costs a training.
        is_passed = [
            rank > one.line.line for one, rank in zip(low, reached, strict=True)
        ]
        if not any(is_passed):
            break
    return [int(rank) for rank in reached]


def _n_x(line: _Line) -> str:
    """Return a line in words."""
    return f"the {line.line} input channels" if line.is_tap else f"N_x = {line.line}"
