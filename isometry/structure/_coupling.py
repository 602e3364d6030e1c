"""Whether the rows of x are examples of a batch: none reaches the output of another."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from isometry._internal import compilation
from isometry._internal.types import Params

Map: TypeAlias = Callable[[Params, PyTree[Array]], Array]


def rows_are_independent(
    apply: Map,
    params: Params,
    x: PyTree[Array],
) -> bool:
    """Tell whether row i of the output depends on row i of x alone, for every i.

    Rows are slices of the leading axis, of every array in x. Some of them are perturbed
    in a random direction, and the derivative at the others is zero exactly, or they are
    coupled. Which are perturbed follows the binary digits of i, because any two rows
    differ in one of them: 2 log2(rows) derivatives settle all pairs. A coupling that is
    zero at this x alone, or that underflows, is not seen.

    Args:
        apply: A function (params, x) -> array, hashable. Equal ones share a program.
        params: Its parameters.
        x: An array, or a tree of arrays, of which the floating ones are perturbed.

    Returns:
        False as well where there are fewer than two rows, where x has no axis behind
        that of the rows, where the output has other rows than x, where f has no
        derivative, and where the whole derivative is zero or not finite.
    """
    out = jax.eval_shape(apply, params, x)
    num_rows = _num_rows(x, out)
    if num_rows < 2:
        return False
    codes = _codes(num_rows)
    for derivative in (_forward, _backward):
        try:
            return bool(_are_independent(apply, derivative, params, x=x, codes=codes))
        # Some functions are differentiated one way alone, some not at all; a user's
        # rules may raise anything.
        except Exception:
            continue
    return False


def coupling_of_rows(
    apply: Map,
    params: Params,
    x: PyTree[Array],
    *,
    one_row: Map | None = None,
) -> str | None:
    """Say that x may be a batch, where no row of it meets another in f.

    Args:
        apply: A function (params, x) -> array, hashable.
        params: Its parameters, not traced.
        x: What is passed as one example, not traced.
        one_row: The function as it can be called with x[0], if that is another one.

    Returns:
        Two sentences: what was found, and what to write; None where rows meet.
    """
    if not rows_are_independent(apply, params, x):
        return None
    out = jax.eval_shape(apply, params, x)
    advice = "measure lambda params, x: f(params, x[None])[0] at x[0]"
    if _takes_one_row(one_row or apply, params, x, out=out):
        advice = "write x[0]"
    return (
        f"row i of f's output, of shape {out.shape}, depends on row i of x alone, so J "
        f"is block diagonal, {out.shape[0]} Jacobians side by side. If x is a batch, "
        f"{advice}, and for all of them isometry.ensemble(f, params=..., xs=x). If x "
        "is one example whose rows never meet, such as tokens, silence "
        "isometry.BatchWarning."
    )


def _num_rows(
    x: PyTree[Array],
    out: jax.ShapeDtypeStruct,
) -> int:
    """Return the length of the leading axis of x and the output, 0 if there is none."""
    leaves = jax.tree.leaves(x)
    floating = [leaf for leaf in leaves if _is_floating(leaf)]
    shapes = [jnp.shape(leaf) for leaf in leaves]
    # Entries of a vector are no examples.
    has_rows = bool(floating) and all(len(shape) > 0 for shape in shapes)
    if not has_rows or max(map(len, shapes)) < 2 or len(out.shape) == 0:
        return 0
    lengths = {shape[0] for shape in shapes} | {out.shape[0]}
    # Rows are those of every array: one that all rows share couples them, or is a
    # parameter of another sort.
    if len(lengths) != 1:
        return 0
    return lengths.pop()


def _is_floating(leaf: Array) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _codes(num_rows: int) -> Bool[np.ndarray, "probes rows"]:
    """Return which rows each probe perturbs: those with a binary digit 1, or 0."""
    num_digits = (num_rows - 1).bit_length()
    digits = np.arange(num_rows) >> np.arange(num_digits)[:, None]
    is_one = (digits & 1).astype(bool)
    return np.concatenate([is_one, ~is_one])


@functools.partial(compilation.jit, static_argnums=(0, 1))
def _are_independent(
    apply: Map,
    derivative: Callable[..., tuple[Callable, PyTree]],
    params: Params,
    *,
    x: PyTree[Array],
    codes: Bool[Array, "probes rows"],
) -> Bool[Array, ""]:
    """Tell whether perturbed rows move no others, and some row at all."""
    floating = jax.tree.map(lambda leaf: leaf if _is_floating(leaf) else None, x)

    def of_floating(values: PyTree[Array]) -> Array:
        return apply(params, _merged(values, x))

    push, start = derivative(of_floating, floating)
    # Any fixed direction will do that no model was made for.
    leaves, tree = jax.tree.flatten(start)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    direction = jax.tree.map(_normal_like, tree.unflatten(keys), start)

    def probe(is_perturbed: Array) -> tuple[Array, Array]:
        keep_rows = functools.partial(_of_rows, is_perturbed)
        moved = map(_moved, jax.tree.leaves(push(jax.tree.map(keep_rows, direction))))
        is_moved = functools.reduce(jnp.logical_or, moved)
        return jnp.any(is_moved & ~is_perturbed), jnp.any(is_moved)

    # One after the other, in the memory of one.
    couples, moves = jax.lax.map(probe, codes)
    return ~jnp.any(couples) & jnp.any(moves)


def _forward(
    f: Callable,
    values: PyTree,
) -> tuple[Callable, PyTree]:
    """Return the map of tangents, and values like its argument."""
    _, push = jax.linearize(f, values)
    return push, values


def _backward(
    f: Callable,
    values: PyTree,
) -> tuple[Callable, PyTree]:
    """Return the map of cotangents, in which rows are coupled alike."""
    out, pull = jax.vjp(f, values)
    return lambda cotangents: pull(cotangents)[0], out


def _merged(
    floating: PyTree,
    x: PyTree[Array],
) -> PyTree[Array]:
    """Return x with its floating leaves replaced; in `floating` the others are None."""

    def chosen(
        new: Array | None,
        old: Array,
    ) -> Array:
        if new is None:
            return old
        return new

    return jax.tree.map(
        chosen,
        floating,
        x,
        is_leaf=lambda leaf: leaf is None,
    )


def _normal_like(
    key: Array,
    leaf: Array,
) -> Array:
    return jax.random.normal(key, leaf.shape, leaf.dtype)


def _of_rows(
    is_kept: Array,
    leaf: Array,
) -> Array:
    """Return a leaf with zeros in all other rows."""
    mask = is_kept.reshape(-1, *[1] * (leaf.ndim - 1))
    return jnp.where(mask, leaf, 0)


def _moved(leaf: Array) -> Bool[Array, " rows"]:
    # NaN is not 0, and so counts as moved.
    return jnp.any(leaf.reshape(leaf.shape[0], -1) != 0, axis=1)


def _takes_one_row(
    apply: Map,
    params: Params,
    x: PyTree[Array],
    *,
    out: jax.ShapeDtypeStruct,
) -> bool:
    """Tell whether f takes one row of x and returns what has the shape of one row."""
    # From the shape alone: a network that flattens its images by the length of the
    # leading axis takes a single one as well, and returns something else.
    row = jax.tree.map(lambda leaf: leaf[0], x)
    try:
        return jax.eval_shape(apply, params, row).shape == out.shape[1:]
    # It may raise anything where it needs the axis.
    except Exception:
        return False
