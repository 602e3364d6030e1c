"""The table of the layers of an anatomy, and its repr."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from isometry._internal import html, texts
from isometry.structure._records import Branch, WeightLayer

if TYPE_CHECKING:
    from isometry.structure._anatomy import Anatomy

# Rows of a repr: with its headings they fit a screen of 24 lines.
_ROWS_OF_REPR = 16

# Rows that a notebook shows: two screens. A network of 300 layers would fill ten.
_ROWS_OF_NOTEBOOK = 60

# Columns of a table beyond which names are shortened. At 80 those of most transformers
# would be, and a terminal of 200 columns is rare.
_COLUMNS = 100

# Characters of a name in a repr. Ten more would break the lines of a transformer on a
# screen of 100 columns; with ten fewer its layers would look alike.
_NAME_OF_REPR = 34

# Characters of one key in a longer name: a word, and the number after it.
_STEP_OF_REPR = 9

_HEADINGS = ("layer", "kind", "shape", "fans", "role", "before", "then", "branch")


def cells(
    layers: Sequence[WeightLayer],
    branches: Sequence[Branch],
) -> list[list[str]]:
    """Return a row of cells for each layer, one for each of `_HEADINGS`."""
    rows = []
    positions = _positions(branches)
    for layer in layers:
        fans = _fans(layer)
        shape = "×".join(map(str, layer.shape))
        rows.append(
            [
                _name(layer),
                _kind(layer),
                shape,
                fans,
                layer.role,
                " → ".join(layer.before),
                " → ".join(layer.then),
                _on_branch(layer, positions),
            ]
        )
    return rows


def _fans(layer: WeightLayer) -> str:
    """Return the cell of the fans: "36 → 72"; transposed convolutions "36/4 → 72"."""
    if not layer.fan_in:
        return "?"
    fan_in = str(layer.fan_in)
    # An output meets this share of the window on average.
    if layer.spread:
        fan_in += f"/{math.prod(layer.spread)}"
    return f"{fan_in} → {layer.fan_out}"


def _positions(branches: Sequence[Branch]) -> dict[str, str]:
    """Return the position of each layer on its branch: "1/2" is the first of two.

    Keys are names of layers. A layer on a skip has "NAME shortcut", where NAME is that
    of the branch beside it.
    """
    positions: dict[str, str] = {}
    for branch in branches:
        # The name without its iteration or use: of "blocks[3]" it is "blocks".
        stem = re.split(r"[\[@#]", branch.name, maxsplit=1)[0]
        positions |= dict.fromkeys(branch.shortcut, f"{stem} shortcut")
    # A layer on several branches belongs to the shortest.
    for branch in sorted(branches, key=lambda branch: -len(branch.layers)):
        for i, name in enumerate(branch.layers):
            positions[name] = f"{i + 1}/{len(branch.layers)}"
    return positions


def _on_branch(layer: WeightLayer, positions: Mapping[str, str]) -> str:
    """Return the cell of a layer's branch and position: "blocks 1/2", or ""."""
    if layer.branch is None:
        return positions.get(layer.name, "")
    return f"{layer.branch} {positions[layer.name]}"


def _name(layer: WeightLayer) -> str:
    """Return the cell of a layer's name: of a stack "blocks/fc[0..5]"."""
    if layer.stacked is None:
        return layer.name
    return f"{layer.name}[0..{layer.stacked - 1}]"


def _kind(layer: WeightLayer) -> str:
    """Return the cell of a layer's kind, with its groups and whether it is tied."""
    kind = layer.kind
    if layer.groups > 1:
        kind += f", {layer.groups} groups"
    if layer.tied:
        kind += ", tied"
    return kind


def table(
    anatomy: "Anatomy",
    rows: Sequence[Sequence[str]],
) -> str:
    """Return the table of all layers as text.

    Args:
        anatomy: The anatomy.
        rows: The cells of each layer, as `cells` returns them.
    """
    lines = _lines(rows)
    # The least that fits: the names in full, shortened, or without those of branches.
    for shorten in (_with_short_names, _narrow):
        if max(map(len, lines)) > _COLUMNS:
            lines = _lines([shorten(row) for row in rows])
    return "\n".join([_heading(anatomy), *lines, *_endings(anatomy)])


def summary(
    anatomy: "Anatomy",
    rows: Sequence[Sequence[str]],
) -> str:
    """Return the table of the first and last layers, as many as fit on a screen.

    Args:
        anatomy: The anatomy.
        rows: The cells of each layer, as `cells` returns them.
    """
    num_hidden = len(rows) - _ROWS_OF_REPR
    half = _ROWS_OF_REPR // 2
    shown = list(rows)
    if num_hidden > 1:
        shown = [*rows[:half], *rows[-half:]]
    lines = _lines([_narrow(row) for row in shown])
    if num_hidden > 1:
        gap = f"… {num_hidden} more layers: print(an.table())"
        # The first line holds the headings of the columns.
        lines.insert(half + 1, gap)
    return "\n".join([_heading(anatomy), *lines, *_endings(anatomy)])


def in_notebook(
    anatomy: "Anatomy",
    rows: Sequence[Sequence[str]],
) -> str:
    """Return the table as HTML; of many layers the first and the last ones.

    Args:
        anatomy: The anatomy.
        rows: The cells of each layer, as `cells` returns them.
    """
    num_hidden = len(rows) - _ROWS_OF_NOTEBOOK
    half = _ROWS_OF_NOTEBOOK // 2
    shown: list[Sequence[str]] = list(rows)
    if num_hidden > 1:
        gap = [f"… {num_hidden} more layers: print(an.table())"]
        gap += [""] * (len(_HEADINGS) - 1)
        shown = [*rows[:half], gap, *rows[-half:]]
    headings, *lines = texts.without_empty([_HEADINGS, *shown])
    notes = [html.note(ending) for ending in _endings(anatomy)]
    return html.notebook(_heading(anatomy), html.table(headings, lines), *notes)


def _narrow(row: Sequence[str]) -> list[str]:
    """Return a row with a short name, and the position without the branch's name."""
    # The name of a branch is the beginning of that of the layer.
    name, *others, branch = row
    position = branch.rpartition(" ")[2]
    return [_short_name(name), *others, position]


def _with_short_names(row: Sequence[str]) -> list[str]:
    """Shorten the names of a layer and of its branch."""
    name, *others, branch = row
    stem, space, position = branch.rpartition(" ")
    return [_short_name(name), *others, _short_name(stem) + space + position]


def _short_name(name: str) -> str:
    """Cut the middle out of the words of a long name, but for the last one."""
    if len(name) <= _NAME_OF_REPR:
        return name
    *steps, last = name.split("/")
    return "/".join([*map(_shortened, steps), last])


def _shortened(step: str) -> str:
    """Cut the middle out of a word: "Multi…n_0" is MultiHeadAttention_0."""
    if len(step) <= _STEP_OF_REPR:
        return step
    tail = _STEP_OF_REPR // 2 - 1
    return step[: _STEP_OF_REPR - tail - 1] + "…" + step[-tail:]


def _heading(anatomy: "Anatomy") -> str:
    """Return the first line of a table: "3 weight layers, depth 3, 0 branches"."""
    counts = [
        _counted(len(anatomy.layers), "weight layer", "weight layers"),
        f"depth {anatomy.depth}",
        _counted(len(anatomy.branches), "branch", "branches"),
    ]
    if anatomy.attentions:
        number = _num_attentions(anatomy)
        counts.append(_counted(number, "attention", "attentions"))
    return ", ".join(counts)


def _num_attentions(anatomy: "Anatomy") -> int:
    """Count attentions; an attention of stacked layers counts once for each slice."""
    stacked = {layer.name: layer.stacked or 1 for layer in anatomy.layers}
    number = 0
    for attention in anatomy.attentions:
        layers = (*attention.output, *attention.value, *attention.query)
        number += max((stacked[name] for name in layers), default=1)
    return number


def _counted(number: int, singular: str, plural: str) -> str:
    """Return a number with its noun: "1 branch", "2 branches"."""
    return f"{number} {singular if number == 1 else plural}"


def _endings(anatomy: "Anatomy") -> list[str]:
    """Return the line on what could not be read, if there is anything."""
    if not anatomy.unread:
        return []
    return ["not read: " + ", ".join(anatomy.unread)]


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return headings and rows as aligned lines, without the empty columns.

    A perceptron, for example, has no branches.
    """
    return texts.aligned(texts.without_empty([_HEADINGS, *rows]))
