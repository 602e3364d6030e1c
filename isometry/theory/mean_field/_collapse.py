"""Rank collapse: how fast tokens of a transformer become parallel."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry.theory.mean_field._host import ActivationLike, record
from isometry.theory.mean_field._moments import differentiable, finite, moments

# An argument of a block with a value for each of two parts, W1 and W2 or attention and
# perceptron: one number for both, or a sequence of two.
Pair: TypeAlias = float | Sequence[float]


class CollapseGradients(NamedTuple):
    """The factors of squared perturbations in one block whose tokens are parallel.

    Attributes:
        common: Of a perturbation that is the same for all tokens.
        free: Of one whose sum over tokens is zero.

    Example:
        >>> theory.collapse_gradients("relu", sigma_v=0.0, branch=[1.0, 0.0])
        CollapseGradients(common=1.0, free=1.0)
    """

    common: float
    free: float


class _Block(NamedTuple):
    """A block at parallel tokens.

    Attributes:
        stream: The squared factor of the stream in front of the attention.
        attention: The mean square that the attention adds, over that of the stream.
        later_stream: The squared factor of the stream in front of the perceptron.
        perceptron: The mean square that the perceptron adds, over that of the stream.
        slope: The mean square that the perceptron adds to a perturbation, over that of
            the perturbation.
    """

    stream: float
    attention: float
    later_stream: float
    perceptron: float
    slope: float


@public("collapse_factor")
def collapse_factor(
    activation: ActivationLike,
    *,
    sigma_w: Pair = 1.0,
    sigma_v: float = 1.0,
    sigma_o: float = 1.0,
    branch: Pair = 1.0,
    skip: Pair = 1.0,
    q: float = 1.0,
    norm_at: str = "pre",
) -> float:
    """Compute the factor of 1 − cosine of two tokens in a block, near collapse.

    A block is x' = s x + a Attention(Norm x), then x'' = s x' + a W2 phi(W1 Norm x'),
    in the limit of many features; with norm_at="post" it is Norm(s x + a F(x)). As the
    tokens become parallel, attention gives all of them the same vector: its weights,
    also where they are not uniform, enter 1 − cosine in second order only. With
    g = (a sigma_v sigma_o)²/q and the V and χ of the perceptron, over the mean square
    q (1 + ...) of its stream,

        (1 − cosine)'' = (1 − cosine) · s²/(s² + g) · (s² + a² χ/q')/(s² + a² V/q').

    Below 1 tokens collapse, in about 1/|ln factor| blocks (Dong et al., 2021); above 1
    they part, to a cosine below 1 (Cowsik et al., 2024, whose edge is factor 1). The
    blocks of a network with norm_at="pre" have a q that grows from block to block, and
    factors that approach 1. There is no factor of a network without norms here: with
    `q_map` and `c_map` it follows from `attention_gram`.

    Args:
        activation: phi, as a name (`activations.names()`), an elementwise callable, or
            an `Activation`.
        sigma_w: Scales of W1 and W2: fan_in · Var(W_ij) = sigma_w². One number is both.
        sigma_v: Scale of the value weights, likewise.
        sigma_o: Scale of the output weights of the attention.
        branch: a of the attention and of the perceptron, one number or two.
        skip: s of both, likewise.
        q: The mean square of the stream at the start of the block. With norm_at="post"
            it is 1 after the first block.
        norm_at: "pre" or "post".

    Returns:
        The factor.

    Raises:
        InputError: An argument is not of this form, or the stream vanishes.

    Example:
        >>> import math
        >>> factor = theory.collapse_factor("tanh", sigma_w=1.5, branch=[0.6, 0.8])
        >>> round(math.log(factor), 3)
        -0.177
    """
    block = _block(
        activation,
        sigma_w=sigma_w,
        sigma_v=sigma_v,
        sigma_o=sigma_o,
        branch=branch,
        skip=skip,
        q=q,
        norm_at=norm_at,
    )
    # Attention adds the same vector to both tokens, which lengthens them and does not
    # part them. The perceptron adds to both the square and the difference.
    of_attention = block.stream / (block.stream + block.attention)
    kept = block.later_stream + block.slope
    return of_attention * kept / (block.later_stream + block.perceptron)


@public("collapse_gradients")
def collapse_gradients(
    activation: ActivationLike,
    *,
    sigma_w: Pair = 1.0,
    sigma_v: float = 1.0,
    sigma_o: float = 1.0,
    branch: Pair = 1.0,
    skip: Pair = 1.0,
    q: float = 1.0,
    norm_at: str = "pre",
) -> CollapseGradients:
    """Compute how squared perturbations grow in a block whose tokens are parallel.

    Attention passes on the mean of the perturbations of all tokens. So those that are
    the same for all tokens grow by more than those whose sum is zero. A random one of T
    tokens consists of both, with shares 1/T and (T − 1)/T, so that its growth over many
    blocks is not the product of its growths in each. Gradients grow by the same factors
    on their way back.

    Args:
        activation: phi, as in `collapse_factor`.
        sigma_w: Scales of W1 and W2.
        sigma_v: Scale of the value weights.
        sigma_o: Scale of the output weights of the attention.
        branch: a of the attention and of the perceptron, one number or two.
        skip: s of both, likewise.
        q: The mean square of the stream at the start of the block.
        norm_at: "pre" or "post".

    Returns:
        Both factors.

    Raises:
        InputError: As `collapse_factor`.

    Example:
        >>> growth = theory.collapse_gradients("tanh", sigma_w=1.5, branch=[0.6, 0.8])
        >>> round(growth.common, 3), round(growth.free, 3)
        (2.436, 1.791)
    """
    block = _block(
        activation,
        sigma_w=sigma_w,
        sigma_v=sigma_v,
        sigma_o=sigma_o,
        branch=branch,
        skip=skip,
        q=q,
        norm_at=norm_at,
    )
    of_perceptron = block.later_stream + block.slope
    # A perturbation whose sum is zero has no mean, and so passes by the attention.
    common = (block.stream + block.attention) * of_perceptron
    free = block.stream * of_perceptron
    if norm_at == "post":
        # Each norm divides by the root of the mean square in front of it.
        norms = (block.stream + block.attention) * q
        norms *= block.later_stream + block.perceptron
        common, free = common / norms, free / norms
    return CollapseGradients(common, free)


def _block(
    activation: ActivationLike,
    *,
    sigma_w: Pair,
    sigma_v: float,
    sigma_o: float,
    branch: Pair,
    skip: Pair,
    q: float,
    norm_at: str,
) -> _Block:
    """Return what each part of a block adds at parallel tokens.

    The arguments are those of `collapse_factor`.
    """
    phi = record(activation)
    differentiable(phi, 1.0)
    first, last = _pair("sigma_w", sigma_w, low=0.0)
    of_attention, of_perceptron = _pair("branch", branch)
    stream, later_stream = _pair("skip", skip)
    for name, value in (("sigma_v", sigma_v), ("sigma_o", sigma_o)):
        checks.number(name, checks.on_host(name, value), low=0.0)
    q = float(checks.number("q", checks.on_host("q", q), low=0.0, above=0.0))
    checks.one_of("norm_at", norm_at, ("pre", "post"))
    attention = (of_attention * sigma_v * sigma_o) ** 2
    # With "pre" a branch reads mean square 1 and is added to a stream of mean square q;
    # with "post" it reads the stream itself, so that q is in both and drops out.
    if norm_at == "pre":
        attention /= q
    total = stream**2 + attention
    if total == 0:
        raise InputError("skip and branch of the attention are both zero.")
    q_perceptron = q * total if norm_at == "pre" else 1.0
    # The norm in front of the perceptron leaves mean square 1, and W1 multiplies it.
    at_input = moments(phi, first**2)
    square = finite(phi, first**2, at_input.square[0])
    slope = finite(phi, first**2, at_input.slope[0])
    strength = (of_perceptron * last) ** 2 / q_perceptron
    if later_stream == 0 and strength * square == 0:
        raise InputError("skip and branch of the perceptron are both zero.")
    return _Block(
        stream=stream**2,
        attention=attention,
        later_stream=later_stream**2,
        perceptron=strength * square,
        slope=strength * slope * first**2,
    )


def _pair(
    name: str,
    value: Pair,
    *,
    low: float = -math.inf,
) -> tuple[float, float]:
    """Return an argument as two numbers, one for each part that it speaks of."""
    checks.on_host(name, value)
    values = value if isinstance(value, Sequence) else (value, value)
    if isinstance(value, str) or len(values) != 2:
        raise InputError(
            f"{name}={checks.show(value)} is not one number or two; write [0.5, 1.0]."
        )
    first, second = (
        float(checks.number(f"{name}[{i}]", one, low=low))
        for i, one in enumerate(values)
    )
    return first, second
