"""Predicted laws against closed forms, mpmath at twenty digits, their own moments, and finite random matrices."""

import itertools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from isometry import InputError, activations, theory
from isometry._checks import NotDefined
from isometry.theory import freeprob
from isometry.theory._host import on_host

# (linear Gaussian, ReLU Gaussian, ReLU orthogonal) λ_max, six digits as printed
TOPS = {
    1: ("4", "5.82843", "2"),
    2: ("6.75", "11.0902", "4"),
    4: ("12.2070", "21.8582", "9.48148"),
    8: ("23.0921", "43.549", "20.372"),
    16: ("44.8448", "87.0133", "42.1261"),
    32: ("88.3407", "173.984", "85.6223"),
    64: ("175.327", "347.947", "172.609"),
    128: ("349.298", "695.884", "346.58"),
}


@pytest.mark.parametrize("depth", TOPS)
def test_top_of_the_support(depth):
    laws = [
        theory.jacobian_law("linear", depth, q=1.0, weights="gaussian"),
        theory.jacobian_law("relu", depth, q=1.0, weights="gaussian"),
        theory.jacobian_law("relu", depth, q=1.0),
    ]
    for law, printed in zip(laws, TOPS[depth], strict=True):
        assert law.s_max**2 == pytest.approx(float(printed), rel=5.1e-6)
    exact = (depth + 1) * math.log(depth + 1) - depth * math.log(depth)
    assert 2 * math.log(laws[0].s_max) == pytest.approx(exact, rel=1e-12)


def test_marchenko_pastur_density_and_cdf():
    law = theory.fuss_catalan(1)
    lam = np.linspace(1e-6, 4 - 1e-4, 400)
    np.testing.assert_allclose(law.density(lam), np.sqrt((4 - lam) / lam) / (2 * np.pi), rtol=1e-10)
    angle = np.arccos(1 - lam / 2)  # λ = 2 − 2 cos a: P = (a + sin a)/π
    np.testing.assert_allclose(law.cdf(lam), (angle + np.sin(angle)) / np.pi, rtol=1e-12, atol=1e-13)
    assert law.density(0.0, "s") == pytest.approx(2 / np.pi, rel=1e-6)  # quarter circle
    assert law.density(0.0) == math.inf
    assert law.density([-1.0, 5.0]).tolist() == [0.0, 0.0]


def test_fuss_catalan_two():
    """Penson and Życzkowski (2011), parametrized: λ = sin³(3a)/(sin a sin²(2a))."""
    a = np.linspace(0.05, np.pi / 3 - 0.05, 50)
    lam = np.sin(3 * a) ** 3 / (np.sin(a) * np.sin(2 * a) ** 2)
    density = np.sin(a) ** 2 * np.sin(2 * a) / (np.pi * np.sin(3 * a) ** 2)
    np.testing.assert_allclose(theory.fuss_catalan(2).density(lam), density, rtol=1e-10)
    assert [theory.fuss_catalan(2).moment(k) for k in range(1, 7)] == pytest.approx(
        [1, 3, 12, 55, 273, 1428], rel=1e-13
    )


def test_relu_orthogonal_two_is_an_arcsine():
    law = theory.jacobian_law("relu", 2, q=1.0)
    lam = np.linspace(1e-3, 4 - 1e-3, 100)
    np.testing.assert_allclose(law.cdf(lam), 0.5 + np.arcsin(np.sqrt(lam / 4)) / np.pi, rtol=1e-11)
    np.testing.assert_allclose(law.density(lam), 0.5 / (np.pi * np.sqrt(lam * (4 - lam))), rtol=1e-9)
    assert [(a.lam, a.mass) for a in law.atoms] == [(0.0, pytest.approx(0.5, rel=1e-14))]
    assert law.cdf(0.0) == 0.5
    assert law.cdf(-1e-9) == 0.0
    assert law.quantile([0.0, 0.3, 0.5]).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_bernoulli_atoms(depth):
    q = 0.25
    p = math.erf(1 / math.sqrt(2 * q))
    law = theory.jacobian_law("hard_tanh", depth, q=q)
    zero, top = law.atoms
    assert zero.mass == pytest.approx(1 - p, rel=1e-12)
    assert top.lam == pytest.approx(p**-depth, rel=1e-12)
    assert top.mass == pytest.approx(1 - depth * (1 - p), rel=1e-12)
    before, at = law.cdf([top.lam * (1 - 1e-9), top.lam])
    assert at == 1
    assert at - before == pytest.approx(top.mass, rel=1e-11)
    assert law.quantile(1 - top.mass / 2) == pytest.approx(top.lam, rel=1e-14)


@pytest.mark.parametrize(
    ("square", "low", "high"),
    [(1 / 16, 0.58710650, 1.60007267), (1 / 4, 0.32131892, 2.42376260), (1, 0.07573933, 4.85717814)],
)
def test_smooth_class_edges(square, low, high):
    law = theory.smooth_class(square)
    assert law.support == (pytest.approx((low, high), abs=1e-7),)
    s = math.sqrt(square)
    for sign, edge in ((1, law.support[0][1]), (-1, law.support[0][0])):
        root = math.sqrt(4 + square)
        exact = math.exp(-s * (s - sign * root) / 2) * (1 + s * (s + sign * root) / 2)
        assert edge == pytest.approx(exact, rel=1e-12)
    assert (law.moment(1), law.variance, law.atoms) == (1, pytest.approx(square), ())


def test_bernoulli_class():
    law = theory.bernoulli_class(0.25)
    assert [tuple(a) for a in law.atoms] == [(pytest.approx(math.exp(0.25)), pytest.approx(0.75))]
    assert theory.bernoulli_class(4.0).s_max ** 2 == pytest.approx(4 * math.e, rel=1e-12)
    assert law.variance == 0.25


def test_bernoulli_class_is_the_limit_of_hard_tanh():
    """At σ0² = L(1 − p)/p held fixed the law approaches its class as 1/L."""
    square, distances = 2.0, []
    limit = theory.bernoulli_class(square)
    grid = np.linspace(0.2, 5, 40)
    for depth in (128, 512):
        p = depth / (depth + square)
        law = theory.jacobian_law("hard_tanh", depth, q=0.5 / float(mpmath.erfinv(p)) ** 2)
        distances.append(np.abs(law.cdf(grid) - limit.cdf(grid)).max())
    assert distances[1] == pytest.approx(distances[0] / 4, rel=0.1)


def test_smooth_class_is_the_slow_limit_of_erf():
    """Sup distance 0.056 at depth 64 for σ0² = 1/4, found independently; it falls as 1/√L only."""
    q = optimize.brentq(lambda q: 64 * ((1 + np.pi * q) / np.sqrt(1 + 2 * np.pi * q) - 1) - 0.25, 1e-4, 1)
    law = theory.jacobian_law(lambda x: jax.scipy.special.erf(math.sqrt(math.pi) / 2 * x), 64, q=q)
    assert law.variance == pytest.approx(0.25, rel=1e-9)
    grid = np.linspace(0.1, 2.6, 400)
    assert np.abs(law.cdf(grid) - theory.smooth_class(0.25).cdf(grid)).max() == pytest.approx(0.056, abs=0.001)


def test_circular_convolution_has_the_dense_law():
    """Gaussian kernels of three taps on a ring of six positions, ReLU masks drawn anew at each."""
    ring, channels, rng = 6, 100, np.random.default_rng(3)
    j = np.eye(ring * channels)
    for _ in range(2):
        taps = rng.standard_normal((3, channels, channels)) * math.sqrt(2 / (3 * channels))
        w = sum(np.kron(np.roll(np.eye(ring), t - 1, axis=1), taps[t]) for t in range(3))
        j = (rng.random(ring * channels) < 0.5)[:, None] * (w @ j)
    lam = np.sort(np.linalg.svd(j, compute_uv=False) ** 2)
    law = theory.jacobian_law("relu", 2, q=1.0, weights="gaussian", padding="circular")
    grid = np.linspace(1e-9, 10, 50)
    assert (
        np.abs(np.searchsorted(lam, grid) / lam.size - law.cdf(grid)).max()
        < 4 * math.sqrt(0.5 / lam.size) + 2 / channels
    )


def test_residual_blocks_approach_their_law():
    """α = L^−½: mean and spread of log s within 1/L and sampling error of the law of great depth."""
    depth, width, rng, alpha = 32, 150, np.random.default_rng(4), 32**-0.5
    law = theory.jacobian_law("relu", depth, q=1.0, sigma_w=1.0, branch_scale=alpha)
    assert law.moment(1) == pytest.approx(math.exp(0.5), rel=1e-12)  # c = Σ α² E phi'² = ½
    j = np.eye(width)
    for _ in range(depth):
        w = rng.standard_normal((width, width)) / math.sqrt(width)
        j = j + alpha * (rng.random(width) < 0.5)[:, None] * (w @ j)
    lam = np.sort(np.linalg.svd(j, compute_uv=False) ** 2)
    grid = np.linspace(0.1, 6, 50)
    assert np.abs(np.searchsorted(lam, grid) / width - law.cdf(grid)).max() < 1 / depth + 4 / width


def test_resnet_law_is_symmetric_in_log_s():
    law = theory.resnet_law(0.25)
    low, high = law.support[0]
    assert low * high == pytest.approx(1, rel=1e-12)
    x = np.linspace(0.05, 0.6, 7)
    np.testing.assert_allclose(law.cdf(x, "log_s"), law.survival(-x, "log_s"), rtol=1e-10)
    c, n = 0.25, 3
    series = sum((2 * n * c) ** k / math.factorial(k) * math.comb(n, n - 1 - k) for k in range(n))
    assert law.moment(n) == pytest.approx(math.exp(n * c) / n * series, rel=1e-13)


CASES = {
    "tanh orthogonal 8": ("tanh", 8, 0.25, "orthogonal"),
    "tanh orthogonal 128": ("tanh", 128, 1 / 64, "orthogonal"),
    "tanh gaussian 3": ("tanh", 3, 0.5, "gaussian"),
    "relu gaussian 64": ("relu", 64, 1.0, "gaussian"),
    "hard_tanh orthogonal 8": ("hard_tanh", 8, 0.25, "orthogonal"),
    "leaky gaussian 1": ("leaky_relu", 1, 1.0, "gaussian"),
    "elu orthogonal 3": ("elu", 3, 0.5, "orthogonal"),
    "gelu gaussian 2": ("gelu", 2, 1.0, "gaussian"),
    "linear gaussian 128": ("linear", 128, 1.0, "gaussian"),
}


@pytest.fixture(scope="module", params=CASES)
def law(request):
    phi, depth, q, weights = CASES[request.param]
    return theory.jacobian_law(phi, depth, q=q, weights=weights)


def test_variance_law(law):
    """L(μ_2/μ_1² − 1 − s_1) at chi_1 = 1, with μ from an independent quadrature."""
    name, depth, weights = law.name.split(", ")
    q = next(c[2] for c in CASES.values() if c[0] == name and f"depth {c[1]}" == depth and c[3] == weights)
    phi = activations.get(name)
    mu = [theory.expectation(lambda u, k=k: phi.slope(u) ** (2 * k), q, phi.kinks) for k in (1, 2)]
    want = law.pairs * (mu[1] / mu[0] ** 2 - 1 + (weights == "gaussian"))
    assert law.moment(1) == pytest.approx(1, rel=1e-12)
    assert law.variance == pytest.approx(want, rel=1e-11)


def test_mass_moments_and_density_agree(law):
    """The density integrates to one and to the moments of Lagrange inversion, and to differences of the cdf."""
    product = law.product
    assert law._integral(np.ones_like) == pytest.approx(product.rank, abs=1e-9)
    for k in (1, 2, 4):
        assert law._integral(lambda t, k=k: np.exp(k * t)) == pytest.approx(law.moment(k), rel=1e-8)
    t = np.log(law.quantile([0.7, 0.9] if law.cdf(0.0) < 0.6 else [0.99, 0.999])) / 2
    grid, weight = np.polynomial.legendre.leggauss(60)
    if law.atoms and any(t[0] <= math.log(a.lam) / 2 <= t[1] + 1e-12 for a in law.atoms if a.lam > 0):
        t = np.log(law.quantile(np.array([0.1, 0.3]))) / 2
    x = t.mean() + (t[1] - t[0]) / 2 * grid
    integral = np.sum(weight * law.density(x, "log_s")) * (t[1] - t[0]) / 2
    assert integral == pytest.approx(float(np.diff(law.cdf(t, "log_s"))[0]), rel=1e-8)


def test_quantile_inverts_cdf(law):
    p = np.array([1e-8, 1e-4, 0.2, 0.5, 0.8, 0.999, 1 - 1e-8])
    x = law.quantile(p, "log_s")
    assert np.all(x[1:] >= x[:-1])
    atoms = np.array([math.log(a.lam) / 2 if a.lam > 0 else -math.inf for a in law.atoms])
    off = np.isfinite(x)
    off[off] = [all(abs(y - a) > 1e-9 for a in atoms) for y in x[off]]
    rounding = 2e-15 * law.pairs  # the angles of `pairs` factors are added
    np.testing.assert_allclose(law.cdf(x[off], "log_s"), p[off], rtol=1e-9, atol=rounding)


def test_cdf_is_monotone(law):
    x = np.linspace(-3, math.log(law.s_max) + 0.1, 300)
    c = law.cdf(x, "log_s")
    assert np.all(np.diff(c) >= -2e-15 * law.pairs)
    assert c[-1] == 1
    assert np.all(np.isfinite(c))


def _reference(weights, depth, zeta0, q, lam):
    """ψ and P(x > λ) for tanh at twenty digits: rotated contour, secant in ζ."""
    with mpmath.workdps(22):
        turn = 1 + mpmath.mpc(0, "0.2")
        points = [0, 0.01, 0.1, 0.5, 1, 2, 3, 4, 6, 9]

        def against(f):
            def rotated(t):
                z = t * turn
                return turn * f(mpmath.sech(mpmath.sqrt(q) * z) ** 4) * mpmath.npdf(z)

            return 2 * mpmath.quad(rotated, points)

        mean = against(lambda d: d).real

        def log_lam(zeta):
            up = against(lambda d: zeta / (zeta - d))
            psi = up - 1
            gauss = depth if weights == "gaussian" else 0
            below = [mpmath.log(abs(x)) - 1j * abs(mpmath.arg(x)) for x in (psi, up)]
            value = (
                (depth - 1) * below[0] + (1 - depth + gauss) * below[1] + depth * (mpmath.log(zeta) - mpmath.log(mean))
            )
            return value, psi, below[0]

        zeta = mpmath.findroot(lambda x: log_lam(x)[0] - mpmath.log(lam), zeta0, tol=1e-24, solver="secant")
        _, psi, log_psi = log_lam(zeta)
        gauss = depth if weights == "gaussian" else 0
        above = (depth - 1) * log_psi + depth * against(lambda d: mpmath.log(zeta - d)) + gauss * psi
        return float(-psi.imag / mpmath.pi), float(above.imag / mpmath.pi)


@pytest.mark.parametrize(
    ("weights", "depth", "q", "lam"),
    [
        ("orthogonal", 8, 0.25, 1e-4),
        pytest.param("orthogonal", 8, 0.25, 0.5, marks=pytest.mark.slow),
        pytest.param("gaussian", 3, 0.5, 2.0, marks=pytest.mark.slow),
    ],
)
def test_against_mpmath(weights, depth, q, lam):
    law = theory.jacobian_law("tanh", depth, q=q, weights=weights)
    (band,) = law._bands
    zeta = np.exp(band.solve(np.log(np.array([lam]))).w[0, 0]) * (1 + 1e-4)
    density, above = _reference(weights, depth, mpmath.mpc(complex(zeta)), mpmath.mpf(q), mpmath.mpf(lam))
    assert law.density(lam) * lam == pytest.approx(density, rel=1e-9)
    assert law.survival(lam) == pytest.approx(above, rel=1e-10)


def _product(law_of, depth, width, weights, q, sigma_w, rng):
    """lam of D_L W_L … D_1 W_1 by plain numpy."""
    phi, j = activations.get(law_of), np.eye(width)
    for _ in range(depth):
        w = rng.standard_normal((width, width))
        if weights == "orthogonal":
            basis, upper = np.linalg.qr(w)
            w = sigma_w * basis * np.sign(np.diag(upper))
        else:
            w *= sigma_w / math.sqrt(width)
        slope = on_host(phi.slope, math.sqrt(q) * rng.standard_normal(width))
        j = slope[:, None] * (w @ j)
    return np.linalg.svd(j, compute_uv=False) ** 2


@pytest.mark.parametrize(
    ("phi", "depth", "q", "weights"),
    [("hard_tanh", 8, 0.25, "orthogonal"), ("relu", 2, 1.0, "gaussian"), ("tanh", 4, 0.5, "orthogonal")],
)
def test_against_random_matrices(phi, depth, q, weights):
    """Kolmogorov distance of pooled draws: 1/width of bias, and depth masses that vary by √(p(1 − p)/(seeds·width))."""
    width, seeds, rng = 300, 6, np.random.default_rng(0)
    sigma_w = theory.critical_at(phi, q).sigma_w
    law = theory.jacobian_law(phi, depth, q=q, weights=weights)
    lam = np.sort(np.concatenate([_product(phi, depth, width, weights, q, sigma_w, rng) for _ in range(seeds)]))
    grid = np.r_[1e-12, np.linspace(0.02, 1.2, 40) * law.s_max**2]
    measured = np.searchsorted(lam, grid, side="right") / lam.size
    allowed = 4 * math.sqrt(depth * 0.25 / (seeds * width)) + 2 / width
    assert np.abs(measured - law.cdf(grid)).max() < allowed
    wrong = theory.jacobian_law(phi, depth, q=q, sigma_w=1.3 * sigma_w, weights=weights)  # the check can fail
    assert np.abs(measured - wrong.cdf(grid)).max() > allowed


def test_path_law_and_rectangles():
    """One q a layer, and layers of unequal width, against random matrices."""
    rng, qs, sigma_w = np.random.default_rng(1), [0.5, 0.4, 0.3], 1.1
    law = theory.jacobian_law("hard_tanh", 3, q=qs, sigma_w=sigma_w)
    p = [math.erf(1 / math.sqrt(2 * q)) for q in qs]
    assert law.atoms[-1].mass == pytest.approx(1 - sum(1 - x for x in p), rel=1e-12)
    assert law.atoms[-1].lam == pytest.approx(sigma_w**6, rel=1e-12)
    assert law.atoms[0].mass == pytest.approx(1 - min(p), rel=1e-12)
    sizes = (400, 200, 300)
    law = theory.jacobian_law("linear", 2, q=1.0, weights="gaussian", widths=sizes)
    j = np.eye(sizes[0])
    for n, m in itertools.pairwise(sizes):
        j = rng.standard_normal((m, n)) / math.sqrt(n) @ j
    lam = np.linalg.svd(j, compute_uv=False) ** 2
    assert law.structural_zeros == pytest.approx(1 / 3)
    assert law.atoms[0] == pytest.approx((0.0, 1 / 3))
    assert lam.mean() == pytest.approx(law.moment(1), rel=0.05)
    grid = np.linspace(0.1, 7, 30)
    assert np.abs(np.searchsorted(np.sort(lam), grid) / lam.size - law.cdf(grid)).max() < 6 / 200


@pytest.mark.parametrize("ratio", [0.25, 4.0])
def test_marchenko_pastur_rectangles(ratio):
    law = theory.marchenko_pastur(ratio)
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    assert law.support == (pytest.approx((low, high), rel=1e-12),)
    lam = np.linspace(low, high, 42)[1:-1]
    want = np.sqrt((high - lam) * (lam - low)) / (2 * np.pi * lam * min(ratio, 1.0))
    np.testing.assert_allclose(law.density(lam), want, rtol=1e-10)
    assert law.structural_zeros == 3.0  # 4n against n


def test_fixed_point_off_criticality():
    law = theory.jacobian_law("tanh", 2, sigma_w=math.sqrt(0.5), sigma_b=math.sqrt(0.05))
    assert law.moment(1) == pytest.approx(0.43198738**2, rel=1e-7)  # chi_1 of the usual table
    assert theory.jacobian_law("relu", 3, sigma_w=1.0, sigma_b=0.0).moment(1) == pytest.approx(0.125, rel=1e-12)


def test_callable_with_unnamed_kinks():
    named = theory.jacobian_law("hard_tanh", 4, q=0.5)
    plain = theory.jacobian_law(lambda x: jnp.clip(x, -1, 1), 4, q=0.5)
    assert plain.s_max == pytest.approx(named.s_max, rel=1e-10)
    assert plain.quantile(0.4) == pytest.approx(named.quantile(0.4), rel=1e-9)


def test_heavy_tail_of_a_vanishing_slope():
    """gelu' has a zero: deep laws spread over hundreds in log lam; quantiles walk down to what is resolved."""
    law = theory.jacobian_law("gelu", 16, q=1.0)
    p = np.array([1e-3, 0.01, 0.5])
    np.testing.assert_allclose(law.cdf(law.quantile(p, "log_s"), "log_s"), p, rtol=1e-9)


def test_sampling_and_variables():
    law = theory.jacobian_law("hard_tanh", 8, q=0.25)
    draws = law.sample(jax.random.key(0), (4000,))
    assert draws.dtype == np.float64
    assert np.mean(draws == 0) == pytest.approx(law.atoms[0].mass, abs=4 * math.sqrt(0.05 / 4000))
    assert draws.mean() == pytest.approx(1, abs=4 * math.sqrt(law.variance / 4000))
    lam = 0.7
    assert law.cdf(math.sqrt(lam), "s") == pytest.approx(law.cdf(lam), rel=1e-13)
    assert law.density(math.log(lam) / 2, "log_s") == pytest.approx(2 * lam * law.density(lam), rel=1e-12)
    assert law.moment(2, "s") == law.moment(1)
    linear = theory.jacobian_law("linear", 5, q=1.0, weights="gaussian")
    assert linear.mean_log_lam == pytest.approx(-5, rel=1e-9)  # E log of Marchenko-Pastur is −1
    assert law.mean_log_lam == -math.inf
    atoms = "atoms 0.0455003 at 0, 0.635998 at 1.45142"
    assert repr(law) == f"Law(hard_tanh, depth 8, orthogonal: lam has density on [0, 0.971117], {atoms})"


def test_finite_width():
    assert theory.jacobian_law("relu", 20, q=1.0, weights="gaussian").finite_width(50) == pytest.approx((-1, 2))
    rng, width, logs = np.random.default_rng(0), 64, []
    for _ in range(600):
        v = rng.standard_normal(width)
        start = v @ v
        for _ in range(8):
            w = rng.standard_normal((width, width)) * math.sqrt(2 / width)
            v = (rng.standard_normal(width) > 0) * (w @ v)
        logs.append(math.log(v @ v / start))
    predicted = theory.jacobian_law("relu", 8, q=1.0, weights="gaussian").finite_width(width)
    error = math.sqrt(predicted.variance / 600)
    assert np.mean(logs) == pytest.approx(predicted.mean, abs=4 * error + 3 * predicted.variance**2)
    assert np.var(logs) == pytest.approx(predicted.variance, rel=4 * math.sqrt(2 / 600) + predicted.variance)
    with pytest.raises(NotDefined, match=r"no formula is known for tanh"):
        theory.jacobian_law("tanh", 2, q=1.0).finite_width(50)


masses = st.floats(0.05, 0.95)


@settings(max_examples=15, deadline=None)
@given(p=masses, a=st.floats(0.1, 3.0), psi=st.floats(0.05, 0.95), ratio=st.floats(0.2, 1.0))
def test_s_transforms_multiply(p, a, psi, ratio):
    two, gauss = freeprob.point_masses([a, 2.0], [p, 1 - p]), theory.marchenko_pastur(ratio)
    at = np.array([-psi])
    both = freeprob.multiply(two, gauss)
    np.testing.assert_allclose(freeprob.S(both, at), freeprob.S(two, at) * freeprob.S(gauss, at), rtol=1e-9)
    np.testing.assert_allclose(freeprob.S(gauss, at), 1 / (1 - ratio * psi), rtol=1e-10)
    z = np.array([-0.7, 3 + 2j, 50.0])
    want = p * a / (z - a) + (1 - p) * 2 / (z - 2)
    np.testing.assert_allclose(freeprob.M(two, z), want, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(freeprob.inverse_M(both, freeprob.M(both, z[:2])), z[:2], rtol=1e-8)
    assert both.moment(1) == pytest.approx(two.moment(1), rel=1e-12)


@settings(max_examples=10, deadline=None)
@given(p=st.floats(0.55, 0.99), depth=st.integers(1, 12), gaussian=st.booleans())
def test_bernoulli_products(p, depth, gaussian):
    q = 0.5 / float(mpmath.erfinv(p)) ** 2
    law = theory.jacobian_law("hard_tanh", depth, q=q, weights="gaussian" if gaussian else "orthogonal")
    if gaussian:
        z = (-(depth - 1) + math.sqrt((depth - 1) ** 2 + 4 * depth * p)) / (2 * depth)
        top = (1 + z) / z * (1 + z / p) ** depth
    elif depth * (1 - p) >= 1:
        top = (1 - p) / p * depth**depth / (depth - 1) ** (depth - 1)
    else:
        top = p**-depth
    assert law.s_max**2 == pytest.approx(top, rel=1e-9)
    assert law.cdf(0.0) == pytest.approx(1 - p, rel=1e-9)
    grid = np.linspace(0, 1.1 * top, 60)
    assert np.all(np.diff(law.cdf(grid)) >= -1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.jacobian_law("tanh", 0, q=1.0),
            r"jacobian_law\(\): depth=0 must be a whole number, at least 1",
        ),
        (lambda: theory.jacobian_law("tanh", 2), r"neither q nor both of sigma_w and sigma_b are given"),
        (lambda: theory.jacobian_law("tanh", 2, sigma_w=1.0), r"neither q nor both"),
        (lambda: theory.jacobian_law("tanh", 2, q=1.0, sigma_w=1.0, sigma_b=0.1), r"q and sigma_b=0\.1 are both given"),
        (lambda: theory.jacobian_law("tanh", 2, q=[1.0]), r"q has 1 values for depth=2"),
        (lambda: theory.jacobian_law("tanh", 2, q=-1.0), r"q=-1\.0 is not a finite number"),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, sigma_w=0.0),
            r"sigma_w=0\.0 is not a finite number in \(0, inf\)",
        ),
        (lambda: theory.jacobian_law("tanh", 2, q=1.0, sigma_w=math.nan), r"sigma_w=nan"),
        (lambda: theory.jacobian_law("tanh", 2, sigma_w=1.0, sigma_b=-0.1), r"sigma_b=-0\.1"),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, weights="haar"),
            r"weights='haar' is not known\. Known: orthogonal",
        ),
        (lambda: theory.jacobian_law("tahn", 2, q=1.0), r"Did you mean 'tanh'"),
        (lambda: theory.jacobian_law("softplus", 2, q=1.0), r"softplus at q=1 has chi_1 = 1 only with sigma_b²"),
        (
            lambda: theory.jacobian_law("softplus", 2, sigma_w=3.0, sigma_b=1.0),
            r"variance of every layer exceeds",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, weights="gaussian", padding="same"),
            r"no law is known for gaussian convolutions with padding='same'; there is one for 'circular'",
        ),
        (lambda: theory.jacobian_law("tanh", 2, q=1.0, widths=[3, 4]), r"widths has 2 entries for depth=2"),
        (lambda: theory.fuss_catalan(0), r"fuss_catalan\(\): depth=0"),
        (lambda: theory.marchenko_pastur(0.0), r"marchenko_pastur\(\): ratio=0\.0"),
        (lambda: theory.smooth_class(-1.0), r"smooth_class\(\): sigma0_squared=-1\.0"),
        (lambda: theory.fuss_catalan(1).quantile(1.5), r"Law\.quantile\(\): p=1\.5"),
        (lambda: theory.fuss_catalan(1).cdf(math.nan), r"Law\.cdf\(\): grid holds 1 values that are NaN"),
        (lambda: theory.fuss_catalan(1).density(1.0, "sigma"), r"variable='sigma' is not known"),
        (lambda: theory.fuss_catalan(1).moment(0), r"Law\.moment\(\): k=0"),
        (lambda: freeprob.point_masses([1.0, 2.0], [0.5, 0.6]), r"masses sum to 1\.1"),
        (lambda: freeprob.multiply(), r"multiply\(\): no law given"),
        (lambda: freeprob.M(theory.fuss_catalan(1), 0.0), r"z must be finite and not 0"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_traced_points_are_refused():
    law = theory.fuss_catalan(1)
    with pytest.raises(TypeError, match=r"Law\.cdf\(\): grid is traced; Law\.cdf runs on the host"):
        jax.jit(lambda x: law.cdf(x))(1.0)
