"""The engine against answers that are known without it: tiny problems, in 3 s."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry import initializers, linalg, theory
from isometry._internal.types import Key
from isometry.measure._spectrum import spectrum

# Order of the matrices. Ten times larger would compile as fast and need seconds more on
# a slow machine; ten times smaller is a number.
_N = 8
_EPS = float(np.finfo(np.float32).eps)

# Of an n × n matrix with s ≤ 1: n eps for its SVD, by LAPACK's convention, and at most
# |A|_F eps/2 ≤ √n eps/2 because its entries are rounded to float32.
_ROUNDING = (_N + math.sqrt(_N) / 2) * _EPS


class Check(NamedTuple):
    """One known answer, and what the engine answered.

    Attributes:
        name: What was computed.
        error: How far off the answer is; None if it is no number.
        allowed: How far off it may be.
        why: Why so far.
        fault: What was raised, or that the answer is no number; else None.
    """

    name: str
    error: float | None
    allowed: float | None
    why: str
    fault: str | None = None

    @property
    def holds(self) -> bool:
        """Whether the engine gave the known answer."""
        if self.error is None or self.allowed is None:
            return False
        return self.error <= self.allowed


# A test: of a key, how far off the answer is, how far it may be, and why.
Test: TypeAlias = Callable[[Key], tuple[float, float, str]]


def self_test(key: Key) -> list[Check]:
    """Compare every known answer, in float32 where something is measured."""
    return [checked(name, test, key) for name, test in TESTS.items()]


def checked(name: str, test: Test, key: Key) -> Check:
    """Run one test. What it raises is its outcome."""
    try:
        error, allowed, why = test(key)
        error = float(error)
    # A broken engine may raise anything.
    except Exception as fault:
        described = f"{type(fault).__name__}: {fault}"
        return Check(name=name, error=None, allowed=None, why="", fault=described)
    if math.isfinite(error):
        return Check(name=name, error=error, allowed=allowed, why=why)
    described = f"the answer is off by {error}"
    return Check(name=name, error=None, allowed=allowed, why=why, fault=described)


def _rotation(seed: int) -> Float[np.ndarray, "n n"]:
    """Draw an orthogonal matrix by NumPy, not by the engine."""
    gaussian = np.random.default_rng(seed).normal(size=(_N, _N))
    return np.linalg.qr(gaussian)[0]


def _dense(key: Key) -> tuple[float, float, str]:
    """Measure a matrix whose s go from 1 down to 9/16."""
    s = 1 - np.arange(_N) / (2 * _N)
    matrix = jnp.asarray((_rotation(1) * s) @ _rotation(2).T, jnp.float32)

    @jax.jit
    def values(matrix: Array, x: Array) -> Array:
        return spectrum(jnp.matmul, matrix, x, method="dense").values

    measured = np.asarray(values(matrix, jnp.ones(_N, jnp.float32)), float)
    return np.abs(measured - s).max(), _ROUNDING, "rounding of the matrix and its SVD"


def _product(key: Key) -> tuple[float, float, str]:
    """Measure a product whose s reach 57 decades below the largest.

    One matrix resolves seven of them in float32. Each of the 64 factors scales a
    direction by 1, 1/2, 1/4 or 1/8.
    """
    depth = 64
    halvings = np.arange(_N) % 4
    rotations = [_rotation(i) for i in range(depth + 1)]
    factors = [
        (rotations[i + 1] * 2.0**-halvings) @ rotations[i].T for i in range(depth)
    ]
    stacked = jnp.asarray(np.stack(factors), jnp.float32)
    logs = np.asarray(linalg.product_log_singular_values(stacked), float)
    expected = -math.log(2) * depth * np.sort(halvings)
    promise = "what the method promises of ln s in float32"
    return np.abs(logs - expected).max(), 3e-3, promise


def _chi(key: Key) -> tuple[float, float, str]:
    """Compute chi_1 of erf: sigma_w² E phi'(√q z)² = (4/π)/√(1 + 4q)."""
    q = 0.7
    chi = theory.chi(jax.scipy.special.erf, q, 1.0)
    expected = 4 / math.pi / math.sqrt(1 + 4 * q)
    return abs(chi / expected - 1), 1e-10, "quadrature in float64"


def _edge(key: Key) -> tuple[float, float, str]:
    """Find the edge of a product of L Gaussian matrices.

    It is s² = (L + 1)^(L + 1)/L^L, the growth of the Fuss-Catalan numbers.
    """
    depth = 7
    law = theory.jacobian_law("linear", depth, q=1.0, sigma_w=1.0, weights="gaussian")
    expected = (depth + 1) ** (depth + 1) / depth**depth
    return abs(law.s_max**2 / expected - 1), 1e-10, "root finding in float64"


def _orthogonal(key: Key) -> tuple[float, float, str]:
    """Draw a matrix with orthonormal columns."""
    draw = jax.jit(initializers.orthogonal(), static_argnums=(1, 2))
    w = np.asarray(draw(key, (_N, _N // 2), "float32"), float)
    gap = np.abs(w.T @ w - np.eye(_N // 2)).max()
    return gap, _N * _EPS, "n eps of W'W = 1"


TESTS: dict[str, Test] = {
    "dense singular values": _dense,
    "product of 64 factors, ln s": _product,
    "theory, chi_1 of erf": _chi,
    "theory, edge of a Gaussian chain": _edge,
    "orthogonal initializer": _orthogonal,
}
