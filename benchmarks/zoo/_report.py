"""Records as Markdown: README.md is made of the committed ones."""

import collections
import json
import pathlib
from collections.abc import Iterator
from typing import Any

README = pathlib.Path(__file__).with_name("README.md")
RESULTS = README.parent.parent / "results" / "zoo"
TARGETS = {"false_alarms": 0.01, "undecided": 0.05}  # and no miss
DECIDED = 0.9  # the least share of all verdicts
HEAD = """# How far the flags can be trusted

A zoo of networks, healthy and broken on purpose, with the truth known flag by flag from theory or construction
(`_nets.py`, `_truth.py`; what theory leaves in between is not asked). Made by `python -m benchmarks.zoo readme` from
`benchmarks/results/zoo/`; to measure anew:

```
python -m benchmarks.zoo calibrate --out DIR      # DIR/calibrate.json; an interrupt costs one network
python -m benchmarks.zoo architectures --out DIR  # DIR/architectures.json: networks that are no perceptrons
python -m benchmarks.zoo predict --out DIR        # DIR/predict.json
```

Changed after looking at the figures, those of the quoted half too: a zero Jacobian's anisometry is no longer asked, for
it is not defined; three isometric networks were added to have 300 healthy draws of `anisometric` in the quoted half;
the grid of learning rates now grows downwards where all of them diverge, the score that `predict` ranks by was not
touched. Two flags were mended for what the zoo showed of them: `dead_units` missed 10 of 40 layers half dead, which
spoiled its null, and the probe behind `rank_constrained_training` overflowed at its own learning rate on deep linear
networks (70 undecided draws). Of these two the quoted half is no longer an unseen one. All figures below are of
draws made after that, on other seeds and inputs.

Networks that are no perceptrons lie in a file by kind (`_convolutional.py`, `_residual.py`, `_recurrent.py`,
`_attention.py`), their faults in `_plants.py`. Truth is by construction; that units which were made equal stay so, and
that near misses of 1e-6 do not, is tried by training in float64 (`_trained.py`). Three truths were wrong and were
changed after a look at the figures: a kernel of zeros before a ReLU locks its channels, for no gradient passes a ReLU
at zero; whether tokens become alike is not asked where one vector embeds them all; nor whether a recurrence vanishes
whose biases saturate it, as its own states move units back (seen in the draws below). Three flags were mended:
`dead_units` did not see dead experts (its count took experts for positions), nor units of a recurrence that nothing
reaches; `rank_collapse` was undecided where the embedding itself makes all inputs one; and `locked_symmetry` took a
near miss for a lock in a GRU that insists on float32, of which it is undecided now. All draws were made anew since,
of other seeds and inputs, but of the four networks concerned the quoted half is no longer an unseen one.

Since the record before this one six networks were added, so that every flag has networks of both answers in both
halves; the networks of the residual image family are of 4x4 pixels instead of 8x8, and the deep Gaussian convolutions
have 192 layers instead of 96, for cost and for a margin below the floor; and a layer of which `dead_units` has evidence
only is counted against chance like any other. Both records are of draws made after that, with other seeds and inputs.
A fourth truth was wrong, and was changed after a look at these draws: the gradient of a cross-entropy behind a head of
equal columns is zero but for rounding, so that `zero_gradient` of five networks of constant weights is no longer asked
(it was raised in 6 of their 25 draws, and rightly).

The perceptrons showed a false certificate: of three of 104 networks, deep ones of ReLU without biases,
`locked_symmetry` said that no weight moves (22 of 30 draws), for the smooth function in the place of ReLU squared small
signals away. It was mended (`isometry/certificates/relaxing/_smooth.py`), and the 23 networks of activations with kinks
were drawn again on the mended code with the same seeds; of them the quoted half is no longer an unseen one. The other
perceptrons are as drawn before. The networks that are no perceptrons were all drawn again on the mended code, with the
same seeds: no verdict changed.
"""


def page() -> str:
    """README.md, from the records that are committed."""
    records = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    return (
        "\n".join(
            [HEAD, *(line for record in records for line in [*section(record), ""])]
        ).rstrip()
        + "\n"
    )


def section(record: dict[str, Any]) -> list[str]:
    """One record."""
    bodies = {
        "calibrate": _calibration,
        "architectures": _architectures,
        "predict": _prediction,
    }
    body = bodies[record["command"]](record)
    origin = record["provenance"]
    versions = ", ".join(
        f"{name} {number}" for name, number in origin["versions"].items()
    )
    device = f"{origin['device']['count']} {origin['device']['kind']} device"
    return [
        *body,
        "",
        f"{versions}; {device}; {origin['time']}; commit {origin['git_commit']}.",
    ]


def _table(*rows: tuple[str, ...]) -> Iterator[str]:
    for i, row in enumerate(rows):
        yield "| " + " | ".join(row) + " |"
        if not i:
            yield "|" + " --- |" * len(row)


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _rate(found: dict[str, Any] | None) -> str:
    """Errors of draws (configurations): rate, then both intervals."""
    if found is None:
        return "–"
    text = f"{found['errors']} of {found['draws']} ({found['configurations']})"
    low, high = found["clopper_pearson"]
    text += f": {_percent(low)} to {_percent(high)}"
    if found["errors"]:
        text += "; clusters " + " to ".join(
            _percent(v) for v in found["cluster_bootstrap"]
        )
    return text


def _decided(record: dict[str, Any], half: str, flags: list[str]) -> str:
    """Verdicts that are raised or clear, of all that were run: also of those of which the truth is not known."""
    states = collections.Counter()
    for config in record["configurations"].values():
        if config["half"] == half:
            for flag in flags:
                states.update(config["flags"][flag]["states"])
    run = states.total() - states["not_run"]
    return f"{_percent((run - states['undecided']) / run)} of {run}" if run else "–"


def _target(found: dict[str, Any]) -> str:
    """What keeps a flag from the target; "met" if nothing does, and said where no network must be raised."""
    missed = []
    if found["misses"] and found["misses"]["errors"]:
        missed.append("misses")
    for kind, allowed in TARGETS.items():
        if found[kind] is None or found[kind]["rate"] > allowed:
            missed.append(kind.replace("_", " "))
    if missed:
        return "missed: " + ", ".join(missed)
    return "met" if found["misses"] else "met; none to be raised"


def _number(value: Any) -> str:
    return f"{float(value):.3g}"


def _calibration(record: dict[str, Any]) -> list[str]:
    preset, flags = record["preset"], record["flags"]
    lines = [
        "## False alarms and misses",
        "",
        f"{len(record['configurations'])} networks; a draw is one audit of {preset['seeds']} fresh seeds at "
        f"{preset['inputs']} fresh inputs. A hash puts each network in one half: lines are `Thresholds()`, those of "
        "theory, and stay if they make no errors in the tuning half; figures to quote are of the other. Errors of "
        "draws (of networks), with the 95 % interval of Clopper and Pearson, and where there are errors that of a "
        "bootstrap over networks. *Undecided* is a miss where the flag must be raised. Target: no miss, at most "
        f"{_percent(TARGETS['false_alarms'])} false alarms, at most {_percent(TARGETS['undecided'])} undecided; of all "
        f"verdicts, those included of which the truth is not known, at least {_percent(DECIDED)} *decided*.",
        "",
    ]
    for half, title in (("quoted", "Quoted half"), ("tuning", "Tuning half")):
        rows = [
            (
                name,
                *(
                    _rate(flag[half][k])
                    for k in ("false_alarms", "undecided", "misses")
                ),
                _decided(record, half, [name]),
                _target(flag[half]),
            )
            for name, flag in flags.items()
        ]
        family = (
            "any flag",
            _rate(record["family_wise"][half]),
            "",
            "",
            _decided(record, half, list(flags)),
            "",
        )
        header = (
            "flag",
            "false alarms",
            "undecided though healthy",
            "misses",
            "decided",
            "target",
        )
        lines += [f"### {title}", "", *_table(header, *rows, family), ""]
    lines += [
        "### Where the lines lie in the tuning half",
        "",
        *_table(*_separations(flags)),
        "",
    ]
    lines += [
        "### Every state that is not the truth",
        "",
        *_table(*_wrong(record["configurations"])),
    ]
    return lines


def _architectures(record: dict[str, Any]) -> list[str]:
    """Networks that are no perceptrons: the same tables, and what each network was asked."""
    lines = _calibration(record)
    lines[0] = "## False alarms and misses, of networks that are no perceptrons"
    # By construction or as certified, and the depths are too few for theory's phases.
    asked = "### What was asked of each network"
    return [*lines, "", asked, "", *_table(*_asked(record))]


def _asked(record: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield (
        "network",
        "half",
        "must be raised",
        "raised of them",
        "must be clear",
        "CPU s",
    )
    for name, config in record["configurations"].items():
        flags = config["flags"]
        wanted = [flag for flag, found in flags.items() if found["truth"]]
        raised = sum(
            flags[flag]["states"].get("raised", 0) == config["draws"] for flag in wanted
        )
        clear = sum(found["truth"] is False for found in flags.values())
        seconds = f"{record['cpu_seconds'][name]:.1f}"
        yield (
            name,
            config["half"],
            ", ".join(wanted) or "–",
            f"{raised} of {len(wanted)}",
            str(clear),
            seconds,
        )


def _separations(flags: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "flag", "largest healthy", "line", "smallest planted", "no errors"
    for name, flag in flags.items():
        if found := flag["separation"]:
            low, line, high = (
                float(found[k]) for k in ("largest_healthy", "line", "smallest_planted")
            )
            yield (
                name,
                _number(low),
                _number(line),
                _number(high),
                "yes" if low < line < high else "no",
            )


def _wrong(configurations: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    yield "network", "half", "flag", "truth", "states"
    for name, config in configurations.items():
        for flag, found in config["flags"].items():
            right = {True: "raised", False: "clear"}.get(found["truth"])
            if right and set(found["states"]) != {right}:
                states = ", ".join(
                    f"{n} {state}" for state, n in found["states"].items()
                )
                yield name, config["half"], flag, right, states


def _prediction(record: dict[str, Any]) -> list[str]:
    preset = record["preset"]
    censored = sum(row["censored"] for row in record["networks"].values())
    chance = sum(row["loss"] > 2.25 for row in record["networks"].values())
    lines = [
        "## Do the spectrum's flags rank the loss after training?",
        "",
        f"Every network trained on pooled digits for {preset['steps']} steps of SGD at the best of at least five "
        "learning rates; the score was registered before (`_predict.py`). Rank correlations with the final loss, 95 % "
        "intervals by a bootstrap over networks; the lead is resampled together. "
        f"{len(record['networks'])} networks, {chance} within 0.05 of chance, {censored} censored (best rate at the "
        "edge of the grown grid).",
        "",
    ]
    for name in ("kendall", "spearman"):
        lines += [
            f"### {name.capitalize()}",
            "",
            *_table(*_correlations(record[name])),
            "",
        ]
    return lines[:-1]


def _correlations(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    names = found["all"]["correlation"]
    yield "networks", *names, *(f"lead over {name}" for name in found["all"]["lead"])
    for group, row in found.items():
        cells = [*row["correlation"].values(), *row["lead"].values()]
        shown = [
            f"{c['value']:.2f} ({c['interval'][0]:.2f} to {c['interval'][1]:.2f})"
            for c in cells
        ]
        yield f"{group} ({row['networks']})", *shown
