"""The per-layer table: what it takes from the certificates of several seeds."""

import jax
import numpy as np

from isometry import networks
from isometry.certificates import LayerLock
from isometry.verdicts._gradients import Gradients
from isometry.verdicts._layers import LayerRow, _with_locks, rows_of, table
from tests.verdicts.measuring import measured


def test_each_axis_has_the_number_of_its_worst_seed():
    """One seed has the fewest rows that differ, the other the fewest columns."""
    row = LayerRow(
        layer="fc",
        shape=(9, 9),
        q=None,
        chi=None,
        gradient=None,
        distinct=None,
        never_moves=None,
        flags=(),
    )
    locks = []
    for distinct, share in [((3, 9), 0.0), ((4, 4), 0.5)]:
        lock = LayerLock(
            name="fc",
            shape=(9, 9),
            distinct=distinct,
            never_moves=share,
            rank_bound=4,
            first_gradient=1,
            grade="bit for bit",
        )
        locks.append(lock)
    worst = _with_locks(row, locks)
    assert worst.distinct == (3, 4)
    assert worst.never_moves == 0.5


def test_gradients_below_the_range_of_float64_are_not_zero():
    """Medians of e^-900 and of 0; e^-900 is 10^(-900/ln 10) = 1.36e-391."""
    net = networks.mlp([2, 2, 2, 2], "tanh", "orthogonal")
    log_norm = np.full((1, 2, 3), -900.0)
    log_norm[..., 1] = -np.inf
    log_norm[0, 1, 2] = np.nan
    names = ("layers/0", "layers/1", "layers/2")
    gradients = Gradients(
        layers=names, log_norm=log_norm, underflows=(), lost="", mode="inference"
    )
    record = measured(
        net,
        keys=jax.random.split(jax.random.key(0), 1),
        xs=np.ones((2, 2), np.float32),
        gradients=gradients,
        certificates=(),
        growth_by_layer={},
    )
    small, zero, unknown = rows_of(record, {})
    assert small.log("gradient") == -900
    assert (zero.gradient, unknown.gradient) == (0.0, None)
    assert np.isnan(unknown.log("gradient"))
    _, *lines = table((small, zero, unknown)).splitlines()
    assert [line.split()[2:] for line in lines] == [["1.36e-391"], ["0"], []]
