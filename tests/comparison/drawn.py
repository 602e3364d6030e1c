"""Spectra of networks that are drawn and multiplied by NumPy in float64."""

import functools
import math

import numpy as np

from isometry import Dense, Spectrum, theory

# Each activation and its derivative.
ACTIVATIONS = {
    "linear": (lambda z: z, np.ones_like),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "hard_tanh": (lambda z: np.clip(z, -1, 1), lambda z: (abs(z) < 1).astype(float)),
}
SCALE_FREE = {"linear": (1.0, 0.0), "relu": (math.sqrt(2), 0.0)}


@functools.cache
def scales(phi, q):
    """The critical sigma_w and sigma_b at the variance q."""
    if phi in SCALE_FREE:
        return SCALE_FREE[phi]
    point = theory.critical_at(phi, q)
    return point.sigma_w, point.sigma_b


def weight(rng, weights, n):
    matrix = rng.standard_normal((n, n))
    if weights == "gaussian":
        return matrix / math.sqrt(n)
    q, r = np.linalg.qr(matrix)
    return q * np.sign(np.diag(r))


def log_s(rng, phi, weights, pairs, n, q):
    """ln s of W D … W D for one draw whose input has variance q."""
    (activation, slope), (sigma_w, sigma_b) = ACTIVATIONS[phi], scales(phi, q)
    z, jacobian = rng.standard_normal(n), np.eye(n)
    z *= math.sqrt(q / (z @ z / n))
    for _ in range(pairs):
        w = sigma_w * weight(rng, weights, n)
        jacobian = w @ (slope(z)[:, None] * jacobian)
        z = w @ activation(z) + sigma_b * rng.standard_normal(n)
    with np.errstate(divide="ignore"):
        return np.log(np.linalg.svd(jacobian, compute_uv=False))


def spectrum_of(log_values, pairs, eps=2.0**-52):
    """A Spectrum over (seeds, 1) as ensemble returns it, from (seeds, values)."""
    log_values = np.asarray(log_values)[:, None, :]
    n = log_values.shape[-1]
    return Spectrum(
        log_values=log_values,
        weights=np.full(log_values.shape, 1 / n),
        log_floor=np.full(log_values.shape[:-1], math.log(n * eps)),
        method=Dense(),
        size=n,
        span="hidden",
        pairs=pairs,
    )


def drawn(phi, weights, pairs, n, q, seeds, seed=0):
    """The spectrum of so many draws of a network of width n."""
    rng = np.random.default_rng(seed)
    draws = [log_s(rng, phi, weights, pairs, n, q) for _ in range(seeds)]
    return spectrum_of(draws, pairs)


def law_of(phi, weights, pairs, q, stretch=1.0):
    """The law at (sigma_w · stretch, sigma_b) and its own fixed point."""
    sigma_w, sigma_b = scales(phi, q)
    if stretch == 1 or phi in SCALE_FREE:
        return theory.jacobian_law(phi, pairs, q, stretch * sigma_w, weights=weights)
    return theory.jacobian_law(phi, pairs, None, stretch * sigma_w, sigma_b, weights)
