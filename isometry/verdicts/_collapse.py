"""Inputs, and tokens, that become alike on their way through a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from isometry._internal import kinds, precision
from isometry._internal.types import Key
from isometry.verdicts._flag import Interval, PerSeed, flipped, interval, state_above
from isometry.verdicts._reading import StreamSignal, read
from isometry.verdicts._registry import Thresholds
from isometry.verdicts._subject import Subject

# Rounding alone makes relative differences between inputs of mean square u², with u the
# unit roundoff. Differences below ten times that count as rounding, by convention.
_NOISE = 10

# The least number of layers to which a depth scale is fitted.
_LEAST_LAYERS = 3


@dataclass(frozen=True, eq=False)
class Collapse:
    """How differences shrink from layer to layer.

    H has a row for each input (or token). R = ‖H − mean‖²/‖H‖² is (1 − c)(1 − 1/M) for
    M rows of equal norm and mean cosine c, so that it falls as 1 − c does.

    Attributes:
        points: The points, in the order of computation.
        before: R of the input (of the embeddings, in a token model), for each seed.
        is_known: Whether `before` is above rounding, so that R can shrink.
        log_ratio: ln(R / before); −inf where R is rounding.
    """

    points: tuple[str, ...]
    before: PerSeed
    is_known: bool
    log_ratio: Float[np.ndarray, "points seeds"]


def of_inputs(subject: Subject) -> Collapse:
    """Return how differences between the few inputs shrink."""
    stream = [*read(subject).stream.values()]
    of_x = _spread_of_x(subject.few)
    if of_x is None and stream:
        # Tokens are integers, so R is followed from their embeddings on.
        first, *stream = stream
        before = first.spread
        # If R of the embeddings is zero though the tokens differ, the embedding itself
        # has made them equal: that is a collapse too.
        is_known = _is_above_rounding(before, first.dtype)
        is_known |= _have_different_rows(subject.few)
    else:
        before = np.full(subject.num_seeds, of_x or 0.0)
        dtype = precision.measuring_dtype(None, subject.few)
        is_known = _is_above_rounding(before, dtype)
    spreads = [signal.spread for signal in stream]
    return _collapse(stream, spreads, before=before, is_known=is_known)


def _is_above_rounding(
    spread: PerSeed,
    dtype: np.dtype,
) -> bool:
    """Tell whether R of every seed is more than rounding."""
    return bool((spread >= least_spread(dtype)).all())


def of_tokens(subject: Subject) -> Collapse | None:
    """Return how differences between tokens shrink; None if there are no tokens.

    R is taken over the tokens of one input; for each seed it is the median over inputs.
    `before` is R at the first followed point whose value has a row for each token.
    """
    stream, spreads = [], []
    for signal in read(subject).stream.values():
        if signal.token_spread is not None:
            stream.append(signal)
            spreads.append(np.median(signal.token_spread, axis=1))
    if len(stream) < 2:
        return None
    before, *after = spreads
    is_known = _is_above_rounding(before, stream[0].dtype)
    return _collapse(stream[1:], after, before=before, is_known=is_known)


def _spread_of_x(xs: PyTree) -> float | None:
    """Return R of the floating leaves of x, taken together; None if x has none."""
    leaves = [leaf for leaf in jax.tree.leaves(xs) if kinds.is_floating(leaf)]
    if not leaves:
        return None
    flat = [np.asarray(leaf, float).reshape(len(leaf), -1) for leaf in leaves]
    rows = np.concatenate(flat, axis=1)
    peak = np.abs(rows).max(initial=0)
    if peak == 0:
        return 0.0
    # Relative to the largest entry, so that no square overflows.
    rows = rows / peak
    from_mean = rows - rows.mean(0)
    return float((from_mean**2).sum() / (rows**2).sum())


def _have_different_rows(xs: PyTree) -> bool:
    """Tell whether two inputs differ in a leaf of integers."""
    leaves = jax.tree.leaves(xs)
    for leaf in leaves:
        is_whole = jnp.issubdtype(leaf.dtype, jnp.integer)
        if is_whole and (leaf != leaf[:1]).any():
            return True
    return False


def _collapse(
    stream: Sequence[StreamSignal],
    spreads: Sequence[PerSeed],
    *,
    before: PerSeed,
    is_known: bool,
) -> Collapse:
    """Make the record from R at each point of `stream`, of inputs or of tokens."""
    log_ratio = np.zeros((len(stream), len(before)))
    # ln 0 would warn. A collapse whose R is 0 at the start is never judged, because
    # `is_known` is False.
    log_before = np.log(np.where(before > 0, before, 1))
    for i, (signal, spread) in enumerate(zip(stream, spreads, strict=True)):
        log_ratio[i] = _log_spread(spread, signal.dtype) - log_before
    return Collapse(
        points=tuple(signal.point for signal in stream),
        before=before,
        is_known=is_known,
        log_ratio=log_ratio,
    )


def _log_spread(
    spread: PerSeed,
    dtype: np.dtype,
) -> PerSeed:
    """Return ln R for each seed; −inf where it is rounding."""
    is_real = spread >= least_spread(dtype)
    # ln 0 would warn.
    safe_spread = np.where(is_real, spread, 1)
    return np.where(is_real, np.log(safe_spread), -np.inf)


def least_spread(dtype: np.dtype) -> float:
    """Return the value below which R is only rounding."""
    unit = float(jnp.finfo(dtype).eps) / 2
    return _NOISE * unit**2


def forward(
    subject: Subject,
    thresholds: Thresholds,
    key: Key,
) -> dict[str, Any]:
    """Return statistics of the signal at every layer, as medians over seeds.

    `fitted_depth_scale` is the number of layers over which squared differences between
    inputs fall by a factor e: −1/slope of ln R over the second half of the layers, with
    R as in `Collapse`. It is None if there are too few seeds, if R is above rounding at
    fewer than three of these layers, or if the interval of the slope is not below zero.
    In the ordered phase theory predicts 1/|ln chi_1| (Schoenholz et al., 2017, equation
    9).

    Args:
        subject: The network.
        thresholds: For the confidence, and the number of seeds that are needed.
        key: A key of the bootstrap.

    Returns:
        Lists with an entry for each of the `points`: `log_norm`, ½ ln of the mean
        square; `correlation`, the mean cosine of two inputs; `stable_rank`,
        ‖H‖_F²/‖H‖_2² over inputs × entries. Then `fitted_depth_scale`; where it is a
        number, `fitted_interval` is its interval over seeds.
    """
    stream = [*read(subject, thresholds).stream.values()]
    num_inputs = subject.num_inputs
    found: dict[str, Any] = {
        "points": [signal.point for signal in stream],
        "log_norm": [],
        "correlation": [],
        "stable_rank": [],
        "fitted_depth_scale": None,
    }
    # R is a mean over all pairs, also over those of an input with itself, whose cosine
    # is 1. Without them it is larger by M/(M − 1): see `Collapse`.
    without_itself = num_inputs / max(num_inputs - 1, 1)
    for signal in stream:
        correlation = 1 - signal.spread * without_itself
        found["log_norm"].append(float(np.median(signal.log_norm)))
        found["correlation"].append(float(np.median(correlation)))
        found["stable_rank"].append(float(np.median(signal.stable_rank)))
    if not thresholds.is_sure(subject.num_seeds):
        return found
    # The first layers have not relaxed yet.
    slopes = _slopes(stream[len(stream) // 2 :])
    if slopes is None:
        return found
    low, high = interval(slopes, key, confidence=thresholds.confidence)
    if high < 0:
        found["fitted_depth_scale"] = -1 / float(np.median(slopes))
        found["fitted_interval"] = (-1 / low, -1 / high)
    return found


def _slopes(stream: Sequence[StreamSignal]) -> PerSeed | None:
    """Fit a line to ln R over layers, for each seed; None for too few layers."""
    rows = [_log_spread(signal.spread, signal.dtype) for signal in stream]
    logs = np.array(rows).reshape(len(rows), -1)
    # Layers at which R is rounding are left out, and the others keep their places.
    layers = np.flatnonzero(np.isfinite(logs).all(axis=1))
    if len(layers) < _LEAST_LAYERS:
        return None
    slopes, _ = np.polyfit(layers, logs[layers], deg=1)
    return slopes


class Judged(NamedTuple):
    """A collapse, judged at the last point.

    Attributes:
        state: The state of the flag.
        value: The median over seeds of ln(R / before) at the last point.
        interval: The interval of that median over seeds.
        last: The name of the last point.
    """

    state: str
    value: float
    interval: Interval
    last: str

    def in_words(self, what: str) -> str:
        """Return a sentence on how far the differences shrank, for a flag's reason.

        Args:
            what: What the differences are between: "inputs" or "tokens".
        """
        if np.isneginf(self.value):
            return f"all {what} are one at {self.last!r}, to rounding"
        return (
            f"squared differences between {what}, relative to their size, are "
            f"e^{self.value:.2f} of what they were, at {self.last!r}"
        )


def judge(
    collapse: Collapse,
    thresholds: Thresholds,
    key: Key,
) -> Judged:
    """Judge whether R falls by more than a factor e^`thresholds.depth_scales`."""
    last = collapse.log_ratio[-1]
    value = float(np.median(last))
    bounds = interval(last, key, confidence=thresholds.confidence)
    state = state_above(
        -value,
        flipped(bounds),
        thresholds.depth_scales,
        is_sure=thresholds.is_sure(len(last)),
    )
    return Judged(state, value, bounds, last=collapse.points[-1])
