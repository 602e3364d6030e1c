"""Moments of pooled signals."""

import functools
import math
from collections.abc import Sequence

import numpy as np

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry.theory.mean_field._quadrature import REACH, gauss

POOLINGS = ("average", "max")

# Panels over |z| <= 14. The density of the largest of 1e12 values is a tenth of a
# standard deviation wide; with half of the panels its mean is off by 4e-14, with a
# quarter by 4e-7.
_PANELS = 56

_LARGEST_WINDOW = 10**12


@public("pooling_moments")
def pooling_moments(
    pooling: str,
    window: int | Sequence[int],
) -> tuple[float, float]:
    """Compute mean and second moment of pooled independent standard normals.

    The average of n has moments 0 and 1/n; the largest of n has density n ϕ(z) Φ(z)^(n
    − 1). Positive correlations move the second moment towards 1: they raise that of an
    average, and lower that of a maximum.

    Args:
        pooling: "average" or "max".
        window: How many values are pooled; or the sides of the window, whose product
            that is.

    Returns:
        The mean and the second moment.

    Raises:
        InputError: An unknown name; a window that is not made of positive whole
            numbers.

    Example:
        >>> mean, second = theory.pooling_moments("max", (2, 2))
        >>> round(mean, 6), round(second, 6)
        (1.029375, 1.551329)
    """
    checks.one_of("pooling", pooling, POOLINGS)
    if isinstance(window, (str, float)):
        raise InputError(
            f"window={checks.show(window)} is no window; write a whole number, or one "
            "for each side."
        )
    sides = window if isinstance(window, (Sequence, np.ndarray)) else (window,)
    size = math.prod(checks.integer("window", side, low=1) for side in sides)
    size = checks.integer(
        "the values of window",
        size,
        low=1,
        high=_LARGEST_WINDOW,
    )
    if pooling == "average":
        return 0.0, 1 / size
    return largest_of(size)


@functools.lru_cache(maxsize=64)
def largest_of(size: int) -> tuple[float, float]:
    """Compute mean and second moment of the largest of some standard normals."""
    from scipy.special import log_ndtr

    edges = np.linspace(-REACH, REACH, _PANELS + 1)
    z, mass = gauss(edges[:-1], edges[1:])
    log_density = math.log(size) - z**2 / 2 - math.log(2 * math.pi) / 2
    density = np.exp(log_density + (size - 1) * log_ndtr(z))
    return float((mass * density * z).sum()), float((mass * density * z**2).sum())
