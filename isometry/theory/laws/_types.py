"""The type of arrays of complex numbers."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    # The stubs of NumPy lack .real and .imag for arrays whose dtype they do not know.
    Numbers = Any
else:
    Numbers = np.ndarray
