"""Flax linen modules, against `module.apply` and NumPy."""

import sys

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError, MissingExtra, networks
from isometry._internal.errors import NotDefined
from tests.networks.adapters import reference
from tests.networks.adapters.reference import BATCH, KEYS, X, close


class Layer(nn.Module):
    """The model of `reference`."""

    units: int = 4
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(self.units)(x)
        norm = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)
        return nn.Dropout(0.5, deterministic=not train)(nn.relu(norm(x)))


@pytest.fixture(scope="module")
def net():
    return networks.flax(Layer(), X)


@pytest.fixture(scope="module")
def trained(net):
    """Parameters with averages and a bias that are not those of initialization."""
    params = jax.jit(net.init)(jax.random.key(0))
    params["params"]["Dense_0"]["bias"] = jnp.asarray([0.1, -0.2, 0.3, 0.0])
    averages = {"mean": jnp.asarray([0.5, 0.0, 0.1, -0.3]), "var": jnp.full(4, 0.25)}
    return {**params, "batch_stats": {"BatchNorm_0": averages}}


def weights(params):
    dense = params["params"]["Dense_0"]
    return dense["kernel"], dense["bias"]


def test_init_is_that_of_the_module(net):
    params = net.init(jax.random.key(0))
    expected = Layer().init(jax.random.key(0), X[None], train=False)
    assert jax.tree.structure(params) == jax.tree.structure(expected)
    jax.tree.map(close, params, expected)
    assert net.shapes == jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params
    )


def test_inference_normalizes_by_the_averages_in_the_parameters(net, trained):
    averages = trained["batch_stats"]["BatchNorm_0"]
    expected = reference.inference(*weights(trained), X, **averages)
    close(net(trained, X), expected)
    assert net.mode == "inference"


def test_training_normalizes_by_the_batch_and_drops(net, trained):
    before = reference.training(*weights(trained), BATCH)
    first, again, other = (
        net.training(trained, (BATCH, key)) for key in (KEYS[0], KEYS[0], KEYS[1])
    )
    np.testing.assert_array_equal(first, again)
    kept = reference.require_dropped(first, before)
    assert np.any(kept != reference.require_dropped(other, before))


def test_spectrum_in_training_is_of_the_whole_batch(net, trained):
    x = (BATCH, KEYS[0])
    kept = np.asarray(net.training(trained, x)) != 0
    sp = isometry.spectrum(net.training, trained, x)
    jacobian = reference.training_jacobian(*weights(trained), BATCH, kept)
    # Its condition number multiplies the errors of the factors.
    expected = np.linalg.svd(jacobian, compute_uv=False)
    np.testing.assert_allclose(
        sp.values, expected, rtol=0, atol=reference.BOUND * expected[0]
    )


def test_the_example_in_training_has_the_batch_that_was_asked_for(net):
    batch, key = net.training.example
    assert batch == jax.ShapeDtypeStruct((8, 3), jnp.float32)
    assert key.shape == ()
    batch, _ = networks.flax(Layer(), X, batch=3).training.example
    assert batch.shape == (3, 3)
    assert net.training.training is net.training
    assert repr(net) == "flax(Layer, float32[3]), inference"
    assert repr(net.training).endswith("(float32[8,3], key<fry>[])), training")


def test_a_batch_without_its_key_is_refused(net, trained):
    with pytest.raises(InputError, match=r"write x=\(batch, key\)"):
        isometry.spectrum(net.training, trained, BATCH)


def test_norms_over_devices_take_the_statistics_of_the_batch(net, trained):
    over_devices = networks.flax(Layer(axis_name="batch"), X).training
    x = (BATCH, KEYS[0])
    close(jax.jit(over_devices)(trained, x), jax.jit(net.training)(trained, x))


def test_networks_of_equal_modules_share_programs(net, trained):
    traces = []

    def call(function, params, x):
        traces.append(function)
        return function(params, x)

    compiled = jax.jit(call, static_argnums=0)
    compiled(net.function, trained, X)
    compiled(networks.flax(Layer(), X).function, trained, X)
    assert len(traces) == 1
    compiled(networks.flax(Layer(axis_name="i"), X).function, trained, X)
    assert len(traces) == 2


def test_seeds_are_mapped(net):
    params = jax.vmap(net.init)(KEYS)
    outputs = jax.jit(jax.vmap(net, (0, None)))(params, X)
    for i in range(3):
        of_seed = jax.tree.map(lambda a, i=i: a[i], params)
        close(outputs[i], net(of_seed, X))


def test_layers_are_named_without_the_collection(net):
    for mode in (net, net.training):
        (layer,) = mode.anatomy.layers
        assert layer.name == "Dense_0"
        assert (layer.fan_in, layer.fan_out) == (3, 4)


def test_a_scheme_draws_the_weights_and_keeps_the_averages(net):
    redrawn = net.with_scheme("orthogonal", sigma_w=1.0)
    params = redrawn.init(jax.random.key(0))
    kernel, _ = weights(params)
    close(kernel @ kernel.T, np.eye(3))
    assert np.all(params["batch_stats"]["BatchNorm_0"]["var"] == 1.0)
    assert redrawn.training.mode == "training"
    assert redrawn.training.function == net.training.function


# --- Parameters


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x)


def test_parameters_may_come_without_the_name_of_their_only_collection():
    net = networks.flax(Plain(), X)
    params = net.init(jax.random.key(0))
    np.testing.assert_array_equal(net(params["params"], X), net(params, X))


def test_parameters_without_their_averages_are_refused(net, trained):
    with pytest.raises(InputError, match="no collection 'batch_stats'"):
        isometry.spectrum(net, {"params": trained["params"]}, X)
    with pytest.raises(InputError, match="no collection 'batch_stats', 'params'"):
        net(trained["params"], X)
    with pytest.raises(InputError, match="params is a list"):
        net([1.0], X)


def test_boxes_of_partitioned_parameters_are_taken_off():
    init = nn.with_partitioning(nn.initializers.ones, (None, "model"))
    net = networks.flax(nn.Dense(2, kernel_init=init), X)
    kernel = net.init(jax.random.key(0))["params"]["kernel"]
    assert isinstance(kernel, jax.Array)


# --- Modes


def mode_factor(is_training):
    return 2.0 if is_training else 1.0


class ByTrain(nn.Module):
    def __call__(self, x, train):
        return x * mode_factor(train)


class ByDeterministic(nn.Module):
    def __call__(self, x, *, deterministic=False):
        return x * mode_factor(not deterministic)


class ByAverage(nn.Module):
    def __call__(self, x, use_running_average=None):
        return x * mode_factor(not use_running_average)


@pytest.mark.parametrize("kind", [ByTrain, ByDeterministic, ByAverage])
def test_arguments_of_the_mode_are_found_in_the_signature(kind):
    net = networks.flax(kind(), X)
    np.testing.assert_array_equal(net({}, X), X)
    np.testing.assert_array_equal(net.training({}, BATCH), 2 * BATCH)


def test_a_mode_that_is_written_counts_in_inference_alone():
    net = networks.flax(ByTrain(), X, train=False)
    np.testing.assert_array_equal(net.training({}, BATCH), 2 * BATCH)
    with_dropout = networks.flax(ByTrain(), X, train=True)
    np.testing.assert_array_equal(with_dropout({}, X), 2 * X)


class Fixed(nn.Module):
    deterministic: bool = True

    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=self.deterministic)(x)


def test_a_mode_fixed_at_construction_has_no_training():
    net = networks.flax(Fixed(), X)
    with pytest.raises(NotDefined, match="'Dropout_0' is called in inference mode"):
        _ = net.training
    both = networks.flax(Fixed(), X, in_training=Fixed(deterministic=False))
    np.testing.assert_array_equal(both({}, X), X)
    came = both.training({}, (BATCH, KEYS[0]))
    assert set(np.unique(came / BATCH)) == {0.0, 2.0}
    # Where nothing differs, the training mode is the model on a batch.
    params = networks.flax(Plain(), X).init(KEYS[0])
    assert networks.flax(Plain(), X).training(params, BATCH).shape == (4, 2)


class Noisy(nn.Module):
    """Draws from a stream of its own, and only if there is one for dropout."""

    @nn.compact
    def __call__(self, x, train):
        if train and self.has_rng("dropout"):
            return x + jax.random.normal(self.make_rng("noise"), x.shape)
        return x


def test_every_stream_draws_in_training():
    net = networks.flax(Noisy(), X)
    np.testing.assert_array_equal(net({}, X), X)
    first, other = (net.training({}, (BATCH, key)) for key in KEYS[:2])
    assert np.all(first != other)


class Drawing(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=False)(x)


class DrawingItself(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + jax.random.normal(self.make_rng("noise"), x.shape)


@pytest.mark.parametrize(
    ("module", "what"),
    [
        (Drawing(), 'Dropout_0 needs PRNG for "dropout"'),
        (DrawingItself(), 'DrawingItself needs PRNG for "noise"'),
    ],
)
def test_a_module_that_draws_in_inference_is_refused(module, what):
    with pytest.raises(InputError, match=f"draws at random.*: {what}") as error:
        networks.flax(module, X)
    assert isinstance(error.value.__cause__, flax.errors.InvalidRngError)


# --- Recurrences


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        carries, _ = nn.RNN(nn.OptimizedLSTMCell(4), return_carry=True)(x)
        return nn.Dense(2)(carries[1])


def test_states_of_an_lstm_are_told_apart():
    """Against the cell itself, whose carry is (c, h), step by step."""
    net = networks.flax(Recurrent(), jnp.ones((3, 2)))
    params = jax.jit(net.init)(KEYS[0])
    xs = jax.random.normal(KEYS[1], (3, 2))
    cell = nn.OptimizedLSTMCell(4)
    of_cell = {"params": params["params"]["OptimizedLSTMCell_0"]}
    carry = (jnp.zeros(4), jnp.zeros(4))
    step = jax.jit(cell.apply)
    for x in np.asarray(xs[:2]):
        carry, _ = step(of_cell, carry, x)
    c, h = carry
    reference.same_states(net, params, xs, h=h, c=c)


# --- Inputs and outputs


class Outputs(nn.Module):
    kind: type

    def __call__(self, x):
        if self.kind is dict:
            return {"logits": 3 * x, "loss": x.sum()}
        return 3 * x, x.sum()


def test_of_several_outputs_one_is_meant():
    np.testing.assert_array_equal(networks.flax(Outputs(tuple), X)({}, X), 3 * X)
    named = networks.flax(Outputs(dict), X, output="logits")
    np.testing.assert_array_equal(named({}, X), 3 * X)
    with pytest.raises(InputError, match=r"a dict of .*, .loss.*write output="):
        networks.flax(Outputs(dict), X)
    with pytest.raises(InputError, match="output='score' is none"):
        networks.flax(Outputs(dict), X, output="score")
    with pytest.raises(InputError, match=r"output=0 is none.*returns one array"):
        networks.flax(Plain(), X, output=0)
    with pytest.raises(InputError, match="a batch of one example"):
        networks.flax(Outputs(dict), X, output="loss")


class Embedded(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(2)(nn.Embed(5, 3)(tokens))


def test_tokens_are_measured_from_the_embedding_on():
    tokens = jnp.asarray([1, 4])
    net = networks.flax(Embedded(), tokens)
    params = net.init(jax.random.key(0))
    sp = isometry.spectrum(net, params, tokens, span=("Embed_0", "output"))
    kernel = params["params"]["Dense_0"]["kernel"]
    expected = np.repeat(np.linalg.svd(kernel, compute_uv=False), 2)
    close(sp.values, expected)


class Two(nn.Module):
    def __call__(self, image, scale, shift=0.0):
        return image * scale + shift


class ModeBetween(nn.Module):
    def __call__(self, image, train, scale):
        return image * scale * (2 if train else 1)


class OfTree(nn.Module):
    def __call__(self, inputs):
        if isinstance(inputs, dict):
            return inputs["image"] * inputs["scale"]
        image, scale = inputs
        return image * scale


def test_trees_of_inputs_get_a_batch_axis_each():
    scale = jnp.full(3, 2.0)
    spread = networks.flax(Two(), (X, scale), shift=1.0)
    np.testing.assert_array_equal(spread({}, (X, scale)), 2 * X + 1)
    between = networks.flax(ModeBetween(), (X, scale))
    np.testing.assert_array_equal(between({}, (X, scale)), 2 * X)
    np.testing.assert_array_equal(between.training({}, (X[None], scale)), 4 * X[None])
    with pytest.raises(InputError, match=r"image and scale; write a tuple"):
        networks.flax(Two(), X)
    of_tuple = networks.flax(OfTree(), (X, scale))
    np.testing.assert_array_equal(of_tuple({}, (X, scale)), 2 * X)
    of_dict = networks.flax(OfTree(), {"image": X, "scale": scale})
    x = {"image": X, "scale": scale}
    np.testing.assert_array_equal(of_dict({}, x), 2 * X)
    close(
        isometry.jacobian(of_dict, {}, x),
        np.concatenate([2 * np.eye(3), np.diag(X)], axis=1),
    )


class Images(nn.Module):
    """Takes batches of images alone."""

    @nn.compact
    def __call__(self, x):
        rows, height, width, channels = x.shape
        return nn.Dense(2)(x.reshape(rows, height * width * channels))


def test_a_batch_as_example_is_refused():
    with pytest.raises(InputError, match=r"Write one x.*example\[0\]"):
        networks.flax(Images(), jnp.ones((2, 3, 3, 1)))


class Broken(nn.Module):
    def __call__(self, x):
        raise RuntimeError("out of cheese")


class ThreeByTwo(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x @ self.param("w", nn.initializers.normal(), (3, 2))


@pytest.mark.parametrize(
    ("module", "size", "error", "message"),
    [
        (Broken(), 3, RuntimeError, "out of cheese"),
        # A wrong number of features, which a row of it would not mend.
        (ThreeByTwo(), 5, TypeError, "got .5,. and .3,."),
    ],
)
def test_what_the_module_raises_is_passed_on_with_what_it_was_called_on(
    module, size, error, message
):
    with pytest.raises(error, match=message) as raised:
        networks.flax(module, jnp.ones(size))
    (note,) = [n for n in raised.value.__notes__ if n.startswith("Raised")]
    assert note == (
        f"Raised by the module, called on x[None], for the example float32[{size}], "
        "which is one x."
    )


class Tokens(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.Embed(10, 4)(x))


def test_tokens_as_floating_numbers_are_told_from_other_mistakes():
    with pytest.raises(InputError, match=r"whole numbers, int32\[6\], it does not"):
        networks.flax(Tokens(), jnp.ones(6))
    assert networks.flax(Tokens(), jnp.ones(6, int)).example.shape == (6,)


def test_an_example_counts_by_its_shape_alone():
    net = networks.flax(nn.Dense(2), jnp.full(3, jnp.nan))
    assert jnp.isfinite(net(net.init(jax.random.key(0)), X)).all()


@pytest.mark.parametrize("example", [jnp.ones(0), jnp.ones((0, 3)), [], "x"])
def test_an_example_without_numbers_is_refused(example):
    with pytest.raises(InputError, match=r"networks.flax\(\): example"):
        networks.flax(nn.Dense(2), example)


@pytest.mark.parametrize("module", [Layer, None, lambda x: x])
def test_what_is_no_linen_module_is_refused(module):
    with pytest.raises(InputError, match=r"networks.flax\(\): module.*write"):
        networks.flax(module, X)


def test_what_is_no_array_is_no_input(net):
    params = net.init(KEYS[0])
    with pytest.raises(InputError, match="x is 'x', not an array of numbers"):
        net(params, "x")
    with pytest.raises(InputError, match="x is None, which holds no array"):
        net(params, None)


def test_flax_may_be_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "flax.linen", None)
    with pytest.raises(MissingExtra, match=r"pip install '\.\[flax\]'"):
        networks.flax(None, X)
