"""A benchmark of milliseconds, with everything that can go wrong in a worker."""

import os
import pathlib
import time

from benchmarks import Benchmark, Method, Task

# The results are wrong without it: a worker's environment must reach it.
ENVIRONMENT = {"FAKE_SCALE": "1"}


def note(name):
    """Append to the file that FAKE_LOG names: the order in which methods are called."""
    if "FAKE_LOG" in os.environ:
        with pathlib.Path(os.environ["FAKE_LOG"]).open("a") as file:
            file.write(name + "\n")


def squares(name, wait, factor=1.0):
    """Make a method that waits, and sums squares outside the clock."""

    def make(n):
        import numpy as np

        x = np.arange(n, dtype=np.float32)
        scale = factor * float(os.environ.get("FAKE_SCALE", "0"))

        def call():
            note(name)
            time.sleep(wait)
            return {"sum": lambda: np.float32(scale) * (x @ x)}

        return call

    return make


def missing(n):
    import no_such_distribution

    return no_such_distribution.squares


def raising(n):
    raise RuntimeError(f"no squares of {n}")


def task(*methods, goal=None):
    return Task("squares", {"n": 100}, goal=goal, flop=200.0, methods=methods)


# Seconds of the methods lie far enough apart for their order to be that of these
# numbers on a busy machine as well.
BENCHMARK = Benchmark(
    question="How fast are sums of squares?",
    tasks=(),
    smoke=(task("ours", "peer", "plain JAX", "missing", goal=1e-9),),
    methods=(
        Method("ours", squares("ours", 0.001), ours=True, environment=ENVIRONMENT),
        Method(
            "slow ours", squares("slow ours", 0.1), ours=True, environment=ENVIRONMENT
        ),
        Method("peer", squares("peer", 0.002), environment=ENVIRONMENT),
        Method("plain JAX", squares("plain JAX", 0.05), environment=ENVIRONMENT),
        Method("missing", missing, requires=("no_such_distribution",)),
        Method("wrong", squares("wrong", 0, 1.1), environment=ENVIRONMENT),
        Method(
            "not a number",
            squares("not a number", 0, float("nan")),
            environment=ENVIRONMENT,
        ),
        Method("without its environment", squares("", 0)),
        Method("dead", lambda n: os._exit(3)),
        Method("hanging", lambda n: time.sleep(60)),
        Method("raising", raising),
    ),
    reference=lambda n: sum(k * k for k in range(n)),
    error=lambda result, reference, n: abs(float(result["sum"]) / reference - 1),
    # float32 sums n terms, each rounded by half an eps.
    tolerance=lambda n: n * 2.0**-24,
)
