"""Reasons why probing a function gives only evidence, not proof."""

import numpy as np
from jax.extend import core

from isometry._internal import jaxprs, kinds
from isometry.certificates._gradients import Gradients

# Constants in f closer to zero than this, or relatively closer to each other, are not
# resolved by probes: an asymmetry of 1e-14 was seen in half of the trials, and one of
# 1e-12 in all.
_RESOLVED = 1e-13

# The beginning of a reason by which other inputs may show more.
PIECES = "only pieces of f were seen"

# Primitives that draw random bits from a key, of the new or the old kind.
_DRAWING = frozenset(("random_bits", "threefry2x32", "rng_bit_generator"))


def doubts_about(gradients: Gradients) -> tuple[str, ...]:
    """Return reasons, in words, why all results are only evidence.

    Args:
        gradients: The gradients of the relaxed f, after the exact search.

    Returns:
        The reasons; empty if the results are proofs.
    """
    doubts = []
    # The constants of f itself are checked, because the functions that replace kinks
    # hold the smallest numbers of float64.
    closed, unrelaxed = gradients.program.original, gradients.program.unrelaxed
    if unrelaxed:
        what = unrelaxed[0].removesuffix(": it is left as it is.")
        doubts.append(f"{PIECES} in {gradients.num_draws} random inputs: {what}")
    if gradients.has_tiny:
        doubts.append("gradients come close to the smallest number of float64")
    close = _unresolved(closed)
    if close is not None:
        doubts.append(f"f holds {close}, which rounding does not resolve")
    if _draws(closed.jaxpr, set(closed.jaxpr.invars[len(gradients.space.paths) :])):
        doubts.append("f draws with a key of its own; let draw(key) hand it over in x")
    return tuple(doubts)


def _unresolved(closed: core.ClosedJaxpr) -> str | None:
    """Return a constant in f that is too small, or too close to another, in words."""
    for constant in jaxprs.constants(closed):
        if not kinds.is_floating(constant):
            continue
        values = np.unique(np.abs(np.asarray(constant, np.float64)))
        values = values[np.isfinite(values) & (values > 0)]
        is_small = values < _RESOLVED
        if is_small.any():
            return f"the constant {values[is_small][-1]:g}"
        gaps = np.diff(values)
        is_close = gaps < _RESOLVED * values[1:]
        if is_close.any():
            return f"constants that differ by {gaps[is_close][0]:.1g}"
    return None


def _draws(
    jaxpr: core.Jaxpr,
    of_x: set[core.Var],
) -> bool:
    """Tell whether a program draws random bits from a key that is not made from x.

    Args:
        jaxpr: The program.
        of_x: The variables of the program that hold x, or were made from it.
    """
    reached = set(of_x)
    for eqn in jaxpr.eqns:
        hits = [isinstance(v, core.Var) and v in reached for v in eqn.invars]
        if eqn.primitive.name in _DRAWING and not any(hits):
            return True
        for part in jaxprs.inner(eqn):
            # The predicate of a cond, for example, is no argument of its branches.
            outer = hits[len(hits) - len(part.invars) :]
            pairs = zip(part.invars, outer, strict=False)
            inside = {v for v, hit in pairs if hit}
            if _draws(part, inside):
                return True
        if any(hits):
            reached |= set(eqn.outvars)
    return False
