"""Laws of flattened orthogonal kernels, and of D's in front of their W's."""

import itertools
import math

import numpy as np
import pytest

from isometry import InputError, activations, theory
from isometry._internal.errors import NotDefined
from isometry.theory.laws._span_law import span_law

POSITIONS = 4


def convolution(kernel, stride=1):
    """The matrix of a convolution on a circle."""
    taps, inputs, outputs = kernel.shape
    whole = np.zeros((POSITIONS // stride, outputs, POSITIONS, inputs))
    for position in range(POSITIONS // stride):
        for tap in range(taps):
            read = (stride * position + tap) % POSITIONS
            whole[position, :, read] += kernel[tap].T
    return whole.reshape(POSITIONS // stride * outputs, -1)


def flattened(rng, taps, inputs, outputs):
    tall = rng.normal(size=(max(taps * inputs, outputs), min(taps * inputs, outputs)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))
    if len(q) != taps * inputs:
        q = q.T
    return q.reshape(taps, inputs, outputs)


def moments(jacobian):
    """E λ, E λ², E λ³ over the smaller side."""
    gram = jacobian @ jacobian.T
    if len(gram) > jacobian.shape[1]:
        gram = jacobian.T @ jacobian
    square = gram @ gram
    traces = [np.trace(gram), np.trace(square), (square * gram).sum()]
    return np.array(traces) / len(gram)


@pytest.mark.parametrize(
    ("channels", "taps", "stride"),
    [([40, 40], 3, 1), ([40, 80], 3, 1), ([30, 80], 4, 2), ([30, 20, 45, 30], 3, 1)],
)
def test_flattened_orthogonal_kernels_of_any_shape(channels, taps, stride):
    """E λ, E λ² and E λ³: four standard errors, and 1 % for the finite width.

    Were the stride 2 of 3 taps, E λ² of one layer would be 6 % larger than the law's.
    """
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(8):
        jacobian = np.eye(POSITIONS * channels[0])
        for inputs, outputs in itertools.pairwise(channels):
            kernel = flattened(rng, taps, inputs, outputs)
            jacobian = convolution(kernel, stride) @ jacobian
        draws.append(moments(jacobian))
    found = theory.jacobian_law(
        "linear",
        len(channels) - 1,
        q=1.0,
        sigma_w=1.0,
        weights="orthogonal_kernel",
        widths=[channels[0] * stride, *channels[1:]],
        taps=taps / stride,
    )
    error = np.std(draws, axis=0) / len(draws) ** 0.5
    wanted = np.array([found.moment(k) for k in (1, 2, 3)])
    distance = np.abs(np.mean(draws, axis=0) - wanted)
    assert np.all(distance < 4 * error + 0.01 * wanted)


def test_derivatives_stand_in_front_of_their_weights():
    """W D of unequal layers with half of the units inactive, against draws."""
    channels, rng = [45, 70, 30], np.random.default_rng(2)
    draws = []
    for _ in range(12):
        jacobian = np.eye(POSITIONS * channels[0])
        for inputs, outputs in itertools.pairwise(channels):
            active = rng.random(POSITIONS * inputs) < 0.5
            kernel = flattened(rng, 3, inputs, outputs)
            jacobian = convolution(kernel) @ (active[:, None] * jacobian)
        draws.append(moments(jacobian))
    law = span_law(
        activations.get("relu"),
        [1.0, 1.0],
        [1.0, 1.0],
        widths=channels,
        is_gaussian=False,
        taps=[3.0, 3.0],
    )
    error = np.std(draws, axis=0) / len(draws) ** 0.5
    wanted = np.array([law.moment(k) for k in (1, 2, 3)])
    distance = np.abs(np.mean(draws, axis=0) - wanted)
    assert np.all(distance < 4 * error + 0.01 * wanted)


def test_limits_of_the_number_of_taps():
    """One tap is a Haar matrix, many are Gaussian, and few inputs an isometry."""

    def law(taps, **widths):
        return theory.jacobian_law(
            "relu", 3, 1.0, 1.2, weights="orthogonal_kernel", taps=taps, **widths
        )

    haar = theory.jacobian_law("relu", 3, 1.0, 1.2)
    gaussian = theory.jacobian_law("relu", 3, 1.0, 1.2, weights="gaussian")
    for k in (1, 2, 3):
        assert law(1).moment(k) == pytest.approx(haar.moment(k), rel=1e-12)
        assert law(1e9).moment(k) == pytest.approx(gaussian.moment(k), rel=1e-7)
    # Variance over the squared mean adds up: 1 of each D², 1 − 1/9 of each W.
    assert law(9).variance / law(9).moment(1) ** 2 == pytest.approx(3 * (2 - 1 / 9))
    wide = theory.jacobian_law(
        "linear", 1, 1.0, 1.2, weights="orthogonal_kernel", taps=3, widths=[1, 4]
    )
    (atom,) = wide.atoms
    assert atom == (pytest.approx(3 * 1.2**2), pytest.approx(1.0))
    assert math.isclose(wide.moment(2), atom.lam**2)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({}, InputError, "taps is missing"),
        ({"taps": 0.5}, InputError, "taps=0.5"),
        ({"taps": 9, "weights": "gaussian"}, InputError, "taps=9 is for"),
        ({"taps": 9, "padding": "same"}, NotDefined, "'circular'"),
    ],
)
def test_what_is_refused(changes, kind, message):
    arguments = {"weights": "orthogonal_kernel", "q": 1.0} | changes
    with pytest.raises(kind, match=message):
        theory.jacobian_law("relu", 3, **arguments)
