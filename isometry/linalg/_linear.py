"""The matrix of a linearized function: by tangents, by cotangents, or from its factors side by side."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry.linalg._convolution import canonical
from isometry.linalg._operator import Operator, of_numbers
from isometry.linalg._product import Factors, require_stacks


def matrix_of(
    g: Callable[[Any], Any], point: Float[Array, " n"], chunk: int | None = None, forward: bool | None = None
) -> Float[Array, "m n"]:
    """The Jacobian of g: vector → vector at `point`, from one linearization.

    Forward mode if `forward`, reverse if not; None: reverse where outputs are no more than inputs. `chunk` directions
    at a time, None for all.
    """
    out, g = jax.eval_shape(g, point), of_numbers(g)
    if not (out.size > point.size if forward is None else forward):
        _, pull = jax.vjp(g, point)
        return _rows(canonical(lambda v: pull(v)[0]), jnp.eye(out.size, dtype=out.dtype), chunk)
    _, push = jax.linearize(g, point)
    return _rows(canonical(push), jnp.eye(point.size, dtype=point.dtype), chunk).T


def _rows(product: Callable[[Any], Any], basis: Any, chunk: int | None) -> Any:
    if chunk is None or chunk >= len(basis):
        return jax.vmap(product)(basis)
    return jax.lax.map(product, basis, batch_size=chunk)


def _turned(stack: Factors) -> Factors:
    """Its matrices as (count, n, m), the way layers store them: with the transpose that made them factors this one
    cancels under jit, where a transpose of a whole stack before a loop would be a copy."""
    return stack if stack.matrix is None else stack._replace(matrix=stack.matrix.mT)


def factored(stacks: Sequence[Factors]) -> Operator:
    """The product of factors as an operator. Under vmap, vectors that share a matrix are one wide product."""
    require_stacks("factored", stacks)
    turned = [_turned(stack) for stack in stacks]

    def sent(v: Any, stack: Factors, backward: bool) -> Any:
        step = lambda v, factor: ((_pulled if backward else _pushed)(factor, v), None)  # noqa: E731
        if len(jax.tree.leaves(stack)[0]) == 1:
            return step(v, jax.tree.map(lambda a: a[0], stack))[0]
        return jax.lax.scan(step, v, stack, reverse=backward)[0]

    def push(v: Any) -> Any:
        return functools.reduce(lambda v, stack: sent(v, stack, False), turned, v)

    def pull(u: Any) -> Any:
        return functools.reduce(lambda u, stack: sent(u, stack, True), reversed(turned), u)

    return Operator(push, pull, (stacks[-1].size[1], stacks[0].size[2]), stacks[0].dtype)


def _pushed(factor: Factors, v: Any) -> Any:
    v = v if factor.matrix is None else v @ factor.matrix
    return v if factor.scale is None else factor.scale * v


def _pulled(factor: Factors, u: Any) -> Any:
    u = u if factor.scale is None else factor.scale * u
    return u if factor.matrix is None else u @ factor.matrix.T


def wide_product(stacks: Sequence[Factors], batch: int) -> Float[Array, "batch m n"]:
    """The products of factors whose matrices are shared and whose scales, (batch, count, m), are not.

    `batch` members lie side by side, so that each factor is one wide matrix product in a scan, from the narrower end.
    """
    backward = stacks[-1].size[1] < stacks[0].size[2]
    steps = [_turned(stack)._replace(scale=_columns(stack.scale)) for stack in stacks]
    wide = _built(steps[::-1] if backward else steps, batch, backward)
    return jnp.transpose(wide, (1, 2, 0) if backward else (1, 0, 2))


def _columns(scale: Any) -> Any:
    """(batch, count, m) → (count, m, batch, 1)."""
    return None if scale is None else jnp.moveaxis(scale, 0, -1)[..., None]


def _built(steps: list[Factors], batch: int, backward: bool) -> Float[Array, "m batch r"]:
    """The product, or `backward` that of the transposed factors, of stacks that are turned."""
    first, rest = _parted(steps[0], backward)
    wide = _start(first, batch, backward)
    for stack in ([] if rest is None else [rest]) + steps[1:]:
        if _count(stack) > 1:
            step = lambda wide, factor: (_next(wide, factor, backward), None)  # noqa: E731
            wide = jax.lax.scan(step, wide, stack, reverse=backward)[0]
        else:  # not in a loop: one factor may change the width
            wide = _next(wide, jax.tree.map(lambda a: a[0], stack), backward)
    return wide


def _count(stack: Factors) -> int:
    return len(jax.tree.leaves(stack)[0])


def _parted(stack: Factors, backward: bool) -> tuple[Factors, Factors | None]:
    """The factor to begin with, and the others; those are copied, where a stack that is multiplied whole is not."""
    one, others = (-1, slice(None, -1)) if backward else (0, slice(1, None))
    rest = jax.tree.map(lambda a: a[others], stack) if _count(stack) > 1 else None
    return jax.tree.map(lambda a: a[one], stack), rest


def _start(factor: Factors, batch: int, backward: bool) -> Any:
    """One factor for every member of the batch, without a product."""
    matrix, scale = factor
    if matrix is None:
        assert scale is not None, "a factor of neither"
        return scale * jnp.eye(len(scale), dtype=scale.dtype)[:, None, :]
    matrix = matrix if backward else matrix.T
    wide = jnp.broadcast_to(matrix[:, None, :], (len(matrix), batch, matrix.shape[1]))
    if scale is None:
        return wide
    return wide * (scale[:, :, 0].T[None] if backward else scale)


def _next(wide: Any, factor: Factors, backward: bool) -> Any:
    matrix, scale = factor
    wide = wide * scale if backward and scale is not None else wide
    if matrix is not None:
        matrix = matrix if backward else matrix.T
        wide = (matrix @ wide.reshape(len(wide), -1)).reshape(len(matrix), *wide.shape[1:])
    return wide if backward or scale is None else wide * scale
