"""Inputs, and tokens, that become alike on their way through a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from isometry._internal import precision
from isometry._internal.types import Key
from isometry.verdicts._flag import Interval, PerSeed, flipped, interval, state_above
from isometry.verdicts._reading import StreamSignal, read
from isometry.verdicts._registry import Thresholds
from isometry.verdicts._subject import Subject

# Rounding makes relative differences of mean square u² between inputs; ten of them by
# convention.
_NOISE = 10

# A depth scale is fitted to so many layers at least.
_LEAST_LAYERS = 3


@dataclass(frozen=True, eq=False)
class Collapse:
    """How differences shrink from layer to layer.

    R = ‖H − mean‖²/‖H‖² is (1 − c)(1 − 1/M) for M rows of mean correlation c, so that
    it falls as 1 − c does.

    Attributes:
        points: The points, in the order of computation.
        before: R of what enters, for each seed.
        is_known: Whether R of what enters is above rounding.
        log_ratio: ln R/R of what enters; −inf where R is rounding.
    """

    points: tuple[str, ...]
    before: PerSeed
    is_known: bool
    log_ratio: Float[np.ndarray, "points seeds"]


def of_inputs(subject: Subject) -> Collapse:
    """Return how differences between the few inputs shrink."""
    stream = [*read(subject).stream.values()]
    before = _spread_of_x(subject.few)
    if before is None and stream:
        # Of tokens, what enters are their embeddings.
        first, *stream = stream
        is_known = bool((first.spread >= least_spread(first.dtype)).all())
        # An embedding that makes different tokens one has collapsed them itself.
        is_known |= _have_different_rows(subject.few)
        return _collapse(
            stream,
            [signal.spread for signal in stream],
            before=first.spread,
            is_known=is_known,
        )
    least = least_spread(precision.measuring_dtype(None, subject.few))
    return _collapse(
        stream,
        [signal.spread for signal in stream],
        before=np.full(subject.num_seeds, before or 0.0),
        is_known=before is not None and before >= least,
    )


def of_tokens(subject: Subject) -> Collapse | None:
    """Return how differences between tokens shrink; None of a network without tokens.

    For each seed the median over inputs, from the first value of tokens that all paths
    pass to the others.
    """
    stream, spreads = [], []
    for signal in read(subject).stream.values():
        if signal.token_spread is not None:
            stream.append(signal)
            spreads.append(np.median(signal.token_spread, axis=1))
    if len(stream) < 2:
        return None
    is_known = bool((spreads[0] >= least_spread(stream[0].dtype)).all())
    return _collapse(stream[1:], spreads[1:], before=spreads[0], is_known=is_known)


def _spread_of_x(xs: PyTree) -> float | None:
    """Return R of floating inputs; None if there are none."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(xs) if _is_floating(leaf)]
    if not leaves:
        return None
    rows = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
    rows = rows.astype(float)
    # Relative to the largest entry, so that no square overflows.
    rows = rows / max(np.abs(rows).max(initial=0), np.finfo(float).tiny)
    total = (rows**2).sum()
    if total == 0:
        return 0.0
    return float(((rows - rows.mean(0)) ** 2).sum() / total)


def _have_different_rows(xs: PyTree) -> bool:
    """Tell whether two inputs are made of different whole numbers."""
    leaves = jax.tree.leaves(xs)
    whole = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.integer)]
    return any(bool((leaf != leaf[:1]).any()) for leaf in whole)


def _is_floating(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _collapse(
    stream: Sequence[StreamSignal],
    spreads: Sequence[PerSeed],
    *,
    before: PerSeed,
    is_known: bool,
) -> Collapse:
    """Make the record of R at some points, of inputs or of tokens."""
    ratios = np.zeros((len(stream), len(before)))
    safe_before = np.where(before > 0, before, 1)
    for i, (signal, spread) in enumerate(zip(stream, spreads, strict=True)):
        ratios[i] = _log(spread / safe_before, spread >= least_spread(signal.dtype))
    points = tuple(signal.point for signal in stream)
    return Collapse(points=points, before=before, is_known=is_known, log_ratio=ratios)


def _log(
    values: Float[np.ndarray, "*axes"],
    is_real: Bool[np.ndarray, "*axes"],
) -> Float[np.ndarray, "*axes"]:
    """Return logarithms; −inf of what is rounding."""
    return np.where(is_real, np.log(np.where(is_real, values, 1)), -np.inf)


def least_spread(dtype: np.dtype) -> float:
    """Return the R below which it is rounding."""
    unit = float(jnp.finfo(dtype).eps) / 2
    return _NOISE * unit**2


def forward(
    subject: Subject,
    thresholds: Thresholds,
    key: Key,
) -> dict[str, Any]:
    """Return the signal from layer to layer, for each the median over seeds.

    `fitted_depth_scale` is the number of layers over which differences between inputs
    fall by e in square, −1/slope of ln R over the second half of the layers, with the
    interval of the median slope over seeds. It is None where R does not fall for
    certain, or fewer than three layers of it are above rounding. In the ordered phase
    theory has 1/|ln chi_1| (Schoenholz et al., 2017, equation 9).

    Args:
        subject: The network.
        thresholds: For the confidence, and the number of seeds that are needed.
        key: A key of the bootstrap.

    Returns:
        By layer `log_norm`, ½ ln of the mean square; `correlation`, the mean cosine of
        two inputs; `stable_rank`, ‖H‖_F²/‖H‖_2² over inputs × entries.
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
    for signal in stream:
        correlation = 1 - signal.spread * num_inputs / max(num_inputs - 1, 1)
        found["log_norm"].append(float(np.median(signal.log_norm)))
        found["correlation"].append(float(np.median(correlation)))
        found["stable_rank"].append(float(np.median(signal.stable_rank)))
    # The first layers have not relaxed yet.
    tail = [_log_spread(signal) for signal in stream[len(stream) // 2 :]]
    tail = [one for one in tail if np.isfinite(one).all()]
    is_enough = thresholds.is_sure(subject.num_seeds)
    if len(tail) >= _LEAST_LAYERS and is_enough:
        slopes = np.polyfit(np.arange(len(tail)), np.array(tail), 1)[0]
        low, high = interval(slopes, key, confidence=thresholds.confidence)
        if high < 0:
            found["fitted_depth_scale"] = -1 / float(np.median(slopes))
            found["fitted_interval"] = (-1 / low, -1 / high)
    return found


def _log_spread(signal: StreamSignal) -> PerSeed:
    """Return ln R for each seed; −inf where it is rounding."""
    return _log(signal.spread, signal.spread >= least_spread(signal.dtype))


class Judged(NamedTuple):
    """A collapse, judged at the last point.

    Attributes:
        state: The state of a flag.
        value: The median over seeds of ln R/R of what enters.
        interval: Its interval over seeds.
    """

    state: str
    value: float
    interval: Interval


def judge(
    collapse: Collapse,
    thresholds: Thresholds,
    key: Key,
) -> Judged:
    """Judge whether differences fall by more than e^6, the shared depth_scales."""
    last = collapse.log_ratio[-1]
    value = float(np.median(last))
    bounds = interval(last, key, confidence=thresholds.confidence)
    state = state_above(
        -value,
        flipped(bounds),
        thresholds.depth_scales,
        is_sure=thresholds.is_sure(len(last)),
    )
    return Judged(state, value, bounds)
