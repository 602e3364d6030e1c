"""`isometry schemes`: the catalogue."""

from typing import Annotated, Any

from typer import Argument, Option

from isometry import _cli_common as common

_HELP = """List every initialization scheme and every initializer with its law, or show one in full.

Example: isometry schemes lsuv
"""


def add(app: Any) -> None:
    """Register the command."""

    @common.command(app, "schemes", _HELP)
    def schemes(
        name: Annotated[str | None, Argument(help="A scheme, an initializer, or an alias; all if left out.")] = None,
        out: Annotated[str | None, Option(help="Folder for schemes.json; none if left out.")] = None,
        json: common.Json = False,
        seed: Annotated[int, Option(help="Taken as by every command; nothing here is random.")] = 0,
    ) -> int:
        return listing(name, out, json)


def listing(name: str | None, out: str | None, as_json: bool) -> int:
    """`isometry schemes`: print the catalogue, or the entries of one name; the exit code."""
    from rich.console import Console

    from isometry import schemes, store
    from isometry._internal import strict_json
    from isometry._internal.errors import public

    describe = public("isometry schemes")(schemes.describe)
    entries = schemes.listing() if name is None else describe(name)
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
