"""The flag rank_constrained_training: weights that can move in few directions only."""

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
from isometry.certificates._layers import BIT_FOR_BIT, EVIDENCE, IN_EXACT_ARITHMETIC
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


class _Limit(NamedTuple):
    """The rank N_x with which that of a weight, or of one tap of it, is compared.

    Attributes:
        num_features: N_x, the number of features that the first layer reads.
        size: The rank that the shape of the weight allows.
        is_tap: Whether both numbers are those of one tap of a kernel, not of the whole.
    """

    num_features: int
    size: int
    is_tap: bool


@flag(_NAME, threshold="controls", rank=20, source=_BOUND)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether a weight that is wider than the input moves in N_x directions only.

    N_x is the number of features that the first layer reads; for a perceptron it is the
    dimension of the input. A kernel is judged twice: the matrix of one tap by the
    number of channels that the first kernel reads, and the kernel as one matrix by the
    number of entries in the window of the first kernel.

    The flag is raised by proof where a certificate bounds the rank by N_x. The proof
    does not count if the probe exceeds the bound: then rounding or the optimizer has
    broken equalities on which the certificate rests. Without a proof the flag is raised
    if the sum of all gradients of the probe has rank at most N_x in every seed, and has
    a higher rank in every control network (Gaussian weights of equal norms, same data,
    batches and optimizer). If the rank of any control is at most N_x too, the probe is
    too short to tell, and the flag is undecided.

    Partial identity is such a network (Theorem 1 of the ZerO paper): units beyond
    max(N_x, N_y) have zero incoming and outgoing weights, and with phi(0) = 0 neither
    signal nor gradient ever reaches them. For N_y > N_x the bound is N_x only if
    phi'(0) = 0, as in `jax.nn.relu`; the slope of `jnp.maximum(x, 0)` at 0 is ½.
    """
    subject = measured.subject
    tap_features, window_features = _weights.input_features(subject.anatomy)
    evidence: dict[str, Any] = {"input_dimension": window_features}
    if tap_features != window_features:
        evidence["input_channels"] = tap_features
    slope = _slope_at_zero(measured)
    if slope is not None:
        evidence["slope_at_zero"] = slope
    # The proof comes first, because it makes the trainings of the controls needless.
    # The probe is then only a check of it.
    proof = _proof(measured, tap_features, window_features)
    probe = measured.probe
    if probe is None:
        return _without_probe(measured, proof, evidence, threshold=window_features)
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
        measured,
        probe,
        key,
        evidence=evidence,
        features=(tap_features, window_features),
    )


def _slope_at_zero(measured: Measured) -> float | None:
    """Return phi'(0) of the network's activation; None if that is not known.

    Units at exactly zero stay there if phi'(0) = 0. If not, a gradient moves them.
    """
    network = measured.subject.network
    if network is None or network.activation is None:
        return None
    return float(network.activation.slope(jnp.zeros(())))


def _without_probe(
    measured: Measured,
    proof: Flag | None,
    evidence: dict[str, Any],
    threshold: int,
) -> Flag:
    """Return the flag without training: the proof, or "not_run"."""
    if proof is not None:
        return dataclasses.replace(proof, evidence=evidence | proof.evidence)
    return Flag(
        _NAME,
        NOT_RUN,
        "train_steps=0: no probe was run",
        remedy=_REMEDY,
        threshold=threshold,
        source=_source(measured),
        evidence=evidence,
    )


def _source(measured: Measured) -> str:
    num_controls = int(measured.threshold("controls"))
    return (
        f"Theorem 1 of arXiv:2110.12661; below all of {num_controls} controls, "
        f"p ≤ {1 / (num_controls + 1):g}"
    )


def _proof(
    measured: Measured,
    tap_features: int,
    window_features: int,
) -> Flag | None:
    """Return the flag raised by certificates; None if they bound no rank by N_x."""
    weights = _followed(measured)
    certificates = measured.certificates
    bounds, held = [], []
    for weight, name in weights:
        locks = _locks(certificates, name)
        full = min(weight.matrix_shape)
        bound = max((_bound(weight, lock) for lock in locks), default=full)
        bounds.append(bound)
        # The grade "evidence" is no proof; then the probe must judge.
        if not locks or any(lock.grade == EVIDENCE for lock in locks):
            continue
        limits = _limits(weight, tap_features, window_features)
        if any(bound <= limit.num_features < limit.size for limit in limits):
            held.append((name, bound, full, locks))
    if not held:
        return None
    # The weakest of the claims, so that it holds for every weight that is named.
    value = max(bound for _, bound, _, _ in held)
    size = min(full for _, _, full, _ in held)
    names = tuple(name for name, _, _, _ in held)
    locks_of_held = [lock for _, _, _, locks in held for lock in locks]
    is_bit = all(lock.grade == BIT_FOR_BIT for lock in locks_of_held)
    grade = BIT_FOR_BIT if is_bit else IN_EXACT_ARITHMETIC
    reason = (
        f"{listed(names)} cannot train in more than {value} of {size} directions, "
        f"N_x = {window_features}; {grade}, at every step{mode_of_training(measured)}"
    )
    return Flag(
        _NAME,
        RAISED,
        reason,
        remedy=_REMEDY,
        value=value,
        threshold=window_features,
        source=_BOUND,
        evidence={
            "input_dimension": window_features,
            "certified_rank": np.array(bounds),
        },
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
    """Return an upper bound on the rank of what training adds to a weight.

    The matrix here is that of all input axes by all output axes. A certificate bounds
    the rank of another matrix: all axes but the last by the last. If the outputs have
    several axes, such as heads and their channels, these are two matrices, and only the
    numbers of slices that can differ bound the rank.
    """
    layer = weight.layer
    rows = [lock.distinct[axis] for axis in (*layer.window_axes, *layer.in_axes)]
    columns = [lock.distinct[axis] for axis in layer.out_axes]
    bound = min(math.prod(rows), math.prod(columns))
    is_laid_out_alike = layer.out_axes == (len(lock.shape) - 1,)
    if is_laid_out_alike and not layer.batch_axes:
        bound = min(bound, lock.rank_bound)
    return bound


def _limits(
    weight: Weight,
    tap_features: int,
    window_features: int,
) -> list[_Limit]:
    """Return the limits for the rank of a weight and, for a kernel, of one tap."""
    limits = [_Limit(window_features, min(weight.matrix_shape), is_tap=False)]
    if weight.num_taps > 1:
        limits.append(_Limit(tap_features, min(weight.tap_shape), is_tap=True))
    return limits


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
    features: tuple[int, int],
) -> Flag:
    """Judge the ranks of the probe by those of the control networks.

    Args:
        measured: What was measured.
        probe: The record of the probe.
        key: A key of the controls.
        evidence: The evidence so far; the ranks of controls are added.
        features: What `_weights.input_features` returns.
    """
    _, window_features = features
    common = {
        "remedy": _REMEDY,
        "threshold": window_features,
        "source": _source(measured),
    }

    def flag_of(state: str, reason: str, **more: Any) -> Flag:
        return Flag(_NAME, state, reason, evidence=evidence, **common, **more)

    # Gradients that are not finite have no rank.
    if probe.trouble:
        return flag_of(UNDECIDED, probe.trouble)
    judged = _judged(measured, probe, *features)
    if not judged:
        return flag_of(
            CLEAR,
            f"no hidden layer is wider than the input ({window_features}): there is "
            "nothing to constrain",
        )
    lowest = min(judged, key=lambda one: one.rank - one.limit.num_features)
    low = [one for one in judged if one.rank <= one.limit.num_features]
    if not low:
        return flag_of(
            CLEAR,
            f"rank at least {lowest.rank} after {probe.steps[-1]} steps, above "
            f"{_n_x(lowest.limit)}",
            value=lowest.rank,
        )
    reached = _reached(measured, probe, key, low=low)
    evidence["control_rank"] = np.array(reached)
    pairs = zip(low, reached, strict=True)
    held = [(one, rank) for one, rank in pairs if rank > one.limit.num_features]
    if not held:
        return flag_of(
            UNDECIDED,
            f"rank {lowest.rank} of {_n_x(lowest.limit)}, but control networks reach "
            f"only {min(reached)}: {probe.steps[-1]} steps are too few to tell, "
            "train_steps= takes more",
            value=lowest.rank,
        )
    names = tuple(one.name for one, _ in held)
    bound = max(one.rank for one, _ in held)
    size = min(one.limit.size for one, _ in held)
    return flag_of(
        RAISED,
        f"{listed(names)} trained in {bound} of {size} directions, never above "
        f"{_n_x(held[0][0].limit)}; Gaussian controls reach "
        f"{min(rank for _, rank in held)}{mode_of_training(measured)}",
        value=bound,
        where=names,
    )


class _Judged(NamedTuple):
    """The rank that a weight, or its taps, reached in the best seed.

    Attributes:
        name: The name of the weight.
        column: The column of the weight in the probe's ranks.
        rank: The rank.
        limit: The limit with which the rank is compared.
    """

    name: str
    column: int
    rank: int
    limit: _Limit


def _judged(
    measured: Measured,
    probe: Probe,
    tap_features: int,
    window_features: int,
) -> list[_Judged]:
    """Return the ranks of all weights whose shape allows more than N_x."""
    judged = []
    for column, (weight, name) in enumerate(_followed(measured)):
        for limit in _limits(weight, tap_features, window_features):
            # The shape of this weight allows no higher rank than N_x.
            if limit.size <= limit.num_features:
                continue
            # The best seed counts: a limit that one draw exceeds is no constraint.
            rank = int(_ranks(probe, limit)[:, -1, column].max())
            one = _Judged(name=name, column=column, rank=rank, limit=limit)
            judged.append(one)
    return judged


def _ranks(
    probe: Probe,
    limit: _Limit,
) -> Int[np.ndarray, "seeds records layers"]:
    return probe.tap_rank if limit.is_tap else probe.gradient_rank


def _reached(
    measured: Measured,
    probe: Probe,
    key: Key,
    low: Sequence[_Judged],
) -> list[int]:
    """Return the lowest rank of all controls, for each of the weights in `low`."""
    task = measured.task
    # Controls are trained with the learning rate of the probe.
    if probe.learning_rate is not None:
        task = dataclasses.replace(task, optimizer=SGD[probe.learning_rate])
    num_controls = int(measured.threshold("controls"))
    reached = [np.inf] * len(low)
    key_of_controls = jax.random.fold_in(key, 0)
    controls = _probe.controls(
        measured.subject, task, key_of_controls, num_controls=num_controls
    )
    # `controls` is a generator: each is trained only when the loop comes to it.
    for control in controls:
        for i, one in enumerate(low):
            rank = int(_ranks(control, one.limit)[:, -1, one.column].max())
            reached[i] = min(reached[i], rank)
        # A weight passes if every control exceeds its limit. Once no weight can pass,
        # more controls change nothing.
        is_passed = [
            rank > one.limit.num_features
            for one, rank in zip(low, reached, strict=True)
        ]
        if not any(is_passed):
            break
    return [int(rank) for rank in reached]


def _n_x(limit: _Limit) -> str:
    """Return N_x in words."""
    if limit.is_tap:
        return f"the {limit.num_features} input channels"
    return f"N_x = {limit.num_features}"
