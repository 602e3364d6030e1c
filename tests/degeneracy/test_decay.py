"""Whether an optimizer's decay can be told from what it makes of gradients: known optimizers, one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import isometry
from isometry import networks
from isometry.degeneracy import _probe, _task
from isometry.degeneracy._decay import no_separate_decay

NET = networks.mlp([3, 8, 8, 2], "tanh", "orthogonal")
L2 = optax.add_decayed_weights
APART = {
    "sgd": optax.sgd(0.1),
    "L2 and momentum": optax.chain(L2(1e-3), optax.sgd(0.1, momentum=0.9)),
    "adam": optax.adam(1e-2),
    "adamw, warmed up": optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-2, 100, 200), weight_decay=0.1),
    "lamb without decay": optax.lamb(1e-2),
}
MIXED = {
    "lamb": optax.lamb(1e-3, weight_decay=1e-4),
    "L2 under adam": optax.chain(L2(1e-4), optax.adam(1e-3)),
    "L1": optax.chain(
        optax.stateless(lambda g, p: jax.tree.map(lambda a, w: a + 1e-3 * jnp.sign(w), g, p)), optax.sgd(1.0)
    ),
}


@pytest.mark.parametrize("name", [*APART, *MIXED])
def test_decay_apart_from_gradients(name):
    why = no_separate_decay((APART | MIXED)[name], NET.init(jax.random.key(0)))
    assert ("depends on their gradients" in why) == (name in MIXED)


def test_a_rank_without_meaning_is_none():
    """LAMB's idle decay is not that of training: 2 examples a step would seem to move all directions."""
    task, _ = _task.make_task(NET, jnp.eye(3)[:2], None, None, MIXED["lamb"], 1, jax.random.key(1))
    params = jax.vmap(NET.init)(jax.random.split(jax.random.key(0), 1))
    _, probe = _probe.judge_ranks(NET, task, params, isometry.Thresholds(controls=1), jax.random.key(2))
    assert probe is not None
    assert probe.update_rank is None
    assert "this optimizer's decay" in probe.no_update_rank
    assert np.isfinite(probe.gradient_rank).all()
    assert probe.as_dict()["update_rank"] is None
