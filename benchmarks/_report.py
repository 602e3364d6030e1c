"""A record as a table: on the terminal by rich, in README.md by Markdown, and against an older record."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

COLUMNS = ("task", "method", "median", "quartiles", "first call", "error / tolerance", "of ceiling", "peak memory")
README = pathlib.Path(__file__).with_name("README.md")
RESULTS = pathlib.Path(__file__).with_name("results")
BEGIN, END = "<!-- results: python -m benchmarks --readme -->", "<!-- /results -->"


def committed() -> list[dict[str, Any]]:
    """The records in results/, but those of device.py, which have a form of their own."""
    paths = sorted(RESULTS.glob("*.json"))
    return [json.loads(path.read_text()) for path in paths if not path.name.startswith("device-")]


def seconds(value: float) -> str:
    """Three digits, in s, ms or µs."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def rows(record: dict[str, Any], old: dict[str, Any] | None = None) -> Iterator[list[str]]:
    """A row for each method of each task; with an older record its median and the change."""
    before = {(t["name"], m["name"]): m.get("median") for t in (old or {"tasks": []})["tasks"] for m in t["methods"]}
    for task in record["tasks"]:
        for method in task["methods"]:
            row = [task["name"], method["name"]]
            if "absent" in method:
                row += [f"absent: {method['absent']} is not installed", "", "", "", "", ""]
            else:
                row += _measured(method)
            if old is not None:
                row += _change(before.get((task["name"], method["name"])), method.get("median"))
            yield row


def _measured(method: dict[str, Any]) -> list[str]:
    low, high = method["quartiles"]
    percent = method.get("percent_of_ceiling")
    return [
        seconds(method["median"]) + ("*" if method["disturbed"] else ""),
        f"{seconds(low)} to {seconds(high)}",
        seconds(method["first_call"]),
        f"{method['error']:.1e} / {method['tolerance']:.1e}",
        "" if percent is None else f"{percent:.0f} %",
        f"{method['peak_memory'] / 2**20:.0f} MiB",
    ]


def _change(before: float | None, now: float | None) -> list[str]:
    if before is None or now is None:
        return ["", "new" if before is None and now is not None else ""]
    return [seconds(before), f"{100 * (now / before - 1):+.0f} %"]


def sentences(record: dict[str, Any], old: dict[str, Any] | None = None) -> Iterator[str]:
    """A line for each comparison with a peer, each ceiling, and the state of the machine."""
    before = {
        (t["name"], r["ours"], r["peer"]): r for t in (old or {"tasks": []})["tasks"] for r in t["ratios"]
    }
    for task in record["tasks"]:
        for found in task["ratios"]:
            low, high = found["quartiles"]
            star = "*" if found["disturbed"] else ""
            text = f"{task['name']}: {found['ours']} is {found['median']:.3g}{star} times as fast as {found['peer']}"
            text += f" (quartiles of the rounds {low:.3g} to {high:.3g})"
            if found["goal"] is not None:
                verdict = "met" if found["goal_met"] else "missed"
                text += f"; goal {found['goal']:g}: " + ("undecided, disturbed" if found["disturbed"] else verdict)
            past = before.get((task["name"], found["ours"], found["peer"]))
            yield text + (f"; before {past['median']:.3g} times {past['peer']}" if past else "")
        if task["ceiling"]:
            order, dtype = task["ceiling"]["gemm"]
            rate, by = task["ceiling"]["gflops"], task["ceiling"]["by"]
            yield f"{task['name']}: ceiling {rate:.0f} GFLOP/s, the best product of {order}x{order} {dtype} ({by})"
    samples, origin = record["samples"], record["provenance"]
    device = f"{origin['device']['count']} {origin['device']['kind']} device, {record['cores']} cores"
    known = "foreign load unknown" if samples["unknown"] else f"{samples['clean']} of {samples['total']} samples clean"
    yield f"{known}; {record['rounds']} rounds; {device}; {origin['time']}; commit {origin['git_commit']}"


def show(record: dict[str, Any], old: dict[str, Any] | None = None) -> None:
    """The table and the lines, on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=record["question"])
    for column in (*COLUMNS, *(("before", "change") if old else ())):
        table.add_column(column, justify="left" if column in COLUMNS[:2] else "right")
    for row in rows(record, old):
        table.add_row(*row)
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    console.print(table)
    for line in sentences(record, old):
        console.print(line, highlight=False)


def markdown(record: dict[str, Any]) -> str:
    """The same for README.md."""
    device = record["provenance"]["device"]
    where = "" if device["platform"] == "cpu" else f" on {device['kind']}"
    if "--task" in record["provenance"]["command"]:
        where += ", some tasks"
    lines = [
        f"### {record['benchmark']}{where}",
        "",
        record["question"],
        "",
        _row(COLUMNS),
        _row(["---"] * len(COLUMNS)),
    ]
    lines += [_row(row) for row in rows(record)]
    lines += ["", *(f"- {line}" for line in sentences(record))]
    return "\n".join(lines)


def _row(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def readme(text: str, records: list[dict[str, Any]]) -> str:
    """`text` with what lies between the markers made anew."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n" + "\n\n".join(markdown(record) for record in records) + f"\n{END}{tail}"
