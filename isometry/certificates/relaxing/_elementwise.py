"""Functions of one number inside a program, such as jax.nn.hard_tanh, relaxed.

Several equations may make one elementwise function h of a value, its base. Each
equation is relaxed by itself. That alone does not keep what h is as a whole: whether it
is odd or even, and its value and derivative at its kinks and at zero. The relaxed
function is given them here.
"""

import functools

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array

from isometry._internal.equations import unchanged
from isometry.certificates.relaxing import _smooth
from isometry.certificates.relaxing._smooth import Smooth
from isometry.certificates.relaxing._value import (
    Anchor,
    Finish,
    Value,
    filled,
)

# A signal is zero if it is smaller than so many units of rounding. Sums of thousands of
# products of order 1 that cancel are no larger; ten times more would take small signals
# for zero.
_TIE = 64.0


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

    def shaped(
        self,
        value: Value,
        finish: Finish,
        side: int = 1,
    ) -> Array:
        """Return a value with its parity and sign, before it is bent at its anchors."""
        result = self._raw(value, side)
        if finish.parity:
            result = (result + finish.parity * self._raw(value, -side)) / 2
        if finish.is_lifted:
            result = _smooth.positive(self._smooth, result)
        return result

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
            self.shaped(value, finish, side),
            anchors=finish.anchors,
        )
        if finish.tie is None:
            return result
        # A signal within rounding of zero counts as zero.
        is_tie = jnp.abs(x) <= _TIE * jnp.finfo(x.dtype).eps
        # The slope gives a derivative, and adds nothing to the value.
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
        # The function is relaxed inside; its derivative rule is not used.
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
        (result,) = unchanged(source.eqn, operands)
        return result

    def _operand(
        self,
        operand: Value,
        variable: core.Var | core.Literal,
        side: int,
    ) -> Array:
        if operand.is_active:
            return self.at(operand, side)
        return filled(operand, variable, jnp.shape(self._points[side]))


def _anchored(
    smooth: Smooth,
    x: Array,
    function: Array,
    anchors: tuple[Anchor, ...],
) -> Array:
    """Bend a function so that it has the value and slope of each anchor at its point.

    It is a weighted mean of the function, with weight 1, and of the tangent of each
    anchor, with weight 1 / (x - point)^2 up to a factor (Shepard's interpolation). Far
    from all points it is the function. Numerator and denominator are multiplied by all
    (x - point)^2, so that nothing divides by zero.
    """
    if not anchors:
        return function
    squares = [smooth.sharp * (x - anchor.point) ** 2 for anchor in anchors]
    everywhere = functools.reduce(jnp.multiply, squares)
    weighted, weights = function * everywhere, everywhere
    for i, anchor in enumerate(anchors):
        others = squares[:i] + squares[i + 1 :]
        weight = functools.reduce(jnp.multiply, others, jnp.ones_like(x))
        weighted = weighted + weight * _tangent(anchor, x)
        weights = weights + weight
    return weighted / weights


def _tangent(
    anchor: Anchor,
    x: Array,
) -> Array:
    return anchor.value + anchor.slope * (x - anchor.point)
