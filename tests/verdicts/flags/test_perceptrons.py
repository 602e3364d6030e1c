"""What the flags of gradients, ranks and locks say of schemes whose truth is known.

The numbers are those of the exact partition of perceptrons, which the certificates of
any network have replaced: 6 inputs, three hidden layers of 12 units, 3 outputs.
"""

import jax
import pytest

from isometry import networks
from isometry.verdicts.flags import (
    locked_symmetry,
    rank_constrained_training,
    zero_gradient,
)
from tests.verdicts.planted import KEY, inputs, record

SIZES = [6, 12, 12, 12, 3]

# Of each scheme the (state, value) of each flag. Sums of ones are so large that hard
# tanh is flat from the second layer on.
TRUTH = {
    "partial_identity": [("clear", 0), ("raised", 6), ("raised", 6)],
    "ones": [("raised", 3), ("raised", 1), ("raised", 1)],
    # Units 3 and 11 meet the same rows of the Hadamard matrix.
    "zer_o": [("clear", 0), ("clear", 11), ("raised", 11)],
    "zeros": [("raised", 4), ("raised", 0), ("raised", 0)],
    "orthogonal": [("clear", 0), ("clear", 12), ("clear", None)],
}


@pytest.mark.parametrize("scheme", TRUTH)
def test_schemes_are_judged_as_their_symmetry_demands(scheme):
    activation = "hard_tanh" if scheme == "ones" else "tanh"
    net = networks.mlp(SIZES, activation, scheme)
    params = jax.jit(jax.vmap(net.init))(jax.random.split(jax.random.key(0), 2))
    result = record(net, params, inputs(64, 6), num_steps=60)
    modules = (zero_gradient, rank_constrained_training, locked_symmetry)
    flags = [module.judge(result, KEY) for module in modules]
    assert [(flag.state, flag.value) for flag in flags] == TRUTH[scheme]
    if flags[2].raised:
        assert flags[2].threshold == 12
        assert flags[2].evidence["locked_layers"] == [1, 2, 3]
