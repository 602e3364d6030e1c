"""Gradients on given data: batches, targets, and the training mode of a network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from isometry import networks
from isometry.certificates._data import Data

XS = np.arange(12.0).reshape(4, 3)
LABELS = np.array([0, 1, 1, 0])


def f(params, x):
    return params @ x


def test_batch_is_f_of_each_row():
    data = Data.of(f, f, xs=XS, loss=None)
    params = np.ones((2, 3))
    drawn = data.draw(jax.random.key(0))
    outputs = data.batch(params, drawn)
    assert np.allclose(outputs, drawn["rows"] @ params.T)
    assert data.num_rows == 4


def test_loss_gets_the_target_of_its_row():
    """The loss below is one number for each pair of input and target."""
    data = Data.of(
        f,
        f,
        xs=(XS, LABELS),
        loss=lambda out, label: out.sum() + 100 * label.astype(out.dtype),
    )
    drawn = data.draw(jax.random.key(1))
    rows, labels = drawn["rows"]
    losses = data.batch(np.ones((2, 3)), drawn)
    assert np.allclose(losses, 2 * rows.sum(1) + 100 * labels)


def test_training_mode_takes_the_batch_and_a_key():
    class Dropped(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool = False):
            return nn.Dropout(0.5, deterministic=not train)(nn.Dense(2)(x))

    net = networks.flax(Dropped(), jnp.ones(3), batch=4)
    data = Data.of(net, net.training, xs=XS.astype(np.float32), loss=None)
    params = jax.jit(net.init)(jax.random.key(0))
    drawn = data.draw(jax.random.key(0))
    first = data.batch(params, drawn)
    second = data.batch(params, {**drawn, "key": jax.random.key(9)})
    assert first.shape == (4, 2)
    assert (first != second).any()
