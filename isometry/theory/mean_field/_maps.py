"""The maps of variance and correlation from layer to layer, and chi_1.

z_l = W_l phi(z_{l−1}) + b_l with Var W = sigma_w²/N and Var b = sigma_b². In the limit
of infinite width q_l = sigma_w² E phi(√q_{l−1} z)² + sigma_b², and perturbations grow
by chi_1 = sigma_w² E phi'(√q z)² a layer (Poole et al., 2016; Schoenholz et al., 2017).
"""

import math

import numpy as np
from jaxtyping import Float

from isometry._internal import checks
from isometry._internal.errors import NotDefined, public
from isometry.theory.mean_field._host import ActivationLike, record
from isometry.theory.mean_field._moments import (
    AT_ZERO,
    differentiable,
    finite,
    moments,
)
from isometry.theory.mean_field._pair import pair

# What is squared stays below it, and what is divided by above its inverse.
LARGEST = 1e100

# Where the variance passes this, the next one may overflow.
_OVERFLOWS = 1e300

# More layers than anything needs; each is a quadrature.
_DEEPEST = 10**6


def scale(name: str, value: float) -> float:
    """Require sigma_w, which is positive, or sigma_b, which is not negative.

    A float is returned, because a scalar of NumPy in single precision would make all
    that is computed from it single.
    """
    checks.on_host(name, value)
    if not name.startswith("sigma_w"):
        return float(checks.number(name, value, low=0.0, high=LARGEST))
    # First for a message that says "positive", then for one that says how small.
    checks.number(
        name,
        value,
        low=0.0,
        high=LARGEST,
        above=0.0,
    )
    return float(checks.number(name, value, low=1 / LARGEST, high=LARGEST))


def scales(sigma_w: float, sigma_b: float) -> tuple[float, float]:
    """Require both scales of a layer."""
    return scale("sigma_w", sigma_w), scale("sigma_b", sigma_b)


def variance(name: str, value: float) -> float:
    """Require a variance, finite and not negative."""
    return float(checks.number(name, checks.on_host(name, value), low=0.0))


def mean_square(activation: ActivationLike, q: float) -> float:
    """Compute E phi(√q z)²."""
    phi = record(activation)
    return finite(phi, q, moments(phi, q).square[0])


def mean_square_slope(activation: ActivationLike, q: float) -> float:
    """Compute E phi'(√q z)²; at q = 0 the limit, which at a kink is not phi'(0)²."""
    phi = record(activation)
    differentiable(phi, q)
    return finite(phi, q, moments(phi, q).slope[0])


@public("q_map")
def q_map(
    activation: ActivationLike,
    q: float,
    sigma_w: float,
    sigma_b: float,
) -> float:
    """Compute the variance of the next layer's pre-activations.

    V(q) = sigma_w² E phi(√q z)² + sigma_b². The error is 1e-14 relative at every q;
    below 2.2e-308 underflow is gradual. It costs a millisecond, the first time of an
    activation 0.2 s.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        q: Variance of the pre-activations. Finite and not negative.
        sigma_w: √(fan_in · Var W), positive.
        sigma_b: Standard deviation of the biases, not negative.

    Returns:
        V(q).

    Raises:
        InputError: A number out of range; an activation that is not known, or not
            elementwise; its expectation diverges.

    Example:
        >>> theory.q_map("relu", q=1.0, sigma_w=1.0, sigma_b=0.5)
        0.75
    """
    q = variance("q", q)
    sigma_w, sigma_b = scales(sigma_w, sigma_b)
    phi = record(activation)
    return finite(
        phi,
        q,
        sigma_w**2 * moments(phi, q).square[0] + sigma_b**2,
    )


@public("q_trajectory")
def q_trajectory(
    activation: ActivationLike,
    q0: float,
    sigma_w: float,
    sigma_b: float,
    depth: int,
) -> Float[np.ndarray, " layers"]:
    """Compute the variances of all layers, from that of the first.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        q0: The first variance. Finite and not negative.
        sigma_w: √(fan_in · Var W), positive.
        sigma_b: Standard deviation of the biases, not negative.
        depth: The number of layers that follow.

    Returns:
        q0, and the variance after each layer: inf from where they exceed float64, 0
        from where they are below its smallest number, 5e-324.

    Raises:
        InputError: As `q_map`; `depth` is below 1.

    Example:
        >>> theory.q_trajectory("relu", 1.0, sigma_w=2.0, sigma_b=0.0, depth=3)
        array([1., 2., 4., 8.])
    """
    q0 = variance("q0", q0)
    sigma_w, sigma_b = scales(sigma_w, sigma_b)
    depth = checks.integer(
        "depth",
        depth,
        low=1,
        high=_DEEPEST,
    )
    phi = record(activation)
    path = [q0]
    for _ in range(depth):
        # Once a variance has passed the largest number, all that follow are infinite.
        q = np.inf
        if path[-1] < _OVERFLOWS:
            square = moments(phi, path[-1]).square[0]
            q = float(sigma_w**2 * square + sigma_b**2)
        path.append(q)
    return np.array(path)


@public("chi")
def chi(
    activation: ActivationLike,
    q: float,
    sigma_w: float,
) -> float:
    """Compute chi_1 = sigma_w² E phi'(√q z)².

    It is the mean squared singular value of one (W, D) pair at variance q. Below 1
    perturbations and gradients die (ordered), above 1 they grow (chaotic). The error is
    1e-14 relative.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        q: Variance of the pre-activations. Finite and not negative.
        sigma_w: √(fan_in · Var W), positive.

    Returns:
        chi_1.

    Raises:
        InputError: As `q_map`.
        NotDefined: The activation jumps, and chi_1 is infinite.

    Example:
        >>> round(theory.chi("tanh", 0.25, 1.2), 6)
        1.033027
    """
    q, sigma_w = variance("q", q), scale("sigma_w", sigma_w)
    phi = record(activation)
    differentiable(phi, q)
    return sigma_w**2 * finite(phi, q, moments(phi, q).slope[0])


@public("c_map")
def c_map(
    activation: ActivationLike,
    c: float,
    q: float,
    sigma_w: float,
    sigma_b: float,
) -> float:
    """Compute the correlation of two inputs in the next layer.

    C(c) = (sigma_w² E phi(u1) phi(u2) + sigma_b²)/V(q), so that C(1) = 1 at every q; at
    a fixed point V(q) = q, and this is the map of Poole et al. (2016). The error is
    1e-13 relative, also of exp (closed form, q to 12), and at most 1e-11 where phi has
    so many kinks, or oscillates so fast, that this is not reached. It costs tens of
    milliseconds.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        c: The correlation in this layer, in [−1, 1].
        q: The variance of both in this layer. At 0 this is the limit q → 0+.
        sigma_w: √(fan_in · Var W), positive.
        sigma_b: Standard deviation of the biases, not negative.

    Returns:
        C(c).

    Raises:
        InputError: As `q_map`; c is outside [−1, 1].
        NotDefined: The next layer has no variance at all.

    Example:
        >>> round(theory.c_map("relu", 0.5, 1.0, sigma_w=1.0, sigma_b=0.0), 6)
        0.608998
    """
    q = variance("q", q)
    sigma_w, sigma_b = scales(sigma_w, sigma_b)
    c = float(checks.number("c", checks.on_host("c", c), low=-1.0, high=1.0))
    phi = record(activation)
    found = pair(
        phi,
        q,
        1 - abs(c),
        is_negative=c < 0,
    )
    finite(phi, q, found.square)
    bias = sigma_b**2
    if bias and 0 < q < AT_ZERO:
        # The pair is that of AT_ZERO, below which phi is a power of u: the bias grows
        # beside it in proportion.
        square = moments(phi, q).square[0]
        bias = bias * float(found.square / square) if square > 0 else math.inf
        if not math.isfinite(bias):
            return 1.0
    below = sigma_w**2 * found.square + bias
    if below == 0:
        raise NotDefined(
            f"{phi.name} is zero at q={q:g} and sigma_b=0: there is nothing to "
            "correlate."
        )
    # Rounding may take C(±1) beyond ±1.
    return float(np.clip((sigma_w**2 * found.product + bias) / below, -1, 1))
