"""The record `Flag`: one thing that can go wrong, and whether it does."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Float

from isometry._internal import checks
from isometry._internal.types import Key

RAISED = "raised"
CLEAR = "clear"
UNDECIDED = "undecided"
NOT_RUN = "not_run"

# The gravest first. "not_run" is left out: nothing is known against what was not run.
_BY_GRAVITY = (RAISED, UNDECIDED, CLEAR)

# Resamples of the bootstrap. They put its own error of a 2.5 % quantile at
# sqrt(0.025 · 0.975 / 2000) = 0.35 %.
_RESAMPLES = 2000

# 1.5e-5, the rounding of a sum of 128² terms of random sign (width times depth). A
# deterministic network that sits on a threshold is undecided because of it.
_ROUNDING = 128 * float(np.finfo(np.float32).eps)

PerSeed: TypeAlias = Float[np.ndarray, " seeds"]
Interval: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Flag:
    """One judgement of a network.

    Attributes:
        name: The flag's name, one of `verdicts.flag_names()`.
        state: "raised", "clear", "undecided" or "not_run".
        reason: One line in words.
        remedy: What to change if it is raised.
        value: The number that was judged, or None.
        interval: Its interval over seeds, or None.
        threshold: The number that the value was compared with, or None.
        source: Where the threshold comes from.
        evidence: All numbers that the judgement rests on, by name.
        where: Names of the layers or points that the reason speaks of, worst first.

    Example:
        >>> flag = isometry.Flag("vanishing", "raised", "½ ln E s² = -4.1 (end to end)")
        >>> flag.raised
        True
    """

    name: str
    state: str
    reason: str
    remedy: str = ""
    value: Any = None
    interval: Interval | None = None
    threshold: float | int | None = None
    source: str = ""
    # Left out of the repr, because it may hold pages of arrays.
    evidence: dict[str, Any] = field(default_factory=dict, repr=False)
    where: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A report prints flags by state, and would leave out one with any other state.
        checks.one_of("state", self.state, (RAISED, CLEAR, UNDECIDED, NOT_RUN))

    @property
    def raised(self) -> bool:
        """Whether the state is "raised".

        Example:
            >>> isometry.Flag("vanishing", "clear", "½ ln E s² = 0").raised
            False
        """
        return self.state == RAISED

    @property
    def recovering(self) -> bool:
        """Whether training ends by itself what is raised, as a last layer of zeros.

        Such a flag does not count among those that no training repairs.

        Example:
            >>> flag = isometry.Flag("zero_gradient", "raised", "a head of zeros",
            ...                      evidence={"kind": "recovering"})
            >>> flag.recovering
            True
        """
        return self.raised and self.evidence.get("kind") == "recovering"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data for JSON.

        Returns:
            The fields by name.

        Example:
            >>> isometry.Flag("vanishing", "clear", "all is well").as_dict()["state"]
            'clear'
        """
        return dataclasses.asdict(self)


def interval(
    per_seed: PerSeed,
    key: Key,
    *,
    confidence: float,
    statistic: Callable[..., np.ndarray] = np.median,
) -> Interval:
    """Return the bootstrap percentile interval over seeds of a statistic.

    Args:
        per_seed: One number for each seed. If some are infinite, a bound may be, but
            not NaN, because quantiles are not interpolated.
        key: A key of the resampling.
        confidence: The probability that the interval is to cover.
        statistic: A function of an array and `axis`.
    """
    num_seeds = len(per_seed)
    shape = (_RESAMPLES, num_seeds)
    picks = jax.random.randint(key, shape, minval=0, maxval=num_seeds)
    resampled = statistic(per_seed[np.asarray(picks)], axis=-1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], method="nearest")
    return float(low), float(high)


def state_above(
    value: float,
    bounds: Interval,
    line: float,
    *,
    is_sure: bool,
) -> str:
    """Return the state of a flag that is raised if a value is above a threshold.

    Args:
        value: The number to judge.
        bounds: The interval of the number over seeds. If it holds the threshold, the
            flag is undecided.
        line: The threshold.
        is_sure: Whether there are enough seeds to judge anything.
    """
    slack = _ROUNDING * max(abs(line), 1.0)
    holds_line = bounds[0] - slack <= line <= bounds[1] + slack
    if not is_sure or holds_line:
        return UNDECIDED
    return RAISED if value > line else CLEAR


def gravest(states: Iterable[str]) -> str:
    """Return the gravest of some states: "raised", "undecided" or "clear"."""
    found = set(states)
    return next((state for state in _BY_GRAVITY if state in found), CLEAR)


def flipped(bounds: Interval) -> Interval:
    """Return the interval of minus a value, for flags raised below a threshold."""
    return -bounds[1], -bounds[0]


def undecided(
    flag: Flag,
    why: str,
) -> Flag:
    """Return the flag as undecided, with `why` added to its reason."""
    return dataclasses.replace(flag, state=UNDECIDED, reason=f"{flag.reason}; {why}")


def worst_state(states: Mapping[str, str]) -> tuple[str, str]:
    """Return the gravest state of some names, and the first name that has it.

    Args:
        states: The state of each name. "not_run" is the least grave.
    """
    gravity = (RAISED, UNDECIDED, CLEAR, NOT_RUN)
    name = min(states, key=lambda one: gravity.index(states[one]))
    return states[name], name
