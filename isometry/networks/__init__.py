"""Networks: a stem, equal blocks, a head; callable as `net(params, x)` on one example."""

from isometry.networks._chain import chain as chain
from isometry.networks._mlp import mlp as mlp
from isometry.networks._network import SPANS as SPANS
from isometry.networks._network import Function as Function
from isometry.networks._network import Network as Network
from isometry.networks._network import WeightedLayer as WeightedLayer
from isometry.networks._unbatched import unbatched as unbatched
