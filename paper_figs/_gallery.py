"""The page that shows every picture with its numbers, made from a folder of records."""

import pathlib
import shutil
from typing import Any

from isometry import store
from paper_figs import _run

HERE = pathlib.Path(__file__).parent
_HEAD = """# The papers' figures, made again

Made by `python -m paper_figs --all --gallery`; every number here was checked by the code that made it, but
those that are *reported*.

"""


def write(out: pathlib.Path, here: pathlib.Path = HERE) -> pathlib.Path:
    """README.md in `here`, and the pictures and records it shows in gallery/ beside it."""
    found = _run.records(out)
    folder = store.prepare(here / "gallery")
    for record in found:
        for suffix in ("png", "json"):
            shutil.copyfile(out / f"{record['figure']}.{suffix}", folder / f"{record['figure']}.{suffix}")
    index = [f"- [{r['figure']}](#{r['figure']}): {r['claim']}" for r in found]
    text = "\n".join([_HEAD + "\n".join(index) + "\n", *map(_section, found)])
    return store.atomically(here / "README.md", lambda file: file.write(text.encode()))


def _section(record: dict[str, Any]) -> str:
    name, told = record["figure"], _run.figure(record["figure"]).__doc__.partition("\n\n")[2].strip()
    rows = [
        " ".join(["|", *(f"{_cell(c[k])} |" for k in ("what", "measured", "expected")), _bold(c["verdict"]), "|"])
        for c in record["compared"]
    ]
    failed = [] if record["holds"] else ["**The claim does not hold in these numbers.**\n"]
    lines = [
        f"## {name}\n\n{record['claim']}\n\n![{record['claim']}](gallery/{name}.png)\n",
        *failed,
        "| number | measured | expected | verdict |\n| --- | --- | --- | --- |",
        *rows,
        f"\n{told}\n\n`{' '.join(record['provenance']['command'])}`, {record['seconds']:.0f} s\n",
    ]
    return "\n".join(lines)


def _bold(verdict: str) -> str:
    return "**FAILS**" if verdict == "FAILS" else verdict


def _cell(text: str) -> str:
    """As a table shows it: a bare bar, of |s − 1|, would end the cell."""
    return text.replace("|", "\\|")
