"""Predicted laws against mpmath at twenty digits and against their own moments.

Masses and quantiles.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy import integrate, optimize

from isometry import activations, theory
from isometry.theory.laws import (
    _bands,
    _integrals,
    _inversion,
    _jacobian_law,
)
from isometry.theory.mean_field import _quadrature

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
    q = next(
        c[2]
        for c in CASES.values()
        if c[0] == name and f"depth {c[1]}" == depth and c[3] == weights
    )
    phi = activations.get(name)
    mu = [
        theory.expectation(lambda u, k=k: phi.slope(u) ** (2 * k), q, phi.kinks)
        for k in (1, 2)
    ]
    want = law.pairs * (mu[1] / mu[0] ** 2 - 1 + (weights == "gaussian"))
    assert law.moment(1) == pytest.approx(1, rel=1e-12)
    assert law.variance == pytest.approx(want, rel=1e-11)


def test_mass_moments_and_density_agree(law):
    """The density integrates to one and to the moments of Lagrange inversion.

    To differences of the cdf.
    """
    product = law.product
    assert law._integral(np.ones_like) == pytest.approx(product.rank, abs=1e-9)
    for k in (1, 2, 4):
        assert law._integral(lambda t, k=k: np.exp(k * t)) == pytest.approx(
            law.moment(k), rel=1e-8
        )
    t = np.log(law.quantile([0.7, 0.9] if law.cdf(0.0) < 0.6 else [0.99, 0.999])) / 2
    grid, weight = np.polynomial.legendre.leggauss(60)
    if law.atoms and any(
        t[0] <= math.log(a.lam) / 2 <= t[1] + 1e-12 for a in law.atoms if a.lam > 0
    ):
        t = np.log(law.quantile(np.array([0.1, 0.3]))) / 2
    x = t.mean() + (t[1] - t[0]) / 2 * grid
    integral = np.sum(weight * law.density(x, "log_s")) * (t[1] - t[0]) / 2
    assert integral == pytest.approx(float(np.diff(law.cdf(t, "log_s"))[0]), rel=1e-8)


def test_quantile_inverts_cdf(law):
    p = np.array([1e-8, 1e-4, 0.2, 0.5, 0.8, 0.999, 1 - 1e-8])
    x = law.quantile(p, "log_s")
    assert np.all(x[1:] >= x[:-1])
    atoms = [math.log(atom.lam) / 2 for atom in law.atoms if atom.lam > 0]
    off = np.isfinite(x)
    off[off] = [all(abs(y - a) > 1e-9 for a in atoms) for y in x[off]]
    # The angles of `pairs` factors are added.
    rounding = 2e-15 * law.pairs
    np.testing.assert_allclose(
        law.cdf(x[off], "log_s"), p[off], rtol=1e-9, atol=rounding
    )


@pytest.mark.parametrize(
    ("phi", "q", "weights"),
    [
        ("tanh", 1 / 64, "orthogonal"),
        ("gelu", 1.0, "gaussian"),
        ("linear", 1.0, "gaussian"),
    ],
)
def test_tails_of_great_depth(phi, q, weights):
    """Masses of 1e-8 to relative accuracy.

    Their differences are integrals of the density.
    """
    law = theory.jacobian_law(phi, 128, q=q, weights=weights)
    x, weight = np.polynomial.legendre.leggauss(40)
    for p, mass, sign in (
        ([1e-8, 4e-8], law.cdf, 1),
        ([1 - 4e-8, 1 - 1e-8], law.survival, -1),
    ):
        low, high = law.quantile(p, "log_s")
        at = (low + high) / 2 + (high - low) / 2 * x
        integral = (high - low) / 2 * np.sum(weight * law.density(at, "log_s"))
        assert sign * float(np.diff(mass([low, high], "log_s"))[0]) == pytest.approx(
            integral, rel=1e-6
        )


def test_layers_with_zeros_of_their_slopes():
    """Two gelu layers of different q.

    M is resolved by its other end only, and the inversion starts from its middle.
    """
    law = theory.jacobian_law("gelu", 2, q=[1.0, 0.7], sigma_w=1.2, weights="gaussian")
    p = np.array([1e-3, 0.2, 0.9])
    np.testing.assert_allclose(law.cdf(law.quantile(p)), p, rtol=1e-9)
    assert law._integral(np.exp) == pytest.approx(law.moment(1), rel=1e-8)


def test_a_path_that_converges(monkeypatch):
    """Layers within 3e-5 of one another share their mean q.

    Inversion starts from few factors, at no cost.
    """
    q = np.r_[2.0, 1.2, 0.8, 0.6 * (1 + np.array([-1e-5, 0, 1e-5]))]
    few = theory.jacobian_law("tanh", 6, q, 1.5, weights="gaussian")
    x = few.quantile([0.01, 0.5, 0.99], "log_s")
    monkeypatch.setattr(_jacobian_law, "_ALIKE", 0.0)
    all_ = theory.jacobian_law("tanh", 6, q, 1.5, weights="gaussian")
    assert (len(few.product.curves), len(all_.product.curves)) == (4, 6)
    np.testing.assert_allclose(all_.cdf(x, "log_s"), [0.01, 0.5, 0.99], rtol=1e-9)
    np.testing.assert_allclose(
        all_.density(x, "log_s"), few.density(x, "log_s"), rtol=1e-9
    )


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
                (depth - 1) * below[0]
                + (1 - depth + gauss) * below[1]
                + depth * (mpmath.log(zeta) - mpmath.log(mean))
            )
            return value, psi, below[0]

        zeta = mpmath.findroot(
            lambda x: log_lam(x)[0] - mpmath.log(lam),
            # The second point is near the root too: mpmath's own is 1/4 away.
            (zeta0, zeta0 * (1 + mpmath.mpf("1e-5"))),
            tol=1e-24,
            solver="secant",
        )
        _, psi, log_psi = log_lam(zeta)
        gauss = depth if weights == "gaussian" else 0
        above = (
            (depth - 1) * log_psi
            + depth * against(lambda d: mpmath.log(zeta - d))
            + gauss * psi
        )
        return float(-psi.imag / mpmath.pi), float(above.imag / mpmath.pi)


@pytest.mark.parametrize(
    ("weights", "depth", "q", "lam"),
    [
        ("orthogonal", 8, 0.25, 1e-4),
        pytest.param("gaussian", 3, 0.5, 2.0, marks=pytest.mark.slow),
    ],
)
def test_against_mpmath(weights, depth, q, lam):
    law = theory.jacobian_law("tanh", depth, q=q, weights=weights)
    (band,) = law._bands
    zeta = np.exp(band.solve(np.log(np.array([lam]))).w[0, 0]) * (1 + 1e-4)
    density, above = _reference(
        weights, depth, mpmath.mpc(complex(zeta)), mpmath.mpf(q), mpmath.mpf(lam)
    )
    assert law.density(lam) * lam == pytest.approx(density, rel=1e-9)
    assert law.survival(lam) == pytest.approx(above, rel=1e-10)


def test_callable_with_unnamed_kinks():
    named = theory.jacobian_law("hard_tanh", 4, q=0.5)
    plain = theory.jacobian_law(lambda x: jnp.clip(x, -1, 1), 4, q=0.5)
    assert plain.s_max == pytest.approx(named.s_max, rel=1e-10)
    assert plain.quantile(0.4) == pytest.approx(named.quantile(0.4), rel=1e-9)


def test_heavy_tail_of_a_vanishing_slope():
    """gelu' has a zero: deep laws spread over hundreds in log lam.

    Quantiles walk down to what is resolved.
    """
    law = theory.jacobian_law("gelu", 16, q=1.0)
    p = np.array([1e-3, 0.01, 0.5])
    np.testing.assert_allclose(law.cdf(law.quantile(p, "log_s"), "log_s"), p, rtol=1e-9)


def test_sampling_and_variables():
    law = theory.jacobian_law("hard_tanh", 8, q=0.25)
    draws = law.sample(jax.random.key(0), (4000,))
    assert draws.dtype == np.float64
    assert np.mean(draws == 0) == pytest.approx(
        law.atoms[0].mass, abs=4 * math.sqrt(0.05 / 4000)
    )
    assert draws.mean() == pytest.approx(1, abs=4 * math.sqrt(law.variance / 4000))
    lam = 0.7
    assert law.cdf(math.sqrt(lam), "s") == pytest.approx(law.cdf(lam), rel=1e-13)
    assert law.density(math.log(lam) / 2, "log_s") == pytest.approx(
        2 * lam * law.density(lam), rel=1e-12
    )
    assert law.moment(2, "s") == law.moment(1)
    linear = theory.jacobian_law("linear", 5, q=1.0, weights="gaussian")
    # E log of Marchenko-Pastur is −1.
    assert linear.mean_log_lam == pytest.approx(-5, rel=1e-9)
    assert law.mean_log_lam == -math.inf
    assert repr(law) == (
        "Law(hard_tanh, depth 8, orthogonal: lam has density on [0, 0.971117], "
        "atoms 0.0455003 at 0, 0.635998 at 1.45142)"
    )


@pytest.mark.parametrize(
    ("phi", "weights", "widths", "q", "head"),
    [
        (
            "linear",
            "gaussian",
            (128, 128, 10, 256, 10, 50, 100),
            1.0,
            1.0,
        ),  # the rank is that of no diagonal factor
        ("hard_tanh", "orthogonal", (30, 100, 128, 784, 30), 0.25, 1.0),
        ("erf", "orthogonal", (256, 100), 0.0358, None),  # the law is that of D²
        ("gelu", "orthogonal", (716, 18), 1.3, None),
        # phi'² underflows for 4e-8 of its units.
        pytest.param(
            "gelu_tanh",
            "orthogonal",
            (64, 64, 64, 64),
            10.0,
            None,
            marks=pytest.mark.slow,
        ),
        (
            "leaky_relu",
            "orthogonal",
            (10, 14, 1504, 338),
            0.53,
            None,
        ),  # Newton ran off to where psi vanishes
        (
            "hard_tanh",
            "orthogonal",
            (30, 64, 256),
            0.596,
            1.0,
        ),  # an atom alone between two gaps
        (
            "elu",
            "gaussian",
            (128, 64, 64),
            0.0129,
            None,
        ),  # an atom beside an edge, less a rounding
        (
            "selu",
            "orthogonal",
            (64,) * 33,
            10.0,
            None,
        ),  # 1e-5 of its mass is below e^-512, where the contour ends
    ],
)
def test_layers_that_were_hard_to_invert(phi, weights, widths, q, head):
    """Their mass, and the mean E lam = Π σ² E phi'² m/n (Gaussian) or min(1, m/n).

    With E phi'² by quadrature.
    """
    depth = len(widths) - 1 - (head is not None)
    law = theory.jacobian_law(
        phi, depth, q, 1.0, weights=weights, widths=widths, head=head
    )
    record = activations.get(phi)
    slope = theory.expectation(lambda u: record.slope(u) ** 2, q, record.kinks)
    size = min(widths[0], widths[-1])
    steps = [m / n for n, m in itertools.pairwise(widths)]
    if weights == "orthogonal":
        steps = [min(1.0, step) for step in steps]
    trace = widths[0] * math.prod(steps) * slope**depth
    assert law._integral(np.ones_like) == pytest.approx(
        law.product.rank, abs=1e-7 if phi == "gelu_tanh" else 1e-8
    )
    assert law._integral(np.exp) == pytest.approx(trace / size, rel=1e-8)
    p = 1 - law.product.rank * np.array([0.9, 0.5, 0.1])
    x = law.quantile(p, "log_s")
    off = np.array(
        [
            all(a.lam == 0 or abs(y - math.log(a.lam) / 2) > 1e-9 for a in law.atoms)
            for y in x
        ]
    )
    np.testing.assert_allclose(law.cdf(x[off], "log_s"), p[off], rtol=1e-9)


def test_far_below_what_can_be_inverted():
    """No error and no other branch.

    No density, and a cdf within what it is promised to.
    """
    law = theory.jacobian_law(
        "linear", 4, 1.0, 1.0, weights="gaussian", widths=(20, 9, 50, 9, 30)
    )
    zero = law.atoms[0].mass
    deep = np.array([-400.0, -200.0, -40.0])
    assert zero == pytest.approx(1 - 9 / 20)
    assert np.all(law.density(deep, "log_s") < 1e-6)
    np.testing.assert_allclose(law.cdf(deep, "log_s"), zero, atol=1e-6)


def test_mass_beside_an_atom_inside_the_support():
    """selu' is 1.05 for half the units and up to 1.76 for the rest.

    Some of those lie above the atom, some below.
    """
    law = theory.jacobian_law("selu", 1, 0.18, 1.0)
    (atom,) = [a for a in law.atoms if a.lam > 0]
    scale, alpha = 1.0507009873554805, 1.6732632423543772
    above = 0.5 - 0.5 * math.erfc(math.log(alpha) / math.sqrt(2 * 0.18))
    assert atom == pytest.approx((scale**2, 0.5), rel=1e-12)
    assert law.survival(atom.lam) == pytest.approx(above, rel=1e-9)
    assert law.cdf(atom.lam * (1 - 1e-9)) == pytest.approx(0.5 - above, rel=1e-6)


def test_a_gauss_rule_for_sums():
    """n nodes are exact for polynomials of degree 2n − 1, and not beyond."""
    x = np.random.default_rng(0).uniform(-1, 2, 30)
    nodes, weights = _quadrature.gauss_rule(x, np.ones(len(x)), 4)
    for degree in range(8):
        assert weights @ nodes**degree == pytest.approx((x**degree).sum(), rel=1e-12)
    assert abs(weights @ nodes**8 - (x**8).sum()) > 1e-6 * (x**8).sum()
    # Fewer different points are the nodes themselves.
    found = _quadrature.gauss_rule(np.array([2.0, 5.0, 5.0]), np.ones(3), 4)
    assert np.array(found) == pytest.approx(np.array([[2.0, 5.0], [1.0, 2.0]]))


@pytest.mark.parametrize(
    ("phi", "weights", "widths"),
    [("tanh", "gaussian", [2] * 12 + [1])],
)
def test_many_variances_share_a_few(phi, weights, widths, monkeypatch):
    """The law of a path, each q a factor of its own.

    With the factors of a Gauss rule.
    """
    path = list(np.geomspace(0.9, 0.5, 12))
    p = [1e-4, 0.01, 0.5, 0.99]
    few = theory.jacobian_law(phi, 12, path, 1.2, weights=weights, widths=widths)
    monkeypatch.setattr(_jacobian_law, "_NODES", math.inf)
    each = theory.jacobian_law(phi, 12, path, 1.2, weights=weights, widths=widths)
    assert (len(few.product.curves), len(each.product.curves)) == (
        9 + (widths is not None),
        12,
    )
    np.testing.assert_allclose(few.quantile(p), each.quantile(p), rtol=1e-8)
    assert few.s_max == pytest.approx(each.s_max, rel=1e-9)
    assert few.variance == pytest.approx(each.variance, rel=1e-10)
    assert few.moment(1) == pytest.approx(each.moment(1), rel=1e-10)


@pytest.mark.parametrize("depth", [128])
def test_mean_of_the_logarithm_where_the_contour_ends_early(depth):
    """Determinants multiply.

    E log s = L E log |phi'|, here 1e-6 of the mass lies where nothing can be inverted.
    """
    law = theory.jacobian_law("gelu", depth, 1.0, 1.0)
    zero = optimize.brentq(
        lambda z: float(activations.get("gelu").slope(jnp.float32(z))), -1.0, -0.5
    )

    def integrand(z):
        slope = 0.5 * math.erfc(-z / math.sqrt(2)) + z * math.exp(
            -(z**2) / 2
        ) / math.sqrt(2 * math.pi)
        return (
            math.log(abs(slope) or 1e-300)
            * math.exp(-(z**2) / 2)
            / math.sqrt(2 * math.pi)
        )

    mean = integrate.quad(integrand, -9, 9, points=[zero], limit=500)[0]
    assert law.moment(1, "log_s") == pytest.approx(depth * mean, rel=1e-4)


@pytest.mark.parametrize(
    ("predicted", "where", "message"),
    [
        (
            theory.fuss_catalan(2),
            "anywhere",
            r"the law could not be inverted at log lam = 1\.\d+\.",
        ),
        (
            theory.marchenko_pastur(0.25),
            "anywhere",
            r"the law could not be inverted between log lam = -1\.386",
        ),
        (
            theory.marchenko_pastur(0.25),
            "at a point",
            r"the law could not be inverted at log lam = .*; residual",
        ),
    ],
)
def test_what_cannot_be_inverted_is_said(predicted, where, message, monkeypatch):
    """No law is known of which nothing can be inverted.

    Here the inversion only says so. No number is returned.
    """
    attempt = _bands.attempt

    def failed(product, t, distance, **options):
        at, good = attempt(product, t, distance, **options)
        return at, good & (where == "at a point")

    monkeypatch.setattr(_bands, "attempt", failed)
    if where == "at a point":
        predicted.quantile(0.5)
        monkeypatch.setattr(_inversion, "_SOLVED", -1.0)
    with pytest.raises(theory.NotConverged, match=message):
        predicted.quantile(0.4)


@pytest.mark.parametrize(
    ("phi", "depth", "q"),
    [("silu", 2, 1e-9), ("gelu", 16, 1e-10)],
)
def test_moments_of_a_law_far_narrower_than_its_support(phi, depth, q):
    """phi' reaches far from phi'(0) where no mass is.

    Of small v = Var lam, E s = 1 − v/8 and E log s = −v/4.
    """
    law = theory.jacobian_law(phi, depth, q=q)
    v = law.variance
    assert abs(law.moment(1, "s") - (1 - v / 8)) < v**1.5 + 1e-9
    assert abs(law.moment(1, "log_s") + v / 4) < v**1.5 + 1e-9


def test_mass_that_quadrature_misses_is_said(monkeypatch):
    """No law is known of which it misses any: here none is allowed."""
    monkeypatch.setattr(_integrals, "_MOST_MISSED", -1.0)
    with pytest.raises(
        theory.NotConverged,
        match=r"the density of the law integrates to .* over a band of mass 1",
    ):
        theory.marchenko_pastur(0.5).moment(1, "s")


def test_mass_that_quadrature_misses_counts_little_in_a_narrow_band():
    """Inverse-square-root edges 4e-4 apart.

    4e-6 of the mass is nearer to them than float64 tells.
    """
    law = theory.jacobian_law(lambda x: jnp.where(x > 0, x, 0.9999 * x), 2, q=1.0)
    assert abs(law.moment(1, "s") - (1 - law.variance / 8)) < 1e-9
