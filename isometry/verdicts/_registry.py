"""The register of flags, and their thresholds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import Key
from isometry.verdicts._flag import Flag

if TYPE_CHECKING:
    from isometry.verdicts._measured import Measured

JudgeFunction: TypeAlias = Callable[["Measured", Key], Flag]

# The defaults of the thresholds that several flags share, or that belong to no single
# flag. `Thresholds` documents them.
SHARED: dict[str, float] = {
    "log_gain": 3.0,
    "anisometry": 1.0,
    "depth_scales": 6.0,
    "saturated_slope": 0.01,
    "below_floor": 0.5,
    "dead_level": 0.99,
    "controls": 19,
    "least_seeds": 5,
    "confidence": 0.95,
}
_SHARES = ("saturated_slope", "below_floor", "dead_level", "confidence")
_COUNTS = ("controls", "least_seeds")


@dataclass(frozen=True)
class Registered:
    """A flag as it is registered.

    Attributes:
        name: The name of the flag.
        judge: The function that maps what was measured, and a key, to the `Flag`.
        line: The name of the threshold in `Thresholds`; None if the flag has none.
        rank: The place in the order of flags. The gravest has the lowest rank.
        source: Where the threshold comes from.
    """

    name: str
    judge: JudgeFunction
    line: str | None
    rank: float
    source: str


_flags: dict[str, Registered] = {}
_own_lines: dict[str, float] = {}


@public("flag")
def flag(
    name: str,
    *,
    threshold: float | str | None = None,
    rank: float,
    source: str,
) -> Callable[[JudgeFunction], JudgeFunction]:
    """Register a function judge(measured, key) -> Flag as a flag of every audit.

    Args:
        name: The flag's name. An earlier flag of this name is replaced.
        threshold: A number, the default of a new threshold that `Thresholds` then takes
            under the flag's name; or the name of a threshold that `Thresholds` has
            already; or None, for a flag without a threshold.
        rank: The place in the order of flags; the gravest have the lowest rank. The
            package's own are 10, 20, ...
        source: Where the threshold comes from: a paper and equation, or "convention".

    Returns:
        A decorator, which returns the function unchanged.

    Raises:
        InputError: A threshold that is neither a number nor the name of one.

    Example:
        >>> @isometry.flag("narrow_top", threshold=0.9, rank=500, source="convention")
        ... def judge(measured, key):
        ...     share = 1.0
        ...     is_raised = share > measured.threshold("narrow_top")
        ...     state = "raised" if is_raised else "clear"
        ...     return isometry.Flag("narrow_top", state, "a share")
    """
    # Checked here and not in `register`, so that the error names this call.
    checks.number("rank", rank)
    line: str | None = None
    own_line = 0.0
    if isinstance(threshold, str):
        line = checks.one_of("threshold", threshold, _lines())
    elif threshold is not None:
        line = name
        own_line = float(checks.number("threshold", threshold))

    def register(judge: JudgeFunction) -> JudgeFunction:
        if line is not None and not isinstance(threshold, str):
            _own_lines[name] = own_line
        _flags[name] = Registered(name, judge, line, rank=rank, source=source)
        return judge

    return register


def registered() -> tuple[Registered, ...]:
    """Return all flags, the gravest first."""
    return tuple(sorted(_flags.values(), key=lambda one: one.rank))


def flag_names() -> tuple[str, ...]:
    """Return the names of all flags, the gravest first.

    First come flags of what no training can repair, then of what makes training slow.

    Returns:
        The names.

    Example:
        >>> isometry.flag_names()[0]
        'zero_gradient'
    """
    return tuple(one.name for one in registered())


def _lines() -> dict[str, float]:
    """Return the default of every threshold, by name."""
    return SHARED | _own_lines


class Thresholds:
    """The numbers with which flags compare what was measured.

    Thresholds of the package's flags, with their defaults and where they come from:

    - log_gain, 3: vanishing and exploding at |½ ln E s²| > 3, a signal six depth scales
      away: |K ln chi_1| = 6 (Schoenholz et al., 2017, find that networks deeper than
      about six depth scales do not train).
    - anisometry, 1: anisometric at Var(s²)/(E s²)² > 1, where the Bernoulli class loses
      its atom at the top and the smooth class has lambda_+/lambda_- = 64 (Pennington et
      al., 2018).
    - depth_scales, 6: ordered_phase and chaotic_phase at |K ln chi_1| > 6 over K (W, D)
      pairs, rank_collapse where the squared distance of inputs falls by more than e^6.
    - saturated_slope, 0.01: a unit is saturated where |phi'| is below this share of its
      largest value; a convention.
    - below_floor, 0.5: below_floor where more than this share of the singular values
      that may not be zero is too small for the method to resolve; above a half the
      median of ln s is not known.
    - dead_level, 0.99: dead_units and saturated_units where there are more such units
      than this quantile of their number by chance; 1 minus the level is divided among
      the layers.
    - controls, 19: the number of Gaussian control networks, trained on the same
      batches, with which rank_constrained_training compares a rank; with 19 the chance
      to be lowest by luck is 1 in 20.
    - least_seeds, 5: with fewer seeds, what depends on the draw is undecided.
    - confidence, 0.95: the confidence of the bootstrap intervals over seeds; a value
      whose interval holds the threshold is undecided.

    A flag with a threshold of its own adds it under the flag's name.

    Args:
        lines: Thresholds by name; all others keep their defaults.

    Raises:
        InputError: An unknown name; a threshold that is not a number from 0 on; a
            share, level or confidence outside [0, 1]; fewer than one control or seed.

    Example:
        >>> isometry.Thresholds(log_gain=2.0).log_gain
        2.0
    """

    _given: dict[str, float]

    @public("Thresholds")
    def __init__(self, **lines: float) -> None:
        # The thresholds of a flag are known only once the flag is registered.
        known = _lines()
        for name, value in lines.items():
            if name not in known:
                raise InputError(
                    f"{name} is no threshold; there are: {', '.join(known)}."
                )
            _check(name, value)
        self._given = dict(lines)

    def __getattr__(self, name: str) -> float:
        # Looked up at each access, so that thresholds of flags registered after this
        # object was made are there too.
        if name.startswith("_"):
            raise AttributeError(name)
        lines = _lines() | self._given
        if name not in lines:
            raise AttributeError(
                f"{name} is no threshold; there are: {', '.join(lines)}."
            )
        return lines[name]

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(self.as_dict().items())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Thresholds):
            return NotImplemented
        return self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(tuple(self._given.items()))

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self)
        return f"Thresholds({given})"

    def as_dict(self) -> dict[str, float]:
        """Return all thresholds by name.

        Returns:
            The thresholds, those that were not given with their defaults.

        Example:
            >>> isometry.Thresholds().as_dict()["log_gain"]
            3.0
        """
        return _lines() | self._given

    def of_flag(self, name: str) -> float:
        """Return the threshold of a flag, or a threshold by its own name.

        Args:
            name: The name of a flag, or of a threshold.

        Returns:
            The threshold.

        Raises:
            InputError: There is neither a flag nor a threshold of this name.

        Example:
            >>> isometry.Thresholds().of_flag("vanishing")
            3.0
        """
        known = _flags.get(name)
        line = name if known is None or known.line is None else known.line
        return self.as_dict()[checks.one_of("threshold", line, self.as_dict())]

    def is_sure(self, num_seeds: int) -> bool:
        """Tell whether there are enough seeds to judge what depends on the draw.

        Args:
            num_seeds: The number of seeds.

        Returns:
            Whether there are at least `least_seeds`.

        Example:
            >>> isometry.Thresholds().is_sure(4)
            False
        """
        return num_seeds >= self.least_seeds

    def unsure(self, num_seeds: int) -> str:
        """Return in words why a value that depends on the draw is undecided.

        Args:
            num_seeds: The number of seeds.

        Returns:
            The reason in words.

        Example:
            >>> isometry.Thresholds().unsure(4)
            '4 seeds, 5 are needed'
        """
        if not self.is_sure(num_seeds):
            seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
            return f"{seeds}, {self.least_seeds} are needed"
        return "its interval holds the threshold"


def _check(
    name: str,
    value: float,
) -> None:
    """Refuse a number that the threshold of this name cannot be."""
    # The threshold of a user's own flag may be any number from 0 on.
    if name in _COUNTS:
        checks.integer(name, value, low=1)
    elif name in _SHARES:
        checks.number(name, value, low=0, high=1)
    else:
        checks.number(name, value, low=0)
