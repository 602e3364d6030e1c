"""A spectrum against its law: true laws pass, near ones do not, misuse is refused."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import isometry
from isometry import InputError, Lanczos, Spectrum, compare, networks, theory
from isometry.linalg import Quadrature
from tests.comparison.drawn import drawn, law_of, scales, spectrum_of, weight

OTHER = {"gaussian": "orthogonal", "orthogonal": "gaussian"}


@pytest.fixture(
    scope="module",
    params=[("relu", "gaussian", 1.0, 20), ("tanh", "orthogonal", 0.25, 10)],
    ids=["relu", "tanh"],
)
def deep(request):
    """Width 256, twenty seeds."""
    phi, weights, q, pairs = request.param
    return drawn(phi, weights, pairs, 256, q, 20), request.param


def test_near_laws_are_rejected(deep):
    """2 % of sigma_w, one layer in ten, and Gaussian taken for orthogonal."""
    sp, (phi, weights, q, pairs) = deep
    more = pairs + pairs // 10
    key = jax.random.key(7) if phi == "tanh" else None
    assert compare(sp, law_of(phi, weights, pairs, q), key=key).consistent
    for stretch in (0.98, 1.02):
        near = compare(sp, law_of(phi, weights, pairs, q, stretch), key=key)
        # |J|_F² varies less between draws than log lam at a rank.
        assert near.excesses["log_mean"] > 1.2
    deeper = law_of(phi, weights, more, q)
    assert not compare(replace(sp, pairs=more), deeper, key=key).consistent
    assert not compare(sp, law_of(phi, OTHER[weights], pairs, q), key=key).consistent


@pytest.mark.parametrize(
    ("phi", "q", "pairs", "near"),
    [
        ("tanh", 0.25, 8, lambda: law_of("tanh", "gaussian", 8, 0.25, 1.02)),
        ("relu", 1.0, 10, lambda: law_of("relu", "gaussian", 11, 1.0)),
    ],
    ids=["scale", "depth"],
)
def test_laws_that_differ_in_shape_alone_are_told_apart(phi, q, pairs, near):
    """q makes up for the scale, and draws differ by more than a layer.

    Both show in the spread of log lam alone.
    """
    sp, wrong = drawn(phi, "gaussian", pairs, 256, q, 20), near()
    assert compare(sp, law_of(phi, "gaussian", pairs, q)).consistent
    comparison = compare(replace(sp, pairs=wrong.pairs), wrong)
    assert list(comparison.excesses) == ["spread"]


def test_a_true_law_is_seldom_called_false():
    """Twelve comparisons of three laws at 5 % each.

    Three false alarms or more have probability 0.02.
    """
    cases = [
        ("relu", "gaussian", 6, 1.0),
        ("linear", "gaussian", 3, 1.0),
        ("hard_tanh", "orthogonal", 4, 0.25),
    ]
    num_alarms = 0
    for phi, weights, pairs, q in cases:
        law = law_of(phi, weights, pairs, q)
        sp = drawn(phi, weights, pairs, 96, q, 40, seed=5)
        for i in range(4):
            part = jax.tree.map(lambda a, i=i: a[10 * i : 10 * i + 10], sp)
            num_alarms += not compare(part, law, key=jax.random.key(i)).consistent
    assert num_alarms <= 2


NETWORKS = [
    ("hard_tanh", "orthogonal", 16, 0.15),
    ("relu", "gaussian", 32, 1.0),
    # sigma_0² = 1/4, against the law of 64 layers, not of infinitely many.
    ("tanh", "orthogonal", 64, 0.0246720),
    ("tanh", "gaussian", 8, 0.25),
    ("linear", "gaussian", 4, 1.0),
    ("relu", "orthogonal", 8, 1.0),
    ("hard_tanh", "gaussian", 4, 0.5),
    ("tanh", "orthogonal", 16, 0.1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("phi", "weights", "pairs", "q"), NETWORKS)
def test_finite_networks_have_their_laws(phi, weights, pairs, q):
    """Width 400, six seeds; the law of the other ensemble is another one."""
    sp = drawn(phi, weights, pairs, 400, q, 6, seed=pairs)
    law = law_of(phi, weights, pairs, q)
    comparison = compare(sp, law)
    assert comparison.consistent, comparison.summary()
    off_zero = [atom.lam for atom in law.atoms if atom.lam > 0]
    if off_zero:
        (lam,) = off_zero
        sigma_w, _ = scales(phi, q)
        assert lam == pytest.approx(sigma_w ** (2 * pairs), rel=1e-12)
        assert abs(comparison.atom_gaps[lam]) < 0.05
    if phi != "linear":
        assert not compare(sp, law_of(phi, OTHER[weights], pairs, q)).consistent


def by_numpy(widths, weights, sigma_w, sigma_b, seeds):
    """Parameters of an MLP of equal widths for each seed, in float32."""
    rng, n, depth = np.random.default_rng(11), widths[0], len(widths) - 1
    draws = [[weight(rng, weights, n).T for _ in range(depth)] for _ in range(seeds)]
    ws = sigma_w * np.array(draws)
    bs = sigma_b * rng.standard_normal((seeds, depth, n))
    runs = [slice(0, 1), slice(1, depth - 1), slice(depth - 1, depth)]
    layers = tuple({"w": ws[:, run], "b": bs[:, run]} for run in runs)
    return jax.tree.map(lambda a: a.astype(np.float32), {"layers": layers})


@pytest.fixture(scope="module")
def network():
    """A network of the package and its law; its input is not at the fixed point."""
    net = networks.mlp([64] * 6, "tanh", "orthogonal", 1.2, 0.2)
    xs = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
    xs *= np.float32(2.0**0.5) / np.sqrt((xs**2).mean())
    wrong = theory.jacobian_law("tanh", 3, None, 1.2, 0.2, "gaussian")
    return net, xs, net.law("hidden", xs), wrong


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
    sp = isometry.ensemble(
        net,
        params=params,
        xs=xs,
        span="hidden",
        method=method,
        key=jax.random.key(2),
    )
    comparison = compare(sp, law)
    assert comparison.consistent, comparison.summary()
    assert not compare(sp, wrong).consistent


def test_nodes_of_quadratures_are_not_judged():
    """They would pass for values: a law with zeros would reject its own spectrum."""
    nodes = np.random.default_rng(0).uniform(-1, 0, (6, 1, 2, 8))
    rule = Quadrature(
        nodes,
        np.full_like(nodes, 1 / 8),
        np.zeros((6, 1)),
        nodes,
        nodes,
        np.full((6, 1), 8),
    )
    sp = spectrum_of(-np.sort(-nodes.reshape(6, 16), -1), 2)
    sp = replace(sp, method=Lanczos(8, 2), quadrature=rule, size=100)
    message = r"compare\(\): unknown, because Lanczos\(.* nodes of quadratures.*'dense'"
    with pytest.raises(InputError, match=message):
        compare(sp, theory.fuss_catalan(2))


def test_given_jacobians_are_compared_with_any_law():
    """Products of two Gaussian matrices; a law of three factors is rejected."""
    factors = np.random.default_rng(0).standard_normal((2, 12, 64, 64)) / 8
    sp = Spectrum.of_jacobians(factors[0] @ factors[1])
    comparison = compare(sp, theory.fuss_catalan(2))
    assert comparison.consistent, comparison.summary()
    assert not compare(sp, theory.fuss_catalan(3)).consistent


SMALL = spectrum_of(-np.sort(-np.random.default_rng(0).standard_normal((6, 8)), -1), 2)
STEEP = np.asarray(SMALL.log_values) - 99 * np.arange(8)
LAW = theory.fuss_catalan(2)


@pytest.mark.parametrize(
    ("sp", "law", "words"),
    [
        (np.ones(3), LAW, ("sp=", "is not a Spectrum; write isometry.ensemble(...).")),
        (
            SMALL,
            "fuss_catalan",
            ("law='fuss_catalan' is not a Law; write net.law(", "jacobian_law"),
        ),
        (
            jax.tree.map(lambda a: a[0, 0], SMALL),
            LAW,
            ("no seeds axis", "say how far one draw is from the next"),
        ),
        (jax.tree.map(lambda a: a[:4], SMALL), LAW, ("4 seeds", "at least 5")),
        (
            replace(SMALL, span="end_to_end", pairs=None),
            LAW,
            ("'end_to_end'", "span='hidden'", "one W more"),
        ),
        (
            SMALL,
            replace(LAW, span="end_to_end"),
            (
                "sp is of the span 'hidden' and the law of",
                "xs), or measure with span='end_to_end'.",
            ),
        ),
        (
            SMALL,
            theory.fuss_catalan(3),
            ("2 (W, D) pairs and the law 3 pairs", "jacobian_law(..., depth=2)"),
        ),
        (SMALL, theory.smooth_class(0.5), ("limit of great depth",)),
        (replace(SMALL, structural_zeros=4), LAW, ("structural zeros", "widths")),
        (replace(SMALL, log_values=STEEP), LAW, ("method='product'",)),
        (replace(SMALL, log_values=STEEP * np.nan), LAW, ("6 of the 6 Jacobians",)),
        (SMALL, replace(LAW, positions=3), ("3 positions", "8 singular values")),
        (SMALL, replace(LAW, outliers=8), ("8 outliers", "greater width")),
    ],
)
def test_what_cannot_be_compared_is_refused(sp, law, words):
    with pytest.raises(InputError, match=r"^compare\(\): ") as refused:
        compare(sp, law)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.core
def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="single random key"):
        compare(SMALL, LAW, key=3)
    with pytest.raises(InputError, match="resamples=1"):
        compare(SMALL, LAW, resamples=1)
    with pytest.raises(TypeError, match="runs on the host"):
        jax.jit(lambda sp: compare(sp, LAW))(SMALL)


def test_a_law_below_the_exponents_is_compared_and_drawn():
    """240 layers take s to a hundredth each: e^(−1100) underflows, −1100 does not."""
    net = networks.mlp([8] * 242, "linear", "gaussian", sigma_w=0.01, sigma_b=0.0)
    x = np.random.default_rng(0).standard_normal((1, 8)).astype(np.float32)
    params = by_numpy(net.widths, "gaussian", 0.01, 0.0, 5)
    sp = isometry.ensemble(net, params=params, xs=x, span="hidden", method="product")
    law = net.law("hidden", x)
    assert law.s_max == 0
    comparison = isometry.compare(sp, law)
    assert np.isfinite(list(comparison.gaps.values())).all()
    assert abs(comparison.moment_gaps["mean"]) < 240  # of −2440 in all
    plots = pytest.importorskip("isometry.plots")
    pytest.importorskip("matplotlib")
    assert np.isfinite(plots.overlay(sp, law).get_xlim()).all()
