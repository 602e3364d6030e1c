"""The law that a fully connected network's Jacobian should have, from its scheme, its widths and its inputs."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from isometry import _checks, theory
from isometry.activations import Activation
from isometry.networks._network import SPANS
from isometry.schemes import Drawn, Layer, Scheme


def mlp_law(activation: Activation, scheme: Scheme, plan: Sequence[Layer], sigma_b: float, span: str, xs: Any) -> Any:
    """What `Mlp.law` returns."""
    _checks.one_of("law", among=SPANS, span=span)
    if span == "hidden" and len(plan) < 3:
        raise _checks.InputError(
            f'law(): span="hidden" runs from z_1 to z_(depth-1) and needs depth 3; this network has {len(plan)}.'
        )
    drawn = [scheme.drawn(layer) for layer in plan]
    q = variances(activation, plan, drawn, sigma_b, xs)
    widths = [plan[0].fan_in, *(layer.fan_out for layer in plan)]
    weights = drawn[0].weights
    if span == "hidden":
        return _with_edges(_hidden(activation, plan[1:-1], drawn[1:-1], q[:-1], widths[1:-1]))
    if len(plan) == 1:  # one weight, no slope: as a pair with the identity
        return theory.jacobian_law("linear", 1, [1.0], [drawn[0].sigma_w], weights=weights, widths=widths)
    scales = [d.sigma_w for d in drawn]
    return _with_edges(
        theory.jacobian_law(activation, len(q), q, scales[:-1], weights=weights, widths=widths, head=scales[-1])
    )


def _with_edges(law: theory.Law) -> theory.Law:
    """The law, if its edges can be found, as they always are where widths are equal."""
    try:
        _ = law.support
    except (ValueError, ArithmeticError) as error:
        raise _checks.NotDefined(
            f"law(): the edges of the law of {law.name} could not be found for these widths. {error} Make the hidden "
            "widths equal, or take the other span."
        ) from None
    return law


def variances(
    activation: Activation, plan: Sequence[Layer], drawn: Sequence[Drawn], sigma_b: float, xs: Any
) -> list[float]:
    """q_1 … q_{depth−1}: of z_1 from the mean of |x|² over xs, of the others by the variance map at infinite width."""
    x = np.asarray(xs, float).reshape(len(xs), -1)
    gains = [d.gain(layer) for d, layer in zip(drawn, plan, strict=True)]
    q = [gains[0] ** 2 * float((x**2).mean()) + sigma_b**2]
    for gain in gains[1:-1]:
        q.append(theory.q_map(activation, q[-1], gain, sigma_b))
    return q[: len(plan) - 1]


def _hidden(activation: Activation, layers: Any, drawn: Any, q: list[float], widths: list[int]) -> Any:
    """W_{d−1} D_{d−2} … W_2 D_1 has its slopes on the right, so its law is that of the transpose, read from the end.

    There a Gaussian layer reads fan_out units, and its variance sigma_w²/fan_in is (sigma_w² fan_out/fan_in)/fan_out.
    """
    turned = [
        d.sigma_w * ((layer.fan_out / layer.fan_in) ** 0.5 if d.weights == "gaussian" else 1.0)
        for d, layer in zip(drawn, layers, strict=True)
    ]
    square = all(a == b for a, b in itertools.pairwise(widths))
    return theory.jacobian_law(
        activation, len(q), q[::-1], turned[::-1], weights=drawn[0].weights, widths=None if square else widths[::-1]
    )
