"""What is kept of one evaluation of a network, computed within its program."""

import functools
import math
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from isometry import activations
from isometry._internal import compilation, precision
from isometry._internal.types import Params
from isometry.structure._sites import Site
from isometry.verdicts import _nulls
from isometry.verdicts._groups import Group, Plan, largest_slope, unit_axes

Arrays: TypeAlias = dict[str, Array]
OnHost: TypeAlias = dict[str, np.ndarray]

# At so many places, of inputs × positions, the values in front of a nonlinearity are
# kept for the null hypothesis. With ten times as many its simulation takes ten times as
# long; with fewer the null excuses more dead channels.
_SITES = 64


@functools.partial(compilation.jit, static_argnums=0)
def statistics(
    plan: Plan,
    constants: Sequence[Array],
    params: Params,
    xs: PyTree[Array],
) -> dict[str, Arrays]:
    """Return the statistics of each group, of shape (seeds, iterations, ...)."""

    def of_seed(params_of_seed: Params) -> dict[str, Arrays]:
        values = _of_inputs(plan, constants, params_of_seed, xs=xs)
        rows = {}
        for label, group in plan.groups.items():
            of_iteration = functools.partial(_statistics_of, group, plan)
            over_iterations = jax.vmap(of_iteration)
            rows[label] = over_iterations(values[label])
        return rows

    # Seeds one after another: the values of all layers of one are enough to hold.
    with precision.full():
        return jax.lax.map(of_seed, params)


@functools.partial(compilation.jit, static_argnums=0)
def values_of(
    plan: Plan,
    constants: Sequence[Array],
    params: Params,
    xs: PyTree[Array],
) -> Arrays:
    """Return the values of each group, (seeds, iterations, inputs, *shape)."""
    with precision.full():
        of_seed = functools.partial(_of_inputs, plan, constants, xs=xs)
        return jax.lax.map(of_seed, params)


def _of_inputs(
    plan: Plan,
    constants: Sequence[Array],
    params: Params,
    xs: PyTree[Array],
) -> Arrays:
    """Return the values of each group, (iterations, inputs, *shape)."""
    if plan.is_batch:
        # Inputs are an axis of the values already: there is nothing to map over.
        operands = jax.tree.leaves((params, xs))
        of_batch = plan.run(operands, constants)
        return {
            label: values.reshape(-1, *plan.groups[label].shape)
            for label, values in of_batch.items()
        }

    def of_input(x: PyTree[Array]) -> Arrays:
        operands = jax.tree.leaves((params, x))
        return plan.run(operands, constants)

    values = {}
    for label, stacked in jax.vmap(of_input)(xs).items():
        group = plan.groups[label]
        num_inputs = stacked.shape[0]
        by_iteration = stacked.reshape(num_inputs, group.num_iterations, *group.shape)
        # Iterations go first: what is kept is kept of each.
        values[label] = jnp.moveaxis(by_iteration, 1, 0)
    return values


def _statistics_of(
    group: Group,
    plan: Plan,
    values: Float[Array, "inputs *shape"],
) -> Arrays:
    """Return what is kept of the values in one iteration."""
    rows = values.reshape(values.shape[0], -1)
    sizes = jnp.abs(rows)
    is_finite = jnp.isfinite(rows)
    found = {
        "peak": jnp.max(sizes, initial=0),
        "is_finite": jnp.all(is_finite, axis=1),
    }
    if group.is_stream:
        found |= _signal_of(group, values)
    for kind, site in _kinds(group).items():
        for name, value in _unit_of(site, plan, values).items():
            found[name + kind] = value
    return found


def numbered(group: Group) -> list[tuple[Site, int, str]]:
    """Return the sites of a group with their iteration, and a suffix for each kind.

    Sites in several iterations of a scan are of one kind, several in one of several.
    """
    numbers: dict[int, int] = {}
    rows = []
    for site, iteration in group.sites:
        number = numbers.get(iteration, 0)
        numbers[iteration] = number + 1
        rows.append((site, iteration, f" {number}"))
    return rows


def _kinds(group: Group) -> dict[str, Site]:
    """Return one site of each kind, by the suffix of what is kept of it."""
    kinds: dict[str, Site] = {}
    for site, _, kind in numbered(group):
        kinds.setdefault(kind, site)
    return kinds


def _signal_of(
    group: Group,
    values: Float[Array, "inputs *shape"],
) -> Arrays:
    """Return what is kept of a signal: sums of squares relative to a power of two."""
    peak = jnp.max(jnp.abs(values), initial=0)
    _, exponent = jnp.frexp(peak)
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
    from_first = rows - rows[:1]
    mean = jnp.mean(from_first, axis=0, keepdims=True)
    from_mean = from_first - mean
    total = jnp.sum(rows**2)
    safe_total = jnp.where(total > 0, total, 1)
    return jnp.sum(from_mean**2) / safe_total


def _unit_of(
    site: Site,
    plan: Plan,
    values: Float[Array, "inputs *shape"],
) -> Arrays:
    """Return what is kept of a nonlinearity at its values."""
    function = site.function
    if function is None:
        function = activations.get(site.known).fn

    def slopes(z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        # Elementwise, so the derivative along a tangent of ones is that of every entry.
        ones = jnp.ones_like(z)
        _, slope = jax.jvp(function, (z,), (ones,))
        return slope

    # In training mode the function takes the values of a whole batch.
    all_slopes = slopes if plan.is_batch else jax.vmap(slopes)
    # An axis of a batch is the first of its shape, and else in front of it.
    shift = int(not plan.is_batch)
    axes = [axis + shift for axis in unit_axes(site, plan.anatomy)]
    slope = _by_channel(all_slopes(values), axes)
    mirrored = _by_channel(all_slopes(-values), axes)
    largest = largest_slope(site, plan)
    line = 0.0 if largest is None else plan.flat_share * largest
    # Past what is bypassed, everything downstream depends on the unit.
    is_live = (slope != 0) | site.is_bypassed
    is_mirror_live = (mirrored != 0) | site.is_bypassed
    is_flat = jnp.abs(slope) < line
    # At least as many places as inputs, so that the null leaves none of them out.
    num_inputs, num_positions, num_channels = slope.shape
    num_places = num_inputs * num_positions
    places = _by_channel(values, axes).reshape(num_places, num_channels)
    kept = _spaced(num_places, max(_SITES, num_inputs))
    return {
        "is_dead": ~jnp.any(is_live, axis=(0, 1)),
        "is_mirrored": ~jnp.any(is_mirror_live, axis=(0, 1)),
        "num_live": jnp.sum(is_live, axis=(1, 2)),
        "num_flat": jnp.sum(is_flat, axis=(1, 2)),
        "samples": places[kept],
    }


def _by_channel(
    values: Float[Array, "inputs *shape"],
    axes: Sequence[int],
) -> Float[Array, "inputs positions channels"]:
    """Return values with the axes of channels as the last, and all others as one."""
    if values.ndim == 1:
        return values[:, None, None]
    num_channels = math.prod(values.shape[axis] for axis in axes)
    values = jnp.moveaxis(values, axes, range(-len(axes), 0))
    return values.reshape(values.shape[0], -1, num_channels)


def _spaced(
    length: int,
    count: int,
) -> np.ndarray:
    """Return `count` numbers below a length, evenly spaced, or all of them."""
    spaced = np.linspace(0, length - 1, min(count, length))
    return spaced.round().astype(np.int32)


def statistics_again(
    plan: Plan,
    values: OnHost,
) -> dict[str, OnHost]:
    """Return the statistics of float64 values; slopes are those of the own dtype.

    Args:
        plan: What was read, in its own dtype.
        values: Of some groups, by label: (seeds, iterations, inputs, *shape).
    """
    # Sums of float64 values in float64: their squares need its range.
    with jax.enable_x64(True):
        of_values = jax.tree.map(np.asarray, _of_values(plan, values))
    shown: OnHost = {}
    for label in values:
        dtype = plan.groups[label].dtype
        # Each iteration by its own power of two: scales differ between them.
        rows = [[_nulls.visible(one, dtype) for one in rows] for rows in values[label]]
        shown[label] = np.array(rows)
    of_units = jax.tree.map(np.asarray, _of_units(plan, shown))
    return {label: of_values[label] | of_units[label] for label in values}


@functools.partial(compilation.jit, static_argnums=0)
def _of_values(
    plan: Plan,
    values: OnHost,
) -> dict[str, Arrays]:
    """Return the statistics of values of some groups, without nonlinearities."""
    rows = {}
    for label in values:
        plain = plan.groups[label]._replace(sites=())
        of_iteration = functools.partial(_statistics_of, plain, plan)
        over_seeds = jax.vmap(jax.vmap(of_iteration))
        rows[label] = over_seeds(jnp.asarray(values[label]))
    return rows


@functools.partial(compilation.jit, static_argnums=0)
def _of_units(
    plan: Plan,
    values: OnHost,
) -> dict[str, Arrays]:
    """Return the statistics of the nonlinearities at the values of some groups.

    They are the fields of `Unit` by name, with the number of the nonlinearity behind
    it where a group has several.
    """
    rows: dict[str, Arrays] = {}
    for label in values:
        rows[label] = {}
        of_label = jnp.asarray(values[label])
        kinds = _kinds(plan.groups[label])
        for kind, site in kinds.items():
            of_iteration = functools.partial(_unit_of, site, plan)
            over_seeds = jax.vmap(jax.vmap(of_iteration))
            kept = over_seeds(of_label)
            for name, value in kept.items():
                rows[label][name + kind] = value
    return rows
