"""Why a Jacobian is exactly zero: which operations stop a perturbation of x.

A perturbation is followed through the program. It stops at an operation if some operand
changes with x, and the result does not. Such an operation is called a stop. Together
the stops cut the output off from x. Those that are not needed for that are left out.
Comparisons are named only if there is nothing else: a mask such as x > 0 never has a
derivative, and is not what is wrong with a network whose units are saturated.
"""

import collections
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from isometry._internal.types import Params
from isometry.structure import _names
from isometry.structure._anatomy import Anatomy, anatomy
from isometry.structure._flow import LAYOUT
from isometry.structure._perturbing import Followed, Key, Magnitudes, followed
from isometry.structure._reading import Program, Value, read
from isometry.structure._records import WeightLayer
from isometry.structure._walking import reached

Map: TypeAlias = Callable[[Params, PyTree[Array]], Array]

# What `Value.operation` says of values that no operation computes: arguments, and what
# enters or leaves a scan. A perturbation cannot stop at them.
_NO_OPERATIONS = frozenset(
    ("argument", "constant", "scan_carry", "scan_each", "scan_last", "scan_stack")
)

_COMPARISONS = frozenset(
    ("eq", "ne", "lt", "le", "gt", "ge", "is_finite", "and", "or", "not", "xor")
)
_STEPS = frozenset(("sign", "round", "floor", "ceil", "argmax", "argmin"))
_PRODUCTS = frozenset(("dot_general", "conv_general_dilated", "mul", "gather"))
_SUMS = frozenset(("add", "sub", "add_any"))
_RECTIFIERS = frozenset(("max", "min", "select_n", "clamp"))
_SATURATING = frozenset(("tanh", "logistic", "erf", "erfc", "exp", "exp2", "expm1"))

# Operations whose primitives have other names than users know.
_SPOKEN = {
    "select_n": "where",
    "cond_choice": "the branch taken of a cond",
    "dot_general": "a matrix product",
    "conv_general_dilated": "a convolution",
    "while": "a loop of unknown length",
    "logistic": "sigmoid",
}

# Derivatives below this multiple of the smallest normal number of their dtype count as
# underflow. At 1, products would be missed whose sums cancel; at 1e10, underflow would
# be blamed where something else makes small derivatives zero.
_MARGIN = 1e3

# Entries of a softmax above exp(-1e-3) count as all of its weight. Derivatives are of
# the size of 1 minus the entry, so those that are zero exactly are far nearer to 1.
_LOG_OF_ALL = -1e-3

# The most causes that a message names.
_MOST_SHOWN = 3


class _Stop(NamedTuple):
    """An operation at which a perturbation of x stops.

    Some operand changes with x, and the result does not.

    Attributes:
        value: Index of the result in the program.
        iteration: The first iteration, of the scans around the operation, in which the
            perturbation stops.
        changing: Indices of the operands that change in that iteration.
    """

    value: int
    iteration: tuple[int, ...]
    changing: tuple[int, ...]


def cause_of_zero(
    f: Map,
    params: Params,
    x: PyTree[Array],
    *,
    name_of_x: str = "x",
) -> str:
    """Say why the derivative of f with respect to x is zero exactly.

    Args:
        f: A function of parameters and one input.
        params: Its parameters, arrays.
        x: Its input. Its floating leaves are perturbed.
        name_of_x: The name of x in the sentence.

    Returns:
        One sentence without a full stop; several with semicolons between, if it takes
        several operations to cut the output off from x.
    """
    # Names come from the anatomy; where derivatives stop, from running the program.
    an = anatomy(f, params, x)
    num_params = an.params_tree.num_leaves
    program = read(an.closed, num_params)
    relevant = program.of_x & _dependencies(program, program.outputs)
    if not relevant:
        return f"there is no path from {name_of_x} to the output: f ignores it"
    leaves = jax.tree.leaves((params, x))
    followed_values = followed(
        an.closed,
        leaves,
        num_params,
        derivatives=frozenset(_key(program.values[i]) for i in relevant),
        sizes=frozenset(
            _key(program.values[i]) for i in _factors_and_params(program, relevant)
        ),
    )
    search = _Search(program, followed_values.records, relevant)
    stops = search.minimal(search.stops())
    if not stops:
        return "the cause was not found"
    words = _Words(
        an,
        program,
        followed_values,
        name_of_x=name_of_x,
        leaf_paths=_names.leaves(params),
    )
    sentences = dict.fromkeys(words.sentence(stop) for stop in stops)
    # Several operations may have the same description, such as all casts at x.
    shown = list(sentences)[:_MOST_SHOWN]
    if len(sentences) > len(shown):
        shown.append(f"and {len(sentences) - len(shown)} more like these")
    return "; ".join(shown)


def _dependencies(
    program: Program,
    end: Iterable[int],
) -> frozenset[int]:
    """Return the indices of `end`, and of all values on which one of `end` depends."""
    feedback = program.feedback

    def inputs(index: int) -> Sequence[int]:
        read = program.values[index].inputs
        # A state of a scan also depends on what the iteration before returned.
        if index in feedback:
            return [*read, feedback[index]]
        return read

    return frozenset(reached(end, inputs))


def _factors_and_params(
    program: Program,
    relevant: frozenset[int],
) -> frozenset[int]:
    """Return the indices of the values whose size may explain a zero.

    These are the factors of the products between x and the output, and the parameters:
    a factor of zeros makes a product zero. Of a softmax it is the result: where an
    entry is 1, the others have no weight left.

    Args:
        program: The program.
        relevant: Indices of the values between x and the output.
    """
    indices = set(program.params)
    for index in relevant:
        value = program.values[index]
        if value.operation in _PRODUCTS:
            indices.update(value.inputs)
        elif _is_softmax(program, value):
            indices.add(index)
    return frozenset(indices)


def _is_softmax(program: Program, value: Value) -> bool:
    """Tell whether a value is exp(z) / sum(exp(z))."""
    if value.operation != "div":
        return False
    numerator, denominator = (_before_layout(program, read) for read in value.inputs)
    summed = program.values[denominator]
    if summed.operation != "reduce_sum":
        return False
    is_exponential = program.values[numerator].operation in ("exp", "exp2")
    return is_exponential and _before_layout(program, summed.inputs[0]) == numerator


def _before_layout(program: Program, index: int) -> int:
    """Walk back from a value over operations that only move, broadcast or cast."""
    while program.values[index].operation in LAYOUT and program.values[index].inputs:
        (index, *_) = program.values[index].inputs
    return index


def _key(value: Value) -> Key:
    """Return how `_perturbing` identifies a value."""
    return value.path, value.var


class _Search:
    """The values between x and the output, and whether they change with x."""

    def __init__(
        self,
        program: Program,
        followed_values: dict[Key, Magnitudes],
        relevant: frozenset[int],
    ) -> None:
        self._program = program
        self._relevant = relevant
        # Whether each value changes with x, in each iteration of the scans around it.
        self._changes: dict[int, Bool[np.ndarray, "*iterations"]] = {}
        # Values inside a cond or a loop of unknown length have no record. They count as
        # changing if one of their inputs does, so that a stop after them is found.
        self._without_record: set[int] = set()
        for index in sorted(relevant):
            value = program.values[index]
            record = followed_values.get(_key(value))
            if record is None:
                self._without_record.add(index)
                of_inputs = [
                    self._changes[read]
                    for read in value.inputs
                    if read in self._changes
                ]
                any_changes = any(np.any(changes) for changes in of_inputs)
                self._changes[index] = np.full((1,) * len(value.scans), any_changes)
            else:
                self._changes[index] = record.log_derivative > -np.inf

    def stops(self) -> list[_Stop]:
        """Return the operations at which a perturbation of x stops.

        Some operand changes with x, the result does not. One iteration of a scan is
        enough.
        """
        stops = []
        # In the order of the program, so that causes are named from x to the output.
        for index in sorted(self._relevant - self._without_record):
            value = self._program.values[index]
            if value.operation in _NO_OPERATIONS:
                continue
            result_changes = self._changes[index]
            operands = [read for read in value.inputs if read in self._relevant]
            num_scans = result_changes.ndim
            operand_changes = np.zeros(result_changes.shape, bool)
            for operand in operands:
                changes = self._changes[operand]
                changes = _over_iterations(changes, num_scans)
                operand_changes = operand_changes | changes
            is_stop = operand_changes & ~result_changes
            if np.any(is_stop):
                iteration = tuple(int(i) for i in np.argwhere(is_stop)[0])
                changing = self._changing_at(iteration, operands)
                stops.append(_Stop(index, iteration, changing))
        return stops

    def _changing_at(
        self,
        iteration: tuple[int, ...],
        operands: Iterable[int],
    ) -> tuple[int, ...]:
        """Return the operands that change with x in one iteration, each once."""
        return tuple(
            operand
            for operand in dict.fromkeys(operands)
            if np.all(_at_iteration(self._changes[operand], iteration))
        )

    def minimal(self, stops: list[_Stop]) -> list[_Stop]:
        """Return stops that cut the output off from x, none of which can be left out.

        Comparisons are among them only if they cut it off by themselves.
        """
        comparisons = [stop for stop in stops if self._is_comparison(stop)]
        needed = [stop for stop in stops if stop not in comparisons]
        # Comparisons are taken for cut in any case, and are not named.
        passed_over = comparisons
        if self._cut_off(comparisons):
            needed, passed_over = comparisons, []
        # Greedy: the set need not be the smallest, but none of it can be left out.
        for stop in sorted(needed, key=self._plausibility):
            others = [other for other in needed if other is not stop]
            if others and self._cut_off([*others, *passed_over]):
                needed = others
        return needed

    def _is_comparison(self, stop: _Stop) -> bool:
        """Tell whether a perturbation stops at a comparison."""
        return self._program.values[stop.value].operation in _COMPARISONS

    def _plausibility(self, stop: _Stop) -> tuple[int, int]:
        """Return a sort key of stops: the least plausible cause comes first."""
        operation = self._program.values[stop.value].operation
        return int(operation in _PRODUCTS), stop.value

    def _cut_off(self, stops: list[_Stop]) -> bool:
        """Tell whether every path from x to the output meets one of the stops."""
        # The body of a scan occurs once in the program. An operation that stops the
        # perturbation in one iteration is taken to stop it in all.
        blocked = {stop.value for stop in stops}
        readers = self._program.readers
        starts = set(self._program.x) - blocked
        passed = reached(starts, lambda index: set(readers[index]) - blocked)
        return passed.isdisjoint(self._program.outputs)


def _over_iterations(
    changes: np.ndarray,
    num_scans: int,
) -> np.ndarray:
    """Append unit axes up to `num_scans`, to broadcast over the inner scans."""
    return changes.reshape(changes.shape + (1,) * (num_scans - changes.ndim))


def _at_iteration(
    record: np.ndarray,
    iteration: tuple[int, ...],
) -> np.ndarray:
    """Return the entry of a record for one iteration of the scans around a value."""
    # The value may be outside of the inner scans.
    outer = iteration[: record.ndim]
    # Values without a record have one entry for all iterations.
    index = [min(i, size - 1) for i, size in zip(outer, record.shape, strict=True)]
    return record[tuple(index)]


class _Words:
    """Describes stops in sentences, with the names of points and layers."""

    def __init__(
        self,
        an: Anatomy,
        program: Program,
        followed_values: Followed,
        name_of_x: str,
        leaf_paths: list[_names.Leaf],
    ) -> None:
        self._name_of_x = name_of_x
        self._anatomy = an
        self._program = program
        self._records, self._ruled = followed_values
        self._leaf_paths = leaf_paths
        self._points: dict[Key, list[tuple[tuple[int, ...], str]]] = {}
        for name in an.points:
            place = an.place(name)
            places = self._points.setdefault((place.path, place.var), [])
            places.append((place.iterations, name))
        inputs = [self._names_of(index, ()) for index in program.x]
        self._inputs = frozenset(itertools.chain.from_iterable(inputs))
        self._depends_on_x = program.of_x
        self._readers = program.readers

    def sentence(self, stop: _Stop) -> str:
        """Say how an operation stops a perturbation."""
        value = self._program.values[stop.value]
        operation = value.operation
        title = _title(value)
        where = self._where(stop)
        if "stop_gradient" in (operation, *value.calls):
            return f"stop_gradient {where} lets no derivative through"
        if operation in _STEPS:
            return f"{title} {where} is piecewise constant"
        if operation in _COMPARISONS:
            return f"a comparison {where} is piecewise constant"
        if operation == "convert_element_type":
            return f"{self._what(stop)} is cast to {value.aval.dtype}{self._advice()}"
        # Activations of jax.nn have derivative rules too, but are named as activations.
        is_known = operation in _RECTIFIERS | _SATURATING
        if _key(value) in self._ruled and not is_known:
            return f"a derivative rule of f's own {where} returns zero"
        if operation in _PRODUCTS:
            return self._of_product(stop)
        # The slopes of the operations below are at most about 1, so that a derivative
        # underflows only if it was small before.
        if self._underflows(stop, log_factor=0.0):
            return f"the derivative underflows {where}"
        if operation in _RECTIFIERS:
            return f"no unit {where} is active: {title} is flat at all of them"
        if operation in _SATURATING:
            return f"every unit {where} is saturated: {title} is flat at all of them"
        if operation in _SUMS:
            return f"derivatives cancel exactly in a sum {where}"
        if _is_softmax(self._program, value):
            return self._of_softmax(stop)
        return f"the derivative of {title} is zero {where}"

    def _of_softmax(self, stop: _Stop) -> str:
        """Say why a softmax does not change although its logits do."""
        where = self._where(stop)
        log_size = self._log_size(stop.value, stop.iteration)
        if log_size == np.inf:
            return f"the derivative of a softmax is zero {where}"
        if log_size > _LOG_OF_ALL:
            return (
                f"the softmax {where} is saturated: one entry takes all the weight, or "
                "there is only one"
            )
        return f"the softmax {where} ignores a shift that all its logits share"

    def _advice(self) -> str:
        """Advise where a span can start if x is cast to indices of an embedding."""
        for layer in self._anatomy.embeddings:
            return f" and picks rows; write span=({layer.name!r}, 'output')"
        return ""

    def _of_product(self, stop: _Stop) -> str:
        """Say why a product does not change although one of its factors does."""
        value = self._program.values[stop.value]
        where = self._where(stop)
        others = [operand for operand in value.inputs if operand not in stop.changing]
        for operand in others:
            log_size = self._log_size(operand, stop.iteration)
            leaves = self._leaves_of(operand)
            # Tried in this order: the whole factor is zero, it is small enough for
            # underflow, some of its entries are zero.
            if log_size == -np.inf:
                return self._zero_factor(operand, stop, leaves)
            if self._underflows(stop, log_factor=log_size):
                return f"the derivative underflows {where}"
            if len(leaves) == 1:
                weight = self._weight(leaves[0], stop)
                return f"{weight} is zero in all entries that meet a unit that moves"
        return f"the derivative of {_title(value)} is zero {where}"

    def _zero_factor(
        self,
        operand: int,
        stop: _Stop,
        leaves: list[int],
    ) -> str:
        """Say which factor of a product is zero."""
        if operand in self._depends_on_x:
            where = self._where(stop)
            return f"no unit {where} is active: all of them are multiplied by zero"
        if not leaves:
            return f"{self._what(stop)} is multiplied by a constant zero"
        if len(leaves) > 1:
            return self._zero_of_several(leaves, stop)
        weight = self._weight(leaves[0], stop)
        layer = self._layer(leaves[0])
        is_slice = layer is not None and layer.stacked is not None
        leaf = self._program.params[leaves[0]]
        if is_slice or self._log_size(leaf, ()) == -np.inf:
            return f"{weight} is zero"
        return f"{weight} is zero in the form in which it is used"

    def _zero_of_several(
        self,
        leaves: list[int],
        stop: _Stop,
    ) -> str:
        """Say that a factor made of several leaves is zero, and which of them are."""
        of_zero = [
            leaf
            for leaf in leaves
            if self._log_size(self._program.params[leaf], ()) == -np.inf
        ]
        # Such as the scale of a norm, which is divided by a variance in params.
        if len(of_zero) == 1:
            return f"{self._weight(of_zero[0], stop)} is zero"
        weights = [self._weight(leaf, stop) for leaf in of_zero or leaves]
        return f"a weight is zero that is made of {' and '.join(weights)}"

    def _underflows(
        self,
        stop: _Stop,
        log_factor: float,
    ) -> bool:
        """Tell whether all derivatives of changing operands underflow, by a factor."""
        dtype = self._program.values[stop.value].aval.dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            return False
        values = [self._program.values[operand] for operand in stop.changing]
        records = [self._records[_key(v)] for v in values if _key(v) in self._records]
        log_derivatives = [
            _at_iteration(record.log_derivative, stop.iteration) for record in records
        ]
        smallest = np.log(float(jnp.finfo(dtype).tiny)) + np.log(_MARGIN)
        # Without a record of each operand nothing is claimed.
        if not records or len(records) < len(values):
            return False
        return max(log_derivatives) + log_factor < smallest

    def _log_size(
        self,
        index: int,
        iteration: tuple[int, ...],
    ) -> float:
        """Return ln of the largest entry of a value; inf if there is no record."""
        value = self._program.values[index]
        if value.operation == "constant" and value.number is not None:
            largest = np.max(np.abs(np.asarray(value.number, float)), initial=0.0)
            return float(np.log(largest)) if largest > 0 else -np.inf
        record = self._records.get(_key(value))
        # Without a record nothing is claimed: it counts as neither zero nor small.
        if record is None:
            return np.inf
        return float(_at_iteration(record.log_size, iteration))

    def _what(self, stop: _Stop) -> str:
        """Return words for the operand that changes: x, or a value after a point."""
        where = self._where(stop)
        return f"a value {where}" if where.startswith("behind") else where[len("at ") :]

    def _where(self, stop: _Stop) -> str:
        """Return words for where a stop is: "at x", or "behind" the last point."""
        name = self._nearest_point(stop)
        if name is None:
            return f"at {self._name_of_x}"
        if name in self._inputs:
            # A leaf of a tree of inputs is "input/leaf".
            return f"at {self._name_of_x}{name[len('input') :]}"
        return f"behind {name!r}"

    def _nearest_point(self, stop: _Stop) -> str | None:
        """Return the name of the point that is the fewest operations before a stop."""
        # Breadth first. Operands are tried in the order in which they are written.
        visited = set(stop.changing)
        pending = collections.deque(stop.changing)
        while pending:
            index = pending.popleft()
            names = self._names_of(index, stop.iteration)
            if names:
                return names[0]
            for operand in self._program.values[index].inputs:
                if operand in self._depends_on_x and operand not in visited:
                    visited.add(operand)
                    pending.append(operand)
        return None

    def _leaves_of(self, index: int) -> list[int]:
        """Return the leaves of params of which a value is made, as positions in params.

        [] for a value that depends on x too: it is no weight, and its zeros are not the
        fault of any one leaf.
        """
        if index in self._depends_on_x:
            return []
        ancestors = _dependencies(self._program, [index])
        leaves = self._program.params
        return [position for position, leaf in enumerate(leaves) if leaf in ancestors]

    def _weight(
        self,
        leaf: int,
        stop: _Stop,
    ) -> str:
        """Return words for a leaf of params: its layer, or its path if it has none."""
        layer = self._layer(leaf)
        if layer is None:
            return f"params{self._leaf_paths[leaf].path}"
        name = layer.name
        if layer.stacked is not None:
            name = self._pre_activation(name, stop) or name
        # "rnn@3" and "rnn#2" are uses of the weight "rnn".
        return f"the weight {re.split('[@#]', name)[0]!r}"

    def _layer(self, leaf: int) -> WeightLayer | None:
        """Return the first layer whose weight is this leaf or a part of it."""
        path = self._leaf_paths[leaf].path
        layers = (layer for layer in self._anatomy.layers if layer.path == path)
        return next(layers, None)

    def _pre_activation(
        self,
        layer: str,
        stop: _Stop,
    ) -> str | None:
        """Return the name of a layer's nearest pre-activation after a stop, or None."""
        visited = {stop.value}
        pending = collections.deque(visited)
        while pending:
            index = pending.popleft()
            for name in self._names_of(index, stop.iteration):
                if name.startswith(layer) and ":" not in name[len(layer) :]:
                    return name
            new = [reader for reader in self._readers[index] if reader not in visited]
            visited.update(new)
            pending.extend(new)
        return None

    def _names_of(
        self,
        index: int,
        iteration: tuple[int, ...],
    ) -> list[str]:
        """Return the names of a value in one iteration of the scans around it."""
        points = self._points.get(_key(self._program.values[index]), ())
        return [
            name
            for iterations, name in points
            if iterations == iteration[: len(iterations)]
        ]


def _title(value: Value) -> str:
    """Return the name by which a user knows an operation.

    It is the innermost function of jax.nn around the operation ("relu"), or else the
    operation in words ("a matrix product"), or the name of its primitive.
    """
    for call in reversed(value.calls):
        if hasattr(jax.nn, call):
            return call
    return _SPOKEN.get(value.operation, value.operation)
