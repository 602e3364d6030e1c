"""Warnings about what was measured: x may be a batch, or the Jacobian is zero."""

import warnings
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from isometry._internal import checks, precision
from isometry._internal.errors import BatchWarning, ZeroJacobianWarning
from isometry._internal.types import Params
from isometry.measure._function import Map, Program
from isometry.measure._target import Target
from isometry.measure._warnings import warn
from isometry.structure._coupling import coupling_of_rows
from isometry.structure._zeros import cause_of_zero


def warn_of_batch(
    target: Target,
    params: Params,
    x: PyTree[Array],
) -> None:
    """Warn if no row of x affects another row of the output, so that x may be a batch.

    Args:
        target: What is measured.
        params: The parameters with which the functions of `target` are called.
        x: What the user passed as one example.
    """
    # Networks of the package take one example, and refuse a batch by its shape.
    if not isinstance(target.f, Program) or checks.is_traced((params, x)):
        return
    if _is_silenced(BatchWarning):
        return
    # The program was traced for these dtypes.
    params, x = target.cast(params, x)
    program = target.f
    message = coupling_of_rows(
        program,
        params,
        x,
        one_row=_untraced(program),
    )
    if message is not None:
        warn(message, BatchWarning)


def _untraced(program: Program) -> Map:
    """Return the function that a program was traced from, with the same arguments.

    Unlike the program it can be called with another shape, such as that of x[0].
    """

    def f(
        constants_and_params: tuple[list[Array], Params],
        x: PyTree[Array],
    ) -> PyTree[Array]:
        # The program takes the constants of its trace too. The function holds its own.
        _, params = constants_and_params
        return program.of_output(params, x)

    return f


def warn_if_zero(
    target: Target,
    params: Params,
    x: PyTree[Array],
    *,
    is_zero: bool | Array,
) -> None:
    """Warn if the Jacobian is exactly zero, and say why.

    Args:
        target: What was measured.
        params: The parameters with which the functions of `target` are called.
        x: The example.
        is_zero: Whether the Jacobian is zero.
    """
    if checks.is_traced((params, x, is_zero)) or not is_zero:
        return
    if not _is_silenced(ZeroJacobianWarning):
        warn(f"J is exactly zero: {_cause(target, params, x)}.", ZeroJacobianWarning)


def warn_of_zeros(
    target: Target,
    log_values: Float[Array, "seeds inputs nodes"],
    example: Callable[[int, int], tuple[Params, PyTree[Array]]],
) -> None:
    """Warn if some Jacobians of an ensemble are exactly zero, and say why one is.

    Args:
        target: What was measured.
        log_values: ln s of all Jacobians.
        example: Maps the numbers of a seed and an input to their params and x.
    """
    is_zero = all_zero(log_values)
    num_zero = int(is_zero.sum())
    if num_zero == 0 or _is_silenced(ZeroJacobianWarning):
        return
    # Finding a cause takes about a second, so it is done for the first pair alone.
    seed, index = (int(i) for i in np.argwhere(is_zero)[0])
    params, x = example(seed, index)
    warn(
        f"J is exactly zero at {num_zero} of {is_zero.size} pairs of seed and input. "
        f"At seed {seed}, input {index}: {_cause(target, params, x)}.",
        ZeroJacobianWarning,
    )


def all_zero(log_values: Float[Array, "*batch nodes"]) -> np.ndarray:
    """Tell for each Jacobian whether all its singular values are zero.

    A Jacobian that is not finite has values that are NaN, and does not count as zero.
    """
    return np.all(np.isneginf(np.asarray(log_values)), axis=-1)


def _cause(
    target: Target,
    params: Params,
    x: PyTree[Array],
) -> str:
    """Return words for why the Jacobian of a span is zero."""
    f, params, z = _span_as_function(target, params, x)
    name = "x"
    if target.points is not None and target.points.first.name != "input":
        name = f"the value at {target.points.first.name!r}"
    try:
        with precision.full():
            return cause_of_zero(
                f,
                params,
                z,
                name_of_x=name,
            )
    # Reading a user's program may fail in unforeseen ways. The warning itself must not.
    except Exception:
        return "the cause was not found"


def _span_as_function(
    target: Target,
    params: Params,
    x: PyTree[Array],
) -> tuple[Map, Params, PyTree[Array]]:
    """Return the span as a function, its parameters, and the value where it starts."""
    params, x = target.cast(params, x)
    # As one program: compiled operation by operation it takes several times as long.
    z = jax.jit(target.start)(params, x)
    if not isinstance(target.f, Program):
        return lambda params, z: target.apply(params, x, z), params, z
    # What f closes over is not among its parameters: a zero there is no zero weight.
    constants, params = params
    return lambda params, z: target.apply((constants, params), x, z), params, z


def _is_silenced(category: type[Warning]) -> bool:
    """Tell whether the user ignores all warnings of a category, wherever they arise."""
    # Of the user's filters, Python obeys the first that matches.
    for action, message, filtered, module, line in warnings.filters:
        if issubclass(category, filtered):
            is_general = message is None and module is None and line == 0
            return action == "ignore" and is_general
    return False
