"""Which values at a point of a network stay equal up to sign for ever."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from isometry import structure
from isometry._internal import checks, precision
from isometry.certificates import _members
from isometry.certificates._gradients import Space, shaken
from isometry.certificates._layers import slice_ids
from isometry.certificates._partition import Partition, all_zero, split
from isometry.certificates._subject import Subject
from isometry.structure._tapping import tapped

_SLACK = 32.0

# Parameters at which values are compared, each at an input of its own. One bias can
# switch a rectified unit off at every input, so a unit is only off at all of them with
# a chance of about 2^-64 if each has fresh parameters. Ten times as many would take ten
# times as long; with six, one healthy unit of 64 would pass for dead.
_POINTS = 64


@dataclass(frozen=True, eq=False)
class Units:
    """Which values at a point stay equal, up to sign, for ever.

    Attributes:
        point: The name of the point.
        ids: The class of each value, in the shape of the point; 0 is zero for ever.
        signs: The sign of each value relative to its class; 0 where it is zero.

    Example:
        >>> net = networks.mlp([3, 4, 2], "tanh", jax.nn.initializers.ones)
        >>> cert = isometry.certify(net, net.init(jax.random.key(0)))
        >>> cert.units("layers/0:out").ids
        array([1, 1, 1, 1])
    """

    point: str
    ids: Int[np.ndarray, "..."]
    signs: Int[np.ndarray, "..."]

    def distinct(self, axis: int = -1) -> int:
        """Count the slices along an axis that can ever differ, up to sign.

        Args:
            axis: The axis; the last, of units or channels, by default.

        Returns:
            Their number, without those that are zero for ever.
        """
        ids = slice_ids(self.ids * self.signs, axis % self.ids.ndim)
        return len(set(ids[ids >= 0].tolist()))

    def __repr__(self) -> str:
        num_classes = len(set(self.ids[self.ids > 0].tolist()))
        text = f"Units({self.point!r}: {self.ids.size} values, {num_classes} distinct"
        num_zeros = int((self.ids == 0).sum())
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
        kind = (i + 1) % _members.NUM_KINDS
        theta = _members.exact_point(space, equal, kind, rng=rng)
        # Every point splits classes by itself; kinks are not relaxed here.
        values, errors = reading.at(theta)
        if not np.isfinite(values).all():
            # A variance below zero, for example. Leaves that start positive stay so:
            # an open part of the space shows all that is true in the whole.
            values, errors = reading.at(_with_positive_leaves(theta, space))
        # What is still not finite shows no equality, and so nothing is said of it.
        is_known = np.isfinite(values) & np.isfinite(errors)
        values = np.where(is_known, values, rng.standard_normal(values.shape))
        tolerance = _SLACK * np.where(is_known, errors, 0.0)
        partition = split(partition, values, tolerance, group=group)
        if not partition.is_open:
            break
    signs = np.ones(partition.size, int)
    # Of an entry that is alone the sign says nothing.
    signs[partition.members] = partition.signs[partition.members]
    signs[partition.zeros] = 0
    ids = partition.labels().reshape(shape)
    return Units(point, ids, signs.reshape(shape))


def _with_positive_leaves(
    theta: Float[np.ndarray, " n"],
    space: Space,
) -> Float[np.ndarray, " n"]:
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
        # Traced in float64, unless f insists on the dtype of its parameters.
        params = space.params([jnp.asarray(a) for a in space.arrays(space.theta)])
        x = precision.cast(about.draw_point(jax.random.key(0)), jnp.float64)
        try:
            anatomy = structure.anatomy(about.point_f, params, x)
        except TypeError:
            anatomy = about.points
        place = anatomy.place(point)
        program = tapped(anatomy.closed, {point: place})
        self._dtypes = [var.aval.dtype for var in anatomy.closed.jaxpr.invars]
        self._compiled = jax.jit(lambda arguments: program(arguments, {})[1][point])
        self._about, self._space, self._rng = about, space, rng
        shape = anatomy.shape(point)
        self._unit = float(jnp.finfo(shape.dtype).eps) / 2

    def at(
        self, theta: Float[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Return the values at a random input, and their errors."""
        seed = int(self._rng.integers(2**31))
        x = self._about.draw_point(jax.random.key(seed))
        values = self._read(theta, x)
        errors = 2 * self._unit * np.abs(values)
        for _ in range(2):
            moved = shaken((theta, x), self._unit, self._rng)
            errors = np.fmax(errors, np.abs(self._read(*moved) - values))
        return values, errors

    def _read(
        self,
        theta: Float[np.ndarray, " n"],
        x: PyTree,
    ) -> Float[np.ndarray, " k"]:
        params = self._space.params(self._space.arrays(theta))
        leaves = jax.tree.leaves((params, x))
        arguments = [
            _in_dtype(leaf, dtype)
            for leaf, dtype in zip(leaves, self._dtypes, strict=True)
        ]
        with precision.full():
            return np.asarray(self._compiled(arguments), np.float64).ravel()


def _in_dtype(leaf: Array | np.ndarray, dtype: np.dtype) -> Array | np.ndarray:
    """Return a leaf in the dtype that a program takes; a key as it is."""
    return leaf if checks.is_key(leaf) else jnp.asarray(leaf, dtype)
