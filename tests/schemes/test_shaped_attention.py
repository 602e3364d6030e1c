"""Attention that starts as the identity on tokens: the claims, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import networks, schemes
from isometry._internal.errors import NotDefined
from isometry.structure import anatomy

WIDTH, HEADS, LENGTH, BLOCKS = 8, 2, 4, 3
KEY = jax.random.key(3)
NAMES = ("shaped_attention", "value_skipinit")


@functools.cache
def drawn(name, causal):
    """Three attentions in a row, without skips, norms and perceptrons."""
    net = networks.transformer(
        WIDTH,
        BLOCKS,
        HEADS,
        length=LENGTH,
        norm=None,
        causal=causal,
        scheme=name,
        attention="shaped",
    )
    params = jax.jit(net.init)(KEY)
    blocks = params["blocks"]
    blocks["attention"]["skip"] = jnp.zeros(BLOCKS)
    blocks["mlp"]["branch"] = jnp.zeros(BLOCKS)
    return net, params


def per_token(params):
    """The map of one token: W_V W_O of each block, one after the other, in float64."""
    product = np.eye(WIDTH)
    attention = params["blocks"]["attention"]
    for block in range(BLOCKS):
        for part in ("value", "output"):
            w = np.asarray(attention[part]["w"][block], float)
            product = product @ w.reshape(WIDTH, WIDTH)
    return product


@pytest.mark.parametrize(
    ("name", "causal"), [("shaped_attention", False), ("value_skipinit", True)]
)
def test_jacobian_is_the_identity_on_tokens(name, causal):
    """J = I ⊗ W_V W_O, to float32 of six products of norm about 1."""
    net, params = drawn(name, causal)
    x = jax.random.normal(jax.random.key(4), (LENGTH, WIDTH))
    jacobian = jax.jit(jax.jacobian(net.function, argnums=1))(params, x)
    token = per_token(params)
    expected = np.einsum("ts,de->tesd", np.eye(LENGTH), token)
    np.testing.assert_allclose(jacobian, expected, atol=1e-5 * np.abs(token).max())
    # One scheme makes it orthogonal, the other leaves it Gaussian.
    gram = token.T @ token
    is_isometry = np.allclose(gram, np.eye(WIDTH), atol=1e-5)
    assert is_isometry == (name == "value_skipinit")


def test_tokens_do_not_become_alike():
    """Plain attention without logits makes all tokens equal, shaped keeps their rank.

    Three products of Gaussian matrices of size 8 have a condition number of about 1e4
    at most, of which four tokens see a part.
    """
    net, params = drawn("shaped_attention", causal=False)
    x = jax.random.normal(jax.random.key(4), (LENGTH, WIDTH))
    shaped = np.linalg.svd(net(params, x), compute_uv=False)
    assert shaped[-1] > 1e-3 * shaped[0]
    attention = params["blocks"]["attention"]
    zeros, ones = jnp.zeros(BLOCKS), jnp.ones(BLOCKS)
    plain = dict(attention, alpha=zeros, beta=ones, gamma=zeros)
    blocks = dict(params["blocks"], attention=plain)
    collapsed = np.linalg.svd(net({"blocks": blocks}, x), compute_uv=False)
    assert collapsed[1] < 1e-5 * collapsed[0]


def test_queries_can_leave_zero():
    """With queries and keys both at 0 neither would ever have a gradient."""
    net, params = drawn("shaped_attention", causal=False)
    x = jax.random.normal(jax.random.key(4), (LENGTH, WIDTH))

    def loss(params):
        return (net(params, x) ** 2).sum()

    gradient = jax.jit(jax.grad(loss))(params)["blocks"]["attention"]
    assert not params["blocks"]["attention"]["query"]["w"].any()
    assert (np.abs(gradient["query"]["w"]).max((1, 2, 3)) > 1e-3).all()


def test_weights_have_the_scale_that_keeps_mean_squares():
    layer = functools.partial(schemes.Layer, index=0, depth=4, fan_in=64, fan_out=16)
    choose = schemes.get("shaped_attention").initializer
    assert repr(choose(layer("query"))) == "zeros()"
    for role in ("key", "value", "output", "stem", "hidden", "head"):
        assert repr(choose(layer(role))) == "normal(mean=0.0, std=0.125)"
    behind = layer("hidden", precedes="relu")
    assert repr(choose(behind)) == f"normal(mean=0.0, std={32**-0.5})"


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def attend(p, x, matrix):
    weights = jax.nn.softmax((x @ p["q"]) @ (x @ p["k"]).T)
    return matrix(p, weights) @ (x @ p["v"]) @ p["o"]


@pytest.mark.parametrize("name", NAMES)
def test_models_of_users_are_set_by_what_their_leaves_multiply(name):
    """Names say nothing; a number that the program fixes must be the scheme's."""

    def matrix(p, weights):
        uniform = jnp.full((LENGTH, LENGTH), 1 / LENGTH)
        return jnp.eye(LENGTH) + p["one"] * weights - p["two"] * uniform

    f = functools.partial(attend, matrix=matrix)
    shapes = {part: shape(WIDTH, WIDTH) for part in "qkvo"}
    shapes |= {"one": shape(), "two": shape()}
    an = anatomy(f, shapes, shape(LENGTH, WIDTH))
    assignment = schemes.assign(name, an, shapes)
    ours = {row.path: row.initializer for row in assignment.rows}
    start = "constant(1)" if name == "shaped_attention" else "constant(0)"
    assert ours["['one']"] == ours["['two']"] == start


@pytest.mark.parametrize("name", NAMES)
def test_plain_attention_is_refused(name):
    with pytest.raises(
        NotDefined,
        match=r"attention of layer 'blocks/attention/query': scheme .* starts alpha of "
        r".* at 1, and the network fixes 0, .* attention='shaped'",
    ):
        networks.transformer(WIDTH, 1, HEADS, length=LENGTH, scheme=name)


def test_one_leaf_for_two_numbers_is_refused():
    def matrix(p, weights):
        return p["both"] * (jnp.eye(LENGTH) + weights)

    f = functools.partial(attend, matrix=matrix)
    shapes = {part: shape(WIDTH, WIDTH) for part in "qkvo"} | {"both": shape()}
    an = anatomy(f, shapes, shape(LENGTH, WIDTH))
    with pytest.raises(NotDefined, match=r"'both'\] carries another of the three"):
        schemes.assign("value_skipinit", an, shapes)


def test_attention_that_cannot_be_read_is_refused():
    f = functools.partial(attend, matrix=lambda p, weights: p["entries"] * weights)
    shapes = {part: shape(WIDTH, WIDTH) for part in "qkvo"}
    shapes["entries"] = shape(LENGTH, LENGTH)
    an = anatomy(f, shapes, shape(LENGTH, WIDTH))
    with pytest.raises(NotDefined, match=r"layer 'q': .* cannot be read as such a m"):
        schemes.assign("value_skipinit", an, shapes)


@pytest.mark.parametrize(
    ("query", "message"),
    [("k", "layer 'k': .* one weight makes both"), (None, "without a weight")],
)
def test_queries_without_a_weight_of_their_own_are_refused(query, message):
    def f(p, x):
        queries = x if query is None else x @ p[query]
        weights = jax.nn.softmax(queries @ (x @ p["k"]).T)
        uniform = jnp.full((LENGTH, LENGTH), 1 / LENGTH)
        return (jnp.eye(LENGTH) + weights - uniform) @ (x @ p["v"]) @ p["o"]

    shapes = {part: shape(WIDTH, WIDTH) for part in "kvo"}
    an = anatomy(f, shapes, shape(LENGTH, WIDTH))
    with pytest.raises(NotDefined, match=message):
        schemes.assign("shaped_attention", an, shapes)
