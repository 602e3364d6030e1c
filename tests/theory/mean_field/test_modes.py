"""Modes of the covariance against the map that they linearize."""

import math

import numpy as np
import pytest

from isometry import InputError, theory

SIGMA_W, SIGMA_B = 2.0, 0.5
ASYMMETRIC = [0.1, 0.2, 0.7]


def erf_products(q, covariance):
    """E erf(u_1) erf(u_2), both of variance q (Williams, 1997)."""
    return 2 / np.pi * np.arcsin(2 * covariance / (1 + 2 * q))


def next_covariance(covariance, variances, q):
    """The map at one distance: taps shift both positions together, on a circle."""
    means = erf_products(q, covariance)
    offsets = range(-(len(variances) // 2), len(variances) // 2 + 1)
    pairs = zip(variances, offsets, strict=True)
    total = sum(v * np.roll(means, -offset) for v, offset in pairs)
    return SIGMA_W**2 * total + SIGMA_B**2


@pytest.mark.parametrize("variances", [[1 / 3] * 3, ASYMMETRIC])
def test_eigenvalues_are_derivatives_of_the_covariance_map(variances):
    n = 7
    modes = theory.conv_modes("erf", SIGMA_W, SIGMA_B, variances, (n,))
    q, fixed = modes.q, modes.c * modes.q
    assert next_covariance(np.full(n, fixed), variances, q) == pytest.approx(fixed)
    step = 1e-5
    for m in range(n):
        wave = np.exp(1j * modes.frequencies[m, 0] * np.arange(n))
        change = 0
        for part, unit in ((wave.real, 1), (wave.imag, 1j)):
            up, down = (
                next_covariance(fixed + sign * step * part, variances, q)
                for sign in (1, -1)
            )
            change = change + unit * (up - down) / (2 * step)
        # The central difference is off by its square.
        np.testing.assert_allclose(change, modes.eigenvalues[m] * wave, atol=1e-8)
    scales = -1 / np.log(np.abs(modes.eigenvalues))
    np.testing.assert_allclose(modes.depth_scales, scales, rtol=1e-12)


def test_axes_multiply_and_one_tap_keeps_all_patterns():
    square = theory.conv_modes("erf", SIGMA_W, SIGMA_B, (3, 2), (8, 6))
    line, other = (
        theory.conv_modes("erf", SIGMA_W, SIGMA_B, k, (n,)) for k, n in ((3, 8), (2, 6))
    )
    outer = np.multiply.outer(line.averages, other.averages)
    np.testing.assert_allclose(square.averages, outer, atol=1e-14)
    # A uniform window of three on a line: (1 + 2 cos f)/3.
    chi = theory.c_fixed_point("erf", SIGMA_W, SIGMA_B).slope
    expected = chi * (1 + 2 * np.cos(2 * np.pi * np.arange(8) / 8)) / 3
    np.testing.assert_allclose(line.eigenvalues, expected, atol=1e-14)
    delta = theory.conv_modes("relu", math.sqrt(2), 0.0, [0, 1, 0], (5,))
    assert np.all(delta.depth_scales == np.inf)


@pytest.mark.parametrize(
    ("kernel", "size", "message"),
    [
        ([0.5, 0.6], (8,), "kernel=.* sum to 1"),
        ([1.5, -0.5], (8,), "kernel=.* not negative"),
        ((3, 3), (8,), "kernel=.* of 1 axes"),
        (0, (8,), "kernel=0"),
        (3, 8, r"size=8 .* \(n,\)"),
        (3, (0,), r"size\[0\]=0"),
    ],
)
def test_kernels_and_sizes_that_are_none(kernel, size, message):
    with pytest.raises(InputError, match=rf"conv_modes\(\): {message}"):
        theory.conv_modes("tanh", 1.0, 0.1, kernel, size)
