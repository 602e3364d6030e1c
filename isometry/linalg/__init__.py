"""Numerical kernels that know nothing of networks.

Each says what its method and precision can resolve; README.md in this folder says how
they work, and why so. Arguments that many of them share:

- `a`: a real floating matrix, or a batch of them on leading axes.
- `operator`: an `Operator`, a matrix that is known by its products.
- `key`: a random key, for directions that are drawn.
- `stacks`: a product as a sequence of `Factors`, the first acts first.
- `g`: a function from vector to vector, whose Jacobian at `point` is meant.
"""

from isometry.linalg._chebyshev import smooth_cdf as smooth_cdf
from isometry.linalg._chebyshev import smooth_density as smooth_density
from isometry.linalg._compact import compact_product as compact_product
from isometry.linalg._compact import live_counts as live_counts
from isometry.linalg._convolution_values import (
    convolution_singular_values as convolution_singular_values,
)
from isometry.linalg._dense import log_singular_values as log_singular_values
from isometry.linalg._dense import numerical_rank as numerical_rank
from isometry.linalg._dense import singular_values as singular_values
from isometry.linalg._factors import Factors as Factors
from isometry.linalg._lanczos import Extremes as Extremes
from isometry.linalg._lanczos import Quadrature as Quadrature
from isometry.linalg._lanczos import extreme_singular_values as extreme_singular_values
from isometry.linalg._lanczos import spectral_quadrature as spectral_quadrature
from isometry.linalg._linear import factored as factored
from isometry.linalg._linear import matrix_of as matrix_of
from isometry.linalg._linear import wide_product as wide_product
from isometry.linalg._log_spread import log_spread as log_spread
from isometry.linalg._moments import partial_jacobian_norm as partial_jacobian_norm
from isometry.linalg._moments import spectral_moments as spectral_moments
from isometry.linalg._operator import Operator as Operator
from isometry.linalg._product import log_values as log_values
from isometry.linalg._product import lyapunov_exponents as lyapunov_exponents
from isometry.linalg._product import (
    product_log_singular_values as product_log_singular_values,
)
