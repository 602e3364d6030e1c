"""Statistics of one evaluation of a network, computed in the program that runs it."""

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

# Pre-activations are kept at this many sites (pairs of an input and a position) for the
# null hypothesis of dead units. With ten times as many its simulation takes ten times
# as long; with fewer, more dead channels are explained by chance.
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

    # One seed after another, so that memory holds the values of one seed at a time.
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
        # The program takes a whole batch, so the values have an axis of inputs already.
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
        # Iterations go first, because statistics are taken of each.
        values[label] = jnp.moveaxis(by_iteration, 1, 0)
    return values


def _statistics_of(
    group: Group,
    plan: Plan,
    values: Float[Array, "inputs *shape"],
) -> Arrays:
    """Return the statistics of the values in one iteration, by name."""
    rows = values.reshape(values.shape[0], -1)
    sizes = jnp.abs(rows)
    is_finite = jnp.isfinite(rows)
    peak = jnp.max(sizes, initial=0)
    _, exponent = jnp.frexp(peak)
    # Scaling keeps squares in range; by a power of two it rounds nothing.
    scaled = jnp.ldexp(values, -exponent)
    found = {
        "peak": peak,
        "is_finite": jnp.all(is_finite, axis=1),
        "exponent": exponent,
        "sum_of_squares": jnp.sum(scaled**2),
    }
    if group.is_stream:
        found |= _signal_of(group, scaled)
    for kind, site in _kinds(group).items():
        for name, value in _unit_of(site, plan, values).items():
            found[name + kind] = value
    return found


def numbered(group: Group) -> list[tuple[Site, int, str]]:
    """Return each site of a group with its iteration and a suffix for its statistics.

    A nonlinearity in a scan has a site in each iteration, all with one suffix. Two
    nonlinearities that take the same value have different suffixes.
    """
    numbers: dict[int, int] = {}
    rows = []
    for site, iteration in group.sites:
        number = numbers.get(iteration, 0)
        numbers[iteration] = number + 1
        rows.append((site, iteration, f" {number}"))
    return rows


def _kinds(group: Group) -> dict[str, Site]:
    """Return one site of each nonlinearity of a group, by the suffix of `numbered`."""
    kinds: dict[str, Site] = {}
    for site, _, kind in numbered(group):
        kinds.setdefault(kind, site)
    return kinds


def _signal_of(
    group: Group,
    scaled: Float[Array, "inputs *shape"],
) -> Arrays:
    """Return spread and Gram matrix of a signal, scaled by a power of two."""
    rows = scaled.reshape(scaled.shape[0], -1)
    found = {
        "spread": _spread(rows),
        "gram": rows @ rows.T,
    }
    if group.token_axis is not None:
        tokens = scaled.reshape(scaled.shape[0], *group.shape[-2:])
        found["token_spread"] = jax.vmap(_spread)(tokens)
    return found


def _spread(rows: Float[Array, "rows size"]) -> Float[Array, ""]:
    """Return ‖H − mean‖²/‖H‖² over rows; 0 if all entries are."""
    # Differences from the first row are taken first, because they are exact where rows
    # nearly agree; the mean of the rows themselves would be rounded.
    from_first = rows - rows[:1]
    mean = jnp.mean(from_first, axis=0, keepdims=True)
    from_mean = from_first - mean
    sum_of_squares = jnp.sum(rows**2)
    safe_sum = jnp.where(sum_of_squares > 0, sum_of_squares, 1)
    return jnp.sum(from_mean**2) / safe_sum


def _unit_of(
    site: Site,
    plan: Plan,
    values: Float[Array, "inputs *shape"],
) -> Arrays:
    """Return the statistics of a nonlinearity at its values: fields of `Unit`."""
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
    # `unit_axes` counts the axes of `site.shape`. In training mode that shape has the
    # axis of inputs; else the axis of inputs is in front of it.
    shift = int(not plan.is_batch)
    axes = [axis + shift for axis in unit_axes(site, plan.anatomy)]
    slope = _by_channel(all_slopes(values), axes)
    mirrored = _by_channel(all_slopes(-values), axes)
    largest = largest_slope(site, plan)
    line = 0.0 if largest is None else plan.flat_share * largest
    # If the value is read by others too, as in a residual stream, everything downstream
    # depends on it whatever the slope.
    is_live = (slope != 0) | site.is_bypassed
    is_mirror_live = (mirrored != 0) | site.is_bypassed
    is_flat = jnp.abs(slope) < line
    # At least as many sites as inputs, so that the null hypothesis has each input.
    num_inputs, num_positions, num_channels = slope.shape
    num_sites = num_inputs * num_positions
    at_sites = _by_channel(values, axes).reshape(num_sites, num_channels)
    kept = _spaced(num_sites, max(_SITES, num_inputs))
    return {
        "is_dead": ~jnp.any(is_live, axis=(0, 1)),
        "is_mirrored": ~jnp.any(is_mirror_live, axis=(0, 1)),
        "num_live": jnp.sum(is_live, axis=(1, 2)),
        "num_flat": jnp.sum(is_flat, axis=(1, 2)),
        "samples": at_sites[kept],
    }


def _by_channel(
    values: Float[Array, "inputs *shape"],
    axes: Sequence[int],
) -> Float[Array, "inputs positions channels"]:
    """Return the values by input, position and channel.

    Args:
        values: The values.
        axes: The axes of channels, which become one; all others become positions.
    """
    if values.ndim == 1:
        return values[:, None, None]
    num_channels = math.prod(values.shape[axis] for axis in axes)
    values = jnp.moveaxis(values, axes, range(-len(axes), 0))
    return values.reshape(values.shape[0], -1, num_channels)


def _spaced(
    length: int,
    most: int,
) -> np.ndarray:
    """Return at most `most` indices of an axis of this length, evenly spaced."""
    spaced = np.linspace(0, length - 1, min(most, length))
    return spaced.round().astype(np.int32)


def statistics_again(
    plan: Plan,
    values: OnHost,
) -> dict[str, OnHost]:
    """Return the statistics of float64 values, with slopes in the network's dtype.

    A unit whose slope rounds to zero in the network's dtype stays dead this way.

    Args:
        plan: What is read of the network, in the dtype of its evaluation.
        values: The float64 values of some groups, by label, of shape (seeds,
            iterations, inputs, *shape).
    """
    # In float64, because squares of the values need its range.
    with jax.enable_x64(True):
        of_values = jax.tree.map(np.asarray, _of_values(plan, values))
    shown: OnHost = {}
    for label in values:
        dtype = plan.groups[label].dtype
        # Iterations differ in scale, so each is scaled by a power of two of its own.
        rows = [[_nulls.visible(one, dtype) for one in rows] for rows in values[label]]
        shown[label] = np.array(rows)
    of_units = jax.tree.map(np.asarray, _of_units(plan, shown))
    return {label: of_values[label] | of_units[label] for label in values}


@functools.partial(compilation.jit, static_argnums=0)
def _of_values(
    plan: Plan,
    values: OnHost,
) -> dict[str, Arrays]:
    """Return the statistics of the values of some groups, without those of units."""
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

    They are fields of `Unit`, by name and the suffix of `numbered`.
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
