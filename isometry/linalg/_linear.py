"""The matrix of a linearized function: by tangents, by cotangents, or from its factors side by side."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry.linalg._convolution import canonical
from isometry.linalg._operator import Operator
from isometry.linalg._product import Factors


def matrix_of(
    g: Callable[[Any], Any], point: Float[Array, " n"], chunk: int | None = None, forward: bool = False
) -> Float[Array, "m n"]:
    """The Jacobian of g: vector → vector at `point`, from one linearization.

    Reverse mode where outputs are no more than inputs, forward otherwise, or always; `chunk` directions at a time, None
    for all.
    """
    out = jax.eval_shape(g, point)
    if out.size <= point.size and not forward:
        _, pull = jax.vjp(g, point)
        return _rows(canonical(lambda v: pull(v)[0]), jnp.eye(out.size, dtype=out.dtype), chunk)
    _, push = jax.linearize(g, point)
    return _rows(canonical(push), jnp.eye(point.size, dtype=point.dtype), chunk).T


def _rows(product: Callable[[Any], Any], basis: Any, chunk: int | None) -> Any:
    if chunk is None or chunk >= len(basis):
        return jax.vmap(product)(basis)
    return jax.lax.map(product, basis, batch_size=chunk)


def factored(stacks: Sequence[Factors]) -> Operator:
    """The product of factors as an operator. Under vmap, vectors that share a matrix are one wide product."""
    # (count, n, m), as layers store them: with the transpose that made them factors this one cancels under jit,
    # where a transpose of the whole stack before a loop would be a copy
    turned = [s if s.matrix is None else s._replace(matrix=s.matrix.mT) for s in stacks]

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
    if stacks[-1].size[1] < stacks[0].size[2]:
        return jnp.transpose(_built([_reversed(s) for s in reversed(stacks)], batch), (1, 2, 0))
    return jnp.transpose(_built([_ordered(s) for s in stacks], batch), (1, 0, 2))


Step = tuple[Any, Any, Any]
"""(matrix, scale before it, scale after it) of each factor of a stack; scales are (count, size, batch, 1)."""


def _ordered(stack: Factors) -> Step:
    return stack.matrix, None, _columns(stack.scale)


def _reversed(stack: Factors) -> Step:
    matrix = None if stack.matrix is None else stack.matrix[::-1].mT
    scale = _columns(stack.scale)
    return matrix, None if scale is None else scale[::-1], None


def _columns(scale: Any) -> Any:
    """(batch, count, m) → (count, m, batch, 1)."""
    return None if scale is None else jnp.moveaxis(scale, 0, -1)[..., None]


def _built(steps: list[Step], batch: int) -> Float[Array, "m batch r"]:
    wide = _start(_each(steps[0])[0], batch)
    for i, step in enumerate(steps):
        first, rest = _each(step)
        wide = wide if i == 0 else _next(wide, first)
        if rest is not None:
            wide = jax.lax.scan(lambda y, s: (_next(y, s), None), wide, rest)[0]
    return wide


def _each(step: Step) -> tuple[Step, Step | None]:
    """The first factor of a stack, and the others."""
    first = jax.tree.map(lambda a: a[0], step)
    return first, jax.tree.map(lambda a: a[1:], step) if len(jax.tree.leaves(step)[0]) > 1 else None


def _start(step: Step, batch: int) -> Any:
    """The first factor for every member of the batch, without a product."""
    matrix, before, after = step
    scale = before if before is not None else after
    if matrix is None:
        return scale * jnp.eye(len(scale), dtype=scale.dtype)[:, None, :]
    wide = matrix[:, None, :] if before is None else matrix[:, None, :] * before[:, :, 0].T[None]
    wide = jnp.broadcast_to(wide, (wide.shape[0], batch, wide.shape[2]))
    return wide if after is None else wide * after


def _next(wide: Any, step: Step) -> Any:
    matrix, before, after = step
    wide = wide if before is None else wide * before
    if matrix is not None:
        wide = (matrix @ wide.reshape(len(wide), -1)).reshape(len(matrix), *wide.shape[1:])
    return wide if after is None else wide * after
