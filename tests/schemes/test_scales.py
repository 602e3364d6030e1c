"""The scale of a free scheme, and what a note says where there is no gain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from isometry import schemes
from isometry.structure import anatomy

SHAPES = {"stem": (3, 4), "gate": (4, 5), "up": (4, 5), "down": (5, 2)}
PARAMS = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}


def gated(phi):
    def f(params, x):
        h = jnp.tanh(x @ params["stem"])
        return (phi(h @ params["gate"]) * (h @ params["up"])) @ params["down"]

    return f


def rows(f):
    an = anatomy(f, PARAMS, jnp.ones(3))
    assignment = schemes.assign("gaussian", an, PARAMS)
    return {row.name: row for row in assignment.rows}


def test_factors_of_a_product_are_critical_for_nothing():
    by_name = rows(gated(jax.nn.silu))
    assert by_name["stem"].note == "critical for the tanh that follows"
    no_gain = "no gain for a product of two branches"
    assert by_name["gate"].note.startswith(f"{no_gain} with a silu, so as linear")
    assert by_name["up"].note.startswith(f"{no_gain}, so as linear")
    assert by_name["down"].note.startswith("no gain behind a product")
    # sigma_w 1, where that of silu is 2.
    assert by_name["gate"].initializer == "normal(mean=0.0, std=0.5)"


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_variance_behind_a_gate_has_no_stable_fixed_point(sigma):
    """The reason for the note: q -> s² q E silu(sqrt(q) u)² runs away from q = 1.

    With s chosen so that 1 is a fixed point, u and v of variance sigma² q; by
    Gauss-Hermite quadrature, whose sum of 80 terms is exact to 1e-10 here.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)

    def behind(q):
        u = sigma * np.sqrt(q) * nodes
        mean_square = weights @ (u * special.expit(u)) ** 2 / np.sqrt(2 * np.pi)
        return sigma**2 * q * mean_square

    scale = 1 / behind(1.0)
    assert scale * behind(1.01) > 1.01**2
    assert scale * behind(0.99) < 0.99**2


def plain(phi):
    def f(params, x):
        h = phi(x @ params["stem"])
        return (h @ params["gate"]) @ params["down"] + 0 * (h @ params["up"])[:2]

    return f


@pytest.mark.parametrize(
    ("phi", "step"),
    [
        (lambda z: jax.nn.leaky_relu(z, 0.2), "leaky relu variant"),
        (lambda z: z * jax.lax.logistic(1.702 * z), "unnamed (logistic)"),
        (lambda z: jax.nn.relu(z) ** 2, "square"),
    ],
)
def test_function_without_a_known_gain_is_named(phi, step):
    """Both in the layer before it and in those that read it."""
    by_name = rows(plain(phi))
    assert by_name["stem"].note.startswith(f"no gain for {step}, so as linear")
    assert by_name["gate"].note.startswith(f"no gain behind {step}, so as linear")


def test_gelu_is_told_from_its_approximation():
    """They have critical points of their own at a bias: sigma_w differs."""
    an = anatomy(plain(jax.nn.gelu), PARAMS, jnp.ones(3))
    assignment = schemes.assign("gaussian", an, PARAMS, sigma_b=0.3)
    (row,) = [
        row for row in assignment.rows if row.name == "stem" and row.role != "bias"
    ]
    expected = schemes.get("gaussian").at("gelu_tanh", sigma_b=0.3)
    other = schemes.get("gaussian").at("gelu", sigma_b=0.3)
    assert expected.sigma_w != other.sigma_w
    assert row.initializer == f"normal(mean=0.0, std={expected.sigma_w * 3**-0.5})"
