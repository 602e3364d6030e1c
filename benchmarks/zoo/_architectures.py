"""False alarms and misses on networks that are no perceptrons."""

import hashlib
import json
import pathlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import jax

import isometry
from benchmarks.zoo import (
    _attention,
    _calibrate,
    _convolutional,
    _recurrent,
    _residual,
)
from benchmarks.zoo._case import FLAGS, Case
from isometry import Report, Thresholds, store
from isometry._internal import provenance

CASES: tuple[Case, ...] = (
    *_convolutional.CASES,
    *_residual.CASES,
    *_recurrent.CASES,
    *_attention.CASES,
)

# The standard deviation of Gaussian inputs. Their variance is that of the perceptrons:
# at ten times as much, tanh saturates and a critical network vanishes.
_INPUT_SCALE = 0.1**0.5

# One more when a flag was changed after a look at the figures: every draw is then
# another, so that no figure is of a draw that a flag was mended on.
_EDITION = 3


@dataclass(frozen=True)
class Preset:
    """How much is drawn.

    Attributes:
        draws: Audits of one network, each of fresh seeds and inputs.
        seeds: Seeds of one audit; five are the fewest that decide a flag.
        inputs: Inputs at which Jacobians are taken.
        examples: Examples of the probe.
        train_steps: Steps of the probe.
    """

    draws: int = 5
    seeds: int = 5
    inputs: int = 8
    examples: int = 32
    train_steps: int = 20


FULL = Preset()
SMOKE = Preset(draws=1, inputs=2, train_steps=0)

# One network of each kind of truth, of one architecture.
SMOKE_CASES = tuple(
    case
    for case in CASES
    if case.name in ("residual-dense-zero_branch", "residual-dense-equal_blocks")
)


def verdicts(case: Case, preset: Preset, number: int) -> dict[str, dict]:
    """Return state, value and line of each flag of one draw."""
    words = f"{case.name}, draw {_EDITION}"
    digest = hashlib.sha256(words.encode()).hexdigest()
    key = jax.random.fold_in(jax.random.key(int(digest[:7], 16)), number)
    key_seeds, key_xs, key_audit = jax.random.split(key, 3)
    keys = jax.random.split(key_seeds, preset.seeds)
    xs = case.draw_inputs(key_xs, preset.examples)
    if case.tokens is None:
        xs = xs * _INPUT_SCALE
    is_planted = case.plant is not None
    report = isometry.audit(
        case.build(),
        None if is_planted else keys,
        xs,
        params=case.planted(keys) if is_planted else None,
        train_steps=preset.train_steps,
        key=key_audit,
        inputs=preset.inputs,
    )
    assert isinstance(report, Report)
    return {
        name: {
            "state": flag.state,
            "value": flag.value,
            "line": flag.threshold,
            "reason": flag.reason,
        }
        for name, flag in report.flags.items()
    }


def measured(
    case: Case,
    preset: Preset,
    out: pathlib.Path,
    *,
    say: Callable[[str], None],
) -> dict:
    """Return all draws of a network, and what they cost.

    What lies in `out` is taken from there, if it was made with the same settings.
    """
    path = out / f"{case.name}.json"
    settings = {
        **asdict(preset),
        "edition": _EDITION,
        "thresholds": Thresholds().as_dict(),
    }
    if path.is_file():
        record = json.loads(path.read_text())
        if record["settings"] == settings:
            return record
    start = time.process_time()
    draws = [verdicts(case, preset, number) for number in range(preset.draws)]
    seconds = (time.process_time() - start) / preset.draws
    record = {"settings": settings, "cpu_seconds": seconds, "draws": draws}
    store.write_json(path, record)
    say(f"{case.name}: {preset.draws} draws, {seconds:.1f} s of CPU each")
    return json.loads(path.read_text())


def run(smoke: bool, out: pathlib.Path, say: Callable[[str], None]) -> dict:
    """Return the record: what was drawn, and the rates."""
    preset, cases = (SMOKE, SMOKE_CASES) if smoke else (FULL, CASES)
    cache = store.prepare(out / "architectures")
    records = {case: measured(case, preset, cache, say=say) for case in cases}
    return record_of(records, preset, "smoke" if smoke else "full")


def record_of(records: dict[Case, dict], preset: Preset, name: str) -> dict:
    """Return the record of networks that were measured."""
    drawn: _calibrate.Drawn = {}
    seconds = {}
    for case, record in records.items():
        drawn[case] = record["draws"]
        seconds[case.name] = record["cpu_seconds"]
    return {
        "command": "architectures",
        "preset": {"name": name, **asdict(preset)},
        "thresholds": Thresholds().as_dict(),
        **_calibrate.summary(drawn, FLAGS),
        "cpu_seconds": seconds,
        "provenance": provenance.provenance(
            command=["python", "-m", "benchmarks.zoo", "architectures"]
        ),
    }
