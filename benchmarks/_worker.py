"""A worker: one process for one method of one task.

It is blocked on its pipe whenever it is not asked for something. Libraries, their
thread pools and their environments never meet in one process, and the peak memory is
the method's own.
"""

import importlib
import importlib.metadata
import pathlib
import resource
import sys
import time
import traceback
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks._declare import Benchmark, Call, Method, Record


def synchronize(value: object) -> None:
    """Wait until a value is computed: JAX and torch on a GPU return before it is."""
    if "jax" in sys.modules:
        sys.modules["jax"].block_until_ready(value)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def to_numpy(value: Any) -> Any:
    """Convert a result to NumPy arrays, nested as it is.

    It crosses to a process that knows neither JAX nor torch. A function, which computes
    what does not belong to the timed call, is called.
    """
    if callable(value):
        return to_numpy(value())
    if isinstance(value, dict):
        return {name: to_numpy(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_numpy(part) for part in value]
    if hasattr(value, "detach"):
        # A tensor of torch, perhaps on a GPU.
        value = value.detach().cpu()
    return np.asarray(value)


def peak_memory() -> int:
    """Return the most bytes that this process held, libraries included.

    Where it starts others, which do its work, the most that one of them held.
    """
    # Linux counts in KiB.
    unit = 1024
    if sys.platform == "darwin":
        unit = 1
    return max(used.ru_maxrss for used in _used()) * unit


def forget_peak() -> int:
    """Let the peak of this process begin anew, where the system can; return its memory.

    Without it, copies that a method made of its arguments, and freed, would hide what
    its calls need.
    """
    try:
        # Linux: 5 resets the peak to what is held now.
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        fields = pathlib.Path("/proc/self/statm").read_text().split()
    except OSError:
        return peak_memory()
    num_pages = int(fields[1])
    return num_pages * resource.getpagesize()


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of those that it has waited for."""
    return sum(used.ru_utime + used.ru_stime for used in _used())


def _used() -> list[resource.struct_rusage]:
    """Return what this process has used, and what those have that it waited for."""
    return [
        resource.getrusage(whose)
        for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]


def _do_nothing() -> None:
    """Stand for the call of a judge, which has no method."""


class Session:
    """What a worker can be asked for.

    A request is the name of a method of this class, and its arguments.

    Attributes:
        benchmark: The benchmark of the module.
        method: The method that is timed; None for a judge, who knows the reference.
        parameters: Those of the task.
        call: What is timed, once prepared.
        reference: What is right, once a judge is prepared.
    """

    benchmark: Benchmark
    method: Method | None
    parameters: Mapping[str, Any]
    call: Call
    reference: Any

    def __init__(self, module: str, method: str | None, parameters: Mapping[str, Any]):
        self.parameters = parameters
        self.benchmark = importlib.import_module(module).BENCHMARK
        self.method = None
        for declared in self.benchmark.methods:
            if declared.name == method:
                self.method = declared
        self.call = _do_nothing
        self.reference = None

    def prepare(self) -> Record:
        """Build the call and make it once, which compiles; of a judge, the reference.

        Returns:
            Versions of what the method requires, the bytes that the process holds
            before the first call, and the seconds of that; or the distribution that is
            absent. Nothing of a judge.
        """
        if self.method is None:
            self.reference = self.benchmark.reference(**self.parameters)
            return {}
        required = self.method.requires
        try:
            versions = {name: importlib.metadata.version(name) for name in required}
            self.call = self.method.make(**self.parameters)
        except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError) as error:
            if error.name not in required:
                raise
            return {"absent": error.name}
        idle = forget_peak()
        first_call = self.sample(1)["seconds"]
        return {"versions": versions, "idle_memory": idle, "first_call": first_call}

    def result(self) -> Any:
        """Return the result of one more call, in NumPy arrays."""
        return to_numpy(self.call())

    def sample(self, repeats: int) -> Record:
        """Measure some calls.

        Args:
            repeats: How many.

        Returns:
            Seconds a call, CPU seconds of all of them, and the peak memory until now.
        """
        cpu = cpu_seconds()
        start = time.perf_counter()
        for _ in range(repeats):
            synchronize(self.call())
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds / repeats,
            "cpu": cpu_seconds() - cpu,
            "peak_memory": peak_memory(),
        }

    def judge(self, result: Any) -> tuple[float, float]:
        """Return the error of a result and its tolerance.

        The reference is computed for the first result, if it is not there yet.
        """
        if self.reference is None:
            self.prepare()
        error = self.benchmark.error(result, self.reference, **self.parameters)
        return float(error), float(self.benchmark.tolerance(**self.parameters))

    def provenance(self) -> Record:
        """Return versions, device and commit, as this process sees them."""
        # It imports jax, which a worker of another library must not have.
        from isometry._internal import provenance

        return provenance.provenance()


def main() -> None:
    """Answer requests until the driver closes the pipe."""
    with Connection(int(sys.argv[1])) as pipe:
        try:
            session = Session(*pipe.recv())
            while True:
                name, *arguments = pipe.recv()
                answer = getattr(session, name)(*arguments)
                pipe.send((True, answer))
        except EOFError:
            return
        # A KeyboardInterrupt or SystemExit of a method is a failure like others.
        except BaseException as error:
            traceback.print_exc()
            pipe.send((False, f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    main()
