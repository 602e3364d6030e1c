"""Schemes whose attention starts as the identity: shaped attention, Value-SkipInit.

The matrix of an attention is alpha I + beta A - gamma C, with A the softmax and C what
A becomes at logits of 0. Such a matrix mixes no tokens at the start, so that they do
not become alike with depth.
"""

from isometry import initializers
from isometry._internal.errors import NotDefined
from isometry._internal.types import Initializer as Init
from isometry.schemes._layer import Layer
from isometry.schemes._plain import scaled_orthogonal
from isometry.schemes._scheme import Mixed, Scheme
from isometry.schemes._transformer import refuse_fused
from isometry.structure import Anatomy


def _shaped(layer: Layer, sigma_w: float) -> Init:
    """Choose zeros for queries, and Gaussian weights elsewhere."""
    # The scheme is not free, so `sigma_w` has nothing to scale.
    del sigma_w
    refuse_fused(layer, "shaped_attention")
    # With queries at 0 all logits are 0, and A = C. Keys are drawn all the same: if
    # both were 0, neither would ever have a gradient.
    if layer.role == "query":
        return initializers.zeros()
    # Behind an activation the variance is doubled, because a ReLU halves the mean
    # square of its input.
    kept = 1.0 if layer.precedes is None else 0.5
    return initializers.normal(std=(kept * layer.fan_in) ** -0.5)


def _value_skipinit(layer: Layer, sigma_w: float) -> Init:
    """Choose scaled orthogonal weights; refuse one weight for queries and values."""
    # One orthogonal matrix for queries, keys and values would not give orthogonal
    # values: a part of an orthogonal matrix is not orthogonal.
    refuse_fused(layer, "value_skipinit")
    return scaled_orthogonal(layer, sigma_w)


def _check_queries(anatomy: Anatomy) -> None:
    """Require that each attention has a weight for queries alone.

    Raises:
        NotDefined: A weight is for queries and keys, or there is none for queries.
    """
    for attention in anatomy.attentions:
        shared = set(attention.query) & set(attention.key)
        if shared:
            raise NotDefined(
                f"layer {min(shared)!r}: shaped_attention starts queries at 0 and not "
                "keys, and one weight makes both; write two."
            )
        if not attention.query:
            raise NotDefined(
                "shaped_attention starts the weights of queries at 0, and an attention "
                "reads its queries from the stream without a weight."
            )


SCHEMES = (
    Scheme(
        "shaped_attention",
        _shaped,
        "attention matrices I + A - C, with queries at 0: the softmax A starts as the "
        "uniform C, and attention as the identity",
        law="alpha = beta = gamma = 1 in alpha I + beta A - gamma C; W_Q 0; all else "
        "N(0, 1/fan_in), behind an activation N(0, 2/fan_in); multipliers of branches "
        "and skips as drawn; the Jacobian of an attention is W_V W_O for each token, "
        "and 0 between tokens",
        citation="Noci et al. (2023), arXiv:2306.17759; He and Hofmann (2024), "
        "arXiv:2311.01906",
        differs="Noci et al. draw queries, divide logits by a temperature of order "
        "width, and have skip² + branch² = 1; W_Q = 0 is from He and Hofmann, who "
        "have an alpha, beta and gamma for each head, and values and projections that "
        "start at the identity",
        attention=Mixed(alpha=1.0, beta=1.0, gamma=1.0),
        suits=_check_queries,
    ),
    Scheme(
        "value_skipinit",
        _value_skipinit,
        "attention matrices I + 0 A, with orthogonal values and projections: attention "
        "starts as an orthogonal map of each token",
        law="alpha = 1, beta = gamma = 0 in alpha I + beta A - gamma C; singular "
        "values max(√(fan_out/fan_in), 1), kernels delta-orthogonal; multipliers of "
        "branches and skips as drawn; the Jacobian of an attention is W_V W_O for each "
        "token, and 0 between tokens",
        isometric="attention without a skip and a norm, with values as wide as the "
        "stream: its Jacobian is exactly orthogonal",
        citation="He et al. (2023), arXiv:2302.10322",
        differs="the paper's networks have no skips and no norms, and activations "
        "transformed as by dks or tat",
        attention=Mixed(alpha=1.0, beta=0.0, gamma=0.0),
    ),
)
