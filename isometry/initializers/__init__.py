"""Factories of initializers, each with the law that it draws.

A factory returns an `Initializer`, which draws one array in each call:
`init(key, shape, dtype=None, out_sharding=None)`, as in `jax.nn.initializers`.

Weights are JAX-shaped, (in, out) and (*window, in, out). Wherever a law needs to know,
other layouts are named by keyword:

| weight | shape | write |
|---|---|---|
| dense, convolution | (*window, in, out) | the defaults, or `layout="jax"` |
| the same in torch, Equinox | (out, in, *window) | `layout="torch"` |
| attention, query, key, value | (d, heads, head_dim) | `layout="heads_in"` |
| attention, output | (heads, head_dim, d) | `layout="heads_out"` |
| stacked layers, experts | (layers, in, out) | `batch_axis=0` |
| grouped convolution | (*window, in/g, out) | `groups=g` |
| depthwise convolution | (*window, 1, in k) | `groups=in` |
| transposed, torch | (in, out, *window) | `in_axis=0, out_axis=1` |
| transposed, grouped, torch | (in, out/g, *window) | `layout="torch", groups=g` |

`layout` is a shorthand of two axes: "torch" is `in_axis=1, out_axis=0`, "heads_in" is
`in_axis=-3, out_axis=(-2, -1)`, "heads_out" is `in_axis=(-3, -2), out_axis=-1`. Several
axes act as one, flattened in order. Flax's attention layers (`DenseGeneral`) flatten
the heads before they call an initializer, so there the defaults are right. Axes that
are neither input, output nor batch are the window of a convolution.

A grouped weight stores the inputs of one group and the outputs of all groups. It looks
like the weight of an ungrouped layer, so no factory can know without `groups` (Flax's
`feature_group_count`). With `groups` each group has the law of the factory: random
groups are drawn independently, deterministic groups are equal. The fan_in is right as
stored. The fan_out, the number of outputs that one input reaches, is divided by
`groups`; torch and JAX, which have no such argument, count the outputs of all groups.

A transposed convolution is the adjoint of a convolution, so its fan_in is the fan_out
of that convolution, and its fan_out the fan_in. torch does not exchange the two, and
`layout="torch"` follows torch: in the last row of the table fan_in and fan_out are
those of torch, exchanged.

Draws are bit for bit those of `jax.nn.initializers`, where a docstring says so, in
float32 and float64. bfloat16 and float16 are drawn in float32 and rounded once, where
JAX draws in the type itself.
"""

from isometry.initializers._catalogue import Entry as Entry
from isometry.initializers._catalogue import catalogue as catalogue
from isometry.initializers._catalogue import register as register
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
from isometry.initializers._initializer import Initializer as Initializer
from isometry.initializers._orthogonal import orthogonal as orthogonal
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
