"""One evaluation of a network: statistics of every point and nonlinearity."""

import dataclasses
import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from isometry._internal import precision
from isometry.activations import Activation
from isometry.certificates._programs import REFUSALS
from isometry.structure._sites import Site
from isometry.verdicts import _nulls, _statistics
from isometry.verdicts._groups import (
    Group,
    Plan,
    activation_of,
    largest_slope,
    planned,
    planned_in_training,
)
from isometry.verdicts._registry import Thresholds
from isometry.verdicts._statistics import OnHost
from isometry.verdicts._subject import Subject

# A zero counts as underflow if the value at the point before was below the smallest
# normal number to this power (1e-103 in float64); else it counts as an exact zero.
_TINY = 1 / 3


@dataclass(frozen=True, eq=False)
class Signal:
    """The values at one point, over seeds and the few examples.

    Attributes:
        point: The name of the point.
        dtype: The dtype of the evaluation; float64 if the values underflow in others.
        is_finite: Whether all entries are finite.
        peak: The largest modulus.
        log_norm: ½ ln of the mean square; −inf if all values are zero.
    """

    point: str
    dtype: np.dtype
    is_finite: Bool[np.ndarray, "seeds inputs"]
    peak: Float[np.ndarray, " seeds"]
    log_norm: Float[np.ndarray, " seeds"]


@dataclass(frozen=True, eq=False)
class StreamSignal(Signal):
    """The values at a point at which the signal is followed: see `Plan.stream`.

    Attributes:
        spread: R = ‖H − mean‖²/‖H‖² over inputs; 0 if all values are zero.
        stable_rank: ‖H‖_F²/‖H‖_2² over inputs × entries; 0 if all values are zero.
        token_spread: R over the tokens of each input; None if no axis counts tokens.
    """

    spread: Float[np.ndarray, " seeds"]
    stable_rank: Float[np.ndarray, " seeds"]
    token_spread: Float[np.ndarray, "seeds inputs"] | None


@dataclass(frozen=True, eq=False)
class Unit:
    """What a nonlinearity does. The fields are explained in `Activity`."""

    site: Site
    activation: Activation
    largest_slope: float | None
    is_dead: Bool[np.ndarray, "seeds channels"]
    is_mirrored: Bool[np.ndarray, "seeds channels"]
    num_live: Int[np.ndarray, "seeds inputs"]
    num_flat: Int[np.ndarray, "seeds inputs"]
    samples: Float[np.ndarray, "seeds sites channels"]


@dataclass(frozen=True, eq=False)
class Reading:
    """What one evaluation of a network shows.

    Attributes:
        signals: A record of every point with floating values, in the order of
            computation.
        stream: A record of every point at which the signal is followed.
        units: A record of every nonlinearity, in the order of the points in front of
            them, in inference mode.
        units_in_training: The same in training mode, where the network has one.
        lost: The first signal that underflows in float64 too, in words; or "".
    """

    signals: dict[str, Signal]
    stream: dict[str, StreamSignal]
    units: tuple[Unit, ...]
    units_in_training: tuple[Unit, ...]
    lost: str


# Several parts of an audit share one evaluation of a subject, by the slope at which a
# unit counts as saturated. It is kept as long as the subject lives.
_readings: weakref.WeakKeyDictionary[Subject, dict[float, Reading]] = (
    weakref.WeakKeyDictionary()
)


def read(
    subject: Subject,
    thresholds: Thresholds | None = None,
) -> Reading:
    """Evaluate a network for every seed at the few examples, once.

    Values that underflow their dtype are computed again in float64.

    Args:
        subject: The network.
        thresholds: The thresholds of the audit, with the slope at which a unit counts
            as saturated; None for the defaults.
    """
    lines = Thresholds() if thresholds is None else thresholds
    flat_share = lines.saturated_slope
    by_share = _readings.setdefault(subject, {})
    if flat_share not in by_share:
        by_share[flat_share] = _read(subject, flat_share)
    return by_share[flat_share]


def _read(
    subject: Subject,
    flat_share: float,
) -> Reading:
    """Evaluate a network, and again in float64 if values underflow."""
    params, xs = subject.params, subject.few
    dtype = precision.measuring_dtype(None, params, xs)
    params, xs = precision.cast((params, xs), dtype)
    plan = planned(subject, params, xs, flat_share=flat_share)
    constants = plan.anatomy.closed.consts
    rows = _on_host(_statistics.statistics(plan, constants, params, xs=xs))
    low = _low_groups(plan, rows, subject.has_zero_weight)
    # The slope at a value that underflowed to zero is wrong: ReLU has slope 1 at the
    # smallest positive number, and 0 at zero.
    if low:
        values = _in_float64(subject, plan, low, flat_share=flat_share)
        rows |= _statistics.statistics_again(plan, values)
    signals = _signals(plan, rows)
    stream = {name: _stream_signal(signals[name], plan, rows) for name in plan.stream}
    lost = _lost(stream, subject.num_seeds) if low else ""
    units = trained = _units(plan, rows)
    # Training mode is not computed again in float64. If values underflow float32, the
    # units in inference mode stand in for it.
    if not any(_is_small(signals[name]).any() for name in signals):
        trained = _as_trained(subject, units, flat_share)
    return Reading(
        signals=signals,
        stream=stream,
        units=units,
        units_in_training=trained,
        lost=lost,
    )


def _is_small(signal: Signal) -> Bool[np.ndarray, " seeds"]:
    """Tell for each seed whether values underflow float32, but are not zero."""
    return (signal.peak > 0) & (signal.peak < _nulls.least(np.dtype(np.float32)))


def _as_trained(
    subject: Subject,
    units: tuple[Unit, ...],
    flat_share: float,
) -> tuple[Unit, ...]:
    """Return the records of nonlinearities in training mode, where there is one.

    The modes differ behind a batch norm, which normalizes by the statistics of the
    batch in training: there no bias kills a unit, and no large input saturates one.
    """
    network = subject.network
    if network is None or subject.training is None:
        return units
    params, x = subject.params, subject.few
    dtype = precision.measuring_dtype(None, params, x)
    params, x = precision.cast((params, x), dtype)
    # A fixed key, so that an audit always gives the same numbers.
    needs_key = isinstance(subject.training.example, tuple)
    if needs_key and not isinstance(network.example, tuple):
        x = (x, jax.random.key(0))
    plan = planned_in_training(subject, params, x, flat_share=flat_share)
    if plan is None or not plan.groups:
        return units
    constants = plan.anatomy.closed.consts
    rows = _on_host(_statistics.statistics(plan, constants, params, xs=x))
    # Matched by name, because the programs of the two modes have different variables.
    trained = {_identity(unit): unit for unit in _units(plan, rows)}
    return tuple(_in_place_of(unit, trained.get(_identity(unit))) for unit in units)


def _identity(unit: Unit) -> tuple[str, str]:
    return unit.site.point, unit.site.nonlinearity


def _in_place_of(
    unit: Unit,
    trained: Unit | None,
) -> Unit:
    """Return the record in training mode, with the site of one example.

    Without a counterpart in training mode the record in inference mode is returned.
    """
    if trained is None:
        return unit
    return dataclasses.replace(trained, site=unit.site)


def _in_float64(
    subject: Subject,
    plan: Plan,
    low: Sequence[str],
    flat_share: float,
) -> OnHost:
    """Return the float64 values of some groups of a plan, by label.

    The result is empty if f does not run in float64. `Reading.lost` then names what
    underflows.
    """
    with jax.enable_x64(True), precision.full():
        params, xs = precision.cast((subject.params, subject.few), jnp.float64)
        try:
            exact = planned(subject, params, xs, flat_share=flat_share)
        except REFUSALS:
            return {}
        constants = exact.anatomy.closed.consts
        values = _on_host(_statistics.values_of(exact, constants, params, xs=xs))
    # Groups are matched by the names that they hold. Some may have no counterpart: a
    # cast can split the variable of one program into two of the other.
    label_of = {_names(group): label for label, group in exact.groups.items()}
    names = {label: _names(plan.groups[label]) for label in low}
    return {
        label: values[label_of[name]]
        for label, name in names.items()
        if name in label_of
    }


def _names(group: Group) -> tuple[str, ...]:
    """Return the names of all that a group holds."""
    return (*group.points, *(site.point for site, _ in group.sites))


def _on_host(tree: PyTree) -> PyTree[np.ndarray]:
    return jax.tree.map(np.asarray, tree)


def _signals(
    plan: Plan,
    rows: dict[str, OnHost],
) -> dict[str, Signal]:
    """Make a record of every point, in the order of computation."""
    signals: dict[str, Signal] = {}
    for label, group in plan.groups.items():
        row = rows[label]
        num_entries = row["is_finite"].shape[-1] * math.prod(group.shape)
        with np.errstate(divide="ignore"):
            log_square = np.log(row["sum_of_squares"].astype(float) / num_entries)
        log_norm = row["exponent"] * math.log(2) + log_square / 2
        for name, iteration in group.points.items():
            signals[name] = Signal(
                point=name,
                # float64 if the value was computed again.
                dtype=row["peak"].dtype,
                is_finite=row["is_finite"][:, iteration],
                peak=row["peak"][:, iteration].astype(float),
                log_norm=log_norm[:, iteration],
            )
    names = plan.anatomy.points
    return {name: signals[name] for name in names if name in signals}


def _stream_signal(
    signal: Signal,
    plan: Plan,
    rows: dict[str, OnHost],
) -> StreamSignal:
    """Add the statistics of a point at which the signal is followed."""
    (label,) = [key for key, one in plan.groups.items() if signal.point in one.points]
    group = plan.groups[label]
    iteration = group.points[signal.point]
    row = {key: values[:, iteration] for key, values in rows[label].items()}
    sum_of_squares = row["sum_of_squares"].astype(float)
    gram = row["gram"].astype(float)
    # LAPACK takes no NaN or infinity, so a matrix that is not finite is replaced by 0.
    is_finite = np.isfinite(gram).all((1, 2), keepdims=True)
    safe_gram = np.where(is_finite, gram, 0)
    largest = np.linalg.eigvalsh(safe_gram)[:, -1]
    is_zero = largest <= 0
    safe_largest = np.where(is_zero, 1, largest)
    token_spread = row.get("token_spread")
    if token_spread is not None:
        token_spread = token_spread.astype(float)
    return StreamSignal(
        **vars(signal),
        spread=row["spread"].astype(float),
        stable_rank=np.where(is_zero, 0, sum_of_squares / safe_largest),
        token_spread=token_spread,
    )


def _units(
    plan: Plan,
    rows: dict[str, OnHost],
) -> tuple[Unit, ...]:
    """Make a record of every nonlinearity, in the order of the points before them."""
    by_point: dict[str, list[Unit]] = {}
    for label, group in plan.groups.items():
        for site, iteration, kind in _statistics.numbered(group):
            row = {
                key.removesuffix(kind): values[:, iteration]
                for key, values in rows[label].items()
                if key.endswith(kind)
            }
            unit = Unit(
                site=site,
                activation=activation_of(site, plan.single),
                largest_slope=largest_slope(site, plan),
                **row,
            )
            by_point.setdefault(site.point, []).append(unit)
    names = plan.anatomy.points
    return tuple(unit for name in names for unit in by_point.get(name, ()))


def _low_groups(
    plan: Plan,
    rows: dict[str, OnHost],
    has_zero_weight: Bool[np.ndarray, " seeds"],
) -> list[str]:
    """Return the labels of groups whose values lose digits, or vanish, by underflow.

    A zero counts as underflow, unless a weight is zero.
    """
    low = []
    for label, group in plan.groups.items():
        # Inputs are not computed, so they cannot underflow.
        if not group.sites and group.points.keys() <= {*plan.anatomy.inputs}:
            continue
        peak = rows[label]["peak"].astype(float)
        is_small = (peak > 0) & (peak < _nulls.least(group.dtype))
        is_zero = (peak == 0) & ~has_zero_weight[:, None]
        held = [*group.points.values(), *(number for _, number in group.sites)]
        if (is_small | is_zero)[:, held].any():
            low.append(label)
    return low


def _lost(
    stream: dict[str, StreamSignal],
    num_seeds: int,
) -> str:
    """Return, in words, which signal underflows first, though computed again; or ""."""
    before = np.full(num_seeds, np.inf)
    for name, signal in stream.items():
        tiny = float(jnp.finfo(signal.dtype).tiny)
        # The value is below the normal range, and the value before it was tiny too.
        is_gone = (signal.peak < tiny) & (before < tiny**_TINY)
        if is_gone.any():
            too = ""
            if signal.dtype == np.float64:
                too = " too"
            return f"{name} underflows {signal.dtype}{too}, so its zeros say nothing"
        before = np.where(signal.peak > 0, signal.peak, before)
    return ""
