"""Arguments that several functions about laws share."""

from typing import Literal, overload

import numpy as np
from jaxtyping import Complex, Float
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import InputError
from isometry.theory.laws._types import Numbers


@overload
def numbers(name: str, value: ArrayLike) -> Float[np.ndarray, "..."]: ...


@overload
def numbers(
    name: str,
    value: ArrayLike,
    *,
    are_complex: Literal[True],
) -> Complex[Numbers, "..."]: ...


def numbers(
    name: str,
    value: ArrayLike,
    *,
    are_complex: bool = False,
) -> Float[np.ndarray, "..."] | Complex[Numbers, "..."]:
    """Return an argument as an array of float64 or complex128.

    Raises:
        InputError: It is not made of numbers, or of complex ones where reals are asked.
    """
    try:
        array = np.asarray(value)
        is_complex = array.dtype.kind == "c"
        if checks.is_real(array.dtype) or (are_complex and is_complex):
            return array.astype(complex if are_complex else float)
    except (TypeError, ValueError):
        pass
    raise InputError(f"{name}={checks.show(value)} is not made of numbers.")
