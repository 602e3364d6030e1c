"""The two regularizers where singular values coincide or vanish: value, gradient and Hessian against differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import linalg

STEP = 1e-4  # of central differences in float64: truncation STEP², rounding eps/STEP² for a second one
RNG = np.random.default_rng(0)


def with_values(s, m=4):
    """An (m, len(s)) matrix with these singular values."""
    left, right = (np.linalg.qr(RNG.normal(size=(k, k)))[0] for k in (m, len(s)))
    return left[:, : len(s)] @ np.diag(np.asarray(s, float)) @ right.T


FULL = {
    "isometry": with_values([1, 1, 1, 1]),
    "identity": np.eye(4),
    "a pair": with_values([3, 1, 1, 0.5]),
    "nearly a pair": with_values([3, 1 + 1e-9, 1, 0.5]),
    "all apart": with_values([3, 1.5, 1, 0.5]),
    "wide": with_values([2, 2, 0.5]).T,
}


def moments(a):
    return jnp.sum(linalg.spectral_moments(a, (1, 2, 3)))


def reference(f, a, direction):
    """First and second derivative of f along a direction by central differences."""
    up, at, down = (float(f(a + t * direction)) for t in (STEP, 0.0, -STEP))
    return (up - down) / (2 * STEP), (up - 2 * at + down) / STEP**2


def log_variance(a):
    return np.log(np.linalg.svd(a, compute_uv=False)).var()


def traces(a):
    lam = np.linalg.svd(a, compute_uv=False) ** 2
    return sum((lam**k).mean() for k in (1, 2, 3))


def directional(f):
    """(value, first, second derivative) along a direction, forward over reverse, as a Hessian-vector product is."""

    def run(a, e):
        gradient, hessian_e = jax.jvp(jax.grad(f), (a,), (e,))
        return f(a), jnp.sum(gradient * e), jnp.sum(hessian_e * e)

    return jax.jit(run)


SPREAD, MOMENTS = directional(linalg.log_spread), directional(moments)


@pytest.mark.parametrize(
    ("ours", "exact", "cases"),
    [
        (SPREAD, log_variance, FULL),
        (MOMENTS, traces, FULL | {"zeros": with_values([1, 1, 0, 0]), "0": np.zeros((4, 4))}),
    ],
    ids=["log_spread", "spectral_moments"],
)
def test_value_gradient_and_hessian_against_differences(ours, exact, cases):
    with jax.enable_x64(True):
        for name, a in cases.items():
            e = RNG.normal(size=a.shape)
            value, first, second = (float(x) for x in ours(jnp.asarray(a), jnp.asarray(e)))
            assert value == pytest.approx(exact(a), rel=1e-13, abs=1e-13), name
            near, nearer = reference(exact, a, e)
            scale = max(abs(nearer), 1.0)
            assert first == pytest.approx(near, abs=1e-5 * scale), name  # STEP² times a third derivative
            assert second == pytest.approx(nearer, abs=1e-4 * scale), name


def test_the_hessian_at_isometry_in_closed_form():
    """ln s of I + tE is t times the eigenvalues of sym E: the Hessian is 2 Var of them, NaN through an SVD."""
    e = RNG.normal(size=(4, 4)).astype(np.float32)
    _, first, second = SPREAD(jnp.eye(4), jnp.asarray(e))
    assert first == 0
    assert second == pytest.approx(2 * np.linalg.eigvalsh((e + e.T) / 2).var(), rel=1e-5)
    through_svd = directional(lambda m: jnp.log(linalg.singular_values(m)).var())
    assert not np.isfinite(through_svd(jnp.eye(4), jnp.asarray(e))[2])


@pytest.mark.parametrize("s", [[1, 1, 0, 0], [0, 0, 0, 0], [2, 1, 1e-12, 0]])
def test_zeros_are_left_out_and_everything_stays_finite(s):
    """Along diag E only the resolved values move, and ln of them is known: 2×2 blocks by hand."""
    a, e = np.diag(np.array(s, np.float32)), np.diag([1.0, -1.0, 1.0, 1.0]).astype(np.float32)
    value, first, second = (float(x) for x in SPREAD(jnp.asarray(a), jnp.asarray(e)))
    if not a.any():
        assert (value, first, second) == (0, 0, 0)
        return

    def by_hand(t):
        return (np.log(s[0] + t) - np.log(s[1] - t)) ** 2 / 4

    near, nearer = (by_hand(STEP) - by_hand(-STEP)) / (2 * STEP), (by_hand(STEP) - 2 * by_hand(0) + by_hand(-STEP))
    assert value == pytest.approx(by_hand(0), abs=1e-6)
    assert first == pytest.approx(near, abs=1e-5)
    assert second == pytest.approx(nearer / STEP**2, rel=1e-5)


def test_batches_and_float16():
    a = np.stack([np.diag([1.0, 2.0]), np.eye(2)])[None]
    found = jax.jit(linalg.log_spread)(a.astype(np.float16))
    assert found.shape == (1, 2)
    np.testing.assert_allclose(found, [[(np.log(2) / 2) ** 2, 0]], rtol=1e-6)


@pytest.mark.parametrize(("a", "words"), [(jnp.ones(3), "shape"), (jnp.ones((2, 2), int), "int32")])
def test_what_is_refused(a, words):
    with pytest.raises(isometry.InputError, match=words) as error:
        linalg.log_spread(a)
    assert str(error.value).startswith("log_spread()")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_no_isometry(bad):
    a = np.stack([np.eye(3), np.eye(3)])
    a[1, 0, 0] = bad
    found = jax.jit(linalg.log_spread)(a.astype(np.float32))
    assert found[0] == 0
    assert np.isnan(found[1])
