"""What a benchmark file declares: a question, tasks, methods, and a float64 reference with its error and tolerance."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def jax_environment(devices: int = 1, blas_threads: int = 1) -> dict[str, str]:
    """Variables of a JAX worker: set before it starts, since jax and OpenBLAS read them once.

    One BLAS thread is the default: with more, OpenBLAS spins in factorizations, and a single busy core makes them many
    times slower.
    """
    return {
        "OPENBLAS_NUM_THREADS": str(blas_threads),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # on a GPU the workers share its memory
    }


# A process in which nothing is set that matters on a CPU. On a GPU workers share its
# memory.
DEFAULT_PROCESS = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

# Variables that decide how many threads and devices a process has. Workers start without
# them, whatever the driver's shell says, unless the method sets them.
THREAD_VARIABLES = (
    "JAX_NUM_CPU_DEVICES",
    "MKL_NUM_THREADS",
    "NPROC",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "XLA_FLAGS",
)


def torch_environment(threads: int = CORES) -> dict[str, str]:
    """Variables of a torch worker. Idle threads sleep: spinning ones are far slower whenever a core is busy."""
    return {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


@dataclass(frozen=True)
class Rival:
    """A peer that our methods are set against by name.

    Attributes:
        name: The peer's name.
        goal: How many times faster than it ours should be; None where none is set.
        least: How many times faster ours must be: below it, the run fails.
    """

    name: str
    goal: float | None = None
    least: float | None = None


@dataclass(frozen=True)
class Task:
    """One row of the question.

    - `parameters`: passed by keyword to `Method.make`, `reference`, `error` and `tolerance`.
    - `goal`: how many times faster than its best peer our method should be; None where none is set.
    - `flop`: the operations the task cannot do without; with `gemm` it gives the percentage of the ceiling.
    - `gemm`: (order, dtype) of the matrix product whose measured rate is the ceiling.
    - `methods`: names of those that take part; () is all.
    - `against`: names of the peers whose best the goal is about; () is all.
    - `rivals`: peers that are compared besides, each with a goal of its own.
    """

    name: str
    parameters: Mapping[str, Any]
    goal: float | None = None
    flop: float | None = None
    gemm: tuple[int, str] | None = None
    methods: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    rivals: tuple[Rival, ...] = ()


@dataclass(frozen=True)
class Method:
    """One way to do the tasks.

    - `make(**parameters)`: imports what it needs and returns the call to be timed, which takes no argument. What that
      returns is the result (arrays; nested in lists, tuples and dicts if you like), or a function that computes the
      result outside the clock.
    - `ours`: set against the best of the others.
    - `requires`: distributions beyond JAX and NumPy; a method without them is reported as absent.
    - `environment`: of its worker, on top of the driver's.
    """

    name: str
    make: Callable[..., Callable[[], Any]]
    ours: bool = False
    requires: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=jax_environment)


@dataclass(frozen=True)
class Benchmark:
    """A question, the tasks that answer it, and the methods that are compared.

    - `smoke`: tasks of seconds that take the same paths.
    - `reference(**parameters)`: what is right, in float64, whatever type `error` can use; computed once for a task.
    - `error(result, reference, **parameters)`: how far a result (NumPy arrays) is off.
    - `tolerance(**parameters)`: the largest error that rounding explains. One above it fails the benchmark.
    """

    question: str
    tasks: tuple[Task, ...]
    smoke: tuple[Task, ...]
    methods: tuple[Method, ...]
    reference: Callable[..., Any]
    error: Callable[..., float]
    tolerance: Callable[..., float]
