"""E phi(u_1) phi(u_2) for many Gaussian pairs whose variances differ.

In polar coordinates of the plane, u_1 = √q_1 r cos θ and u_2 = √q_2 r cos(θ − α) with
cos α the correlation. Panels of θ end where u_1 or u_2 changes its sign.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from isometry.activations import Activation
from isometry.theory.mean_field._host import evaluate
from isometry.theory.mean_field._moments import finite, moments
from isometry.theory.mean_field._quadrature import gauss

Pairs = Float[np.ndarray, " pairs"]
Gram = Float[np.ndarray, "inputs inputs"]
PerInput = Float[np.ndarray, " inputs"]

_ORDER = 16

# Panels of r, up to nine standard deviations, and of θ between two changes of sign. So
# tanh at q = 4 is off by 1e-9; with one panel fewer of either by 1e-7.
_RADII = np.linspace(0.0, 9.0, 4)
_PARTS = 2

# Pairs evaluated together: 25 MB at a time.
_TOGETHER = 256


class Activated(NamedTuple):
    """What an activation makes of Gaussian values of several inputs.

    Attributes:
        gram: E phi(u_a) phi(u_b) for all pairs of inputs.
        slope: E phi'(u_a)², inf if phi jumps. Of a value that is zero it is phi'(0)² as
            JAX has it, for ReLU 0, and not the limit of small variances.
    """

    gram: Gram
    slope: PerInput


def activated(phi: Activation, gram: Gram) -> Activated:
    """Return what phi makes of Gaussians of mean 0 with these covariances.

    Raises:
        InputError: An expectation diverges.
    """
    variances = np.diag(gram)
    # Inputs are often of one length, and a quadrature takes a millisecond.
    distinct, index = np.unique(variances, return_inverse=True)
    found = moments(phi, distinct)
    for q, square in zip(distinct, found.square, strict=True):
        finite(phi, float(q), square)
    new = np.diag(found.square[index])
    rows, columns = np.triu_indices(len(gram), k=1)
    if len(rows):
        means = products(
            phi,
            first=variances[rows],
            second=variances[columns],
            covariance=gram[rows, columns],
        )
        new[rows, columns] = new[columns, rows] = means
    slope = found.slope[index]
    if not variances.all():
        zero = np.zeros(1)
        _, at_zero = evaluate(phi, zero)
        slope = np.where(variances == 0, at_zero**2, slope)
    return Activated(new, slope)


def products(
    phi: Activation,
    first: Pairs,
    second: Pairs,
    covariance: Pairs,
    *,
    of_slopes: bool = False,
) -> Pairs:
    """Compute E phi(u_1) phi(u_2) for every pair.

    It is right to 1e-8 where phi is smooth, or has its kinks at zero, and to 1e-3 for
    kinks elsewhere.

    Args:
        phi: The activation.
        first: The variances of u_1.
        second: The variances of u_2.
        covariance: E u_1 u_2.
        of_slopes: Whether phi' is meant in the place of phi.
    """
    scale = np.sqrt(first * second)
    cosine = np.zeros_like(scale)
    # One without variance has no correlation, and 0 stands for it.
    np.divide(
        covariance,
        scale,
        out=cosine,
        where=scale > 0,
    )
    # Rounding may take a correlation beyond ±1.
    cosine = np.clip(cosine, -1, 1)
    triples = np.stack([first, second, cosine], axis=1)
    # Positions and pairs of inputs are often alike.
    distinct, index = np.unique(triples, axis=0, return_inverse=True)
    means = []
    for start in range(0, len(distinct), _TOGETHER):
        some = distinct[start : start + _TOGETHER]
        means.append(_means(phi, some, of_slopes=of_slopes))
    of_distinct = np.concatenate(means)
    return of_distinct[index.ravel()]


def _means(
    phi: Activation,
    triples: Float[np.ndarray, "some 3"],
    *,
    of_slopes: bool,
) -> Pairs:
    """Integrate over the plane for each (variance, variance, correlation)."""
    nodes_r, weights_r = gauss(_RADII[:-1], _RADII[1:], _ORDER)
    r = nodes_r.ravel()
    mass_r = weights_r.ravel() * r * np.exp(-(r**2) / 2) / (2 * np.pi)
    num_pairs = len(triples)
    q_1, q_2, cosine = (column[:, None] for column in triples.T)
    angle = np.arccos(cosine)
    # Half a turn of θ is enough, because over the other half both change their signs.
    # It is −π/2 to π/2. u_2 changes its sign inside, at α − π/2.
    quarter = np.pi / 2
    change = angle - quarter
    parts = np.arange(_PARTS) / _PARTS
    ends = np.concatenate(
        [
            -quarter + parts * angle,
            change + parts * (np.pi - angle),
            np.full_like(angle, quarter),
        ],
        axis=1,
    )
    left, right = ends[:, :-1], ends[:, 1:]
    theta, mass = gauss(left.ravel(), right.ravel(), _ORDER)
    theta = theta.reshape(num_pairs, -1)
    mass = mass.reshape(num_pairs, -1)
    first = np.sqrt(q_1) * np.cos(theta)
    second = np.sqrt(q_2) * np.cos(theta - angle)
    total = np.zeros(num_pairs)
    for sign in (-1, 1):
        u = sign * np.stack([first, second])[..., None] * r
        value, slope = evaluate(phi, u)
        if of_slopes:
            value = slope
        over_radii = (value[0] * value[1]) @ mass_r
        total += (mass * over_radii).sum(axis=1)
    return total
