"""Programs evaluated equation by equation, some of them changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry._internal import equations

X = np.linspace(-1.0, 1.0, 3, dtype=np.float32)
CONSTANT = np.arange(3, dtype=np.float32)


def f(x):
    y, _ = jax.lax.scan(lambda c, _: (jax.nn.relu(c) + CONSTANT, None), x, length=2)
    return jax.jit(jnp.sin)(y)


@pytest.fixture(scope="module")
def program():
    return jax.make_jaxpr(f)(X)


def cosines(eqn, operands):
    """Evaluate a program with the cosine for the sine, inside calls too."""
    if eqn.primitive.name in equations.CALLS:
        return equations.evaluated(equations.called(eqn), operands, cosines)
    if eqn.primitive.name == "sin":
        return [jnp.cos(*operands)]
    return equations.unchanged(eqn, operands)


def test_program_is_evaluated_as_it_stands(program):
    (y,) = equations.evaluated(program, [X], equations.unchanged)
    np.testing.assert_array_equal(y, f(X))


def test_an_equation_inside_a_call_is_changed(program):
    (y,) = equations.evaluated(program, [X], cosines)
    state = np.maximum(np.maximum(X, 0) + CONSTANT, 0) + CONSTANT
    # Sums of small whole numbers and halves are exact, and the cosine is to 2 eps.
    np.testing.assert_allclose(y, np.cos(state), atol=2 * np.finfo("f").eps)


def test_an_equation_that_is_no_call_has_no_program():
    (eqn,) = jax.make_jaxpr(jnp.sin)(X).eqns
    assert equations.called_or_none(eqn) is None
    with pytest.raises(AssertionError, match="sin calls no program"):
        equations.called(eqn)
