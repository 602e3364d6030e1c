"""Averages over windows against convolutions by sums over pixels."""

import numpy as np
import pytest

from isometry import activations
from isometry.theory.mean_field._products import products
from isometry.theory.mean_field._sites import Averaging
from tests.networks import plain_images

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("padding", ["circular", "same", "valid"])
@pytest.mark.parametrize(
    ("window", "size", "strides"),
    [((3,), (7,), (1,)), ((4, 3), (6, 7), (2, 3)), ((5,), (5,), (2,))],
)
def test_averages_are_convolutions_with_the_variances(window, size, strides, padding):
    variances = RNG.random(window)
    averaging = Averaging(variances, size, padding=padding, strides=strides)
    values = RNG.random(size)
    wanted = plain_images.convolution(
        variances[..., None, None],
        values[..., None],
        strides=strides,
        padding=padding,
        groups=1,
    )[..., 0]
    found = averaging.forward(values)
    assert found.shape == averaging.size_out
    np.testing.assert_allclose(found, wanted, rtol=1e-13)
    other = RNG.random(found.shape)
    back = averaging.backward(other)
    assert float((back * values).sum()) == pytest.approx(float((found * other).sum()))


def test_products_of_unequal_variances():
    """The arcsine and the arc-cosine kernel (Williams, 1997; Cho and Saul, 2009)."""
    first, second = np.array([0.3, 2.0, 4.0]), np.array([1.5, 2.0, 0.1])
    cosine = np.array([0.4, -0.9, 1.0])
    covariance = cosine * np.sqrt(first * second)
    found = products(activations.get("erf"), first, second, covariance)
    share = 2 * covariance / np.sqrt((1 + 2 * first) * (1 + 2 * second))
    np.testing.assert_allclose(found, 2 / np.pi * np.arcsin(share), rtol=1e-8)
    found = products(activations.get("relu"), first, second, covariance)
    angle = np.arccos(cosine)
    kappa = (np.sin(angle) + (np.pi - angle) * cosine) / np.pi
    np.testing.assert_allclose(found, np.sqrt(first * second) * kappa / 2, rtol=1e-12)
