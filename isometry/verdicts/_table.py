"""Reports as text: a verdict in words, and a table of many networks."""

import io
import math
import textwrap
from typing import TYPE_CHECKING

import numpy as np

from isometry._internal import checks
from isometry.measure._known import Known, known, log_mean, log_median
from isometry.verdicts._flag import CLEAR, NOT_RUN, RAISED, UNDECIDED, Flag
from isometry.verdicts._registry import flag_names, registered

if TYPE_CHECKING:
    from rich.table import Table

    from isometry.verdicts._report import Report
    from isometry.verdicts._reports import Reports

# The width of a verdict in words, which fits any terminal.
_COLUMNS = 80

# Flags of a lower rank tell of what hardly any training can repair; the others of what
# makes training slow.
SLOW = 60

# Flags from this rank on tell the shape of a spectrum: training is slower, and works.
_MILD = 110

# The most names of layers that a verdict lists; `Flag.where` has all.
_MOST_NAMES = 6

LEGEND = (
    "Singular values s end to end, medians over seeds and inputs; <: below the floor "
    "of the method; deviation: √E(s − 1)²; eff. rank: exp of the entropy of s/Σs; "
    "zeros: share, on the mean, that is zero or below the floor."
)
_RANKED = (
    "Best first: by the number of raised flags that no training repairs, of other "
    "raised ones, of undecided ones, then by the deviation."
)

# Columns of a terminal from which on the verdict fits beside the numbers.
_FULL_WIDTH = 120

HEADINGS = (
    "scheme",
    "σ_min",
    "median",
    "σ_max",
    "mean s²",
    "deviation",
    "eff. rank",
    "zeros",
    "verdict",
)

# The statistics of the columns of numbers, by their names in `Report.statistics`.
COLUMNS = (
    "s_min",
    "s_median",
    "s_max",
    "mean_s2",
    "isometry_deviation",
    "effective_rank",
    "zero_fraction",
)


def in_words(report: "Report") -> str:
    """Return a verdict that a user acts on, in lines of 80 columns.

    For every raised flag it says what is wrong, where, how sure that is, and what to
    do. Undecided flags follow, each with its reason, then the names of the others.
    """
    flags = list(report.flags.values())
    raised = [flag for flag in flags if flag.raised]
    # The verdict stands first: a log may be cut behind its first line.
    heading = f"{_verdict(report)}: {report.network}"
    lines = textwrap.wrap(heading, _COLUMNS, subsequent_indent="  ")
    for line in scope(report).splitlines():
        lines += _wrapped(line, indent="  ")
    for flag in raised:
        lines += ["", *_of_flag(flag)]
    # The reason of an undecided flag says what is missing, such as more seeds.
    undecided = [flag for flag in flags if flag.state == UNDECIDED]
    if undecided:
        lines.append("")
    for flag in undecided:
        lines += _wrapped(f"undecided: {flag.name}: {flag.reason}", indent="  ")
    for state, label in ((CLEAR, "clear"), (NOT_RUN, "not run")):
        names = [flag.name for flag in flags if flag.state == state]
        if names:
            lines += _wrapped(f"{label}: {', '.join(names)}", indent="  ")
    return "\n".join(lines)


def _verdict(report: "Report") -> str:
    """Return the verdict as the first word of a report.

    A healthy network of a few layers, drawn as its library does, is not isometric. It
    trains, and its report does not begin with an alarm.
    """
    return "NOTHING GRAVE" if kind(report) == "mild" else report.verdict.upper()


def kind(report: "Report") -> str:
    """Return the kind of a verdict by the gravest flags.

    Returns:
        "grave" if a flag is raised that tells of what training hardly repairs; "slow"
        if one is that tells of what makes training slow; else of what healthy networks
        raise too, "doubtful" if a graver flag is undecided or was not run and "mild"
        if none is; "undecided"; "clear".
    """
    # The rank of a flag that is not registered any more is not known.
    rank = {one.name: one.rank for one in registered()}
    if report.verdict != RAISED:
        return report.verdict
    raised = []
    for flag in report.flags.values():
        if flag.recovering:
            raised.append(_MILD)
        elif flag.raised:
            raised.append(rank.get(flag.name, SLOW))
    if min(raised) < _MILD:
        return "grave" if min(raised) < SLOW else "slow"
    # A flag that was not run says as little as one that is undecided.
    unknown = [
        rank.get(flag.name, 0)
        for flag in report.flags.values()
        if flag.state in (UNDECIDED, NOT_RUN)
    ]
    return "doubtful" if min(unknown, default=_MILD) < _MILD else "mild"


def scope(report: "Report") -> str:
    """Return how many seeds and inputs were measured, and what is special, in words."""
    # Reports may be made by hand, without a setting.
    setting = report.setting
    if "seeds" not in setting:
        return ""
    words = f"{setting['seeds']} seeds × {setting['inputs']} inputs"
    if setting["seeds"] == 1:
        words = f"1 seed × {setting['inputs']} inputs: facts of this draw alone"
    if isinstance(setting.get("span"), tuple):
        words += f"; the Jacobian begins at {setting['span'][0]!r}"
    # The name of an adapted network says in which mode it is given, and measured.
    if setting.get("mode_of_training") == "training":
        words += (
            "\nJacobians and signals: inference mode; gradients, units and "
            "certificates: training mode"
        )
    if setting.get("no_certificate"):
        words += f"\nnot certified: {setting['no_certificate']}"
    return words


def _of_flag(flag: Flag) -> list[str]:
    """Return the lines of a raised flag: what, where, how sure, what to do."""
    lines = _wrapped(f"{flag.name}: {flag.reason}", indent="  ")
    if flag.where:
        lines += _item("where", names_of_layers(flag.where))
    lines += _item("sure", certainty(flag))
    lines += _item("do", flag.remedy)
    return lines


def certainty(flag: Flag) -> str:
    """Return interval and threshold of a flag, and the source of the threshold."""
    # A flag that states a fact of the weights has no interval.
    parts = []
    if flag.interval is not None:
        low, high = flag.interval
        parts.append(f"{low:.3g} to {high:.3g} over seeds")
    if flag.threshold is not None:
        parts.append(f"the threshold is {flag.threshold:.4g}")
    parts.append(flag.source)
    return "; ".join(parts)


def names_of_layers(where: tuple[str, ...]) -> str:
    """Return names of layers in words; of many only the first ones."""
    if len(where) <= _MOST_NAMES:
        return ", ".join(where)
    shown = ", ".join(where[:_MOST_NAMES])
    return f"{shown} and {len(where) - _MOST_NAMES} more"


def _item(
    label: str,
    text: str,
) -> list[str]:
    """Return a text in lines that are indented behind a label."""
    return textwrap.wrap(
        text,
        _COLUMNS,
        initial_indent=f"  {label:<6} ",
        subsequent_indent=" " * 9,
        break_on_hyphens=False,
    )


def _wrapped(
    text: str,
    indent: str,
) -> list[str]:
    return textwrap.wrap(
        text, _COLUMNS, subsequent_indent=indent, break_on_hyphens=False
    )


def rich_table(
    reports: "Reports",
    width: int,
) -> "Table":
    """Return a rich table with a row for each report, the best first.

    The caption below it explains the numbers; for every raised flag it says what to do
    and where the threshold comes from. In a terminal of fewer than 120 columns the
    numbers are in one cell with the verdict, each behind its name.

    Args:
        reports: Reports by name.
        width: The number of columns of the terminal.

    Returns:
        The table.

    Raises:
        MissingExtra: rich is not installed.
    """
    table_class = checks.extra("rich.table", "cli").Table
    # Names are wrapped in Text, because rich takes brackets in a string for markup.
    text = checks.extra("rich.text", "cli").Text
    is_full = width >= _FULL_WIDTH
    advice = text("\n".join(_advice(reports)), style="default")
    table = table_class(
        pad_edge=False,
        caption=advice or None,
        caption_justify="left",
        show_lines=not is_full,
    )
    _add_columns(table, is_full=is_full)
    for name in reports.ranking():
        report = reports[name]
        numbers = numbers_of(report)
        # The colour is that of a traffic light, on terminals that have any.
        colour = {RAISED: "red", UNDECIDED: "yellow", CLEAR: "green"}[report.verdict]
        verdict = text.assemble((report.verdict, colour), f": {report.reason}")
        if is_full:
            table.add_row(text(name), *numbers, verdict)
            continue
        pairs = zip(HEADINGS[1:-1], numbers, strict=True)
        named = ", ".join(f"{heading} {number}" for heading, number in pairs)
        table.add_row(text(name), text.assemble(named, "\n", verdict))
    for name, why in reports.undefined.items():
        numbers = ["–"] * len(COLUMNS) if is_full else []
        table.add_row(text(name), *numbers, text(f"not defined: {why}"))
    return table


def _add_columns(
    table: "Table",
    *,
    is_full: bool,
) -> None:
    """Add all columns; or, if the table is not full, the first and the last."""
    first, *numbers, last = HEADINGS
    table.add_column(first, overflow="fold", no_wrap=is_full, ratio=0)
    if is_full:
        for heading in numbers:
            table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(last, overflow="fold", ratio=1)


def _advice(reports: "Reports") -> list[str]:
    """Return a legend of the numbers, then a sentence for every raised flag."""
    # The same advice for several networks is given once, and the gravest flag is first.
    names = flag_names()
    lines: dict[tuple[int, str, str], str] = {}
    for report in reports.values():
        for flag in report.flags.values():
            if flag.raised:
                place = names.index(flag.name) if flag.name in names else len(names)
                words = f"{flag.name}: {flag.remedy}. Judged by: {flag.source}."
                lines[place, flag.name, flag.remedy] = words
    legend = []
    if any(report.spectra for report in reports.values()):
        legend.append(LEGEND)
    if len(reports) > 1:
        legend.append(_RANKED)
    legend += unknown_in_words(reports)
    return legend + [lines[place] for place in sorted(lines)]


def statistics_of(report: "Report") -> dict[str, Known]:
    """Return what is known of the columns of numbers, by the names of `COLUMNS`.

    They are medians over seeds and inputs of the Jacobians end to end, the share of
    zeros their mean; all are NaN, with the reason, if there are none.
    """
    if "end_to_end" not in report.spectra:
        nothing = np.array(np.nan)
        why = report.no_law or "no Jacobian was measured"
        return dict.fromkeys(COLUMNS, Known(nothing, nothing, why))
    records = known(report.spectra["end_to_end"])
    medians = {name: records[name].over_matrices(log_median) for name in COLUMNS}
    mean = records["zero_fraction"].over_matrices(log_mean)
    return medians | {"zero_fraction": mean}


def numbers_of(report: "Report") -> list[str]:
    """Return the numbers of a row as text, one for each column of numbers."""
    if "end_to_end" not in report.spectra:
        return ["–"] * len(COLUMNS)
    records = statistics_of(report)
    rank = records["effective_rank"]
    texts = {name: record.text() for name, record in records.items()}
    if rank.is_value:
        size = report.spectra["end_to_end"].size
        texts["effective_rank"] = f"{math.exp(rank.log_low):.2f}/{size}"
    texts["zero_fraction"] = records["zero_fraction"].percent()
    return [texts[name] for name in COLUMNS]


def unknown_in_words(reports: "Reports") -> list[str]:
    """Return, of each network without some number, the reason."""
    lines = []
    for name, report in reports.items():
        whys = [
            record.why
            for record in statistics_of(report).values()
            if np.isnan(record.log_low)
        ]
        # Several numbers are unknown for one reason.
        lines += [f"{name}: unknown: {why}" for why in dict.fromkeys(whys)]
    return lines


def as_text(
    reports: "Reports",
    width: int,
) -> str:
    """Return the table as plain text of `width` columns."""
    console = checks.extra("rich.console", "cli").Console
    buffer = io.StringIO()
    console(file=buffer, width=width, no_color=True).print(rich_table(reports, width))
    return buffer.getvalue()
