"""`python -m paper_figs`: list the figures, or make them."""

import argparse
import sys

from isometry import InputError, MissingExtra, data, store
from isometry._internal import interrupts
from paper_figs import _gallery, _run

_VERDICT = {True: "holds", False: "FAILS"}


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m paper_figs", description="The papers' figures, made again.")
    parser.add_argument("name", nargs="*", metavar="NAME", help="figures to make; none lists them")
    parser.add_argument("--all", action="store_true", help="make every figure")
    parser.add_argument("--preset", choices=_run.PRESETS, default="full", help="how large (%(default)s)")
    parser.add_argument("--from-cache", action="store_true", help="check and draw again what --out holds")
    parser.add_argument("--out", metavar="DIR", default="paper-figures", help="where everything goes (%(default)s)")
    parser.add_argument("--data", metavar="PATH", help="a data set of your own, as `isometry audit --data` takes")
    parser.add_argument("--gallery", action="store_true", help="make paper_figs/README.md of what --out holds")
    chosen = parser.parse_args(argv)
    unknown = sorted(set(chosen.name) - set(_run.names()))
    if unknown:
        parser.error(f"no figure {', '.join(unknown)}; there are: {', '.join(_run.names())}")
    return chosen


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    import rich.console
    import rich.table

    table = rich.table.Table(*columns)
    for row in rows:
        table.add_row(*row)
    terminal = rich.console.Console().is_terminal
    rich.console.Console(width=None if terminal else 150, markup=False).print(table)


def _listed() -> None:
    _table(("figure", "claim"), [(name, _run.claim(_run.figure(name))) for name in _run.names()])


def _show(outcomes: list[_run.Outcome]) -> None:
    rows = []
    for o in outcomes:
        rows.append((o.name, o.claim, "", "", _VERDICT[o.holds]))
        rows += [("", c.what, f"{c.measured:.5g}", c.expected, c.verdict) for c in o.compared]
    _table(("figure", "claim, and its numbers", "measured", "expected", "verdict"), rows)


def _made(chosen: argparse.Namespace) -> int:
    import rich.console
    import rich.progress

    out = store.prepare(chosen.out)
    given = None if chosen.data is None else data.load(chosen.data)
    wanted, outcomes = _run.names() if chosen.all else chosen.name, []
    progress = rich.console.Console(stderr=True)
    for name in rich.progress.track(wanted, "figures", console=progress, disable=not progress.is_terminal):
        own = None if chosen.all and not _run.takes_data(_run.figure(name)) else given
        outcomes.append(_run.run(name, chosen.preset, out, from_cache=chosen.from_cache, data=own))
    if outcomes:
        _show(outcomes)
        print(f"wrote {len(outcomes)} figures into {out}")
    if chosen.gallery:
        print(f"wrote {_gallery.write(out)}")
    return 0 if all(o.holds for o in outcomes) else 1


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 a claim failed, 2 bad usage, 130 interrupted."""
    chosen = _arguments(argv)
    if not (chosen.all or chosen.name or chosen.gallery):
        _listed()
        return 0
    try:
        with interrupts.insistent():
            return _made(chosen)
    except (InputError, MissingExtra) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was finished stays, run the same command to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
