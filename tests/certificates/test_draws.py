"""Random inputs: of several sizes, over all rows, and the rows of given data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry.certificates import _draws

KEYS = [jax.random.key(i) for i in range(40)]


def inputs_of(f, params, shapes):
    closed = jax.make_jaxpr(f)(params, shapes)
    return _draws.default(shapes, closed, len(jax.tree.leaves(params)))


def test_floats_have_sizes_between_an_eighth_and_eight():
    """log2 of the standard deviation is uniform on [-3, 3]."""
    shape = jax.ShapeDtypeStruct((4000,), jnp.float32)
    draw = inputs_of(lambda p, x: x * p, jnp.ones(()), shape)
    sizes = np.log2([draw(key).std() for key in KEYS])
    # A standard deviation of 4000 numbers is off by 1.1 %, one in 40 bits.
    assert sizes.min() > -3.1
    assert sizes.max() < 3.1
    # The standard deviation of a uniform number on [-3, 3] is sqrt(3); of 40, ± 12 %.
    assert 1.1 < sizes.std() < 2.4


def test_whole_numbers_select_every_row_once_in_a_period():
    def f(params, tokens):
        return jnp.take(params, tokens, axis=0)

    draw = inputs_of(f, jnp.ones((10, 2)), jax.ShapeDtypeStruct((4,), jnp.int32))
    assert draw.period == 3
    drawn = np.concatenate([draw(key) for key in KEYS[:5]])
    assert sorted(drawn[:10]) == list(range(10))
    assert sorted(drawn[10:20]) == list(range(10))


def test_rows_that_the_condition_of_a_loop_selects_are_counted():
    """Its constants come before those of the body, whose table is read by no token."""

    def f(params, tokens):
        small, large = params

        def goes_on(i):
            return small[tokens[i]] > 0

        def advance(i):
            return i + large[0].astype(i.dtype)

        number = jax.lax.while_loop(goes_on, advance, jnp.zeros((), jnp.int32))
        return large * number.astype(large.dtype)

    params = jnp.ones(5), jnp.ones(20)
    draw = inputs_of(f, params, jax.ShapeDtypeStruct((3,), jnp.int32))
    assert draw.num_rows == {0: 5}


def test_whole_numbers_of_unknown_range_are_refused():
    def f(params, x):
        return params * jnp.sin(x["n"].astype(float))

    shapes = {"n": jax.ShapeDtypeStruct((2,), jnp.int32)}
    with pytest.raises(isometry.InputError, match=r"x\['n'\].*draw="):
        inputs_of(f, jnp.ones(2), shapes)


def test_keys_and_coin_tosses_are_drawn():
    def f(params, x):
        return params * jax.random.uniform(x["key"]) * x["flag"].astype(float)

    shapes = jax.eval_shape(
        lambda: {"key": jax.random.key(0), "flag": jnp.zeros(9, bool)}
    )
    draw = inputs_of(f, jnp.ones(9), shapes)
    first, second = draw(KEYS[0]), draw(KEYS[1])
    assert (
        jax.random.key_data(first["key"]) != jax.random.key_data(second["key"])
    ).any()
    assert first["flag"].dtype == bool
    assert (first["flag"] != second["flag"]).any()


def test_same_key_draws_the_same_floats():
    shape = jax.ShapeDtypeStruct((4,), jnp.float32)
    draw = inputs_of(lambda p, x: x * p, jnp.ones(()), shape)
    assert np.array_equal(draw(KEYS[0]), draw(KEYS[0]))


def test_a_seed_draws_what_its_key_draws():
    shapes = {
        "floats": jax.ShapeDtypeStruct((3,), jnp.float32),
        "keys": jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2)),
    }
    by_key = _draws.RandomInputs(shapes, {})(KEYS[7])
    by_seed = _draws.RandomInputs(shapes, {}).from_seed(7)
    assert (by_key["floats"] == by_seed["floats"]).all()
    bits = map(jax.random.key_data, (by_key["keys"], by_seed["keys"]))
    assert np.array_equal(*bits)


def test_batches_show_every_row():
    batches = _draws.Batches(np.arange(10), size=4)
    assert batches.period == 3
    rows = np.concatenate([batches(key) for key in KEYS[:3]])
    assert set(rows.tolist()) == set(range(10))
