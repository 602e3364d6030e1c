"""Numerical kernels that know nothing of networks. Each says what its method and precision can resolve."""

from isometry.linalg._dense import log_singular_values as log_singular_values
from isometry.linalg._dense import numerical_rank as numerical_rank
from isometry.linalg._dense import singular_values as singular_values
