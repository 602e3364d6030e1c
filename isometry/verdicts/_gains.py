"""Gain and anisometry of a spectrum, by which three flags are judged."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from isometry.measure._record import Spectrum

PerSeed = Float[np.ndarray, " seeds"]


class Gain(NamedTuple):
    """Two statistics of a Jacobian, for each seed the median over inputs.

    Medians, because the squared norm of a product of random matrices is log-normal at
    finite width, and its mean belongs to rare draws.

    Attributes:
        log_gain: ½ ln E s², with the mean over the min(m, n) singular values. (With a
            mean over input dimensions, an isometry from 64 inputs onto 10 outputs would
            already lose half of the threshold.)
        anisometry: Var(s²)/(E s²)², zeros included: 0 at isometry, whatever the scale.
            Infinite if the Jacobian is zero.
    """

    log_gain: PerSeed
    anisometry: PerSeed


def gain_of(sp: Spectrum) -> Gain:
    """Return gain and anisometry of a spectrum over (seeds, inputs)."""
    log_s = np.asarray(sp.log_values, float)
    log_max = log_s[..., :1]
    is_zero = np.isneginf(log_max)
    # Relative to s_max and in float64, so that no depth overflows.
    reference = np.where(is_zero, 0, log_max)
    relative = np.exp(2 * (log_s - reference))
    mean = relative.mean(-1)
    mean_square = (relative**2).mean(-1)
    # Both means are zero if the Jacobian is; 1 instead avoids a warning of 0/0.
    is_zero = is_zero[..., 0]
    safe_mean = np.where(is_zero, 1, mean)
    log_gain = log_max[..., 0] + np.log(safe_mean) / 2
    relative_variance = mean_square / safe_mean**2 - 1
    # Infinite by convention where the Jacobian is zero: it is not 0/0 = isometric.
    anisometry = np.where(is_zero, np.inf, relative_variance)
    # The median over seeds is taken by the flags.
    return Gain(
        log_gain=np.median(log_gain, axis=-1),
        anisometry=np.median(anisometry, axis=-1),
    )
