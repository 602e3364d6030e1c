"""Weights on the critical line: variance solved so that chi_1 = 1."""

from typing import Any

from isometry import _checks, activations, theory
from isometry.initializers._catalogue import register
from isometry.initializers._fans import TWO_AXES, Axes, Layout, fans
from isometry.initializers._orthogonal import orthogonal
from isometry.initializers._protocol import Initializer, arguments, magnitude
from isometry.initializers._random import NORMAL_REACH, normal


def critical_point(call: str, activation: Any, q: float | None, sigma_b: float | None) -> theory.CriticalPoint:
    """The critical point with fixed point q, or the one with this sigma_b (0 if neither is given).

    Of several, the stable one of smallest q: an unstable fixed point is never reached.

    **Raises** `NoCriticalPoint`: none exists. `ValueError`: both q and sigma_b given.
    """
    if q is not None and sigma_b is not None:
        raise _checks.InputError(f"{call}(): q={q} and sigma_b={sigma_b} are both given; each alone fixes the point.")
    for name, value in (("q", q), ("sigma_b", sigma_b)):
        if value is not None:
            _checks.number(call, low=0.0, **{name: value})  # pyright: ignore[reportArgumentType]
    with _checks.named(call):
        phi = activations.get(activation)
    if q is not None:
        return theory.critical_at(phi, q)
    wanted = 0.0 if sigma_b is None else sigma_b
    points = theory.critical_points(phi, wanted)
    if not points:
        raise theory.NoCriticalPoint(
            f"{call}(): {phi.name} has no critical point with sigma_b={wanted:g}: {theory.sigma_b_range(phi)}. Give "
            "sigma_w and sigma_b yourself, or another activation."
        )
    return next((p for p in points if p.stable), points[0])


@register(
    law="gaussian: N(0, sigma_w²/fan_in); orthogonal: all singular values sigma_w; sigma_w solved for chi_1 = 1",
    citation="Schoenholz et al. (2017), arXiv:1611.01232; Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735",
    needs=("activation",),
)
def critical(
    activation: Any,
    q: float | None = None,
    sigma_b: float | None = None,
    weights: str = "gaussian",
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
) -> Initializer:
    """Gaussian or orthogonal weights with sigma_w solved so that chi_1 = 1 for this activation.

    **Arguments**
    - `activation`: a name, a callable or an `Activation`.
    - `q`: the fixed point of the variance map to be critical at; the biases must then have the matching sigma_b.
    - `sigma_b`: standard deviation of the biases; 0 if neither is given.
    - `weights`: "gaussian" or "orthogonal".

    **Raises** `NoCriticalPoint` (a `ValueError`): none exists (softplus). `ValueError`: both q and sigma_b given,
    unknown names, a shape of fewer than two axes. Solved once, on the host: about a second for a new activation.
    """
    _checks.one_of("critical", among=("gaussian", "orthogonal"), weights=weights)
    sigma_w = critical_point("critical", activation, q, sigma_b).sigma_w
    turned = orthogonal(sigma_w, in_axis=in_axis, out_axis=out_axis, batch_axis=batch_axis)

    def draw(key, shape, dtype):
        if weights == "orthogonal":
            return turned.draw(key, shape, dtype)
        fan_in, _ = fans("critical", shape, in_axis, out_axis, batch_axis)
        return normal(std=sigma_w * fan_in**-0.5).draw(key, shape, dtype)

    def largest(shape):
        if weights == "orthogonal":
            return turned.largest(shape)
        return NORMAL_REACH * magnitude(sigma_w * fans("critical", shape, in_axis, out_axis, batch_axis)[0] ** -0.5)

    point = {name: value for name, value in (("q", q), ("sigma_b", sigma_b)) if value is not None}
    layout = Layout(in_axis, out_axis, batch_axis).changed()
    written = f"{activations.get(activation).name!r}, {arguments(**point, weights=weights, **layout)}"
    return Initializer("critical", written, draw, least_axes=2, why=TWO_AXES, largest=largest)
