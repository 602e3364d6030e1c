"""Matrices and networks drawn with NumPy in float64.

Nothing is compiled for them but activations, so that figures can afford many shapes.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from isometry import Dense, Spectrum, activations, theory
from isometry._internal.precision import svd_log_floor
from isometry._internal.types import Key


def generator(key: Key) -> np.random.Generator:
    """Return NumPy's generator, seeded with the bits of a key.

    Args:
        key: The key.
    """
    bits = np.asarray(jax.random.key_data(key))
    return np.random.default_rng(bits.ravel())


def square(
    rng: np.random.Generator,
    law: str,
    count: int,
    n: int,
) -> Float[np.ndarray, "count n n"]:
    """Draw square matrices of unit scale.

    Args:
        rng: The generator.
        law: "gaussian" for independent entries of variance 1/n, or "orthogonal" for
            Haar-distributed matrices.
        count: The number of matrices.
        n: The number of their rows.

    Returns:
        The matrices.
    """
    entries = rng.standard_normal((count, n, n))
    if law == "gaussian":
        return entries / np.sqrt(n)
    # LAPACK's Q alone is not Haar-distributed, because its signs follow a convention.
    # The signs of the diagonal of R undo that (Mezzadri, 2007, math-ph/0609050, section
    # 5).
    basis, upper = np.linalg.qr(entries)
    signs = np.sign(np.diagonal(upper, axis1=1, axis2=2))
    return basis * signs[:, None, :]


class Activated(NamedTuple):
    """An activation at pre-activations, and its derivative there."""

    value: Float[np.ndarray, "*shape"]
    slope: Float[np.ndarray, "*shape"]


# Pre-activations go to JAX in pieces of one size, so that each activation is compiled
# once. Pieces ten times smaller would cost ten times as many calls; with pieces ten
# times larger, most of what is computed for a small network would be padding.
_CHUNK = 4096


@functools.cache
def _compiled(activation: str) -> Callable[[ArrayLike], tuple[Array, Array]]:
    """Return a compiled function from z to φ(z) and φ'(z)."""
    record = activations.get(activation)

    def value_and_slope(z: Array) -> tuple[Array, Array]:
        return record(z), record.slope(z)

    return jax.jit(value_and_slope)


def phi(activation: str, z: Float[np.ndarray, "*shape"]) -> Activated:
    """Evaluate an activation of the library in float64.

    Args:
        activation: Its name.
        z: Pre-activations.

    Returns:
        Its values and its derivatives.
    """
    num_chunks = math.ceil(z.size / _CHUNK)
    padded = np.zeros(num_chunks * _CHUNK)
    padded[: z.size] = z.ravel()
    chunks = padded.reshape(num_chunks, _CHUNK)
    with jax.enable_x64(True):
        evaluate = _compiled(activation)
        pairs = [evaluate(chunk) for chunk in chunks]
    values, slopes = np.swapaxes(np.array(pairs), 0, 1)
    return Activated(
        value=values.ravel()[: z.size].reshape(z.shape),
        slope=slopes.ravel()[: z.size].reshape(z.shape),
    )


class Critical:
    """Dense networks at criticality, which grow layer by layer.

    Their first pre-activations z are drawn from the fixed point, N(0, q). A layer takes
    z to σ_w W φ(z) + b, and the Jacobian J to σ_w W D J with D = diag φ'(z).

    Attributes:
        rng: What biases are drawn from.
        activation: The name of the activation.
        point: The critical point.
        z: Pre-activations, (count, n).
        jacobian: From the first pre-activations to these, (count, n, n).
    """

    def __init__(
        self,
        rng: np.random.Generator,
        activation: str,
        q: float,
        *,
        count: int,
        n: int,
    ):
        self.rng = rng
        self.activation = activation
        self.point = theory.critical_at(activation, q)
        self.z = np.sqrt(q) * rng.standard_normal((count, n))
        self.jacobian = np.broadcast_to(np.eye(n), (count, n, n))

    def step(self, weights: Float[np.ndarray, "count n n"]) -> None:
        """Add a layer.

        Args:
            weights: Its weights, of unit scale.
        """
        units = phi(self.activation, self.z)
        scaled = self.point.sigma_w * weights
        self.jacobian = scaled @ (units.slope[:, :, None] * self.jacobian)
        signal = (scaled @ units.value[:, :, None])[:, :, 0]
        biases = self.point.sigma_b * self.rng.standard_normal(signal.shape)
        self.z = signal + biases


def at_depths(
    nets: Sequence[Critical],
    law: str,
    depths: Sequence[int],
    *,
    statistic: Callable[[Float[np.ndarray, "count n n"]], Float[np.ndarray, "..."]],
) -> Float[np.ndarray, "nets depths ..."]:
    """Let networks grow with the same weights, and measure their Jacobians on the way.

    Args:
        nets: Networks of one width and count that share a generator.
        law: That of the weights, as `square` takes it.
        depths: Where to measure, ascending.
        statistic: From the Jacobians of a network to what is measured.

    Returns:
        What was measured of each network at each depth.
    """
    rng = nets[0].rng
    count, n = nets[0].z.shape
    measured = []
    for depth in range(1, max(depths) + 1):
        weights = square(rng, law, count=count, n=n)
        for net in nets:
            net.step(weights)
        if depth in depths:
            measured.append([statistic(net.jacobian) for net in nets])
    return np.swapaxes(np.array(measured), 0, 1)


def log_values(
    jacobian: Float[np.ndarray, "*batch n n"],
) -> Float[np.ndarray, "*batch n"]:
    """Return ln s, the largest first; −inf for an exact zero.

    Args:
        jacobian: One matrix, or several.
    """
    with np.errstate(divide="ignore"):
        return np.log(np.linalg.svd(jacobian, compute_uv=False))


def spectrum(log_s: Float[np.ndarray, "seeds n"], pairs: int) -> Spectrum:
    """Return measured singular values as the library's record of them.

    Args:
        log_s: ln s of one Jacobian a row, the largest first.
        pairs: The number of (W, D) pairs that were multiplied. Each adds its rounding
            to the resolution.

    Returns:
        The spectrum over seeds and one input.
    """
    seeds, n = log_s.shape
    log_floor = svd_log_floor(n, n, np.dtype(np.float64)) + np.log(pairs)
    # They stay NumPy's arrays, because JAX would round them to float32.
    weights = np.full((seeds, 1, n), 1 / n)
    floors = np.full((seeds, 1), log_floor)
    return Spectrum(
        log_values=cast(Array, log_s[:, None, :]),
        weights=cast(Array, weights),
        log_floor=cast(Array, floors),
        method=Dense(),
        size=n,
        structural_zeros=0,
        span="hidden",
        pairs=pairs,
    )
