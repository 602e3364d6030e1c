"""The compiled programs of an ensemble: spectra over seeds × inputs, on one device or over a mesh of them."""

import concurrent.futures
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from isometry import _checks, linalg
from isometry._internal import memory, precision
from isometry.measure import _devices, _jacobian
from isometry.measure._jacobian import Lanczos, Product
from isometry.measure._record import Spectrum
from isometry.measure._spectrum import of_factors, of_logs, of_matrix, of_operator

_WORTH = 192
"""Least order of a Jacobian whose dead rows and columns are worth leaving out: below, gathering costs what it saves."""
_SHARE = 0.75
"""Largest share of live units at which that is worth it."""
_WORTH_THREADS = 1e7
"""Least number of Jacobians times their order cubed that is cut among threads: forty of order 64, some 5 ms. Starting
the threads costs 0.2 ms, and a tenth of this would already be no faster."""
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


@functools.partial(jax.jit, static_argnames=("program", "how", "mesh"))
def _compiled(program: Any, how: How, mesh: Any, *parts: Any) -> Any:
    """Compiled once for an architecture: the scheme is in the parameters."""
    if mesh is None:
        return program(how, *parts)
    seeds, inputs, whole = *(PartitionSpec(axis) for axis in _devices.AXES), PartitionSpec()
    cut = jax.shard_map(
        functools.partial(program, how),
        mesh=mesh,
        in_specs=(seeds, inputs, seeds, inputs, whole)[: len(parts)],
        out_specs=PartitionSpec(*_devices.AXES),
        check_vma=False,  # f is the user's, and knows nothing of a mesh
    )
    found = cut(*parts)
    if _devices.processes(mesh) == 1:
        return found
    return jax.lax.with_sharding_constraint(found, NamedSharding(mesh, PartitionSpec()))


def run(program: Any, how: How, mesh: Any, *parts: Any) -> Any:
    """What `program` finds of the parts, in NumPy arrays, complete in every process."""
    return jax.tree.map(np.asarray, _compiled(program, how, mesh, *parts))


def run_in_threads(how: How, lanes: int, *parts: Any) -> Spectrum:
    """What `spectra` finds of the parts, cut into pieces that run side by side on the cores of one processor.

    Factorizations of one program run one after another (`linalg._factorizations`); those of several
    programs do not. The pieces share one compilation, so all are of one size: `lanes` is lowered to
    a divisor of the number of seeds or of inputs.
    """
    params, xs, seeds, inputs, key = parts
    by_seed, by_input = _divisor(len(seeds), lanes), _divisor(len(inputs), lanes)
    # Of equal cuts that of the seeds: the inputs of one seed make one wide product.
    axis = 0 if by_seed >= by_input else 1
    count = max(by_seed, by_input)
    if count == 1:
        return run(spectra, how, None, *parts)

    def piece(index: int) -> tuple[Any, ...]:
        taken = functools.partial(jax.tree.map, lambda a: _share(a, index, count))
        if axis == 0:
            return taken(params), xs, taken(seeds), inputs, key
        return params, taken(xs), seeds, taken(inputs), key

    pieces = [piece(index) for index in range(count)]
    compiled = _compiled.lower(spectra, how, None, *pieces[0]).compile()
    # Whether 64 bits are enabled is a setting of each thread.
    wide = _checks.x64()

    def measured(piece: tuple[Any, ...]) -> Any:
        with jax.enable_x64(wide):
            return jax.tree.map(np.asarray, compiled(*piece))

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        found = list(pool.map(measured, pieces))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays, axis), *found)


def lanes(shape: tuple[int, int], pairs: int) -> int:
    """How many programs at a time measure so many Jacobians of a shape on the devices that jax uses by default."""
    if jax.default_backend() != "cpu" or pairs * min(shape) ** 3 < _WORTH_THREADS:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _divisor(size: int, most: int) -> int:
    """The largest divisor of `size` that is at most `most`."""
    return max(d for d in range(1, min(size, most) + 1) if size % d == 0)


def _share(a: Any, index: int, count: int) -> Any:
    """The part `index` of `count` equal ones of the leading axis."""
    size = len(a) // count
    return memory.sliced(a, index * size, (index + 1) * size)


def compacted(how: How, mesh: Any, params: Any, xs: Any, shape: tuple[int, int]) -> How:
    """`how`, with the number of live units if leaving out the others is exact and worth it."""
    if not isinstance(how.method, _jacobian.Dense) or not how.aim.sparse or min(shape) < _WORTH:
        return how
    most = int(run(live, how, mesh, params, xs).max())
    width = -(-most // _BUCKET) * _BUCKET
    return replace(how, live=width if width <= _SHARE * min(shape) else None)
