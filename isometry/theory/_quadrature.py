"""Gauss-Legendre on panels: the rule, its refinement, and Gaussian expectations of any function."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from isometry import _checks
from isometry.theory._host import on_host

REACH, FAR = 14.0, 38.0  # standard deviations integrated over; the tails beyond weigh 1e-44 and 1e-316
TAIL = 1e-14  # share of an integral in its outermost panels that says: it is not all there yet
_TOLERANCE = 1e-14  # of the integral of |g|
_ROUNDS = 60  # bisections: a jump at an unknown place is cornered to 2**-60
_ORDER = 20
_BATCH = 64  # panels evaluated together

Panels = tuple[np.ndarray, np.ndarray]


@functools.lru_cache(maxsize=8)
def _legendre(order: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(order)


def gauss(left: np.ndarray, right: np.ndarray, order: int = _ORDER) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on panels, each (panels, order)."""
    x, w = _legendre(order)
    half = (right - left)[:, None] / 2
    return (left + right)[:, None] / 2 + half * x, half * w


def bell(z: np.ndarray) -> np.ndarray:
    """The standard normal density."""
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


def bisected(
    integrate: Callable[[np.ndarray, np.ndarray], np.ndarray],
    excuse: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    edges: np.ndarray,
    most: int,
    *,
    rounds: int = _ROUNDS,
    known: np.ndarray | None = None,
) -> tuple[Panels, np.ndarray, bool]:
    """Panels halved until the integral over each agrees with that over its halves, to within `excuse`.

    Returns the panels, their integrals (panels, ...) and whether all agree before `rounds` or `most` panels at once.
    `known`: the integrals over the panels to begin with.
    """
    left, right = edges[:-1], edges[1:]
    whole = integrate(left, right) if known is None else known
    done, found, resolved = [], [], True
    for round_ in range(rounds + 1):
        middle = (left + right) / 2
        a, b = integrate(left, middle), integrate(middle, right)
        with np.errstate(invalid="ignore"):
            rough = np.abs(a + b - whole) > excuse(left, right, whole)
        rough = rough.reshape(len(left), -1).any(1)
        if rough.any() and (round_ == rounds or 2 * rough.sum() > most):
            resolved, rough = False, np.zeros_like(rough)
        done.append((left[~rough], right[~rough]))
        found.append((a + b)[~rough])
        if not rough.any():
            break
        left, right = np.r_[left[rough], middle[rough]], np.r_[middle[rough], right[rough]]
        whole = np.r_[a[rough], b[rough]]
    left, right = (np.concatenate(side) for side in zip(*done, strict=True))
    return (left, right), np.concatenate(found), resolved


def expectation(g: Callable[[Any], Any], q: float = 1.0, kinks: Iterable[float] = ()) -> float:
    """E g(√q z) for z ~ N(0, 1).

    Gauss-Legendre on panels split at `kinks`, each panel bisected until its two halves agree with it; a kink that was
    not named costs a few dozen bisections and no accuracy. At q = 0 this is g(0).

    **Arguments**
    - `g`: elementwise, array in, array out; jnp or numpy.
    - `q`: variance, at least 0.
    - `kinks`: points where g is not smooth.

    **Raises** `ValueError`: negative or non-finite q, g not elementwise, an expectation that is not finite.
    `TypeError`: traced q. Error: about 1e-13 of E |g|. Cost: milliseconds.
    """
    _checks.concrete("expectation", q=q)
    _checks.number("expectation", low=0.0, q=q)
    scale = float(np.sqrt(q))
    points = np.array([float(k) for k in kinks])
    for reach in (REACH, FAR):
        edges = _edges(scale, points, reach)
        integrals = _gaussian_integrals(g, scale, edges)
        left, right, value, size = integrals
        tails = (left <= edges[1]) & (right <= edges[1]) | (left >= edges[-2])
        if not size[tails].sum() > TAIL * size.sum():
            break
    else:  # cut off where there is still mass: the tails decide
        raise _checks.InputError(
            f"expectation(): E g(√q z) at q={q:g} has its mass beyond |z| = {FAR:g}; g grows too fast."
        )
    total = value.sum()
    if not np.isfinite(total):
        raise _checks.InputError(f"expectation(): E g(√q z) at q={q:g} is not finite; g grows too fast or returns NaN.")
    return float(total)


def _gaussian_integrals(g: Callable[[Any], Any], scale: float, edges: np.ndarray) -> tuple[np.ndarray, ...]:
    """Panels in z, and the integrals of g(scale z) and of its modulus over each."""

    def integrate(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        z, mass = gauss(left, right)
        padding = -len(z) % _BATCH  # few distinct shapes: eager JAX compiles every operation once a shape
        value = on_host(g, scale * np.pad(z, ((0, padding), (0, 0))))
        if value.shape != (len(z) + padding, _ORDER):
            raise _checks.InputError(
                f"expectation(): g maps shape {(len(z) + padding, _ORDER)} to {value.shape}; it must be elementwise."
            )
        with np.errstate(invalid="ignore", over="ignore"):
            part = mass * bell(z) * value[: len(z)]
        return np.stack([part.sum(1), np.abs(part).sum(1)], 1)

    whole = integrate(edges[:-1], edges[1:])
    total = whole[:, 1].sum()

    def excuse(left: np.ndarray, right: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.broadcast_to([_TOLERANCE * total, np.inf], whole.shape)

    (left, right), found, _ = bisected(integrate, excuse, edges, 10**6, known=whole)
    return left, right, found[:, 0], found[:, 1]


def _edges(scale: float, kinks: np.ndarray, reach: float) -> np.ndarray:
    """Panels one standard deviation wide, finer where √q z passes through order one, split at the kinks."""
    edges = [np.linspace(-reach, reach, round(2 * reach) + 1)]
    if scale > 0:
        powers = 2.0 ** np.arange(-3, max(-2, np.ceil(np.log2(scale)) + 1)) / scale
        edges += [powers, -powers, kinks / scale, np.zeros(1)]
    inside = np.concatenate(edges)
    return np.unique(inside[np.abs(inside) <= reach])
