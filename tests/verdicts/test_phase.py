"""ordered_phase, chaotic_phase and below_floor: planted cases and numbers by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import initializers, networks
from tests.verdicts.measuring import (
    EPS,
    drawn,
    judged,
    measured,
    rounding,
    spectrum,
)

# K hidden pairs; one program serves all networks of one activation.
WIDTH, K = 24, 12
DEEP = [6, *[WIDTH] * (K + 1), 3]
XS = jax.random.normal(jax.random.key(1), (4, 6))
NO_SIGNALS = {"forward": {}}
PHASES = ("ordered_phase", "chaotic_phase")


def case(net, **law):
    """Return a record with the spectra of 6 seeds."""
    params = drawn(net, **law)
    spans = ["end_to_end", "hidden"]
    spectra = isometry.ensemble(net, params=params, xs=XS, span=spans)
    return measured(net, params=params, xs=XS, spectra=spectra, **NO_SIGNALS)


def faked(net, hidden, outputs=3, **lines):
    """Return a record whose spectra are given numbers."""
    spectra = {
        "end_to_end": spectrum(np.ones((len(hidden), 1, outputs))),
        "hidden": spectrum(hidden),
    }
    params = drawn(net, 1.0, seeds=len(hidden))
    return measured(
        net, params=params, xs=XS, lines=lines, spectra=spectra, **NO_SIGNALS
    )


@pytest.fixture(scope="module")
def tanh():
    """Records of deep tanh networks by name."""
    small = initializers.normal(std=0.5 * WIDTH**-0.5)
    chosen = {
        "ordered": (("gaussian", 0.5, 0.5), {"sigma_w": 0.5, "sigma_b": 0.5}),
        "chaotic": (("gaussian", 3.0), {"sigma_w": 3.0}),
        "healthy": (("orthogonal",), {"sigma_w": 1.0, "orthogonal": True}),
        "small": ((small,), {"sigma_w": 0.5}),
    }
    return {
        name: case(networks.mlp(DEEP, "tanh", *how), **law)
        for name, (how, law) in chosen.items()
    }


@pytest.mark.parametrize("name", ["ordered", "chaotic"])
def test_planted_phases_are_raised(tanh, name):
    raised = [flag for flag in PHASES if judged(flag, tanh[name]).raised]
    assert raised == [f"{name}_phase"]


def test_a_healthy_network_is_critical(tanh):
    for name in PHASES:
        flag = judged(name, tanh["healthy"])
        assert flag.state == "clear"
        assert flag.evidence["phase"] == "critical"


def test_the_phase_is_that_of_theory(tanh):
    """chi_1 by a quadrature of its own, at the fixed point of plain iteration."""
    z, w = np.polynomial.hermite_e.hermegauss(120)
    w, q = w / w.sum(), 1.0
    for _ in range(200):
        q = 0.25 * (w @ np.tanh(math.sqrt(q) * z) ** 2) + 0.25
    chi = 0.25 * (w @ (1 - np.tanh(math.sqrt(q) * z) ** 2) ** 2)
    flag = judged("ordered_phase", tanh["ordered"])
    assert flag.value == pytest.approx(K * math.log(chi), rel=1e-9)
    assert flag.evidence["phase"] == "ordered"
    assert flag.evidence["depth_scale"] == pytest.approx(-1 / math.log(chi), rel=1e-9)


@pytest.mark.parametrize(("sigma_w", "phase"), [(3.0, "unbounded"), (0.5, "ordered")])
def test_a_relu_network_has_its_chi_at_any_q(sigma_w, phase):
    """sigma_w²/2, also where the variance diverges; below, q* is 0."""
    net = networks.mlp(DEEP, "relu", "gaussian", sigma_w)
    one = faked(net, np.ones((6, 1, WIDTH)))
    flag = judged("ordered_phase", one)
    assert flag.value == pytest.approx(K * math.log(sigma_w**2 / 2), rel=1e-9)
    assert flag.evidence["phase"] == phase
    assert judged("chaotic_phase", one).raised == (sigma_w == 3)


def test_without_a_law_the_phase_is_measured(tanh):
    """Without biases a layer of 0.5² is exact as q → 0: E|J|²/N = 0.25^K.

    The logarithm of finite products lies below by about K/N and scatters by √(2K/N)
    (Gaussian, linear).
    """
    flag = judged("ordered_phase", tanh["small"])
    assert flag.evidence["basis"] == "measured"
    assert flag.evidence["phase"] == "ordered"
    scatter = K / WIDTH + 3 * math.sqrt(2 * K / WIDTH)
    assert abs(flag.value - K * math.log(0.25)) < scatter
    low, high = flag.interval
    assert low <= flag.value <= high < -6
    assert flag.raised
    grown = faked(tanh["small"].subject.f, np.full((6, 1, WIDTH), 2.0**K))
    flag = judged("chaotic_phase", grown)
    assert flag.evidence["phase"] == "chaotic"
    assert flag.evidence["chi_1"] == pytest.approx(4)
    assert flag.raised


def test_measured_phases_can_be_undecided(tanh):
    net = tanh["small"].subject.f
    few = judged("ordered_phase", faked(net, np.full((4, 1, WIDTH), 0.5**K)))
    assert few.state == "undecided"
    assert "4 seeds" in few.reason
    # ln 0.25^K is the value of this Jacobian exactly.
    line = -K * math.log(0.25)
    on_line = faked(net, np.full((6, 1, WIDTH), 0.5**K), depth_scales=line)
    assert judged("ordered_phase", on_line).state == "undecided"


def test_unequal_widths_measure_per_unit():
    """Orthogonal weights that widen have no single chi_1; Gaussian ones have."""
    orthogonal = networks.mlp([6, 8, 16, 16, 3], "linear", "orthogonal")
    flag = judged("ordered_phase", faked(orthogonal, np.ones((6, 1, 8))))
    assert flag.evidence["basis"] == "measured"
    assert flag.value == pytest.approx(math.log(8 / 16))
    gaussian = networks.mlp([6, 8, 16, 3], "linear", "gaussian")
    flag = judged("ordered_phase", faked(gaussian, np.ones((6, 1, 8))))
    assert flag.evidence["basis"] == "theory"


def test_too_shallow_for_a_pair():
    net = networks.mlp([6, 8, 3], "tanh", "gaussian", 0.1)
    spectra = {"end_to_end": spectrum(np.ones((6, 1, 3)))}
    one = measured(net, params=drawn(net, 0.1), xs=XS, spectra=spectra)
    flag = judged("ordered_phase", one)
    assert flag.state == "clear"
    assert flag.evidence["phase"] == "ordered"


def test_a_plain_function_has_its_phase_measured():
    """Three layers of 2·identity: |δz|² grows by 4 over the one hidden pair."""

    def f(params, x):
        for w in params:
            x = w @ x
        return x

    params = [np.broadcast_to(2 * np.eye(4, dtype=np.float32), (6, 4, 4))] * 3
    one = measured(f, params=params, xs=XS[:, :4], **NO_SIGNALS)
    flag = judged("chaotic_phase", one)
    assert flag.evidence["basis"] == "measured"
    assert flag.value == pytest.approx(math.log(4), rel=1e-5)


# --- precision -----------------------------------------------------------------------


def full_rank(one):
    """Return the bounds of a network whose units all have a slope."""
    shapes = {span: sp.log_values.shape[:2] for span, sp in one.spectra.items()}
    sizes = {span: sp.size for span, sp in one.spectra.items()}
    return {span: np.full(shapes[span], sizes[span]) for span in shapes}


def test_what_a_dense_factorization_censors_a_method_without_floor_resolves(tanh):
    """14 Gaussian layers at sigma_w = 3 in float32; `Product` has no floor."""
    one = tanh["chaotic"]
    vars(one)["rank_bounds"] = full_rank(one)
    flag = judged("below_floor", one)
    assert flag.raised
    assert flag.value > 0.5
    assert 'method="product"' in flag.remedy
    spectra = {
        span: dataclasses.replace(sp, log_floor=jnp.full_like(sp.log_floor, -jnp.inf))
        for span, sp in one.spectra.items()
    }
    subject = one.subject
    resolved = measured(
        subject.f,
        params=subject.params,
        xs=XS,
        spectra=spectra,
        rank_bounds=full_rank(one),
    )
    flag = judged("below_floor", resolved)
    assert flag.state == "clear"
    assert flag.value == 0


@pytest.mark.parametrize(("rank", "share"), [(2, 0), (3, 1 / 3), (4, 1 / 2)])
def test_zeros_that_must_be_are_not_below_the_floor(rank, share):
    """Of 4 values 2 are noise: zeros at rank 2, 1 of 3 censored at 3, 2 of 4 at 4."""
    sp = spectrum(np.broadcast_to([1.0, 0.5, 1e-9, 1e-9], (6, 1, 4)))
    net = networks.mlp([6, 4, 4], "relu", "kaiming")
    one = measured(
        net,
        params=drawn(net, 1.0),
        xs=XS,
        lines={"below_floor": 0.4},
        spectra={"end_to_end": sp},
        rank_bounds={"end_to_end": np.full((6, 1), rank)},
    )
    flag = judged("below_floor", one)
    assert flag.value == pytest.approx(share)
    assert flag.raised == (rank == 4)


def test_a_jacobian_of_zeros_is_not_below_the_floor():
    net = networks.mlp([6, 4, 4], "relu", "kaiming")
    one = measured(
        net,
        params=drawn(net, 1.0),
        xs=XS,
        spectra={"end_to_end": spectrum(np.zeros((6, 1, 4)))},
        rank_bounds={"end_to_end": np.full((6, 1), 4)},
    )
    assert judged("below_floor", one).state == "clear"


# --- the range of a dtype ------------------------------------------------------------


def test_a_jacobian_that_overflows_is_measured_as_a_product():
    """Two orthogonal layers at 1e20: every s is 1e40, beyond float32 and signals."""
    net = networks.mlp([6] * 5, "linear", "orthogonal", sigma_w=1e20)
    params = drawn(net, 1e20, orthogonal=True)
    one = measured(net, params=params, xs=1e-30 * XS[:1], **NO_SIGNALS)
    flag = judged("exploding", one)
    assert flag.raised
    assert flag.evidence["gain"]["hidden"]["value"] == (
        pytest.approx(40 * math.log(10), rel=1e-5)
    )
    assert judged("anisometric", one).state == "clear"


def test_a_jacobian_that_underflows_is_measured_in_float64():
    """Weights divided by 2^25 divide a relu network of 12 layers by 2^300."""
    net = networks.mlp([6, *[12] * 11, 3], "relu", "gaussian", bias=False)
    rng = np.random.default_rng(0)

    def filled(leaf):
        w = rng.normal(size=(5, *leaf.shape)) * np.sqrt(2 / leaf.shape[-2])
        return w.astype(np.float32)

    params = jax.tree.map(filled, net.shapes)
    small = jax.tree.map(lambda a: a * np.float32(2.0**-25), params)
    records = [
        measured(net, params=one, xs=XS, **NO_SIGNALS).spectra["end_to_end"]
        for one in (params, small)
    ]
    plain, shifted = (np.asarray(sp.log_values)[..., 0] for sp in records)
    shift = 300 * math.log(2)
    # Besides the products, logarithms as large as the shift are rounded.
    tolerance = rounding(12, 12) + shift * EPS
    np.testing.assert_allclose(shifted, plain - shift, atol=tolerance)
