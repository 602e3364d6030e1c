"""Initializers, schemes, networks: a right answer or a refusal, whatever is passed."""

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
    mostly,
    numpy_network,
    singular_values,
)

ENTRIES = {entry.name: entry for entry in initializers.catalogue()}
NAMES = st.sampled_from(sorted(ENTRIES))


@functools.cache
def initializer(name):
    """The initializer of this name, with the arguments that it cannot do without."""
    return ENTRIES[name].factory(**NEEDED.get(name, {}))


def require_close(a, b, tolerance):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert np.allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("x64")
@given(name=NAMES, key=KEYS, shape=SHAPES, dtype=DTYPES, traced=st.booleans())
def test_every_initializer_draws_what_is_asked_or_refuses(
    name, key, shape, dtype, traced
):
    """Shape and dtype as asked, finite, and the same under jit.

    The singular values of `orthogonal` are all 1 (Saxe et al., 2014).
    """
    done, w = answers(initializer(name), key, shape, dtype)
    if not done:
        return
    assert w.shape == tuple(shape)
    asked = float if dtype is None else dtype
    assert w.dtype == jax.dtypes.canonicalize_dtype(asked)
    assert np.isfinite(np.asarray(w, np.float32)).all()
    if name == "orthogonal":
        flat = np.asarray(w, np.float64).reshape(-1, w.shape[-1])
        tolerance = 8 * max(flat.shape) * eps_of(w)
        assert np.allclose(singular_values(flat), 1, atol=tolerance)
    # Some initializers ignore their key, but eval_shape wants an array.
    if isinstance(key, str):
        key = jax.random.key(0)

    def draw(key):
        return initializer(name)(key, shape, dtype)

    _, abstract = answers(jax.eval_shape, draw, key)
    assert (abstract.shape, abstract.dtype) == (w.shape, w.dtype)
    if traced:
        _, again = answers(jax.jit(draw), key)
        require_close(again, w, tolerance=4 * eps_of(w))


ARGUMENTS = {
    "mode": st.sampled_from(["fan_in", "fan_out", "fan_avg", "fan", None]),
    "nonlinearity": st.sampled_from(["relu", "tanh", "leaky_relu", "gelu", 3]),
    "distribution": st.sampled_from(
        ["normal", "uniform", "truncated_normal", "cauchy", None]
    ),
    "weights": st.sampled_from(["gaussian", "orthogonal", "haar", 1]),
    "activation": ANY_ACTIVATION,
    "in_axis": st.sampled_from([-2, 0, 1, (0, 1), (), 7, "in", None, 1.5]),
    "out_axis": st.sampled_from([-1, 0, 1, (0, 1), (), -7, "out", None]),
    "batch_axis": st.sampled_from([(), 0, (0,), (0, 1), "batch", None]),
    "groups": WHOLE,
    "fan_in": WHOLE,
    "layout": st.sampled_from(["jax", "torch", "heads_in", "heads_out", "no", 1.0]),
    "dtype": DTYPES,
}
ZER_O_ARGUMENTS = st.sampled_from(["code", "paper", 1.0])


@given(draw=st.data(), name=NAMES, key=GOOD_KEYS, shape=SHAPES)
def test_every_factory_takes_or_refuses_each_argument(draw, name, key, shape):
    factory = ENTRIES[name].factory
    arguments = dict(NEEDED.get(name, {}))
    others = ZER_O_ARGUMENTS if name == "zer_o" else NUMBERS
    for parameter in inspect.signature(factory).parameters:
        # Few of them are passed: two that are odd are refused as one is.
        if draw.draw(st.integers(0, 3)) == 3:
            arguments[parameter] = draw.draw(ARGUMENTS.get(parameter, others))
    done, init = answers(factory, **arguments)
    if not done:
        return
    for dtype in (None, jnp.float16):
        drawn, w = answers(init, key, shape, dtype)
        context = (name, arguments, shape, dtype)
        assert not drawn or np.isfinite(np.asarray(w, np.float32)).all(), context
    assert repr(init).startswith(name)


@FEW
@given(name=NAMES, shape=st.sampled_from([(5, 5), (3, 3, 2, 2), (3,)]))
def test_a_stack_drawn_by_vmap_is_what_its_keys_draw(name, shape):
    keys = jax.random.split(jax.random.key(1), 3)
    done, stack = answers(jax.vmap(lambda key: initializer(name)(key, shape)), keys)
    if done:
        each = np.stack([initializer(name)(key, shape) for key in keys])
        require_close(stack, each, tolerance=64 * eps_of(stack))


LAYERS = st.builds(
    schemes.Layer,
    st.sampled_from(["stem", "hidden", "head"]),
    st.just(1),
    st.just(3),
    SIZES,
    SIZES,
)
NO_SCHEMES = st.sampled_from(
    [
        initializers.orthogonal,
        initializer("orthogonal"),
        "orthogonol",
        "",
        None,
        3,
        b"zeros",
        [],
        object(),
    ]
)


@given(
    what=mostly(st.sampled_from([*schemes.names(), *ENTRIES]), NO_SCHEMES),
    layer=mostly(LAYERS, st.sampled_from([None, "stem", (3, 3)])),
)
def test_schemes_choose_initializers_that_draw_or_refuse(what, layer):
    done, scheme = answers(schemes.get, what)
    if not done:
        return
    has_initializer, init = answers(scheme.initializer, layer)
    answers(scheme.drawn, layer)
    if not has_initializer:
        return
    shape = (layer.fan_in, layer.fan_out)
    drawn, w = answers(init, jax.random.key(0), shape)
    if drawn:
        assert w.shape == shape
        assert np.isfinite(np.asarray(w)).all()


INDICES = mostly(st.integers(0, 2), WHOLE)
DEPTHS = mostly(st.integers(3, 6), WHOLE)


@given(
    role=mostly(st.sampled_from(["stem", "hidden", "query"]), WRONG),
    index=INDICES,
    depth=DEPTHS,
    fan_in=WHOLE,
    fan_out=WHOLE,
    position=INDICES,
    length=DEPTHS,
)
def test_layers_and_branches_are_built_or_refused(
    role, index, depth, fan_in, fan_out, position, length
):
    """What is built can be printed."""
    done, branch = answers(schemes.Branch, index, depth, position, length)
    where = branch if done else None
    built, layer = answers(schemes.Layer, role, index, depth, fan_in, fan_out, where)
    if built:
        assert repr(layer).startswith("Layer(")


WIDTHS = mostly(
    st.lists(SIZES, min_size=2, max_size=5),
    st.sampled_from(
        [
            [],
            [3],
            [3, 0, 2],
            [3, 2.5],
            "ab",
            None,
            5,
            [True, 2],
            np.array([3, 2]),
            [3, "4"],
            [-1, 2],
        ]
    ),
)
MLP_SCHEMES = mostly(
    st.sampled_from(
        ["gaussian", "orthogonal", "he_normal", "zer_o", "mirrored", "lsuv"]
    ),
    st.sampled_from(["no", None, 3]),
)


@pytest.mark.usefixtures("x64")
@given(
    widths=WIDTHS,
    activation=mostly(st.sampled_from(sorted(PHI)), ODD_ACTIVATIONS),
    dtype=DTYPES,
    key=KEYS,
    scheme=MLP_SCHEMES,
    sigma_w=mostly(st.none(), NUMBERS),
    sigma_b=mostly(st.none(), NUMBERS),
    bias=st.booleans(),
)
def test_mlps_return_what_numpy_does_or_refuse(
    widths, activation, dtype, key, scheme, sigma_w, sigma_b, bias
):
    """The output is off by rounding of a product: depth eps prod |W|."""
    done, net = answers(
        networks.mlp, widths, activation, scheme, sigma_w, sigma_b, bias, dtype
    )
    if not done:
        return
    drawn, params = answers(net.init, key)
    if not drawn:
        return
    repr(net)
    x = np.linspace(-1, 1, net.widths[0])
    called, y = answers(net, params, x)
    # A batch, where one example is meant.
    answers(net, params, x[None])
    is_critical = sigma_w is None and sigma_b is None
    is_float32 = net.dtype == jnp.float32
    if called and is_critical and is_float32 and activation in PHI:
        expected, _, weights = numpy_network(params, x, activation)
        norms = [max(1.0, singular_values(w)[0]) for w in weights]
        bound = 16 * net.depth * eps_of(y) * np.prod(norms) * (1 + len(x))
        assert np.abs(np.asarray(y) - expected).max() <= bound


SCALED_TANH = [lambda p, x: p * x, lambda p, x: jnp.tanh(x), lambda p, x: p * x]
BLOCKS = mostly(
    st.just(SCALED_TANH),
    st.one_of(
        st.lists(st.sampled_from([jnp.tanh, 3, None, "f"]), max_size=4),
        st.sampled_from([None, 3, "ab", jnp.tanh, {}]),
    ),
)
VECTORS = mostly(
    st.sampled_from([np.ones(3, np.float32), np.ones(3)]),
    st.sampled_from([None, "x", np.float32(2)]),
)


@FEW
@given(
    blocks=BLOCKS,
    params=mostly(st.tuples(PLAIN, PLAIN, PLAIN), WRONG),
    x=VECTORS,
)
def test_chains_are_measured_or_refused(blocks, params, x):
    """Blocks are elementwise, so that the Jacobian is diagonal."""
    done, net = answers(networks.chain, blocks)
    if not done:
        return
    has_jacobian, jacobian = answers(isometry.jacobian, net, params, x)
    measured, sp = answers(isometry.spectrum, net, params, x, method="product")
    if not has_jacobian:
        return
    # What a block itself raises is passed on by `certify`, and is no refusal.
    answers(isometry.certify, net, params, x)
    expected = np.sort(np.abs(np.diag(jacobian)))[::-1]
    assert np.count_nonzero(jacobian) <= len(expected)
    if measured:
        s = np.exp(np.asarray(sp.log_values, np.float64))
        # Factors of three blocks are rounded, and ln s.
        assert np.allclose(s, expected, rtol=64 * eps_of(sp.log_values), atol=1e-37)
