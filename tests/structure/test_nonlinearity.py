"""Activations are told by what they compute, not by the names of their operations."""

import jax
import jax.numpy as jnp
import pytest

from isometry import activations
from isometry.structure import anatomy

PARAMS = {"in": jnp.zeros((3, 4)), "out": jnp.zeros((4, 2))}


def then(phi, dtype=jnp.float32):
    """Return what the anatomy says follows the first layer."""
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, dtype), PARAMS)

    def f(params, x):
        z = phi(x @ params["in"])
        return z @ params["out"][: z.shape[0]]

    return anatomy(f, params, jnp.ones(3, dtype)).layers[0].then


@pytest.mark.parametrize("name", activations.names())
def test_every_activation_of_the_package_is_told_from_all_others(name):
    expected = () if name == "linear" else (name.replace("_", " "),)
    assert then(activations.get(name).fn) == expected


def by_erf(z):
    return z * (1 + jax.lax.erf(z / 2**0.5)) / 2


def by_hand(z):
    return z / (1 + jnp.exp(-z))


def of_slope(z):
    return jnp.where(z > 0, z, 0.2 * z)


def outer(z):
    return (z[:, None] * jax.nn.sigmoid(z)[None, :]).reshape(-1)[:4]


def halves(z):
    return jax.lax.logistic(z[:2]) * z[2:] * jax.lax.logistic(z[:2])


# Other ways to write a known function, and functions that share their operations.
WRITTEN = {
    "gelu approximate": (jax.nn.gelu, ("gelu tanh",)),
    "gelu exact": (lambda z: jax.nn.gelu(z, approximate=False), ("gelu",)),
    "gelu by hand": (by_erf, ("gelu",)),
    "silu by hand": (lambda z: z * jax.lax.logistic(z), ("silu",)),
    "silu without a sigmoid": (by_hand, ("silu",)),
    "quick gelu": (lambda z: z * jax.lax.logistic(1.702 * z), ("unnamed (logistic)",)),
    "tanhshrink": (lambda z: z - jnp.tanh(z), ("unnamed (tanh)",)),
    "slope": (lambda z: jax.nn.leaky_relu(z, 0.2), ("leaky relu variant",)),
    "slope nearby": (lambda z: jax.nn.leaky_relu(z, 0.0101), ("leaky relu variant",)),
    "slope by hand": (of_slope, ("leaky relu variant",)),
    "alpha": (lambda z: jax.nn.elu(z, 2.0), ("elu variant",)),
    "mish": (jax.nn.mish, ("mish",)),
    "relu6": (jax.nn.relu6, ("relu6",)),
    "relu6 by hand": (lambda z: jnp.minimum(jnp.maximum(z, 0), 6), ("relu6",)),
    "clipped elsewhere": (lambda z: jnp.clip(z, -2, 2), ("clip",)),
    "hard silu": (jax.nn.hard_silu, ("hard silu",)),
    "fused swiglu": (lambda z: jax.nn.silu(z[:2]) * z[2:], ("glu (silu)",)),
    "fused by hand": (halves, ("glu (silu)",)),
}


@pytest.mark.parametrize(("phi", "expected"), WRITTEN.values(), ids=WRITTEN)
def test_function_is_named_for_what_it_computes(phi, expected):
    assert then(phi) == expected


def test_repeated_entries_are_no_function_of_each():
    """z_i sigmoid(z_j) has the operations of silu."""
    assert then(outer)[0] == "unnamed (logistic)"


@pytest.mark.parametrize("name", ["gelu", "silu", "elu", "softplus", "leaky_relu"])
def test_constants_of_bfloat16_may_be_rounded(name):
    """gelu and its approximation differ by less than a rounding there."""
    (found,) = then(activations.get(name).fn, jnp.bfloat16)
    assert found in (name.replace("_", " "), f"{name} tanh")


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "selu", "squareplus"])
def test_constants_of_float64_are_finer(name):
    with jax.enable_x64(True):
        found = then(activations.get(name).fn, jnp.float64)
    assert found == (name.replace("_", " "),)


def test_learned_slope_is_another_function():
    """It has no value before it is drawn."""
    params = PARAMS | {"slope": jnp.zeros(4)}

    def f(params, x):
        z = x @ params["in"]
        return jnp.where(z > 0, z, params["slope"] * z) @ params["out"]

    assert anatomy(f, params, jnp.ones(3)).layers[0].then == ("leaky relu variant",)


def gated(params, x):
    h = jnp.tanh(x @ params["stem"])
    gate = jax.nn.silu(h @ params["gate"])
    return (gate * (h @ params["up"])) @ params["down"]


def test_product_of_two_branches_is_a_step_of_both():
    shapes = {"stem": (3, 4), "gate": (4, 5), "up": (4, 5), "down": (5, 2)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    an = anatomy(gated, params, jnp.ones(3))
    by_name = {layer.name: layer for layer in an.layers}
    assert by_name["gate"].then == ("silu", "product")
    assert by_name["up"].then == ("product",)
    assert by_name["down"].before == ("product",)
    assert by_name["stem"].then == ("tanh",)
