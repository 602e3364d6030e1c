"""Gradients of f at random points, as flat vectors, with their rounding errors."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from isometry._internal import kinds, precision
from isometry._internal.errors import NotFinite
from isometry._internal.types import Key, Params
from isometry.certificates._draws import input_of
from isometry.certificates._partition import Mask, Vector
from isometry.certificates._programs import Program

Draw: TypeAlias = Callable[[Key], PyTree]

_UNIT = 2.0**-53

# How far the arguments are moved to measure rounding, in units of their rounding error.
# At 1 a sum of many terms may round to the same number; at 1000 a smooth function moves
# by more than its rounding, and near misses count as equal.
_MOVED = 8

# How many times rounding is measured. Twice as often finds errors larger by a tenth.
_TRIALS = 2

# Values that differ by less than this many times the measured error are equal. Entries
# that are locked differ by 1e-15 and others by 1e-3, so ten times more or less changes
# nothing for smooth f.
_SLACK = 32.0

# An array holds only rounding errors if the median of its errors is above this share of
# the median of its entries. For an array with a signal the share is 1e-12 or less.
_ALL_ROUNDING = 1e-2

# An entry whose measured error is zero by chance gets this share of the median error of
# its array. With no error at all it would differ from entries that it is equal to.
_LEAST_ERROR = 1e-2

# The error that a fragile entry is given, in rounding errors of the largest entry of
# its array.
_AS_COMPUTED = 64

# Medians are taken of at most about this many entries; they need not be exact.
_SAMPLED = 100_000

# An entry of a gradient is fragile if rounding changes it by more than this share of
# the largest entry of its array. Smooth functions change by 1e-13; if a comparison of
# equal numbers goes the other way, the change is 1e-1.
_FRAGILE = 3e-6

# The largest entry of an array counts as at least this share of the largest of all
# arrays, so that an array of rounding errors only is not fragile. With 1e-9 the bias of
# the keys of an attention, whose gradient is 0, was fragile.
_LEAST_TOP = 1e-6

# If gradients are below this, those of the next layers may underflow, and zeros may be
# no zeros in exact arithmetic.
_TINY = 1e-200


class Space:
    """The floating leaves of params as one vector.

    Attributes:
        paths: The key path of each leaf, as JAX writes it.
        names: The key paths of the floating leaves.
        shapes: The shape of each floating leaf.
        ends: Where each floating leaf ends in the vector.
        theta: The vector, in float64.
        leaf: For each entry the index of its leaf.
        bits: The number of bits of mantissa, of the most precise leaf.
    """

    def __init__(self, params: Params) -> None:
        with_paths, self._tree = jax.tree_util.tree_flatten_with_path(params)
        self._leaves = [leaf for _, leaf in with_paths]
        self._moving = [
            i for i, leaf in enumerate(self._leaves) if kinds.is_floating(leaf)
        ]
        self.paths = [jax.tree_util.keystr(path) for path, _ in with_paths]
        self.names = [self.paths[i] for i in self._moving]
        arrays = [self._leaves[i] for i in self._moving]
        self.shapes = [tuple(np.shape(array)) for array in arrays]
        sizes = [math.prod(shape) for shape in self.shapes]
        self.ends = np.cumsum(sizes)
        # float64 holds every lower precision exactly, bfloat16 included.
        flat = [np.asarray(array, np.float64).ravel() for array in arrays]
        # NumPy concatenates at least one array, so an empty one is added.
        self.theta = np.concatenate([*flat, np.zeros(0)])
        numbers = np.arange(len(sizes), dtype=np.int32)
        self.leaf = np.repeat(numbers, sizes)
        # The leading bit of a mantissa is not stored.
        stored = [jnp.finfo(jnp.result_type(array)).nmant for array in arrays]
        self.bits = 1 + max(stored, default=-1)

    @property
    def size(self) -> int:
        """The number of entries."""
        return len(self.theta)

    def parts(self, vector: np.ndarray) -> list[np.ndarray]:
        """Cut a vector into its leaves, flat."""
        starts = [0, *self.ends[:-1]]
        bounds = zip(starts, self.ends, strict=True)
        return [vector[start:end] for start, end in bounds]

    def arrays(self, vector: np.ndarray) -> list[np.ndarray]:
        """Cut a vector into its leaves, in their shapes."""
        parts = zip(self.parts(vector), self.shapes, strict=True)
        return [part.reshape(shape) for part, shape in parts]

    def params(self, floating: Sequence[Array | np.ndarray]) -> Params:
        """Return params with these floating leaves, and the other leaves as given."""
        leaves = list(self._leaves)
        for index, array in zip(self._moving, floating, strict=True):
            leaves[index] = array
        return self._tree.unflatten(leaves)


def _stacked(*leaves: Array | np.ndarray) -> Array | np.ndarray:
    """Stack the leaves of several inputs, floating ones in float64."""
    first = leaves[0]
    if kinds.is_typed_key(first):
        return jnp.stack(leaves)
    dtype = np.float64 if kinds.is_floating(first) else first.dtype
    return np.stack([np.asarray(leaf, dtype) for leaf in leaves])


def shaken(
    tree: PyTree,
    unit: float,
    rng: np.random.Generator,
) -> PyTree:
    """Move each floating number by a few units of its rounding, up or down.

    Args:
        tree: Arrays; those that are not floating stay.
        unit: Half the spacing of numbers at 1.
        rng: The source of signs.
    """
    step = _MOVED * unit
    factors = np.array([1 - step, 1 + step])

    def moved(leaf: Array | np.ndarray) -> Array | np.ndarray:
        is_moving = isinstance(leaf, np.ndarray) and leaf.dtype == np.float64
        if not (is_moving or kinds.is_floating(leaf)):
            return leaf
        array = np.asarray(leaf, np.float64)
        # A byte holds eight signs: random numbers would take longer than a gradient.
        num_bytes = math.ceil(array.size / 8)
        bits = np.frombuffer(rng.bytes(num_bytes), np.uint8)
        is_up = np.unpackbits(bits, count=array.size)
        factor = factors.take(is_up.reshape(array.shape))
        # In place: each copy of a large vector takes 80 MB.
        factor *= array
        return factor

    return jax.tree.map(moved, tree)


class Gradient(NamedTuple):
    """A gradient at one point.

    Attributes:
        values: The entries.
        tolerance: For each entry the difference up to which values count as equal, or
            the size up to which it counts as zero.
        fragile: Entries that a single rounding error may change altogether; None if
            there are none.
    """

    values: Vector
    tolerance: Vector
    fragile: Mask | None


class Gradients:
    """Draws gradients of f: J(theta, x)^T c for random inputs x and cotangents c.

    Attributes:
        program: The gradient of f.
        space: The parameters as a vector.
        rng: The source of all random numbers.
        num_draws: How many inputs have been drawn.
        has_tiny: Whether some array had a gradient so small that those of the next
            layers may underflow.
    """

    def __init__(
        self,
        program: Program,
        space: Space,
        *,
        draw: Draw,
        rng: np.random.Generator,
    ) -> None:
        self.program, self.space, self.rng = program, space, rng
        self.num_draws, self.has_tiny = 0, False
        self._draw = draw

    def _on_host(self, tree: PyTree) -> PyTree:
        """Return floating leaves as NumPy's arrays in the dtype of f.

        An array of JAX would keep its 64 bits outside of the 64-bit mode.
        """

        def cast(leaf: Array | np.ndarray) -> Array | np.ndarray:
            # Most leaves are of this kind. To ask JAX takes longer than the cast.
            if isinstance(leaf, np.ndarray) and leaf.dtype == np.float64:
                return leaf.astype(self.program.dtype, copy=False)
            if kinds.is_typed_key(leaf):
                return leaf
            array = np.asarray(leaf)
            if not kinds.is_floating(leaf):
                return array
            return array.astype(self.program.dtype, copy=False)

        return jax.tree.map(cast, tree)

    def inputs(self) -> PyTree:
        """Draw an input, its floating leaves in float64."""
        num_inputs = self.program.num_inputs
        seeds = self.rng.integers(2**31, size=num_inputs)
        drawn = [input_of(self._draw, int(seed)) for seed in seeds]
        self.num_draws += num_inputs
        if num_inputs == 1:
            return precision.cast(drawn[0], jnp.float64)
        return jax.tree.map(_stacked, *drawn)

    def __call__(self, theta: Vector) -> Gradient:
        """Return a gradient at a point, for a random input and cotangent.

        Args:
            theta: The point.

        Raises:
            NotFinite: The gradient is not finite.
        """
        x, cotangent = self._drawn()
        values = self._finite(theta, x, cotangent)
        errors = self._moved_by(values, theta, x=x, cotangent=cotangent)
        for _ in range(_TRIALS - 1):
            others = self._moved_by(values, theta, x=x, cotangent=cotangent)
            # fmax takes the number if the other is NaN, as where f is not defined.
            np.fmax(errors, others, out=errors)
        fragile = self._raise_errors(values, errors)
        errors *= _SLACK
        return Gradient(values, tolerance=errors, fragile=fragile)

    def values(self, theta: Vector) -> Vector:
        """Return a gradient at a point without error estimates, which take longer."""
        return self._finite(theta, *self._drawn())

    def _drawn(self) -> tuple[PyTree, list[np.ndarray]]:
        """Draw an input and a cotangent."""
        x = self.inputs()
        cotangent = [self.rng.standard_normal(shape) for shape in self.program.outputs]
        return x, cotangent

    def _finite(
        self,
        theta: Vector,
        x: PyTree,
        cotangent: list[np.ndarray],
    ) -> Vector:
        values = self._pulled(theta, x, cotangent)
        if not np.isfinite(values).all():
            raise NotFinite(
                "the gradient of f is not finite at random parameters near those "
                "given; write draw=, which draws smaller inputs, or mend f."
            )
        return values

    def _moved_by(
        self,
        values: Vector,
        theta: Vector,
        *,
        x: PyTree,
        cotangent: list[np.ndarray],
    ) -> Vector:
        """Return by how much a gradient moves if its arguments move by rounding."""
        unit = self.program.unit
        theta_moved, x_moved = shaken((theta, x), unit, self.rng)
        difference = self._pulled(theta_moved, x_moved, cotangent)
        # In place: a vector of 10^7 parameters takes 80 MB.
        difference -= values
        return np.abs(difference, out=difference)

    def _pulled(
        self,
        theta: Vector,
        x: PyTree,
        cotangent: list[np.ndarray],
    ) -> Vector:
        params = self.space.params(self.space.arrays(theta))
        params, x = self._on_host((params, x))
        with self.program.mode():
            parts = self.program.pull(params, x, cotangent)
        flat = [np.asarray(part).ravel() for part in parts]
        # The empty vector makes float64 of them all.
        return np.concatenate([*flat, np.zeros(0)])

    def _raise_errors(
        self,
        values: Vector,
        errors: Vector,
    ) -> Mask | None:
        """Raise measured errors that are too small by chance, in place.

        The trials may find no error at an entry that has one. The errors of an array
        are therefore at least a hundredth of their median. An array that holds only
        rounding errors, such as the bias of the keys of an attention, gets its largest
        error at every entry. An entry that is exactly zero in all trials has no error.

        Args:
            values: A gradient.
            errors: By how much rounding changed each entry. Raised in place.

        Returns:
            Which entries are fragile: rounding changes them by more than `_FRAGILE`
            times the largest entry of their array, more in float32. None if none are.
        """
        unit = self.program.unit
        of_values = self.space.parts(values)
        of_errors = self.space.parts(errors)
        tops = [float(np.abs(value).max(initial=0.0)) for value in of_values]
        self.has_tiny |= any(0 < top < _TINY for top in tops)
        least_top = _LEAST_TOP * max(tops, default=0.0)
        # In float32 there are fewer digits between rounding and what is fragile.
        limit = _FRAGILE * math.sqrt(unit / _UNIT)
        fragile = None
        pairs = zip(of_values, of_errors, strict=True)
        for i, (value, error) in enumerate(pairs):
            is_exact = (value == 0) & (error == 0)
            np.fmax(error, _error_floor(value, error), out=error)
            # Two values are compared, and each has a rounding error.
            error += 2 * unit * np.abs(value)
            error[is_exact] = 0.0
            is_fragile = error > limit * max(tops[i], least_top)
            if not is_fragile.any():
                continue
            # Their true errors are so large that much of the array would count as
            # equal. With a small error they are compared as they were computed.
            error[is_fragile] = _AS_COMPUTED * unit * tops[i]
            if fragile is None:
                fragile = np.zeros(len(values), bool)
            self.space.parts(fragile)[i][:] = is_fragile
        return fragile


def _error_floor(
    value: Float[np.ndarray, " entries"],
    error: Float[np.ndarray, " entries"],
) -> float:
    """Return the least error that the entries of an array are given.

    Args:
        value: The entries.
        error: Their errors, as measured.
    """
    stride = max(1, len(value) // _SAMPLED)
    values, errors = value[::stride], error[::stride]
    # If few errors are not zero, the sample may have missed them.
    if not errors.any():
        values, errors = value, error
    has_error = errors > 0
    if not has_error.any():
        return 0.0
    # Of the entries with an error alone: most rows of an embedding have neither a
    # gradient nor an error.
    median_error = float(np.median(errors[has_error]))
    median_value = float(np.median(np.abs(values[has_error])))
    # An array of rounding errors only: within its largest error all entries are zero.
    if median_error > _ALL_ROUNDING * median_value:
        return float(error.max())
    return _LEAST_ERROR * median_error
