"""Networks: parameters to draw, a function of one example, and an anatomy."""

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
