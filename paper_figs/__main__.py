"""`python -m paper_figs`: list the figures, or make them."""

import argparse
import sys
from collections.abc import Mapping, Sequence

from isometry import InputError, MissingExtra, data, store
from isometry._internal import interrupts
from paper_figs import _data, _gallery, _run

# Characters a line where the output is no terminal: the longest claims in one line.
_WIDTH = 150

_VERDICT = {True: "holds", False: "FAILS"}


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the arguments of the command, or exit with what is wrong with them."""
    parser = argparse.ArgumentParser(
        prog="python -m paper_figs", description="The papers' figures, made again."
    )
    parser.add_argument(
        "name", nargs="*", metavar="NAME", help="figures to make; none lists them"
    )
    parser.add_argument("--all", action="store_true", help="make every figure")
    parser.add_argument(
        "--preset", choices=_run.PRESETS, default="full", help="how large (%(default)s)"
    )
    parser.add_argument(
        "--from-cache", action="store_true", help="check and draw what --out holds"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="paper-figures",
        help="where everything goes (%(default)s)",
    )
    parser.add_argument(
        "--data", metavar="PATH", help="a data set, as `isometry audit --data` takes"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes for several figures; one for each core, as memory allows",
    )
    parser.add_argument(
        "--gallery",
        action="store_true",
        help="make paper_figs/README.md of what --out holds",
    )
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.name) - set(_run.names()))
    if unknown:
        have = ", ".join(_run.names())
        parser.error(f"no figure {', '.join(unknown)}; there are: {have}")
    return chosen


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    import rich.console
    import rich.table

    table = rich.table.Table(*columns)
    for row in rows:
        table.add_row(*row)
    is_terminal = rich.console.Console().is_terminal
    width = None if is_terminal else _WIDTH
    rich.console.Console(width=width, markup=False).print(table)


def _list() -> None:
    """Print the names and claims of all figures."""
    rows = [(name, _run.claim(_run.figure(name))) for name in _run.names()]
    _print_table(("figure", "claim"), rows)


def _show(records: Sequence[_run.Record], reasons: Mapping[str, str]) -> None:
    """Print the numbers of each figure, and why some were not made."""
    columns = ("figure", "claim, and its numbers", "measured", "expected", "verdict")
    rows = []
    for record in records:
        verdict = _VERDICT[record["holds"]]
        rows.append((record["figure"], record["claim"], "", "", verdict))
        for compared in record["compared"]:
            words = (compared[key] for key in ("what", "measured", "expected"))
            rows.append(("", *words, compared["verdict"]))
    for name, reason in reasons.items():
        rows.append((name, reason, "", "", "NOT MADE"))
    _print_table(columns, rows)


def _make(chosen: argparse.Namespace) -> int:
    """Make what was asked for, and return the exit code."""
    out = store.prepare(chosen.out)
    data_set = None if chosen.data is None else data.load(chosen.data)
    wanted = _run.names() if chosen.all else chosen.name
    how = {"from_cache": chosen.from_cache, "data": data_set}
    records: list[_run.Record] = []
    reasons: dict[str, str] = {}
    if data_set is not None and not chosen.all:
        for name in wanted:
            _data.require_takes_data(_run.figure(name))
    if len(wanted) == 1:
        # Here, so that no worker has to start and what goes wrong has its traceback.
        records = [_run.run(wanted[0], chosen.preset, out, **how)]
    elif wanted:
        records, reasons = _run.run_many(
            wanted, chosen.preset, out, executor=chosen.workers, **how
        )
    if wanted:
        _show(records, reasons)
        print(f"wrote {len(records)} figures into {out}")
    if chosen.gallery:
        print(f"wrote {_gallery.write(out)}")
    all_hold = all(record["holds"] for record in records)
    return 0 if all_hold and not reasons else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What is written behind `python -m paper_figs`; None reads it from the
            command line.

    Returns:
        The exit code: 0; 1 if a claim failed or a figure was not made; 2 for bad usage;
        130 after Ctrl-C.
    """
    chosen = _parsed(arguments)
    if not (chosen.all or chosen.name or chosen.gallery):
        _list()
        return 0
    try:
        with interrupts.insistent():
            return _make(chosen)
    except (InputError, MissingExtra) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; what was finished stays, run the same command to go on",
            file=sys.stderr,
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
