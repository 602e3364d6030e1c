"""All log singular values of a deep product, to the last digit, against a plain float64 product that loses most.

Gaussian layers of variance 1/N, so that the values lie hundreds to a thousand decades apart. The peer multiplies the
layers in float64 and factorizes the product once: its largest value alone is right, and it is judged by that one. Goal:
at most 3 times its time (a ratio of 1/3). Layers are multiplied `every` at a time before they are factorized; singly is
what is done unless it is asked for.
"""

from collections.abc import Callable
from typing import Any

from benchmarks._declare import Benchmark, Method, Task

Call = Callable[[], Any]


def _layers(order: int, depth: int) -> Any:
    import numpy as np

    return np.random.default_rng(depth).standard_normal((depth, order, order)) / order**0.5


def ours(order: int, depth: int, every: int) -> Call:
    """`linalg.product_log_singular_values`, compiled."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from isometry import linalg

    layers = jax.numpy.asarray(_layers(order, depth))
    measure = jax.jit(lambda layers: linalg.product_log_singular_values(layers, every=every))
    return lambda: measure(layers)


def plain_product(order: int, depth: int, every: int) -> Call:
    """One product after another in a scan, then `jnp.linalg.svd`; the largest value, which is right."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp

    layers = jnp.asarray(_layers(order, depth))

    @jax.jit
    def measure(layers: Any) -> Any:
        product = jax.lax.scan(lambda p, layer: (layer @ p, None), jnp.eye(order), layers)[0]
        return jnp.log(jnp.linalg.svd(product, compute_uv=False)[:1])

    return lambda: measure(layers)


def reference(order: int, depth: int, every: int) -> Any:
    """ln of the largest value by a product rescaled at each layer, ln |det| over N, and all values layer by layer.

    The first two are NumPy's own. The third is ours without groups, which the tests hold against mpmath.
    """
    import jax
    import numpy as np

    jax.config.update("jax_enable_x64", True)
    from isometry import linalg

    layers = _layers(order, depth)
    product, scale = np.eye(order), 0.0
    for layer in layers:
        product = layer @ product
        size = np.linalg.norm(product)
        product, scale = product / size, scale + np.log(size)
    largest = scale + np.log(np.linalg.norm(product, 2))
    mean = np.linalg.slogdet(layers)[1].sum() / order
    return largest, mean, np.asarray(linalg.product_log_singular_values(jax.numpy.asarray(layers), every=1))


def error(result: Any, reference: Any, **parameters: Any) -> float:
    """The largest |Δ ln s|: of the largest value, and where all are given of their mean and of each."""
    import numpy as np

    largest, mean, every_one = reference
    off = [abs(result[0] - largest)]
    if len(result) > 1:
        off += [abs(np.mean(result) - mean), np.max(np.abs(result - every_one))]
    return float(max(off))


def tolerance(every: int, **parameters: Any) -> float:
    """A layer in a group multiplies its condition, of a Gaussian matrix some 10³: 1e-8 up to pairs, 1e-4 beyond."""
    return 1e-8 if every <= 2 else 1e-4


def _task(order: int, depth: int, every: int, goal: float | None) -> Task:
    flop = depth * 2.0 * order**3
    name = f"N={order} L={depth} " + (f"by {every}" if every > 1 else "singly")
    return Task(name, {"order": order, "depth": depth, "every": every}, goal, flop, (order, "float64"))


BENCHMARK = Benchmark(
    question="What does it cost to have every log singular value right, at a thousand decades?",
    tasks=(
        _task(64, 1000, 1, goal=1 / 3),
        _task(64, 1000, 5, goal=1 / 3),
        _task(256, 200, 1, goal=1 / 3),
        _task(256, 200, 2, goal=1 / 3),
        _task(256, 50, 1, goal=None),
    ),
    smoke=(_task(8, 20, 1, goal=None),),
    methods=(Method("isometry", ours, ours=True), Method("plain float64 product", plain_product)),
    reference=reference,
    error=error,
    tolerance=tolerance,
)
