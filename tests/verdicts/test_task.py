"""What the probe trains on: targets, losses, optimizers, batches, training mode."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isometry
from isometry import networks
from isometry.verdicts._task import batches_of, task_of
from tests.verdicts.measuring import EPS, subject

KEYS = jax.random.split(jax.random.key(0), 2)
XS = jax.random.normal(jax.random.key(1), (32, 6))
LABELS = jax.device_put(np.arange(32, dtype=np.int32) % 3)


def task(f=None, xs=XS, sample=None, **how):
    """Return a task; by default of a perceptron."""
    f = networks.mlp([6, 8, 3], "tanh") if f is None else f
    arguments = {"targets": None, "loss": None, "optimizer": None, "num_steps": 2} | how
    about = subject(f, keys=KEYS, xs=xs, sample=sample)
    return task_of(about, key=jax.random.key(2), **arguments)


def test_without_targets_synthetic_labels():
    one = task()
    assert one.is_synthetic
    assert one.targets.shape == (32,)
    assert set(np.unique(one.targets)) == {0, 1, 2}


def test_one_output_is_a_score_that_is_linear_in_the_input():
    one = task(networks.mlp([6, 1], "tanh"))
    xs, targets = np.asarray(XS, float), np.asarray(one.targets, float)
    _, residual, *_ = np.linalg.lstsq(xs, targets, rcond=None)
    assert float(residual.max()) < 1e-9


def test_float_targets_mean_the_mean_square():
    one = task(targets=np.zeros((32, 3), np.float32))
    assert not one.is_synthetic
    output = jnp.array([1.0, 2.0, 3.0])
    assert one.loss(output, one.targets[0]) == pytest.approx(14 / 3, rel=1e-6)


def test_labels_mean_cross_entropy():
    one = task(targets=LABELS)
    assert one.loss(jnp.zeros(3), LABELS[0]) == pytest.approx(np.log(3), rel=1e-6)


def test_a_loss_of_ones_own_takes_whatever_targets_it_likes():
    """Counts above the number of outputs are no labels."""
    one = task(targets=LABELS + 40, loss=lambda y, t: jnp.exp(y.sum()) - t * y.sum())
    assert int(one.targets.max()) == 42


def test_a_model_of_tokens_predicts_the_next():

    def f(params, x):
        return params["embed"][x] @ params["head"]

    def sample(key):
        w = jax.random.normal(key, (11, 4))
        return {"embed": w, "head": w.T}

    tokens = jax.random.randint(jax.random.key(3), (8, 5), 0, 11)
    one = task(f, tokens, sample=sample)
    np.testing.assert_array_equal(one.targets[:, :-1], tokens[:, 1:])
    uniform = one.loss(jnp.zeros((5, 11)), one.targets[0])
    assert uniform == pytest.approx(np.log(11), rel=1e-6)


def test_an_output_with_positions_has_a_label_at_each():
    def f(params, x):
        return jnp.tanh(x @ params["w"]).reshape(3, 4)

    def sample(key):
        return {"w": jax.random.normal(key, (6, 12))}

    one = task(f, sample=sample)
    assert one.targets.shape == (32, 3)
    assert set(np.unique(one.targets)) == {0, 1, 2, 3}


def test_batches_are_shuffled_epochs():
    batches = np.asarray(batches_of(jax.random.key(0), 64, num_steps=5))
    assert batches.shape == (5, 32)
    for epoch in (batches[:2], batches[2:4]):
        assert sorted(epoch.ravel()) == list(range(64))
    assert not np.array_equal(batches[:2], batches[2:4])


class Normed(nn.Module):
    """Batch norm in front of a dense layer, with dropout."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(3)(x)


def test_a_batch_is_normed_as_in_training():
    """The batch's own mean and variance are used: outputs do not see a shift of x."""
    net = networks.flax(Normed(), XS[0])
    one = task(net)
    params = jax.jit(net.init)(jax.random.key(0))
    plain = one.function(params, XS, jax.random.key(0))
    shifted = one.function(params, XS + 3, jax.random.key(0))
    # The variance is E x² − (E x)², of which both are rounded relative to 6² at most.
    tolerance = 6**2 * EPS * np.abs(plain).max()
    np.testing.assert_allclose(plain, shifted, atol=tolerance)


def test_dropout_draws_from_the_key():
    net = networks.flax(Normed(rate=0.5), XS[0])
    one = task(net)
    params = jax.jit(net.init)(jax.random.key(0))
    first, again, other = (
        one.function(params, XS, jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def absolute(output, target):
    return jnp.abs(output - target).sum()


def of_chance(output, target):
    # As if of no seed.
    return (output * np.random.default_rng().normal(size=3)).sum()


def without_gradient(output, target):
    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.pure_callback(lambda a: a, shape, output.sum())


def noisy(gradients, params):
    scale = np.float32(np.random.default_rng().normal())
    return jax.tree.map(lambda a: a * scale, gradients)


def of_updates(update, init=lambda params: ()):
    return optax.GradientTransformation(init, update)


def test_an_example_that_is_a_batch_is_suspected():
    """Labels without the axis of one would fit."""
    params = {"w": jnp.ones((1, 4, 3))}
    with pytest.raises(ValueError, match="made from a batch; its example is one x"):
        isometry.audit(
            lambda params, x: x @ params["w"],
            None,
            jnp.ones((32, 1, 4)),
            params=params,
            targets=LABELS,
        )


ROWS = "rows of equal length"
REFUSED = {
    "labels too large": (
        {"targets": LABELS + 1},
        "labels 1 to 3.*3 outputs; labels run from 0 to 2",
    ),
    "labels negative": ({"targets": LABELS - 1}, "labels -1 to 1"),
    "length": (
        {"targets": LABELS[:31]},
        r"targets have shape \(31,\) for 32 examples in xs",
    ),
    "nan": ({"targets": jnp.full((32, 3), jnp.nan)}, "targets holds 96 values"),
    "no axis of outputs": (
        {"targets": jnp.zeros(32)},
        r"float32 of shape \(32,\); .* takes floating ones of shape \(32, 3\)",
    ),
    "one column": (
        {"targets": jnp.zeros((32, 1))},
        r"shape \(32, 3\) or integer labels of shape \(32,\)",
    ),
    "labels in columns": (
        {"targets": jnp.zeros((32, 3), jnp.int32)},
        "the default loss takes",
    ),
    "words": ({"targets": ["word"] * 32}, f"is not an array of numbers: .*{ROWS}"),
    "ragged": ({"targets": [[1.0], [1.0, 2.0]] * 16}, "is not an array of numbers"),
    "complex": ({"targets": jnp.zeros((32, 3), jnp.complex64)}, "targets is complex64"),
    "complex loss": (
        {"loss": lambda y, t: (y * 1j).sum()},
        "must be a scalar, real and floating",
    ),
    "loss of a key error": (
        {"loss": lambda y, t: {}["weight"]},
        "fails on one example.*KeyError: 'weight'",
    ),
    "loss of chance": (
        {"loss": of_chance},
        "loss is not deterministic.*Close over one draw",
    ),
    "loss without gradient": ({"loss": without_gradient}, "loss has no gradient"),
    "loss of a vector": ({"loss": lambda y, t: y}, "it must be a scalar"),
    "loss of one argument": ({"loss": lambda y: y}, "fails on one example"),
    "no loss": ({"loss": 3}, "loss=3 is not callable"),
    "shapes of a loss": (
        {"targets": jnp.zeros((32, 4)), "loss": absolute},
        r"fails on one example.*target of shape \(4,\)",
    ),
    "optimizer": (
        {"optimizer": 0.1},
        r"0.1 is not an optax optimizer; write optax.sgd\(0.1\)",
    ),
    "another state": (
        {
            "optimizer": of_updates(
                optax.sgd(0.1, momentum=0.9).update, optax.adam(0.1).init
            )
        },
        "optimizer.update fails on the state of optimizer.init",
    ),
    "a state that grows": (
        {"optimizer": of_updates(lambda g, s, p: (g, (*s, 1)))},
        "returns state of another structure",
    ),
    "half of the updates": (
        {"optimizer": of_updates(lambda g, s, p: (g["layers"], s))},
        "returns updates of another structure",
    ),
    "optimizer of chance": (
        {"optimizer": optax.stateless(noisy)},
        "optimizer is not deterministic.*key in its state",
    ),
}


@pytest.mark.parametrize(("how", "words"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(how, words):
    with pytest.raises(isometry.InputError, match=words):
        task(**how)
