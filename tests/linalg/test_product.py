"""Log singular values of long products: against mpmath, against known spectra, at any depth."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from isometry import linalg
from isometry.linalg import _jacobi, _product

RNG = np.random.default_rng(0)


def exact(factors, digits):
    """ln of the singular values by mpmath; `digits` must exceed twice the decades between them."""
    with mpmath.workdps(digits):
        product = mpmath.eye(factors.shape[1])
        for factor in np.asarray(factors, np.float64):
            product = mpmath.matrix(factor.tolist()) * product
        squares = sorted(mpmath.eigsy(product.T * product, eigvals_only=True), reverse=True)
        zero = squares[0] * mpmath.mpf(10) ** (15 - digits)
        return np.array([float(mpmath.log(v) / 2) if v > zero else -np.inf for v in squares])


def gaussian(n, depth):
    return RNG.standard_normal((depth, n, n)) / np.sqrt(n)


def orthogonal(n, depth):
    return np.linalg.qr(RNG.standard_normal((depth, n, n)))[0]


def orthogonal_tanh(n, depth):
    return (1 - np.tanh(0.3 * RNG.standard_normal((depth, n, 1))) ** 2) * orthogonal(n, depth)


def leaky(n, depth):
    return np.where(RNG.random((depth, n, 1)) < 0.5, 0.1, 1.0) * orthogonal(n, depth)


def saturated(n, depth):
    """Rows down to 1e-12 of the others."""
    return 10 ** RNG.uniform(-12, 0, (depth, n, 1)) * gaussian(n, depth)


# digits: twice the decades of the product, and room
CORE = "gaussian-odd", "gaussian-wide", "leaky"
CASES = {
    "gaussian": (gaussian, 8, 50, 120),
    "gaussian-odd": (gaussian, 7, 60, 140),
    "gaussian-wide": (gaussian, 32, 12, 80),
    "orthogonal-tanh": (orthogonal_tanh, 16, 40, 50),
    "leaky": (leaky, 15, 40, 100),
    "saturated": (saturated, 6, 20, 600),
}


@functools.cache
def case(name):
    make, n, depth, digits = CASES[name]
    factors = make(n, depth).astype(np.float32).astype(np.float64)
    return factors, exact(factors, digits)


def known_product(width, depth, seed=0):
    """Factors turned from one Haar basis to the next, slopes of tanh between them, and ln s of their product."""
    rng = np.random.default_rng(seed)
    turns = np.linalg.qr(rng.standard_normal((depth + 1, width, width)))[0]
    slopes = 1 - np.tanh(0.5 * rng.standard_normal((depth, width))) ** 2
    factors = turns[1:] @ (slopes[:, :, None] * np.swapaxes(turns[:-1], 1, 2))
    return factors, -np.sort(-np.log(slopes).sum(0))


def test_a_wide_product_is_as_accurate_as_a_narrow_one():
    """With an elimination's factor for a basis the error was 25 times this bound, √depth eps times the condition."""
    factors, want = known_product(128, 60)
    found = linalg.product_log_singular_values(jnp.asarray(factors, jnp.float32), every=1)
    condition = np.linalg.cond(factors).max()
    assert np.abs(np.asarray(found) - want).max() <= condition * 60**0.5 * np.finfo(np.float32).eps


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("rank", [0, 3])
def test_a_rank_is_lost_for_good_in_small_factors(rank, every):
    """Zero rows stay zero while factors go on to shrink: their exponent once fell through the range of the integers."""
    factors = 1e-3 * orthogonal(4, 12)
    factors[0, rank:] = 0
    found = linalg.product_log_singular_values(jnp.asarray(factors, jnp.float32), every=every)
    want = [12 * np.log(1e-3)] * rank + [-np.inf] * (4 - rank)
    np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.core) if n in CORE else n for n in CASES])
def test_every_index_against_mpmath(name):
    factors, truth = case(name)
    with jax.enable_x64(True):
        logs = linalg.product_log_singular_values(jnp.asarray(factors))
    assert np.max(np.abs(np.asarray(logs) - truth)) <= 1e-9
    single = linalg.product_log_singular_values(jnp.asarray(factors, jnp.float32))
    assert single.dtype == jnp.float32
    assert np.max(np.abs(np.asarray(single) - truth)) <= 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(("n", "depth", "digits"), [(8, 500, 800), (32, 50, 180), (12, 200, 380), (40, 24, 120)])
def test_hundreds_of_decades_against_mpmath(n, depth, digits):
    """40 is more than one block of rows in Jacobi's near sweeps. Each factor adds eps times its condition, at random:
    up to 5e5 among the two hundred of order 12."""
    factors = gaussian(n, depth).astype(np.float32)
    truth = exact(factors, digits)
    with jax.enable_x64(True):
        logs = linalg.product_log_singular_values(jnp.asarray(factors, jnp.float64), every=1)
    assert np.max(np.abs(np.asarray(logs) - truth)) <= 1e-9
    single = linalg.product_log_singular_values(jnp.asarray(factors), every=1)
    rounding = np.finfo(np.float32).eps * np.linalg.norm(np.linalg.cond(factors.astype(float)))
    assert np.max(np.abs(np.asarray(single) - truth)) <= 4 * rounding


@pytest.mark.slow
@pytest.mark.parametrize(("n", "depth"), [(64, 10_000), (128, 1000), (256, 200)])
def test_pairs_against_single_factors_and_the_determinant(n, depth):
    """Rounding of the determinant: each pivot's eps and each logarithm's, at random over n·depth of them. Each factor,
    or pair of them, adds at most eps times its condition, at random."""
    factors = np.random.default_rng(depth).standard_normal((depth, n, n)) / np.sqrt(n)
    truth = np.sum(np.linalg.slogdet(factors)[1])
    with jax.enable_x64(True):
        single, pairs = (
            np.asarray(linalg.product_log_singular_values(jnp.asarray(factors), every=every)) for every in (1, 2)
        )
    assert np.isfinite(single).all()
    assert single[0] - single[-1] > 250 * np.log(10)
    eps = np.finfo(float).eps
    assert np.max(np.abs(single - pairs)) <= eps * np.linalg.norm(np.linalg.cond(factors[1::2] @ factors[::2]))
    assert abs(single.sum() - truth) <= 40 * eps * abs(truth) + eps * np.linalg.norm(np.linalg.cond(factors))


def test_near_sweeps_where_couplings_are_local():
    """72 values e^(−3i), at most a factor of 20 apart for neighbours: only near rows stay coupled after QR steps."""
    logs = -3.0 * np.arange(72)
    with jax.enable_x64(True):
        exponents = jnp.asarray(np.floor(logs / np.log(2)), jnp.int32)
        size = jnp.asarray(np.exp(logs - np.asarray(exponents) * np.log(2)))
        rows = size[:, None] * jnp.asarray(orthogonal(72, 1)[0])
        product = _product._graded.Graded(rows[:0], exponents, rows)
        found, settled = jax.jit(lambda p: (_product._finished(p), _jacobi.local(_product._graded.flip(p))))(product)
    assert settled
    np.testing.assert_allclose(found, logs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_thousands_of_layers(dtype):
    """ln |det| is the sum over factors, whatever the depth: 2000 layers of 9, underflow 40 times over."""
    factors = gaussian(9, 2000)
    truth = np.sum(np.linalg.slogdet(factors)[1])
    with jax.enable_x64(True):
        logs = np.asarray(linalg.product_log_singular_values(jnp.asarray(factors, dtype), every=1))
    assert np.isfinite(logs).all()
    assert np.all(np.diff(logs) <= 0)
    assert abs(logs.sum() - truth) <= 40 * np.finfo(dtype).eps * abs(truth)


def with_rank(n, rank):
    return gaussian(n, 1)[0][:, :rank] @ RNG.standard_normal((rank, n))


def masked(n, dead):
    factor = gaussian(n, 1)[0]
    factor[list(dead)] = 0
    return factor


DEFICIENT = {
    "a low rank first": [with_rank(10, 7), *gaussian(10, 5)],
    "a low rank last": [*gaussian(10, 5), with_rank(10, 7)],
    "two in the middle": [*gaussian(10, 3), with_rank(10, 8), *gaussian(10, 3), with_rank(10, 6), *gaussian(10, 3)],
    "dead units": [masked(10, dead) for dead in ([0, 1], [5], [2, 9], [], [4, 5, 6])],
    "disjoint": [np.diag([1.0, 1, 1, 0, 0, 0]), np.diag([0.0, 0, 1, 1, 1, 1]), orthogonal(6, 1)[0]],
    "a zero column": [np.array([[0.0, 1, 2], [0, 3, 1], [0, 1, 1]]), orthogonal(3, 1)[0]],
    "a zero factor": [np.zeros((4, 4)), np.eye(4)],
    "nilpotent": [np.eye(5, k=1)] * 3,
    "equal rows": [np.ones((4, 4)), *gaussian(4, 3)],
}


@pytest.mark.parametrize("name", DEFICIENT)
def test_zeros_are_counted_exactly(name):
    factors = np.stack(DEFICIENT[name])
    with jax.enable_x64(True):
        logs = np.asarray(linalg.product_log_singular_values(jnp.asarray(factors), every=1))
        single = np.asarray(linalg.product_log_singular_values(jnp.asarray(factors, jnp.float32), every=1))
    truth = np.linalg.svd(np.linalg.multi_dot(factors[::-1]), compute_uv=False)
    rank = int(np.sum(truth > 1e-12 * max(truth[0], 1e-300))) if truth[0] else 0
    assert np.isneginf(logs).sum() == len(logs) - rank
    assert np.isneginf(single).sum() == len(logs) - rank
    np.testing.assert_allclose(logs[:rank], np.log(truth[:rank]), atol=1e-9)


@pytest.mark.parametrize("sizes", [(5, 9, 9, 7), (9, 9, 4), (8, 3, 8), (6, 6, 4, 6, 9), (1, 5, 1)])
def test_sizes_may_change(sizes):
    factors = [RNG.standard_normal((m, n)) for n, m in itertools.pairwise(sizes)]
    with jax.enable_x64(True):
        logs = np.asarray(linalg.product_log_singular_values([jnp.asarray(a) for a in factors]))
    product = functools.reduce(lambda p, a: a @ p, factors)
    truth = np.linalg.svd(product, compute_uv=False)
    rank = min(sizes)
    assert len(logs) == min(sizes[0], sizes[-1])
    assert np.isneginf(logs[rank:]).all()
    np.testing.assert_allclose(logs[:rank], np.log(truth[:rank]), atol=1e-10)


@pytest.mark.parametrize("every", [2, 3, 50])
def test_groups_agree(every):
    """50 factors in groups of 3 leave two over; all in one group is the plain product."""
    factors, truth = case("orthogonal-tanh")
    with jax.enable_x64(True):
        logs = linalg.product_log_singular_values(jnp.asarray(factors), every=every)
    assert np.max(np.abs(np.asarray(logs) - truth)) <= 1e-10


def test_dead_units_in_a_deep_net_are_counted():
    """Orthogonal layers of 24 units, of which a few die in each: the rank of the product is the narrowest layer's."""
    rng = np.random.default_rng(0)
    factors = np.linalg.qr(rng.standard_normal((60, 24, 24)))[0] * (rng.random((60, 24, 1)) > 0.1)
    lost = 24 - np.min(np.sum(factors.any(-1), -1))
    with jax.enable_x64(True):
        logs = linalg.product_log_singular_values(jnp.asarray(factors))
    assert lost > 0
    assert np.sum(np.isneginf(logs)) == lost


@pytest.mark.core
def test_jit_and_vmap():
    factors = jnp.asarray(gaussian(6, 2 * 12).reshape(2, 12, 6, 6), jnp.float32)
    together = jax.jit(jax.vmap(linalg.product_log_singular_values))(factors)
    for logs, one in zip(together, factors, strict=True):
        np.testing.assert_allclose(logs, linalg.product_log_singular_values(one, every=1), atol=1e-3)


def test_jacobi_on_rows_a_thousand_decades_apart():
    """diag(2^e) T with T orthogonal has singular values 2^e."""
    exponents = np.array([3000, 1, 0, 0, -1, -2500])
    with jax.enable_x64(True):
        rows = jnp.asarray(orthogonal(6, 1)[0])
        product = _product._graded.Graded(rows[:0], jnp.asarray(exponents, jnp.int32), rows)
        logs = _jacobi.log_values(product)
    np.testing.assert_allclose(logs, exponents * np.log(2), rtol=1e-14, atol=1e-14)


def test_lyapunov_exponents():
    """Of one constant triangular factor they are its diagonal; of Gaussian ones the mean is Newman's, within 5 sd."""
    with jax.enable_x64(True):
        constant = jnp.broadcast_to(jnp.asarray(np.diag([4.0, 2.0, 0.5]) + np.eye(3, k=1)), (400, 3, 3))
        np.testing.assert_allclose(linalg.lyapunov_exponents(constant), np.log([4, 2, 0.5]), atol=0.02)
        n, depth = 4, 4000
        found = np.asarray(linalg.lyapunov_exponents(jnp.asarray(gaussian(n, depth))))
    order = np.arange(n, 0, -1) / 2
    mean = [float(mpmath.psi(0, a) + mpmath.log(2) - mpmath.log(n)) / 2 for a in order]
    deviation = [float(mpmath.sqrt(mpmath.psi(1, a) / 4 / depth)) for a in order]
    assert np.all(np.abs(found - mean) <= 5 * np.array(deviation))


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (np.ones((3, 3)), r"factors has shape \(3, 3\); write \(L, n, n\), or a sequence of matrices \(m, n\)\."),
        (np.ones((2, 3, 4)), r"factors has shape \(2, 3, 4\); factors of one array must be square\."),
        (np.ones((0, 3, 3)), r"factors has shape \(0, 3, 3\); write"),
        ([], r"factors is empty; write \(L, n, n\) with L at least 1"),
        ([np.ones((2, 3)), np.ones((2, 3))], r"\(\): factors\[0\] gives 2 values and factors\[1\] takes 3\."),
        (np.ones((2, 3, 3), int), r"factors has dtype int\d+; write factors\.astype"),
        (np.full((2, 3, 3), np.nan), "NaN"),
    ],
)
@pytest.mark.parametrize("call", [linalg.product_log_singular_values, linalg.lyapunov_exponents])
def test_refusals(call, factors, message):
    with pytest.raises(ValueError, match=message):
        call(factors if isinstance(factors, list) else jnp.asarray(factors))


def test_exponents_of_factors_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"lyapunov_exponents\(\): factors must be square and of one size"):
        linalg.lyapunov_exponents([jnp.ones((2, 3)), jnp.ones((3, 2))])


def test_a_group_of_none_is_refused():
    with pytest.raises(ValueError, match="every"):
        linalg.product_log_singular_values(jnp.ones((2, 3, 3)), every=0)


def reflections(n, depth):
    v = RNG.standard_normal((depth, n, 1))
    return np.eye(n) - 2 * v @ v.mT / (v.mT @ v)


def hadamards(n, depth):
    rows = [[1 - 2 * (int(i & j).bit_count() % 2) for j in range(n)] for i in range(n)]
    return np.array([RNG.permutation(rows) for _ in range(depth)]) / np.sqrt(n)


@pytest.mark.parametrize("turns", [reflections, hadamards])
@pytest.mark.parametrize("depth", [16, 128])
def test_coordinates_that_are_not_in_general_position(turns, depth):
    """Q_{l+1} D Q_lᵀ, of spectrum D^depth: the first coordinates see too little of the leading directions."""
    n = 16
    q, d = turns(n, depth + 1), 2.0 ** -(np.arange(n) % 4)
    factors = (q[1:] * d) @ q[:-1].mT
    want = depth * np.sort(np.log(d))[::-1]
    for dtype, rounding in (("float32", 1e-3), ("float64", 1e-9)):
        with jax.enable_x64(dtype == "float64"):
            found = np.asarray(linalg.product_log_singular_values(jnp.asarray(factors, dtype)))
        np.testing.assert_allclose(found, want, atol=rounding)


@pytest.mark.parametrize("factor", [np.triu(np.ones((8, 8))), np.eye(8) + np.eye(8, k=1)])
def test_triangular_factors(factor):
    """The span of their leading coordinates never changes."""
    truth = exact(np.stack([factor] * 60), 120)
    for dtype, rounding in (("float32", 1e-3), ("float64", 1e-9)):
        with jax.enable_x64(dtype == "float64"):
            found = linalg.product_log_singular_values(jnp.asarray(np.stack([factor] * 60), dtype))
        np.testing.assert_allclose(np.asarray(found), truth, atol=rounding)


def test_factors_at_the_end_of_the_exponents():
    found = linalg.product_log_singular_values(jnp.diag(jnp.array([1e36, 1.0]))[None])
    np.testing.assert_allclose(found, [np.log(1e36), 0], atol=1e-5)
