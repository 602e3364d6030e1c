"""Random gradients, their errors of rounding, and the parameters as a vector."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry.certificates._gradients import Gradients, Space, shaken
from isometry.certificates._programs import program


@pytest.fixture(autouse=True)
def _in_float64():
    with jax.enable_x64(True):
        yield


def gradients_of(f, params, num_inputs=1):
    def draw(key):
        return jax.random.normal(key, (3,))

    x = jax.ShapeDtypeStruct((3,), np.float64)
    pull = program(f, params, x, dtype=np.float64, num_inputs=num_inputs)
    rng = np.random.default_rng(0)
    return Gradients(pull, Space(params), draw=draw, rng=rng)


def test_vector_holds_floating_leaves_in_order():
    params = {"a": np.ones((2, 3), np.float32), "n": np.arange(4), "z": np.zeros(2)}
    space = Space(params)
    assert space.names == ["['a']", "['z']"]
    assert space.size == 8
    assert space.leaf.tolist() == [0] * 6 + [1] * 2
    back = space.params(space.arrays(space.theta))
    assert jax.tree.all(jax.tree.map(np.array_equal, back, params))


def test_gradient_is_that_of_the_outputs_times_the_cotangent():
    """f = A x with one output: the gradient of A is c x^T, of rank one."""
    params = {"a": np.arange(6.0).reshape(2, 3)}
    gradients = gradients_of(lambda p, x: p["a"] @ x, params)
    matrix = gradients(gradients.space.theta).values.reshape(2, 3)
    assert np.linalg.matrix_rank(matrix) == 1


def test_errors_are_those_of_ill_conditioned_functions():
    """cos(1e6 a x) is off by 1e6 roundings if a is off by one."""

    def f(params, x):
        return jnp.sin(1e6 * params["a"] * x[0]).sum()

    gradients = gradients_of(f, {"a": np.linspace(0.3, 0.7, 50)})
    gradient = gradients(gradients.space.theta)
    # 8 roundings of 1e-16, 32 times that, and the angle is at most 1e6.
    relative = gradient.tolerance / np.abs(gradient.values).max()
    assert 1e-9 < np.median(relative) < 1e-6


def test_array_that_is_all_rounding_has_one_level():
    """A softmax is not moved by a number that is added to all of its logits."""

    def f(params, x):
        logits = jnp.outer(params["w"], x) + params["b"][:, None]
        return jax.nn.softmax(logits, axis=-1)

    params = {"w": np.linspace(0.5, 1.5, 4), "b": np.zeros(4)}
    gradients = gradients_of(f, params)
    for _ in range(10):
        gradient = gradients(gradients.space.theta)
        bias, weight = gradients.space.parts(np.abs(gradient.values))
        tolerance, of_weight = gradients.space.parts(gradient.tolerance)
        assert (bias <= tolerance).all()
        assert (weight > of_weight).all()


def test_unused_entries_do_not_decide_the_errors_of_the_others():
    """Most entries have no gradient, like most rows of an embedding.

    The gradient of the second is about 1e-15 of that of the first: more than its own
    rounding error of 1e-31, and less than the tolerance of the first, 1e-13.
    """

    def f(params, x):
        return params["a"][:2] * x[:2] * np.array([1.0, 1e-15])

    gradients = gradients_of(f, {"a": np.ones(9)})
    gradient = gradients(gradients.space.theta)
    is_zero = np.abs(gradient.values) <= gradient.tolerance
    assert is_zero.tolist() == [False, False] + 7 * [True]


def test_exact_zeros_have_no_error():
    gradients = gradients_of(
        lambda p, x: p["a"] * x[0], {"a": np.ones(2), "b": np.ones(2)}
    )
    gradient = gradients(gradients.space.theta)
    assert (gradient.tolerance[2:] == 0).all()


def test_ties_are_fragile():
    """Which of two equal numbers is the larger is decided by rounding."""

    def f(params, x):
        return jnp.max(params["a"] * x[0])

    gradients = gradients_of(f, {"a": np.ones(3)})
    fragile = gradients(gradients.space.theta).fragile
    assert fragile is not None
    assert fragile.any()


def test_several_inputs_share_a_point():
    gradients = gradients_of(lambda p, x: p["a"] @ x, {"a": np.eye(3)}, num_inputs=4)
    matrix = gradients(gradients.space.theta).values.reshape(3, 3)
    # The sum over four inputs has full rank; of one it has rank one.
    assert np.linalg.matrix_rank(matrix) == 3
    assert gradients.num_draws == 4


def test_shaken_numbers_are_off_by_eight_roundings():
    rng = np.random.default_rng(0)
    moved = shaken({"a": np.ones(1000), "n": np.arange(3)}, 2.0**-53, rng)
    steps = (moved["a"] - 1) * 2.0**53
    assert set(np.round(steps).tolist()) == {-8.0, 8.0}
    assert moved["n"].tolist() == [0, 1, 2]


def test_gradient_that_is_not_finite_is_refused():
    gradients = gradients_of(lambda p, x: jnp.sqrt(-1 - p["a"] ** 2), {"a": np.ones(2)})
    with pytest.raises(isometry.InputError, match="not finite"):
        gradients(gradients.space.theta)
