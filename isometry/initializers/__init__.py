"""Initializers: each call returns `init(key, shape, dtype=None, out_sharding=None) -> Array`.

Weights are JAX-shaped, (in, out) and (*window, in, out). Other layouts are named by keyword, wherever a law needs them:

| weight | shape | write |
|---|---|---|
| dense, convolution | (*window, in, out) | the defaults |
| the same in torch, Equinox | (out, in, *window) | `in_axis=1, out_axis=0` |
| attention, input projection | (in, heads, head_dim) | `in_axis=-3, out_axis=(-2, -1)` |
| attention, output projection | (heads, head_dim, out) | `in_axis=(-3, -2)` |
| stacked layers, experts | (layers, in, out) | `batch_axis=0` |
| grouped convolution | (*window, in/g, out) | `groups=g` |
| depthwise convolution | (*window, 1, in k) | `groups=in` |
| transposed convolution in torch | (in, out, *window) | `in_axis=0, out_axis=1` |
| the same, grouped | (in, out/g, *window) | `in_axis=1, out_axis=0, groups=g`, and fan_in and fan_out exchanged |

The fan_in of a grouped weight is right as stored. Its fan_out, the number of outputs that one input reaches, needs
`groups`; torch and JAX have no such argument and count the outputs of all groups, so `groups=1` follows them. A
transposed convolution is the adjoint of a convolution and its fans are that one's exchanged; torch does not exchange
them, so `in_axis=1, out_axis=0` without `groups` follows torch there too.

Arguments that many factories share:

- `in_axis`, `out_axis`, `batch_axis`, `groups`: the layout of the shape, as above; axes of the window are the others.
- `gain`: a finite number that multiplies what is drawn at gain 1.
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
from isometry.initializers._initializer import Initializer as Initializer
from isometry.initializers._random import normal as normal
from isometry.initializers._random import truncated_normal as truncated_normal
from isometry.initializers._random import uniform as uniform
from isometry.initializers._scaled import kaiming_normal as kaiming_normal
from isometry.initializers._scaled import kaiming_uniform as kaiming_uniform
from isometry.initializers._scaled import torch_default as torch_default
from isometry.initializers._scaled import torch_default_bias as torch_default_bias
from isometry.initializers._scaled import xavier_normal as xavier_normal
from isometry.initializers._scaled import xavier_uniform as xavier_uniform
from isometry.initializers._sparse import sparse as sparse
from isometry.initializers._sparse import sparse_orthogonal as sparse_orthogonal
from isometry.initializers._variance_scaling import glorot_normal as glorot_normal
from isometry.initializers._variance_scaling import glorot_uniform as glorot_uniform
from isometry.initializers._variance_scaling import he_normal as he_normal
from isometry.initializers._variance_scaling import he_uniform as he_uniform
from isometry.initializers._variance_scaling import lecun_normal as lecun_normal
from isometry.initializers._variance_scaling import lecun_uniform as lecun_uniform
from isometry.initializers._variance_scaling import variance_scaling as variance_scaling
from isometry.initializers._zero import hadamard as hadamard
from isometry.initializers._zero import zer_o as zer_o
