"""The singular value that the means of branches make, against random networks."""

import numpy as np
import pytest

import isometry
from isometry import activations, theory
from isometry.theory.laws import _residual_law
from isometry.theory.laws._coherent import coherent_value
from isometry.theory.mean_field._residual import Block, Norm, Stream, follow

WIDTH = 120


def jacobians(branch, norm=None, sigma_b=0.0, mean=0.0, seeds=6):
    """Draw J of x' = 0.9 x + branch relu(W norm(x) + b), He weights."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(seeds):
        x, j = rng.standard_normal(WIDTH) + mean, np.eye(WIDTH)
        for a in branch:
            w = rng.standard_normal((WIDTH, WIDTH)) * (2 / WIDTH) ** 0.5
            read, of_norm = x, np.eye(WIDTH)
            if norm == "rms":
                size = np.sqrt((x**2).mean())
                read = x / size
                of_norm = (np.eye(WIDTH) - np.outer(read, read) / WIDTH) / size
            h = w @ read + sigma_b * rng.standard_normal(WIDTH)
            j = 0.9 * j + a * (h > 0)[:, None] * (w @ (of_norm @ j))
            x = 0.9 * x + a * np.maximum(h, 0)
        found.append(j)
    return np.stack(found)


def followed(branch, norm=None, sigma_b=0.0, mean=0.0):
    blocks = [Block(0.9, a, (2.0,), bias=sigma_b**2) for a in branch]
    given = Norm(norm, "pre", 0.0) if norm else None
    # Values with the moments of the first input.
    values = np.array([[mean - 1, mean + 1]])
    stream = Stream.of_values(values)
    return given, follow(
        activations.relu,
        blocks,
        order="post_activation",
        stream=stream,
        norm=given,
    )


@pytest.mark.parametrize(
    ("arguments", "outliers"),
    [
        ({"branch": [0.5] * 6, "sigma_b": 0.3, "mean": 1.0}, 1),
        ({"branch": [1.0, 1.0]}, 0),
        ({"branch": [0.7] * 8, "norm": "rms"}, 0),
    ],
)
def test_number_of_outliers(arguments, outliers):
    """Where one is predicted it is at least so large, and at most a fifth larger.

    The value is that of one direction, and bounds the largest from below; it scatters
    by a fifth between draws at this width. `compare` finds as many.
    """
    norm, passages = followed(**arguments)
    law = _residual_law.law_of(
        activations.relu,
        passages,
        order="post_activation",
        weights="gaussian",
        norm=norm,
    )
    assert law.outliers == outliers
    found = jacobians(**arguments)
    top = np.linalg.svd(found, compute_uv=False)[:, 0] ** 2
    comparison = isometry.compare(isometry.Spectrum.of_jacobians(found), law)
    # In most draws.
    assert comparison.consistent, comparison.summary()
    assert round(comparison.outliers) == outliers
    value = coherent_value(activations.relu, passages, norm)
    if outliers:
        error = top.std(ddof=1) / len(top) ** 0.5
        assert -4 * error < top.mean() - value < 0.2 * value + 4 * error
    else:
        assert value < law.s_max**2


def test_public_law_states_it():
    """He ReLU, Σ branch² = 2: q_L/q_0 is 410 at 20 blocks, and s² 2.7 times that."""
    law = theory.residual_law(
        "relu", [0.1**0.5] * 20, order="post_activation", sigma_w=2**0.5
    )
    assert law.outliers == 1
    odd = theory.residual_law("tanh", [1.0] * 2, order="post_activation", sigma_w=1.0)
    assert odd.outliers == 0
