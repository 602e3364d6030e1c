"""Random analytic functions that stand in for functions with kinks.

A kink is a point where a function or its derivative jumps. Each function here is real
analytic, is drawn at random, and agrees with the one that it stands in for where a
network can sit on a kink for ever: at zero, and where all of its arguments are equal.
All come from one odd function, an analytic sign. So identities between functions with
kinks survive, such as |x| = x sign(x) and max(x, y) = (x + y + |x - y|) / 2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from isometry._internal.types import Key

# Entries of an array over which a maximum is taken that are lower than this are masked:
# networks write -inf, -1e9 or the lowest float32 there. A signal of this size would be
# taken for a mask, a mask of smaller size for a signal.
_MASKED_BELOW = -1e8


class Smooth(NamedTuple):
    """The numbers that fix one draw of the functions, all positive.

    They are of order 1, so that the functions bend where signals of order 1 are.
    Narrower bends would leave probes on straight pieces, as the kinks themselves do;
    wider ones would be straight throughout. `sharp` alone is large: a function that is
    not negative and zero at zero is like sharp x² there, and every layer squares what
    is below 1/sharp. At 5 the signals of 24 layers without biases became 0.0, and a
    healthy network seemed to have no gradient; at 1e12 zeros would be as narrow as
    kinks.

    Attributes:
        share: The part of `sign` that is a tanh; the rest is an arctan, which keeps a
            derivative that float64 can see at large arguments.
        steep: The slope of the tanh at zero.
        wide: The slope of the arctan at zero, up to a factor.
        sharp: How fast `vanish` rises beside its zero.
        favour: How much `weight` prefers large entries.
        lift: How far `positive` stays above zero at zero.
        wave: The amplitudes of two harmonics in `rounded`.
    """

    share: float
    steep: float
    wide: float
    sharp: float
    favour: float
    lift: float
    wave: tuple[float, float]


def drawn(key: Key) -> Smooth:
    """Draw the functions at random."""
    low = np.array([0.4, 0.7, 0.7, 2e4, 0.8, 0.1, 0.2, 0.05])
    high = np.array([0.7, 1.6, 2.0, 8e4, 1.6, 0.3, 0.4, 0.15])
    with jax.ensure_compile_time_eval():
        uniform = np.asarray(jax.random.uniform(key, low.shape, jnp.float32))
    *numbers, first, second = (low + (high - low) * uniform).tolist()
    return Smooth(*numbers, wave=(first, second))


def sign(
    smooth: Smooth,
    x: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return an increasing odd function between -1 and 1."""
    tail = jnp.arctan(smooth.wide * x) * (2 / np.pi)
    return smooth.share * jnp.tanh(smooth.steep * x) + (1 - smooth.share) * tail


def magnitude(
    smooth: Smooth,
    x: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return an even function that is not negative, for |x|."""
    return x * sign(smooth, x)


def maximum(
    smooth: Smooth,
    x: Float[Array, "..."],
    y: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return a symmetric function between x and y, for their maximum.

    Where both are equal its derivatives are 1/2, those that JAX takes there.
    """
    return (x + y + magnitude(smooth, x - y)) / 2


def positive(
    smooth: Smooth,
    x: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return an increasing positive function that is x at large x."""
    return (x + jnp.sqrt(x * x + smooth.lift)) / 2


def vanish(
    smooth: Smooth,
    x: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return an even function from 0 to 1, with a double zero at 0."""
    square = smooth.sharp * x * x
    return square / (1 + square)


def above(
    smooth: Smooth,
    x: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return a function between 0 and 1, for x > 0; it is 0 at 0, as x > 0 is."""
    return vanish(smooth, x) * (1 + sign(smooth, x)) / 2


def weight(
    smooth: Smooth,
    x: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return the weight, positive and increasing, of an entry in a mean."""
    return jnp.exp(smooth.favour * sign(smooth, x))


def largest(
    smooth: Smooth,
    x: Float[Array, "..."],
    total: Callable[[Float[Array, "..."]], Float[Array, "..."]],
) -> Float[Array, "..."]:
    """Return a mean in which large entries weigh more, for the maximum.

    It is symmetric in the entries, lies between them, and where all are equal it is
    what they are. A mean of powers or exponentials would overflow.

    Args:
        smooth: The functions.
        x: The array.
        total: The sum over the entries among which the maximum is taken.
    """
    is_counted = x > _MASKED_BELOW
    values = jnp.where(is_counted, x, 0)
    weights = jnp.where(is_counted, weight(smooth, values), 0)
    return _ratio(total(weights * values), total(weights))


def _ratio(
    weighted: Float[Array, "..."],
    weights: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Divide, or return minus infinity where nothing has a weight."""
    has_weight: Bool[Array, ...] = weights > 0
    return jnp.where(has_weight, weighted / jnp.where(has_weight, weights, 1), -jnp.inf)


def ordered(
    smooth: Smooth,
    x: Float[Array, "..."],
    axis: int,
) -> Float[Array, "..."]:
    """Return means that prefer ever larger entries, for the entries in rising order.

    Each is symmetric in the entries, and where all are equal it is what they are.

    Args:
        smooth: The functions.
        x: The array.
        axis: The axis that is sorted.
    """
    x = jnp.moveaxis(x, axis, -1)
    # Rank 0 is the smallest: its mean prefers small entries as much as the last prefers
    # large ones, so that sorting -x reverses the order and the signs.
    favour = smooth.favour * np.linspace(-1, 1, x.shape[-1])

    def mean(favour: Float[Array, ""]) -> Float[Array, "..."]:
        weights = jnp.exp(favour * sign(smooth, x))
        return (weights * x).sum(-1) / weights.sum(-1)

    return jax.vmap(mean, out_axes=axis)(jnp.asarray(favour, x.dtype))


def rounded(
    smooth: Smooth,
    x: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return an odd function that keeps whole numbers, for round(x)."""
    first, second = smooth.wave
    turn = 2 * np.pi * x
    return x - first * jnp.sin(turn) / np.pi - second * jnp.sin(2 * turn) / np.pi


def floored(
    smooth: Smooth,
    x: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return a function that keeps whole numbers and is lower elsewhere, for floor."""
    first, second = smooth.wave
    turn = 2 * np.pi * x
    # 1 - cos is written as a square, which is exact at zero.
    lowered = first * jnp.sin(turn / 2) ** 2 + second * jnp.sin(turn) ** 2
    return rounded(smooth, x) - lowered
