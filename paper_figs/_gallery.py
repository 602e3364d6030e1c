"""The page that shows every picture with its numbers, made from a folder of records."""

import pathlib
import shutil
from collections.abc import Sequence

import matplotlib.image
from matplotlib.figure import Figure

from isometry import store
from paper_figs import _run

HERE = pathlib.Path(__file__).parent

_HEAD = """# The papers' figures, made again

![All pictures of this page](gallery/index.png)

Made by `python -m paper_figs --all --gallery`. Every number here was checked by the
code that made it, but those that are *reported*.

"""

# The picture on top: columns of small pictures, and the inches that each may fill. With
# two columns the page would begin below two screens of it; with eight the titles of
# axes would be dots.
_COLUMNS = 4
_SMALL = (2.5, 1.35)


def write(out: pathlib.Path, here: pathlib.Path = HERE) -> pathlib.Path:
    """Write README.md, and the pictures and records that it shows in gallery/.

    Args:
        out: The folder that holds the pictures and records of figures.
        here: The folder of the page.

    Returns:
        The path of the page.
    """
    records = _run.records(out)
    folder = store.prepare(here / "gallery")
    for record in records:
        for suffix in ("png", "json"):
            name = f"{record['figure']}.{suffix}"
            shutil.copyfile(out / name, folder / name)
    names = [record["figure"] for record in records]
    store.write_figure(folder / "index.png", _index(folder, names), dpi=130)
    lines = [f"- [{r['figure']}](#{r['figure']}): {r['claim']}" for r in records]
    contents = "\n".join(lines) + "\n"
    text = "\n".join([_HEAD + contents, *map(_section, records)])
    page = text.encode()
    return store.atomically(here / "README.md", lambda file: file.write(page))


def _index(folder: pathlib.Path, names: Sequence[str]) -> Figure:
    """Draw all pictures small, each below its name."""
    num_rows = max(1, -(-len(names) // _COLUMNS))
    width, height = _SMALL
    size = (width * _COLUMNS, height * num_rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(num_rows, _COLUMNS, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, name in zip(axes, names, strict=False):
        # Interpolation in two steps (a large picture becomes a small one) would draw
        # thin lines as dots.
        picture = matplotlib.image.imread(folder / f"{name}.png")
        ax.imshow(picture, interpolation="antialiased", interpolation_stage="rgba")
        ax.set_title(name, fontsize=7)
    return figure


def _section(record: _run.Record) -> str:
    """Return what the page says of one figure."""
    name = record["figure"]
    docstring = _run.figure(name).__doc__ or ""
    text = docstring.partition("\n\n")[2].strip()
    command = " ".join(record["provenance"]["command"])
    lines = [
        f"## {name}\n",
        f"{record['claim']}\n",
        f"![{record['claim']}](gallery/{name}.png)\n",
    ]
    if not record["holds"]:
        lines.append("**The claim does not hold in these numbers.**\n")
    lines.append("| number | measured | expected | verdict |")
    lines.append("| --- | --- | --- | --- |")
    for compared in record["compared"]:
        what = _cell(compared["what"])
        measured = _cell(compared["measured"])
        expected = _cell(compared["expected"])
        verdict = compared["verdict"].replace("FAILS", "**FAILS**")
        lines.append(f"| {what} | {measured} | {expected} | {verdict} |")
    lines.append(f"\n{text}\n")
    lines.append(f"`{command}`, {record['seconds']:.0f} s\n")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Return a text for a cell of a table, which a bare bar, of |s − 1|, would end."""
    return text.replace("|", "\\|")
