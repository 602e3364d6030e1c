"""Singular values alone, of a batch of matrices, against torch in two ways.

float32. Goals: twice as fast as `torch.linalg.svdvals` of the batch, whose threads meet
inside each small matrix; no slower than a careful user, who gives every core a share of
the batch and torch one thread. Ours is a batch spread over one XLA device a core: a
batch on one device is factorized one matrix after another.
"""

from typing import TYPE_CHECKING, Any

from benchmarks._declare import (
    CORES,
    Benchmark,
    Call,
    Method,
    Task,
    jax_environment,
    torch_environment,
)

if TYPE_CHECKING:
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]

OURS = "isometry"
WHOLE = "torch as it comes"
SHARED_OUT = "torch, a thread a core"


def _batch(order: int, count: int) -> "np.ndarray":
    """Draw Gaussian matrices of variance 1 / order."""
    import numpy as np

    rng = np.random.default_rng(0)
    matrices = rng.standard_normal((count, order, order)).astype(np.float32)
    return matrices / np.float32(order**0.5)


def ours(order: int, count: int) -> Call:
    """Call `linalg.singular_values`, compiled, on a batch spread over all devices."""
    import jax
    from jax.sharding import PartitionSpec

    from isometry import linalg

    mesh = jax.make_mesh(
        (len(jax.devices()),),
        ("batch",),
        axis_types=(jax.sharding.AxisType.Auto,),
    )
    spec = PartitionSpec("batch")
    sharding = jax.sharding.NamedSharding(mesh, spec)
    matrices = jax.device_put(_batch(order, count), sharding)
    of_share = jax.shard_map(
        linalg.singular_values, mesh=mesh, in_specs=spec, out_specs=spec
    )
    measure = jax.jit(of_share)
    return lambda: measure(matrices)


def torch_whole(order: int, count: int) -> Call:
    """Call `torch.linalg.svdvals` on the batch."""
    import torch  # pyright: ignore[reportMissingImports]

    matrices = _tensor(order, count)
    return lambda: torch.linalg.svdvals(matrices)


def torch_shared_out(order: int, count: int) -> Call:
    """Call it on as many parts as there are cores, each in a thread of its own."""
    from concurrent.futures import ThreadPoolExecutor

    import torch  # pyright: ignore[reportMissingImports]

    parts = torch.tensor_split(_tensor(order, count), CORES)
    pool = ThreadPoolExecutor(CORES)
    return lambda: torch.cat(list(pool.map(torch.linalg.svdvals, parts)))


def _tensor(order: int, count: int) -> "torch.Tensor":
    """Return the batch as a tensor, on a GPU if there is one."""
    import torch  # pyright: ignore[reportMissingImports]

    device = "cpu"
    if torch.cuda.is_available():
        device = "cuda"
    return torch.as_tensor(_batch(order, count), device=device)


def reference(order: int, count: int) -> "np.ndarray":
    """Factorize in float64 with NumPy."""
    import numpy as np

    return np.linalg.svd(_batch(order, count).astype(np.float64), compute_uv=False)


def error(result: "np.ndarray", reference: "np.ndarray", **parameters: Any) -> float:
    """Return the largest |Δs| relative to the largest s of each matrix."""
    import numpy as np

    deviation = np.abs(np.asarray(result, np.float64) - reference)
    return float(np.max(deviation / reference[..., :1]))


def tolerance(order: int, **parameters: Any) -> float:
    """Bound the backward error of a bidiagonalization, some √N eps, by ten of them."""
    import numpy as np

    return 10 * order**0.5 * float(np.finfo(np.float32).eps)


def _tasks(
    order: int, count: int, goals: tuple[float | None, float | None] = (2.0, 1.2)
) -> tuple[Task, ...]:
    """Declare a task for each of the two peers: their threads never meet."""
    bidiagonalization = 8 / 3 * order**3
    return tuple(
        Task(
            f"{count} of N={order}, {peer}",
            parameters={"order": order, "count": count},
            goal=goal,
            flop=count * bidiagonalization,
            gemm=(order, "float32"),
            methods=(OURS, peer),
        )
        for peer, goal in zip((WHOLE, SHARED_OUT), goals, strict=True)
    )


BENCHMARK = Benchmark(
    question="Are singular values alone had faster than from torch?",
    tasks=(*_tasks(64, 64 * CORES), *_tasks(256, 8 * CORES), *_tasks(1000, CORES)),
    smoke=_tasks(8, 2 * CORES, goals=(None, None)),
    methods=(
        Method(OURS, ours, ours=True, environment=jax_environment(devices=CORES)),
        Method(
            WHOLE,
            torch_whole,
            requires=("torch",),
            environment=torch_environment(),
        ),
        Method(
            SHARED_OUT,
            torch_shared_out,
            requires=("torch",),
            environment=torch_environment(threads=1),
        ),
    ),
    reference=reference,
    error=error,
    tolerance=tolerance,
)
