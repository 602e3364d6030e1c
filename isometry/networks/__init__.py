"""Networks: a stem, equal blocks, a head; callable as `net(params, x)` on one example.

Arguments that many methods share:

- `params`: the parameters, a pytree as `init` draws it.
- `x`: one example, of shape `input_shape`.
- `z`: a first pre-activation z_1, as `stem` gives it.
- `span`: "end_to_end", x → output, or "hidden", z_1 → z_{depth-1}.
"""

from isometry.networks._chain import chain as chain
from isometry.networks._mlp import mlp as mlp
from isometry.networks._network import SPANS as SPANS
from isometry.networks._network import Function as Function
from isometry.networks._network import Network as Network
from isometry.networks._network import WeightedLayer as WeightedLayer
from isometry.networks._unbatched import unbatched as unbatched
from isometry.networks._gate_laws import chrono as chrono
from isometry.networks._rnn import rnn as rnn
from isometry.networks._transformer import transformer as transformer
