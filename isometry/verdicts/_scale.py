"""What vanishing and exploding share: the gain of a span beyond a line."""

from isometry._internal.types import Key
from isometry.verdicts._flag import CLEAR, UNDECIDED, Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._spans import in_words, judge_spans

SOURCE = (
    "|K ln chi_1| = 6, six depth scales (Schoenholz et al., 2017, arXiv:1611.01232)"
)

_CRITICAL = (
    'its critical value: net.with_scheme("orthogonal") or "gaussian", without sigma_w'
)


def judge_gain(name: str, measured: Measured, key: Key, *, is_below: bool) -> Flag:
    """Judge the gain of every span; the flag is raised if it is raised in any.

    Args:
        name: The name of the flag.
        measured: What was measured.
        key: A key of the bootstrap.
        is_below: Whether a gain below the line is what is wrong.
    """
    # Vanishing is judged below minus the line, exploding above it.
    sign = -1 if is_below else 1
    line = sign * measured.threshold("log_gain")
    judged = judge_spans(
        {span: gain.log_gain for span, gain in measured.gains.items()},
        line,
        key=key,
        thresholds=measured.thresholds,
        is_below=is_below,
    )
    # The reason speaks of the worst span; the evidence holds all.
    reason = f"½ ln E s² = {judged.worst.value:+.2f} ({in_words(judged.span)})"
    if judged.state == UNDECIDED:
        reason += f"; {measured.unsure}"
    elif judged.state == CLEAR:
        reason += f", not {'below' if is_below else 'above'} {line:+g}"
    return Flag(
        name,
        judged.state,
        reason,
        remedy=f"{'raise' if is_below else 'lower'} sigma_w to {_CRITICAL}",
        value=judged.worst.value,
        interval=judged.worst.interval,
        threshold=line,
        source=SOURCE,
        evidence={
            "gain": {span: one._asdict() for span, one in judged.values.items()},
            "states": judged.states,
            "log_averaging": measured.log_averaging,
        },
    )
