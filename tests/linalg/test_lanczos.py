"""Golub-Kahan where it usually fails (isometry, low rank, zero, clusters) and where it is right: against NumPy.

Tolerances: the bases are orthogonal and the recurrence exact to a small multiple of eps·s_max, so by Weyl each node is.
They are multiples of eps, so one dtype a claim: float32 for hard matrices, float64 for long runs.

Every shape and number of steps is a program that compiles for one to two seconds, so tests share what they can.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry import InputError, linalg
from isometry.linalg import Operator, _lanczos

KEY = jax.random.key(0)
N = 12
EPS = float(np.finfo(np.float32).eps)


def rotation(n, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def prescribed(s, shape=(N, N), seed=0):
    middle = np.zeros(shape)
    np.fill_diagonal(middle, s)
    return rotation(shape[0], seed) @ middle @ rotation(shape[1], seed + 1)


INDEX = np.arange(N)
MATRICES = {
    "identity": np.eye(N),
    "orthogonal": rotation(N, 3),
    "rank one": prescribed([3.0] + [0.0] * (N - 1)),
    "zero": np.zeros((N, N)),
    "clustered": prescribed([1 + 1e-7] + [1.0] * 5 + [1 - 1e-7] + [1e-3] * 5),
    "hilbert": 1 / (INDEX[:, None] + INDEX + 1),
    "gaussian": np.random.default_rng(4).standard_normal((N, N)),
    "tiny": 1e-30 * np.random.default_rng(4).standard_normal((N, N)),
    "huge": 1e30 * np.random.default_rng(4).standard_normal((N, N)),
}


def singular_values(a):
    return np.linalg.svd(np.asarray(a, np.float64), compute_uv=False)


@functools.partial(jax.jit, static_argnums=2)
def bidiagonal(a, key, steps):
    start = _lanczos.unit(jax.random.normal(key, a.shape[1:], a.dtype))
    return _lanczos.bidiagonalize(Operator.of(a), start, key, steps)


@functools.partial(jax.jit, static_argnums=2)
def extremes(a, key, steps):
    return linalg.extreme_singular_values(Operator.of(a), key=key, steps=steps)


@functools.partial(jax.jit, static_argnums=(2, 3))
def quadrature(a, key, steps, probes):
    return linalg.spectral_quadrature(
        Operator.of(a), key=key, steps=steps, probes=probes
    )


@pytest.mark.parametrize("name", MATRICES)
def test_bidiagonalization_holds_and_bases_are_orthonormal(name):
    a = np.asarray(MATRICES[name], np.float32)
    b = jax.tree.map(lambda x: np.asarray(x, np.float64), bidiagonal(a, KEY, 9))
    a, eps = a.astype(np.float64), EPS
    s_max = singular_values(a)[0]
    small = np.diag(b.diagonal) + np.diag(b.above[:-1], 1)
    for basis in (b.left, b.right):
        np.testing.assert_allclose(
            basis @ basis.T, np.eye(len(basis)), atol=4 * N * eps
        )
    slack = (4 * N * eps) * s_max + b.lost
    assert np.linalg.norm(a @ b.right[:-1].T - b.left.T @ small, 2) <= slack
    rest = b.above[-1] * np.outer(b.right[-1], np.eye(9)[-1])
    assert np.linalg.norm(a.T @ b.left.T - b.right[:-1].T @ small.T - rest, 2) <= slack
    assert b.lost <= _lanczos._BREAKDOWN * math.sqrt(18) * eps * s_max
    assert b.norm <= s_max * (1 + 4 * N * eps)


def test_restarts_are_recorded_as_zero_couplings():
    b = bidiagonal(np.eye(N, dtype=np.float32), KEY, 9)
    np.testing.assert_array_equal(b.above, 0)
    np.testing.assert_allclose(b.diagonal, 1, rtol=1e-6)


@pytest.fixture(scope="module")
def hard_extremes():
    """Of all hard matrices, and of one that is not finite, in one program, each by its name."""
    broken = np.eye(N)
    broken[2, 3] = np.nan
    batch = np.stack([*MATRICES.values(), broken]).astype(np.float32)
    keys = jax.random.split(KEY, len(batch))
    got = jax.device_get(jax.vmap(lambda a, k: extremes(a, k, 2 * N))(batch, keys))
    names = [*MATRICES, "not finite"]
    return {
        name: jax.tree.map(lambda leaf, i=i: leaf[i], got)
        for i, name in enumerate(names)
    }


@pytest.mark.parametrize("name", MATRICES)
def test_extremes_of_hard_matrices(hard_extremes, name):
    got = hard_extremes[name]
    want = singular_values(np.asarray(MATRICES[name], np.float32))[[0, -1]]
    assert got.values.dtype == np.float32
    assert got.converged.all()
    assert got.steps <= N  # clamped to the dimension
    assert (abs(got.values.astype(float) - want) <= got.bounds).all()
    # √eps relative to the value, or rounding: the criterion of convergence
    assert (got.bounds <= math.sqrt(EPS) * want + 64 * N * EPS * want[0]).all()


def test_each_matrix_of_a_batch_stops_for_itself(hard_extremes):
    assert hard_extremes["identity"].steps == hard_extremes["rank one"].steps == 8
    assert hard_extremes["gaussian"].steps == N


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from([0.0, 1e-6, 1e-2, 0.5, 0.999, 1.0, 1.0 + 1e-6, 30.0]),
        min_size=N,
        max_size=N,
    ),
    st.integers(0, 1000),
)
def test_bounds_hold_for_any_spectrum_and_any_truncation(s, seed):
    a = prescribed(np.array(s), seed=seed).astype(np.float32)
    want = singular_values(a)
    got = jax.tree.map(np.asarray, extremes(a, jax.random.key(seed), 4))
    gaps = np.abs(want[:, None] - got.values.astype(float)).min(0)
    assert (gaps <= got.bounds).all()
    slack = 4 * N * EPS * want[0]
    assert got.values[0] <= want[0] + slack  # from inside
    assert got.values[1] >= want[-1] - slack


def test_what_is_not_reached_is_said_not_to_be():
    shape, steps = (48, 64), 32
    apart = np.r_[3.0, np.linspace(1.0, 1.5, 46), 0.1]
    graded = np.logspace(0, -8, 48)
    with jax.enable_x64(True):
        easy = jax.tree.map(
            np.asarray, extremes(jnp.asarray(prescribed(apart, shape)), KEY, steps)
        )
        hard = jax.tree.map(
            np.asarray, extremes(jnp.asarray(prescribed(graded, shape)), KEY, steps)
        )
    assert easy.converged.all()
    assert easy.steps < steps  # stopped early
    # second order: residual² over the gap to the next value, eps (s² / gap), is less than rounding
    np.testing.assert_allclose(
        easy.values, [3.0, 0.1], rtol=0, atol=4 * 64 * np.finfo(float).eps * 3.0
    )
    np.testing.assert_array_equal(hard.converged, [True, False])
    assert hard.steps == steps
    assert hard.values[0] == pytest.approx(1.0, abs=hard.bounds[0])
    assert 1e-8 < hard.values[1] < 1e-8 + hard.bounds[1]


@pytest.mark.parametrize("name", MATRICES)
def test_full_quadrature_has_every_singular_value(name):
    a = np.asarray(MATRICES[name], np.float32)
    got = jax.tree.map(np.asarray, quadrature(a, KEY, 2 * N, 3))
    assert (
        got.log_values.shape == got.weights.shape == (3, N)
    )  # clamped to the dimension
    want, eps = singular_values(a), EPS
    nodes = np.exp(got.log_values.astype(np.float64))
    floor = math.exp(got.log_floor)
    assert (np.diff(nodes) <= 0).all()
    # floor: what is below it is zero, and may be on either side; log s rounds by eps·|log s|
    rounding = 4 * N * eps + eps * abs(math.log(want[0]) if want[0] else 0)
    np.testing.assert_allclose(
        nodes, np.tile(want, (3, 1)), rtol=0, atol=(rounding + 1.1 * floor) * want[0]
    )
    np.testing.assert_allclose(nodes[:, 0], want[0], rtol=rounding)
    np.testing.assert_allclose(got.weights.sum(-1), 1, rtol=4 * N * eps)
    assert (got.weights >= 0).all()


def test_mass_of_zeros_and_distribution_within_standard_error():
    """Variance of vᵀ f v for v on the sphere: 2/(n + 2) (mean f² − (mean f)²), here at n = 40 of a wide matrix."""
    probes, n, rank = 200, 40, 30
    s = np.r_[np.random.default_rng(5).uniform(0.2, 2.0, rank), np.zeros(n - rank)]
    a = prescribed(s, (n, 60)).astype(np.float32)
    got = jax.tree.map(np.asarray, quadrature(a, KEY, n, probes))
    nodes, weights = (
        np.exp(got.log_values.astype(np.float64)),
        got.weights.astype(np.float64),
    )
    s = np.r_[singular_values(a)[:rank], np.zeros(n - rank)]
    grid = np.r_[
        1e-4, (s[1:rank] + s[: rank - 1]) / 2
    ]  # between the values: full quadrature is exact but for weights
    per_probe = np.sum(weights[:, None] * (nodes[:, None] <= grid[None, :, None]), -1)
    exact = (s <= grid[:, None]).mean(-1)
    spread = np.sqrt(2 / (n + 2) * exact * (1 - exact))
    assert (abs(per_probe.mean(0) - exact) <= 4 * spread / math.sqrt(probes)).all()
    assert exact[0] == 0.25
    # the spread over probes is the one stated, to its own error 1/√(2 probes), 4 of them; at the end it is skew
    np.testing.assert_allclose(
        per_probe[:, :-4].std(0, ddof=1), spread[:-4], rtol=4 / math.sqrt(2 * probes)
    )


def test_truncated_quadrature_matches_density_and_moments():
    """k nodes: moments of s² up to 2 k − 1 as v itself has them; the cdf off by at most one node's mass (Szegő)."""
    steps, probes, n = 8, 200, 60
    a = np.random.default_rng(6).standard_normal((n, n)) / math.sqrt(n)
    with jax.enable_x64(True):
        got = jax.tree.map(np.asarray, quadrature(jnp.asarray(a), KEY, steps, probes))
    assert got.log_values.shape == (probes, steps)
    nodes, s = np.exp(got.log_values), singular_values(a)
    for k in (1, 2, 7):
        per_probe = np.sum(got.weights * nodes ** (2 * k), -1)
        spread = math.sqrt(2 / (n + 2) * np.var(s ** (2 * k)))
        assert abs(per_probe.mean() - np.mean(s ** (2 * k))) <= 4 * spread / math.sqrt(
            probes
        )
    grid = np.linspace(0, 2.1, 200)
    below = np.mean(
        np.sum(got.weights[:, None] * (nodes[:, None] <= grid[None, :, None]), -1), 0
    )
    exact = (s <= grid[:, None]).mean(-1)
    standard_error = math.sqrt(2 / (n + 2) / 4 / probes)
    assert abs(below - exact).max() <= got.weights.max(-1).mean() + 4 * standard_error


def test_what_is_not_finite_is_no_number(hard_extremes):
    got = hard_extremes["not finite"]
    assert np.isnan(got.values).all()
    assert not got.converged.any()
    a = np.eye(N, dtype=np.float32)
    a[2, 3] = np.nan
    assert np.isnan(quadrature(a, KEY, 2 * N, 3).log_values).all()


def test_same_bidiagonal_as_matfree():
    matfree = pytest.importorskip("matfree.decomp")
    a = np.random.default_rng(7).standard_normal((24, 20))
    with jax.enable_x64(True):
        b = bidiagonal(jnp.asarray(a), KEY, 8)
        peer = matfree.bidiag(8)(lambda v: jnp.asarray(a) @ v, b.right[0]).J_small
        np.testing.assert_allclose(
            b.scaled() * b.norm, peer, rtol=0, atol=1e-13
        )  # ~20·eps·s_max


def layers(params, x):
    for w in params:
        x = jnp.tanh(w @ x)
    return x


def drawn_layers(*shapes):
    rng = np.random.default_rng(8)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return weights, rng.standard_normal(5).astype(np.float32)


def test_linearized_once_and_transposed():
    calls = []
    params, x = drawn_layers((7, 5), (6, 7))

    def g(x):
        calls.append(isinstance(x, jax.core.Tracer))
        return layers(params, x)

    @jax.jit
    def both_ways(x):
        operator = Operator.linearized(g, x)
        counted = len(calls)
        assert operator.shape == (6, 5)
        assert operator.T.shape == (5, 6)
        rows, columns = (
            jax.vmap(operator.rmatvec)(jnp.eye(6)),
            jax.vmap(operator.T.rmatvec)(jnp.eye(5)).T,
        )
        assert len(calls) == counted
        return rows, columns, jax.jacrev(functools.partial(layers, params))(x)

    *both, jacobian = jax.device_get(both_ways(x))
    for built in both:
        np.testing.assert_allclose(
            built, jacobian, rtol=0, atol=1e-6 * np.abs(jacobian).max() + 1e-7
        )


def test_a_single_singular_value_of_a_linearized_function():
    params, x = drawn_layers((7, 5), (1, 7))

    @jax.jit
    def of(x):
        f = functools.partial(layers, params)
        return EXTREME(Operator.linearized(f, x), steps=4), jax.jacrev(f)(x)

    got, jacobian = of(x)
    want = float(np.linalg.norm(jacobian))
    assert got.steps == 1
    np.testing.assert_allclose(got.values, [want, want], rtol=1e-6)
    assert (abs(np.asarray(got.values) - want) <= got.bounds).all()


def test_low_precision_is_worked_in_float32():
    assert (
        Operator.of(jnp.eye(3, dtype=jnp.bfloat16)).matvec(jnp.ones(3)).dtype
        == jnp.float32
    )


WRONG = Operator(lambda v: v, lambda u: u, (3, 2), np.float32)
EXTREME = functools.partial(linalg.extreme_singular_values, key=KEY, steps=2)
QUADRATURE = functools.partial(linalg.spectral_quadrature, key=KEY, steps=2, probes=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Operator.of(jnp.ones((2, 3, 3))),
            r"matrix has shape \(2, 3, 3\); write \(m, n\)",
        ),
        (
            lambda: Operator.of(jnp.ones((2, 0))),
            r"shape=\(2, 0\) has an axis of size 0",
        ),
        (
            lambda: Operator.of(jnp.ones((2, 2), jnp.int32)),
            r"dtype int32; write matrix\.astype\(jnp\.float32\)",
        ),
        (
            lambda: Operator(abs, abs, (3,), np.float32),
            r"Operator\(\): shape=\(3,\) has one axis; write \(m, n\)\.",
        ),
        (lambda: Operator(abs, abs, (3, 3, 3), np.float32), "has 3 axes"),
        (
            lambda: Operator(abs, abs, (3, 3), np.int32),
            "dtype=int32 is not a real floating type",
        ),
        (lambda: Operator(abs, abs, (3, 3), jnp.bfloat16), "too coarse"),
        (lambda: Operator(abs, abs, (3, 3), None), "dtype=None is not a dtype"),
        (
            lambda: Operator.linearized(jnp.sin, jnp.ones((2, 2))),
            r"point is float32 of shape \(2, 2\); both point and g\(point\) must be vectors .* Ravel",
        ),
        (
            lambda: Operator.linearized(jnp.sum, jnp.ones(2)),
            r"g\(point\) is float32 of shape \(\)",
        ),
        (lambda: Operator.linearized(jnp.sin, jnp.ones(2, jnp.bfloat16)), "too coarse"),
        (
            lambda: Operator.linearized(lambda x: x > 0, jnp.ones(2)),
            r"g\(point\) is bool",
        ),
        (
            lambda: EXTREME(jnp.eye(3)),
            r"is not an Operator; write linalg\.Operator\.of\(matrix\)",
        ),
        (
            lambda: EXTREME(WRONG),
            r"matvec of operator maps \(2,\) to float32 of shape \(2,\).*it must give .*\(3,\)",
        ),
        (
            lambda: EXTREME(Operator.of(jnp.eye(3)), key=None),
            r"key is None, not a single random key",
        ),
        (
            lambda: EXTREME(Operator.of(jnp.eye(3)), steps=0),
            "steps=0 must be a whole number, at least 1",
        ),
        (
            lambda: QUADRATURE(Operator.of(jnp.eye(3)), key=jax.random.split(KEY)),
            "not a single random key",
        ),
        (lambda: QUADRATURE(Operator.of(jnp.eye(3)), steps=0), "steps=0 must be"),
        (lambda: QUADRATURE(Operator.of(jnp.eye(3)), probes=0), "probes=0 must be"),
        (
            lambda: QUADRATURE(Operator.of(jnp.eye(3)), probes=1.5),
            "probes=1.5 is not a whole number",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


HEAVY = np.r_[9.0, 7.0, 7.0, 5.0, np.linspace(0.0, 1.5, 60)]


@jax.jit
def deflated(a, keys):
    def one(key):
        return linalg.spectral_quadrature(
            Operator.of(a), key=key, steps=16, probes=4, deflate=4
        )

    return jax.lax.map(one, keys)


@jax.jit
def to_a_tolerance(a, tol):
    return linalg.spectral_quadrature(
        Operator.of(a), key=KEY, steps=48, probes=4, tol=tol, deflate=4
    )


def integrals(log_values, weights, power):
    nodes = np.exp(np.asarray(log_values, np.float64))
    return np.sum(np.asarray(weights, np.float64) * nodes**power, -1)


@pytest.fixture(scope="module")
def rules():
    """Of four steps and of all, from the same starting vectors: the second are exact."""
    a = prescribed(np.r_[9.0, 7.0, 7.0, 5.0, np.linspace(0.0, 1.5, 8)]).astype(
        np.float32
    )
    keys = jax.random.split(KEY, 10)
    few, exact = (
        [quadrature(a, key, steps, 3) for key in keys] for steps in (4, 2 * N)
    )
    return [
        jax.tree.map(lambda *leaves: np.stack(leaves), *found) for found in (few, exact)
    ]


@pytest.mark.parametrize("power", [0.5, 1, 1.5, 3, 5])
def test_gauss_and_radau_rules_enclose_what_a_probe_sees(rules, power):
    """Golub and Meurant (2010), chapter 6: derivatives of s^a in s² alternate in sign."""
    few, exact = rules
    gauss = integrals(few.log_values, few.weights, power)
    radau = integrals(few.radau_log_values, few.radau_weights, power)
    true = integrals(exact.log_values, exact.weights, power)
    slack = 1e-5 * np.abs(true)
    assert (np.minimum(gauss, radau) <= true + slack).all()
    assert (true <= np.maximum(gauss, radau) + slack).all()
    assert (gauss != radau).any()


@pytest.mark.parametrize("power", [2, 4, 10])
def test_both_rules_are_exact_for_polynomials(rules, power):
    few, exact = rules
    true = integrals(exact.log_values, exact.weights, power)
    for nodes, weights in (
        (few.log_values, few.weights),
        (few.radau_log_values, few.radau_weights),
    ):
        np.testing.assert_allclose(integrals(nodes, weights, power), true, rtol=1e-4)


def test_values_that_are_taken_out_leave_the_estimate_unbiased():
    """Also of a double value, of which one probe finds one direction; the rest varies far less."""
    a = jnp.asarray(prescribed(HEAVY, (64, 64)), jnp.float32)
    got = jax.device_get(deflated(a, jax.random.split(KEY, 100)))
    assert got.weights.shape == (100, 4, 20)
    np.testing.assert_allclose(got.weights.sum(-1), 1, rtol=1e-5)
    assert (np.diff(got.log_values) <= 0).all()
    means = integrals(got.log_values, got.weights, 4).mean(-1)
    spread = means.std(ddof=1)
    assert abs(means.mean() - np.mean(HEAVY**4)) <= 4 * spread / 10
    # Of four probes that are uniform on the whole sphere.
    assert spread < math.sqrt(2 / 66 * np.var(HEAVY**4) / 4) / 3
    assert np.exp(got.log_values[:, :, 0].max()) == pytest.approx(9, rel=1e-5)


def test_isometries_and_zeros_may_be_deflated():
    for a, value in ((np.eye(64), 0.0), (np.zeros((64, 64)), -np.inf)):
        got = deflated(jnp.asarray(a, jnp.float32), jax.random.split(KEY, 100))
        np.testing.assert_allclose(got.weights.sum(-1), 1, rtol=1e-5)
        held = np.asarray(got.weights) > 1e-6
        np.testing.assert_allclose(np.asarray(got.log_values)[held], value, atol=1e-5)


def test_matrices_that_are_not_finite_are_no_numbers_with_a_tolerance_too():
    a = np.eye(64, dtype=np.float32)
    a[2, 3] = np.nan
    got = to_a_tolerance(a, 0.1)
    assert np.isnan(got.log_values).any(-1).all()
    assert got.steps == 48


UP_TO_ONE = np.linspace(0, 1, 60)
EXCESS = jax.jit(functools.partial(_lanczos.norm_excess, 60, probes=1, level=0.95))


@pytest.mark.parametrize(
    "values", [UP_TO_ONE, 1 - UP_TO_ONE**4, np.cos(math.pi / 2 * UP_TO_ONE)]
)
def test_the_largest_value_exceeds_its_bound_in_few_keys(values):
    """At 95 %, whatever the spectrum near its top."""
    with jax.enable_x64(True):
        got = quadrature(jnp.asarray(np.diag(values)), KEY, 8, 200)
        factor = float(EXCESS(8))
    nodes = np.exp(np.asarray(got.log_values).max(-1))
    # Three standard errors of a binomial of 200.
    assert np.mean(nodes * factor < values.max() * (1 - 1e-5)) <= 0.05 + 3 * math.sqrt(
        0.05 * 0.95 / 200
    )


def test_the_bound_on_the_largest_value_is_that_of_the_theorem():
    """All of three probes miss as much with probability 1 - level; where it says nothing it says so."""
    steps = np.array([1, 4, 8, 64])
    factors = jax.jit(
        functools.partial(_lanczos.norm_excess, 200, probes=3, level=0.95)
    )(steps)
    assert factors[0] == math.inf
    missed = 1 - 1 / np.asarray(factors, float)[1:] ** 2
    chance = 1.648 * math.sqrt(200) * np.exp(-np.sqrt(missed) * (2 * steps[1:] - 1))
    np.testing.assert_allclose(chance**3, 0.05, rtol=0.01)


def test_looser_tolerances_take_fewer_steps():
    a = jnp.asarray(prescribed(np.linspace(0, 1, 64), (64, 64)), jnp.float32)
    loose, tight = to_a_tolerance(a, 0.2), to_a_tolerance(a, 0.01)
    assert 8 <= loose.steps < tight.steps < 48
    for got, tol in ((loose, 0.2), (tight, 0.01)):
        upper = integrals(got.log_values, got.weights, 1).mean()
        lower = integrals(got.radau_log_values, got.radau_weights, 1).mean()
        assert 0 <= upper - lower <= tol * upper
        assert np.exp(got.log_values.max()) == pytest.approx(1, rel=tol)
