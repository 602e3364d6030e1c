"""Moments of a free product by Lagrange inversion: m_n = [ψ^{n−1}] (ψ M⁻¹(ψ))^n / n, from one additive power series."""

import math

import numpy as np

from isometry.theory._measure import Array, Measure
from isometry.theory._product import Product


def log_mean(product: Product) -> float:
    """log m_1."""
    logs = (f.times * math.log(f.measure.moment(1) / f.ratio) for f in product.factors)
    return product.const + sum(logs)


def relative_variance(product: Product) -> float:
    """m_2/m_1² − 1, the sum of what the factors add."""
    whole = sum(a * c for c, a in product.ones) + sum(f.times * f.ratio for f in product.factors) - 1
    spread = sum(f.times * f.ratio * f.measure.relative_variance() for f in product.factors)
    return whole + spread + product.smooth + product.bernoulli


def moment(product: Product, n: int) -> float:
    """E lam^n."""
    series = _log_series(product, n)
    with np.errstate(over="ignore"):
        scale = np.exp(n * log_mean(product))
        value = scale * _exponential(n * series)[n - 1] / n
    return float(value)


def _log_series(product: Product, n: int) -> Array:
    """Coefficients of log(ψ M⁻¹(ψ)/m_1) in ψ⁰ … ψ^{n−1}."""
    k = np.arange(1, n)
    series = np.zeros(n)
    for c, a in product.ones:
        series[1:] -= a * (-float(c)) ** k / k
    for f in product.factors:
        series += f.times * _measure_series(f.measure, n) * f.ratio ** np.arange(n)
    series[1:] -= product.bernoulli * (-1.0) ** k
    if n > 1:
        series[1] += product.smooth
    return series


def _measure_series(measure: Measure, n: int) -> Array:
    """log(ψ ζ(ψ)/μ_1) for ψ = Σ μ_k ζ^{−k}: log h(x) with x = μ_1/ζ = ψ/h and h = Σ (μ_{k+1}/μ_1^{k+1}) x^k."""
    mean = measure.moment(1)
    h = np.array([measure.moment(k) / mean**k for k in range(1, n + 1)])
    x = np.zeros(n)
    for _ in range(n):
        x = np.r_[0.0, _exponential(-_logarithm(_composed(h, x)))[:-1]]
    return _logarithm(_composed(h, x))


def _composed(h: Array, x: Array) -> Array:
    """h(x(ψ)) truncated, by Horner."""
    value = np.zeros(len(h))
    for coefficient in h[::-1]:
        value = np.convolve(value, x)[: len(h)]
        value[0] += coefficient
    return value


def _logarithm(series: Array) -> Array:
    """log of a power series that starts with 1."""
    out = np.zeros(len(series))
    for k in range(1, len(series)):
        out[k] = series[k] - sum(j * out[j] * series[k - j] for j in range(1, k)) / k
    return out


def _exponential(series: Array) -> Array:
    """exp of a power series that starts with 0."""
    out = np.zeros(len(series))
    out[0] = 1.0
    for k in range(1, len(series)):
        out[k] = sum(j * series[j] * out[k - j] for j in range(1, k + 1)) / k
    return out
