"""`python -m paper_figs`: list the figures, or make them."""

import argparse
import sys
from typing import Any

from isometry import InputError, MissingExtra, store


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    from paper_figs import _run

    parser = argparse.ArgumentParser(prog="python -m paper_figs", description="The papers' figures, made again.")
    parser.add_argument("name", nargs="*", metavar="NAME", help="figures to make; none lists them")
    parser.add_argument("--all", action="store_true", help="make every figure")
    parser.add_argument("--preset", choices=_run.PRESETS, default="full", help="how large (%(default)s)")
    parser.add_argument("--from-cache", action="store_true", help="draw and check again what --out holds")
    parser.add_argument("--out", metavar="DIR", default="paper-figures", help="where everything goes (%(default)s)")
    parser.add_argument("--data", metavar="PATH", help="a data set of your own, as `isometry audit --data` takes")
    parser.add_argument("--gallery", action="store_true", help="make paper_figs/README.md from --out")
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
    console = rich.console.Console()
    console.print(table, width=None if console.is_terminal else 150)


def _listed() -> None:
    from paper_figs import _run

    _table(("figure", "claim"), [(name, _run.claim(_run.figure(name))) for name in _run.names()])


def _show(outcomes: list[Any]) -> None:
    rows = []
    for outcome in outcomes:
        for i, c in enumerate(outcome.compared):
            said = ("" if i else outcome.name, c.what, f"{c.measured:.5g}", c.wanted, "yes" if c.holds else "NO")
            rows.append(said)
    _table(("figure", "what", "measured", "expected", "holds"), rows)


def _made(chosen: argparse.Namespace) -> int:
    import rich.progress

    from isometry import data
    from paper_figs import _gallery, _run

    out = store.prepare(chosen.out)
    loaded = None if chosen.data is None else data.load(chosen.data)
    wanted = _run.names() if chosen.all else chosen.name
    outcomes = []
    for name in rich.progress.track(wanted, "figures", console=rich.console.Console(stderr=True)):
        given = loaded if loaded is None or _run.takes_data(_run.figure(name)) or not chosen.all else None
        outcomes.append(_run.run(name, chosen.preset, out, from_cache=chosen.from_cache, data=given))
    _show(outcomes)
    if chosen.gallery:
        print(f"wrote {_gallery.write(out)}")
    print(f"wrote {len(outcomes)} figures into {out}")
    return 0 if all(o.holds for o in outcomes) else 1


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 a claim failed, 2 bad usage, 130 interrupted."""
    try:
        chosen = _arguments(argv)
        if not (chosen.all or chosen.name):
            _listed()
            return 0
        return _made(chosen)
    except (InputError, MissingExtra) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was finished stays, run the same command to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
