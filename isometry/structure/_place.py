"""Where a value arises in a program."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from isometry._internal import precision


class Place(NamedTuple):
    """The variable of a program that holds a value, and in which iteration.

    Attributes:
        path: Indices of the equations that enclose it, outermost first, each an index
            into the equations of the jaxpr that the one before calls: that of a jit,
            remat or custom_jvp, or the body of a scan.
        var: The variable, in the jaxpr to which the path leads.
        iterations: Which iteration of each scan on the path, outermost first, counted
            from 0. Empty: all iterations of all these scans.
    """

    path: tuple[int, ...]
    var: core.Var
    iterations: tuple[int, ...]


class Inputs(NamedTuple):
    """Several arguments of a program together: one vector, to which they are joined.

    Attributes:
        positions: Their positions among the arguments, in the order of the vector.
    """

    positions: tuple[int, ...]

    def joined(self, arguments: Sequence[Array]) -> Array:
        """Return the vector."""
        return joined([arguments[i] for i in self.positions])

    def replaced(self, arguments: Sequence[Array], vector: Array) -> list[Array]:
        """Return all arguments, with other numbers in those that are joined."""
        new = list(arguments)
        shapes = [arguments[i].shape for i in self.positions]
        parts = split(vector, shapes)
        for i, part in zip(self.positions, parts, strict=True):
            # Of several dtypes the vector has one that holds them all.
            new[i] = part.astype(arguments[i].dtype)
        return new


def joined(arrays: Sequence[Array]) -> Array:
    """Return floating arrays as one vector, each of them flattened."""
    dtype = common_dtype(arrays)
    flat = [array.ravel() for array in arrays]
    return jnp.concatenate([part.astype(dtype) for part in flat])


def common_dtype(arrays: Sequence[Array | jax.ShapeDtypeStruct]) -> np.dtype:
    """Return the dtype of floating arrays; of several dtypes, one that holds all."""
    dtypes = {array.dtype for array in arrays}
    if len(dtypes) == 1:
        return dtypes.pop()
    # JAX's own promotion would raise where the user has made it strict.
    return precision.measuring_dtype(None, list(arrays))


def split(vector: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Return the arrays of these shapes of which a vector is joined."""
    arrays = []
    start = 0
    for shape in shapes:
        stop = start + math.prod(shape)
        arrays.append(vector[start:stop].reshape(shape))
        start = stop
    return arrays
