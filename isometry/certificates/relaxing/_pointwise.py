"""Evaluates an elementwise function at a few points, whatever shape it is written for.

Each shape of an array is compiled anew. At points in a vector of one length, functions
of all layers of a network use the same compiled operations.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from isometry._internal.equations import CUSTOM, called, opened, unchanged
from isometry.certificates.relaxing import _table

# Functions are evaluated at this many points at once, about as many as one needs.
_BLOCK = 64

# Derivative rules compare values with the larger of two, to find ties.
_POINTWISE = _table.ELEMENTWISE | {"eq", "ne", "erf_inv", "lgamma", "digamma"}


class Derived(NamedTuple):
    """Values and derivatives of an elementwise function at some points."""

    values: np.ndarray
    slopes: np.ndarray


class _NotPointwiseError(Exception):
    """An operation on whole arrays."""


class Curve:
    """An elementwise function and its derivative, traced once.

    Args:
        function: The function of an array.
        like: An array of the shape and dtype that it is written for.
    """

    def __init__(
        self,
        function: Callable[[Array], Array],
        like: Array,
    ) -> None:
        self._like = jax.ShapeDtypeStruct(jnp.shape(like), jnp.result_type(like))

        def floating(x: Array) -> Array:
            # A comparison returns booleans.
            return function(x).astype(x.dtype)

        def derived(x: Array) -> tuple[Array, Array]:
            # Reverse mode, because a custom_vjp has no other. The derivative of an
            # elementwise function is diagonal.
            values, pull = jax.vjp(floating, x)
            ones = jnp.ones_like(values)
            (slopes,) = pull(ones)
            return values, slopes

        self._program = jax.make_jaxpr(derived)(self._like)

    def __call__(self, points: np.ndarray) -> Derived:
        """Evaluate the function and its derivative at a vector of points."""
        num_points = len(points)
        size = _BLOCK * math.ceil(num_points / _BLOCK)
        padded = _padded(points, size).astype(self._like.dtype)
        # The model is being traced, and these values are needed now.
        with jax.ensure_compile_time_eval():
            try:
                results = _pointwise(self._program, [jax.device_put(padded)])
            except _NotPointwiseError:
                results = self._filled(padded)
        # A constant is one number for all points.
        arrays = [np.asarray(result, float) for result in results]
        values, slopes = [np.broadcast_to(array, (size,)) for array in arrays]
        return Derived(values[:num_points], slopes[:num_points])

    def _filled(self, points: np.ndarray) -> list[np.ndarray]:
        """Evaluate the function at arrays of its own shape, filled with points."""
        call = core.jaxpr_as_fun(self._program)
        size = math.prod(self._like.shape)
        values, slopes = [], []
        for start in range(0, len(points), size):
            block = points[start : start + size]
            filled = _padded(block, size).reshape(self._like.shape)
            value, slope = call(jnp.asarray(filled))
            values.append(np.ravel(value)[: len(block)])
            slopes.append(np.ravel(slope)[: len(block)])
        return [np.concatenate(values), np.concatenate(slopes)]


def _padded(
    points: np.ndarray,
    size: int,
) -> np.ndarray:
    """Return points, and the last of them again up to a size."""
    return np.pad(points, (0, size - len(points)), mode="edge")


def _pointwise(
    program: core.ClosedJaxpr | core.Jaxpr,
    operands: list[Array],
) -> list[Array]:
    """Evaluate a program at vectors of points; constants are scalars."""
    jaxpr, constants = opened(program)
    scalars = [_scalar(constant) for constant in constants]
    values: dict[core.Var, Array] = {}
    values.update(zip(jaxpr.constvars, scalars, strict=True))
    values.update(zip(jaxpr.invars, operands, strict=True))

    def read(atom: core.Var | core.Literal) -> Array:
        if isinstance(atom, core.Literal):
            aval: Any = atom.aval
            return _scalar(np.asarray(atom.val, aval.dtype))
        return values[atom]

    for eqn in jaxpr.eqns:
        arrays = [read(atom) for atom in eqn.invars]
        name = eqn.primitive.name
        if name in _table.CALLS or name in CUSTOM:
            results = _pointwise(called(eqn), arrays)
        elif name in _POINTWISE:
            results = unchanged(eqn, _of_one_shape(arrays))
        elif name == "broadcast_in_dim" and arrays[0].ndim == 0:
            results = arrays
        else:
            raise _NotPointwiseError(name)
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _of_one_shape(arrays: list[Array]) -> list[Array]:
    """Return numbers as vectors if there are vectors beside them."""
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    alike = []
    for array in arrays:
        # By NumPy, as JAX compiles a program for each combination of shapes.
        if array.shape != shape:
            array = jax.device_put(np.broadcast_to(np.asarray(array), shape))
        alike.append(array)
    return alike


def _scalar(constant: Any) -> Array:
    """Return a constant whose entries are all equal as one number."""
    entries = np.ravel(np.asarray(constant))
    if not entries.size or not (entries == entries[0]).all():
        raise _NotPointwiseError("a constant of several numbers")
    return jax.device_put(entries[0])
