"""The two regularizers where singular values coincide or are zero.

Value, gradient and Hessian are compared with differences of NumPy's values in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import linalg

# Of central differences in float64: the truncation is STEP², the rounding of a second
# difference eps/STEP².
STEP = 1e-4
RNG = np.random.default_rng(0)


def with_values(s, m=4):
    """Draw an (m, len(s)) matrix with these singular values."""
    left, right = (np.linalg.qr(RNG.normal(size=(k, k)))[0] for k in (m, len(s)))
    return left[:, : len(s)] @ np.diag(np.asarray(s, float)) @ right.T


FULL_RANK = {
    "isometry": with_values([1, 1, 1, 1]),
    "identity": np.eye(4),
    "a pair": with_values([3, 1, 1, 0.5]),
    "nearly a pair": with_values([3, 1 + 1e-9, 1, 0.5]),
    "all apart": with_values([3, 1.5, 1, 0.5]),
    "wide": with_values([2, 2, 0.5]).T,
}
SINGULAR = {"zeros": with_values([1, 1, 0, 0]), "zero": np.zeros((4, 4))}


def sum_of_moments(a):
    return jnp.sum(linalg.spectral_moments(a, (1, 2, 3)))


def log_variance_by_numpy(a):
    return np.log(np.linalg.svd(a, compute_uv=False)).var()


def sum_of_moments_by_numpy(a):
    lam = np.linalg.svd(a, compute_uv=False) ** 2
    return sum((lam**k).mean() for k in (1, 2, 3))


def along(f):
    """Return a function of the value, first and second derivative along a direction.

    The second is forward over reverse, as in a Hessian-vector product.
    """

    def derivatives(a, direction):
        gradient, curved = jax.jvp(jax.grad(f), (a,), (direction,))
        return f(a), jnp.sum(gradient * direction), jnp.sum(curved * direction)

    return jax.jit(derivatives)


def differences(f, t=STEP):
    """Return the first and second derivative of f at 0 by central differences."""
    above, here, below = (float(f(at)) for at in (t, 0.0, -t))
    return (above - below) / (2 * t), (above - 2 * here + below) / t**2


SPREAD = along(linalg.log_spread)
MOMENTS = along(sum_of_moments)


@pytest.mark.parametrize(
    ("ours", "reference", "cases"),
    [
        (SPREAD, log_variance_by_numpy, FULL_RANK),
        (MOMENTS, sum_of_moments_by_numpy, FULL_RANK | SINGULAR),
    ],
    ids=["log_spread", "spectral_moments"],
)
def test_value_gradient_and_hessian_are_those_of_differences(ours, reference, cases):
    """The tolerances are STEP² times a third or fourth derivative, and rounding."""
    with jax.enable_x64(True):
        for name, a in cases.items():
            direction = RNG.normal(size=a.shape)
            results = ours(jnp.asarray(a), jnp.asarray(direction))
            value, first, second = map(float, results)
            expected = differences(lambda t, a=a, e=direction: reference(a + t * e))
            scale = max(abs(expected[1]), 1.0)
            assert value == pytest.approx(reference(a), rel=1e-13, abs=1e-13), name
            assert first == pytest.approx(expected[0], abs=1e-5 * scale), name
            assert second == pytest.approx(expected[1], abs=1e-4 * scale), name


def test_hessian_at_isometry_is_the_closed_form():
    """ln s of I + tE is t times the eigenvalues of sym E: the Hessian is 2 Var of them.

    Through the vectors of an SVD it is not finite.
    """
    direction = RNG.normal(size=(4, 4)).astype(np.float32)
    _, first, second = SPREAD(jnp.eye(4), jnp.asarray(direction))
    eigenvalues = np.linalg.eigvalsh((direction + direction.T) / 2)
    assert first == 0
    assert second == pytest.approx(2 * eigenvalues.var(), rel=1e-5)
    through_svd = along(lambda a: jnp.log(linalg.singular_values(a)).var())
    _, _, curved = through_svd(jnp.eye(4), jnp.asarray(direction))
    assert not np.isfinite(curved)


@pytest.mark.parametrize("s", [[1, 1, 0, 0], [2, 1, 1e-12, 0]])
def test_values_that_are_not_resolved_are_left_out(s):
    """Of diag(s) + t diag(1, -1, 1, 1) only the first two values count, s_i ± t."""
    a = jnp.diag(jnp.array(s, jnp.float32))
    direction = jnp.diag(jnp.array([1.0, -1.0, 1.0, 1.0]))
    value, first, second = map(float, SPREAD(a, direction))

    def by_hand(t):
        return (np.log(s[0] + t) - np.log(s[1] - t)) ** 2 / 4

    slope, curvature = differences(by_hand)
    assert value == pytest.approx(by_hand(0), abs=1e-6)
    assert first == pytest.approx(slope, abs=1e-5)
    assert second == pytest.approx(curvature, rel=1e-5)


def test_zero_matrix_has_zero_spread_and_derivatives():
    assert list(map(float, SPREAD(jnp.zeros((4, 4)), jnp.eye(4)))) == [0, 0, 0]


def test_batches_and_float16_are_taken():
    """The variance of (0, ln 2) is (ln 2)²/4."""
    a = np.stack([np.diag([1.0, 2.0]), np.eye(2)])[None]
    spreads = jax.jit(linalg.log_spread)(a.astype(np.float16))
    expected = [[(np.log(2) / 2) ** 2, 0]]
    assert spreads.shape == (1, 2)
    np.testing.assert_allclose(spreads, expected, rtol=1e-6)


def test_scale_of_a_matrix_has_no_part_in_its_spread():
    """At 2^127 singular values are beyond float32, at 2^-124 entries still normal."""
    a = np.array([[1.75, 1.5], [1.5, -1.0]], np.float32)
    scales = np.float32(2) ** np.array([-124, -60, 0, 60, 127], np.float32)
    spreads, slopes = jax.vmap(jax.value_and_grad(linalg.log_spread))(
        a * scales[:, None, None]
    )
    np.testing.assert_array_equal(spreads, np.full(5, spreads[2]))
    # Of a function that scaling leaves alone the gradient is divided by the scale.
    np.testing.assert_array_equal(slopes[1] * scales[1], slopes[2])
    np.testing.assert_array_equal(slopes[3] * scales[3], slopes[2])


@pytest.mark.parametrize(
    ("a", "words"),
    [
        (jnp.ones(3), r"a has shape \(3,\)"),
        (jnp.ones((2, 2), int), "a has dtype int32"),
    ],
)
def test_what_is_no_matrix_is_refused_by_name(a, words):
    with pytest.raises(isometry.InputError, match=r"^log_spread\(\): " + words):
        linalg.log_spread(a)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_matrix_that_is_not_finite_has_no_spread(bad):
    a = np.stack([np.eye(3), np.eye(3)])
    a[1, 0, 0] = bad
    spreads = jax.jit(linalg.log_spread)(a.astype(np.float32))
    assert spreads[0] == 0
    assert np.isnan(spreads[1])
