"""Verdicts: what was measured of a network, and the flags that judge it."""

from isometry.verdicts import flags as flags
from isometry.verdicts._audit import audit as audit
from isometry.verdicts._flag import Flag as Flag
from isometry.verdicts._measured import Measured as Measured
from isometry.verdicts._registry import Thresholds as Thresholds
from isometry.verdicts._registry import flag as flag
from isometry.verdicts._registry import flag_names as flag_names
from isometry.verdicts._report import Report as Report
from isometry.verdicts._reports import Reports as Reports
from isometry.verdicts._table import rich_table as rich_table
