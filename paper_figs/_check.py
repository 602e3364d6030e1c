"""Holding a figure's numbers against the paper's."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Compared(NamedTuple):
    """One number of a figure and the interval the claim puts it in; `words`: that interval in the reader's words."""

    what: str
    measured: float
    low: float = -math.inf
    high: float = math.inf
    words: str = ""

    @property
    def holds(self) -> bool:
        """Whether the number lies in its interval; NaN does not."""
        return bool(self.low <= self.measured <= self.high)

    @property
    def verdict(self) -> str:
        """Of a number that nothing is asserted of: that it is reported."""
        if self.low == -math.inf and self.high == math.inf and self.holds:
            return "reported"
        return "holds" if self.holds else "FAILS"

    @property
    def expected(self) -> str:
        """The interval in words."""
        if self.words:
            return self.words
        if self.low == self.high:
            return f"{self.low:.6g}"
        if math.isinf(self.low):
            return f"at most {self.high:.4g}"
        return f"at least {self.low:.4g}" if math.isinf(self.high) else f"{self.low:.4g} to {self.high:.4g}"

    def row(self) -> dict[str, object]:
        """For a record and a table: words only, so that what is not a number can be said too."""
        said = {"what": self.what, "measured": f"{self.measured:.5g}", "expected": self.expected}
        return {**said, "holds": self.holds, "verdict": self.verdict}


class ClaimFailed(AssertionError):
    """A figure does not show what its paper claims; `.compared` holds all numbers, those that held too."""

    def __init__(self, compared: Sequence[Compared]):
        self.compared = tuple(compared)
        failed = [c for c in compared if not c.holds]
        super().__init__("; ".join(f"{c.what}: {c.measured:.6g}, expected {c.expected}" for c in failed))


def settled(compared: Sequence[Compared]) -> tuple[Compared, ...]:
    """The comparisons, if all hold.

    **Raises** `ClaimFailed`: one does not, or there are none, which would be a check that cannot fail.
    """
    if not compared or not all(c.holds for c in compared):
        raise ClaimFailed(compared)
    return tuple(compared)


def within(what: str, measured: float, expected: float, tolerance: float) -> Compared:
    """`measured` is `expected` up to `tolerance`."""
    return Compared(what, measured, expected - tolerance, expected + tolerance, f"{expected:.5g} ± {tolerance:.2g}")


def t_bound(tests: int, seeds: int, level: float = 0.05) -> float:
    """Standard errors that none of so many true means exceeds, but for a chance of `level`: Bonferroni, t quantile."""
    from scipy import stats

    return float(stats.t.ppf(1 - level / (2 * tests), seeds - 1))
