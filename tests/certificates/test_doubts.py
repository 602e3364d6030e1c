"""Reasons why probing gives no more than evidence, read off the program of f."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry.certificates._doubts import doubts_about
from isometry.certificates._gradients import Gradients, Space
from isometry.certificates._programs import program

PARAMS = {"a": np.ones(3)}


def doubts(f, x=None):
    with jax.enable_x64(True):
        if x is None:
            x = jnp.ones(3)
        pull = program(f, PARAMS, x, dtype=np.dtype(np.float64), key=jax.random.key(0))
        rng = np.random.default_rng(0)
        gradients = Gradients(pull, Space(PARAMS), draw=lambda key: x, rng=rng)
        return doubts_about(gradients)


def test_smooth_functions_leave_no_doubt():
    assert doubts(lambda p, x: jnp.tanh(p["a"] * x + 1e-6)) == ()


def test_relaxed_kinks_leave_no_doubt():
    assert doubts(lambda p, x: jax.nn.relu(p["a"] * x - 6.0)) == ()
    # What replaces these holds numbers at rounding, which are none of f.
    assert doubts(lambda p, x: jnp.abs(jax.nn.softplus(p["a"] * x))) == ()


@pytest.mark.parametrize(
    ("f", "reason"),
    [
        (lambda p, x: p["a"] * x + 1e-15, "the constant 1e-15"),
        (
            lambda p, x: p["a"] * x * jnp.array([1.0, 1.0 + 1e-15, 2.0]),
            "constants that differ by 1e-15",
        ),
        (lambda p, x: p["a"][jnp.argmax(p["a"] * x)], "only pieces of f were seen"),
        (
            lambda p, x: p["a"] * jax.random.normal(jax.random.key(0), (3,)),
            "a key of its own",
        ),
    ],
    ids=["small", "close", "argmax", "key"],
)
def test_doubts_are_named(f, reason):
    (doubt,) = doubts(f)
    assert reason in doubt


def test_randomness_of_x_leaves_no_doubt():
    def f(params, x):
        return params["a"] * jax.random.normal(x["key"], (3,)) * x["x"]

    assert doubts(f, {"key": jax.random.key(0), "x": jnp.ones(3)}) == ()
