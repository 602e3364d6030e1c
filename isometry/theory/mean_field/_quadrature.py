"""Gauss rules: on panels, which are refined, and for sums; Gaussian expectations."""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry.theory.mean_field._host import on_host

Panels = Float[np.ndarray, " panels"]
Edges = Float[np.ndarray, " edges"]
Nodes = Float[np.ndarray, "panels order"]
Integrals = Float[np.ndarray, "panels ..."]
Found = Float[np.ndarray, " found"]
FoundIntegrals = Float[np.ndarray, "found ..."]
Points = Float[np.ndarray, " points"]

# Standard deviations that are integrated over; the tails beyond weigh 1e-44 and 1e-316.
# The second one is for functions that grow as fast as the normal density falls.
REACH = 14.0
FAR = 38.0

# An integral with more than this share of it in the outermost panels is not all there.
TAIL = 1e-14

# Panels are halved until their integrals change by less than this share of the whole.
_TOLERANCE = 1e-14

# Halvings at most: a jump at an unknown place is cornered to 2^-60 of its panel.
_ROUNDS = 60

# Panels at once at most; a function this rough is noise.
_MOST_PANELS = 10**6

# Nodes of the rule. Ten resolve half as wide panels; forty gain nothing in float64.
_ORDER = 20

# A vector of which Lanczos leaves this share is rounding: all points are nodes already.
_NOTHING_LEFT = 1e-13

# Panels evaluated together, a multiple of it: eager JAX compiles every operation once a
# shape.
_BATCH = 64


class Rule(NamedTuple):
    """A Gauss rule.

    Attributes:
        nodes: The nodes, on the real axis.
        weights: Their weights.
    """

    nodes: Float[np.ndarray, " nodes"]
    weights: Float[np.ndarray, " nodes"]


@functools.lru_cache(maxsize=8)
def _legendre(order: int) -> tuple[Panels, Panels]:
    return np.polynomial.legendre.leggauss(order)


def gauss(
    left: Panels,
    right: Panels,
    order: int = _ORDER,
) -> tuple[Nodes, Nodes]:
    """Return nodes and weights on panels."""
    x, weights = _legendre(order)
    half = (right - left)[:, None] / 2
    middle = (left + right)[:, None] / 2
    return middle + half * x, half * weights


def bell(z: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Evaluate the standard normal density."""
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def gauss_rule(
    x: Points,
    weights: Points,
    count: int,
) -> Rule:
    """Return the Gauss rule for weighted sums, by Lanczos (Golub and Welsch, 1969).

    Args:
        x: The points.
        weights: Their weights, positive.
        count: The number of nodes; it is exact for polynomials of degree 2 count − 1.
            Fewer different points are the nodes themselves.
    """
    total = weights.sum()
    shares = weights / total
    basis = np.zeros((count + 1, len(x)))
    basis[0] = np.sqrt(shares)
    diagonal, beside = [], []
    for step in range(count):
        new = x * basis[step]
        size = np.linalg.norm(new)
        diagonal.append(basis[step] @ new)
        known = basis[: step + 1]
        # Twice: once leaves what rounding adds back.
        for _ in range(2):
            new = new - known.T @ (known @ new)
        left = np.linalg.norm(new)
        if left <= _NOTHING_LEFT * size:
            break
        beside.append(left)
        basis[step + 1] = new / left
    above = np.diag(beside[: len(diagonal) - 1], 1)
    jacobi = np.diag(diagonal) + above + above.T
    # Its eigenvalues are the nodes, and first entries of its eigenvectors give weights.
    nodes, vectors = np.linalg.eigh(jacobi)
    masses = total * vectors[0] ** 2
    return Rule(nodes, masses)


def bisected(
    integrate: Callable[[Panels, Panels], Integrals],
    excuse: Callable[[Panels, Panels, Integrals], Integrals],
    edges: Edges,
    most: int,
    *,
    rounds: int = _ROUNDS,
    known: Integrals | None = None,
) -> tuple[tuple[Found, Found], FoundIntegrals, bool]:
    """Halve panels until the integral over each agrees with that over its halves.

    Args:
        integrate: The integrals over panels, from their left and right ends.
        excuse: By how much they may disagree, from the ends and the integrals.
        edges: The panels to begin with.
        most: The number of panels at once at which to stop.
        rounds: The number of halvings at most.
        known: The integrals over the panels to begin with.

    Returns:
        The panels, their integrals, and whether all agree.
    """
    left, right = edges[:-1], edges[1:]
    whole = integrate(left, right) if known is None else known
    done, found = [], []
    is_resolved = True
    for round_ in range(rounds + 1):
        middle = (left + right) / 2
        first = integrate(left, middle)
        second = integrate(middle, right)
        halves = first + second
        with np.errstate(invalid="ignore"):
            error = np.abs(halves - whole)
            is_rough = error > excuse(left, right, whole)
        is_rough = is_rough.reshape(len(left), -1).any(axis=1)
        must_stop = round_ == rounds or 2 * is_rough.sum() > most
        if must_stop and is_rough.any():
            is_resolved = False
            is_rough = np.zeros_like(is_rough)
        done.append((left[~is_rough], right[~is_rough]))
        found.append(halves[~is_rough])
        if not is_rough.any():
            break
        inner = middle[is_rough]
        left = np.concatenate([left[is_rough], inner])
        right = np.concatenate([inner, right[is_rough]])
        whole = np.concatenate([first[is_rough], second[is_rough]])
    lefts, rights = zip(*done, strict=True)
    left, right = np.concatenate(lefts), np.concatenate(rights)
    return (left, right), np.concatenate(found), is_resolved


@public("expectation")
def expectation(
    g: Callable[[Array], jax.typing.ArrayLike],
    q: float = 1.0,
    kinks: Iterable[float] = (),
) -> float:
    """Compute E g(√q z) for standard normal z.

    Gauss-Legendre on panels split at `kinks`, each halved until its halves agree with
    it. A kink that was not named costs a few dozen halvings and no accuracy. The error
    is about 1e-13 of E |g|, the cost milliseconds.

    Args:
        g: An elementwise function of an array, in JAX or NumPy.
        q: The variance, at least 0. At 0 this is g(0).
        kinks: Points where g is not smooth.

    Returns:
        The expectation.

    Raises:
        InputError: q is negative or not finite; g is no elementwise function; a kink
            is no number; the expectation is not finite.

    Example:
        >>> round(theory.expectation(jnp.abs) / (2 / np.pi) ** 0.5, 12)
        1.0
    """
    checks.function("g", g)
    checks.on_host("q", q)
    q = float(checks.number("q", q, low=0.0))
    scale = float(np.sqrt(q))
    each_kink = checks.listed("kinks", kinks)
    points = np.array([float(checks.number("kinks", kink)) for kink in each_kink])
    for reach in (REACH, FAR):
        edges = _edges(scale, points, reach)
        left, right, value, size = _gaussian_integrals(
            g,
            scale,
            edges,
        )
        # Panels inside the first or the last of the panels at the start.
        is_lower_tail = right <= edges[1]
        is_upper_tail = left >= edges[-2]
        is_tail = is_lower_tail | is_upper_tail
        if not size[is_tail].sum() > TAIL * size.sum():
            break
    else:
        # The integral would be cut off where there is still mass.
        raise InputError(
            f"E g(√q z) at q={q:g} has its mass beyond |z| = {FAR:g}; g grows too fast."
        )
    total = value.sum()
    if not np.isfinite(total):
        raise InputError(
            f"E g(√q z) at q={q:g} is not finite; g grows too fast or returns NaN."
        )
    return float(total)


def _gaussian_integrals(
    g: Callable[[Array], jax.typing.ArrayLike],
    scale: float,
    edges: Edges,
) -> tuple[Panels, Panels, Panels, Panels]:
    """Return panels in z, and the integrals of g(scale z) and of its modulus."""

    def integrate(left: Panels, right: Panels) -> Integrals:
        z, mass = gauss(left, right)
        num_panels = len(z)
        padding = -num_panels % _BATCH
        padded = np.pad(z, ((0, padding), (0, 0)))
        value = on_host(g, scale * padded)
        if value.shape != padded.shape:
            raise InputError(
                f"g maps shape {padded.shape} to {value.shape}; it must be elementwise."
            )
        with np.errstate(invalid="ignore", over="ignore"):
            part = mass * bell(z) * value[:num_panels]
        integral = part.sum(axis=1)
        of_modulus = np.abs(part).sum(axis=1)
        return np.stack([integral, of_modulus], axis=1)

    whole = integrate(edges[:-1], edges[1:])
    total = whole[:, 1].sum()

    def excuse(
        left: Panels,
        right: Panels,
        integrals: Integrals,
    ) -> Integrals:
        # That of the modulus is only a measure, and need not be resolved.
        room = [_TOLERANCE * total, np.inf]
        return np.broadcast_to(room, integrals.shape)

    (left, right), found, _ = bisected(
        integrate,
        excuse,
        edges,
        most=_MOST_PANELS,
        known=whole,
    )
    return left, right, found[:, 0], found[:, 1]


def _edges(
    scale: float,
    kinks: Float[np.ndarray, " kinks"],
    reach: float,
) -> Edges:
    """Return panels one standard deviation wide, split at the kinks.

    They are finer where √q z passes through order one.
    """
    num_panels = round(2 * reach)
    edges = [np.linspace(-reach, reach, num_panels + 1)]
    if scale > 0:
        last = max(-2, np.ceil(np.log2(scale)) + 1)
        powers = 2.0 ** np.arange(-3, last) / scale
        edges += [powers, -powers, kinks / scale, np.zeros(1)]
    inside = np.concatenate(edges)
    return np.unique(inside[np.abs(inside) <= reach])
