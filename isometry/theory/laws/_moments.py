"""What is known of a spectrum whose law is not: mean and variance of s²."""

from typing import NamedTuple


class Moments(NamedTuple):
    """Mean and variance of lam = s², s the singular values of a Jacobian.

    Attributes:
        mean: E lam over the min(m, n) singular values.
        variance: E lam² − (E lam)², over the same values.

    Example:
        >>> theory.Moments(mean=2.0, variance=8.0).variance
        8.0
    """

    mean: float
    variance: float
