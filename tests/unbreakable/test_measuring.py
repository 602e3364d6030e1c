"""Spectra, products and functions of matrices: right, or refused."""

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
    WIDE,
    WRONG,
    answers,
    as_measured,
    drawing,
    eps_of,
    is_finite,
    matrices,
    matrix_map,
    mostly,
    numpy_jacobian,
    require_close_to_svd,
    require_no_nan,
    singular_values,
)

pytestmark = pytest.mark.usefixtures("x64")

# Close to the smallest normal number of float32, 1.2e-38, LAPACK loses accuracy.
SMALLEST_S = 1e-30
SMALLEST_ERROR = 1e-37


ARRAYS = mostly(matrices(), ODD_ARRAYS)
STACKS = mostly(matrices(batch=True), ODD_ARRAYS)
FACTORS = mostly(
    st.one_of(
        st.lists(matrices(square=True), min_size=1, max_size=3),
        matrices(batch=True, square=True),
    ),
    st.one_of(st.just([]), ODD_ARRAYS),
)


def scaled(params, scale):
    """Parameters times a number, on the host: there it is no program of each shape."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) * np.float32(scale), params)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def as_singular_values(log_values):
    return np.exp(np.asarray(log_values, np.float64))


def product_of_norms(matrices):
    return np.prod([singular_values(matrix)[0] for matrix in matrices])


@given(a=STACKS)
def test_singular_values_are_those_of_lapack_or_refused(a):
    """To within a few max(m, n) eps s_max (Weyl)."""
    done, s = answers(linalg.singular_values, a)
    if not done or not is_finite(a) or np.asarray(a).size == 0:
        return
    expected = singular_values(as_measured(a))
    largest = np.maximum(expected[..., :1], SMALLEST_S)
    bound = 4 * max(np.shape(a)[-2:]) * eps_of(s) * largest + SMALLEST_ERROR
    assert (np.abs(np.asarray(s, np.float64) - expected) <= bound).all()


@given(a=ARRAYS, dtype=DTYPES)
def test_dense_spectrum_of_a_matrix_is_its_svd_or_refused(a, dtype):
    """The Jacobian of x -> a x is a."""
    x = np.ones(np.shape(a)[-1:] if hasattr(a, "shape") else 2, np.float32)
    done, sp = answers(isometry.spectrum, matrix_map, a, x, dtype=dtype)
    if done:
        assert is_finite(a)
        matrix = np.atleast_2d(np.asarray(as_measured(a), np.float64))
        require_close_to_svd(sp.log_values, matrix)
        m, n = matrix.shape
        assert sp.size == min(m, n)
        assert sp.structural_zeros == abs(m - n)


SPANS = mostly(
    st.sampled_from(["end_to_end", "hidden"]), st.sampled_from(["all", None])
)


@given(
    net=st.sampled_from(NETS),
    seed=SEEDS,
    scale=SCALES,
    method=METHODS,
    span=SPANS,
    key=KEYS,
    form=st.sampled_from(["plain", "jit", "vmap", "eval_shape"]),
)
def test_spectra_of_networks_are_those_of_the_chain_rule_or_refused(
    net, seed, scale, method, span, key, form
):
    """Against LAPACK in float64; s is off by rounding of a product.

    That is depth n eps prod |W|. What is refused where numbers are at hand is NaN under
    a trace.
    """
    params = scaled(drawing(net)(jax.random.key(seed)), scale)
    x = normal(seed, net.widths[0])
    measure = functools.partial(
        isometry.spectrum, net, method=method, span=span, key=key
    )
    if form == "eval_shape":
        done, sp = answers(jax.eval_shape, measure, params, x)
        assert not done or sp.log_values.shape == sp.weights.shape
        return
    done, sp = measured_as(form, measure, params, x=x)
    if not done:
        return
    if form != "plain" and np.isnan(np.asarray(sp.log_values)).all():
        done, refusal = answers(measure, params, x)
        assert not done
        assert "NaN or infinite" in str(refusal)
        return
    require_no_nan((sp.log_values, sp.weights), sp)
    assert abs(float(sp.weights.sum()) - 1) < 1e-5
    if span == "end_to_end":
        require_chain_rule(sp, net, params, x=x)


def measured_as(form, measure, params, *, x):
    """A spectrum measured as it is, in a program, or as one of a batch."""
    if form == "jit":
        return answers(jax.jit(measure), params, x)
    if form == "vmap":
        over_inputs = jax.vmap(measure, (None, 0))
        done, result = answers(over_inputs, params, x[None])
        if done:
            result = jax.tree.map(lambda leaf: leaf[0], result)
        return done, result
    return answers(measure, params, x)


def require_chain_rule(sp, net, params, *, x):
    """The spectrum is that of the product of the factors of the Jacobian."""
    jacobian, weights = numpy_jacobian(params, x, net.activation.name)
    s = as_singular_values(sp.log_values)
    expected = singular_values(jacobian)
    of_product = 32 * net.depth * max(net.widths) * product_of_norms(weights)
    # ln s is rounded too.
    largest_log = np.abs(np.nan_to_num(np.asarray(sp.log_values), neginf=0)).max()
    of_logarithm = largest_log * s.max()
    bound = eps_of(sp.log_values) * (of_product + of_logarithm) + SMALLEST_ERROR
    if isinstance(sp.method, isometry.Lanczos):
        # Its nodes are none of the singular values, but lie between them.
        assert s.max() <= expected[0] + bound
    else:
        assert np.abs(s - expected).max() <= bound, (s, expected)


STATISTICS = (
    "condition_number",
    "effective_rank",
    "stable_rank",
    "isometry_deviation",
    "log_spread",
    "zero_fraction",
)


@jax.jit
def all_statistics(sp):
    return {name: getattr(sp, name)() for name in STATISTICS}


def spectrum_of(a):
    """The spectrum of a matrix, or of a batch."""
    log_s, floor = linalg.log_singular_values(a)
    m, n = a.shape[-2:]
    size = min(m, n)
    return isometry.Spectrum(
        log_s,
        weights=jnp.full(log_s.shape, 1 / size, log_s.dtype),
        log_floor=jnp.full(log_s.shape[:-1], floor, log_s.dtype),
        size=size,
        structural_zeros=abs(m - n),
    )


NAMES = mostly(
    st.sampled_from(["effective_rank", "stable_rank", "log_spread"]),
    st.one_of(VARIABLES, WRONG),
)


@given(a=matrices(batch=True), statistic=NAMES)
def test_standard_errors_are_not_negative_or_refused(a, statistic):
    """It is NaN if a value is infinite, as the spread of a matrix with zeros is."""
    if not is_finite(a):
        return
    sp = spectrum_of(a)
    done, error = answers(sp.standard_error, statistic)
    if done:
        has_error = np.isfinite(np.asarray(getattr(sp, statistic)())).all()
        assert error >= 0 if has_error else np.isnan(error)


def run(function, sp, *, jit):
    """Call a function of a spectrum, or the program of it."""
    return answers(jax.jit(function) if jit else function, sp)


@given(a=matrices(batch=True))
def test_statistics_are_in_their_range(a):
    """No statistic is NaN, and a rank is at most the number of singular values."""
    if not is_finite(a):
        return
    sp = spectrum_of(a)
    _, statistics = answers(all_statistics, sp)
    for name, values in statistics.items():
        require_no_nan(values, name)
    for name in ("effective_rank", "stable_rank"):
        ranks = np.asarray(statistics[name])
        # Sums of float32 are off by more than nothing.
        assert ((ranks >= 0) & (ranks <= sp.size * (1 + 1e-4))).all()
    _, pooled = answers(sp.pooled)
    assert pooled.log_values.size == sp.log_values.size
    repr(sp)


JIT = st.sampled_from([False, False, False, True])


@given(a=matrices(batch=True), order=NUMBERS, variable=VARIABLES, jit=JIT)
def test_moments_of_spectra_are_those_of_numpy_or_refused(a, order, variable, jit):
    if not is_finite(a):
        return
    sp = spectrum_of(a)
    done, moment = run(lambda sp: sp.moment(order, variable), sp, jit=jit)
    if done:
        require_no_nan(moment, "moment")
        # Powers of huge and tiny values are beyond float32.
        fits = np.abs(np.asarray(sp.log_values)).min() < 20
        if fits and variable in ("lam", "s") and order in (1, 2, 0.5):
            power = 2 * order if variable == "lam" else order
            expected = (singular_values(a) ** power).mean(-1)
            assert np.allclose(moment, expected, rtol=2e-4)


@given(
    a=matrices(batch=True),
    p=st.one_of(st.sampled_from([0.0, 0.5, 1, [0.1, 0.9], 1.5]), NUMBERS),
    grid=st.one_of(
        st.sampled_from(
            [[0.0, 1.0], np.linspace(-1, 4, 5), [[1.0]], [math.nan], ["a"], []]
        ),
        NUMBERS,
    ),
    bandwidth=NUMBERS,
    variable=VARIABLES,
    jit=JIT,
)
def test_distributions_of_spectra_are_measures_or_refused(
    a, p, grid, bandwidth, variable, jit
):
    """The distribution function and the density are not negative.

    No quantile is above the largest value.
    """
    if not is_finite(a):
        return
    sp = spectrum_of(a)
    done, cdf = run(lambda sp: sp.cdf(grid, variable), sp, jit=jit)
    if done:
        require_no_nan(cdf, "cdf")
        assert (np.asarray(cdf) >= 0).all()
    done, density = run(lambda sp: sp.density(grid, bandwidth, variable), sp, jit=jit)
    if done:
        require_no_nan(density, "density")
        assert (np.asarray(density) >= 0).all()
    done, quantile = run(lambda sp: sp.quantile(p, variable), sp, jit=jit)
    if done:
        require_no_nan(quantile, "quantile")
        largest = np.asarray(sp.quantile(1.0, "log_s"))
        if np.ndim(p) > 0:
            largest = largest[..., None]
        assert (np.asarray(sp.quantile(p, "log_s")) <= largest).all()


# Of each number of seeds, and of inputs, the programs are others.
NUMBERS_OF_DRAWS = st.integers(1, 3) if WIDE else st.just(2)


@FEW
@given(
    net=st.sampled_from(NETS),
    num_seeds=NUMBERS_OF_DRAWS,
    num_inputs=mostly(NUMBERS_OF_DRAWS, st.just(0)),
    method=METHODS,
    key=KEYS,
    passed=mostly(
        st.sampled_from(["keys", "params"]),
        st.sampled_from(["both", "neither", "odd"]),
    ),
    odd=WRONG,
    scale=SCALES,
    max_bytes=mostly(st.none(), WHOLE),
)
def test_ensembles_hold_the_spectra_of_seeds_and_inputs_or_are_refused(
    net, num_seeds, num_inputs, method, key, passed, odd, scale, max_bytes
):
    keys = jax.random.split(jax.random.key(num_seeds), num_seeds)
    params = None
    if passed in ("params", "both"):
        params = scaled(jax.vmap(net.init)(keys), scale)
    xs = normal(num_inputs, num_inputs, net.widths[0])
    passed_keys = {"keys": keys, "both": keys, "odd": odd}.get(passed)
    done, sp = answers(
        isometry.ensemble,
        net,
        passed_keys,
        xs,
        params=params,
        method=method,
        key=key,
        max_bytes=max_bytes,
    )
    if done:
        assert sp.log_values.shape[:2] == (num_seeds, num_inputs)
        require_no_nan(sp, "ensemble")
        if params is None:
            first = drawing(net)(keys[0])
        else:
            first = jax.tree.map(lambda leaf: leaf[0], params)
        # The vectors of Lanczos are others for each entry.
        if not isinstance(sp.method, isometry.Lanczos):
            _, single = answers(isometry.spectrum, net, first, xs[0], method=method)
            require_same(sp.log_values[0, 0], single, net, params=first, x=xs[0])
    answers(isometry.ensemble, net, odd, odd)
    answers(isometry.ensemble, odd, jax.random.split(jax.random.key(0), 2), xs)


def require_same(log_values, single, net, *, params, x):
    """Singular values are those of a spectrum, to within rounding of a product."""
    s = as_singular_values(log_values)
    expected = as_singular_values(single.log_values)
    _, weights = numpy_jacobian(params, x, net.activation.name)
    largest = max(expected[0], product_of_norms(weights))
    bound = 64 * net.depth * eps_of(log_values) * largest + SMALLEST_ERROR
    assert (np.abs(s - expected) <= bound).all()


FUNCTIONS = st.sampled_from(
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
)


@given(
    f=FUNCTIONS,
    a=ARRAYS,
    x=ARRAYS,
    jit=st.booleans(),
)
def test_jacobians_are_exact_and_have_a_cost_or_are_refused(f, a, x, jit):
    """The Jacobian of x -> a x is a, to the bit."""
    is_matrix = isinstance(x, np.ndarray) and x.ndim == 2 and len(x) > 0
    vector = x[0] if is_matrix else x
    done, jacobian = answers(isometry.jacobian, f, a, vector)
    if done:
        require_no_nan(jacobian, "jacobian")
        if f is matrix_map and np.ndim(a) == 2 and np.ndim(vector) == 1:
            expected = np.asarray(as_measured(a), jacobian.dtype)
            assert np.array_equal(np.asarray(jacobian), expected)
    if jit and callable(f):
        of_x = jax.jit(lambda x: isometry.jacobian(f, a, x))
        answers(of_x, np.ones(3, np.float32))
    has_cost, cost = answers(isometry.cost, f, a, vector)
    if has_cost:
        assert cost.bytes > 0
        assert cost.flop >= 0
    # What can be computed has a cost.
    assert has_cost or not done
    answers(linalg.partial_jacobian_norm, jnp.tanh, x)


ORDERS = mostly(
    st.sampled_from([(1,), (1, 2), [3]]),
    st.one_of(
        st.sampled_from([(), (0,), (1.5,), "12", None, 2, [10**9], (True,)]), WRONG
    ),
)


def is_finite_floats(a):
    is_floats = isinstance(a, np.ndarray) and a.dtype.kind == "f"
    return is_floats and is_finite(a)


def is_moderate(a):
    """Whether sixth powers of the largest singular value are within float32."""
    return 1e-3 < singular_values(as_measured(a)).max() < 1e3


@given(
    a=STACKS,
    orders=ORDERS,
    key=mostly(st.none(), KEYS),
    probes=mostly(st.none(), FEW_OF),
)
def test_moments_and_log_spread_of_matrices_are_right_or_refused(
    a, orders, key, probes
):
    done, moments = answers(linalg.spectral_moments, a, orders, key=key, probes=probes)
    # Without a key moments are exact.
    is_exact = done and key is None and all(order in (1, 2, 3) for order in orders)
    if is_exact and is_finite_floats(a) and a.size and is_moderate(a):
        s = singular_values(as_measured(a))
        expected = [(s ** (2 * order)).mean(-1) for order in orders]
        assert np.allclose(moments, np.stack(expected, -1), rtol=1e-4)
    done, spread = answers(linalg.log_spread, a)
    if done and is_finite_floats(a):
        require_no_nan(spread, "log_spread")
        assert (np.asarray(spread) >= 0).all()


@FEW
@given(a=ARRAYS, key=KEYS, count=FEW_OF)
def test_extreme_values_of_operators_keep_their_bounds_or_are_refused(a, key, count):
    """Each is a singular value to within its own bound, whatever has converged."""
    done, operator = answers(linalg.Operator.of, a)
    if done:
        found, extremes = answers(
            linalg.extreme_singular_values, operator, key=key, steps=count
        )
        if found and is_finite(a) and is_moderate(a):
            s = singular_values(as_measured(a))
            values, bounds = np.asarray(extremes.values), np.asarray(extremes.bounds)
            distance = np.abs(values[:, None] - s[None]).min(1)
            rounding = 8 * max(a.shape) * eps_of(extremes.values) * s[0]
            assert (distance <= bounds + rounding).all()
        answers(linalg.spectral_quadrature, operator, key=key, steps=3, probes=count)
    answers(linalg.extreme_singular_values, a, key=key, steps=count)


@given(
    factors=FACTORS,
    every=FEW_OF,
    jit=st.booleans(),
)
def test_products_have_the_singular_values_of_numpy_or_are_refused(factors, every, jit):
    """In falling order, and off by rounding: depth n eps prod |factor|."""
    done, logs = answers(linalg.product_log_singular_values, factors, every=every)
    answers(linalg.lyapunov_exponents, factors)
    if not done:
        return
    require_no_nan(logs, "product")
    finite = np.nan_to_num(np.asarray(logs), neginf=-1e9)
    assert (np.diff(finite) <= 0).all()
    if jit:
        program = jax.jit(
            functools.partial(linalg.product_log_singular_values, every=every)
        )
        assert program(factors).shape == logs.shape
    each = [np.asarray(as_measured(factor), np.float64) for factor in factors]
    if all(1e-6 < singular_values(factor)[0] < 1e6 for factor in each):
        product = functools.reduce(lambda a, b: b @ a, each)
        expected = singular_values(product)
        scale = len(each) * len(expected) * product_of_norms(each)
        bound = 64 * eps_of(logs) * scale
        assert np.abs(as_singular_values(logs) - expected).max() <= bound
