"""Copies: weights side by side that read one signal, as experts or an ensemble do.

`einsum("d,edf->ef", x, w)` may be one wide layer of e·f outputs, or e layers of f
outputs each. What comes later tells. If the next weight has one matrix for each e, or
if the results are averaged over e, they are e layers: along that axis the weight has
copies. If the next weight sums over e, as behind the heads of an attention, it is one.
"""

import heapq
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from isometry.structure._meetings import Meeting
from isometry.structure._origins import Origins, matched
from isometry.structure._reading import Program, Value, is_opaque
from isometry.structure._walking import reached

# The axes of the weight that one axis of a value is made of, in the order in which they
# were merged. None stands for an axis that comes from elsewhere.
_Sources: TypeAlias = tuple[int | None, ...]

# The sources of each axis of a value.
_Axes: TypeAlias = tuple[_Sources, ...]

_ELSEWHERE: _Sources = (None,)

# What may happen to an axis of outputs on its way through the program.
# The next weight has one matrix for each of its entries.
_OWN_MATRIX = "own matrix"
# Its entries are added up, each with the same factor for all other outputs.
_AVERAGED = "averaged"
# Its entries are mixed as those of one layer are, or compared with each other.
_MIXED = "mixed"
# The output is reached, or an operation whose axes are not followed.
_LOST = "lost"

# Operations that compare or add up entries along an axis, and keep it.
_ALONG = ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort")

# Reductions that do more than add up.
_COMPARING = ("reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin")

# What makes the factors of an average: those of a softmax, a sigmoid or a top k.
_GATING = frozenset(("exp", "exp2", "logistic", "top_k", "eq", "argmax", "sort"))


def with_copies(
    program: Program,
    origins: dict[int, Origins],
    met: Sequence[Meeting],
) -> list[Meeting]:
    """Return meetings with the axes that count copies moved to their `batch_axes`.

    Args:
        program: The program.
        origins: The origins of values that come from parameters alone.
        met: All meetings of the program: equations that combine a weight with the
            signal.
    """
    found = []
    for meeting in met:
        if meeting.kind != "dense" or len(meeting.out_axes) < 2:
            found.append(meeting)
            continue
        fates = _Fates(program, origins, met=met, meeting=meeting).by_axis
        copies = tuple(
            axis
            for axis in meeting.out_axes
            if _are_copies(fates[axis]) and _is_in_front(meeting, axis)
        )
        doubtful = tuple(
            axis
            for axis in meeting.out_axes
            if axis not in copies
            and _is_doubtful(program, meeting, axis, fate=fates[axis])
        )
        # Copies of a layer without outputs would be no layer.
        if len(copies) == len(meeting.out_axes):
            copies = ()
        found.append(
            meeting._replace(
                out_axes=tuple(a for a in meeting.out_axes if a not in copies),
                batch_axes=(*meeting.batch_axes, *copies),
                doubtful_axes=doubtful,
            )
        )
    return found


def _are_copies(fate: set[str]) -> bool:
    """Tell whether an axis counts copies, by what happens to it."""
    if _MIXED in fate:
        return False
    return _OWN_MATRIX in fate or fate == {_AVERAGED}


def _is_in_front(meeting: Meeting, axis: int) -> bool:
    """Tell whether an axis of outputs is stored before those of the inputs.

    Copies are stacked in front: w[e, d, f]. In w[d, h, f] the outputs of one layer are
    heads, whatever reads them.
    """
    origin = meeting.origin.axes
    inputs = [source for each in meeting.in_axes for source in origin[each] or (each,)]
    own = min(origin[axis], default=axis)
    return own < min(inputs, default=0)


def _is_doubtful(
    program: Program,
    meeting: Meeting,
    axis: int,
    *,
    fate: set[str],
) -> bool:
    """Tell whether an axis may count copies, and nothing says whether it does."""
    is_long = program.values[meeting.weight].shape[axis] > 1
    has_others = any(other > axis for other in meeting.out_axes)
    is_open = _MIXED not in fate and is_long and has_others
    return is_open and (_are_copies(fate) or _is_in_front(meeting, axis))


class _Fates:
    """What happens to each axis of the outputs of a layer, wherever it is read.

    Attributes:
        by_axis: For each of `out_axes` of the meeting, what happens to it.
    """

    by_axis: dict[int, set[str]]

    def __init__(
        self,
        program: Program,
        origins: dict[int, Origins],
        *,
        met: Sequence[Meeting],
        meeting: Meeting,
    ) -> None:
        self._program = program
        self._origins = origins
        # Meetings written as a product w * x and a sum, by the indices of sum and w.
        self._multiplied = {
            (other.value, other.weight): other
            for other in met
            if program.values[other.value].operation == "reduce_sum"
        }
        self.by_axis = {axis: set() for axis in meeting.out_axes}
        shape = program.values[meeting.weight].shape
        self._sizes: dict[int | None, int] = {
            axis: shape[axis] for axis in meeting.out_axes
        }
        self._axes = {meeting.value: _result_axes(program, meeting)}
        # Products of two signals, entry by entry: a sum of one is an inner product.
        self._inner: set[int] = set()
        # Values behind a weight with one matrix for each copy. A weight that reads them
        # is not the next one, and does not count.
        self._behind: set[int] = set()
        self._follow(meeting.value)

    def _follow(self, start: int) -> None:
        """Visit all values that axes of the outputs lead to, in the program's order."""
        if start in self._program.outputs:
            self._note(self._axes[start], _LOST)
        seen = {start}
        pending = list(self._program.readers[start])
        heapq.heapify(pending)
        while pending:
            index = heapq.heappop(pending)
            # What a scan passes to its next iteration comes earlier in the program.
            if index in seen or index < start:
                continue
            seen.add(index)
            if not self._visit(index):
                continue
            if index in self._program.outputs:
                self._note(self._axes[index], _LOST)
            for reader in self._program.readers[index]:
                heapq.heappush(pending, reader)

    def _note(self, axes: _Axes, event: str) -> None:
        """Note what happens to all axes of a value."""
        for axis in range(len(axes)):
            self._note_axis(axes, axis, event)

    def _note_axis(self, axes: _Axes, axis: int, event: str) -> None:
        """Note what happens to one axis of a value."""
        for source in axes[axis]:
            if source is not None:
                self.by_axis[source].add(event)

    def _visit(self, index: int) -> bool:
        """Follow the axes through one operation.

        Returns:
            Whether its result has any axis of the weight.
        """
        value = self._program.values[index]
        results = []
        for position, read in enumerate(value.inputs):
            if read in self._axes:
                axes = self._through(index, position, self._axes[read])
                if axes is not None:
                    results.append(axes)
        if not results:
            return False
        # Operands may know different axes: each axis is taken from the first operand in
        # which it is one of the weight.
        merged = [
            next((axes[i] for axes in results if _is_known(axes[i])), _ELSEWHERE)
            for i in range(len(value.shape))
        ]
        self._axes[index] = tuple(merged)
        if any(read in self._behind for read in value.inputs):
            self._behind.add(index)
        # The result of a product is a sum, and no longer a product of two entries.
        if not value.operation.endswith("general") and self._is_inner(value):
            self._inner.add(index)
        return any(_is_known(sources) for sources in merged)

    def _is_inner(self, value: Value) -> bool:
        """Tell whether a value is made of products of two signals, entry by entry.

        Products with a factor for each expert, broadcast along the outputs, do not
        count.
        """
        if any(read in self._inner for read in value.inputs):
            return True
        if value.operation != "mul":
            return False
        signals = [read for read in value.inputs if read in self._program.of_x]
        if len(signals) < 2:
            return False
        # A factor for each expert is broadcast along the axes of the outputs.
        axes = self._axes_of_any(value)
        of_outputs = {i for i, sources in enumerate(axes) if _is_known(sources)}
        least = min(2, len(of_outputs))
        return all(
            len(of_outputs.intersection(self._varying(read))) >= least
            for read in signals
        )

    def _axes_of_any(self, value: Value) -> _Axes:
        """Return the axes of the first operand of a value that has any."""
        return next(self._axes[read] for read in value.inputs if read in self._axes)

    def _varying(self, index: int) -> list[int]:
        """Return the axes of a value that are longer than 1 and not broadcast."""
        value = self._program.values[index]
        axes = range(len(value.shape))
        if value.operation != "broadcast_in_dim":
            return [axis for axis in axes if value.shape[axis] > 1]
        targets = value.params["broadcast_dimensions"]
        pairs = zip(targets, value.source_shape, strict=True)
        return [target for target, size in pairs if size > 1]

    def _through(self, index: int, position: int, axes: _Axes) -> _Axes | None:
        """Return the axes of the result of an operation; None if none are followed.

        Args:
            index: Index of the result.
            position: Which operand the axes are of.
            axes: The axes of that operand.
        """
        value = self._program.values[index]
        operation = value.operation
        if operation == "dot_general":
            return self._through_product(index, position, axes)
        if operation == "conv_general_dilated":
            return self._through_convolution(value, position, axes)
        if operation == "mul":
            meeting = self._meeting_of_product(index, position)
            if meeting is not None:
                self._meet(value, position, meeting.in_axes, shared=meeting.batch_axes)
                return None
        if operation == "reduce_sum":
            event = _AVERAGED
            if value.inputs[position] in self._inner:
                event = _MIXED
            return self._without(axes, value.params["axes"], event)
        if operation in _COMPARING:
            return self._without(axes, value.params["axes"], _MIXED)
        if operation in _ALONG:
            key = "dimension" if operation == "sort" else "axis"
            self._note_axis(axes, value.params[key], _MIXED)
            return axes
        if operation == "reshape":
            return _reshaped(value, axes, self._sizes)
        moved = _moved(value, axes)
        if moved is None:
            self._note(axes, _LOST)
        return moved

    def _without(self, axes: _Axes, dropped: Sequence[int], event: str) -> _Axes:
        """Return axes without those that are summed away; note what happens to them."""
        for axis in dropped:
            self._note_axis(axes, axis, event)
        return tuple(own for axis, own in enumerate(axes) if axis not in dropped)

    def _meeting_of_product(self, index: int, position: int) -> Meeting | None:
        """Return the meeting that a product w * x and a sum after it make.

        Args:
            index: Index of the product.
            position: Which operand is x.

        Returns:
            The meeting; None if the other operand is a mere factor.
        """
        readers = self._program.readers[index]
        if not readers:
            return None
        # The value of such a meeting is the sum, the only reader of the product.
        weight = self._program.values[index].inputs[1 - position]
        return self._multiplied.get((readers[0], weight))

    def _meet(
        self,
        value: Value,
        position: int,
        summed: Sequence[int],
        *,
        shared: Sequence[int],
    ) -> None:
        """Note how the next weight reads the axes of the signal.

        Args:
            value: The product of the two.
            position: Which operand is the signal.
            summed: The axes of the signal that the weight sums over.
            shared: The axes for each entry of which it has a matrix of its own.
        """
        signal = value.inputs[position]
        if signal in self._behind:
            return
        for axis in summed:
            self._note_axis(self._axes[signal], axis, _MIXED)
        for axis in shared:
            self._note_axis(self._axes[signal], axis, _OWN_MATRIX)

    def _through_product(self, index: int, position: int, axes: _Axes) -> _Axes:
        """Follow axes through a matrix product with a weight or another signal."""
        value = self._program.values[index]
        contracted, batch = value.params["dimension_numbers"]
        summed, shared = tuple(contracted[position]), tuple(batch[position])
        other = value.inputs[1 - position]
        free = [i for i in range(len(axes)) if i not in (*summed, *shared)]
        is_shared = any(_is_known(axes[axis]) for axis in shared)
        num_axes_of_other = len(self._program.values[other].shape)
        # Parameters with no axis but the summed ones are factors, and no weight.
        if other in self._origins and num_axes_of_other > len(summed):
            self._meet(value, position, summed, shared=shared)
            if is_shared:
                self._behind.add(index)
        elif is_shared or len(summed) > 1:
            # An inner product, such as that of queries and keys, has a factor for each
            # output, and the heads of an attention may be summed with its tokens.
            for axis in summed:
                self._note_axis(axes, axis, _MIXED)
        else:
            # A mean over copies has one factor for each copy.
            event = _AVERAGED if self._is_gate(other) else _LOST
            for axis in summed:
                self._note_axis(axes, axis, event)
        own = tuple(axes[axis] for axis in free)
        num_others = len(value.shape) - len(shared) - len(free)
        nothing = (_ELSEWHERE,) * num_others
        of_batch = tuple(axes[axis] for axis in shared)
        if position == 0:
            return (*of_batch, *own, *nothing)
        return (*of_batch, *nothing, *own)

    def _is_gate(self, index: int) -> bool:
        """Tell whether a value holds the factors of an average, as a softmax does."""
        # Fixed numbers, or numbers in params, one for each copy.
        if index not in self._program.of_x:
            return True
        values = self._program.values

        def inputs(index: int) -> Sequence[int]:
            if values[index].operation == "dot_general":
                return ()
            return values[index].inputs

        sources = reached([index], inputs)
        return any(values[source].operation in _GATING for source in sources)

    def _through_convolution(
        self, value: Value, position: int, axes: _Axes
    ) -> _Axes | None:
        """Follow axes through a convolution whose batch of images they may be."""
        numbers = value.params["dimension_numbers"]
        batch, channels, *_ = numbers.lhs_spec
        if position != 0:
            self._note(axes, _LOST)
            return None
        result = [_ELSEWHERE] * len(value.shape)
        result[numbers.out_spec[0]] = axes[batch]
        self._note_axis(axes, channels, _MIXED)
        for axis in range(len(axes)):
            if axis not in (batch, channels):
                self._note_axis(axes, axis, _LOST)
        return tuple(result)


def _is_known(sources: _Sources) -> bool:
    """Tell whether an axis comes from an axis of the weight."""
    return any(source is not None for source in sources)


def _result_axes(program: Program, meeting: Meeting) -> _Axes:
    """Return which axes of the weight the axes of a layer's result are."""
    value = program.values[meeting.value]
    if value.operation != "dot_general":
        # A product that is summed: its axes are those of the weight, as broadcast.
        num_axes = len(program.values[meeting.weight].shape)
        product = [_ELSEWHERE] * num_axes
        for axis in meeting.out_axes:
            product[axis] = (axis,)
        dropped = value.params["axes"]
        return tuple(own for axis, own in enumerate(product) if axis not in dropped)
    own = [(axis,) for axis in meeting.out_axes]
    num_batch = len(meeting.batch_axes)
    num_others = len(value.shape) - num_batch - len(own)
    nothing = [_ELSEWHERE] * num_others
    of_batch = [_ELSEWHERE] * num_batch
    if value.inputs[0] == meeting.weight:
        return (*of_batch, *own, *nothing)
    return (*of_batch, *nothing, *own)


def _moved(value: Value, axes: _Axes) -> _Axes | None:
    """Return the axes of the result of an operation that keeps or moves them.

    None if it is not known what becomes of them.
    """
    operation = value.operation
    params = value.params
    if operation == "transpose":
        return tuple(axes[axis] for axis in params["permutation"])
    if operation == "squeeze":
        dropped = {axis % len(axes) for axis in params["dimensions"]}
        return tuple(own for axis, own in enumerate(axes) if axis not in dropped)
    if operation == "unstack":
        axis = params["axis"]
        # One of the weight is lost.
        if _is_known(axes[axis]):
            return None
        return (*axes[:axis], *axes[axis + 1 :])
    if operation == "stack":
        axis = params["axis"]
        return (*axes[:axis], _ELSEWHERE, *axes[axis:])
    if operation == "broadcast_in_dim":
        result = [_ELSEWHERE] * len(value.shape)
        for own, target in zip(axes, params["broadcast_dimensions"], strict=True):
            result[target] = own
        return tuple(result)
    if operation == "scan_stack":
        return (_ELSEWHERE, *axes)
    if operation == "scan_each":
        # The iterations run over the axis, which ends here. One of the weight is lost.
        if _is_known(axes[0]):
            return None
        return axes[1:]
    if operation in ("concatenate", "slice", "pad", "dynamic_slice", "split", "rev"):
        return _cut(value, axes)
    if is_opaque(value) or operation == "gather":
        return None
    # Anything else with as many axes acts entry by entry.
    if len(value.shape) == len(axes):
        return axes
    return None


def _cut(value: Value, axes: _Axes) -> _Axes | None:
    """Return the axes of a cut or longer value; None if a followed one has changed."""
    source = value.source_shape
    if value.operation == "concatenate":
        changed = [value.params["dimension"]]
    else:
        changed = [i for i, size in enumerate(source) if size != value.shape[i]]
    if any(_is_known(axes[axis]) for axis in changed):
        return None
    return axes


def _reshaped(value: Value, axes: _Axes, sizes: Mapping[int | None, int]) -> _Axes:
    """Return the axes after a reshape, which merges and splits neighbouring ones.

    Args:
        value: The result of the reshape.
        axes: The axes of its operand.
        sizes: The lengths of the axes of the weight.
    """
    result = [_ELSEWHERE] * len(value.shape)
    for old, new in matched(value.source_shape, value.shape):
        merged = tuple(own for axis in old for own in axes[axis])
        lengths = [value.shape[axis] for axis in new]
        # What was merged is split again as it was. Of anything else each part may hold
        # entries of all that were merged.
        if len(new) == len(merged) and lengths == [sizes.get(own) for own in merged]:
            for axis, own in zip(new, merged, strict=True):
                result[axis] = (own,)
        else:
            for axis in new:
                result[axis] = merged
    return tuple(result)
