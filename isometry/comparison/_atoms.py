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
    eps = float(np.finfo(np.asarray(sp.log_values).dtype).eps)
    # A product of so many layers has a rounding of its own.
    rounding = 2 * (law.pairs or 1) * math.sqrt(sp.size) * eps
    return max(_WINDOW, rounding)


def at_atoms(sp: Spectrum, law: Law) -> Bool[np.ndarray, "... nodes"]:
    """Tell which nodes lie at an atom of the law off zero."""
    log_lam = 2 * np.asarray(sp.log_values, float)
    half = window(sp, law)
    is_at_atom = np.zeros(log_lam.shape, bool)
    for atom in law.atoms:
        if atom.lam > 0:
            is_at_atom |= np.abs(log_lam - math.log(atom.lam)) <= half
    return is_at_atom


def mass_below_floor(sp: Spectrum, law: Law) -> Float[np.ndarray, "..."]:
    """Return the law's mass where each matrix resolves nothing.

    It is what the measured mass of zeros is to be compared with.
    """
    floors = sp.log_values[..., 0] + sp.log_floor
    return np.asarray(law.cdf(np.asarray(floors, float), "log_s"))
