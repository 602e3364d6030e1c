"""The law of layers of uniform attention, in which every token sees the same mean."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, public
from isometry.theory.laws import _closed
from isometry.theory.laws._factor import Factor
from isometry.theory.laws._jacobian_law import sequence
from isometry.theory.laws._law import Law
from isometry.theory.laws._mixture import Mixture
from isometry.theory.laws._product import product_of
from isometry.theory.laws._residual_law import residual_law
from isometry.theory.mean_field._attention import visible
from isometry.theory.mean_field._maps import scale

WEIGHTS = ("gaussian", "orthogonal")


@public("uniform_attention_law")
def uniform_attention_law(
    tokens: int,
    branch: Sequence[float],
    *,
    skip: float | Sequence[float] = 1.0,
    sigma_v: float = 1.0,
    sigma_o: float | None = 1.0,
    weights: str = "gaussian",
    causal: bool = False,
) -> Law:
    """Return the law of λ = s² of layers x' = skip x + branch Attention(x).

    J is the derivative from all tokens to all tokens, over the tokens · width singular
    values, at infinite width. Attention is uniform: Attention(x)_t is the mean of the
    tokens that t sees, times W_V W_O. That is the limit of small logits, as at query or
    key weights of zero, or with logits divided by the width of a head (Noci et al.,
    2022). Attention weights are then no function of x, so that J is linear, and the
    number of heads does not matter.

    If every token sees all of them, the layers act on the mean of the tokens alone, and
    differences between tokens pass with the factor of the skips:

        law = (1 − 1/tokens) δ(Π skip²) + (1/tokens) law of Π(skip + branch W_V W_O).

    The second law is `residual_law` with a linear activation, and E λ = Π skip² +
    (Π(skip² + g) − Π skip²)/tokens with g = (branch sigma_v sigma_o)².

    Under a causal mask token t sees the mean of the first t tokens, a triangular matrix
    C of entries 1/t. Without skips J is C^depth times a product of weights, and its law
    the mixture of that of the product over the singular values of C^depth. With skips
    no law is known.

    There are no norms and no perceptrons.

    Args:
        tokens: The number of tokens.
        branch: The multiplier of each attention, one number a layer.
        skip: The multiplier of the skips, a number or one a layer; either none is zero,
            or all are.
        sigma_v: Scale of the value weights: fan_in · Var(W_ij) = sigma_v², of
            orthogonal weights every singular value.
        sigma_o: Scale of the output weights, likewise. None is an attention without
            them, that returns x W_V.
        weights: "gaussian" or "orthogonal": W_V and W_O as (width, width) matrices.
        causal: Whether a token sees itself and earlier tokens only.

    Returns:
        The law. For `compare` it has `positions` = tokens.

    Raises:
        InputError: A number out of range; some skips are zero and others not.
        NotDefined: `causal` with skips.

    Example:
        >>> law = theory.uniform_attention_law(8, [0.5] * 4)
        >>> law.atoms
        (Atom(lam=1.0, mass=0.875),)
        >>> round(law.moment(1), 6), round((7 + 1.25**4) / 8, 6)
        (1.180176, 1.180176)
        >>> theory.uniform_attention_law(2, [1.0], skip=0.0).zero_mass
        0.5
    """
    tokens = checks.integer("tokens", tokens, low=1)
    branches = _numbers("branch", branch)
    depth = len(branches)
    if not depth:
        raise InputError("branch has no values; write one number a layer.")
    skips = _one_a_layer(skip, depth)
    checks.one_of("weights", weights, WEIGHTS)
    # All heads mix tokens alike, so the sum over heads is one product of full matrices.
    scales = [scale("sigma_v", sigma_v)]
    if sigma_o is not None:
        scales.append(scale("sigma_o", sigma_o))
    name = f"uniform attention, {tokens} tokens, depth {depth}"
    # One token sees itself alone, with a mask or without.
    causal = causal and tokens > 1
    if not any(skips):
        # With a zero in every layer J is a product, which needs no sum of free terms.
        if not all(branches):
            raise InputError("skip and branch of a layer are both zero, and so is J.")
        log_square = 2 * sum(math.log(abs(a) * math.prod(scales)) for a in branches)
        num_gaussian = len(scales) * depth if weights == "gaussian" else 0
        if causal:
            return _causal(tokens, depth, num_gaussian, log_square=log_square)
        return _of_means(tokens, depth, num_gaussian, log_square=log_square)
    if causal:
        raise NotDefined(
            "no law is known of causal attention with skips: 1 + C ⊗ W for a matrix C "
            "that is not normal is no free product. theory.attention_moments with "
            "sigma_q=0 and causal=True has mean and variance of one layer, and without "
            "skips, skip=0, there is a law."
        )
    # What W_V W_O does to the mean of the tokens is one residual block a layer.
    law = residual_law(
        "linear",
        branches,
        order="post_activation" if sigma_o is None else "two_layer",
        skip=skips,
        sigma_w=scales,
        weights=weights,
    )
    mean = dataclasses.replace(law, name=name, positions=tokens)
    if tokens == 1:
        return mean
    # Tokens whose sum is zero attend to nothing.
    log_kept = 2 * sum(math.log(abs(one)) for one in skips)
    differences = Law(
        product_of({_closed.Powers(log_scale=log_kept): 1}),
        name,
        pairs=depth,
        positions=tokens,
    )
    return Mixture([differences, mean], [1 - 1 / tokens, 1 / tokens], name)


def _of_means(
    tokens: int,
    depth: int,
    num_gaussian: int,
    *,
    log_square: float,
) -> Law:
    """Return the law without skips, in which all but the mean of the tokens is lost.

    Tokens are projected to their mean, it meets the weights, and is spread over all.
    """
    counts: Counter[Factor] = Counter()
    # In units of the width: from all tokens to one vector, and back to all.
    counts[_closed.input_space(tokens, tokens)] += 1
    counts[_closed.haar(log_square, tokens, 1, size=tokens)] += 1
    counts[_closed.gaussian(0.0, 1, 1, size=tokens)] += num_gaussian
    counts[_closed.haar(0.0, 1, tokens, size=tokens)] += 1
    return Law(
        product_of(counts),
        f"uniform attention, {tokens} tokens, depth {depth}",
        pairs=depth,
        positions=tokens,
    )


def _causal(
    tokens: int,
    depth: int,
    num_gaussian: int,
    *,
    log_square: float,
) -> Law:
    """Return the law without skips under a causal mask."""
    seen = visible(tokens, causal=True)
    means = seen / seen.sum(axis=1, keepdims=True)
    # Tokens and features do not mix, so that depth layers are C^depth ⊗ W_L … W_1.
    values = np.linalg.svd(np.linalg.matrix_power(means, depth), compute_uv=False)
    laws = []
    weight = _closed.gaussian(0.0, 1, 1, size=1)
    # Rotations of the tokens make C^depth diagonal: one product of weights for each of
    # its singular values, none of which is zero.
    for value in values:
        log_scale = log_square + 2 * math.log(value)
        counts: dict[Factor, float] = {
            _closed.Powers(log_scale=log_scale): 1,
            weight: num_gaussian,
        }
        law = Law(product_of(counts), "", pairs=depth, positions=tokens)
        laws.append(law)
    name = f"uniform causal attention, {tokens} tokens, depth {depth}"
    return Mixture(laws, [1 / tokens] * tokens, name)


def _numbers(name: str, value: Sequence[float]) -> list[float]:
    """Return a sequence of finite numbers as a list."""
    numbers = sequence(name, checks.on_host(name, value))
    return [float(checks.number(name, number)) for number in numbers]


def _one_a_layer(
    skip: float | Sequence[float],
    depth: int,
) -> list[float]:
    """Return one skip a layer: the number that is given, or as many as layers.

    Raises:
        InputError: As many as layers are not given, or some are zero and others not.
    """
    checks.on_host("skip", skip)
    if isinstance(skip, Sequence):
        skips = _numbers("skip", skip)
    else:
        skips = [float(checks.number("skip", skip))] * depth
    if len(skips) != depth:
        raise InputError(
            f"skip has {len(skips)} values; write a number, or one a layer, of which "
            f"there are {depth}."
        )
    if any(skips) and not all(skips):
        raise InputError(
            f"skip={checks.show(skips)} is zero in some layers and not in others; "
            "write layers of one kind."
        )
    return skips
