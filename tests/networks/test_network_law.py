"""net.law: the law of exactly what the network draws, or the reason why there is none."""

import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, data, networks, theory
from isometry._checks import NotDefined

RNG = np.random.default_rng(0)
XS = data.normalize(jnp.asarray(np.random.default_rng(1).standard_normal((3, 30)), jnp.float32), 1.7)


def gauss(f, q):
    """E f(√q z) by the trapezoidal rule, which is exponentially accurate for smooth f."""
    x, step = np.linspace(-12, 12, 4001, retstep=True)
    return float(np.exp(-(x**2) / 2) @ f(math.sqrt(q) * x)) * step / math.sqrt(2 * math.pi)


def by_hand(widths, weights, sigma_w, sigma_b, q_in):
    """q_1 … and E lam of both spans, from E‖W A‖² = c‖A‖² alone."""
    kept = [n / max(n, m) if weights == "orthogonal" else 1.0 for n, m in itertools.pairwise(widths)]
    grown = [sigma_w**2 * (min(n, m) if weights == "orthogonal" else m) / n for n, m in itertools.pairwise(widths)]
    q = [sigma_w**2 * kept[0] * q_in + sigma_b**2]
    for c in kept[1:-1]:
        q.append(sigma_w**2 * c * gauss(lambda z: np.tanh(z) ** 2, q[-1]) + sigma_b**2)
    slopes = [gauss(lambda z: np.cosh(z) ** -4, v) for v in q]
    hidden = widths[1] * math.prod(grown[1:-1]) * math.prod(slopes[:-1]) / min(widths[1], widths[-2])
    full = widths[0] * math.prod(grown) * math.prod(slopes) / min(widths[0], widths[-1])
    return q, hidden, full


@pytest.mark.parametrize("weights", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("widths", [[30, 40, 40, 40, 10], [30, 40, 25, 35, 20]], ids=["square", "rectangular"])
def test_the_mean_of_both_spans(weights, widths):
    net = networks.mlp(widths, "tanh", weights, 1.3, 0.4)
    q, hidden, full = by_hand(widths, weights, 1.3, 0.4, 1.7)
    law = net.law("hidden", XS)
    assert law.moment(1) == pytest.approx(hidden, rel=1e-6)  # xs are float32
    assert (law.span, law.pairs) == ("hidden", 2)
    assert law.structural_zeros == pytest.approx(abs(widths[-2] - widths[1]) / min(widths[1], widths[-2]))
    ends = net.law("end_to_end", XS)
    assert ends.moment(1) == pytest.approx(full, rel=1e-6)
    assert (ends.span, ends.pairs) == ("end_to_end", None)
    assert ends.structural_zeros == pytest.approx(abs(widths[-1] - widths[0]) / min(widths[0], widths[-1]))
    if len(set(widths[1:-1])) == 1:
        same = theory.jacobian_law("tanh", 2, q[:2], 1.3, weights=weights)
        assert law.s_max == pytest.approx(same.s_max, rel=1e-6)


def weight(weights, shape):
    """Draw a stack of matrices: Gaussian of variance 1/fan_in, or with singular values of one."""
    w = RNG.standard_normal(shape)
    if weights == "gaussian":
        return w / math.sqrt(shape[-2])
    u, _, v = np.linalg.svd(w, full_matrices=False)
    return u @ v


def by_numpy(net, seeds, sigma_b, draw):
    """Draw the parameters of a network by NumPy, stacked over seeds."""
    shapes = jax.eval_shape(net.init, jax.random.key(0))["layers"]
    runs = [
        {"w": draw((seeds, *run["w"].shape)), "b": sigma_b * RNG.standard_normal((seeds, *run["b"].shape))}
        for run in shapes
    ]
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), {"layers": tuple(runs)})


@pytest.mark.parametrize(
    ("weights", "span"),
    [pytest.param("gaussian", "end_to_end", marks=pytest.mark.slow), ("orthogonal", "hidden")],
)
def test_rectangular_networks_have_their_law(weights, span):
    net = networks.mlp([60, 80, 50, 60], "tanh", weights, 1.3, 0.3)
    xs = data.normalize(jnp.asarray(np.random.default_rng(2).standard_normal((1, 60)), jnp.float32), 1.0)
    params = by_numpy(net, 10, 0.3, lambda shape: weight(weights, shape) * 1.3)
    sp = isometry.ensemble(net, params=params, xs=xs, span=span)
    law = net.law(span, xs)
    found = isometry.compare(sp, law)
    assert found.consistent, found.summary()
    stretched = replace(sp, log_values=sp.log_values + 2 * math.log(1.15))  # sigma_w of two layers
    assert not isometry.compare(stretched, law).consistent


def test_schemes_with_a_scale_of_their_own():
    he = networks.mlp([30, 40, 40, 40, 10], "relu", "kaiming").law("hidden", XS)
    assert he.moment(1) == pytest.approx(1, rel=1e-12)
    assert he.variance == pytest.approx(4, rel=1e-9)  # 2L for ReLU and Gaussian weights
    scaled = networks.mlp([30, 40, 80], "linear", "scaled_orthogonal", 1.0).law("end_to_end", XS)
    (atom,) = scaled.atoms
    assert atom.lam == pytest.approx(40 / 30 * 2, rel=1e-12)
    head = networks.mlp([30, 40, 40, 10], "linear", "mup").law("end_to_end", XS)
    assert head.moment(1) == pytest.approx(30 * (40 / 30) * (10 / 40 / 40) / 10, rel=1e-12)


def test_one_layer_and_no_biases():
    law = networks.mlp([30, 10], "tanh", "orthogonal", 1.5, bias=False).law("end_to_end", XS)
    assert [(a.lam, a.mass) for a in law.atoms] == [(pytest.approx(2.25), pytest.approx(1.0))]
    assert law.structural_zeros == 2


@pytest.mark.parametrize("scheme", ["identity", "zer_o", "xavier", "lsuv", "looks_linear"])
def test_no_law(scheme):
    net = networks.mlp([30, 30, 30, 30, 10], "relu", scheme)
    with pytest.raises(NotDefined, match=f"no law is known of {scheme}"):
        net.law("hidden", XS)


def test_edges_that_are_not_resolved():
    """Of unequal sizes, where slopes lie eight decades apart."""
    net = networks.mlp([8, 8, 16, 8, 8], lambda x: jnp.where(x > 0, x, 1e-8 * x), "orthogonal", 1.0)
    with pytest.raises(NotDefined, match=r"law\(\): the edges of the law of .* could not be found for these widths"):
        net.law("hidden", XS[:, :8])


def test_refusals():
    net = networks.mlp([30, 40, 10], "tanh", "gaussian", 1.0)
    with pytest.raises(InputError, match="needs depth 3; this network has 2"):
        net.law("hidden", XS)
    with pytest.raises(InputError, match="Known: end_to_end, hidden"):
        net.law("stem", XS)
    with pytest.raises(InputError, match=r"write floating rows of shape \(30,\)"):
        net.law("end_to_end", XS[:, :5])
    with pytest.raises(TypeError, match="runs on the host"):
        jax.jit(lambda xs: net.law("end_to_end", xs).s_max)(XS)
    with pytest.raises(NotDefined, match="no law is known for a chain: the law of a product needs"):
        networks.chain([net, net]).law("end_to_end", XS)
