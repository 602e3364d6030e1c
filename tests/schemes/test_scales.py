"""The scale of a free scheme, and what a note says where there is no gain."""

import re

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
        (jnp.exp, "exp"),
        (lambda z: jnp.clip(z, -2, 2), "clip"),
        (lambda z: jax.nn.relu(z - 0.5), "a shifted relu"),
        (lambda z: jnp.tanh(z) + 0.5, "a tanh plus a number"),
        (jax.nn.softmax, "softmax"),
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


def two_layers(activation, scale=1.0):
    """Layers of 6 units whose products, or activations, are multiplied by numbers."""

    def f(params, x):
        h = activation(scale * (x @ params["a"]))
        return activation(scale * (h @ params["b"]) + params["bias"]) @ params["c"]

    return f


def branch(params, x):
    """The number before the ReLU's sum is that of the branch, not of the ReLU."""
    h = x @ params["a"]
    return (h + 0.1 * jax.nn.relu(h @ params["b"])) @ params["c"]


def before(params, x):
    h = x @ params["a"]
    return (h + (1.7 * jax.nn.relu(h)) @ params["b"]) @ params["c"]


def scaled_tanh(z):
    return 1.7159 * jnp.tanh(2 * z / 3)


@pytest.mark.parametrize(
    ("f", "gain", "note"),
    [
        (two_layers(lambda z: 2 * jax.nn.silu(z)), 1, "2 silu that follows"),
        (
            two_layers(scaled_tanh),
            3 / 2 / 1.7159,
            "1.716 tanh(0.6667 z) that follows",
        ),
        (two_layers(lambda z: 2**0.5 * jax.nn.relu(z)), 1, "1.414 relu that follows"),
        (two_layers(jnp.tanh, 0.5), 2, "tanh(0.5 z) that follows"),
        (two_layers(jax.nn.relu6), 2**0.5, "relu6 that follows"),
        (two_layers(jnp.abs), 1, "abs that follows"),
        (branch, 2**0.5, "relu that follows"),
        (before, 2**0.5 / 1.7, "1.7 relu that it reads"),
    ],
)
def test_gains_count_the_numbers_around_an_activation(f, gain, note):
    """At sigma_b = 0: 1/|c a phi'(0)| of c phi(a z), and of the ReLU sqrt(2)/(c a)."""
    sizes = {"a": (6, 6), "b": (6, 6), "bias": (6,), "c": (6, 2)}
    params = {name: jnp.zeros(size) for name, size in sizes.items()}
    an = anatomy(f, params, jnp.ones(6))
    (_, row, *_) = schemes.assign("orthogonal", an, params).rows
    assert row.note == f"critical for the {note}"
    found = float(re.search(r"gain=([\d.]+)", row.initializer)[1])
    # The slope at 0 is that of float32.
    assert found == pytest.approx(gain, rel=4e-7)


def test_scale_of_squareplus_is_that_of_gradients_at_unit_variance():
    """It has no critical point: 1/sqrt(E phi'(u)²), by Gauss-Hermite quadrature.

    The layer that reads it has the same scale: the division by 2 belongs to it.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    slopes = (1 + nodes / np.sqrt(nodes**2 + 4)) / 2
    scale = (weights @ slopes**2 / np.sqrt(2 * np.pi)) ** -0.5
    by_name = rows(plain(jax.nn.squareplus))
    for name in ("stem", "gate"):
        note = by_name[name].note
        assert note.startswith("chi = 1 at unit variance of the squareplus")
        std = float(re.search(r"std=([\d.]+)", by_name[name].initializer)[1])
        # The row prints four digits.
        assert std * SHAPES[name][0] ** 0.5 == pytest.approx(scale, rel=1e-3)


def test_gate_of_a_recurrence_is_critical_for_nothing():
    """The gate z of z h + (1 - z) n multiplies, and n is multiplied."""
    shapes = {"z": (4, 4), "n": (4, 4), "in": (3, 4)}
    params = {name: jnp.zeros(shape) for name, shape in shapes.items()}

    def f(params, xs):
        def step(h, x):
            z = jax.nn.sigmoid(h @ params["z"] + x @ params["in"])
            return z * h + (1 - z) * jnp.tanh(h @ params["n"]), None

        return jax.lax.scan(step, jnp.zeros(4), xs)[0]

    an = anatomy(f, params, jnp.ones((5, 3)))
    by_name = {row.name: row for row in schemes.assign("orthogonal", an, params).rows}
    for name in ("z", "n", "in"):
        assert by_name[name].note.startswith("no gain for ")
        assert by_name[name].initializer == "orthogonal(gain=1.0)"
