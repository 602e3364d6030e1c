"""The short training: what it accumulates, its controls, other widths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from isometry import networks
from isometry.verdicts import _layers, _probe, _ranks, _training, _weights
from isometry.verdicts._flag import CLEAR
from isometry.verdicts.flags import zero_gradient
from tests.verdicts import planted
from tests.verdicts.measuring import drawn
from tests.verdicts.planted import inputs, one_seed, record

NET = networks.mlp([4, 8, 8, 3], "tanh", "gaussian")
PARAMS = drawn(NET, 1.0, seeds=1)


def test_it_trains_as_optax_does_on_the_same_batches():
    """Against a loop of plain JAX: losses, and the sum of the gradients' rank."""
    optimizer = optax.adam(1e-2)
    result = record(
        NET, PARAMS, inputs(40, 4), num_steps=3, certificates=(), optimizer=optimizer
    )
    task, probe = result.task, result.probe
    params = result.subject.params_of(0)
    state = optimizer.init(params)
    losses, total = [], 0.0

    def loss(params, xs, targets):
        outputs = jax.vmap(NET, (None, 0))(params, xs)
        return jnp.mean(jax.vmap(task.loss)(outputs, targets))

    @jax.jit
    def stepped(params, state, xs, targets):
        value, gradient = jax.value_and_grad(loss)(params, xs, targets)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value, gradient

    xs, targets = np.asarray(task.xs), np.asarray(task.targets)
    for index in np.asarray(task.batches):
        params, state, value, gradient = stepped(
            params, state, xs[index], targets[index]
        )
        losses.append(float(value))
        total = total + np.asarray(gradient["layers"][1]["w"][0])
    assert probe.steps.tolist() == [1, 2, 3]
    np.testing.assert_allclose(probe.loss[0], losses, rtol=1e-5)
    assert probe.layers == ("layers/1",)
    assert probe.gradient_rank[0, -1, 0] == np.linalg.matrix_rank(total)
    assert probe.first_signal.tolist() == [[1, 1, 1]]
    assert probe.learning_rate is None


def test_sums_of_gradients_lose_nothing_to_rounding():
    """Eight quarters of the spacing at 1, each of which alone is rounded away."""
    eps = np.finfo(np.float32).eps
    sums, lost = [jnp.ones(())], [jnp.zeros(())]
    for _ in range(8):
        sums, lost = _training._summed(sums, lost, [jnp.asarray(eps / 4)])
    assert float(sums[0]) == 1 + 2 * eps
    assert float(lost[0]) == 0


def test_steps_are_numbers_of_python_where_nothing_is_compiled():
    """As under `jax.disable_jit`, in which a loop counts on the host."""
    result = record(NET, PARAMS, inputs(40, 4), num_steps=1, certificates=())
    params = result.subject.params_of(0)
    weights = _weights.weights_of(result.subject.anatomy, params)
    training = _training.Training(result.task, weights, [params])
    before = training.states[0]
    step = functools.partial(_training._stepped, training._static, training._data, t=0)
    after = jax.eval_shape(step, before)
    assert jax.tree.map(np.shape, after) == jax.tree.map(np.shape, before)


def test_a_network_without_weight_layers_is_trained():
    """A bias alone is trained, and no weight could miss a gradient or a rank."""

    def f(params, x):
        return jnp.tanh(x + params["b"])

    params = one_seed({"b": np.ones(4, np.float32)})
    result = record(f, params, inputs(8, 4), num_steps=2, certificates=())
    assert result.probe.layers == result.probe.weights == ()
    assert zero_gradient.judge(result, planted.KEY).state == CLEAR
    assert _layers.rows_of(result, {}) == ()


def test_the_rate_is_the_largest_that_does_not_overflow():
    """Of a linear network of large inputs the loss grows with every step at 0.1."""
    net = networks.mlp([4, 8, 3], "linear", "gaussian")
    params = drawn(net, 1.0, seeds=1)
    xs = 6 * inputs(32, 4)
    targets = np.asarray(inputs(32, 3))
    probe = record(
        net, params, xs, num_steps=100, targets=targets, certificates=()
    ).probe
    assert probe.learning_rate < 0.1
    assert probe.is_finite


def test_a_loss_that_is_infinite_at_the_start_is_at_fault_itself():
    probe = record(
        NET,
        PARAMS,
        inputs(8, 4),
        num_steps=2,
        certificates=(),
        loss=lambda output, target: jnp.sum(output) / 0.0,
    ).probe
    assert "at step 1, before anything is trained" in probe.trouble
    assert "NaN" not in str(probe.as_dict()["loss"])


def test_dropout_draws_anew_at_every_step():
    """A network whose training mode draws: (batch, key) is its x."""
    import flax.linen as nn

    class Dropping(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.Dropout(0.5, deterministic=not train)(x)
            return nn.Dense(3, use_bias=False)(x)

    net = networks.flax(Dropping(), jnp.zeros(4))
    params = one_seed(jax.jit(net.init)(jax.random.key(0)))
    # One example, and no step: only the mask can change the loss.
    probe = record(
        net,
        params,
        inputs(1, 4),
        num_steps=4,
        certificates=(),
        optimizer=optax.sgd(0.0),
    ).probe
    assert len(set(probe.loss[0].tolist())) > 1


def test_controls_have_gaussian_weights_of_equal_norms():
    result = record(NET, PARAMS, inputs(8, 4), certificates=())
    params = jax.tree.map(np.array, result.subject.params_of(0))
    params["layers"][1]["b"] += 3
    weights = _probe._weights.weights_of(result.subject.anatomy, params)
    control = _probe.gaussian_like(weights, params, jax.random.key(1))
    for old, new in zip(params["layers"], control["layers"], strict=True):
        np.testing.assert_array_equal(old["b"], new["b"])
        ratio = np.linalg.norm(new["w"]) / np.linalg.norm(old["w"])
        assert ratio == pytest.approx(1, rel=1e-5)
        assert not np.allclose(old["w"], new["w"], rtol=0.1)


def test_the_trajectory_of_partial_identity_does_not_depend_on_the_width():
    """Units beyond max(N_x, N_y) never move: 4, 8 and 16 units have equal ranks."""
    net = networks.mlp([4, 8, 8, 3], "tanh", "partial_identity")
    keys = jax.random.split(jax.random.key(0), 2)
    result = record(net, None, inputs(32, 4), num_steps=8, keys=keys, certificates=())
    found = _probe.ranks_by_width(result.subject, result.task)
    assert list(found["gradient_rank"]) == [4, 8, 16]
    assert found["largest_difference"] == 0
    assert found["gradient_rank"][4].max() > 2
    given = record(net, PARAMS, inputs(32, 4), certificates=())
    assert _probe.ranks_by_width(given.subject, given.task) is None


def test_ranks_of_taps_and_of_the_whole():
    """Nine taps of rank one, each in other directions, are a kernel of rank six."""
    rng = np.random.default_rng(0)
    columns, rows = rng.normal(size=(2, 9, 6))
    kernel = np.einsum("ti,tj->tij", columns, rows).reshape(1, 3, 3, 6, 6)
    result = record(
        planted.convolutions,
        one_seed(planted.drawn(planted.KERNELS)),
        inputs(4, 5, 5, 1),
        certificates=(),
    )
    params = result.subject.params_of(0)
    weights = _probe._weights.weights_of(result.subject.anatomy, params)
    (second,) = [one for one in weights if one.layer.name == "second"]
    whole, taps = _training.ranks_of_slices(second, kernel, np.array([1e-9]))
    assert (whole, taps) == ([6], [1])


def test_what_cannot_be_certified_is_said_with_a_warning():
    """A gradient that is infinite at every point: sqrt at zero."""

    def f(params, x):
        return jnp.sqrt(params["w"] * 0 * x.sum())

    result = record(f, one_seed({"w": np.ones(3, np.float32)}), inputs(4, 4))
    with pytest.warns(UserWarning, match="nothing is certified"):
        assert _probe.certificates(result.subject, 3) == ()


def test_large_matrices_are_counted_up_to_a_bound():
    rng = np.random.default_rng(0)
    low = rng.normal(size=(700, 5)) @ rng.normal(size=(5, 600))
    tolerance = np.array(1e-6)
    assert _ranks.rank_above(low, tolerance) == 5
    assert _ranks.rank_above(rng.normal(size=(700, 600)), tolerance) == 512
    assert _ranks.rank_above(np.full((3, 3), np.nan), tolerance) == 0
