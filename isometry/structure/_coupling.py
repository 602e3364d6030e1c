"""Whether the rows of x may be examples of a batch: no row affects another's output."""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from isometry._internal import compilation, kinds
from isometry._internal.types import Params
from isometry.structure._directions import direction_like

Map: TypeAlias = Callable[[Params, PyTree[Array]], Array]


def rows_are_independent(
    apply: Map,
    params: Params,
    x: PyTree[Array],
) -> bool:
    """Tell whether row i of the output depends on row i of x alone, for every i.

    Row i is the slice at index i of the leading axis, of every array in x. Some rows
    are perturbed in a random direction. Rows are coupled if the derivative at any other
    row is not exactly zero. Each probe perturbs the rows whose index has a given binary
    digit: any two rows differ in one digit, so 2 log2(rows) derivatives test all pairs.
    A coupling that vanishes at this x, or that underflows, is missed.

    Args:
        apply: A function (params, x) -> array, hashable. Equal functions share one
            compiled program.
        params: Its parameters.
        x: An array, or a tree of arrays, of which the floating ones are perturbed.

    Returns:
        Whether rows are independent. False as well if there are fewer than two rows, if
        x has no axis after that of the rows, if the output has another number of rows,
        if f cannot be differentiated, or if its derivative is zero or not finite.
    """
    out = jax.eval_shape(apply, params, x)
    num_rows = _num_rows(x, out)
    if num_rows < 2:
        return False
    rows_of_probes = _probed_rows(num_rows)
    # A tangent is perturbed like x, a cotangent like the output.
    perturbed = {_forward: _floating_leaves(x), _backward: out}
    for derivative, like in perturbed.items():
        direction = direction_like(like)
        try:
            independent = _are_independent(
                apply,
                derivative,
                params,
                x=x,
                rows_of_probes=rows_of_probes,
                direction=direction,
            )
            return bool(independent)
        # Some functions have a derivative in one mode only, some in none, and a custom
        # derivative rule may raise anything.
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
    """Say that x may be a batch, if no row of it affects the output of another.

    Args:
        apply: A function (params, x) -> array, hashable.
        params: Its parameters, not traced.
        x: What is passed as one example, not traced.
        one_row: A function that can be called with x[0] in place of `apply`, if `apply`
            is traced for the shape of x alone.

    Returns:
        What was found and what to write instead; None if rows are coupled.
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
    """Return the length of the leading axis that all arrays of x and the output share.

    0 if they share none, if no array of x is floating, or if all of them are vectors: a
    lone vector is one example, and its entries are no rows.
    """
    leaves = jax.tree.leaves(x)
    floating = [leaf for leaf in leaves if kinds.is_floating(leaf)]
    shapes = [jnp.shape(leaf) for leaf in leaves]
    have_leading_axis = all(len(shape) > 0 for shape in (*shapes, out.shape))
    if not floating or not have_leading_axis or max(map(len, shapes)) < 2:
        return 0
    lengths = {shape[0] for shape in shapes} | {out.shape[0]}
    # An array of another length is shared by all rows, so x[i] would not be an example.
    if len(lengths) != 1:
        return 0
    return lengths.pop()


def _floating_leaves(x: PyTree[Array]) -> PyTree:
    """Return x with None in the place of arrays that are not floating."""
    return jax.tree.map(lambda leaf: leaf if kinds.is_floating(leaf) else None, x)


def _probed_rows(num_rows: int) -> Bool[np.ndarray, "probes rows"]:
    """Return which rows each probe perturbs: those with one binary digit 1, or 0."""
    num_digits = (num_rows - 1).bit_length()
    digits = np.arange(num_rows) >> np.arange(num_digits)[:, None]
    is_one = (digits & 1).astype(bool)
    return np.concatenate([is_one, ~is_one])


@functools.partial(compilation.jit, static_argnums=(0, 1))
def _are_independent(
    apply: Map,
    derivative: Callable[..., Callable],
    params: Params,
    *,
    x: PyTree[Array],
    rows_of_probes: Bool[Array | np.ndarray, "probes rows"],
    direction: PyTree[Array | np.ndarray],
) -> Bool[Array, ""]:
    """Tell whether no probe changes a row that it does not perturb.

    False as well if no probe changes anything.

    Args:
        apply: The function.
        derivative: `_forward` or `_backward`.
        params: The parameters of the function.
        x: The input of the function.
        rows_of_probes: Which rows each probe perturbs.
        direction: The direction in which rows are perturbed.
    """

    def of_floating(values: PyTree[Array]) -> Array:
        return apply(params, _with_leaves(values, x))

    push = derivative(of_floating, _floating_leaves(x))

    def probe(is_perturbed: Array) -> tuple[Array, Array]:
        select_rows = functools.partial(_zero_but_rows, is_perturbed)
        derivatives = push(jax.tree.map(select_rows, direction))
        is_changed = functools.reduce(
            jnp.logical_or, map(_changed_rows, jax.tree.leaves(derivatives))
        )
        return jnp.any(is_changed & ~is_perturbed), jnp.any(is_changed)

    # One probe after the other, which takes the memory of one.
    changes_others, changes_any = jax.lax.map(probe, rows_of_probes)
    return ~jnp.any(changes_others) & jnp.any(changes_any)


def _forward(
    f: Callable,
    values: PyTree,
) -> Callable:
    """Return the derivative of f at `values`, a map of tangents."""
    _, push = jax.linearize(f, values)
    return push


def _backward(
    f: Callable,
    values: PyTree,
) -> Callable:
    """Return the transpose of the derivative, a map of cotangents.

    It couples the same rows as the derivative.
    """
    _, pull = jax.vjp(f, values)
    return lambda cotangents: pull(cotangents)[0]


def _with_leaves(
    floating: PyTree,
    x: PyTree[Array],
) -> PyTree[Array]:
    """Return x with the leaves of `floating` in place of its own, where not None."""

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


def _zero_but_rows(
    is_selected: Array,
    leaf: Array,
) -> Array:
    """Return a leaf with zeros in all rows that are not selected."""
    mask = is_selected.reshape(-1, *[1] * (leaf.ndim - 1))
    return jnp.where(mask, leaf, 0)


def _changed_rows(leaf: Array) -> Bool[Array, " rows"]:
    """Tell for each row of a derivative whether it is not zero."""
    # NaN is not 0, and so counts as a change.
    return jnp.any(leaf.reshape(leaf.shape[0], -1) != 0, axis=1)


def _takes_one_row(
    apply: Map,
    params: Params,
    x: PyTree[Array],
    *,
    out: jax.ShapeDtypeStruct,
) -> bool:
    """Tell whether f(params, x[0]) has the shape of one row of f(params, x).

    False if f raises on x[0], whatever the error.
    """
    # Whether f accepts x[0] is not enough: a network that flattens each image,
    # x.reshape(len(x), -1), may accept a single image and return something else.
    row = jax.tree.map(lambda leaf: leaf[0], x)
    try:
        return jax.eval_shape(apply, params, row).shape == out.shape[1:]
    # f may raise anything if it needs the axis of the batch.
    except Exception:
        return False
