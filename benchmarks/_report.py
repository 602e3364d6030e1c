"""A record as a table: on the terminal, in README.md, and against an older record."""

import json
import pathlib
from collections.abc import Iterable, Iterator

from benchmarks import _compare
from benchmarks._declare import Record

COLUMNS = (
    "task",
    "method",
    "median",
    "quartiles",
    "first call",
    "error / tolerance",
    "of ceiling",
    "peak memory",
)
README = pathlib.Path(__file__).with_name("README.md")
RESULTS = pathlib.Path(__file__).with_name("results")
BEGIN = "<!-- results: python -m benchmarks --readme -->"
END = "<!-- /results -->"

# The processor of a record that was written before records named theirs.
UNNAMED = "cpu"


def committed() -> list[Record]:
    """Read the records in results/, but those of device.py, which have another form."""
    return [
        json.loads(path.read_text())
        for path in sorted(RESULTS.glob("*.json"))
        if not path.name.startswith("device-")
    ]


def machine(record: Record) -> str:
    """Return the kind of GPU that a record is of, or else its kind of processor."""
    device = record["provenance"]["device"]
    if device["platform"] != "cpu":
        return device["kind"]
    return record.get("processor", UNNAMED)


def seconds(value: float) -> str:
    """Show a time by three digits, in s, ms or µs."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def rows(record: Record, old: Record | None = None) -> Iterator[list[str]]:
    """Make a row for each method of each task.

    Args:
        record: The record.
        old: An older one. With it a row also has the median before, and the change.

    Yields:
        The cells of a row.
    """
    before = {}
    if old is not None:
        before = {
            (task["name"], method["name"]): method.get("median")
            for task in old["tasks"]
            for method in task["methods"]
        }
    for task in record["tasks"]:
        for method in task["methods"]:
            row = [task["name"], method["name"], *_measured(method)]
            if old is not None:
                past = before.get((task["name"], method["name"]))
                row += _change(past, method.get("median"))
            yield row


def _measured(method: Record) -> list[str]:
    """Make the cells of a method, from its median on."""
    if "absent" in method:
        empty = [""] * (len(COLUMNS) - 3)
        return [f"absent: {method['absent']} is not installed", *empty]
    low, high = method["quartiles"]
    of_ceiling = ""
    if method.get("percent_of_ceiling") is not None:
        of_ceiling = f"{method['percent_of_ceiling']:.0f} %"
    return [
        seconds(method["median"]) + _star(method),
        f"{seconds(low)} to {seconds(high)}",
        seconds(method["first_call"]),
        f"{method['error']:.1e} / {method['tolerance']:.1e}",
        of_ceiling,
        f"{method['peak_memory'] / 2**20:.0f} MiB",
    ]


def _star(statistics: Record) -> str:
    """Mark a figure whose samples were disturbed."""
    if statistics["disturbed"]:
        return "*"
    return ""


def _change(before: float | None, now: float | None) -> list[str]:
    """Make the cells of the median before and the change since."""
    if now is None:
        return ["", ""]
    if before is None:
        return ["", "new"]
    return [seconds(before), f"{100 * (now / before - 1):+.0f} %"]


def sentences(record: Record, old: Record | None = None) -> Iterator[str]:
    """Describe what the table does not show.

    Args:
        record: The record.
        old: An older one. With it a comparison also has the quotient before.

    Yields:
        A line for each goal in seconds, for each limit of memory, for each comparison
        with a peer, for each ceiling, and for the state of the machine.
    """
    before = {}
    if old is not None:
        before = {
            (task["name"], ratio["ours"], ratio["peer"]): ratio
            for task in old["tasks"]
            for ratio in task["ratios"]
        }
    for task in record["tasks"]:
        name = task["name"]
        for method in task["methods"]:
            # Records from before there were such goals have none.
            if method.get("seconds_goal") is not None:
                yield f"{name}: {_wait(method)}"
            is_held = method["ours"] and "absent" not in method
            if task.get("memory") is not None and is_held:
                yield f"{name}: {_held(task, method)}"
        for ratio in task["ratios"]:
            line = f"{name}: {_comparison(ratio)}"
            past = before.get((name, ratio["ours"], ratio["peer"]))
            if past is not None:
                line += f"; before {past['median']:.3g} times {past['peer']}"
            yield line
        if task["ceiling"]:
            yield f"{name}: {_ceiling(task['ceiling'])}"
    yield "; ".join(_state(record))


def _comparison(ratio: Record) -> str:
    """Describe a comparison with a peer, and whether its goal is met."""
    low, high = ratio["quartiles"]
    text = (
        f"{ratio['ours']} is {ratio['median']:.3g}{_star(ratio)} times as fast as "
        f"{ratio['peer']} (quartiles of the rounds {low:.3g} to {high:.3g})"
    )
    if ratio["goal"] is None:
        return text
    verdict = _verdict(ratio, is_met=ratio["goal_met"])
    return f"{text}; goal {ratio['goal']:g}: {verdict}"


def _wait(method: Record) -> str:
    """Describe how long a method takes, and whether its goal in seconds is met."""
    goal = method["seconds_goal"]
    verdict = _verdict(method, is_met=method["median"] <= goal)
    return (
        f"{method['name']} takes {seconds(method['median'])}{_star(method)}; "
        f"goal at most {seconds(goal)}: {verdict}"
    )


def _held(task: Record, method: Record) -> str:
    """Describe how much memory a method held, and whether that is allowed."""
    verdict = "exceeded" if _compare.exceeds(task, method) else "kept"
    held, most = method["peak_memory"] / 1e9, task["memory"] / 1e9
    return f"{method['name']} held {held:.3g} GB; at most {most:.3g} GB: {verdict}"


def _verdict(statistics: Record, *, is_met: bool) -> str:
    """Say whether a goal is met, where the samples can decide it."""
    if statistics["disturbed"]:
        return "undecided, disturbed"
    return "met" if is_met else "missed"


def _ceiling(ceiling: Record) -> str:
    """Describe the rate of the matrix product, in each layout if a record has them."""
    order, dtype = ceiling["gemm"]
    text = (
        f"ceiling {ceiling['gflops']:.0f} GFLOP/s, the best product of "
        f"{order}x{order} {dtype} ({ceiling['by']})"
    )
    # Records from before layouts were measured have none.
    layouts = ceiling.get("layouts", {})
    if not layouts:
        return text
    rates = ", ".join(f"{layout} {rate:.0f}" for layout, rate in layouts.items())
    return f"{text}; by layout of the operands: {rates}"


def _state(record: Record) -> Iterator[str]:
    """Describe how disturbed the run was, where it ran, and of which commit."""
    samples = record["samples"]
    if samples["unknown"]:
        yield "foreign load unknown"
    else:
        yield f"{samples['clean']} of {samples['total']} samples clean"
    yield f"{record['rounds']} rounds"
    origin = record["provenance"]
    device = origin["device"]
    where = f"{device['count']} {device['kind']} device, {record['cores']} cores"
    if "processor" in record:
        where += f" of {record['processor']}"
    yield where
    yield origin["time"]
    yield f"commit {origin['git_commit']}"


def show(record: Record, old: Record | None = None) -> None:
    """Print the table and the lines.

    Args:
        record: The record.
        old: An older one, for the change since.
    """
    # Records are read and README.md is made without it.
    from rich.console import Console
    from rich.table import Table

    table = Table(title=record["question"])
    for column in COLUMNS[:2]:
        table.add_column(column, justify="left")
    for column in COLUMNS[2:]:
        table.add_column(column, justify="right")
    if old is not None:
        table.add_column("before", justify="right")
        table.add_column("change", justify="right")
    for row in rows(record, old):
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        # In a file no line is broken: the widest tables have about 150 columns.
        console = Console(width=160)
    console.print(table)
    for line in sentences(record, old):
        console.print(line, highlight=False)


def markdown(record: Record) -> str:
    """Return the table and the lines of a record for README.md."""
    heading = f"### {record['benchmark']}"
    kind = machine(record)
    if kind != UNNAMED:
        heading += f" on {kind}"
    if "--task" in record["provenance"]["command"]:
        heading += ", some tasks"
    lines = [heading, "", record["question"], ""]
    lines += [_row(COLUMNS), _row(["---"] * len(COLUMNS))]
    lines += [_row(row) for row in rows(record)]
    lines.append("")
    lines += [f"- {line}" for line in sentences(record)]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def readme(text: str, records: list[Record]) -> str:
    """Make what lies between the markers of README.md anew.

    Args:
        text: README.md.
        records: Those to show.

    Returns:
        README.md with their tables.
    """
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    tables = "\n\n".join(markdown(record) for record in records)
    return f"{head}{BEGIN}\n{tables}\n{END}{tail}"
