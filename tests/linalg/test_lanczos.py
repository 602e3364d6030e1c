"""Golub-Kahan steps where they usually fail, and where they are right: against NumPy.

They usually fail at isometries, low rank, zero and clusters. The bases are orthogonal
and the recurrence exact to a small multiple of eps·s_max, so by Weyl's inequality each
node is. Tolerances are multiples of eps, so one dtype is enough for each claim: float32
for hard matrices, float64 for long runs.

Every shape and number of steps is a program that compiles for one to two seconds, so
tests share what they can.
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

# A small multiple of eps for each of N terms.
ROUNDING = 4 * N * EPS


def rotation(n, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def prescribed(s, shape=(N, N), seed=0):
    """Draw a matrix with these singular values."""
    m, n = shape
    middle = np.zeros(shape)
    np.fill_diagonal(middle, s)
    return rotation(m, seed) @ middle @ rotation(n, seed + 1)


INDEX = np.arange(N)
GAUSSIAN = np.random.default_rng(4).standard_normal((N, N))
MATRICES = {
    "identity": np.eye(N),
    "orthogonal": rotation(N, 3),
    "rank one": prescribed([3.0] + [0.0] * (N - 1)),
    "zero": np.zeros((N, N)),
    "clustered": prescribed([1 + 1e-7] + [1.0] * 5 + [1 - 1e-7] + [1e-3] * 5),
    "hilbert": 1 / (INDEX[:, None] + INDEX + 1),
    "gaussian": GAUSSIAN,
    "tiny": 1e-30 * GAUSSIAN,
    "huge": 1e30 * GAUSSIAN,
}
# Its rounding is below the range of float32, and so are some terms of its products.
HARD = MATRICES | {"underflowing": 1e-35 * GAUSSIAN}
BROKEN = np.eye(N, dtype=np.float32)
BROKEN[2, 3] = np.nan


def singular_values(a):
    return np.linalg.svd(np.asarray(a, np.float64), compute_uv=False)


def on_host(results, dtype=None):
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), results)


@functools.partial(jax.jit, static_argnums=2)
def bidiagonal(a, key, steps):
    start = _lanczos.unit(jax.random.normal(key, a.shape[1:], a.dtype))
    return _lanczos.bidiagonalize(Operator.of(a), start, key, steps)


@functools.partial(jax.jit, static_argnums=2)
def extremes(a, key, steps):
    return linalg.extreme_singular_values(Operator.of(a), key=key, steps=steps)


@functools.partial(jax.jit, static_argnums=(2, 3))
def quadrature(a, key, steps, probes):
    operator = Operator.of(a)
    return linalg.spectral_quadrature(operator, key=key, steps=steps, probes=probes)


@pytest.mark.parametrize("name", MATRICES)
def test_bidiagonalization_holds_and_bases_are_orthonormal(name):
    """J V = U B and Jᵀ U = V Bᵀ + β v eᵀ, but for rounding and what was dropped."""
    a = np.asarray(MATRICES[name], np.float32)
    b = on_host(bidiagonal(a, KEY, 9), np.float64)
    a = a.astype(np.float64)
    s_max = singular_values(a)[0]
    for basis in (b.left, b.right):
        gram = basis @ basis.T
        np.testing.assert_allclose(gram, np.eye(len(basis)), atol=ROUNDING)
    small = np.diag(b.diagonal) + np.diag(b.above[:-1], 1)
    outside = b.above[-1] * np.outer(b.right[-1], np.eye(9)[-1])
    onward = a @ b.right[:-1].T - b.left.T @ small
    back = a.T @ b.left.T - b.right[:-1].T @ small.T - outside
    slack = ROUNDING * s_max + b.lost
    assert np.linalg.norm(onward, 2) <= slack
    assert np.linalg.norm(back, 2) <= slack
    # Of eighteen couplings none may be larger.
    assert b.lost <= _lanczos._BREAKDOWN * math.sqrt(18) * EPS * s_max
    assert b.norm <= s_max * (1 + ROUNDING)


def test_restarts_are_recorded_as_zero_couplings():
    """On an isometry one step finds an invariant subspace."""
    b = bidiagonal(np.eye(N, dtype=np.float32), KEY, 9)
    np.testing.assert_array_equal(b.above, 0)
    np.testing.assert_allclose(b.diagonal, 1, rtol=1e-6)


@pytest.fixture(scope="module")
def hard_extremes():
    """Of all hard matrices, and of one that is not finite, in one program, by name."""
    batch = np.stack([*HARD.values(), BROKEN]).astype(np.float32)
    keys = jax.random.split(KEY, len(batch))
    of_all = jax.vmap(lambda a, key: extremes(a, key, 2 * N))(batch, keys)
    of_all = jax.device_get(of_all)
    names = [*HARD, "not finite"]
    return {
        name: jax.tree.map(lambda leaf, i=i: leaf[i], of_all)
        for i, name in enumerate(names)
    }


@pytest.mark.parametrize("name", HARD)
def test_extremes_of_hard_matrices_converge_within_their_bounds(hard_extremes, name):
    """A value is converged to √eps of itself, or to rounding."""
    ends = hard_extremes[name]
    expected = singular_values(np.asarray(HARD[name], np.float32))[[0, -1]]
    assert ends.values.dtype == np.float32
    assert ends.converged.all()
    # The number of steps is clamped to the dimension.
    assert ends.steps <= N
    assert (abs(ends.values.astype(float) - expected) <= ends.bounds).all()
    underflow = N * float(np.finfo(np.float32).tiny)
    rounding = 64 * N * (EPS * expected[0] + underflow)
    assert (ends.bounds <= math.sqrt(EPS) * expected + rounding).all()


def test_extremes_of_each_matrix_of_a_batch_stop_for_themselves(hard_extremes):
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
    """A singular value is within the bound of each, and both approach from inside."""
    a = prescribed(np.array(s), seed=seed).astype(np.float32)
    expected = singular_values(a)
    ends = on_host(extremes(a, jax.random.key(seed), 4))
    gaps = np.abs(expected[:, None] - ends.values.astype(float)).min(0)
    assert (gaps <= ends.bounds).all()
    slack = ROUNDING * expected[0]
    assert ends.values[0] <= expected[0] + slack
    assert ends.values[1] >= expected[-1] - slack


TALL = (48, 64)


def test_extremes_that_lie_apart_are_reached_early():
    """Their error is the residual² over the gap to the next value: below rounding."""
    s = np.r_[3.0, np.linspace(1.0, 1.5, 46), 0.1]
    with jax.enable_x64(True):
        ends = on_host(extremes(jnp.asarray(prescribed(s, TALL)), KEY, 32))
    assert ends.converged.all()
    assert ends.steps < 32
    tolerance = 4 * 64 * np.finfo(float).eps * 3.0
    np.testing.assert_allclose(ends.values, [3.0, 0.1], rtol=0, atol=tolerance)


def test_smallest_value_that_is_not_reached_is_not_converged():
    """Of 48 values from 1 to 1e-8, in 32 steps."""
    s = np.logspace(0, -8, 48)
    with jax.enable_x64(True):
        ends = on_host(extremes(jnp.asarray(prescribed(s, TALL)), KEY, 32))
    np.testing.assert_array_equal(ends.converged, [True, False])
    assert ends.steps == 32
    assert ends.values[0] == pytest.approx(1.0, abs=ends.bounds[0])
    assert 1e-8 < ends.values[1] < 1e-8 + ends.bounds[1]


@pytest.mark.parametrize("name", MATRICES)
def test_quadrature_of_all_steps_has_every_singular_value(name):
    """What is below the floor is zero, and may be on either side of it.

    The number of steps is clamped to the dimension.
    """
    a = np.asarray(MATRICES[name], np.float32)
    rules = on_host(quadrature(a, KEY, 2 * N, 3))
    assert rules.log_values.shape == rules.weights.shape == (3, N)
    expected = singular_values(a)
    s_max = expected[0]
    nodes = np.exp(rules.log_values.astype(np.float64))
    assert (np.diff(nodes) <= 0).all()
    rounding = ROUNDING
    if s_max:
        # A logarithm rounds by eps of itself.
        rounding += EPS * abs(math.log(s_max))
    tolerance = (rounding + 1.1 * math.exp(rules.log_floor)) * s_max
    of_probes = np.tile(expected, (3, 1))
    np.testing.assert_allclose(nodes, of_probes, rtol=0, atol=tolerance)
    np.testing.assert_allclose(nodes[:, 0], s_max, rtol=rounding)
    np.testing.assert_allclose(rules.weights.sum(-1), 1, rtol=ROUNDING)
    assert (rules.weights >= 0).all()


def shares_below(rules, points):
    """Return the mass of the nodes up to each point, by probe."""
    nodes = np.exp(rules.log_values.astype(np.float64))
    is_below = nodes[:, None] <= points[None, :, None]
    masses = rules.weights.astype(np.float64)
    return np.sum(masses[:, None] * is_below, -1)


def test_mass_of_zeros_and_distribution_are_within_their_standard_error():
    """vᵀ f v of v on the sphere has the variance 2/(n + 2) (mean f² - (mean f)²).

    Here n = 40, of a wide matrix. Between the values a quadrature of all steps is exact
    but for its weights. The spread over probes is that of the formula, to its own error
    1/√(2 probes), taken four times; at the end of the spectrum it is skew.
    """
    probes, n, rank = 200, 40, 30
    s = np.random.default_rng(5).uniform(0.2, 2.0, rank)
    a = prescribed(np.r_[s, np.zeros(n - rank)], (n, 60)).astype(np.float32)
    rules = on_host(quadrature(a, KEY, n, probes))
    s = np.r_[singular_values(a)[:rank], np.zeros(n - rank)]
    between = (s[1:rank] + s[: rank - 1]) / 2
    points = np.r_[1e-4, between]
    by_probe = shares_below(rules, points)
    exact = (s <= points[:, None]).mean(-1)
    spread = np.sqrt(2 / (n + 2) * exact * (1 - exact))
    error = abs(by_probe.mean(0) - exact)
    assert (error <= 4 * spread / math.sqrt(probes)).all()
    assert exact[0] == 0.25
    of_probes = by_probe[:, :-4].std(0, ddof=1)
    tolerance = 4 / math.sqrt(2 * probes)
    np.testing.assert_allclose(of_probes, spread[:-4], rtol=tolerance)


def test_truncated_quadrature_has_the_moments_and_the_distribution():
    """With k nodes, moments of s² up to 2k - 1 are those of the probe itself.

    The cdf is off by at most one node's mass (Szegő, 1939, section 3.41).
    """
    steps, probes, n = 8, 200, 60
    a = np.random.default_rng(6).standard_normal((n, n)) / math.sqrt(n)
    with jax.enable_x64(True):
        rules = on_host(quadrature(jnp.asarray(a), KEY, steps, probes))
    assert rules.log_values.shape == (probes, steps)
    s = singular_values(a)
    for k in (1, 2, 7):
        by_probe = integrals(rules.log_values, rules.weights, 2 * k)
        spread = math.sqrt(2 / (n + 2) * np.var(s ** (2 * k)))
        error = abs(by_probe.mean() - np.mean(s ** (2 * k)))
        assert error <= 4 * spread / math.sqrt(probes)
    points = np.linspace(0, 2.1, 200)
    share = shares_below(rules, points).mean(0)
    exact = (s <= points[:, None]).mean(-1)
    standard_error = math.sqrt(2 / (n + 2) / 4 / probes)
    one_node = rules.weights.max(-1).mean()
    assert abs(share - exact).max() <= one_node + 4 * standard_error


def test_matrix_that_is_not_finite_has_no_values(hard_extremes):
    ends = hard_extremes["not finite"]
    assert np.isnan(ends.values).all()
    assert not ends.converged.any()
    assert np.isnan(quadrature(BROKEN, KEY, 2 * N, 3).log_values).all()


def test_bidiagonal_matrix_is_that_of_matfree():
    """To some 20 eps·s_max."""
    matfree = pytest.importorskip("matfree.decomp")
    a = np.random.default_rng(7).standard_normal((24, 20))
    with jax.enable_x64(True):
        b = bidiagonal(jnp.asarray(a), KEY, 8)
        peer = matfree.bidiag(8)(lambda v: jnp.asarray(a) @ v, b.right[0])
        small = b.scaled() * b.norm
        np.testing.assert_allclose(small, peer.J_small, rtol=0, atol=1e-13)


def drawn_layers(*shapes):
    """Draw a tanh network as a function, and an input of five numbers."""
    rng = np.random.default_rng(8)
    weights = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]

    def network(x):
        for w in weights:
            x = jnp.tanh(w @ x)
        return x

    return network, rng.standard_normal(5).astype(np.float32)


def test_function_is_linearized_once_and_transposed():
    calls = []
    network, x = drawn_layers((7, 5), (6, 7))

    def counted(x):
        calls.append(x)
        return network(x)

    @jax.jit
    def both_ways(x):
        operator = Operator.linearized(counted, x)
        num_calls = len(calls)
        assert operator.shape == (6, 5)
        assert operator.T.shape == (5, 6)
        rows = jax.vmap(operator.rmatvec)(jnp.eye(6))
        columns = jax.vmap(operator.T.rmatvec)(jnp.eye(5))
        assert len(calls) == num_calls
        return rows, columns.T, jax.jacrev(network)(x)

    *both, jacobian = jax.device_get(both_ways(x))
    tolerance = 1e-6 * np.abs(jacobian).max() + 1e-7
    for matrix in both:
        np.testing.assert_allclose(matrix, jacobian, rtol=0, atol=tolerance)


def test_single_singular_value_of_a_linearized_function_is_its_norm():
    network, x = drawn_layers((7, 5), (1, 7))

    @jax.jit
    def of_both(x):
        operator = Operator.linearized(network, x)
        ends = linalg.extreme_singular_values(operator, key=KEY, steps=4)
        return ends, jax.jacrev(network)(x)

    ends, jacobian = jax.device_get(of_both(x))
    norm = float(np.linalg.norm(jacobian))
    assert ends.steps == 1
    np.testing.assert_allclose(ends.values, [norm, norm], rtol=1e-6)
    assert (abs(ends.values - norm) <= ends.bounds).all()


@pytest.mark.parametrize(
    ("g", "expected"),
    [
        (lambda x: jnp.array([jnp.inf, x[0]]), [[np.nan, 1], [np.nan, 0]]),
        (lambda x: jnp.array([jnp.inf, 1.0]), [[np.nan, 0], [np.nan, 0]]),
    ],
)
def test_outputs_that_are_not_finite_have_no_derivative(g, expected):
    """Not even one of zero, where the whole output is constant."""

    @jax.jit
    def columns(x):
        return jax.vmap(Operator.linearized(g, x).matvec)(jnp.eye(2))

    np.testing.assert_array_equal(columns(jnp.ones(2)), expected)


def test_low_precision_is_worked_in_float32():
    operator = Operator.of(jnp.eye(3, dtype=jnp.bfloat16))
    assert operator.dtype == jnp.float32
    assert operator.matvec(jnp.ones(3)).dtype == jnp.float32


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (jnp.ones((2, 3, 3)), r"matrix has shape \(2, 3, 3\); write \(m, n\)"),
        (jnp.ones((2, 0)), r"shape=\(2, 0\) has an axis of size 0"),
        (jnp.ones((2, 2), jnp.int32), r"has dtype int32; write matrix\.astype\(jnp"),
    ],
)
def test_operators_of_what_is_no_matrix_are_refused(matrix, message):
    with pytest.raises(InputError, match=message) as refusal:
        Operator.of(matrix)
    assert str(refusal.value).startswith("Operator.of(): ")


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((3,), np.float32, r"shape=\(3,\) has one axis; write \(m, n\)\."),
        ((3, 3, 3), np.float32, "has 3 axes"),
        ((3, 3), np.int32, "dtype=int32 is not a real floating type"),
        ((3, 3), jnp.bfloat16, "too coarse"),
        ((3, 3), None, "dtype=None is not a dtype"),
    ],
)
def test_operators_of_impossible_shapes_and_dtypes_are_refused(shape, dtype, message):
    with pytest.raises(InputError, match=message) as refusal:
        Operator(abs, abs, shape, dtype)
    assert str(refusal.value).startswith("Operator(): ")


@pytest.mark.parametrize(
    ("g", "point", "message"),
    [
        (
            jnp.sin,
            jnp.ones((2, 2)),
            r"point is float32 of shape \(2, 2\); both point and g\(point\) must be "
            "vectors of one floating dtype. Ravel",
        ),
        (jnp.sum, jnp.ones(2), r"g\(point\) is float32 of shape \(\)"),
        (jnp.sin, jnp.ones(2, jnp.bfloat16), "too coarse"),
        (lambda x: x > 0, jnp.ones(2), r"g\(point\) is bool of shape \(2,\)"),
        (lambda x: (x, x), jnp.ones(2), r"g\(point\) is \(ShapeDtypeStruct"),
    ],
)
def test_functions_that_map_no_vector_to_a_vector_are_refused(g, point, message):
    with pytest.raises(InputError, match=message) as refusal:
        Operator.linearized(g, point)
    assert str(refusal.value).startswith("Operator.linearized(): ")


IDENTITY = Operator.of(jnp.eye(3))
WRONG = Operator(lambda v: v, lambda u: u, shape=(3, 2), dtype=np.float32)


@pytest.mark.parametrize(
    ("operator", "given", "message"),
    [
        (jnp.eye(3), {}, r"is not an Operator; write linalg\.Operator\.of\(matrix\)"),
        (
            WRONG,
            {},
            r"matvec of operator maps \(2,\) to float32 of shape \(2,\); with shape="
            r"\(3, 2\) it must give float32 of shape \(3,\)",
        ),
        (IDENTITY, {"key": None}, r"key is None, not a single random key"),
        (IDENTITY, {"key": jax.random.split(KEY)}, "not a single random key"),
        (IDENTITY, {"steps": 0}, "steps=0 must be a whole number, at least 1"),
    ],
)
def test_operators_keys_and_steps_that_cannot_be_used_are_refused(
    operator, given, message
):
    given = {"key": KEY, "steps": 2} | given
    with pytest.raises(InputError, match=message) as refusal:
        linalg.extreme_singular_values(operator, **given)
    assert str(refusal.value).startswith("extreme_singular_values(): ")
    with pytest.raises(InputError, match=message) as refusal:
        linalg.spectral_quadrature(operator, probes=2, **given)
    assert str(refusal.value).startswith("spectral_quadrature(): ")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"probes": 0}, "probes=0 must be a whole number, at least 1"),
        ({"probes": 1.5}, "probes=1.5 is not a whole number"),
        ({"deflate": -1}, "deflate=-1 must be a whole number, at least 0"),
        ({"tol": 0.0}, r"tol=0.0 is not a finite number in \(0, inf\)"),
    ],
)
def test_settings_of_a_quadrature_that_cannot_be_used_are_refused(given, message):
    given = {"key": KEY, "steps": 2, "probes": 2} | given
    with pytest.raises(InputError, match=message):
        linalg.spectral_quadrature(IDENTITY, **given)


# Four large values, two of them equal, and a bulk of zeros and small ones.
LARGE = [9.0, 7.0, 7.0, 5.0]
HEAVY = np.r_[LARGE, np.linspace(0.0, 1.5, 60)]
ORDER = len(HEAVY)


@jax.jit
def deflated(a, keys):
    def one(key):
        operator = Operator.of(a)
        return linalg.spectral_quadrature(
            operator, key=key, steps=16, probes=4, deflate=4
        )

    return jax.lax.map(one, keys)


@jax.jit
def to_a_tolerance(a, tol):
    operator = Operator.of(a)
    return linalg.spectral_quadrature(
        operator, key=KEY, steps=48, probes=4, tol=tol, deflate=4
    )


def integrals(log_values, weights, power):
    """Return the integral of s^power by each rule."""
    nodes = np.exp(np.asarray(log_values, np.float64))
    return np.sum(np.asarray(weights, np.float64) * nodes**power, -1)


@pytest.fixture(scope="module")
def rules():
    """Of four steps, and of all from the same starting vectors, which are exact."""
    a = prescribed(np.r_[LARGE, np.linspace(0.0, 1.5, 8)]).astype(np.float32)
    keys = jax.random.split(KEY, 10)

    def of_all_keys(steps):
        by_key = [quadrature(a, key, steps, 3) for key in keys]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *by_key)

    return of_all_keys(4), of_all_keys(2 * N)


@pytest.mark.parametrize("power", [0.5, 1, 1.5, 3, 5])
def test_gauss_and_radau_rules_enclose_what_a_probe_sees(rules, power):
    """Derivatives of s^a in s² alternate in sign (Golub and Meurant, 2010, ch. 6)."""
    few, exact = rules
    gauss = integrals(few.log_values, few.weights, power)
    radau = integrals(few.radau_log_values, few.radau_weights, power)
    expected = integrals(exact.log_values, exact.weights, power)
    slack = 1e-5 * np.abs(expected)
    assert (np.minimum(gauss, radau) <= expected + slack).all()
    assert (expected <= np.maximum(gauss, radau) + slack).all()
    assert (gauss != radau).any()


@pytest.mark.parametrize("power", [2, 4, 10])
def test_both_rules_are_exact_for_polynomials(rules, power):
    few, exact = rules
    expected = integrals(exact.log_values, exact.weights, power)
    gauss = integrals(few.log_values, few.weights, power)
    radau = integrals(few.radau_log_values, few.radau_weights, power)
    np.testing.assert_allclose(gauss, expected, rtol=1e-4)
    np.testing.assert_allclose(radau, expected, rtol=1e-4)


def test_values_that_are_taken_out_leave_the_estimate_unbiased():
    """To four standard errors; of a double value one probe finds one direction.

    The rest varies far less than four probes that are uniform on the whole sphere.
    """
    a = jnp.asarray(prescribed(HEAVY, (ORDER, ORDER)), jnp.float32)
    rules = jax.device_get(deflated(a, jax.random.split(KEY, 100)))
    assert rules.weights.shape == (100, 4, 20)
    np.testing.assert_allclose(rules.weights.sum(-1), 1, rtol=1e-5)
    assert (np.diff(rules.log_values) <= 0).all()
    means = integrals(rules.log_values, rules.weights, 4).mean(-1)
    spread = means.std(ddof=1)
    assert abs(means.mean() - np.mean(HEAVY**4)) <= 4 * spread / 10
    on_the_sphere = math.sqrt(2 / (ORDER + 2) * np.var(HEAVY**4) / 4)
    assert spread < on_the_sphere / 3
    largest = np.exp(rules.log_values[:, :, 0].max())
    assert largest == pytest.approx(9, rel=1e-5)


@pytest.mark.parametrize(("s", "log_value"), [(1.0, 0.0), (0.0, -np.inf)])
def test_values_of_isometries_and_zeros_may_be_taken_out(s, log_value):
    a = s * jnp.eye(ORDER)
    rules = jax.device_get(deflated(a, jax.random.split(KEY, 100)))
    np.testing.assert_allclose(rules.weights.sum(-1), 1, rtol=1e-5)
    has_mass = rules.weights > 1e-6
    np.testing.assert_allclose(rules.log_values[has_mass], log_value, atol=1e-5)


def test_matrix_that_is_not_finite_takes_all_steps_to_a_tolerance():
    a = np.eye(ORDER, dtype=np.float32)
    a[2, 3] = np.nan
    rules = to_a_tolerance(a, 0.1)
    assert np.isnan(rules.log_values).any(-1).all()
    assert rules.steps == 48


UP_TO_ONE = np.linspace(0, 1, 60)
EXCESS = jax.jit(functools.partial(_lanczos.norm_excess, 60, probes=1, level=0.95))


@pytest.mark.parametrize(
    "values", [UP_TO_ONE, 1 - UP_TO_ONE**4, np.cos(math.pi / 2 * UP_TO_ONE)]
)
def test_largest_value_exceeds_its_bound_for_few_keys(values):
    """For at most 5 %, whatever the spectrum near its top.

    To three standard errors of a binomial of 200.
    """
    with jax.enable_x64(True):
        rules = quadrature(jnp.asarray(np.diag(values)), KEY, 8, 200)
        factor = float(EXCESS(8))
    nodes = np.exp(np.asarray(rules.log_values).max(-1))
    is_beyond = nodes * factor < values.max() * (1 - 1e-5)
    assert np.mean(is_beyond) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_bound_on_the_largest_value_is_that_of_the_theorem():
    """All of three probes miss as much with probability 1 - level.

    After one step nothing is proven, and the bound is infinite.
    """
    steps = np.array([1, 4, 8, 64])
    of_three = functools.partial(_lanczos.norm_excess, 200, probes=3, level=0.95)
    factors = np.asarray(jax.jit(of_three)(steps), float)
    assert factors[0] == math.inf
    missed = 1 - 1 / factors[1:] ** 2
    exponent = -np.sqrt(missed) * (2 * steps[1:] - 1)
    chance = 1.648 * math.sqrt(200) * np.exp(exponent)
    np.testing.assert_allclose(chance**3, 0.05, rtol=0.01)


def test_looser_tolerances_take_fewer_steps_and_are_kept():
    a = prescribed(np.linspace(0, 1, ORDER), (ORDER, ORDER)).astype(np.float32)
    loose = to_a_tolerance(a, 0.2)
    tight = to_a_tolerance(a, 0.01)
    assert 8 <= loose.steps < tight.steps < 48
    for rules, tol in ((loose, 0.2), (tight, 0.01)):
        upper = integrals(rules.log_values, rules.weights, 1).mean()
        lower = integrals(rules.radau_log_values, rules.radau_weights, 1).mean()
        assert 0 <= upper - lower <= tol * upper
        assert np.exp(rules.log_values.max()) == pytest.approx(1, rel=tol)
