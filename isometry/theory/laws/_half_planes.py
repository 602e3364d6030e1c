"""Logarithms and angles that are continuous on a closed half-plane.

NumPy's are cut along the negative real axis. There ψ and 1 + ψ of a law arrive from
below, and rounding may have put them above.
"""

import numpy as np
from jaxtyping import Complex, Float

from isometry.theory.laws._types import Numbers

Points = Complex[Numbers, " points"]
RealPoints = Float[np.ndarray, " points"]


def into_lower(x: Points) -> Points:
    """Reflect into the closed lower half-plane."""
    return x.real - 1j * np.abs(x.imag)


def log_below(x: Points) -> Points:
    """Take the logarithm that is analytic on the closed lower half-plane."""
    is_upper_left = (x.real < 0) & (x.imag >= 0)
    return np.log(x) - 2j * np.pi * is_upper_left


def angle_below(x: Points) -> RealPoints:
    """Return the argument of x, reflected into the lower half-plane, in [−π, 0].

    It is accurate to its own size where it is small, beside the positive real axis. On
    the negative axis it is −π, whatever the sign of a zero imaginary part.
    """
    return -np.arctan2(np.abs(x.imag), x.real)
