"""The Jacobian of one step of a population, against what it does to perturbations."""

import numpy as np
import pytest

from isometry.theory.laws._gated_moments import of_one_step
from isometry.theory.mean_field import _population
from isometry.theory.mean_field._gates import CONTENTS, SWITCHES, Scales
from isometry.theory.mean_field._host import record


@pytest.mark.parametrize("cell", ["minimal", "gru", "lstm"])
def test_mean_square_of_a_perturbation_behind_one_step(cell):
    """E lam is |dh'|²/|dh|² of a random dh; 8000 numbers scatter by about 3 %."""
    gates = {}
    for i, name in enumerate(SWITCHES[cell] + CONTENTS[cell]):
        gates[name] = Scales(recurrent=4.0 + i, drive=0.5, noise=0.4, bias=0.3 * i)
    sites = _population.Driven(
        record("tanh"), gates, 4000, n_in=5, rng=np.random.default_rng(0), most=4
    )
    step = _population.CELLS[cell](sites)
    states = _population._zeros(cell, sites.num)
    nothing = _population._zeros(cell, 2 * sites.num)
    xs = sites.rng.standard_normal((4, 5))
    for x in xs[:3]:
        sites.x = x.astype(np.float32)
        states = step(states, nothing).states
    sites.x = xs[3].astype(np.float32)
    # An LSTM's c is not perturbed with its h.
    change = (sites.normal(8000), *nothing[1:])
    moved = step(states, change)
    growth = np.mean(moved.changes[0] ** 2) / np.mean(change[0] ** 2)
    mean = of_one_step(moved.jacobian()).mean
    assert mean == pytest.approx(growth, rel=0.1)
