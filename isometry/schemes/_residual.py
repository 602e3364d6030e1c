"""Schemes that start residual blocks at the identity: Fixup, ReZero, SkipInit, zero-γ.

Layers of the stream, and those of a network without branches, get the law that the
paper gives all others.
"""

from isometry import initializers
from isometry._internal.types import Initializer as Init
from isometry.schemes._layer import Branch, Layer
from isometry.schemes._scheme import Residual, Scheme


def _he(layer: Layer, sigma_w: float) -> Init:
    """Choose Gaussian weights of variance 2/fan_in."""
    # These schemes are not free, so `sigma_w` has nothing to scale.
    del sigma_w
    return initializers.normal(std=(2 / layer.fan_in) ** 0.5)


def _fixup(layer: Layer, sigma_w: float) -> Init:
    """Choose zeros for the head and the end of branches, and He weights elsewhere.

    These are rules 1 and 2 of the paper. A branch of one layer is zero. He's variance
    is 2/fan_out, as in the authors' code; the paper names no fan.
    """
    # The scheme is not free, so `sigma_w` has nothing to scale.
    del sigma_w
    branch = layer.on_branch
    if layer.role == "head":
        return initializers.zeros()
    std = (2 / layer.fan_out) ** 0.5
    if branch is None:
        return initializers.normal(std=std)
    # Rule 1: the last layer is zero, and with it the branch.
    if branch.last:
        return initializers.zeros()
    # Rule 2: the factors of the other m - 1 layers of the branch multiply to L^(-1/2).
    depth_scale = branch.count ** (-1 / (2 * branch.length - 2))
    return initializers.normal(std=std * depth_scale)


def _ones(branch: Branch) -> Residual:
    """Return the multipliers 1 of the branch and 1 of the skip."""
    # The multipliers do not depend on the branch.
    del branch
    return Residual()


def _zero_branch(branch: Branch) -> Residual:
    """Return the multipliers 0 of the branch and 1 of the skip."""
    # The multipliers do not depend on the branch.
    del branch
    return Residual(branch=0.0)


SCHEMES = (
    Scheme(
        "fixup",
        _fixup,
        "zeros in the head and at the end of every branch, the other branch layers "
        "scaled down with depth",
        law="head and last layer of each branch 0; other branch layers "
        "N(0, 2/fan_out · L^(-1/(m - 1))), L branches of m layers; all else "
        "N(0, 2/fan_out), embeddings as drawn; multipliers 1; m = 1 has no rule but "
        "zero; without branches only the head is 0",
        isometric="every residual trunk (each block is the identity); end to end the "
        "Jacobian is 0, as the head is",
        citation="Zhang, Dauphin, Ma (2019), arXiv:1901.09321",
        differs="fan_out is from the authors' code, the paper names none; that code "
        "leaves the stem at torch's default",
        # Scalars of the network are trained from 1 (rule 3).
        multipliers=_ones,
        made_for="branches",
        otherwise="draws N(0, 2/fan_out) in every layer but the head, which is 0",
    ),
    Scheme(
        "rezero",
        _he,
        "He weights, and every branch multiplied by a trained scalar that starts at 0",
        law="N(0, 2/fan_in) everywhere; skip 1, branch 0, in the leaf that multiplies "
        "the branch; without branches the same as kaiming",
        isometric="every residual trunk: its Jacobian is exactly the identity",
        citation="Bachlechner et al. (2021), arXiv:2003.04887",
        differs="the paper leaves the weights to each layer's own default",
        multipliers=_zero_branch,
        made_for="branches",
        otherwise="draws what kaiming does",
    ),
    Scheme(
        "skipinit",
        _he,
        "He weights, and a trained scalar that starts at 0 at the end of every branch, "
        "in place of normalization",
        law="N(0, 2/fan_in) everywhere; skip 1, branch 0, in the leaf that multiplies "
        "the branch; without branches the same as kaiming",
        isometric="every residual trunk: its Jacobian is exactly the identity",
        citation="De and Smith (2020), arXiv:2002.10444",
        differs="the paper's second choice for the scalar is 1/√L, L the number of "
        "branches",
        multipliers=_zero_branch,
        made_for="branches",
        otherwise="draws what kaiming does",
    ),
    Scheme(
        "zero_gamma",
        _he,
        "He weights, and scales of 0 in the norm at the end of every branch",
        law="N(0, 2/fan_in) everywhere; the scale of the norm behind the last layer of "
        "each branch 0, other scales as drawn; without branches the same as kaiming",
        isometric="every residual trunk without projections and activations on the "
        "stream: its Jacobian is exactly the identity",
        citation="Goyal et al. (2017), arXiv:1706.02677, section 5.1",
        aliases=("zero-γ", "zero_init_residual"),
        differs="the paper draws the head N(0, 0.01²)",
        multipliers=_zero_branch,
        made_for="branches",
        otherwise="draws what kaiming does",
        # The paper speaks of the scale of the norm, so a scalar does not count.
        closes="norm",
    ),
)
