"""Inputs, and tokens, that become alike on their way through a network."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree

from isometry._internal.types import Key
from isometry.verdicts._flag import Interval, PerSeed, flipped, interval, state_above
from isometry.verdicts._reading import Reading, Signal, read
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
    reading = read(subject)
    names = reading.stream
    before, is_known = _of_x(subject.few, subject.num_seeds)
    if before is None:
        # Of tokens, what enters are their embeddings.
        first = _entrance(subject, reading)
        before = first.spread if first.spread is not None else np.zeros(1)
        is_known = bool((before >= least_spread(first.dtype)).all())
        names = tuple(name for name in names if name != first.point)
    spreads = [reading.signals[name].spread for name in names]
    dtypes = [reading.signals[name].dtype for name in names]
    return _collapse(names, spreads, dtypes, before=before, is_known=is_known)


def of_tokens(subject: Subject) -> Collapse | None:
    """Return how differences between tokens shrink; None of a network without tokens.

    For each seed the median over inputs, from the first value of tokens that all paths
    pass to the others.
    """
    reading = read(subject)
    names = [
        name
        for name in reading.stream
        if reading.signals[name].token_spread is not None
    ]
    if len(names) < 2:
        return None
    spreads = [np.median(reading.signals[name].token_spread, axis=1) for name in names]
    dtypes = [reading.signals[name].dtype for name in names]
    is_known = bool((spreads[0] >= least_spread(dtypes[0])).all())
    return _collapse(
        tuple(names[1:]), spreads[1:], dtypes[1:], before=spreads[0], is_known=is_known
    )


def _of_x(xs: PyTree, num_seeds: int) -> tuple[PerSeed | None, bool]:
    """Return R of floating inputs for each seed, and whether it is above rounding."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(xs) if _is_floating(leaf)]
    if not leaves:
        return None, False
    rows = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
    rows = rows.astype(float)
    peak = np.abs(rows).max(initial=0)
    rows = rows / (peak if peak > 0 else 1)
    total = (rows**2).sum()
    spread = ((rows - rows.mean(0)) ** 2).sum() / (total if total > 0 else 1)
    is_known = spread >= least_spread(leaves[0].dtype)
    return np.full(num_seeds, spread), bool(is_known)


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _entrance(subject: Subject, reading: Reading) -> Signal:
    """Return the embeddings of the tokens, with what is added to all of them."""
    return reading.signals[reading.stream[0]]


def _collapse(
    names: tuple[str, ...],
    spreads: list[PerSeed],
    dtypes: list[np.dtype],
    *,
    before: PerSeed,
    is_known: bool,
) -> Collapse:
    """Make the record."""
    ratios = np.zeros((len(names), len(before)))
    for i, (spread, dtype) in enumerate(zip(spreads, dtypes, strict=True)):
        is_real = (spread >= least_spread(dtype)) & (before > 0)
        safe = np.where(is_real, spread / np.where(before > 0, before, 1), 1)
        ratios[i] = np.where(is_real, np.log(safe), -np.inf)
    return Collapse(names, before, is_known, ratios)


def least_spread(dtype: np.dtype) -> float:
    """Return the R below which it is rounding."""
    unit = float(jnp.finfo(dtype).eps) / 2
    return _NOISE * unit**2


def forward(subject: Subject, thresholds: Thresholds, key: Key) -> dict[str, Any]:
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
    reading = read(subject, thresholds)
    signals = [reading.signals[name] for name in reading.stream]
    num_pairs = max(subject.num_inputs - 1, 1)
    correlations = [1 - s.spread * subject.num_inputs / num_pairs for s in signals]
    found: dict[str, Any] = {
        "points": list(reading.stream),
        "log_norm": [float(np.median(s.log_norm)) for s in signals],
        "correlation": [float(np.median(one)) for one in correlations],
        "stable_rank": [float(np.median(s.stable_rank)) for s in signals],
        "fitted_depth_scale": None,
    }
    logs = [_log_spread(signal) for signal in signals[len(signals) // 2 :]]
    tail = np.array([one for one in logs if np.isfinite(one).all()])
    is_enough = subject.num_seeds >= thresholds.least_seeds
    if len(tail) >= _LEAST_LAYERS and is_enough:
        slopes = np.polyfit(np.arange(len(tail)), tail, 1)[0]
        low, high = interval(slopes, key, confidence=thresholds.confidence)
        if high < 0:
            found["fitted_depth_scale"] = -1 / float(np.median(slopes))
            found["fitted_interval"] = (-1 / low, -1 / high)
    return found


def _log_spread(signal: Signal) -> PerSeed:
    """Return ln R for each seed; −inf where it is rounding."""
    spread = signal.spread
    is_real = spread >= least_spread(signal.dtype)
    return np.where(is_real, np.log(np.where(is_real, spread, 1)), -np.inf)


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


def judge(collapse: Collapse, thresholds: Thresholds, key: Key) -> Judged:
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
