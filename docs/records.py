"""List every committed figure and record: which command made it, at which commit.

`python -m docs.records` prints the list, of which docs/records.md is the page. It is
made from the records themselves, each of which says where it came from.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("paper_figs/gallery", "benchmarks/results")


class Made(NamedTuple):
    """Where a record came from.

    Attributes:
        path: The record, from the root of the repository.
        command: What was typed.
        commit: The commit at which; "+dirty" at its end if files were modified.
        day: The day, as 2026-11-30.
        versions: Of the packages on which numbers depend.
    """

    path: str
    command: str
    commit: str
    day: str
    versions: dict[str, str]


def made() -> Iterator[Made]:
    """List the records, by their paths."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.json")):
            provenance = json.loads(path.read_text("utf-8"))["provenance"]
            yield Made(
                path=path.relative_to(ROOT).as_posix(),
                command=" ".join(map(_quoted, provenance["command"])),
                commit=provenance["git_commit"],
                day=provenance["time"][:10],
                versions=provenance["versions"],
            )


def _quoted(word: str) -> str:
    """Quote a word that a shell would divide."""
    return f"'{word}'" if " " in word or "(" in word else word


def table() -> str:
    """Write the list as a table of Markdown."""
    lines = ["| record | command | commit | day | jax |", "|---|---|---|---|---|"]
    for record in made():
        commit, _, is_dirty = record.commit.partition("+")
        at = f"{commit[:8]}, modified" if is_dirty else commit[:8]
        where = f"`{record.path}` | `{record.command}`"
        jax = record.versions["jax"]
        lines.append(f"| {where} | {at} | {record.day} | {jax} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
