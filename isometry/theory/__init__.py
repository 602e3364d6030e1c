"""What mean field theory predicts, in float64 on the host. Quantities that do not exist are said not to exist."""

from isometry.theory._mean_field import CriticalPoint as CriticalPoint
from isometry.theory._mean_field import NoCriticalPoint as NoCriticalPoint
from isometry.theory._mean_field import chi as chi
from isometry.theory._mean_field import critical_at as critical_at
from isometry.theory._mean_field import critical_points as critical_points
from isometry.theory._mean_field import q_map as q_map
from isometry.theory._quadrature import expectation as expectation
