"""Independent entries with a stated mean and scale."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._protocol import Initializer, arguments, flat, magnitude

SPECTRUM = "singular values Marchenko–Pastur, between σ|√m − √n| and σ(√m + √n) for large m × n"
NORMAL_REACH = 6.0
"""In standard deviations, beyond what float32 draws, 5.4."""


@register(
    law="entries independent, uniform on [low, high): mean (low + high)/2, variance σ² = (high − low)²/12; "
    "if the mean is 0, " + SPECTRUM,
    citation="torch.nn.init.uniform_",
    aliases=("torch uniform_", "Keras RandomUniform"),
    differs="jax.nn.initializers.uniform(s) is uniform(low=0, high=s)",
)
def uniform(*, low: float = 0.0, high: float = 1.0) -> Initializer:
    """Independent entries, uniform on [low, high).

    As in torch and JAX, rounding to the dtype can return `high` itself where the bounds are coarse in it.

    Keyword-only: `jax.nn.initializers.uniform(s)` is `uniform(low=0, high=s)`, bit for bit from the same key (JAX's
    default is s = 0.01, torch's interval is [0, 1)).

    **Raises** `ValueError`: bounds not finite or upside down, or that overflow the dtype or cannot be told apart in the
    one they are drawn in, which is float32 for a coarser one.
    """
    _checks.finite("uniform", low=low, high=high)
    if not _checks.is_traced((low, high)) and low >= high:
        raise _checks.InputError(
            f"uniform(): low={low} is not below high={high}; exchange them, or write constant({low})."
        )

    def draw(key, shape, dtype):
        _check_interval(low, high, dtype)
        return flat(lambda size: jax.random.uniform(key, size, dtype, minval=low, maxval=high), shape)

    largest = max(magnitude(low), magnitude(high))
    return Initializer("uniform", arguments(low=low, high=high), draw, largest=lambda shape: largest)


def _check_interval(low: Any, high: Any, dtype: Any) -> None:
    """What is drawn is low + (high - low) u in this dtype: the width must be a number in it, and not lost."""
    if _checks.is_traced((low, high)):
        return
    name, greatest = jnp.dtype(dtype).name, float(jnp.finfo(dtype).max)
    if max(-float(low), float(high), float(high) - float(low)) > greatest:
        raise _checks.InputError(
            f"uniform(): low={low}, high={high} are further apart than the largest {name}, {greatest:g}; write bounds "
            "nearer to 0."
        )
    if np.asarray(low, dtype) == np.asarray(high, dtype):
        raise _checks.InputError(
            f"uniform(): low={low} and high={high} are the same {name}; write bounds further apart, or constant({low})."
        )


@register(
    law="entries independent N(mean, std²); if the mean is 0, " + SPECTRUM,
    citation="torch.nn.init.normal_",
    aliases=("torch normal_", "Keras RandomNormal"),
    differs="jax.nn.initializers.normal(s) is normal(std=s)",
)
def normal(*, mean: float = 0.0, std: float = 1.0) -> Initializer:
    """Independent Gaussian entries N(mean, std²).

    `mean` and `std` are keyword-only: `jax.nn.initializers.normal(s)` is `normal(std=s)`, bit for bit from the same key
    (JAX's default is s = 0.01, torch's std is 1).

    **Raises** `ValueError`: mean not finite, std negative or not finite; six std from the mean overflow the dtype.
    """
    _checks.number("normal", mean=mean)
    _checks.number("normal", low=0.0, std=std)

    def draw(key, shape, dtype):
        return _shifted(flat(lambda size: jax.random.normal(key, size, dtype), shape) * jnp.asarray(std, dtype), mean)

    largest = magnitude(mean) + NORMAL_REACH * magnitude(std)
    return Initializer("normal", arguments(mean=mean, std=std), draw, largest=lambda shape: largest)


def _shifted(noise: jax.Array, mean: Any) -> jax.Array:
    """`noise` about `mean`; about 0 untouched, bits and all."""
    return noise if isinstance(mean, (int, float)) and mean == 0 else noise + jnp.asarray(mean, noise.dtype)


# A draw is √2 erfinv(u), u uniform between the erf(x/√2) of the bounds x. From 5.3 (float32) and 8.4 (float64) on these
# round to 1 and erfinv is infinite: jax.random.truncated_normal then returns the bound itself, which for ±100 std is a
# weight of -100 in 2^23. Bounds therefore count only up to `_REACH`, beyond which lie 2e-7 and 2e-16 of the mass.
_REACH = {"float32": 5.2, "float64": 8.2}
_LEAST_VALUES = 4096  # these, and what lies beyond the reach, put the law right to 1e-3


def _values_between(a: float, b: float, dtype: Any) -> float:
    """How many values u takes between standard bounds a and b; XLA makes zeros of subnormal ones."""
    u = [math.erf(x / math.sqrt(2)) for x in (a, b)]
    spacing = max(float(np.spacing(np.asarray(max(map(abs, u)), dtype))), float(jnp.finfo(dtype).tiny))
    return (u[1] - u[0]) / spacing


def _within(x: Any, dtype: Any) -> jax.Array:
    """x, or the number of this dtype that is nearest to it."""
    greatest = float(jnp.finfo(dtype).max)
    return jnp.asarray(x if _checks.is_traced(x) else min(max(x, -greatest), greatest), dtype)


def _check_resolved(mean, std, lower, upper, dtype) -> None:
    name = jnp.dtype(dtype).name
    a, b = (min(max((x - mean) / std, -_REACH[name]), _REACH[name]) for x in (lower, upper))
    if _values_between(a, b, dtype) < _LEAST_VALUES:
        raise _checks.InputError(
            f"truncated_normal(): lower={lower}, upper={upper} leave so little of N({mean}, {std}²) that {name} "
            f"resolves fewer than {_LEAST_VALUES} values of it. Bring the nearer bound to within "
            f"{3.6 if name == 'float32' else 7.2} std of the mean, or, if the interval is narrow, write "
            f"uniform(low={lower}, high={upper})."
        )


@register(
    law="entries independent, N(mean, std²) conditioned on [lower, upper]: with a, b the bounds in standard units and "
    "Z = Φ(b) − Φ(a) the mean is mean + std (φ(a) − φ(b))/Z and the variance "
    "std² (1 + (a φ(a) − b φ(b))/Z − ((φ(a) − φ(b))/Z)²), 0.774 by default; if the mean is 0, " + SPECTRUM,
    citation="torch.nn.init.trunc_normal_",
    aliases=("torch trunc_normal_",),
    differs="jax.nn.initializers.truncated_normal(s, lower=l, upper=u) has its bounds in units of s: it is "
    "truncated_normal(std=s, lower=l*s, upper=u*s). Keras TruncatedNormal(mean=c, stddev=s) is "
    "truncated_normal(mean=c, std=s, lower=c - 2*s, upper=c + 2*s)",
)
def truncated_normal(*, mean: float = 0.0, std: float = 1.0, lower: float = -2.0, upper: float = 2.0) -> Initializer:
    """Independent Gaussian entries N(mean, std²) conditioned on lying in [lower, upper].

    The bounds are absolute, as in torch, and `mean` and `std` are those of the law before truncation:
    `truncated_normal(std=0.02)` cuts at 100 std, that is not at all. JAX's bounds are in units of std:
    `jax.nn.initializers.truncated_normal(s)` is `truncated_normal(std=s, lower=-2*s, upper=2*s)`, bit for bit from the
    same key (other bounds: but for the rounding of the product).

    Precision: entries lie within the bounds rounded to the dtype. float32 (and what is drawn in it) reaches 5.2 std,
    float64 8.2; bounds further out count as if there, where JAX's sampler returns the bound itself once in 2^23 draws.

    **Raises** `ValueError`: std not positive; bounds not finite or upside down; bounds that leave so little of the law
    that it cannot be drawn to 1e-3 (in cumulative probability): the nearer bound more than 3.6 std from the mean in
    float32, 7.2 in float64, or an interval in which the dtype has fewer than 4096 values.
    """
    _checks.number("truncated_normal", mean=mean, lower=lower, upper=upper)
    _checks.number("truncated_normal", low=0.0, open_low=True, std=std)
    traced = _checks.is_traced((mean, std, lower, upper))
    if not _checks.is_traced((lower, upper)) and lower >= upper:
        raise _checks.InputError(f"truncated_normal(): lower={lower} is not below upper={upper}; exchange them.")

    def draw(key, shape, dtype):
        if not traced:
            _check_resolved(mean, std, lower, upper, dtype)
        reach = _REACH[jnp.dtype(dtype).name]
        a, b = (jnp.clip(_within((x - mean) / std, dtype), -reach, reach) for x in (lower, upper))
        noise = _shifted(jax.random.truncated_normal(key, a, b, shape, dtype) * jnp.asarray(std, dtype), mean)
        return jnp.clip(noise, _within(lower, dtype), _within(upper, dtype))

    largest = min(max(magnitude(lower), magnitude(upper)), magnitude(mean) + max(_REACH.values()) * magnitude(std))
    written = arguments(mean=mean, std=std, lower=lower, upper=upper)
    return Initializer("truncated_normal", written, draw, largest=lambda shape: 0.0 if traced else largest)
