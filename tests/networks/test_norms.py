"""Norms against NumPy in float64, on a batch of images with unequal channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry.networks import _norms

EXAMPLES, PIXELS, WIDTH = 5, 6, 4

# Means of up to 30 numbers, a square root and a few products, of results below 8.
ROUNDING = 8 * 32 * float(jnp.finfo(jnp.float32).eps)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    standard = rng.standard_normal((EXAMPLES, PIXELS, WIDTH))
    return standard * [0.5, 1.0, 2.0, 3.0] + [0.0, 1.0, -2.0, 3.0]


@pytest.fixture(scope="module")
def leaves():
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(WIDTH) for name in ("scale", "bias")}


def normalized(norm, leaves, images, statistics=None):
    """Normalize every image, as a network in training mode does."""

    def one(image):
        return _norms.normalize(norm, as_float32(leaves), image, statistics=statistics)

    every = jax.vmap(one, axis_name=_norms.BATCH_AXIS)
    return every(jnp.asarray(images, jnp.float32))


def as_float32(leaves):
    return {name: jnp.asarray(leaf, jnp.float32) for name, leaf in leaves.items()}


def by_hand(images, axes, leaves):
    mean = images.mean(axes, keepdims=True)
    variance = images.var(axes, keepdims=True)
    unit = (images - mean) / np.sqrt(variance + 1e-5)
    return leaves["scale"] * unit + leaves["bias"]


@pytest.mark.parametrize(("norm", "axes"), [("layer", (2,)), ("batch", (0, 1))])
def test_norm_centres_and_divides_over_its_axes(norm, axes, images, leaves):
    wanted = by_hand(images, axes, leaves)
    came = normalized(norm, leaves, images)
    np.testing.assert_allclose(came, wanted, rtol=0, atol=ROUNDING)


def test_rms_norm_divides_without_centring(images, leaves):
    power = np.mean(images**2, axis=2, keepdims=True)
    wanted = leaves["scale"] * images / np.sqrt(power + 1e-5)
    came = normalized("rms", {"scale": leaves["scale"]}, images)
    np.testing.assert_allclose(came, wanted, rtol=0, atol=ROUNDING)


def test_batch_norm_in_inference_uses_the_statistics_given(images, leaves):
    given = {"mean": np.array([0.0, 1, 2, 3]), "var": np.array([1.0, 4, 9, 16])}
    unit = (images - given["mean"]) / np.sqrt(given["var"] + 1e-5)
    wanted = leaves["scale"] * unit + leaves["bias"]
    came = normalized("batch", leaves, images, statistics=as_float32(given))
    np.testing.assert_allclose(came, wanted, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("norm", _norms.NORMS)
def test_norm_starts_with_scale_1_and_bias_0(norm):
    leaves = _norms.initial_leaves(norm, WIDTH, jnp.bfloat16)
    np.testing.assert_array_equal(leaves.pop("scale"), np.ones(WIDTH, jnp.bfloat16))
    for bias in leaves.values():
        np.testing.assert_array_equal(bias, np.zeros(WIDTH, jnp.bfloat16))
    assert list(leaves) == ([] if norm == "rms" else ["bias"])
