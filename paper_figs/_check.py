"""Compare the numbers of a figure with those of its paper."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Compared(NamedTuple):
    """One number of a figure, and the interval in which the claim puts it.

    Attributes:
        what: What the number is.
        measured: The number.
        low: The lower end of the interval, which belongs to it.
        high: The upper end of the interval, which belongs to it.
        words: The interval in the reader's words. Without them it is written as it is.
    """

    what: str
    measured: float
    low: float = -math.inf
    high: float = math.inf
    words: str = ""

    @property
    def holds(self) -> bool:
        """Whether the number lies in its interval. NaN lies in none."""
        return bool(self.low <= self.measured <= self.high)

    @property
    def verdict(self) -> str:
        """What a table says of the number: "holds", "FAILS" or "reported".

        A number that may have any value is reported.
        """
        if not self.holds:
            return "FAILS"
        if math.isinf(self.low) and math.isinf(self.high):
            return "reported"
        return "holds"

    @property
    def expected(self) -> str:
        """The interval in words."""
        if self.words:
            return self.words
        if math.isinf(self.low) and math.isinf(self.high):
            return "no claim"
        if self.low == self.high:
            return f"{self.low:.6g}"
        if math.isinf(self.low):
            return f"at most {self.high:.4g}"
        if math.isinf(self.high):
            return f"at least {self.low:.4g}"
        return f"{self.low:.4g} to {self.high:.4g}"

    def row(self) -> dict[str, str | bool]:
        """Return the comparison as a dictionary for JSON.

        Numbers are written as text, because JSON has no NaN and no infinity.
        """
        return {
            "what": self.what,
            "measured": f"{self.measured:.5g}",
            "expected": self.expected,
            "holds": self.holds,
            "verdict": self.verdict,
        }


class ClaimFailed(AssertionError):
    """A figure does not show what its paper claims.

    Attributes:
        compared: All numbers of the figure, with those that hold.
    """

    def __init__(self, compared: Sequence[Compared]):
        self.compared = tuple(compared)
        failures = [
            f"{c.what}: {c.measured:.6g}, expected {c.expected}"
            for c in compared
            if not c.holds
        ]
        super().__init__("; ".join(failures))


def settled(compared: Sequence[Compared]) -> tuple[Compared, ...]:
    """Return the comparisons if all of them hold.

    Args:
        compared: The comparisons of one figure.

    Raises:
        ClaimFailed: One does not hold; or there are none, for a check without
            comparisons could not fail.
    """
    if not compared or not all(c.holds for c in compared):
        raise ClaimFailed(compared)
    return tuple(compared)


def within(what: str, measured: float, expected: float, tolerance: float) -> Compared:
    """Return the comparison of a number with one that is expected.

    Args:
        what: What the number is.
        measured: The number.
        expected: What it should be.
        tolerance: How far off it may be.
    """
    return Compared(
        what=what,
        measured=measured,
        low=expected - tolerance,
        high=expected + tolerance,
        words=f"{expected:.5g} ± {tolerance:.2g}",
    )


def largest(values: ArrayLike) -> float:
    """Return the largest of some numbers, NaN if one of them is.

    xarray's own maximum skips NaN, so that a network that diverged would be overlooked.

    Args:
        values: The numbers.
    """
    return float(np.max(np.asarray(values)))


def least(values: ArrayLike) -> float:
    """Return the least of some numbers, NaN if one of them is.

    Args:
        values: The numbers.
    """
    return float(np.min(np.asarray(values)))


def t_bound(tests: int, seeds: int, level: float = 0.05) -> float:
    """Return how many standard errors a mean may be off.

    If all of so many means are right, one of them is farther off than this with a
    chance of at most `level` (Bonferroni's bound, with the quantile of Student's t).

    Args:
        tests: The number of means that are held against what is expected.
        seeds: The number of independent draws behind each mean.
        level: The chance of a false alarm.
    """
    from scipy import stats

    return float(stats.t.ppf(1 - level / (2 * tests), seeds - 1))
