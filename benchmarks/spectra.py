"""All singular values of a network's Jacobian, over seeds × inputs, against its peers.

T(N, L, B): B Jacobians of a network of L square layers of width N with orthogonal
weights, 4 seeds, to all singular values. Goals are against the better of the two torch
peers (`torch.func` and a product of layers written by hand), both with `svdvals`, and
against plain JAX, in processes where nothing is set. The floor counts
B (2 N³ (L - 1) + 8/3 N³) operations: the product, and a bidiagonalization.
"""

from typing import TYPE_CHECKING, Any

from benchmarks._declare import (
    CORES,
    DEFAULT_PROCESS,
    PLAIN_JAX,
    Benchmark,
    Call,
    Method,
    Rival,
    Task,
    jax_environment,
    torch_environment,
)

if TYPE_CHECKING:
    import numpy as np
    import torch  # pyright: ignore[reportMissingImports]

SEEDS = 4
TORCH = ("torch.func", "torch product")


def draw(
    *, width: int, depth: int, inputs: int, dtype: str
) -> "tuple[np.ndarray, np.ndarray]":
    """Draw weights (seeds, depth, out, in) and inputs (inputs, width).

    They are the same in every process. One Haar matrix a seed, whose rows are permuted
    and signed anew in each layer, is orthogonal and takes a moment.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    q, r = np.linalg.qr(rng.standard_normal((SEEDS, width, width)))
    # Q is Haar distributed if the diagonal of R is positive.
    signs = np.sign(np.diagonal(r, axis1=-2, axis2=-1))
    haar = (q * signs[:, None]).astype(dtype)
    plus_or_minus = np.array([-1, 1], dtype)
    weights = np.empty((SEEDS, depth, width, width), dtype)
    for matrix, layers in zip(haar, weights, strict=True):
        for layer in layers:
            row_signs = rng.choice(plus_or_minus, width)
            layer[:] = (matrix * row_signs[:, None])[rng.permutation(width)]
    xs = rng.standard_normal((inputs, width)).astype(dtype)
    return weights, xs


# ---- methods ----


def ours(*, width: int, depth: int, inputs: int, dtype: str, activation: str) -> Call:
    """Call `isometry.ensemble` as a user does, over all devices of the process."""
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    import isometry
    from isometry import networks

    weights, xs = draw(width=width, depth=depth, inputs=inputs, dtype=dtype)
    # A network's weights are (in, out).
    w = jax.numpy.asarray(weights.swapaxes(-1, -2))
    net = networks.mlp(
        [width] * (depth + 1),
        activation,
        "orthogonal",
        sigma_w=1.0,
        bias=False,
        dtype=dtype,
    )
    first, middle, last = w[:, :1], w[:, 1:-1], w[:, -1:]
    params = {"layers": ({"w": first}, {"w": middle}, {"w": last})}
    devices = jax.devices()
    mesh = None
    if len(devices) > 1:
        mesh = jax.sharding.Mesh(devices, ("devices",))
    return lambda: isometry.ensemble(net, params=params, xs=xs, mesh=mesh).values


def plain_jax(
    *, width: int, depth: int, inputs: int, dtype: str, activation: str
) -> Call:
    """Do what a user writes in five lines: jit of vmap of jacrev, then svd."""
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    import jax.numpy as jnp

    phi = {"tanh": jnp.tanh, "relu": jax.nn.relu}[activation]
    data = draw(width=width, depth=depth, inputs=inputs, dtype=dtype)
    weights, xs = map(jnp.asarray, data)

    def f(ws: jax.Array, x: jax.Array) -> jax.Array:
        first = ws[0] @ x
        return jax.lax.scan(lambda z, w: (w @ phi(z), None), first, ws[1:])[0]

    of_inputs = jax.vmap(jax.jacrev(f, argnums=1), (None, 0))
    jacobians = jax.vmap(of_inputs, (0, None))

    @jax.jit
    def measure(ws: jax.Array, xs: jax.Array) -> jax.Array:
        # By default products on a GPU are off by 1e-4.
        with jax.default_matmul_precision("highest"):
            return jnp.linalg.svd(jacobians(ws, xs), compute_uv=False)

    return lambda: measure(weights, xs)


def torch_func(
    *, width: int, depth: int, inputs: int, dtype: str, activation: str
) -> Call:
    """Do it by `torch.func`: vmap of jacrev over a seed's inputs, then svdvals."""
    import torch  # pyright: ignore[reportMissingImports]

    weights, xs = _tensors(width=width, depth=depth, inputs=inputs, dtype=dtype)
    phi = getattr(torch, activation)

    def f(x: "torch.Tensor", ws: "torch.Tensor") -> "torch.Tensor":
        z = ws[0] @ x
        for w in ws[1:]:
            z = w @ phi(z)
        return z

    jacobians = torch.func.vmap(torch.func.jacrev(f), (0, None))

    def measure() -> "torch.Tensor":
        spectra = [torch.linalg.svdvals(jacobians(xs, ws)) for ws in weights]
        return torch.stack(spectra)

    return measure


def torch_product(
    *, width: int, depth: int, inputs: int, dtype: str, activation: str
) -> Call:
    """Multiply the layers by hand in torch, then svdvals."""
    import torch  # pyright: ignore[reportMissingImports]

    weights, xs = _tensors(width=width, depth=depth, inputs=inputs, dtype=dtype)
    phi = getattr(torch, activation)

    def of_seed(ws: "torch.Tensor") -> "torch.Tensor":
        z = xs @ ws[0].T
        j = ws[0].expand(len(xs), -1, -1)
        for w in ws[1:]:
            h = phi(z)
            if activation == "tanh":
                slope = 1 - h * h
            else:
                slope = (z > 0).to(z.dtype)
            z = h @ w.T
            j = w @ (slope[:, :, None] * j)
        return torch.linalg.svdvals(j)

    return lambda: torch.stack([of_seed(ws) for ws in weights])


def _tensors(
    *, width: int, depth: int, inputs: int, dtype: str
) -> "list[torch.Tensor]":
    """Return weights and inputs as tensors, on a GPU if there is one."""
    import torch  # pyright: ignore[reportMissingImports]

    device = "cpu"
    if torch.cuda.is_available():
        device = "cuda"
    data = draw(width=width, depth=depth, inputs=inputs, dtype=dtype)
    return [torch.as_tensor(array, device=device) for array in data]


# ---- what is right ----


def reference(
    *, width: int, depth: int, inputs: int, dtype: str, activation: str
) -> "np.ndarray":
    """Multiply the layers in float64 with NumPy, from the same rounded weights."""
    import numpy as np

    data = draw(width=width, depth=depth, inputs=inputs, dtype=dtype)
    weights, xs = (array.astype(np.float64) for array in data)
    spectra = np.empty((SEEDS, inputs, width))
    for seed, ws in enumerate(weights):
        z = xs @ ws[0].T
        j = np.broadcast_to(ws[0], (inputs, width, width))
        for w in ws[1:]:
            if activation == "tanh":
                h = np.tanh(z)
                slope = 1 - h * h
            else:
                h = np.maximum(z, 0)
                slope = (z > 0).astype(np.float64)
            z = h @ w.T
            j = w @ (slope[:, :, None] * j)
        spectra[seed] = np.linalg.svd(j, compute_uv=False)
    return spectra


def error(result: "np.ndarray", reference: "np.ndarray", **parameters: Any) -> float:
    """Return the largest |Δs| relative to the largest s of each Jacobian."""
    import numpy as np

    deviation = np.abs(np.asarray(result, np.float64) - reference)
    return float(np.max(deviation / reference[..., :1]))


def tolerance(*, width: int, depth: int, dtype: str, **parameters: Any) -> float:
    """Bound the rounding of L products of order N: √N eps each, adding up."""
    import numpy as np

    return depth * width**0.5 * float(np.finfo(dtype).eps)


# ---- tasks ----


def declare(
    width: int,
    depth: int,
    count: int,
    *,
    goal: float | None,
    dtype: str = "float32",
    activation: str = "tanh",
    goal_of_plain_jax: float | None = None,
) -> Task:
    """Declare T(width, depth, count)."""
    name = f"T({width}, {depth}, {count})"
    if (dtype, activation) != ("float32", "tanh"):
        name += f" {activation} {dtype}"
    product = 2 * width**3 * (depth - 1)
    bidiagonalization = 8 / 3 * width**3
    return Task(
        name,
        parameters={
            "width": width,
            "depth": depth,
            "inputs": count // SEEDS,
            "dtype": dtype,
            "activation": activation,
        },
        goal=goal,
        flop=count * (product + bidiagonalization),
        gemm=(width, dtype),
        against=TORCH,
        rivals=(Rival(PLAIN_JAX, goal=goal_of_plain_jax),),
    )


BENCHMARK = Benchmark(
    question="Is a Jacobian's whole spectrum had faster than with torch, and than a "
    "user's own JAX?",
    tasks=(
        declare(64, 20, 256, goal=2.5, goal_of_plain_jax=1.3),
        declare(128, 50, 64, goal=1.8, goal_of_plain_jax=1.3),
        declare(256, 32, 32, goal=1.6, goal_of_plain_jax=1.3),
        declare(256, 32, 32, goal=1.5, dtype="float64", goal_of_plain_jax=1.3),
        declare(256, 32, 32, goal=2.5, activation="relu", goal_of_plain_jax=2.0),
        declare(400, 100, 8, goal=1.1),
        declare(1000, 100, 4, goal=1.1),
    ),
    smoke=(
        declare(8, 3, 8, goal=None),
        declare(6, 4, 4, goal=None, dtype="float64", activation="relu"),
    ),
    methods=(
        Method("isometry", ours, ours=True, environment=DEFAULT_PROCESS),
        Method(
            "isometry, a device a core",
            ours,
            ours=True,
            environment=jax_environment(devices=CORES),
        ),
        Method(PLAIN_JAX, plain_jax, environment=DEFAULT_PROCESS),
        Method(
            "torch.func",
            torch_func,
            requires=("torch",),
            environment=torch_environment(),
        ),
        Method(
            "torch product",
            torch_product,
            requires=("torch",),
            environment=torch_environment(),
        ),
    ),
    reference=reference,
    error=error,
    tolerance=tolerance,
)
