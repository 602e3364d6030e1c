"""The phase diagram against one fixed point at a time."""

import math

import numpy as np
import pytest

from isometry import InputError, theory


@pytest.mark.parametrize("name", ["tanh", "relu", "gelu", "sigmoid", "sin"])
def test_agrees_with_single_points(name):
    sigma_w, sigma_b = np.array([0.6, 1.2, 1.5, 2.4]), np.array([0.0, 0.1])
    found = theory.phase_diagram(name, sigma_w, sigma_b)
    assert found.q.shape == found.chi.shape == found.phase.shape == (4, 2)
    assert not np.isnan(found.q).any()
    assert np.isfinite(found.chi).all()
    for i, w in enumerate(sigma_w):
        for j, b in enumerate(sigma_b):
            try:
                point = theory.q_fixed_point(name, w, b)
            except theory.NoFixedPoint:
                assert (found.q[i, j], found.phase[i, j]) == (math.inf, "unbounded")
                continue
            assert found.q[i, j] == pytest.approx(point.value, rel=1e-12)
            chi = theory.chi(name, point.value, w)
            assert found.chi[i, j] == pytest.approx(chi, rel=1e-12)
            assert found.phase[i, j] == ("ordered" if chi < 1 else "chaotic")


def test_critical_and_unbounded():
    (point,) = theory.critical_points("tanh", 0.3)
    assert theory.phase_diagram("tanh", point.sigma_w, 0.3).phase.tolist() == [
        ["critical"]
    ]
    assert theory.phase_diagram("relu", [1.0, math.sqrt(2), 1.5], 0.0).phase[
        :, 0
    ].tolist() == [
        "ordered",
        "critical",
        "unbounded",
    ]
    far = theory.phase_diagram("relu", [1.5], [0.1])
    assert far.q[0, 0] == math.inf
    assert far.chi[0, 0] == pytest.approx(1.5**2 / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("sigma_w", "sigma_b", "message"),
    [
        (
            [1.0, 0.0],
            [0.1],
            r"phase_diagram\(\): sigma_w=.*0\.0.* is not a finite number in \(0",
        ),
        ([1.0], [-0.1], r"sigma_b=.*-0\.1"),
        ([[1.0]], [0.1], r"sigma_w has shape \(1, 1\); write one axis, \(n,\)\."),
        ([], [0.1], r"sigma_w has shape \(0,\)"),
        (["a"], [0.1], r"is not an array of numbers"),
    ],
)
def test_refusals(sigma_w, sigma_b, message):
    with pytest.raises(InputError, match=message):
        theory.phase_diagram("tanh", sigma_w, sigma_b)
