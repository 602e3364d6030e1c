"""What stands in the report, as texts: verdicts, tables, certificates, provenance."""

import collections
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isometry._internal import numerals
from isometry.certificates._layers import (
    BIT_FOR_BIT,
    EVIDENCE,
    IN_EXACT_ARITHMETIC,
    full_rank,
)
from isometry.verdicts import _definitions, _table
from isometry.verdicts._flag import CLEAR, UNDECIDED, Flag

if TYPE_CHECKING:
    from isometry._internal.strict_json import Plain
    from isometry.verdicts._layers import LayerRow
    from isometry.verdicts._report import Report

# Of each kind of verdict: the word that marks it, and what it means for training.
_MEANING = {
    "grave": ("raised", "Training hardly repairs what is wrong here."),
    "slow": ("raised", "Training is slow, or fails, until this is mended."),
    "doubtful": (
        "raised",
        "Nothing grave is raised, but a graver flag is undecided or was not run.",
    ),
    "mild": ("nothing grave", "What is raised is common, and healthy networks train."),
    UNDECIDED: ("undecided", "Nothing is raised; some flags need more to be measured."),
    CLEAR: ("clear", "No flag is raised."),
}

# How many networks there are of each kind, in words behind their number.
_COUNTED = {
    "grave": "with faults that training hardly repairs",
    "slow": "that train slowly, or fail",
    "doubtful": "that may have a graver fault",
    "mild": "with nothing grave",
    UNDECIDED: "undecided",
    CLEAR: "clear",
}

# Columns of the table of networks, and of that of layers, with their headings.
STATISTICS = dict(zip(_table.COLUMNS, _table.HEADINGS[1:-1], strict=True))
LAYERS = {name: name for name in _definitions.LAYERS}
LAYERS |= {"chi": "χ", "never": "never moves", "rank": "rank of updates"}

# The gravest grade first.
_GRADES = (BIT_FOR_BIT, IN_EXACT_ARITHMETIC, EVIDENCE)

# Why a cell of the table of layers is empty.
_UNKNOWN = {
    "q": "Not measured here: the signals of this layer are not known.",
    "chi": "Not known: χ is a quotient of derivatives at this layer and at the one "
    "before; one of them is zero, or was not measured.",
    "gradient": "Not measured, or not finite.",
}

_LARGEST = float(np.finfo(float).max)

_NOT_CERTIFIED = "No certificate says anything of this layer."


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What is written in it.
        order: What the table is sorted by: a number, or a text.
        why: Why there is no number, or "".
    """

    text: str
    order: float | str = ""
    why: str = ""


@dataclass(frozen=True)
class Fault:
    """A raised flag in words.

    Attributes:
        name: The name of the flag.
        reason: What is wrong.
        where: The layers or points, the worst first.
        certainty: Interval, threshold, and the source of the threshold.
        remedy: What to do.
    """

    name: str
    reason: str
    where: tuple[str, ...]
    certainty: str
    remedy: str


@dataclass(frozen=True)
class Locked:
    """A finding of a certificate, with all layers for which it is the same.

    Attributes:
        layers: The names of the layers.
        finding: The fields of `Finding`, as plain data.
    """

    layers: tuple[str, ...]
    finding: dict[str, Any]


@dataclass(frozen=True)
class Certified:
    """The certificate of some seeds for which it says the same.

    Attributes:
        seeds: Which seeds: "seed 1" or "seeds 1, 2".
        words: The verdict of the certificate.
        found: What counts, the gravest first.
        harmless: What does not hinder training.
    """

    seeds: str
    words: str
    found: tuple[Locked, ...]
    harmless: tuple[Locked, ...]


@dataclass(frozen=True)
class Network:
    """What the page says of one network.

    Attributes:
        name: Its name among the networks.
        description: The network itself, in words.
        kind: The kind of its verdict, one of `_MEANING`.
        word: The verdict in a word.
        meaning: What it means for training.
        scope: Lines on seeds, inputs and modes.
        faults: The raised flags, the gravest first.
        flags: All flags, by name.
        numbers: The statistics of the Jacobian end to end, by name.
        layers: A row of cells for each weight layer.
        certificates: What was certified.
        not_certified: Why nothing was, or "".
        probe: A row on the training probe, or None.
        no_probe: Why there is none.
    """

    name: str
    description: str
    kind: str
    word: str
    meaning: str
    scope: tuple[str, ...]
    faults: tuple[Fault, ...]
    flags: dict[str, Flag]
    numbers: dict[str, Cell]
    layers: tuple[dict[str, Cell], ...]
    certificates: tuple[Certified, ...]
    not_certified: str
    probe: dict[str, Cell] | None
    no_probe: str

    def in_state(self, state: str) -> list[Flag]:
        """Return the flags in this state."""
        return [flag for flag in self.flags.values() if flag.state == state]


def network(name: str, report: "Report") -> Network:
    """Return what the page says of a network."""
    kind = _table.kind(report)
    word, meaning = _MEANING[kind]
    raised = [flag for flag in report.flags.values() if flag.raised]
    not_certified = ""
    if not report.certificates:
        why = report.setting.get("no_certificate")
        not_certified = str(why or "the report holds no certificate")
    no_probe = ""
    if report.probe is None:
        no_probe = _why_no_probe(report)
    return Network(
        name=name,
        description=report.network,
        kind=kind,
        word=word,
        meaning=meaning,
        scope=tuple(_table.scope(report).splitlines()),
        faults=tuple(map(_fault, raised)),
        flags=report.flags,
        numbers=_numbers(report),
        layers=tuple(
            _layer(i, row, report.certificates) for i, row in enumerate(report.rows)
        ),
        certificates=_certified(report.certificates),
        not_certified=not_certified,
        probe=_probe(report),
        no_probe=no_probe,
    )


def _fault(flag: Flag) -> Fault:
    return Fault(
        name=flag.name,
        reason=flag.reason,
        where=flag.where,
        certainty=_table.certainty(flag),
        remedy=flag.remedy,
    )


def title(networks: Sequence[Network], undefined: Collection[str]) -> str:
    """Return of which network, or of how many, the page is."""
    count = len(networks) + len(undefined)
    if count > 1:
        return f"{count} networks"
    return networks[0].description if networks else "a network that is not defined"


def headline(networks: Sequence[Network], undefined: Collection[str]) -> str:
    """Return the verdict on all networks in a sentence.

    Args:
        networks: The networks that were audited.
        undefined: The names of those that could not be built.
    """
    count = len(networks) + len(undefined)
    if count == 1 and networks:
        return networks[0].meaning
    kinds = [one.kind for one in networks]
    parts = [
        f"{kinds.count(kind)} {words}"
        for kind, words in _COUNTED.items()
        if kind in kinds
    ]
    if undefined:
        parts.append(f"{len(undefined)} not defined")
    noun = "network" if count == 1 else "networks"
    return f"Of {count} {noun}: {'; '.join(parts)}."


def _numbers(report: "Report") -> dict[str, Cell]:
    """Return the statistics end to end; of what is not known, the reason."""
    records = _table.statistics_of(report)
    pairs = zip(_table.COLUMNS, _table.numbers_of(report), strict=True)
    texts: dict[str, str] = dict(pairs)
    cells = {}
    for name in _definitions.STATISTICS:
        record = records[name]
        # Logarithms sort as the numbers do, and stay in range.
        order = math.inf
        if not math.isnan(record.log_high):
            order = _order(float(record.log_high))
        cells[name] = Cell(texts[name], order, record.why)
    return cells


def _layer(
    index: int,
    row: "LayerRow",
    certificates: Sequence[dict[str, "Plain"]],
) -> dict[str, Cell]:
    """Return the cells of a weight layer."""
    locks = [
        lock
        for certificate in certificates
        for lock in _rows(certificate)
        if lock["name"] == row.layer
    ]
    size = math.prod(row.shape)
    cells = {
        # Sorted by name, the layers are in the order of the network.
        "layer": Cell(row.layer, index),
        "shape": Cell(_product(row.shape), size),
        **{field: _number(row, field) for field in _UNKNOWN},
        "distinct": Cell("–", math.inf, _NOT_CERTIFIED),
        "never": Cell("–", math.inf, _NOT_CERTIFIED),
        "rank": Cell("–", math.inf, _NOT_CERTIFIED),
        "grade": Cell("–", math.inf, _NOT_CERTIFIED),
        "flags": Cell(" ".join(row.flags), -len(row.flags)),
    }
    if row.distinct is not None:
        words = "all" if row.distinct == row.shape else _product(row.distinct)
        cells["distinct"] = Cell(words, math.prod(row.distinct) / size)
    if row.never_moves is not None:
        never = numerals.percent(row.never_moves)
        cells["never"] = Cell(never, row.never_moves)
    if locks:
        least = min(lock["rank_bound"] for lock in locks)
        cells["rank"] = Cell(f"{least}/{full_rank(row.shape)}", least)
        grades = [grade for grade in _GRADES if any(_is(lock, grade) for lock in locks)]
        first = grades[0] if grades else "none"
        cells["grade"] = Cell(first, float(len(_GRADES)))
        if grades:
            cells["grade"] = Cell(first, float(_GRADES.index(first)))
    return cells


def _rows(certificate: dict[str, "Plain"]) -> list[dict[str, Any]]:
    """Return the rows of a certificate that is plain data."""
    rows: Any = certificate["layers"]
    return rows


def _is(lock: dict[str, Any], grade: str) -> bool:
    return lock["grade"] == grade


def _product(sizes: Iterable[int]) -> str:
    return "×".join(map(str, sizes))


def _number(row: "LayerRow", field: str) -> Cell:
    """Return a number as a cell; "–" with the reason where it is not known."""
    log_value = row.log(field)
    if math.isnan(log_value):
        return Cell("–", math.inf, _UNKNOWN[field])
    return Cell(numerals.of_log(log_value), _order(log_value))


def _order(log_value: float) -> float:
    """Return a finite number by which a page sorts as by x, from ln x.

    What is infinite stands behind all others there, whatever the direction.
    """
    return min(max(log_value, -_LARGEST), _LARGEST)


def _certified(certificates: Sequence[dict[str, "Plain"]]) -> tuple[Certified, ...]:
    """Return the certificates of all seeds, those that say the same as one."""
    # A mapping from what is said to the seeds of which it is.
    by_words: dict[str, list[int]] = {}
    for i, certificate in enumerate(certificates):
        by_words.setdefault(repr(certificate), []).append(i)
    records = []
    for seeds in by_words.values():
        certificate = certificates[seeds[0]]
        findings: Any = certificate["findings"]
        harmless = [one for one in findings if one["is_harmless"]]
        found = [one for one in findings if not one["is_harmless"]]
        noun = "seed" if len(seeds) == 1 else "seeds"
        numbers = ", ".join(str(seed + 1) for seed in seeds)
        arithmetic = f"{certificate['mode']}, computed in {certificate['arithmetic']}"
        records.append(
            Certified(
                seeds=f"{noun} {numbers} ({arithmetic})",
                words=_of_certificate(certificate, found),
                found=_alike(found),
                harmless=_alike(harmless),
            )
        )
    return tuple(records)


def _of_certificate(
    certificate: dict[str, "Plain"],
    found: Sequence[dict[str, Any]],
) -> str:
    """Return the verdict of a certificate in words."""
    rows = _rows(certificate)
    bound = [row for row in rows if row["grade"] or row["equal_to"]]
    of_all = f"{len(bound)} of {len(rows)} weights"
    is_evidence = all(one["grade"] == EVIDENCE for one in found)
    if not found:
        return f"clear: nothing locks any of {len(rows)} weights"
    if certificate["clear"]:
        return f"clear, with findings for {of_all} that do not count"
    return f"evidence for {of_all}" if is_evidence else f"{of_all} are locked"


def _alike(findings: Sequence[dict[str, Any]]) -> tuple[Locked, ...]:
    """Return findings in their order; those that differ in the layer alone as one."""
    layers: dict[str, list[str]] = collections.defaultdict(list)
    first: dict[str, dict[str, Any]] = {}
    for finding in findings:
        words = repr({**finding, "layer": ""})
        layers[words].append(finding["layer"])
        first.setdefault(words, finding)
    return tuple(Locked(tuple(names), first[words]) for words, names in layers.items())


def _why_no_probe(report: "Report") -> str:
    """Return why a report has no training probe."""
    if report.setting.get("train_steps") == 0:
        return "training was switched off"
    if not report.spectra:
        return "parameters or signals are not finite"
    return "none was run"


def _probe(report: "Report") -> dict[str, Cell] | None:
    """Return the row of a network in the table of the training probe."""
    probe = report.probe
    if probe is None:
        return None
    first, last = (float(np.median(probe.loss[:, i])) for i in (0, -1))
    rate = Cell("the optimizer's own", math.inf)
    if probe.learning_rate is not None:
        rate = Cell(f"{probe.learning_rate:g}", probe.learning_rate)
    why = "No weight lies between the first layer and the last."
    rank = Cell("–", math.inf, why)
    if probe.layers:
        index = len(probe.layers) // 2
        value = float(np.median(probe.gradient_rank[:, -1, index]))
        words = f"{value:g} of {min(probe.shapes[index])} ({probe.layers[index]})"
        rank = Cell(words, value)
    num_weights = len(probe.weights)
    late = int((probe.first_signal < 0).any(axis=0).sum())
    without = f"{late} of {num_weights} weights"
    return {
        "learning_rate": rate,
        "first": _loss(first),
        "last": _loss(last),
        "gradient_rank": rank,
        "without": Cell(without if late else "none", late),
        "trouble": Cell(probe.trouble or "none", probe.trouble),
    }


def _loss(value: float) -> Cell:
    if math.isnan(value):
        return Cell("not finite", math.inf)
    return Cell(f"{value:.4g}", value)


_SECONDS = "seconds"


def provenance(reports: Iterable["Report"]) -> dict[str, str]:
    """Return where the numbers came from, by what it is; each text once."""
    entries: dict[str, list[str]] = {}
    for report in reports:
        found = {**_settings(report.setting), **_origin(report.provenance)}
        seconds = sum(report.timings.values())
        for name, text in found.items():
            texts = entries.setdefault(name, [])
            if text not in texts:
                texts.append(text)
        if seconds:
            entries.setdefault(_SECONDS, []).append(f"{seconds:.1f}")
    # One time after another says nothing that the first and the last do not.
    times = sorted(entries.get("time", []))
    if len(times) > 2:
        entries["time"] = [f"{times[0]} to {times[-1]}"]
    if len(entries.get(_SECONDS, ())) > 1:
        entries[f"{_SECONDS}, in the order of the table"] = entries.pop(_SECONDS)
    return {name: ", ".join(texts) for name, texts in entries.items()}


def _settings(setting: dict[str, Any]) -> dict[str, str]:
    """Return the settings of the measurement as texts; thresholds one by one."""
    texts = {}
    for name, value in setting.items():
        if name == "thresholds":
            lines = [f"{line} {number:g}" for line, number in value.items()]
            texts["thresholds"] = ", ".join(lines)
        elif value not in ("", None):
            texts[name.replace("_", " ")] = _text(value)
    return texts


def _origin(record: dict[str, Any]) -> dict[str, str]:
    """Return versions, device, command, commit and time as texts."""
    return {
        name.replace("_", " "): _text(value)
        for name, value in record.items()
        if value is not None
    }


def _text(value: object) -> str:
    """Return plain data as a text: lists by spaces, mappings by commas."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return str(value)


@dataclass(frozen=True)
class Definition:
    """What a number or a word means.

    Attributes:
        key: By what the template asks for it: of the flag vanishing "flag vanishing".
        label: How it is written.
        words: The meaning.
    """

    key: str
    label: str
    words: str


def definitions() -> dict[str, list[Definition]]:
    """Return every definition, by the heading under which it stands."""
    groups = {
        "Singular values": (_definitions.STATISTICS, STATISTICS, ""),
        "Layers": (_definitions.LAYERS, LAYERS, ""),
        "Pictures and training": (_definitions.OTHERS, {}, ""),
        "Flags": (_definitions.of_flags(), {}, "flag "),
        "Thresholds": (_definitions.of_thresholds(), {}, "threshold "),
    }
    records = {}
    for title, (meanings, labels, prefix) in groups.items():
        records[title] = [
            Definition(prefix + name, labels.get(name, name), words)
            for name, words in meanings.items()
        ]
    return records
