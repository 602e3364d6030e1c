"""Holding a figure's numbers against the paper's."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Compared(NamedTuple):
    """One number of a figure and the interval the claim puts it in; `expected` is that interval in the reader's words."""

    what: str
    measured: float
    low: float = -math.inf
    high: float = math.inf
    expected: str = ""

    @property
    def holds(self) -> bool:
        """Whether the number lies in its interval; NaN does not."""
        return self.low <= self.measured <= self.high

    @property
    def wanted(self) -> str:
        """The interval in words."""
        if self.expected:
            return self.expected
        if self.low == self.high:
            return f"{self.low:.6g}"
        if math.isinf(self.low):
            return f"at most {self.high:.4g}"
        return f"at least {self.low:.4g}" if math.isinf(self.high) else f"{self.low:.4g} to {self.high:.4g}"


class ClaimFailed(AssertionError):
    """A figure does not show what its paper claims; `.compared` holds all numbers, those that held too."""

    def __init__(self, compared: Sequence[Compared]):
        self.compared = tuple(compared)
        failed = [c for c in compared if not c.holds]
        super().__init__("; ".join(f"{c.what}: {c.measured:.6g}, expected {c.wanted}" for c in failed))


def settled(compared: Sequence[Compared]) -> tuple[Compared, ...]:
    """The comparisons, if all hold.

    **Raises** `ClaimFailed`: one does not, or there are none, which would be a check that cannot fail.
    """
    if not compared or not all(c.holds for c in compared):
        raise ClaimFailed(compared)
    return tuple(compared)
