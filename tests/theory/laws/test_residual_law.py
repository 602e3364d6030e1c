"""Residual blocks: references, closed forms, the limit of depth, random matrices."""

import math

import numpy as np
import pytest

from isometry import InputError, theory


def linear(branch, **arguments):
    return theory.residual_law(
        "linear", branch, order="post_activation", sigma_w=1.0, **arguments
    )


@pytest.mark.parametrize(
    ("law", "low", "high", "below_one"),
    [
        (linear([0.5]), 0.136167443, 3.098207557, None),
        (linear([0.5**0.5] * 2), 0.009603121, 10.217252, 0.434348),
        (linear([0.125**0.5] * 8), 0.035969066, 16.788075, 0.482495),
        (
            theory.residual_law("relu", [0.125**0.5] * 8, sigma_w=[1.0, 2**0.5]),
            0.029538764,
            19.913251,
            None,
        ),
    ],
)
def test_edges_and_mass_below_one(law, low, high, below_one):
    """Critical points of λ(u) = (1 + u)(1 + a²u)^(L+1)(1 + a² + a²u)^(L−1)/u."""
    ((found_low, found_high),) = law.support
    assert found_low == pytest.approx(low, abs=6e-10)
    assert found_high == pytest.approx(high, rel=3e-8)
    if below_one is not None:
        assert law.cdf(1.0) == pytest.approx(below_one, abs=6e-7)


@pytest.mark.parametrize(("skip", "branch"), [(1.0, 0.5), (1.0, 2.0), (2.0, 2.0)])
def test_linear_haar_block_is_an_arcsine(skip, branch):
    """s + aO is normal: λ = s² + a² + 2sa cos θ with uniform θ."""
    law = linear([branch], skip=skip, weights="orthogonal")
    theta = np.array([0.3, 1.0, 2.0, 2.8])
    lam = skip**2 + branch**2 + 2 * skip * branch * np.cos(theta)
    np.testing.assert_allclose(law.cdf(lam), 1 - theta / math.pi, rtol=1e-13)
    density = 1 / (2 * math.pi * skip * branch * np.sin(theta))
    np.testing.assert_allclose(law.density(lam), density, rtol=1e-11)
    # Jensen's formula.
    mean_log = 2 * math.log(max(skip, branch))
    assert law.mean_log_lam == pytest.approx(mean_log, abs=1e-10)


def test_weak_blocks_approach_the_law_of_great_depth():
    """log S → −c(1 + 2ψ), off by O(1/depth)."""
    p = np.array([0.05, 0.5, 0.95])
    limit = theory.resnet_law(0.5).quantile(p, "log_s")
    off = []
    for depth in (200, 400):
        branch = [(0.5 / depth) ** 0.5] * depth
        law = theory.residual_law("relu", branch, sigma_w=[1.0, 2**0.5])
        off.append(np.abs(law.quantile(p, "log_s") - limit).max())
    assert off[1] < 2e-3
    assert off[0] / off[1] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(
    ("order", "weights", "of_branch"),
    [
        ("two_layer", "gaussian", 3.0),
        ("two_layer", "orthogonal", 1.0),
        ("post_activation", "gaussian", 2.0),
        ("post_activation", "orthogonal", 1.0),
    ],
)
def test_moments_of_relu(order, weights, of_branch):
    """E λ = Π(s² + g), Var/E² = Σ (2s²g + g²v)/(s² + g)² with g = ½ and s² = 4.

    v is that of the branch: μ_2/μ_1² = 2 for one Gaussian matrix, one more for each
    further one, one less for a Haar matrix.
    """
    arguments = {"order": order, "weights": weights, "skip": 2.0, "sigma_w": 1.0}
    law = theory.residual_law("relu", [1.0] * 3, **arguments)
    found = theory.residual_moments("relu", [1.0] * 3, **arguments)
    mean = 4.5**3
    variance = mean**2 * 3 * (2 * 4 * 0.5 + 0.25 * of_branch) / 4.5**2
    assert found == pytest.approx((mean, variance), rel=1e-12)
    assert (law.moment(1), law.variance) == pytest.approx(found, rel=1e-12)
    assert law.moment(2) == pytest.approx(mean**2 + variance, rel=1e-12)
    # By inversion and quadrature, not by series. Below 1e-8 nothing is resolved.
    assert law._integral(np.exp) == pytest.approx(mean, rel=1e-9)
    assert law._integral(np.ones_like) == pytest.approx(1, abs=1e-8)


def matrices(slope, variance, branch, *, order, weights, n=240, seeds=3):
    """Draw J of blocks of width n whose D has the slopes of N(0, variance)."""
    rng = np.random.default_rng(5)

    def weight():
        g = rng.standard_normal((n, n)) / math.sqrt(n)
        if weights == "orthogonal":
            q, r = np.linalg.qr(g)
            g = q * np.sign(np.diag(r))
        return g

    logs = []
    for _ in range(seeds):
        j = np.eye(n)
        for a, q in zip(branch, variance, strict=True):
            x = slope(math.sqrt(q) * rng.standard_normal(n))[:, None] * weight()
            if order == "two_layer":
                x = weight() @ x
            j = j + a * x @ j
        logs.append(np.log(np.linalg.svd(j, compute_uv=False)))
    return np.sort(np.concatenate(logs))


@pytest.mark.parametrize(
    ("order", "weights"),
    [
        ("two_layer", "gaussian"),
        ("two_layer", "orthogonal"),
        ("post_activation", "gaussian"),
        ("post_activation", "orthogonal"),
    ],
)
def test_tanh_against_random_matrices(order, weights):
    """A path of variances, which the test follows by its own quadrature.

    The distribution function of an ensemble of width n is off by O(1/n) (here below
    0.012 in all), far less than the 0.03 of one variance for all blocks.
    """
    branch = [0.8, 1.0, 0.6]
    z, mass = np.polynomial.hermite_e.hermegauss(80)
    mass = mass / mass.sum()
    q, path = 1.5, []
    for a in branch:
        path.append(q)
        q += a**2 * mass @ np.tanh(math.sqrt(q) * z) ** 2
    law = theory.residual_law(
        "tanh", branch, order=order, weights=weights, sigma_w=1.0, q=1.5
    )
    log_s = matrices(
        lambda u: 1 / np.cosh(u) ** 2, path, branch, order=order, weights=weights
    )
    place = (np.arange(len(log_s)) + 0.5) / len(log_s)
    assert np.abs(law.cdf(log_s, "log_s") - place).max() < 0.012


def test_blocks_of_few_active_units_keep_an_atom_at_the_skip():
    """P(phi' ≠ 0) = p: mass 1 − 2Σp at Π s², half of the rest above."""
    sparse = theory.residual_law("hard_tanh", [1.0, 2.0], sigma_w=1.0, q=60.0, skip=0.5)
    q = 60.0
    active = 0.0
    for a in (1.0, 2.0):
        active += math.erf(1 / math.sqrt(2 * q))
        q = 0.25 * q + a**2 * theory.q_map("hard_tanh", q, 1.0, 0.0)
    (atom,) = sparse.atoms
    assert atom.lam == pytest.approx(1 / 16, rel=1e-12)
    assert atom.mass == pytest.approx(1 - 2 * active, rel=1e-9)
    assert sparse.survival(1 / 16) == pytest.approx(active, rel=1e-9)
    # It stands alone between two gaps.
    places = [end for interval in sparse.support for end in interval]
    assert 1 / 16 not in [pytest.approx(place, rel=0.05) for place in places]


def test_slopes_on_the_stream_are_correlated():
    """Var/E² of x + aWφ(x), ReLU: exact recursions, checked by simulation.

    Free blocks would have 2 at depth 2; E φ'(u)²φ'(v)² is ¼ + arcsin(ρ)/2π.
    """
    two = theory.residual_moments(
        "relu", [1.0, 1.0], order="pre_activation", sigma_w=2**0.5
    )
    assert two.variance / two.mean**2 == pytest.approx(2.125, rel=1e-12)
    arguments = {"order": "pre_activation", "sigma_w": 2**0.5}
    ten = theory.residual_moments("relu", [0.1**0.5] * 10, **arguments)
    assert ten.variance / ten.mean**2 == pytest.approx(2.180, abs=6e-4)
    haar = theory.residual_moments(
        "relu", [0.5**0.5] * 6, weights="orthogonal", **arguments
    )
    assert haar.variance / haar.mean**2 == pytest.approx(4.072, abs=6e-4)


@pytest.mark.parametrize("order", ["pre_activation", "v2"])
def test_moments_on_the_stream_against_random_networks(order):
    """tanh, with skips that differ; the error is that of 16 matrices of width 300.

    Width adds 2 % to the second moment at 150, and less than that error here.
    """
    branch, skip, n = [1.0, 1.4, 0.9], [1.0, 0.7, -1.2], 300
    rng = np.random.default_rng(2)
    found = []
    for _ in range(16):
        x, j = 1.5 * rng.standard_normal(n), np.eye(n)
        for a, s in zip(branch, skip, strict=True):
            w = 1.3 * rng.standard_normal((2, n, n)) / math.sqrt(n)
            f, of_branch = w[0] @ np.tanh(x), w[0] / np.cosh(x) ** 2
            if order == "v2":
                of_branch = w[1] @ (of_branch / np.cosh(f)[:, None] ** 2)
                f = w[1] @ np.tanh(f)
            x, j = s * x + a * f, s * j + a * of_branch @ j
        gram = j @ j.T
        found.append([np.trace(gram) / n, (gram**2).sum() / n])
    mean, second = np.mean(found, axis=0)
    error, error_of_second = np.std(found, axis=0) / math.sqrt(len(found))
    want = theory.residual_moments(
        "tanh", branch, order=order, skip=skip, sigma_w=1.3, q=2.25
    )
    assert mean == pytest.approx(want.mean, abs=4 * error)
    square = want.variance + want.mean**2
    assert second == pytest.approx(square, abs=4 * error_of_second)


def test_relu_block_has_half_its_mass_up_to_the_skip_and_a_gap_above():
    """At p = 1/2 the atom at s² is just gone: the density is infinite below, 0 above.

    Above, u is real: λ = s² (1 + u + t)²/(u (1 + u)), with t = 1/(2 (ζ − 1)) and
    ζ = s²/(a² u (1 + u)), turns where the gap ends. Inside the disc of radius s there
    is no eigenvalue, so that E log λ = log s² (a² χ < s²).
    """
    skip, branch = 1.5, 1.2
    law = theory.residual_law("relu", [branch], skip=skip, sigma_w=1.0)
    square = skip**2
    u = np.geomspace(3.0, 30.0, 200_001)
    y = u * (1 + u) / square
    t = 0.5 / (1 / (branch**2 * y) - 1)
    end_of_gap = float(np.max(square * (1 + u + t) ** 2 / (u * (1 + u))))
    assert not law.atoms
    (_, high), (low, _) = law.support
    assert (high, low) == pytest.approx((square, end_of_gap), rel=1e-9)
    assert law.cdf([square, (square + low) / 2]) == pytest.approx([0.5, 0.5], abs=1e-12)
    assert law.quantile(0.5) == pytest.approx(square, rel=1e-12)
    ranks = 0.5 + np.array([-1e-4, -1e-6, 1e-6, 1e-4])
    assert law.cdf(law.quantile(ranks)) == pytest.approx(ranks, abs=1e-10)
    assert law.moment(1, "log_s") == pytest.approx(np.log(skip), rel=1e-9)


@pytest.mark.parametrize(("depth", "weights"), [(1, "orthogonal"), (2, "gaussian")])
def test_smooth_branches_that_are_stronger_than_the_skip(depth, weights):
    """A density down to zero; four draws of 200 units scatter by 0.01 in the cdf."""
    rng = np.random.default_rng(5)
    square, branch, scale, num = 0.25, 1.6, 1.5, 200
    law = theory.residual_law(
        "tanh", [branch] * depth, skip=square**0.5, sigma_w=scale, weights=weights
    )

    def matrix():
        entries = rng.standard_normal((num, num))
        if weights == "orthogonal":
            return scale * np.linalg.qr(entries)[0]
        return scale * entries / num**0.5

    values = []
    for _ in range(4):
        jacobian, x = np.eye(num), rng.standard_normal(num)
        for _ in range(depth):
            first, second = matrix(), matrix()
            inner = first @ x
            slopes = 1 / np.cosh(inner) ** 2
            branch_jacobian = second @ (slopes[:, None] * first)
            jacobian = (square**0.5 * np.eye(num) + branch * branch_jacobian) @ jacobian
            x = square**0.5 * x + branch * second @ np.tanh(inner)
        values.append(np.linalg.svd(jacobian, compute_uv=False) ** 2)
    assert law.support[0][0] == 0.0
    for quantile in law.quantile([0.1, 0.5, 0.9]):
        share = np.mean(np.array(values) <= quantile)
        assert share == pytest.approx(law.cdf(quantile), abs=0.04)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": "v2"}, r"no law is known for order='v2'.*residual_moments"),
        ({"order": "pre_activation"}, r"the blocks are not free"),
        ({"order": "pre"}, r"order='pre' is not known"),
        ({"branch": []}, r"branch has 0 values"),
        ({"branch": 0.5}, r"branch=0\.5 is not a sequence"),
        ({"skip": 0.0}, r"skip is 0 in a block"),
        ({"skip": [1.0]}, r"skip has 1 values; give a number, or one a block"),
        ({"sigma_w": [1.0] * 3}, r"sigma_w has 3 values; .* weight layer.* are 2"),
        ({"q": 0.0}, r"q=0\.0"),
        ({"weights": "orthogonal_kernel"}, r"weights='orthogonal_kernel' is not known"),
        (
            {"activation": "hard_tanh", "order": "post_activation", "q": 9.0},
            r"phi' of hard_tanh vanishes for 0\.739 of the units",
        ),
    ],
)
def test_refusals(arguments, message):
    call = {"activation": "tanh", "branch": [0.5, 0.5], "sigma_w": 1.0, **arguments}
    with pytest.raises(InputError, match=message):
        theory.residual_law(call.pop("activation"), call.pop("branch"), **call)
