"""Covariances between positions: dense matrices, closed forms, and what is drawn."""

import math

import numpy as np
import pytest

from isometry import activations, theory
from isometry.theory.mean_field import _field
from isometry.theory.mean_field._field import Field
from isometry.theory.mean_field._sites import Averaging

RNG = np.random.default_rng(0)


def test_convolution_shifts_both_positions_together():
    """E h hᵀ = Σ_β v_β T_β G T_βᵀ with the matrices T_β of the taps."""
    images = RNG.standard_normal((2, 3, 4, 5))
    shares = np.array([[0.1, 0.2], [0.3, 0.4]])
    averaging = Averaging(shares, (3, 4), padding="valid")
    found = Field.of_values(images).convolved(averaging, square=1.7, bias=0.2)
    assert found.size == (2, 3)
    wanted = np.zeros((12, 12))
    for i in range(2):
        for j in range(2):
            rows = images[:, i : i + 2, j : j + 3].reshape(12, 5)
            wanted += shares[i, j] * rows @ rows.T / 5
    np.testing.assert_allclose(found.gram, 1.7 * wanted + 0.2, rtol=1e-12)


def test_average_of_windows():
    """Of known values; a last row that fills no window is not read."""
    images = RNG.standard_normal((2, 5, 4, 3))
    found = Field.of_values(images).averaged(2)
    pooled = images[:, :4].reshape(2, 2, 2, 2, 2, 3).mean(axis=(2, 4))
    wanted = Field.of_values(pooled)
    assert found.size == wanted.size == (2, 2)
    np.testing.assert_allclose(found.gram, wanted.gram, rtol=1e-12)
    means = pooled.mean(axis=(1, 2))
    np.testing.assert_allclose(found.mean(), means @ means.T / 3, rtol=1e-12)


def test_largest_of_independent_values():
    """Mean and second moment of the largest of four; each is it in a fourth of draws.

    Five standard errors of 2**14 draws, of which none is above 1.6.
    """
    before = Field(np.eye(8), 2, (2, 2))
    found = _field.largest_of_gaussian(activations.linear, before, 2)
    mean, second = theory.pooling_moments("max", (2, 2))
    # The two inputs are independent.
    wanted = np.array([[second, mean**2], [mean**2, second]])
    error = 5 * 1.6 / 2**7
    np.testing.assert_allclose(found.field.gram, wanted, atol=error)
    np.testing.assert_allclose(found.passed, 0.25, atol=error)
    assert found.passed.sum() == pytest.approx(2)


def test_drawn_products_are_those_of_quadrature(monkeypatch):
    """Of tanh; a product of two values below 1 scatters by less than 1."""
    rows = RNG.standard_normal((4, 6))
    field = Field(rows @ rows.T / 3, 2, (2,))
    exact = field.activated(activations.tanh).gram
    monkeypatch.setattr(_field, "_INTEGRATED", 2)
    drawn = field.activated(activations.tanh).gram
    np.testing.assert_allclose(drawn, exact, atol=5 / math.sqrt(2**14))
