"""Variances of the values inside a network at given inputs, for data-driven schemes."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from isometry._internal import kinds
from isometry._internal.types import Params
from isometry.schemes import _places
from isometry.structure import Anatomy, WeightLayer, anatomy
from isometry.structure._place import Place
from isometry.structure._records import stack_sizes
from isometry.structure._tapping import tapped

# Examples that are run at once. With ten times more, the activations of a large network
# would not fit into memory; with ten times fewer, small networks would take longer.
_AT_ONCE = 64

Readings: TypeAlias = dict[str, Array]

# One index in the name of a point: [i] is slice i of stacked layers, @t is step t of a
# recurrence.
_ITERATION = re.compile(r"\[\d+\]|@\d+")


class Slice(NamedTuple):
    """One slice of a weight layer, and where to find its pre-activation.

    A tap is a value inside the network that is recorded, and a reading the recorded
    array. One reading may hold the pre-activations of all slices of a layer.

    Attributes:
        source: The layer.
        use: The index of the slice among all slices of the layer, in the order in which
            the network uses them; 0 if the layer is not stacked.
        tap: The name of the tap that records the pre-activation.
        entries: Indices into the leading axes of the reading that select the slice.
    """

    source: WeightLayer
    use: int
    tap: str
    entries: tuple[int | slice, ...]

    @property
    def name(self) -> str:
        if self.source.stacked is None:
            return self.source.name
        return f"{self.source.name}[{self.use}]"


class Measured:
    """A network and its inputs, for the variances of the values inside the network.

    Attributes:
        xs: The inputs, with a leading axis over examples.
        anatomy: The anatomy of the network at these inputs.
    """

    xs: PyTree
    anatomy: Anatomy

    def __init__(
        self,
        net: Callable[[Params, PyTree], PyTree],
        params: Params,
        xs: PyTree,
    ) -> None:
        self.xs = jax.tree.map(_on_host, xs)
        first = jax.tree.map(lambda leaf: leaf[0], self.xs)
        # `net.anatomy` would not do: it was read at the dtypes of the network's own
        # example, and these parameters and inputs may have others.
        self.anatomy = anatomy(net, params, first)

    def slices(self) -> tuple[list[Slice], dict[str, Place]]:
        """Return all slices of all weight layers, and the taps that record them.

        Embeddings are left out, and layers on which the output does not depend.

        Returns:
            The slices in the order of computation, and the place of each tap by its
            name.
        """
        order = _places.places(self.anatomy).order
        by_name = {layer.name: layer for layer in self.anatomy.layers}
        points = self._points()
        taps: dict[str, Place] = {}
        slices = []
        for name, use in sorted(order, key=lambda key: order[key]):
            source = by_name[name]
            has_point = (name, use) in points
            # An embedding looks up rows, so inputs do not change the scale of its
            # outputs.
            if source.kind == "embedding" or not has_point:
                continue
            point = points[name, use]
            place = self.anatomy.place(point)
            entries = _entries_of_reading(point[len(name) :], place.iterations)
            if entries is not None:
                # `iterations=()` reads all iterations of the scans at once, and
                # `entries` picks this slice: the program is as long for a thousand
                # layers as for two.
                place = place._replace(iterations=())
            tap = self._tap(place, taps, name=point)
            slices.append(Slice(source, use, tap, entries=entries or ()))
        return slices, taps

    def _points(self) -> dict[_places.Slice, str]:
        """Return the first point of each slice, by (name of the layer, index)."""
        points: dict[_places.Slice, str] = {}
        for layer in self.anatomy.layers:
            by_index = _places.first_points(self.anatomy, layer.name)
            for use, index in enumerate(sorted(by_index)):
                points[layer.name, use] = by_index[index]
        return points

    def _tap(self, place: Place, taps: dict[str, Place], *, name: str) -> str:
        """Return the name of the tap at a place; add one to `taps` if there is none.

        Args:
            place: The place.
            taps: The taps so far, by name.
            name: The name of the tap that is added.
        """
        for tap, other in taps.items():
            is_same = other.path == place.path and other.iterations == place.iterations
            if is_same and other.var is place.var:
                return tap
        taps[name] = place
        return name

    def variances(
        self,
        taps: Mapping[str, Place],
        values: Callable[[Readings], Sequence[Array]],
    ) -> Callable[[Params], np.ndarray]:
        """Return a function from parameters to variances of values in the network.

        Args:
            taps: The places that are recorded, by tap name.
            values: A function from the readings of one example to a sequence of arrays.

        Returns:
            A function from parameters to a vector: for each of these arrays, its
            variance over all its entries and all examples.
        """
        read = tapped(self.anatomy.closed, taps)
        dtype = jnp.result_type(float)

        def of_one(params: Params, x: PyTree) -> tuple[Array, Array]:
            leaves = [*jax.tree.leaves(params), *jax.tree.leaves(x)]
            _, readings = read(leaves, {})
            arrays = [value.astype(dtype) for value in values(readings)]
            means = jnp.stack([array.mean() for array in arrays])
            return means, jnp.stack([array.var() for array in arrays])

        means_and_variances = jax.jit(jax.vmap(of_one, (None, 0)))

        def over_all_examples(params: Params) -> np.ndarray:
            means_of_chunks, within_chunks = [], []
            for chunk in self._chunks():
                means, variances = means_and_variances(params, chunk)
                # Copied before the next chunk starts: chunks that wait in a queue would
                # hold their memory, and an interrupt would wait for all of them.
                means_of_chunks.append(np.asarray(means, np.float64))
                within_chunks.append(np.asarray(variances, np.float64))
            # The last chunk is padded with examples from the start; drop the padding.
            means = np.concatenate(means_of_chunks)[: self._count]
            within = np.concatenate(within_chunks)[: self._count]
            # Law of total variance: the mean variance within an example plus the
            # variance of the examples' means. E x² - (E x)² would cancel.
            return within.mean(0) + means.var(0)

        return over_all_examples

    @property
    def _count(self) -> int:
        return len(jax.tree.leaves(self.xs)[0])

    def _chunks(self) -> list[PyTree]:
        """Return the examples in chunks of one size, as one compiled program needs.

        The last chunk is padded with examples from the start.
        """
        length = min(self._count, _AT_ONCE)
        chunks = []
        for start in range(0, self._count, length):
            rows = np.arange(start, start + length) % self._count
            # `rows=rows` binds the rows of this chunk, which the loop replaces.
            chunks.append(jax.tree.map(lambda leaf, rows=rows: leaf[rows], self.xs))
        return chunks


def _on_host(leaf: Array) -> Array | np.ndarray:
    """Return a leaf as a NumPy array; random keys, of which there is none, as it is."""
    # Picking rows of a JAX array would compile a program.
    return leaf if kinds.is_key(leaf) else np.asarray(leaf)


def _entries_of_reading(
    suffix: str, iterations: Sequence[int]
) -> tuple[int | slice, ...] | None:
    """Return the indices that select a slice from a reading of all iterations.

    Slice 3 of stacked layers at step 0 of a recurrence, "[3]@0", gets `(3, :)`: one
    slice at all steps.

    Args:
        suffix: What follows the name of the layer in the name of the point.
        iterations: The iteration of each scan around the point, outermost first.

    Returns:
        The indices; None if `suffix` does not name an index for each scan.
    """
    written = _ITERATION.findall(suffix)
    num_scans = len(iterations)
    if len(written) < num_scans:
        return None
    # The indices of scans come last. One in front of them is that of a slice that the
    # network takes outside of any scan.
    of_scans = written[len(written) - num_scans :]
    entries: list[int | slice] = []
    for text, iteration in zip(of_scans, iterations, strict=True):
        is_stacked = text.startswith("[")
        entries.append(iteration if is_stacked else slice(None))
    return tuple(entries)


def scaled(params: Params, where: Slice, divisor: float) -> Params:
    """Return params with one slice of a weight divided by a number.

    Args:
        params: The parameters, which are not changed.
        where: The slice.
        divisor: The number.
    """
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    changed = []
    for path, leaf in leaves:
        if jax.tree_util.keystr(path) == where.source.path:
            # NumPy divides in place; JAX would compile a program for each shape.
            leaf = np.array(leaf)
            leaf[_entries_of_leaf(where, leaf.shape)] /= np.asarray(divisor, leaf.dtype)
        changed.append(leaf)
    return jax.tree.unflatten(tree, changed)


def _entries_of_leaf(where: Slice, shape: Sequence[int]) -> tuple[int | slice, ...]:
    """Return the indices that select a slice from its leaf of the parameters.

    Args:
        where: The slice.
        shape: The shape of the leaf.
    """
    index: list[int | slice] = [slice(None)] * len(shape)
    axes = where.source.stacked_axes
    # Uses are counted with the last stacked axis fastest.
    positions = np.unravel_index(where.use, stack_sizes(where.source, shape))
    for axis, start, stop in where.source.stretches:
        index[axis] = slice(start, stop)
    # Slices of a stretch are counted from its start.
    first = {axis: start for axis, start, _ in where.source.stretches}
    for axis, position in zip(axes, positions, strict=True):
        index[axis] = first.get(axis, 0) + int(position)
    return tuple(index)
