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

# Gauss nodes of a panel.
_ORDER = 16

# Panels of τ, and of a quarter turn of θ, beside the ends that kinks make. With three,
# tanh at B = 1000 is off by 7e-12; twice as many gain nothing and cost twice.
_PANELS = 4


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
    cosine = -1 / m
    radius = math.sqrt(m)
    # Beyond fourteen standard deviations of a Gaussian nothing is left.
    last = math.pi / 2
    if radius > REACH:
        last = math.asin(REACH / radius)
    furthest = radius * math.sin(last)
    cut = pieces(phi, octave_of(furthest))
    # A panel of τ ends where a circle begins to meet a kink: the integrand is not
    # smooth there.
    special = _special_radii(cut.kinks, cosine)
    special = special[special < furthest]
    entering = np.arcsin(special / radius)
    even = np.linspace(0, last, _PANELS + 1)
    ends = np.union1d(even, entering)
    tau, mass = _folded(ends)
    sine = np.sin(tau)
    # cos^(m−3), to relative accuracy where its power is large.
    sine_square = sine**2
    log_cosine = np.log1p(-sine_square) / 2
    power = np.exp((m - 3) * log_cosine)
    mass = mass * (m - 2) * sine * power
    circles = radius * sine
    columns = _on_circles(
        phi,
        circles,
        cosine,
        edges=cut.edges,
    )
    means = mass @ columns
    return SphereMeans(*map(float, means))


def _special_radii(kinks: Nodes, cosine: float) -> Float[np.ndarray, " radii"]:
    """Return the radii where a circle meets a kink first, or two at once."""
    first, second = np.meshgrid(kinks, kinks)
    # u_1 and u_2 are projections of a point of the circle onto two directions with this
    # cosine. Both are given here, which fixes the point.
    crossed = 2 * cosine * first * second
    square = first**2 + second**2 - crossed
    sine_square = 1 - cosine**2
    both = np.sqrt(square / sine_square)
    return np.union1d(np.abs(kinks), both)


def _folded(ends: Ends) -> tuple[Nodes, Nodes]:
    """Return nodes on panels that are dense at the ends of each.

    An integral over a chord begins as a square root where a kink enters the circle.
    """
    start, stop = np.zeros(1), np.full(1, np.pi)
    panels, weights = gauss(start, stop, 2 * _ORDER)
    x, weight = panels[0], weights[0]
    column = ends[:, None]
    left, right = column[:-1], column[1:]
    half = (right - left) / 2
    middle = (right + left) / 2
    # With τ = −cos x a square root at an end becomes smooth.
    nodes = middle - half * np.cos(x)
    masses = half * weight * np.sin(x)
    return nodes.ravel(), masses.ravel()


def _on_circles(
    phi: Activation,
    circles: Nodes,
    cosine: float,
    *,
    edges: Ends,
) -> Float[np.ndarray, "nodes 6"]:
    """Average over θ at each radius, between the angles where phi is cut."""
    shift = math.acos(cosine)
    # Circles have different numbers of panels, and all panels lie in one array.
    # `owner` is the circle of each.
    num_circles = len(circles)
    lefts, rights, owners = [], [], []
    for number, circle in enumerate(circles):
        angles = _ends(circle, shift, edges)
        lefts.append(angles[:-1])
        rights.append(angles[1:])
        owners += [number] * (len(angles) - 1)
    left = np.concatenate(lefts)
    right = np.concatenate(rights)
    owner = np.array(owners)
    theta, mass = gauss(left, right, _ORDER)
    size = circles[owner][:, None]
    first = size * np.cos(theta)
    second = size * np.cos(theta - shift)
    u = np.stack([first, second])
    value, slope = evaluate(phi, u)
    # In the order of the fields of `SphereMeans`.
    columns = []
    for f in (value, slope, u * slope):
        f_1, f_2 = f
        for integrand in (f_1**2, f_1 * f_2):
            of_panels = (mass * integrand).sum(axis=1)
            of_panels = of_panels / (2 * np.pi)
            of_circles = np.bincount(owner, of_panels, num_circles)
            columns.append(of_circles)
    return np.stack(columns, axis=1)


def _ends(circle: float, shift: float, edges: Ends) -> Ends:
    """Return the ends of panels of θ at one radius."""
    turn = 2 * np.pi
    is_met = np.abs(edges) < circle
    crossing = np.arccos(edges[is_met] / circle)
    # u_1 passes an edge at ±crossing, and u_2 at the same angles from its direction.
    cuts = np.concatenate(
        [
            crossing,
            -crossing,
            shift + crossing,
            shift - crossing,
        ]
    )
    grid = np.linspace(0, turn, 4 * _PANELS + 1)
    return np.union1d(grid, cuts % turn)
