"""What mean field theory and free probability predict, in float64 on the host.

Quantities that do not exist are said not to exist.
"""

from isometry.theory import freeprob as freeprob
from isometry.theory._jacobian_law import jacobian_law as jacobian_law
from isometry.theory._law import Law as Law
from isometry.theory._mean_field import CriticalPoint as CriticalPoint
from isometry.theory._mean_field import NoCriticalPoint as NoCriticalPoint
from isometry.theory._mean_field import chi as chi
from isometry.theory._mean_field import critical_at as critical_at
from isometry.theory._mean_field import critical_points as critical_points
from isometry.theory._mean_field import q_map as q_map
from isometry.theory._quadrature import expectation as expectation
from isometry.theory._universal import bernoulli_class as bernoulli_class
from isometry.theory._universal import fuss_catalan as fuss_catalan
from isometry.theory._universal import marchenko_pastur as marchenko_pastur
from isometry.theory._universal import resnet_law as resnet_law
from isometry.theory._universal import smooth_class as smooth_class
