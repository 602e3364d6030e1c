"""Which values at a point of a network stay equal up to sign for ever."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from isometry import structure
from isometry._internal import checks, kinds, precision
from isometry.certificates import _members
from isometry.certificates._draws import input_of
from isometry.certificates._gradients import Space, shaken
from isometry.certificates._layers import slice_ids
from isometry.certificates._partition import Partition, Vector, all_zero, split
from isometry.certificates._programs import REFUSALS
from isometry.certificates._subject import Subject
from isometry.structure import Anatomy
from isometry.structure._tapping import tapped

# Values that differ by less than this many times the measured error are equal, as for
# gradients.
_SLACK = 32.0

# How many times rounding is measured at each input.
_TRIALS = 2

# Values are compared at this many random parameters, each with an input of its own. A
# healthy rectified unit is off at all of them with probability 2^-64. (At one parameter
# a bias could switch it off at every input.) Ten times as many would take ten times as
# long; with six, one healthy unit in 64 would pass for dead.
_POINTS = 64


@dataclass(frozen=True, eq=False)
class Units:
    """Which values at a point stay equal, up to sign, for ever.

    Attributes:
        point: The name of the point.
        ids: The class of each value, in the shape of the point; 0 is zero for ever.
        signs: The sign of each value relative to its class; 0 where it is zero.
        axes: The axes of the units, channels or heads; the others are positions, such
            as pixels and tokens. Values of a channel at all positions are one unit.

    Example:
        >>> net = networks.mlp([3, 4, 2], "tanh", jax.nn.initializers.ones)
        >>> cert = isometry.certify(net, net.init(jax.random.key(0)))
        >>> cert.units("layers/0:out").ids
        array([1, 1, 1, 1])
    """

    point: str
    ids: Int[np.ndarray, "..."]
    signs: Int[np.ndarray, "..."]
    axes: tuple[int, ...] = (-1,)

    def distinct(self, axis: int | None = None) -> int:
        """Count the units, or the slices along an axis, that can ever differ.

        Args:
            axis: An axis; by default units are counted, each over all positions.

        Returns:
            Their number, up to sign, without those that are zero for ever.
        """
        axes = self.axes if axis is None else (axis,)
        ids = self._numbers(axes)
        return len(set(ids[ids >= 0].tolist()))

    def _numbers(self, axes: Sequence[int]) -> Int[np.ndarray, " units"]:
        """Return a number for each slice along some axes; -1 is zero for ever."""
        code = np.moveaxis(self.ids * self.signs, axes, range(len(axes)))
        num_slices = math.prod(code.shape[: len(axes)])
        return slice_ids(code.reshape(num_slices, -1), 0)

    def __repr__(self) -> str:
        numbers = self._numbers(self.axes)
        num_positions = self.ids.size // max(len(numbers), 1)
        noun = "values" if num_positions == 1 else "channels"
        text = f"Units({self.point!r}: {len(numbers)} {noun}"
        if num_positions > 1:
            text += f" at {num_positions} positions"
        text += f", {self.distinct()} distinct"
        num_zeros = int((numbers < 0).sum())
        if num_zeros:
            text += f", {num_zeros} zero for ever"
        return text + ")"


def observe(
    about: Subject,
    point: str,
    space: Space,
    *,
    equal: Partition,
    rng: np.random.Generator,
) -> Units:
    """Compare the values at a point at random members of a space.

    Args:
        about: The function, with the anatomy of one example.
        point: One of its points.
        space: The parameters.
        equal: The classes of the parameters that training never parts.
        rng: The source of randomness.
    """
    # An unknown point is refused before anything is compiled.
    shape = about.points.shape(point).shape
    reading = _Reading(about, point, space, rng=rng)
    partition = all_zero(math.prod(shape))
    group = np.zeros(partition.size, np.int32)
    for i in range(_POINTS):
        if not partition.is_open:
            break
        kind = (i + 1) % _members.NUM_KINDS
        theta = _members.exact_point(space, equal, kind, rng=rng)
        x = reading.drawn()
        # Kinks are not relaxed here.
        values = reading.at(theta, x)
        if not np.isfinite(values).all():
            # A variance below zero, for example. Leaves that start positive stay so:
            # an open part of the space shows all that is true in the whole.
            theta = _with_positive_leaves(theta, space)
            values = reading.at(theta, x)
        # What is still not finite shows no equality, and so nothing is said of it.
        anything = rng.standard_normal(values.shape)
        values = np.where(np.isfinite(values), values, anything)
        finest = split(partition, values, np.zeros(len(values)), group=group)
        # Values that are equal bit for bit, as zeros are, no tolerance parts, and
        # errors take two thirds of the time.
        if _is_as_before(finest, partition):
            continue
        errors = reading.errors(theta, x, values=values)
        is_known = np.isfinite(errors)
        values = np.where(is_known, values, anything)
        tolerance = _SLACK * np.where(is_known, errors, 0.0)
        partition = split(partition, values, tolerance, group=group)
    signs = np.ones(partition.size, int)
    # Of an entry that is alone the sign says nothing.
    signs[partition.members] = partition.signs[partition.members]
    signs[partition.zeros] = 0
    ids = partition.labels().reshape(shape)
    axes = _unit_axes(about.points, point, shape)
    return Units(point, ids, signs.reshape(shape), axes=axes)


def _unit_axes(
    anatomy: Anatomy,
    point: str,
    shape: Sequence[int],
) -> tuple[int, ...]:
    """Return the axes that count units, and not positions; all if nothing tells."""
    every_axis = tuple(range(len(shape)))
    name = point.partition(":")[0]
    # "blocks/fc[2]" is a slice of the stacked weight "blocks/fc".
    names = (name, name.rpartition("[")[0])
    layer = next((layer for layer in anatomy.layers if layer.name in names), None)
    if layer is None:
        return every_axis
    sizes = [layer.shape[axis] for axis in (*layer.batch_axes, *layer.out_axes)]
    # Channels come last, unless a convolution has them in front.
    if sizes == list(shape[-len(sizes) :]):
        return every_axis[-len(sizes) :]
    if len(sizes) == 1 and list(shape).count(sizes[0]) == 1:
        return (list(shape).index(sizes[0]),)
    return every_axis


def _is_as_before(after: Partition, before: Partition) -> bool:
    """Tell whether a split has left all classes as they were."""
    pairs = ((after.zeros, before.zeros), (after.members, before.members))
    are_equal = all(len(now) == len(then) for now, then in pairs)
    return are_equal and len(after.starts) == len(before.starts)


def _with_positive_leaves(
    theta: Vector,
    space: Space,
) -> Vector:
    """Return theta with absolute values in leaves that are positive at the start."""
    is_positive = np.ones(len(space.arrays(space.theta)), bool)
    np.logical_and.at(is_positive, space.leaf, space.theta > 0)
    return np.where(is_positive[space.leaf], np.abs(theta), theta)


class _Reading:
    """Reads the values at a point, with their errors of rounding."""

    def __init__(
        self,
        about: Subject,
        point: str,
        space: Space,
        *,
        rng: np.random.Generator,
    ) -> None:
        copies = [array.copy() for array in space.arrays(space.theta)]
        arrays = [checks.on_device(array) for array in copies]
        params = space.params(arrays)
        x = about.draw_point(jax.random.key(0))
        x = precision.cast(x, jnp.float64)
        # f is traced in float64. If it refuses that, the anatomy serves that was traced
        # in the dtype of the parameters.
        try:
            anatomy = structure.anatomy(about.point_f, params, x)
        except REFUSALS:
            anatomy = about.points
        place = anatomy.place(point)
        program = tapped(anatomy.closed, {point: place})

        def read(arguments: list[Array]) -> Array:
            _, readings = program(arguments, {})
            return readings[point]

        self._compiled = jax.jit(read)
        self._dtypes = [var.aval.dtype for var in anatomy.closed.jaxpr.invars]
        self._about, self._space, self._rng = about, space, rng
        dtype = anatomy.shape(point).dtype
        # Half the spacing at 1.
        self._unit = float(jnp.finfo(dtype).eps) / 2

    def drawn(self) -> PyTree:
        """Draw a random input."""
        seed = int(self._rng.integers(2**31))
        return input_of(self._about.draw_point, seed)

    def errors(
        self,
        theta: Vector,
        x: PyTree,
        *,
        values: Float[np.ndarray, " k"],
    ) -> Float[np.ndarray, " k"]:
        """Return by how much values move if the arguments move by rounding."""
        # Two values that are compared are rounded each.
        errors = 2 * self._unit * np.abs(values)
        for _ in range(_TRIALS):
            moved_theta, moved_x = shaken((theta, x), self._unit, self._rng)
            difference = self.at(moved_theta, moved_x) - values
            errors = np.fmax(errors, np.abs(difference))
        return errors

    def at(
        self,
        theta: Vector,
        x: PyTree,
    ) -> Float[np.ndarray, " k"]:
        """Return the values at an input."""
        params = self._space.params(self._space.arrays(theta))
        leaves = jax.tree.leaves((params, x))
        arguments = [
            _in_dtype(leaf, dtype)
            for leaf, dtype in zip(leaves, self._dtypes, strict=True)
        ]
        with precision.full():
            values = self._compiled(arguments)
        return np.asarray(values, np.float64).ravel()


def _in_dtype(
    leaf: Array | np.ndarray,
    dtype: np.dtype,
) -> Array | np.ndarray:
    """Return a leaf in the dtype that a program takes; a key as it is."""
    if kinds.is_key(leaf):
        return leaf
    return np.asarray(leaf, dtype)
