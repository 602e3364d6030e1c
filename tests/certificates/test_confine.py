"""Updates that rotations confine, against the rank of trained weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import certificates, networks
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


def isometries(params):
    """Weights of a perceptron's leaves, slice by slice, as isometries in float64."""
    layers = []
    for i, leaves in enumerate(params["layers"]):
        num_slices, rows, columns = np.shape(leaves["w"])
        slices = [orthogonal(rows, columns, 10 * i + j) for j in range(num_slices)]
        layers.append({"b": np.asarray(leaves["b"]), "w": np.stack(slices)})
    return {"layers": tuple(layers)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_each_slice_of_a_stack_has_directions_of_its_own(dtype):
    """As in a plain function: num_in + num_out in every hidden layer, and no more."""
    net = networks.mlp([NUM_IN, WIDTH, WIDTH, WIDTH, NUM_OUT], "linear", "orthogonal")
    params = isometries(net.init(jax.random.key(0)))
    cert = certificates.certify(net, jax.tree.map(dtype, params))
    of_stack = [row for row in cert.layers if row.name.startswith("layers/1[")]
    assert [row.rank_bound for row in of_stack] == [NUM_IN + NUM_OUT] * 2
    assert all(row.grade == "evidence" for row in of_stack)


def test_each_step_of_a_scan_has_directions_of_its_own():
    """A scan over residual layers at zero, whose sizes are those of the case above."""

    def f(params, x):
        h = x @ params["a"]
        h, _ = jax.lax.scan(lambda h, w: (h + h @ w, None), h, params["b"])
        return h @ params["c"]

    params = {**ENDS, "b": np.zeros((2, WIDTH, WIDTH))}
    cert = certificates.certify(f, params, np.ones(NUM_IN))
    rows = {row.name: row.rank_bound for row in cert.layers}
    assert rows["b[0]"] == rows["b[1]"] == NUM_IN + NUM_OUT


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
