"""Mean field theory of wide networks: the maps of variance and correlation from layer to layer, and chi_1.

z_l = W_l phi(z_{l-1}) + b_l with Var W = sigma_w²/N and Var b = sigma_b². In the limit of infinite width
q_l = sigma_w² E phi(√q_{l-1} z)² + sigma_b², and perturbations grow by chi_1 = sigma_w² E phi'(√q z)² a layer.

Source: Poole et al. (2016), arXiv:1606.05340; Schoenholz et al. (2017), arXiv:1611.01232.
"""

import math
from typing import Any

import numpy as np

from isometry import _checks
from isometry.theory._host import ActivationLike, record
from isometry.theory._moments import AT_ZERO, differentiable, finite, moments
from isometry.theory._pair import pair


def check(call: str, **named: Any) -> tuple[float, ...]:
    """Concrete numbers, in float64: a NumPy float32 would draw what it meets down to its own precision.

    sigma_w is above zero, everything else not below; what is squared far from over- and underflow.
    """
    _checks.concrete(call, **named)
    for name, value in named.items():
        high = math.inf if name.startswith("q") else LARGEST
        _checks.number(call, low=0.0, high=high, open_low=name == "sigma_w", **{name: value})
        if name == "sigma_w":
            _checks.number(call, low=1 / LARGEST, high=high, sigma_w=value)
    return tuple(float(value) for value in named.values())


LARGEST = 1e100
"""What is squared stays below it, and where it is divided by above its inverse."""


def mean_square(activation: ActivationLike, q: float) -> float:
    """E phi(√q z)²."""
    phi = record("theory.mean_square", activation)
    return finite("theory.mean_square", phi, q, moments(phi, q).square[0])


def mean_square_slope(activation: ActivationLike, q: float) -> float:
    """E phi'(√q z)²; at q = 0 the limit q → 0+, which at a kink is not phi'(0)²."""
    phi = record("theory.mean_square_slope", activation)
    differentiable("theory.mean_square_slope", phi, q)
    return finite("theory.mean_square_slope", phi, q, moments(phi, q).slope[0])


def q_map(activation: ActivationLike, q: float, sigma_w: float, sigma_b: float) -> float:
    """Variance of the next layer's pre-activations, V(q) = sigma_w² E phi(√q z)² + sigma_b².

    **Raises** `ValueError`: negative or non-finite q or sigma_b, sigma_w not positive; unknown activation, one that is
    not elementwise, one whose expectation diverges. Error: 1e-14 relative at
    every q; below 2.2e-308 underflow is gradual. Cost: a millisecond, the first time 0.2 s.
    """
    call = "q_map"
    q, sigma_w, sigma_b = check(call, q=q, sigma_w=sigma_w, sigma_b=sigma_b)
    phi = record(call, activation)
    return finite(call, phi, q, sigma_w**2 * moments(phi, q).square[0] + sigma_b**2)


def q_trajectory(activation: ActivationLike, q0: float, sigma_w: float, sigma_b: float, depth: int) -> np.ndarray:
    """Variances (depth + 1,): q0, and after each of `depth` layers. inf from where they exceed float64, 0
    from where they are below its smallest number, 5e-324.

    **Raises** `ValueError`: as `q_map`; depth below 1.
    """
    call = "q_trajectory"
    q0, sigma_w, sigma_b = check(call, q0=q0, sigma_w=sigma_w, sigma_b=sigma_b)
    _checks.integer(call, low=1, high=10**6, depth=depth)
    phi = record(call, activation)
    found = [q0]
    for _ in range(depth):
        q = found[-1]
        found.append(float(sigma_w**2 * moments(phi, q).square[0] + sigma_b**2) if q < 1e300 else np.inf)
    return np.array(found)


def chi(activation: ActivationLike, q: float, sigma_w: float) -> float:
    """chi_1 = sigma_w² E phi'(√q z)²: the mean squared singular value of one (W, D) pair at variance q.

    Below 1 perturbations and gradients die (ordered), above 1 they grow (chaotic).

    **Raises** `ValueError`: as `q_map`; an activation that jumps, for which chi_1 is infinite. Error: 1e-14 relative.
    """
    call = "chi"
    q, sigma_w = check(call, q=q, sigma_w=sigma_w)
    phi = record(call, activation)
    differentiable(call, phi, q)
    return sigma_w**2 * finite(call, phi, q, moments(phi, q).slope[0])


def c_map(activation: ActivationLike, c: float, q: float, sigma_w: float, sigma_b: float) -> float:
    """Correlation of two inputs in the next layer, both of variance q and correlation c in this one.

    C(c) = (sigma_w² E phi(u1) phi(u2) + sigma_b²) / V(q), so that C(1) = 1 at every q; at a fixed point V(q) = q and
    this is the map of Poole et al. At q = 0 the limit q → 0+.

    Error: 1e-13 relative, also of exp (closed form, q to 12); where phi has so many kinks, or oscillates so fast, that
    this is not reached, at most 1e-11.

    **Raises** `ValueError`: c outside [−1, 1]; as `q_map`; a next layer of no variance at all.
    Cost: tens of milliseconds.
    """
    call = "c_map"
    q, sigma_w, sigma_b = check(call, q=q, sigma_w=sigma_w, sigma_b=sigma_b)
    _checks.concrete(call, c=c)
    _checks.number(call, low=-1.0, high=1.0, c=c)
    c = float(c)
    phi = record(call, activation)
    found = pair(phi, q, 1 - abs(c), c < 0)
    finite(call, phi, q, found.square)
    bias = sigma_b**2
    if bias and 0 < q < AT_ZERO:
        # The pair is that of AT_ZERO, below which phi is a power of u: the bias grows beside it in proportion.
        square = moments(phi, q).square[0]
        bias = bias * float(found.square / square) if square > 0 else math.inf
        if not math.isfinite(bias):
            return 1.0
    below = sigma_w**2 * found.square + bias
    if below == 0:
        raise _checks.NotDefined(
            f"{call}(): {phi.name} is zero at q={q:g} and sigma_b=0: there is nothing to correlate."
        )
    return float(np.clip((sigma_w**2 * found.product + bias) / below, -1, 1))
