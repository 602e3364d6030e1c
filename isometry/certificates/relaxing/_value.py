"""Values of a program that is being rewritten, and what is known of each."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array

from isometry._internal import kinds
from isometry.certificates.relaxing import _table

# An elementwise function of more equations than this is cut into two. Evaluating it
# recurses, so ten times more would exhaust Python's stack.
_LONGEST = 64


class Source(NamedTuple):
    """How a value is computed.

    Attributes:
        eqn: The equation.
        operands: The values that it reads.
        relaxation: What replaces the equation; None if it is evaluated as it is.
        inside: The value that a called program returns, if the equation is a call that
            is relaxed; None otherwise.
    """

    eqn: core.JaxprEqn
    operands: tuple["Value", ...]
    relaxation: _table.Relaxation | None = None
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
        is_lifted: Whether it has to be made positive, because h is not negative: the
            program may take its logarithm or its root.
        anchors: Lines that it has to touch.
        tie: A line that it has to be at zero itself, because JAX takes a derivative or
            a value there that no even or odd analytic function has: the derivative of
            |x| is 1. None if there is no such conflict.
    """

    parity: int
    is_lifted: bool = False
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
        bends: Whether an equation with a kink, replaced or left as it is, is on the way
            to it.
        number: What all its entries are, if they are known before the program runs.
        base: The value of which it is an elementwise function; None if of none, see
            `root`.
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
    bends: bool = False
    number: Any = None
    base: "Value | None" = None
    source: Source | None = None
    finish: Finish | None = None
    kinks: frozenset[float] = frozenset()
    depth: int = 0

    @property
    def root(self) -> "Value":
        """Return the base, or the value itself if it has none."""
        return self if self.base is None else self.base

    @property
    def outside(self) -> Any:
        """Return the array that other than elementwise functions of the base read."""
        # A gate is the value of a boolean, of which JAX takes no derivative.
        if self.is_active and self.is_flat and self.smooth is not None:
            return jax.lax.stop_gradient(self.smooth)
        return self.smooth


def common_base(
    eqn: core.JaxprEqn,
    operands: tuple[Value, ...],
) -> Value | None:
    """Return the value of which the result is an elementwise function, or None.

    It is the root of all operands that depend on params or x; the others are numbers.
    """
    roots = {id(o.root): o.root for o in operands if o.is_active}
    if len(roots) != 1 or len(eqn.outvars) != 1:
        return None
    (root,) = roots.values()
    # A function of an array of another shape is not elementwise; nor is one with
    # parameters that are not the same for all entries.
    aval: Any = eqn.outvars[0].aval
    if aval.shape != jnp.shape(root.array) or root.smooth is None:
        return None
    # A function of a gate cannot be tried at points: a gate is no floating number.
    if not kinds.is_floating(root.array):
        return None
    if any(o.number is None for o in operands if not o.is_active):
        return None
    if any(o.smooth is None for o in operands if o.is_active):
        return None
    if max(o.depth for o in operands) >= _LONGEST:
        return None
    return root


def leaf(
    array: Any,
    is_active: bool,
) -> Value:
    """Return a value without a base: it is no elementwise function of another."""
    # Without a gate a boolean or whole number cannot be smooth.
    is_smooth = not is_active or kinds.is_inexact(array)
    return Value(array, array if is_smooth else None, is_active)


def array_of(value: Value) -> Any:
    """Return a value as an array of its own dtype."""
    if value.is_active and kinds.is_inexact(value.array):
        return value.outside
    return value.array


def filled(
    operand: Value,
    variable: core.Var | core.Literal,
    shape: tuple[int, ...],
) -> Array:
    """Return a constant operand, all of whose entries are one number, as an array."""
    aval: Any = variable.aval
    return jnp.full(shape, operand.number, aval.dtype)
