"""Flax NNX modules, against their own calls and NumPy."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import isometry
from isometry import InputError, MissingExtra, networks
from tests.networks.adapters import reference
from tests.networks.adapters.reference import BATCH, KEYS, X, close


class Layer(nnx.Module):
    """The model of `reference`, whose dropout draws from a stream of its own."""

    def __init__(self, *, rngs, axis_name=None):
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, axis_name=axis_name, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(nnx.relu(self.norm(self.dense(x))))


class Passed(nnx.Module):
    """Dropout that draws from what its call is given."""

    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, rngs=None):
        return self.dropout(x, rngs=rngs)


@pytest.fixture(scope="module")
def net():
    return networks.nnx(Layer, X)


@pytest.fixture(scope="module")
def trained():
    """A module that has seen a batch in training mode."""
    module = Layer(rngs=nnx.Rngs(5))
    module.train()
    module(BATCH)
    return module


def weights(module):
    return module.dense.kernel[...], module.dense.bias[...]


def test_init_is_the_state_of_a_new_module_without_random_keys(net):
    params = net.init(KEYS[0])
    module = Layer(rngs=nnx.Rngs(KEYS[0]))
    expected = nnx.state(module, nnx.Not(nnx.RngState))
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(close, params, expected)
    assert not any(
        jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        for leaf in jax.tree.leaves(params)
    )


def test_inference_normalizes_by_the_averages_of_a_trained_module(net, trained):
    averages = {"mean": trained.norm.mean[...], "var": trained.norm.var[...]}
    assert np.any(averages["mean"] != 0)
    expected = reference.inference(*weights(trained), X, **averages)
    close(net(net.params_of(trained), X), expected)
    # Its whole state, with random keys, is understood too.
    close(net(nnx.state(trained), X), expected)


def test_training_normalizes_by_the_batch_and_drops(net, trained):
    params = net.params_of(trained)
    before = reference.training(*weights(trained), BATCH)
    kept = [
        reference.require_dropped(net.training(params, (BATCH, key)), before)
        for key in KEYS[:2]
    ]
    assert np.any(kept[0] != kept[1])
    # The module itself is as it was.
    assert trained.norm.use_running_average is False


def test_spectrum_in_training_is_of_the_whole_batch(net, trained):
    params = net.params_of(trained)
    x = (BATCH, KEYS[0])
    kept = np.asarray(net.training(params, x)) != 0
    matrix = isometry.jacobian(net.training, params, x)
    expected = reference.training_jacobian(*weights(trained), BATCH, kept)
    close(matrix, expected)


def test_norms_over_devices_take_the_statistics_of_the_batch(net, trained):
    over = networks.nnx(lambda rngs: Layer(rngs=rngs, axis_name="batch"), X).training
    x = (BATCH, KEYS[0])
    params = over.params_of(trained)
    before = reference.training(*weights(trained), BATCH)
    reference.require_dropped(over(params, x), before)


def test_a_module_comes_back(net, trained):
    params = net.params_of(trained)
    module = net.module(params)
    close(module(X[None])[0], net(params, X))
    assert module.norm.use_running_average is True
    assert net.training.module(params).norm.use_running_average is False


def test_calls_change_neither_parameters_nor_modules(net):
    """NNX writes new averages in place."""
    module = Layer(rngs=nnx.Rngs(7))
    params = net.params_of(module)
    before = jax.tree.map(np.asarray, params)
    net.training(params, (BATCH, KEYS[0]))
    net.module(params).dense.kernel[...] *= 0
    module.dense.bias[...] += 1
    jax.tree.map(np.testing.assert_array_equal, params, before)
    assert np.any(module.dense.kernel[...] != 0)
    np.testing.assert_array_equal(module.norm.mean[...], 0)


def test_rngs_in_the_call_are_passed_in_training():
    net = networks.nnx(Passed, X)
    params = net.init(KEYS[0])
    np.testing.assert_array_equal(net(params, X), X)
    came = net.training(params, (BATCH, KEYS[1]))
    assert set(np.unique(np.asarray(came) / np.asarray(BATCH))) == {0.0, 2.0}


class Stacked(nnx.Module):
    """Two dropouts in a scan, each with a stream of its own."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=2)
        @nnx.vmap(axis_size=2)
        def stack(rngs):
            return nnx.Dropout(0.5, rngs=rngs)

        self.dropouts = stack(rngs)

    def __call__(self, x):
        @nnx.scan
        def scanned(x, dropout):
            return dropout(x), None

        return scanned(x, self.dropouts)[0]


def test_stacked_layers_draw_for_themselves():
    net = networks.nnx(Stacked, X)
    params = net.init(KEYS[0])
    np.testing.assert_array_equal(net(params, X), X)
    xs = jnp.ones((64, 3))
    came = np.asarray(net.training(params, (xs, KEYS[1])))
    # Each keeps half, and doubles it. Of 192 numbers kept with probability 1/4 the
    # share has standard error 0.031; two equal draws would keep one half.
    assert set(np.unique(came)) == {0.0, 4.0}
    assert abs(np.mean(came > 0) - 0.25) < 4 * 0.031


def test_networks_of_equal_modules_have_equal_functions(net):
    other = networks.nnx(Layer, X)
    assert other.function == net.function
    assert hash(other.function) == hash(net.function)
    assert other.training.function != net.function
    assert networks.nnx(Passed, X).function != net.function


def test_seeds_are_mapped(net):
    params = jax.vmap(net.init)(KEYS)
    outputs = jax.jit(jax.vmap(net, (0, None)))(params, X)
    for i in range(3):
        of_seed = jax.tree.map(lambda a, i=i: a[i], params)
        close(outputs[i], net(of_seed, X))


def test_layers_are_named_by_attribute(net):
    (layer,) = net.anatomy.layers
    assert layer.name == "dense"


def test_parameters_that_lack_averages_are_refused(net, trained):
    with pytest.raises(InputError, match=r"lacks .*'norm'.*'mean'"):
        isometry.spectrum(net, nnx.state(trained, nnx.Param), X)
    with pytest.raises(InputError, match=r"params is a dict; .*params_of"):
        isometry.spectrum(net, {"dense": X}, X)


class Outputs(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, inputs):
        y = self.dense(inputs["image"]) + inputs["shift"]
        return {"logits": y, "features": inputs["image"]}


def test_trees_of_inputs_and_outputs():
    x = {"image": X, "shift": jnp.ones(2)}
    net = networks.nnx(Outputs, x, output="logits")
    params = net.init(KEYS[0])
    expected = X @ params["dense"]["kernel"][...] + 1.0
    close(net(params, x), expected)
    with pytest.raises(InputError, match="a dict of 'logits', 'features'"):
        networks.nnx(Outputs, x)


class Tokens(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(5, 3, rngs=rngs)

    def __call__(self, tokens):
        return self.embed(tokens)


def test_tokens():
    net = networks.nnx(Tokens, jnp.asarray([1, 4]))
    params = net.init(KEYS[0])
    rows = params["embed"]["embedding"][...][jnp.asarray([1, 4])]
    np.testing.assert_array_equal(net(params, jnp.asarray([1, 4])), rows)


def test_what_builds_no_module_is_refused(trained):
    line = r"write networks.nnx\(lambda rngs: Layer\(..., rngs=rngs\), example\)"
    with pytest.raises(InputError, match=line):
        networks.nnx(trained, X)
    with pytest.raises(InputError, match=r"build\(rngs\) returns an object of None"):
        networks.nnx(lambda rngs: None, X)
    with pytest.raises(InputError, match=r"write networks.flax\(module, example\)"):
        networks.nnx(linen.Dense(2), X)
    # Without the other library it has no instances of modules either.
    eqx = pytest.importorskip("equinox")
    with pytest.raises(InputError, match=r"write networks.equinox\(lambda key"):
        networks.nnx(eqx.nn.Linear(3, 2, key=KEYS[0]), X)


def test_what_the_build_function_raises_is_not_blamed_on_the_example():
    with pytest.raises(TypeError, match="missing 2 required") as raised:
        networks.nnx(nnx.Linear, X)
    (note,) = [n for n in raised.value.__notes__ if n.startswith("Raised")]
    assert note.startswith("Raised by build(rngs). It takes one argument")


def test_flax_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "flax.nnx", None)
    with pytest.raises(MissingExtra, match=r"pip install '\.\[flax\]'"):
        networks.nnx(None, X)
