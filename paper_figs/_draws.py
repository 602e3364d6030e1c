"""Matrices and networks drawn with numpy in float64: nothing to compile, so that many shapes are cheap."""

import functools
from typing import Any

import jax
import numpy as np

from isometry import Dense, Spectrum, activations, theory
from isometry._internal.precision import svd_log_floor


def generator(key: Any) -> np.random.Generator:
    """numpy's generator from the bits of a key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def square(rng: np.random.Generator, law: str, count: int, n: int) -> np.ndarray:
    """(count, n, n): "gaussian" of variance 1/n, or "orthogonal", Haar by QR with the signs of R taken out."""
    drawn = rng.standard_normal((count, n, n))
    if law == "gaussian":
        return drawn / np.sqrt(n)
    basis, upper = np.linalg.qr(drawn)
    return basis * np.sign(np.diagonal(upper, axis1=1, axis2=2))[:, None, :]


_CHUNK = 4096  # one shape, so that an activation is compiled once


@functools.cache
def _compiled(activation: str) -> Any:
    record = activations.get(activation)
    return jax.jit(lambda z: (record(z), record.slope(z)))


def phi(activation: str, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(phi(z), phi'(z)) by the library's record, in float64."""
    flat = np.zeros(-(-z.size // _CHUNK) * _CHUNK)
    flat[: z.size] = z.ravel()
    with jax.enable_x64(True):
        parts = [_compiled(activation)(chunk) for chunk in flat.reshape(-1, _CHUNK)]
    h, slope = (np.concatenate(p)[: z.size].reshape(z.shape) for p in zip(*parts, strict=True))
    return h, slope


class Critical:
    """Networks at criticality, layer by layer: z ← sigma_w W phi(z) + b, J ← sigma_w W D J, from z ~ N(0, q)."""

    def __init__(self, rng: np.random.Generator, activation: str, q: float, count: int, n: int):
        self.rng, self.activation, self.point = rng, activation, theory.critical_at(activation, q)
        self.z = np.sqrt(q) * rng.standard_normal((count, n))
        self.jacobian = np.broadcast_to(np.eye(n), (count, n, n))

    def step(self, weights: np.ndarray) -> None:
        """One more (W, D) pair; `weights` (count, n, n) of unit scale."""
        h, slope = phi(self.activation, self.z)
        w = self.point.sigma_w * weights
        self.jacobian = w @ (slope[:, :, None] * self.jacobian)
        self.z = (w @ h[:, :, None])[:, :, 0] + self.point.sigma_b * self.rng.standard_normal(h.shape)


def log_values(jacobian: np.ndarray) -> np.ndarray:
    """ln s, descending, −inf for an exact zero."""
    with np.errstate(divide="ignore"):
        return np.log(np.linalg.svd(jacobian, compute_uv=False))


def spectrum(log_s: np.ndarray, pairs: int) -> Spectrum:
    """The `Spectrum` of (seeds, n) log singular values of products of `pairs` factors, each with its rounding."""
    n = log_s.shape[-1]
    floor = np.full((len(log_s), 1), svd_log_floor(n, n, np.dtype(np.float64)) + np.log(pairs))
    weights = np.full((len(log_s), 1, n), 1 / n)
    numbers: dict[str, Any] = {"log_values": log_s[:, None, :], "weights": weights, "log_floor": floor}
    return Spectrum(**numbers, method=Dense(), size=n, structural_zeros=0, span="hidden", pairs=pairs)
