"""Point masses: which values lie at an atom of the law, and what counts as zero."""

import math

import numpy as np
from jaxtyping import Bool, Float

from isometry.measure._record import Spectrum
from isometry.theory import Law

# Half the window around an atom, in log lam, unless rounding is coarser. With ten times
# more, values of the density beside an atom would be counted as its own; with ten times
# less, inputs of single precision would move values out of it.
_WINDOW = 1e-6


def window(sp: Spectrum, law: Law) -> float:
    """Return half the length of the window of log lam that counts as an atom."""
    log_values = np.asarray(sp.log_values)
    precision = np.finfo(log_values.dtype)
    eps = float(precision.eps)
    # A product of so many layers has a rounding of its own.
    num_layers = law.pairs or 1
    rounding = num_layers * math.sqrt(sp.size) * eps
    # In log lam, which is twice log s.
    return max(_WINDOW, 2 * rounding)


def at_atoms(sp: Spectrum, law: Law) -> Bool[np.ndarray, "... nodes"]:
    """Tell which nodes lie at an atom of the law off zero."""
    log_values = np.asarray(sp.log_values, float)
    log_lam = 2 * log_values
    half = window(sp, law)
    is_at_atom = np.zeros(log_lam.shape, bool)
    for atom in law.atoms:
        # Zeros are counted by rank, not by their place.
        if atom.lam == 0:
            continue
        place = math.log(atom.lam)
        distance = np.abs(log_lam - place)
        is_at_atom |= distance <= half
    return is_at_atom


def mass_below_floor(sp: Spectrum, law: Law) -> Float[np.ndarray, "..."]:
    """Return the law's mass where each matrix resolves nothing.

    It is what the measured mass of zeros is to be compared with.
    """
    log_s_max = sp.log_values[..., 0]
    floors = log_s_max + sp.log_floor
    floors = np.asarray(floors, float)
    mass = law.cdf(floors, "log_s")
    return np.asarray(mass)
