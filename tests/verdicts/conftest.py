"""Networks that several tests read; each is measured once."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from isometry import networks
from tests.verdicts.audited import gaussian, images, measured


class Cnn(nn.Module):
    """Convolutions with BatchNorm, a residual one among them, pooling, and a head."""

    @nn.compact
    def __call__(self, x, train=True):
        def norm(x):
            return nn.BatchNorm(use_running_average=not train)(x)

        x = nn.relu(norm(nn.Conv(8, (3, 3))(x)))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        h = nn.relu(norm(nn.Conv(8, (3, 3))(x)))
        x = x + nn.Conv(8, (3, 3))(h)
        x = nn.tanh(nn.Conv(8, (3, 3))(x))
        return nn.Dense(3)(x.mean((1, 2)))


IMAGES = images(8, 6)


@pytest.fixture(scope="session")
def cnn():
    """(network, healthy parameters, what is measured of it)."""
    net = networks.flax(Cnn(), jnp.zeros((6, 6, 1)))
    params = gaussian(net)
    return net, params, measured(net, params, IMAGES)


TOKENS = jax.random.randint(jax.random.key(1), (8, 5), 0, 9)


@pytest.fixture(scope="session")
def transformer():
    """(network, healthy parameters, what is measured of it)."""
    net = networks.transformer(
        8, 2, 2, vocabulary=9, length=5, activation="relu", mlp=2
    )
    params = gaussian(net)
    return net, params, measured(net, params, TOKENS)
