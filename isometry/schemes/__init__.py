"""Schemes: which initializer each layer of a network gets.

A scheme chooses from the role, index, depth, fans, kind, groups and residual branch of
a layer. `assign` applies it to any anatomy, and so to any network: `with_scheme` does.

Biases are drawn as the scheme says, which is zero unless there is a sigma_b. Embeddings
stay as they are drawn, but for t_fixup, deep_norm, admin, gpt2 and mup, which have laws
for them. Scales of norms stay too, but for zero_gamma, and for rezero and skipinit
where no scalar multiplies a branch. `Assignment.rows` lists every leaf.

What the literature has besides, and why it is not among the named schemes:

- MetaInit, GradInit and AutoInit (He, Doshi and Gromov) train the scales of weights by
  gradient descent on a loss: they are optimizers. AutoInit (Bingham and Miikkulainen)
  propagates mean and variance analytically, layer by layer: lsuv measures them.
- ConstNet starts all features of a layer equal. On hardware that computes the same
  twice they stay equal, as `certify` finds.
- LayerScale is a number that the network draws itself, of a size that its authors chose
  by depth; a `Scheme` with `multipliers` sets it.
- ISONet is `initializers.dirac()` with the activation shifted_relu, and a penalty on
  the weights while they are trained.
- Exact orthogonal initialization of sparse networks is
  `initializers.sparse_orthogonal(density)`, and torch's sparse one
  `initializers.sparse(...)`: both need an argument, and are passed as initializers.
- IDInit is the initializer "idinit" in all layers. At the ends of branches its authors
  take idinit(1e-6); a `Scheme` of three lines says so.
- Small init, √(2/(5 d)), and Wang init, 2/(L √d), are Gaussian with the width d of the
  stream, which is no fan of most layers: `initializers.normal(std=...)`.
- RISOTTO pairs units as looks_linear does, and gives the skip a weight of its own; for
  networks whose skip is plain there is nothing to draw.
- IRNN and chrono initialization set the recurrent weight to the identity and the biases
  of gates by the time scale of the data. Which rows of a fused weight are which gate
  cannot be read off an anatomy: `networks.rnn` takes identity weights and gate biases.
- U-SPA and E-SPA make each attention a fixed triangular matrix, of the positions
  alone, by a bias of the logits and a scale for each token. No leaf of a usual
  attention carries either, and no draw of its weights makes it.

Shaped attention and Value-SkipInit, which are among them, start the attention matrix
α I + β A - γ C at the identity. No leaf of a usual attention carries α, β or γ, and
such a network is refused; `networks.transformer(..., attention="shaped")` has them.
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
from isometry.schemes._scheme import Mixed as Mixed
from isometry.schemes._scheme import Residual as Residual
from isometry.schemes._scheme import Scheme as Scheme
