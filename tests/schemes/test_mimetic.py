"""Mimetic attention: pairs of weights are factors of one matrix."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, schemes
from isometry._internal.errors import NotDefined
from isometry.schemes import Branch, Layer
from isometry.structure import anatomy
from tests.schemes import models

KEY = jax.random.key(2)
EPS = float(np.finfo(np.float32).eps)


@functools.partial(jax.jit, static_argnames=("role", "shape", "heads"))
def weight(role, shape, *, heads=None):
    branch = Branch(0, 4, int(role == "output"), 2)
    layer = Layer(role, 0, 9, 24, 24, branch, heads=heads)
    init = schemes.get("mimetic").initializer(layer)
    return init(KEY, shape)


def best(matrix, rank):
    u, s, vt = np.linalg.svd(matrix)
    return u[:, :rank] * s[:rank] @ vt[:rank]


def noise(key, width):
    return np.asarray(jax.random.normal(key, (width, width)), float) / width**0.5


def test_query_and_key_factor_one_matrix_in_each_head():
    """The best part of rank k of 0.7 Z + 0.7 I, by NumPy's SVD; Z is the key's draw.

    Float32: 1e-5 for norm 2. Heads are an axis, or the layer says how many there are.
    """
    width, heads, rank = 12, 3, 4
    q = np.asarray(weight("query", (width, heads, rank)), float)
    k = np.asarray(weight("key", (width, heads * rank), heads=heads), float)
    k = k.reshape(width, heads, rank)
    for head, key in enumerate(jax.random.split(KEY, heads)):
        target = 0.7 * noise(key, width) + 0.7 * np.eye(width)
        product = q[:, head] @ k[:, head].T
        np.testing.assert_allclose(product, best(target, rank), atol=1e-5)
        # Both factors share the singular values evenly.
        grams = [w[:, head].T @ w[:, head] for w in (q, k)]
        np.testing.assert_allclose(*grams, atol=1e-5)


def test_value_and_output_factor_one_matrix():
    width = 12
    target = 0.4 * noise(KEY, width) - 0.4 * np.eye(width)
    value = np.asarray(weight("value", (width, 2, 5)), float).reshape(width, 10)
    output = np.asarray(weight("output", (2, 5, width)), float).reshape(10, width)
    np.testing.assert_allclose(value @ output, best(target, 10), atol=1e-5)


def test_attention_of_a_model_draws_pairs_from_one_key():
    """Factors of one matrix share its singular values; drawn apart they do not."""
    module = models.Attention()
    x = jnp.zeros((5, 6))
    shapes = jax.eval_shape(module.init, KEY, x, x)
    an = anatomy(lambda params, x: module.apply(params, x, x), shapes, x)
    draw = jax.jit(schemes.assign("mimetic", an, shapes).draw)
    params = jax.device_get(draw(KEY, models.zeros(shapes)))["params"]
    q, k, v, o = [
        np.asarray(params[part]["kernel"], float)
        for part in ("query", "key", "value", "out")
    ]
    for head in range(2):
        s = np.linalg.svd(q[:, head], compute_uv=False)
        other = np.linalg.svd(k[:, head], compute_uv=False)
        # A backward stable SVD in float32 is off by eps times the order, 6.
        np.testing.assert_allclose(s, other, rtol=0, atol=4 * 6 * EPS * s.max())
    product = v.reshape(6, 6) @ o.reshape(6, 6)
    s_value = np.linalg.svd(v.reshape(6, 6), compute_uv=False)
    s_product = np.linalg.svd(product, compute_uv=False)
    # Twice that of squares.
    atol = 8 * 6 * EPS * s_product.max()
    np.testing.assert_allclose(s_value**2, s_product, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("role", "shape"), [("query", (4, 5)), ("value", (4, 2, 3)), ("output", (5, 4))]
)
def test_more_channels_than_width_are_refused(role, shape):
    with pytest.raises(InputError, match=r"asks for rank \d of a 4×4 matrix; the ch"):
        weight(role, shape)


def test_heads_that_share_keys_are_refused():
    """Four heads of queries on two of keys: no pair of factors for each head."""

    def f(params, x):
        q = (x @ params["q"]).reshape(-1, 2, 2, 3)
        k = (x @ params["k"]).reshape(-1, 2, 3)
        v = (x @ params["v"]).reshape(-1, 2, 3)
        weights = jax.nn.softmax(jnp.einsum("qgrd,kgd->grqk", q, k))
        mixed = jnp.einsum("grqk,kgd->qgrd", weights, v)
        return x + mixed.reshape(-1, 12) @ params["o"]

    def shape(*sizes):
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    shapes = {"q": shape(12, 12), "k": shape(12, 6), "v": shape(12, 6)}
    shapes["o"] = shape(12, 12)
    an = anatomy(f, shapes, shape(5, 12))
    with pytest.raises(NotDefined, match=r"layer 'q': .* 4 heads .* 2 heads"):
        schemes.assign("mimetic", an, shapes)
