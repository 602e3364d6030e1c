"""Audits and tasks that many tests read; each is computed once."""

import jax
import pytest

import isometry
from isometry import data, networks

N_X, N_Y, WIDTH, DEPTH, STEPS = 16, 10, 32, 4, 300


@pytest.fixture(scope="session")
def pooled():
    pytest.importorskip("sklearn")
    return data.digits(pooled=True)


@pytest.fixture(scope="session")
def pooled_audits(pooled):
    """Partial identity, ZerO, orthogonal and Gaussian tanh networks, which share their programs, on pooled digits."""
    sizes = [N_X, *[WIDTH] * (DEPTH - 1), N_Y]
    nets = {
        "partial_identity": networks.mlp(sizes, "tanh", "partial_identity"),
        "zer_o": networks.mlp(sizes, "tanh", "zer_o"),
        "orthogonal": networks.mlp(sizes, "tanh", "orthogonal"),
        "gaussian": networks.mlp(sizes, "tanh", "gaussian"),
    }
    keys = jax.random.split(jax.random.key(0), 5)
    return isometry.audit(nets, keys, pooled.xs, targets=pooled.targets, train_steps=STEPS, inputs=4)
