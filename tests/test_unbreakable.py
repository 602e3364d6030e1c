"""Whatever is passed to the public API, the answer is right or a refusal in our words, never a traceback from below.

Calls are drawn valid and invalid: dtypes, shapes, sizes of 1 and 0, huge and tiny scales, NaN, infinity, wrong types,
views that are not contiguous, old and new keys, jit, vmap and eval_shape. `--hypothesis-profile long` makes 10,000.
"""

import collections
import functools
import inspect
import json
import math
import os
import re
import traceback
import warnings
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import isometry
from isometry import InputError, activations, data, initializers, linalg, networks, schemes, store, theory

HOME = str(Path(isometry.__file__).parent)
EPS = float(np.finfo(np.float32).eps)
CALLS = collections.Counter()
_FORM = re.compile(r"[A-Za-z_][\w.]*(\(\))?: \S")  # the call, then what is wrong with which argument
_HOST = re.compile(r"[A-Za-z_][\w.]*\(\): .+ is traced; .+ runs on the host\.", re.DOTALL)


def answers(call, *arguments, **named):
    """(True, the result), or (False, the refusal): an `InputError` or, of a tracer, a `TypeError`, raised by isometry
    itself in the form that `_checks` gives it. Anything else is a failure."""
    CALLS[getattr(call, "__qualname__", type(call).__name__)] += 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", isometry.PrecisionWarning)
            warnings.simplefilter("ignore", isometry.BatchWarning)
            return True, call(*arguments, **named)
    except Exception as error:
        raised = traceback.extract_tb(error.__traceback__)[-1].filename
        ours = isinstance(error, (InputError, theory.NotConverged)) and _FORM.match(str(error))
        host = type(error) is TypeError and _HOST.match(str(error))
        if not (ours or host) or not raised.startswith(HOME):
            raise AssertionError(f"{call} of {arguments}, {named} raised {type(error).__name__}: {error}") from error
        return False, error


FEW = settings(max_examples=max(3, settings().max_examples // 4))
"""For what compiles anew at each call, or takes a second."""

# What is passed.
SIZES = st.sampled_from([1, 2, 3, 5])
SHAPES = st.one_of(
    st.sampled_from([(2, 3), (3, 2), (5, 5), (1, 1), (3,), (3, 3, 2, 2), (3, 2, 4), [3, 2]]),
    st.sampled_from([(), (0,), (2, 0), (-1, 3), (2.5, 3), "ab", None, 7, np.array([2, 3]), (True, 2), (10**30,)]),
)
WRONG = st.sampled_from(
    [
        None,
        "a",
        b"1",
        "0.5",
        True,
        np.bool_(True),
        1j,
        [],
        (),
        {},
        [1.0, 2.0],
        object(),
        np.ones(1),
        np.ones((2, 2)),
        np.array(["a"]),
        jnp.ones(3),
        Fraction(1, 2),
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.random.key(0),
    ]
)
EXTREME = st.sampled_from(
    [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-320, 1e-200, 1e-45, 1e38, 1e200, 1.7e308, 10**400, -(10**400), -1]
)
PLAIN = st.sampled_from([0.5, 1, 1.5, 2, 0.25, np.float32(0.7), np.float64(1.1), np.int32(2), np.array(1.25)])
NUMBERS = st.one_of(PLAIN, PLAIN, st.floats(1e-3, 10.0), EXTREME, WRONG)
WHOLE = st.one_of(st.integers(1, 6), st.integers(1, 6), st.sampled_from([0, -1, 2.5, 10**30, np.int64(3)]), WRONG)
FEW_OF = st.one_of(st.integers(1, 6), st.integers(1, 6), st.sampled_from([0, -1, 2.5, np.int64(3)]), WRONG)
SEEDS = st.integers(0, 2**31 - 1)
GOOD_KEYS = st.one_of(SEEDS.map(jax.random.key), SEEDS.map(jax.random.PRNGKey))
KEYS = st.one_of(
    GOOD_KEYS,
    GOOD_KEYS,
    SEEDS.map(lambda seed: jax.random.key(seed, impl="rbg")),
    st.sampled_from([None, 0, "key", np.zeros(2, np.int32), np.zeros(2, np.uint32), np.zeros((2, 2), np.uint32)]),
    st.just(jax.random.split(jax.random.key(0), 2)),
)
DTYPES = st.one_of(
    st.sampled_from([None, "float32", jnp.float32, jnp.bfloat16, jnp.float16, float]),
    st.sampled_from(["float64", int, "int8", complex, "no", bool, 3, object(), jnp.float8_e4m3fn, jnp.ones(2)]),
)
ACTIVATIONS = st.sampled_from(["tanh", "relu", "linear", "hard_tanh", "erf", "gelu"])
ODD_ACTIVATIONS = st.sampled_from(
    ["tahn", "", None, 3, jnp.sum, jax.nn.softmax, jnp.tanh, jnp.log, jnp.sign, np.tanh, [], b"tanh", jnp.exp]
)
ANY_ACTIVATION = st.one_of(ACTIVATIONS, ACTIVATIONS, ODD_ACTIVATIONS)
VARIABLES = st.sampled_from(["lam", "lam", "s", "log_s", "sigma", None])


@st.composite
def matrices(draw, batch=False, square=False):
    """An array (m, n) or (b, m, n): entries, dtype, scale and memory layout of every kind, mostly sound."""
    m, n = draw(SIZES), draw(SIZES)
    shape = (m, m if square else n)
    shape = (draw(SIZES), *shape) if batch and draw(st.booleans()) else shape
    a = np.random.default_rng(draw(SEEDS)).standard_normal(shape)
    a = a * 10.0 ** draw(st.sampled_from([0, 0, 0, -3, 3, -15, 15, -30, 30]))
    kind = draw(st.sampled_from(["plain", "plain", "plain", "zero", "rank one", "identity", "nan", "inf"]))
    if kind in ("zero", "rank one"):
        a = a * 0 if kind == "zero" else a[..., :1] @ np.ones((1, shape[-1]))
    if kind == "identity":
        a = np.broadcast_to(np.eye(*shape[-2:]), shape)
    if kind in ("nan", "inf"):
        a[..., 0, 0] = math.nan if kind == "nan" else math.inf
    with np.errstate(over="ignore", invalid="ignore"):
        a = a.astype(draw(st.sampled_from([np.float32, np.float32, np.float32, np.float64, np.float16, jnp.bfloat16])))
    layout = draw(st.sampled_from(["C", "F", "reversed", "strided", "jax"]))
    if layout == "strided":
        a = np.repeat(a, 2, axis=-1)[..., ::2]
    return {"F": np.asfortranarray, "reversed": lambda a: a[..., ::-1], "jax": jnp.asarray}.get(layout, lambda a: a)(a)


ODD_ARRAYS = st.one_of(
    WRONG,
    st.sampled_from(
        [
            np.ones((2, 2), int),
            np.ones((2, 2), complex),
            np.ones((2, 2), bool),
            np.ones((0, 3), np.float32),
            np.float32(2),
            np.ones((2, 3, 0), np.float32),
            [[1.0, 2.0], [3.0, 4.0]],
            [[1.0], [2.0, 3.0]],
            np.array([["a", "b"]]),
            np.array([[None, 1.0]]),
            np.ones(3, np.float32),
            np.array(object()),
            3.0,
        ]
    ),
)


def singular_values(a):
    """The oracle: by LAPACK in float64, of the array as float32 sees it."""
    return np.linalg.svd(np.asarray(a, np.float64), compute_uv=False)


def as_measured(a):
    """float64 is float32 with x64 off."""
    a = np.asarray(a)
    with np.errstate(over="ignore"):
        return a.astype(np.float32) if a.dtype == np.float64 and not jax.config.jax_enable_x64 else a


def sound(a):
    return bool(np.isfinite(np.asarray(as_measured(a), np.float64)).all())


def close_to_svd(log_values, a, slack=1.0):
    """ln s within what a float32 SVD resolves: s off by at most max(m, n)·eps·s_max, whatever the scale (Weyl)."""
    truth, logs = singular_values(a), np.asarray(log_values, np.float64)
    s = np.exp(logs)
    rounding = np.where(np.isfinite(logs), np.abs(logs), 0) * s * EPS  # of ln s itself
    bound = slack * 4 * max(np.shape(a)[-2:]) * EPS * truth[..., :1] + rounding
    assert (np.abs(s - truth) <= bound + 1e-44).all(), (s, truth)


def kept(values, name):
    """Whether a result holds no NaN."""
    for leaf in jax.tree.leaves(values):
        a = np.asarray(leaf, np.float64)
        assert not np.isnan(a).any(), (name, values)


# Initializers, schemes, networks.

ENTRIES = {entry.name: entry for entry in initializers.catalogue()}
NEEDED = {
    "constant": {"value": 0.5},
    "critical": {"activation": "tanh"},
    "sparse": {"sparsity": 0.5},
    "sparse_orthogonal": {"density": 0.5},
    "torch_default_bias": {"fan_in": 9},
    "variance_scaling": {"scale": 2.0, "mode": "fan_avg", "distribution": "truncated_normal"},
}


@functools.cache
def made(name):
    return ENTRIES[name].factory(**NEEDED.get(name, {}))


@given(name=st.sampled_from(sorted(ENTRIES)), key=KEYS, shape=SHAPES, dtype=DTYPES, traced=st.booleans())
def test_every_initializer(name, key, shape, dtype, traced):
    """Shape and dtype as asked, finite; the same traced; the singular values of `orthogonal` all one (FACTS: Saxe)."""
    done, w = answers(made(name), key, shape, dtype)
    if not done:
        return
    assert w.shape == tuple(shape)
    assert w.dtype == jnp.dtype(jnp.float32 if dtype in (None, float) else dtype)
    assert np.isfinite(np.asarray(w, np.float32)).all()
    if name == "orthogonal":
        flat = np.asarray(w, np.float64).reshape(-1, w.shape[-1])
        assert np.allclose(singular_values(flat), 1, atol=8 * max(flat.shape) * float(jnp.finfo(w.dtype).eps))
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
        assert np.allclose(stack, each, rtol=64 * EPS, atol=64 * EPS)


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
PHI = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0), "linear": lambda z: z}
SLOPE = {"tanh": lambda z: 1 - np.tanh(z) ** 2, "relu": lambda z: (z > 0) * 1.0, "linear": np.ones_like}


def numpy_network(params, x, activation):
    """(output, pre-activations, weights as (out, in)) in float64, straight from the definition."""
    ws, zs, h = [], [], np.asarray(x, np.float64)
    for run in params["layers"]:
        for i in range(run["w"].shape[0]):
            w = np.asarray(run["w"][i], np.float64)
            h = (PHI[activation](zs[-1]) if zs else h) @ w + (np.asarray(run["b"][i], np.float64) if "b" in run else 0)
            ws.append(w.T)
            zs.append(h)
    return h, zs, ws


def numpy_jacobian(params, x, activation):
    _, zs, ws = numpy_network(params, x, activation)
    jacobian = ws[0]
    for z, w in zip(zs[:-1], ws[1:], strict=True):
        jacobian = w @ (SLOPE[activation](z)[:, None] * jacobian)
    return jacobian, ws


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
        assert np.abs(np.asarray(y) - truth).max() <= 16 * net.depth * EPS * scale


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


# Measurements.


@given(a=st.one_of(matrices(batch=True), ODD_ARRAYS))
def test_singular_values(a):
    done, s = answers(linalg.singular_values, a)
    if done and sound(a) and np.asarray(as_measured(a)).size:
        truth = singular_values(as_measured(a))
        scale = np.maximum(truth[..., :1], 1e-30)  # below float32's normal numbers LAPACK itself loses them
        assert (np.abs(np.asarray(s, np.float64) - truth) <= 4 * max(np.shape(a)[-2:]) * EPS * scale + 1e-37).all()


def matrix_map(params, x):
    return params @ x


@given(a=st.one_of(matrices(), matrices(), ODD_ARRAYS), dtype=DTYPES)
def test_dense_spectrum_of_a_matrix(a, dtype):
    x = np.ones(np.shape(a)[-1:] if hasattr(a, "shape") else 2, np.float32)
    done, sp = answers(isometry.spectrum, matrix_map, a, x, dtype=dtype)
    if done:
        assert sound(a)
        matrix = np.atleast_2d(np.asarray(as_measured(a), np.float64))
        close_to_svd(sp.log_values, matrix)
        assert (sp.size, sp.structural_zeros) == (min(matrix.shape), abs(np.subtract(*matrix.shape)))


NETS = [
    networks.mlp(widths, activation, scheme, bias=bias)
    for widths, activation, scheme, bias in (
        ([3, 5, 5, 5, 2], "tanh", "orthogonal", True),
        ([2, 3, 3, 3], "relu", "gaussian", False),
        ([1, 1, 1, 1], "linear", "orthogonal", True),
        ([5, 2, 5, 3, 5], "relu", "gaussian", True),
    )
]
METHODS = st.sampled_from(
    ["auto", "dense", "product", isometry.Lanczos(8, 2), "lanczos", isometry.Product(2), "danse", None, 3]
)
SPANS = st.sampled_from(["end_to_end", "end_to_end", "hidden", "all", None])
SCALES = st.sampled_from([1.0, 1.0, 1e-3, 1e3, 1e-12, 1e12, 0.0])


@given(
    net=st.sampled_from(NETS), seed=SEEDS, scale=SCALES, method=METHODS, span=SPANS, key=KEYS, form=st.integers(0, 3)
)
def test_spectra_of_networks(net, seed, scale, method, span, key, form):
    """Against the chain rule and LAPACK in float64; s off by rounding of a product: depth·n·eps·Π‖W‖."""
    params = jax.tree.map(lambda a: a * np.float32(scale), net.init(jax.random.key(seed)))
    x = np.random.default_rng(seed).standard_normal(net.widths[0]).astype(np.float32)
    measure = functools.partial(isometry.spectrum, net, method=method, span=span, key=key)
    calls = (measure, jax.jit(measure), lambda p, x: jax.vmap(measure, (None, 0))(p, x[None]), jax.eval_shape)
    done, sp = answers(calls[form], *((measure,) if form == 3 else ()), params, x)
    if not done:
        return
    if form == 3:
        assert sp.log_values.shape == sp.weights.shape
        return
    if form == 2:
        sp = jax.tree.map(lambda a: a[0], sp)
    kept((sp.log_values, sp.weights), sp)
    assert abs(float(sp.weights.sum()) - 1) < 1e-5
    if span == "end_to_end":
        truth, ws = numpy_jacobian(params, x, net.activation.name)
        top = np.prod([singular_values(w)[0] for w in ws])
        s, true = np.exp(np.asarray(sp.log_values, np.float64)), singular_values(truth)
        bound = 32 * net.depth * max(net.widths) * EPS * top + 1e-37
        bound = bound + EPS * np.abs(np.nan_to_num(np.asarray(sp.log_values), neginf=0)).max() * s.max()
        if isinstance(sp.method, isometry.Lanczos):
            assert s.max() <= true[0] + bound
        else:
            assert np.abs(s - true).max() <= bound, (s, true)


STATISTICS = ("condition_number", "effective_rank", "stable_rank", "isometry_deviation", "log_spread", "zero_fraction")


@jax.jit
def all_statistics(sp):
    return {name: getattr(sp, name)() for name in STATISTICS}


@given(
    a=matrices(batch=True),
    k=NUMBERS,
    p=st.one_of(st.sampled_from([0.0, 0.5, 1, [0.1, 0.9], 1.5]), NUMBERS),
    grid=st.one_of(st.sampled_from([[0.0, 1.0], np.linspace(-1, 4, 5), [[1.0]], [math.nan], ["a"], []]), NUMBERS),
    bandwidth=NUMBERS,
    variable=VARIABLES,
    jit=st.sampled_from([False, False, False, True]),
)
def test_statistics(a, k, p, grid, bandwidth, variable, jit):
    """Whatever the matrix: in their ranges, never NaN; quantile inverts cdf; moments against numpy."""
    if not sound(a):
        return
    log_s, floor = linalg.log_singular_values(a)
    m, n = a.shape[-2:]
    sp = isometry.Spectrum(
        log_s,
        jnp.full(log_s.shape, 1 / min(m, n), log_s.dtype),
        jnp.full(log_s.shape[:-1], floor, log_s.dtype),
        size=min(m, n),
        structural_zeros=abs(m - n),
    )
    run = (lambda f: jax.jit(f)(sp)) if jit else (lambda f: f(sp))
    for statistic, found in answers(all_statistics, sp)[1].items():
        kept(found, statistic)
        if statistic.endswith("rank"):
            assert ((np.asarray(found) >= 0) & (np.asarray(found) <= sp.size * (1 + 1e-4))).all()
    done, moment = answers(run, lambda sp: sp.moment(k, variable))
    if done:
        kept(moment, "moment")
        if variable in ("lam", "s") and k in (1, 2, 0.5) and np.abs(np.asarray(log_s)).min() < 20:
            truth = (singular_values(np.asarray(a, np.float64)) ** (k * (2 if variable == "lam" else 1))).mean(-1)
            assert np.allclose(moment, truth, rtol=2e-4)
    for f in (lambda sp: sp.cdf(grid, variable), lambda sp: sp.density(grid, bandwidth, variable)):
        done, found = answers(run, f)
        if done:
            kept(found, "cdf, density")
            assert (np.asarray(found) >= 0).all()
    done, x = answers(run, lambda sp: sp.quantile(p, variable))
    if done:
        kept(x, "quantile")
        top = np.asarray(sp.quantile(1.0, "log_s"))
        assert (np.asarray(sp.quantile(p, "log_s")) <= (top if np.ndim(p) == 0 else top[..., None])).all()
    pooled = answers(sp.pooled)[1]
    assert pooled.log_values.size == log_s.size
    answers(sp.standard_error, variable)
    repr(sp)


@FEW
@given(
    net=st.sampled_from(NETS),
    count=st.integers(1, 3),
    inputs=st.integers(0, 3),
    method=METHODS,
    key=KEYS,
    given_=st.sampled_from(["keys", "keys", "params", "both", "neither", "odd"]),
    odd=WRONG,
    scale=SCALES,
    max_bytes=st.one_of(st.none(), st.none(), WHOLE),
)
def test_ensembles(net, count, inputs, method, key, given_, odd, scale, max_bytes):
    """Each entry is the spectrum of its seed and input."""
    keys, params = jax.random.split(jax.random.key(count), count), None
    if given_ in ("params", "both"):
        params = jax.tree.map(lambda a: a * np.float32(scale), jax.vmap(net.init)(keys))
    keys = {"keys": keys, "both": keys, "odd": odd}.get(given_)
    xs = np.random.default_rng(inputs).standard_normal((inputs, net.widths[0])).astype(np.float32)
    done, sp = answers(isometry.ensemble, net, keys, xs, params=params, method=method, key=key, max_bytes=max_bytes)
    if done:
        assert sp.log_values.shape[:2] == (count, inputs)
        kept(sp, "ensemble")
        first = net.init(keys[0]) if params is None else jax.tree.map(lambda a: a[0], params)
        if not isinstance(sp.method, isometry.Lanczos):
            one = isometry.spectrum(net, first, xs[0], method=method)
            top = np.exp(np.asarray(one.log_values[0], np.float64))
            gap = np.abs(
                np.exp(np.asarray(sp.log_values[0, 0], np.float64)) - np.exp(np.asarray(one.log_values, np.float64))
            )
            _, ws = numpy_jacobian(first, xs[0], net.activation.name)
            product = np.prod([singular_values(w)[0] for w in ws])
            assert (gap <= 64 * net.depth * EPS * max(top, product) + 1e-37).all()
    answers(isometry.ensemble, net, odd, odd)
    answers(isometry.ensemble, odd, jax.random.split(jax.random.key(0), 2), xs)


@given(
    f=st.sampled_from(
        [
            matrix_map,
            lambda p, x: x,
            lambda p, x: x.sum(),
            lambda p, x: (x, x),
            lambda p, x: "y",
            lambda p, x: x > 0,
            lambda p, x: p[0],
            lambda p, x: x[:0],
            None,
            3,
            [matrix_map],
        ]
    ),
    a=st.one_of(matrices(), ODD_ARRAYS),
    x=st.one_of(matrices(), ODD_ARRAYS),
    jit=st.booleans(),
)
def test_jacobians_and_costs(f, a, x, jit):
    vector = x[0] if isinstance(x, np.ndarray) and x.ndim == 2 and len(x) else x
    done, found = answers(isometry.jacobian, f, a, vector)
    if done:
        kept(found, "jacobian")
        if f is matrix_map and np.ndim(a) == 2:
            assert np.array_equal(np.asarray(found), np.asarray(as_measured(a), np.float32))
    if jit and callable(f):
        answers(jax.jit(lambda x: isometry.jacobian(f, a, x)), np.ones(3, np.float32))
    counted, cost = answers(isometry.cost, f, a, vector)
    assert not counted or (cost.bytes > 0 and cost.flop >= 0)
    assert not done or counted
    answers(linalg.partial_jacobian_norm, jnp.tanh, x)


ORDERS = st.one_of(st.sampled_from([(1,), (1, 2), [3], (), (0,), (1.5,), "12", None, 2, [10**9], (True,)]), WRONG)


@given(
    a=st.one_of(matrices(batch=True), ODD_ARRAYS),
    orders=ORDERS,
    key=st.one_of(st.none(), KEYS),
    count=st.one_of(st.none(), FEW_OF),
)
def test_linalg_of_matrices(a, orders, key, count):
    usable = sound(a) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else False
    done, moments = answers(linalg.spectral_moments, a, orders, key=key, probes=count)
    fits = done and usable and a.size and 1e-3 < singular_values(as_measured(a)).max() < 1e3
    if fits and key is None and all(k in (1, 2, 3) for k in orders):
        s = singular_values(as_measured(a))
        truth = np.stack([(s ** (2 * k)).mean(-1) for k in orders], -1)
        assert np.allclose(moments, truth, rtol=1e-4)
    done, spread = answers(linalg.log_spread, a)
    if done and usable:
        kept(spread, "log_spread")
        assert (np.asarray(spread) >= 0).all()


@FEW
@given(a=st.one_of(matrices(), ODD_ARRAYS), key=KEYS, count=FEW_OF)
def test_linalg_of_operators(a, key, count):
    """An extreme value is a singular value to within its own bound, whatever was converged."""
    done, operator = answers(linalg.Operator.of, a)
    if done:
        found, extremes = answers(linalg.extreme_singular_values, operator, key=key, steps=count)
        if found and sound(a) and 1e-3 < singular_values(as_measured(a)).max() < 1e3:
            s = singular_values(as_measured(a))
            gap = np.abs(np.asarray(extremes.values)[:, None] - s[None]).min(1)
            assert (gap <= np.asarray(extremes.bounds) + 8 * max(a.shape) * EPS * s[0]).all()
        answers(linalg.spectral_quadrature, operator, key=key, steps=3, probes=count)
    answers(linalg.extreme_singular_values, a, key=key, steps=count)


@given(
    factors=st.one_of(st.lists(matrices(square=True), max_size=3), matrices(batch=True, square=True), ODD_ARRAYS),
    every=st.one_of(st.none(), st.none(), WHOLE),
    jit=st.booleans(),
)
def test_products(factors, every, jit):
    done, logs = answers(linalg.product_log_singular_values, factors, every=every)
    answers(linalg.lyapunov_exponents, factors)
    if not done:
        return
    kept(logs, "product")
    assert (np.diff(np.nan_to_num(np.asarray(logs), neginf=-1e9)) <= 0).all()
    if jit:
        again = jax.jit(lambda f: linalg.product_log_singular_values(f, every=every))(factors)
        assert again.shape == logs.shape
    each = [np.asarray(as_measured(f), np.float64) for f in factors]
    if all(1e-6 < singular_values(f)[0] < 1e6 for f in each):
        truth = singular_values(functools.reduce(lambda a, b: b @ a, each))
        top = np.prod([singular_values(f)[0] for f in each])
        assert np.abs(np.exp(np.asarray(logs, np.float64)) - truth).max() <= 64 * len(each) * len(truth) * EPS * top


# Theory.

CURVES = {
    "linear": lambda q: q,
    "relu": lambda q: q / 2,
    "erf": lambda q: 2 / math.pi * math.asin(2 * q / (1 + 2 * q)),  # Williams (1997)
}


@given(activation=ANY_ACTIVATION, q=NUMBERS, c=NUMBERS, sigma_w=NUMBERS, sigma_b=NUMBERS, depth=WHOLE)
def test_mean_field(activation, q, c, sigma_w, sigma_b, depth):
    """q_map against closed forms; every result a float of Python's, so that no NumPy float32 has crept in."""
    done, found = answers(theory.q_map, activation, q, sigma_w, sigma_b)
    if done:
        assert type(found) is float
        if activation in CURVES and float(q) < 1e100:
            truth = float(sigma_w) ** 2 * CURVES[activation](float(q)) + float(sigma_b) ** 2
            assert math.isclose(found, truth, rel_tol=1e-12, abs_tol=1e-300)
    done, found = answers(theory.chi, activation, q, sigma_w)
    assert not done or (type(found) is float and found >= 0)
    done, found = answers(theory.c_map, activation, c, q, sigma_w, sigma_b)
    assert not done or (type(found) is float and -1 <= found <= 1)
    done, found = answers(theory.q_trajectory, activation, q, sigma_w, sigma_b, depth)
    assert not done or (found.dtype == np.float64 and not np.isnan(found).any())
    done, found = answers(theory.variance_coefficient, activation, q)
    assert not done or not math.isnan(found)
    answers(theory.expectation, activation if callable(activation) else jnp.tanh, q, c if isinstance(c, list) else ())
    answers(initializers.gain, activation, "chi", q)
    answers(initializers.calculate_gain, activation, c)
    answers(activations.get, activation)
    answers(theory.traced.chi, activation, q, sigma_w)


@given(activation=ANY_ACTIVATION, q=NUMBERS, sigma_w=NUMBERS, sigma_b=NUMBERS)
def test_fixed_points(activation, q, sigma_w, sigma_b):
    """A fixed point is one: |V(q*) − q*| ≤ 1e-12 q*."""
    done, points = answers(theory.q_fixed_points, activation, sigma_w, sigma_b)
    reached, point = answers(theory.q_fixed_point, activation, sigma_w, sigma_b)
    assert done or not reached
    for p in [*(points if done else []), *([point] if reached else [])]:
        assert type(p.value) is float
        assert math.isclose(theory.q_map(activation, p.value, sigma_w, sigma_b), p.value, rel_tol=1e-11, abs_tol=1e-290)
    done, c = answers(theory.c_fixed_point, activation, sigma_w, sigma_b)
    assert not done or (0 <= c.value <= 1 and not math.isnan(c.slope))
    done, scales = answers(theory.depth_scales, activation, sigma_w, sigma_b)
    assert not done or not any(math.isnan(v) or v < 0 for v in vars(scales).values())
    done, points = answers(theory.critical_points, activation, sigma_b)
    for p in points if done else []:
        assert math.isclose(theory.chi(activation, p.q, p.sigma_w), 1, rel_tol=1e-11)
    done, p = answers(theory.critical_at, activation, q)
    if done:
        assert math.isclose(theory.chi(activation, p.q, p.sigma_w), 1, rel_tol=1e-11)
    done, diagram = answers(
        theory.phase_diagram, activation, sigma_w, [sigma_b] if isinstance(sigma_b, float) else sigma_b
    )
    assert not done or not np.isnan(diagram.chi).any()


def check_law(law, p, grid, variable, k):
    """A measure: cdf rises from 0 to 1, quantile inverts it, the density is not negative, moments are numbers."""
    done, found = answers(law.cdf, grid, variable)
    assert not done or ((np.asarray(found) >= 0) & (np.asarray(found) <= 1)).all()
    done, found = answers(law.density, grid, variable)
    assert not done or (np.asarray(found) >= 0).all()
    done, found = answers(law.moment, k, variable)
    assert not done or not math.isnan(found)
    done, x = answers(law.quantile, p, variable)
    if done and np.ndim(p) == 0:
        x = np.asarray(law.quantile(p, "log_s"))
        reach = 1e-6 * (1 + abs(np.nan_to_num(x)))
        below, at = law.cdf(x - reach, "log_s"), law.cdf(x + reach, "log_s")
        assert np.isneginf(x) or (below <= float(p) + 1e-5 and at >= float(p) - 1e-5)
    for name in ("atoms", "support", "s_max", "variance", "mean_log_lam"):
        done, found = answers(getattr, law, name)
        if done:
            kept(found, name)
    answers(repr, law)
    answers(law.finite_width, k)
    answers(law.sample, k, p)


GRIDS = st.one_of(st.sampled_from([[0.0, 0.5, 1.0, 3.0], -1.0, [math.nan], ["a"], [[1.0, 2.0]], math.inf]), NUMBERS)
SHARES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0, [0.1, 0.9], 1.5]), NUMBERS)


@given(
    name=st.sampled_from(["fuss_catalan", "marchenko_pastur", "bernoulli_class", "smooth_class", "resnet_law"]),
    value=st.one_of(NUMBERS, FEW_OF),
    p=SHARES,
    grid=GRIDS,
    variable=VARIABLES,
    k=NUMBERS,
)
def test_universal_laws(name, value, p, grid, variable, k):
    done, law = answers(getattr(theory, name), value)
    if done:
        check_law(law, p, grid, variable, k)


@given(
    activation=ANY_ACTIVATION,
    depth=st.one_of(st.integers(1, 4), st.sampled_from([0, 2.5, None, "3", True])),
    q=st.one_of(st.none(), NUMBERS),
    sigma_w=st.one_of(st.none(), NUMBERS),
    sigma_b=st.one_of(st.none(), st.none(), NUMBERS),
    weights=st.sampled_from(["gaussian", "orthogonal", "haar"]),
    widths=st.one_of(st.none(), st.none(), st.lists(SIZES, min_size=2, max_size=5), WRONG),
    head=st.one_of(st.none(), st.none(), NUMBERS),
    branch=st.one_of(st.none(), st.none(), NUMBERS),
    padding=st.sampled_from([None, None, "circular", "same", "no", 3]),
    p=SHARES,
    grid=GRIDS,
    variable=VARIABLES,
)
def test_jacobian_laws(
    activation, depth, q, sigma_w, sigma_b, weights, widths, head, branch, padding, p, grid, variable
):
    done, law = answers(
        theory.jacobian_law,
        activation,
        depth,
        q,
        sigma_w,
        sigma_b,
        weights,
        widths=widths,
        head=head,
        branch_scale=branch,
        padding=padding,
    )
    if done:
        check_law(law, p, grid, variable, 1)


@given(
    values=st.one_of(st.lists(st.sampled_from([0.0, 0.5, 1.0, 4.0, -1.0, math.nan, 1e200]), max_size=3), WRONG),
    masses=st.one_of(st.sampled_from([[1.0], [0.5, 0.5], [0.2, 0.3, 0.5], [0.5], []]), WRONG),
    z=NUMBERS,
)
def test_free_products(values, masses, z):
    done, law = answers(theory.freeprob.point_masses, values, masses)
    answers(theory.freeprob.multiply, *([law, theory.fuss_catalan(1)] if done else [values]))
    for f in (theory.freeprob.S, theory.freeprob.M, theory.freeprob.inverse_M):
        found, value = answers(f, law if done else masses, z)
        if found:
            kept(np.abs(np.asarray(value)), f)


# Meeting, judging, keeping.


@functools.cache
def spectra(index, seeds):
    net = NETS[index]
    xs = np.ones((2, net.widths[0]), np.float32)
    return isometry.ensemble(net, jax.random.split(jax.random.key(1), seeds), xs, span="hidden")


@FEW
@given(
    index=st.integers(0, 1),
    seeds=st.sampled_from([1, 5, 6]),
    key=st.one_of(st.none(), KEYS),
    resamples=st.one_of(st.just(30), FEW_OF),
    law=st.sampled_from([theory.fuss_catalan(1), theory.fuss_catalan(2), theory.marchenko_pastur(1.0), None, "law"]),
    odd=WRONG,
)
def test_comparisons(index, seeds, key, resamples, law, odd):
    sp = spectra(index, seeds)
    done, found = answers(isometry.compare, sp, law, key=key, resamples=resamples)
    if done:
        kept((found.ks, found.wasserstein, found.moment_gaps, found.quantile_gaps), found)
        assert 0 <= found.ks <= 1
        strict(vars(found))
    answers(isometry.compare, odd, law)
    answers(isometry.compare, sp, odd)


@given(
    net=st.one_of(st.sampled_from(NETS), st.sampled_from([None, jnp.tanh, 3])),
    seed=SEEDS,
    scale=SCALES,
    kind=st.sampled_from(["same", "float64", "numpy", "bfloat16", "nan", "list", "none", "stacked"]),
    odd=WRONG,
)
def test_certificates(net, seed, scale, kind, odd):
    params = net.init(jax.random.key(seed)) if isinstance(net, networks.Network) else odd
    change = {
        "float64": lambda a: np.asarray(a, np.float64),
        "numpy": np.asarray,
        "bfloat16": lambda a: jnp.asarray(a, jnp.bfloat16),
        "nan": lambda a: a * np.float32(math.nan),
        "list": lambda a: np.asarray(a).tolist(),
        "stacked": lambda a: np.asarray(a)[None],
    }.get(kind, lambda a: a * np.float32(scale))
    if isinstance(net, networks.Network):
        params = odd if kind == "none" else jax.tree.map(change, params)
    done, found = answers(isometry.certify, net, params)
    if done:
        assert len(found.bounds) == net.depth
        assert all(0 <= b.rank <= min(b.shape) for b in found.bounds)
        repr(found)


@given(xs=st.one_of(matrices(batch=True), ODD_ARRAYS), q=NUMBERS)
def test_normalized_inputs(xs, q):
    """|x|²/n = q for every input."""
    done, found = answers(data.normalize, xs, q)
    if done:
        kept(found, "normalize")
        square = (np.asarray(found, np.float64) ** 2).reshape(len(found), -1).mean(1)
        eps = float(jnp.finfo(found.dtype).eps)
        assert np.allclose(square, float(q), rtol=16 * eps * (1 + found[0].size ** 0.5))


@given(key=KEYS, examples=FEW_OF, features=FEW_OF, classes=FEW_OF)
def test_gaussian_inputs(key, examples, features, classes):
    done, found = answers(data.gaussian, key, examples, features, classes)
    assert not done or (np.isfinite(np.asarray(found.xs)).all() and found.targets.max() < classes)


def strict(value):
    """`value` as the store writes it is JSON that a strict reader reads."""
    done, text = answers(isometry._json.dumps, value)
    if done:
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return done


@given(
    value=st.recursive(
        st.one_of(NUMBERS, st.text(max_size=3)),
        lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(st.text(max_size=2), v, max_size=3)),
    )
)
def test_what_is_stored_is_strict_json(value, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "value.json"
    done, _ = answers(store.write_json, path, value)
    assert done == strict(value)


@given(x=st.sampled_from([1.0, np.ones(3, np.float32)]))
def test_what_runs_on_the_host_says_so(x):
    for call in (
        lambda x: theory.q_map("tanh", x, 1.0, 0.0),
        lambda x: theory.fuss_catalan(1).cdf(x),
        lambda x: theory.jacobian_law("tanh", 2, x),
        lambda x: isometry.ensemble(NETS[0], params=x, xs=x),
        lambda x: isometry.certify(NETS[0], x),
        lambda x: isometry.cost(matrix_map, x, x),
        lambda x: initializers.calculate_gain("leaky_relu", x),
    ):
        done, refusal = answers(jax.jit(call), x)
        assert not done
        assert isinstance(refusal, (TypeError, InputError))


def test_the_long_preset_makes_ten_thousand_calls():
    print(f"\n{sum(CALLS.values())} calls: {dict(CALLS)}")
    if settings().max_examples < 100 or "PYTEST_XDIST_WORKER" in os.environ:
        pytest.skip("counted in the long preset, in one process")
    assert sum(CALLS.values()) >= 10_000
