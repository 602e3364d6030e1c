"""For which weight layers of a span a gain can be found, and why not for the others.

A gain multiplies a slot: a weight layer, or one slice of stacked layers. The trunk is
the slots that every path through the span meets; the others are on residual branches.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry.measure._spans import Point
from isometry.structure import Anatomy, WeightLayer
from isometry.structure._anatomy import tap_of
from isometry.structure._tapping import in_cond


class Slot(NamedTuple):
    """A slice of a weight layer, which one gain multiplies.

    Attributes:
        layer: The name of the layer.
        number: Which slice; 0 if the layer is not stacked.
        point: The point of its pre-activation.
    """

    layer: str
    number: int
    point: str


@dataclasses.dataclass(frozen=True, eq=False)
class Sites:
    """The layers of a span for which a gain can be found.

    Attributes:
        trunk: The slots that every path through the span meets, in order.
        ends: The slots that end the residual branches of the span.
        notes: From the name of a slot off the trunk to why no gain is found for it.
        names: From (layer, number of the slice) to the name of the slot, in the order
            of the anatomy.
        counts: The number of slices of each layer.
    """

    trunk: tuple[Slot, ...]
    ends: tuple[Slot, ...]
    notes: dict[str, str]
    names: dict[tuple[str, int], str]
    counts: dict[str, int]

    def factors(self, slots: Sequence[Slot], gains: Float[Array, " slots"]) -> dict:
        """Return arrays of gains, one for each slice, by layer.

        Args:
            slots: The slots that have a gain; other slices of their layers have 1.
            gains: The gains of `slots`.
        """
        factors = {}
        for i, slot in enumerate(slots):
            if slot.layer not in factors:
                factors[slot.layer] = jnp.ones(self.counts[slot.layer], gains.dtype)
            factors[slot.layer] = factors[slot.layer].at[slot.number].set(gains[i])
        return factors


def _slices(anatomy: Anatomy, layer: WeightLayer) -> dict[int, str]:
    """Return the name of the point of each slice of a layer, by the slice's number.

    "" for a slice that has no point. In nested stacks, slices of the innermost stack
    follow one another.
    """
    pattern = re.compile(re.escape(layer.name) + r"((?:\[\d+\])*)")
    by_index: dict[tuple[int, ...], str] = {}
    for point in anatomy.points:
        match = pattern.fullmatch(point)
        if match:
            index = tuple(map(int, re.findall(r"\d+", match[1])))
            by_index[index] = point
    count = layer.stacked or 1
    points = dict.fromkeys(range(count), "")
    is_nested = any(len(index) > 1 for index in by_index)
    if len(by_index) == count:
        points |= enumerate(by_index[index] for index in sorted(by_index))
    elif not is_nested:
        # Slices that the program does not use have no point.
        points |= {index[0]: point for index, point in by_index.items() if index}
    return points


def sites_of(anatomy: Anatomy, first: Point, last: Point) -> Sites:
    """Return the layers of a span for which a gain can be found."""
    trunk = []
    ends = []
    notes = {}
    names = {}
    last_of_branches = _branch_ends(anatomy, first, last)
    for layer in anatomy.layers:
        for index, point in _slices(anatomy, layer).items():
            name = point or f"{layer.name}[{index}]"
            if layer.stacked is None:
                name = layer.name
            names[layer.name, index] = name
            slot = Slot(layer.name, index, point)
            note = _obstacle(anatomy, layer, point, first=first, last=last)
            if not note and anatomy.cuts(point):
                # If the span ends with this layer, the end is the same value.
                is_last = anatomy.place(point) == tap_of(anatomy, last.name)
                trunk.append(slot._replace(point=last.name if is_last else point))
                continue
            if not note and (layer.name, index) in last_of_branches:
                ends.append(slot)
            notes[name] = note or _way_around(anatomy, point)
    return Sites(
        trunk=tuple(trunk),
        ends=tuple(ends),
        notes=notes,
        names=names,
        counts={layer.name: layer.stacked or 1 for layer in anatomy.layers},
    )


def _obstacle(
    anatomy: Anatomy,
    layer: WeightLayer,
    point: str,
    *,
    first: Point,
    last: Point,
) -> str:
    """Say why no gain can be found for a slice of a layer, or return ""."""
    if layer.kind == "embedding":
        return "its rows are looked up: it is no factor of the Jacobian"
    if layer.kind == "other":
        return "how it acts on the signal cannot be read"
    if layer.tied:
        return "used more than once"
    # The result of a layer in a loop that cannot be unrolled has no name either.
    if not point:
        return "not used, or at a place without a name"
    starts_here = anatomy.place(point) == tap_of(anatomy, first.name)
    is_inside = anatomy.upstream(first.name, point) and not starts_here
    if not (is_inside and anatomy.upstream(point, last.name)):
        return "outside the span"
    return ""


def _way_around(anatomy: Anatomy, point: str) -> str:
    """Say which path through the span does not meet a point."""
    # Which arm of a cond is taken depends on x, and E s² up to a layer is not defined
    # where its arm is not taken. So no gain is found for a layer in an arm, even if
    # every arm has a layer.
    if in_cond(anatomy.closed, anatomy.place(point)):
        return "in an arm of a cond: where another is taken, it does not act"
    return "on a branch: some path leads around it"


def _branch_ends(anatomy: Anatomy, first: Point, last: Point) -> set[tuple[str, int]]:
    """Return (layer, number of the slice) of the layers that end residual branches."""
    ends = set()
    for branch in anatomy.branches:
        is_inside = anatomy.upstream(first.name, branch.joins)
        if not (is_inside and anatomy.upstream(branch.joins, last.name)):
            continue
        position_of = dict(zip(branch.layers, branch.positions, strict=True))
        # A gate ends no branch: if it were zero, the branch would be open.
        ending = [name for name in branch.layers if name not in branch.gating]
        end = max(position_of[name] for name in ending)
        ends |= {
            (name, branch.slice or 0) for name in ending if position_of[name] == end
        }
    return ends
