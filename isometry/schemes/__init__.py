"""Schemes: rules that give each layer of a network its initializer.

A scheme chooses the initializer of a layer by its role, index, fans, kind, groups and
residual branch, and by the depth of the network. `assign` applies a scheme to any
anatomy; `Network.with_scheme` calls it.

The words of this folder:

- A leaf is one array in the tree of parameters. It stays as drawn if the scheme does
  not set it: it keeps the value that the network's own code gives it.
- A slice is one layer of a leaf in which several layers are stacked; a stretch is a
  range of indices along one axis of a leaf (`_places`, `_assignment`).
- The stream of a residual network is what its blocks pass on. A branch F leaves the
  stream and returns to it at a sum, skip x + branch F(x); `skip` and `branch` are
  multipliers. Layers on no branch are on the stream.
- The place of a layer is where it lies on the branches: `Branch` (`_places`).
- A stack is the branches that are counted together: those of an encoder, of a decoder,
  or all (`_places`).
- sigma_w is the scale of weights, sigma_b the standard deviation of biases. A scheme is
  free if the user chooses them, and settled once they are chosen (`Scheme.at`).
- A scheme is data-driven if it adjusts drawn parameters to inputs (`Scheme.adjust`).

Biases are 0 unless the scheme has a sigma_b. Embeddings stay as drawn, except with
t_fixup, deep_norm, admin, gpt2 and mup, which have laws for them. Scales of norms stay
as drawn, except with zero_gamma, and with rezero and skipinit if no scalar multiplies a
branch. `Assignment.rows` lists what is done with every leaf.

Initializations of the literature that are not among the named schemes, and why:

- MetaInit, GradInit and AutoInit (He, Doshi and Gromov, 2022) train the scales of
  weights by gradient descent on a loss: they are optimizers. AutoInit (Bingham and
  Miikkulainen, 2023) propagates mean and variance analytically, layer by layer: lsuv
  measures them.
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
from isometry.schemes._registry import register as register
from isometry.schemes._registry import resolve as resolve
from isometry.schemes._registry import transformed as transformed
from isometry.schemes._scheme import Drawn as Drawn
from isometry.schemes._scheme import Init as Init
from isometry.schemes._scheme import Mixed as Mixed
from isometry.schemes._scheme import Residual as Residual
from isometry.schemes._scheme import Scheme as Scheme
