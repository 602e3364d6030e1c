"""Convolutions in the fast order of axes against lax's own.

Forward, transposed, batched and inside loops.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from isometry import linalg
from isometry.linalg import _convolution

RNG = np.random.default_rng(0)

# Of a kernel (space, in, out): out is axis 3, in is axis 2.
FAST_ORDER = (3, 2, 0, 1)


def convolution(seed):
    """Return a random convolution, which is linear in x, and an x."""
    rng = np.random.default_rng(seed)
    num_axes = int(rng.integers(1, 3))
    groups, batch_groups = [(1, 1), (2, 1), (1, 2)][seed % 3]

    def order(letters):
        return "".join(rng.permutation(list(letters + "DHW"[:num_axes])))

    def per_axis(high):
        return tuple(int(v) for v in rng.integers(1, high, num_axes))

    specs = order("NC"), order("IO"), order("NC")
    sizes = {
        "N": 2 * batch_groups,
        "C": 2 * groups,
        "I": 2,
        "O": 2 * groups * batch_groups,
    }
    lhs, rhs, _ = specs
    window = [sizes.get(letter) or int(rng.integers(1, 4)) for letter in rhs]
    image = [sizes.get(letter) or int(rng.integers(5, 8)) for letter in lhs]
    kernel = RNG.standard_normal(window)
    x = RNG.standard_normal(image)
    settings = {
        "window_strides": per_axis(3),
        "rhs_dilation": per_axis(3),
        "dimension_numbers": specs,
        "feature_group_count": groups,
        "batch_group_count": batch_groups,
    }
    if seed % 2:
        settings["padding"] = rng.choice(["SAME", "VALID"]).item()
    else:
        pairs = rng.integers(0, 3, (num_axes, 2))
        settings["padding"] = [(int(a), int(b)) for a, b in pairs]
        settings["lhs_dilation"] = per_axis(3)

    def convolve(x):
        return lax.conv_general_dilated(x, jnp.asarray(kernel), **settings)

    return convolve, jnp.asarray(x)


def orders_of_kernels(f, x):
    """Return the orders of axes of all kernels in a program, at any depth."""

    def inside(program):
        for equation in getattr(program, "jaxpr", program).eqns:
            if equation.primitive.name == "conv_general_dilated":
                yield equation.params["dimension_numbers"].rhs_spec
            for inner in _convolution._programs(equation):
                yield from inside(inner)

    return list(inside(jax.make_jaxpr(f)(x)))


def assert_same_sums(actual, expected):
    """Compare sums of at most some hundred products, added up in another order."""
    largest = float(jnp.max(jnp.abs(expected)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-13 * largest + 1e-300)


@pytest.mark.parametrize("seed", range(6))
def test_any_convolution_and_its_transpose_are_those_of_lax(seed):
    with jax.enable_x64(True):
        convolve, x = convolution(seed)
        u = jnp.asarray(RNG.standard_normal(jax.eval_shape(convolve, x).shape))

        @jax.jit
        def both_ways(x, u):
            def pull(u):
                return jax.linear_transpose(convolve, x)(u)[0]

            reordered = _convolution.canonical(convolve)(x)
            pulled = _convolution.canonical(pull)(u)
            return (reordered, pulled), (convolve(x), pull(u))

        for actual, expected in zip(*both_ways(x, u), strict=True):
            assert_same_sums(actual, expected)


KERNEL = RNG.standard_normal((2, 2, 3, 3)) / 3

# With features before space, which is not the fast order.
convolve_slowly = functools.partial(lax.conv, window_strides=(1, 1), padding="SAME")


def nested(x):
    """Convolve in everything that can hold a convolution."""

    def layer(x):
        return jnp.tanh(convolve_slowly(x, jnp.asarray(KERNEL)))

    x = jax.nn.relu(jax.jit(layer)(x)) + jax.checkpoint(layer)(x)
    x, _ = lax.scan(lambda x, scale: (scale * layer(x), None), x, jnp.arange(2.0))
    x = lax.cond(x[0, 0, 0, 0] > 9, lambda x: x, layer, x)
    return jax.vmap(layer)(x[None])[0]


@pytest.mark.core
@pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="convolutions are left as they are"
)
def test_kernels_inside_loops_branches_and_calls_are_in_the_fast_order():
    """The matrices of the reordered products are the Jacobian by JAX."""
    with jax.enable_x64(True):
        shape = (1, 2, 4, 4)
        x = jax.device_put(RNG.standard_normal(shape)).ravel()

        def g(v):
            return nested(v.reshape(shape)).ravel()

        assert set(orders_of_kernels(g, x)) == {(0, 1, 2, 3)}
        orders = []

        @jax.jit
        def matrices(x):
            operator = linalg.Operator.linearized(g, x)
            for product in (operator.matvec, operator.rmatvec):
                orders.append(orders_of_kernels(product, x))
            basis = jnp.eye(x.size)
            rows = jax.vmap(operator.rmatvec)(basis)
            columns = jax.vmap(operator.matvec)(basis)
            in_chunks = linalg.matrix_of(g, x, chunk=5)
            return jax.jacrev(g)(x), rows, columns.T, in_chunks

        expected, *built = matrices(x)
        assert [set(each) for each in orders] == [{FAST_ORDER}, {FAST_ORDER}]
        for matrix in built:
            assert_same_sums(matrix, expected)


def test_gradients_with_respect_to_a_kernel_pass_through():
    """Of the sum of (Jᵀ u)², against the same by `jax.vjp` alone."""
    with jax.enable_x64(True):
        x, u = (jax.device_put(RNG.standard_normal(16)) for _ in range(2))

        def by_operator(g):
            return linalg.Operator.linearized(g, x).rmatvec(u)

        def by_vjp(g):
            _, pull = jax.vjp(g, x)
            return pull(u)[0]

        def loss(product, kernel):
            def g(z):
                image = z.reshape(1, 1, 4, 4)
                return jnp.tanh(convolve_slowly(image, kernel)).ravel()

            return jnp.sum(product(g) ** 2)

        @jax.jit
        def gradients(kernel):
            actual = jax.grad(functools.partial(loss, by_operator))(kernel)
            expected = jax.grad(functools.partial(loss, by_vjp))(kernel)
            return actual, expected

        assert_same_sums(*gradients(jnp.asarray(KERNEL[:1, :1])))


def test_program_without_convolutions_is_left_as_it_is():
    def f(x):
        return jnp.sin(x) @ jnp.ones((3, 3))

    x = jnp.ones(3)
    reordered = jax.make_jaxpr(_convolution.canonical(f))(x)
    assert str(reordered) == str(jax.make_jaxpr(f)(x))
