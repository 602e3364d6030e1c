"""Measures what the smooth replacement of an elementwise function must be given.

The function, h in this file, is evaluated at points: on both sides of zero, to see
whether it is odd or even, and at its kinks, where JAX takes one of several derivatives.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from isometry._internal.equations import unchanged
from isometry.certificates.relaxing._elementwise import Evaluation
from isometry.certificates.relaxing._pointwise import Curve, Derived
from isometry.certificates.relaxing._smooth import Smooth
from isometry.certificates.relaxing._value import (
    Anchor,
    Finish,
    Source,
    Value,
    filled,
)

# Values and slopes at a kink are kept if they differ by less than this share. It is the
# rounding of some float32 operations; a real difference is of order 1.
_SAME = 1e-5

# Kinks as close as this are one, which rounding has moved. A near miss is 1e-6.
_CLOSE = 1e-9

# The rule of a derivative may differ from the derivative by this. In float32 it is off
# by 1e-5; a straight-through rule, or a clipped one, by order 1.
_RULE = 1e-3

# Pairs of points, between which a function may be straight: its zero is looked for on
# the line through them.
_PIECES = ((1.0, 2.0), (-1.0, -2.0), (64.0, 128.0), (-64.0, -128.0))

# Where h is compared with its reflection, besides the points between its kinks.
_SAMPLES = np.array([0.137, 0.52, 0.91, 1.37, 2.3, 3.71, 5.3, 8.9, 14.0, 40.0, 130.0])


# The most that an even or odd function may differ on the two sides, in roundings. Its
# two sides are computed alike; a near miss of 1e-6 is no symmetry, in float32 either.
_ROUNDINGS = 4.0


class Finisher:
    """Measures what the smooth replacements of functions need, once for equal ones.

    Args:
        smooth: The analytic functions of which replacements are made.
    """

    def __init__(self, smooth: Smooth) -> None:
        self._smooth = smooth
        self._formulas: dict[Hashable, int] = {}
        self._numbers: dict[Value, int] = {}
        self._finishes: dict[Hashable, Finish] = {}
        self._kinks: dict[Hashable, frozenset[float]] = {}

    def _formula(self, value: Value) -> int:
        """Return a number that is the same for functions with the same equations."""
        if value not in self._numbers:
            formula: Hashable = str(jnp.result_type(value.array))
            if value.source is not None:
                formula = self._written(value.source)
            # Numbers stand for the parts, or what is read twice would be written out
            # twice, and twice as often at each further step.
            number = self._formulas.setdefault(formula, len(self._formulas))
            self._numbers[value] = number
        return self._numbers[value]

    def _written(self, source: Source) -> Hashable:
        """Return the formula of an equation; derivative rules are no part of it."""
        if source.inside is not None:
            return ("call", self._formula(source.inside))
        read = [self._as_read(operand) for operand in source.operands]
        params = str(sorted(source.eqn.params.items()))
        return (source.eqn.primitive.name, params, source.relaxation, *read)

    def _as_read(self, operand: Value) -> Hashable:
        """Return what stands for an operand in a formula: a number, or its constant."""
        if operand.is_active:
            return ("of", self._formula(operand))
        return ("number", float(operand.number))

    def finish(self, value: Value) -> Finish:
        """Return what the smooth replacement of a function with a kink needs."""
        key: Hashable = self._formula(value)
        tried = None
        # Two calls with the same formula may have different derivative rules, so that
        # their values and slopes are part of the key.
        if _is_call(value):
            tried = _try(value)
            key = (key, *(numbers.tobytes() for numbers in tried.exact))
        if key not in self._finishes:
            tried = tried or _try(value)
            self._finishes[key] = _finish_of(self._smooth, value, tried)
        return self._finishes[key]

    def follows_its_function(self, call: Value) -> bool:
        """Tell whether the rule of a call is the derivative of its function."""
        assert call.source is not None
        assert call.source.inside is not None
        by_rule, direct = _try(call), _try(call.source.inside)
        # At kinks they may differ.
        sides = slice(2 * len(direct.samples))
        slopes = direct.exact.slopes[sides]
        gap = np.abs(by_rule.exact.slopes[sides] - slopes)
        # Some functions overflow, or do not exist, at some of the points.
        is_same = gap <= _RULE * np.maximum(np.abs(slopes), 1)
        return bool(is_same[np.isfinite(gap)].all())

    def kinks(
        self,
        eqn: core.JaxprEqn,
        operands: tuple[Value, ...],
    ) -> frozenset[float]:
        """Return where an equation of a function of one number has its kinks.

        With two operands that is where they are equal, and with one where it is zero.
        These points are looked for on straight pieces of the operands, on either side
        of zero.
        """
        inherited = frozenset().union(*(operand.kinks for operand in operands))
        name = eqn.primitive.name
        if name in ("abs", "sign", "max", "min", "gt", "ge", "lt", "le"):
            pairs = [operands]
        elif name == "clamp":
            pairs = [operands[:2], operands[1:]]
        else:
            return inherited
        formula = self._written(Source(eqn, operands))
        if formula not in self._kinks:
            self._kinks[formula] = inherited.union(*map(_roots, pairs))
        return self._kinks[formula]


def _is_call(value: Value) -> bool:
    return value.source is not None and value.source.inside is not None


class _Tried(NamedTuple):
    """The values and slopes of a function h at points.

    Attributes:
        kinks: Zero and the kinks of h.
        samples: Positive points, at least one between neighbouring kinks.
        points: The kinks and their reflections, in rising order.
        exact: The function at the samples, at their reflections and at the points.
    """

    kinks: list[float]
    samples: np.ndarray
    points: list[float]
    exact: Derived

    @property
    def everywhere(self) -> np.ndarray:
        """Return where the function was evaluated."""
        return np.array([*self.samples, *-self.samples, *self.points])

    def at_points_of(self, derived: Derived) -> Derived:
        """Return the values and slopes at `points`, out of those `everywhere`."""
        start = 2 * len(self.samples)
        return Derived(derived.values[start:], derived.slopes[start:])


def _try(value: Value) -> _Tried:
    """Evaluate a function between its kinks and at them, with either sign."""
    kinks = _apart({0.0, *value.kinks})
    samples = _samples(kinks)
    points = _apart({*kinks, *(-kink for kink in kinks)})
    curve = Curve(_exact_of(value), value.root.smooth)
    exact = curve(np.array([*samples, *-samples, *points]))
    return _Tried(kinks=kinks, samples=samples, points=points, exact=exact)


def _finish_of(
    smooth: Smooth,
    value: Value,
    tried: _Tried,
) -> Finish:
    """Return the parity of h, and the tangents that its smooth replacement needs.

    At zero and at the kinks of h, the replacement must have the value of h and the
    derivative that JAX takes there.

    Args:
        smooth: The analytic functions.
        value: The result of h.
        tried: Values and slopes of h at points.
    """
    base = value.root
    points = tried.points
    parity = _parity(tried, eps=float(jnp.finfo(base.smooth.dtype).eps))
    at_points = tried.at_points_of(tried.exact)
    # A function that does not exist at its kinks, such as a logarithm, has no tangents.
    if not np.isfinite(at_points).all():
        return Finish(parity)
    wanted = _part(at_points, parity)
    zero = points.index(0.0)
    # The derivative of |x| that JAX takes at zero, 1, is not that of an even function.
    tie = None
    if parity and not _agree(wanted, at_points, [zero]):
        tie = Anchor(0.0, *(float(numbers[zero]) for numbers in at_points))
    finish = Finish(parity, tie=tie)
    now = _relaxed(smooth, value, finish, tried=tried)
    # Only at a double zero can an analytic function that is not negative touch zero.
    can_be_positive = (wanted.slopes[wanted.values == 0] == 0).all()
    if can_be_positive and tried.exact.values.min() >= 0 > now.values.min():
        finish = finish._replace(is_lifted=True)
        now = _relaxed(smooth, value, finish, tried=tried)
    anchored = range(len(points))
    if not parity:
        anchored = [i for i, point in enumerate(points) if point in tried.kinks]
    # A function that is right at zero and at its kinks as it is stays as simple.
    if _agree(tried.at_points_of(now), wanted, anchored):
        return finish
    anchors = [
        Anchor(points[i], float(wanted.values[i]), float(wanted.slopes[i]))
        for i in anchored
    ]
    return finish._replace(anchors=tuple(anchors))


def _relaxed(
    smooth: Smooth,
    value: Value,
    finish: Finish,
    tried: _Tried,
) -> Derived:
    """Evaluate the replacement of h, before it gets tangents, where h was tried."""

    def relaxed(x: Array) -> Array:
        return Evaluation(smooth, value.root, x).shaped(value, finish)

    now = Curve(relaxed, value.root.smooth)(tried.everywhere)
    if value.is_flat:
        # JAX takes no derivative of steps, and none leaves the relaxed function.
        return Derived(now.values, np.zeros_like(now.values))
    return now


def _apart(points: Iterable[float]) -> list[float]:
    """Sort points, and drop those that differ only by rounding from the one before."""
    apart: list[float] = []
    for point in sorted(points):
        if not apart or point - apart[-1] > _CLOSE * abs(point):
            apart.append(point + 0.0)
    return apart


def _samples(kinks: list[float]) -> np.ndarray:
    """Return positive points, at least one between neighbouring kinks."""
    # Between two kinks h is analytic: one point there would do.
    sizes = sorted({abs(kink) for kink in kinks})
    between = [(low + high) / 2 for low, high in itertools.pairwise(sizes)]
    beyond = [size * factor for size in sizes for factor in (0.6, 1.4)]
    return np.unique([point for point in (*_SAMPLES, *between, *beyond) if point > 0])


def _parity(
    tried: _Tried,
    eps: float,
) -> int:
    """Tell whether h is even (1), odd (-1) or neither (0), except at jumps."""
    size = len(tried.samples)
    right, left = tried.exact.values[:size], tried.exact.values[size : 2 * size]
    size = np.maximum(np.abs(left), np.abs(right))
    for parity in (1, -1):
        # Where both sides overflow the gap is NaN, which counts as no symmetry.
        gap = np.abs(right - parity * left)
        if (gap <= _ROUNDINGS * eps * size).all():
            return parity
    return 0


def _part(
    exact: Derived,
    parity: int,
) -> Derived:
    """Return the even or odd part at points that lie symmetrically about zero."""
    if not parity:
        return exact
    # At a jump, h may be even or odd but for the values at the jump itself.
    values = (exact.values + parity * exact.values[::-1]) / 2
    slopes = (exact.slopes - parity * exact.slopes[::-1]) / 2
    return Derived(values, slopes)


def _agree(
    now: Derived,
    wanted: Derived,
    compared: Sequence[int],
) -> bool:
    """Tell whether values and slopes agree up to rounding; a 0 must be exact.

    Args:
        now: A function at points.
        wanted: What it should be.
        compared: The indices of the points that count.
    """
    gap = np.abs(np.subtract(now, wanted))
    return bool((gap <= _SAME * np.abs(wanted))[:, list(compared)].all())


def _exact_of(value: Value) -> Callable[[Array], Array]:
    """Return h as a function of an array that takes the place of its root."""

    def function(x: Array) -> Array:
        return _evaluated(value, {value.root: x}, shape=x.shape)

    return function


def _evaluated(
    value: Value,
    computed: dict[Value, Array],
    *,
    shape: tuple[int, ...],
) -> Array:
    """Return the array of a value, and add it to those that are computed already.

    Args:
        value: The value.
        computed: Arrays by value, of its root at least.
        shape: The shape to which constants are filled up.
    """
    if value in computed:
        return computed[value]
    source = value.source
    assert source is not None, "every value but the root has an equation"
    operands = []
    pairs = zip(source.operands, source.eqn.invars, strict=True)
    for operand, variable in pairs:
        if operand.is_active:
            array = _evaluated(operand, computed, shape=shape)
        else:
            array = filled(operand, variable, shape)
        operands.append(array)
    (result,) = unchanged(source.eqn, operands)
    computed[value] = result
    return result


def _roots(functions: Sequence[Value]) -> list[float]:
    """Return points where two functions of one root are equal, or where one is zero.

    Args:
        functions: One or two functions, of which one may be a constant.
    """
    active = [function for function in functions if function.is_active]
    constants = [float(one.number) for one in functions if not one.is_active]
    like = active[0].root.smooth
    curves = [Curve(_exact_of(function), like) for function in active]

    def gap(points: Sequence[float]) -> np.ndarray:
        """Return the first function minus the second, or minus the constant."""
        first, *second = [curve(np.array(points)).values for curve in curves]
        return first - sum(second) - sum(constants)

    ends = gap(list(itertools.chain(*_PIECES))).reshape(-1, 2)
    candidates = []
    for piece, at_ends in zip(_PIECES, ends.tolist(), strict=True):
        root = _root_of_line(piece, at_ends)
        if root is not None:
            candidates.append(_snapped(root, constants))
    if not candidates:
        return []
    # The line through both points is the function itself, or else this is no root.
    left = np.abs(gap(candidates))
    allowed = _SAME * np.maximum(1.0, np.abs(candidates))
    return np.array(candidates)[left <= allowed].tolist()


def _root_of_line(
    points: Sequence[float],
    values: Sequence[float],
) -> float | None:
    """Return where the line through two points is zero; None if it is level."""
    near, far = points
    at_near, at_far = values
    if at_near == at_far:
        return None
    slope = (at_far - at_near) / (far - near)
    return near - at_near / slope


def _snapped(
    root: float,
    constants: Sequence[float],
) -> float:
    """Return the constant that equals a root up to rounding; without one the root."""
    for constant in constants:
        if abs(root - constant) <= _SAME * abs(constant):
            root = constant
            break
    # The sum turns -0.0 into 0.0, so that a kink at zero is one point.
    return root + 0.0
