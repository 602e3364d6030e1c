"""Modes of the covariance in a deep convolutional network."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Inexact

from isometry._internal.errors import public
from isometry.theory.mean_field import _sites
from isometry.theory.mean_field._fixed_points import (
    NEUTRAL,
    c_fixed_point,
    q_fixed_point,
)
from isometry.theory.mean_field._host import ActivationLike
from isometry.theory.mean_field._sites import KernelLike


class ConvModes(NamedTuple):
    """What `conv_modes` returns: one entry for each frequency.

    Attributes:
        q: q*, the variance at the fixed point.
        c: c*, the correlation there, of two positions or of two inputs.
        frequencies: f of each mode e^{if·α}, of shape (*size, axes).
        averages: A(f) = Σ_β v_β e^{if·β}, of shape `size`; complex where the kernel is
            not symmetric.
        eigenvalues: χ_c* A(f): the factor by which a layer multiplies a mode of the
            covariance between positions α and α + Δ, for every Δ ≠ 0.
        depth_scales: −1/ln |χ_c* A(f)| in layers; inf where the mode does not fall, 0
            where it is gone after one layer.
        variance_eigenvalues: V'(q*) A(f), for modes of the variances, Δ = 0.

    Example:
        >>> modes = theory.conv_modes("tanh", 1.0, 0.3, kernel=3, size=(8,))
        >>> modes.depth_scales.shape
        (8,)
    """

    q: float
    c: float
    frequencies: Float[np.ndarray, "*size axes"]
    averages: Inexact[np.ndarray, "*size"]
    eigenvalues: Inexact[np.ndarray, "*size"]
    depth_scales: Float[np.ndarray, "*size"]
    variance_eigenvalues: Inexact[np.ndarray, "*size"]


@public("conv_modes")
def conv_modes(
    activation: ActivationLike,
    sigma_w: float,
    sigma_b: float,
    kernel: KernelLike,
    size: Sequence[int],
) -> ConvModes:
    """Compute how fast patterns over positions fade in a deep convolutional network.

    h_α = Σ_β W(β) phi(h_{α+β}) + b on a circle, with one bias a channel. A tap shifts
    both positions of a covariance together, so entries at different distances Δ do not
    mix: Σ'_{α,α+Δ} = sigma_b² + sigma_w² Σ_β v_β E phi phi, with phi at the positions
    α + β and α + Δ + β. Linearized at the fixed point a deviation e^{if·α} is
    multiplied by χ_c* A(f), with χ_c* = sigma_w² E phi'(u_1) phi'(u_2) at c* (Xiao et
    al., 2018). A delta kernel has A = 1: no pattern fades faster than another.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        sigma_w: √(fan_in · Var W), positive; fan_in counts the taps.
        sigma_b: Standard deviation of the biases, not negative.
        kernel: The number of taps of all axes, or one number for each axis; or an array
            of the variances v_β of the taps, as shares that sum to 1. The tap
            (k − 1)//2 of an axis reads the position itself.
        size: The positions of the image, (n,) or (h, w).

    Returns:
        The modes, in the order of `numpy.fft`.

    Raises:
        InputError: A number out of range; an invalid kernel.
        NoFixedPoint: The variance or the correlation has no stable fixed point.

    Example:
        >>> modes = theory.conv_modes("tanh", 1.3**0.5, 0.05**0.5, kernel=3, size=(8,))
        >>> modes.eigenvalues[:3].round(5)
        array([0.88016, 0.7083 , 0.29339])
    """
    sides = _sites.checked_size("size", size)
    variances = _sites.checked_kernel(kernel, len(sides))
    fixed = q_fixed_point(activation, sigma_w, sigma_b)
    correlation = c_fixed_point(activation, sigma_w, sigma_b)
    # On a circle of positions the modes are waves, and a layer mixes no two of them.
    at = _sites.frequencies(sides)
    averages = _sites.transfer(variances, at)
    # The activation has the same slope χ_c* at all distances, so it is a factor.
    eigenvalues = correlation.slope * averages
    return ConvModes(
        q=fixed.value,
        c=correlation.value,
        frequencies=at,
        averages=averages,
        eigenvalues=eigenvalues,
        depth_scales=_depth_scales(np.abs(eigenvalues)),
        variance_eigenvalues=fixed.slope * averages,
    )


def _depth_scales(
    factors: Float[np.ndarray, "*size"],
) -> Float[np.ndarray, "*size"]:
    """Return −1/ln of factors; inf at 1, 0 at 0."""
    # At criticality the factor of the constant mode is 1 but for rounding.
    factors = np.where(np.abs(factors - 1) < NEUTRAL, 1.0, factors)
    # A(f) vanishes but for rounding at some frequencies.
    factors = np.where(factors < NEUTRAL, 0.0, factors)
    with np.errstate(divide="ignore"):
        return np.abs(-1 / np.log(factors))
