"""Cuts a function into a chain of blocks, whose Jacobians come from one pass."""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from isometry._internal.types import Params
from isometry.linalg._convolution import canonical
from isometry.measure import _spans
from isometry.measure._spans import Span
from isometry.structure import Anatomy
from isometry.structure._anatomy import tap_of
from isometry.structure._tapping import CUT, tapped


@dataclass(frozen=True, eq=False)
class Blocks:
    """A span as a chain of blocks, between points that every path runs through.

    Attributes:
        anatomy: The anatomy of the function, in the dtype of the measurement.
        names: The names of the points, from the start of the span to its end.
    """

    anatomy: Anatomy
    names: tuple[str, ...]

    def jacobians(self, params: Params, x: PyTree[Array]) -> list[Float[Array, "m n"]]:
        """Return the Jacobian of each block, in the order of application.

        All blocks come from one pass. Derivatives stop at every point, so each point
        feels the perturbation of the point before it alone. One tangent can therefore
        perturb entry i at all points: it gives column i of every block.

        Args:
            params: Parameters, in the dtype of the measurement.
            x: One example, likewise.
        """
        places = {name: tap_of(self.anatomy, name) for name in self.names}
        # One pass for all blocks: a program for each would trace f as often as there
        # are blocks, and compile for minutes at twenty convolutions.
        program = tapped(self.anatomy.closed, places, CUT)
        arguments = jax.tree.leaves((params, x))
        shapes = {name: self.anatomy.shape(name) for name in self.names}
        starts = self.names[:-1]
        ends = self.names[1:]

        # A bump is an array that is added to the value at a point: the derivative with
        # respect to the bump is that with respect to the value.
        def forward(bumps: dict[str, Array]) -> Array:
            # With each bump goes a flag that the derivative stops there.
            given = {name: (bump, jnp.asarray(True)) for name, bump in bumps.items()}
            _, readings = program(arguments, given)
            return jnp.concatenate([readings[name].ravel() for name in ends])

        bumps = {
            name: jnp.zeros(shapes[name].shape, shapes[name].dtype) for name in starts
        }
        _, push = jax.linearize(forward, bumps)

        def column(entry: Array) -> Array:
            tangents = {}
            for name in starts:
                shape = shapes[name]
                # Zero where the point has fewer entries than the widest one.
                unit = (jnp.arange(shape.size) == entry).astype(shape.dtype)
                tangents[name] = unit.reshape(shape.shape)
            return push(tangents)

        widest = max(shapes[name].size for name in starts)
        # As many directions as the widest point has entries.
        columns = jax.vmap(canonical(column))(jnp.arange(widest))
        cuts = list(itertools.accumulate(shapes[name].size for name in ends))
        blocks = jnp.split(columns.T, cuts[:-1])
        return [
            block[:, : shapes[name].size]
            for name, block in zip(starts, blocks, strict=True)
        ]


def blocks_of_span(anatomy: Anatomy, span: Span) -> Blocks | None:
    """Return the blocks of a span, or None if the span is one block."""
    first, last = _spans.ends(anatomy, span)
    if first.index or last.index:
        # Other paths run through the rest of the value.
        return None
    places = [tap_of(anatomy, first.name), tap_of(anatomy, last.name)]
    names = [first.name]
    for name in anatomy.points:
        # A nonlinearity is in one block with the layer after it: alone, its Jacobian
        # would be diagonal.
        is_cut = anatomy.cuts(name) and not name.endswith(":out")
        # The last layer and the output are often two names of one value.
        has_other_name = anatomy.place(name) in places
        follows = anatomy.upstream(names[-1], name)
        leads = anatomy.upstream(name, last.name)
        if is_cut and follows and leads and not has_other_name:
            names.append(name)
            places.append(anatomy.place(name))
    names.append(last.name)
    # A single block is the whole Jacobian, which method "dense" forms as well.
    return Blocks(anatomy, tuple(names)) if len(names) > 2 else None
