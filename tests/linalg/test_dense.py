"""Dense singular values against prescribed spectra and against NumPy in float64.

By Weyl's inequality an error of the matrix moves no singular value by more than its
spectral norm, whatever the condition. The SVD is backward stable, so every tolerance is
absolute, a small multiple of max(m, n)·eps·s_max.
"""

import contextlib
import math
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry import InputError, linalg
from isometry._internal import jaxprs
from isometry.linalg import _dense, _factorizations

DTYPES = [np.float32, np.float64]
EPS = float(np.finfo(np.float32).eps)
SPECTRA = {
    "identity": np.ones(8),
    "rank one": np.array([3.0] + [0.0] * 7),
    "zero": np.zeros(8),
    "clustered": np.array([1 + 1e-7, 1, 1, 1, 1 - 1e-7, 1e-3, 1e-3, 1e-3]),
    "graded": np.logspace(0, -6, 8),
}
WAYS = ("here", "as on a GPU")


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Every claim holds for both ways to the values.

    What a GPU's libraries make of the second only a GPU tells.
    """
    if request.param != "here":
        # Both would answer from programs that were traced before.
        values = _factorizations.one_at_a_time(_factorizations._values_on_gpu)
        factors = _factorizations.one_at_a_time(_factorizations._factors_on_gpu)
        monkeypatch.setattr(_factorizations, "_singular_values", values)
        monkeypatch.setattr(_factorizations, "_thin_svd", factors)
    return request.param


# A program for each way: one would answer from what was traced for the other.
PROGRAMS = {way: jax.jit(lambda a: linalg.log_singular_values(a)[0]) for way in WAYS}

either_way = pytest.mark.usefixtures("way")


def wide_floats(dtype):
    return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()


def rotation(n, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def prescribed(s, seed=0):
    """Draw a matrix of order 8 with these singular values."""
    return rotation(8, seed) @ np.diag(s) @ rotation(8, seed + 1)


def rounding(dtype, s_max):
    """Four times max(m, n)·eps·s_max: of U, V and A in this dtype, and of the SVD."""
    return 4 * 8 * float(np.finfo(dtype).eps) * s_max


@either_way
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_prescribed_values_are_found(name, dtype):
    expected = np.sort(SPECTRA[name])[::-1]
    with wide_floats(dtype):
        s = linalg.singular_values(jnp.asarray(prescribed(expected), dtype))
        assert s.dtype == dtype
        s = np.asarray(s, np.float64)
    tolerance = rounding(dtype, expected[0]) + 1e-300
    np.testing.assert_allclose(s, expected, rtol=0, atol=tolerance)


SHAPES = (1, 1), (2, 2), (8, 8), (32, 32), (64, 64), (200, 200), (40, 120), (120, 8)


@either_way
@pytest.mark.parametrize(
    ("dtype", "shapes"), [(np.float32, SHAPES), (np.float64, SHAPES[-2:])]
)
def test_error_is_below_the_floor(dtype, shapes):
    """The floor's definition, on whatever device this runs: above it is no rounding.

    Of the largest value of a 2×2 two eps are its own last digit, so there it is four.
    """
    batches = [
        np.random.default_rng(0).standard_normal((4, *shape)).astype(dtype)
        for shape in shapes
    ]
    together = jax.jit(lambda batches: [linalg.singular_values(a) for a in batches])
    with wide_floats(dtype):
        results = jax.device_get(together(batches))
    for a, s in zip(batches, results, strict=True):
        shape = a.shape[1:]
        expected = np.linalg.svd(a.astype(np.float64), compute_uv=False)
        assert s.dtype == dtype
        assert s.shape == (4, min(shape))
        limit = max(4, *shape) * float(np.finfo(dtype).eps) * expected[:, 0]
        assert (abs(s - expected).max(-1) <= limit).all(), shape


@either_way
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_derivatives_of_both_orders_are_exact(shape):
    """ds_i = u_i · dA v_i, forward and reverse; the second by central differences."""
    rng = np.random.default_rng(0)
    a, da = rng.standard_normal((2, *shape))
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    weights = np.arange(1.0, len(s) + 1)

    def weighted(a):
        return linalg.singular_values(a) @ weights

    def squared_logs(a):
        return jnp.sum(jnp.log(linalg.singular_values(a)) ** 2)

    @jax.jit
    def derivatives(a, da):
        _, ds = jax.jvp(linalg.singular_values, (a,), (da,))
        gradient, along = jax.jvp(jax.grad(squared_logs), (a,), (da,))
        return ds, jax.grad(weighted)(a), gradient, along

    step = 1e-5
    with jax.enable_x64(True):
        ds, pulled, _, curved = jax.device_get(derivatives(a, da))
        _, _, after, _ = jax.device_get(derivatives(a + step * da, da))
        _, _, before, _ = jax.device_get(derivatives(a - step * da, da))
    forward = np.einsum("ji,jk,ik->i", u, da, vt)
    np.testing.assert_allclose(ds, forward, rtol=0, atol=1e-13 * np.linalg.norm(da))
    reverse = (u * weights) @ vt
    np.testing.assert_allclose(pulled, reverse, rtol=0, atol=1e-13 * len(s) ** 2)
    slope = (after - before) / (2 * step)
    np.testing.assert_allclose(curved, slope, rtol=0, atol=1e-5 * abs(slope).max())


def test_rounding_does_not_pass_for_an_exact_zero(way):
    """Half of a matrix of half the rank is rounding, which may be zero by chance."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((64, 16, 8)) @ rng.standard_normal((64, 8, 16))
    log_s = PROGRAMS[way](a.astype(np.float32))
    assert np.isfinite(np.asarray(log_s)).mean() > 0.99
    assert (np.diff(log_s) <= 0).all()


def test_values_of_zero_rows_and_columns_are_exactly_zero(way):
    padded = np.zeros((8, 8), np.float32)
    padded[:3, :3] = np.random.default_rng(0).standard_normal((3, 3))
    assert np.isneginf(PROGRAMS[way](padded)).sum() == 5


def test_products_in_derivatives_are_at_full_precision():
    """On a GPU products default to TF32."""
    gradient = jax.grad(lambda a: linalg.singular_values(a).sum())
    program = jax.make_jaxpr(gradient)(jnp.eye(4))
    products = [
        equation.params["precision"]
        for equation in jaxprs.equations(program.jaxpr)
        if equation.primitive.name == "dot_general"
    ]
    highest = jax.lax.Precision.HIGHEST
    assert products
    assert set(products) <= {highest, (highest, highest)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_hilbert_matrix_is_resolved_in_float64_alone(way, dtype):
    """Its condition at order 8 is 1.5e10, which float32 must say it cannot resolve."""
    i = np.arange(8)
    hilbert = (1 / (i[:, None] + i[None, :] + 1)).astype(dtype)
    expected = np.linalg.svd(hilbert.astype(np.float64), compute_uv=False)
    with wide_floats(dtype):
        log_s = np.asarray(PROGRAMS[way](hilbert), np.float64)
    tolerance = rounding(dtype, expected[0])
    np.testing.assert_allclose(np.exp(log_s), expected, rtol=0, atol=tolerance)
    is_resolved = log_s - log_s[0] >= math.log(8 * np.finfo(dtype).eps)
    assert is_resolved.all() == (dtype == np.float64)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    s=st.lists(st.floats(1e-6, 1e6), min_size=8, max_size=8),
    seed=st.integers(0, 1000),
)
def test_any_spectrum_is_found(way, s, seed):
    """A hundred floors above zero, two digits of ln s are certain."""
    expected = np.sort(np.array(s))[::-1]
    a = prescribed(expected, seed).astype(np.float32)
    log_s = np.asarray(PROGRAMS[way](a), np.float64)
    assert (np.diff(log_s) <= 0).all()
    tolerance = rounding(np.float32, expected[0]) + 1e-6 * expected[0]
    np.testing.assert_allclose(np.exp(log_s), expected, rtol=0, atol=tolerance)
    is_certain = expected >= expected[0] * 8 * EPS * 100
    logs = np.log(expected[is_certain])
    np.testing.assert_allclose(log_s[is_certain], logs, rtol=0, atol=0.1)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_scales_whose_squares_leave_the_range_are_kept(way, scale):
    """The tolerance: of s from the SVD, and the rounding of a large logarithm."""
    draw = np.random.default_rng(0).standard_normal((8, 8))
    a = (draw * scale).astype(np.float32)
    log_s = PROGRAMS[way](a)
    expected = np.log(np.linalg.svd(a.astype(np.float64), compute_uv=False))
    condition = math.exp(expected[0] - expected[-1])
    tolerance = 8 * EPS * condition + 4 * EPS * abs(expected).max()
    np.testing.assert_allclose(log_s, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [*DTYPES, jnp.bfloat16])
def test_floor_counts_the_longer_side(dtype):
    """It depends on the shape alone, and is known before anything is computed."""
    floors = []
    eps = float(np.finfo(np.float64 if dtype == np.float64 else np.float32).eps)
    with wide_floats(dtype):
        a = jax.ShapeDtypeStruct((8, 5), dtype)
        jax.eval_shape(lambda a: floors.append(linalg.log_singular_values(a)[1]), a)
    assert floors == [pytest.approx(math.log(8 * eps), rel=1e-12)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_matrix_that_is_not_finite_has_no_values(way, bad):
    a = np.eye(8, dtype=np.float32)
    a[2, 3] = bad
    assert np.isnan(PROGRAMS[way](a)).all()


@either_way
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_matrix_that_is_not_finite_spoils_no_other_of_its_batch(bad):
    """It is not factorized, as LAPACK may never return from it."""
    a = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    a[1, 0, 0] = bad

    @jax.jit
    def both(a):
        return linalg.singular_values(a), _dense.thin_svd(a)

    values, factors = jax.device_get(both(a))
    for result in (values, *factors):
        assert np.isnan(result[1]).all()
        assert np.isfinite(result[::2]).all()
    again = (factors.u * factors.s[:, None]) @ factors.vt
    tolerance = rounding(np.float32, 4.0)
    np.testing.assert_allclose(again[::2], a[::2], rtol=0, atol=tolerance)


def test_each_matrix_of_a_batch_has_its_own_scale(way):
    """Of powers of two nothing rounds but the addition of 100·ln 2."""
    a = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    power = np.float32(2.0**100)
    batch = np.stack([a * power, a / power, 0 * a])
    log_s = np.asarray(PROGRAMS[way](batch))
    plain = np.asarray(PROGRAMS[way](a))
    shift = 100 * math.log(2)
    np.testing.assert_allclose(log_s[0] - plain, shift, rtol=4e-7)
    np.testing.assert_allclose(log_s[1] - plain, -shift, rtol=4e-7)
    assert np.isneginf(log_s[2]).all()


@pytest.mark.parametrize("low", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_factorized_in_float32(way, low):
    a = jnp.asarray(np.random.default_rng(2).standard_normal((8, 8)), low)
    s = linalg.singular_values(a)
    assert s.dtype == jnp.float32
    expected = np.linalg.svd(np.asarray(a, np.float64), compute_uv=False)
    tolerance = rounding(np.float32, expected[0])
    np.testing.assert_allclose(s, expected, rtol=0, atol=tolerance)
    log_s = np.asarray(PROGRAMS[way](a))
    np.testing.assert_allclose(np.exp(log_s), expected, rtol=0, atol=tolerance)


def test_numerical_rank_counts_values_above_the_tolerance_of_each_matrix():
    s = jnp.asarray([[3.0, 1.0, 1e-3], [1.0, 0.0, 0.0]])
    tolerances = jnp.asarray([1e-3, 0.0])
    np.testing.assert_array_equal(linalg.numerical_rank(s, tolerances), [2, 1])


@pytest.mark.parametrize(
    ("a", "words"),
    [
        (np.ones(3, np.float32), r"a has shape \(3,\); write \(\.\.\., m, n\)"),
        (np.ones((2, 0), np.float32), r"a has shape \(2, 0\)"),
        (np.ones((2, 2), np.int32), r"a has dtype int32; write a\.astype"),
        (np.ones((2, 2), np.complex64), "a has dtype complex64"),
    ],
)
def test_what_is_no_matrix_is_refused(a, words):
    with pytest.raises(InputError, match=r"^singular_values\(\): " + words):
        linalg.singular_values(jnp.asarray(a))


def test_refusals_of_logarithms_name_their_function():
    with pytest.raises(InputError, match=r"^log_singular_values\(\): a has shape"):
        linalg.log_singular_values(jnp.ones(3))


def test_matrix_from_which_lapack_never_returns_is_not_given_to_it():
    """In a process of its own, which could not be stopped from within."""
    code = """
import numpy as np
from isometry.linalg import _dense
a = np.array([[1, 2, 3], [4, 5, 6], [-np.inf, 8, 9]])
print(_dense.thin_svd(a).s)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env=os.environ | {"JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "[nan nan nan]"


@pytest.mark.parametrize(
    ("s", "tolerance", "words"),
    [
        (None, 0.1, "s is None, not an array of numbers"),
        (1.0, 0.1, r"s=1\.0 is one number"),
        (np.ones(3, np.complex64), 0.1, "s is complex64"),
        (np.ones((2, 3)), "a", "tolerance is 'a', not an array of numbers"),
        (np.ones((2, 3)), np.ones(3), r"tolerance has shape \(3,\); write one number"),
    ],
)
def test_numerical_rank_refuses_what_is_no_spectrum(s, tolerance, words):
    with pytest.raises(InputError, match=rf"^numerical_rank\(\): {words}"):
        linalg.numerical_rank(s, tolerance)
