"""Dense isometric initializers: singular values, the Haar law, exact arrays, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from isometry import initializers

KEY = jax.random.key(20)
EVERY = {
    "orthogonal": (initializers.orthogonal(1.5), (6, 4)),
    "delta_orthogonal": (initializers.delta_orthogonal(1.5), (3, 2, 4, 6)),
    "block_orthogonal": (initializers.block_orthogonal(1.5), (3, 2, 4, 6)),
    "identity": (initializers.identity(1.5), (5, 5)),
    "partial_identity": (initializers.partial_identity(1.5), (5, 3)),
    "dirac": (initializers.dirac(2, 1.5), (3, 4, 6)),
    "hadamard": (initializers.hadamard(1.5), (5, 6)),
    "zer_o": (initializers.zer_o(), (3, 5, 6)),
    "sparse": (initializers.sparse(0.4), (5, 6)),
    "sparse_orthogonal": (initializers.sparse_orthogonal(0.5, 1.5), (5, 6)),
    "idinit": (initializers.idinit(1.5), (3, 5, 6)),
}
RANDOM = {"orthogonal", "delta_orthogonal", "block_orthogonal", "sparse", "sparse_orthogonal"}


def svd(w) -> np.ndarray:
    return np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)


def rounding(w, *, factors: int = 1) -> float:
    """First-order bound on what `factors` products or QR factorizations of matrices as large as w can be off by."""
    return 8 * factors * max(w.shape[-2:]) * float(jnp.finfo(w.dtype).eps)


# --- the calling convention -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_dtypes_and_shapes(name):
    """The same array for the same key, list or tuple; bfloat16 and float16 are that array rounded."""
    init, shape = EVERY[name]
    single = np.asarray(init(KEY, shape))
    assert (single.shape, single.dtype) == (shape, np.float32)
    for dtype in ("float32", "bfloat16", "float16"):
        w = init(KEY, list(shape), dtype)
        assert w.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(w, single.astype(dtype))
    with jax.enable_x64(True):
        double = jax.eval_shape(lambda key: init(key, shape, "float64"), KEY)
    assert (double.shape, double.dtype) == (shape, np.float64)


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_jit_and_vmap_draw_what_a_plain_call_draws(name):
    init, shape = EVERY[name]
    keys = jax.random.split(KEY, 3)
    plain = np.stack([init(k, shape) for k in keys])
    tolerance = 100 * jnp.finfo(plain.dtype).eps  # fused multiply-adds differ by a rounding each
    traced = jax.jit(jax.vmap(lambda k: init(k, shape)))(keys)
    np.testing.assert_allclose(traced, plain, rtol=0, atol=tolerance)
    assert np.any(plain[0] != plain[1])


@pytest.mark.parametrize("name", sorted(EVERY.keys() - RANDOM))
def test_deterministic_ones_need_no_key(name):
    init, shape = EVERY[name]
    np.testing.assert_array_equal(jax.jit(lambda key: init(key, shape))(KEY), init(None, shape))


def test_catalogue_has_every_one_with_its_law_and_source():
    entries = {entry.name: entry for entry in initializers.catalogue()}
    for name in EVERY:
        assert entries[name].law
        assert entries[name].citation
        assert entries[name].definition.endswith(".")
    assert entries["sparse"].needs == ("sparsity",)
    assert entries["sparse_orthogonal"].needs == ("density",)


# --- orthogonal -------------------------------------------------------------------------------------------------------


def test_orthogonal_to_rounding_at_1024():
    q = np.asarray(initializers.orthogonal()(KEY, (1024, 1024)), np.float64)
    assert np.abs(q.T @ q - np.eye(1024)).max() <= 10 * np.finfo(np.float32).eps * np.sqrt(1024)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (3, 3, 2, 8), (2, 2, 2, 10), (1, 1)])
def test_orthogonal_singular_values_are_the_gain(shape):
    w = np.asarray(initializers.orthogonal(0.7)(KEY, shape)).reshape(-1, shape[-1])
    np.testing.assert_allclose(svd(w), 0.7, rtol=rounding(w))


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (3, 3, 2, 8)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_orthogonal_is_jax_bit_for_bit(shape, dtype):
    with jax.enable_x64(dtype == "float64"):
        ours = initializers.orthogonal(1.3)(KEY, shape, dtype)
        np.testing.assert_array_equal(ours, jax.nn.initializers.orthogonal(1.3)(KEY, shape, dtype))


def test_orthogonal_axes():
    """torch's layout flattens all but the first axis; a batch holds independent orthogonal matrices."""
    w = np.asarray(initializers.orthogonal(out_axis=0)(KEY, (6, 2, 3, 3)))
    np.testing.assert_allclose(svd(w.reshape(6, -1)), 1, rtol=rounding(w.reshape(6, -1)))
    heads = np.asarray(initializers.orthogonal(in_axis=0, out_axis=(1, 2))(KEY, (8, 2, 3)))
    np.testing.assert_allclose(svd(heads.reshape(8, 6)), 1, rtol=rounding(heads.reshape(8, 6)))
    batch = np.asarray(initializers.orthogonal(in_axis=0, batch_axis=1)(KEY, (5, 3, 4)))
    np.testing.assert_allclose(svd(batch.swapaxes(0, 1)), 1, rtol=rounding(batch[:, 0]))
    assert np.all(batch[:, 0] != batch[:, 1])
    for in_axis in (0, 1, (0, 1)):  # it names inputs and decides nothing
        same = initializers.orthogonal(in_axis=in_axis)(KEY, (2, 3, 4))
        np.testing.assert_array_equal(same, initializers.orthogonal()(KEY, (2, 3, 4)))


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 5)])
def test_orthogonal_is_haar(shape):
    """A coordinate of a uniform unit vector of length N: mean 0, its square Beta(1/2, (N - 1)/2).

    Without the signs of R the mean of q[0, 0] is -0.43 at N = 4: sixty standard errors.
    """
    draws, n = 8000, max(shape)
    q = jax.vmap(lambda k: initializers.orthogonal()(k, shape))(jax.random.split(KEY, draws))
    standard_error = 1 / np.sqrt(n * draws)
    assert np.abs(np.asarray(q).mean(0)).max() < 5 * standard_error
    for i, j in [(0, 0), (shape[0] - 1, shape[1] - 1)]:
        law = scipy.stats.beta(0.5, (n - 1) / 2)
        assert scipy.stats.kstest(np.asarray(q[:, i, j], np.float64) ** 2, law.cdf).pvalue > 1e-3
    if shape[0] == shape[1]:  # both components of O(n) are drawn, and equally often
        positive = (np.linalg.det(np.asarray(q, np.float64)) > 0).mean()
        assert abs(positive - 0.5) < 5 * 0.5 / np.sqrt(draws)


# --- identity, Hadamard, ZerO, IDInit ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 5)])
def test_partial_identity_is_eye(shape):
    np.testing.assert_array_equal(initializers.partial_identity(2.5)(None, shape), 2.5 * np.eye(*shape))
    assert initializers.eye is initializers.partial_identity


def test_identity_is_eye():
    np.testing.assert_array_equal(initializers.identity(-0.5)(None, (6, 6)), -0.5 * np.eye(6))


def sylvester(p: int) -> np.ndarray:
    return scipy.linalg.hadamard(p).astype(float)


@pytest.mark.parametrize("shape", [(8, 8), (5, 8), (8, 5), (5, 6), (6, 6), (1, 3), (1, 1)])
def test_hadamard_is_sylvesters_block(shape):
    p = 2 ** int(np.ceil(np.log2(max(shape))))
    w = initializers.hadamard(3.0)(None, shape)
    np.testing.assert_allclose(
        w, 3 * p**-0.5 * sylvester(p)[: shape[0], : shape[1]], rtol=float(jnp.finfo(w.dtype).eps)
    )


@pytest.mark.parametrize("p", [2, 4, 8, 16, 32])
def test_singular_values_of_every_leading_hadamard_block(p):
    """What `hadamard` and `zer_o` state, for every block they can make, against an independent Hadamard matrix."""
    h, tolerance = sylvester(p) / np.sqrt(p), 8 * p * np.finfo(float).eps
    for long in range(p // 2 + 1, p + 1):
        for short in range(1, long + 1):
            s = svd(h[:short, :long])
            ones = max(0, short + long - p)
            assert np.all(np.abs(s[:ones] - 1) < tolerance)
            assert np.all(s[ones:] < 1 - 1 / (4 * p))  # s² = 1 - σ²/p for a non-zero σ ≥ 1 of the missing columns
            assert s[-1] >= np.sqrt((1 if short == long else 2) / p) - tolerance
            if short <= p / 2:
                assert s[-1] >= np.sqrt(0.5) - tolerance
            if short & (short - 1) == 0:
                low, more = divmod(long, short)
                squares = np.r_[np.full(more, short * (low + 1) / p), np.full(short - more, short * low / p)]
                np.testing.assert_allclose(s**2, squares, atol=tolerance)


@pytest.mark.parametrize(("scale", "factor"), [("code", 1), ("paper", 2)])
@pytest.mark.parametrize(("n_in", "n_out"), [(3, 5), (3, 4), (64, 100), (1, 2), (784, 2048)])
def test_zer_o_where_it_widens(n_in, n_out, scale, factor):
    p = 2 ** int(np.ceil(np.log2(n_out)))
    w = initializers.zer_o(scale)(None, (n_in, n_out))
    expected = np.sqrt(factor / p) * sylvester(p)[:n_in, :n_out]
    np.testing.assert_allclose(w, expected, rtol=float(jnp.finfo(w.dtype).eps))
    np.testing.assert_allclose(np.sum(np.asarray(w, float) ** 2) / n_in, factor * n_out / p, rtol=rounding(w))
    torch_layout = np.asarray(initializers.zer_o(scale, in_axis=1, out_axis=0)(None, (n_out, n_in)))
    np.testing.assert_array_equal(torch_layout.T, w)
    if n_out == p:
        np.testing.assert_allclose(svd(w), np.sqrt(factor), rtol=rounding(w))


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (8, 1)])
@pytest.mark.parametrize("scale", ["code", "paper"])
def test_zer_o_is_the_identity_where_it_does_not_widen(shape, scale):
    np.testing.assert_array_equal(initializers.zer_o(scale)(None, shape), np.eye(*shape))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1.0, 0.5, 1e-6]))
def test_idinit_tiles_the_identity(m, n, tau):
    w = jax.jit(lambda: initializers.idinit(tau)(None, (m, n)))()
    i, j = np.indices((m, n))
    np.testing.assert_array_equal(w, np.where((i - j) % min(m, n) == 0, np.float32(tau), 0))
    less, more = divmod(max(m, n), min(m, n))
    expected = tau * np.sqrt([less + 1] * more + [less] * (min(m, n) - more))
    np.testing.assert_allclose(svd(w), expected, rtol=rounding(w))


@pytest.mark.parametrize(
    ("n_in", "n_out", "window"), [(3, 8, (3, 3)), (4, 4, (3,)), (2, 40, (3, 3)), (3, 5, (2, 1, 2))]
)
def test_idinit_of_a_kernel_tiles_torchs_reshape(n_in, n_out, window):
    w = jax.jit(lambda: initializers.idinit()(None, (*window, n_in, n_out)))()
    torch_layout = jax.jit(lambda: initializers.idinit(in_axis=1, out_axis=0)(None, (n_out, n_in, *window)))()
    np.testing.assert_array_equal(torch_layout, np.moveaxis(np.asarray(w), (-1, -2), (0, 1)))
    flat = np.asarray(torch_layout).reshape(n_out, -1)
    i, j = np.indices(flat.shape)
    np.testing.assert_array_equal(flat, (i - j) % min(flat.shape) == 0)


# --- what they refuse -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: initializers.orthogonal()(KEY, (128,)),
            r"orthogonal\(\): shape=\(128,\) has one axis.*bias.*zeros\(\)",
        ),
        (lambda: initializers.orthogonal(float("nan")), r"orthogonal\(\): gain=nan is not a finite number"),
        (
            lambda: initializers.orthogonal(batch_axis=-1)(KEY, (2, 2)),
            r"orthogonal\(\): in_axis=-2, out_axis=-1, batch_axis=-1 share an axis of shape=\(2, 2\)",
        ),
        (lambda: initializers.identity(batch_axis=0)(None, (2, 3)), r"identity\(\): .*batch_axis=0 share an axis"),
        (
            lambda: initializers.identity()(None, (3, 4)),
            r"identity\(\): shape=\(3, 4\) is not square\. For a rectangle use partial_identity",
        ),
        (lambda: initializers.partial_identity()(None, (3, 4, 5)), r"has 3 axes; an identity matrix has two"),
        (lambda: initializers.hadamard()(None, (8,)), r"has one axis; a Hadamard block has two"),
        (lambda: initializers.zer_o("papers"), r"zer_o\(\): scale='papers' is not known.*Did you mean 'paper'"),
        (lambda: initializers.zer_o()(None, (8,)), r"has one axis; ZerO needs at least two"),
        (lambda: initializers.zer_o(in_axis=-1)(None, (8, 8)), r"zer_o\(\): in_axis=-1, out_axis=-1,.* share"),
        (lambda: initializers.zer_o(in_axis=2)(None, (8, 8)), r"zer_o\(\): in_axis=2 does not fit a shape of 2 axes"),
        (lambda: initializers.idinit()(None, (8,)), r"has one axis; IDInit needs at least two"),
        (lambda: initializers.idinit(float("inf")), r"idinit\(\): tau=inf is not a finite number"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call()
    with pytest.raises(ValueError, match=text):  # at call time under jit too
        jax.jit(call)()
