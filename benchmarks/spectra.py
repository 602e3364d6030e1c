"""All singular values of the input-output Jacobian, over seeds × inputs, against torch and the plain JAX of a user.

T(N, L, B): B Jacobians of a network of L square layers of width N with orthogonal weights, 4 seeds, to all singular
values. Goals are against the better of the two torch peers (`torch.func` and a product of layers written by hand), both
with `svdvals`, and against plain JAX, in processes where nothing is set. The floor counts
B (2 N³ (L - 1) + 8/3 N³) operations: the product, and a bidiagonalization.
"""

from collections.abc import Callable
from typing import Any

from benchmarks._declare import (
    CORES,
    DEFAULT_PROCESS,
    Benchmark,
    Method,
    Rival,
    Task,
    jax_environment,
    torch_environment,
)

Call = Callable[[], Any]
SEEDS = 4
TORCH = ("torch.func", "torch product")

# What a user has without the toolkit. A task that is slower than it by more than what
# rounds differ among themselves fails the run.
PLAIN = "plain JAX"
LEAST = 0.95


def _data(width: int, depth: int, inputs: int, dtype: str) -> tuple[Any, Any]:
    """Weights (seeds, depth, out, in) and inputs (inputs, width), the same in every process.

    One Haar matrix a seed, its rows permuted and signed anew in each layer: orthogonal, and had in a moment.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    q, r = np.linalg.qr(rng.standard_normal((SEEDS, width, width)))
    q = (q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[:, None]).astype(dtype)
    weights = np.empty((SEEDS, depth, width, width), dtype)
    for seed in range(SEEDS):
        for layer in weights[seed]:
            layer[:] = (q[seed] * rng.choice(np.array([-1, 1], dtype), width)[:, None])[rng.permutation(width)]
    return weights, rng.standard_normal((inputs, width)).astype(dtype)


def ours(width: int, depth: int, inputs: int, dtype: str, activation: str) -> Call:
    """`isometry.ensemble` as a user calls it, over all devices of the process."""
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    import isometry
    from isometry import networks

    weights, xs = _data(width, depth, inputs, dtype)
    w = jax.numpy.asarray(weights.swapaxes(-1, -2))
    net = networks.mlp([width] * (depth + 1), activation, "orthogonal", sigma_w=1.0, bias=False, dtype=dtype)
    params = {"layers": tuple({"w": run} for run in (w[:, :1], w[:, 1:-1], w[:, -1:]))}
    devices = jax.devices()
    mesh = jax.sharding.Mesh(devices, ("devices",)) if len(devices) > 1 else None
    return lambda: isometry.ensemble(net, params=params, xs=xs, mesh=mesh).values


def plain_jax(width: int, depth: int, inputs: int, dtype: str, activation: str) -> Call:
    """What a user writes in five lines: jit of vmap of jacrev, then svd."""
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    import jax.numpy as jnp

    phi = {"tanh": jnp.tanh, "relu": jax.nn.relu}[activation]
    weights, xs = (jnp.asarray(a) for a in _data(width, depth, inputs, dtype))

    def f(ws: Any, x: Any) -> Any:
        return jax.lax.scan(lambda z, w: (w @ phi(z), None), ws[0] @ x, ws[1:])[0]

    jacobians = jax.vmap(jax.vmap(jax.jacrev(f, argnums=1), (None, 0)), (0, None))

    @jax.jit
    def measure(ws: Any, xs: Any) -> Any:
        with jax.default_matmul_precision("highest"):  # on a GPU products are off by 1e-4 otherwise
            return jnp.linalg.svd(jacobians(ws, xs), compute_uv=False)

    return lambda: measure(weights, xs)


def torch_func(width: int, depth: int, inputs: int, dtype: str, activation: str) -> Call:
    """`torch.func`: vmap of jacrev over the inputs of each seed, then svdvals."""
    import torch  # pyright: ignore[reportMissingImports]

    weights, xs, phi = _torch(width, depth, inputs, dtype, activation)

    def f(x: Any, ws: Any) -> Any:
        z = ws[0] @ x
        for w in ws[1:]:
            z = w @ phi(z)
        return z

    jacobians = torch.func.vmap(torch.func.jacrev(f), (0, None))
    return lambda: torch.stack([torch.linalg.svdvals(jacobians(xs, ws)) for ws in weights])


def torch_product(width: int, depth: int, inputs: int, dtype: str, activation: str) -> Call:
    """The layers' product written by hand in torch, then svdvals."""
    import torch  # pyright: ignore[reportMissingImports]

    weights, xs, phi = _torch(width, depth, inputs, dtype, activation)

    def of_seed(ws: Any) -> Any:
        z, j = xs @ ws[0].T, ws[0].expand(len(xs), -1, -1)
        for w in ws[1:]:
            h = phi(z)
            slope = 1 - h * h if activation == "tanh" else (z > 0).to(z.dtype)
            z, j = h @ w.T, w @ (slope[:, :, None] * j)
        return torch.linalg.svdvals(j)

    return lambda: torch.stack([of_seed(ws) for ws in weights])


def _torch(width: int, depth: int, inputs: int, dtype: str, activation: str) -> tuple[Any, Any, Any]:
    import torch  # pyright: ignore[reportMissingImports]

    where = "cuda" if torch.cuda.is_available() else "cpu"
    weights, xs = (torch.as_tensor(a, device=where) for a in _data(width, depth, inputs, dtype))
    return weights, xs, {"tanh": torch.tanh, "relu": torch.relu}[activation]


def reference(width: int, depth: int, inputs: int, dtype: str, activation: str) -> Any:
    """Products of layers in float64 with NumPy, from the same rounded weights."""
    import numpy as np

    weights, xs = (a.astype(np.float64) for a in _data(width, depth, inputs, dtype))
    spectra = np.empty((SEEDS, inputs, width))
    for seed, ws in enumerate(weights):
        z, j = xs @ ws[0].T, np.broadcast_to(ws[0], (inputs, width, width))
        for w in ws[1:]:
            h = np.tanh(z) if activation == "tanh" else np.maximum(z, 0)
            slope = 1 - h * h if activation == "tanh" else (z > 0).astype(np.float64)
            z, j = h @ w.T, w @ (slope[:, :, None] * j)
        spectra[seed] = np.linalg.svd(j, compute_uv=False)
    return spectra


def error(result: Any, reference: Any, **parameters: Any) -> float:
    """The largest |Δs| relative to the largest s of each Jacobian."""
    import numpy as np

    return float(np.max(np.abs(np.asarray(result, np.float64) - reference) / reference[..., :1]))


def tolerance(width: int, depth: int, dtype: str, **parameters: Any) -> float:
    """Rounding of L products of order N, √N eps each, adding up."""
    import numpy as np

    return depth * width**0.5 * float(np.finfo(dtype).eps)


def _task(
    width: int,
    depth: int,
    count: int,
    goal: float | None,
    dtype: str = "float32",
    activation: str = "tanh",
    rivals: tuple[Rival, ...] = (),
) -> Task:
    parameters = {"width": width, "depth": depth, "inputs": count // SEEDS, "dtype": dtype, "activation": activation}
    flop = count * (2 * width**3 * (depth - 1) + 8 / 3 * width**3)
    kind = "" if (dtype, activation) == ("float32", "tanh") else f" {activation} {dtype}"
    return Task(
        f"T({width}, {depth}, {count}){kind}",
        parameters,
        goal,
        flop=flop,
        gemm=(width, dtype),
        against=TORCH,
        rivals=rivals,
    )


_FASTER = (Rival(PLAIN, goal=1.3, least=LEAST),)
_NOT_SLOWER = (Rival(PLAIN, least=LEAST),)

BENCHMARK = Benchmark(
    question="Is a Jacobian's whole spectrum had faster than with torch, and than a user's own JAX?",
    tasks=(
        _task(64, 20, 256, goal=2.5, rivals=_FASTER),
        _task(128, 50, 64, goal=1.8, rivals=_FASTER),
        _task(256, 32, 32, goal=1.6, rivals=_FASTER),
        _task(256, 32, 32, goal=1.5, dtype="float64", rivals=_FASTER),
        _task(256, 32, 32, goal=2.5, activation="relu", rivals=_FASTER),
        _task(400, 100, 8, goal=1.1, rivals=_NOT_SLOWER),
        _task(1000, 100, 4, goal=1.1, rivals=_NOT_SLOWER),
    ),
    smoke=(_task(8, 3, 8, goal=None), _task(6, 4, 4, goal=None, dtype="float64", activation="relu")),
    methods=(
        Method("isometry", ours, ours=True, environment=DEFAULT_PROCESS),
        Method("isometry, a device a core", ours, ours=True, environment=jax_environment(devices=CORES)),
        Method(PLAIN, plain_jax, environment=DEFAULT_PROCESS),
        Method("torch.func", torch_func, requires=("torch",), environment=torch_environment()),
        Method("torch product", torch_product, requires=("torch",), environment=torch_environment()),
    ),
    reference=reference,
    error=error,
    tolerance=tolerance,
)
