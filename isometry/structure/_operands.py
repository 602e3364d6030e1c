"""Operands: the arrays that weight layers multiply the signal with, as they do it."""

import dataclasses

import numpy as np
from jaxtyping import Array

from isometry.structure import _convolutions
from isometry.structure._anatomy import Anatomy
from isometry.structure._convolutions import Convolution
from isometry.structure._layers import Use
from isometry.structure._meetings import Meeting
from isometry.structure._origins import Part
from isometry.structure._place import Place
from isometry.structure._reading import Indices, Program
from isometry.structure._records import WeightLayer


@dataclasses.dataclass(frozen=True)
class Operand:
    """The operand that is the weight, at one use of a layer.

    Attributes:
        layer: The layer.
        place: Where the operand arises: one value in each iteration of a scan.
        takes_slices: For each scan around it, whether each iteration uses a slice of
            its own. If not, the operand is the same in all of them.
        entries: For each scan around it, which entry of the values stacked by the scan
            is meant; None for all.
        index: Which slice of the layer it is; None for all of them, in order.
        share: If values of several leaves are joined in it: the axis, and where the
            share of this layer begins and ends. Otherwise None.
        in_axes: Axes of the operand that are summed over, or looked up.
        out_axes: Axes of the result.
        batch_axes: Axes that weight, signal and result share.
        window_axes: Spatial axes of a convolution, in the order of those of the image.
        groups: Groups of channels of a convolution.
        convolution: How it goes over the image; None of a dense layer, and of a
            convolution that is more than that.
    """

    layer: WeightLayer
    place: Place
    takes_slices: tuple[bool, ...]
    entries: tuple[int | None, ...]
    index: int | None
    share: Part | None
    in_axes: Indices
    out_axes: Indices
    batch_axes: Indices
    window_axes: Indices
    groups: int
    convolution: Convolution | None

    def slices(self, reading: Array) -> Array:
        """Return the slices of the layer, from what is read at the place.

        Args:
            reading: The operand in all iterations of the scans around it.

        Returns:
            An array (slices, ...): one slice, or all, with those of the innermost scan
            fastest.
        """
        stacked = reading
        # From the innermost scan outwards, so that the axes before stay where they are.
        for axis in range(len(self.takes_slices) - 1, -1, -1):
            entry = self.entries[axis]
            # Steps of a recurrence all have the same weight.
            if entry is None and not self.takes_slices[axis]:
                entry = 0
            if entry is not None:
                stacked = stacked.take(entry, axis)
        num_axes = reading.ndim - len(self.takes_slices)
        shape = stacked.shape[stacked.ndim - num_axes :]
        slices = stacked.reshape(-1, *shape)
        if self.share is None:
            return slices
        # One axis more, because slices are stacked in front.
        axis, start, stop = self.share
        return slices.take(np.arange(start, stop), axis + 1)


def operands(anatomy: Anatomy) -> list[Operand]:
    """Return the operands of all layers, at the first use of each slice."""
    program = anatomy._flow.program
    in_order = []
    for layer, row in zip(anatomy.layers, anatomy._rows, strict=True):
        # A second use of a slice has the same weight.
        first_uses = {use.index: use for use in reversed(row.uses) if use.number == 0}
        in_order += [
            _operand(program, layer, use)
            for use in sorted(first_uses.values(), key=lambda use: use.index or 0)
        ]
    return in_order


def _operand(program: Program, layer: WeightLayer, use: Use) -> Operand:
    """Return the operand of one use of a layer."""
    meeting = use.meeting
    weight = program.values[meeting.weight]
    # The weight may be computed outside of scans around the equation that uses it.
    around = program.values[meeting.value].scans
    styles = dict(zip(around, use.styles, strict=True))
    entry_of: dict[int, int] = {}
    if use.single_iteration is not None:
        position, iteration = use.single_iteration
        scan = around[position]
        # A scan stacks what its iterations return in the order of the slices.
        entry_of[scan] = program.scans[scan].index_of(iteration)
    assert weight.var is not None, "a weight is computed from leaves"
    return Operand(
        layer=layer,
        place=Place(weight.path, weight.var, ()),
        takes_slices=tuple(styles.get(scan, False) for scan in weight.scans),
        entries=tuple(entry_of.get(scan) for scan in weight.scans),
        index=use.index,
        share=meeting.origin.joined,
        in_axes=meeting.in_axes,
        out_axes=meeting.out_axes,
        batch_axes=meeting.batch_axes,
        window_axes=_window_axes(program, meeting),
        groups=meeting.groups,
        convolution=_convolutions.read(program, meeting.value),
    )


def _window_axes(program: Program, meeting: Meeting) -> Indices:
    """Return the spatial axes of a kernel, in the order of those of the image."""
    if not meeting.window_axes:
        return ()
    # JAX names the axes of kernel and image in the same order.
    numbers = program.values[meeting.value].params["dimension_numbers"]
    return tuple(numbers.rhs_spec[2:])
