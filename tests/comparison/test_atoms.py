"""Atoms of the law, and the mass that counts as zero."""

import math
from dataclasses import replace

import numpy as np

from isometry import compare, theory
from tests.comparison.drawn import drawn, law_of, spectrum_of


def test_zeros_and_noise_below_the_floor_are_one_mass():
    """In single precision most of a deep spectrum is unresolved.

    What stands below the floor makes no difference.
    """
    sp = drawn("relu", "gaussian", 16, 96, 1.0, 8)
    law = law_of("relu", "gaussian", 16, 1.0)
    floor = np.full(sp.log_floor.shape, math.log(96 * 2.0**-23))
    coarse = replace(sp, log_floor=floor)
    comparison = compare(coarse, law)
    assert comparison.consistent, comparison.summary()
    assert comparison.unresolved > 0.6
    assert abs(comparison.atom_gaps[0.0]) < 0.05
    log_values = np.where(np.asarray(coarse.resolved), coarse.log_values, -1e3)
    noisy = replace(coarse, log_values=log_values)
    assert compare(noisy, law).gaps == comparison.gaps


def test_a_law_may_be_one_atom():
    """Linear, orthogonal: every singular value is sigma_w^L, to rounding."""
    rng = np.random.default_rng(0)
    log_values = 4 * math.log(1.1) + 1e-7 * rng.standard_normal((6, 32))
    sp = spectrum_of(-np.sort(-log_values, -1), 4)
    law = theory.jacobian_law("linear", 4, 1.0, 1.1)
    comparison = compare(sp, law)
    assert comparison.consistent, comparison.summary()
    assert comparison.ks == 0
    assert not compare(replace(sp, log_values=sp.log_values + 1e-3), law).consistent
