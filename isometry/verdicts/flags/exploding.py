"""The flag exploding: signals and gradients grow on their way."""

from isometry._internal.types import Key
from isometry.verdicts import _scale
from isometry.verdicts._flag import RAISED, Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._registry import flag

_REMEDY = (
    "finite parameters, and a sigma_w that keeps signals in the range of their dtype"
)


@flag("exploding", threshold="log_gain", rank=80, source=_scale.SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether ½ ln E s² of a span is above 3, or numbers are not finite."""
    # A network whose numbers overflow has no spectrum, and that is the finding.
    if measured.not_finite:
        return Flag(
            "exploding",
            RAISED,
            measured.not_finite,
            remedy=_REMEDY,
            source="numbers that are not finite: exact",
            evidence={"not_finite": measured.not_finite},
        )
    return _scale.judge_gain("exploding", measured, key, is_below=False)
