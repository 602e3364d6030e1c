"""A statistic of several spans: intervals, states, and the gravest of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from isometry._internal.types import Key
from isometry.verdicts._flag import (
    CLEAR,
    UNDECIDED,
    Flag,
    Interval,
    PerSeed,
    flipped,
    interval,
    state_above,
    worst_state,
)
from isometry.verdicts._registry import Thresholds


class SpanValue(NamedTuple):
    """The median over seeds of a statistic of one span, and its interval."""

    value: float
    interval: Interval


class Judged(NamedTuple):
    """A statistic of all spans, judged.

    Attributes:
        state: The gravest state of all spans.
        span: The span in this state; of several the first.
        worst: The statistic of that span.
        values: The statistic of each span.
        states: The state of each span.
    """

    state: str
    span: str
    worst: SpanValue
    values: dict[str, SpanValue]
    states: dict[str, str]

    def with_state(self, reason: str, *, unsure: str, limit: str) -> str:
        """Return a reason with what the state adds to it.

        Args:
            reason: The statistic of the worst span in words.
            unsure: Added if the state is "undecided": too few seeds, or an interval
                that holds the threshold.
            limit: Added if the state is "clear": the threshold in words; "" for none.
        """
        if self.state == UNDECIDED:
            return f"{reason}; {unsure}"
        if self.state == CLEAR and limit:
            return f"{reason}, {limit}"
        return reason

    def flag(
        self,
        name: str,
        reason: str,
        *,
        remedy: str,
        threshold: float,
        source: str,
        evidence: dict[str, Any],
        where: tuple[str, ...],
    ) -> Flag:
        """Return a flag whose value is that of the worst span; evidence holds all.

        Args:
            name: The name of the flag.
            reason: Its reason.
            remedy: What to change if it is raised.
            threshold: The number that the statistic was compared with.
            source: Where the threshold comes from.
            evidence: Further numbers, by name.
            where: The layers or points of the worst span.
        """
        return Flag(
            name,
            self.state,
            reason,
            remedy=remedy,
            value=self.worst.value,
            interval=self.worst.interval,
            threshold=threshold,
            source=source,
            evidence={**evidence, "states": self.states},
            where=where,
        )

    def by_span(self) -> dict[str, dict[str, Any]]:
        """Return the statistic of each span as plain data, for the evidence."""
        return {span: one._asdict() for span, one in self.values.items()}


def judge_spans(
    per_seed: Mapping[str, PerSeed],
    line: float,
    *,
    key: Key,
    thresholds: Thresholds,
    is_below: bool = False,
    is_infinite_known: bool = True,
) -> Judged:
    """Judge the median over seeds of a statistic, span by span.

    Args:
        per_seed: The statistic of every seed, by span.
        line: The threshold.
        key: A key of the bootstrap.
        thresholds: For the confidence and the number of seeds that are needed.
        is_below: Whether the flag is raised below the threshold, not above it.
        is_infinite_known: Whether an infinite value can be judged; if not, the state is
            "undecided". If a Jacobian is zero, its gain can, and its anisometry cannot.
    """
    values, states = {}, {}
    for i, (span, numbers) in enumerate(per_seed.items()):
        # Each span is resampled by itself, so that the intervals are independent.
        key_of_span = jax.random.fold_in(key, i)
        bounds = interval(numbers, key_of_span, confidence=thresholds.confidence)
        found = SpanValue(float(np.median(numbers)), bounds)
        values[span] = found
        states[span] = UNDECIDED
        if is_infinite_known or np.isfinite(found.value):
            is_sure = thresholds.is_sure(len(numbers))
            states[span] = _state(found, line, is_below=is_below, is_sure=is_sure)
    # Of spans in the same state, the first.
    state, span = worst_state(states)
    return Judged(state, span, values[span], values=values, states=states)


def _state(
    found: SpanValue,
    line: float,
    *,
    is_below: bool,
    is_sure: bool,
) -> str:
    """Return the state of one span."""
    # x < line is judged as −x > −line.
    if is_below:
        bounds = flipped(found.interval)
        return state_above(-found.value, bounds, -line, is_sure=is_sure)
    return state_above(found.value, found.interval, line, is_sure=is_sure)


def in_words(span: str) -> str:
    """Return the name of a span for a sentence: "end to end"."""
    return span.replace("_", " ")
