"""Moments of products of gated steps, whose gates sit on the state itself."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, public
from isometry.theory.laws._arguments import numbers
from isometry.theory.laws._moments import Moments
from isometry.theory.mean_field._population import OneStep

Gates = Float[np.ndarray, "sites"]
GatesByStep = Float[np.ndarray, "steps sites"]

# With the gates of each step given, pairs of sites are counted: 4000 take 128 MB.
_MOST_SITES = 4000

# A million steps take a third of a second. Ten times fewer are thinkable for a long
# sequence, and ten times more for none.
_MOST_STEPS = 10**6


@public("gated_moments")
def gated_moments(
    a: ArrayLike,
    s: ArrayLike,
    sigma_w: float,
    steps: int,
) -> Moments:
    """Compute mean and variance of lam over steps h' = a h + s (W h) of a gated cell.

    The Jacobian of one step is diag(a) + diag(s) W: a multiplies the old state, s the
    derivative that comes through the weights, such as (1 − u) g' in a GRU. Several
    terms of this kind, through several matrices, are one whose s² is the sum of theirs.
    In the limit of many units, with a fresh Gaussian W in every step,

        E lam = (E a² + sigma_w² E s²)^steps,

    but the variance is larger than that of a free product of the steps: the gates a
    meet the same units in every step.

    Args:
        a: Values of the gate on the state. Either (sites,), pairs with s: units that
            are equally likely, and drawn anew in each step. Or (steps, sites): the
            gates of each step, which have the same units in all steps.
        s: The factors of W h, of the shape of a.
        sigma_w: The scale of W: fan_in · Var(W_ij) = sigma_w².
        steps: The number of steps.

    Returns:
        Mean and variance of lam.

    Raises:
        InputError: a and s are not numbers of such shapes, or do not have as many steps
            as `steps`.
        NotDefined: Mean or variance is beyond float64.

    Example:
        One step of a minimal RNN whose gate is 1/2 everywhere, and six of them:

        >>> theory.gated_moments([0.5], [0.5], sigma_w=1.0, steps=1)
        Moments(mean=0.5, variance=0.1875)
        >>> theory.gated_moments([0.5], [0.5], sigma_w=1.0, steps=6)
        Moments(mean=0.015625, variance=0.0010986328125)
    """
    kept, fed = checked(a, s, sigma_w)
    steps = checks.integer("steps", steps, low=1, high=_MOST_STEPS)
    if kept.ndim == 1:
        return _of_fresh_gates(kept, fed, steps)
    if len(kept) != steps:
        raise InputError(
            f"a has the gates of {len(kept)} steps, and steps={steps}; write the same "
            "number, or gates of shape (sites,) that are drawn anew in each step."
        )
    if kept.shape[1] > _MOST_SITES:
        raise InputError(
            f"a has {kept.shape[1]} sites; with the gates of each step given, pairs of "
            f"sites are counted. Write at most {_MOST_SITES} of them."
        )
    return _of_given_gates(kept, fed)


def checked(
    a: ArrayLike,
    s: ArrayLike,
    sigma_w: float,
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Return a² and sigma_w² s², which have one shape of one or two axes.

    Raises:
        InputError: They are not finite numbers of such shapes.
    """
    kept = numbers("a", a)
    fed = numbers("s", s)
    is_known = kept.ndim in (1, 2) and kept.size > 0
    if kept.shape != fed.shape or not is_known:
        raise InputError(
            f"a has shape {kept.shape} and s has shape {fed.shape}; write both of one "
            "shape, (sites,) or (steps, sites)."
        )
    for name, values in (("a", kept), ("s", fed)):
        if not np.isfinite(values).all():
            raise InputError(f"{name} holds a number that is not finite.")
    checks.on_host("sigma_w", sigma_w)
    scale = float(checks.number("sigma_w", sigma_w, low=0.0))
    return kept**2, (scale * fed) ** 2


def of_one_step(step: OneStep) -> Moments:
    """Return the moments of one step of a cell, in which a reset may occur.

    J is diag(a) + M with M = diag(s) W + diag(t) W_g B and B = diag(r) + diag(p) W_r.
    Given B the rows of M are independent and Gaussian, of covariance s² + t² BᵀB.
    """
    a = np.asarray(step.kept, float)
    s = np.asarray(step.fed, float)
    a_mean, s_mean = a.mean(), s.mean()
    # Squares of the rows of M; E a² times those of its columns, site by site; and
    # products of different rows.
    rows = s
    columns = a_mean * s_mean
    overlap = s_mean**2
    if step.product is not None:
        t = np.asarray(step.product, float)
        r = np.asarray(step.reset, float)
        p = np.asarray(step.through_reset, float)
        t_mean, r_mean, p_mean = t.mean(), r.mean(), p.mean()
        of_b = r_mean + p_mean
        # The second moment of B, itself diag(r) + diag(p) W_r.
        second = np.mean((r + p) ** 2)
        second += 2 * r_mean * p_mean
        second += p_mean**2
        rows = s + t * of_b
        # E a² times the squares of the columns of B.
        seen = np.mean(a * r)
        seen += a_mean * p_mean
        columns += t_mean * seen
        overlap += 2 * s_mean * t_mean * of_b
        overlap += t_mean**2 * second
    of_squares = np.mean((a + rows) ** 2)
    mean = float(a_mean + rows.mean())
    total = float(of_squares + 2 * columns + overlap)
    variance = total - mean**2
    return Moments(mean, variance)


def _of_fresh_gates(kept: Gates, fed: Gates, steps: int) -> Moments:
    """Return the moments if gates are independent from step to step.

    With B = J Jᵀ, the mean square of its entries has a part on the diagonal and one off
    it; only the first sees that a site has one gate.

    Args:
        kept: a² at each site.
        fed: sigma_w² s² at each site.
        steps: The number of steps.
    """
    growth = float(kept.mean() + fed.mean())
    if growth == 0:
        return Moments(0.0, 0.0)
    # In units of E lam of a step, in which no mean square is a difference of numbers
    # that grow with the steps.
    kept, fed = kept / growth, fed / growth
    of_fed = float((2 * kept * fed + fed**2).mean())
    kept_square = float((kept**2).mean())
    kept_variance = float(kept.var())
    diagonal, excess = 1.0, 0.0
    for _ in range(steps):
        # (B')_ii = a² B_ii + s² tr B, and the rest spreads over all pairs of sites.
        excess += kept_variance * diagonal + of_fed
        diagonal = kept_square * diagonal + of_fed
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        mean = np.float64(growth) ** steps
        return _finite(mean, excess * mean**2, steps)


def _finite(mean: float, variance: float, steps: int) -> Moments:
    """Return moments that float64 holds.

    Raises:
        NotDefined: They are larger.
    """
    if not (np.isfinite(mean) and np.isfinite(variance)):
        raise NotDefined(
            f"the moments of lam over {steps} steps are beyond float64; write fewer "
            "steps."
        )
    return Moments(float(mean), float(variance))


def _of_given_gates(kept: GatesByStep, fed: GatesByStep) -> Moments:
    """Return the moments for the gates of each step, which are those of the same sites.

    Args:
        kept: a² at each site in each step.
        fed: sigma_w² s², likewise.
    """
    num_steps, num_sites = kept.shape
    # B = J Jᵀ has the diagonal p, and other entries of mean square X/sites.
    diagonal = np.ones(num_sites)
    others = np.zeros((num_sites, num_sites))
    with np.errstate(over="ignore", invalid="ignore"):
        for a, s in zip(kept, fed, strict=True):
            # The mean square of each row of B, over the sites.
            row = diagonal**2 + others.mean(axis=1)
            half = np.outer(a * row, s)
            others = np.outer(a, a) * others
            others += half + half.T
            fresh = np.outer(s, s)
            others += fresh * row.mean()
            diagonal = a * diagonal + s * diagonal.mean()
        mean = diagonal.mean()
        squares = diagonal**2
        second = squares.mean() + others.mean()
        return _finite(mean, second - mean**2, num_steps)
