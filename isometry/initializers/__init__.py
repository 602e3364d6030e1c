"""Initializers: each call returns `init(key, shape, dtype=None, out_sharding=None) -> Array`.

Weights are JAX-shaped, (in, out) and (*window, in, out); torch's layout is `in_axis=1, out_axis=0`.
"""

from isometry.initializers._catalogue import Entry as Entry
from isometry.initializers._catalogue import catalogue as catalogue
from isometry.initializers._constant import constant as constant
from isometry.initializers._constant import ones as ones
from isometry.initializers._constant import zeros as zeros
from isometry.initializers._convolution import block_orthogonal as block_orthogonal
from isometry.initializers._convolution import delta_orthogonal as delta_orthogonal
from isometry.initializers._convolution import dirac as dirac
from isometry.initializers._critical import critical as critical
from isometry.initializers._gains import calculate_gain as calculate_gain
from isometry.initializers._gains import gain as gain
from isometry.initializers._identity import eye as eye
from isometry.initializers._identity import identity as identity
from isometry.initializers._identity import partial_identity as partial_identity
from isometry.initializers._idinit import idinit as idinit
from isometry.initializers._orthogonal import orthogonal as orthogonal
from isometry.initializers._protocol import Initializer as Initializer
from isometry.initializers._random import normal as normal
from isometry.initializers._random import uniform as uniform
from isometry.initializers._scaled import kaiming_normal as kaiming_normal
from isometry.initializers._scaled import kaiming_uniform as kaiming_uniform
from isometry.initializers._scaled import xavier_normal as xavier_normal
from isometry.initializers._scaled import xavier_uniform as xavier_uniform
from isometry.initializers._sparse import sparse as sparse
from isometry.initializers._sparse import sparse_orthogonal as sparse_orthogonal
from isometry.initializers._zero import hadamard as hadamard
from isometry.initializers._zero import zer_o as zer_o
