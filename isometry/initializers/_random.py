"""Independent entries with a stated mean and scale."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks, randomness
from isometry._internal.errors import InputError, public
from isometry._internal.types import DTypeLike, Key
from isometry.initializers._catalogue import SAME_BITS, register
from isometry.initializers._initializer import (
    Initializer,
    flat,
    for_any_shape,
    format_arguments,
    magnitude,
)

# True of any entries that are independent, of mean 0 and of variance σ² (Marchenko and
# Pastur, 1967).
SPECTRUM = (
    "singular values Marchenko–Pastur, between σ|√m − √n| and σ(√m + √n) "
    "for large m × n"
)

# How far Gaussian entries reach, in standard deviations: float32 draws up to 5.4. A
# larger number would refuse scales that never overflow, a smaller one would draw
# infinities.
NORMAL_REACH = 6.0


@register(
    law="entries independent, uniform on [low, high): mean (low + high)/2, variance "
    "σ² = (high − low)²/12; if the mean is 0, " + SPECTRUM,
    citation="torch.nn.init.uniform_",
    aliases=("torch uniform_", "Keras RandomUniform"),
    differs="jax.nn.initializers.uniform(s) is uniform(low=0, high=s), " + SAME_BITS,
)
@public("uniform")
def uniform(
    *, low: float = 0.0, high: float = 1.0, dtype: DTypeLike | None = None
) -> Initializer:
    """Draw independent entries, uniform on [low, high).

    As in torch and JAX, rounding can return `high` itself, where the dtype has few
    values between the bounds.

    `jax.nn.initializers.uniform(s)` is `uniform(low=0, high=s)`, bit for bit from the
    same key in float32 and float64; bfloat16 and float16 are the float32 draw, rounded
    once. JAX's default is s = 0.01, torch's is [0, 1).

    Args:
        low: Lower bound. A finite number.
        high: Upper bound, above `low`. A finite number.
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer for any shape.

    Raises:
        InputError: A bound is not finite, or `low` is not below `high`; a bound
            overflows the dtype, or both round to the same number (of float32 where the
            dtype is bfloat16 or float16).

    Example:
        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.uniform(low=-1.0, high=1.0)
        >>> w = init(jax.random.key(0), (1000,))
        >>> bool(w.min() >= -1), bool(w.max() <= 1)
        (True, True)
    """
    low = checks.number("low", low)
    high = checks.number("high", high)
    if not checks.is_traced((low, high)) and low >= high:
        raise InputError(
            f"low={low} is not below high={high}; exchange them, or write "
            f"constant({low}) if they are equal."
        )

    def draw(key: Key, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        return sample_uniform(key, shape, dtype, low=low, high=high)

    return Initializer(
        "uniform",
        format_arguments({"low": low, "high": high}, dtype),
        draw,
        largest=for_any_shape(max(magnitude(low), magnitude(high))),
        dtype=dtype,
    )


def sample_uniform(
    key: Key, shape: tuple[int, ...], dtype: np.dtype, *, low: float, high: float
) -> Float[Array, "..."]:
    """Draw entries on [low, high), bit for bit those of `jax.random.uniform`."""
    _check_interval(low, high, dtype)

    def sample(flat_shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, flat_shape, dtype, minval=low, maxval=high)

    return flat(sample, shape)


def _check_interval(low: float, high: float, dtype: np.dtype) -> None:
    """Refuse an interval whose width is infinite or zero in this dtype."""
    if checks.is_traced((low, high)):
        return
    # What is drawn is low + (high - low) u, computed in this dtype.
    width = float(high) - float(low)
    largest = float(jnp.finfo(dtype).max)
    if max(-float(low), float(high), width) > largest:
        raise InputError(
            f"low={low}, high={high} are further apart than the largest {dtype.name}, "
            f"{largest:g}; write bounds nearer to 0."
        )
    if np.asarray(low, dtype) == np.asarray(high, dtype):
        raise InputError(
            f"low={low} and high={high} are the same {dtype.name}; write bounds "
            f"further apart, or constant({low})."
        )


@register(
    law="entries independent N(mean, std²); if the mean is 0, " + SPECTRUM,
    citation="torch.nn.init.normal_",
    aliases=("torch normal_", "Keras RandomNormal"),
    differs="jax.nn.initializers.normal(s) is normal(std=s), " + SAME_BITS,
)
@public("normal")
def normal(
    *, mean: float = 0.0, std: float = 1.0, dtype: DTypeLike | None = None
) -> Initializer:
    """Draw independent Gaussian entries N(mean, std²).

    `jax.nn.initializers.normal(s)` is `normal(std=s)`, bit for bit from the same key in
    float32 and float64 (from 0.12 on JAX multiplies in another order, and entries
    differ by up to two eps); bfloat16 and float16 are the float32 draw, rounded once.
    JAX's default is s = 0.01, torch's std is 1.

    Args:
        mean: Mean of the entries. A finite number.
        std: Standard deviation of the entries. Finite and non-negative.
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer for any shape.

    Raises:
        InputError: `mean` is not finite, or `std` is negative or not finite. When
            called: |mean| + 6 std, more than any draw can be, overflows the dtype.

    Example:
        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.normal(std=0.02)
        >>> round(float(init(jax.random.key(0), (1000,)).std()), 2)
        0.02
    """
    mean = checks.number("mean", mean)
    std = checks.number("std", std, low=0.0)

    def draw(key: Key, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        return sample_normal(key, shape, dtype, mean=mean, std=std)

    return Initializer(
        "normal",
        format_arguments({"mean": mean, "std": std}, dtype),
        draw,
        largest=for_any_shape(magnitude(mean) + NORMAL_REACH * magnitude(std)),
        dtype=dtype,
    )


def sample_normal(
    key: Key, shape: tuple[int, ...], dtype: np.dtype, *, mean: float, std: float
) -> Float[Array, "..."]:
    """Draw entries N(mean, std²); for mean 0 exactly std · `jax.random.normal`."""
    noise = randomness.normal(key, shape, dtype) * jnp.asarray(std, dtype)
    return _shift(noise, mean)


def _shift(noise: Float[Array, "..."], mean: float) -> Float[Array, "..."]:
    # Adding 0.0 would turn -0.0 into 0.0, and the bits are JAX's.
    if isinstance(mean, (int, float)) and mean == 0:
        return noise
    return noise + jnp.asarray(mean, noise.dtype)


# How far truncated normals reach, in standard deviations. A draw is √2 erfinv(u), with
# u uniform between the erf(x/√2) of the bounds x. From 5.3 (float32) and 8.4 (float64)
# on these round to 1, where erfinv is infinite and jax.random.truncated_normal returns
# the bound itself: for bounds at ±100 std a weight of -100 once in 2^23 draws. (Not so
# in jaxlib 0.10.0, whose float32 erf ends at 1 - 1.8e-7.) Beyond the reach lie 2e-7 and
# 2e-16 of the mass.
_REACH = {"float32": 5.2, "float64": 8.2}

# How many values u must take for the law to be right to 1e-3 of its mass: 4096 leave
# steps of 2.4e-4. Ten times fewer would show in a histogram; ten times more would
# refuse bounds that are drawn well.
_LEAST_VALUES = 4096

# What the message of a refusal advises: at these distances u takes `_LEAST_VALUES`
# values.
_NEAREST_BOUND = {"float32": 3.6, "float64": 7.2}


@register(
    law="entries independent, N(mean, std²) conditioned on [lower, upper]: with a, b "
    "the bounds in standard units and Z = Φ(b) − Φ(a) the mean is "
    "mean + std (φ(a) − φ(b))/Z and the variance "
    "std² (1 + (a φ(a) − b φ(b))/Z − ((φ(a) − φ(b))/Z)²), 0.774 by default; if "
    "the mean is 0, " + SPECTRUM,
    citation="torch.nn.init.trunc_normal_",
    aliases=("torch trunc_normal_",),
    differs="jax.nn.initializers.truncated_normal(s, lower=l, upper=u) has its bounds "
    "in units of s: it is truncated_normal(std=s, lower=l*s, upper=u*s), "
    "but for the rounding of l*s and u*s " + SAME_BITS + ". "
    "Keras TruncatedNormal(mean=c, stddev=s) is "
    "truncated_normal(mean=c, std=s, lower=c - 2*s, upper=c + 2*s)",
)
@public("truncated_normal")
def truncated_normal(
    *,
    mean: float = 0.0,
    std: float = 1.0,
    lower: float = -2.0,
    upper: float = 2.0,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw independent Gaussian entries N(mean, std²) conditioned on [lower, upper].

    The bounds are absolute, as in torch, and `mean` and `std` are those before
    truncation: with the default bounds of ±2, `std=0.02` cuts at 100 std, in effect not
    at all. JAX's bounds are in units of std: `jax.nn.initializers.truncated_normal(s)`
    is `truncated_normal(std=s, lower=-2*s, upper=2*s)`, bit for bit from the same key
    in float32 and float64 (for other bounds up to the rounding of the products).

    Entries lie within the bounds rounded to the dtype, and within 5.2 std of the mean
    in float32, 8.2 in float64; a bound further out is moved there. (JAX keeps it, and
    returns it about once in 2^23 draws.) bfloat16 and float16 are drawn in float32 and
    rounded once.

    Args:
        mean: Mean before truncation. A finite number.
        std: Standard deviation before truncation. Finite and positive.
        lower: Lower bound. A finite number.
        upper: Upper bound, above `lower`. A finite number.
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer for any shape.

    Raises:
        InputError: `std` is not positive; a bound is not finite, or `lower` is not
            below `upper`; or the cumulative distribution of what is drawn would be off
            by more than 1e-3. That is so if both bounds lie on one side of the mean,
            the nearer more than 3.6 std away (7.2 in float64), and if the dtype has
            fewer than 4096 values between them.

    Example:
        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.truncated_normal(lower=0.0, upper=1.0)
        >>> w = init(jax.random.key(0), (1000,))
        >>> bool(w.min() >= 0), bool(w.max() <= 1)
        (True, True)
    """
    mean = checks.number("mean", mean)
    lower = checks.number("lower", lower)
    upper = checks.number("upper", upper)
    std = checks.number("std", std, above=0.0)
    if not checks.is_traced((lower, upper)) and lower >= upper:
        raise InputError(f"lower={lower} is not below upper={upper}; exchange them.")
    is_traced = checks.is_traced((mean, std, lower, upper))

    def draw(key: Key, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        """Draw from N(0, 1) between the bounds in std, then scale and shift."""
        standard_lower = (lower - mean) / std
        standard_upper = (upper - mean) / std
        # Bounds that are traced have no values to check.
        if not is_traced:
            _check_resolved(standard_lower, standard_upper, dtype)
        noise = jax.random.truncated_normal(
            key,
            _within_reach(standard_lower, dtype),
            _within_reach(standard_upper, dtype),
            shape=shape,
            dtype=dtype,
        )
        shifted = _shift(noise * jnp.asarray(std, dtype), mean)
        # Scaling and shifting may round beyond the bounds.
        return jnp.clip(shifted, _nearest(lower, dtype), _nearest(upper, dtype))

    def _check_resolved(a: float, b: float, dtype: np.dtype) -> None:
        """Refuse bounds, in standard deviations from the mean, too few values apart."""
        if _num_values(a, b, dtype) >= _LEAST_VALUES:
            return
        raise InputError(
            f"lower={lower}, upper={upper} leave so little of N({mean}, {std}²) that "
            f"{dtype.name} resolves fewer than {_LEAST_VALUES} values of it. Bring the "
            f"nearer bound to within {_NEAREST_BOUND[dtype.name]} std of the mean, or, "
            f"if the interval is narrow, write uniform(low={lower}, high={upper})."
        )

    largest = 0.0
    if not is_traced:
        furthest_bound = max(magnitude(lower), magnitude(upper))
        reach = magnitude(mean) + max(_REACH.values()) * magnitude(std)
        largest = min(furthest_bound, reach)
    arguments = {"mean": mean, "std": std, "lower": lower, "upper": upper}
    return Initializer(
        "truncated_normal",
        format_arguments(arguments, dtype),
        draw,
        largest=for_any_shape(largest),
        dtype=dtype,
    )


def _num_values(a: float, b: float, dtype: np.dtype) -> float:
    """Return how many values the uniform numbers behind a draw can take.

    The sampler draws u uniformly between erf(a/√2) and erf(b/√2), and returns
    √2 erfinv(u).

    Args:
        a: The lower bound, in standard deviations from the mean.
        b: The upper bound, likewise.
        dtype: The dtype of u, float32 or float64.
    """
    reach = _REACH[dtype.name]
    lowest, highest = (
        math.erf(min(max(bound, -reach), reach) / math.sqrt(2)) for bound in (a, b)
    )
    spacing = np.spacing(np.asarray(max(abs(lowest), abs(highest)), dtype))
    # XLA makes zeros of subnormal numbers, so nothing lies nearer to 0 than `tiny`.
    resolution = max(float(spacing), float(jnp.finfo(dtype).tiny))
    return (highest - lowest) / resolution


def _within_reach(bound: float, dtype: np.dtype) -> Float[Array, ""]:
    reach = _REACH[dtype.name]
    return jnp.clip(_nearest(bound, dtype), -reach, reach)


def _nearest(value: float, dtype: np.dtype) -> Float[Array, ""]:
    """Return the number of this dtype that is nearest to `value`."""
    if not checks.is_traced(value):
        largest = float(jnp.finfo(dtype).max)
        value = min(max(value, -largest), largest)
    return jnp.asarray(value, dtype)
