"""`isometry schemes`: the catalogue of schemes and initializers."""

from typing import Annotated

from typer import Argument, Option

from isometry.cli import _exit_codes, _options, _terminal
from isometry.cli._command import Command

_SUMMARY = "List schemes and initializers with their laws, or show one."
_TEXT = """A scheme chooses an initializer for each layer of a network; an initializer
draws one array."""
_EXAMPLE = "isometry schemes lsuv"


def schemes(
    name: Annotated[
        str | None,
        Argument(help="A scheme, an initializer, or an alias; all if left out."),
    ] = None,
    out: Annotated[
        str | None, Option(help="Folder for schemes.json; none if left out.")
    ] = None,
    json: _options.Json = False,
    seed: Annotated[int, Option(help="No effect: nothing here is random.")] = 0,
) -> int:
    """Print the catalogue, or each entry of a name; return the exit code."""
    from isometry import schemes as catalogue
    from isometry import store
    from isometry._internal import strict_json

    entries = catalogue.listing() if name is None else catalogue.describe(name)
    written = []
    if out is not None:
        file = store.prepare(out) / "schemes.json"
        written = [store.write_json(file, entries)]
    if json:
        print(strict_json.dumps(entries), end="")
    else:
        _print(entries, is_whole=name is None)
    _terminal.report_files(written, as_json=json)
    return _exit_codes.CLEAN


COMMAND = Command(
    name="schemes", function=schemes, summary=_SUMMARY, text=_TEXT, example=_EXAMPLE
)


def _print(entries: list[dict[str, object]], *, is_whole: bool) -> None:
    """Print the whole catalogue as two tables, or a table for each entry."""
    from isometry import schemes as catalogue

    console = _terminal.console()
    # A scheme and an initializer may share a name, so that one name has two entries.
    if not is_whole:
        for entry in entries:
            console.print(catalogue.rich_entry(entry))
        return
    for table in catalogue.rich_tables(console.width):
        console.print(table)
    print("isometry schemes NAME shows one in full: law, source, names in other")
    print("libraries.")
