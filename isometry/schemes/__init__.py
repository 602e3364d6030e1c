"""Schemes: which initializer each layer of a network gets, from its role, index, depth, fans and residual branch.

Arguments that many of its functions share:

- `layer`: a `Layer`, what a scheme may know of it.
- `scheme`: a scheme's name, an initializer's that needs no arguments, an initializer, or a `Scheme`.
- `activation`, `sigma_w`, `sigma_b`: of the network, as for `networks.mlp`; a sigma of None is the scheme's own choice.
- `call`: the name that messages of errors begin with, for functions that pass a scheme on.
"""

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
from isometry.schemes._scheme import Drawn as Drawn
from isometry.schemes._scheme import Init as Init
from isometry.schemes._scheme import Residual as Residual
from isometry.schemes._scheme import Scheme as Scheme
