"""The smallest spaces, against closures that are known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry.certificates import _closure
from isometry.certificates._gradients import Gradients, Space
from isometry.certificates._programs import program


@pytest.fixture(autouse=True)
def _in_float64():
    with jax.enable_x64(True):
        yield


def closures(f, params, num_inputs=4):
    def draw(key):
        return jax.random.normal(key, (num_inputs,))

    space = Space(params)
    x = jax.ShapeDtypeStruct((num_inputs,), np.float64)
    pull = program(f, params, x, dtype=np.float64)
    gradients = Gradients(pull, space, draw=draw, rng=np.random.default_rng(0))
    start = _closure.first_gradient(gradients, space.leaf)
    exact = _closure.exact(gradients, space.leaf, start)
    affine = _closure.affine(gradients, space.leaf, start, decays=True)
    return space, exact, affine


def f(params, x):
    return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["c"]


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_generic_parameters_are_told_apart_by_one_gradient():
    params = {"a": drawn(4, 5), "b": drawn(5, 5), "c": drawn(5, 2)}
    space, exact, affine = closures(f, params)
    assert exact.moves.num_classes == space.size
    assert affine.moves.num_classes == space.size
    assert (affine.first == 1).all()


def test_twins_stay_twins():
    """Units 0 and 1 of layer one have equal weights on both sides."""
    params = {"a": drawn(4, 5), "b": drawn(5, 5), "c": drawn(5, 2)}
    params["a"][:, 1] = -params["a"][:, 0]
    params["b"][1] = -params["b"][0]
    space, exact, _ = closures(f, params)
    a, b, _ = space.arrays(exact.moves.labels())
    assert np.array_equal(a[:, 0], a[:, 1])
    assert np.array_equal(b[0], b[1])
    # Four pairs in a and five in b are one each.
    assert exact.moves.num_classes == space.size - 9


def test_zero_layer_starts_those_before_it_at_the_next_step():
    params = {"a": drawn(4, 5), "b": drawn(5, 5), "c": np.zeros((5, 2))}
    space, _, affine = closures(f, params)
    steps = [set(part.ravel().tolist()) for part in space.arrays(affine.first)]
    assert steps == [{2}, {2}, {1}]


def test_equal_sums_are_found_from_theta_alone():
    """Rows and columns of a magic square have one sum; no two entries are equal."""
    square = np.array([[2.0, 7, 6], [9, 5, 1], [4, 3, 8]]) / 16
    params = {"a": np.full((4, 3), 0.5), "b": square, "c": np.full((3, 2), 0.25)}
    _, exact, affine = closures(f, params)
    assert exact.moves.num_classes > 9
    # Each of four inputs has its class in a, b is one, and each of two outputs in c.
    assert affine.moves.num_classes == 4 + 1 + 2


def test_zeros_that_cancel_are_not_bitwise():
    """What is added to all logits is cancelled by rounding numbers."""

    def shifted(params, x):
        logits = jnp.outer(x, params["w"]) + params["b"]
        return jax.nn.softmax(logits, axis=-1)[0] * params["v"]

    params = {"w": drawn(3), "b": np.zeros((4, 1)), "v": np.zeros(3)}
    space, exact, _ = closures(shifted, params)
    b, _, _ = space.parts(exact.first)
    assert (b == 0).all()
    assert not space.parts(exact.bitwise)[0].all()
