"""Numbers of `randomness.normal` against those of `jax.random.normal`."""

import jax
import numpy as np
import pytest

from isometry._internal import randomness

SHAPE = (3, 4)
DTYPE = np.dtype("float32")


def of_jax(key):
    return jax.random.normal(key, SHAPE, DTYPE)


def ours(key):
    return randomness.normal(key, SHAPE, DTYPE)


def twice(function):
    return jax.jit(jax.vmap(jax.vmap(function)))


@pytest.mark.parametrize("kind", ["threefry2x32", "rbg"])
def test_bits_are_those_of_jax_alone_and_in_nested_batches(kind):
    keys = jax.random.split(jax.random.key(0, impl=kind), (2, 3))
    np.testing.assert_array_equal(ours(keys[1, 2]), of_jax(keys[1, 2]))
    np.testing.assert_array_equal(twice(ours)(keys), twice(of_jax)(keys))


def test_old_keys_draw_the_same_bits():
    key = jax.random.PRNGKey(7)
    np.testing.assert_array_equal(ours(key), of_jax(key))


def test_nested_batches_are_drawn_as_one():
    """Two axes of keys and one of numbers: the generator runs over a matrix."""
    keys = jax.random.split(jax.random.key(0), (2, 3))
    lowered = twice(ours).lower(keys).as_text()
    assert "2x3x12xui32" not in lowered
    assert "6x12xui32" in lowered
