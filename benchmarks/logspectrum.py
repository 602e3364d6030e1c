"""All log singular values of a deep product, against a float64 product that loses most.

The layers are Gaussian of variance 1/N, so that the values lie hundreds to a thousand
decades apart, or those of an orthogonal tanh network, nearly isometric. The peer
multiplies them in float64 and factorizes the product once: of Gaussian layers its
largest value alone is right, and it is judged by that one. Layers are multiplied one at
a time before they are factorized, or up to `every`, where their condition allows.
Goals: at most 9 times its time at N = 64 and 7 at N = 256 singly, 3 by groups.
"""

from typing import TYPE_CHECKING, Any

from benchmarks._declare import Benchmark, Call, Method, Task

if TYPE_CHECKING:
    import numpy as np


def _layers(order: int, depth: int, kind: str) -> "np.ndarray":
    """Draw layers, "gaussian" of variance 1 / order or "orthogonal tanh"."""
    import numpy as np

    rng = np.random.default_rng(depth)
    gaussian = rng.standard_normal((depth, order, order)) / order**0.5
    if kind == "gaussian":
        return gaussian
    derivatives = 1 - np.tanh(0.3 * rng.standard_normal((depth, order, 1))) ** 2
    return derivatives * np.linalg.qr(gaussian)[0]


def ours(order: int, depth: int, every: int, kind: str) -> Call:
    """Call `linalg.product_log_singular_values`, compiled."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from isometry import linalg

    layers = jax.numpy.asarray(_layers(order, depth, kind))

    @jax.jit
    def measure(layers: jax.Array) -> jax.Array:
        return linalg.product_log_singular_values(layers, every=every)

    return lambda: measure(layers)


def plain_product(order: int, depth: int, every: int, kind: str) -> Call:
    """Multiply in a scan, then `jnp.linalg.svd`; return the largest value.

    It alone is right.
    """
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp

    layers = jnp.asarray(_layers(order, depth, kind))

    @jax.jit
    def measure(layers: jax.Array) -> jax.Array:
        identity = jnp.eye(order)
        product = jax.lax.scan(lambda p, layer: (layer @ p, None), identity, layers)[0]
        return jnp.log(jnp.linalg.svd(product, compute_uv=False)[:1])

    return lambda: measure(layers)


def reference(
    order: int, depth: int, every: int, kind: str
) -> "tuple[float, float, np.ndarray]":
    """Find log singular values in two ways that are NumPy's, and in one that is ours.

    Returns:
        The largest, by a product that is rescaled at each layer; the mean, as ln |det|
        over N; and all, by ours one layer at a time, which the tests compare with
        mpmath.
    """
    import jax
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    from isometry import linalg

    layers = _layers(order, depth, kind)
    product = np.eye(order)
    log_scale = 0.0
    for layer in layers:
        product = layer @ product
        size = np.linalg.norm(product)
        product = product / size
        log_scale += np.log(size)
    largest = log_scale + np.log(np.linalg.norm(product, 2))
    _, log_determinants = np.linalg.slogdet(layers)
    mean = log_determinants.sum() / order
    singly = linalg.product_log_singular_values(jax.numpy.asarray(layers), every=1)
    return largest, mean, np.asarray(singly)


def error(
    result: "np.ndarray",
    reference: "tuple[float, float, np.ndarray]",
    **parameters: Any,
) -> float:
    """Return the largest |Δ ln s|.

    It is of the largest value and, where all are given, of their mean and of each.
    """
    import numpy as np

    largest, mean, values = reference
    deviations = [abs(result[0] - largest)]
    if len(result) > 1:
        deviations.append(abs(np.mean(result) - mean))
        deviations.append(np.max(np.abs(result - values)))
    return float(max(deviations))


def tolerance(**parameters: Any) -> float:
    """Return 1e-9.

    A group adds at most eps times its condition, which is at most 2^20.
    """
    return 1e-9


def _task(
    order: int,
    depth: int,
    every: int,
    *,
    goal: float | None,
    kind: str = "gaussian",
) -> Task:
    how = f"by up to {every}" if every > 1 else "singly"
    return Task(
        f"{kind} N={order} L={depth} {how}",
        parameters={"order": order, "depth": depth, "every": every, "kind": kind},
        goal=goal,
        flop=depth * 2.0 * order**3,
        gemm=(order, "float64"),
    )


BENCHMARK = Benchmark(
    question="What does it cost to have every log singular value right, at a thousand "
    "decades?",
    tasks=(
        _task(64, 1000, 1, goal=1 / 9),
        _task(64, 1000, 8, goal=1 / 3),
        _task(64, 1000, 8, goal=1 / 3, kind="orthogonal tanh"),
        _task(256, 200, 1, goal=1 / 7),
        _task(256, 200, 8, goal=1 / 3),
        _task(256, 200, 8, goal=1 / 3, kind="orthogonal tanh"),
    ),
    smoke=(_task(8, 20, 1, goal=None),),
    methods=(
        Method("isometry", ours, ours=True),
        Method("plain float64 product", plain_product),
    ),
    reference=reference,
    error=error,
    tolerance=tolerance,
)
