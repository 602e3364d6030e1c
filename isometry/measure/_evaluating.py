"""Decorators of statistics: computed in the dtype of the record, by one program."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeAlias, TypeVar, cast

import jax
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks, compilation
from isometry._internal.errors import public
from isometry.measure.methods import Dense

if TYPE_CHECKING:
    from isometry.measure._record import Spectrum

# An array with one number for each matrix of the batch; and with a last axis for its
# nodes, or for the points of a grid.
PerMatrix: TypeAlias = Float[Array, "..."]
PerNode: TypeAlias = Float[Array, "... nodes"]
PerPoint: TypeAlias = Float[Array, "... points"]

P = ParamSpec("P")
R = TypeVar("R")

# A function of a record.
OfRecord: TypeAlias = 'Callable[Concatenate["Spectrum", P], R]'


def statistic(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a method public, and compute it in the dtype of its record.

    A float64 spectrum may be read where JAX's 64-bit mode is off, although it was
    measured where it was on. Without this, JAX would round it and warn.
    """

    def decorate(method: Callable[P, R]) -> Callable[P, R]:
        @public(name)
        @functools.wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            log_values = cast("Spectrum", args[0]).log_values
            # The 64-bit mode cannot change during a trace.
            if checks.is_traced(log_values) or log_values.dtype != np.float64:
                return method(*args, **kwargs)
            with jax.enable_x64(True):
                return method(*args, **kwargs)

        return call

    return decorate


def compiled(*static: str) -> Callable[["OfRecord[P, R]"], "OfRecord[P, R]"]:
    """Compute a function of a record by one program.

    Operation by operation it would be ten or twenty, which a first call compiles one
    after another.

    Args:
        *static: Names of arguments that are no arrays.
    """

    def decorate(method: "OfRecord[P, R]") -> "OfRecord[P, R]":
        program = compilation.jit(method, static_argnames=static)

        @functools.wraps(method)
        def call(sp: "Spectrum", *args: P.args, **kwargs: P.kwargs) -> R:
            # No number depends on these fields, and each of their values would compile
            # another program: a profile has as many spans as points.
            numbers_alone = replace(
                sp, method=Dense(), span="given", pairs=None, recast=None
            )
            return program(numbers_alone, *args, **kwargs)

        return call

    return decorate
