"""What a notebook shows of reports: the verdict, and a table."""

from typing import TYPE_CHECKING

from isometry._internal.html import element, joined, note, notebook, table
from isometry.verdicts import _table
from isometry.verdicts._flag import CLEAR, NOT_RUN, RAISED, UNDECIDED

if TYPE_CHECKING:
    from isometry.verdicts._report import Report
    from isometry.verdicts._reports import Reports

# Colours that are legible on white and on black.
_COLOURS = {RAISED: "#d9534f", UNDECIDED: "#b8860b", CLEAR: "#3c9a5f"}

_HEADINGS = ("network", "verdict", *_table.HEADINGS[1:-1])


def of_report(report: "Report") -> str:
    """Return the verdict, and the flags that are raised or undecided."""
    rows = []
    for state in (RAISED, UNDECIDED):
        for flag in report.flags.values():
            if flag.state == state:
                where = _table.names_of_layers(flag.where)
                rows.append([_coloured(state), flag.name, flag.reason, where])
                # Advice is for what is wrong.
                rows[-1].append(flag.remedy if flag.raised else "")
    parts = [note(line) for line in _table.scope(report).splitlines()]
    if rows:
        headings = ("state", "flag", "reason", "where", "what to do")
        parts.append(table(headings, rows))
    for state, label in ((CLEAR, "clear"), (NOT_RUN, "not run")):
        names = [flag.name for flag in report.flags.values() if flag.state == state]
        if names:
            parts.append(note(f"{label}: {', '.join(names)}"))
    title = joined([_coloured(report.verdict), f": {report.network}"])
    return notebook(title, *parts)


def of_reports(reports: "Reports") -> str:
    """Return the networks side by side, the best first."""
    rows = []
    for name in reports.ranking():
        report = reports[name]
        numbers = _table.numbers_of(report)
        raised = [flag.name for flag in report.flags.values() if flag.raised]
        verdict = joined([_coloured(report.verdict), " ", ", ".join(raised)])
        rows.append([name, verdict, *numbers])
    for name, why in reports.undefined.items():
        rows.append([name, f"not defined: {why}", *["–"] * len(_table.COLUMNS)])
    title = f"{len(rows)} networks, the best first"
    if len(rows) == 1:
        title = "1 network"
    notes = [note(line) for line in _table.unknown_in_words(reports)]
    return notebook(title, table(_HEADINGS, rows), note(_table.LEGEND), *notes)


def _coloured(state: str) -> str:
    """Return a state in its colour."""
    return element("span", state, style=f"color:{_COLOURS[state]};font-weight:600;")
