"""Log singular values of long products: against mpmath, against known spectra, at any depth.

Every new shape of factors is a program that compiles for two seconds. So the cases share one shape, 50 factors of
order 8, are padded to it by isometries where they are smaller or shorter, and are measured once, in a fixture.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from isometry import linalg
from isometry.linalg import _graded, _jacobi, _product

RNG = np.random.default_rng(0)
N, DEPTH = 8, 50


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


def orthogonal_tanh():
    return (1 - np.tanh(0.3 * RNG.standard_normal((DEPTH, N, 1))) ** 2) * orthogonal(N, DEPTH)


def leaky():
    return np.where(RNG.random((DEPTH, N, 1)) < 0.5, 0.1, 1.0) * orthogonal(N, DEPTH)


def saturated():
    """Rows down to 1e-12 of the others in the first 20 factors."""
    steep = 10 ** RNG.uniform(-12, 0, (20, N, 1)) * gaussian(N, 20)
    return np.concatenate([steep, orthogonal(N, DEPTH - 20)])


def upper_ones():
    """The span of the leading coordinates of triangular factors never changes."""
    return np.stack([np.triu(np.ones((N, N)))] * DEPTH)


def two_diagonals():
    return np.stack([np.eye(N) + np.eye(N, k=1)] * DEPTH)


# digits: twice the decades of the product, and room
AGAINST_MPMATH = {
    "gaussian": (lambda: gaussian(N, DEPTH), 120),
    "orthogonal-tanh": (orthogonal_tanh, 50),
    "leaky": (leaky, 120),
    "saturated": (saturated, 600),
    "triangular": (upper_ones, 120),
    "two diagonals": (two_diagonals, 120),
}


def padded(factors, start=0):
    """`factors` from factor `start` on, identities before and after, and ones on the rest of the diagonal."""
    factors = np.asarray(factors, np.float64)
    depth, n, _ = factors.shape
    whole = np.stack([np.eye(N)] * DEPTH)
    whole[start : start + depth, :n, :n] = factors
    return whole


def with_rank(n, rank, seed=1):
    """A full matrix of this rank, to rounding: in one draw of twenty the next value is above the tolerance for it."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, rank)) @ rng.standard_normal((rank, n)) / np.sqrt(n)


def masked(n, dead):
    factor = gaussian(n, 1)[0]
    factor[list(dead)] = 0
    return factor


DEFICIENT = {
    "a low rank first": [with_rank(N, 5), *gaussian(N, 5)],
    "a low rank last": [*gaussian(N, 5), with_rank(N, 5)],
    "two in the middle": [*gaussian(N, 3), with_rank(N, 6), *gaussian(N, 3), with_rank(N, 4), *gaussian(N, 3)],
    "dead units": [masked(N, dead) for dead in ([0, 1], [5], [2, 7], [], [4, 5, 6])],
    "disjoint": [np.diag([1.0, 1, 1, 0, 0, 0]), np.diag([0.0, 0, 1, 1, 1, 1]), orthogonal(6, 1)[0]],
    "a zero column": [np.array([[0.0, 1, 2], [0, 3, 1], [0, 1, 1]]), orthogonal(3, 1)[0]],
    "a zero factor": [np.zeros((N, N)), np.eye(N)],
    "nilpotent": [np.eye(5, k=1)] * 3,
    "equal rows": [np.ones((4, 4)), *gaussian(4, 3)],
}


def reflections(count):
    v = RNG.standard_normal((count, N, 1))
    return np.eye(N) - 2 * v @ v.mT / (v.mT @ v)


def hadamards(count):
    rows = [[1 - 2 * (int(i & j).bit_count() % 2) for j in range(N)] for i in range(N)]
    return np.array([RNG.permutation(rows) for _ in range(count)]) / np.sqrt(N)


D = 2.0 ** -(np.arange(N) % 4)


def conjugated(turns):
    """Q_{l+1} D Q_lᵀ, of spectrum D^depth: the first coordinates see too little of the leading directions."""
    q = turns(DEPTH + 1)
    return (q[1:] * D) @ q[:-1].mT


def deep_relu_network():
    """Orthogonal layers of which a few units die in each: the rank of the product is the narrowest layer's."""
    alive = np.random.default_rng(0).random((DEPTH, N, 1)) > 0.02
    return orthogonal(N, DEPTH) * alive


def shrinking(rank):
    """Small factors, all but `rank` rows of the first one zero."""
    factors = 1e-3 * orthogonal(N, DEPTH)
    factors[0, rank:] = 0
    return factors


@pytest.fixture(scope="module")
def factors():
    """All cases in float64; those that mpmath judges are float32 numbers, so that one truth serves both dtypes."""
    cases = {name: make().astype(np.float32).astype(np.float64) for name, (make, _) in AGAINST_MPMATH.items()}
    cases |= {name: padded(case) for name, case in DEFICIENT.items()}
    cases["a low rank last"] = padded(DEFICIENT["a low rank last"], start=DEPTH - 6)
    cases |= {"reflections": conjugated(reflections), "hadamards": conjugated(hadamards)}
    cases |= {"deep relu": deep_relu_network(), "rank 0": shrinking(0), "rank 3": shrinking(3)}
    cases["1e36"] = padded([np.diag([1e36, 1.0])])
    return cases


@pytest.fixture(scope="module")
def measured(factors):
    """dtype → name → ln s: float64 one by one, float32 all together under jit and vmap."""
    with jax.enable_x64(True):
        double = {name: np.asarray(linalg.product_log_singular_values(jnp.asarray(a))) for name, a in factors.items()}
    stacked = np.stack(list(factors.values())).astype(np.float32)
    single = jax.device_get(jax.jit(jax.vmap(linalg.product_log_singular_values))(stacked))
    return {"float64": double, "float32": dict(zip(factors, single, strict=True))}


@pytest.mark.core
@pytest.mark.parametrize("name", AGAINST_MPMATH)
def test_every_index_against_mpmath(factors, measured, name):
    truth = exact(factors[name], AGAINST_MPMATH[name][1])
    assert measured["float32"][name].dtype == np.float32
    assert np.max(np.abs(measured["float64"][name] - truth)) <= 1e-9
    assert np.max(np.abs(measured["float32"][name] - truth)) <= 1e-2


@pytest.mark.parametrize("name", DEFICIENT)
def test_zeros_are_counted_exactly(factors, measured, name):
    truth = np.linalg.svd(np.linalg.multi_dot(factors[name][::-1]), compute_uv=False)
    rank = int(np.sum(truth > 1e-12 * max(truth[0], 1e-300))) if truth[0] else 0
    logs = measured["float64"][name]
    assert np.isneginf(logs).sum() == N - rank
    assert np.isneginf(measured["float32"][name]).sum() == N - rank
    np.testing.assert_allclose(logs[:rank], np.log(truth[:rank]), atol=1e-9)


@pytest.mark.parametrize("name", ["reflections", "hadamards"])
def test_coordinates_that_are_not_in_general_position(measured, name):
    want = DEPTH * np.sort(np.log(D))[::-1]
    np.testing.assert_allclose(measured["float32"][name], want, atol=1e-3)
    np.testing.assert_allclose(measured["float64"][name], want, atol=1e-9)


def test_dead_units_in_a_deep_net_are_counted(factors, measured):
    lost = N - np.min(np.sum(factors["deep relu"].any(-1), -1))
    assert lost > 0
    assert np.sum(np.isneginf(measured["float64"]["deep relu"])) == lost


@pytest.mark.parametrize("rank", [0, 3])
def test_a_rank_is_lost_for_good_in_small_factors(factors, measured, rank):
    """Zero rows stay zero while factors go on to shrink: their exponent once fell through the range of the integers."""
    want = [DEPTH * np.log(1e-3)] * rank + [-np.inf] * (N - rank)
    np.testing.assert_allclose(measured["float32"][f"rank {rank}"], want, rtol=1e-5)


def test_factors_at_the_end_of_the_exponents(measured):
    """Entries 1e-36 times those of a rotation are hardly above the subnormal numbers, 2^-126, which XLA takes for zeros.

    That is a share of 2^-6 of them.
    """
    logs = measured["float32"]["1e36"]
    assert logs[0] == pytest.approx(np.log(1e36), abs=1e-5)
    np.testing.assert_allclose(logs[1:], 0, atol=2.0**-6)


def test_rows_at_the_end_of_the_exponents():
    """2^-127, by which 1.5e38 is made one, is itself no normal number of float32."""
    rows, shift = jax.jit(_graded.unit_rows)(jnp.asarray([[1.5e38, -1e38]]))
    np.testing.assert_array_equal(shift, [127])
    np.testing.assert_allclose(rows, [[1.5e38 / 2.0**127, -1e38 / 2.0**127]], rtol=1e-6)


@pytest.mark.parametrize("every", [3, DEPTH])
def test_groups_agree(factors, measured, every):
    """50 factors in groups of 3 leave two over; all in one group is the plain product.

    A rank that a factor loses is, in the product of its group, lost to rounding: −inf, or as small as rounding.
    """
    with jax.enable_x64(True):
        nearly_isometric, lost = (
            np.asarray(linalg.product_log_singular_values(jnp.asarray(factors[name]), every=every))
            for name in ("orthogonal-tanh", "rank 3")
        )
    np.testing.assert_allclose(nearly_isometric, measured["float64"]["orthogonal-tanh"], rtol=0, atol=1e-10)
    if every < DEPTH:
        np.testing.assert_allclose(lost[:3], measured["float64"]["rank 3"][:3], rtol=1e-9)
        assert (lost[3:] <= lost[2] + np.log(8 * N**0.5 * np.finfo(float).eps)).all()


@pytest.mark.parametrize("size", [2.0**100, 2.0**-100])
def test_a_group_beyond_the_range_of_the_dtype(factors, size):
    """A power of two shifts every logarithm and changes nothing else; five such factors are beyond float32."""
    chain = factors["orthogonal-tanh"][:5].astype(np.float32)
    logs, shifted = (
        np.asarray(linalg.product_log_singular_values(chain * np.float32(by), every=5), np.float64) for by in (1, size)
    )
    # Rounding of the sum of a logarithm and 5 ln(size), about 347.
    np.testing.assert_allclose(shifted, logs + 5 * np.log(size), rtol=np.finfo(np.float32).eps)


@pytest.mark.parametrize("sizes", [(6, 6, 6, 4, 9), (1, 5, 1)])
def test_sizes_may_change(sizes):
    """The narrowest place is in the middle, or the first of two; networks have it at the end."""
    factors = [RNG.standard_normal((m, n)) for n, m in itertools.pairwise(sizes)]
    with jax.enable_x64(True):
        logs = np.asarray(linalg.product_log_singular_values([jnp.asarray(a) for a in factors]))
    product = functools.reduce(lambda p, a: a @ p, factors)
    truth = np.linalg.svd(product, compute_uv=False)
    rank = min(sizes)
    assert len(logs) == min(sizes[0], sizes[-1])
    assert np.isneginf(logs[rank:]).all()
    np.testing.assert_allclose(logs[:rank], np.log(truth[:rank]), atol=1e-10)


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


def test_thousands_of_layers():
    """ln |det| is the sum over factors, whatever the depth: 2000 layers of 9, underflow 40 times over."""
    factors = gaussian(9, 2000)
    truth = np.sum(np.linalg.slogdet(factors)[1])
    logs = np.asarray(linalg.product_log_singular_values(jnp.asarray(factors, jnp.float32)))
    assert np.isfinite(logs).all()
    assert np.all(np.diff(logs) <= 0)
    assert abs(logs.sum() - truth) <= 40 * np.finfo(np.float32).eps * abs(truth)


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


@jax.jit
def finished(product):
    """What one-sided Jacobi finds, after QR iterations and without, and whether couplings are local after one."""
    return _product._by_jacobi(product), _jacobi.log_values(product), _jacobi.is_local(_graded.flip(product))


def graded(exponents, rows):
    return _graded.Graded(rows[:, :0], jnp.asarray(exponents, jnp.int32), rows)


def test_near_sweeps_where_couplings_are_local():
    """72 values e^(−3i), at most a factor of 20 apart for neighbours: only near rows stay coupled after QR steps."""
    logs = -3.0 * np.arange(72)
    exponents = np.floor(logs / np.log(2))
    size = np.exp(logs - exponents * np.log(2))
    with jax.enable_x64(True):
        by_flips, at_once, is_local = finished(graded(exponents, jnp.asarray(size[:, None] * orthogonal(72, 1)[0])))
    assert is_local
    np.testing.assert_allclose(by_flips, logs, rtol=0, atol=1e-12)
    np.testing.assert_allclose(at_once, logs, rtol=0, atol=1e-12)


def test_jacobi_on_rows_a_thousand_decades_apart():
    """diag(2^e) T with T orthogonal has singular values 2^e."""
    exponents = np.array([3000, 1, 0, 0, -1, -2500])
    with jax.enable_x64(True):
        logs = jax.jit(_jacobi.log_values)(graded(exponents, jnp.asarray(orthogonal(6, 1)[0])))
    np.testing.assert_allclose(logs, exponents * np.log(2), rtol=1e-14, atol=1e-14)


def test_lyapunov_exponents():
    """Of one constant triangular factor they are its diagonal; of Gaussian ones the mean is Newman's, within 5 sd."""
    n, depth = 4, 4000
    constant = np.stack([np.diag([4.0, 2.0, 1.0, 0.5]) + np.eye(n, k=1)] * depth)
    with jax.enable_x64(True):
        of_constant, of_gaussian = (
            np.asarray(linalg.lyapunov_exponents(jnp.asarray(a))) for a in (constant, gaussian(n, depth))
        )
    np.testing.assert_allclose(of_constant, np.log([4, 2, 1, 0.5]), atol=0.002)  # ln of the basis' size, over depth
    order = np.arange(n, 0, -1) / 2
    mean = [float(mpmath.psi(0, a) + mpmath.log(2) - mpmath.log(n)) / 2 for a in order]
    deviation = [float(mpmath.sqrt(mpmath.psi(1, a) / 4 / depth)) for a in order]
    assert np.all(np.abs(of_gaussian - mean) <= 5 * np.array(deviation))


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        (np.ones((3, 3)), r"factors has shape \(3, 3\); write"),
        (np.ones((2, 3, 4)), "must be square"),
        (np.ones((0, 3, 3)), r"shape \(0, 3, 3\)"),
        ([], "factors is empty"),
        ([np.ones((2, 3)), np.ones((2, 3))], r"factors\[0\] gives 2 values and factors\[1\] takes 3"),
        (np.ones((2, 3, 3), int), r"dtype int\d+; write factors\.astype"),
        (np.full((2, 3, 3), np.nan), "NaN"),
    ],
)
def test_refusals(factors, words):
    with pytest.raises(ValueError, match=r"product_log_singular_values\(\).*" + words):
        linalg.product_log_singular_values(factors)


def test_refusals_of_exponents_and_groups():
    with pytest.raises(ValueError, match=r"lyapunov_exponents\(\): factors must be square and of one size"):
        linalg.lyapunov_exponents([np.ones((2, 3)), np.ones((3, 2))])
    with pytest.raises(ValueError, match=r"lyapunov_exponents\(\): factors has shape"):
        linalg.lyapunov_exponents(np.ones((3, 3)))
    with pytest.raises(ValueError, match="every"):
        linalg.product_log_singular_values(np.ones((2, 3, 3)), every=0)
