"""What will go wrong in training, and how sure that is, from the network at initialization and a short probe."""

from isometry.degeneracy._audit import audit as audit
from isometry.degeneracy._certify import Bound as Bound
from isometry.degeneracy._certify import Certificate as Certificate
from isometry.degeneracy._certify import Units as Units
from isometry.degeneracy._certify import certify as certify
from isometry.degeneracy._flag import FLAGS as FLAGS
from isometry.degeneracy._flag import Flag as Flag
from isometry.degeneracy._flag import Thresholds as Thresholds
from isometry.degeneracy._probe import Probe as Probe
from isometry.degeneracy._report import Report as Report
from isometry.degeneracy._report import Reports as Reports
from isometry.degeneracy._report import rich_table as rich_table
