"""What a benchmark file declares.

A question, tasks, methods, and a reference in float64 with its error and tolerance.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

# What is timed. It takes no argument; `Method.make` says what it returns.
Call: TypeAlias = Callable[[], object]

# A part of a record: what strict JSON can hold.
Record: TypeAlias = dict[str, Any]


def _count_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


CORES = _count_cores()

# Every task that it takes part in is compared with this peer: what a user writes
# without the toolkit, jit of vmap of jacrev, and then svd.
PLAIN_JAX = "plain JAX"

# For `Task.against`, where all peers are rivals: no best of them is looked for.
NOBODY = ""

# How many times as fast as plain JAX ours must be, or the run fails. The lower quartile
# of these quotients lies up to 5 % below their median (results/spectra.json): 0.99
# would fail runs in which nothing is slower, 0.5 would let half of the speed be lost.
LEAST_OF_PLAIN_JAX = 0.95


def jax_environment(devices: int = 1, blas_threads: int = 1) -> dict[str, str]:
    """Return variables of a JAX worker.

    They are set before it starts, since jax and OpenBLAS read them once.

    Args:
        devices: XLA's devices on the CPU.
        blas_threads: Threads of OpenBLAS. With more than one they spin in
            factorizations, and a single busy core makes them many times slower.

    Returns:
        The variables, for `Method.environment`.
    """
    return {
        "OPENBLAS_NUM_THREADS": str(blas_threads),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        # On a GPU the workers share its memory.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }


def torch_environment(threads: int = CORES) -> dict[str, str]:
    """Return variables of a torch worker.

    Idle threads sleep: those that spin are far slower whenever a core is busy.

    Args:
        threads: Threads of torch and of MKL.

    Returns:
        The variables, for `Method.environment`.
    """
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }


# A process in which nothing is set that matters on a CPU. On a GPU workers share its
# memory.
DEFAULT_PROCESS = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

# Variables that decide how many threads and devices a process has. Workers start
# without them, whatever the driver's shell says, unless the method sets them.
THREAD_VARIABLES = (
    "JAX_NUM_CPU_DEVICES",
    "MKL_NUM_THREADS",
    "NPROC",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "XLA_FLAGS",
)


@dataclass(frozen=True)
class Rival:
    """A peer with which our methods are compared by name.

    Attributes:
        name: The peer's name.
        goal: How many times faster than it ours should be; None where none is set.
        least: How many times as fast ours must be: below it, the run fails.
    """

    name: str
    goal: float | None = None
    least: float | None = None


@dataclass(frozen=True)
class Task:
    """One row of the question.

    Attributes:
        name: How the task is listed and chosen.
        parameters: Passed by keyword to `Method.make`, and to `reference`, `error` and
            `tolerance` of the benchmark.
        goal: How many times faster than its best peer our method should be; None where
            none is set.
        flop: The operations that the task cannot do without. With `gemm` it gives the
            percentage of the ceiling.
        gemm: (order, dtype) of the matrix product whose measured rate is the ceiling.
        methods: Names of those that take part; () is all.
        against: Names of the peers whose best the goal is about; () is all.
        rivals: Peers that are compared besides, each with a goal of its own. Plain JAX
            is one wherever it takes part, declared or not.
        seconds: By the names of methods, the seconds that a call should take at most,
            where the goal is no comparison.
        memory: The bytes that a process of ours may hold at most, or the run fails.
    """

    name: str
    parameters: Mapping[str, Any]
    goal: float | None = None
    flop: float | None = None
    gemm: tuple[int, str] | None = None
    methods: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    rivals: tuple[Rival, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    memory: int | None = None


@dataclass(frozen=True)
class Method:
    """One way to do the tasks.

    Attributes:
        name: How the method is listed.
        make: `make(**parameters)` imports what it needs and returns the call to be
            timed, which takes no argument. That returns the result: arrays, nested in
            lists, tuples and dicts if you like, or a function that computes it outside
            the clock.
        ours: Whether it is compared with the best of the others.
        requires: Distributions beyond JAX and NumPy. A method without them is reported
            as absent.
        environment: Variables of its worker, on top of the driver's.
    """

    name: str
    make: Callable[..., Call]
    ours: bool = False
    requires: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=jax_environment)


@dataclass(frozen=True)
class Benchmark:
    """A question, the tasks that answer it, and the methods that are compared.

    Attributes:
        question: One sentence.
        tasks: What is measured.
        smoke: Tasks of seconds that take the same paths. Their speed fails nothing.
        methods: Ours and their peers.
        reference: `reference(**parameters)` is right, in float64 and in whatever type
            `error` can use. It is computed once for a task.
        error: `error(result, reference, **parameters)` is how far a result, in NumPy
            arrays, is off.
        tolerance: `tolerance(**parameters)` is the largest error that rounding
            explains. One above it fails the benchmark.
    """

    question: str
    tasks: tuple[Task, ...]
    smoke: tuple[Task, ...]
    methods: tuple[Method, ...]
    reference: Callable[..., Any]
    error: Callable[..., float]
    tolerance: Callable[..., float]
