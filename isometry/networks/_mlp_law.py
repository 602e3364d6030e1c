"""The law of an MLP's Jacobian, from its scheme, its widths and its inputs."""

import itertools
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from isometry import theory
from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined
from isometry.activations import Activation
from isometry.networks._network import SPANS
from isometry.schemes import Drawn, Layer, Scheme
from isometry.theory import Law


def law(
    activation: Activation,
    scheme: Scheme,
    plan: Sequence[Layer],
    *,
    sigma_b: float,
    span: str,
    xs: ArrayLike,
) -> Law:
    """Return what `Mlp.law` does.

    Args:
        activation: The activation of the hidden layers.
        scheme: The scheme that draws the weights.
        plan: The layers.
        sigma_b: The standard deviation of the biases.
        span: "hidden" or "end_to_end".
        xs: Inputs.
    """
    checks.one_of("span", span, SPANS)
    # Theory speaks of pairs of W and D, and fewer layers leave none inside.
    if span == "hidden" and len(plan) < 3:
        raise InputError(
            'span="hidden" runs from z_1 to z_(depth-1) and needs depth 3; this '
            f"network has {len(plan)}."
        )
    drawn = [scheme.drawn(layer) for layer in plan]
    q = variances(activation, plan, drawn, sigma_b=sigma_b, xs=xs)
    widths = [plan[0].fan_in, *(layer.fan_out for layer in plan)]
    weights = drawn[0].weights
    if span == "hidden":
        # Stem and head lie outside, and so does the variance behind the last pair.
        inner = _hidden(
            activation,
            plan[1:-1],
            drawn[1:-1],
            q=q[:-1],
            widths=widths[1:-1],
        )
        return _with_edges(inner)
    scales = [of_layer.sigma_w for of_layer in drawn]
    # One weight without a derivative behind it is a pair with the identity.
    if len(plan) == 1:
        return theory.jacobian_law(
            "linear",
            depth=1,
            q=[1.0],
            sigma_w=scales,
            weights=weights,
            widths=widths,
        )
    whole = theory.jacobian_law(
        activation,
        depth=len(q),
        q=q,
        sigma_w=scales[:-1],
        weights=weights,
        widths=widths,
        head=scales[-1],
    )
    return _with_edges(whole)


def variances(
    activation: Activation,
    plan: Sequence[Layer],
    drawn: Sequence[Drawn],
    *,
    sigma_b: float,
    xs: ArrayLike,
) -> list[float]:
    """Return the variances of z_1 ... z_(depth-1) at infinite width.

    The first follows from the mean of |x|² over xs, the others from the variance map.
    """
    # On the host and in float64, as theory works.
    x = np.asarray(xs, float)
    gains = [of_layer.gain(layer) for of_layer, layer in zip(drawn, plan, strict=True)]
    q = [gains[0] ** 2 * float((x**2).mean()) + sigma_b**2]
    for gain in gains[1:-1]:
        q.append(theory.q_map(activation, q[-1], gain, sigma_b=sigma_b))
    # A single layer has no hidden units, and no variance of theirs.
    return q[: len(plan) - 1]


def _hidden(
    activation: Activation,
    layers: Sequence[Layer],
    drawn: Sequence[Drawn],
    *,
    q: Sequence[float],
    widths: Sequence[int],
) -> Law:
    """Return the law of W_(d-1) D_(d-2) ... W_2 D_1.

    Its derivatives stand on the right, and `jacobian_law` has them on the left, so it
    is read as the law of the transpose, from the end.
    """
    turned = []
    for of_layer, layer in zip(drawn, layers, strict=True):
        scale = of_layer.sigma_w
        # Transposed, a Gaussian layer sums over fan_out units. Its variance
        # sigma_w²/fan_in is (sigma_w² fan_out/fan_in)/fan_out.
        if of_layer.weights == "gaussian":
            scale *= (layer.fan_out / layer.fan_in) ** 0.5
        turned.append(scale)
    # Square layers have a law of their own, whose edges are always found.
    are_square = all(n == m for n, m in itertools.pairwise(widths))
    return theory.jacobian_law(
        activation,
        depth=len(q),
        q=q[::-1],
        sigma_w=turned[::-1],
        weights=drawn[0].weights,
        widths=None if are_square else widths[::-1],
    )


def _with_edges(law: Law) -> Law:
    """Return a law whose edges can be found, as they always can for equal widths."""
    try:
        _ = law.support
    except (ValueError, ArithmeticError) as error:
        raise NotDefined(
            f"the edges of the law of {law.name} could not be found for these widths. "
            f"{error} Make the hidden widths equal, or take the other span."
        ) from None
    return law
