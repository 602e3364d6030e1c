"""A worker: one process for one method of one task, blocked on its pipe whenever it is not asked for something.

Libraries, their thread pools and their environments never meet in one process, and the peak memory is the method's own.
"""

import importlib
import importlib.metadata
import resource
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


def synchronize(value: Any) -> None:
    """Wait until `value` is computed: JAX and torch on a GPU return before it is."""
    if "jax" in sys.modules:
        sys.modules["jax"].block_until_ready(value)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def to_numpy(value: Any) -> Any:
    """A result in NumPy arrays: it crosses to a process that knows neither JAX nor torch."""
    if callable(value):
        return to_numpy(value())
    if isinstance(value, dict):
        return {name: to_numpy(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_numpy(part) for part in value]
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def peak_memory() -> int:
    """Bytes of the most memory this process ever held, its interpreter and libraries included."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _environment() -> dict[str, Any]:
    from isometry._internal import provenance

    return provenance.provenance()


class Session:
    """What a worker can be asked for; each request is the name of a method and its arguments."""

    def __init__(self, module: str, method: str | None, parameters: dict[str, Any]):
        self.parameters = parameters
        self.benchmark = importlib.import_module(module).BENCHMARK
        self.method = next((m for m in self.benchmark.methods if m.name == method), None)
        self.call: Callable[[], Any] = lambda: None
        self.reference: Any = None

    def prepare(self) -> dict[str, Any]:
        """Build the call and make it once: the first call compiles. Of a judge: compute the reference."""
        if self.method is None:
            self.reference = self.benchmark.reference(**self.parameters)
            return {}
        try:
            versions = {name: importlib.metadata.version(name) for name in self.method.requires}
            self.call = self.method.make(**self.parameters)
        except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError) as error:
            if error.name not in self.method.requires:
                raise
            return {"absent": error.name}
        return {"versions": versions, "first_call": self.sample(1)["seconds"]}

    def result(self) -> Any:
        """The result of one more call, in NumPy arrays."""
        return to_numpy(self.call())

    def sample(self, repeats: int) -> dict[str, Any]:
        """Seconds per call over `repeats` calls, with the CPU time they cost."""
        cpu, start = time.process_time(), time.perf_counter()
        for _ in range(repeats):
            synchronize(self.call())
        seconds = time.perf_counter() - start
        return {"seconds": seconds / repeats, "cpu": time.process_time() - cpu, "peak_memory": peak_memory()}

    def judge(self, result: Any) -> tuple[float, float]:
        """Error and tolerance of a result; the reference is computed on the first one."""
        if self.reference is None:
            self.prepare()
        error = self.benchmark.error(result, self.reference, **self.parameters)
        return float(error), float(self.benchmark.tolerance(**self.parameters))

    def provenance(self) -> dict[str, Any]:
        """Versions, device and commit, as this process sees them."""
        return _environment()


def main() -> None:
    """Answer requests until the driver hangs up."""
    with Connection(int(sys.argv[1])) as pipe:
        try:
            session = Session(*pipe.recv())
            while True:
                name, *arguments = pipe.recv()
                pipe.send((True, getattr(session, name)(*arguments)))
        except EOFError:
            return
        except BaseException as error:
            import traceback

            traceback.print_exc()
            pipe.send((False, f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    main()
