"""The engine against answers that are known without it: tiny problems, a few seconds, compilation included."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import initializers, linalg, networks, theory
from isometry._ensemble import ensemble
from isometry._spectrum import spectrum

FALSE_ALARM = 1e-6
"""Chance, over seeds, that the one check whose answer is random fails a right engine."""
_N = 8
_EPS = float(np.finfo(np.float32).eps)
_ROUNDING = (_N + math.sqrt(_N) / 2) * _EPS
"""Of an n × n matrix with s ≤ 1: n·eps for its SVD (LAPACK's convention), |A|·eps/2 ≤ √n·eps/2 for its entries."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One known answer: `error`, how far what was computed is from it, how large that may be, and `why`.

    Without a number there is no error but a `fault`: what was raised, or that the answer was not a number.
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
    """Every known answer, in float32 where something is measured. What a check raises is its outcome."""
    return [_checked(name, test, key) for name, test in TESTS.items()]


def _checked(name: str, test: Callable[[Any], tuple[Any, float, str]], key: Any) -> Check:
    try:
        error, allowed, why = test(key)
        error = float(error)
    except Exception as fault:
        return Check(name, None, None, "", f"{type(fault).__name__}: {fault}")
    if math.isfinite(error):
        return Check(name, error, allowed, why)
    return Check(name, None, allowed, why, f"the answer is off by {error}")


def _turn(seed: int) -> np.ndarray:
    """A random orthogonal matrix: numpy's, not the engine's."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(_N, _N)))[0]


def _known() -> tuple[np.ndarray, Any]:
    """(s descending from 1 to 9/16, a float32 matrix with these singular values, but for its rounding)."""
    s = 1 - np.arange(_N) / (2 * _N)
    return s, jnp.asarray((_turn(1) * s) @ _turn(2).T, jnp.float32)


def _dense(key: Any) -> tuple[Any, float, str]:
    s, matrix = _known()
    found = jax.jit(lambda a, x: spectrum(jnp.matmul, a, x, method="dense").values)(matrix, jnp.ones(_N, jnp.float32))
    return np.abs(np.asarray(found, float) - s).max(), _ROUNDING, "rounding of the matrix and of its SVD"


def _product(key: Any) -> tuple[Any, float, str]:
    """64 factors, whose product reaches 57 decades below its largest value: far below what one matrix resolves."""
    depth, steps = 64, np.arange(_N) % 4
    turns = [_turn(i) for i in range(depth + 1)]
    factors = np.stack([(turns[i + 1] * 2.0**-steps) @ turns[i].T for i in range(depth)])
    found = jax.jit(linalg.product_log_singular_values)(jnp.asarray(factors, jnp.float32))
    expected = -math.log(2) * depth * np.sort(steps)
    return np.abs(np.asarray(found, float) - expected).max(), 3e-3, "what the method promises of ln s in float32"


def _extremes(key: Any) -> tuple[Any, float, str]:
    s, matrix = _known()

    @jax.jit
    def extremes(matrix: Any, key: Any) -> Any:
        return linalg.extreme_singular_values(linalg.Operator.of(matrix), key=key, steps=_N).values

    error = np.abs(np.asarray(extremes(matrix, key), float) - s[[0, -1]]).max()
    return error, 4 * math.sqrt(_N) * _EPS + _ROUNDING, "rounding of products and of the small SVD"


def _chi(key: Any) -> tuple[Any, float, str]:
    """erf: chi_1 = sigma_w² E phi'(√q z)² = (4/π)/√(1 + 4q)."""
    found = theory.chi(jax.scipy.special.erf, 0.7, 1.0)
    return abs(found / (4 / math.pi / math.sqrt(1 + 4 * 0.7)) - 1), 1e-10, "quadrature in float64"


def _edge(key: Any) -> tuple[Any, float, str]:
    """A product of L Gaussian matrices ends at s² = (L + 1)^(L + 1)/L^L (Fuss and Catalan)."""
    depth = 7
    found = theory.jacobian_law("linear", depth, q=1.0, sigma_w=1.0, weights="gaussian").s_max ** 2
    return abs(found * depth**depth / (depth + 1) ** (depth + 1) - 1), 1e-10, "root finding in float64"


def _orthogonal(key: Any) -> tuple[Any, float, str]:
    draw = jax.jit(initializers.orthogonal(), static_argnums=(1, 2))
    w = np.asarray(draw(key, (_N, _N // 2), "float32"), float)
    return np.abs(w.T @ w - np.eye(_N // 2)).max(), _N * _EPS, "n eps of W'W = 1"


def _mean_square(key: Any) -> tuple[Any, float, str]:
    """W_ij ~ N(0, 1/n): n Σ s² over all draws is chi-squared of as many degrees of freedom as there are entries."""
    seeds = 256
    net = networks.mlp([_N, _N], "linear", "gaussian", sigma_w=1.0, sigma_b=0.0, bias=False)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    words = jnp.asarray(rng.integers(2**32, size=(seeds, 2), dtype=np.uint32))
    keys = jax.random.wrap_key_data(words, impl="threefry2x32")  # jax.random.split would be compiled for it
    found = ensemble(net, keys, np.ones((2, _N), np.float32), method="dense")
    error = abs(np.exp(2 * np.asarray(found.log_values, float)).mean() - 1)
    return error, _chi_squared_band(seeds * _N**2), f"the draw: more by chance in at most {FALSE_ALARM:.0e} of seeds"


def _chi_squared_band(k: int) -> float:
    """b with P(|X/k − 1| > b) ≤ FALSE_ALARM for X chi-squared of k degrees of freedom.

    Source: Laurent and Massart (2000), lemma 1: X − k ≤ 2√(kt) + 2t and k − X ≤ 2√(kt), each but for e^−t.
    """
    t = math.log(2 / FALSE_ALARM)
    return 2 * math.sqrt(t / k) + 2 * t / k


TESTS = {
    "dense singular values": _dense,
    "product of 64 factors, ln s": _product,
    "Lanczos, largest and smallest s": _extremes,
    "theory, chi_1 of erf": _chi,
    "theory, edge of a Gaussian chain": _edge,
    "orthogonal initializer": _orthogonal,
    "ensemble, mean square s": _mean_square,
}
