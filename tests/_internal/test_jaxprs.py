"""What a program calls, holds, and computes coarsely."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry._internal import jaxprs, precision


def traced(f, *arguments):
    with precision.full():
        return jax.make_jaxpr(f)(*arguments)


X = jnp.ones(2)


def names(f):
    return [eqn.primitive.name for eqn in jaxprs.equations(traced(f, X).jaxpr)]


@pytest.mark.parametrize(
    "f",
    [
        jax.jit(jnp.sin),
        lambda x: jax.lax.cond(True, jnp.sin, jnp.cos, x),
        lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, 3)[0],
        lambda x: jax.lax.while_loop(lambda c: c[0] > 9, jnp.sin, x),
        jax.checkpoint(jnp.sin),
    ],
)
def test_equations_inside_are_found(f):
    assert "sin" in names(f)


@jax.custom_vjp
def with_vjp(x):
    return jnp.sin(x)


with_vjp.defvjp(lambda x: (x, None), lambda _, g: (g,))


def test_inside_of_a_custom_rule_can_be_left_out():
    jaxpr = traced(with_vjp, X).jaxpr
    outside = list(jaxprs.equations(jaxpr, into_custom_vjp=False))
    assert "sin" in names(with_vjp)
    assert [jaxprs.has_vjp(eqn) for eqn in outside] == [True]


def test_modes_that_cannot_differentiate_are_told():
    loop = traced(lambda x: jax.lax.while_loop(lambda c: c[0] > 9, jnp.sin, x), X)
    assert jaxprs.one_way(loop.jaxpr) == (True, False)
    assert jaxprs.one_way(traced(with_vjp, X).jaxpr) == (False, True)
    assert jaxprs.one_way(traced(jnp.sin, X).jaxpr) == (False, False)


def test_constants_and_literals_are_found():
    table = jnp.array([7.0, 8.0])
    numbers = jaxprs.constants(traced(jax.jit(lambda x: 3.0 * x + table), X))
    assert 3.0 in [n for n in numbers if np.ndim(n) == 0]
    assert any(np.array_equal(n, table) for n in numbers)


DOT_DEFAULT = "dot_general with precision=DEFAULT"


@pytest.mark.parametrize(
    ("f", "phrases"),
    [
        (lambda x: jnp.dot(x, x), ()),
        (lambda x: jnp.dot(x, x, precision="default"), (DOT_DEFAULT,)),
        (lambda x: 1.5 * x, ()),
        (
            lambda x: x.astype(jnp.bfloat16).astype(x.dtype),
            ("a cast of float32 to bfloat16",),
        ),
        (
            lambda x: jax.lax.reduce_precision(x, 8, 10),
            ("reduce_precision to 10 bits of mantissa",),
        ),
        (lambda x: jax.lax.reduce_precision(x, 8, 23), ()),
    ],
)
def test_coarse_equations_are_described(f, phrases):
    assert jaxprs.coarse(traced(f, X).jaxpr, jnp.float32).phrases == phrases


def test_each_kind_of_coarse_equation_is_described_once():
    def f(x):
        return jnp.dot(x, x, precision="default") + jnp.dot(x, -x, precision="default")

    assert jaxprs.coarse(traced(f, X).jaxpr, jnp.float32).phrases == (DOT_DEFAULT,)


def test_parts_of_a_scan_are_counted_by_their_shapes():
    """Two constants, two states, one array."""

    def f(a, b, x, xs):
        def step(state, x):
            h, total = state
            h = jnp.tanh(a @ h + b + x)
            return (h, total + h.sum()), h

        return jax.lax.scan(step, (x, 0.0), xs)

    args = jnp.eye(3), jnp.ones(3), jnp.ones(3), jnp.ones((4, 3))
    closed = jax.make_jaxpr(f)(*args)
    (eqn,) = (eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "scan")
    assert jaxprs.scan_parts(eqn) == (2, 2)
