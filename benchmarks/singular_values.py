"""Singular values alone, of a batch of matrices, against torch as it comes and against torch with a thread a core.

float32. Goals: twice as fast as `torch.linalg.svdvals` of the batch, whose threads meet inside each small matrix; no
slower than a careful user, who gives every core a share of the batch and torch one thread. Ours is a batch spread over
one XLA device a core: a batch on one device is factorized one matrix after another.
"""

from collections.abc import Callable
from typing import Any

from benchmarks._declare import CORES, Benchmark, Method, Task, jax_environment, torch_environment

Call = Callable[[], Any]


def _batch(order: int, count: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).standard_normal((count, order, order)).astype(np.float32) / np.float32(order**0.5)


def ours(order: int, count: int) -> Call:
    """`linalg.singular_values`, compiled, on a batch spread over all devices."""
    import jax
    from jax.sharding import PartitionSpec

    from isometry import linalg

    mesh = jax.make_mesh((len(jax.devices()),), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = PartitionSpec("batch")
    matrices = jax.device_put(_batch(order, count), jax.sharding.NamedSharding(mesh, spec))
    measure = jax.jit(jax.shard_map(linalg.singular_values, mesh=mesh, in_specs=spec, out_specs=spec))
    return lambda: measure(matrices)


def torch_whole(order: int, count: int) -> Call:
    """`torch.linalg.svdvals` of the batch."""
    import torch  # pyright: ignore[reportMissingImports]

    matrices = _tensor(order, count)
    return lambda: torch.linalg.svdvals(matrices)


def torch_shared_out(order: int, count: int) -> Call:
    """The batch in as many parts as there are cores, each in a Python thread with one torch thread."""
    from concurrent.futures import ThreadPoolExecutor

    import torch  # pyright: ignore[reportMissingImports]

    parts, pool = torch.tensor_split(_tensor(order, count), CORES), ThreadPoolExecutor(CORES)
    return lambda: torch.cat(list(pool.map(torch.linalg.svdvals, parts)))


def _tensor(order: int, count: int) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    return torch.as_tensor(_batch(order, count), device="cuda" if torch.cuda.is_available() else "cpu")


def reference(order: int, count: int) -> Any:
    """NumPy's, in float64."""
    import numpy as np

    return np.linalg.svd(_batch(order, count).astype(np.float64), compute_uv=False)


def error(result: Any, reference: Any, **parameters: Any) -> float:
    """The largest |Δs| relative to the largest s of each matrix."""
    import numpy as np

    return float(np.max(np.abs(np.asarray(result, np.float64) - reference) / reference[..., :1]))


def tolerance(order: int, **parameters: Any) -> float:
    """Backward error of a bidiagonalization: some √N eps; 10 of them."""
    import numpy as np

    return 10 * order**0.5 * float(np.finfo(np.float32).eps)


def _tasks(order: int, count: int, goals: tuple[float | None, float | None] = (2.0, 1.2)) -> tuple[Task, ...]:
    parameters, flop = {"order": order, "count": count}, count * 8 / 3 * order**3
    names = ("torch as it comes", "torch, a thread a core")
    return tuple(
        Task(f"{count} of N={order}, {name}", parameters, goal, flop, (order, "float32"), ("isometry", name))
        for name, goal in zip(names, goals, strict=True)
    )


BENCHMARK = Benchmark(
    question="Are singular values alone had faster than from torch?",
    tasks=(*_tasks(64, 64 * CORES), *_tasks(256, 8 * CORES), *_tasks(1000, CORES)),
    smoke=_tasks(8, 2 * CORES, goals=(None, None)),
    methods=(
        Method("isometry", ours, ours=True, environment=jax_environment(devices=CORES)),
        Method("torch as it comes", torch_whole, requires=("torch",), environment=torch_environment()),
        Method(
            "torch, a thread a core", torch_shared_out, requires=("torch",), environment=torch_environment(threads=1)
        ),
    ),
    reference=reference,
    error=error,
    tolerance=tolerance,
)
