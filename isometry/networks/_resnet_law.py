"""The law of a residual network's Jacobian, from its scheme, multipliers and inputs."""

from typing import TypedDict

import numpy as np
from jax.typing import ArrayLike

from isometry import theory
from isometry._internal import checks
from isometry._internal.errors import NotDefined
from isometry.activations import Activation
from isometry.networks._network import SPANS
from isometry.schemes import Drawn, Layer
from isometry.schemes._scales import Scales


class Blocks(TypedDict):
    """The arguments of `theory.residual_law` that describe all blocks.

    Attributes:
        branch: The multiplier of each branch.
        order: The order of the branch.
        skip: The multiplier of each skip.
        sigma_w: The scale of each weight layer of a branch.
        weights: "gaussian" or "orthogonal".
        q: The mean square of the stream in front of the first block.
    """

    branch: list[float]
    order: str
    skip: list[float]
    sigma_w: list[float]
    weights: str
    q: float


def blocks(
    scales: Scales,
    layers: dict[str, tuple[Layer, ...]],
    *,
    order: str,
    has_ends: bool,
    branch: list[float],
    skip: list[float],
    bias: bool,
    span: str,
    xs: ArrayLike,
) -> Blocks:
    """Return what theory must know of the dense blocks of a residual network.

    Args:
        scales: The sigmas of the scheme.
        layers: What the scheme is told of each weight layer, by name; of stacked ones
            a `Layer` each.
        order: The order of the branch.
        has_ends: Whether there is a stem or a head.
        branch: The multiplier of each branch.
        skip: The multiplier of each skip.
        bias: Whether there are biases.
        span: "hidden" or "end_to_end".
        xs: Inputs of shape (examples, inputs).

    Raises:
        NotDefined: The span has a stem or a head; biases are not zero; the scheme's
            weights have no law.
    """
    checks.one_of("span", span, SPANS)
    if span == "end_to_end" and has_ends:
        raise NotDefined(
            "no law is implemented for residual blocks with a stem or a head; take "
            'span="hidden", the blocks alone.'
        )
    # The law is one for all inputs, at their mean square.
    q = float((np.asarray(xs, float) ** 2).mean())
    of_branch = []
    for name, slices in layers.items():
        # A head lies behind the span, and changes nothing in it.
        if slices[0].role == "head":
            continue
        drawn = _drawn(scales, slices, has_bias=bias)
        # A stem lies in front of the span, and scales the stream that enters it.
        if slices[0].role == "stem":
            q *= drawn.gain(slices[0]) ** 2
        else:
            of_branch.append((name, drawn))
    # Their names sort as the layers stand: "first", then "second".
    of_branch.sort(key=lambda pair: pair[0])
    weights = {drawn.weights for _, drawn in of_branch}
    if len(weights) > 1:
        raise NotDefined(
            "no law is implemented for residual blocks with weights of two ensembles."
        )
    return Blocks(
        branch=branch,
        order=order,
        skip=skip,
        sigma_w=[drawn.sigma_w for _, drawn in of_branch],
        weights=weights.pop(),
        q=q,
    )


def _drawn(
    scales: Scales,
    slices: tuple[Layer, ...],
    *,
    has_bias: bool,
) -> Drawn:
    """Return the distribution of equal layers.

    Raises:
        NotDefined: They differ, have biases, or are of another ensemble.
    """
    # `Drawn` is hashable: equal scales and ensembles are one entry.
    found = set()
    for layer in slices:
        scheme = scales.of(layer).scheme
        if has_bias and scheme.sigma_b:
            raise NotDefined(
                "no law is implemented for residual blocks with biases, and sigma_b is "
                f"{scheme.sigma_b:g}; write sigma_b=0."
            )
        found.add(scheme.drawn(layer))
    if len(found) > 1:
        raise NotDefined(
            f"no law is implemented for blocks whose weights differ: {slices[0].name} "
            f"has {len(found)} scales."
        )
    return found.pop()


def law(activation: Activation, of_blocks: Blocks) -> theory.Law:
    """Return the law."""
    return theory.residual_law(activation, **of_blocks)


def moments(activation: Activation, of_blocks: Blocks) -> theory.Moments:
    """Return mean and variance."""
    return theory.residual_moments(activation, **of_blocks)
