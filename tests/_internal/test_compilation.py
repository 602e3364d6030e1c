"""Programs whose sums XLA of jaxlib 0.10.2 computes wrong on a CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry._internal import compilation


def pushed(directions, first, second):
    """Part of the derivative of a layer norm, along directions all inputs share."""
    products = jnp.sum(directions[None] * first[:, None], -1)
    return products[..., None] * second[:, None]


compiled = compilation.jit(pushed)


@pytest.fixture(scope="module")
def arguments():
    rng = np.random.default_rng(0)
    shapes = (320, 8, 16), (2, 8, 16), (2, 8, 16)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.fixture(scope="module")
def expected(arguments):
    directions, first, second = (a.astype(float) for a in arguments)
    return np.einsum("dti,nti,ntj->ndtj", directions, first, second)


# 16 products and a sum round, relative to the largest entry.
TOLERANCE = 16 * np.finfo(np.float32).eps


def error(values, expected):
    return np.abs(np.asarray(values) - expected).max() / np.abs(expected).max()


def test_sum_between_products_is_right(arguments, expected):
    assert error(compiled(*arguments), expected) < TOLERANCE


@pytest.mark.parametrize("compile_ahead", [compiled.ahead, compiled.for_threads])
def test_sum_is_right_in_a_program_compiled_ahead(compile_ahead, arguments, expected):
    ahead = compile_ahead(*arguments)
    assert error(ahead(*arguments), expected) < TOLERANCE


def test_threads_share_their_pool_with_ynnpack_in_float64_alone():
    """There its products are twice as fast."""
    # Products of order 4 are not handed over in either way.
    square = np.arange(256, dtype=np.float32).reshape(16, 16)
    matmul = compilation.jit(jnp.matmul)
    product = matmul.for_threads(square, square)
    assert "ynn_fusion" not in product.as_text()
    # Whole numbers below 2 ** 24, which float32 holds exactly.
    np.testing.assert_array_equal(product(square, square), square @ square)
    with jax.enable_x64(True):
        double = square.astype(float)
        in_threads = matmul.for_threads(double, double).as_text()
        alone = matmul.ahead(double, double).as_text()
        # jaxlib 0.10.0 hands it over in neither.
        assert ("ynn_fusion" in in_threads) == ("ynn_fusion" in alone)


@functools.partial(compilation.jit, static_argnums=0)
def scaled(factor, x):
    return factor * jnp.sum(x)


ONES = jnp.ones(3)


# JAX allows options in the outermost program alone.
@pytest.mark.parametrize(
    ("transformed", "expected"),
    [
        (jax.jit(lambda x: scaled(2, x)), 6),
        (jax.jit(lambda x: x + scaled(2, ONES)), 7),
        (jax.vmap(lambda x: scaled(2, x)), 2),
        (jax.grad(lambda x: scaled(2, x)), 2),
        (jax.grad(lambda x: jnp.sum(x) * scaled(2, ONES)), 6),
        (jax.hessian(lambda x: scaled(2, x)), 0),
    ],
)
def test_compiled_function_is_part_of_a_users_program(transformed, expected):
    assert np.all(np.asarray(transformed(ONES)) == expected)


def test_compiled_function_may_close_over_what_is_differentiated():
    def of_factor(factor):
        inner = compilation.jit(lambda x: factor * jnp.sum(x))
        return inner(ONES)

    assert jax.grad(of_factor)(2.0) == 3


def test_error_of_the_function_itself_is_raised():
    @compilation.jit
    def broken(x):
        raise ValueError("of the user")

    with pytest.raises(ValueError, match="of the user"):
        broken(ONES)


def test_compiler_without_the_option_compiles_without_it(monkeypatch):
    monkeypatch.setattr(compilation, "_OPTION", "xla_no_such_option")
    for options in ("OPTIONS", "OPTIONS_OF_THREADS"):
        monkeypatch.setattr(compilation, options, {"xla_no_such_option": "1"})
    old = compilation.jit(jnp.sum)
    assert old(ONES) == 3
    assert old.ahead(ONES)(ONES) == 3
    assert old.for_threads(ONES)(ONES) == 3
