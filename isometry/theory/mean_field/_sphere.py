"""Means over the batch behind BatchNorm: u uniform on the sphere |u|² = B, Σ u_i = 0.

Two entries of u are a projection of the sphere in m = B − 1 dimensions onto a plane:

    u_1 = √m sin τ cos θ,  u_2 = √m sin τ cos(θ − α),  cos α = −1/m,

with θ uniform and density (m − 2) sin τ cos^(m−3) τ on [0, π/2]. At B = 4 that is the
area of a sphere, and for large B the Gaussian.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from isometry.activations import Activation
from isometry.theory.mean_field._host import evaluate
from isometry.theory.mean_field._pieces import octave_of, pieces
from isometry.theory.mean_field._quadrature import REACH, gauss

Nodes = Float[np.ndarray, " nodes"]
Ends = Float[np.ndarray, " ends"]

_ORDER = 16

# Panels of the angle θ, beside those between kinks, and of τ. With half as many, tanh
# at B = 4 is off by 1e-12; twice as many cost four times.
_PANELS = 8


@dataclass(frozen=True)
class SphereMeans:
    """Expectations over two entries u_1, u_2.

    Attributes:
        square: E phi(u_1)².
        product: E phi(u_1) phi(u_2).
        slope_square: E phi'(u_1)².
        slopes: E phi'(u_1) phi'(u_2).
        tilted_square: E u_1² phi'(u_1)².
        tilted: E u_1 u_2 phi'(u_1) phi'(u_2).
    """

    square: float
    product: float
    slope_square: float
    slopes: float
    tilted_square: float
    tilted: float


@functools.lru_cache(maxsize=256)
def on_sphere(phi: Activation, size: int) -> SphereMeans:
    """Compute the means for a batch of this size, at least 4."""
    m = size - 1
    radius = math.sqrt(m)
    # Beyond fourteen standard deviations of a Gaussian nothing is left.
    last = math.pi / 2
    if radius > REACH:
        last = math.asin(REACH / radius)
    furthest = radius * math.sin(last)
    cut = pieces(phi, octave_of(furthest))
    kinks = np.abs(cut.kinks)
    # Where a kink enters the circle of radius √m sin τ.
    entering = np.arcsin(kinks[kinks < furthest] / radius)
    ends = np.unique(np.concatenate([np.linspace(0, last, _PANELS + 1), entering]))
    tau, mass = _folded(ends)
    # cos^(m−3), to relative accuracy where its power is large.
    log_cosine = np.log1p(-(np.sin(tau) ** 2)) / 2
    mass = mass * (m - 2) * np.sin(tau) * np.exp((m - 3) * log_cosine)
    means = np.zeros(6)
    for angle, weight in zip(tau, mass, strict=True):
        circle = radius * math.sin(angle)
        means += weight * _on_circle(phi, circle, -1 / m, edges=cut.edges)
    return SphereMeans(*map(float, means))


def _folded(ends: Ends) -> tuple[Nodes, Nodes]:
    """Return nodes on panels that are dense at the ends of each.

    An integral over a chord begins as a square root where a kink enters the circle.
    """
    x, weight = gauss(np.zeros(1), np.full(1, np.pi), 2 * _ORDER)
    x, weight = x[0], weight[0]
    half = (ends[1:] - ends[:-1])[:, None] / 2
    middle = (ends[1:] + ends[:-1])[:, None] / 2
    # With τ = −cos x a square root at an end becomes smooth.
    nodes = middle - half * np.cos(x)
    return nodes.ravel(), (half * weight * np.sin(x)).ravel()


def _on_circle(
    phi: Activation,
    circle: float,
    cosine: float,
    *,
    edges: Ends,
) -> Float[np.ndarray, "6"]:
    """Average over θ at one radius, between the angles where phi is cut."""
    shift = math.acos(cosine)
    crossing = np.arccos(edges[np.abs(edges) < circle] / circle)
    grid = np.linspace(0, 2 * np.pi, 4 * _PANELS + 1)
    cuts = [crossing, -crossing, shift + crossing, shift - crossing]
    angles = np.unique(np.concatenate([grid, *(c % (2 * np.pi) for c in cuts)]))
    theta, mass = gauss(angles[:-1], angles[1:], _ORDER)
    mass = mass / (2 * np.pi)
    first, second = circle * np.cos(theta), circle * np.cos(theta - shift)
    value, slope = evaluate(phi, np.stack([first, second]))
    tilt = np.stack([first, second]) * slope
    integrands = [
        value[0] ** 2,
        value[0] * value[1],
        slope[0] ** 2,
        slope[0] * slope[1],
        tilt[0] ** 2,
        tilt[0] * tilt[1],
    ]
    return np.array([float((mass * f).sum()) for f in integrands])
