"""Moments of s²: exact ones, estimates and derivatives.

References are NumPy's singular values in float64, standard errors and differences.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, linalg
from isometry.linalg import Operator

KEY = jax.random.key(0)
ORDERS = (1, 2, 3, 5)
RNG = np.random.default_rng(0)
DRAWS = 400


def rotation(n):
    return np.linalg.qr(RNG.standard_normal((n, n)))[0]


def by_numpy(a, orders=ORDERS):
    s = np.linalg.svd(np.asarray(a, np.float64), compute_uv=False)
    return np.stack([np.mean(s ** (2 * k), -1) for k in orders], -1)


@functools.partial(jax.jit, static_argnums=(2, 3))
def estimates(a, key, probes, draws):
    """Return one estimate a key: what the standard error is taken from."""

    def estimate(key):
        operator = Operator.of(a)
        return linalg.spectral_moments(operator, ORDERS, key=key, probes=probes)

    return jax.vmap(estimate)(jax.random.split(key, draws))


exact_moments = jax.jit(linalg.spectral_moments, static_argnums=1)


@pytest.mark.parametrize("shape", [(9, 6), (2, 3, 6, 9)])
def test_exact_moments_are_those_of_numpy(shape):
    """Traces of positive matrices cancel only inside the entries of the Gram matrix.

    So the error is that of up to five products of nine terms.
    """
    a = (RNG.standard_normal(shape) / 2).astype(np.float32)
    moments = exact_moments(a, ORDERS)
    assert moments.shape == (*shape[:-2], len(ORDERS))
    assert moments.dtype == jnp.float32
    np.testing.assert_allclose(moments, by_numpy(a), rtol=5 * 9 * 2.0**-23)


@pytest.mark.parametrize("orders", [(1,), (4, 2), (7, 8)])
def test_any_orders_come_in_their_own_sequence(orders):
    """Eight products of eight terms: 1e-13 is seven times their rounding."""
    with jax.enable_x64(True):
        a = RNG.standard_normal((5, 8))
        moments = exact_moments(a, orders)
        np.testing.assert_allclose(moments, by_numpy(a, orders), rtol=1e-13)


def test_low_precision_is_worked_in_float32():
    low = jax.ShapeDtypeStruct((3, 3), jnp.bfloat16)
    moments = jax.eval_shape(lambda a: linalg.spectral_moments(a, (1,)), low)
    assert moments.dtype == jnp.float32


S = np.r_[3.0, 2.0, np.linspace(0.2, 1.0, 22)]
HEAVY = rotation(24) @ np.diag(S) @ np.eye(24, 40) @ rotation(40)
CONSTANT = {
    "identity": np.eye(24, 40),
    "isometry": rotation(24) @ np.eye(24, 40),
    "zero": np.zeros((24, 40)),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_constant_spectra_have_no_variance(name):
    """All moments of an isometry are 1, of zero 0, for every key.

    The programs are those of the next test.
    """
    a = CONSTANT[name]
    expected = float(a.any())
    with jax.enable_x64(True):
        np.testing.assert_allclose(exact_moments(a, ORDERS), expected, rtol=1e-12)
        for probes in (1, 12):
            moments = estimates(a, KEY, probes, DRAWS)
            np.testing.assert_allclose(moments, expected, rtol=1e-12)


@pytest.fixture(scope="module")
def heavy_estimates():
    """Of a matrix with two large values: no sketch, half of it, all of the space."""
    with jax.enable_x64(True):
        a = jnp.asarray(HEAVY)
        single = np.asarray(estimates(a, KEY, 1, DRAWS))
        sketched = np.asarray(estimates(a, KEY, 12, DRAWS))
        spanned = np.asarray(estimates(a, KEY, 48, 1))
    return single, sketched, spanned


def test_estimates_are_unbiased(heavy_estimates):
    """To four standard errors. Where the sketch spans everything nothing is random."""
    *random, spanned = heavy_estimates
    expected = by_numpy(HEAVY)
    for moments in random:
        error = abs(moments.mean(0) - expected)
        assert (error <= 4 * moments.std(0, ddof=1) / math.sqrt(DRAWS)).all()
    np.testing.assert_allclose(spanned, expected[None], rtol=1e-12)


def test_spread_of_one_probe_is_that_of_the_sphere(heavy_estimates):
    """The variance is 2/(n + 2) that of s^2k. High moments are heavy, hence 30 %."""
    single, _, _ = heavy_estimates
    spread = [math.sqrt(2 / 26 * np.var(S ** (2 * k))) for k in ORDERS]
    np.testing.assert_allclose(single.std(0, ddof=1), spread, rtol=0.3)


def test_sketch_takes_what_dominates(heavy_estimates):
    """12 vectors without a sketch would be √12 better; two large values do far more."""
    single, sketched, _ = heavy_estimates
    without = single.std(0, ddof=1) / math.sqrt(12)
    assert (sketched.std(0, ddof=1)[1:] < without[1:] / 4).all()


def test_number_of_probes_may_be_a_numpy_integer():
    a = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)), jnp.float32)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        moments = linalg.spectral_moments(a, (1,), key=KEY, probes=np.int64(3))
        expected = linalg.spectral_moments(a, (1,), key=KEY, probes=3)
    np.testing.assert_array_equal(moments, expected)


def test_first_moment_is_the_frobenius_norm():
    a = RNG.standard_normal((6, 10)).astype(np.float32)
    moments = exact_moments(a, (1,))
    np.testing.assert_allclose(6 * moments[0], np.sum(a**2), rtol=1e-6)


def operator_of(a):
    """The products of `a` by a function that is linear at 0 alone."""
    return Operator.linearized(lambda x: jnp.sin(a @ x), jnp.zeros(5))


def loss(a, **settings):
    """Some polynomial of moments; estimates see the matrix through a function."""
    target = operator_of(a) if settings else a
    m = linalg.spectral_moments(target, (1, 2, 3), **settings)
    return m[1] - m[0] ** 2 + 0.1 * m[2]


METHODS = {
    "exact": {},
    "no sketch": {"key": KEY, "probes": 1},
    "half sketched": {"key": KEY, "probes": 5},
    "spanned": {"key": KEY, "probes": 10},
}
POINTS = {
    "gaussian": RNG.standard_normal((6, 5)) / 2,
    "isometry": np.eye(6, 5),
    "zero": np.zeros((6, 5)),
    "rank one": np.outer(np.ones(6), np.ones(5)) / 4,
}
DIRECTION = np.random.default_rng(1).standard_normal((6, 5))


@pytest.fixture(scope="module")
def derivatives():
    """By method: value, gradient and the derivatives of both along a direction.

    Each is compiled once.
    """

    def of_method(settings):
        value_and_gradient = jax.value_and_grad(functools.partial(loss, **settings))
        compiled = jax.jit(lambda a, d: jax.jvp(value_and_gradient, (a,), (d,)))
        return lambda a: jax.device_get(compiled(a, DIRECTION))

    return {name: of_method(settings) for name, settings in METHODS.items()}


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("method", ["exact", "no sketch", "spanned"])
def test_derivatives_of_both_orders_are_those_of_differences(derivatives, method, name):
    """Truncation h² and cancellation eps/h balance at h = eps^(1/3).

    They leave an error of some eps^(2/3) = 4e-11, times third derivatives.
    """
    h = 6e-6
    f = derivatives[method]
    with jax.enable_x64(True):
        (_, gradient), (slope, second) = f(POINTS[name])
        (above, gradient_above), _ = f(POINTS[name] + h * DIRECTION)
        (below, gradient_below), _ = f(POINTS[name] - h * DIRECTION)
    np.testing.assert_allclose(np.vdot(gradient, DIRECTION), slope, 1e-12, 1e-14)
    first_difference = (above - below) / (2 * h)
    np.testing.assert_allclose(slope, first_difference, rtol=1e-7, atol=1e-9)
    second_difference = (gradient_above - gradient_below) / (2 * h)
    np.testing.assert_allclose(second, second_difference, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", POINTS)
def test_derivatives_with_half_a_sketch_are_finite(derivatives, name):
    """The sketch moves with the matrix, which the derivative rightly does not see.

    So there are no differences to compare with.
    """
    with jax.enable_x64(True):
        results = derivatives["half sketched"](POINTS[name])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


@pytest.mark.parametrize("name", POINTS)
def test_derivatives_with_a_whole_sketch_are_exact(derivatives, name):
    """No randomness is left."""
    with jax.enable_x64(True):
        results = derivatives["spanned"](POINTS[name])
        expected = derivatives["exact"](POINTS[name])
    leaves = jax.tree.leaves(results), jax.tree.leaves(expected)
    for leaf, reference in zip(*leaves, strict=True):
        tolerance = 1e-12 * (1 + abs(reference).max())
        np.testing.assert_allclose(leaf, reference, rtol=0, atol=tolerance)


def test_gradient_of_the_estimate_is_unbiased():
    """To 4.5 standard errors, as there are 30 entries."""

    def third_moment(a, key):
        moments = linalg.spectral_moments(operator_of(a), (3,), key=key, probes=4)
        return moments[0]

    def exact_third_moment(a):
        return linalg.spectral_moments(a, (3,))[0]

    @jax.jit
    def gradients(a, keys):
        of_estimates = jax.vmap(jax.grad(third_moment), (None, 0))(a, keys)
        return of_estimates, jax.grad(exact_third_moment)(a)

    with jax.enable_x64(True):
        a = jnp.asarray(POINTS["gaussian"])
        of_keys, expected = jax.device_get(gradients(a, jax.random.split(KEY, DRAWS)))
    error = abs(of_keys.mean(0) - expected)
    standard_error = of_keys.std(0, ddof=1) / math.sqrt(DRAWS)
    assert (error <= 4.5 * standard_error).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probes": None}, r"probes=None; an estimate, .* needs both: write key="),
        ({"key": None}, r"key=None, probes=2; an estimate, .* needs both"),
        ({"probes": 0}, "probes=0 must be a whole number"),
        ({"key": 3}, "key is 3, not a single random key"),
        ({"a": jnp.ones((2, 3, 3))}, r"matrix has shape \(2, 3, 3\)"),
        (
            {"a": Operator.of(jnp.eye(3)), "key": None, "probes": None},
            r"needs both: write key=jax\.random\.key\(0\)",
        ),
    ],
)
def test_estimates_that_cannot_be_made_are_refused(settings, message):
    given = {"a": jnp.eye(3), "key": KEY, "probes": 2} | settings
    a = given.pop("a")
    with pytest.raises(InputError, match=message) as refusal:
        linalg.spectral_moments(a, (1,), **given)
    assert str(refusal.value).startswith("spectral_moments(): ")


@pytest.mark.parametrize(
    ("a", "orders", "message"),
    [
        (jnp.eye(3), (), r"orders is empty; write \(1, 2\)"),
        (jnp.eye(3), 2, r"orders=2 is no sequence; write \(1, 2\)"),
        (jnp.eye(3), (1, 0), "orders=0 must be a whole number, between 1 and 1024"),
        (jnp.eye(3), (1.5,), "orders=1.5 is not a whole number"),
        (jnp.ones(3), (1,), r"a has shape \(3,\)"),
        (jnp.eye(3, dtype=jnp.int32), (1,), r"a has dtype int32; write a\.astype"),
    ],
)
def test_orders_and_matrices_that_cannot_be_used_are_refused(a, orders, message):
    with pytest.raises(InputError, match=r"^spectral_moments\(\): " + message):
        linalg.spectral_moments(a, orders)


# Half of the probes span the four outputs of the layer, and six of the block.
PROBES_OF_NORMS = {"exact": (None, None), "spanned": (8, 12)}


def settings_of(probes):
    return {} if probes is None else {"key": KEY, "probes": probes}


@pytest.mark.core
@pytest.mark.parametrize("method", PROBES_OF_NORMS)
def test_partial_jacobian_norm_of_any_block_is_that_of_its_jacobian(method):
    """A layer from 6 to 4, and a residual block from (2, 3) to itself."""
    w = jnp.asarray(RNG.standard_normal((6, 4)), jnp.float32)
    h = jnp.asarray(RNG.standard_normal((2, 3)), jnp.float32)

    def layer(h):
        return jnp.tanh(h.ravel() @ w)

    def residual(h):
        return h + 0.1 * (layer(h) @ w.T).reshape(h.shape)

    blocks = layer, residual

    @jax.jit
    def norms_and_jacobians(h):
        norms = [
            linalg.partial_jacobian_norm(block, h, **settings_of(probes))
            for block, probes in zip(blocks, PROBES_OF_NORMS[method], strict=True)
        ]
        return norms, [jax.jacobian(block)(h) for block in blocks]

    norms, jacobians = jax.device_get(norms_and_jacobians(h))
    expected = [np.sum(jacobians[0] ** 2) / 4, np.sum(jacobians[1] ** 2) / 6]
    np.testing.assert_allclose(norms, expected, rtol=1e-5)


def test_partial_jacobian_norm_is_the_chi_of_mean_field_theory():
    """sigma_w² E φ'² of a wide Gaussian layer, to four standard errors.

    That of the mean over n units of sigma_w² φ'² is √(Var/n), and that of the weights
    √(2/n).
    """
    sigma_w, q, n = 1.3, 0.8, 400
    rng = np.random.default_rng(0)
    w = sigma_w * rng.standard_normal((n, n)) / math.sqrt(n)
    h = math.sqrt(q) * rng.standard_normal(n)

    @jax.jit
    def norm(w, h):
        return linalg.partial_jacobian_norm(lambda h: jnp.tanh(h) @ w, h)

    chi = float(norm(np.float32(w), np.float32(h)))
    z = math.sqrt(q) * rng.standard_normal(200_000)
    slope = (1 - np.tanh(z) ** 2) ** 2
    variance = slope.var() + 2 * np.mean(slope**2) / n
    standard_error = sigma_w**2 * math.sqrt(variance / n)
    assert abs(chi - sigma_w**2 * slope.mean()) <= 4 * standard_error


@pytest.mark.parametrize("probes", [None, 8])
def test_partial_jacobian_norm_has_derivatives_where_roots_have_none(probes):
    """‖s·I‖²/4 is s² for the 4 × 6 identity: at s = 0, and at an isometry."""

    def norm(s):
        settings = settings_of(probes)
        block = functools.partial(jnp.matmul, s * jnp.eye(4, 6))
        return linalg.partial_jacobian_norm(block, jnp.ones(6), **settings)

    @jax.jit
    def derivatives(s):
        return norm(s), *jax.jvp(jax.grad(norm), (s,), (1.0,))

    for s in (0.0, 1.0):
        np.testing.assert_allclose(derivatives(s), [s**2, 2 * s, 2], 1e-5, 1e-6)


@pytest.mark.parametrize("point", [True, 3, np.arange(3)])
def test_partial_jacobian_norm_needs_a_floating_point(point):
    with pytest.raises(InputError, match=r"point has dtype (bool|int32)"):
        linalg.partial_jacobian_norm(jnp.tanh, point)


def test_partial_jacobian_norm_refuses_half_an_estimate():
    with pytest.raises(InputError, match=r"probes=None; .* needs both") as refusal:
        linalg.partial_jacobian_norm(jnp.sin, jnp.ones(3), key=KEY)
    assert str(refusal.value).startswith("partial_jacobian_norm(): ")
