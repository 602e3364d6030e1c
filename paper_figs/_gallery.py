"""The page that shows every picture with its numbers, made from a folder of records."""

import pathlib
import shutil
from typing import Any

from isometry import store
from paper_figs import _run

HERE = pathlib.Path(__file__).parent
_HEAD = """# The papers' figures, made again

Made by `python -m paper_figs --all --out DIR --gallery`; every number here is checked by the code that made it.
"""


def write(out: pathlib.Path) -> pathlib.Path:
    """README.md beside this file, and the pictures it shows in gallery/."""
    found = _run.records(out)
    folder = store.prepare(HERE / "gallery")
    for record in found:
        shutil.copyfile(out / f"{record['figure']}.png", folder / f"{record['figure']}.png")
        shutil.copyfile(out / f"{record['figure']}.json", folder / f"{record['figure']}.json")
    text = page(found)
    return store.atomically(HERE / "README.md", lambda file: file.write(text.encode()))


def page(found: list[dict[str, Any]]) -> str:
    """The page of these records."""
    return "\n".join([_HEAD, *map(_section, found)])


def _section(record: dict[str, Any]) -> str:
    name = record["figure"]
    rows = [
        f"| {c['what']} | {c['measured']:.5g} | {c['expected']} | {'yes' if c['holds'] else '**no**'} |"
        for c in record["compared"]
    ]
    verdict = "" if record["holds"] else "\n**The claim does not hold in these numbers.**\n"
    command = " ".join(record["provenance"]["command"])
    head = f"## {name}\n\n{record['claim']}\n\n![{record['claim']}](gallery/{name}.png)\n{verdict}"
    table = "\n".join(["| | measured | expected | holds |", "| --- | --- | --- | --- |", *rows])
    told = _run.figure(name).__doc__.split("\n\n", 1)[1].strip()
    return f"{head}\n{table}\n\n{told}\n\n`{command}`\n"
