"""Operands: the arrays with which weight layers multiply the signal.

An operand is the weight as the equation reads it: masked, normalized, transposed.
"""

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
        place: Where the operand is computed. Inside scans it has one value for each
            iteration; stacked, with an axis for each scan, they are what is read there.
        takes_slices: For each scan around the place, whether each iteration uses a
            slice of its own. If not, the operand is the same in all iterations.
        entries: For each scan around the place, the one entry of its axis that belongs
            to the layer; None if all do.
        index: Which slice of a stacked layer the operand is; None if it is all slices
            in order, or the layer is not stacked.
        share: If the operand is concatenated from several leaves: the axis, and where
            the share of this layer begins and ends. Otherwise None.
        in_axes: Axes of the operand that are summed over, or looked up.
        out_axes: Axes of the result.
        batch_axes: Axes that weight, signal and result share.
        window_axes: Spatial axes of a convolution, in the order of those of the image.
        groups: Groups of channels of a convolution.
        convolution: How the kernel goes over the image; None for other layers, and for
            convolutions that `_convolutions.read` cannot describe.
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
            reading: The values at `place`, stacked, with an axis for each scan.

        Returns:
            An array (slices, ...) of one slice, or of all. In nested scans the slices
            of the innermost scan follow one another.
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
    """Return one operand for each layer and slice, as it is at the first use."""
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
    takes_slices_of = dict(zip(around, use.takes_slices, strict=True))
    entry_of: dict[int, int] = {}
    if use.single_iteration is not None:
        scan = around[use.single_iteration.position]
        # A scan stacks what its iterations return in the order of the slices.
        entry_of[scan] = program.scans[scan].index_of(use.single_iteration.iteration)
    assert weight.var is not None, "a weight is computed from leaves"
    return Operand(
        layer=layer,
        place=Place(weight.path, weight.var, ()),
        takes_slices=tuple(takes_slices_of.get(scan, False) for scan in weight.scans),
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
