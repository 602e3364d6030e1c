"""Equinox modules, against their own calls and NumPy."""

import sys
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, MissingExtra, networks
from isometry._internal.errors import NotDefined
from tests.networks.adapters import reference
from tests.networks.adapters.reference import BATCH, KEYS, X, close


class Layer(eqx.Module):
    """The model of `reference`, with an activation of its own in a static field."""

    dense: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    order: jax.Array
    activation: Callable = eqx.field(static=True)

    def __init__(self, key):
        self.dense = eqx.nn.Linear(3, 4, key=key)
        self.norm = eqx.nn.BatchNorm(4, "examples", mode="batch")
        self.dropout = eqx.nn.Dropout(0.5)
        # Arrays of whole numbers belong to the module too.
        self.order = jax.random.permutation(key, 4)
        self.activation = lambda x: jax.nn.relu(x)

    def __call__(self, x, state, key):
        # Many models split the key they get without asking whether there is one.
        own, _ = jax.random.split(key)
        x, state = self.norm(self.dense(x)[self.order], state)
        return self.dropout(self.activation(x), key=own), state


build = eqx.nn.make_with_state(Layer)


@pytest.fixture(scope="module")
def net():
    return networks.equinox(build, X)


@pytest.fixture(scope="module")
def trained():
    """A module and its state after a batch in training mode."""

    # As one program, of which every operation would otherwise be one.
    @eqx.filter_jit
    def after_one_batch(key):
        module, state = build(key)
        called = jax.vmap(
            module, axis_name="examples", in_axes=(0, None, 0), out_axes=(0, None)
        )
        _, state = called(BATCH, state, jax.random.split(KEYS[0], len(BATCH)))
        return module, state

    return after_one_batch(jax.random.key(5))


def weights(module):
    return module.dense.weight[module.order].T, module.dense.bias[module.order]


def test_init_is_the_arrays_of_a_new_module(net):
    params, state = net.init(KEYS[0])
    module, of_state = build(KEYS[0])
    jax.tree.map(close, params.dense, module.dense)
    np.testing.assert_array_equal(params.order, module.order)
    jax.tree.map(close, jax.tree.leaves(state), jax.tree.leaves(of_state))


def test_inference_normalizes_by_the_averages_of_a_trained_module(net, trained):
    module, state = trained
    call = eqx.filter_jit(eqx.nn.inference_mode(module))
    expected, _ = call(X, state, KEYS[0])
    # Its activation is another function than that of the network.
    outputs = jax.jit(net)
    close(outputs(net.params_of(module, state), X), expected)
    new = jax.jit(net.init)(KEYS[0])
    with_new = net.module(new)[0]
    close(outputs(new, X), reference.inference(*weights(with_new), X))


def test_training_normalizes_by_the_batch_and_drops(net, trained):
    params = net.params_of(*trained)
    before = reference.training(*weights(trained[0]), BATCH)
    kept = [
        reference.require_dropped(net.training(params, (BATCH, key)), before)
        for key in KEYS[:2]
    ]
    assert np.any(kept[0] != kept[1])


def test_spectrum_in_training_is_of_the_whole_batch(net, trained):
    params = net.params_of(*trained)
    x = (BATCH, KEYS[0])
    kept = np.asarray(net.training(params, x)) != 0
    matrix = isometry.jacobian(net.training, params, x)
    expected = reference.training_jacobian(*weights(trained[0]), BATCH, kept)
    close(matrix, expected)


def test_a_module_comes_back(net, trained):
    params = net.params_of(*trained)
    module, state = net.module(params)
    y, _ = module(X, state, KEYS[0])
    close(y, net(params, X))
    module, _ = net.training.module(params)
    assert module.norm.inference is False


def test_networks_of_one_class_have_equal_functions():
    nets = [networks.equinox(Plain, X) for _ in range(2)]
    assert nets[0].function == nets[1].function
    assert hash(nets[0].function) == hash(nets[1].function)


def test_seeds_are_mapped(net):
    params = jax.vmap(net.init)(KEYS)
    outputs = jax.jit(jax.vmap(net, (0, None)))(params, X)
    for i in range(3):
        of_seed = jax.tree.map(lambda a, i=i: a[i], params)
        close(outputs[i], net(of_seed, X))


def test_layers_are_named_without_the_pair(net):
    (layer,) = net.anatomy.layers
    assert layer.name == "dense"


# --- Other modules


class Plain(eqx.Module):
    dense: eqx.nn.Linear

    def __init__(self, key):
        self.dense = eqx.nn.Linear(3, 2, key=key)

    def __call__(self, x, *, key=None):
        return self.dense(x)


class WithKeyOrNone(eqx.Module):
    """Dropout that is off where there is no key."""

    def __call__(self, x, key=None):
        if key is None:
            return x
        return x * 2 * jax.random.bernoulli(key, 0.5, x.shape)


def test_a_key_is_passed_where_the_module_needs_one():
    net = networks.equinox(Plain, X)
    module = Plain(KEYS[0])
    params = net.params_of(module)
    close(net(params, X), module(X))
    # It draws nothing, so x is the batch alone.
    close(net.training(params, BATCH), jax.vmap(module)(BATCH))
    drawing = networks.equinox(lambda key: WithKeyOrNone(), X)
    np.testing.assert_array_equal(drawing(drawing.init(KEYS[0]), X), X)
    batch, _ = drawing.training.example
    assert batch.shape == (8, 3)


class Drawing(eqx.Module):
    def __call__(self, x, key):
        return x * jax.random.normal(key, x.shape)


def test_a_module_that_draws_in_inference_is_refused():
    with pytest.raises(InputError, match="draws at random in inference"):
        networks.equinox(lambda key: Drawing(), X)


class Norms(eqx.Module):
    first: eqx.nn.BatchNorm
    second: eqx.nn.BatchNorm

    def __init__(self, key):
        self.first = eqx.nn.BatchNorm(3, "i", mode="batch")
        self.second = eqx.nn.BatchNorm(3, "j", mode="batch")

    def __call__(self, x, state):
        x, state = self.first(x, state)
        return self.second(x, state)


def test_statistics_over_axes_of_several_names_have_no_training():
    net = networks.equinox(eqx.nn.make_with_state(Norms), X)
    with pytest.raises(NotDefined, match="several names, 'i', 'j'"):
        _ = net.training


class Outputs(eqx.Module):
    def __call__(self, image, scale, *, shift=0.0):
        return image * scale + shift, scale


def test_trees_of_inputs_and_outputs():
    x = (X, jnp.full(3, 2.0))
    net = networks.equinox(lambda key: Outputs(), x, shift=1.0)
    params = net.init(KEYS[0])
    np.testing.assert_array_equal(net(params, x), 2 * X + 1)
    second = networks.equinox(lambda key: Outputs(), x, output=1)
    np.testing.assert_array_equal(second(params, x), x[1])


class Tokens(eqx.Module):
    embed: eqx.nn.Embedding

    def __init__(self, key):
        self.embed = eqx.nn.Embedding(5, 3, key=key)

    def __call__(self, tokens):
        return jax.vmap(self.embed)(tokens)


def test_tokens():
    tokens = jnp.asarray([1, 4])
    net = networks.equinox(Tokens, tokens)
    params = net.init(KEYS[0])
    np.testing.assert_array_equal(net(params, tokens), params.embed.weight[tokens])


def test_parameters_of_another_module_are_refused(net, trained):
    module, _ = trained
    with pytest.raises(InputError, match="write a pair"):
        isometry.spectrum(net, net.params_of(module), X)
    plain = networks.equinox(Plain, X)
    without_bias = eqx.nn.Linear(3, 2, use_bias=False, key=KEYS[0])
    params = plain.params_of(
        eqx.tree_at(lambda m: m.dense, Plain(KEYS[0]), without_bias)
    )
    with pytest.raises(InputError, match=r"params lacks \.dense\.bias"):
        isometry.spectrum(plain, params, X)


def test_leaves_in_another_order_are_matched_by_path():
    """A class written anew may have its fields in another order."""

    def plane(fields):
        def call(self, x):
            return self.slope * x + self.shift

        namespace = {"__annotations__": fields, "__call__": call}
        return type("Plane", (eqx.Module,), namespace)

    def build(key):
        cls = plane({"slope": jax.Array, "shift": jax.Array})
        return cls(slope=jnp.ones(3), shift=jnp.zeros(3))

    net = networks.equinox(build, X)
    reversed_fields = plane({"shift": jax.Array, "slope": jax.Array})
    params = reversed_fields(slope=jnp.full(3, 2.0), shift=jnp.full(3, 5.0))
    np.testing.assert_array_equal(net(params, X), 2 * X + 5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Plain(KEYS[0]), r"write networks.equinox\(lambda key: Plain\(..., key=key\),"),
        (3, r"build=3 .*lambda key: MyModel"),
        (lambda key: None, r"build\(key\) returns an object of NoneType, not"),
        (lambda key: key, r"build\(key\) returns an array, not"),
    ],
)
def test_what_builds_no_module_is_refused(build, message):
    with pytest.raises(InputError, match=message):
        networks.equinox(build, X)


def test_what_the_build_function_raises_is_not_blamed_on_the_example():
    with pytest.raises(TypeError, match="missing 2 required") as raised:
        networks.equinox(eqx.nn.Linear, X)
    (note,) = [n for n in raised.value.__notes__ if n.startswith("Raised")]
    assert note.startswith("Raised by build(key). It takes one argument")


def test_equinox_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "equinox", None)
    with pytest.raises(MissingExtra, match=r"pip install '\.\[equinox\]'"):
        networks.equinox(None, X)
