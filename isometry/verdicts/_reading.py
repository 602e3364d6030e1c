"""One evaluation of a network: what is read of every point and nonlinearity."""

import functools
import math
import weakref
from collections.abc import Container, Hashable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Bool, Float, Int, PyTree

from isometry import activations, structure
from isometry._internal import compilation, precision
from isometry._internal.types import Params
from isometry.activations import Activation
from isometry.measure import _arguments, _draws
from isometry.measure._function import Reference, version
from isometry.structure import Anatomy
from isometry.structure._place import Place
from isometry.structure._sites import Site, sites
from isometry.structure._tapping import ADD, reading_shape, tapped
from isometry.verdicts import _nulls
from isometry.verdicts._registry import Thresholds
from isometry.verdicts._subject import Subject

Arrays: TypeAlias = dict[str, Array]

# At so many places, of inputs × positions, the values in front of a nonlinearity are
# kept for the null hypothesis. With ten times as many its simulation takes ten times as
# long; with fewer the null excuses more dead channels.
_SITES = 64

# A zero is lost to underflow if the value in front of it was this small already, and
# true if not.
_TINY = 1e-100


@dataclass(frozen=True, eq=False)
class Signal:
    """The values at one point, over seeds and the few examples.

    Attributes:
        point: Its name.
        shape: The shape of the value at one input.
        dtype: The dtype in which it was computed; float64 if it underflows else.
        is_finite: Whether all entries are finite.
        peak: The largest modulus.
        log_norm: ½ ln of the mean square. −inf of zeros.
        spread: R = ‖H − mean‖²/‖H‖² over inputs; 0 of zeros.
        stable_rank: ‖H‖_F²/‖H‖_2² over inputs × entries; 0 of zeros.
        token_spread: R over tokens, of a value with tokens; None of others.
    """

    point: str
    shape: tuple[int, ...]
    dtype: np.dtype
    is_finite: Bool[np.ndarray, "seeds inputs"]
    peak: Float[np.ndarray, " seeds"]
    log_norm: Float[np.ndarray, " seeds"] | None = None
    spread: Float[np.ndarray, " seeds"] | None = None
    stable_rank: Float[np.ndarray, " seeds"] | None = None
    token_spread: Float[np.ndarray, "seeds inputs"] | None = None


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
        stream: The names of those through which every path to the output runs, from
            pre-activation to pre-activation.
        num_tokens: The number of tokens of a network with attention; 0 of others.
        units: Of every nonlinearity, in the order of the points in front of them.
        lost: What float64 does not hold either, in words; or "".
    """

    signals: dict[str, Signal]
    stream: tuple[str, ...]
    num_tokens: int
    units: tuple[Unit, ...]
    lost: str


# Several parts of an audit read off one evaluation. It is kept as long as the subject.
_readings: weakref.WeakKeyDictionary[Subject, dict[float, Reading]] = (
    weakref.WeakKeyDictionary()
)


def read(subject: Subject, thresholds: Thresholds | None = None) -> Reading:
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


class _Group(NamedTuple):
    """The values that one variable of the program holds, in all iterations of scans.

    Attributes:
        place: The variable, in all iterations.
        lengths: The number of iterations of each of the scans around it.
        shape: The shape in one iteration.
        points: The points it holds, by name, and the number of their iteration.
        is_stream: Whether any of them belongs to the stream.
        token_axis: Which axis counts tokens; None if none does.
        sites: For each kind of nonlinearity that takes the value: its sites, and the
            number of their iteration.
    """

    place: Place
    lengths: tuple[int, ...]
    shape: tuple[int, ...]
    points: dict[str, int]
    is_stream: bool
    token_axis: int | None
    sites: tuple[tuple[Site, int], ...]

    @property
    def num_iterations(self) -> int:
        """The number of all iterations together."""
        return math.prod(self.lengths)


@dataclass(frozen=True)
class _Plan:
    """What is read. Equal plans share a compiled program.

    Attributes:
        f: The function.
        shapes: Shapes and dtypes of params and x, and their trees.
        program: A key of the jaxpr of f and of what it closes over.
        flat_share: The share of the largest slope below which a unit is saturated.
        anatomy: The anatomy of f.
        stream: As in `Reading`.
        num_tokens: As in `Reading`.
        groups: By the label under which the program returns them.
    """

    f: Reference
    shapes: Hashable
    program: Hashable
    flat_share: float
    anatomy: Anatomy = field(compare=False)
    stream: tuple[str, ...] = field(compare=False)
    num_tokens: int = field(compare=False)
    groups: dict[str, _Group] = field(compare=False)
    single: Activation | None = field(compare=False)

    def run(self, arguments: Sequence[Array], constants: Sequence[Array]) -> Arrays:
        """Return the values of all groups at one input, by label."""
        closed = core.ClosedJaxpr(self.anatomy.closed.jaxpr, list(constants))
        places = {label: group.place for label, group in self.groups.items()}
        return tapped(closed, places, ADD)(arguments, {})[1]


def _read(subject: Subject, flat_share: float) -> Reading:
    params, xs = subject.params, subject.few
    dtype = precision.measuring_dtype(None, params, xs)
    params, xs = precision.cast((params, xs), dtype)
    plan = _planned(subject, params, xs, flat_share)
    constants = plan.anatomy.closed.consts
    rows = jax.tree.map(np.asarray, _statistics(plan, constants, params, xs))
    low = _low_groups(plan, rows, subject.has_zero_weight, dtype)
    again: dict[str, Arrays] = {}
    if low:
        with jax.enable_x64(True), precision.full():
            params, xs = precision.cast((params, xs), jnp.float64)
            exact = _planned(subject, params, xs, flat_share)
            values = jax.tree.map(
                np.asarray, _values(exact, exact.anatomy.closed.consts, params, xs)
            )
        again = _again(plan, tuple(low), {label: values[label] for label in low})
    signals, units = _collected(plan, rows | again, exact=again.keys())
    lost = _lost(signals, plan, subject) if again else ""
    return Reading(signals, plan.stream, plan.num_tokens, units, lost)


def _planned(subject: Subject, params: Params, xs: PyTree, flat_share: float) -> _Plan:
    """Read the anatomy in the dtype of the evaluation, and choose what to read."""
    function = _arguments.function_of(subject.f)
    shapes = (_draws.row_shapes(params), _draws.row_shapes(xs))
    with precision.full():
        anatomy = structure.anatomy(function, *shapes)
    leaves, tree = jax.tree.flatten(shapes)
    reference = Reference(function)
    stream = _stream(anatomy)
    num_tokens = _num_tokens(anatomy)
    network = subject.network
    return _Plan(
        f=reference,
        shapes=(tree, *((leaf.shape, leaf.dtype) for leaf in leaves)),
        program=version(anatomy.closed, reference),
        flat_share=flat_share,
        anatomy=anatomy,
        stream=stream,
        num_tokens=num_tokens,
        groups=_grouped(anatomy, stream, num_tokens),
        single=None if network is None else network.activation,
    )


def _stream(anatomy: Anatomy) -> tuple[str, ...]:
    """Return the points from pre-activation to pre-activation on all paths.

    The output is none of them, nor is what the head returns. If no value lies on all
    paths, all are returned.
    """
    output = anatomy.place("output")
    heads = [layer.name for layer in anatomy.layers if layer.role == "head"]
    names = []
    for name in anatomy.points:
        is_end = name in anatomy.inputs or anatomy.place(name) == output
        is_end |= any(_is_of(name, head) for head in heads)
        is_floating = jnp.issubdtype(anatomy.shape(name).dtype, jnp.floating)
        if is_floating and not is_end and not name.endswith(":out"):
            names.append(name)
    cuts = [name for name in names if anatomy.cuts(name)]
    return tuple(cuts or names)


def _is_of(point: str, layer: str) -> bool:
    """Tell whether a point belongs to a layer: "conv[2]" and "conv:sum" to "conv"."""
    rest = point.removeprefix(layer)
    return rest != point and rest[:1] in ("", "[", "@", "#", ":")


def _num_tokens(anatomy: Anatomy) -> int:
    """Return the number of tokens that the first attention compares; 0 without one."""
    for attention in anatomy.attentions:
        for name in attention.query:
            shapes = [
                anatomy.shape(point).shape
                for point in anatomy.points
                if _is_of(point, name)
            ]
            # Batches of one example have a first axis of length 1.
            sizes = [size for size in shapes[0] if size > 1] if shapes else []
            if len(sizes) >= 2:
                return sizes[0]
    return 0


def _token_axis(shape: tuple[int, ...], num_tokens: int) -> int | None:
    """Return the axis of tokens of a value of tokens × channels."""
    is_matrix = len(shape) >= 2 and math.prod(shape[:-2]) == 1
    if num_tokens > 1 and is_matrix and shape[-2] == num_tokens:
        return len(shape) - 2
    return None


def _grouped(
    anatomy: Anatomy, stream: Sequence[str], num_tokens: int
) -> dict[str, _Group]:
    """Collect points and sites by the variable that holds them."""
    places: dict[tuple, Place] = {}
    points: dict[tuple, dict[str, int]] = {}
    sites_at: dict[tuple, list[tuple[Site, int]]] = {}
    for name in anatomy.points:
        shape = anatomy.shape(name)
        if not jnp.issubdtype(shape.dtype, jnp.floating):
            continue
        place = anatomy.place(name)
        identity = (place.path, place.var)
        places[identity] = place
        number = _number(anatomy, place)
        points.setdefault(identity, {})[name] = number
    for site in sites(anatomy):
        if site.function is None and not site.known:
            continue
        identity = (site.place.path, site.place.var)
        places[identity] = site.place
        number = _number(anatomy, site.place)
        sites_at.setdefault(identity, []).append((site, number))
    groups = {}
    for i, (identity, place) in enumerate(places.items()):
        held = points.get(identity, {})
        shape = tuple(place.var.aval.shape)
        groups[str(i)] = _Group(
            place=place._replace(iterations=()),
            lengths=_lengths(anatomy, place),
            shape=shape,
            points=held,
            is_stream=not set(stream).isdisjoint(held),
            token_axis=_token_axis(shape, num_tokens),
            sites=tuple(sites_at.get(identity, ())),
        )
    return groups


def _lengths(anatomy: Anatomy, place: Place) -> tuple[int, ...]:
    """Return the lengths of the scans around a place."""
    stacked = reading_shape([anatomy.closed], place._replace(iterations=())).shape
    return stacked[: len(stacked) - len(place.var.aval.shape)]


def _number(anatomy: Anatomy, place: Place) -> int:
    """Number the iteration of a place, that of the innermost scan fastest."""
    lengths = _lengths(anatomy, place)
    if not lengths:
        return 0
    return int(np.ravel_multi_index(place.iterations, lengths))


@functools.partial(compilation.jit, static_argnums=0)
def _statistics(
    plan: _Plan, constants: list[Array], params: Params, xs: PyTree[Array]
) -> dict[str, Arrays]:
    """Return the statistics of each group, of shape (seeds, iterations, ...)."""

    def of_seed(params_of_seed: Params) -> dict[str, Arrays]:
        values = _of_inputs(plan, constants, params_of_seed, xs)
        rows = {}
        for label, group in plan.groups.items():
            of_group = functools.partial(_statistics_of, group, plan)
            rows[label] = jax.vmap(of_group)(values[label])
        return rows

    with precision.full():
        return jax.lax.map(of_seed, params)


@functools.partial(compilation.jit, static_argnums=0)
def _values(
    plan: _Plan, constants: list[Array], params: Params, xs: PyTree[Array]
) -> Arrays:
    """Return the values of each group, (seeds, iterations, inputs, *shape)."""
    with precision.full():
        return jax.lax.map(lambda one: _of_inputs(plan, constants, one, xs), params)


def _of_inputs(
    plan: _Plan, constants: list[Array], params: Params, xs: PyTree[Array]
) -> Arrays:
    """Return the values of each group, (iterations, inputs, *shape)."""

    def of_input(x: PyTree[Array]) -> Arrays:
        return plan.run(jax.tree.leaves((params, x)), constants)

    values = {}
    for label, stacked in jax.vmap(of_input)(xs).items():
        group = plan.groups[label]
        shape = (stacked.shape[0], group.num_iterations, *group.shape)
        values[label] = jnp.moveaxis(stacked.reshape(shape), 1, 0)
    return values


def _statistics_of(
    group: _Group, plan: _Plan, values: Float[Array, "inputs *shape"]
) -> Arrays:
    """Return what is kept of the values in one iteration."""
    rows = values.reshape(values.shape[0], -1)
    found = {
        "peak": jnp.max(jnp.abs(rows), initial=0),
        "is_finite": jnp.all(jnp.isfinite(rows), axis=1),
    }
    if group.is_stream:
        found |= _signal_of(group, values)
    for number, kind in _kinds(group).items():
        for name, value in _unit_of(kind, plan, values).items():
            found[f"{name} {number}"] = value
    return found


def _kinds(group: _Group) -> dict[int, Site]:
    """Return one site for each nonlinearity that takes the value, by a number.

    Those in several iterations of a scan are one nonlinearity.
    """
    kinds: dict[int, Site] = {}
    seen: dict[int, int] = {}
    for site, iteration in group.sites:
        number = seen.get(iteration, 0)
        kinds.setdefault(number, site)
        seen[iteration] = number + 1
    return kinds


def _signal_of(group: _Group, values: Float[Array, "inputs *shape"]) -> Arrays:
    """Return what is kept of a signal: sums of squares relative to a power of two."""
    _, exponent = jnp.frexp(jnp.max(jnp.abs(values), initial=0))
    # By a power of two, so that nothing is rounded.
    scaled = jnp.ldexp(values, -exponent)
    rows = scaled.reshape(scaled.shape[0], -1)
    found = {
        "exponent": exponent,
        "total": jnp.sum(rows**2),
        "spread": _spread(rows),
        "gram": rows @ rows.T,
    }
    if group.token_axis is not None:
        tokens = scaled.reshape(scaled.shape[0], *group.shape[-2:])
        found["token_spread"] = jax.vmap(_spread)(tokens)
    return found


def _spread(rows: Float[Array, "rows size"]) -> Float[Array, ""]:
    """Return ‖H − mean‖²/‖H‖² over rows; 0 if all entries are."""
    # The difference from one row first: between rows that nearly agree it is exact, and
    # the mean of the rows themselves would be rounded.
    apart = rows - rows[:1]
    apart = apart - jnp.mean(apart, axis=0, keepdims=True)
    total = jnp.sum(rows**2)
    return jnp.sum(apart**2) / jnp.where(total > 0, total, 1)


def _unit_of(site: Site, plan: _Plan, values: Float[Array, "inputs *shape"]) -> Arrays:
    """Return what is kept of a nonlinearity at its values."""
    function = site.function
    if function is None:
        function = activations.get(site.known).fn

    def slopes(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jax.jvp(function, (z,), (jnp.ones_like(z),))[1]

    slope = _by_channel(jax.vmap(slopes)(values))
    mirrored = _by_channel(jax.vmap(slopes)(-values))
    largest = _largest(site, plan)
    line = 0.0 if largest is None else plan.flat_share * largest
    num_inputs, num_positions, num_channels = slope.shape
    places = _by_channel(values).reshape(num_inputs * num_positions, num_channels)
    return {
        "is_dead": jnp.all(slope == 0, axis=(0, 1)) & (not site.is_bypassed),
        "is_mirrored": jnp.all(mirrored == 0, axis=(0, 1)) & (not site.is_bypassed),
        "num_live": jnp.sum((slope != 0) | site.is_bypassed, axis=(1, 2)),
        "num_flat": jnp.sum(jnp.abs(slope) < line, axis=(1, 2)),
        "samples": places[_spaced(len(places), max(_SITES, num_inputs))],
    }


def _by_channel(
    values: Float[Array, "inputs *shape"],
) -> Float[Array, "inputs positions channels"]:
    """Return values with all axes but the last as one."""
    if values.ndim == 1:
        return values[:, None, None]
    return values.reshape(values.shape[0], -1, values.shape[-1])


def _spaced(length: int, count: int) -> np.ndarray:
    """Return `count` numbers below a length, evenly spaced, or all of them."""
    spaced = np.linspace(0, length - 1, min(count, length))
    return spaced.round().astype(np.int32)


def activation_of(site: Site, single: Activation | None = None) -> Activation:
    """Return the nonlinearity of a site as an activation of arrays of any shape.

    Args:
        site: The site.
        single: The one activation of a network, if it has only one.
    """
    if site.known:
        return activations.get(site.known)
    if single is not None:
        return single
    return Activation(_Anywhere(site), name=site.nonlinearity)


class _Anywhere:
    """The nonlinearity of a site, applied to an array of any shape."""

    def __init__(self, site: Site) -> None:
        assert site.function is not None
        self._function, self._shape = site.function, site.shape

    def __call__(self, z: Array) -> Array:
        size = math.prod(self._shape)
        num_copies = -(-z.size // size)
        flat = jnp.pad(z.ravel(), (0, num_copies * size - z.size))
        results = jax.vmap(self._function)(flat.reshape(num_copies, *self._shape))
        return results.ravel()[: z.size].reshape(z.shape)


def _largest(site: Site, plan: _Plan) -> float | None:
    """Return the largest slope of a bounded nonlinearity; None of others."""
    with jax.ensure_compile_time_eval():
        return _nulls.largest_slope(activation_of(site, plan.single))


def _collected(
    plan: _Plan, rows: dict[str, Arrays], exact: Container[str]
) -> tuple[dict[str, Signal], tuple[Unit, ...]]:
    """Make records of the statistics of all groups.

    Args:
        plan: What was read.
        rows: The statistics, by label.
        exact: The labels of those that are in float64.
    """
    signals: dict[str, Signal] = {}
    units: dict[str, list[Unit]] = {}
    for label, group in plan.groups.items():
        dtype = group.place.var.aval.dtype
        if label in exact:
            dtype = np.dtype(np.float64)
        for name, iteration in group.points.items():
            of_point = {key: row[:, iteration] for key, row in rows[label].items()}
            signals[name] = _signal(name, group, of_point, dtype)
        seen: dict[int, int] = {}
        for site, iteration in group.sites:
            number = seen.get(iteration, 0)
            seen[iteration] = number + 1
            of_site = {
                key.removesuffix(f" {number}"): row[:, iteration]
                for key, row in rows[label].items()
                if key.endswith(f" {number}")
            }
            unit = Unit(
                site=site,
                activation=activation_of(site, plan.single),
                largest_slope=_largest(site, plan),
                **of_site,
            )
            units.setdefault(site.point, []).append(unit)
    names = plan.anatomy.points
    in_order = {name: signals[name] for name in names if name in signals}
    all_units = [unit for name in names for unit in units.get(name, ())]
    return in_order, tuple(all_units)


def _signal(name: str, group: _Group, row: Arrays, dtype: np.dtype) -> Signal:
    """Make the record of a point."""
    found = Signal(
        point=name,
        shape=group.shape,
        dtype=dtype,
        is_finite=np.asarray(row["is_finite"]),
        peak=np.asarray(row["peak"], float),
    )
    if not group.is_stream:
        return found
    total = np.asarray(row["total"], float)
    gram = np.asarray(row["gram"], float)
    num_entries = gram.shape[-1] * math.prod(group.shape)
    with np.errstate(divide="ignore"):
        log_square = np.log(total / num_entries)
    log_norm = np.asarray(row["exponent"]) * math.log(2) + log_square / 2
    # Eigenvalues of what is not finite do not exist.
    is_finite = np.isfinite(gram).all((1, 2))
    safe_gram = np.where(is_finite[:, None, None], gram, 0)
    largest = np.linalg.eigvalsh(safe_gram)[:, -1]
    is_zero = largest <= 0
    stable_rank = np.where(is_zero, 0, total / np.where(is_zero, 1, largest))
    tokens = row.get("token_spread")
    return Signal(
        point=name,
        shape=group.shape,
        dtype=dtype,
        is_finite=found.is_finite,
        peak=found.peak,
        log_norm=log_norm,
        spread=np.asarray(row["spread"], float),
        stable_rank=stable_rank,
        token_spread=None if tokens is None else np.asarray(tokens, float),
    )


def _low_groups(
    plan: _Plan,
    rows: dict[str, Arrays],
    has_zero_weight: Bool[np.ndarray, " seeds"],
    dtype: np.dtype,
) -> list[str]:
    """Return the groups with values that lose digits to underflow, or all of them.

    A zero is taken for one that underflow made, unless a weight is zero.
    """
    low = []
    for label, group in plan.groups.items():
        # What enters is as it was given.
        if not group.sites and group.points.keys() <= {*plan.anatomy.inputs}:
            continue
        peak = np.asarray(rows[label]["peak"], float)
        is_small = (peak > 0) & (peak < _nulls.least(dtype))
        is_zero = (peak == 0) & ~has_zero_weight[:, None]
        held = [*group.points.values(), *(number for _, number in group.sites)]
        if (is_small | is_zero)[:, held].any():
            low.append(label)
    return low


def _again(plan: _Plan, low: tuple[str, ...], values: Arrays) -> dict[str, Arrays]:
    """Return the statistics of float64 values; slopes are those of the own dtype.

    Args:
        plan: What was read, in its own dtype.
        low: The labels of the groups.
        values: By label (seeds, iterations, inputs, *shape).
    """
    with jax.enable_x64(True):
        of_values = jax.tree.map(np.asarray, _statistics_again(plan, low, values))
    shown: Arrays = {}
    for label in low:
        dtype = plan.groups[label].place.var.aval.dtype
        rows = [[_nulls.visible(one, dtype) for one in rows] for rows in values[label]]
        shown[label] = np.array(rows)
    of_units = jax.tree.map(np.asarray, _units_again(plan, low, shown))
    return {label: of_values[label] | of_units[label] for label in low}


@functools.partial(compilation.jit, static_argnums=(0, 1))
def _statistics_again(
    plan: _Plan, low: tuple[str, ...], values: Arrays
) -> dict[str, Arrays]:
    """Return the statistics of values of some groups, without nonlinearities."""
    rows = {}
    for label in low:
        plain = plan.groups[label]._replace(sites=())
        of_group = functools.partial(_statistics_of, plain, plan)
        rows[label] = jax.vmap(jax.vmap(of_group))(values[label])
    return rows


@functools.partial(compilation.jit, static_argnums=(0, 1))
def _units_again(
    plan: _Plan, low: tuple[str, ...], values: Arrays
) -> dict[str, Arrays]:
    """Return what nonlinearities do at values of some groups."""
    rows: dict[str, Arrays] = {}
    for label in low:
        rows[label] = {}
        for number, site in _kinds(plan.groups[label]).items():
            of_site = functools.partial(_unit_of, site, plan)
            for name, value in jax.vmap(jax.vmap(of_site))(values[label]).items():
                rows[label][f"{name} {number}"] = value
    return rows


def _lost(signals: dict[str, Signal], plan: _Plan, subject: Subject) -> str:
    """Return the first value that float64 does not hold either, in words; or ""."""
    before = np.full(subject.num_seeds, np.inf)
    for name in plan.stream:
        peak = signals[name].peak
        # Zero behind something tiny, or so small that digits are lost.
        is_gone = (peak < np.finfo(float).tiny) & (before < _TINY) & (before > 0)
        if is_gone.any():
            return f"{name} underflows float64 too, so its zeros say nothing"
        before = np.where(peak > 0, peak, before)
    return ""
