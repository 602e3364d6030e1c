"""Mean field of recurrent networks, against simulated networks and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import networks, theory
from isometry._internal import errors

GATES = ("update", "reset", "candidate")


def test_vanilla_state_is_that_of_a_deep_network_with_the_input_as_bias():
    """W acts once a step, as in a layer; V x + b has the variance of a bias."""
    point = theory.recurrent("vanilla", 1.3, 0.5, sigma_b=0.2, input_variance=2.0)
    bias = (0.5**2 * 2.0 + 0.2**2) ** 0.5
    q = theory.q_fixed_point("tanh", 1.3, bias).value
    assert point.q == pytest.approx(q, rel=1e-12)
    chi = theory.chi("tanh", q, 1.3)
    assert point.chi == point.rate == pytest.approx(chi, rel=1e-12)


def test_mean_of_vanilla_biases_shifts_the_pre_activation():
    """phi is linear, so v = σ_w² (v + m²) + σ_v², and q = v + m²."""
    point = theory.recurrent(
        "vanilla", 0.5, 0.3, gate_bias={"state": 0.7}, activation="linear"
    )
    variance = (0.25 * 0.49 + 0.09) / 0.75
    assert point.q == pytest.approx(variance + 0.49, rel=1e-12)


@pytest.mark.parametrize(
    ("square_w", "square_v", "bias", "variance", "q", "chi"),
    [
        (1.0, 1.0, 0.0, 1.0, 0.4403957, 0.3645452),
        (4.0, 0.5, 1.0, 1.0, 0.3189800, 0.6846091),
        (16.0, 1.0, 2.0, 1.0, 0.4825138, 1.0302529),
        (2.25, 0.36, 0.8, 0.5, 0.1181163, 0.5323328),
    ],
)
def test_untied_minimal_rnn(square_w, square_v, bias, variance, q, chi):
    """Chen et al. (2018), with E z² = variance, by an independent quadrature."""
    point = theory.recurrent(
        "minimal",
        square_w**0.5,
        square_v**0.5,
        gate_bias=bias,
        tied=False,
        input_variance=variance,
    )
    assert point.q == pytest.approx(q, abs=1e-7)
    assert point.chi == point.rate == pytest.approx(chi, abs=1e-7)


def _sampled_gru(seed):
    """One step of a GRU with fresh weights, from samples of gates: q and chi."""
    rng = np.random.default_rng(seed)
    means = {"update": 0.4, "reset": -0.3, "candidate": 0.5}
    q, chi, num = 0.2, 0.0, 100_000
    h = 0.3 * rng.standard_normal(num)
    # Each gate has σ_w = 1.5, σ_v = 0.8, σ_b = 0.3; h is that of the last step.
    for _ in range(40):
        noise = {gate: rng.standard_normal(num) for gate in GATES}
        drive = 0.8**2 + 0.3**2
        u = jax.nn.sigmoid(
            means["update"] + (2.25 * q + drive) ** 0.5 * noise["update"]
        )
        r = jax.nn.sigmoid(means["reset"] + (2.25 * q + drive) ** 0.5 * noise["reset"])
        u, r = np.asarray(u), np.asarray(r)
        product = np.mean(r**2) * q
        g = np.tanh(
            means["candidate"] + (2.25 * product + drive) ** 0.5 * noise["candidate"]
        )
        of_update = 2.25 * (u * (1 - u) * (h - g)) ** 2
        of_product = np.mean(r**2) + 2.25 * np.mean((r * (1 - r)) ** 2) * q
        of_candidate = 2.25 * ((1 - u) * (1 - g**2)) ** 2 * of_product
        chi = np.mean(u**2 + of_update + of_candidate)
        h = u * h + (1 - u) * g
        q = np.mean(h**2)
    return q, chi


def test_untied_gru_with_biases_in_all_gates():
    """Samples of sites whose gates are independent from step to step.

    The tolerance is five standard errors of 100,000 samples of values below 1.
    """
    point = theory.recurrent(
        "gru",
        1.5,
        0.8,
        sigma_b=0.3,
        gate_bias={"update": 0.4, "reset": -0.3, "candidate": 0.5},
        tied=False,
    )
    q, chi = _sampled_gru(0)
    assert point.q == pytest.approx(q, abs=5 * 0.3 / 100_000**0.5)
    assert point.chi == pytest.approx(chi, abs=5 * 0.5 / 100_000**0.5)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_untied_lstm_against_a_population_of_sites(scale):
    """c, P = Var dc and H = E dh² at 10,000 sites with independent gates.

    At the larger scale the gates are all but steps.
    """
    sigma_w = {"input": scale, "forget": 1.0, "output": scale, "cell": 2 * scale}
    bias = {"forget": 2.0, "cell": 0.2}
    point = theory.recurrent("lstm", sigma_w, 0.1**0.5, gate_bias=bias, tied=False)
    rng = np.random.default_rng(0)
    num = 10_000
    c, spread, of_h, q = np.zeros(num), np.zeros(num), 1.0, 0.0
    log_growths, squares = [], []
    for step in range(80):
        u = {
            gate: bias.get(gate, 0.0)
            + (sigma**2 * q + 0.1) ** 0.5 * rng.standard_normal(num)
            for gate, sigma in sigma_w.items()
        }
        i, f, o = (1 / (1 + np.exp(-u[gate])) for gate in ("input", "forget", "output"))
        g = np.tanh(u["cell"])
        source = (c * f * (1 - f)) ** 2 + (scale * i * (1 - i) * g) ** 2
        source += (2 * scale * i * (1 - g**2)) ** 2
        before = spread.mean() + of_h
        c, spread = f * c + i * g, f**2 * spread + source * of_h
        tanh = np.tanh(c)
        of_output = np.mean(tanh**2) * np.mean((scale * o * (1 - o)) ** 2) * of_h
        of_h = np.mean((o * (1 - tanh**2)) ** 2 * spread) + of_output
        q = np.mean((o * tanh) ** 2)
        growth = (spread.mean() + of_h) / before
        spread, of_h = spread / growth, of_h / growth
        if step >= 40:
            squares.append(q)
            log_growths.append(np.log(growth))
    # Steps are correlated over about ten of them.
    error = np.std(log_growths) * (10 / len(log_growths)) ** 0.5 + 1e-4
    assert point.chi == pytest.approx(np.exp(np.mean(log_growths)), abs=5 * error)
    error = np.std(squares) * (10 / len(squares)) ** 0.5
    assert point.q == pytest.approx(np.mean(squares), abs=5 * error)


def test_untied_lstm_with_weak_inputs_is_linear():
    """All gates are 1/2: q = (σ_v²/16)/(1 − 1/4 − σ_w²/16), down to 1e-13."""
    point = theory.recurrent("lstm", 1.0, 1e-6, tied=False)
    new = 1e-12 / 4
    # c' = c/2 + g/2 with E g² = q + 1e-12, and h' = c'/2.
    square = new / (3 / 4 - 1 / 16)
    assert point.q == pytest.approx(square / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("cell", "sigma_w", "sigma_v", "gate_bias", "q", "rate"),
    [
        # Dense simulations at N = 2000 over 220 steps, three to eight draws: the
        # tolerance is two percent of the rate and four percent of q.
        ("gru", 1.0, 1.0, 0.0, 0.1733, 0.4439),
        ("gru", {"candidate": 2.0}, 0.1**0.5, 0.0, 0.0606, 0.883),
        ("minimal", 4.0, 1.0, 2.0, 0.3461, 1.0100),
        ("lstm", {"cell": 2.0}, 0.1**0.5, {"forget": 2.0}, 0.1834, 1.079),
    ],
)
def test_tied_weights_against_dense_networks(
    cell, sigma_w, sigma_v, gate_bias, q, rate
):
    point = theory.recurrent(cell, sigma_w, sigma_v, gate_bias=gate_bias, sites=1024)
    assert point.rate == pytest.approx(rate, rel=0.02)
    assert point.q == pytest.approx(q, rel=0.04)


def test_tied_network_of_this_package_grows_as_predicted():
    """|dh|² over steps 40 to 120 of `networks.rnn`, in 8 draws of width 256."""
    scales = {"update": 2.0, "reset": 1.0, "candidate": 2.5}
    bias = {"update": 1.0, "candidate": 0.3}
    arguments = {"sigma_w": scales, "sigma_v": 0.4, "sigma_b": 0.3, "gate_bias": bias}
    net = networks.rnn(256, 64, 1, "gru", scheme="gaussian", **arguments)
    cell = net.function.cell

    def growth(key):
        key_params, key_x, key_h = jax.random.split(key, 3)
        params = net.init(key_params)
        xs = jax.random.normal(key_x, (120, 64))

        def step(states, x):
            def advance(h):
                return cell.step(params, jnp.tanh, (h,), x=x)[0]

            h, change = jax.jvp(advance, states[:1], states[1:])
            size = jnp.sqrt(jnp.mean(change**2))
            return (h, change / size), (jnp.log(size), jnp.mean(h**2))

        start = (jnp.zeros(256), jax.random.normal(key_h, (256,)))
        _, (logs, squares) = jax.lax.scan(step, start, xs)
        return 2 * logs[40:].mean(), squares[40:].mean()

    logs, squares = jax.jit(jax.vmap(growth))(jax.random.split(jax.random.key(0), 8))
    point = theory.recurrent("gru", **arguments, steps=120, sites=1024)
    for drawn, predicted in ((logs, np.log(point.rate)), (squares, point.q)):
        error = float(drawn.std(ddof=1)) / 8**0.5
        # The population scatters as much as one draw of four times the width.
        assert abs(float(drawn.mean()) - predicted) < 4 * 1.25 * error


def test_equal_keys_give_equal_results_and_others_scatter():
    arguments = {"sites": 512, "gate_bias": 1.0}
    first = theory.recurrent("minimal", 2.0, 1.0, **arguments)
    again = theory.recurrent("minimal", 2.0, 1.0, **arguments, key=jax.random.key(0))
    other = theory.recurrent("minimal", 2.0, 1.0, **arguments, key=jax.random.key(1))
    assert first == again
    assert first.rate != other.rate
    assert other.rate == pytest.approx(first.rate, rel=0.02)


def test_state_zero_grows_by_the_spectral_radius():
    """J = ½ + ¼ σ W has the radius ½ + σ/4, and a GRU with reset bias b another.

    That is u + (1 − u) s(b) σ, and of an LSTM f + i o σ.
    """
    assert theory.recurrent("gru", 2.0, 0.0).rate == pytest.approx(1.0, rel=1e-12)
    assert theory.recurrent("lstm", 3.0, 0.0).rate == pytest.approx(1.25**2, rel=1e-12)
    u, r = 1 / (1 + np.exp(-1.5)), 1 / (1 + np.exp(0.4))
    bias = {"update": 1.5, "reset": -0.4}
    point = theory.recurrent("gru", 1.7, 0.0, gate_bias=bias)
    assert point.rate == pytest.approx((u + (1 - u) * r * 1.7) ** 2, rel=1e-12)
    assert point.q == 0.0


def test_random_gate_biases_at_state_zero():
    """The largest eigenvalue of a dense J at N = 1500, whose error is about 1/√N."""
    point = theory.recurrent("gru", 3.0, 0.0, sigma_b={"update": 0.8, "reset": 0.5})
    rng = np.random.default_rng(0)
    n = 1500
    u, r = (1 / (1 + np.exp(-s * rng.standard_normal(n))) for s in (0.8, 0.5))
    jac = (
        np.diag(u) + (1 - u)[:, None] * (3.0 / n**0.5) * rng.standard_normal((n, n)) * r
    )
    # A power of it, because eigenvalues of a matrix this large take long.
    v = rng.standard_normal(n)
    logs = []
    for _ in range(200):
        v = jac @ v
        logs.append(np.log(np.linalg.norm(v)))
        v /= np.linalg.norm(v)
    assert np.log(point.rate) == pytest.approx(2 * np.mean(logs[40:]), abs=0.05)


def test_refusals_name_what_is_wrong():
    with pytest.raises(isometry.InputError, match="gate of sigma_w='cell'"):
        theory.recurrent("gru", {"cell": 1.0}, 1.0)
    with pytest.raises(isometry.InputError, match="vanilla cell has no gates"):
        theory.recurrent("vanilla", 1.0, 1.0, gate_bias=1.0)
    with pytest.raises(isometry.InputError, match="sigma_v=-1"):
        theory.recurrent("vanilla", 1.0, -1.0)
    with pytest.raises(errors.NotDefined, match="tanh"):
        theory.recurrent("lstm", 1.0, 1.0, activation="relu")
    with pytest.raises(errors.NotDefined, match="tied=False"):
        theory.recurrent("minimal", 1.0, 1.0, gate_bias=6.0)
    with pytest.raises(theory.NoFixedPoint, match="without bound"):
        theory.recurrent("gru", {"candidate": 3.0}, 1.0, activation="relu", tied=False)
