"""Layers that gate a residual branch, and layers that close it if they are zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry.structure import anatomy
from tests.structure.small_models import shape

PARAMS = {name: shape(4, 4) for name in ("a", "b", "c", "d")}


def plain(p, h):
    return jax.nn.relu(h @ p["a"]) @ p["b"]


def excited(p, h):
    """Squeeze and excitation (Hu et al., 2018), of a vector."""
    y = plain(p, h)
    return y * jax.nn.sigmoid(jax.nn.relu(y @ p["c"]) @ p["d"])


def excited_inside(p, h):
    """As in MobileNetV3, where the projection comes after the gate."""
    y = jax.nn.relu(h @ p["a"])
    return (y * jax.nn.sigmoid(jax.nn.relu(y @ p["c"]) @ p["d"])) @ p["b"]


def modulated(p, h):
    """FiLM: a scale of 1 + c(h)."""
    return (1 + h @ p["c"]) * plain(p, h)


def linear_unit(p, h):
    return (jax.nn.silu(h @ p["a"]) * (h @ p["c"])) @ p["b"]


def normed(p, h):
    y = plain(p, h)
    return (y - y.mean()) / jnp.sqrt(y.var() + 1e-5)


def routed(p, h):
    """A mixture of four linear experts of one row each."""
    return jax.nn.softmax(h @ p["c"]) * plain(p, h)


def positive(p, h):
    """Nothing closes a branch that ends in a softplus."""
    return jax.nn.softplus(plain(p, h))


def smooth(p, h):
    """No activation vanishes here, and still both are layers of one path."""
    return jax.nn.softplus(h @ p["a"]) @ p["b"]


CASES = {
    plain: ((), {"a": 0, "b": 1}),
    excited: (("c", "d"), {"a": 0, "b": 1}),
    excited_inside: (("c", "d"), {"a": 0, "b": 1}),
    modulated: (("c",), {"a": 0, "b": 1}),
    linear_unit: ((), {"a": 0, "c": 0, "b": 1}),
    normed: ((), {"a": 0, "b": 1}),
    routed: (("c",), {"a": 0, "b": 1}),
    positive: ((), {"a": 0, "b": 1}),
    smooth: ((), {"a": 0, "b": 1}),
}

# Layers that leave the branch open, although they do not gate it.
OPEN = {positive: ("a", "b"), smooth: ("a",)}


def branch_of(f):
    (branch,) = anatomy(lambda p, h: h + f(p, h), PARAMS, shape(4)).branches
    return branch


@pytest.mark.parametrize("f", CASES)
def test_gates_do_not_count_on_their_branch(f):
    gating, positions = CASES[f]
    branch = branch_of(f)
    assert set(branch.gating) == set(gating)
    given = dict(zip(branch.layers, branch.positions, strict=True))
    assert {name: given[name] for name in positions} == positions


@pytest.mark.parametrize("f", CASES)
def test_branch_is_zero_with_any_layer_that_does_not_gate_it(f):
    """The definition, tried on numbers: zeros in one weight after the other."""
    keys = jax.random.split(jax.random.key(0), len(PARAMS))
    drawn = {
        name: jax.random.normal(key, (4, 4))
        for name, key in zip(PARAMS, keys, strict=True)
    }
    branch = branch_of(f)
    h = jnp.arange(1.0, 5.0)
    for name in branch.layers:
        result = f({**drawn, name: jnp.zeros((4, 4))}, h)
        is_open = name in branch.gating or name in OPEN.get(f, ())
        assert np.any(result) == is_open
