"""Rows that never meet are found, and any two rows that do, whichever they are.

The reference is the Jacobian by blocks: rows are independent if all blocks but those on
the diagonal are zero.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry.structure import _coupling

RNG = np.random.default_rng(0)


def drawn(*shape):
    return jax.device_put(np.asarray(RNG.standard_normal(shape), np.float32))


WEIGHTS = drawn(4, 4)
KERNEL = drawn(3, 3, 4, 4)
X = drawn(5, 4)
IMAGES = drawn(3, 4, 4, 4)


def perceptron(w, x):
    return jnp.tanh(x @ w) @ w


def logits(w, x):
    return jnp.sum(jnp.tanh(x @ w), -1)


def convolution(kernel, x):
    """As Flax's modules: a leading axis is the batch, and is needed."""
    numbers = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=numbers
    )
    return y.reshape(x.shape[0], -1)


def attention(w, x):
    scores = jax.nn.softmax((x @ w) @ x.T, axis=-1)
    return scores @ x


def causal(w, x):
    return jnp.cumsum(x @ w, axis=0)


def batch_norm(w, x):
    y = x @ w
    return (y - jnp.mean(y, axis=0, keepdims=True)) / jnp.std(y, axis=0, keepdims=True)


def row_3_reads_row_4(w, x):
    y = x @ w
    return y.at[3].add(jnp.sin(y[4]))


def row_3_reads_row_1(w, x):
    """Whenever a probe perturbs row 1 by a binary 1, it perturbs row 3 as well."""
    y = x @ w
    return y.at[3].add(jnp.sin(y[1]))


@jax.custom_vjp
def clipped(x):
    return jnp.tanh(x)


clipped.defvjp(
    lambda x: (jnp.tanh(x), x),
    lambda x, g: (g * (1 - jnp.tanh(x) ** 2),),
)


def with_a_reverse_rule(w, x):
    return clipped(x @ w)


def with_a_loop(w, x):
    """A loop of unknown length has no reverse derivative."""
    return jax.lax.while_loop(lambda y: jnp.sum(y) > 1e3, lambda y: y / 2, x) @ w


def with_a_callback(w, x):
    """A callback has no derivative."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(np.sin, shape, x) @ w


INDEPENDENT = [perceptron, logits, with_a_reverse_rule]
COUPLED = [attention, causal, batch_norm, row_3_reads_row_4, row_3_reads_row_1]


def block_norms(f, x):
    """How large the derivative of each output row by each input row is."""
    jacobian = np.asarray(jax.jit(jax.jacrev(lambda x: f(WEIGHTS, x)))(x))
    blocks = np.moveaxis(jacobian, -2, 1)
    return np.linalg.norm(blocks.reshape(*blocks.shape[:2], -1), axis=-1)


@pytest.mark.parametrize("f", INDEPENDENT + COUPLED)
def test_rows_are_independent_if_the_jacobian_is_block_diagonal(f):
    norms = block_norms(f, X)
    is_block_diagonal = np.count_nonzero(norms) == np.count_nonzero(np.diag(norms))
    assert is_block_diagonal == (f in INDEPENDENT)
    assert _coupling.rows_are_independent(f, WEIGHTS, X) == is_block_diagonal


def test_function_of_forward_mode_alone_is_judged():
    assert _coupling.rows_are_independent(with_a_loop, WEIGHTS, X - 10)


def test_batch_of_a_network_that_takes_batches_alone_is_found():
    assert _coupling.rows_are_independent(convolution, KERNEL, IMAGES)


def test_image_whose_rows_meet_in_a_convolution_is_no_batch():
    def one(kernel, image):
        return convolution(kernel, image[None])[0].reshape(image.shape)

    assert not _coupling.rows_are_independent(one, KERNEL, IMAGES[0])


def test_tree_of_arrays_is_a_batch_if_all_have_its_axis():
    def f(w, x):
        return x["values"] @ w * x["mask"][:, None]

    x = {"values": X, "mask": jnp.ones(5)}
    assert _coupling.rows_are_independent(f, WEIGHTS, x)
    integers = x | {"mask": jnp.arange(5)}

    def scaled(w, x):
        return x["values"] @ w * x["mask"][:, None].astype(w.dtype)

    assert _coupling.rows_are_independent(scaled, WEIGHTS, integers)
    # A scalar belongs to no row.
    assert not _coupling.rows_are_independent(
        lambda w, x: x["values"] @ w * x["scale"], WEIGHTS, {"values": X, "scale": 2.0}
    )


@pytest.mark.parametrize(
    ("f", "x"),
    [
        pytest.param(lambda w, x: x * 2, X[0], id="vector"),
        pytest.param(perceptron, X[:1], id="one row"),
        pytest.param(lambda w, x: jnp.sum(x @ w, 0), X, id="rows are summed"),
        pytest.param(lambda w, x: jnp.sum(x), X, id="number"),
        pytest.param(lambda w, x: 0 * x, X, id="zero derivative"),
        pytest.param(perceptron, X.at[0, 0].set(jnp.nan), id="not finite"),
        pytest.param(with_a_callback, X, id="no derivative"),
    ],
)
def test_nothing_is_claimed_of(f, x):
    assert not _coupling.rows_are_independent(f, WEIGHTS, x)


def test_function_of_one_example_is_told_to_take_a_row():
    said = _coupling.coupling_of_rows(perceptron, WEIGHTS, X)
    assert "of shape (5, 4), depends on row i of x alone" in said
    assert "5 Jacobians side by side. If x is a batch, write x[0]," in said


def test_function_of_batches_is_told_to_keep_the_axis():
    said = _coupling.coupling_of_rows(convolution, KERNEL, IMAGES)
    assert "measure lambda params, x: f(params, x[None])[0] at x[0]" in said


def test_nothing_is_said_of_rows_that_meet():
    assert _coupling.coupling_of_rows(attention, WEIGHTS, X) is None
