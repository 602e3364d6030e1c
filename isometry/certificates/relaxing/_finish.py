"""Reads off an elementwise function what its relaxed function has to be given.

The function is evaluated at points: on both sides of zero, to see whether it is odd or
even, and at its kinks, where JAX takes one of several derivatives.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from isometry.certificates.relaxing import _table
from isometry.certificates.relaxing._elementwise import Evaluation
from isometry.certificates.relaxing._smooth import Smooth
from isometry.certificates.relaxing._value import (
    Anchor,
    Finish,
    Value,
    bound,
    filled,
)

# Values and slopes at a kink are kept if they differ by less than this share. It is the
# rounding of some float32 operations; a real difference is of order 1.
_SAME = 1e-5

# Functions are evaluated at so many points at once; one function needs about as many.
_BLOCK = 32

# Pairs of points, between which a function may be straight: its zero is looked for on
# the line through them.
_PIECES = ((1.0, 2.0), (-1.0, -2.0), (64.0, 128.0), (-64.0, -128.0))

# Where h is compared with its reflection, besides the points between its kinks.
_SAMPLES = np.array([0.137, 0.52, 0.91, 1.37, 2.3, 3.71, 5.3, 8.9, 14.0, 40.0, 130.0])


def finish_of(
    smooth: Smooth,
    value: Value,
) -> Finish:
    """Read off h whether it is odd or even, and which lines it has to touch.

    Args:
        smooth: The analytic functions.
        value: A value with a kink, as a function of its base.
    """
    base = value.root
    exact = _exact(value)
    with jax.ensure_compile_time_eval():
        points = _apart({0.0, *value.kinks})
        parity = _parity(value, points)
        if parity:
            points = _apart({*points, *(-point for point in points)})

        def relaxed(x: Array) -> Array:
            now = Evaluation(smooth, base, x).symmetric(value, 1, parity)
            return now.astype(x.dtype)

        wanted = _lines(exact, base, points, parity=parity)
        (at_zero,) = _lines(exact, base, [0.0], parity=0)
        now = _lines(relaxed, base, points, parity=0)
    if not np.isfinite(wanted).all():
        return Finish(parity)
    # JAX takes no derivative of steps, and none leaves the relaxed function.
    compared = slice(2) if value.is_flat else slice(3)
    tie = None
    if parity and not _agree([at_zero], wanted, compared):
        tie = at_zero
    # A function that is right at zero and at its kinks as it is stays as simple.
    if _agree(now, wanted, compared):
        return Finish(parity, tie=tie)
    return Finish(parity, tuple(wanted), tie)


def _lines(
    function: Callable[[Array], Array],
    base: Value,
    points: Sequence[float],
    *,
    parity: int,
) -> list[Anchor]:
    """Return the lines that the even or odd part of a function touches at points."""
    values, slopes = _derived(function, _of_dtype(base, points))
    if parity:
        # At a jump, h may be even or odd but for the values at the jump itself.
        mirrored, steep = _derived(function, _of_dtype(base, np.negative(points)))
        values = (values + parity * mirrored) / 2
        slopes = (slopes - parity * steep) / 2
    lines = zip(points, values.tolist(), slopes.tolist(), strict=True)
    return [Anchor(*line) for line in lines]


def _apart(points: Iterable[float]) -> list[float]:
    """Sort points, without those that differ by rounding from one before."""
    apart: list[float] = []
    for point in sorted(points):
        if not apart or point - apart[-1] > _SAME * abs(point):
            apart.append(point + 0.0)
    return apart


def _parity(value: Value, kinks: list[float]) -> int:
    """Tell whether h is even (1), odd (-1) or neither (0), except at jumps."""
    # Between two kinks h is analytic: one point there would do.
    sizes = sorted({abs(kink) for kink in kinks})
    between = [(low + high) / 2 for low, high in itertools.pairwise(sizes)]
    beyond = [size * factor for size in sizes for factor in (0.6, 1.4)]
    samples = np.unique([p for p in (*_SAMPLES, *between, *beyond) if p > 0])
    right = _values(value, _of_dtype(value.root, samples))
    left = _values(value, _of_dtype(value.root, -samples))
    # A near miss of 1e-6 is no symmetry, so only rounding is allowed for.
    eps = float(jnp.finfo(jnp.result_type(value.root.smooth)).eps)
    size = 4 * eps * np.maximum(np.abs(left), np.abs(right))
    for parity in (1, -1):
        if (np.abs(right - parity * left) <= size).all():
            return parity
    return 0


def _agree(
    now: list[Anchor],
    wanted: list[Anchor],
    compared: slice,
) -> bool:
    """Tell whether lines at the same points are the same; zeros must be zeros."""
    by_point = {line.point: line for line in wanted}
    return all(
        abs(a - b) <= _SAME * abs(b)
        for line in now
        for a, b in zip(line[compared], by_point[line.point][compared], strict=True)
    )


def _of_dtype(base: Value, points: ArrayLike) -> np.ndarray:
    return np.asarray(points, jnp.result_type(base.smooth))


def _derived(
    function: Callable[[Array], Array],
    points: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values and the derivatives of an elementwise function."""
    padded = _padded(points)
    # Reverse mode, because a custom_vjp has no other. The derivative is diagonal.
    values, pull = jax.vjp(function, padded)
    (slopes,) = pull(jnp.ones_like(values))
    values, slopes = np.asarray(values, float), np.asarray(slopes, float)
    return values[: len(points)], slopes[: len(points)]


def _padded(points: np.ndarray) -> Array:
    """Return points in an array of a fixed size, so that XLA compiles little."""
    size = _BLOCK * -(-len(points) // _BLOCK)
    return jnp.asarray(np.pad(points, (0, size - len(points)), mode="edge"))


def _exact(value: Value) -> Callable[[Array], Array]:
    """Return h itself, a function of a vector of points; True becomes 1."""
    base = value.root

    def function(points: Float[Array, " points"]) -> Float[Array, " points"]:
        computed = {base: points}

        def at(node: Value) -> Array:
            if node not in computed:
                computed[node] = apply(node)
            return computed[node]

        def apply(node: Value) -> Array:
            source = node.source
            assert source is not None
            operands = []
            for operand, variable in zip(
                source.operands, source.eqn.invars, strict=True
            ):
                if operand.is_active:
                    operands.append(at(operand))
                else:
                    operands.append(filled(operand, variable, points.shape))
            if source.inside is not None:
                return _called(source.eqn, operands)
            (result,) = bound(source.eqn, operands)
            return result

        return at(value).astype(points.dtype)

    return function


def _called(
    eqn: core.JaxprEqn,
    operands: list[Array],
) -> Array:
    """Evaluate a call at a vector of points; its own shape is that of a model."""
    num_points = operands[0].shape[0]
    aval: Any = eqn.outvars[0].aval
    size = _table.size(eqn.outvars[0])
    results = []
    for start in range(0, num_points, size):
        parts = [operand[start : start + size] for operand in operands]
        missing = size - parts[0].shape[0]
        arrays = [
            jnp.pad(part, (0, missing), mode="edge").reshape(aval.shape)
            for part in parts
        ]
        (result,) = bound(eqn, arrays)
        results.append(result.reshape(-1)[: size - missing])
    return jnp.concatenate(results)


def kinks_of(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> frozenset[float]:
    """Return where an equation of a function of one number has its kinks.

    That is where its operands are equal; where its one operand is zero. They are
    looked for on straight pieces of the operands, on either side of zero.
    """
    inherited = frozenset().union(*(operand.kinks for operand in operands))
    name = eqn.primitive.name
    if name in ("abs", "sign", "max", "min", "gt", "ge", "lt", "le"):
        pairs = [operands]
    elif name == "clamp":
        pairs = [operands[:2], operands[1:]]
    else:
        return inherited
    with jax.ensure_compile_time_eval():
        roots = [root for pair in pairs for root in _roots(pair)]
    return inherited.union(roots)


def _roots(functions: Sequence[Value]) -> list[float]:
    """Return points where two functions of one base are equal, or where one is zero."""
    base = next(o.root for o in functions if o.is_active)
    constants = [float(o.number) for o in functions if not o.is_active]

    def gap(points: list[float]) -> np.ndarray:
        first, *second = [_values(o, _of_dtype(base, points)) for o in functions]
        return first - sum(second)

    roots = []
    for near, far in _PIECES:
        at_near, at_far = gap([near, far]).tolist()
        if at_near == at_far:
            continue
        root = near - at_near * (far - near) / (at_far - at_near)
        # Rounding moves a root off the constant that it is.
        close = [c for c in constants if abs(root - c) <= _SAME * abs(c)]
        root = (close or [root])[0]
        # The line through both points is the function itself, or else this is no root.
        if abs(gap([root])[0]) <= _SAME * max(1.0, abs(root)):
            roots.append(root + 0.0)
    return roots


def _values(
    value: Value,
    points: np.ndarray,
) -> np.ndarray:
    """Return the values of an elementwise function, or of a constant, at points."""
    if not value.is_active:
        return np.full(points.shape, float(value.number))
    values = np.asarray(_exact(value)(_padded(points)), float)
    return values[: len(points)]
