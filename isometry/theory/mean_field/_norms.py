"""Norms between layers: the dense law that they leave, and the growth of BatchNorm."""

import math
from typing import NamedTuple

from isometry._internal import checks
from isometry._internal.errors import NotDefined, public
from isometry.activations import Activation
from isometry.theory.mean_field._host import ActivationLike, record
from isometry.theory.mean_field._maps import LARGEST, mean_square_slope, scales
from isometry.theory.mean_field._moments import differentiable, finite, moments
from isometry.theory.mean_field._quadrature import expectation
from isometry.theory.mean_field._sphere import on_sphere

ORDERS = ("norm_activation", "activation_norm")
NORMS = ("layer", "rms")

# Singular values of the Jacobian of a norm that are exactly zero. A norm of a layer
# knows neither the size of its input nor, if it is centred, its mean.
_ZEROS = {"layer": 2, "rms": 1, "batch": 2}

# Of three examples E |BN'|² diverges, as E 1/χ² does of two degrees of freedom.
_LEAST_BATCH = 4

# A standard deviation below this share of the mean is rounding.
_CONSTANT = 1e-14


class NormGain(NamedTuple):
    """The dense layer as which a layer with a norm acts at infinite width.

    Attributes:
        q: The variance of what the activation reads.
        sigma_w: The scale of the weights over the standard deviation by which the norm
            divides.
        chi: sigma_w² E phi'(√q z)², the mean squared singular value of a pair.

    Example:
        >>> gain = theory.norm_gain("relu", sigma_w=3.0)
        >>> round(gain.q, 12), round(gain.chi, 12)
        (1.0, 1.0)
    """

    q: float
    sigma_w: float
    chi: float


@public("norm_gain")
def norm_gain(
    activation: ActivationLike,
    sigma_w: float,
    sigma_b: float = 0.0,
    order: str = "norm_activation",
    norm: str = "layer",
) -> NormGain:
    """Compute the dense layer as which a layer with LayerNorm or RMSNorm acts.

    The Jacobian of a norm of N units is I/std, but for one or two directions. So as
    N → ∞ the law of the pairs is that of dense ones with this q and sigma_w,
    `jacobian_law(activation, depth, q, sigma_w, weights=...)`.

    "norm_activation" is h' = W phi(norm(h)) + b: the activation reads unit variance,
    and the norm divides by that of h, sigma_w² E phi² + sigma_b². "activation_norm" is
    h' = W norm(phi(h)) + b: q = sigma_w² + sigma_b², and LayerNorm divides by Var
    phi(√q z), RMSNorm by E phi(√q z)². Both are exact from the second norm on: the
    first divides by the variance of what it reads.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        sigma_w: √(fan_in · Var W), positive.
        sigma_b: Standard deviation of the biases, not negative.
        order: "norm_activation" or "activation_norm".
        norm: "layer" or "rms". In front of an activation they are equal, because
            pre-activations have mean zero.

    Returns:
        q, the effective sigma_w, and their chi.

    Raises:
        InputError: A number out of range, or an unknown name.
        NotDefined: The norm divides by zero; the activation jumps.

    Example:
        >>> gain = theory.norm_gain("tanh", 1.5, 0.2, order="activation_norm")
        >>> law = theory.jacobian_law("tanh", 8, gain.q, gain.sigma_w)
        >>> round(law.moment(1) / gain.chi**8, 9)
        1.0
    """
    sigma_w, sigma_b = scales(sigma_w, sigma_b)
    checks.one_of("order", order, ORDERS)
    checks.one_of("norm", norm, NORMS)
    phi = record(activation)
    if order == "norm_activation":
        q = 1.0
        square = finite(phi, q, moments(phi, q).square[0])
        divided_by = sigma_w**2 * square + sigma_b**2
    else:
        q = sigma_w**2 + sigma_b**2
        divided_by = finite(phi, q, moments(phi, q).square[0])
        if norm == "layer":
            divided_by = _variance(phi, q)
    if not divided_by > 1 / LARGEST:
        raise NotDefined(
            f"{phi.name} has no variance at q={q:g}, and the norm divides by it."
        )
    gain = sigma_w / math.sqrt(divided_by)
    return NormGain(q, gain, chi=gain**2 * mean_square_slope(phi, q))


@public("norm_chi")
def norm_chi(
    activation: ActivationLike,
    sigma_w: float,
    sigma_b: float = 0.0,
    order: str = "norm_activation",
    norm: str = "layer",
) -> float:
    """Compute the growth of a squared perturbation in a layer with a norm.

    The arguments are those of `norm_gain`, of which this is `chi`:

        norm_activation: sigma_w² E phi'(z)² / (sigma_w² E phi(z)² + sigma_b²)
        activation_norm: sigma_w² E phi'(√q z)² / Var phi(√q z), q = sigma_w² + sigma_b²

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        sigma_w: √(fan_in · Var W), positive.
        sigma_b: Standard deviation of the biases, not negative.
        order: "norm_activation", h' = W phi(norm(h)) + b, or "activation_norm", h' =
            W norm(phi(h)) + b.
        norm: "layer", or "rms", which in "activation_norm" has E phi² for Var phi.

    Returns:
        chi: the mean squared singular value of a layer, at infinite width.

    Raises:
        InputError: A number out of range, or an unknown name.
        NotDefined: The norm divides by zero; the activation jumps.

    Example:
        >>> chi = theory.norm_chi("tanh", 1.0, 1.0, order="activation_norm")
        >>> round(chi, 6)
        0.672163
    """
    gain = norm_gain(
        activation,
        sigma_w,
        sigma_b,
        order=order,
        norm=norm,
    )
    return gain.chi


@public("norm_zeros")
def norm_zeros(norm: str, size: int) -> float:
    """Compute the share of singular values of a norm's Jacobian that are exactly zero.

    The output of LayerNorm depends neither on the mean of its input nor on its size,
    that of RMSNorm not on the size, and that of BatchNorm in training neither on the
    mean of a channel over the batch nor on its size there. The share is exact without
    an epsilon: with one, the value along the input is ε/(σ² + ε)^(3/2) instead. Zeros
    of several norms in a network do not add up: the mass at zero of the product is at
    least the largest of them.

    Args:
        norm: "layer", "rms" or "batch".
        size: What the norm averages over: the units, or of "batch" the examples of a
            batch (times the positions of an image).

    Returns:
        The share of zeros, of the size² or batch × batch Jacobian.

    Raises:
        InputError: An unknown name; fewer entries than zeros.

    Example:
        >>> theory.norm_zeros("layer", 64), theory.norm_zeros("rms", 64)
        (0.03125, 0.015625)
    """
    checks.one_of("norm", norm, _ZEROS)
    zeros = _ZEROS[norm]
    size = checks.integer("size", size, low=zeros)
    return zeros / size


@public("batch_norm_growth")
def batch_norm_growth(activation: ActivationLike, batch: float = math.inf) -> float:
    """Compute the growth of a squared gradient in a layer with BatchNorm.

    The layer is x' = phi(BN(W x)) in training, without epsilon, scale or bias, at
    infinite width and in great depth, where examples are exchangeable (Yang et al.,
    2019). The scale of W does not matter. For an infinite batch the growth is
    E phi'(z)² / Var phi(z), which is above 1 unless phi is linear; for B examples

        B/(B − 3) · E tr[(P − ûûᵀ) D P D] / E |P phi(u)|²,   D = diag phi'(u),

    u = √B û uniform on the sphere that is orthogonal to 1, P = 1 − 11ᵀ/B. A
    scale and a bias of the norm are written into phi:
    `lambda u: jax.nn.relu(2 * u + 1)`. For images, B is the batch times the positions,
    if these are independent.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        batch: The number of examples B, at least 4, or inf.

    Returns:
        The factor of |∂loss/∂x|² from a layer to the one before it, averaged over
        weights, of a gradient summed over the batch.

    Raises:
        InputError: `batch` is not a whole number or inf.
        NotDefined: Fewer than 4 examples, for which the mean is infinite; an activation
            that jumps, or is constant.

    Example:
        >>> round(theory.batch_norm_growth("relu"), 6)
        1.466942
        >>> round(theory.batch_norm_growth("relu", batch=8), 5)
        1.78819
    """
    phi = record(activation)
    differentiable(phi, 1.0)
    if isinstance(batch, float) and batch == math.inf:
        return mean_square_slope(phi, 1.0) / _positive_variance(phi)
    size = checks.integer("batch", batch, low=1)
    if size < _LEAST_BATCH:
        raise NotDefined(
            f"batch={size}: the growth of BatchNorm has an infinite mean below "
            f"{_LEAST_BATCH} examples."
        )
    _positive_variance(phi)
    # What follows is per example, and needs means over one or two entries of u only.
    mean = on_sphere(phi, size)
    share = 1 / size
    # tr P D P D: the entries of P are 1 − 1/B on its diagonal, and −1/B off it.
    centred_twice = (1 - share) ** 2 * mean.slope_square
    centred_twice += share * (1 - share) * mean.slopes
    # ûᵀDPDû = Σ u_i² d_i²/B − (Σ u_i d_i)²/B².
    along = share * (1 - share) * mean.tilted_square
    along -= share * (1 - share) * mean.tilted
    # |P phi(u)|² is the variance over the batch.
    kept = (1 - share) * (mean.square - mean.product)
    return size / (size - 3) * (centred_twice - along) / kept


def _positive_variance(phi: Activation) -> float:
    """Return Var phi(z); refuse a constant."""
    variance = _variance(phi, 1.0)
    if variance == 0:
        raise NotDefined(f"{phi.name} is constant, and BatchNorm divides by 0.")
    return variance


def _variance(phi: Activation, q: float) -> float:
    """Compute Var phi(√q z); exactly 0 where phi is constant but for rounding."""
    mean = expectation(phi.fn, q, phi.kinks)
    # Centred first, so that a large mean does not cancel.
    variance = expectation(lambda u: (phi.fn(u) - mean) ** 2, q, phi.kinks)
    if variance <= (_CONSTANT * mean) ** 2:
        return 0.0
    return variance
