"""What a Layer and a Branch refuse, and what every scheme does with a plain MLP."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, networks, schemes
from isometry.schemes import Branch, Layer

KEY = jax.random.key(0)
BRANCH = Branch(0, 4, 0, 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Layer("hiden", 0, 2, 4, 4), r"Layer\(\): role='hiden' is not known.*Did you mean 'hidden'"),
        (lambda: Layer("query", 0, 2, 4, 4), r"role='query' lies on a residual branch; write branch="),
        (lambda: Layer("head", 1, 2, 4, 4, BRANCH), r"role='head' lies on the trunk; leave branch out"),
        (lambda: Layer("hidden", 0, 2, 4, 4, "branch 1"), r"branch='branch 1' is not a Branch"),
        (lambda: Layer("hidden", 2, 2, 4, 4), r"index=2 must be a whole number, between 0 and 1"),
        (lambda: Layer("hidden", 0, 2, 0, 4), r"fan_in=0 must be"),
        (
            lambda: schemes.get("fixup").initializer("head"),
            r"layer='head' is not a Layer; write schemes.Layer\(role, ind",
        ),
        (lambda: schemes.get("gaussian").bias_initializer(None), r"layer=None is not a Layer"),
        (lambda: schemes.get("rezero").residual(0), r"branch=0 is not a Branch; write schemes.Branch\(index, count, "),
        (lambda: Branch(0, 4, 2, 2), r"Branch\(\): position=2 must be a whole number, between 0 and 1"),
        (lambda: Branch(4, 4, 0, 2), r"index=4 must be"),
        (lambda: Branch(0, 0, 0, 2), r"count=0 must be"),
        (lambda: Branch(0, 1, 0, 0), r"length=0 must be"),
        (lambda: Branch(0, 1, 0, 1, "encodr"), r"stack='encodr' is not known.*'encoder'"),
        (lambda: Branch(0, 1, 0, 1, other=3), r"Branch\(\): other=3 needs stack, one of encoder, decoder"),
        (lambda: schemes.get("t_fixup").initializer(Layer("embedding", 0, 2, 9, 4)), r"an embedding is scaled by the"),
        (
            lambda: schemes.get("mimetic").initializer(Layer("query", 0, 2, 4, 4, BRANCH))(KEY, (4,)),
            r"mimetic\(\): shape=\(4,\) has one axis; an attention weight has two or three\.",
        ),
        (
            lambda: schemes.get("mirrored").initializer(Layer("hidden", 1, 3, 4, 4))(KEY, (4,)),
            r"mirrored\(\): shape=\(4,\) has one axis; a mirrored weight has at least two\.",
        ),
        (
            lambda: schemes.get("mirrored").initializer(Layer("value", 0, 2, 4, 4, BRANCH)),
            r"is no layer between activations",
        ),
        (
            lambda: networks.mlp([4, 6, 7, 6, 2], "relu", "looks_linear"),
            r"hidden of shape=\(6, 7\) has 7 outputs; hidden widths must be even",
        ),
        (lambda: networks.mlp([4, 5, 2], "relu", "mirrored"), r"stem of shape=\(4, 5\) has 5 outputs.*even"),
        (lambda: networks.mlp([4, 4, 2], "tanh", "fixup", 1.5), r"scheme 'fixup' fixes its own scale"),
    ],
)
def test_refusals(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_places_on_a_branch():
    assert [Branch(0, 6, p, 3).last for p in range(3)] == [False, False, True]
    assert Branch(0, 12, 0, 2).layers == Branch(0, 12, 0, 2, "encoder", 18).layers == 6
    assert Branch(0, 18, 0, 2, "decoder", 12).layers == 6
    assert Branch(0, 12, 0, 2, "decoder").layers == 6  # nothing to attend to: two branches a layer


@pytest.mark.parametrize("name", schemes.names())
def test_blocks_start_as_a_plain_sum_unless_stated(name):
    stated = {"rezero": (0, 1), "skipinit": (0, 1), "deep_norm": (1, 8**0.25)}
    assert schemes.get(name).residual(Branch(3, 8, 0, 2)) == pytest.approx(stated.get(name, (1, 1)), rel=1e-15)


@pytest.mark.parametrize("name", schemes.names())
def test_every_scheme_draws_every_depth(name):
    """Finite parameters of the right structure; depth 40 costs no more program than depth 10."""
    sizes = {}
    for depth in (1, 2, 3, 10, 40):
        net = networks.mlp([8, *[8] * (depth - 1), 6], "relu", name)
        jaxpr = jax.make_jaxpr(net.init)(KEY)
        sizes[depth] = str(jaxpr).count(" = ")  # equations, inner ones too
        assert [a.shape[-1] for a in jaxpr.out_avals][-1] == 6
    assert sizes[10] == sizes[40]


NETWORKS = {name: networks.mlp([8, 8, 8, 8, 6], "relu", name) for name in schemes.names()}


@pytest.fixture(scope="module")
def parameters():
    """Of every scheme, from two keys under jit and vmap, as one program."""
    keys = jax.random.split(KEY, 2)
    program = jax.jit(jax.vmap(lambda key: {name: net.init(key) for name, net in NETWORKS.items()}))
    return keys, jax.device_get(program(keys))


@pytest.mark.parametrize("name", schemes.names())
def test_jit_and_vmap_draw_finite_parameters(name, parameters):
    keys, together = parameters
    abstract = jax.eval_shape(NETWORKS[name].init, keys[1])
    for batch, single in zip(jax.tree.leaves(together[name]), jax.tree.leaves(abstract), strict=True):
        assert batch.shape == (2, *single.shape)
        assert np.isfinite(batch).all()


@pytest.mark.parametrize("name", ["orthogonal", "mirrored", "lsuv", "mup"])
def test_jit_and_vmap_draw_what_a_plain_call_draws(name, parameters):
    """A free scheme, and three whose layers differ by their place."""
    keys, together = parameters
    plain = NETWORKS[name].init(keys[1])
    for batch, single in zip(jax.tree.leaves(together[name]), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(batch[1], single, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def hidden_weights():
    """A hidden layer of every scheme in three dtypes, as one program."""
    layer = Layer("hidden", 1, 3, 8, 8, None)

    def program(key):
        return {
            (name, dtype): schemes.get(name).initializer(layer)(key, (8, 8), dtype)
            for name in schemes.names()
            for dtype in ("float32", "bfloat16", "float16")
        }

    return jax.device_get(jax.jit(program)(KEY))


@pytest.mark.parametrize("name", schemes.names())
def test_coarse_types_are_the_float32_draw_rounded(name, hidden_weights):
    single = hidden_weights[name, "float32"]
    for dtype in ("bfloat16", "float16"):
        coarse = hidden_weights[name, dtype]
        assert coarse.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(coarse, single.astype(coarse.dtype))
    init = schemes.get(name).initializer(Layer("hidden", 1, 3, 8, 8, None))
    with jax.enable_x64(True):
        double = jax.eval_shape(lambda key: init(key, (8, 8), jnp.float64), KEY)
    assert double.dtype == np.float64


def test_layers_may_be_taken_out_and_put_back():
    net = networks.mlp([4, 8, 6, 6, 6, 3], "tanh", "gaussian", 1.0, 0.5)
    params = jax.jit(net.init)(KEY)
    layers = list(net.layers(params))
    back = net.with_layers(params, iter(layers))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    for wrong, message in (
        (layers[:-1], r"with_layers\(\): from layer 4 on the shapes are .*; the network has 1 of 6×3\."),
        ([layers[1], layers[0], *layers[2:]], r"from layer 0 on the shapes are .*; the network has 1 of 4×8\."),
        ([*layers, layers[-1]], r"with_layers\(\): 6 layers for a network of 5\."),
    ):
        with pytest.raises(InputError, match=message):
            net.with_layers(params, wrong)
