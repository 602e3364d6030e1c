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

# The number of Gaussian units that are simulated for each probability, whose standard
# error is then 0.4 % at most. Ten times as many would take ten times as long, and move
# a quantile by one unit.
_DRAWS = 16384

# The probability is replaced by its upper bound at this confidence, so that an error of
# the simulation raises no flag.
_CONFIDENCE = 0.99

# A unit is left out of the covariance if its norm is more than this many times the
# median norm, as is one Gaussian number in 15 million. With a limit of 4, one in 140
# would be left out, and more with heavier tails, so that the null would be too strict.
# With a limit of 80, biases of -10 would inflate the covariance, and so excuse the
# units that they kill.
_OUTLIER = 8.0

# The null share of saturated units is counted at this many quantiles of the normal
# distribution, at equal distances in probability: it is exact to 1 in 65536.
_MIDPOINTS = 1 << 16

# Arguments so far out that every bounded activation is flat there.
_FAR = np.array([-1e30, 1e30], np.float32)

# A function counts as bounded if at `_FAR` it is no larger than this many times 1 plus
# its largest value within |z| < 10. One that grows as a logarithm may pass as bounded.
_GROWTH = 10.0
_NEAR = 10.0

# Values that underflow are scaled until their largest entry is near 2 to this power.
_LOG2_PEAK = -60


@functools.partial(compilation.jit, static_argnames=("activation",))
def slopes(
    activation: Activation,
    z: Float[Array, "*axes"],
) -> Float[Array, "*axes"]:
    """Return the derivative at every entry, computed by one compiled program."""
    return activation.slope(z)


def dead_probability(
    activation: Activation,
    samples: Float[np.ndarray, "seeds sites units"],
    key: Key,
) -> float:
    """Return an upper bound on the probability that a healthy unit looks dead.

    On few inputs healthy units may have no slope at any of them. If inputs are
    correlated, the pre-activations of one unit share their sign, and as the correlation
    goes to 1 half of all ReLU units look dead. A healthy unit is taken to be Gaussian,
    with the covariance of the samples between sites; the probability that such a unit
    has no slope at any site is found by simulation.

    Args:
        activation: The activation.
        samples: Pre-activations of all units at some sites: pairs of an input and a
            position.
        key: A key of the simulation.
    """
    from scipy.special import betaincinv

    hits = _dead_draws(activation, samples, key)
    if hits == _DRAWS:
        return 1.0
    return float(betaincinv(hits + 1, _DRAWS - hits, _CONFIDENCE))


def _dead_draws(
    activation: Activation,
    samples: Float[np.ndarray, "seeds sites units"],
    key: Key,
) -> int:
    """Count how many of `_DRAWS` Gaussian units have no slope at any site.

    Each seed has a share of the draws, with the covariance of its own units between
    sites.
    """
    # One row for each unit, and one column for each site.
    units_of_seeds = np.asarray(samples, float).transpose(0, 2, 1)
    num_seeds = len(units_of_seeds)
    # At least one draw for each, also of more seeds than there are draws.
    draws_of_seed = max(_DRAWS // num_seeds, 1)
    num_hits = 0
    for seed, units in enumerate(units_of_seeds):
        units = _without_outliers(units)
        covariance = units.T @ units / len(units)
        # If every unit sits on exact zero, there is no scale, and the identity serves.
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
    # The number of seeds need not divide `_DRAWS`, so the hits are scaled to `_DRAWS`.
    num_draws = draws_of_seed * num_seeds
    return num_hits * _DRAWS // num_draws


def _without_outliers(
    units: Float[np.ndarray, "units sites"],
) -> Float[np.ndarray, "kept sites"]:
    """Return the units whose norm is not much larger than the median norm.

    A single unit with a bias of -1000 would dominate the covariance. Gaussian units
    drawn from it would have one sign at all sites, and half of them would be dead.
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
    """Return the largest number of dead units that chance explains, at a level.

    It is the smaller of the quantiles of two null hypotheses. By the first the number
    is binomial, with the probability that a Gaussian unit is dead. Many dead units
    spoil the covariance behind that probability, so there is a second: if weights and
    biases have mean zero, z and −z have the same law. A unit that is dead for one of
    them is then as likely dead for z as for −z, and the number is binomial with ½.

    Args:
        num_units: The number of units.
        num_dead: How many of them are dead.
        num_mirrored: How many would be dead if the sign of z were changed.
        probability: The probability that a Gaussian unit is dead.
        level: The level of each quantile.
    """
    by_covariance = _binomial_quantile(level, num_units, probability)
    by_sign = _binomial_quantile(level, num_dead + num_mirrored, 0.5)
    return min(by_covariance, by_sign)


def _binomial_quantile(
    level: float,
    num_trials: int,
    probability: float,
) -> int:
    """Return the least count that is not exceeded with probability `level` or more."""
    # Not scipy.stats, which takes longer to load than the rest of the package.
    from scipy.special import bdtr

    up_to = bdtr(np.arange(num_trials + 1), num_trials, probability)
    # The last is 1 exactly.
    return min(int(np.searchsorted(up_to, level)), num_trials)


def saturated_quantile(
    num_units: int,
    probability: float,
    level: float,
) -> float:
    """Return the largest share of saturated units that chance explains, at a level."""
    # Half a unit above the quantile, so that a share of exactly the quantile is clearly
    # below the threshold, and not undecided.
    return (_binomial_quantile(level, num_units, probability) + 0.5) / num_units


@functools.lru_cache(maxsize=64)
def largest_slope(activation: Activation) -> float | None:
    """Return max |phi'| of a bounded activation on a grid; None if it is unbounded."""
    one_side = np.logspace(-4, 4, 2001)
    near = np.concatenate([-one_side, [0.0], one_side]).astype(np.float32)
    grid = jnp.asarray(np.append(near, _FAR))
    values, slope = _values_and_slopes(activation, grid)
    # The last two points, `_FAR`, tell only whether the activation is bounded.
    num_near = len(near)
    sizes = np.abs(np.asarray(values))
    is_inner = np.abs(near) < _NEAR
    largest_inner = sizes[:num_near][is_inner].max()
    bound = _GROWTH * (1 + largest_inner)
    # The comparison is False for NaN, so that NaN counts as unbounded.
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
    """Return P(|phi'(z)| < line) for Gaussian z, rounded up by 1/`_MIDPOINTS`."""
    from scipy.special import ndtri

    quantiles = (np.arange(_MIDPOINTS) + 0.5) / _MIDPOINTS
    z = (math.sqrt(variance) * ndtri(quantiles)).astype(np.float32)
    slope = np.asarray(slopes(activation, jnp.asarray(z)))
    is_flat = np.abs(slope) < line
    num_flat = int(is_flat.sum())
    return min(1.0, (num_flat + 1) / _MIDPOINTS)


@functools.lru_cache(maxsize=64)
def healthy_variance(
    activation: Activation,
    sigma_b: float,
) -> float:
    """Return the variance of the pre-activations of a healthy network.

    It is q* at criticality (45.6 for a sigmoid), if that is above 1. (With q* of the
    network itself, the null hypothesis would excuse weights of any size.) Else it is 1:
    common initializations and normalized inputs give that variance at the first layer,
    and it falls to a smaller q* only slowly.
    """
    try:
        points = theory.critical_points(activation, sigma_b)
    # Theory refuses an activation that jumps, or whose Gaussian means diverge.
    except InputError:
        return 1.0
    return max([1.0, *(point.q for point in points if point.stable)])


def visible(
    values: np.ndarray,
    dtype: np.dtype,
) -> np.ndarray:
    """Return float64 values in another dtype, scaled up if they underflow in it.

    It serves slopes of activations, which near zero depend on the sign alone. The scale
    is a power of two that puts the largest entry near 2^-60: far below the scale of any
    activation, and far above the smallest number of float32.
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
