"""Variance set by the fans as JAX draws it: normals cut at two standard deviations."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks, randomness
from isometry._internal.errors import InputError, public
from isometry._internal.types import Axes, DTypeLike, Key
from isometry.initializers._catalogue import SAME_BITS, register
from isometry.initializers._initializer import (
    Initializer,
    flat,
    format_arguments,
    magnitude,
)
from isometry.initializers._layout import Layout
from isometry.initializers._random import NORMAL_REACH, SPECTRUM

# JAX's four modes. Only the first two are a condition of theory each: fan_in keeps the
# variance of signals, fan_out that of gradients; the means are compromises (Glorot and
# Bengio, 2010, equation 12).
_FAN_OF_MODE: dict[str, Callable[[float, float], float]] = {
    "fan_in": lambda fan_in, fan_out: fan_in,
    "fan_out": lambda fan_in, fan_out: fan_out,
    "fan_avg": lambda fan_in, fan_out: (fan_in + fan_out) / 2,
    "fan_geo_avg": lambda fan_in, fan_out: (fan_in * fan_out) ** 0.5,
}

# The standard deviation of a standard normal conditioned on (-2, 2), as JAX writes it.
# The draw is divided by it, so that the variance is scale/fan after truncation too.
_STD_WITHIN_TWO = 0.87962566103423978

# How far the distributions reach, in standard deviations.
_REACH = {
    "truncated_normal": 2 / _STD_WITHIN_TWO,
    "normal": NORMAL_REACH,
    "uniform": math.sqrt(3.0),
}

_LECUN = "LeCun et al. (1998), Efficient BackProp; jax.nn.initializers"
_GLOROT = "Glorot and Bengio (2010), AISTATS; jax.nn.initializers"
_HE = "He et al. (2015), arXiv:1502.01852; jax.nn.initializers"


class _Scaling(NamedTuple):
    """The first three arguments of `variance_scaling`; the variance is scale/fan."""

    scale: float
    mode: str
    distribution: str


def _variance_scaled(
    name: str,
    scaling: _Scaling,
    layout: Layout,
    *,
    dtype: DTypeLike | None,
    arguments: dict[str, object] | None = None,
) -> Initializer:
    """Return an initializer of independent entries of variance scale/fan.

    Args:
        name: The name of the factory, for messages and the repr.
        scaling: The scale, the fan and the distribution.
        layout: The axes and groups.
        dtype: The dtype if a call names none.
        arguments: Further arguments of the factory, for the repr.
    """

    def variance_of(shape: tuple[int, ...]) -> float:
        fan = _FAN_OF_MODE[scaling.mode](*layout.fans(shape))
        return scaling.scale / fan

    def draw(key: Key, shape: tuple[int, ...], draw_dtype: np.dtype) -> Array:
        variance = variance_of(shape)
        # The bound of uniform entries is √(3·variance). As in JAX the product is
        # computed in the dtype, where it can be infinite though its root is not. The
        # limit is the same for all distributions.
        if 3 * magnitude(variance) > float(jnp.finfo(draw_dtype).max):
            raise InputError(
                f"scale={scaling.scale} makes a variance of {variance:g}, beyond a "
                f"third of the largest {draw_dtype.name}; write a smaller scale or a "
                "wider dtype."
            )
        # Rounded before the root is taken, as in JAX.
        variance_in_dtype = jnp.asarray(variance, draw_dtype)
        return _sample(key, shape, scaling.distribution, variance=variance_in_dtype)

    def largest(shape: tuple[int, ...]) -> float:
        return _REACH[scaling.distribution] * math.sqrt(magnitude(variance_of(shape)))

    return Initializer(
        name,
        format_arguments((arguments or {}) | layout.changed(), dtype),
        draw,
        largest=largest,
        dtype=dtype,
        layout=layout,
    )


def _sample(
    key: Key,
    shape: tuple[int, ...],
    distribution: str,
    *,
    variance: Float[Array, ""],
) -> Float[Array, "..."]:
    """Draw independent entries of mean 0 and this variance, in the dtype of `variance`.

    Args:
        key: A random key.
        shape: The shape of the result.
        distribution: One of `_REACH`.
        variance: The variance of the entries, after truncation.
    """
    dtype = variance.dtype
    # In JAX's order of operations, so that the bits are those of JAX too.
    if distribution == "truncated_normal":
        std = jnp.sqrt(variance) / jnp.asarray(_STD_WITHIN_TWO, dtype)
        unit = functools.partial(jax.random.truncated_normal, key, -2, 2, dtype=dtype)
        noise = flat(lambda size: unit(shape=size), shape)
        return noise * std
    if distribution == "normal":
        noise = randomness.normal(key, shape, dtype)
        return noise * jnp.sqrt(variance)
    # Uniform on (-1, 1) has variance 1/3.
    noise = flat(lambda size: jax.random.uniform(key, size, dtype, minval=-1), shape)
    return noise * jnp.sqrt(3 * variance)


@register(
    law="entries independent, mean 0, variance scale/fan; truncated_normal: "
    "|entry| ≤ 2.274 √(scale/fan); uniform: on ±√(3 scale/fan); " + SPECTRUM,
    citation="jax.nn.initializers.variance_scaling",
    aliases=("jax variance_scaling", "Keras VarianceScaling"),
    needs=("scale", "mode", "distribution"),
    differs="jax.nn.initializers.variance_scaling(...) is variance_scaling(...), "
    + SAME_BITS
    + ". Keras calls normal untruncated_normal",
)
@public("variance_scaling")
def variance_scaling(
    scale: float,
    mode: str,
    distribution: str,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw entries of variance scale/fan: truncated normal, normal or uniform.

    Bit for bit `jax.nn.initializers.variance_scaling` from the same key, in float32 and
    float64. bfloat16 and float16 are the float32 draw, rounded once, where JAX draws in
    the type itself. From 0.12 on JAX multiplies normal entries in another order, so
    they differ by up to two eps. A shape of one axis or none needs axes that fit it,
    such as `in_axis=0, out_axis=()`, as in JAX.

    Args:
        scale: fan times the variance. Finite and non-negative.
        mode: The fan: "fan_in", "fan_out", "fan_avg" (their mean) or "fan_geo_avg"
            (their geometric mean).
        distribution: "truncated_normal" (cut at two standard deviations of the parent
            law, then scaled up to the variance), "normal" or "uniform".
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
            They do not count towards the fans.
        groups: Number of groups (Flax's `feature_group_count`). fan_out is that of one
            group; with 1 it counts the outputs of all groups, as JAX does.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes; of vectors too, if `in_axis`
        and `out_axis` name their axis.

    Raises:
        InputError: `scale` is negative; `mode` or `distribution` is not known; `layout`
            is not known, or given beside axes. When the initializer is called: axes or
            groups do not fit the shape.

    Example:
        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.variance_scaling(2.0, "fan_in", "normal")
        >>> w = init(jax.random.key(0), (200, 100))
        >>> round(float(200 * w.var()), 1)
        2.0

        A kernel of (d, heads, head_dim) has d inputs and heads·head_dim outputs:

        >>> init = initializers.variance_scaling(
        ...     2.0, "fan_in", "normal", in_axis=0, out_axis=(1, 2)
        ... )
        >>> w = init(jax.random.key(0), (200, 4, 25))
        >>> round(float(200 * w.var()), 1)
        2.0
    """
    scale = checks.number("scale", scale, low=0.0)
    checks.one_of("mode", mode, _FAN_OF_MODE)
    checks.one_of("distribution", distribution, _REACH)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    scaling = _Scaling(scale, mode, distribution)
    return _variance_scaled(
        "variance_scaling", scaling, axes, dtype=dtype, arguments=scaling._asdict()
    )


@register(
    law="entries independent, uniform on ±√(6/(fan_in + fan_out)): mean 0, variance "
    "2/(fan_in + fan_out); " + SPECTRUM,
    citation=_GLOROT,
    aliases=("jax glorot_uniform", "jax xavier_uniform", "Keras GlorotUniform"),
    differs="jax.nn.initializers.glorot_uniform() is glorot_uniform(), "
    + SAME_BITS
    + ". torch xavier_uniform_ is xavier_uniform(): the same distribution, other "
    "samples from the same key",
)
@public("glorot_uniform")
def glorot_uniform(
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw uniform entries of variance 2/(fan_in + fan_out).

    The interval is that of Glorot and Bengio (2010, equation 16). torch's
    `xavier_uniform_` is `xavier_uniform` here: the same distribution, other samples
    from the same key.

    Bit for bit `jax.nn.initializers.glorot_uniform` from the same key, in float32 and
    float64; bfloat16 and float16 are the float32 draw, rounded once.

    Args:
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
            They do not count towards the fans.
        groups: Number of groups (Flax's `feature_group_count`). fan_out is that of one
            group; with 1 it counts the outputs of all groups, as JAX does.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes; of vectors too, if `in_axis`
        and `out_axis` name their axis.

    Raises:
        InputError: `layout` is not known, or given beside axes. When the initializer is
            called: axes or groups do not fit the shape.

    Example:
        A kernel of (d, heads, head_dim) has d inputs and heads·head_dim outputs:

        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.glorot_uniform(in_axis=0, out_axis=(1, 2))
        >>> w = init(jax.random.key(0), (200, 4, 25))
        >>> round(float((200 + 100) * w.var()), 1)
        2.0
    """
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    scaling = _Scaling(scale=1.0, mode="fan_avg", distribution="uniform")
    return _variance_scaled("glorot_uniform", scaling, axes, dtype=dtype)


@register(
    law="entries independent, normal cut at ±2 σ and rescaled: mean 0, variance "
    "2/(fan_in + fan_out); " + SPECTRUM,
    citation=_GLOROT,
    aliases=("jax glorot_normal", "jax xavier_normal", "Keras GlorotNormal"),
    differs="jax.nn.initializers.glorot_normal() is glorot_normal(), "
    + SAME_BITS
    + ". torch xavier_normal_ is xavier_normal(): of the same variance, "
    "untruncated",
)
@public("glorot_normal")
def glorot_normal(
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw truncated normal entries of variance 2/(fan_in + fan_out).

    The variance, after truncation, is that of Glorot and Bengio (2010, equation 12).
    torch's `xavier_normal_`, which is not truncated, is `xavier_normal` here.

    Bit for bit `jax.nn.initializers.glorot_normal` from the same key, in float32 and
    float64; bfloat16 and float16 are the float32 draw, rounded once.

    Args:
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
            They do not count towards the fans.
        groups: Number of groups (Flax's `feature_group_count`). fan_out is that of one
            group; with 1 it counts the outputs of all groups, as JAX does.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes; of vectors too, if `in_axis`
        and `out_axis` name their axis.

    Raises:
        InputError: `layout` is not known, or given beside axes. When the initializer is
            called: axes or groups do not fit the shape.

    Example:
        A kernel of (d, heads, head_dim) has d inputs and heads·head_dim outputs:

        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.glorot_normal(in_axis=0, out_axis=(1, 2))
        >>> w = init(jax.random.key(0), (200, 4, 25))
        >>> round(float((200 + 100) * w.var()), 1)
        2.0
    """
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    scaling = _Scaling(scale=1.0, mode="fan_avg", distribution="truncated_normal")
    return _variance_scaled("glorot_normal", scaling, axes, dtype=dtype)


@register(
    law="entries independent, uniform on ±√(6/fan_in): mean 0, variance 2/fan_in; "
    + SPECTRUM,
    citation=_HE,
    aliases=("jax he_uniform", "jax kaiming_uniform", "Keras HeUniform"),
    differs="jax.nn.initializers.he_uniform() is he_uniform(), "
    + SAME_BITS
    + ". torch kaiming_uniform_ is kaiming_uniform(): the same distribution, other "
    "samples from the same key",
)
@public("he_uniform")
def he_uniform(
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw uniform entries of variance 2/fan_in.

    The variance is that of He et al. (2015, equation 10). torch's `kaiming_uniform_` is
    `kaiming_uniform` here: the same distribution, other samples from the same key.

    Bit for bit `jax.nn.initializers.he_uniform` from the same key, in float32 and
    float64; bfloat16 and float16 are the float32 draw, rounded once.

    Args:
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
            They do not count towards the fans.
        groups: Number of groups (Flax's `feature_group_count`), a divisor of the number
            of outputs. It does not change fan_in: the weight of a grouped layer stores
            the in/groups inputs of one group.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes; of vectors too, if `in_axis`
        and `out_axis` name their axis.

    Raises:
        InputError: `layout` is not known, or given beside axes. When the initializer is
            called: axes or groups do not fit the shape.

    Example:
        A kernel of (d, heads, head_dim) has d inputs and heads·head_dim outputs:

        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.he_uniform(in_axis=0, out_axis=(1, 2))
        >>> w = init(jax.random.key(0), (200, 4, 25))
        >>> round(float(200 * w.var()), 1)
        2.0
    """
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    scaling = _Scaling(scale=2.0, mode="fan_in", distribution="uniform")
    return _variance_scaled("he_uniform", scaling, axes, dtype=dtype)


@register(
    law="entries independent, normal cut at ±2 σ and rescaled: mean 0, variance "
    "2/fan_in; " + SPECTRUM,
    citation=_HE,
    aliases=("jax he_normal", "jax kaiming_normal", "Keras HeNormal"),
    differs="jax.nn.initializers.he_normal() is he_normal(), "
    + SAME_BITS
    + ". torch kaiming_normal_ is kaiming_normal(): of the same variance, "
    "untruncated",
)
@public("he_normal")
def he_normal(
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw truncated normal entries of variance 2/fan_in.

    The variance, after truncation, is that of He et al. (2015, equation 10). torch's
    `kaiming_normal_`, which is not truncated, is `kaiming_normal` here.

    Bit for bit `jax.nn.initializers.he_normal` from the same key, in float32 and
    float64; bfloat16 and float16 are the float32 draw, rounded once.

    Args:
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
            They do not count towards the fans.
        groups: Number of groups (Flax's `feature_group_count`), a divisor of the number
            of outputs. It does not change fan_in: the weight of a grouped layer stores
            the in/groups inputs of one group.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes; of vectors too, if `in_axis`
        and `out_axis` name their axis.

    Raises:
        InputError: `layout` is not known, or given beside axes. When the initializer is
            called: axes or groups do not fit the shape.

    Example:
        A kernel of (d, heads, head_dim) has d inputs and heads·head_dim outputs:

        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.he_normal(in_axis=0, out_axis=(1, 2))
        >>> w = init(jax.random.key(0), (200, 4, 25))
        >>> round(float(200 * w.var()), 1)
        2.0
    """
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    scaling = _Scaling(scale=2.0, mode="fan_in", distribution="truncated_normal")
    return _variance_scaled("he_normal", scaling, axes, dtype=dtype)


@register(
    law="entries independent, uniform on ±√(3/fan_in): mean 0, variance 1/fan_in; "
    + SPECTRUM,
    citation=_LECUN,
    aliases=("jax lecun_uniform", "Keras LecunUniform"),
    differs="jax.nn.initializers.lecun_uniform() is lecun_uniform(), " + SAME_BITS,
)
@public("lecun_uniform")
def lecun_uniform(
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw uniform entries of variance 1/fan_in.

    The variance is that of LeCun et al. (1998, section 4.6).

    Bit for bit `jax.nn.initializers.lecun_uniform` from the same key, in float32 and
    float64; bfloat16 and float16 are the float32 draw, rounded once.

    Args:
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
            They do not count towards the fans.
        groups: Number of groups (Flax's `feature_group_count`), a divisor of the number
            of outputs. It does not change fan_in: the weight of a grouped layer stores
            the in/groups inputs of one group.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes; of vectors too, if `in_axis`
        and `out_axis` name their axis.

    Raises:
        InputError: `layout` is not known, or given beside axes. When the initializer is
            called: axes or groups do not fit the shape.

    Example:
        A kernel of (d, heads, head_dim) has d inputs and heads·head_dim outputs:

        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.lecun_uniform(in_axis=0, out_axis=(1, 2))
        >>> w = init(jax.random.key(0), (200, 4, 25))
        >>> round(float(200 * w.var()), 1)
        1.0
    """
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    scaling = _Scaling(scale=1.0, mode="fan_in", distribution="uniform")
    return _variance_scaled("lecun_uniform", scaling, axes, dtype=dtype)


@register(
    law="entries independent, normal cut at ±2 σ and rescaled: mean 0, variance "
    "1/fan_in; " + SPECTRUM,
    citation=_LECUN,
    aliases=("jax lecun_normal", "Keras LecunNormal"),
    differs="jax.nn.initializers.lecun_normal() is lecun_normal(), "
    + SAME_BITS
    + ". torch has no such name; untruncated it is "
    'kaiming_normal(nonlinearity="linear")',
)
@public("lecun_normal")
def lecun_normal(
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw truncated normal entries of variance 1/fan_in; the default of Flax.

    The variance, after truncation, is that of LeCun et al. (1998, section 4.6).
    `kaiming_normal(nonlinearity="linear")` has it without truncation. Haiku's default
    is truncated without rescaling, which leaves a variance of 0.774/fan_in.

    Bit for bit `jax.nn.initializers.lecun_normal` from the same key, in float32 and
    float64; bfloat16 and float16 are the float32 draw, rounded once.

    Args:
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
            They do not count towards the fans.
        groups: Number of groups (Flax's `feature_group_count`), a divisor of the number
            of outputs. It does not change fan_in: the weight of a grouped layer stores
            the in/groups inputs of one group.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes; of vectors too, if `in_axis`
        and `out_axis` name their axis.

    Raises:
        InputError: `layout` is not known, or given beside axes. When the initializer is
            called: axes or groups do not fit the shape.

    Example:
        A kernel of (d, heads, head_dim) has d inputs and heads·head_dim outputs:

        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.lecun_normal(in_axis=0, out_axis=(1, 2))
        >>> w = init(jax.random.key(0), (200, 4, 25))
        >>> round(float(200 * w.var()), 1)
        1.0
    """
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    scaling = _Scaling(scale=1.0, mode="fan_in", distribution="truncated_normal")
    return _variance_scaled("lecun_normal", scaling, axes, dtype=dtype)
