"""net.law: the law of exactly what an MLP draws, or the reason why there is none."""

import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, data, networks, theory
from isometry._internal.errors import NotDefined

RNG = np.random.default_rng(0)
# Inputs with |x|²/n = 1.7.
XS = data.normalize(
    jax.device_put(np.asarray(RNG.standard_normal((3, 30)), np.float32)), 1.7
)


def expectation(f, variance):
    """E f(z) of z ~ N(0, variance), by the trapezoidal rule."""
    # It converges exponentially for smooth f, and the tails beyond 12 are e^-72.
    z, step = np.linspace(-12, 12, 4001, retstep=True)
    density = np.exp(-(z**2) / 2) * step / math.sqrt(2 * math.pi)
    return float(density @ f(math.sqrt(variance) * z))


def means_by_hand(widths, weights, sigma_w, sigma_b):
    """E lam of the hidden span and end to end, from E|W A|² = c |A|² alone."""
    kept = []
    grown = []
    for n, m in itertools.pairwise(widths):
        is_orthogonal = weights == "orthogonal"
        kept.append(n / max(n, m) if is_orthogonal else 1.0)
        rank = min(n, m) if is_orthogonal else m
        grown.append(sigma_w**2 * rank / n)
    variances = [sigma_w**2 * kept[0] * 1.7 + sigma_b**2]
    for share in kept[1:-1]:
        size = expectation(lambda z: np.tanh(z) ** 2, variances[-1])
        variances.append(sigma_w**2 * share * size + sigma_b**2)
    slopes = [expectation(lambda z: np.cosh(z) ** -4, q) for q in variances]
    hidden = widths[1] * math.prod(grown[1:-1]) * math.prod(slopes[:-1])
    whole = widths[0] * math.prod(grown) * math.prod(slopes)
    return (
        hidden / min(widths[1], widths[-2]),
        whole / min(widths[0], widths[-1]),
    )


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
@pytest.mark.parametrize(
    "widths",
    [[30, 40, 40, 40, 10], [30, 40, 25, 35, 20]],
    ids=["equal", "unequal"],
)
def test_mean_of_both_spans(weights, widths):
    net = networks.mlp(widths, "tanh", weights, 1.3, 0.4)
    hidden, whole = means_by_hand(widths, weights, 1.3, 0.4)
    law = net.law("hidden", XS)
    # The inputs are float32.
    assert law.moment(1) == pytest.approx(hidden, rel=1e-6)
    assert (law.span, law.pairs) == ("hidden", 2)
    missing = abs(widths[-2] - widths[1]) / min(widths[1], widths[-2])
    assert law.structural_zeros == pytest.approx(missing)
    law = net.law("end_to_end", XS)
    assert law.moment(1) == pytest.approx(whole, rel=1e-6)
    assert (law.span, law.pairs) == ("end_to_end", None)
    missing = abs(widths[-1] - widths[0]) / min(widths[0], widths[-1])
    assert law.structural_zeros == pytest.approx(missing)


def test_equal_widths_have_the_law_of_square_layers():
    """The law of pairs at the variances of the layers, from theory directly."""
    net = networks.mlp([30, 40, 40, 40, 10], "tanh", "orthogonal", 1.3, 0.4)
    first = 1.3**2 * 30 / 40 * 1.7 + 0.4**2
    second = 1.3**2 * expectation(lambda z: np.tanh(z) ** 2, first) + 0.4**2
    law = theory.jacobian_law("tanh", 2, [first, second], 1.3, weights="orthogonal")
    assert net.law("hidden", XS).s_max == pytest.approx(law.s_max, rel=1e-6)


def orthogonal(rng, shape):
    """Matrices with all singular values 1, by NumPy."""
    u, _, v = np.linalg.svd(rng.standard_normal(shape), full_matrices=False)
    return u @ v


def gaussian(rng, shape):
    return rng.standard_normal(shape) / math.sqrt(shape[-2])


# The band of E log lam is 0.57 with ten seeds, as wide as the shift of 0.56 that is
# to be seen; it falls with the root of their number.
SEEDS = 40


@pytest.mark.parametrize(
    ("draw", "span"),
    [
        pytest.param(gaussian, "end_to_end", marks=pytest.mark.slow),
        (orthogonal, "hidden"),
    ],
)
def test_rectangular_networks_have_their_law(draw, span):
    # Of its own, so that the draws do not depend on the tests before.
    rng = np.random.default_rng(1)
    net = networks.mlp([60, 80, 50, 60], "tanh", draw.__name__, 1.3, 0.3)
    xs = data.normalize(
        jax.device_put(np.asarray(rng.standard_normal((1, 60)), np.float32)), 1.0
    )
    runs = []
    for run in net.shapes["layers"]:
        w = 1.3 * draw(rng, (SEEDS, *run["w"].shape))
        b = 0.3 * rng.standard_normal((SEEDS, *run["b"].shape))
        runs.append(
            {"w": jnp.asarray(w, jnp.float32), "b": jnp.asarray(b, jnp.float32)}
        )
    params = {"layers": tuple(runs)}
    sp = isometry.ensemble(net, params=params, xs=xs, span=span)
    law = net.law(span, xs)
    comparison = isometry.compare(sp, law)
    assert comparison.consistent, comparison.summary()
    # As if sigma_w were 15 % larger in two layers.
    stretched = replace(sp, log_values=sp.log_values + 2 * math.log(1.15))
    assert not isometry.compare(stretched, law).consistent


def test_kaiming_of_relu_has_unit_mean_and_variance_two_per_layer():
    law = networks.mlp([30, 40, 40, 40, 10], "relu", "kaiming").law("hidden", XS)
    assert law.moment(1) == pytest.approx(1, rel=1e-12)
    assert law.variance == pytest.approx(4, rel=1e-9)


def test_scaled_orthogonal_widening_is_one_atom():
    net = networks.mlp([30, 40, 80], "linear", "scaled_orthogonal", 1.0)
    (atom,) = net.law("end_to_end", XS).atoms
    assert atom.lam == pytest.approx(40 / 30 * 80 / 40, rel=1e-12)


def test_head_of_mup_is_smaller():
    """Its variance is 1/fan_in², and J has rank 10 of 30."""
    law = networks.mlp([30, 40, 40, 10], "linear", "mup").law("end_to_end", XS)
    by_hand = 30 * (40 / 30) * (10 / 40 / 40) / 10
    assert law.moment(1) == pytest.approx(by_hand, rel=1e-12)


def test_single_layer_has_the_law_of_its_weights():
    net = networks.mlp([30, 10], "tanh", "orthogonal", 1.5, bias=False)
    law = net.law("end_to_end", XS)
    (atom,) = law.atoms
    assert (atom.lam, atom.mass) == (pytest.approx(2.25), pytest.approx(1.0))
    assert law.structural_zeros == 2


@pytest.mark.parametrize(
    "scheme", ["identity", "zer_o", "xavier", "lsuv", "looks_linear"]
)
def test_schemes_without_an_ensemble_have_no_law(scheme):
    net = networks.mlp([30, 30, 30, 30, 10], "relu", scheme)
    with pytest.raises(NotDefined, match=f"no law is known of {scheme}"):
        net.law("hidden", XS)


def test_derivatives_eight_decades_apart():
    """Half of the 8 values are of order one: the width times half of the units."""

    def steep(x):
        return jnp.where(x > 0, x, 1e-8 * x)

    # Narrowing: a layer that widens and narrows again takes ten times as long.
    net = networks.mlp([8, 16, 8, 8, 8], steep, "orthogonal", 1.0)
    law = net.law("hidden", XS[:, :8])
    assert law.survival([1e-12, 1e-4]) == pytest.approx([0.5, 0.5], abs=1e-12)


def test_edges_that_cannot_be_found_are_not_defined(monkeypatch):
    def refuse(law):
        raise theory.NotConverged("an edge is not resolved.")

    monkeypatch.setattr(theory.Law, "support", property(refuse))
    net = networks.mlp([8, 8, 8, 8, 8], "tanh", "orthogonal", 1.0)
    with pytest.raises(NotDefined, match=r"law\(\): the edges of the law of .* could"):
        net.law("hidden", XS[:, :8])


def test_refusals():
    net = networks.mlp([30, 40, 10], "tanh", "gaussian", 1.0)
    with pytest.raises(InputError, match=r"law\(\): .*needs depth 3; this network has"):
        net.law("hidden", XS)
    with pytest.raises(InputError, match="Known: end_to_end, hidden"):
        net.law("stem", XS)
    with pytest.raises(InputError, match=r"write floating rows of shape \(30,\)"):
        net.law("end_to_end", XS[:, :5])
    with pytest.raises(NotDefined, match="are zero, where relu has a kink"):
        networks.mlp([4] * 4, "relu").law("hidden", jnp.zeros((1, 4)))
    with pytest.raises(TypeError, match="runs on the host"):
        jax.jit(lambda xs: net.law("end_to_end", xs).s_max)(XS)


def test_moments_are_those_of_the_law():
    """Of a linear Gaussian product of K factors, Var lam = K (E lam)²."""
    net = networks.mlp([16] * 5, "linear", "gaussian", sigma_w=1.0)
    xs = jnp.ones((1, 16))
    mean, variance = net.moments("hidden", xs)
    # Three factors lie in the hidden span of five layers less its ends.
    pairs = net.depth - 2
    assert mean == pytest.approx(1, rel=1e-9)
    assert variance == pytest.approx(pairs, rel=1e-9)
