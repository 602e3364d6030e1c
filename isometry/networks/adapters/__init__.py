"""Models of other libraries as networks: from a module and one example, in one line.

The network of a model has two modes:

- `net` is the model in inference, called on one example: batch statistics are those in
  its parameters, and dropout is off.
- `net.training` is the model in training, called on a whole batch with a leading axis:
  batch statistics are those of the batch. If the model draws random numbers, as dropout
  does, x is a pair (batch, key).

The two can differ by any factor. The averages of a batch norm start at mean 0 and
variance 1, so at initialization `net` is a network without normalization: the largest
singular value of Flax's ResNet-18 (ten classes, images of 32 × 32) was 0.43 in it, and
4.3 in `net.training` with a batch of eight. So measure `net.training` before training:
the first gradient passes through it. Measure `net` if the averages have been trained,
or if the model has no batch norm or dropout.

In this folder, a model is a module or function of a library without its parameters
(`_model`). It draws if its output depends on a random key. A mode argument is an
argument of its call that switches between inference and training, such as `train`.
"""

from isometry.networks.adapters._adapted import Adapted as Adapted
from isometry.networks.adapters._equinox import equinox as equinox
from isometry.networks.adapters._flax import flax as flax
from isometry.networks.adapters._function import function as function
from isometry.networks.adapters._haiku import haiku as haiku
from isometry.networks.adapters._nnx import nnx as nnx
