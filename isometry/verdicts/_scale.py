"""What vanishing and exploding share: the gain of a Jacobian beyond a threshold."""

import numpy as np

from isometry._internal.types import Key
from isometry.verdicts._flag import RAISED, Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._spans import in_words, judge_spans

SOURCE = (
    "|K ln chi_1| = 6, six depth scales (Schoenholz et al., 2017, arXiv:1611.01232)"
)

# The remedy if the Jacobian is zero. A last layer of zeros may be the cause, which
# training mends by itself, or dead units.
OF_ZEROS = (
    "none by sigma_w: the Jacobian is zero; zero_gradient and dead_units say from what "
    "weights or units, and whether training mends it"
)

_CRITICAL = (
    'its critical value: net.with_scheme("orthogonal") or "gaussian", without sigma_w'
)


# Factors from here on are written as a power of ten.
_MOST_WRITTEN = np.log(1e4)


def _factor(log_factor: float) -> str:
    """Write a factor of which the logarithm is known: "26", "1e+22"."""
    if log_factor < _MOST_WRITTEN:
        return f"{np.exp(log_factor):.2g}"
    return f"1e+{log_factor / np.log(10):.0f}"


def judge_gain(
    name: str,
    measured: Measured,
    key: Key,
    *,
    is_below: bool,
) -> Flag:
    """Judge the gain of every span; the flag is raised if it is raised in any.

    Args:
        name: The name of the flag.
        measured: What was measured.
        key: A key of the bootstrap.
        is_below: Whether a gain below the threshold is what is wrong.
    """
    # Vanishing is raised below −log_gain, exploding above log_gain.
    sign, side, change = 1, "above", "lower"
    if is_below:
        sign, side, change = -1, "below", "raise"
    line = sign * measured.threshold("log_gain")
    judged = judge_spans(
        {span: gain.log_gain for span, gain in measured.gains.items()},
        line,
        key=key,
        thresholds=measured.thresholds,
        is_below=is_below,
    )
    value = judged.worst.value
    reason = f"½ ln E s² = {value:+.2f} ({in_words(judged.span)})"
    if judged.state == RAISED and np.isfinite(value):
        factor = _factor(abs(value))
        how = "smaller" if is_below else "larger"
        reason += f": gradients leave it {factor} times {how} than they enter"
    limit = f"not {side} {line:+g}"
    reason = judged.with_state(reason, unsure=measured.unsure, limit=limit)
    remedy = f"{change} sigma_w to {_CRITICAL}"
    zeros: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    if judged.state == RAISED:
        where = measured.worst_layers(judged.span, is_below=is_below)
    if np.isneginf(judged.worst.value):
        remedy = OF_ZEROS
        zeros = measured.subject.zero_bottlenecks
    if zeros:
        where = zeros
        what = zeros[0] if len(zeros) == 1 else f"each of {len(zeros)} weights"
        reason += f": {what} is zero"
    return judged.flag(
        name,
        reason,
        remedy=remedy,
        threshold=line,
        source=SOURCE,
        evidence={
            "gain": judged.by_span(),
            "log_averaging": measured.log_averaging,
            "log_scaling": {
                span: float(np.median(scaling))
                for span, scaling in measured.log_scaling.items()
            },
        },
        where=where,
    )
