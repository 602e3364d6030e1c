"""Runs compiled programs over seeds × inputs: in threads of a CPU, or on a mesh.

A `Program` is a function of a static argument and of three trees of arrays. Its results
are arrays with leading axes (seeds, inputs), so that a call can be cut along both axes.

Factorizations of one program run one after another on a CPU (`linalg._factorizations`),
those of several programs in parallel. So on a CPU a call is cut into pieces of the same
shape, which share one compiled program and are computed by a pool of threads.
"""

import concurrent.futures
import contextlib
import functools
import math
import os
from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from isometry._internal import blas, checks, compilation, memory
from isometry.measure import _devices

# A function of a static argument and of the three fields of `Arguments`.
Program = Callable[..., PyTree[Array]]

# Seconds of overhead of a call of a compiled program. A tenth of it would cut programs
# into pieces that are mostly overhead; ten times as much would leave a core idle for
# 3 ms.
_SECONDS_OF_CALL = 3e-4

# Seconds of overhead of cutting a call and starting threads. With a tenth of it calls
# of 3 ms are cut, and take 40 % more of the cores; with ten times as much calls of 20
# ms use one core.
_SECONDS_OF_START = 2e-3

# Bytes per second at which a loop over seeds copies their arrays out of the stack.
_BYTES_PER_SECOND = 4e9

# Multiply-adds per second of one core in small factorizations. At a tenth of the rate
# calls that end in a millisecond are cut; at ten times the rate one of 20 ms is not.
_OPERATIONS_PER_SECOND = 1e9

# Multiply-adds in the overhead of each matrix: 320 matrices of 3 × 4 took 0.4 ms.
_OPERATIONS_OF_OVERHEAD = 1e3


class Arguments(NamedTuple):
    """The arrays that a program takes.

    Attributes:
        by_seed: Arrays whose leading axis runs over seeds.
        by_input: Arrays whose leading axis runs over inputs.
        shared: Arrays without such an axis.
    """

    by_seed: PyTree[Array]
    by_input: PyTree[Array]
    shared: PyTree[Array] = ()

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of seeds and of inputs."""
        seeds, inputs = jax.tree.leaves(self.by_seed), jax.tree.leaves(self.by_input)
        return len(seeds[0]), len(inputs[0])


def run(
    program: Program,
    static: Hashable,
    arguments: Arguments,
    *,
    mesh: Mesh | None = None,
    operations: float = 0.0,
) -> PyTree[np.ndarray]:
    """Run a program over all seeds and inputs.

    On a CPU, BLAS is limited to one thread during the call.

    Args:
        program: The function to compile, hashable. It is compiled once for each
            `static` and each set of shapes.
        static: Its first argument, hashable.
        arguments: The arrays of its other arguments.
        mesh: Devices by `_devices.arranged`, on which `arguments` lie; None for the
            default device.
        operations: Multiply-adds of the factorizations for one seed at one input: m n²
            for an m × n matrix with m >= n. They decide into how many pieces the call
            is cut. With 0 it is one piece.

    Returns:
        The results as NumPy arrays, all of them in every process.
    """
    with _limited_blas(mesh):
        if mesh is not None:
            return _to_host(_compiled(program, static, mesh, *arguments))
        parts = _parts(arguments, operations)
        if parts == (1, 1):
            return _to_host(_compiled(program, static, None, *arguments))
        return _in_threads(program, static, arguments, parts=parts)


@contextlib.contextmanager
def _limited_blas(mesh: Mesh | None) -> Iterator[None]:
    """Limit BLAS to one thread inside the context, if the program runs on a CPU."""
    on_cpu = jax.default_backend() == "cpu"
    if mesh is not None:
        on_cpu = _devices.share_threads(mesh)
    with blas.single_threaded() if on_cpu else contextlib.nullcontext():
        yield


@functools.partial(compilation.jit, static_argnums=(0, 1, 2))
def _compiled(
    program: Program,
    static: Hashable,
    mesh: Mesh | None,
    *arguments: PyTree[Array],
) -> PyTree[Array]:
    """Compute a program; on a mesh each device computes its own seeds and inputs."""
    if mesh is None:
        return program(static, *arguments)
    seeds, inputs = _devices.AXES
    over_devices = jax.shard_map(
        functools.partial(program, static),
        mesh=mesh,
        in_specs=(PartitionSpec(seeds), PartitionSpec(inputs), PartitionSpec()),
        out_specs=PartitionSpec(seeds, inputs),
        # The program may contain a user's function, which was not written for a mesh.
        check_vma=False,
    )
    results = over_devices(*arguments)
    if _devices.processes(mesh) == 1:
        return results
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.lax.with_sharding_constraint(results, everywhere)


def _to_host(results: PyTree[Array]) -> PyTree[np.ndarray]:
    """Return results as NumPy arrays; waits until they are computed."""
    return jax.tree.map(np.asarray, results)


# --- Threads


def _in_threads(
    program: Program,
    static: Hashable,
    arguments: Arguments,
    parts: tuple[int, int],
) -> PyTree[np.ndarray]:
    """Compute a program in pieces, by one thread for each core.

    Args:
        program: The program.
        static: Its static argument.
        arguments: Its arrays.
        parts: Into how many parts seeds and inputs are cut.
    """
    pieces = list(_pieces(arguments, parts))
    compiled = _compiled.for_threads(program, static, None, *pieces[0])
    # Whether 64 bits are enabled is a setting of each thread.
    x64 = checks.x64()

    def compute(piece: Arguments) -> PyTree[np.ndarray]:
        with jax.enable_x64(x64):
            return _to_host(compiled(*piece))

    with concurrent.futures.ThreadPoolExecutor(_num_cores()) as pool:
        futures = [pool.submit(compute, piece) for piece in pieces]
        try:
            results = [future.result() for future in futures]
        except BaseException:
            # After an interrupt, pieces that have not started are dropped.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    _, by_input = parts
    starts = range(0, len(results), by_input)
    rows = [_joined(results[i : i + by_input], axis=1) for i in starts]
    return _joined(rows, axis=0)


def _pieces(arguments: Arguments, parts: tuple[int, int]) -> Iterator[Arguments]:
    """Cut seeds and inputs into these numbers of equal parts; inputs vary fastest."""
    for by_seed in _cut(arguments.by_seed, parts[0]):
        for by_input in _cut(arguments.by_input, parts[1]):
            yield Arguments(by_seed, by_input, arguments.shared)


def _cut(tree: PyTree[Array], count: int) -> list[PyTree[Array]]:
    """Cut the leading axis of all leaves into `count` equal parts."""
    if count == 1:
        return [tree]

    def part(index: int) -> PyTree[Array]:
        def of_leaf(leaf: Array) -> Array | np.ndarray:
            size = len(leaf) // count
            return memory.sliced(leaf, index * size, (index + 1) * size)

        return jax.tree.map(of_leaf, tree)

    return [part(index) for index in range(count)]


def _joined(trees: list[PyTree[np.ndarray]], axis: int) -> PyTree[np.ndarray]:
    """Concatenate the results of pieces along an axis."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays, axis), *trees)


def _parts(arguments: Arguments, operations: float) -> tuple[int, int]:
    """Return into how many parts to cut (seeds, inputs), for the shortest duration."""
    num_threads = _num_cores()
    if jax.default_backend() != "cpu" or num_threads == 1:
        return 1, 1
    num_seeds, num_inputs = arguments.counts
    if operations == 0:
        return 1, 1
    seconds = (
        num_seeds
        * num_inputs
        * (operations + _OPERATIONS_OF_OVERHEAD)
        / _OPERATIONS_PER_SECOND
    )
    # A loop over seeds copies each of them. A piece of one seed has no loop.
    copying = memory.tree_bytes(arguments.by_seed) / _BYTES_PER_SECOND

    def duration(parts: tuple[int, int]) -> float:
        by_seed, by_input = parts
        num_pieces = by_seed * by_input
        # Each thread computes one piece in a round.
        num_rounds = math.ceil(num_pieces / num_threads)
        starting = _SECONDS_OF_START if num_pieces > 1 else 0.0
        of_one_piece = seconds / num_pieces + _SECONDS_OF_CALL
        if by_seed < num_seeds:
            of_one_piece += copying / by_seed
        return starting + num_rounds * of_one_piece

    choices = [
        (by_seed, by_input)
        for by_input in _divisors(num_inputs)
        for by_seed in reversed(_divisors(num_seeds))
    ]
    # Of equal choices the first: seeds are cut before inputs, because the inputs of one
    # seed share wide products.
    return min(choices, key=duration)


def _divisors(number: int) -> list[int]:
    """Return the divisors of a number, ascending."""
    return [d for d in range(1, number + 1) if number % d == 0]


def _num_cores() -> int:
    """Count the cores that this process may use."""
    # macOS and Windows have no affinity.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
