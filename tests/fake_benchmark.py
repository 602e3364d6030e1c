"""A benchmark of milliseconds: what the harness must get right, and everything that can go wrong in a worker."""

import os
import pathlib
import time

from benchmarks import Benchmark, Method, Task


def _note(name):
    """Append to the file that FAKE_LOG names: the order in which methods were called."""
    if "FAKE_LOG" in os.environ:
        with pathlib.Path(os.environ["FAKE_LOG"]).open("a") as file:
            file.write(name + "\n")


def _squares(name, wait, factor=1.0):
    def make(n):
        import numpy as np

        x = np.arange(n, dtype=np.float32)

        def call():
            _note(name)
            time.sleep(wait)
            return {"sum": lambda: np.float32(factor * float(os.environ.get("FAKE_SCALE", "0"))) * (x @ x)}

        return call

    return make


def _missing(n):
    import no_such_distribution

    return no_such_distribution.squares


def _raising(n):
    raise RuntimeError(f"no squares of {n}")


def _task(*methods, goal=None):
    return Task("squares", {"n": 100}, goal=goal, flop=200.0, methods=methods)


_SCALE = {"FAKE_SCALE": "1"}
BENCHMARK = Benchmark(
    question="How fast are sums of squares?",
    tasks=(),
    smoke=(_task("ours", "peer", "slow peer", "missing", goal=1e-9),),
    methods=(
        Method("ours", _squares("ours", 0.001), ours=True, environment=_SCALE),
        Method("peer", _squares("peer", 0.002), environment=_SCALE),
        Method("slow peer", _squares("slow peer", 0.05), environment=_SCALE),
        Method("missing", _missing, requires=("no_such_distribution",)),
        Method("wrong", _squares("wrong", 0, 1.1), environment=_SCALE),
        Method("not a number", _squares("not a number", 0, float("nan")), environment=_SCALE),
        Method("without its environment", _squares("", 0)),
        Method("dead", lambda n: os._exit(3)),
        Method("hanging", lambda n: time.sleep(60)),
        Method("raising", _raising),
    ),
    reference=lambda n: sum(k * k for k in range(n)),
    error=lambda result, reference, n: abs(float(result["sum"]) / reference - 1),
    tolerance=lambda n: n * 2.0**-24,
)
