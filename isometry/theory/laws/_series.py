"""Power series in ψ, as lists of coefficients, and the moments that follow from them.

Lagrange inversion of the curve λ(ψ) gives E λⁿ = [ψⁿ⁻¹] (ψ λ(ψ))ⁿ / n.
"""

import numpy as np
from jaxtyping import Float

Series = Float[np.ndarray, " n"]


def moment(log_series: Series, n: int) -> float:
    """Compute E λⁿ from the first n coefficients of log(ψ λ(ψ)). Overflow is inf."""
    shape = log_series.copy()
    shape[0] = 0.0
    # The power of the mean is a factor of its own, because it alone may overflow.
    with np.errstate(over="ignore"):
        scale = np.exp(n * log_series[0])
        return float(scale * exponential(n * shape)[n - 1] / n)


def one_plus(c: float, n: int) -> Series:
    """Expand log(1 + cψ), what a factor 1 + cψ adds to a log series."""
    k = np.arange(1, n)
    return np.concatenate([[0.0], -((-c) ** k) / k])


def inverse_transform(moments: Series) -> Series:
    """Expand log(ψ ζ(ψ)/m_1), where ψ = M(ζ) = Σ m_k ζ^−k.

    With x = m_1/ζ and h(x) = Σ (m_{k+1}/m_1^{k+1}) x^k this is x = ψ/h(x), solved by
    iteration, which gains a coefficient a round; the logarithm wanted is log h(x).
    """
    n = len(moments)
    h = moments / moments[0] ** np.arange(1, n + 1)
    x = np.zeros(n)
    for _ in range(n):
        reciprocal = exponential(-logarithm(composed(h, x)))
        x = np.concatenate([[0.0], reciprocal[:-1]])
    return logarithm(composed(h, x))


def composed(h: Series, x: Series) -> Series:
    """Expand h(x(ψ)) by Horner's rule."""
    value = np.zeros(len(h))
    for coefficient in h[::-1]:
        value = np.convolve(value, x)[: len(h)]
        value[0] += coefficient
    return value


def logarithm(series: Series) -> Series:
    """Expand the logarithm of a series that starts with 1."""
    log = np.zeros(len(series))
    for k in range(1, len(series)):
        # From s' = s · log' with s = exp(log), coefficient by coefficient.
        known = sum(j * log[j] * series[k - j] for j in range(1, k))
        log[k] = series[k] - known / k
    return log


def exponential(series: Series) -> Series:
    """Expand the exponential of a series that starts with 0."""
    value = np.zeros(len(series))
    value[0] = 1.0
    for k in range(1, len(series)):
        # From e' = e · series', likewise.
        terms = [j * series[j] * value[k - j] for j in range(1, k + 1)]
        value[k] = sum(terms) / k
    return value
