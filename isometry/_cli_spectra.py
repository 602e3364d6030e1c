"""`isometry schemes --spectra`: every initializer with the spectrum of the deep networks that start from it."""

import sys
from collections.abc import Callable
from typing import Any

_CALL = "isometry schemes --spectra"


def run(name: str | None, out: str | None, as_json: bool, seed: int, progress: Callable[[int], Any]) -> int:
    """Check, measure, write, print; the exit code. `progress(total)`: a context that yields `tell(stage)`."""
    import jax

    from isometry import _checks, _json, _pairing, _provenance, initializers, store

    _checks.integer(_CALL, low=0, **{"--seed": seed})
    entries = initializers.catalogue()
    if name is not None:
        entries = tuple(entry for entry in entries if name == entry.name or name in entry.aliases)
        if not entries:
            _checks.one_of(_CALL, among=[entry.name for entry in initializers.catalogue()], name=name)
    if out is not None:
        _checks.extra(_CALL, "matplotlib", "plot")
    folder = None if out is None else store.prepare(out)
    with progress(len(entries)) as tell:
        found = _pairing.pairings(jax.random.key(seed), entries=entries, tell=tell)
    rows = [row.as_dict() for row in found.rows]
    result = {"provenance": _provenance.provenance(seed=seed), "pairings": rows, "left_out": found.left_out}
    written = []
    if folder is not None:
        from isometry import plots

        figure = plots.pairings(found.rows) if rows else None
        written = store.write_report(folder / "spectra", result, figure)
    if as_json:
        print(_json.dumps(result), end="")
    else:
        _print(rows, found.left_out)
    if written:
        print("wrote " + " and ".join(map(str, written)), file=sys.stderr if as_json else sys.stdout)
    return 0


def _print(rows: list[dict[str, Any]], left_out: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = console if console.is_terminal else Console(width=140)
    table = Table(title="end to end, isometric first", title_justify="left")
    for name in ("initializer", "activation", "√E(s−1)²", "zeros", "median s", "law"):
        table.add_column(name, justify="left" if name in ("initializer", "activation", "law") else "right")
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
