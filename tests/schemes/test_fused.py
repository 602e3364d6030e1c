"""One weight for queries, keys and values, drawn as three where laws differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import schemes
from isometry._internal.errors import NotDefined
from isometry.structure import anatomy
from tests.schemes import models

KEY = jax.random.key(4)
EPS = float(np.finfo(np.float32).eps)
WIDTH, HEADS = 12, 2


def fused(part):
    """x + attention with one weight; `part` cuts queries, keys and values out of it."""

    def f(params, x):
        q, k, v = part(x @ params["qkv"] + params["bias"])
        q, k, v = [a.reshape(len(x), HEADS, WIDTH // HEADS) for a in (q, k, v)]
        weights = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", q, k))
        mixed = jnp.einsum("hqk,khd->qhd", weights, v)
        return x + mixed.reshape(len(x), WIDTH) @ params["out"]

    shapes = {
        "qkv": jax.ShapeDtypeStruct((WIDTH, 3 * WIDTH), jnp.float32),
        "bias": jax.ShapeDtypeStruct((3 * WIDTH,), jnp.float32),
        "out": jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32),
    }
    return shapes, anatomy(f, shapes, jax.ShapeDtypeStruct((5, WIDTH), jnp.float32))


def in_thirds(a):
    return jnp.split(a, 3, axis=-1)


def values_first(a):
    v, q, k = jnp.split(a, 3, axis=-1)
    return q, k, v


def head_by_head(a):
    parts = a.reshape(len(a), HEADS, 3, -1)
    return [parts[:, :, i].reshape(len(a), WIDTH) for i in range(3)]


@pytest.mark.parametrize(("part", "order"), [(in_thirds, "qkv"), (values_first, "vqk")])
def test_t_fixup_scales_the_values_alone(part, order):
    """Bounds of uniform entries: √(6/(2 d)); of values 0.67 N^(-1/4) less, N = 1/2."""
    shapes, an = fused(part)
    assert an.attentions[0].head_size == WIDTH // HEADS
    (row, *_) = schemes.assign("t_fixup", an, shapes).rows
    bounds = [float(text.split(")")[0]) for text in row.initializer.split("high=")[1:]]
    plain = (6 / (2 * WIDTH)) ** 0.5
    scaled = plain * 0.67 * 0.5**-0.25
    expected = {"q": plain, "k": plain, "v": scaled}
    assert bounds == pytest.approx([expected[role] for role in order])


def test_mimetic_pairs_lie_within_one_weight():
    """Queries and keys of a head share singular values, values and output theirs."""
    shapes, an = fused(values_first)
    draw = jax.jit(schemes.assign("mimetic", an, shapes).draw)
    params = jax.device_get(draw(KEY, models.zeros(shapes)))
    v, q, k = np.split(np.asarray(params["qkv"], float), 3, axis=1)
    size = WIDTH // HEADS
    for head in range(HEADS):
        columns = slice(head * size, (head + 1) * size)
        s = np.linalg.svd(q[:, columns], compute_uv=False)
        other = np.linalg.svd(k[:, columns], compute_uv=False)
        # A backward stable SVD in float32 is off by eps times the order, the width.
        np.testing.assert_allclose(s, other, rtol=0, atol=4 * WIDTH * EPS * s.max())
    s_value = np.linalg.svd(v, compute_uv=False)
    s_product = np.linalg.svd(v @ params["out"], compute_uv=False)
    # Twice that of squares.
    atol = 8 * WIDTH * EPS * s_product.max()
    np.testing.assert_allclose(s_value**2, s_product, rtol=0, atol=atol)


def test_schemes_with_one_law_draw_one_matrix():
    shapes, an = fused(in_thirds)
    (row, *_) = schemes.assign("orthogonal", an, shapes).rows
    assert (row.role, row.initializer) == ("qkv", "orthogonal(gain=1.0)")


@pytest.mark.parametrize("name", ["t_fixup", "deep_norm", "mimetic"])
def test_parts_that_cannot_be_told_apart_are_refused(name):
    """Head by head, queries, keys and values take turns along the outputs."""
    shapes, an = fused(head_by_head)
    assert an.attentions[0].shares == ()
    with pytest.raises(NotDefined, match=rf"layer 'qkv': .* {name} treats values"):
        schemes.assign(name, an, shapes)
