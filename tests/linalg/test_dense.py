"""Dense singular values against prescribed spectra and against NumPy in float64.

Weyl: an error of ‖δA‖ moves no singular value by more than ‖δA‖, whatever the conditioning. The SVD is backward stable,
so every tolerance is a small multiple of max(m, n)·eps·s_max, absolute.
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
GRADED = np.logspace(0, -6, 8)
SPECTRA = {
    "identity": np.ones(8),
    "rank one": np.array([3.0] + [0.0] * 7),
    "zero": np.zeros(8),
    "clustered": np.array([1 + 1e-7, 1, 1, 1, 1 - 1e-7, 1e-3, 1e-3, 1e-3]),
    "graded": GRADED,
}


@pytest.fixture(params=["here", "as on a GPU"])
def way(request, monkeypatch):
    """Every claim holds for both ways to the values; what a GPU's libraries make of the second only a GPU tells."""
    if request.param != "here":
        # Both would answer from programs that were traced before.
        values = _factorizations.one_at_a_time(_factorizations._values_on_gpu)
        factors = _factorizations.one_at_a_time(_factorizations._factors_on_gpu)
        monkeypatch.setattr(_factorizations, "_singular_values", values)
        monkeypatch.setattr(_factorizations, "_thin_svd", factors)
    return request.param


# A program for each way: one would answer from what was traced for the other.
PROGRAMS = {way: jax.jit(lambda a: linalg.log_singular_values(a)[0]) for way in ("here", "as on a GPU")}


either_way = pytest.mark.usefixtures("way")


def wide_floats(dtype):
    return jax.enable_x64(True) if dtype == np.float64 else contextlib.nullcontext()


def rotation(n, seed):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def prescribed(s, shape, seed=0):
    m, n = shape
    middle = np.zeros(shape)
    np.fill_diagonal(middle, s)
    return rotation(m, seed) @ middle @ rotation(n, seed + 1)


def tolerance(dtype, s_max, size=8):
    return 4 * size * float(np.finfo(dtype).eps) * s_max  # 4: rounding of U, V and A to dtype, and the SVD's own


@either_way
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_prescribed_spectrum(name, dtype):
    want = np.sort(SPECTRA[name])[::-1]
    with wide_floats(dtype):
        got = linalg.singular_values(jnp.asarray(prescribed(want, (8, 8)), dtype))
        assert got.dtype == dtype
        np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=0, atol=tolerance(dtype, want[0]) + 1e-300)


SHAPES = (1, 1), (2, 2), (8, 8), (32, 32), (64, 64), (200, 200), (40, 120), (120, 8)


@either_way
@pytest.mark.parametrize(("dtype", "shapes"), [(np.float32, SHAPES), (np.float64, SHAPES[-2:])])
def test_the_error_is_below_the_floor(dtype, shapes):
    """What lies above the floor is no rounding: the floor's own definition, on whatever device this runs.

    Of the largest value of a 2×2 two eps are its own last digit, so there it is four.
    """
    batches = [np.random.default_rng(0).standard_normal((4, *shape)).astype(dtype) for shape in shapes]
    together = jax.jit(lambda batches: [linalg.singular_values(a) for a in batches])
    with wide_floats(dtype):
        found = jax.device_get(together(batches))
    for a, got in zip(batches, found, strict=True):
        shape = a.shape[1:]
        want = np.linalg.svd(a.astype(np.float64), compute_uv=False)
        assert got.dtype == dtype
        assert got.shape == (4, min(shape))
        limit = max(4, *shape) * float(np.finfo(dtype).eps) * want[:, 0]
        assert (abs(got - want).max(-1) <= limit).all(), shape


@either_way
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_derivatives(shape):
    """ds_i = u_i · dA v_i, forward, reverse and again."""
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
        ds = jax.jvp(linalg.singular_values, (a,), (da,))[1]
        gradient, along = jax.jvp(jax.grad(squared_logs), (a,), (da,))
        return ds, jax.grad(weighted)(a), gradient, along

    with jax.enable_x64(True):
        ds, pulled, _, curved = jax.device_get(derivatives(a, da))
        step = 1e-5
        above, below = (jax.device_get(derivatives(a + h * da, da)[2]) for h in (step, -step))
    np.testing.assert_allclose(ds, np.einsum("ji,jk,ik->i", u, da, vt), rtol=0, atol=1e-13 * np.linalg.norm(da))
    np.testing.assert_allclose(pulled, (u * weights) @ vt, rtol=0, atol=1e-13 * len(s) ** 2)
    slope = (above - below) / (2 * step)
    np.testing.assert_allclose(curved, slope, rtol=0, atol=1e-5 * abs(slope).max())


def test_rounding_is_no_exact_zero(way):
    """Half of a matrix of half the rank is rounding, and is not told to be zero; padding with zeros is zero exactly."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((64, 16, 8)) @ rng.standard_normal((64, 8, 16))
    log_s = PROGRAMS[way](a.astype(np.float32))
    assert np.isfinite(np.asarray(log_s)).mean() > 0.99  # a rounding error can be zero by chance
    assert (np.diff(log_s) <= 0).all()
    padded = np.zeros((8, 8), np.float32)
    padded[:3, :3] = a[0, :3, :3]
    assert np.isneginf(PROGRAMS[way](padded)).sum() == 5


def test_derivatives_are_at_full_precision():
    """On a GPU products default to TF32."""
    program = jax.make_jaxpr(jax.grad(lambda a: linalg.singular_values(a).sum()))(jnp.eye(4))
    products = [e for e in jaxprs.equations(program.jaxpr) if e.primitive.name == "dot_general"]
    assert products
    assert all(e.params["precision"] in (jax.lax.Precision.HIGHEST, (jax.lax.Precision.HIGHEST,) * 2) for e in products)


@pytest.mark.parametrize("dtype", DTYPES)
def test_hilbert(way, dtype):
    i = np.arange(8)
    hilbert = (1 / (i[:, None] + i[None, :] + 1)).astype(dtype)
    want = np.linalg.svd(hilbert.astype(np.float64), compute_uv=False)
    with wide_floats(dtype):
        log_s = np.asarray(PROGRAMS[way](hilbert), np.float64)
    floor = math.log(8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(np.exp(log_s), want, rtol=0, atol=tolerance(dtype, want[0]))
    resolved = log_s - log_s[0] >= floor
    # cond(H_8) = 1.5e10: float64 resolves every value, float32 must say that it does not
    assert resolved.all() == (dtype == np.float64)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(s=st.lists(st.floats(1e-6, 1e6), min_size=8, max_size=8), seed=st.integers(0, 1000))
def test_any_spectrum(way, s, seed):
    want = np.sort(np.array(s))[::-1]
    got = np.asarray(PROGRAMS[way](prescribed(want, (8, 8), seed).astype(np.float32)), np.float64)
    floor = math.log(8 * 2.0**-23)
    assert (np.diff(got) <= 0).all()
    np.testing.assert_allclose(np.exp(got), want, rtol=0, atol=tolerance(np.float32, want[0]) + 1e-6 * want[0])
    above = want >= want[0] * math.exp(floor) * 100  # 100 floors up, two digits of log s are certain
    np.testing.assert_allclose(got[above], np.log(want[above]), rtol=0, atol=0.1)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_scales_that_would_overflow_squared(way, scale):
    a = (np.random.default_rng(0).standard_normal((8, 8)) * scale).astype(np.float32)
    log_s = PROGRAMS[way](a)
    want = np.log(np.linalg.svd(a.astype(np.float64), compute_uv=False))
    condition = math.exp(want[0] - want[-1])
    # relative error of s from the SVD, and rounding of a logarithm of size |log s|
    eps = float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(log_s, want, rtol=0, atol=8 * eps * condition + 4 * eps * abs(want).max())


@pytest.mark.parametrize("dtype", [*DTYPES, jnp.bfloat16])
def test_floor_counts_the_longer_side(dtype):
    """A number that depends on the shape alone, known before anything is computed."""
    floors = []
    eps = float(np.finfo(np.float64 if dtype == np.float64 else np.float32).eps)
    with wide_floats(dtype):
        a = jax.ShapeDtypeStruct((8, 5), dtype)
        jax.eval_shape(lambda a: floors.append(linalg.log_singular_values(a)[1]), a)
    assert floors == [pytest.approx(math.log(8 * eps), rel=1e-12)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_no_zero(way, bad):
    a = np.eye(8, dtype=np.float32)
    a[2, 3] = bad
    assert np.isnan(PROGRAMS[way](a)).all()


@either_way
@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_one_that_is_not_finite_spoils_no_other(bad):
    """And is not factorized: LAPACK may never return from it."""
    a = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    a[1, 0, 0] = bad
    values, parts = jax.device_get(jax.jit(lambda a: (linalg.singular_values(a), _dense.thin_svd(a)))(a))
    for found in (values, *parts):
        assert np.isnan(found[1]).all()
        assert np.isfinite(found[::2]).all()
    again = (parts[0] * parts[1][:, None]) @ parts[2]
    np.testing.assert_allclose(again[::2], a[::2], rtol=0, atol=tolerance(np.float32, 4.0))


def test_each_matrix_of_a_batch_has_its_own_scale(way):
    a = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    batch = np.stack([a * np.float32(2.0**100), a * np.float32(2.0**-100), 0 * a])
    log_s, one = (np.asarray(PROGRAMS[way](x)) for x in (batch, a))
    # powers of two: only the addition of 100·ln 2 rounds
    np.testing.assert_allclose(log_s[0] - one, 100 * math.log(2), rtol=4e-7)
    np.testing.assert_allclose(log_s[1] - one, -100 * math.log(2), rtol=4e-7)
    assert np.isneginf(log_s[2]).all()


@pytest.mark.parametrize("low", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_factorized_in_float32(way, low):
    a = jnp.asarray(np.random.default_rng(2).standard_normal((8, 8)), low)
    got = linalg.singular_values(a)
    assert got.dtype == jnp.float32
    want = np.linalg.svd(np.asarray(a, np.float64), compute_uv=False)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance(np.float32, want[0]))
    log_s = PROGRAMS[way](a)
    np.testing.assert_allclose(np.exp(np.asarray(log_s)), want, rtol=0, atol=tolerance(np.float32, want[0]))


def test_numerical_rank():
    s = jnp.asarray([[3.0, 1.0, 1e-3], [1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(linalg.numerical_rank(s, jnp.asarray([1e-3, 0.0])), [2, 1])


@pytest.mark.parametrize(
    ("a", "words"),
    [
        (np.ones(3, np.float32), r"a has shape \(3,\); write \(\.\.\., m, n\)"),
        (np.ones((2, 0), np.float32), r"a has shape \(2, 0\)"),
        (np.ones((2, 2), np.int32), r"a has dtype int32; write a\.astype"),
        (np.ones((2, 2), np.complex64), "a has dtype complex64"),
    ],
)
def test_refusals(a, words):
    with pytest.raises(InputError, match=r"singular_values\(\): " + words):
        linalg.singular_values(jnp.asarray(a))


def test_refusals_of_logarithms_name_their_function():
    with pytest.raises(InputError, match=r"log_singular_values\(\): a has shape \(3,\)"):
        linalg.log_singular_values(jnp.ones(3))


def test_a_matrix_from_which_lapack_never_returns():
    code = "import numpy as np; from isometry.linalg import _dense\n"
    code += "print(_dense.thin_svd(np.array([[1, 2, 3], [4, 5, 6], [-np.inf, 8, 9]]))[1])"
    ask = {"env": os.environ | {"JAX_ENABLE_X64": "1"}, "capture_output": True, "text": True, "timeout": 120}
    assert subprocess.run([sys.executable, "-c", code], check=True, **ask).stdout.strip() == "[nan nan nan]"
