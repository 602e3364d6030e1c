"""Mean and variance of lam where positions of an image differ: no S-transform exists.

Let J act on positions and channels, c → ∞, and E_α average over weights and the
channels of position α. Then two quantities follow layer by layer, a vector and a map of
vectors over positions,

    a = E(J Jᵀ),  T(b) = E(J Jᵀ b J Jᵀ),  at first a = 1, T(b) = b.

A convolution W with Gaussian taps, with (A a)_α = Σ_β v_β a_{α+β}, and a diagonal D
with the moments μ_1 and μ_2 of D² at every position give

    W:  a' = σ² A a,  T'(b) = a'² b + σ⁴ ρ A T(Aᵀ b),  ρ = c_out/c_in
    D:  a' = μ_1 a,   T'(b) = μ_1 T(μ_1 b) + (μ_2 − μ_1²) a² b.

Only the mean of T(1) is asked for. T is linear, so b is carried back from b = 1 through
σ² ρ Aᵀ and μ_1, and beside it the vector l by which T is averaged, through σ² Aᵀ and
μ_1: l = b but for the channels. What the steps add in between are dot products.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry.activations import Activation
from isometry.theory.laws._moments import Moments
from isometry.theory.mean_field import _moments, _sites
from isometry.theory.mean_field._host import ActivationLike, record
from isometry.theory.mean_field._maps import LARGEST, scales
from isometry.theory.mean_field._sites import Averaging, Image, KernelLike, Result

_DEEPEST = 10**5

# Parts of a binade that variances are rounded to: 1e-13. A thousand times finer, the
# rounding of sums would tell symmetric positions apart, at a quadrature each.
_ROUNDED_TO = 2.0**43


@dataclass(frozen=True, eq=False)
class Convolved:
    """A convolution with independent taps.

    Attributes:
        averaging: A, the average over the window of each output position, weighted by
            the variances of the taps.
        square: σ², which is sigma_w² = fan_in · Var W of the Gaussian taps.
        ratio: Channels out over channels in.
    """

    averaging: Averaging
    square: float
    ratio: float = 1.0


@dataclass(frozen=True, eq=False)
class Sloped:
    """The derivatives of the activation: a diagonal D, its law one for each position.

    Attributes:
        mean: μ_1 = E D² at each position.
        square: μ_2 = E D⁴ at each position.
    """

    mean: Image
    square: Image


Step: TypeAlias = Convolved | Sloped


@dataclass(frozen=True, eq=False)
class PositionMoments:
    """Moments over the positions and channels of the output.

    Attributes:
        mean: tr(J Jᵀ) over the number of outputs.
        second: tr(J Jᵀ J Jᵀ) over the number of outputs.
    """

    mean: float
    second: float


# What overflows is refused by `moments_of`, with the reason.
@np.errstate(over="ignore", invalid="ignore")
def through(steps: Sequence[Step], size: tuple[int, ...]) -> PositionMoments:
    """Compute E λ and E λ² of a product of convolutions and diagonals.

    The equations, and the letters, are those at the top of this file.

    Args:
        steps: The factors of J.
        size: The size of the image at the input of the first.
    """
    # Forward: a behind every step, kept for the way back.
    a = np.ones(size)
    before = []
    for step in steps:
        before.append(a)
        if isinstance(step, Convolved):
            a = step.square * step.averaging.forward(a)
        else:
            a = step.mean * a
    last = a
    # Backward: l, here `left`, and b, with the dot product that each step adds.
    left = np.full(last.shape, 1 / last.size)
    b = np.ones(last.shape)
    second = 0.0
    for step, a in zip(reversed(steps), reversed(before), strict=True):
        # What the step adds to E λ² is the term of T' in which T does not occur.
        if isinstance(step, Convolved):
            after = step.square * step.averaging.forward(a)
            second += float((left * after**2 * b).sum())
            b = step.square * step.ratio * step.averaging.backward(b)
            left = step.square * step.averaging.backward(left)
        else:
            spread = step.square - step.mean**2
            second += float((left * spread * a**2 * b).sum())
            b = step.mean * b
            left = step.mean * left
    # In front of the first step T(b) is b.
    second += float((left * b).sum())
    return PositionMoments(float(last.mean()), second)


def slopes(phi: Activation, q: Image) -> Sloped:
    """Return the factor D of an activation at the variances of all positions."""
    # Most positions are alike, by symmetry or because the margins are far.
    distinct, index = np.unique(q, return_inverse=True)
    found = _moments.moments(phi, distinct)
    mean = found.slope[index].reshape(q.shape)
    square = ((1 + found.spread) * found.slope**2)[index].reshape(q.shape)
    return Sloped(mean, square)


def next_variance(
    phi: Activation,
    q: Image,
    layer: Convolved,
    *,
    sigma_b: float,
) -> Result:
    """Return the variance of the next pre-activations at each position.

    Raises:
        InputError: It is beyond float64.
    """
    distinct, index = np.unique(q, return_inverse=True)
    square = _moments.moments(phi, distinct).square[index].reshape(q.shape)
    with np.errstate(over="ignore"):
        after = layer.square * layer.averaging.forward(square) + sigma_b**2
    if not np.isfinite(after).all():
        raise InputError(
            f"{phi.name}: the variance of the pre-activations diverges, or exceeds "
            "float64; write a smaller sigma_w or depth."
        )
    return rounded(after)


def rounded(q: Image) -> Image:
    """Round to a few parts in 1e13, so that symmetric positions have one variance."""
    mantissa, exponent = np.frexp(q)
    return np.ldexp(np.round(mantissa * _ROUNDED_TO) / _ROUNDED_TO, exponent)


@public("same_padding_moments")
def same_padding_moments(  # noqa: PLR0917
    activation: ActivationLike,
    depth: int,
    kernel: KernelLike,
    size: Sequence[int],
    sigma_w: float,
    q: float | Float[np.ndarray, "*size"] = 1.0,
    *,
    sigma_b: float = 0.0,
) -> Moments:
    """Compute mean and variance of lam for a convolutional network with zero padding.

    J = D_L W_L … D_1 W_1, with Gaussian kernels and as many channels in every layer, in
    the limit of many channels. Positions at the margin see zeros, so q and the growth
    differ from position to position, the factors are not free of each other, and no law
    is known. The moments are exact: with A_{αγ} = v_{γ−α} inside the image and slopes
    that are alike at all positions, E lam = χ^L 1ᵀA^L 1/n. He weights with zero padding
    are not critical: lam falls by the largest eigenvalue of A a layer, for k = 3 in d
    dimensions by ((1 + 2 cos(π/(n + 1)))/3)^d.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        depth: L, the number of (W, D) pairs.
        kernel: The number of taps of all axes, or one number for each axis; or an array
            of the variances v_β of the taps, as shares that sum to 1. Even windows
            begin (k − 1)//2 positions before their own, as in XLA's "SAME".
        size: The positions of the image, (n,) or (h, w).
        sigma_w: √(fan_in · Var W), positive; fan_in counts all taps.
        q: The variance of the first pre-activations, those of D_1: a number, or one for
            each position. The others follow by the variance map.
        sigma_b: Standard deviation of the biases, not negative.

    Returns:
        Mean and variance of lam over all positions and channels.

    Raises:
        InputError: A number out of range; an invalid kernel.
        NotDefined: The activation jumps.

    Example:
        >>> moments = theory.same_padding_moments("relu", 2, 3, (6,), sigma_w=2**0.5)
        >>> round(moments.mean, 4), round(moments.variance / moments.mean**2, 4)
        (0.8148, 4.3678)
    """
    depth = checks.integer(
        "depth",
        depth,
        low=1,
        high=_DEEPEST,
    )
    sides = _sites.checked_size("size", size)
    variances = _sites.checked_kernel(kernel, len(sides))
    sigma_w, sigma_b = scales(sigma_w, sigma_b)
    phi = record(activation)
    q_now = _variances(q, sides)
    _moments.differentiable(phi, float(q_now.max()))
    # At the margins fewer taps read the image, so that variances differ by position.
    averaging = Averaging(variances, sides, padding="same")
    layer = Convolved(averaging, sigma_w**2)
    steps: list[Step] = []
    for index in range(depth):
        if index:
            q_now = next_variance(
                phi,
                q_now,
                layer,
                sigma_b=sigma_b,
            )
        steps += [layer, slopes(phi, q_now)]
    found = through(steps, sides)
    return moments_of(found, phi)


def moments_of(found: PositionMoments, phi: Activation) -> Moments:
    """Return the mean and the variance of lam.

    Args:
        found: The moments of J Jᵀ.
        phi: The activation, for the message.

    Raises:
        InputError: They are not finite.
    """
    variance = found.second - found.mean**2
    if not np.isfinite(variance):
        raise InputError(
            f"E phi'^4 of {phi.name} diverges, or the moments exceed float64."
        )
    return Moments(found.mean, variance)


def _variances(
    q: float | Float[np.ndarray, "*size"],
    size: tuple[int, ...],
) -> Image:
    """Return the variance at each position."""
    checks.on_host("q", q)
    try:
        values = np.asarray(q, np.float64)
    except (TypeError, ValueError):
        values = np.full(1, np.nan)
    if values.shape not in ((), size):
        raise InputError(
            f"q={checks.show(q)} has shape {values.shape}; write a number, or one for "
            f"each position, of shape {size}."
        )
    for value in np.unique(values):
        checks.number(
            "q",
            float(value),
            low=0.0,
            high=LARGEST,
        )
    return np.broadcast_to(values, size)


@public("depthwise_moments")
def depthwise_moments(kernel: KernelLike, size: Sequence[int]) -> Moments:
    """Compute mean and variance of lam = s² of a depthwise convolution on a circle.

    Each channel has one Gaussian kernel, whose taps have the variances v_β, Σ v_β = 1,
    and is not mixed with others: its singular values are |ŵ(f)|, one for each
    frequency. The mean is 1, and E lam² the average over frequencies of 2 +
    |Σ_β v_β e^{2if·β}|², at every number of channels. The values of two frequencies are
    dependent within a channel, and layers in a row commute: their lam multiply, and no
    law of free factors holds.

    Args:
        kernel: The number of taps of all axes, or one number for each axis; or an array
            of the variances v_β of the taps, as shares that sum to 1.
        size: The positions of the image, (n,) or (h, w).

    Returns:
        Mean and variance of lam over frequencies, channels and draws, for sigma_w = 1.

    Raises:
        InputError: An invalid size or kernel.

    Example:
        >>> moments = theory.depthwise_moments(3, (8,))
        >>> round(moments.variance + 1, 4)
        2.3333
    """
    sides = _sites.checked_size("size", size)
    variances = _sites.checked_kernel(kernel, len(sides))
    doubled = _sites.transfer(variances, 2 * _sites.frequencies(sides))
    second = float((2 + np.abs(doubled) ** 2).mean())
    return Moments(1.0, second - 1)
