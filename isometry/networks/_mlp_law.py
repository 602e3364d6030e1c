"""The law of an MLP's Jacobian, from its scheme, its widths and its inputs."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from isometry import theory
from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined
from isometry.activations import Activation
from isometry.networks._network import SPANS, Phase
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
    """Return the law of the singular values of an MLP, for `Mlp.law`.

    Args:
        activation: The activation of the hidden layers.
        scheme: The scheme that draws the weights.
        plan: The layers, first to last.
        sigma_b: The standard deviation of the biases.
        span: "hidden" or "end_to_end".
        xs: Inputs of shape (examples, n_in).

    Raises:
        InputError: "hidden" with fewer than three layers.
        NotDefined: The scheme has no law, or the edges of the law cannot be found;
            pre-activations are zero at a kink.
    """
    checks.one_of("span", span, SPANS)
    # The law is that of a product of pairs W D. Below depth 3 there is no weight layer
    # between z_1 and z_(depth-1), and so no pair.
    if span == "hidden" and len(plan) < 3:
        raise InputError(
            'span="hidden" runs from z_1 to z_(depth-1) and needs depth 3; this '
            f"network has {len(plan)}."
        )
    drawn = [scheme.drawn(layer) for layer in plan]
    q = variances(activation, plan, drawn, sigma_b=sigma_b, xs=xs)
    # Its slope there is that of autodiff, 0 for ReLU, and not the limit ½ of small
    # values that a law has.
    if 0 in q and 0 in activation.kinks:
        raise NotDefined(
            f"pre-activations are zero, where {activation.name} has a kink; write "
            "inputs that are not zero, or sigma_b."
        )
    widths = [plan[0].fan_in, *(layer.fan_out for layer in plan)]
    weights = drawn[0].weights
    if span == "hidden":
        # The span begins behind the stem and ends in front of the last activation and
        # the head. So these two layers and the last variance are left out.
        hidden = _hidden(
            activation,
            plan[1:-1],
            drawn[1:-1],
            q=q[:-1],
            widths=widths[1:-1],
        )
        return _with_edges(hidden)
    scales = [of_layer.sigma_w for of_layer in drawn]
    # A single layer has no activation. As a pair W D, its D is the identity, which is
    # the derivative of "linear".
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
    """Return the variances of z_1, ..., z_(depth-1) at infinite width.

    The first follows from the mean of |x|² over xs, the others from the variance map.

    Args:
        activation: The activation of the hidden layers.
        plan: The layers, first to last.
        drawn: The distribution of the weights of each layer.
        sigma_b: The standard deviation of the biases.
        xs: Inputs of shape (examples, n_in).
    """
    # In float64 on the host, because theory computes there.
    x = np.asarray(xs, float)
    gains = [of_layer.gain(layer) for of_layer, layer in zip(drawn, plan, strict=True)]
    q = [gains[0] ** 2 * float((x**2).mean()) + sigma_b**2]
    for gain in gains[1:-1]:
        q.append(theory.q_map(activation, q[-1], gain, sigma_b=sigma_b))
    # A single layer has no hidden units, so the variance of its outputs is left out.
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

    `jacobian_law` is for products of D W, and here every derivative D stands to the
    right of its W. The transpose of the product has the wanted form and the same
    singular values, so all sequences are passed in reverse order.
    """
    transposed = []
    for of_layer, layer in zip(drawn, layers, strict=True):
        scale = of_layer.sigma_w
        # Transposed, a Gaussian layer sums over fan_out units. Its variance
        # sigma_w²/fan_in is (sigma_w² fan_out/fan_in)/fan_out.
        if of_layer.weights == "gaussian":
            scale *= (layer.fan_out / layer.fan_in) ** 0.5
        transposed.append(scale)
    # With widths=None theory takes all layers to be square: a law whose edges it can
    # always find.
    are_square = all(n == m for n, m in itertools.pairwise(widths))
    return theory.jacobian_law(
        activation,
        depth=len(q),
        q=q[::-1],
        sigma_w=transposed[::-1],
        weights=drawn[0].weights,
        widths=None if are_square else widths[::-1],
    )


def _with_edges(law: Law) -> Law:
    """Return a law as it is; refuse a law whose edges cannot be found.

    Raises:
        NotDefined: They cannot, as is the case for some widths.
    """
    try:
        _ = law.support
    except (ValueError, ArithmeticError) as error:
        raise NotDefined(
            f"the edges of the law of {law.name} could not be found for these widths. "
            f"{error} Make the hidden widths equal, or take the other span."
        ) from None
    return law


def phase(
    activation: Activation,
    scheme: Scheme,
    plan: Sequence[Layer],
    *,
    sigma_b: float,
) -> Phase | None:
    """Return theory's phase of an MLP, for `Mlp.phase`.

    None where the law of the weights is not known, where the variance has no map, or
    where layers keep it by different factors: orthogonal weights between unequal widths
    do, and then there is no single chi_1.
    """
    layers = plan[1:-1] or plan
    try:
        gains = [scheme.drawn(layer).gain(layer) for layer in layers]
        # Equal but for the rounding of a ratio of widths.
        if not 0 < max(gains) <= min(gains) * (1 + 1e-12):
            return None
        found = theory.phase_diagram(activation, gains[0], sigma_b)
    # Another ensemble, or an activation that jumps.
    except InputError:
        return None
    chi_1 = float(found.chi[0, 0])
    if not 0 < chi_1 < math.inf:
        return None
    return Phase(
        str(found.phase[0, 0]),
        chi_1,
        float(found.q[0, 0]),
        sigma_w=float(gains[0]),
        sigma_b=sigma_b,
    )
