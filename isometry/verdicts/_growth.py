"""How much perturbations grow over the hidden span."""

import math

import numpy as np

from isometry.measure._record import Spectrum
from isometry.verdicts._flag import PerSeed


def growth_of(
    sp: Spectrum,
    num_outputs: int,
) -> PerSeed:
    """Return ln E|δz_last|²/|δz_first|² per unit, over the span of a spectrum.

    It is ln of ‖J‖_F² per unit at the end: what becomes of a perturbation of unit size
    in every unit at the start. For each seed the median over inputs.

    Args:
        sp: The spectrum over (seeds, inputs).
        num_outputs: The number of units at the end of the span.
    """
    # ‖J‖_F² = E s² times the number of singular values. The mean is taken relative to
    # s_max, because no s² of a deep network need be a number.
    log_s = np.asarray(sp.log_values, float)
    log_max = log_s[..., 0]
    is_zero = np.isneginf(log_max)
    reference = np.where(is_zero, 0, log_max)
    shifted = log_s - reference[..., None]
    mean = np.exp(2 * shifted).mean(-1)
    # The mean of a Jacobian that is zero is zero; 1 keeps the logarithm quiet.
    safe_mean = np.where(is_zero, 1, mean)
    log_mean = 2 * log_max + np.log(safe_mean)
    return np.median(log_mean, axis=-1) + math.log(sp.size / num_outputs)
