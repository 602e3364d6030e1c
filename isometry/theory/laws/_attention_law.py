"""The law of uniform attention: every token moves by the mean of all tokens."""

import dataclasses
import math
from collections.abc import Sequence

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry.theory.laws._closed import Powers
from isometry.theory.laws._law import Law
from isometry.theory.laws._mixture import Mixture
from isometry.theory.laws._product import product_of
from isometry.theory.laws._residual_law import residual_law


@public("uniform_attention_law")
def uniform_attention_law(
    tokens: int,
    branch: Sequence[float],
    *,
    skip: float = 1.0,
    sigma_v: float = 1.0,
    sigma_o: float = 1.0,
) -> Law:
    """Return the law of lam = s² of layers skip x + branch Attention(x), A uniform.

    J is the Jacobian from all tokens to all tokens, at infinite width. Attention is
    uniform without mask where query or key weights are zero, and for tokens that are
    all alike. With A = 11ᵀ/T, sums that vanish over the tokens see the skips alone, and
    the mean over tokens a residual network with the branch W_O W_V:

        (1 − 1/T) δ(skip^(2L)) + (1/T) · law of Π (skip + branch W_O W_V).

    The number of heads makes no difference. The law has `positions` T, by which
    `compare` knows the width, and no outliers. With logits of order one A depends on
    the tokens, and the paths through queries and keys add matrices of rank T(T − 1) for
    each head, whose singular values grow with the width: no law of the rest is known,
    and `attention_moments` has its mean and variance, and this number.

    Args:
        tokens: T.
        branch: The multiplier of each attention, one number a layer.
        skip: The multiplier of the skips, not zero.
        sigma_v: Scale of the value weights: fan_in · Var(W_ij) = sigma_v².
        sigma_o: Scale of the output weights.

    Returns:
        The law.

    Raises:
        InputError: A number out of range.

    Example:
        >>> law = theory.uniform_attention_law(8, [0.5, 0.5])
        >>> round(law.moment(1), 6), law.positions
        (1.070312, 8)
        >>> round(law.atoms[0].mass, 6)
        0.875
    """
    tokens = checks.integer("tokens", tokens, low=1)
    checks.number("skip", checks.on_host("skip", skip))
    if skip == 0:
        raise InputError(
            "skip is 0, and behind a layer all tokens are alike; write another number."
        )
    of_mean = residual_law(
        "linear",
        branch,
        order="two_layer",
        skip=skip,
        sigma_w=[sigma_v, sigma_o],
    )
    depth = len(branch)
    name = f"uniform attention of {tokens} tokens, {depth} layers"
    of_mean = dataclasses.replace(of_mean, name=name, positions=tokens)
    if tokens == 1:
        return of_mean
    log_skips = 2 * depth * math.log(abs(skip))
    of_others = Law(
        product_of({Powers(log_scale=log_skips): 1}),
        "skips",
        pairs=depth,
        positions=tokens,
    )
    share = 1 / tokens
    return Mixture([of_others, of_mean], [1 - share, share], name)
