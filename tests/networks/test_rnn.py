"""Recurrent networks against loops over their equations, and mean-field theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, networks
from isometry.networks._cells import CELLS

STEPS, UNITS, N_IN = 4, 5, 3

# Wide enough for mean-field theory, which errs by 1/width: less than the draws do.
UNITS_WIDE = 128


def logistic(z):
    return 1 / (1 + np.exp(-z))


def affine(gate, h, x):
    return gate["recurrent"].T @ h + gate["input"].T @ x + gate["b"]


def vanilla(p, h, c, x):
    return np.tanh(affine(p["state"], h, x)), c


def minimal(p, h, c, x):
    z = np.tanh(p["candidate"]["input"].T @ x + p["candidate"]["b"])
    u = logistic(affine(p["update"], h, z))
    return u * h + (1 - u) * z, c


def gru(p, h, c, x):
    u = logistic(affine(p["update"], h, x))
    r = logistic(affine(p["reset"], h, x))
    g = np.tanh(affine(p["candidate"], r * h, x))
    return u * h + (1 - u) * g, c


def lstm(p, h, c, x):
    i, f, o = (
        logistic(affine(p[gate], h, x)) for gate in ("input", "forget", "output")
    )
    c = f * c + i * np.tanh(affine(p["cell"], h, x))
    return o * np.tanh(c), c


LOOPS = {"vanilla": vanilla, "minimal": minimal, "gru": gru, "lstm": lstm}


def loop(cell, p, x, *, nudge=0.0, at=None):
    """Run in NumPy, and add `nudge` to h after step `at`."""
    h = c = np.zeros(UNITS)
    states = []
    for t, x_t in enumerate(x):
        h, c = LOOPS[cell](p, h, c, x_t)
        if t == at:
            h = h + nudge
        states.append(h)
    return states, p["head"]["w"].T @ h + p["head"]["b"]


@pytest.mark.parametrize("cell", LOOPS)
def test_cells_follow_their_equations(cell):
    with jax.enable_x64(True):
        net = networks.rnn(UNITS, N_IN, 2, cell, sigma_w=2.0, sigma_b=0.5)
        params = jax.jit(net.init)(jax.random.key(0))
        x = np.random.default_rng(0).normal(size=(STEPS, N_IN))
        output = jax.jit(net.function)(params, x)
    _, expected = loop(cell, jax.tree.map(np.asarray, params), x)
    np.testing.assert_allclose(output, expected, rtol=1e-12)


def test_span_between_states_of_an_lstm_moves_h_alone():
    """The Jacobian of two steps, by central differences in float64."""
    with jax.enable_x64(True):
        net = networks.rnn(UNITS, N_IN, 2, "lstm", sigma_w=2.0, sigma_b=0.5)
        params = jax.jit(net.init)(jax.random.key(0))
        x = np.random.default_rng(0).normal(size=(STEPS, N_IN))
        jacobian = isometry.jacobian(net, params, x, span=("h@1", "h@3"))
    p = jax.tree.map(np.asarray, params)
    # Central differences with step h err by h**2 and by eps/h; both are below 1e-9.
    step = 1e-5
    columns = []
    for unit in np.eye(UNITS):
        ahead, _ = loop("lstm", p, x, nudge=step * unit, at=1)
        behind, _ = loop("lstm", p, x, nudge=-step * unit, at=1)
        columns.append((ahead[3] - behind[3]) / (2 * step))
    np.testing.assert_allclose(jacobian, np.stack(columns, 1), atol=1e-9)


@pytest.mark.parametrize("last", [1, 19])
def test_orthogonal_linear_recurrence_is_an_isometry_at_all_times(last):
    """W^t is orthogonal for every t, because all steps share one orthogonal W."""
    net = networks.rnn(12, N_IN, 2, activation="linear")
    params = jax.jit(net.init)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (20, N_IN))
    # One rounding of a product of 12 terms a step.
    tolerance = 20 * 12 * float(jnp.finfo(jnp.float32).eps)
    jacobian = isometry.jacobian(net, params, x, span=("h@0", f"h@{last}"))
    values = np.linalg.svd(jacobian, compute_uv=False)
    np.testing.assert_allclose(values, 1.0, atol=tolerance)


def test_identity_recurrence_of_relus_keeps_or_drops_each_unit():
    """J is the product of the diagonal slopes, so its singular values are 0 and 1."""
    net = networks.rnn(12, N_IN, 2, activation="relu", scheme="identity")
    params = jax.jit(net.init)(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, N_IN))
    jacobian = np.asarray(isometry.jacobian(net, params, x, span=("h@0", "h@4")))
    assert set(np.diagonal(jacobian)) == {0.0, 1.0}
    assert not (jacobian - np.diag(np.diagonal(jacobian))).any()


def mean_square(net, q, r, seeds=8):
    """Return mean and standard error of lam over one step, from h and x beside W.

    h is drawn apart from the weights, with mean square `q`; V x has variance `r`.
    """
    units, n_in = net.function.units, net.function.n_in
    cell = CELLS[net.function.kind]

    def one(key):
        key_params, key_h, key_x = jax.random.split(key, 3)
        params = jax.jit(net.init)(key_params)
        h = q**0.5 * unit_rms(jax.random.normal(key_h, (units,)))
        x = r**0.5 * unit_rms(jax.random.normal(key_x, (n_in,)))

        def step(h):
            return cell.step(params, net.activation, (h,), x=x)[0]

        return (jax.jacfwd(step)(h) ** 2).sum() / units

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), seeds))
    return found.mean(), found.std(ddof=1) / seeds**0.5


def unit_rms(x):
    return x / jnp.sqrt((x * x).mean())


@pytest.mark.parametrize(
    ("sigma_w", "bias", "q", "chi"),
    [(1.0, 0.0, 0.4403957, 0.3645452), (4.0, 2.0, 0.4825138, 1.0302529)],
)
def test_one_step_of_a_minimal_rnn_grows_as_theory_says(sigma_w, bias, q, chi):
    """E lam = E u**2 + sigma_w**2 E s**2, s the derivative of u times h - z.

    The values are solutions of the mean-field equations for z of variance 1.
    """
    net = networks.rnn(
        UNITS_WIDE,
        UNITS_WIDE,
        1,
        "minimal",
        activation="linear",
        scheme="gaussian",
        sigma_w=sigma_w,
        gate_bias=bias,
    )
    mean, error = mean_square(net, q, 1.0)
    assert abs(mean - chi) < 4 * error
    assert error < 0.03 * chi


def test_one_step_of_a_gru_grows_as_theory_says():
    net = networks.rnn(
        UNITS_WIDE,
        UNITS_WIDE,
        1,
        "gru",
        scheme="gaussian",
        sigma_w={"update": 2.0, "reset": 2.0, "candidate": 3.0},
        gate_bias=1.0,
    )
    mean, error = mean_square(net, 0.0319517, 0.1)
    assert abs(mean - 0.8573995) < 4 * error
    assert error < 0.03 * 0.86


def test_weights_have_the_scales_of_their_gates():
    net = networks.rnn(
        64,
        40,
        2,
        "gru",
        sigma_w={"reset": 3.0},
        sigma_v={"candidate": 0.5},
        sigma_b={"update": 2.0},
        gate_bias={"update": 5.0},
    )
    params = jax.jit(net.init)(jax.random.key(0))
    for gate, scale in (("update", 1.0), ("reset", 3.0)):
        values = np.linalg.svd(params[gate]["recurrent"], compute_uv=False)
        np.testing.assert_allclose(values, scale, rtol=1e-5)
    # The variance of 2560 entries is known to 3 %, the moments of 64 to 0.25 and 9 %.
    assert abs(40 * params["candidate"]["input"].var() - 0.25) < 4 * 0.03 * 0.25
    assert abs(40 * params["reset"]["input"].var() - 1.0) < 4 * 0.03
    assert abs(params["update"]["b"].mean() - 5.0) < 4 * 0.25
    assert abs(params["update"]["b"].std() - 2.0) < 4 * 0.09 * 2.0
    assert not params["reset"]["b"].any()


def test_one_gate_bias_is_that_of_the_gates_that_multiply():
    net = networks.rnn(4, 3, 2, "lstm", gate_bias=1.5)
    params = jax.jit(net.init)(jax.random.key(0))
    for gate in ("input", "forget", "output"):
        np.testing.assert_array_equal(params[gate]["b"], 1.5)
    assert not params["cell"]["b"].any()


def test_chrono_spreads_memories_uniformly():
    """exp b is uniform on [1, T - 1): mean T/2, variance (T - 2)**2/12."""
    longest, units = 50, 2000
    net = networks.rnn(units, 1, 1, "gru", gate_bias=networks.chrono(longest))
    biases = jax.eval_shape(net.init, jax.random.key(0))["update"]["b"]
    assert biases.shape == (units,)
    law = net.laws.biases(jax.random.key(0), CELLS["gru"], units, dtype=jnp.float32)
    memories = np.exp(law["update"])
    assert memories.min() >= 1.0
    assert memories.max() < longest - 1.0
    error = (longest - 2) / (12 * units) ** 0.5
    assert abs(memories.mean() - longest / 2) < 4 * error
    assert not law["reset"].any()


def test_anatomy_names_weights_and_states():
    an = networks.rnn(4, 3, 2, "lstm", length=3).anatomy
    roles = {layer.name: layer.role for layer in an.layers}
    gates = ("input", "forget", "output", "cell")
    expected = {f"{gate}/input": "stem" for gate in gates}
    expected |= {f"{gate}/recurrent": "recurrent" for gate in gates}
    assert roles == {**expected, "head": "head"}
    tied = {layer.name: layer.tied for layer in an.layers}
    assert tied.pop("head") is False
    assert all(tied.values())
    states = [point for point in an.points if point[:2] in ("h@", "c@")]
    assert states == ["h@0", "c@0", "h@1", "c@1", "h@2"]
    assert an.branches == ()


def test_gates_of_a_gru_are_no_branches():
    an = networks.rnn(4, 3, 2, "gru", length=3).anatomy
    assert an.branches == ()
    # Reset and candidate stand behind each other in every step.
    assert an.depth == 3 * 2 + 1


def test_sequences_of_any_length_are_read():
    net = networks.rnn(4, 3, 2, length=5)
    params = jax.jit(net.init)(jax.random.key(0))
    assert net.input_shape == (5, 3)
    assert net(params, jnp.ones((9, 3))).shape == (2,)
    with pytest.raises(InputError, match=r"x has shape \(2, 9, 3\).*For a batch"):
        net(params, jnp.ones((2, 9, 3)))


def test_redrawn_gates_have_no_weights_that_are_critical_for_a_sigmoid():
    """A gate multiplies, and orthogonal weights of scale 10 would make it a switch."""
    net = networks.rnn(4, 3, 2, "gru").with_scheme("orthogonal")
    params = jax.jit(net.init)(jax.random.key(0))
    for gate in ("update", "reset", "candidate"):
        values = np.linalg.svd(params[gate]["recurrent"], compute_uv=False)
        np.testing.assert_allclose(values, 1.0, rtol=1e-5)
    # It reads sequences of all lengths, as the network itself does.
    assert isometry.jacobian(net, params, jnp.ones((2, 3))).shape == (2, 6)


def test_functions_of_one_architecture_are_equal():
    one = networks.rnn(4, 3, 2, "gru", sigma_w=1.0)
    other = networks.rnn(4, 3, 2, "gru", sigma_w=2.0)
    assert one.function == other.function
    assert hash(one.function) == hash(other.function)
    assert one.function != networks.rnn(4, 3, 2, "lstm").function


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cell": "gur"}, "Did you mean 'gru'"),
        ({"scheme": "kaiming"}, r"with_scheme\('kaiming'\)"),
        ({"sigma_w": {"forget": 1.0}}, "gate of sigma_w='forget' is not known"),
        ({"sigma_v": -1.0}, r"sigma_v=-1.0 is not a finite number in \[0"),
        ({"gate_bias": 1.0}, "a vanilla cell has no gates"),
        ({"gate_bias": networks.chrono(9)}, "no gate that keeps its state"),
        ({"length": 0}, "length=0 must be a whole number"),
    ],
)
def test_what_a_cell_has_not_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        networks.rnn(4, 3, 2, **arguments)


def test_memories_of_two_steps_are_refused():
    with pytest.raises(InputError, match="longest=2"):
        networks.chrono(2)


def test_states_are_the_points_of_a_profile():
    net = networks.rnn(4, 3, 2, "lstm", length=3)
    keys = jax.random.split(jax.random.key(0), 1)
    profile = isometry.profile(net, keys, jnp.ones((1, 3, 3)))
    # c of the last step is read by no one: the output is made of h.
    assert profile.points == ("input", "h@0", "c@0", "h@1", "c@1", "h@2")


@pytest.mark.parametrize("cell", ["vanilla", "lstm"])
def test_hidden_span_of_a_recurrence_is_refused_with_its_states(cell):
    net = networks.rnn(4, 3, 2, cell, length=10)
    with pytest.raises(InputError, match=r'write two.*span=\("h@0", "h@9"\)'):
        isometry.spectrum(
            net, jax.jit(net.init)(jax.random.key(0)), jnp.ones((10, 3)), span="hidden"
        )
