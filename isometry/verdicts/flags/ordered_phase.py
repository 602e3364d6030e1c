"""The flag ordered_phase: differences between inputs die out with depth."""

from isometry._internal.types import Key
from isometry.verdicts import _phase
from isometry.verdicts._flag import Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._registry import flag


@flag("ordered_phase", threshold="depth_scales", rank=90, source=_phase.SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether K ln chi_1 is below -6 over the K pairs of the hidden span."""
    return _phase.judge_phase("ordered_phase", measured, key, is_ordered=True)
