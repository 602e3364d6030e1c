"""A flag: one thing that can go wrong, whether it does, how sure that is, and what to do about it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import jax
import numpy as np

from isometry import _checks

RAISED, CLEAR, UNDECIDED, NOT_RUN = "raised", "clear", "undecided", "not_run"
FLAGS = (
    "zero_gradient",
    "rank_constrained_training",
    "locked_symmetry",
    "dead_units",
    "rank_collapse",
    "saturated_units",
    "vanishing",
    "exploding",
    "ordered_phase",
    "chaotic_phase",
    "anisometric",
    "below_floor",
)
"""Every flag, the gravest first: what no training can repair, then what makes it slow."""

_RESAMPLES = 2000  # of the bootstrap: puts its own error of a 2.5 % quantile at √(0.025·0.975/2000) = 0.35 %
_ROUNDING = 128 * float(np.finfo(np.float32).eps)  # 1.5e-5: rounding of 128² random-signed terms (width × depth), so
# that a deterministic network which sits on a threshold is undecided


@dataclass(frozen=True)
class Thresholds:
    """Where each flag draws its line, and on whose authority.

    - `log_gain`: vanishing and exploding at |½ ln E s²| > 3, a signal 6 depth scales away: |K ln chi_1| = 6 (Schoenholz
      et al., 2017, find that networks deeper than about 6 depth scales do not train).
    - `anisometry`: anisometric at Var(s²)/(E s²)² > 1, where the Bernoulli class loses its atom at the top and the
      smooth class has λ_+/λ_- = 64 (Pennington et al., 2018).
    - `depth_scales`: ordered_phase and chaotic_phase at |K ln chi_1| > 6 over K (W, D) pairs, rank_collapse where the
      squared distance of inputs falls by more than e^6: six depth scales, as above.
    - `saturated_slope`: a unit is saturated where |phi'| is below this share of its largest value; a convention. The
      null count is theory's, at the variance that criticality needs, or at unit variance if that is more.
    - `below_floor`: share of the singular values not known to be zero that the method does not resolve; from a half on
      the median of ln s is no number.
    - `dead_level`: quantile of the null count of dead and of saturated units above which more are too many; shared out
      over the layers.
    - `controls`: Gaussian networks trained alike that a rank is compared with; 19 put the chance of being lowest by
      luck at 1 in 20.
    - `least_seeds`: with fewer, what depends on the draw is undecided.
    - `confidence`: of the bootstrap intervals over seeds; a value whose interval holds the threshold is undecided.

    **Raises** `ValueError`: a line that is not a number from 0 on; a share, level or confidence outside [0, 1]; fewer
    than one control or seed.
    """

    log_gain: float = 3.0
    anisometry: float = 1.0
    depth_scales: float = 6.0
    saturated_slope: float = 0.01
    below_floor: float = 0.5
    dead_level: float = 0.99
    controls: int = 19
    least_seeds: int = 5
    confidence: float = 0.95

    def __post_init__(self):
        call = "Thresholds"
        _checks.number(call, low=0, **{n: getattr(self, n) for n in ("log_gain", "anisometry", "depth_scales")})
        shares = ("saturated_slope", "below_floor", "dead_level", "confidence")
        _checks.number(call, low=0, high=1, **{n: getattr(self, n) for n in shares})
        _checks.integer(call, low=1, controls=self.controls, least_seeds=self.least_seeds)


@dataclass(frozen=True)
class Flag:
    """One judgement.

    - `name`: one of `FLAGS`; `state`: "raised", "clear", "undecided" or "not_run".
    - `reason`: one line in words; `remedy`: what to change if it is raised.
    - `value`, `interval`, `threshold`: the number, its interval over seeds, the line (None where there is none).
    - `source`: where the threshold comes from; `evidence`: every number behind it.
    """

    name: str
    state: str
    reason: str
    remedy: str = ""
    value: Any = None
    interval: tuple[float, float] | None = None
    threshold: Any = None
    source: str = ""
    evidence: dict[str, Any] = field(default_factory=dict, repr=False)  # pages of arrays

    @property
    def raised(self) -> bool:
        """Whether the state is "raised"."""
        return self.state == RAISED

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def interval(
    per_seed: np.ndarray, key: Any, confidence: float, statistic: Callable[..., Any] = np.median
) -> tuple[float, float]:
    """Bootstrap percentile interval over seeds of a statistic; infinities are kept, not interpolated."""
    picks = np.asarray(jax.random.randint(key, (_RESAMPLES, len(per_seed)), 0, len(per_seed)))
    resampled = statistic(per_seed[picks], axis=-1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], method="nearest")
    return float(low), float(high)


def above(value: float, bounds: tuple[float, float], line: float, seeds: int, limits: Thresholds) -> str:
    """State of a flag that is raised above `line`."""
    slack = _ROUNDING * max(abs(line), 1.0)
    if seeds < limits.least_seeds or bounds[0] - slack <= line <= bounds[1] + slack:
        return UNDECIDED
    return RAISED if value > line else CLEAR


def flipped(bounds: tuple[float, float]) -> tuple[float, float]:
    """The interval of the value with its sign changed: for flags that are raised below their line."""
    return -bounds[1], -bounds[0]


def undecided(flag: Flag, why: str) -> Flag:
    """The flag with its numbers, which say nothing."""
    return replace(flag, state=UNDECIDED, reason=f"{flag.reason}; {why}")


def unsure(seeds: int, limits: Thresholds) -> str:
    """Why a seed-dependent value is undecided, for the reason's line."""
    if seeds < limits.least_seeds:
        return f"{seeds} seeds, {limits.least_seeds} are needed"
    return "its interval holds the threshold"
