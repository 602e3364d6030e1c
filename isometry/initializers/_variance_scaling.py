"""Variance set by the fans as `jax.nn.initializers` draws it, bit for bit: normals cut at two standard deviations."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._fans import TWO_AXES, Axes, Layout, fans
from isometry.initializers._protocol import Initializer, arguments, flat, magnitude
from isometry.initializers._random import NORMAL_REACH, SPECTRUM

_FAN = {
    "fan_in": lambda n, m: n,
    "fan_out": lambda n, m: m,
    "fan_avg": lambda n, m: (n + m) / 2,
    "fan_geo_avg": lambda n, m: (n * m) ** 0.5,
}
# The standard deviation of a standard normal conditioned on (-2, 2), which the law divides out.
_STD_WITHIN_TWO = 0.87962566103423978
_REACH = {"truncated_normal": 2 / _STD_WITHIN_TWO, "normal": NORMAL_REACH, "uniform": math.sqrt(3.0)}
"""Of the distributions, in standard deviations."""

_LECUN = "LeCun et al. (1998), Efficient BackProp; jax.nn.initializers"
_GLOROT = "Glorot and Bengio (2010), AISTATS; jax.nn.initializers"
_HE = "He et al. (2015), arXiv:1502.01852; jax.nn.initializers"


def _draw_unit(key: Any, shape: tuple[int, ...], dtype: Any, distribution: str, variance: jax.Array) -> jax.Array:
    """Zero-mean entries of this variance. The order of operations is JAX's, so that the bits are."""
    if distribution == "truncated_normal":
        std = jnp.sqrt(variance) / jnp.asarray(_STD_WITHIN_TWO, dtype)
        return flat(lambda size: jax.random.truncated_normal(key, -2, 2, size, dtype), shape) * std
    if distribution == "normal":
        return flat(lambda size: jax.random.normal(key, size, dtype), shape) * jnp.sqrt(variance)
    return flat(lambda size: jax.random.uniform(key, size, dtype, -1), shape) * jnp.sqrt(3 * variance)


def _scaling(
    name: str, written: dict[str, Any], scale: float, mode: str, distribution: str, layout: Layout
) -> Initializer:
    """Entries of variance scale/fan, with fan chosen by mode."""

    def variance(shape):
        return scale / _FAN[mode](*fans(name, shape, *layout))

    def draw(key, shape, dtype):
        if 3 * magnitude(variance(shape)) > float(jnp.finfo(dtype).max):  # of which JAX draws the root
            raise _checks.InputError(
                f"{name}(): scale={scale} makes a variance of {variance(shape):g}, beyond a third of the largest "
                f"{jnp.dtype(dtype).name}; write a smaller scale or a wider dtype."
            )
        return _draw_unit(key, shape, dtype, distribution, jnp.asarray(variance(shape), dtype))

    def largest(shape):
        return _REACH[distribution] * math.sqrt(magnitude(variance(shape)))

    named = arguments(**written, **layout.changed())
    return Initializer(name, named, draw, least_axes=2, why=TWO_AXES, largest=largest)


@register(
    law="entries independent, mean 0, variance scale/fan; truncated_normal: |entry| ≤ 2.274 √(scale/fan); uniform: on "
    "±√(3 scale/fan); " + SPECTRUM,
    citation="jax.nn.initializers.variance_scaling",
    aliases=("jax variance_scaling", "Keras VarianceScaling"),
    needs=("scale", "mode", "distribution"),
    differs="Keras calls normal untruncated_normal",
)
def variance_scaling(
    scale: float,
    mode: str,
    distribution: str,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
) -> Initializer:
    """Entries of variance scale/fan: truncated normal, normal or uniform.

    - `mode`: "fan_in", "fan_out", "fan_avg" (their mean) or "fan_geo_avg" (their geometric mean).
    - `distribution`: "truncated_normal" (cut at two standard deviations of the parent law, then scaled up to the
      variance), "normal" or "uniform".

    Bit for bit `jax.nn.initializers.variance_scaling(scale, mode, distribution)` from the same key, in float32 and
    float64; bfloat16 and float16 are drawn in float32, where JAX draws in the type itself.

    fan_out counts the outputs of all groups, as in JAX; with `groups` those of one.

    **Raises** `ValueError`: negative scale, unknown mode or distribution; a shape of fewer than two axes; axes or
    groups that do not fit it.
    """
    _checks.number("variance_scaling", low=0.0, scale=scale)
    _checks.one_of("variance_scaling", among=_FAN, mode=mode)
    _checks.one_of("variance_scaling", among=_REACH, distribution=distribution)
    written = {"scale": scale, "mode": mode, "distribution": distribution}
    layout = Layout(in_axis, out_axis, batch_axis, groups)
    return _scaling("variance_scaling", written, scale, mode, distribution, layout)


@register(
    law="entries independent, uniform on ±√(6/(fan_in + fan_out)): mean 0, variance 2/(fan_in + fan_out); " + SPECTRUM,
    citation=_GLOROT,
    aliases=("jax glorot_uniform", "jax xavier_uniform", "Keras GlorotUniform"),
    differs="torch xavier_uniform_ is xavier_uniform(): the same law, other bits",
)
def glorot_uniform(*, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), groups: int = 1) -> Initializer:
    """Uniform entries of variance 2/(fan_in + fan_out), bit for bit JAX's.

    fan_out counts the outputs of all groups, as in JAX; with `groups` those of one.

    **Raises** `ValueError`: a shape of fewer than two axes; axes or groups that do not fit it.
    """
    return _scaling("glorot_uniform", {}, 1.0, "fan_avg", "uniform", Layout(in_axis, out_axis, batch_axis, groups))


@register(
    law="entries independent, normal cut at ±2 σ and rescaled: mean 0, variance 2/(fan_in + fan_out); " + SPECTRUM,
    citation=_GLOROT,
    aliases=("jax glorot_normal", "jax xavier_normal", "Keras GlorotNormal"),
    differs="torch xavier_normal_ is xavier_normal(): of the same variance, untruncated",
)
def glorot_normal(*, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), groups: int = 1) -> Initializer:
    """Truncated normal entries of variance 2/(fan_in + fan_out), bit for bit JAX's.

    torch's `xavier_normal_` is not truncated: `xavier_normal()`. fan_out counts the outputs of all groups, as in JAX;
    with `groups` those of one.

    **Raises** `ValueError`: a shape of fewer than two axes; axes or groups that do not fit it.
    """
    layout = Layout(in_axis, out_axis, batch_axis, groups)
    return _scaling("glorot_normal", {}, 1.0, "fan_avg", "truncated_normal", layout)


@register(
    law="entries independent, uniform on ±√(6/fan_in): mean 0, variance 2/fan_in; " + SPECTRUM,
    citation=_HE,
    aliases=("jax he_uniform", "jax kaiming_uniform", "Keras HeUniform"),
    differs="torch kaiming_uniform_ is kaiming_uniform(): the same law, other bits",
)
def he_uniform(*, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()) -> Initializer:
    """Uniform entries of variance 2/fan_in, bit for bit JAX's.

    **Raises** `ValueError`: a shape of fewer than two axes; axes that do not fit it.
    """
    return _scaling("he_uniform", {}, 2.0, "fan_in", "uniform", Layout(in_axis, out_axis, batch_axis))


@register(
    law="entries independent, normal cut at ±2 σ and rescaled: mean 0, variance 2/fan_in; " + SPECTRUM,
    citation=_HE,
    aliases=("jax he_normal", "jax kaiming_normal", "Keras HeNormal"),
    differs="torch kaiming_normal_ is kaiming_normal(): of the same variance, untruncated",
)
def he_normal(*, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()) -> Initializer:
    """Truncated normal entries of variance 2/fan_in, bit for bit JAX's.

    torch's `kaiming_normal_` is not truncated: `kaiming_normal()`.

    **Raises** `ValueError`: a shape of fewer than two axes; axes that do not fit it.
    """
    return _scaling("he_normal", {}, 2.0, "fan_in", "truncated_normal", Layout(in_axis, out_axis, batch_axis))


@register(
    law="entries independent, uniform on ±√(3/fan_in): mean 0, variance 1/fan_in; " + SPECTRUM,
    citation=_LECUN,
    aliases=("jax lecun_uniform", "Keras LecunUniform"),
)
def lecun_uniform(*, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()) -> Initializer:
    """Uniform entries of variance 1/fan_in, bit for bit JAX's.

    **Raises** `ValueError`: a shape of fewer than two axes; axes that do not fit it.
    """
    return _scaling("lecun_uniform", {}, 1.0, "fan_in", "uniform", Layout(in_axis, out_axis, batch_axis))


@register(
    law="entries independent, normal cut at ±2 σ and rescaled: mean 0, variance 1/fan_in; " + SPECTRUM,
    citation=_LECUN,
    aliases=("jax lecun_normal", "Keras LecunNormal"),
    differs='torch has no such name; untruncated it is kaiming_normal(nonlinearity="linear")',
)
def lecun_normal(*, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()) -> Initializer:
    """Truncated normal entries of variance 1/fan_in, bit for bit JAX's; the default of Flax.

    Untruncated it is `kaiming_normal(nonlinearity="linear")`. Haiku's default is not rescaled after the cut, which
    leaves it the variance 0.774/fan_in.

    **Raises** `ValueError`: a shape of fewer than two axes; axes that do not fit it.
    """
    return _scaling("lecun_normal", {}, 1.0, "fan_in", "truncated_normal", Layout(in_axis, out_axis, batch_axis))
