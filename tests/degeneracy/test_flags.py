"""Flags of spectra, gradients and units: raised where they must be, silent where they must be, undecided between."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import initializers, networks
from isometry.degeneracy import _probe, _task
from isometry.degeneracy._flag import Thresholds, interval
from isometry.degeneracy._gradient_flags import _outlook, zero_gradient
from isometry.degeneracy._spectrum_flags import spectrum_flags
from isometry.degeneracy._symmetry_flag import certified
from isometry.degeneracy._unit_flags import dead_units, pre_activations
from isometry.schemes import Scheme
from tests.degeneracy.drawn import params_of

KEY = jax.random.key(7)
LINEAR = [12] * 6  # 5 layers


def spectra_of(net, **law):
    """Spectra of 6 seeds."""
    xs = np.random.default_rng(1).normal(size=(2, *net.input_shape)).astype(np.float32)
    return {"end_to_end": isometry.ensemble(net, params=params_of(net, **law), xs=xs)}


@pytest.fixture(scope="module")
def linear():
    """Spectra of linear chains: small, large and critical Gaussian ones, and an orthogonal one."""
    chosen = {"small": {"sigma_w": 0.1}, "large": {"sigma_w": 5.0}, "gaussian": {"sigma_w": 1.0}}
    chosen["orthogonal"] = {"sigma_w": 1.0, "orthogonal": True}
    net = networks.mlp(LINEAR, "linear", "gaussian")
    return {name: spectra_of(net, **law) for name, law in chosen.items()}


def states(flags):
    return {name: flag.state for name, flag in flags.items()}


@pytest.mark.parametrize(("name", "raised", "sigma_w"), [("small", "vanishing", 0.1), ("large", "exploding", 5.0)])
def test_scale_is_judged(linear, name, raised, sigma_w):
    """The gain of a linear Gaussian chain is L ln sigma_w, but for what finite width takes away (below 1 a factor)."""
    flags = spectrum_flags(linear[name], Thresholds(), KEY)
    assert flags[raised].raised
    assert flags[({"vanishing", "exploding"} - {raised}).pop()].state == "clear"
    assert abs(flags[raised].value - 5 * np.log(sigma_w)) < 1
    low, high = flags[raised].interval
    assert low <= flags[raised].value <= high
    assert "sigma_w" in flags[raised].remedy


def test_an_orthogonal_linear_chain_is_clear_of_everything(linear):
    """Every singular value is 1, up to rounding of 5 products of 12 terms."""
    flags = spectrum_flags(linear["orthogonal"], Thresholds(), KEY)
    assert states(flags) == {"vanishing": "clear", "exploding": "clear", "anisometric": "clear"}
    tolerance = 5 * 12 * float(jnp.finfo(jnp.float32).eps)
    assert abs(flags["vanishing"].value) < tolerance
    assert abs(flags["anisometric"].value) < tolerance


def test_the_anisometry_of_a_linear_gaussian_chain_is_its_depth(linear):
    """Free product of L Marchenko-Pastur laws: variance L. At N = 12 its median over seeds lies below, not by half."""
    flag = spectrum_flags(linear["gaussian"], Thresholds(), KEY)["anisometric"]
    assert flag.raised
    assert 5 / 2 < flag.value < 2 * 5


def test_deep_kaiming_relu_is_anisometric():
    flags = spectrum_flags(spectra_of(networks.mlp([24] * 13, "relu", "kaiming"), sigma_w=2**0.5), Thresholds(), KEY)
    assert flags["anisometric"].raised
    assert flags["anisometric"].value > 3


def test_few_seeds_are_undecided(linear):
    few = {
        "end_to_end": isometry.Spectrum(
            **{
                f: getattr(linear["small"]["end_to_end"], f)[:4] if f in ("log_values", "weights", "log_floor") else v
                for f, v in vars(linear["small"]["end_to_end"]).items()
            }
        )
    }
    flags = spectrum_flags(few, Thresholds(), KEY)
    assert set(states(flags).values()) == {"undecided"}
    assert "4 seeds, 5 are needed" in flags["vanishing"].reason
    assert spectrum_flags(few, Thresholds(least_seeds=4), KEY)["vanishing"].raised


def test_a_threshold_within_the_interval_is_undecided(linear):
    value = spectrum_flags(linear["large"], Thresholds(), KEY)["exploding"].value
    flags = spectrum_flags(linear["large"], Thresholds(log_gain=value), KEY)
    assert flags["exploding"].state == "undecided"
    assert "interval" in flags["exploding"].reason
    assert spectrum_flags(linear["large"], Thresholds(log_gain=value + 3), KEY)["exploding"].state == "clear"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-np.inf] * 6, (-np.inf, -np.inf)),
        ([np.inf] * 6, (np.inf, np.inf)),
        ([1.0] * 6, (1.0, 1.0)),
        ([-np.inf, -np.inf, 0.0, 1.0, 2.0], (-np.inf, 2.0)),
    ],
)
def test_infinities_are_kept_in_intervals(values, expected):
    assert interval(np.array(values), KEY, 0.95) == expected


# --- gradients -----------------------------------------------------------------------------------------------------

WIDTHS = [6, 6, 6, 6, 3]


def tiny_loss(output, target):
    return 1e-30 * _task._cross_entropy(output, target)


def zero_head():
    def choose(layer, sigma_w):
        return initializers.zeros() if layer.role == "head" else initializers.orthogonal()

    return Scheme("zero_head", choose, "orthogonal, but for a head of zeros")


def gradient_flag(scheme, loss=None, probed=True):
    net = networks.mlp(WIDTHS, "tanh", scheme)
    xs = jax.random.normal(jax.random.key(1), (32, 6))
    task, _ = _task.make_task(net, xs, None, loss, None, 3, jax.random.key(2))
    params = jax.jit(jax.vmap(net.init))(jax.random.split(jax.random.key(0), 3))
    probe = _probe.run(net, task, params) if probed else None
    return zero_gradient(net, task, params, 4, probe, certified(net, params)), net, task, params


def test_zeros_get_no_gradient_and_never_will():
    flag, *_ = gradient_flag("zeros")
    assert flag.raised
    assert flag.evidence["layers"].tolist() == [0, 1, 2, 3]
    assert (flag.evidence["first_signal"] == -1).all()
    assert flag.evidence["kind"] == "permanent"
    assert not flag.evidence["first_gradient"].any()
    assert "certified, no signal arrives at any step" in flag.reason
    assert "random weights" in flag.remedy


def test_behind_a_zero_head_the_gradient_arrives_at_the_second_step():
    flag, *_ = gradient_flag(zero_head())
    assert flag.raised
    assert flag.evidence["layers"].tolist() == [0, 1, 2]
    assert (flag.evidence["first_signal"] == 2).all()
    assert (flag.evidence["first_gradient"] == 2).all()
    assert flag.evidence["kind"] == "recovering"
    assert "recovering: signal arrives by step 2" in flag.reason
    assert "none is needed" in flag.remedy


@pytest.mark.parametrize(
    ("earliest", "arrived", "steps", "kind", "words"),
    [
        ([[2, 3]], [[2, 4]], 9, "recovering", "by step 4"),
        ([[2, 3]], [[0, 0]], 0, "recovering", "by certificate, signal can arrive from step 3"),
        ([[2, 0]], [[2, -1]], 9, "permanent", "certified"),
        ([[0, 0]], [[5, 6]], 9, "recovering", "by step 6"),  # rounding or the optimizer broke the zero sums
        ([[1, 1]], [[-1, -1]], 9, "unknown", "none arrived within 9 steps"),  # units without slope at these inputs
        ([[1, 2]], [[0, 0]], 0, "unknown", "no probe was run"),
    ],
)
def test_what_becomes_of_layers_without_gradient(earliest, arrived, steps, kind, words):
    found, said = _outlook(np.array(earliest), np.array(arrived), steps)
    assert found == kind
    assert words in said


def test_a_healthy_network_gets_gradients():
    flag, *_ = gradient_flag("orthogonal", probed=False)
    assert flag.state == "clear"


def test_underflow_is_not_zero():
    """Gradients of 1e-8³ · 1e-30 are zeros in float32, subnormal ones kept or not, yet the layers are alive."""
    flag, net, task, params = gradient_flag(initializers.normal(std=1e-8), tiny_loss, probed=False)
    one = jax.tree.map(lambda a: np.asarray(a)[0], params)
    x, target = np.asarray(task.xs)[0], np.asarray(task.targets)[0]
    plain = jax.jit(jax.grad(lambda p: task.loss(net(p, x), target)))(one)
    assert not any(np.asarray(w).any() for w in net.function.weights(plain))
    assert flag.state == "clear"


# --- units ---------------------------------------------------------------------------------------------------------


def units_flag(net, params, spread=1.0, inputs=8):
    """dead_units on inputs x_0 + spread · noise."""
    first, noise = np.random.default_rng(1).normal(size=(2, inputs, 6))
    xs = (first[:1] + spread * noise).astype(np.float32)
    return dead_units(net, pre_activations(net.function, params, xs), Thresholds(), KEY)


@pytest.fixture(scope="module")
def relu():
    net = networks.mlp([6, 32, 32, 3], "relu", "gaussian")
    return net, params_of(net, sigma_w=2**0.5, seeds=5)


def test_large_negative_biases_kill_units(relu):
    net, params = relu
    killed = {"layers": tuple({**run, "b": np.full_like(run["b"], -10.0)} for run in params["layers"])}
    flag = units_flag(net, killed)
    assert flag.raised
    assert flag.value > 0.9
    assert flag.evidence["active_share_bound"] == 3 / 8


def test_half_a_layer_of_dead_units_does_not_excuse_itself(relu):
    """It spoils the covariance that the Gaussian null is made of: of one-sided units half should live."""
    net, params = relu
    half = params["layers"][0]["b"].copy()
    half[..., :16] = -100.0
    params = {"layers": ({**params["layers"][0], "b": half}, *params["layers"][1:])}
    flag = units_flag(net, params)
    assert flag.raised
    assert 0.5 <= flag.value < 0.6


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_healthy_relu_units_are_not_dead(relu, spread):
    """As the inputs become one, half of all units look dead; the null knows."""
    flag = units_flag(*relu, spread)
    assert flag.state == "clear"
    if spread < 1:
        assert 0.3 < flag.value < 0.7


def test_a_network_of_zeros_has_only_dead_units(relu):
    """relu'(0) = 0 everywhere; the null of units on exact zero is the one of unit scale: 2^-8 of them."""
    net, params = relu
    flag = units_flag(net, jax.tree.map(np.zeros_like, params))
    assert flag.raised
    assert flag.value == 1.0
    assert np.isfinite(flag.threshold)


def test_few_seeds_leave_dead_units_undecided(relu):
    net, params = relu
    assert units_flag(net, jax.tree.map(lambda a: np.zeros_like(a[:4]), params)).state == "undecided"


def test_tanh_has_no_dead_units():
    net = networks.mlp([6, 32, 32, 3], "tanh", "gaussian")
    flag = units_flag(net, params_of(net, sigma_w=1.0, seeds=5))
    assert flag.state == "clear"
    assert flag.value == 0
