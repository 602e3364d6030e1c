"""Networks: parameters to draw, a function of one example, and an anatomy.

The words of this folder:

- An example is one x, without a batch axis. The function of a network maps
  (params, x) to the output for this x (`Network.function`).
- A layer is a weight with its bias: the stem reads x, the head returns the output. Its
  pre-activation is W h + b. A slope is the derivative of the activation there.
- The stream of a residual network is what its blocks pass on. A block returns
  skip x + branch F(x): the branch is F, and `skip` and `branch` are multipliers.
- A run is a row of equal layers or blocks (`_mlp`, `_cnn`, `_resnet`). Their leaves are
  stacked along a first axis, and a scan applies them one after another.
- The skeleton is the tree of all parameters before a scheme draws the weights, and the
  assignment a table of what the scheme does with each leaf (`Network`).
- A span is a part of the function: "end_to_end", or "hidden", from the first
  pre-activation to the last one before the head.
- A gate of a recurrent cell is one of its maps W h + V x + b (`_cells`).
"""

from isometry.networks._chain import chain as chain
from isometry.networks._cnn import cnn as cnn
from isometry.networks._gate_laws import chrono as chrono
from isometry.networks._layered import WeightedLayer as WeightedLayer
from isometry.networks._mlp import mlp as mlp
from isometry.networks._network import SPANS as SPANS
from isometry.networks._network import Network as Network
from isometry.networks._resnet import resnet as resnet
from isometry.networks._rnn import rnn as rnn
from isometry.networks._transformer import transformer as transformer
from isometry.networks._unbatched import unbatched as unbatched
from isometry.networks.adapters import equinox as equinox
from isometry.networks.adapters import flax as flax
from isometry.networks.adapters import function as function
from isometry.networks.adapters import haiku as haiku
from isometry.networks.adapters import nnx as nnx
