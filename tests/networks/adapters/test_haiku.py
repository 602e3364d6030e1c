"""Transformed functions of Haiku, against their own apply and NumPy."""

import sys

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, MissingExtra, networks
from isometry._internal.errors import NotDefined
from isometry.networks.adapters._examples import Shapes
from tests.networks.adapters import reference
from tests.networks.adapters.reference import BATCH, KEYS, X, close


def layer(x, is_training, axis=None):
    """The model of `reference`."""
    norm = hk.BatchNorm(True, True, 0.9, cross_replica_axis=axis)
    x = jax.nn.relu(norm(hk.Linear(4)(x), is_training))
    # Most models ask for a key in both modes.
    key = hk.next_rng_key()
    return hk.dropout(key, 0.5 if is_training else 0.0, x)


def over_devices(x, is_training):
    return layer(x, is_training, axis="i")


@pytest.fixture(scope="module")
def transformed():
    return hk.transform_with_state(layer)


@pytest.fixture(scope="module")
def net(transformed):
    return networks.haiku(transformed, X)


@pytest.fixture(scope="module")
def trained(transformed):
    """Parameters and state as Haiku returns them, a plain pair."""
    init = jax.jit(transformed.init, static_argnames="is_training")
    return init(KEYS[0], BATCH, is_training=True)


def weights(params):
    return params["linear"]["w"], params["linear"]["b"]


def test_init_is_that_of_the_function(net, transformed):
    params, state = net.init(KEYS[0])
    expected, of_state = transformed.init(KEYS[0], BATCH, True)
    jax.tree.map(close, params, expected)
    assert jax.tree.structure(state) == jax.tree.structure(of_state)


def test_averages_are_drawn_at_standard_normal_examples(net):
    """Of 8 examples the variance of each unit is near |w|², and never zero."""
    params, state = net.init(KEYS[0])
    (var,) = [
        of_module["average"]
        for name, of_module in state.items()
        if name.endswith("var_ema")
    ]
    expected = np.square(params["linear"]["w"]).sum(0)
    # The sum of squares of 8 normal numbers has relative deviation 1/2; it is below a
    # tenth or above five times its mean in less than one of 10^4 draws.
    assert np.all(np.abs(np.log(np.asarray(var).ravel() / expected)) < np.log(10.0))


def test_a_scheme_takes_averages_of_its_own_weights(net, transformed):
    """Haiku's batch norm has the statistics of its first batch for averages."""
    params, state = net.with_scheme("orthogonal", sigma_w=3.0).init(KEYS[0])
    w, _ = weights(params)
    close(w @ w.T, 9.0 * np.eye(3))
    xs = Shapes.of(net.example).batch(KEYS[0], 8)
    z = np.asarray(xs @ w)
    close(state["batch_norm/~/var_ema"]["average"][0], z.var(0), 10 * reference.BOUND)
    close(state["batch_norm/~/mean_ema"]["average"][0], z.mean(0))


def test_inference_normalizes_by_the_averages_in_the_state(net, trained):
    params, state = trained
    averages = {
        kind: np.asarray(state[f"batch_norm/~/{kind}_ema"]["average"])[0]
        for kind in ("mean", "var")
    }
    expected = reference.inference(*weights(params), X, **averages)
    close(net(trained, X), expected)
    close(net(net.params_of(params, state), X), expected)


def test_training_normalizes_by_the_batch_and_drops(net, trained):
    before = reference.training(*weights(trained[0]), BATCH)
    kept = [
        reference.require_dropped(net.training(trained, (BATCH, key)), before)
        for key in KEYS[:2]
    ]
    assert np.any(kept[0] != kept[1])


def test_spectrum_in_training_is_of_the_whole_batch(net, trained):
    x = (BATCH, KEYS[0])
    kept = np.asarray(net.training(trained, x)) != 0
    matrix = isometry.jacobian(net.training, trained, x)
    expected = reference.training_jacobian(*weights(trained[0]), BATCH, kept)
    close(matrix, expected)


def test_norms_over_devices_take_the_statistics_of_the_batch(net, trained):
    over = networks.haiku(hk.transform_with_state(over_devices), X).training
    x = (BATCH, KEYS[0])
    close(jax.jit(over)(trained, x), jax.jit(net.training)(trained, x))


def test_layers_are_named_without_the_pair(net):
    (one,) = net.anatomy.layers
    assert one.name == "linear"


def test_networks_of_one_transform_have_equal_functions(net, transformed):
    other = networks.haiku(transformed, X)
    assert other.function == net.function
    assert hash(other.function) == hash(net.function)


def test_seeds_are_mapped(net):
    params = jax.vmap(net.init)(KEYS)
    outputs = jax.jit(jax.vmap(net, (0, None)))(params, X)
    for i in range(3):
        of_seed = jax.tree.map(lambda a, i=i: a[i], params)
        close(outputs[i], net(of_seed, X))


# --- Other transforms


def plain(x):
    return hk.Linear(2)(x)


@pytest.mark.parametrize(
    "transformed",
    [hk.transform(plain), hk.without_apply_rng(hk.transform(plain))],
)
def test_functions_without_state(transformed):
    net = networks.haiku(transformed, X)
    params = net.init(KEYS[0])
    w, b = weights(params)
    close(net(params, X), X @ w + b)
    assert net.training(params, BATCH).shape == (4, 2)


def test_parameters_without_their_state_are_refused(net, trained):
    with pytest.raises(InputError, match=r"params is a dict; .*\(params, state\)"):
        isometry.spectrum(net, trained[0], X)


def at_rate_zero(x):
    return hk.dropout(hk.next_rng_key(), 0.0, x)


def test_a_key_without_use_is_no_part_of_x():
    net = networks.haiku(hk.transform(at_rate_zero), X)
    np.testing.assert_array_equal(net({}, X), X)
    np.testing.assert_array_equal(net.training({}, BATCH), BATCH)
    with pytest.raises(InputError, match="draws nothing in training mode; write x=b"):
        net.training({}, (BATCH, KEYS[0]))


def drops(x):
    return hk.dropout(hk.next_rng_key(), 0.5, x)


def test_a_function_that_draws_in_inference_is_refused():
    with pytest.raises(InputError, match="draws at random in inference"):
        networks.haiku(hk.transform(drops), X)


def fixed(x):
    return hk.BatchNorm(True, True, 0.9)(x, False, test_local_stats=True)


def test_a_fixed_mode_has_no_training():
    net = networks.haiku(hk.transform_with_state(fixed), X)
    with pytest.raises(NotDefined, match="'batch_norm' is called in inference mode"):
        _ = net.training


def of_tree(image, scale):
    return {"scaled": image * scale}


def test_trees_of_inputs_and_outputs():
    x = (X, jnp.full(3, 2.0))
    net = networks.haiku(hk.transform(of_tree), x, output="scaled")
    np.testing.assert_array_equal(net({}, x), 2 * X)


def embedded(tokens):
    return hk.Embed(5, 3)(tokens)


def test_tokens():
    tokens = jnp.asarray([1, 4])
    net = networks.haiku(hk.transform(embedded), tokens)
    params = net.init(KEYS[0])
    rows = params["embed"]["embeddings"][tokens]
    np.testing.assert_array_equal(net(params, tokens), rows)


def images(x):
    rows, height, width = x.shape
    return hk.Linear(2)(x.reshape(rows, height * width))


def test_a_batch_as_example_is_refused():
    with pytest.raises(InputError, match=r"Write one x.*example\[0\]"):
        networks.haiku(hk.transform(images), jnp.ones((5, 2, 2)))


@pytest.mark.parametrize("transformed", [layer, None, hk.Linear])
def test_what_is_no_transform_is_refused(transformed):
    with pytest.raises(InputError, match=r"write networks.haiku\(hk.transform\(f\)"):
        networks.haiku(transformed, X)


def last_state(xs):
    """Return the output of the last step of an LSTM, for a batch of sequences."""
    cell = hk.LSTM(4)
    states, _ = hk.dynamic_unroll(
        cell, xs, cell.initial_state(len(xs)), time_major=False
    )
    return hk.Linear(2)(states[:, -1])


def lstm_step(x, state):
    return hk.LSTM(4)(x, state)


def test_states_of_an_lstm_are_told_apart():
    """Against the cell itself, step by step."""
    net = networks.haiku(hk.transform(last_state), jnp.ones((3, 2)))
    params = net.init(KEYS[0])
    xs = jax.random.normal(KEYS[1], (3, 2))
    step = hk.without_apply_rng(hk.transform(lstm_step)).apply
    state = hk.LSTMState(hidden=jnp.zeros(4), cell=jnp.zeros(4))
    for x in xs[:2]:
        _, state = step(params, x, state)
    reference.same_states(net, params, xs, h=state.hidden, c=state.cell)


def test_haiku_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "haiku", None)
    with pytest.raises(MissingExtra, match=r"pip install '\.\[haiku\]'"):
        networks.haiku(None, X)
