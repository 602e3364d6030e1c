"""False alarms and misses of every flag: one draw is one audit, of fresh seeds at fresh inputs."""

import collections
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

import isometry
from benchmarks.zoo import _statistics
from benchmarks.zoo._case import FLAGS, Case
from benchmarks.zoo._nets import N_IN, ZOO, Config
from benchmarks.zoo._truth import Q_IN, truth
from isometry import Report, Thresholds, data, store
from isometry._internal import provenance

RANK_FLAG = "rank_constrained_training"
BELOW = ("vanishing", "ordered_phase", "rank_collapse")  # raised below a line of fixed place
ABOVE = ("exploding", "chaotic_phase", "anisometric", "below_floor")  # raised above one


@dataclass(frozen=True)
class Preset:
    """How much is drawn.

    - `draws`: of a configuration; `isometric_draws`: of one that is known not to be anisometric, which are fewer.
    - `seeds`, `inputs`, `examples`, `train_steps`: of one audit. The probe runs where the rank flag is asked.
    """

    draws: int = 10
    isometric_draws: int = 24
    seeds: int = 8
    inputs: int = 8
    examples: int = 64
    train_steps: int = 60

    def draws_of(self, config: Config) -> int:
        """Draws of this configuration."""
        return self.isometric_draws if truth(config)["anisometric"] is False else self.draws


_EDITION = 4  # one more when flags were changed after a look at the figures: then every draw is another
FULL = Preset()
SMOKE = Preset(draws=1, isometric_draws=1, seeds=5, inputs=2, train_steps=0)  # the rank flag is not run then
_ONE_SHAPE = ("tanh-4x32-orthogonal", "tanh-4x32-gaussian-w0.05", "tanh-4x32-zer_o")  # of both halves
SMOKE_ZOO = tuple(z for z in ZOO if z.name in _ONE_SHAPE)


def verdicts(config: Config, preset: Preset, number: int) -> dict[str, dict[str, Any]]:
    """Flag → state, value and line of one draw."""
    digest = hashlib.sha256(f"{config.name}, draw {_EDITION}".encode()).hexdigest()
    key = jax.random.fold_in(jax.random.key(int(digest[:7], 16)), number)
    key_seeds, key_xs, key_audit = jax.random.split(key, 3)
    xs = data.normalize(jax.random.normal(key_xs, (preset.examples, N_IN)), Q_IN)
    asked = truth(config)[RANK_FLAG] is not None
    report = isometry.audit(
        config.net(),
        jax.random.split(key_seeds, preset.seeds),
        xs,
        train_steps=preset.train_steps if asked else 0,
        key=key_audit,
        inputs=preset.inputs,
    )
    assert isinstance(report, Report)  # of one network
    return {name: {"state": f.state, "value": f.value, "line": f.threshold} for name, f in report.flags.items()}


def measured(
    config: Config, preset: Preset, out: pathlib.Path, say: Callable[[str], None]
) -> list[dict[str, dict[str, Any]]]:
    """All draws of a configuration; from `out` if they lie there, made with these settings."""
    path = out / f"{config.name}.json"
    draws = preset.draws_of(config)
    settings = {**asdict(preset), "draws": draws, "isometric_draws": draws, "thresholds": Thresholds().as_dict()}
    if path.is_file():
        old = json.loads(path.read_text())
        if old["settings"] == settings:
            return old["draws"]
    say(f"{config.name}: {draws} draws")
    found = [verdicts(config, preset, i) for i in range(draws)]
    store.write_json(path, {"settings": settings, "draws": found})
    return json.loads(path.read_text())["draws"]


def run(smoke: bool, out: pathlib.Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The record: what was drawn, and the rates."""
    preset, zoo = (SMOKE, SMOKE_ZOO) if smoke else (FULL, ZOO)
    cache = store.prepare(out / "calibrate")
    drawn: Drawn = {config: measured(config, preset, cache, say) for config in zoo}
    return {
        "command": "calibrate",
        "preset": {"name": "smoke" if smoke else "full", **asdict(preset)},
        "thresholds": Thresholds().as_dict(),
        **summary(drawn),
        "provenance": provenance.provenance(command=["python", "-m", "benchmarks.zoo", "calibrate"]),
    }


Network = Config | Case
Drawn = Mapping[Any, list[dict[str, dict[str, Any]]]]


def summary(drawn: Drawn, flags: Sequence[str] = FLAGS) -> dict[str, Any]:
    """Rates by flag and half, the family-wise rate, what each flag's line separates, every configuration's states."""
    halves = {"tuning": [z for z in drawn if not z.quoted], "quoted": [z for z in drawn if z.quoted]}
    return {
        "flags": {
            flag: {half: _rates(flag, zoo, drawn) for half, zoo in halves.items()}
            | {"separation": _separation(flag, halves["tuning"], drawn)}
            for flag in flags
        },
        "family_wise": {half: _family_wise(zoo, drawn) for half, zoo in halves.items()},
        "configurations": {z.name: _states(z, drawn[z]) for z in drawn},
    }


def _count(drawn: Drawn, zoo: list[Network], flag: str, *states: str) -> dict[str, Any] | None:
    errors = [sum(d[flag]["state"] in states for d in drawn[z]) for z in zoo]
    return _statistics.rate(errors, [len(drawn[z]) for z in zoo])


def _rates(flag: str, zoo: list[Network], drawn: Drawn) -> dict[str, Any]:
    """False alarms and undecided ones on what must be clear; misses, undecided among them, on what must be raised."""
    healthy, planted = ([z for z in zoo if truth(z)[flag] is wanted] for wanted in (False, True))
    return {
        "false_alarms": _count(drawn, healthy, flag, "raised"),
        "undecided": _count(drawn, healthy, flag, "undecided", "not_run"),
        "misses": _count(drawn, planted, flag, "clear", "undecided", "not_run"),
        "undecided_misses": _count(drawn, planted, flag, "undecided", "not_run"),
    }


def _family_wise(zoo: list[Network], drawn: Drawn) -> dict[str, Any] | None:
    """Draws with a false alarm of any flag that is asked and must be clear."""
    clear = {z: [f for f, wanted in truth(z).items() if wanted is False] for z in zoo}
    errors = [sum(any(d[f]["state"] == "raised" for f in clear[z]) for d in drawn[z]) for z in zoo]
    return _statistics.rate(errors, [len(drawn[z]) for z in zoo])


def _separation(flag: str, zoo: list[Network], drawn: Drawn) -> dict[str, Any] | None:
    """The largest value among what must be clear and the smallest among what must be raised, with the frozen line.

    Of flags that compare a number with a line of fixed place, turned so that above is worse: a line between the two
    makes no errors here, and how far it could move is the distance to either.
    """
    if flag not in (*BELOW, *ABOVE):
        return None
    sign = -1 if flag in BELOW else 1
    lines = {d[flag]["line"] for z in zoo for d in drawn[z]}
    sides = [
        [sign * float(d[flag]["value"]) for z in zoo if truth(z)[flag] is wanted for d in drawn[z]]
        for wanted in (False, True)
    ]
    if not all(sides) or len(lines) != 1:
        return None
    (line,) = lines
    return {"largest_healthy": max(sides[0]), "line": sign * line, "smallest_planted": min(sides[1])}


def _states(config: Network, draws: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Truth, states by count, and the median value, flag by flag."""
    flags = {}
    for flag in truth(config):
        values = [float(d[flag]["value"]) for d in draws if d[flag]["value"] is not None]
        flags[flag] = {
            "truth": truth(config)[flag],
            "states": dict(sorted(collections.Counter(d[flag]["state"] for d in draws).items())),
            "median": float(np.quantile(values, 0.5, method="lower")) if values else None,
        }
    return {"half": "quoted" if config.quoted else "tuning", "draws": len(draws), "flags": flags}
