"""The picture of an anatomy that a user reads."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from isometry.structure._records import WeightLayer

if TYPE_CHECKING:
    from isometry.structure._anatomy import Anatomy

# Rows of a repr: with a heading they fit a screen of 24 lines.
_ROWS_OF_REPR = 16

_HEADINGS = ("layer", "kind", "shape", "fans", "role", "then", "branch")


def table(anatomy: "Anatomy", follows: Mapping[str, str]) -> str:
    """Draw all layers."""
    lines = _lines([_cells(layer, follows) for layer in anatomy.layers])
    return "\n".join([_heading(anatomy), *lines, *_endings(anatomy)])


def summary(anatomy: "Anatomy", follows: Mapping[str, str]) -> str:
    """Draw as many layers as fit on a screen: the first ones and the last ones."""
    cells = [_cells(layer, follows) for layer in anatomy.layers]
    lines = _lines(cells)
    num_hidden = len(cells) - _ROWS_OF_REPR
    if num_hidden > 1:
        half = _ROWS_OF_REPR // 2
        # The first line is the heading.
        gap = f"… {num_hidden} more; print(an.table()) shows all"
        lines = [*lines[: half + 1], gap, *lines[-half:]]
    return "\n".join([_heading(anatomy), *lines, *_endings(anatomy)])


def _heading(anatomy: "Anatomy") -> str:
    counts = [
        _counted(len(anatomy.layers), "weight layer"),
        f"depth {anatomy.depth}",
        _counted(len(anatomy.branches), "branch", "branches"),
    ]
    if anatomy.attentions:
        counts.append(_counted(len(anatomy.attentions), "attention"))
    return ", ".join(counts)


def _counted(number: int, noun: str, plural: str | None = None) -> str:
    if number != 1:
        noun = plural or noun + "s"
    return f"{number} {noun}"


def _endings(anatomy: "Anatomy") -> list[str]:
    if not anatomy.unread:
        return []
    return ["not read: " + ", ".join(anatomy.unread)]


def _cells(layer: WeightLayer, follows: Mapping[str, str]) -> tuple[str, ...]:
    name = layer.name
    if layer.stacked is not None:
        name += f"[0..{layer.stacked - 1}]"
    kind = layer.kind
    if layer.groups > 1:
        kind += f" /{layer.groups}"
    if layer.tied:
        kind += " tied" if layer.role != "recurrent" else " recurrent"
    shape = "×".join(map(str, layer.shape))
    fans = f"{layer.fan_in} → {layer.fan_out}"
    branch = layer.branch or ""
    return name, kind, shape, fans, layer.role, follows.get(layer.name, ""), branch


def _lines(cells: Sequence[Sequence[str]]) -> list[str]:
    """Set cells in columns, without columns that say nothing."""
    rows = [_HEADINGS, *cells]
    columns = [list(column) for column in zip(*rows, strict=True)]
    told = [column for column in columns if any(column[1:])]
    widths = [max(map(len, column)) for column in told]
    lines = []
    for i in range(len(rows)):
        padded = [
            column[i].ljust(width)
            for column, width in zip(told, widths, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines
