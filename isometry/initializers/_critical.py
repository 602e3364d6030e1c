"""Weights on the critical line: variance solved so that chi_1 = 1."""

import dataclasses

from isometry import activations, theory
from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import Axes, DTypeLike, Elementwise
from isometry.activations import Activation
from isometry.initializers._catalogue import register
from isometry.initializers._initializer import Initializer
from isometry.initializers._layout import Layout
from isometry.initializers._orthogonal import orthogonal_matrices
from isometry.initializers._scaled import scaled_normal


@register(
    law="gaussian: N(0, sigma_w²/fan_in); orthogonal: all singular values sigma_w; "
    "sigma_w solved for chi_1 = 1",
    citation="Schoenholz et al. (2017), arXiv:1611.01232; "
    "Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735",
    needs=("activation",),
)
@public("critical")
def critical(
    activation: str | Elementwise | Activation,
    q: float | None = None,
    sigma_b: float | None = None,
    weights: str = "gaussian",
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw Gaussian or orthogonal weights with sigma_w solved so that chi_1 = 1.

    At chi_1 = sigma_w² E phi'(√q z)² = 1 gradients neither grow nor vanish with depth
    (Schoenholz et al., 2017). Gaussian entries have variance sigma_w²/fan_in; all
    singular values of orthogonal weights are sigma_w.

    Cost: solved once, on the host, in about a second for a new activation.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        q: The fixed point of the variance map to be critical at. The biases must then
            have the sigma_b for which q is a fixed point.
        sigma_b: Standard deviation of the biases; 0 if neither it nor `q` is given.
        weights: "gaussian" or "orthogonal".
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
        groups: Number of groups (Flax's `feature_group_count`). Each takes an
            orthogonal matrix of its own; the fan_in of Gaussian weights is a group's
            already.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes.

    Raises:
        NoCriticalPoint: The activation has no critical point with this q or sigma_b;
            softplus has none at all.
        InputError: Both `q` and `sigma_b` are given, or one is not a finite,
            non-negative number; a name is not known; `layout` is not known, or given
            beside axes. When the initializer is called: the shape has fewer than two
            axes; axes or groups do not fit the shape.

    Example:
        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.critical("relu", in_axis=0, out_axis=(1, 2))
        >>> w = init(jax.random.key(0), (200, 4, 25))
        >>> round(float(200 * w.var()), 1)
        2.0
    """
    checks.one_of("weights", weights, ("gaussian", "orthogonal"))
    # Solved when the factory is called, on the host, so that what it returns can be
    # traced.
    sigma_w = critical_point(activation, q=q, sigma_b=sigma_b).sigma_w
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    arguments: dict[str, object] = {}
    if q is not None:
        arguments["q"] = q
    if sigma_b is not None:
        arguments["sigma_b"] = sigma_b
    arguments["weights"] = weights
    if weights == "orthogonal":
        init = orthogonal_matrices(
            "critical", sigma_w, axes, arguments=arguments, dtype=dtype
        )
    else:
        init = scaled_normal(
            "critical",
            lambda fan_in, fan_out: sigma_w * fan_in**-0.5,
            axes,
            arguments=arguments,
            dtype=dtype,
        )
    # In a repr the activation stands first, without its keyword, as it is written.
    name = activations.get(activation).name
    return dataclasses.replace(init, arguments=f"{name!r}, {init.arguments}")


def critical_point(
    activation: str | Elementwise | Activation,
    *,
    q: float | None = None,
    sigma_b: float | None = None,
) -> theory.CriticalPoint:
    """Return the point where chi_1 = 1, given the variance's fixed point q or sigma_b.

    sigma_b is 0 if neither is given. If several points have this sigma_b, it is the
    stable one with the smallest q, or the first of all if none is stable.

    Raises:
        InputError: Both are given, or one is not a finite, non-negative number.
        NoCriticalPoint: The activation has no such point.
    """
    if q is not None and sigma_b is not None:
        raise InputError(
            f"q={q} and sigma_b={sigma_b} are both given; each alone fixes the point."
        )
    phi = activations.get(activation)
    if q is not None:
        return theory.critical_at(phi, checks.number("q", q, low=0.0))
    if sigma_b is None:
        sigma_b = 0.0
    sigma_b = checks.number("sigma_b", sigma_b, low=0.0)
    points = theory.critical_points(phi, sigma_b)
    if not points:
        raise theory.NoCriticalPoint(
            f"{phi.name} has no critical point with sigma_b={sigma_b:g}: "
            f"{theory.sigma_b_range(phi)}. Give sigma_w and sigma_b yourself, or "
            "another activation."
        )
    # Iterating the variance map leaves an unstable fixed point, so a deep network is
    # never there. Without a stable one the first is the best there is.
    stable = [point for point in points if point.stable]
    return (stable or points)[0]
