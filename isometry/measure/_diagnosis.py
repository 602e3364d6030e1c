"""What a user should know of what was measured: a batch for an example, a zero."""

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
    """Warn where no row of x meets another in f, end to end.

    Args:
        target: What is measured.
        params: What its functions are called with.
        x: One example, or so the user says.
    """
    # Networks of the package take one example, and refuse a batch by its shape.
    if not isinstance(target.f, Program) or checks.is_traced((params, x)):
        return
    if _is_silenced(BatchWarning):
        return
    # The program is for these dtypes alone.
    params, x = target.cast(params, x)
    program = target.f
    said = coupling_of_rows(
        program,
        params,
        x,
        one_row=_of_user(program),
    )
    if said is not None:
        warn(said, BatchWarning)


def _of_user(program: Program) -> Map:
    """Return the user's function, which unlike the program takes other shapes."""

    def f(
        given: tuple[list[Array], Params],
        x: PyTree[Array],
    ) -> PyTree[Array]:
        _, params = given
        return program.of_output(params, x)

    return f


def warn_if_zero(
    target: Target,
    params: Params,
    x: PyTree[Array],
    *,
    is_zero: bool | Array,
) -> None:
    """Warn where the Jacobian is exactly zero, and say why.

    Args:
        target: What was measured.
        params: What its functions are called with.
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
    """Warn where some Jacobians of an ensemble are exactly zero, and say why one is.

    Args:
        target: What was measured.
        log_values: ln s of all of them.
        example: From a seed and an input to the params and x.
    """
    is_zero = all_zero(log_values)
    num_zero = int(is_zero.sum())
    if num_zero == 0 or _is_silenced(ZeroJacobianWarning):
        return
    # Finding a cause takes about a second, and one is an example for the others.
    seed, index = (int(i) for i in np.argwhere(is_zero)[0])
    params, x = example(seed, index)
    warn(
        f"J is exactly zero at {num_zero} of {is_zero.size} pairs of seed and input. "
        f"At seed {seed}, input {index}: {_cause(target, params, x)}.",
        ZeroJacobianWarning,
    )


def all_zero(log_values: Float[Array, "*batch nodes"]) -> np.ndarray:
    """Tell whether all values of a Jacobian are zero; NaN is no zero."""
    return np.all(np.isneginf(np.asarray(log_values)), axis=-1)


def _cause(
    target: Target,
    params: Params,
    x: PyTree[Array],
) -> str:
    """Say why the Jacobian of a span is zero."""
    f, params, z = _plain(target, params, x)
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
    # Reading a user's program may fail in ways that nobody has thought of; the fact
    # itself must be told all the same.
    except Exception:
        return "the cause was not found"


def _plain(
    target: Target,
    params: Params,
    x: PyTree[Array],
) -> tuple[Map, Params, PyTree[Array]]:
    """Return a function of the user's params and the value where the span starts."""
    params, x = target.cast(params, x)
    # As one program: compiled operation by operation it takes several times as long.
    z = jax.jit(target.start)(params, x)
    if not isinstance(target.f, Program):
        return lambda params, z: target.apply(params, x, z), params, z
    # The constants are no parameters, so their zeros are not called weights.
    constants, params = params
    return lambda params, z: target.apply((constants, params), x, z), params, z


def _is_silenced(category: type[Warning]) -> bool:
    """Tell whether a warning is ignored everywhere, and its cause need not be found.

    The first filter that matches is the one that Python obeys.
    """
    for action, message, known, module, line in warnings.filters:
        if issubclass(category, known):
            is_general = message is None and module is None and line == 0
            return action == "ignore" and is_general
    return False
