"""Initializers, schemes and networks: a right answer or a refusal, whatever is passed."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import isometry
from isometry import initializers, networks, schemes
from tests.needed import NEEDED
from tests.unbreakable.calls import (
    ANY_ACTIVATION,
    DTYPES,
    FEW,
    GOOD_KEYS,
    KEYS,
    NUMBERS,
    ODD_ACTIVATIONS,
    PHI,
    PLAIN,
    SHAPES,
    SIZES,
    WHOLE,
    WRONG,
    answers,
    eps_of,
    numpy_network,
    singular_values,
)

ENTRIES = {entry.name: entry for entry in initializers.catalogue()}


@functools.cache
def made(name):
    return ENTRIES[name].factory(**NEEDED.get(name, {}))


@pytest.mark.usefixtures("x64")
@given(name=st.sampled_from(sorted(ENTRIES)), key=KEYS, shape=SHAPES, dtype=DTYPES, traced=st.booleans())
def test_every_initializer(name, key, shape, dtype, traced):
    """Shape and dtype as asked, finite; the same traced; the singular values of `orthogonal` all one (Saxe et al.)."""
    done, w = answers(made(name), key, shape, dtype)
    if not done:
        return
    assert w.shape == tuple(shape)
    assert w.dtype == jax.dtypes.canonicalize_dtype(float if dtype is None else dtype)
    assert np.isfinite(np.asarray(w, np.float32)).all()
    if name == "orthogonal":
        flat = np.asarray(w, np.float64).reshape(-1, w.shape[-1])
        assert np.allclose(singular_values(flat), 1, atol=8 * max(flat.shape) * float(jnp.finfo(w.dtype).eps))
    key = jax.random.key(0) if isinstance(key, str) else key  # some ignore it, but eval_shape wants an array
    shaped = answers(jax.eval_shape, lambda key: made(name)(key, shape, dtype), key)[1]
    assert (shaped.shape, shaped.dtype) == (w.shape, w.dtype)
    if traced:
        again = answers(jax.jit(lambda key: made(name)(key, shape, dtype)), key)[1]
        tiny = 4 * float(jnp.finfo(w.dtype).eps)
        assert np.allclose(np.asarray(again, np.float32), np.asarray(w, np.float32), rtol=tiny, atol=tiny)


ARGUMENTS = {
    "mode": st.sampled_from(["fan_in", "fan_out", "fan_avg", "fan", None]),
    "nonlinearity": st.sampled_from(["relu", "tanh", "leaky_relu", "gelu", 3]),
    "distribution": st.sampled_from(["normal", "uniform", "truncated_normal", "cauchy", None]),
    "weights": st.sampled_from(["gaussian", "orthogonal", "haar", 1]),
    "activation": ANY_ACTIVATION,
    "in_axis": st.sampled_from([-2, 0, 1, (0, 1), (), 7, "in", None, 1.5]),
    "out_axis": st.sampled_from([-1, 0, 1, (0, 1), (), -7, "out", None]),
    "batch_axis": st.sampled_from([(), 0, (0,), (0, 1), "batch", None]),
    "groups": WHOLE,
    "fan_in": WHOLE,
}


@given(draw=st.data(), name=st.sampled_from(sorted(ENTRIES)), key=GOOD_KEYS, shape=SHAPES)
def test_every_factory_and_argument(draw, name, key, shape):
    factory, given_ = ENTRIES[name].factory, dict(NEEDED.get(name, {}))
    for parameter in inspect.signature(factory).parameters:
        kind = ARGUMENTS.get(parameter, st.sampled_from(["code", "paper", 1.0]) if name == "zer_o" else NUMBERS)
        if draw.draw(st.booleans()):
            given_[parameter] = draw.draw(kind)
    done, init = answers(factory, **given_)
    if done:
        for dtype in (None, jnp.float16):
            drawn, w = answers(init, key, shape, dtype)
            assert not drawn or np.isfinite(np.asarray(w, np.float32)).all(), (name, given_, shape, dtype)
        assert repr(init).startswith(name)


@FEW
@given(name=st.sampled_from(sorted(ENTRIES)), shape=st.sampled_from([(5, 5), (3, 3, 2, 2), (3,)]))
def test_initializers_under_vmap(name, shape):
    """A stack drawn by vmap is what its keys draw one by one."""
    keys = jax.random.split(jax.random.key(1), 3)
    done, stack = answers(jax.vmap(lambda key: made(name)(key, shape)), keys)
    if done:
        each = np.stack([made(name)(key, shape) for key in keys])
        assert np.allclose(stack, each, rtol=64 * eps_of(stack), atol=64 * eps_of(stack))


LAYERS = st.builds(schemes.Layer, st.sampled_from(["stem", "hidden", "head"]), st.just(1), st.just(3), SIZES, SIZES)


@given(
    what=st.one_of(
        st.sampled_from([*schemes.names(), *ENTRIES]),
        st.sampled_from(
            [initializers.orthogonal, made("orthogonal"), "orthogonol", "", None, 3, b"zeros", [], object()]
        ),
    ),
    layer=st.one_of(LAYERS, st.sampled_from([None, "stem", (3, 3)])),
)
def test_schemes(what, layer):
    done, scheme = answers(schemes.get, what)
    if not done:
        return
    found, init = answers(scheme.initializer, layer)
    answers(scheme.drawn, layer)
    if found:
        drawn, w = answers(init, jax.random.key(0), (layer.fan_in, layer.fan_out))
        assert not drawn or (w.shape == (layer.fan_in, layer.fan_out) and np.isfinite(np.asarray(w)).all())


@given(
    role=st.one_of(st.sampled_from(["stem", "hidden", "query"]), WRONG),
    index=WHOLE,
    depth=WHOLE,
    fan_in=WHOLE,
    fan_out=WHOLE,
    position=WHOLE,
    length=WHOLE,
)
def test_layers_and_branches(role, index, depth, fan_in, fan_out, position, length):
    done, branch = answers(schemes.Branch, index, depth, position, length)
    answers(schemes.Layer, role, index, depth, fan_in, fan_out, branch if done else position)


WIDTHS = st.one_of(
    st.lists(SIZES, min_size=2, max_size=5),
    st.sampled_from([[], [3], [3, 0, 2], [3, 2.5], "ab", None, 5, [True, 2], np.array([3, 2]), [3, "4"], [-1, 2]]),
)


@pytest.mark.usefixtures("x64")
@given(
    widths=WIDTHS,
    activation=st.one_of(st.sampled_from(sorted(PHI)), ODD_ACTIVATIONS),
    dtype=DTYPES,
    key=KEYS,
    scheme=st.sampled_from(["gaussian", "orthogonal", "he_normal", "zer_o", "mirrored", "lsuv", "no", None, 3]),
    sigma_w=st.one_of(st.none(), st.none(), NUMBERS),
    sigma_b=st.one_of(st.none(), st.none(), NUMBERS),
    bias=st.booleans(),
)
def test_mlps(widths, activation, dtype, key, scheme, sigma_w, sigma_b, bias):
    done, net = answers(networks.mlp, widths, activation, scheme, sigma_w, sigma_b, bias, dtype)
    drawn, params = answers(net.init, key) if done else (False, None)
    if not drawn:
        return
    repr(net)
    x = np.linspace(-1, 1, net.widths[0])
    found, y = answers(net, params, x)
    answers(net, params, x[None])
    if found and activation in PHI and net.dtype == jnp.float32 and sigma_w is None and sigma_b is None:
        truth, _, ws = numpy_network(params, x, activation)
        scale = np.prod([max(1.0, singular_values(w)[0]) for w in ws]) * (1 + len(x))
        assert np.abs(np.asarray(y) - truth).max() <= 16 * net.depth * eps_of(y) * scale


@given(
    blocks=st.one_of(
        st.lists(st.sampled_from([jnp.tanh, lambda p, x: p * x, lambda p, x: x, 3, None, "f"]), max_size=4),
        st.sampled_from([None, 3, "ab", jnp.tanh, {}]),
    ),
    params=st.one_of(st.tuples(PLAIN, PLAIN), WRONG),
    x=st.sampled_from([np.ones(3, np.float32), np.ones(3), None, "x", np.float32(2)]),
)
def test_chains(blocks, params, x):
    done, net = answers(networks.chain, blocks)
    if done:
        answers(isometry.jacobian, net, params, x)
        answers(isometry.spectrum, net, params, x, method="product")
        answers(isometry.certify, net, params)
