"""Moments of s²: exact ones against NumPy, estimates against their standard error, gradients of both orders."""

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


def rotation(n):
    return np.linalg.qr(RNG.standard_normal((n, n)))[0]


def exact(a, orders=ORDERS):
    s = np.linalg.svd(np.asarray(a, np.float64), compute_uv=False)
    return np.stack([np.mean(s ** (2 * k), -1) for k in orders], -1)


@functools.partial(jax.jit, static_argnums=(2, 3))
def estimates(a, key, probes, draws):
    """One estimate a key: what the standard error is taken from."""
    one = lambda k: linalg.spectral_moments(Operator.of(a), ORDERS, key=k, probes=probes)  # noqa: E731
    return jax.vmap(one)(jax.random.split(key, draws))


exact_moments = jax.jit(linalg.spectral_moments, static_argnums=1)


@pytest.mark.parametrize("shape", [(9, 6), (2, 3, 6, 9)])
def test_exact_moments_of_matrices(shape):
    a = (RNG.standard_normal(shape) / 2).astype(np.float32)
    got = exact_moments(a, ORDERS)
    assert got.shape == (*shape[:-2], len(ORDERS))
    assert got.dtype == jnp.float32
    # traces of positive matrices: no cancellation but inside the entries of G, k products of n terms
    np.testing.assert_allclose(got, exact(a), rtol=5 * 9 * 2.0**-23)


@pytest.mark.parametrize("orders", [(1,), (4, 2), (7, 8)])
def test_any_orders_in_any_sequence(orders):
    with jax.enable_x64(True):
        a = RNG.standard_normal((5, 8))
        np.testing.assert_allclose(exact_moments(a, orders), exact(a, orders), rtol=1e-13)


def test_low_precision_is_worked_in_float32():
    got = jax.eval_shape(lambda a: linalg.spectral_moments(a, (1,)), jax.ShapeDtypeStruct((3, 3), jnp.bfloat16))
    assert got.dtype == jnp.float32


DRAWS = 400
HEAVY = rotation(24) @ np.diag(np.r_[3.0, 2.0, np.linspace(0.2, 1.0, 22)]) @ np.eye(24, 40) @ rotation(40)


@pytest.mark.parametrize("a", [np.eye(24, 40), rotation(24) @ np.eye(24, 40), np.zeros((24, 40))])
def test_closed_forms(a):
    """An isometry, rectangular, has no variance; nor has zero. The programs are those of the next test."""
    with jax.enable_x64(True):
        np.testing.assert_allclose(exact_moments(a, ORDERS), float(a.any()), rtol=1e-12)
        for probes in (1, 12):
            np.testing.assert_allclose(estimates(a, KEY, probes, DRAWS), float(a.any()), rtol=1e-12)


def test_estimates_are_unbiased_and_the_sketch_takes_what_dominates():
    a, want, draws = HEAVY, exact(HEAVY), DRAWS
    with jax.enable_x64(True):
        hutchinson = np.asarray(estimates(jnp.asarray(a), KEY, 1, draws))
        sketched = np.asarray(estimates(jnp.asarray(a), KEY, 12, draws))
        spanned = np.asarray(estimates(jnp.asarray(a), KEY, 48, 1))
    for got in (hutchinson, sketched):
        error = got.mean(0) - want
        assert (abs(error) <= 4 * got.std(0, ddof=1) / math.sqrt(draws)).all()
    # one vector on the sphere: variance 2/(n + 2) of the variance of s^2k; the fourth moment is heavy, hence 30 %
    s = np.linalg.svd(a, compute_uv=False)
    spread = [math.sqrt(2 / 26 * np.var(s ** (2 * k))) for k in ORDERS]
    np.testing.assert_allclose(hutchinson.std(0, ddof=1), spread, rtol=0.3)
    # 12 vectors without a sketch would be √12 better; two large values make the sketch far better than that
    assert (sketched.std(0, ddof=1)[1:] < hutchinson.std(0, ddof=1)[1:] / math.sqrt(12) / 4).all()
    np.testing.assert_allclose(spanned, want[None], rtol=1e-12)


def test_the_number_of_probes_may_be_a_numpy_integer():
    key = jax.random.key(0)
    a = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2)), jnp.float32)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        got = linalg.spectral_moments(a, (1,), key=key, probes=np.int64(3))
        want = linalg.spectral_moments(a, (1,), key=key, probes=3)
    assert np.array_equal(got, want)


def test_first_moment_is_the_frobenius_norm():
    a = RNG.standard_normal((6, 10)).astype(np.float32)
    np.testing.assert_allclose(6 * exact_moments(a, (1,))[0], np.sum(a**2), rtol=1e-6)


def loss(a, **how):
    """Any polynomial of moments; estimates see the matrix through a function that is linear in x at 0 alone."""
    given = Operator.linearized(lambda x: jnp.sin(a @ x), jnp.zeros(5)) if how else a
    m = linalg.spectral_moments(given, (1, 2, 3), **how)
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


@pytest.fixture(scope="module")
def derivatives():
    """method → (a, d) → (value, gradient), (both, differentiated along d): compiled once."""
    f = {name: jax.value_and_grad(functools.partial(loss, **how)) for name, how in METHODS.items()}
    return {name: jax.jit(lambda a, d, g=g: jax.jvp(g, (a,), (d,))) for name, g in f.items()}


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("method", METHODS)
def test_derivatives_of_both_orders(derivatives, method, name):
    """Central differences: truncation h² and cancellation eps/h balance at h = eps^(1/3), an error of some eps^(2/3).

    A sketch of part of the space moves with the matrix, though the derivative rightly does not see it: no differences.
    """
    h, d = 6e-6, np.random.default_rng(1).standard_normal((6, 5))
    with jax.enable_x64(True):
        f = lambda a: jax.tree.map(np.asarray, derivatives[method](jnp.asarray(a), jnp.asarray(d)))  # noqa: E731
        (value, gradient), (slope, second) = f(POINTS[name])
        if method == "half sketched":
            assert all(np.isfinite(x).all() for x in (value, gradient, slope, second))
            return
        (above, gradient_above), _ = f(POINTS[name] + h * d)
        (below, gradient_below), _ = f(POINTS[name] - h * d)
        exactly = jax.tree.leaves(derivatives["exact"](jnp.asarray(POINTS[name]), jnp.asarray(d)))
    np.testing.assert_allclose(np.vdot(gradient, d), slope, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(slope, (above - below) / (2 * h), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(second, (gradient_above - gradient_below) / (2 * h), rtol=1e-7, atol=1e-8)
    if method == "spanned":  # no randomness is left
        for got, want in zip((value, gradient, slope, second), exactly, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * (1 + abs(np.asarray(want)).max()))


def test_gradient_of_the_estimate_is_unbiased():
    with jax.enable_x64(True):
        a, draws = jnp.asarray(POINTS["gaussian"]), 400

        def moments(a, **how):
            given = Operator.linearized(lambda x: jnp.sin(a @ x), jnp.zeros(5)) if how else a
            return linalg.spectral_moments(given, (3,), **how)[0]

        keys = jax.random.split(KEY, draws)

        @jax.jit
        def gradients(a, keys):
            one = lambda k: jax.grad(functools.partial(moments, key=k, probes=4))(a)  # noqa: E731
            return jax.vmap(one)(keys), jax.grad(moments)(a)

        got, want = jax.device_get(gradients(a, keys))
    error, spread = got.mean(0) - want, got.std(0, ddof=1) / math.sqrt(draws)
    assert (abs(error) <= 4.5 * spread).all()  # 30 entries


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: linalg.spectral_moments(Operator.of(jnp.eye(3)), (1,)),
            r"needs both: write key=jax\.random\.key\(0\)",
        ),
        (lambda: linalg.spectral_moments(jnp.eye(3), (1,), key=KEY), "probes=None.*needs both"),
        (lambda: linalg.spectral_moments(jnp.eye(3), (1,), probes=3), "key=None, probes=3"),
        (lambda: linalg.spectral_moments(jnp.eye(3), (1,), key=KEY, probes=0), "probes=0 must be a whole number"),
        (lambda: linalg.spectral_moments(jnp.eye(3), (1,), key=3, probes=2), "key is 3, not a single random key"),
        (
            lambda: linalg.spectral_moments(jnp.ones((2, 3, 3)), (1,), key=KEY, probes=2),
            r"matrix has shape \(2, 3, 3\)",
        ),
        (lambda: linalg.spectral_moments(jnp.eye(3), ()), r"spectral_moments\(\): orders is empty; write \(1, 2\)"),
        (lambda: linalg.spectral_moments(jnp.eye(3), 2), r"orders=2 is no sequence; write \(1, 2\)"),
        (lambda: linalg.spectral_moments(jnp.eye(3), (1, 0)), "orders=0 must be a whole number, between 1 and 1024"),
        (lambda: linalg.spectral_moments(jnp.eye(3), (1.5,)), "orders=1.5 is not a whole number"),
        (lambda: linalg.spectral_moments(jnp.ones(3), (1,)), r"a has shape \(3,\)"),
        (lambda: linalg.spectral_moments(jnp.eye(3, dtype=jnp.int32), (1,)), r"dtype int32; write a\.astype"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


NORMS = {"exact": {}, "spanned": {"key": KEY, "probes": 8}}  # half of 8 probes span 4 outputs


@pytest.mark.core
@pytest.mark.parametrize("how", NORMS)
def test_partial_jacobian_norm_of_any_block(how):
    """A residual block from (2, 3) to itself, and a layer from 6 to 4, against jax.jacobian."""
    w = jnp.asarray(RNG.standard_normal((6, 4)), jnp.float32)
    h = jnp.asarray(RNG.standard_normal((2, 3)), jnp.float32)
    layer = lambda h: jnp.tanh(h.ravel() @ w)  # noqa: E731
    residual = lambda h: h + 0.1 * (layer(h) @ w.T).reshape(h.shape)  # noqa: E731
    probes = NORMS[how] and {"key": KEY, "probes": 12}

    @jax.jit
    def norms_and_jacobians(h):
        of_layer = linalg.partial_jacobian_norm(layer, h, **NORMS[how])
        norms = of_layer, linalg.partial_jacobian_norm(residual, h, **probes)
        return norms, (jax.jacobian(layer)(h), jax.jacobian(residual)(h))

    norms, jacobians = jax.device_get(norms_and_jacobians(h))
    np.testing.assert_allclose(norms, [np.sum(jacobians[0] ** 2) / 4, np.sum(jacobians[1] ** 2) / 6], rtol=1e-5)


def test_partial_jacobian_norm_is_the_chi_of_the_theory():
    """Width 400, Gaussian: mean over units of sigma_w² φ'² has standard error √(Var/400), of weights √(2/400)."""
    sigma_w, q, n = 1.3, 0.8, 400
    rng = np.random.default_rng(0)
    w = jnp.asarray(sigma_w * rng.standard_normal((n, n)) / math.sqrt(n), jnp.float32)
    h = jnp.asarray(math.sqrt(q) * rng.standard_normal(n), jnp.float32)
    got = float(jax.jit(lambda h: linalg.partial_jacobian_norm(lambda h: jnp.tanh(h) @ w, h))(h))
    z = math.sqrt(q) * rng.standard_normal(200_000)
    slope = (1 - np.tanh(z) ** 2) ** 2
    spread = sigma_w**2 * math.sqrt(slope.var() + 2 * np.mean(slope**2) / n) / math.sqrt(n)
    assert abs(got - sigma_w**2 * slope.mean()) <= 4 * spread


@pytest.mark.parametrize("how", NORMS)
def test_partial_jacobian_norm_has_derivatives_where_roots_have_none(how):
    """Of ‖s W‖² / 4 = s² ‖W‖²/4: first and second derivative in s, at s = 0 and at an isometry."""
    f = lambda s: linalg.partial_jacobian_norm(lambda h: s * jnp.eye(4, 6) @ h, jnp.ones(6), **NORMS[how])  # noqa: E731
    both = jax.jit(lambda s: (f(s), *jax.jvp(jax.grad(f), (s,), (1.0,))))
    for s in (0.0, 1.0):
        np.testing.assert_allclose(both(s), [s**2, 2 * s, 2], rtol=1e-5, atol=1e-6)


def test_partial_jacobian_norm_refuses_half_an_estimate():
    with pytest.raises(InputError, match=r"probes=None.*needs both"):
        linalg.partial_jacobian_norm(jnp.sin, jnp.ones(3), key=KEY)
