"""The matrix of a linear map, and products of factors one after another.

Layers store their weights as (in, out), and `Factors.matrix` is the transpose of that.
Here vectors are rows, and are multiplied by the weights as they are stored: v @ W, or
u @ W.T on the way back. On a CPU with AVX-512 XLA multiplies both at 100 GFLOP/s in
float64, but W.T @ X, with vectors in columns, at 50.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from isometry._internal import checks, kinds
from isometry._internal.errors import InputError, public
from isometry.linalg._convolution import canonical
from isometry.linalg._factors import Factors, require_stacks
from isometry.linalg._operator import Operator


@public("matrix_of")
def matrix_of(
    g: Callable[[Array], Array],
    point: ArrayLike,
    chunk: int | None = None,
    forward: bool | None = None,
) -> Float[Array, "m n"]:
    """Compute the Jacobian of a function from vector to vector.

    Args:
        g: The function.
        point: Where it is linearized, once: a real floating array (n,).
        chunk: Directions that are taken at a time; None takes all.
        forward: Whether to use forward mode, a direction for each input, or reverse
            mode, one for each output. None: forward where outputs are more than inputs.

    Returns:
        The matrix, in the dtype of the outputs in reverse mode and of the inputs in
        forward mode. Cost: one linearization, and a product with J or Jᵀ for each
        direction.

    Raises:
        InputError: `g` is no function, or its result no real floating vector; `point`
            is none; `chunk` is no positive number, `forward` no bool.

    Example:
        >>> linalg.matrix_of(jnp.cumsum, jnp.zeros(2))
        Array([[1., 0.],
               [1., 1.]], dtype=float32)
    """
    checks.function("g", g)
    point = checks.array("point", point)
    _require_vector("point", point)
    if chunk is not None:
        chunk = checks.integer("chunk", chunk, low=1)
    if forward is not None:
        checks.instance("forward", forward, bool)
    out = jax.eval_shape(g, point)
    _require_vector("g(point)", out)
    if forward is None:
        forward = out.size > point.size
    if forward:
        y, push = jax.linearize(g, point)
        basis = jnp.eye(point.size, dtype=point.dtype)
        columns = _images(canonical(push), basis, chunk)
        matrix = columns.T
    else:
        y, pull = jax.vjp(g, point)
        basis = jnp.eye(out.size, dtype=out.dtype)
        pull_one = canonical(lambda u: pull(u)[0])
        matrix = _images(pull_one, basis, chunk)
    # An output that is no number has no derivative either, not even one of zero where
    # it is constant. `Operator.linearized` marks it in g; here it costs no pass.
    is_finite = jnp.isfinite(y)
    return jnp.where(is_finite[:, None], matrix, jnp.nan)


def _require_vector(name: str, value: Any) -> None:
    """Require a vector of real floating numbers, or its shape."""
    if not hasattr(value, "dtype"):
        came = checks.kind_of(value)
    else:
        came = f"an array of shape {value.shape} and dtype {value.dtype}"
        if kinds.is_floating(value) and value.ndim == 1:
            return
    raise InputError(f"{name} is {came}, not a real floating vector (n,).")


def _images(
    product: Callable[[Array], Array],
    basis: Float[Array, "k k"],
    chunk: int | None,
) -> Float[Array, "k n"]:
    """Multiply with every row of a basis, `chunk` of them at a time."""
    if chunk is None or chunk >= len(basis):
        return jax.vmap(product)(basis)
    return jax.lax.map(product, basis, batch_size=chunk)


@public("factored")
def factored(stacks: Sequence[Factors]) -> Operator:
    """Make an operator of a product of factors, which is never multiplied out.

    Under `jax.vmap`, vectors that share the matrices are multiplied together.

    Args:
        stacks: The factors, the first acts first.

    Returns:
        The operator of shape (m, n) of the product. A product with a vector costs two
        FLOP for each entry of the factors.

    Raises:
        InputError: No factors, or something else among them.

    Example:
        >>> matrix = jnp.array([[[0.0, 2.0], [1.0, 0.0]]])
        >>> linalg.factored([linalg.Factors(matrix)]).matvec(jnp.array([1.0, 3.0]))
        Array([6., 1.], dtype=float32)
    """
    require_stacks(stacks)
    stored = [_stored(stack) for stack in stacks]
    _, _, num_inputs = stacks[0].size
    _, num_outputs, _ = stacks[-1].size

    def push(v: Float[Array, " n"]) -> Float[Array, " m"]:
        return _through_all(v, stored, backward=False)

    def pull(u: Float[Array, " m"]) -> Float[Array, " n"]:
        return _through_all(u, stored, backward=True)

    return Operator(
        matvec=push,
        rmatvec=pull,
        shape=(num_outputs, num_inputs),
        dtype=stacks[0].dtype,
    )


@public("wide_product")
def wide_product(
    stacks: Sequence[Factors],
    batch: int,
) -> Float[Array, "batch m n"]:
    """Multiply factors whose matrices are shared by a batch and whose scales are not.

    All members of the batch are rows of one matrix, so that each factor is a single
    large product. It begins at the narrower end.

    Args:
        stacks: The factors, the first acts first. Scales are (batch, count, m).
        batch: How many members there are.

    Returns:
        The products. Cost: 2 m n r FLOP a member for each factor of m × n, r the size
        of the narrower end.

    Raises:
        InputError: No factors, or something else among them.

    Example:
        >>> scale = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> factors = linalg.Factors(jnp.array([[[1.0, 2.0], [3.0, 4.0]]]), scale)
        >>> linalg.wide_product([factors], batch=2)
        Array([[[1., 2.],
                [0., 0.]],
        <BLANKLINE>
               [[0., 0.],
                [3., 4.]]], dtype=float32)
    """
    require_stacks(stacks)
    _, num_outputs, _ = stacks[-1].size
    _, _, num_inputs = stacks[0].size
    # Of equal ends that of the outputs, whose rows are those of the Jacobian: from the
    # inputs it comes out transposed.
    backward = num_outputs <= num_inputs
    steps = [_of_rows(_stored(stack)) for stack in stacks]
    if backward:
        end, rest = _parted(steps.pop(), index=-1)
        steps = [*steps, *rest]
    else:
        end, rest = _parted(steps.pop(0), index=0)
        steps = [*rest, *steps]
    rows = _begun(end, batch, backward=backward)
    rows = _through_all(rows, steps, backward=backward)
    return rows if backward else rows.mT


def _stored(stack: Factors) -> Factors:
    """Transpose the matrices to (count, n, m), as layers store them.

    Under jit this cancels the transpose that made them factors. One of a whole stack
    before a loop would be a copy.
    """
    if stack.matrix is None:
        return stack
    return stack._replace(matrix=stack.matrix.mT)


def _of_rows(stack: Factors) -> Factors:
    """Turn scales of (batch, count, m) into (count, batch, 1, m), one for all rows."""
    if stack.scale is None:
        return stack
    by_factor = jnp.moveaxis(stack.scale, 1, 0)
    return stack._replace(scale=by_factor[:, :, None, :])


def _parted(
    stack: Factors,
    index: int,
) -> tuple[Factors, list[Factors]]:
    """Take the first or the last factor (index 0 or -1) out of a stack."""
    end = jax.tree.map(lambda a: a[index], stack)
    if _count(stack) == 1:
        return end, []
    others = slice(None, -1)
    if index == 0:
        others = slice(1, None)
    # A copy, which a stack that is multiplied whole does without.
    rest = jax.tree.map(lambda a: a[others], stack)
    return end, [rest]


def _begun(
    factor: Factors,
    batch: int,
    backward: bool,
) -> Float[Array, "batch r k"]:
    """Return the rows of one factor, or its columns, for each member of the batch."""
    matrix, scale = factor
    if matrix is None:
        assert scale is not None, "a factor of neither"
        size = scale.shape[-1]
        identity = jnp.eye(size, dtype=scale.dtype)
        return scale * identity[None]
    rows = matrix.T if backward else matrix
    if scale is None:
        return jnp.broadcast_to(rows[None], (batch, *rows.shape))
    # Scales are those of the outputs, which are columns of the stored matrix.
    if backward:
        scale = scale.mT
    return scale * rows[None]


def _through_all(
    v: Float[Array, "*batch k"],
    stacks: Sequence[Factors],
    backward: bool,
) -> Float[Array, "*batch r"]:
    """Multiply by all factors, or by their transposes from the last to the first."""
    if backward:
        through = functools.partial(_through, backward=True)
        return functools.reduce(through, reversed(stacks), v)
    return functools.reduce(_through, stacks, v)


def _through(
    v: Float[Array, "*batch k"],
    stack: Factors,
    backward: bool = False,
) -> Float[Array, "*batch r"]:
    step = _pulled if backward else _pushed
    # Not in a loop, where the width could not change.
    if _count(stack) == 1:
        only = jax.tree.map(lambda a: a[0], stack)
        return step(v, only)
    product, _ = jax.lax.scan(
        lambda v, factor: (step(v, factor), None),
        v,
        stack,
        reverse=backward,
    )
    return product


def _count(stack: Factors) -> int:
    first, *_ = jax.tree.leaves(stack)
    return len(first)


def _pushed(
    v: Float[Array, "*batch n"],
    factor: Factors,
) -> Float[Array, "*batch m"]:
    """Apply one factor to rows."""
    matrix, scale = factor
    if matrix is not None:
        v = v @ matrix
    if scale is None:
        return v
    return scale * v


def _pulled(
    u: Float[Array, "*batch m"],
    factor: Factors,
) -> Float[Array, "*batch n"]:
    """Apply the transpose of one factor to rows."""
    matrix, scale = factor
    if scale is not None:
        u = scale * u
    if matrix is None:
        return u
    return u @ matrix.T
