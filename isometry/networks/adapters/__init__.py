"""Models of other libraries as networks: from a module and one example, in one line.

A network of these takes one example and has two modes:

- `net` is the model in inference: batch statistics are those in its parameters, and
  dropout is off. Spectra, profiles and schemes are of this mode unless asked otherwise.
- `net.training` is the model as gradients see it. Its x is a whole batch, with a
  leading axis, and its statistics are those of that batch. Where the model draws, as
  dropout does, x is a pair (batch, key).

The two can differ by any factor. The averages of a batch norm start at mean 0 and
variance 1, so at initialization `net` is a network without normalization: the largest
singular value of Flax's ResNet-18 (ten classes, images of 32 × 32) was 0.43 in it, and
4.3 in `net.training` with a batch of eight. Before training, `net.training` is what the
first gradient passes through. `net` tells of a model whose averages have been trained,
and of one without batch norm or dropout.
"""

from isometry.networks.adapters._adapted import Adapted as Adapted
from isometry.networks.adapters._equinox import equinox as equinox
from isometry.networks.adapters._flax import flax as flax
from isometry.networks.adapters._function import function as function
from isometry.networks.adapters._haiku import haiku as haiku
from isometry.networks.adapters._nnx import nnx as nnx
