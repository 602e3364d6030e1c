"""Flags of phase, collapse, saturation and precision: planted cases, healthy ones, and numbers known by hand."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import initializers, networks, theory
from isometry.activations import Activation
from isometry.degeneracy import _audit, _task
from isometry.degeneracy._flag import Thresholds
from isometry.degeneracy._gradient_flags import zero_gradient
from isometry.degeneracy._phase_flags import forward_signal, phase_flags, rank_collapse
from isometry.degeneracy._spectrum_flags import below_floor, spectrum_flags
from isometry.degeneracy._unit_flags import pre_activations, saturated_units
from tests.degeneracy.drawn import params_of

N, K = 24, 12
DEEP = [6, *[N] * (K + 1), 3]  # K hidden pairs, one program for all nets of one activation
XS = jax.random.normal(jax.random.key(1), (4, 6))
KEYS, KEY, LIMITS = jax.random.split(jax.random.key(0), 6), jax.random.key(7), Thresholds()


def case(net, **law):
    """(net, spectra, pre-activations) of 6 seeds."""
    params = params_of(net, **law)
    spectra = {span: isometry.ensemble(net, params=params, xs=XS, span=span) for span in ("end_to_end", "hidden")}
    return net, spectra, pre_activations(net.function, params, XS)


def drawn(std):
    return initializers.normal(std=std * N**-0.5)


@pytest.fixture(scope="module")
def tanh():
    """Name → (net, spectra, pre-activations)."""
    chosen = {
        "ordered": (("gaussian", 0.5, 0.5), {"sigma_w": 0.5, "sigma_b": 0.5}),
        "chaotic": (("gaussian", 3.0), {"sigma_w": 3.0}),
        "healthy": (("orthogonal",), {"sigma_w": 1.0, "orthogonal": True}),
        "small": ((drawn(0.5),), {"sigma_w": 0.5}),
    }
    return {name: case(networks.mlp(DEEP, "tanh", *how), **law) for name, (how, law) in chosen.items()}


@pytest.fixture(scope="module")
def relu():
    return case(networks.mlp([6, *[N] * 9, 3], "relu", "kaiming"), sigma_w=math.sqrt(2))  # He's at depth 10


def judged(case, limits=LIMITS):
    net, spectra, layers = case
    return phase_flags(net, spectra, limits, KEY) | {
        "rank_collapse": rank_collapse(XS, layers, limits, KEY),
        "saturated_units": saturated_units(net, layers, limits, KEY),
        "below_floor": below_floor(net, spectra, layers, limits, KEY),
    }


def raised(case):
    return {name for name, flag in judged(case).items() if flag.raised}


def test_planted_cases_are_raised(tanh):
    assert raised(tanh["ordered"]) == {"ordered_phase", "rank_collapse"}
    assert raised(tanh["chaotic"]) == {"chaotic_phase", "saturated_units", "below_floor"}
    for name in ("ordered", "chaotic"):
        for flag in judged(tanh[name]).values():
            assert flag.remedy
            assert flag.source
            assert flag.evidence


def test_healthy_networks_are_clear_of_all(tanh, relu):
    for case in (tanh["healthy"], relu):
        assert {name: flag.state for name, flag in judged(case).items()} == dict.fromkeys(judged(case), "clear")
    assert judged(tanh["healthy"])["ordered_phase"].evidence["phase"] == "critical"


def test_the_phase_is_that_of_theory(tanh):
    """chi_1 by a quadrature of its own, at the fixed point that plain iteration reaches."""
    z, w = np.polynomial.hermite_e.hermegauss(120)
    w, q = w / w.sum(), 1.0
    for _ in range(200):
        q = 0.25 * (w @ np.tanh(math.sqrt(q) * z) ** 2) + 0.25
    chi = 0.25 * (w @ (1 - np.tanh(math.sqrt(q) * z) ** 2) ** 2)
    flag = judged(tanh["ordered"])["ordered_phase"]
    assert flag.value == pytest.approx(K * math.log(chi), rel=1e-9)
    assert flag.evidence["phase"] == "ordered"
    assert flag.evidence["depth_scale"] == pytest.approx(-1 / math.log(chi), rel=1e-9)
    assert judged(tanh["ordered"])["chaotic_phase"].evidence["phase"] == "ordered"


def test_a_relu_network_has_its_chi_at_any_q():
    """sigma_w²/2, also where the variance diverges; below, q* is 0."""
    for sigma_w, phase in ((3.0, "unbounded"), (0.5, "ordered")):
        net = networks.mlp(DEEP, "relu", "gaussian", sigma_w)
        fake = {"end_to_end": _spectrum(np.ones((6, 1, 3))), "hidden": _spectrum(np.ones((6, 1, N)))}
        flags = phase_flags(net, fake, LIMITS, KEY)
        assert flags["ordered_phase"].value == pytest.approx(K * math.log(sigma_w**2 / 2), rel=1e-9)
        assert flags["ordered_phase"].evidence["phase"] == phase
        assert flags["chaotic_phase"].raised == (sigma_w == 3)


def test_without_a_law_the_phase_is_measured(tanh):
    """Without biases 0.5² a layer is exact as q → 0: E‖J‖_F²/N = 0.25^K, and the logarithm of finite products lies
    below by about K/N and scatters by √(2K/N) (Gaussian, linear)."""
    flags = judged(tanh["small"])
    flag = flags["ordered_phase"]
    assert flag.evidence["basis"] == "measured"
    assert flag.evidence["phase"] == "ordered"
    assert abs(flag.value - K * math.log(0.25)) < K / N + 3 * math.sqrt(2 * K / N)
    low, high = flag.interval
    assert low <= flag.value <= high < -6
    assert flag.raised
    grown = {"end_to_end": _spectrum(np.ones((6, 1, 3))), "hidden": _spectrum(np.full((6, 1, N), 2.0**K))}
    flag = phase_flags(tanh["small"][0], grown, LIMITS, KEY)["chaotic_phase"]
    assert flag.evidence["phase"] == "chaotic"
    assert flag.evidence["chi_1"] == pytest.approx(4)
    assert flag.raised


def test_measured_phases_can_be_undecided(tanh):
    net, spectra, _ = tanh["small"]
    few = {
        span: isometry.Spectrum(**vars(sp) | {n: getattr(sp, n)[:4] for n in ARRAYS}) for span, sp in spectra.items()
    }
    assert phase_flags(net, few, LIMITS, KEY)["ordered_phase"].state == "undecided"
    assert "4 seeds" in phase_flags(net, few, LIMITS, KEY)["ordered_phase"].reason
    value = phase_flags(net, spectra, LIMITS, KEY)["ordered_phase"].value
    on_the_line = Thresholds(depth_scales=-value)
    assert phase_flags(net, spectra, on_the_line, KEY)["ordered_phase"].state == "undecided"


def test_unequal_widths_measure_per_unit():
    """Orthogonal weights that widen once and then keep have no single chi_1; of a Gaussian net the law still holds."""
    fake = {"end_to_end": _spectrum(np.ones((6, 1, 3))), "hidden": _spectrum(np.ones((6, 1, 8)))}
    orthogonal = networks.mlp([6, 8, 16, 16, 3], "linear", "orthogonal")
    flag = phase_flags(orthogonal, fake, LIMITS, KEY)["ordered_phase"]
    assert flag.evidence["basis"] == "measured"
    assert flag.value == pytest.approx(math.log(8 / 16))
    gaussian = networks.mlp([6, 8, 16, 3], "linear", "gaussian")
    assert phase_flags(gaussian, fake, LIMITS, KEY)["ordered_phase"].evidence["basis"] == "theory"


def test_too_shallow_for_a_pair():
    net = networks.mlp([6, 8, 3], "tanh", "gaussian", 0.1)
    flag = phase_flags(net, {"end_to_end": _spectrum(np.ones((6, 1, 3)))}, LIMITS, KEY)["ordered_phase"]
    assert flag.state == "clear"
    assert flag.evidence["phase"] == "ordered"


ARRAYS = ("log_values", "weights", "log_floor")


def _spectrum(s, floor=-14.0):
    s = np.asarray(s, float)
    with np.errstate(divide="ignore"):
        logs = np.log(s)
    n = s.shape[-1]
    return isometry.Spectrum(logs, np.full_like(s, 1 / n), np.full(s.shape[:-1], floor), size=n)


# --- collapse ------------------------------------------------------------------------------------------------------


def apart(size, seeds=6):
    """(seeds, 2, 2): inputs (1, ±size), whose R is size²/(1 + size²)."""
    return np.broadcast_to(np.array([[1.0, size], [1.0, -size]], np.float32), (seeds, 2, 2))


@pytest.mark.parametrize(("size", "state"), [(0.1, "clear"), (0.04, "raised"), (1.5e-7, "raised"), (0.0, "raised")])
def test_collapse_is_the_ratio_of_spreads(size, state):
    """R_0 = ½. 0.04² is e^-5.74 below ½, but 0.1² only e^-3.9; 2e-14 is within 10 u² of float32."""
    xs = apart(1.0)[0]
    flag = rank_collapse(xs, [apart(0.5), apart(size)], Thresholds(depth_scales=5.0), KEY)
    assert flag.state == state
    want = math.log(2 * size**2 / (1 + size**2)) if size > 1e-6 else -math.inf
    assert flag.value == pytest.approx(want, rel=1e-6)
    assert flag.evidence["log_ratio"][0] == pytest.approx(math.log(2 * 0.25 / 1.25))


def test_scale_is_no_matter_to_collapse():
    xs = apart(1.0)[0]
    for scale in (1e-30, 1e30):
        flag = rank_collapse(xs, [scale * apart(0.1)], LIMITS, KEY)
        assert flag.value == pytest.approx(math.log(0.02 / 1.01), rel=1e-6)


def test_collapse_needs_inputs_that_differ():
    assert rank_collapse(apart(0.0)[0], [apart(0.0)], LIMITS, KEY).state == "undecided"
    assert rank_collapse(apart(1.0)[0, :1], [apart(1.0)[:, :1]], LIMITS, KEY).state == "undecided"
    assert rank_collapse(apart(1.0)[0], [apart(0.0, seeds=4)], LIMITS, KEY).state == "undecided"
    assert rank_collapse(apart(1.0)[0], [], LIMITS, KEY).state == "clear"


def test_ordered_networks_collapse_as_theory_says(tanh):
    """1 − c of two inputs along the map of correlations from z_1 on: per layer ln chi_1 in the end. The fall from z_6
    to z_13 is compared, which a width of 24 moves by a standard deviation of about √(2·7/24)."""
    found = judged(tanh["ordered"])["rank_collapse"].evidence["log_ratio"]
    q = theory.q_fixed_point("tanh", 0.5, 0.5).value
    want = 7 * math.log(theory.chi("tanh", q, 0.5))
    assert abs(found[-1] - found[5] - want) < 3 * math.sqrt(2 * 7 / 24)


def test_the_signal_by_depth():
    """Two inputs (1, ±size): mean square (1 + size²)/2, cosine (1 − size²)/(1 + size²), singular values √2 and √2·size;
    R = size²/(1 + size²) falls by e^-0.5 a layer where size² does, as size is small."""
    sizes = [0.5, *(0.01 * math.exp(-0.25 * n) for n in range(5))]
    found = forward_signal([apart(size) for size in sizes], LIMITS, KEY)
    squares = np.square(sizes)
    np.testing.assert_allclose(found["log_norm"], np.log((1 + squares) / 2) / 2, atol=1e-6)
    np.testing.assert_allclose(found["correlation"], (1 - 2 * squares / (1 + squares)), atol=1e-6)
    np.testing.assert_allclose(found["stable_rank"], 1 + squares, atol=1e-6)
    assert found["fitted_depth_scale"] == pytest.approx(2, rel=1e-3)
    assert forward_signal([apart(0.5)] * 6, LIMITS, KEY)["fitted_depth_scale"] is None
    assert forward_signal([apart(s, 4) for s in sizes], LIMITS, KEY)["fitted_depth_scale"] is None
    assert forward_signal([], LIMITS, KEY)["log_norm"] == []
    assert forward_signal([0 * apart(1.0)], LIMITS, KEY)["stable_rank"] == [0]


def test_the_fitted_depth_scale_is_that_of_theory(tanh):
    """Over the last 7 of 13 layers of width 24: the median of 6 slopes, each off by about √(2/(7·24)) a layer."""
    net, spectra, layers = tanh["ordered"]
    forward = forward_signal(layers, LIMITS, KEY)
    evidence = phase_flags(net, spectra, LIMITS, KEY, forward)["ordered_phase"].evidence
    fitted, want = evidence["forward"]["fitted_depth_scale"], evidence["depth_scale"]
    assert abs(1 / fitted - 1 / want) < 3 * math.sqrt(2 / (7 * 24))
    assert forward_signal(tanh["chaotic"][2], LIMITS, KEY)["fitted_depth_scale"] is None


# --- saturation ----------------------------------------------------------------------------------------------------

TANH = networks.mlp([2, 2, 2], "tanh", "gaussian")


def test_saturation_is_a_share_against_its_null():
    """|tanh'| < 0.01 where |z| > 2.993: P = 0.00276 of a unit normal. 6 seeds × 50 units, 99 %: at most 4 by chance."""
    z = np.zeros((6, 2, 50), np.float32)
    z[:, :, :10] = 3.0
    flag = saturated_units(TANH, [z], LIMITS, KEY)
    assert flag.raised
    assert flag.value == pytest.approx(0.2)
    cut = math.atanh(math.sqrt(0.99))
    assert flag.evidence["null_probability"] == pytest.approx(math.erfc(cut / math.sqrt(2)), abs=4 / 65536)
    assert flag.threshold == pytest.approx(4.5 / 300)
    assert "unit variance" in flag.source
    assert saturated_units(TANH, [np.full_like(z, 2.9)], LIMITS, KEY).state == "clear"
    assert saturated_units(TANH, [z[:4]], LIMITS, KEY).state == "undecided"
    few = np.where(np.arange(6)[:, None, None] < 2, z, 0)  # only two seeds of six: the interval holds the line
    assert saturated_units(TANH, [few], LIMITS, KEY).state == "undecided"


def test_a_critical_network_is_as_saturated_as_it_must_be():
    """tanh at sigma_b = 1: q* = 3.04, where P(|z| > 2.993) is 8.6 %: no fault of the weights; 30 % are."""
    net = networks.mlp([2, 2, 2], "tanh", "gaussian", sigma_b=1.0)
    q = theory.critical_points("tanh", 1.0)[0].q
    z = math.sqrt(q) * np.random.default_rng(0).normal(size=(6, 2, 200)).astype(np.float32)
    flag = saturated_units(net, [z], LIMITS, KEY)
    assert flag.state == "clear"
    assert flag.value > 0.05  # against unit variance it would be raised
    assert flag.evidence["null_variance"] == q
    assert flag.evidence["null_probability"] == pytest.approx(
        math.erfc(math.atanh(math.sqrt(0.99)) / math.sqrt(2 * q)), abs=4 / 65536
    )
    assert "q* = 3.04" in flag.source
    assert saturated_units(net, [3 * z], LIMITS, KEY).raised


def test_only_bounded_activations_saturate():
    z = [np.full((6, 2, 4), 50.0, np.float32)]
    for name, bounded in (("softsign", True), ("sigmoid", True), ("gelu", False)):
        net = networks.mlp([2, 2, 2], name, "xavier")
        flag = saturated_units(net, z, LIMITS, KEY)
        assert flag.evidence["bounded"] == bounded
        assert flag.raised == bounded
    grown = networks.mlp([2, 2, 2], Activation(jnp.arcsinh, name="arcsinh"), "xavier")
    assert not saturated_units(grown, z, LIMITS, KEY).evidence["bounded"]


# --- precision -----------------------------------------------------------------------------------------------------


def test_what_a_dense_factorization_censors_a_method_without_floor_resolves(tanh):
    """14 Gaussian layers at sigma_w = 3 in float32; `Product` resolves every value, its floor is −inf."""
    net, spectra, layers = tanh["chaotic"]
    flag = below_floor(net, spectra, layers, LIMITS, KEY)
    assert flag.raised
    assert flag.value > 0.5
    assert 'method="product"' in flag.remedy
    resolved = {span: replace(sp, log_floor=jnp.full_like(sp.log_floor, -jnp.inf)) for span, sp in spectra.items()}
    flag = below_floor(net, resolved, layers, LIMITS, KEY)
    assert flag.state == "clear"
    assert flag.value == 0


def test_zeros_that_must_be_are_not_below_the_floor():
    """Of 4 values 2 are noise; with 2 live units they are zeros, with 3 one of 3 is censored, with 4 two of 4."""
    sp = _spectrum(np.broadcast_to([1.0, 0.5, 1e-9, 1e-9], (6, 1, 4)))
    net = networks.mlp([4, 4, 4], "relu", "kaiming")
    for live, share in ((2, 0), (3, 1 / 3), (4, 1 / 2)):
        layers = [np.broadcast_to(np.where(np.arange(4) < live, 1.0, -1.0), (6, 1, 4))]
        flag = below_floor(net, {"end_to_end": sp}, layers, Thresholds(below_floor=0.4), KEY)
        assert flag.value == pytest.approx(share)
        assert flag.raised == (live == 4)
    zero = _spectrum(np.zeros((6, 1, 4)))
    assert below_floor(net, {"end_to_end": zero}, [np.zeros((6, 1, 4))], LIMITS, KEY).state == "clear"


# --- gradients, parameters, the whole ------------------------------------------------------------------------------


def squares(output, target):
    return jnp.sum((output - target) ** 2) / 2


def test_gradient_norms_by_layer():
    """Against backpropagation by hand in float64; with weights of 1e-9 too, where squares of float32 underflow."""
    rng = np.random.default_rng(0)
    w, xs, targets = [rng.normal(size=(2, 1, 6, n)) / 3 for n in (6, 6, 3)], rng.normal(size=(1, 6)), np.ones((1, 3))
    net = networks.mlp([6, 6, 6, 3], "tanh", "gaussian", bias=False)
    task = _task.Task(squares, None, jnp.asarray(xs, jnp.float32), jnp.asarray(targets, jnp.float32), None)
    for scale in (1.0, 1e-9):
        params = {"layers": tuple({"w": jnp.asarray(scale * a, jnp.float32)} for a in w)}
        found = zero_gradient(net, task, params, 1, None, []).evidence["log_gradient_norm"]
        every = []
        for w1, w2, w3 in zip(*(scale * a[:, 0] for a in w), strict=True):
            h1 = np.tanh(xs[0] @ w1)
            h2 = np.tanh(h1 @ w2)
            d3 = h2 @ w3 - targets[0]
            d2 = (w3 @ d3) * (1 - h2**2)
            d1 = (w2 @ d2) * (1 - h1**2)
            pairs = ((xs[0], d1), (h1, d2), (h2, d3))
            every.append([math.log(np.linalg.norm(h) * np.linalg.norm(d)) for h, d in pairs])
        np.testing.assert_allclose(found, np.min(every, 0), atol=1e-5)  # the lower of two; ln 2^60 in float32


def test_signals_that_overflow_are_a_finding():
    """relu'(NaN) = 0 would make the Jacobian zero, and the network vanish."""
    net = networks.mlp([6, *[6] * 5, 3], "relu", "gaussian", sigma_w=1e9)
    report = isometry.audit(net, KEYS, XS, train_steps=0)
    flag = report.flags["exploding"]
    assert flag.raised
    assert flag.reason.startswith("z_")
    assert "overflows float32 in seed 0" in flag.reason
    assert report.flags["locked_symmetry"].state == "clear"
    assert report.flags["vanishing"].state == "undecided"
    assert report.verdict == "raised"
    assert "overflows float32" in report.table()
    assert "NaN" not in report.to_json()


def test_a_jacobian_that_overflows_is_measured_as_a_product():
    """Two orthogonal layers at sigma_w = 1e20: every singular value is 1e40, beyond float32; the signals are not."""
    net = networks.mlp([6] * 5, "linear", "orthogonal", sigma_w=1e20)
    params = params_of(net, 1e20, orthogonal=True)
    sp = _audit._spectra(net, params, 1e-30 * XS[:1], "hidden")
    flags = spectrum_flags({"hidden": sp}, LIMITS, KEY)
    assert flags["exploding"].raised
    assert flags["exploding"].value == pytest.approx(40 * math.log(10), rel=1e-5)
    assert flags["anisometric"].state == "clear"
    assert flags["vanishing"].state == "clear"
