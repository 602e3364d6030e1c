"""The flag zero_gradient: weights whose gradient is zero at every input."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from isometry._internal.types import Key
from isometry.certificates import Certificate
from isometry.certificates._layers import IN_EXACT_ARITHMETIC
from isometry.verdicts._flag import CLEAR, RAISED, UNDECIDED, Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._mode import mode_of_training
from isometry.verdicts._names import listed
from isometry.verdicts._objective import Split
from isometry.verdicts._probe import Probe
from isometry.verdicts._registry import flag

_SOURCE = "exact: bitwise zero, of a loss that is scaled by 2^60"
_ALIVE = "random weights in the layers before and after it"
_REMEDIES = {
    "recovering": (
        "none is needed: a last layer of zeros (Fixup, ZerO) lets the others train "
        "from the next steps on"
    ),
    "permanent": f"{_ALIVE}, as it is cut off by exact zeros",
    "unknown": (
        "weights and biases that leave some unit of every layer with a slope (see "
        "dead_units)"
    ),
}


@flag("zero_gradient", rank=10, source=_SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether the gradient of a weight is zero at every input, in every seed.

    A gradient that underflows in the dtype of the network, but not in float64, does not
    count: the flag `vanishing` speaks of it. The evidence says of the weights without
    gradient

    - first_gradient: for each certified seed the first step at which the certificate
      allows a gradient, 0 for never;
    - first_signal: the first step at which the probe saw a gradient, -1 for not yet;
    - kind: "recovering" if the probe saw a gradient for all of them, or the certificate
      allows one only after the first step; "permanent" if the certificate allows none;
      "unknown" if it allows one at the first step, and none was seen.
    """
    del key
    gradients = measured.gradients
    zeros = gradients.zeros
    # NaN counts as infinite, so that a gradient that is not finite is not zero.
    log_norm = np.nan_to_num(gradients.log_norm, nan=np.inf, neginf=-np.inf)
    evidence: dict[str, Any] = {
        "layers": np.flatnonzero(gradients.is_zero),
        "names": zeros,
        "inputs": log_norm.shape[1],
        "seeds": log_norm.shape[0],
        "log_gradient_norm": _medians(log_norm),
        "underflows": gradients.underflows,
        "mode": gradients.mode,
    }
    if not zeros:
        return Flag(
            "zero_gradient",
            CLEAR,
            _reason_of_clear(measured),
            remedy=_ALIVE,
            value=0,
            threshold=0,
            source=_SOURCE,
            evidence=evidence,
        )
    earliest, is_exact = _earliest(measured.certificates, zeros)
    arrived = _arrived(measured.probe, zeros)
    outlook = _outlook(earliest, arrived, _num_steps(measured.probe))
    words = outlook.words
    if outlook.kind == "permanent" and not is_exact:
        words += f", {IN_EXACT_ARITHMETIC}"
    evidence |= {"first_gradient": earliest, "kind": outlook.kind}
    if measured.probe is not None:
        evidence["first_signal"] = arrived
    state = RAISED
    verb = "gets" if len(zeros) == 1 else "get"
    reason = f"{listed(zeros)} {verb} no gradient at all; {outlook.kind}: {words}"
    remedy = _REMEDIES[outlook.kind]
    # What the probe saw or a certificate shows does not depend on the range of float64.
    if gradients.lost and outlook.kind == "unknown":
        state, remedy = UNDECIDED, _ALIVE
        reason = f"{listed(zeros)}: no gradient is seen, but {gradients.lost}"
    return Flag(
        "zero_gradient",
        state,
        reason + mode_of_training(measured),
        remedy=remedy,
        value=len(zeros),
        threshold=0,
        source=_SOURCE,
        evidence=evidence,
        where=zeros,
    )


def _medians(
    log_norm: Float[np.ndarray, "seeds inputs layers"],
) -> Float[np.ndarray, " layers"]:
    """Return the median over seeds and inputs for each weight."""
    num_layers = log_norm.shape[-1]
    # NumPy refuses quantiles of an empty array.
    if not num_layers:
        return np.zeros(0)
    # The lower of the two middle values, because their mean would be NaN for infinities
    # of both signs.
    return np.quantile(log_norm, 0.5, (0, 1), method="lower")


def _reason_of_clear(measured: Measured) -> str:
    """Say that every weight has a gradient, and which of them underflow."""
    if not measured.gradients.layers:
        return "there is no weight layer, which a gradient could miss"
    reason = "every layer gets a gradient"
    low = measured.gradients.underflows
    if low:
        dtype = Split.floating(measured.subject.params)[0].dtype
        reason += f", though that of {listed(low)} underflows {dtype}: see vanishing"
    return reason + mode_of_training(measured)


def _earliest(
    certificates: Sequence[Certificate],
    names: Sequence[str],
) -> tuple[Int[np.ndarray, "seeds layers"], bool]:
    """Return when certificates allow the first gradient, and how surely they forbid it.

    A weight that no certificate names may have a gradient at the first step.

    Returns:
        The first step at which each certificate allows a gradient, 0 for never; and
        whether every "never" holds bit for bit, not only in exact arithmetic.
    """
    steps = np.ones((max(len(certificates), 1), len(names)), int)
    is_exact = True
    for i, certificate in enumerate(certificates):
        by_name = {layer.name: layer for layer in certificate.layers}
        for j, name in enumerate(names):
            lock = by_name.get(name)
            # A certificate of the training mode may give the weight another name.
            if lock is None:
                continue
            steps[i, j] = lock.first_gradient or 0
            is_inexact = lock.grade == IN_EXACT_ARITHMETIC
            is_exact &= not (is_inexact and lock.first_gradient is None)
    return steps, is_exact


def _arrived(
    probe: Probe | None,
    names: Sequence[str],
) -> Int[np.ndarray, "seeds layers"]:
    """Return the first step at which the probe saw a gradient; -1 for not yet."""
    if probe is None:
        return np.zeros((1, len(names)), int)
    # `weights` names all weights, also those whose rank the probe does not follow.
    columns = [probe.weights.index(name) for name in names]
    return probe.first_signal[:, columns]


def _num_steps(probe: Probe | None) -> int:
    return 0 if probe is None else int(probe.steps[-1])


class Outlook(NamedTuple):
    """What becomes of weights without a gradient.

    Attributes:
        kind: "recovering", "permanent" or "unknown".
        words: A clause that says how that is known.
    """

    kind: str
    words: str


def _outlook(
    earliest: Int[np.ndarray, "#seeds layers"],
    arrived: Int[np.ndarray, "#seeds layers"],
    num_steps: int,
) -> Outlook:
    """Tell what becomes of weights without a gradient.

    Args:
        earliest: The first step at which certificates allow a gradient; 0 for never.
            Without certificates it has one row for all seeds.
        arrived: The first step at which the probe saw a gradient; -1 for not yet.
            Without a probe it is one row of zeros.
        num_steps: The number of steps of the probe; 0 without one.
    """
    if (arrived > 0).all():
        return Outlook("recovering", f"signal arrives by step {arrived.max()}")
    # One weight in one seed is enough: the certificate is a fact of that draw.
    if ((earliest == 0) & (arrived <= 0)).any():
        return Outlook("permanent", "certified, no signal arrives at any step")
    if (earliest > 1).all() and not num_steps:
        words = f"by certificate, signal can arrive from step {earliest.max()}"
        return Outlook("recovering", words)
    seen = "no probe was run"
    if num_steps:
        seen = f"none arrived within {num_steps} steps"
    words = f"the weights let signal through from step {earliest.max()}, {seen}"
    return Outlook("unknown", words)
