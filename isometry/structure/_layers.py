"""Weight layers: for each weight, all equations that combine it with the signal."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from isometry.structure import _names
from isometry.structure._meetings import Meeting, size_of
from isometry.structure._names import Leaf
from isometry.structure._origins import Origin, Part
from isometry.structure._reading import Indices, Program


class SingleIteration(NamedTuple):
    """The one iteration of a scan that uses a leaf, if f itself stacked several leaves.

    Attributes:
        position: Which of the scans around the equation it is, counted from outside.
        iteration: The iteration, counted in the order of running.
    """

    position: int
    iteration: int


@dataclasses.dataclass(frozen=True)
class Use:
    """One use of a weight: an equation that combines it with the signal.

    Attributes:
        meeting: The equation, and how it reads the axes of the weight.
        index: Which slice of a stacked weight is used; None if the weight is not
            stacked, or if the slice depends on a loop or on x.
        number: 0 for the first use of this slice, 1 for the second, and so on.
        takes_slices: For each scan around the equation, outermost first: whether each
            iteration uses a slice of its own, as the layers of a stack do. If not, the
            iterations are steps of a recurrence.
        single_iteration: The iteration that uses this leaf, if f itself stacked several
            leaves for a scan. Otherwise None.
    """

    meeting: Meeting
    index: int | None
    number: int
    takes_slices: tuple[bool, ...]
    single_iteration: SingleIteration | None = None


class Row(NamedTuple):
    """One weight and all its uses.

    Attributes:
        name: The name of the layer.
        path: The key path of its leaf in params.
        shape: Shape of the leaf, or of one slice of a stacked one.
        stacked: The number of slices, or None.
        stacked_axes: Axes of the leaf along which it is stacked.
        stretches: The stretches of axes of the leaf that are cut out.
        in_axes: The `in_axes` of its first meeting, as axes of `shape`. The fields down
            to `fan_out` come from the first meeting too.
        out_axes: Axes of the result.
        batch_axes: Axes along which it has one matrix for each entry.
        window_axes: Spatial axes of a convolution's kernel.
        doubtful_axes: Those of `out_axes` along which it may have copies of a layer.
        fan_in: The number of entries of the weight that contribute to one output.
        fan_out: The number of outputs in its own group that one input contributes to.
        uses: Its uses, in the order of the program.
    """

    name: str
    path: str
    shape: Indices
    stacked: int | None
    stacked_axes: Indices
    stretches: tuple[Part, ...]
    in_axes: Indices
    out_axes: Indices
    batch_axes: Indices
    window_axes: Indices
    doubtful_axes: Indices
    fan_in: int
    fan_out: int
    uses: tuple[Use, ...]

    @property
    def kind(self) -> str:
        return self.uses[0].meeting.kind

    @property
    def groups(self) -> int:
        return self.uses[0].meeting.groups

    @property
    def spread(self) -> Indices:
        return self.uses[0].meeting.spread

    @property
    def is_tied(self) -> bool:
        """Whether some slice of it is used more than once."""
        is_repeated = any(use.number > 0 for use in self.uses)
        # A scan whose iterations share the weight is a recurrence.
        is_recurrent = any(not all(use.takes_slices) for use in self.uses)
        return is_repeated or is_recurrent


class _Weight(NamedTuple):
    """What identifies a weight.

    Attributes:
        leaf: Index of its leaf among the program's values.
        parts: The stretches of axes of the leaf that are cut out.
        picked: The axes of the leaf along which it is stacked.
    """

    leaf: int
    parts: tuple[Part, ...]
    picked: Indices


def rows(
    program: Program,
    meetings: Sequence[Meeting],
    leaves: Sequence[Leaf],
) -> list[Row]:
    """Return one row for each weight, in the order of the first uses.

    Args:
        program: The program.
        meetings: All equations that combine a weight with the signal.
        leaves: The leaves of params.
    """
    by_weight: dict[_Weight, list[Meeting]] = {}
    for meeting in meetings:
        by_weight.setdefault(_weight(meeting.origin), []).append(meeting)
    leaf_at = dict(zip(program.params, leaves, strict=True))
    labels = [
        (leaf_at[weight.leaf], _label_of_part(program, weight)) for weight in by_weight
    ]
    names = _names.layer_names(labels)
    return [
        _row(program, name, leaf_at[weight.leaf], met=met)
        for name, (weight, met) in zip(names, by_weight.items(), strict=True)
    ]


def _weight(origin: Origin) -> _Weight:
    """Return the weight to which an operand with this origin belongs.

    Two stretches of one leaf, such as queries and keys, are two weights. Two slices of
    a stack are one weight, of which each is a layer.
    """
    stretches = tuple(sorted(origin.parts))
    # Along which axes the slice was picked, and not at which index.
    stacked_axes = tuple(sorted({pick.axis for pick in origin.picks}))
    return _Weight(origin.leaf, parts=stretches, picked=stacked_axes)


def _label_of_part(program: Program, weight: _Weight) -> str:
    """Return "[:, 0:64]" for a stretch of a leaf, "" for a whole leaf."""
    if not weight.parts:
        return ""
    stretches = {axis: f"{start}:{stop}" for axis, start, stop in weight.parts}
    axes = range(len(program.values[weight.leaf].shape))
    return "[" + ", ".join(stretches.get(axis, ":") for axis in axes) + "]"


def _row(
    program: Program,
    name: str,
    leaf: Leaf,
    *,
    met: Sequence[Meeting],
) -> Row:
    """Describe a weight by all its meetings with the signal."""
    # A tied weight is described by its first use.
    first = met[0]
    origin = first.origin
    full = program.values[origin.leaf].shape
    # One slice is the layer; the axes along which it is stacked are not its own.
    picked = {pick.axis for pick in origin.picks}
    own_axes = [axis for axis in range(len(full)) if axis not in picked]
    sizes = list(full)
    for axis, start, stop in origin.parts:
        sizes[axis] = stop - start
    num_slices = 1
    for axis in picked:
        # If f scans a stack in several stretches, the slices of this one count.
        num_slices *= sizes[axis]

    # Axes of the leaf are counted without those along which it is stacked.
    axis_of_slice = {axis: i for i, axis in enumerate(own_axes)}
    shape = tuple(sizes[axis] for axis in own_axes)

    def axes_of_leaf(axes: Sequence[int]) -> Indices:
        """Return axes of `shape`, given axes of the weight in the first meeting."""
        sources = {source for axis in axes for source in origin.axes[axis]}
        of_slice = [axis_of_slice[axis] for axis in sources if axis in axis_of_slice]
        return tuple(sorted(of_slice))

    window = size_of(program, first, first.window_axes)
    if first.kind == "other":
        # Which of its axes are summed is unknown, so both fans are 0.
        window = 0
    return Row(
        name=name,
        path=leaf.path,
        shape=shape,
        stacked=num_slices if num_slices > 1 else None,
        stacked_axes=tuple(sorted(picked)),
        stretches=tuple(sorted(origin.parts)),
        in_axes=axes_of_leaf(first.in_axes),
        out_axes=axes_of_leaf(first.out_axes),
        batch_axes=axes_of_leaf(first.batch_axes),
        window_axes=axes_of_leaf(first.window_axes),
        doubtful_axes=axes_of_leaf(first.doubtful_axes),
        fan_in=window * size_of(program, first, first.in_axes),
        fan_out=window * size_of(program, first, first.out_axes) // first.groups,
        uses=_uses(program, met),
    )


def _uses(
    program: Program,
    met: Sequence[Meeting],
) -> tuple[Use, ...]:
    """Return the uses of one weight, one for each meeting."""
    uses = []
    count: dict[int | None, int] = {}
    for meeting in met:
        picks = meeting.origin.picks
        index = _index(program, meeting)
        number = count.get(index, 0)
        count[index] = number + 1
        # A scan whose iterations use different slices runs over layers; any other scan
        # runs over the steps of a recurrence.
        picking = {pick.scan for pick in picks}
        scans = program.values[meeting.value].scans
        single_iteration = None
        if meeting.origin.position is not None:
            scan, position = meeting.origin.position
            picking.add(scan)
            # A reverse scan begins with the last of what is stacked.
            iteration = program.scans[scan].index_of(position)
            single_iteration = SingleIteration(scans.index(scan), iteration)
        takes_slices = tuple(scan in picking for scan in scans)
        uses.append(
            Use(
                meeting,
                index=index,
                number=number,
                takes_slices=takes_slices,
                single_iteration=single_iteration,
            )
        )
    return tuple(uses)


def _index(program: Program, meeting: Meeting) -> int | None:
    """Return which slice of a stacked leaf is used, if that is a fixed number."""
    shape = program.values[meeting.origin.leaf].shape
    # A stack of one has no index worth writing.
    numbers = [
        pick.index
        for pick in meeting.origin.picks
        if pick.index is not None and shape[pick.axis] > 1
    ]
    return numbers[0] if numbers else None
