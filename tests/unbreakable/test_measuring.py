"""Spectra, products and the matrix functions behind them: a right answer or a refusal, whatever is passed."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import isometry
from isometry import linalg
from tests.unbreakable.calls import (
    DTYPES,
    FEW,
    FEW_OF,
    KEYS,
    METHODS,
    NETS,
    NUMBERS,
    ODD_ARRAYS,
    SCALES,
    SEEDS,
    VARIABLES,
    WHOLE,
    WRONG,
    answers,
    as_measured,
    close_to_svd,
    eps_of,
    kept,
    matrices,
    matrix_map,
    numpy_jacobian,
    singular_values,
    sound,
)

pytestmark = pytest.mark.usefixtures("x64")


@given(a=st.one_of(matrices(batch=True), ODD_ARRAYS))
def test_singular_values(a):
    done, s = answers(linalg.singular_values, a)
    if done and sound(a) and np.asarray(as_measured(a)).size:
        truth = singular_values(as_measured(a))
        scale = np.maximum(truth[..., :1], 1e-30)  # below float32's normal numbers LAPACK itself loses them
        bound = 4 * max(np.shape(a)[-2:]) * eps_of(s) * scale + 1e-37
        assert (np.abs(np.asarray(s, np.float64) - truth) <= bound).all()


@given(a=st.one_of(matrices(), matrices(), ODD_ARRAYS), dtype=DTYPES)
def test_dense_spectrum_of_a_matrix(a, dtype):
    x = np.ones(np.shape(a)[-1:] if hasattr(a, "shape") else 2, np.float32)
    done, sp = answers(isometry.spectrum, matrix_map, a, x, dtype=dtype)
    if done:
        assert sound(a)
        matrix = np.atleast_2d(np.asarray(as_measured(a), np.float64))
        close_to_svd(sp.log_values, matrix)
        assert (sp.size, sp.structural_zeros) == (min(matrix.shape), abs(np.subtract(*matrix.shape)))


SPANS = st.sampled_from(["end_to_end", "end_to_end", "hidden", "all", None])


@given(
    net=st.sampled_from(NETS), seed=SEEDS, scale=SCALES, method=METHODS, span=SPANS, key=KEYS, form=st.integers(0, 3)
)
def test_spectra_of_networks(net, seed, scale, method, span, key, form):
    """Against the chain rule and LAPACK in float64; s off by rounding of a product: depth·n·eps·Π‖W‖."""
    params = jax.tree.map(lambda a: a * np.float32(scale), jax.jit(net.init)(jax.random.key(seed)))
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
    if form > 0 and np.isnan(np.asarray(sp.log_values)).all():  # traced: what is refused where numbers are at hand
        done, refused = answers(measure, params, x)
        assert not done
        assert "NaN or infinite" in str(refused)
        return
    kept((sp.log_values, sp.weights), sp)
    assert abs(float(sp.weights.sum()) - 1) < 1e-5
    if span == "end_to_end":
        truth, ws = numpy_jacobian(params, x, net.activation.name)
        top = np.prod([singular_values(w)[0] for w in ws])
        s, true = np.exp(np.asarray(sp.log_values, np.float64)), singular_values(truth)
        largest_log = np.abs(np.nan_to_num(np.asarray(sp.log_values), neginf=0)).max()
        bound = eps_of(sp.log_values) * (32 * net.depth * max(net.widths) * top + largest_log * s.max()) + 1e-37
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
        first = jax.jit(net.init)(keys[0]) if params is None else jax.tree.map(lambda a: a[0], params)
        if not isinstance(sp.method, isometry.Lanczos):
            one = isometry.spectrum(net, first, xs[0], method=method)
            top = np.exp(np.asarray(one.log_values[0], np.float64))
            gap = np.abs(
                np.exp(np.asarray(sp.log_values[0, 0], np.float64)) - np.exp(np.asarray(one.log_values, np.float64))
            )
            _, ws = numpy_jacobian(first, xs[0], net.activation.name)
            product = np.prod([singular_values(w)[0] for w in ws])
            assert (gap <= 64 * net.depth * eps_of(sp.log_values) * max(top, product) + 1e-37).all()
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
        if f is matrix_map and np.ndim(a) == 2 and np.ndim(vector) == 1:
            assert np.array_equal(np.asarray(found), np.asarray(as_measured(a), found.dtype))
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
            assert (gap <= np.asarray(extremes.bounds) + 8 * max(a.shape) * eps_of(extremes.values) * s[0]).all()
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
        bound = 64 * len(each) * len(truth) * eps_of(logs) * np.prod([singular_values(f)[0] for f in each])
        assert np.abs(np.exp(np.asarray(logs, np.float64)) - truth).max() <= bound
