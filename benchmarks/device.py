"""One prepared run on a GPU: is it right there, and how fast? It takes no argument.

`python -m benchmarks.device` runs the tests that a GPU can fail, the rate of a matrix
product, and whole spectra against plain JAX and torch.func, in under six minutes. Each
part has a time limit. `results/device-KIND.json` is written after every part, and names
those that were not reached. On a CPU the sizes are small and the record says so.
"""

import contextlib
import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks import _ceiling, _compare, _run, _suite, spectra
from benchmarks._declare import (
    CORES,
    LEAST_OF_PLAIN_JAX,
    PLAIN_JAX,
    Call,
    Method,
    Record,
    Task,
    jax_environment,
)
from benchmarks._processor import file_name, processor
from benchmarks._run import Say

if TYPE_CHECKING:
    import jax
    import numpy as np

# Workers import the methods by this name, also when this file runs as `__main__`.
MODULE = "benchmarks.device"
RESULTS = pathlib.Path(__file__).with_name("results")
DTYPES = ("float32", "float64")

# Seconds. The limits of the parts of a plan add up to less, and six minutes is more.
WHOLE = 350.0

# Of a race's time, for preparing: a method that takes longer would leave no time for
# rounds; one that compiles slowly needs most of it (8 s of 40 on an H100).
PREPARING = 0.6

# Tests that run at a time: each compiles on a core and holds a context on the GPU.
PROCESSES = max(1, min(8, CORES // 2))

# ---- what is measured ----


@dataclass(frozen=True)
class Plan:
    """What is run, and for how many seconds each part at most.

    Attributes:
        tests: Test files.
        tests_limit: For all of them.
        order: Of the matrices that are multiplied.
        product_limit: For the product in one precision.
        spectra: Tasks, each with its limit.
        rounds: Samples of each method at most.
    """

    tests: tuple[str, ...]
    tests_limit: float
    order: int
    product_limit: float
    spectra: tuple[tuple[Task, float], ...]
    rounds: int


def task(width: int, depth: int, count: int, *, dtype: str) -> Task:
    """Declare T(N, L, B) of spectra.py, tanh and orthogonal, of either precision."""
    declared = spectra.declare(width, depth, count, goal=None, dtype=dtype)
    name = f"T({width}, {depth}, {count}) {dtype}"
    return replace(declared, name=name, gemm=None)


# Factorizations, products and draws are the library's own work on a device; the rest of
# it runs on the host, or is elementwise.
NUMERICAL = (
    "tests/linalg/test_dense.py",
    "tests/linalg/test_product.py",
    "tests/linalg/test_lanczos.py",
    "tests/measure/test_spectrum.py",
    "tests/measure/test_jacobian.py",
    "tests/networks/test_mlp.py",
    "tests/initializers/test_isometric.py",
    "tests/linalg/test_log_spread.py",
    "tests/linalg/test_moments.py",
    "tests/linalg/test_compact.py",
    "tests/linalg/test_factored.py",
    "tests/measure/test_product_method.py",
    "tests/measure/test_lanczos_method.py",
    "tests/measure/test_ensemble.py",
    "tests/test_monitor.py",
    "tests/theory/test_traced.py",
    "tests/initializers/test_convolution.py",
    "tests/initializers/test_laws.py",
)

ON_GPU = Plan(
    tests=NUMERICAL,
    tests_limit=110,
    order=4096,
    product_limit=15,
    spectra=(
        *((task(256, 32, 256, dtype=dtype), 40) for dtype in DTYPES),
        *((task(1024, 100, 16, dtype=dtype), 62) for dtype in DTYPES),
    ),
    rounds=5,
)
ON_CPU = Plan(
    tests=("tests/linalg/test_factored.py",),
    tests_limit=110,
    order=512,
    product_limit=20,
    spectra=(
        *((task(16, 8, 64, dtype=dtype), 45) for dtype in DTYPES),
        *((task(64, 16, 16, dtype=dtype), 45) for dtype in DTYPES),
    ),
    rounds=3,
)


def product(
    *, width: int, depth: int, inputs: int, dtype: str, activation: str
) -> Call:
    """Form the Jacobians as `isometry.ensemble` does, and no more."""
    import jax
    import numpy as np

    multiply = _jacobians(
        width=width, depth=depth, inputs=inputs, dtype=dtype, activation=activation
    )
    checked = _checked(inputs)

    def call() -> "Callable[[], np.ndarray]":
        matrices = jax.block_until_ready(multiply())

        # The harness calls what is returned outside the clock.
        def spectra_of_some() -> np.ndarray:
            some = np.asarray(matrices[:, :checked], np.float64)
            return np.linalg.svd(some, compute_uv=False)

        return spectra_of_some

    return call


def factorization(
    *, width: int, depth: int, inputs: int, dtype: str, activation: str
) -> Call:
    """Find all singular values of Jacobians that are there already."""
    import jax

    from isometry import linalg

    multiply = _jacobians(
        width=width, depth=depth, inputs=inputs, dtype=dtype, activation=activation
    )
    matrices = multiply()
    factorize = jax.jit(linalg.singular_values)
    return lambda: factorize(matrices)


def _jacobians(
    *, width: int, depth: int, inputs: int, dtype: str, activation: str
) -> "Callable[[], jax.Array]":
    """Form Jacobians (seeds, inputs, N, N), by one wide product a layer and seed."""
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    import jax.numpy as jnp

    from isometry import networks
    from isometry.measure import _resolution

    weights, xs = spectra.draw(width=width, depth=depth, inputs=inputs, dtype=dtype)
    net = networks.mlp([width] * (depth + 1), activation, bias=False, dtype=dtype)
    stacked = jnp.asarray(weights.swapaxes(-1, -2))
    first, middle, last = stacked[:, :1], stacked[:, 1:-1], stacked[:, -1:]
    params = {"layers": ({"w": first}, {"w": middle}, {"w": last})}
    points = jnp.asarray(xs)
    one_seed = jax.tree.map(lambda a: a[0], params)
    target = _resolution.resolve(
        net, one_seed, points[0], span="end_to_end", dtype=dtype
    )

    @jax.jit
    def multiply(params: Any, points: jax.Array) -> jax.Array:
        def of_seed(p: Any) -> jax.Array:
            return target.jacobians(p, points)

        return jax.lax.map(of_seed, params)

    return lambda: multiply(params, points)


def _checked(inputs: int) -> int:
    """Count the inputs of each seed that are compared.

    The reference is NumPy's, on the host, and all of them would take minutes.
    """
    return max(1, inputs // 8)


def reference(
    *, width: int, depth: int, inputs: int, dtype: str, activation: str
) -> "np.ndarray":
    """Find the spectra at the first inputs in float64, from the same weights."""
    return spectra.reference(
        width=width,
        depth=depth,
        inputs=_checked(inputs),
        dtype=dtype,
        activation=activation,
    )


def error(result: "np.ndarray", reference: "np.ndarray", **parameters: Any) -> float:
    """Compare the inputs that the reference has: max |Δs| / s_max."""
    import numpy as np

    checked = reference.shape[1]
    return spectra.error(np.asarray(result)[:, :checked], reference)


# What ours is compared with. What they get wrong is not our failure.
PEERS = (PLAIN_JAX, "torch.func")

_RACING = tuple(
    method
    for method in spectra.BENCHMARK.methods
    if method.name in ("isometry", *PEERS)
)
BENCHMARK = replace(
    spectra.BENCHMARK,
    question="How fast and how exact are whole spectra on this device?",
    tasks=tuple(one for one, _ in ON_GPU.spectra),
    smoke=(),
    methods=(
        *_RACING,
        Method("product alone", product),
        Method("factorization alone", factorization),
    ),
    reference=reference,
    error=error,
)


# ---- measuring ----


def race(
    module: str,
    methods: Sequence[Method],
    task: Task,
    *,
    rounds: int,
    deadline: float,
    say: Say,
) -> Record:
    """Measure methods in turn until all rounds are done or the time is up.

    Unlike the harness of `python -m benchmarks`, which stops at the first failure, it
    records what fails, and the others go on. Methods are prepared side by side, so that
    times to compile are upper bounds.

    Args:
        module: Where the workers find the methods and the reference.
        methods: Those that take part.
        task: What they do.
        rounds: Samples of each method at most.
        deadline: A time of `time.monotonic`. Whoever has not answered by then is
            killed.
        say: Called with a line of progress.

    Returns:
        The task, rounds done, and of each method its error, time of the first call,
        median and quartiles of the others; or why it has none.
    """
    now = time.monotonic()
    prepared = now + PREPARING * (deadline - now)
    with contextlib.ExitStack() as stack:

        def start(name: str | None, environment: Mapping[str, str]) -> _run.Worker:
            worker = _run.Worker(
                module, name, task, environment=environment, deadline=prepared
            )
            stack.callback(worker.close)
            worker.send("prepare")
            return worker

        judge = start(None, jax_environment())
        entrants = [
            _run.Entrant(start(method.name, method.environment), {"name": method.name})
            for method in methods
        ]
        judge.receive()
        racing = [entrant for entrant in entrants if _admit(entrant, judge, say)]
        for entrant in racing:
            entrant.worker.deadline = deadline
        done = _take_rounds(racing, rounds, deadline)
    for entrant in racing:
        _summarize(entrant)
    return {
        "parameters": dict(task.parameters),
        "rounds": done,
        "methods": [entrant.record for entrant in entrants],
    }


def _admit(entrant: _run.Entrant, judge: _run.Worker, say: Say) -> bool:
    """Compare the result of a prepared method; return whether it can be timed."""
    worker = entrant.worker
    record = entrant.record
    try:
        record |= worker.receive()
        if "absent" in record:
            say(f"{worker.name}: {record['absent']} is not installed")
            return False
        found, tolerance = judge.ask("judge", worker.ask("result"))
        if math.isnan(found):
            raise _run.BenchmarkFailed(f"{worker.name}: its result holds a NaN")
        record |= {"error": found, "tolerance": tolerance}
        record["accurate"] = found <= tolerance
        seconds = entrant.find_repeats()
    except _run.BenchmarkFailed as failure:
        record["failed"] = str(failure)
        say(f"FAILED: {failure}")
        return False
    say(f"{worker.name}: error {found:.2g} of {tolerance:.2g} allowed, {seconds:.3g} s")
    return True


def _take_rounds(racing: list[_run.Entrant], rounds: int, deadline: float) -> int:
    """Take samples in turn while another round as long as the longest yet fits."""
    longest = 0.0
    for done, order in enumerate(_run.turns(len(racing), rounds)):
        start = time.monotonic()
        if start + longest >= deadline:
            return done
        for index in order:
            entrant = racing[index]
            if "failed" in entrant.record:
                continue
            try:
                entrant.take()
            except _run.BenchmarkFailed as failure:
                entrant.record["failed"] = str(failure)
        longest = max(longest, time.monotonic() - start)
    return rounds


def _summarize(entrant: _run.Entrant) -> None:
    """Put the statistics into a record, of as many samples as there are."""
    if not entrant.samples:
        entrant.record.setdefault("failed", "no round before its time was up")
        return
    entrant.summarize()
    record = entrant.record
    record["compile"] = max(0.0, record["first_call"] - record["median"])


def measure_spectra(task: Task, *, rounds: int, deadline: float, say: Say) -> Record:
    """Race isometry against its peers, with its product and factorization apart."""
    record = race(
        MODULE, BENCHMARK.methods, task, rounds=rounds, deadline=deadline, say=say
    )
    timed = {one["name"]: one for one in record["methods"] if "median" in one}
    peers = [timed[name] for name in PEERS if name in timed]
    ours = timed.get("isometry")
    record["ratios"] = []
    if ours is not None:
        record["ratios"] = [_ratio(ours, peer) for peer in peers]
    for ratio in record["ratios"]:
        say(f"{ratio['median']:.3g} times as fast as {ratio['peer']}")
    if "product alone" in timed:
        width = task.parameters["width"]
        layers = task.parameters["depth"]
        jacobians = spectra.SEEDS * task.parameters["inputs"]
        operations = jacobians * 2 * width**3 * (layers - 1)
        one = timed["product alone"]
        one["gflops"] = operations / one["median"] / 1e9
    return record


def _ratio(ours: Record, peer: Record) -> Record:
    """Divide the times of the rounds that both took part in."""
    both = min(len(ours["seconds"]), len(peer["seconds"]))
    own, theirs = (
        one | {"seconds": one["seconds"][:both], "clean": one["clean"][:both]}
        for one in (ours, peer)
    )
    least = None
    if peer["name"] == PLAIN_JAX:
        least = LEAST_OF_PLAIN_JAX
    return _compare.ratio(own, theirs, least=least)


def measure_product(
    order: int, dtype: str, *, rounds: int, deadline: float, say: Say
) -> Record:
    """Find the rate of JAX's own matrix product at full precision."""
    product = Task(f"GEMM {order} {dtype}", {"order": order, "dtype": dtype})
    methods = [one for one in _ceiling.BENCHMARK.methods if one.name == "GEMM jax"]
    record = race(
        _ceiling.__name__, methods, product, rounds=rounds, deadline=deadline, say=say
    )
    for one in record["methods"]:
        if "median" in one:
            one["gflops"] = 2 * order**3 / one["median"] / 1e9
            say(f"{one['gflops']:.4g} GFLOP/s")
    return record


def measure_tests(files: Sequence[str], *, deadline: float, say: Say) -> Record:
    """Run the numerical tests; what fails is named."""
    # Side by side they share the GPU's memory. All else is for tests/conftest.py to
    # set.
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    record = _suite.run(
        files, deadline=deadline, processes=PROCESSES, environment=shared
    )
    for name in record["failed"]:
        say(f"FAILED: {name}")
    for file, test in record["unfinished"].items():
        say(f"cut short: {file}, at {test}")
    say(f"{record['passed']} passed, {len(record['failed'])} failed")
    return record


# ---- the whole run ----


# The limit of a part in seconds, and what measures it until a deadline.
Part: TypeAlias = tuple[float, Callable[..., Record]]


def parts(plan: Plan, say: Say) -> dict[str, Part]:
    """Name the parts of a plan in order.

    Args:
        plan: Sizes and limits.
        say: Called with a line of progress.

    Returns:
        Of each its limit, and a function of the keyword `deadline`.
    """
    measure = partial(measure_tests, plan.tests, say=say)
    found: dict[str, Part] = {"tests": (plan.tests_limit, measure)}
    for dtype in DTYPES:
        measure = partial(
            measure_product, plan.order, dtype, rounds=plan.rounds, say=say
        )
        found[f"GEMM {dtype}"] = plan.product_limit, measure
    for one, limit in plan.spectra:
        measure = partial(measure_spectra, one, rounds=plan.rounds, say=say)
        found[one.name] = limit, measure
    return found


def run(plan: Plan, path: pathlib.Path, *, provenance: Record, say: Say) -> Record:
    """Run every part of a plan and write the record after each.

    Args:
        plan: Sizes and limits.
        path: Where the record goes.
        provenance: Versions, device and commit, for the record.
        say: Called with a line of progress.

    Returns:
        The record. `parts` holds each part's state ("done", "failed", "not reached"),
        its limit and seconds, and what it measured.
    """
    from isometry import store

    planned = parts(plan, say)
    states = {
        name: {"state": "not reached", "limit": limit}
        for name, (limit, _) in planned.items()
    }
    record = {
        "benchmark": "device",
        "scaled_down": plan is not ON_GPU,
        "processor": processor(),
        "provenance": provenance,
        "parts": states,
    }
    store.write_json(path, record)
    end = time.monotonic() + WHOLE
    for name, (limit, measure) in planned.items():
        start = time.monotonic()
        if start >= end:
            break
        say(f"== {name}, at most {limit:g} s")
        try:
            found = {"state": "done", **measure(deadline=min(start + limit, end))}
        except Exception as failure:
            # A part that breaks must not take the others' results with it.
            found = {
                "state": "failed",
                "failed": f"{type(failure).__name__}: {failure}",
            }
            say(f"FAILED: {found['failed']}")
        states[name] |= found | {"seconds": time.monotonic() - start}
        store.write_json(path, record)
    return record


def is_clean(record: Record) -> bool:
    """Tell whether all is well.

    Every part is complete, every test has passed and every result of ours is right.
    """
    parts = record["parts"].values()
    if any(part["state"] != "done" for part in parts):
        return False
    tests = record["parts"]["tests"]
    if tests["failed"] or tests["unfinished"] or tests["not_reached"]:
        return False
    ours = [
        method
        for part in parts
        for method in part.get("methods", ())
        if method["name"] not in PEERS
    ]
    return all(method.get("accurate") and "median" in method for method in ours)


def failures(record: Record) -> list[str]:
    """Describe each task in which ours is slower than it must be, a line each.

    Tasks that are scaled down are too small to be timed.
    """
    tasks = [
        {"name": name, "ratios": part.get("ratios", []), "methods": []}
        for name, part in record["parts"].items()
    ]
    return _compare.failures({"smoke": record["scaled_down"], "tasks": tasks})


def main() -> int:
    """Run what fits the device of this machine.

    Returns:
        The exit code: 0 if all of it is right, and not slower than plain JAX.
    """
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - start:5.1f} s] {text}", flush=True)

    asked = Task("device", {})
    # The device is a worker's to open: this process holds none of its memory.
    worker = _run.Worker(
        MODULE, None, asked, environment=jax_environment(), deadline=start + 60
    )
    try:
        provenance = worker.ask("provenance")
    finally:
        worker.close()
    device = provenance["device"]
    plan = ON_GPU
    if device["platform"] == "cpu":
        plan = ON_CPU
        say("JAX finds no GPU here: the sizes are scaled down, to show that it runs.")
    path = RESULTS / f"device-{file_name(device['kind'])}.json"
    command = {"command": ["python", "-m", MODULE]}
    record = run(plan, path, provenance=provenance | command, say=say)
    say(f"wrote {path}")
    slower = failures(record)
    for line in slower:
        say(f"FAILED: {line}")
    if slower or not is_clean(record):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
