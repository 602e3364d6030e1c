"""Functions of one number inside a program, such as jax.nn.hard_tanh, and their kinks.

Several equations may make one elementwise function h of a value, its base. Each
equation is relaxed by itself. That alone does not keep what h is as a whole: whether it
is odd or even, and its value and derivative at its kinks and at zero. Here those are
read off h, by evaluating it, and put right.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float

from isometry.certificates import _kinks
from isometry.certificates._smooth import Smooth

# An elementwise function of more equations than this is cut into two. Evaluating it
# recurses, so ten times more would exhaust Python's stack.
_LONGEST = 64

# Values and slopes at a kink are kept if they differ by less than this share. It is the
# rounding of some float32 operations; a real difference is of order 1.
_SAME = 1e-5

# A signal is zero if it is smaller than so many units of rounding. Sums of thousands of
# products of order 1 that cancel are no larger; ten times more would take small signals
# for zero.
_TIE = 1e3

# Where h is compared with its reflection, besides the points between its kinks.
_SAMPLES = np.array([0.137, 0.52, 0.91, 1.37, 2.3, 3.71, 5.3, 8.9, 14.0, 40.0, 130.0])


class Source(NamedTuple):
    """How a value is computed.

    Attributes:
        eqn: The equation.
        operands: What it reads.
        relaxation: What replaces the equation; None if it is evaluated as it is.
        inside: The value that a called program returns, if the equation is a call that
            is relaxed; None otherwise.
    """

    eqn: core.JaxprEqn
    operands: tuple["Value", ...]
    relaxation: _kinks.Relaxation | None = None
    inside: "Value | None" = None


class Anchor(NamedTuple):
    """A line that h touches at one point: its value and derivative there."""

    point: float
    value: float
    slope: float


class Finish(NamedTuple):
    """What a relaxed function has to be given.

    Attributes:
        parity: 1 if h is even, -1 if it is odd, 0 if it is neither.
        anchors: Lines that it has to touch.
        tie: A line that it has to be at zero itself, because JAX takes a derivative or
            a value there that no even or odd analytic function has: the derivative of
            |x| is 1. None if there is no such conflict.
    """

    parity: int
    anchors: tuple[Anchor, ...] = ()
    tie: Anchor | None = None


# Identity, not content, tells values apart.
@dataclasses.dataclass(eq=False)
class Value:
    """A value of the program that is being rewritten.

    Attributes:
        array: The value, which for a boolean is what the equation itself gives.
        smooth: The value as a smooth function; of a boolean, its gate. None for a
            boolean or whole number that depends on the signal and has no gate.
        is_active: Whether it depends on a floating leaf of params or x.
        is_flat: Whether no derivative passes through it.
        is_positive: Whether it is positive by construction, such as a sum of
            exponentials.
        number: What all its entries are, if they are known before the program runs.
        base: The value of which it is an elementwise function; itself, if of none.
        source: How it is computed from other functions of the base; None for a base.
        finish: What its relaxed function has to be given; None if nothing.
        kinks: Where it has kinks, as a function of its base.
        depth: The most equations between the base and it.
    """

    array: Any
    smooth: Any
    is_active: bool
    is_flat: bool = False
    is_positive: bool = False
    number: Any = None
    base: "Value | None" = None
    source: Source | None = None
    finish: Finish | None = None
    kinks: frozenset[float] = frozenset()
    depth: int = 0

    @property
    def root(self) -> "Value":
        """Return the base."""
        return self if self.base is None else self.base

    @property
    def outside(self) -> Any:
        """Return the array that an equation reads that is no function of the base."""
        # A gate is the value of a boolean, of which JAX takes no derivative.
        if self.is_active and self.is_flat and self.smooth is not None:
            return jax.lax.stop_gradient(self.smooth)
        return self.smooth


def common_base(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> Value | None:
    """Return the value of which a result is an elementwise function, or None."""
    roots = {id(o.root): o.root for o in operands if o.is_active}
    if len(roots) != 1 or len(eqn.outvars) != 1:
        return None
    (root,) = roots.values()
    # A function of an array of another shape is not elementwise; nor is one with
    # parameters that are not the same for all entries.
    aval: Any = eqn.outvars[0].aval
    if aval.shape != jnp.shape(root.array) or root.smooth is None:
        return None
    if not jnp.issubdtype(jnp.result_type(root.smooth), jnp.floating):
        return None
    if any(o.number is None for o in operands if not o.is_active):
        return None
    if any(o.smooth is None for o in operands if o.is_active):
        return None
    if max(o.depth for o in operands) >= _LONGEST:
        return None
    return root


class Evaluation:
    """Relaxed functions of one base, evaluated at one array.

    Args:
        smooth: The analytic functions.
        base: The base.
        x: Where it is evaluated: an array.
    """

    def __init__(
        self,
        smooth: Smooth,
        base: Value,
        x: Array,
    ) -> None:
        self._smooth = smooth
        self._points = {1: x, -1: -x}
        self._computed = {(base, side): x for side, x in self._points.items()}

    def at(
        self,
        value: Value,
        side: int = 1,
    ) -> Array:
        """Return a value at x, or at -x for side=-1."""
        if (value, side) not in self._computed:
            self._computed[value, side] = self._finished(value, side)
        return self._computed[value, side]

    def symmetric(
        self,
        value: Value,
        side: int,
        parity: int,
    ) -> Array:
        """Return the even or odd part of a value as its equation gives it."""
        if not parity:
            return self._raw(value, side)
        return (self._raw(value, side) + parity * self._raw(value, -side)) / 2

    def _finished(
        self,
        value: Value,
        side: int,
    ) -> Array:
        finish = value.finish
        if finish is None:
            return self._raw(value, side)
        x = self._points[side]
        result = _anchored(
            self._smooth,
            x,
            self.symmetric(value, side, finish.parity),
            anchors=finish.anchors,
        )
        if finish.tie is None:
            return result
        # What is zero but for rounding counts as zero.
        is_tie = jnp.abs(x) <= _TIE * jnp.finfo(x.dtype).eps
        # Only the derivative of the line: its values would be those of no even function.
        slope = finish.tie.slope * (x - jax.lax.stop_gradient(x))
        return jnp.where(is_tie, finish.tie.value + slope, result)

    def _raw(
        self,
        value: Value,
        side: int,
    ) -> Array:
        """Return a value as its equation gives it."""
        source = value.source
        assert source is not None
        if source.inside is not None:
            return self.at(source.inside, side)
        operands = [
            self._operand(operand, variable, side)
            for operand, variable in zip(
                source.operands, source.eqn.invars, strict=True
            )
        ]
        if source.relaxation is not None:
            return source.relaxation(self._smooth, source.eqn, operands)
        (result,) = bound(source.eqn, operands)
        return result

    def _operand(
        self,
        operand: Value,
        variable: core.Var | core.Literal,
        side: int,
    ) -> Array:
        if operand.is_active:
            return self.at(operand, side)
        return _filled(operand, variable, jnp.shape(self._points[side]))


def _filled(
    operand: Value,
    variable: core.Var | core.Literal,
    shape: tuple[int, ...],
) -> Array:
    """Return an array of the number that all entries of an operand are."""
    aval: Any = variable.aval
    return jnp.full(shape, operand.number, aval.dtype)


def relaxation_of(eqn: core.JaxprEqn) -> _kinks.Relaxation | None:
    """Return what the table says of an equation."""
    name = eqn.primitive.name
    if name in _kinks.OF_GATES and _is_boolean(eqn.invars[0]):
        return _kinks.OF_GATES[name]
    # Whole numbers have no kinks: a derivative does not reach them.
    if all(_is_floating(variable) for variable in eqn.invars):
        return _kinks.KINKS.get(name)
    return None


def _is_boolean(variable: core.Var | core.Literal) -> bool:
    return getattr(variable.aval, "dtype", None) == np.bool_


def _is_floating(variable: core.Var | core.Literal) -> bool:
    dtype = getattr(variable.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)


def bound(
    eqn: core.JaxprEqn,
    operands: list[Array],
) -> list[Array]:
    """Evaluate an equation as it stands, custom derivatives included."""
    parameters = eqn.primitive.get_bind_params(eqn.params)
    functions = ()
    # Before JAX 0.10.2, the called functions are returned separately.
    if isinstance(parameters, tuple):
        functions, parameters = parameters
    # The mesh and the profiler scopes under which f was traced.
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*functions, *operands, **parameters)
    return list(results) if eqn.primitive.multiple_results else [results]


def _anchored(
    smooth: Smooth,
    x: Array,
    function: Array,
    anchors: tuple[Anchor, ...],
) -> Array:
    """Bend a function so that it touches lines; far from them it stays as it is.

    Each line has the weight 1 / (x - point)^2 (Shepard's interpolation). Numerator and
    denominator are multiplied by all (x - point)^2, so that nothing divides by zero.
    """
    if not anchors:
        return function
    squares = [smooth.sharp * (x - anchor.point) ** 2 for anchor in anchors]
    everywhere = functools.reduce(jnp.multiply, squares)
    total, weights = function * everywhere, everywhere
    for i, anchor in enumerate(anchors):
        others = squares[:i] + squares[i + 1 :]
        weight = functools.reduce(jnp.multiply, others, jnp.ones_like(x))
        total = total + weight * _line(anchor, x)
        weights = weights + weight
    return total / weights


def _line(
    anchor: Anchor,
    x: Array,
) -> Array:
    return anchor.value + anchor.slope * (x - anchor.point)


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
            return Evaluation(smooth, base, x).symmetric(value, 1, parity)

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
    exact = _exact(value)
    right = np.asarray(exact(_of_dtype(value.root, samples)), float)
    left = np.asarray(exact(_of_dtype(value.root, -samples)), float)
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


def _of_dtype(base: Value, points: Any) -> Array:
    return jnp.asarray(points, jnp.result_type(base.smooth))


def _derived(
    function: Callable[[Array], Array],
    points: Array,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values and the derivatives of an elementwise function."""
    values, slopes = jax.jvp(function, (points,), (jnp.ones_like(points),))
    return np.asarray(values, float), np.asarray(slopes, float)


def _exact(value: Value) -> Callable[[Array], Array]:
    """Return h itself, a function of a vector of points; booleans become 0 and 1."""
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
                    operands.append(_filled(operand, variable, points.shape))
            if source.inside is not None:
                return _called(source.eqn, operands)
            (result,) = bound(source.eqn, operands)
            return result

        result = at(value)
        if result.dtype == np.bool_:
            return result.astype(points.dtype)
        return result

    return function


def _called(
    eqn: core.JaxprEqn,
    operands: list[Array],
) -> Array:
    """Evaluate a call at a vector of points; its own shape is that of a model."""
    num_points = operands[0].shape[0]
    aval: Any = eqn.outvars[0].aval
    size = _kinks.size(eqn.outvars[0])
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
    if name in ("abs", "sign"):
        pairs = [(operands[0], None)]
    elif name in ("max", "min", "gt", "ge", "lt", "le"):
        pairs = [operands]
    elif name == "clamp":
        pairs = [operands[:2], operands[1:]]
    else:
        return inherited
    with jax.ensure_compile_time_eval():
        roots = [root for pair in pairs for root in _roots(*pair)]
    return inherited.union(roots)


def _roots(
    first: Value,
    second: Value | None,
) -> list[float]:
    """Return points where two functions of one base are equal."""
    base = next(o.root for o in (first, second) if o is not None and o.is_active)

    def gap(points: list[float]) -> np.ndarray:
        x = _of_dtype(base, points)
        difference = _on_host(first, x)
        if second is not None:
            difference = difference - _on_host(second, x)
        return difference

    numbers = [
        float(o.number) for o in (first, second) if o is not None and not o.is_active
    ]
    roots = []
    for near, far in ((1.0, 2.0), (-1.0, -2.0), (64.0, 128.0), (-64.0, -128.0)):
        at_near, at_far = gap([near, far]).tolist()
        if at_near == at_far:
            continue
        root = near - at_near * (far - near) / (at_far - at_near)
        # Rounding moves a root off the constant that it is.
        for number in numbers:
            if abs(root - number) <= _SAME * abs(number):
                root = number
        # The line through both points is the function itself, or else this is no root.
        if abs(gap([root])[0]) <= _SAME * max(1.0, abs(root)):
            roots.append(root + 0.0)
    return roots


def _on_host(
    value: Value,
    points: Array,
) -> np.ndarray:
    if not value.is_active:
        return np.full(points.shape, float(value.number))
    return np.asarray(_exact(value)(points), float)
