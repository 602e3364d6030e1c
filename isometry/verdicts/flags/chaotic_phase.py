"""The flag chaotic_phase: small differences between inputs grow with depth."""

from isometry._internal.types import Key
from isometry.verdicts import _phase
from isometry.verdicts._flag import Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._registry import flag


@flag("chaotic_phase", threshold="depth_scales", rank=100, source=_phase.SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether K ln chi_1 is above 6 over the K pairs of the hidden span."""
    return _phase.judge_phase("chaotic_phase", measured, key, is_ordered=False)
