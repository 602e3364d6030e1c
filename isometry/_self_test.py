"""The engine against answers that are known without it: tiny problems, 3 s of a processor with compilation."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from isometry import initializers, linalg, theory
from isometry.measure._spectrum import spectrum

_N = 8
_EPS = float(np.finfo(np.float32).eps)
_ROUNDING = (_N + math.sqrt(_N) / 2) * _EPS
"""Of an n × n matrix with s ≤ 1: n·eps for its SVD (LAPACK's convention), |A|·eps/2 ≤ √n·eps/2 for its entries."""


class Check(NamedTuple):
    """One known answer: how far what was computed is from it, how far it may be, and why.

    Without a number there is no `error` but a `fault`: what was raised, or that the answer was no number.
    """

    name: str
    error: float | None
    allowed: float | None
    why: str
    fault: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the engine gave the known answer."""
        return self.error is not None and self.allowed is not None and self.error <= self.allowed


def self_test(key: Any) -> list[Check]:
    """Compare every known answer, in float32 where something is measured. What a check raises is its outcome."""
    return [checked(name, test, key) for name, test in TESTS.items()]


def checked(name: str, test: Callable[[Any], tuple[Any, float, str]], key: Any) -> Check:
    """Run one test of (error, allowed, why)."""
    try:
        error, allowed, why = test(key)
        error = float(error)
    except Exception as fault:  # whatever a broken engine raises
        return Check(name, None, None, "", f"{type(fault).__name__}: {fault}")
    if math.isfinite(error):
        return Check(name, error, allowed, why)
    return Check(name, None, allowed, why, f"the answer is off by {error}")


def _turn(seed: int) -> np.ndarray:
    """Draw a random orthogonal matrix: numpy's, not the engine's."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(_N, _N)))[0]


def _dense(key: Any) -> tuple[Any, float, str]:
    """s from 1 to 9/16."""
    s = 1 - np.arange(_N) / (2 * _N)
    matrix = jnp.asarray((_turn(1) * s) @ _turn(2).T, jnp.float32)

    @jax.jit
    def values(matrix: Any, x: Any) -> Any:
        return spectrum(jnp.matmul, matrix, x, method="dense").values

    error = np.abs(np.asarray(values(matrix, jnp.ones(_N, jnp.float32)), float) - s).max()
    return error, _ROUNDING, "rounding of the matrix and of its SVD"


def _product(key: Any) -> tuple[Any, float, str]:
    """64 factors, whose product reaches 57 decades below its largest value: far below what one matrix resolves."""
    depth, steps = 64, np.arange(_N) % 4
    turns = [_turn(i) for i in range(depth + 1)]
    factors = np.stack([(turns[i + 1] * 2.0**-steps) @ turns[i].T for i in range(depth)])
    logs = linalg.product_log_singular_values(jnp.asarray(factors, jnp.float32))
    expected = -math.log(2) * depth * np.sort(steps)
    return np.abs(np.asarray(logs, float) - expected).max(), 3e-3, "what the method promises of ln s in float32"


def _chi(key: Any) -> tuple[Any, float, str]:
    """erf: chi_1 = sigma_w² E phi'(√q z)² = (4/π)/√(1 + 4q)."""
    chi = theory.chi(jax.scipy.special.erf, 0.7, 1.0)
    return abs(chi / (4 / math.pi / math.sqrt(1 + 4 * 0.7)) - 1), 1e-10, "quadrature in float64"


def _edge(key: Any) -> tuple[Any, float, str]:
    """A product of L Gaussian matrices ends at s² = (L + 1)^(L + 1)/L^L (Fuss and Catalan)."""
    depth = 7
    edge = theory.jacobian_law("linear", depth, q=1.0, sigma_w=1.0, weights="gaussian").s_max ** 2
    return abs(edge * depth**depth / (depth + 1) ** (depth + 1) - 1), 1e-10, "root finding in float64"


def _orthogonal(key: Any) -> tuple[Any, float, str]:
    draw = jax.jit(initializers.orthogonal(), static_argnums=(1, 2))
    w = np.asarray(draw(key, (_N, _N // 2), "float32"), float)
    return np.abs(w.T @ w - np.eye(_N // 2)).max(), _N * _EPS, "n eps of W'W = 1"


TESTS = {
    "dense singular values": _dense,
    "product of 64 factors, ln s": _product,
    "theory, chi_1 of erf": _chi,
    "theory, edge of a Gaussian chain": _edge,
    "orthogonal initializer": _orthogonal,
}
