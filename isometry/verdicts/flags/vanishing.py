"""The flag vanishing: signals and gradients shrink on their way."""

from isometry._internal.types import Key
from isometry.verdicts import _scale
from isometry.verdicts._flag import Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._registry import flag


@flag("vanishing", threshold="log_gain", rank=70, source=_scale.SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether ½ ln E s² of a span is below -3 in the median over seeds."""
    return _scale.judge_gain("vanishing", measured, key, is_below=True)
