"""False alarms and misses of every flag. A draw is one audit of fresh seeds, inputs."""

import collections
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

import jax
import numpy as np

import isometry
from benchmarks.zoo import _statistics
from benchmarks.zoo._case import FLAGS, Case
from benchmarks.zoo._nets import N_IN, ZOO, Config
from benchmarks.zoo._statistics import Rate
from benchmarks.zoo._truth import Q_IN, truth
from isometry import Report, Thresholds, data, store
from isometry._internal import provenance

RANK_FLAG = "rank_constrained_training"

# Flags that are raised below a line of fixed place, and above one.
BELOW = ("vanishing", "ordered_phase", "rank_collapse")
ABOVE = ("exploding", "chaotic_phase", "anisometric", "below_floor")

# One more when a flag was changed after a look at the figures: every draw is then
# another, so that no figure is of a draw that a flag was mended on.
_EDITION = 4


class Verdict(TypedDict):
    """What an audit says of one flag.

    Attributes:
        state: "raised", "clear", "undecided" or "not_run".
        value: The number that was judged. JSON has infinities as text.
        line: The number that it was compared with.
    """

    state: str
    value: float | str | None
    line: float | None


Network = Config | Case

# The verdicts of one draw by flag, and all draws by network. A mapping whose keys are
# said to be networks would not take one whose keys are all of one kind.
Draw = Mapping[str, Verdict]
Drawn = Mapping[Any, Sequence[Draw]]


@dataclass(frozen=True)
class Preset:
    """How much is drawn.

    Attributes:
        draws: Audits of one configuration.
        isometric_draws: Audits of one that must not be anisometric; few are such.
        seeds: Seeds of one audit; five are the fewest that decide a flag.
        inputs: Inputs at which Jacobians are taken.
        examples: Examples of the probe.
        train_steps: Steps of the probe, which runs where the rank flag is asked.
    """

    draws: int = 10
    isometric_draws: int = 24
    seeds: int = 8
    inputs: int = 8
    examples: int = 64
    train_steps: int = 60

    def draws_of(self, config: Config) -> int:
        """Return the number of draws of a configuration."""
        if truth(config)["anisometric"] is False:
            return self.isometric_draws
        return self.draws


FULL = Preset()

# Without steps, the flag of ranks is not run.
SMOKE = Preset(draws=1, isometric_draws=1, seeds=5, inputs=2, train_steps=0)

# Of one shape, which compiles once, and of both halves.
_SMOKE_NAMES = (
    "tanh-4x32-orthogonal",
    "tanh-4x32-gaussian-w0.05",
    "tanh-4x32-zer_o",
)
SMOKE_ZOO = tuple(config for config in ZOO if config.name in _SMOKE_NAMES)


def verdicts(config: Config, preset: Preset, number: int) -> dict[str, Verdict]:
    """Return state, value and line of each flag of one draw."""
    words = f"{config.name}, draw {_EDITION}"
    digest = hashlib.sha256(words.encode()).hexdigest()
    key = jax.random.fold_in(jax.random.key(int(digest[:7], 16)), number)
    key_seeds, key_xs, key_audit = jax.random.split(key, 3)
    xs = data.normalize(jax.random.normal(key_xs, (preset.examples, N_IN)), Q_IN)
    is_rank_asked = truth(config)[RANK_FLAG] is not None
    report = isometry.audit(
        config.net(),
        jax.random.split(key_seeds, preset.seeds),
        xs,
        train_steps=preset.train_steps if is_rank_asked else 0,
        key=key_audit,
        inputs=preset.inputs,
    )
    # Of one network the report is one, and no table of several.
    assert isinstance(report, Report)
    return {
        name: {"state": flag.state, "value": flag.value, "line": flag.threshold}
        for name, flag in report.flags.items()
    }


def measured(
    config: Config,
    preset: Preset,
    out: pathlib.Path,
    *,
    say: Callable[[str], None],
) -> list[dict[str, Verdict]]:
    """Return all draws of a configuration.

    What lies in `out` is taken from there, if it was made with the same settings.
    """
    path = out / f"{config.name}.json"
    num_draws = preset.draws_of(config)
    settings = {
        **asdict(preset),
        "draws": num_draws,
        "isometric_draws": num_draws,
        "thresholds": Thresholds().as_dict(),
    }
    if path.is_file():
        record = json.loads(path.read_text())
        if record["settings"] == settings:
            return record["draws"]
    say(f"{config.name}: {num_draws} draws")
    draws = [verdicts(config, preset, number) for number in range(num_draws)]
    store.write_json(path, {"settings": settings, "draws": draws})
    return json.loads(path.read_text())["draws"]


def run(smoke: bool, out: pathlib.Path, say: Callable[[str], None]) -> dict:
    """Return the record: what was drawn, and the rates."""
    preset, zoo = (SMOKE, SMOKE_ZOO) if smoke else (FULL, ZOO)
    cache = store.prepare(out / "calibrate")
    drawn = {config: measured(config, preset, cache, say=say) for config in zoo}
    return {
        "command": "calibrate",
        "preset": {"name": "smoke" if smoke else "full", **asdict(preset)},
        "thresholds": Thresholds().as_dict(),
        **summary(drawn),
        "provenance": provenance.provenance(
            command=["python", "-m", "benchmarks.zoo", "calibrate"]
        ),
    }


def summary(drawn: Drawn, flags: Sequence[str] = FLAGS) -> dict:
    """Summarize draws.

    Args:
        drawn: All draws by network.
        flags: The flags to summarize.

    Returns:
        Of each flag the rates by half and what its line separates; the rates of draws
        with any false alarm; and the states of every network.
    """
    halves: dict[str, list[Network]] = {
        "tuning": [network for network in drawn if not network.quoted],
        "quoted": [network for network in drawn if network.quoted],
    }
    of_flags = {}
    for flag in flags:
        rates = {half: _rates(flag, zoo, drawn) for half, zoo in halves.items()}
        separation = _separation(flag, halves["tuning"], drawn)
        of_flags[flag] = {**rates, "separation": separation}
    return {
        "flags": of_flags,
        "family_wise": {half: _family_wise(zoo, drawn) for half, zoo in halves.items()},
        "configurations": {
            network.name: _states(network, draws) for network, draws in drawn.items()
        },
    }


def _rates(flag: str, zoo: list[Network], drawn: Drawn) -> dict[str, Rate | None]:
    """Return errors of a flag on what must be clear and on what must be raised."""

    def share(wanted: bool, *, wrong: Sequence[str]) -> Rate | None:
        asked = [network for network in zoo if truth(network)[flag] is wanted]
        errors = []
        for network in asked:
            states = [draw[flag]["state"] for draw in drawn[network]]
            errors.append(sum(state in wrong for state in states))
        return _statistics.rate(errors, [len(drawn[network]) for network in asked])

    not_decided = ["undecided", "not_run"]
    return {
        "false_alarms": share(False, wrong=["raised"]),
        "undecided": share(False, wrong=not_decided),
        "misses": share(True, wrong=["clear", *not_decided]),
        "undecided_misses": share(True, wrong=not_decided),
    }


def _family_wise(zoo: list[Network], drawn: Drawn) -> Rate | None:
    """Return draws in which any flag that must be clear is raised."""
    errors = []
    for network in zoo:
        clear = [flag for flag, wanted in truth(network).items() if wanted is False]
        errors.append(
            sum(
                any(draw[flag]["state"] == "raised" for flag in clear)
                for draw in drawn[network]
            )
        )
    return _statistics.rate(errors, [len(drawn[network]) for network in zoo])


def _separation(flag: str, zoo: list[Network], drawn: Drawn) -> dict[str, float] | None:
    """Return the values on either side of a flag's line that are closest to it.

    Of flags that compare a number with a line of fixed place. Signs are such that above
    is worse: a line between the two values makes no errors here, and how far it could
    move is the distance to either.

    Args:
        flag: The flag.
        zoo: The networks of one half.
        drawn: All draws by network.

    Returns:
        The largest value of what must be clear, the line, and the smallest value of
        what must be raised. None if the line is not one number, or one side is empty.
    """
    if flag not in (*BELOW, *ABOVE):
        return None
    sign = -1 if flag in BELOW else 1
    lines = {draw[flag]["line"] for network in zoo for draw in drawn[network]}
    healthy = _values(flag, zoo, drawn, wanted=False)
    planted = _values(flag, zoo, drawn, wanted=True)
    if not healthy or not planted or len(lines) != 1:
        return None
    (line,) = lines
    assert line is not None
    return {
        "largest_healthy": max(sign * value for value in healthy),
        "line": sign * line,
        "smallest_planted": min(sign * value for value in planted),
    }


def _values(
    flag: str, zoo: list[Network], drawn: Drawn, *, wanted: bool
) -> list[float]:
    """Return a flag's values on the networks of one truth."""
    asked = [network for network in zoo if truth(network)[flag] is wanted]
    return [_as_float(draw[flag]) for network in asked for draw in drawn[network]]


def _as_float(verdict: Verdict) -> float:
    """Return the value of a flag that always has one."""
    value = verdict["value"]
    assert value is not None
    return float(value)


def _states(network: Network, draws: Sequence[Draw]) -> dict:
    """Return truth, states by count and the median value, by flag."""
    flags = {}
    for flag, wanted in truth(network).items():
        judged = [draw[flag] for draw in draws]
        states = collections.Counter(verdict["state"] for verdict in judged)
        # A draw without a number, such as one that was not run, has no part in it.
        numbers = [verdict for verdict in judged if verdict["value"] is not None]
        values = [_as_float(verdict) for verdict in numbers]
        median = float(np.quantile(values, 0.5, method="lower")) if values else None
        flags[flag] = {
            "truth": wanted,
            "states": dict(sorted(states.items())),
            "median": median,
        }
    return {
        "half": "quoted" if network.quoted else "tuning",
        "draws": len(draws),
        "flags": flags,
    }
