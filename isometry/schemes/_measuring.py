"""Measures what a network makes of inputs, for schemes that look at data."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from isometry._internal.types import Params
from isometry.schemes import _places
from isometry.structure import Anatomy, WeightLayer, anatomy
from isometry.structure._place import Place
from isometry.structure._tapping import tapped

# Examples that are run at once. With ten times more, the activations of a large network
# would not fit into memory; with ten times fewer, small ones would take longer.
_AT_ONCE = 64

Readings: TypeAlias = dict[str, Array]

# One iteration in the name of a point: [i] of stacked layers, @t of a recurrence.
_ITERATION = re.compile(r"\[\d+\]|@\d+")


class Slice(NamedTuple):
    """One slice of a weight layer, and where its pre-activation is read.

    Attributes:
        source: The layer.
        number: Which slice of it, 0 if it is not stacked.
        tap: The name of the reading.
        entries: Indices into the leading axes of the reading.
    """

    source: WeightLayer
    number: int
    tap: str
    entries: tuple[int | slice, ...]

    @property
    def name(self) -> str:
        if self.source.stacked is None:
            return self.source.name
        return f"{self.source.name}[{self.number}]"


class Measured:
    """A network at given parameters and inputs.

    Attributes:
        xs: The inputs, with a leading axis over examples.
        anatomy: What the network is made of.
    """

    xs: PyTree
    anatomy: Anatomy

    def __init__(
        self,
        net: Callable[[Params, PyTree], PyTree],
        params: Params,
        xs: PyTree,
    ) -> None:
        # NumPy's, because rows are picked from them without a program.
        self.xs = jax.tree.map(np.asarray, xs)
        first = jax.tree.map(lambda leaf: leaf[0], self.xs)
        # Read anew, because dtypes of these parameters and inputs may be others than
        # those of the network's own example.
        self.anatomy = anatomy(net, params, first)

    def slices(self) -> tuple[list[Slice], dict[str, Place]]:
        """Return the weight layers in the order of computation, and their places."""
        order = _places.places(self.anatomy).order
        by_name = {layer.name: layer for layer in self.anatomy.layers}
        points = self._points()
        taps: dict[str, Place] = {}
        found = []
        for name, number in sorted(order, key=lambda key: order[key]):
            source = by_name[name]
            is_read = (name, number) in points
            # An embedding looks up rows, and its scale is no matter of its inputs.
            if source.kind == "embedding" or not is_read:
                continue
            point = points[name, number]
            place = self.anatomy.place(point)
            iterations = _ITERATION.findall(point[len(name) :])
            index: tuple[int | slice, ...] = ()
            if len(iterations) >= len(place.iterations):
                # All iterations of a scan are read at once: the program is as long for
                # a thousand layers as for two.
                own = iterations[len(iterations) - len(place.iterations) :]
                index = tuple(
                    _index(text, turn)
                    for text, turn in zip(own, place.iterations, strict=True)
                )
                place = place._replace(iterations=())
            tap = self._tap(place, taps, name=point)
            found.append(Slice(source, number, tap, entries=index))
        return found, taps

    def _points(self) -> dict[_places.Slice, str]:
        """Return the first point of each slice of each layer."""
        points: dict[_places.Slice, str] = {}
        for layer in self.anatomy.layers:
            by_index = _places.first_points(self.anatomy, layer.name)
            for number, index in enumerate(sorted(by_index)):
                points[layer.name, number] = by_index[index]
        return points

    def _tap(self, place: Place, taps: dict[str, Place], *, name: str) -> str:
        """Return the name of the reading at a place, a new one if there is none."""
        for known, other in taps.items():
            is_same = other.path == place.path and other.iterations == place.iterations
            if is_same and other.var is place.var:
                return known
        taps[name] = place
        return name

    def variances(
        self,
        taps: Mapping[str, Place],
        values: Callable[[Readings], Sequence[Array]],
    ) -> Callable[[Params], np.ndarray]:
        """Compile the variances of values over examples and entries.

        Args:
            taps: The places that are read.
            values: From the readings of one example to the values.

        Returns:
            A function of the parameters.
        """
        read = tapped(self.anatomy.closed, taps)
        dtype = jnp.result_type(float)

        def of_one(params: Params, x: PyTree) -> tuple[Array, Array]:
            leaves = [*jax.tree.leaves(params), *jax.tree.leaves(x)]
            _, readings = read(leaves, {})
            numbers = [value.astype(dtype) for value in values(readings)]
            means = jnp.stack([value.mean() for value in numbers])
            return means, jnp.stack([value.var() for value in numbers])

        compute = jax.jit(jax.vmap(of_one, (None, 0)))

        def variances(params: Params) -> np.ndarray:
            parts = [compute(params, chunk) for chunk in self._chunks()]
            means, inner = [
                np.concatenate([np.asarray(part[i], np.float64) for part in parts])
                for i in range(2)
            ]
            # The last chunk is filled up with the first examples.
            means, inner = means[: self._count], inner[: self._count]
            # Variance within examples, and of their means: no cancellation, unlike the
            # difference of two squares.
            return inner.mean(0) + means.var(0)

        return variances

    @property
    def _count(self) -> int:
        return len(jax.tree.leaves(self.xs)[0])

    def _chunks(self) -> list[PyTree]:
        """Return the examples in chunks of one size, so that one program serves all."""
        length = min(self._count, _AT_ONCE)
        chunks = []
        for start in range(0, self._count, length):
            rows = np.arange(start, start + length) % self._count
            # Bound now, because the loop goes on before the function is called.
            chunks.append(jax.tree.map(lambda leaf, rows=rows: leaf[rows], self.xs))
        return chunks


def _index(text: str, turn: int) -> int | slice:
    """Select the iteration of stacked layers; of a recurrence, all steps."""
    return turn if text.startswith("[") else slice(None)


def scaled(params: Params, where: Slice, divisor: float) -> Params:
    """Divide one slice of a weight by a number."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    changed = []
    for path, leaf in leaves:
        if jax.tree_util.keystr(path) == where.source.path:
            # On the host, where it takes no program for each shape.
            leaf = np.array(leaf)
            leaf[_entries(where, leaf.shape)] /= np.asarray(divisor, leaf.dtype)
        changed.append(leaf)
    return jax.tree.unflatten(tree, changed)


def _entries(where: Slice, shape: Sequence[int]) -> tuple[int | slice, ...]:
    """Return which entries of a leaf a slice of a layer is."""
    index: list[int | slice] = [slice(None)] * len(shape)
    axes = where.source.stacked_axes
    numbers = np.unravel_index(where.number, [shape[axis] for axis in axes])
    for axis, number in zip(axes, numbers, strict=True):
        index[axis] = int(number)
    for axis, start, stop in where.source.stretches:
        index[axis] = slice(start, stop)
    return tuple(index)
