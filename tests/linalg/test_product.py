"""Log singular values of long products, against mpmath and known spectra.

Every new shape of factors is a program that compiles for two seconds. So the cases
share one shape, 50 factors of order 8, are padded to it by isometries where they are
smaller or shorter, and are measured once, in a fixture.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from isometry import linalg
from isometry.linalg import _graded, _jacobi, _product, _sweep

RNG = np.random.default_rng(0)
N, DEPTH = 8, 50


def exact(factors, digits):
    """ln of the singular values by mpmath.

    `digits` must exceed twice the decades between them.
    """
    with mpmath.workdps(digits):
        product = mpmath.eye(factors.shape[1])
        for factor in np.asarray(factors, np.float64):
            product = mpmath.matrix(factor.tolist()) * product
        squares = sorted(
            mpmath.eigsy(product.T * product, eigvals_only=True), reverse=True
        )
        zero = squares[0] * mpmath.mpf(10) ** (15 - digits)
        logs = np.full(len(squares), -np.inf)
        for i, square in enumerate(squares):
            if square > zero:
                logs[i] = float(mpmath.log(square) / 2)
        return logs


def gaussian(n, depth):
    return RNG.standard_normal((depth, n, n)) / np.sqrt(n)


def orthogonal(n, depth):
    return np.linalg.qr(RNG.standard_normal((depth, n, n)))[0]


def orthogonal_tanh():
    return (1 - np.tanh(0.3 * RNG.standard_normal((DEPTH, N, 1))) ** 2) * orthogonal(
        N, DEPTH
    )


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
    """Isometries where the factors, from factor `start` on, leave room."""
    factors = np.asarray(factors, np.float64)
    depth, n, _ = factors.shape
    whole = np.stack([np.eye(N)] * DEPTH)
    whole[start : start + depth, :n, :n] = factors
    return whole


def with_rank(n, rank, seed=1):
    """A full matrix of this rank, to rounding.

    In one draw of twenty the next value is above the tolerance for it.
    """
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, rank)) @ rng.standard_normal((rank, n)) / np.sqrt(n)


def masked(n, dead):
    factor = gaussian(n, 1)[0]
    factor[list(dead)] = 0
    return factor


DEFICIENT = {
    "a low rank first": [with_rank(N, 5), *gaussian(N, 5)],
    "a low rank last": [*gaussian(N, 5), with_rank(N, 5)],
    "two in the middle": [
        *gaussian(N, 3),
        with_rank(N, 6),
        *gaussian(N, 3),
        with_rank(N, 4),
        *gaussian(N, 3),
    ],
    "dead units": [masked(N, dead) for dead in ([0, 1], [5], [2, 7], [], [4, 5, 6])],
    "disjoint": [
        np.diag([1.0, 1, 1, 0, 0, 0]),
        np.diag([0.0, 0, 1, 1, 1, 1]),
        orthogonal(6, 1)[0],
    ],
    "a zero column": [
        np.array([[0.0, 1, 2], [0, 3, 1], [0, 1, 1]]),
        orthogonal(3, 1)[0],
    ],
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
    """Q_{l+1} D Q_lᵀ, of spectrum D^depth.

    The first coordinates see too little of the leading directions.
    """
    q = turns(DEPTH + 1)
    return (q[1:] * D) @ q[:-1].mT


def deep_relu_network():
    """Orthogonal layers in each of which a few units die.

    The rank of the product is the narrowest layer's.
    """
    alive = np.random.default_rng(0).random((DEPTH, N, 1)) > 0.02
    return orthogonal(N, DEPTH) * alive


def shrinking(rank):
    """Small factors, all but `rank` rows of the first one zero."""
    factors = 1e-3 * orthogonal(N, DEPTH)
    factors[0, rank:] = 0
    return factors


@pytest.fixture(scope="module")
def factors():
    """All cases, in float64.

    Those that mpmath judges are float32 numbers: one truth serves both dtypes.
    """
    cases = {
        name: make().astype(np.float32).astype(np.float64)
        for name, (make, _) in AGAINST_MPMATH.items()
    }
    cases |= {name: padded(case) for name, case in DEFICIENT.items()}
    cases["a low rank last"] = padded(DEFICIENT["a low rank last"], start=DEPTH - 6)
    cases |= {
        "reflections": conjugated(reflections),
        "hadamards": conjugated(hadamards),
    }
    cases |= {
        "deep relu": deep_relu_network(),
        "rank 0": shrinking(0),
        "rank 3": shrinking(3),
    }
    cases["1e36"] = padded([np.diag([1e36, 1.0])])
    return cases


@pytest.fixture(scope="module")
def measured(factors):
    """ln s by dtype and name: float64 one by one, float32 under jit and vmap."""
    with jax.enable_x64(True):
        double = {
            name: np.asarray(linalg.product_log_singular_values(jnp.asarray(a)))
            for name, a in factors.items()
        }
    stacked = np.stack(list(factors.values())).astype(np.float32)
    single = jax.device_get(
        jax.jit(jax.vmap(linalg.product_log_singular_values))(stacked)
    )
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
    """Zero rows stay zero while factors go on to shrink.

    Their exponent once fell through the range of the integers.
    """
    want = [DEPTH * np.log(1e-3)] * rank + [-np.inf] * (N - rank)
    np.testing.assert_allclose(measured["float32"][f"rank {rank}"], want, rtol=1e-5)


def test_factors_at_the_end_of_the_exponents(measured):
    """Entries 1e-36 times those of a rotation are hardly above 2^-126.

    Numbers below that are zeros to XLA.
    """
    logs = measured["float32"]["1e36"]
    assert logs[0] == pytest.approx(np.log(1e36), abs=1e-5)
    np.testing.assert_allclose(logs[1:], 0, atol=2.0**-8)


def test_rows_at_the_end_of_the_exponents():
    """2^-127, by which 1.5e38 is made one, is itself no normal number of float32."""
    rows, shift = jax.jit(_graded.unit_rows)(jnp.asarray([[1.5e38, -1e38]]))
    np.testing.assert_array_equal(shift, [127])
    np.testing.assert_allclose(rows, [[1.5e38 / 2.0**127, -1e38 / 2.0**127]], rtol=1e-6)


@pytest.mark.parametrize("every", [3, DEPTH])
@pytest.mark.parametrize("name", ["orthogonal-tanh", "gaussian", "saturated", "rank 3"])
def test_groups_are_as_accurate_as_single_factors(factors, measured, name, every):
    """50 factors in groups of 3 leave two over; in one group: the plain product.

    A group whose condition is beyond 2^20 is divided, so that each adds at most eps
    2^20 to the error, at random.
    """
    singly = measured["float64"][name]
    with jax.enable_x64(True):
        grouped = np.asarray(
            linalg.product_log_singular_values(jnp.asarray(factors[name]), every=every)
        )
    rounding = 2**20 * np.finfo(float).eps * DEPTH**0.5
    np.testing.assert_array_equal(np.isneginf(grouped), np.isneginf(singly))
    is_finite = np.isfinite(singly)
    np.testing.assert_allclose(
        grouped[is_finite], singly[is_finite], rtol=0, atol=rounding
    )


def test_basis_is_orthonormal_at_the_end():
    """A last factor of condition 2^19 is safe for its Cholesky factor.

    The basis that this gives is off by 2^38 eps = 6e-5.
    """
    rng = np.random.default_rng(0)
    u, v = np.linalg.qr(rng.standard_normal((2, N, N)))[0]
    values = np.geomspace(1, 2.0**-19, N)
    with jax.enable_x64(True):
        logs = np.asarray(
            linalg.product_log_singular_values(jnp.asarray((u * values) @ v)[None])
        )
    np.testing.assert_allclose(
        logs, np.log(values), rtol=0, atol=2**19 * np.finfo(float).eps
    )


@jax.jit
def estimated_condition(image):
    product = _graded.identity(len(image), image.dtype)
    _, condition = _graded.times_by_cholesky(product, image)
    return condition


@pytest.mark.parametrize("decades", [0, 3, 6])
def test_condition_is_estimated(decades):
    """The norm is at most √n too large, the smallest value within a factor of 3."""
    rng = np.random.default_rng(decades)
    u, v = np.linalg.qr(rng.standard_normal((2, N, N)))[0]
    image = (u * np.geomspace(1, 10.0**-decades, N)) @ v
    with jax.enable_x64(True):
        condition = float(estimated_condition(jnp.asarray(image)))
    assert 10.0**decades / 3 <= condition <= N**0.5 * 10.0**decades * (1 + 1e-3)


def test_image_without_a_cholesky_factor_has_no_condition():
    with jax.enable_x64(True):
        condition = float(estimated_condition(jnp.ones((N, N))))
    assert not condition <= 1 / np.sqrt(np.finfo(float).eps)


def test_pace_grows_while_it_is_safe_and_pauses_behind_a_bad_factor():
    def after(*conditions):
        pace = _sweep._Pace(group=jnp.int32(1), pause=jnp.int32(0))
        for condition in conditions:
            pace = _sweep._next_pace(pace, jnp.float32(condition), most=6)
        return int(pace.group), int(pace.pause)

    # Float32 is safe up to 2^8, and grows up to 2^4.
    assert after(10) == (2, 0)
    assert after(10, 10, 10) == (6, 0)
    assert after(10, 200) == (2, 0)
    assert after(10, 10, 300) == (2, 0)
    assert after(10, np.nan) == (1, 0)
    assert after(300) == (1, _sweep._PAUSE)
    assert after(300, np.inf) == (1, _sweep._PAUSE - 1)
    assert after(300, *[np.inf] * _sweep._PAUSE) == (1, 0)


def test_a_batch_is_one_product_after_the_other(factors):
    """Bits are those of each alone; a matrix may be shared, and scales not."""
    matrix = jax.device_put(factors["gaussian"].astype(np.float32))
    scales = RNG.uniform(0.5, 1, (3, DEPTH, N)).astype(np.float32)

    @jax.jit
    def measure(scale):
        return linalg.log_values([linalg.Factors(matrix, scale)])

    together = jax.jit(jax.vmap(measure))(scales)
    np.testing.assert_array_equal(
        together, np.stack([measure(scale) for scale in scales])
    )


@pytest.mark.parametrize("size", [2.0**100, 2.0**-100])
def test_a_group_beyond_the_range_of_the_dtype(factors, size):
    """A power of two shifts every logarithm and changes nothing else.

    Five such factors are beyond float32.
    """
    chain = factors["orthogonal-tanh"][:5].astype(np.float32)
    logs, shifted = (
        np.asarray(
            linalg.product_log_singular_values(chain * np.float32(by), every=5),
            np.float64,
        )
        for by in (1, size)
    )
    # Rounding of the sum of a logarithm and 5 ln(size), about 347.
    np.testing.assert_allclose(
        shifted, logs + 5 * np.log(size), rtol=np.finfo(np.float32).eps
    )


@pytest.mark.parametrize("sizes", [(6, 6, 6, 4, 9), (1, 5, 1)])
def test_sizes_may_change(sizes):
    """The narrowest place is in the middle, or the first of two.

    Networks have it at the end.
    """
    factors = [RNG.standard_normal((m, n)) for n, m in itertools.pairwise(sizes)]
    with jax.enable_x64(True):
        logs = np.asarray(
            linalg.product_log_singular_values([jax.device_put(a) for a in factors])
        )
    product = functools.reduce(lambda p, a: a @ p, factors)
    truth = np.linalg.svd(product, compute_uv=False)
    rank = min(sizes)
    assert len(logs) == min(sizes[0], sizes[-1])
    assert np.isneginf(logs[rank:]).all()
    np.testing.assert_allclose(logs[:rank], np.log(truth[:rank]), atol=1e-10)


def known_product(width, depth, seed=0):
    """Factors from one Haar basis to the next, ln s of their product, and conditions.

    Between the bases are derivatives of tanh: the singular values of a factor.
    """
    rng = np.random.default_rng(seed)
    turns = np.linalg.qr(rng.standard_normal((depth + 1, width, width)))[0]
    slopes = 1 - np.tanh(0.5 * rng.standard_normal((depth, width))) ** 2
    factors = turns[1:] @ (slopes[:, :, None] * np.swapaxes(turns[:-1], 1, 2))
    conditions = slopes.max(1) / slopes.min(1)
    return factors, -np.sort(-np.log(slopes).sum(0)), conditions


def test_a_wide_product_is_as_accurate_as_a_narrow_one():
    """The error is at most √depth eps times the condition.

    With an elimination's factor for a basis it was 25 times that.
    """
    factors, want, conditions = known_product(128, 60)
    found = linalg.product_log_singular_values(factors.astype(np.float32), every=1)
    error = np.abs(np.asarray(found) - want).max()
    assert error <= conditions.max() * 60**0.5 * np.finfo(np.float32).eps


def test_thousands_of_layers():
    """ln |det| is the sum over factors: 2000 layers of 9, underflow 40 times over."""
    factors = gaussian(9, 2000)
    truth = np.sum(np.linalg.slogdet(factors)[1])
    logs = np.asarray(
        linalg.product_log_singular_values(jnp.asarray(factors, jnp.float32))
    )
    assert np.isfinite(logs).all()
    assert np.all(np.diff(logs) <= 0)
    assert abs(logs.sum() - truth) <= 40 * np.finfo(np.float32).eps * abs(truth)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "depth", "digits"),
    [(8, 500, 800), (32, 50, 180), (12, 200, 380), (40, 24, 120)],
)
def test_hundreds_of_decades_against_mpmath(n, depth, digits):
    """Each factor adds eps times its condition, at random.

    That is up to 5e5 among the two hundred of order 12. 40 rows are more than one block
    of Jacobi's near sweeps.
    """
    factors = gaussian(n, depth).astype(np.float32)
    truth = exact(factors, digits)
    with jax.enable_x64(True):
        logs = linalg.product_log_singular_values(
            jnp.asarray(factors, jnp.float64), every=1
        )
    assert np.max(np.abs(np.asarray(logs) - truth)) <= 1e-9
    single = linalg.product_log_singular_values(jnp.asarray(factors), every=1)
    condition = np.linalg.norm(np.linalg.cond(factors.astype(float)))
    rounding = np.finfo(np.float32).eps * condition
    assert np.max(np.abs(np.asarray(single) - truth)) <= 4 * rounding


@pytest.mark.slow
@pytest.mark.parametrize(("n", "depth"), [(64, 10_000), (128, 1000), (256, 200)])
def test_pairs_against_single_factors_and_the_determinant(n, depth):
    """Each factor, or pair of them, adds at most eps times its condition, at random.

    The determinant is rounded too: each pivot and each logarithm by eps, at random over
    n · depth of them.
    """
    rng = np.random.default_rng(depth)
    factors = rng.standard_normal((depth, n, n)) / np.sqrt(n)
    truth = np.sum(np.linalg.slogdet(factors)[1])
    with jax.enable_x64(True):
        device = jnp.asarray(factors)
        single = np.asarray(linalg.product_log_singular_values(device, every=1))
        pairs = np.asarray(linalg.product_log_singular_values(device, every=2))
    assert np.isfinite(single).all()
    assert single[0] - single[-1] > 250 * np.log(10)
    eps = np.finfo(float).eps
    condition = np.linalg.norm(np.linalg.cond(factors))
    condition_of_pairs = np.linalg.norm(np.linalg.cond(factors[1::2] @ factors[::2]))
    assert np.max(np.abs(single - pairs)) <= eps * condition_of_pairs
    assert abs(single.sum() - truth) <= 40 * eps * abs(truth) + eps * condition


@jax.jit
def finished(product):
    """What one-sided Jacobi finds, after QR iterations and without.

    And whether couplings are local after one iteration.
    """
    return (
        _product._by_jacobi(product),
        _jacobi.log_values(product),
        _jacobi.is_local(_graded.flip(product)),
    )


def graded(exponents, rows):
    return _graded.Graded(rows[:, :0], jnp.asarray(exponents, jnp.int32), rows)


def test_near_sweeps_where_couplings_are_local():
    """72 values e^(−3i), neighbours at most a factor of 20 apart.

    Only near rows stay coupled after QR iterations.
    """
    logs = -3.0 * np.arange(72)
    exponents = np.floor(logs / np.log(2))
    size = np.exp(logs - exponents * np.log(2))
    with jax.enable_x64(True):
        by_flips, at_once, is_local = finished(
            graded(exponents, jnp.asarray(size[:, None] * orthogonal(72, 1)[0]))
        )
    assert is_local
    np.testing.assert_allclose(by_flips, logs, rtol=0, atol=1e-12)
    np.testing.assert_allclose(at_once, logs, rtol=0, atol=1e-12)


def test_jacobi_on_rows_a_thousand_decades_apart():
    """diag(2^e) T with T orthogonal has singular values 2^e."""
    exponents = np.array([3000, 1, 0, 0, -1, -2500])
    with jax.enable_x64(True):
        logs = jax.jit(_jacobi.log_values)(
            graded(exponents, jnp.asarray(orthogonal(6, 1)[0]))
        )
    np.testing.assert_allclose(logs, exponents * np.log(2), rtol=1e-14, atol=1e-14)


def test_lyapunov_exponents():
    """Those of one constant triangular factor are its diagonal.

    Of Gaussian factors the mean is Newman's (1986), within 5 standard deviations.
    """
    n, depth = 4, 4000
    constant = np.stack([np.diag([4.0, 2.0, 1.0, 0.5]) + np.eye(n, k=1)] * depth)
    with jax.enable_x64(True):
        of_constant, of_gaussian = (
            np.asarray(linalg.lyapunov_exponents(jnp.asarray(a)))
            for a in (constant, gaussian(n, depth))
        )
    # ln of the size of the basis, over the depth.
    np.testing.assert_allclose(of_constant, np.log([4, 2, 1, 0.5]), atol=0.002)
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
        (
            [np.ones((2, 3)), np.ones((2, 3))],
            r"factors\[0\] gives 2 values and factors\[1\] takes 3",
        ),
        (np.ones((2, 3, 3), int), r"dtype int\d+; write factors\.astype"),
        (np.full((2, 3, 3), np.nan), "NaN"),
    ],
)
def test_refusals(factors, words):
    with pytest.raises(ValueError, match=r"product_log_singular_values\(\).*" + words):
        linalg.product_log_singular_values(factors)


def test_refusals_of_exponents_and_groups():
    with pytest.raises(
        ValueError,
        match=r"lyapunov_exponents\(\): factors must be square and of one size",
    ):
        linalg.lyapunov_exponents([np.ones((2, 3)), np.ones((3, 2))])
    with pytest.raises(ValueError, match=r"lyapunov_exponents\(\): factors has shape"):
        linalg.lyapunov_exponents(np.ones((3, 3)))
    with pytest.raises(ValueError, match="every"):
        linalg.product_log_singular_values(np.ones((2, 3, 3)), every=0)
