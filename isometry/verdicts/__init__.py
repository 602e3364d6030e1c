"""Verdicts: what was measured of a network, and the flags that judge it."""

from isometry.verdicts import flags as flags
from isometry.verdicts._flag import Flag as Flag
from isometry.verdicts._measured import Measured as Measured
from isometry.verdicts._registry import Thresholds as Thresholds
from isometry.verdicts._registry import flag as flag
from isometry.verdicts._registry import flag_names as flag_names
