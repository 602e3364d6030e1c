"""Schemes: which initializer each layer of a network gets.

A scheme chooses from the role, index, depth, fans and residual branch of a layer.
"""

from isometry.schemes._assignment import Assignment as Assignment
from isometry.schemes._assignment import Row as Row
from isometry.schemes._assignment import assign as assign
from isometry.schemes._layer import ROLES as ROLES
from isometry.schemes._layer import Branch as Branch
from isometry.schemes._layer import Layer as Layer
from isometry.schemes._listing import describe as describe
from isometry.schemes._listing import listing as listing
from isometry.schemes._listing import rich_entry as rich_entry
from isometry.schemes._listing import rich_tables as rich_tables
from isometry.schemes._mup import learning_rate as learning_rate
from isometry.schemes._registry import catalogue as catalogue
from isometry.schemes._registry import get as get
from isometry.schemes._registry import names as names
from isometry.schemes._registry import resolve as resolve
from isometry.schemes._registry import transformed as transformed
from isometry.schemes._scheme import Drawn as Drawn
from isometry.schemes._scheme import Init as Init
from isometry.schemes._scheme import Residual as Residual
from isometry.schemes._scheme import Scheme as Scheme
