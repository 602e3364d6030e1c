"""`critical` has the scale that theory asks for, counted by the inputs of a layer."""

import jax
import numpy as np
import pytest

from isometry import initializers, theory

LAYOUTS = {
    "dense": ((400, 100), {}),
    "torch": ((100, 400), {"in_axis": 1, "out_axis": 0}),
    "convolution": ((2, 2, 100, 100), {}),
    "heads": ((400, 5, 20), {"in_axis": 0, "out_axis": (1, 2)}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gaussian_variance_is_sigma_w_squared_over_fan_in(layout):
    """fan_in is 400 in every layout; the mean square of N entries errs by √(2/N)."""
    shape, axes = LAYOUTS[layout]
    weights = initializers.critical("tanh", q=1.0, **axes)(jax.random.key(3), shape)
    sigma_w = theory.critical_at("tanh", 1.0).sigma_w
    ratio = 400 * float((np.asarray(weights, float) ** 2).mean()) / sigma_w**2
    assert abs(ratio - 1) <= 5 * (2 / weights.size) ** 0.5


def test_orthogonal_singular_values_are_sigma_w():
    init = initializers.critical("tanh", sigma_b=0.1, weights="orthogonal")
    matrix = np.asarray(init(jax.random.key(3), (40, 100)), float)
    (point,) = theory.critical_points("tanh", 0.1)
    values = np.linalg.svd(matrix, compute_uv=False)
    rounding = 100 * float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(values, point.sigma_w, rtol=rounding)
