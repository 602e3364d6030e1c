"""rank_constrained_training: Theorem 1 of the ZerO paper, its mechanism, and when the flag must stay silent."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isometry
from isometry import networks
from isometry.activations import Activation
from isometry.degeneracy import _probe, _task
from isometry.degeneracy._symmetry_flag import certified

N_X, N_Y = 16, 10
NAME = "rank_constrained_training"


def one_seed(net):
    """Its parameters, stacked over the one seed."""
    params = jax.jit(net.init)(jax.random.key(0))
    return jax.tree.map(lambda a: np.asarray(a)[None], params)


@pytest.mark.slow
def test_partial_identity_is_raised(pooled_audits):
    """N_y ≤ N_x, so the bound is N_x, at every recorded step and in every seed."""
    report = pooled_audits["partial_identity"]
    flag = report.flags[NAME]
    assert flag.raised
    assert flag.threshold == N_X
    assert flag.value == N_X
    assert N_X // 2 < report.probe.gradient_rank.max() <= N_X
    assert flag.evidence["certified_rank"].tolist() == [N_X, N_X]
    assert "control_rank" not in flag.evidence  # a proof needs none
    assert 'scheme="orthogonal"' in flag.remedy
    assert "0.1/√fan_in" in flag.remedy


@pytest.mark.slow
def test_the_remedy_repairs(pooled):
    """Noise of std 0.1/√fan_in lets training move every direction, and spreads ln s by 0.1·√(depth/2)."""
    net = networks.mlp([N_X, 32, 32, 32, N_Y], "tanh", "partial_identity")  # shares the audits' program
    task, _ = _task.make_task(net, pooled.xs, pooled.targets, None, None, 300, jax.random.key(1))
    rng = np.random.default_rng(0)
    params = jax.vmap(net.init)(jax.random.split(jax.random.key(0), 3))
    noise = lambda w: rng.normal(size=w.shape, scale=0.1 * w.shape[-2] ** -0.5).astype(np.float32)  # noqa: E731
    noisy = {"layers": tuple({**run, "w": run["w"] + noise(run["w"])} for run in params["layers"])}
    assert all(c.clear for c in certified(net, noisy))
    assert (_probe.run(net, task, noisy, records=1).gradient_rank[:, -1] > 0.9 * 32).all()
    depth, n = 10, 100
    factors = np.eye(n) + 0.1 * rng.normal(size=(depth, n, n)) / math.sqrt(n)
    spread = np.log(np.linalg.svd(np.linalg.multi_dot(factors), compute_uv=False)).std()
    assert spread == pytest.approx(0.1 * math.sqrt(depth / 2), rel=0.1)  # to first order in 0.1


@pytest.mark.slow
def test_partial_identity_is_raised_for_relu(pooled):
    flag, probe = judge(networks.mlp([N_X, 32, 32, 32, N_Y], "relu", "partial_identity"), pooled, 300, examples=1797)
    assert flag.raised
    assert N_X // 2 < flag.value <= N_X
    assert probe.gradient_rank.max() <= N_X


@pytest.mark.slow
def test_the_trajectory_does_not_depend_on_the_width(pooled_audits):
    """Units beyond max(N_x, N_y) never move: widths N_x, 2 N_x, 4 N_x have equal ranks at every record."""
    widths = pooled_audits["partial_identity"].widths
    assert list(widths["gradient_rank"]) == [16, 32, 64]
    assert widths["largest_difference"] == 0
    assert widths["gradient_rank"][16].max() > N_X // 2  # not equal for want of any training


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["zer_o", "orthogonal", "gaussian"])
def test_schemes_that_pass_the_input_dimension_are_clear(pooled_audits, scheme):
    report = pooled_audits[scheme]
    flag = report.flags[NAME]
    assert flag.state == "clear"
    assert flag.value > N_X
    assert report.probe.gradient_rank[:, -1].max(0).min() == flag.value
    assert report.widths is None


@pytest.mark.slow
def test_zer_o_stops_at_its_own_symmetry(pooled):
    """Units i ≡ j mod 16 beyond N_y stay equal: the layer after the Hadamard one has rank ≤ P + N_y = 26 (here of 32).

    Judged by W(t) − W(0) above 1e-4, for in float32 rounding breaks the tie below that.
    """
    net = networks.mlp([N_X, 32, 32, 32, N_Y], "tanh", "zer_o")
    task, _ = _task.make_task(net, pooled.xs, pooled.targets, None, None, 300, jax.random.key(1))
    params = one_seed(net)
    start = _probe.start(net.function, task, params)
    state = _probe._advance(net.function, task.loss, task.optimizer, start, task.xs, task.targets, task.batches, 0, 300)
    before, after = (np.asarray(net.function.weights(tree)[1], float)[0, 0] for tree in (params, state.params))
    assert N_X < np.linalg.matrix_rank(after - before, tol=1e-4) <= 26


@pytest.mark.slow
def test_the_first_update_has_the_rank_of_the_output(pooled_audits):
    """At step 1 only the first N_y rows of the head reach back, whatever the input dimension."""
    probe = pooled_audits["partial_identity"].probe
    assert probe.steps[0] == 1
    assert 1 < probe.gradient_rank[:, 0].max() <= N_Y


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1, momentum=0.9), optax.adam(1e-2)])
def test_what_training_moves_is_the_leading_block(pooled, optimizer):
    """Bit-exactly: outside it neither activation nor signal is ever anything but zero, and both map 0 to 0."""
    net = networks.mlp([N_X, 24, 24, N_Y], "tanh", "partial_identity")
    task, _ = _task.make_task(net, pooled.xs[:256], pooled.targets[:256], None, optimizer, 20, jax.random.key(1))
    params = one_seed(net)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an int32 power
        start = _probe.start(net.function, task, params)
        state = _probe._advance(net.function, task.loss, optimizer, start, task.xs, task.targets, task.batches, 0, 20)
    before, after = net.function.weights(params)[1], net.function.weights(state.params)[1]
    change = np.array(after - before)
    assert np.abs(change[..., :N_X, :N_X]).max() > 1e-3
    change[..., : max(N_X, N_Y), : max(N_X, N_Y)] = 0
    assert not change.any()


@pytest.fixture(scope="module")
def more_outputs_than_inputs():
    """N_x = 4, N_y = 10: the ranks that partial identity reaches under two activations."""
    xs = jax.random.normal(jax.random.key(3), (256, 4))
    nets = {
        "relu": networks.mlp([4, 16, 16, 10], "relu", "partial_identity"),
        "maximum": networks.mlp(
            [4, 16, 16, 10],
            Activation(lambda x: jnp.maximum(x, 0), kinks=(0.0,), name="maximum"),
            "partial_identity",
        ),
    }
    found = {}
    for name, net in nets.items():
        task, _ = _task.make_task(net, xs, None, None, None, 100, jax.random.key(1))
        params = one_seed(net)
        found[name] = _probe.judge_ranks(net, task, params, isometry.Thresholds(), jax.random.key(2))[0]
    return found


def test_the_bound_is_that_of_the_slope_at_zero(more_outputs_than_inputs):
    """With N_y > N_x units N_x … N_y − 1 sit on exact zero with an outgoing weight: phi'(0) decides if they wake."""
    flags = more_outputs_than_inputs
    ranks = {name: max(flag.evidence["gradient_rank"]) for name, flag in flags.items()}
    assert ranks["relu"] <= 4
    assert 4 < ranks["maximum"] <= 10
    assert flags["relu"].raised
    assert flags["maximum"].state == "clear"
    slopes = {name: flag.evidence["slope_at_zero"] for name, flag in flags.items()}
    assert slopes == {"relu": 0.0, "maximum": 0.5}


def judge(net, pooled, steps, optimizer=None, examples=256):
    task, _ = _task.make_task(
        net, pooled.xs[:examples], pooled.targets[:examples], None, optimizer, max(steps, 1), jax.random.key(1)
    )
    params = one_seed(net)
    limits = isometry.Thresholds()
    return _probe.judge_ranks(net, task if steps else None, params, limits, jax.random.key(2))


def test_identity_at_the_width_of_the_input_has_nothing_to_constrain(pooled):
    flag, _ = judge(networks.mlp([N_X, N_X, N_X, N_Y], "tanh", "identity"), pooled, 3)
    assert flag.state == "clear"
    assert "nothing to constrain" in flag.reason


def test_without_steps_nothing_is_run(pooled):
    flag, probe = judge(networks.mlp([N_X, 24, 24, N_Y], "tanh", "partial_identity"), pooled, 0)
    assert flag.state == "not_run"
    assert probe is None
    assert flag.value is None


def test_a_probe_too_short_for_its_controls_is_undecided():
    """One step on two examples: no gradient of any network has a rank above 2, so a low rank says nothing."""
    net = networks.mlp([4, 12, 12, 3], "tanh", "partial_identity")
    xs = jax.random.normal(jax.random.key(3), (2, 4))
    task, _ = _task.make_task(net, xs, None, None, None, 1, jax.random.key(1))
    params = one_seed(net)
    flag, _ = _probe.judge_ranks(net, task, params, isometry.Thresholds(), jax.random.key(2))
    assert flag.state == "undecided"
    assert "control" in flag.reason
    assert (flag.evidence["control_rank"] <= 2).all()


def test_a_probe_that_diverges_is_undecided(pooled):
    """A mean-square loss at learning rate 1e6 overflows within a few steps."""
    net = networks.mlp([N_X, 24, 24, N_Y], "linear", "partial_identity")
    targets = jax.nn.one_hot(pooled.targets[:256], N_Y)
    task, _ = _task.make_task(net, pooled.xs[:256], targets, None, optax.sgd(1e6), 20, jax.random.key(1))
    params = one_seed(net)
    flag, probe = _probe.judge_ranks(net, task, params, isometry.Thresholds(), jax.random.key(2))
    assert not probe.finite
    assert flag.state == "undecided"
    assert "learning rate" in flag.reason
    assert not np.isnan(probe.as_dict()["loss"]).any()


@pytest.mark.slow
def test_our_own_learning_rate_gives_way_where_it_overflows():
    """A deep linear orthogonal net is healthy, and 0.1 too much for it on inputs of size 3 √8."""
    net = networks.mlp([8, *[16] * 32, 4], "linear", "orthogonal")
    xs = 3 * jax.random.normal(jax.random.key(1), (64, 8))
    task, _ = _task.make_task(net, xs, None, None, None, 60, jax.random.key(2))
    params = jax.vmap(net.init)(jax.random.split(jax.random.key(0), 4))
    assert not _probe.run(net, task, params).finite
    flag, probe = _probe.judge_ranks(net, task, params, isometry.Thresholds(), jax.random.key(3))
    assert probe.finite
    assert flag.state == "clear"
    assert flag.evidence["learning_rate"] == 0.01


def test_the_rank_of_gradients_leaves_decay_out():
    """Decay alone moves every direction of a Gaussian W; the gradients of two examples a step add at most two."""
    net = networks.mlp([4, 12, 12, 3], "tanh", "gaussian")
    xs = jax.random.normal(jax.random.key(3), (2, 4))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(net.init, jax.random.key(0))
    params = jax.tree.map(lambda a: rng.normal(size=(1, *a.shape), scale=12**-0.5).astype(a.dtype), shapes)
    decayed = optax.chain(optax.add_decayed_weights(0.05), optax.sgd(0.1))
    task, _ = _task.make_task(net, xs, None, None, decayed, 4, jax.random.key(2))
    probe = _probe.run(net, task, params)
    assert (probe.gradient_rank[..., 0] <= 2 * probe.steps).all()
    assert (probe.gradient_rank > 0).all()


@pytest.mark.parametrize(("examples", "steps"), [(200, 13), (10, 4)])
def test_batches_are_whole_epochs(examples, steps):
    """No example twice within an epoch, and epochs are shuffled afresh; what does not fill a batch is left out."""
    batches = np.asarray(_task.make_batches(jax.random.key(0), examples, steps))
    size = min(_task.BATCH, examples)
    assert batches.shape == (steps, size)
    assert batches.min() >= 0
    assert batches.max() < examples
    a_epoch = examples // size
    epochs = [batches[i : i + a_epoch].ravel() for i in range(0, steps, a_epoch)]
    assert all(len(np.unique(epoch)) == epoch.size for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


def test_controls_have_the_norm_of_each_layer():
    net = networks.mlp([5, 8, 8, 8, 3], "tanh", "partial_identity")
    params = net.init(jax.random.key(0))
    controls = _probe.gaussian_controls(net.function, params, jax.random.key(1), 3)
    for run, control in zip(params["layers"], controls["layers"], strict=True):
        own, theirs = (np.linalg.norm(np.asarray(r["w"], float), axis=(-2, -1)) for r in (run, control))
        np.testing.assert_allclose(theirs, np.broadcast_to(own, theirs.shape), rtol=1e-6)  # float32, 64 terms
        assert (np.asarray(control["b"]) == np.asarray(run["b"])).all()
    hidden = np.asarray(controls["layers"][1]["w"])
    flat = hidden.reshape(-1, 64)
    assert len(np.unique(flat, axis=0)) == len(flat)  # no two layers, no two controls alike
