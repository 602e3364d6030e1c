"""The type checker of the tests: arrays are checked, what users pass is not."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import jaxtyping
import pytest
from array_types import checked, names_an_array
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Array, Float

from isometry import activations


@jaxtyping.jaxtyped(typechecker=checked)
def double(x: Float[Array, "n"], sigma_w: float = 1.0) -> Float[Array, "n"]:
    return jnp.concatenate([x, x]) if sigma_w == 2 else x


def test_wrong_shape_of_an_argument_is_an_error():
    with pytest.raises(BeartypeCallHintViolation, match="x"):
        double(jnp.ones((2, 2)))


def test_wrong_shape_of_a_result_is_an_error():
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        double(jnp.ones(2), sigma_w=2)


def test_annotations_without_arrays_are_not_enforced():
    assert double(jnp.ones(2), sigma_w="1").shape == (2,)


def test_only_what_has_arrays_is_decorated():
    def plain(x: int, y: "Later") -> Array:
        return x

    @dataclasses.dataclass
    class Holder:
        x: Float[Array, "n"] | None

    decorate = jaxtyping.jaxtyped(typechecker=checked)
    assert decorate(plain) is plain
    assert decorate(Holder)(None).x is None
    with pytest.raises(jaxtyping.TypeCheckError, match="x"):
        Holder(jnp.ones((2, 2)))


def test_arrays_are_found_inside_unions_and_tuples():
    assert names_an_array(tuple[Float[Array, "n"], ...] | None)
    assert not names_an_array(tuple[Array, int] | None)
    assert not names_an_array(list[Callable[[int], Float[Array, "n"]]])


def test_the_hook_is_installed():
    """An array of whole numbers has no derivative, and only the annotation says so."""
    with pytest.raises(BeartypeCallHintViolation):
        activations.tanh.slope(jnp.arange(3))
