"""Digests are equal where all bits of arrays are, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry._internal import digests

NUMBERS = np.arange(6.0)


def test_arrays_of_jax_and_numpy_with_the_same_bits_have_one_digest():
    of_jax = digests.of_arrays([jnp.arange(6, dtype=jnp.int32)])
    assert of_jax == digests.of_arrays([np.arange(6, dtype=np.int32)])
    assert digests.of_arrays([NUMBERS[::2]]) == digests.of_arrays([NUMBERS[::2].copy()])


@pytest.mark.parametrize(
    "other",
    [
        [NUMBERS + 1e-15],
        [NUMBERS.reshape(2, 3)],
        [NUMBERS.view(np.int64)],
        [NUMBERS[:3], NUMBERS[3:]],
        [-0.0 * NUMBERS],
    ],
    ids=["value", "shape", "dtype", "cut", "zeros"],
)
def test_other_bits_shapes_or_dtypes_have_another(other):
    first = [0.0 * NUMBERS] if not np.any(other[0]) else [NUMBERS]
    assert digests.of_arrays(first) != digests.of_arrays(other)


def test_keys_count_with_their_generator():
    key = jax.random.key(0)
    assert digests.of_arrays([key]) == digests.of_arrays([jax.random.key(0)])
    assert digests.of_arrays([key]) != digests.of_arrays([jax.random.key(1)])
    other = jax.random.key(0, impl="rbg")
    assert digests.of_arrays([key]) != digests.of_arrays([other])
