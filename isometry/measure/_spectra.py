"""The compiled programs of an ensemble: spectra over seeds × inputs, on one device or over a mesh of them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from isometry import linalg
from isometry._internal import precision
from isometry.measure import _jacobian, _programs
from isometry.measure._jacobian import Lanczos, Product
from isometry.measure._spectrum import (
    Spectrum,
    of_factors,
    of_logs,
    of_matrix,
    of_operator,
)

_WORTH = 192
"""Least order of a Jacobian whose dead rows and columns are worth leaving out: below, gathering costs what it saves."""
_SHARE = 0.75
"""Largest share of live units at which that is worth it."""
_BUCKET = 32
"""Live units are counted in steps of this, so that few programs serve all chunks."""


@dataclass(frozen=True)
class How:
    """What a program is compiled for.

    `chunk`: directions at a time; `live`: the most units alive in any space, None to multiply all.
    """

    aim: _jacobian.Target
    method: Any
    dtype: Any
    chunk: int | None = None
    live: int | None = None
    key_kind: str | None = None


def spectra(how: How, params: Any, xs: Any, seeds: Any, inputs: Any, key: Any) -> Spectrum:
    """(seeds, inputs) spectra. `seeds`, `inputs`: their numbers, which choose the random probes; `key`: its bits."""
    aim, method = how.aim, how.method
    if isinstance(method, Product):
        # one after another: vmapped, the choice between a plain and a graded finish would make both
        one = lambda p, x: of_factors(aim.factors(*precision.cast((p, x), how.dtype)), aim, method)  # noqa: E731
        return jax.lax.map(lambda p: jax.lax.map(lambda x: one(p, x), xs), params)
    if isinstance(method, Lanczos):
        keys = _keys(how, key, seeds, inputs)
        probe = lambda p, x, k: of_operator(_jacobian.operator(aim, p, x, how.dtype), k, aim, method)  # noqa: E731
        # seeds in turn: matrices that inputs and probes share make one wide product, batched ones many narrow ones
        return _in_turn(lambda seed: jax.vmap(probe, (None, 0, 0))(seed[0], xs, seed[1]), (params, keys))
    if how.live is not None:
        return _in_turn(functools.partial(_compact, how, how.live, xs), params)
    if aim.layered:  # one wide product a layer and seed uses the machine better than one batch of small ones
        wide = _in_turn(lambda p: _jacobian.wide_jacobians(aim, p, xs, how.dtype), params)
        return of_matrix(wide, aim, method)
    dense = lambda p, x: _jacobian.dense_jacobian(aim, p, x, how.dtype, how.chunk)  # noqa: E731
    return of_matrix(jax.vmap(jax.vmap(dense, (None, 0)), (0, None))(params, xs), aim, method)


def _in_turn(f: Callable[[Any], Any], stacked: Any) -> Any:
    """f of each entry of the leading axis; of one alone without a loop, which would copy it."""
    if len(jax.tree.leaves(stacked)[0]) > 1:
        return jax.lax.map(f, stacked)
    return jax.tree.map(lambda a: a[None], f(jax.tree.map(lambda a: a[0], stacked)))


def _keys(how: How, key: Any, seeds: Any, inputs: Any) -> Any:
    """(seeds, inputs) keys, the same whatever the chunk and the device they fall into."""
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    base = jax.random.wrap_key_data(key, impl=how.key_kind)
    return fold(jax.vmap(jax.random.fold_in, (None, 0))(base, seeds), inputs)


def _compact(how: How, width: int, xs: Any, params: Any) -> Spectrum:
    """The spectra of one seed from live units alone. What they leave of the size are exact zeros."""
    stacks = _jacobian.factors_of_inputs(how.aim, params, xs, how.dtype)
    m, n = stacks[-1].size[1], stacks[0].size[2]
    with precision.full():
        matrix = linalg.compact_product(stacks, width)
    found = of_matrix(matrix, how.aim, how.method)
    missing = min(m, n) - found.log_values.shape[-1]
    logs = jnp.pad(found.log_values, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    rank = jnp.min(linalg.live_counts(stacks), -1, keepdims=True)
    logs = jnp.where(jnp.arange(min(m, n))[None] < rank, logs, jnp.where(jnp.isnan(logs), logs, -jnp.inf))
    return of_logs(logs, found.log_floor, (m, n), how.aim, how.method)


def live(how: How, params: Any, xs: Any) -> Any:
    """(seeds, inputs): the most units alive in any space between two layers."""

    def of_seed(p: Any) -> Any:
        return jnp.max(linalg.live_counts(_jacobian.factors_of_inputs(how.aim, p, xs, how.dtype)), -1)

    return jax.lax.map(of_seed, params)


def measured(how: How, by_seed: Any, by_input: Any, key: Any) -> Spectrum:
    """`spectra` as a program of `_programs.run`."""
    return spectra(how, by_seed[0], by_input[0], by_seed[1], by_input[1], key)


def counted(how: How, params: Any, xs: Any, shared: Any) -> Any:
    """`live` as a program of `_programs.run`."""
    return live(how, params, xs)


def compacted(how: How, mesh: Any, params: Any, xs: Any, shape: tuple[int, int]) -> How:
    """`how`, with the number of live units if leaving out the others is exact and worth it."""
    if not isinstance(how.method, _jacobian.Dense) or not how.aim.sparse or min(shape) < _WORTH:
        return how
    most = int(_programs.run(counted, how, _programs.Arguments(params, xs), mesh=mesh).max())
    width = -(-most // _BUCKET) * _BUCKET
    return replace(how, live=width if width <= _SHARE * min(shape) else None)
