"""Updates that rotations confine, against the rank of trained weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import certificates
from tests.certificates import models

NUM_IN, WIDTH, NUM_OUT = 3, 12, 2


def orthogonal(rows, columns, seed):
    tall = np.random.default_rng(seed).standard_normal((max(rows, columns),) * 2)
    return np.linalg.qr(tall)[0][:rows, :columns]


def linear(params, x):
    return x @ params["a"] @ params["b"] @ params["c"]


def residual(params, x):
    h = x @ params["a"]
    return (h + h @ params["b"]) @ params["c"]


ENDS = {"a": orthogonal(NUM_IN, WIDTH, 0), "c": orthogonal(WIDTH, NUM_OUT, 1)}
SQUARE = orthogonal(WIDTH, WIDTH, 2)
CASES = {
    "orthogonal": (linear, {**ENDS, "b": SQUARE}),
    "orthogonal in float32": (
        linear,
        jax.tree.map(np.float32, {**ENDS, "b": SQUARE}),
    ),
    "residual at zero": (residual, {**ENDS, "b": np.zeros((WIDTH, WIDTH))}),
}


def trained_rank(f, params):
    """The rank of what 100 steps of momentum add to b, in float64."""
    with jax.enable_x64(True):
        start = jax.tree.map(jnp.asarray, jax.tree.map(np.float64, params))
        rng = np.random.default_rng(0)
        xs = rng.standard_normal((40, NUM_IN))
        ys = rng.standard_normal((40, NUM_OUT))

        def loss(params):
            return jnp.mean((jax.vmap(f, (None, 0))(params, xs) - ys) ** 2)

        @jax.jit
        def step(state, _):
            params, velocity = state
            gradient = jax.grad(loss)(params)
            velocity = jax.tree.map(lambda v, g: 0.9 * v - 0.02 * g, velocity, gradient)
            return (jax.tree.map(jnp.add, params, velocity), velocity), None

        still = jax.tree.map(jnp.zeros_like, start)
        (end, _), _ = jax.lax.scan(step, (start, still), None, length=100)
        values = jnp.linalg.svd(end["b"] - start["b"], compute_uv=False)
        return int((values > 1e-6 * values[0]).sum())


@pytest.mark.parametrize("name", CASES)
def test_linear_networks_are_confined_to_inputs_and_outputs(name):
    """All weights commute with rotations: num_in + num_out directions are moved."""
    f, params = CASES[name]

    # Whatever the size of the gradients.
    def quiet(params, x):
        return 2.0**-40 * f(params, x)

    cert = certificates.certify(quiet, params, np.ones(NUM_IN))
    rows = {row.name: row for row in cert.layers}
    assert rows["b"].rank_bound == NUM_IN + NUM_OUT
    assert rows["b"].grade == "evidence"
    told = {one.layer: one for one in cert.findings}
    assert "Adam" in told["b"].void_for
    assert "residual" in told["b"].what
    # Training does not leave them, and needs no fewer in the end but by chance.
    assert trained_rank(f, params) <= rows["b"].rank_bound


def test_gaussian_weights_are_not_confined():
    params = {"a": models.normal(3, 12), "b": models.normal(12, 12)}
    params["c"] = models.normal(12, 2)
    cert = certificates.certify(linear, params, np.ones(3))
    assert not cert.findings


def test_directions_that_a_softmax_cancels_are_no_finding():
    """Logits may be moved by a constant: so it is at all weights, drawn in any way."""

    def f(params, x):
        return jax.nn.softmax(jnp.tanh(x @ params["a"]) @ params["logits"])

    params = {"a": orthogonal(3, 12, 0), "logits": np.zeros((12, 4))}
    cert = certificates.certify(f, params, np.ones(3))
    assert not [one for one in cert.findings if not one.is_harmless]
