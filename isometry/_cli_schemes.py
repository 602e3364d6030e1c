"""`isometry schemes`: the catalogue, and with --spectra every initializer with the deep networks that start from it."""

from typing import Annotated, Any

from typer import Argument, Option

from isometry import _cli_common as common

_CALL = "isometry schemes --spectra"
_HELP = """List every initialization scheme and every initializer with its law, or show one in full.

Example: isometry schemes lsuv
"""


def add(app: Any) -> None:
    """Register the command."""

    @common.command(app, "schemes", _HELP)
    def schemes(
        name: Annotated[str | None, Argument(help="A scheme, an initializer, or an alias; all if left out.")] = None,
        spectra: Annotated[
            bool, Option("--spectra", help="Measure deep networks that start from each initializer; minutes.")
        ] = False,
        out: Annotated[
            str | None, Option(help="Folder for schemes.json, or spectra.json and spectra.png; none if left out.")
        ] = None,
        json: common.Json = False,
        seed: Annotated[int, Option(help="Seed of --spectra; nothing else here is random.")] = 0,
    ) -> int:
        return measured(name, out, json, seed) if spectra else listing(name, out, json)


def listing(name: str | None, out: str | None, as_json: bool) -> int:
    """`isometry schemes`: print the catalogue, or the entries of one name; the exit code."""
    from rich.console import Console

    from isometry import schemes, store
    from isometry._internal import strict_json

    entries = schemes.listing() if name is None else schemes.describe(name, "isometry schemes")
    if out is not None:
        common.told([store.write_json(store.prepare(out) / "schemes.json", entries)], as_json)
    if as_json:
        print(strict_json.dumps(entries), end="")
        return common.EXIT_CLEAN
    console = Console()
    tables = schemes.rich_tables(console.width) if name is None else map(schemes.rich_entry, entries)
    for table in tables:
        console.print(table)
    if name is None:
        print("isometry schemes NAME shows one in full: law, source, names in other libraries.")
    return common.EXIT_CLEAN


def measured(name: str | None, out: str | None, as_json: bool, seed: int) -> int:
    """`isometry schemes --spectra`: check, measure, write, print; the exit code."""
    import jax

    from isometry import _checks, _pairing, initializers, store
    from isometry._internal import provenance, strict_json

    _checks.integer(_CALL, low=0, **{"--seed": seed})
    entries = initializers.catalogue()
    if name is not None:
        entries = tuple(entry for entry in entries if name == entry.name or name in entry.aliases)
        if not entries:
            _checks.one_of(_CALL, among=[entry.name for entry in initializers.catalogue()], name=name)
    if out is not None:
        _checks.extra(_CALL, "matplotlib", "plot")
    folder = None if out is None else store.prepare(out)
    with common.progress(len(entries)) as tell:
        found = _pairing.pairings(jax.random.key(seed), entries=entries, tell=tell)
    rows = [row.as_dict() for row in found.rows]
    result = {"provenance": provenance.provenance(seed=seed), "pairings": rows, "left_out": found.left_out}
    written = []
    if folder is not None:
        from isometry import plots

        figure = plots.pairings(found.rows) if rows else None
        written = store.write_report(folder / "spectra", result, figure)
    if as_json:
        print(strict_json.dumps(result), end="")
    else:
        _print(rows, found.left_out)
    common.told(written, as_json)
    return common.EXIT_CLEAN


def _print(rows: list[dict[str, Any]], left_out: dict[str, str]) -> None:
    from rich.table import Table

    console = common.console()
    table = Table(title="end to end, isometric first", title_justify="left")
    for name in ("initializer", "activation", "√E(s−1)²", "zeros", "median s", "law"):
        justify = "left" if name in ("initializer", "activation", "law") else "right"
        table.add_column(name, justify=justify, overflow="fold")
    for row in rows:
        verdict = row["no_law"] and f"none: {row['no_law']}"
        if row["excess"] is not None:
            verdict = f"{'as the law' if row['excess'] <= 1 else 'off the law'} ({row['excess']:.2g} of its band)"
        table.add_row(
            row["initializer"], row["activation"], f"{row['isometry_deviation']:.3g}", f"{row['zero_fraction']:.1%}",
            f"{_exp(row['log_s_quantiles']['0.5'])}", verdict,
        )  # fmt: skip
    if rows:
        console.print(table)
    for name, why in left_out.items():
        console.print(f"{name}: left out. {why}", highlight=False, markup=False)


def _exp(log_s: float) -> str:
    import numpy as np

    return f"{np.exp(log_s):.3g}"
