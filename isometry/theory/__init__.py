"""What mean-field theory and free probability predict, in float64 on the host.

Quantities that do not exist are said not to exist. `traced` holds what must be
differentiated, in the caller's dtype; `freeprob` the calculus behind the laws.

Arguments that many of its functions share:

- `activation`: phi, as a name, an elementwise callable, or an `Activation`.
- `q`: the variance of a pre-activation z.
- `c`: the correlation of those of two inputs.
- `sigma_w`, `sigma_b`: fan_in · Var(W_ij) = sigma_w² (of orthogonal weights sigma_w is
  every singular value), and Var(b_i) = sigma_b².
"""

from isometry.theory import freeprob as freeprob
from isometry.theory import traced as traced
from isometry.theory.laws._attention_law import (
    uniform_attention_law as uniform_attention_law,
)
from isometry.theory.laws._attention_moments import (
    AttentionMoments as AttentionMoments,
)
from isometry.theory.laws._attention_moments import (
    attention_moments as attention_moments,
)
from isometry.theory.laws._convolution_moments import (
    depthwise_moments as depthwise_moments,
)
from isometry.theory.laws._convolution_moments import (
    same_padding_moments as same_padding_moments,
)
from isometry.theory.laws._gated_law import gated_law as gated_law
from isometry.theory.laws._gated_moments import gated_moments as gated_moments
from isometry.theory.laws._jacobian_law import jacobian_law as jacobian_law
from isometry.theory.laws._law import Law as Law
from isometry.theory.laws._mixture import Mixture as Mixture
from isometry.theory.laws._moments import Moments as Moments
from isometry.theory.laws._product import NotConverged as NotConverged
from isometry.theory.laws._residual_law import residual_law as residual_law
from isometry.theory.laws._residual_law import residual_moments as residual_moments
from isometry.theory.laws._universal import bernoulli_class as bernoulli_class
from isometry.theory.laws._universal import fuss_catalan as fuss_catalan
from isometry.theory.laws._universal import marchenko_pastur as marchenko_pastur
from isometry.theory.laws._universal import resnet_law as resnet_law
from isometry.theory.laws._universal import smooth_class as smooth_class
from isometry.theory.mean_field._attention import attention_gram as attention_gram
from isometry.theory.mean_field._attention import participation as participation
from isometry.theory.mean_field._collapse import CollapseGradients as CollapseGradients
from isometry.theory.mean_field._collapse import collapse_factor as collapse_factor
from isometry.theory.mean_field._collapse import (
    collapse_gradients as collapse_gradients,
)
from isometry.theory.mean_field._critical import CriticalPoint as CriticalPoint
from isometry.theory.mean_field._critical import NoCriticalPoint as NoCriticalPoint
from isometry.theory.mean_field._critical import critical_at as critical_at
from isometry.theory.mean_field._critical import critical_points as critical_points
from isometry.theory.mean_field._critical import sigma_b_range as sigma_b_range
from isometry.theory.mean_field._fixed_points import (
    CorrelationPoint as CorrelationPoint,
)
from isometry.theory.mean_field._fixed_points import DepthScales as DepthScales
from isometry.theory.mean_field._fixed_points import FixedPoint as FixedPoint
from isometry.theory.mean_field._fixed_points import NoFixedPoint as NoFixedPoint
from isometry.theory.mean_field._fixed_points import c_fixed_point as c_fixed_point
from isometry.theory.mean_field._fixed_points import depth_scales as depth_scales
from isometry.theory.mean_field._fixed_points import q_fixed_point as q_fixed_point
from isometry.theory.mean_field._fixed_points import q_fixed_points as q_fixed_points
from isometry.theory.mean_field._fluctuations import (
    frobenius_fluctuation as frobenius_fluctuation,
)
from isometry.theory.mean_field._fluctuations import (
    norm_fluctuation as norm_fluctuation,
)
from isometry.theory.mean_field._maps import c_map as c_map
from isometry.theory.mean_field._maps import chi as chi
from isometry.theory.mean_field._maps import q_map as q_map
from isometry.theory.mean_field._maps import q_trajectory as q_trajectory
from isometry.theory.mean_field._modes import ConvModes as ConvModes
from isometry.theory.mean_field._modes import conv_modes as conv_modes
from isometry.theory.mean_field._moments import (
    variance_coefficient as variance_coefficient,
)
from isometry.theory.mean_field._norms import NormGain as NormGain
from isometry.theory.mean_field._norms import batch_norm_growth as batch_norm_growth
from isometry.theory.mean_field._norms import norm_chi as norm_chi
from isometry.theory.mean_field._norms import norm_gain as norm_gain
from isometry.theory.mean_field._norms import norm_zeros as norm_zeros
from isometry.theory.mean_field._phase import PhaseDiagram as PhaseDiagram
from isometry.theory.mean_field._phase import phase_diagram as phase_diagram
from isometry.theory.mean_field._pooling import pooling_moments as pooling_moments
from isometry.theory.mean_field._quadrature import expectation as expectation
from isometry.theory.mean_field._recurrent import Recurrent as Recurrent
from isometry.theory.mean_field._recurrent import recurrent as recurrent
