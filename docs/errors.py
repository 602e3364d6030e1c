"""Writes into docs/flags/*.md how often each flag errs: `python -m docs.errors`. A test holds the pages to it."""

import json
import pathlib
import re
import textwrap

from isometry.verdicts import flag_names

HERE = pathlib.Path(__file__).parent / "flags"
RESULTS = HERE.parents[1] / "benchmarks" / "results" / "zoo"
RECORDS = {"calibrate": "perceptrons", "architectures": "other networks"}
BEGIN, END = "<!-- from the records: python -m docs.errors -->", "<!-- end -->"
SHOWN = 5  # networks that are named
WIDTH = 120
HALF = "quoted"  # the half of the zoo whose figures are quoted


def errors(flag: str) -> str:
    """What the zoo found of a flag, in words: of perceptrons, and of other networks."""
    zoo = "[zoo](../../benchmarks/zoo/README.md)"
    return "\n\n".join(
        [f"In the {zoo}, networks whose truth is known:", *(_of_record(flag, *record) for record in RECORDS.items())]
    )


def _broken(flag: str, record: dict) -> str:
    """The networks of both halves that are broken on purpose so as to raise a flag."""
    names = [name for name, config in record["configurations"].items() if config["flags"][flag]["truth"]]
    if not names:
        return "  none"
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
    more = len(names) - SHOWN
    if more > 0:
        shown += f" and {more} more"
    return textwrap.fill(shown, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _of_record(flag: str, name: str, networks: str) -> str:
    """What one record found of a flag."""
    record = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    if flag not in record["flags"]:
        return f"{networks.capitalize()} have not been asked yet."
    found, seeds = record["flags"][flag][HALF], record["preset"]["seeds"]
    lines = [
        f"{networks.capitalize()}, each draw an audit of {seeds} seeds:",
        "",
        f"- healthy, and raised: {_share(found['false_alarms'])}",
        f"- healthy, and undecided: {_share(found['undecided'])}",
        f"- broken, and not raised: {_share(found['misses'])}",
        "- broken on purpose, in both halves:",
        _broken(flag, record),
    ]
    return "\n".join(lines)


def _share(found: dict | None) -> str:
    """Errors of draws with the 95 % interval of Clopper and Pearson."""
    if found is None:
        return "no such network in this half"
    low, high = found["clopper_pearson"]
    return (
        f"{found['errors']} of {found['draws']} draws of {found['configurations']} networks "
        f"(95 % interval {100 * low:.2g} % to {100 * high:.2g} %)"
    )


def page(flag: str) -> str:
    """The page with its figures as the records have them."""
    text = (HERE / f"{flag}.md").read_text(encoding="utf-8")
    made = f"{BEGIN}\n{errors(flag)}\n{END}"
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: made, text, flags=re.DOTALL)


if __name__ == "__main__":
    for name in flag_names():
        (HERE / f"{name}.md").write_text(page(name), encoding="utf-8")
