"""Replaces the kinks of a program by random analytic functions.

A lock of a function with kinks, found by probing, holds on the pieces that were probed.
A lock of the relaxed function, for a random choice of analytic functions, holds for all
choices; so it holds for their limit, the function with kinks, on all of its pieces.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
from jax.extend import core
from jaxtyping import Array, PyTree

from isometry._internal import kinds
from isometry._internal.types import Key, Params
from isometry.certificates.relaxing._rewriting import Rewriting
from isometry.certificates.relaxing._smooth import drawn
from isometry.certificates.relaxing._value import array_of, leaf

Map: TypeAlias = Callable[[Params, PyTree[Array]], PyTree[Array]]


class Relaxed(NamedTuple):
    """A function without kinks, and what was done to it.

    Attributes:
        f: The function. It takes params and x of the structure, shapes and dtypes that
            it was made for.
        replaced: The primitives that were replaced somewhere, in alphabetical order;
            empty if the function has no kinks.
        unrelaxed: One sentence for each kind of equation that jumps or bends and was
            left as it is. If it is not empty, a lock of `f` is evidence, no proof.
    """

    f: Map
    replaced: tuple[str, ...]
    unrelaxed: tuple[str, ...]


def relaxed(
    f: Map,
    params: Params,
    x: PyTree[Array],
    key: Key,
) -> Relaxed:
    """Replace every kink of f that depends on params or x by a random function.

    The functions are real analytic and the same ones throughout f, so equal parts of a
    network stay equal. They are odd or even where the original is. At zero and at the
    kinks of an elementwise function they have its value and the derivative that JAX
    takes. They need not resemble the original elsewhere: it is only for locks.

    A comparison becomes a number between 0 and 1, through which no derivative passes,
    as none passes through the comparison. What is compared must depend on a floating
    leaf of params or x: random masks, masks of constants, of positions and of whole
    numbers stay as they are, and so does the maximum that softmax subtracts.

    The relaxed function lies between the same bounds in most cases, but not in all: a
    logarithm behind a kink may meet a negative number. Then the result is NaN, and
    nothing follows from it.

    Args:
        f: A function of parameters and input.
        params: Its parameters; shapes suffice.
        x: Its input; shapes suffice.
        key: Determines the functions.

    Returns:
        The relaxed function, what was replaced, and what was not.

    Example:
        >>> def f(w, x):
        ...     return jax.nn.relu(w * x - 6)
        >>> relaxed_f = relaxed(f, jnp.ones(()), jnp.ones(()), jax.random.key(0))
        >>> relaxed_f.replaced
        ('max',)
        >>> slope = jax.grad(relaxed_f.f)(jnp.ones(()), jnp.ones(()))
        >>> bool(slope != 0)
        True
    """
    # Equations are replaced, not functions: where a kink comes from does not matter.
    closed, shape = jax.make_jaxpr(f, return_shape=True)(params, x)
    leaves, tree = jax.tree.flatten((params, x))
    rewriting = Rewriting(drawn(key))

    def run(*arrays: Array) -> list[Array]:
        operands = [leaf(array, is_active=kinds.is_inexact(array)) for array in arrays]
        results = rewriting.program(closed, operands)
        return [array_of(result) for result in results]

    # What is tried on the way, at a few points, is tried once, not at every call.
    program = jax.make_jaxpr(run)(*leaves)
    call = core.jaxpr_as_fun(program)

    def relaxed_f(
        params: Params,
        x: PyTree[Array],
    ) -> PyTree[Array]:
        arrays = tree.flatten_up_to((params, x))
        return jax.tree.unflatten(jax.tree.structure(shape), call(*arrays))

    return Relaxed(
        relaxed_f,
        tuple(sorted(rewriting.replaced)),
        tuple(rewriting.unrelaxed),
    )
