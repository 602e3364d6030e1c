"""Convolutions brought into one order: the same sums as lax's own, forward, transposed, batched and inside loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from isometry import linalg
from isometry.linalg import _convolution

RNG = np.random.default_rng(0)
ORDER = (3, 2, 0, 1)  # of a kernel (space, in, out): out is axis 3, in is axis 2


def convolution(seed):
    """A random configuration: (f, x), linear in x."""
    rng = np.random.default_rng(seed)
    space = int(rng.integers(1, 3))
    groups, batch_groups = [(1, 1), (2, 1), (1, 2)][seed % 3]
    letters = "DHW"[:space]
    lhs, rhs, out = ("".join(rng.permutation(list(s + letters))) for s in ("NC", "IO", "NC"))
    sizes = {"N": 2 * batch_groups, "C": 2 * groups, "I": 2, "O": 2 * groups * batch_groups}
    kernel = RNG.standard_normal([sizes.get(c) or int(rng.integers(1, 4)) for c in rhs])
    x = RNG.standard_normal([sizes.get(c) or int(rng.integers(5, 8)) for c in lhs])
    pick = lambda high: tuple(int(v) for v in rng.integers(1, high, space))  # noqa: E731
    padding = [(int(a), int(b)) for a, b in rng.integers(0, 3, (space, 2))]
    keywords = {
        "window_strides": pick(3),
        "padding": rng.choice(["SAME", "VALID"]).item() if seed % 2 else padding,
        "lhs_dilation": None if seed % 2 else pick(3),
        "rhs_dilation": pick(3),
        "dimension_numbers": (lhs, rhs, out),
        "feature_group_count": groups,
        "batch_group_count": batch_groups,
    }
    return (lambda x: lax.conv_general_dilated(x, jnp.asarray(kernel), **keywords)), jnp.asarray(x)


def orders(f, x):
    """The orders of axes of all kernels in a program, at any depth."""

    def inside(program):
        for e in getattr(program, "jaxpr", program).eqns:
            if e.primitive.name == "conv_general_dilated":
                yield e.params["dimension_numbers"].rhs_spec
            for inner in _convolution._programs(e):
                yield from inside(inner)

    return list(inside(jax.make_jaxpr(f)(x)))


def close(got, want):
    """Sums of at most some hundred products in another order."""
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-13 * float(jnp.max(jnp.abs(want))) + 1e-300)


@pytest.mark.parametrize("seed", range(6))
def test_any_convolution_and_its_transpose(seed):
    with jax.enable_x64(True):
        f, x = convolution(seed)
        u = jnp.asarray(RNG.standard_normal(jax.eval_shape(f, x).shape))

        @jax.jit
        def both_ways(x, u):
            pull = lambda u: jax.linear_transpose(f, x)(u)[0]  # noqa: E731
            plain = f(x), pull(u)
            return plain, (_convolution.canonical(f)(x), _convolution.canonical(pull)(u))

        plain, ours = both_ways(x, u)
        for got, want in zip(ours, plain, strict=True):
            close(got, want)


KERNEL = RNG.standard_normal((2, 2, 3, 3)) / 3
conv = functools.partial(lax.conv, window_strides=(1, 1), padding="SAME")  # features before space


def nested(x):
    """A convolution in everything that can hold one."""
    one = lambda x: jnp.tanh(conv(x, jnp.asarray(KERNEL)))  # noqa: E731
    x = jax.nn.relu(jax.jit(one)(x)) + jax.checkpoint(one)(x)
    x = lax.scan(lambda x, s: (s * one(x), None), x, jnp.arange(2.0))[0]
    x = lax.cond(x[0, 0, 0, 0] > 9, lambda x: x, one, x)
    return jax.vmap(one)(x[None])[0]


@pytest.mark.core
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="convolutions are left as they are")
def test_inside_loops_branches_and_calls():
    with jax.enable_x64(True):
        shape = (1, 2, 4, 4)
        x = jax.device_put(RNG.standard_normal(shape))
        g = lambda v: nested(v.reshape(shape)).ravel()  # noqa: E731
        assert set(orders(g, x.ravel())) == {(0, 1, 2, 3)}
        found = []

        @jax.jit
        def matrices(x):
            operator = linalg.Operator.linearized(g, x)
            for product in (operator.matvec, operator.rmatvec):
                found.append(orders(product, x))
            eye = jnp.eye(x.size)
            rows, columns = jax.vmap(operator.rmatvec)(eye), jax.vmap(operator.matvec)(eye)
            return jax.jacrev(g)(x), rows, columns.T, linalg.matrix_of(g, x, chunk=5)

        dense, *built = matrices(x.ravel())
        assert [set(each) for each in found] == [{ORDER}, {ORDER}]
        for matrix in built:
            close(matrix, dense)


def test_gradients_pass_through():
    """Of Σ (J v)² with respect to the kernel, against the same without our hand in it."""
    with jax.enable_x64(True):
        x, v = (jax.device_put(RNG.standard_normal(16)) for _ in range(2))

        def through(products, kernel):
            g = lambda z: jnp.tanh(conv(z.reshape(1, 1, 4, 4), kernel)).ravel()  # noqa: E731
            return jnp.sum(products(g, x)(v) ** 2)

        ours = jax.grad(functools.partial(through, lambda g, x: linalg.Operator.linearized(g, x).rmatvec))
        plain = jax.grad(functools.partial(through, lambda g, x: lambda u: jax.vjp(g, x)[1](u)[0]))
        close(*jax.jit(lambda kernel: (ours(kernel), plain(kernel)))(jnp.asarray(KERNEL[:1, :1])))


def test_without_convolutions_nothing_changes():
    f = lambda x: jnp.sin(x) @ jnp.ones((3, 3))  # noqa: E731
    x = jnp.ones(3)
    assert str(jax.make_jaxpr(_convolution.canonical(f))(x)) == str(jax.make_jaxpr(f)(x))
