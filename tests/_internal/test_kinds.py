"""What a value holds, whoever made it."""

import jax
import jax.numpy as jnp
import numpy as np

from isometry._internal import kinds, randomness

KEY = jax.random.key(3)
OLD_KEY = jax.random.PRNGKey(3)


def test_floating_numbers_of_jax_numpy_and_python_are_floating():
    values = [1.5, np.float32(1), np.ones(2), jnp.ones(2), jnp.ones(2, jnp.bfloat16)]
    values.append(jax.ShapeDtypeStruct((2,), np.float16))
    values.append(jax.typeof(jnp.ones(2)))
    assert all(map(kinds.is_floating, values))


def test_others_are_not_floating():
    token = jax.make_jaxpr(jax.lax.create_token)().out_avals[0]
    values = [1, True, 1j, np.ones(2, complex), np.arange(2), KEY, OLD_KEY, token]
    assert not any(map(kinds.is_floating, values))


def test_whole_numbers_are_no_keys():
    assert kinds.is_whole(2)
    assert kinds.is_whole(np.arange(3))
    assert not any(map(kinds.is_whole, [True, 2.0, KEY, OLD_KEY]))


def test_keys_are_told_by_their_dtype_or_by_their_words():
    assert kinds.is_typed_key(KEY)
    assert not kinds.is_typed_key(OLD_KEY)
    assert kinds.is_key(KEY)
    assert kinds.is_key(OLD_KEY)
    assert not kinds.is_key(np.arange(3, dtype=np.uint32))
    assert not kinds.is_key(np.arange(2))


def test_both_kinds_of_key_seed_the_same_generator_of_numpy():
    typed = randomness.host_generator(KEY).standard_normal(4)
    old = randomness.host_generator(OLD_KEY).standard_normal(4)
    np.testing.assert_array_equal(typed, old)
    other = randomness.host_generator(jax.random.key(4)).standard_normal(4)
    assert not np.array_equal(typed, other)
