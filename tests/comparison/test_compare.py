"""A spectrum against its law: true laws pass, near ones do not, and what cannot be compared is refused.

The networks here are drawn and multiplied by numpy in float64, independently of the package.
"""

import math
from dataclasses import replace

import jax
import numpy as np
import pytest

import isometry
from isometry import Dense, InputError, Lanczos, Spectrum, compare, networks, theory
from isometry.linalg import Quadrature

PHI = {
    "linear": (lambda z: z, np.ones_like),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "hard_tanh": (lambda z: np.clip(z, -1, 1), lambda z: (np.abs(z) < 1).astype(float)),
}
SCALES = {"linear": (1.0, 0.0), "relu": (math.sqrt(2), 0.0)}


def scales(phi, q):
    if phi in SCALES:
        return SCALES[phi]
    point = theory.critical_at(phi, q)
    return point.sigma_w, point.sigma_b


def weight(rng, weights, n):
    w = rng.standard_normal((n, n))
    if weights == "gaussian":
        return w / math.sqrt(n)
    q, r = np.linalg.qr(w)
    return q * np.sign(np.diag(r))


def log_s(rng, phi, weights, pairs, n, q):
    """ln s of W D … W D for one draw, its input at variance q; −inf is what the rounding of a zero leaves."""
    (f, slope), (sigma_w, sigma_b) = PHI[phi], scales(phi, q)
    z, j = rng.standard_normal(n), np.eye(n)
    z *= math.sqrt(q / (z @ z / n))
    for _ in range(pairs):
        w = sigma_w * weight(rng, weights, n)
        j = w @ (slope(z)[:, None] * j)
        z = w @ f(z) + sigma_b * rng.standard_normal(n)
    with np.errstate(divide="ignore"):
        return np.log(np.linalg.svd(j, compute_uv=False))


def spectrum_of(logs, pairs, eps=2.0**-52):
    """A Spectrum over (seeds, 1) as ensemble would return it, dense."""
    logs = np.asarray(logs)[:, None, :]
    n = logs.shape[-1]
    floor = np.full(logs.shape[:-1], math.log(n * eps))
    return Spectrum(logs, np.full(logs.shape, 1 / n), floor, Dense(), n, 0, "hidden", pairs)


def drawn(phi, weights, pairs, n, q, seeds, seed=0):
    rng = np.random.default_rng(seed)
    return spectrum_of([log_s(rng, phi, weights, pairs, n, q) for _ in range(seeds)], pairs)


def law_of(phi, weights, pairs, q, stretch=1.0):
    """The law at (sigma_w · stretch, sigma_b) and its own fixed point."""
    sigma_w, sigma_b = scales(phi, q)
    if stretch == 1 or phi in SCALES:
        return theory.jacobian_law(phi, pairs, q, stretch * sigma_w, weights=weights)
    return theory.jacobian_law(phi, pairs, None, stretch * sigma_w, sigma_b, weights)


@pytest.fixture(scope="module", params=[("relu", "gaussian", 1.0, 20), ("tanh", "orthogonal", 0.25, 10)], ids=str)
def deep(request):
    """Width 256, twenty seeds."""
    phi, weights, q, pairs = request.param
    return drawn(phi, weights, pairs, 256, q, 20), request.param


def test_it_has_power(deep):
    """2 % of sigma_w, one layer in ten, and Gaussian taken for orthogonal are all told from the truth."""
    sp, (phi, weights, q, pairs) = deep
    more = pairs + pairs // 10
    key = jax.random.key(7) if phi == "tanh" else None
    other = {"gaussian": "orthogonal", "orthogonal": "gaussian"}[weights]
    assert compare(sp, law_of(phi, weights, pairs, q), key=key).consistent
    assert not compare(sp, law_of(phi, weights, pairs, q, stretch=1.02), key=key).consistent
    assert not compare(sp, law_of(phi, weights, pairs, q, stretch=0.98), key=key).consistent
    assert not compare(replace(sp, pairs=more), law_of(phi, weights, more, q), key=key).consistent
    assert not compare(sp, law_of(phi, other, pairs, q), key=key).consistent


@pytest.mark.parametrize(
    ("phi", "q", "pairs", "near"),
    [("tanh", 0.25, 8, lambda: law_of("tanh", "gaussian", 8, 0.25, 1.02)),
     ("relu", 1.0, 10, lambda: law_of("relu", "gaussian", 11, 1.0))],
)  # fmt: skip
def test_it_tells_near_laws_apart(phi, q, pairs, near):
    """q makes up for the scale, and draws differ by more than a layer: both show in the spread of log lam alone."""
    sp, wrong = drawn(phi, "gaussian", pairs, 256, q, 20), near()
    assert compare(sp, law_of(phi, "gaussian", pairs, q)).consistent
    found = compare(replace(sp, pairs=wrong.pairs), wrong)
    assert list(found.excesses) == ["spread"]


def test_a_true_law_is_seldom_called_false():
    """Twelve independent comparisons of three laws at 5 % each: three false alarms or more have probability 0.02."""
    cases = [("relu", "gaussian", 6, 1.0), ("linear", "gaussian", 3, 1.0), ("hard_tanh", "orthogonal", 4, 0.25)]
    alarms = []
    for phi, weights, pairs, q in cases:
        law = law_of(phi, weights, pairs, q)
        found = drawn(phi, weights, pairs, 96, q, 40, seed=5)
        parts = [jax.tree.map(lambda a, i=i: a[i : i + 10], found) for i in range(0, 40, 10)]
        alarms += [not compare(part, law, key=jax.random.key(i)).consistent for i, part in enumerate(parts)]
    assert sum(alarms) <= 2


TRIPLES = [
    ("hard_tanh", "orthogonal", 16, 0.15),
    ("relu", "gaussian", 32, 1.0),
    ("tanh", "orthogonal", 64, 0.0246720),  # sigma_0² = 1/4, against the law of 64 layers, not of infinitely many
    ("tanh", "gaussian", 8, 0.25),
    ("linear", "gaussian", 4, 1.0),
    ("relu", "orthogonal", 8, 1.0),
    ("hard_tanh", "gaussian", 4, 0.5),
    ("tanh", "orthogonal", 16, 0.1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("phi", "weights", "pairs", "q"), TRIPLES)
def test_finite_networks_have_their_laws(phi, weights, pairs, q):
    """Width 400, six seeds; a law of the other ensemble, or of a tenth more layers, is another one."""
    sp = drawn(phi, weights, pairs, 400, q, 6, seed=pairs)
    law = law_of(phi, weights, pairs, q)
    found = compare(sp, law)
    assert found.consistent, found.summary()
    if any(a.lam > 0 for a in law.atoms):
        (lam,) = [a.lam for a in law.atoms if a.lam > 0]
        assert lam == pytest.approx((scales(phi, q)[0] ** 2) ** pairs, rel=1e-12)
        assert abs(found.atom_gaps[lam]) < 0.05
    other = {"gaussian": "orthogonal", "orthogonal": "gaussian"}[weights]
    if phi != "linear":
        assert not compare(sp, law_of(phi, other, pairs, q)).consistent


def test_distances_against_a_plain_count():
    """KS and Wasserstein of a single law of one Gaussian matrix, by its closed form."""
    sp = drawn("linear", "gaussian", 1, 64, 1.0, 8)
    found = compare(sp, theory.fuss_catalan(1))
    lam = np.exp(2 * np.sort(np.asarray(sp.log_values).ravel()))
    angle = np.arccos(1 - np.minimum(lam, 4) / 2)
    exact = np.where(lam < 4, (angle + np.sin(angle)) / np.pi, 1)
    below = np.arange(lam.size) / lam.size
    everywhere = max(np.abs(exact - below).max(), np.abs(exact - below - 1 / lam.size).max())
    assert found.ks == pytest.approx(everywhere, abs=1.5 / 64)  # it leaves out a node at either end
    ranks = (np.arange(64) + 0.5)[1:-1] / 64
    at = np.asarray(theory.fuss_catalan(1).quantile(ranks[(ranks > 1 / 64) & (ranks < 63 / 64)]))
    mean = 2 * np.asarray(sp.log_values)[:, 0, ::-1].mean(0)[1:-1]
    assert found.wasserstein == pytest.approx(np.abs(mean - np.log(at)).mean(), rel=1e-2)
    assert found.moment_gaps["mean"] == pytest.approx((mean - np.log(at)).mean(), abs=1e-4)


def test_means_are_expected_below_the_law_by_half_their_variance_between_draws():
    """E log x ≈ log E x − Var(log x)/2 (Hanin and Nica, 2020): draws that differ by a factor alone."""
    law = theory.fuss_catalan(1)
    ranks = (np.arange(64)[::-1] + 0.5) / 64
    factors = 0.1 * np.random.default_rng(0).standard_normal((8, 1))
    found = compare(spectrum_of(np.asarray(law.quantile(ranks, "log_s")) + factors, 1), law)
    bend = (2 * factors).var(ddof=1) / 2
    assert found.band["mean"].expected == pytest.approx(-bend, rel=1e-12)
    middle = min(found.quantile_gaps, key=lambda u: abs(u - 0.5))
    assert found.band["rank", middle].expected == pytest.approx(-bend, rel=1e-12)


def test_zeros_and_noise_below_the_floor():
    """In single precision most of a deep spectrum is unresolved: it is compared as one mass, and nothing below."""
    sp = drawn("relu", "gaussian", 16, 96, 1.0, 8)
    law = law_of("relu", "gaussian", 16, 1.0)
    coarse = replace(sp, log_floor=np.full(sp.log_floor.shape, math.log(96 * 2.0**-23)))
    found = compare(coarse, law)
    assert found.consistent, found.summary()
    assert found.unresolved > 0.6
    assert 0.0 in found.atom_gaps
    assert abs(found.atom_gaps[0.0]) < 0.05
    noisy = replace(coarse, log_values=np.where(np.asarray(coarse.resolved), coarse.log_values, -1e3))
    assert compare(noisy, law).gaps == found.gaps


def test_a_law_that_is_one_atom():
    """Linear, orthogonal: every singular value is sigma_w^L, to rounding."""
    rng = np.random.default_rng(0)
    logs = 4 * math.log(1.1) + 1e-7 * rng.standard_normal((6, 32))
    sp = spectrum_of(-np.sort(-logs, -1), 4)
    law = theory.jacobian_law("linear", 4, 1.0, 1.1)
    found = compare(sp, law)
    assert found.consistent, found.summary()
    assert found.ks == 0
    assert not compare(replace(sp, log_values=sp.log_values + 1e-3), law).consistent


def by_numpy(widths, weights, sigma_w, sigma_b, seeds):
    """Parameters of an MLP of equal widths for each seed, in float32."""
    rng, n, depth = np.random.default_rng(11), widths[0], len(widths) - 1
    ws = sigma_w * np.array([[weight(rng, weights, n).T for _ in range(depth)] for _ in range(seeds)])
    bs = sigma_b * rng.standard_normal((seeds, depth, n))
    runs = [slice(0, 1), slice(1, depth - 1), slice(depth - 1, depth)]
    layers = tuple({"w": ws[:, run], "b": bs[:, run]} for run in runs)
    return jax.tree.map(lambda a: a.astype(np.float32), {"layers": layers})


@pytest.fixture(scope="module")
def network():
    """A network of the package and its own law; its input is not at the fixed point."""
    net = networks.mlp([64] * 6, "tanh", "orthogonal", 1.2, 0.2)
    xs = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    xs *= np.float32(2.0**0.5) / np.sqrt((xs**2).mean())
    return net, xs, net.law("hidden", xs), theory.jacobian_law("tanh", 3, None, 1.2, 0.2, "gaussian")


@pytest.mark.parametrize(
    "method",
    [
        "dense",
        pytest.param("product", marks=pytest.mark.slow),
        pytest.param(Lanczos(64, 4), marks=pytest.mark.slow, id="all Lanczos steps"),
    ],
)
def test_every_method_of_measurement(method, network):
    net, xs, law, wrong = network
    params = by_numpy(net.widths, "orthogonal", 1.2, 0.2, 10)
    sp = isometry.ensemble(net, params=params, xs=xs, span="hidden", method=method, key=jax.random.key(2))
    found = compare(sp, law)
    assert found.consistent, found.summary()
    assert not compare(sp, wrong).consistent


def test_nodes_of_quadratures_are_not_judged():
    """They would pass for values: a law with zeros would be refuted by a spectrum of its own."""
    nodes = np.random.default_rng(0).uniform(-1, 0, (6, 1, 2, 8))
    rule = Quadrature(nodes, np.full_like(nodes, 1 / 8), np.zeros((6, 1)), nodes, nodes, np.full((6, 1), 8))
    sp = spectrum_of(-np.sort(-nodes.reshape(6, 16), -1), 2)
    sp = replace(sp, method=Lanczos(8, 2), quadrature=rule, size=100)
    with pytest.raises(InputError, match=r"compare\(\): unknown, because Lanczos\(.* nodes of quadratures.*'dense'"):
        compare(sp, theory.fuss_catalan(2))


def test_given_jacobians_are_compared_with_any_law():
    """Products of two Gaussian matrices from NumPy; a law of three factors is refuted."""
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((2, 12, 64, 64)) / 8
    sp = Spectrum.of_jacobians(factors[0] @ factors[1])
    found = compare(sp, theory.fuss_catalan(2))
    assert found.consistent, found.summary()
    assert not compare(sp, theory.fuss_catalan(3)).consistent


def test_bands_shrink_with_seeds_and_not_with_width_alone():
    law = theory.fuss_catalan(2)
    sp = drawn("linear", "gaussian", 2, 48, 1.0, 40)
    few = compare(jax.tree.map(lambda a: a[:10], sp), law).band["mean"]
    many = compare(sp, law).band["mean"]
    assert many.seeds < 0.75 * few.seeds
    assert many.width == pytest.approx(few.width, rel=0.2)
    wide = compare(drawn("linear", "gaussian", 2, 192, 1.0, 10), law).band["mean"]
    assert wide.width < 0.4 * few.width
    keyed = compare(sp, law, key=jax.random.key(0)).band["mean"]
    assert keyed.seeds == pytest.approx(many.seeds, rel=0.25)  # 200 resamples: 5 % standard error


def test_it_says_what_it_found():
    sp = drawn("hard_tanh", "orthogonal", 4, 48, 0.25, 6)
    good = compare(sp, law_of("hard_tanh", "orthogonal", 4, 0.25))
    text = good.summary()
    assert text.startswith("consistent with hard_tanh, depth 4, orthogonal: 6 seeds, 48 singular values")
    for word in ("KS", "mean log lam", "sd log lam", "atom at lam", "Wasserstein", "seeds +", "width)"):
        assert word in text
    assert repr(good).startswith("Comparison(consistent: KS ")
    assert good.excesses == {}
    bad = compare(sp, law_of("hard_tanh", "gaussian", 4, 0.25))
    assert "not consistent" in bad.summary()
    assert "\n* " in bad.summary()
    assert all(ratio > 1 for ratio in bad.excesses.values())
    with pytest.raises(AttributeError):
        good.ks = 0.0


SMALL = spectrum_of(-np.sort(-np.random.default_rng(0).standard_normal((6, 8)), -1), 2)
LAW = theory.fuss_catalan(2)


@pytest.mark.parametrize(
    ("sp", "law", "words"),
    [
        (np.ones(3), LAW, ("sp=", "is not a Spectrum; write isometry.ensemble(...).")),
        (SMALL, "fuss_catalan", ("law='fuss_catalan' is not a Law; write net.law(", "jacobian_law")),
        (jax.tree.map(lambda a: a[0, 0], SMALL), LAW, ("no seeds axis", "say how far one draw is from the next")),
        (jax.tree.map(lambda a: a[:4], SMALL), LAW, ("4 seeds", "at least 5")),
        (replace(SMALL, span="end_to_end", pairs=None), LAW, ("'end_to_end'", "span='hidden'", "one W more")),
        (
            SMALL,
            replace(LAW, span="end_to_end"),
            ("compare(): sp is of the span 'hidden' and the law of", "xs), or measure with span='end_to_end'."),
        ),
        (
            SMALL,
            theory.fuss_catalan(3),
            ("2 (W, D) pairs and the law 3 pairs; write theory.jacobian_law(..., depth=2)",),
        ),
        (SMALL, theory.smooth_class(0.5), ("limit of great depth",)),
        (replace(SMALL, structural_zeros=4), LAW, ("structural zeros", "widths")),
        (
            replace(SMALL, log_values=np.asarray(SMALL.log_values) - 99 * np.arange(8)),
            LAW,
            ("method='product'",),
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(sp, law, words):
    with pytest.raises(InputError, match=r"compare\(\)") as refused:
        compare(sp, law)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.core
def test_bad_arguments():
    with pytest.raises(InputError, match="single random key"):
        compare(SMALL, LAW, key=3)
    with pytest.raises(InputError, match="resamples=1"):
        compare(SMALL, LAW, resamples=1)
    with pytest.raises(TypeError, match="runs on the host"):
        jax.jit(lambda sp: compare(sp, LAW))(SMALL)


def test_a_law_below_the_exponents_is_compared_and_drawn():
    """240 layers take s to a hundredth each: e^(−1100) is no float64, its logarithm is."""
    net = networks.mlp([8] * 242, "linear", "gaussian", sigma_w=0.01, sigma_b=0.0)
    x = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    params = by_numpy(net.widths, "gaussian", 0.01, 0.0, 5)
    sp = isometry.ensemble(net, params=params, xs=x, span="hidden", method="product")
    law = net.law("hidden", x)
    assert law.s_max == 0
    found = isometry.compare(sp, law)
    assert np.isfinite(list(found.gaps.values())).all()
    assert abs(found.moment_gaps["mean"]) < 240  # of −2440 in all
    plots = pytest.importorskip("isometry.plots")
    pytest.importorskip("matplotlib")
    assert np.isfinite(plots.overlay(sp, law).get_xlim()).all()
