"""Guesses of the inversion: where they lead, and that they do not lead elsewhere."""

import math

import numpy as np
import pytest

from isometry.theory.laws import _closed, _inversion
from isometry.theory.laws._bands import Band
from isometry.theory.laws._inversion import GUESS_ONLY, attempt, solve
from isometry.theory.laws._product import product_of

# Fuss-Catalan of order 2, λ(ψ) = (1 + ψ)³/ψ.
PRODUCT = product_of({_closed.gaussian(0.0, 1, 1, size=1): 2})
TOP = math.log(27 / 4)


def test_points_are_solved_from_one_beside_them_but_not_across_an_edge():
    """A guess for the middle point alone: λ(ψ) is a cubic, whose roots are known."""
    t = np.append(np.linspace(TOP - 6, TOP - 0.1, 9), TOP + 0.1)
    middle = solve(PRODUCT, t[4:5], np.ones(1))
    guess = np.full((1, 10), np.nan, complex)
    guess[:, 4] = middle.w[:, 0]
    at, is_solved = attempt(PRODUCT, t, np.ones(10), guess=guess, ways=GUESS_ONLY)
    assert is_solved.tolist() == [True] * 9 + [False]
    for lam, psi in zip(np.exp(t[:9]), at.psi, strict=False):
        roots = np.roots([1, 3, 3 - lam, 1])
        assert psi == pytest.approx(roots[np.argmin(roots.imag)], rel=1e-10)


def test_way_down_a_band_takes_one_continuation(monkeypatch):
    """Each point is guessed from the one above it, down to 1e-14 of the mass."""
    calls = []
    continued = _inversion._continued

    def counted(*arguments, **options):
        calls.append(arguments)
        return continued(*arguments, **options)

    monkeypatch.setattr(_inversion, "_continued", counted)
    band = Band(PRODUCT, -math.inf, TOP, above_low=1.0, above_high=0.0)
    depth, left = band.reach(1e-14)
    assert left <= 1e-14
    assert depth > 64
    assert len(calls) == 1
