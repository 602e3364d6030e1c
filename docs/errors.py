"""Write into docs/flags/*.md how often each flag errs: `python -m docs.errors`.

The figures are those of the zoo's records. A test holds the pages to them.
"""

import json
import pathlib
import re
import textwrap
from collections.abc import Mapping
from typing import Any, TypeAlias

from isometry.verdicts import flag_names

PAGES = pathlib.Path(__file__).parent / "flags"
RESULTS = PAGES.parents[1] / "benchmarks" / "results" / "zoo"

# A record of the zoo, as JSON.
Record: TypeAlias = Mapping[str, Any]

# What the networks of each record are called.
RECORDS = {"calibrate": "perceptrons", "architectures": "other networks"}

# Of the two halves of the zoo, thresholds were chosen on one; this one is quoted.
HALF = "quoted"

BEGIN = "<!-- from the records: python -m docs.errors -->"
END = "<!-- end -->"

# Networks that are named. With ten times as many the list would be the page.
_MOST_NAMES = 5
_COLUMNS = 120


def page(flag: str) -> str:
    """Return the page of a flag with its figures as the records have them."""
    text = (PAGES / f"{flag}.md").read_text(encoding="utf-8")
    figures = f"{BEGIN}\n{errors(flag)}\n{END}"
    between = f"{re.escape(BEGIN)}.*?{re.escape(END)}"
    # A function, because a backslash in a plain replacement would be an escape.
    return re.sub(between, lambda _: figures, text, flags=re.DOTALL)


def errors(flag: str) -> str:
    """Say what the zoo found of a flag: of perceptrons, and of other networks."""
    zoo = "[zoo](../../benchmarks/zoo/README.md)"
    parts = [f"In the {zoo}, networks whose truth is known:"]
    for name, networks in RECORDS.items():
        record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        parts.append(_of_record(flag, record, networks.capitalize()))
    return "\n\n".join(parts)


def _of_record(flag: str, record: Record, networks: str) -> str:
    """Say what one record found of a flag."""
    if flag not in record["flags"]:
        return f"{networks} have not been asked yet."
    counts = record["flags"][flag][HALF]
    lines = [
        f"{networks}, each draw an audit of {record['preset']['seeds']} seeds:",
        "",
        f"- healthy, and raised: {_share(counts['false_alarms'])}",
        f"- healthy, and undecided: {_share(counts['undecided'])}",
        f"- broken, and not raised: {_share(counts['misses'])}",
        "- broken on purpose, in both halves:",
        _broken(flag, record),
    ]
    return "\n".join(lines)


def _share(counted: Mapping[str, Any] | None) -> str:
    """Say how many draws are wrong, with the interval of Clopper and Pearson."""
    if counted is None:
        return "no such network in this half"
    low, high = counted["clopper_pearson"]
    return (
        f"{counted['errors']} of {counted['draws']} draws of "
        f"{counted['configurations']} networks "
        f"(95 % interval {100 * low:.2g} % to {100 * high:.2g} %)"
    )


def _broken(flag: str, record: Record) -> str:
    """Name the networks that are broken on purpose so as to raise a flag."""
    names = [
        name
        for name, configuration in record["configurations"].items()
        if configuration["flags"][flag]["truth"]
    ]
    if not names:
        return "  none"
    shown = ", ".join(f"`{name}`" for name in names[:_MOST_NAMES])
    num_more = len(names) - _MOST_NAMES
    if num_more > 0:
        shown += f" and {num_more} more"
    return textwrap.fill(
        shown,
        _COLUMNS,
        initial_indent="  ",
        subsequent_indent="  ",
        # A name broken at its hyphen could not be searched for.
        break_on_hyphens=False,
    )


if __name__ == "__main__":
    for name in flag_names():
        (PAGES / f"{name}.md").write_text(page(name), encoding="utf-8")
