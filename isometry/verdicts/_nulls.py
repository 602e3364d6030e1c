"""What chance alone does to units: the null hypotheses of dead and saturated units."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry import theory
from isometry._internal import compilation, randomness
from isometry._internal.errors import InputError
from isometry._internal.types import Key
from isometry.activations import Activation

# Gaussian vectors behind each probability: its standard error is 0.4 % at most. Ten
# times as many would take ten times as long, and move a quantile by a unit.
_DRAWS = 16384

# At this confidence the probability is taken from above, so that its own error raises
# no flag.
_CONFIDENCE = 0.99

# A unit is left out of the covariance if it is so many times larger than the median
# unit, as one Gaussian number in 15 million is. With half of that one in 140 would be,
# of units with heavier tails more, and the null would be too strict; with ten times as
# much, biases of -10 would hide among the units that they kill.
_OUTLIER = 8.0

# Midpoints of the normal distribution, at which the null share of saturated units is
# counted: exact to 1 in 65536.
_MIDPOINTS = 1 << 16

# Where a bounded activation is flat.
_FAR = np.array([-1e30, 1e30], np.float32)

# A function is bounded if it is no larger out there than this many times its largest
# value within |z| < 10. A logarithm that grows by as much would be taken for bounded.
_GROWTH = 10.0
_NEAR = 10.0

# Largest entry of values that are brought up to a normal range.
_LOG2_PEAK = -60


@functools.partial(compilation.jit, static_argnames=("activation",))
def slopes(
    activation: Activation,
    z: Float[Array, "*axes"],
) -> Float[Array, "*axes"]:
    """Return the derivative at every entry, as one program."""
    return activation.slope(z)


def dead_probability(
    activation: Activation,
    samples: Float[np.ndarray, "seeds sites units"],
    key: Key,
) -> float:
    """Return how likely a healthy unit has no slope at any site, at its upper bound.

    Healthy units are not all alive on few inputs. If inputs are correlated, the
    pre-activations of one unit share their sign, and as the correlation goes to 1 half
    of all ReLU units look dead. It is the probability that a Gaussian vector with the
    covariance of the samples over sites has no slope anywhere, by simulation.

    Args:
        activation: The activation.
        samples: Values in front of it.
        key: A key of the simulation.
    """
    from scipy.stats import beta

    hits = _dead_draws(activation, samples, key)
    if hits == _DRAWS:
        return 1.0
    return float(beta.ppf(_CONFIDENCE, hits + 1, _DRAWS - hits))


def _dead_draws(
    activation: Activation,
    samples: Float[np.ndarray, "seeds sites units"],
    key: Key,
) -> int:
    """Count the Gaussian vectors, of `_DRAWS`, that have no slope at any site."""
    units_by_site = np.asarray(samples, float).transpose(0, 2, 1)
    num_seeds = len(units_by_site)
    draws_of_seed = _DRAWS // num_seeds
    num_hits = 0
    for seed, units in enumerate(units_by_site):
        units = _without_outliers(units)
        covariance = units.T @ units / len(units)
        # Every unit sits on exact zero: there is no scale, so the unit one is taken.
        if not covariance.any():
            covariance = np.eye(len(covariance))
        variances, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(variances, 0))
        shape = (draws_of_seed, len(root))
        key_of_seed = jax.random.fold_in(key, seed)
        noise = randomness.normal(key_of_seed, shape, np.dtype(np.float32))
        drawn = (np.asarray(noise) @ root.T).astype(samples.dtype)
        slope = np.asarray(slopes(activation, jnp.asarray(drawn)))
        is_dead = (slope == 0).all(1)
        num_hits += int(is_dead.sum())
    # The seeds need not divide the draws: hits count as of all of `_DRAWS`.
    num_draws = draws_of_seed * num_seeds
    return num_hits * _DRAWS // num_draws


def _without_outliers(
    units: Float[np.ndarray, "units sites"],
) -> Float[np.ndarray, "kept sites"]:
    """Return the units without those that are much larger than half of all are.

    A single channel with a bias of -1000 would make the covariance one of constant
    vectors, of which half are dead.
    """
    sizes = np.linalg.norm(units, axis=1)
    limit = _OUTLIER * np.median(sizes)
    return units[sizes <= limit] if limit > 0 else units


def dead_quantile(
    num_units: int,
    num_dead: int,
    *,
    num_mirrored: int,
    probability: float,
    level: float,
) -> int:
    """Return how many dead units chance gives at most, at a level.

    The count is binomial with the Gaussian probability. Many dead units spoil the
    covariance behind it, so there is a second null: where z and −z are alike in law, as
    they are of weights and biases without a mean, a unit that is dead at one sign of z
    is dead at the other as often, binomial ½ among both. The smaller one counts.

    Args:
        num_units: The number of units.
        num_dead: How many of them are dead.
        num_mirrored: How many would be dead if the sign of z were changed.
        probability: The Gaussian probability.
        level: The level of each quantile.
    """
    from scipy.stats import binom

    by_covariance = binom.ppf(level, num_units, probability)
    by_sign = binom.ppf(level, num_dead + num_mirrored, 0.5)
    return int(min(by_covariance, by_sign))


def saturated_quantile(
    num_units: int,
    probability: float,
    level: float,
) -> float:
    """Return the share of saturated units that chance gives at most, at a level."""
    from scipy.stats import binom

    # Half a unit above the quantile: a share of exactly that quantile is not in doubt.
    return (float(binom.ppf(level, num_units, probability)) + 0.5) / num_units


@functools.lru_cache(maxsize=64)
def largest_slope(activation: Activation) -> float | None:
    """Return sup |phi'| of a bounded activation, on a grid; None if it has no bound."""
    one_side = np.logspace(-4, 4, 2001)
    near = np.concatenate([-one_side, [0.0], one_side]).astype(np.float32)
    grid = jnp.asarray(np.append(near, _FAR))
    values, slope = _values_and_slopes(activation, grid)
    # The last two are far out, and no slope is looked for there.
    num_near = len(near)
    sizes = np.abs(np.asarray(values))
    is_inner = np.abs(near) < _NEAR
    largest_inner = sizes[:num_near][is_inner].max()
    bound = _GROWTH * (1 + largest_inner)
    # False for NaN as well.
    if not (sizes[num_near:] <= bound).all():
        return None
    steepness = np.abs(np.asarray(slope[:num_near]))
    return float(steepness.max())


@functools.partial(compilation.jit, static_argnames=("activation",))
def _values_and_slopes(
    activation: Activation,
    z: Float[Array, " n"],
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    return activation(z), activation.slope(z)


@functools.lru_cache(maxsize=64)
def saturated_probability(
    activation: Activation,
    line: float,
    variance: float,
) -> float:
    """Return P(|phi'(z)| < line) of a normal z, from above by one of the midpoints."""
    from scipy.special import ndtri

    quantiles = (np.arange(_MIDPOINTS) + 0.5) / _MIDPOINTS
    z = (math.sqrt(variance) * ndtri(quantiles)).astype(np.float32)
    slope = np.asarray(slopes(activation, jnp.asarray(z)))
    is_flat = np.abs(slope) < line
    num_flat = int(is_flat.sum())
    return float((num_flat + 1) / _MIDPOINTS)


@functools.lru_cache(maxsize=64)
def healthy_variance(
    activation: Activation,
    sigma_b: float,
) -> float:
    """Return the variance of the pre-activations of a network that is well.

    It is the q* that criticality needs (45.6 of a sigmoid), if that is above 1: at the
    network's own q* the null would excuse whatever its weights do. Else it is 1, the
    scale that gains and normalized inputs aim at, and from which the variance comes
    down to a small q* slowly.
    """
    try:
        points = theory.critical_points(activation, sigma_b)
    # The activation jumps, or its expectations diverge.
    except InputError:
        return 1.0
    return max([1.0, *(point.q for point in points if point.stable)])


def visible(
    values: np.ndarray,
    dtype: np.dtype,
) -> np.ndarray:
    """Return float64 values in a dtype in which they underflow, for their slopes.

    They are brought up by a power of two, to a largest entry near 2^-60: as far below
    every scale of an activation as above the end of the range. At numbers as small as
    that the slope depends on the sign alone.
    """
    peak = np.max(np.abs(values), initial=0)
    if 0 < peak < least(dtype):
        _, exponent = np.frexp(peak)
        values = np.ldexp(values, _LOG2_PEAK - exponent)
    return values.astype(dtype)


def least(dtype: np.dtype) -> float:
    """Return tiny/eps: below it numbers of a dtype lose digits to underflow."""
    limits = jnp.finfo(dtype)
    return float(limits.tiny) / float(limits.eps)
