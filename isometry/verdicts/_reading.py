"""One evaluation of a network: what is read of every point and nonlinearity."""

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

# A zero is lost to underflow if the value in front of it was this power of the smallest
# number already (1e-103 of float64), and true if not.
_TINY = 1 / 3


@dataclass(frozen=True, eq=False)
class Signal:
    """The values at one point, over seeds and the few examples.

    Attributes:
        point: Its name.
        dtype: The dtype in which it was computed; float64 if it underflows else.
        is_finite: Whether all entries are finite.
        peak: The largest modulus.
    """

    point: str
    dtype: np.dtype
    is_finite: Bool[np.ndarray, "seeds inputs"]
    peak: Float[np.ndarray, " seeds"]


@dataclass(frozen=True, eq=False)
class StreamSignal(Signal):
    """The values at a point that every path passes.

    Attributes:
        log_norm: ½ ln of the mean square. −inf of zeros.
        spread: R = ‖H − mean‖²/‖H‖² over inputs; 0 of zeros.
        stable_rank: ‖H‖_F²/‖H‖_2² over inputs × entries; 0 of zeros.
        token_spread: R over tokens, of a value with tokens; None of others.
    """

    log_norm: Float[np.ndarray, " seeds"]
    spread: Float[np.ndarray, " seeds"]
    stable_rank: Float[np.ndarray, " seeds"]
    token_spread: Float[np.ndarray, "seeds inputs"] | None


@dataclass(frozen=True, eq=False)
class Unit:
    """What a nonlinearity does, as it is read: see `Activity`, which it becomes."""

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
        signals: Of every point with floating values, in the order of computation.
        stream: Of those through which every path to the output runs, from
            pre-activation to pre-activation.
        units: Of every nonlinearity, in the order of the points in front of them.
        units_in_training: The same in training mode, where the network has one.
        lost: What float64 does not hold either, in words; or "".
    """

    signals: dict[str, Signal]
    stream: dict[str, StreamSignal]
    units: tuple[Unit, ...]
    units_in_training: tuple[Unit, ...]
    lost: str


# Several parts of an audit read off one evaluation. It is kept as long as the subject.
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
        thresholds: Where a unit counts as saturated; the default line without.
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
    """Evaluate a network; in float64 too where values underflow."""
    params, xs = subject.params, subject.few
    dtype = precision.measuring_dtype(None, params, xs)
    params, xs = precision.cast((params, xs), dtype)
    plan = planned(subject, params, xs, flat_share=flat_share)
    constants = plan.anatomy.closed.consts
    rows = _on_host(_statistics.statistics(plan, constants, params, xs=xs))
    low = _low_groups(plan, rows, subject.has_zero_weight)
    # A zero that is due to underflow says nothing of a slope: slopes have no scale.
    if low:
        values = _in_float64(subject, plan, low, flat_share=flat_share)
        rows |= _statistics.statistics_again(plan, values)
    signals = _signals(plan, rows)
    stream = {name: _stream_signal(signals[name], plan, rows) for name in plan.stream}
    lost = _lost(stream, subject.num_seeds) if low else ""
    units = trained = _units(plan, rows)
    # Only inference mode was computed again in float64. Where values are small, its
    # units stand for those in training as well.
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
    """Tell whether values underflow float32, though they are not zero."""
    return (signal.peak > 0) & (signal.peak < _nulls.least(np.dtype(np.float32)))


def _as_trained(
    subject: Subject,
    units: tuple[Unit, ...],
    flat_share: float,
) -> tuple[Unit, ...]:
    """Return what nonlinearities do in training mode, where there is one.

    A bias in front of a batch norm kills no unit, and large inputs saturate none: in
    training its statistics are those of the batch.
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
    # By name, because the two programs hold different variables.
    trained = {_identity(unit): unit for unit in _units(plan, rows)}
    return tuple(_in_place_of(unit, trained.get(_identity(unit))) for unit in units)


def _identity(unit: Unit) -> tuple[str, str]:
    return unit.site.point, unit.site.nonlinearity


def _in_place_of(
    unit: Unit,
    trained: Unit | None,
) -> Unit:
    """Return a unit as trained, if it is known, with the site of a single example."""
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

    Empty if f takes no float64: then what underflows is told as lost.
    """
    with jax.enable_x64(True), precision.full():
        params, xs = precision.cast((subject.params, subject.few), jnp.float64)
        try:
            exact = planned(subject, params, xs, flat_share=flat_share)
        except REFUSALS:
            return {}
        constants = exact.anatomy.closed.consts
        values = _on_host(_statistics.values_of(exact, constants, params, xs=xs))
    # A variable of one program may be two of the other, with a cast in between.
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
        for name, iteration in group.points.items():
            signals[name] = Signal(
                point=name,
                # Of what was computed again, that of the second time.
                dtype=row["peak"].dtype,
                is_finite=row["is_finite"][:, iteration],
                peak=row["peak"][:, iteration].astype(float),
            )
    names = plan.anatomy.points
    return {name: signals[name] for name in names if name in signals}


def _stream_signal(
    signal: Signal,
    plan: Plan,
    rows: dict[str, OnHost],
) -> StreamSignal:
    """Make the record of a point that every path passes."""
    (label,) = [key for key, one in plan.groups.items() if signal.point in one.points]
    group = plan.groups[label]
    iteration = group.points[signal.point]
    row = {key: values[:, iteration] for key, values in rows[label].items()}
    total, gram = row["total"].astype(float), row["gram"].astype(float)
    num_entries = gram.shape[-1] * math.prod(group.shape)
    with np.errstate(divide="ignore"):
        log_square = np.log(total / num_entries)
    # Eigenvalues of what is not finite do not exist.
    is_finite = np.isfinite(gram).all((1, 2), keepdims=True)
    safe_gram = np.where(is_finite, gram, 0)
    largest = np.linalg.eigvalsh(safe_gram)[:, -1]
    is_zero = largest <= 0
    token_spread = row.get("token_spread")
    if token_spread is not None:
        token_spread = token_spread.astype(float)
    return StreamSignal(
        **vars(signal),
        log_norm=row["exponent"] * math.log(2) + log_square / 2,
        spread=row["spread"].astype(float),
        stable_rank=np.where(is_zero, 0, total / np.where(is_zero, 1, largest)),
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
    """Return the groups with values that lose digits to underflow, or all of them.

    A zero is taken for one that underflow made, unless a weight is zero.
    """
    low = []
    for label, group in plan.groups.items():
        # What enters is as it was given.
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
    """Return the first value that float64 does not hold either, in words; or ""."""
    before = np.full(num_seeds, np.inf)
    for name, signal in stream.items():
        tiny = float(jnp.finfo(signal.dtype).tiny)
        # Zero behind something tiny, or so small that digits are lost.
        is_gone = (signal.peak < tiny) & (before < tiny**_TINY)
        if is_gone.any():
            too = ""
            if signal.dtype == np.float64:
                too = " too"
            return f"{name} underflows {signal.dtype}{too}, so its zeros say nothing"
        before = np.where(signal.peak > 0, signal.peak, before)
    return ""
