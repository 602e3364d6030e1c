"""Functions of one value, cut out of a program."""

import jax
import jax.numpy as jnp
import numpy as np

import isometry
from isometry.structure._segments import segment

X = jax.device_put(np.arange(3, dtype=np.float32))
EYE = jax.device_put(np.eye(3, dtype=np.float32))
PARAMS = {"w": EYE, "v": EYE}


def cut(f, start, end):
    anatomy = isometry.anatomy(f, PARAMS, X)
    return segment(anatomy.closed, anatomy.place(start), anatomy.place(end))


def test_a_segment_computes_what_the_program_does():
    def f(p, x):
        return jnp.sin(x @ p["w"]) ** 3 @ p["v"]

    function = cut(f, "w", "w:out")
    np.testing.assert_allclose(function(X), jnp.sin(X) ** 3, rtol=1e-6)


def test_calls_are_left():
    """Both ends are inside of jitted functions; the number ½ is no part of "w:out"."""
    dense = jax.jit(lambda w, x: x @ w)
    half = jax.jit(lambda z: jnp.tanh(z) / 2)

    def f(p, x):
        return dense(p["v"], half(dense(p["w"], x)))

    function = cut(f, "w", "w:out")
    np.testing.assert_allclose(function(X), jnp.tanh(X), rtol=1e-6)


def test_what_depends_on_more_is_none():
    """The gate is another value of the program, and no constant."""

    def f(p, x):
        return (x @ p["w"]) * jnp.tanh(x) @ p["v"]

    assert cut(f, "w", "v") is None


def test_numbers_that_f_closes_over_are_kept():
    slope = jnp.asarray(0.25)

    def f(p, x):
        return jnp.tanh(slope * (x @ p["w"])) @ p["v"]

    function = cut(f, "w", "w:out")
    np.testing.assert_allclose(function(X), jnp.tanh(0.25 * X), rtol=1e-6)


def test_inside_the_body_of_a_scan():
    def f(p, x):
        def step(z, w):
            return jnp.tanh(z @ w), None

        return jax.lax.scan(step, x, jnp.stack([p["w"], p["v"]]))[0]

    anatomy = isometry.anatomy(f, PARAMS, X)
    point = anatomy.points[1]
    function = segment(
        anatomy.closed, anatomy.place(point), anatomy.place(f"{point}:out")
    )
    np.testing.assert_allclose(function(X), jnp.tanh(X), rtol=1e-6)
