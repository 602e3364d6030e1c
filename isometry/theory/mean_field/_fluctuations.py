"""How much the size of a Jacobian varies between draws of a finite width.

For J = D_L W_L … D_1 W_1 of width N with χ = 1, and k = E phi'^4/(E phi'²)². Where the
slope of phi depends on the sign of its argument alone, every row of W may change its
sign, so that D is independent of all squares: the recursions below are exact.

    p = E (tr JJᵀ)², r = E tr (JJᵀ)²;  p = N², r = N without layers

Gaussian: p' = (1 + (k − 1)/N) p + 2k/N r,  r' = k/N p + (1 + (2k − 1)/N) r.
Haar: with e = (k − 1)(p + 2r)/(N + 2),  p' = p + e,  r' = r + e.
"""

import math

import numpy as np

from isometry._internal import checks
from isometry._internal.errors import NotDefined, public
from isometry.activations import Activation
from isometry.theory.mean_field._host import ActivationLike, evaluate, record
from isometry.theory.mean_field._moments import differentiable, moments

WEIGHTS = ("orthogonal", "gaussian")

# No network is as deep or as wide: a number beyond is taken for a mistake.
_DEEPEST = 10**6
_WIDEST = 10**12

# Arguments at which slopes of one sign are compared, and what their rounding may be.
_ARGUMENTS = np.geomspace(1e-6, 1e6, 25)
_ROUNDING = 1e-12


@public("frobenius_fluctuation")
def frobenius_fluctuation(
    activation: ActivationLike,
    width: int,
    depth: int,
    weights: str,
) -> float:
    """Compute E |J|_F⁴ / (E |J|_F²)² of a plain network of finite width.

    With k = E phi'^4/(E phi'²)² and N the width, exactly at every N and depth L:

        gaussian: (1 + 2/N)/3 · (1 + (3k − 1)/N)^L + 2/3 · (1 − 1/N)^(L + 1)
        orthogonal: (1 + 2/N)/3 · (1 + 3(k − 1)/(N + 2))^L + 2/3 · (1 − 1/N)

    For L ≪ N the excess over 1 is (k − 1)L/N for both: a third or less of what a fixed
    vector has, `norm_fluctuation`. The logarithm of the ratio is about the variance of
    ln |J|_F².

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`, whose slope depends on the sign of its argument alone: linear,
            ReLU, leaky ReLU.
        width: N, the units of every layer.
        depth: L, the number of (D, W) pairs.
        weights: "gaussian" or "orthogonal".

    Returns:
        The ratio.

    Raises:
        InputError: A number out of range, or an unknown name.
        NotDefined: Another activation: the variance of its pre-activations fluctuates
            too, and no formula is known.

    Example:
        >>> ratio = theory.frobenius_fluctuation("relu", 50, 10, "gaussian")
        >>> round(ratio, 4)
        1.433
    """
    k, width, depth = _checked(
        activation,
        width,
        depth,
        weights=weights,
    )
    # Along the eigenvector (1, 1) of (p, r) the recursion is that of a fixed vector,
    # and (2, −1) is the other one.
    along = (1 + 2 / width) / 3 * _of_vector(k, width, depth, weights=weights)
    across = 2 / 3 * (1 - 1 / width)
    if weights == "gaussian":
        across = across * (1 - 1 / width) ** depth
    return along + across


@public("norm_fluctuation")
def norm_fluctuation(
    activation: ActivationLike,
    width: int,
    depth: int,
    weights: str,
) -> float:
    """Compute E |Jv|⁴ / (E |Jv|²)² for a fixed vector v, at finite width.

    With k = E phi'^4/(E phi'²)² and N the width, exactly at every N and depth L:

        gaussian: (1 + (3k − 1)/N)^L
        orthogonal: (1 + 3(k − 1)/(N + 2))^L

    The logarithm is about the variance of ln |Jv|²: 5L/N for ReLU and Gaussian weights
    (Hanin and Nica, 2020).

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`, whose slope depends on the sign of its argument alone: linear,
            ReLU, leaky ReLU.
        width: N, the units of every layer.
        depth: L, the number of (D, W) pairs.
        weights: "gaussian" or "orthogonal".

    Returns:
        The ratio.

    Raises:
        InputError: A number out of range, or an unknown name.
        NotDefined: Another activation: the variance of its pre-activations fluctuates
            too, and no formula is known.

    Example:
        >>> round(theory.norm_fluctuation("relu", 50, 10, "gaussian"), 4)
        2.5937
    """
    k, width, depth = _checked(
        activation,
        width,
        depth,
        weights=weights,
    )
    return _of_vector(k, width, depth, weights=weights)


def _of_vector(
    k: float,
    width: int,
    depth: int,
    *,
    weights: str,
) -> float:
    """Return the ratio of a fixed vector: the factor of one layer, once for each."""
    excess = (3 * k - 1) / width
    if weights == "orthogonal":
        excess = 3 * (k - 1) / (width + 2)
    # By the logarithm: 1 + excess would lose the digits of a small excess.
    try:
        return math.exp(depth * math.log1p(excess))
    except OverflowError:
        return math.inf


def _checked(
    activation: ActivationLike,
    width: int,
    depth: int,
    *,
    weights: str,
) -> tuple[float, int, int]:
    """Return k, the width and the depth."""
    width = checks.integer(
        "width",
        width,
        low=2,
        high=_WIDEST,
    )
    depth = checks.integer(
        "depth",
        depth,
        low=1,
        high=_DEEPEST,
    )
    checks.one_of("weights", weights, WEIGHTS)
    phi = record(activation)
    # Any variance serves, because slopes of the sign do not depend on it.
    differentiable(phi, 1.0)
    if not _has_slope_of_sign(phi):
        raise NotDefined(
            f"the slope of {phi.name} depends on the size of its argument, so that the "
            "variance of the pre-activations fluctuates too, and no formula is known; "
            "there is one for linear, ReLU and leaky ReLU. Measure with "
            "isometry.ensemble at several widths instead."
        )
    spread = float(moments(phi, 1.0).spread[0])
    if not math.isfinite(spread):
        raise NotDefined(f"{phi.name} is flat: J is 0.")
    return 1 + spread, width, depth


def _has_slope_of_sign(phi: Activation) -> bool:
    """Tell whether phi' depends on the sign of its argument alone."""
    # Half-lines apart: the slope may jump at zero, as that of ReLU does.
    for sign in (-1, 1):
        _, slope = evaluate(phi, sign * _ARGUMENTS)
        if np.ptp(slope) > _ROUNDING * np.abs(slope).max():
            return False
    return True
