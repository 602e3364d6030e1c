"""Compile time of a measurement against the depth of the network.

One program that measures a Jacobian's spectrum, compiled anew at each call, for a
network of 10 and of 1000 layers. Goal: the deep one compiles in at most 1.25 times the
time, for equal layers are scanned.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from benchmarks._declare import Benchmark, Call, Method, Record, Task

if TYPE_CHECKING:
    import numpy as np


def _weights(width: int, depth: int) -> "np.ndarray":
    """Draw orthogonal weights (depth, in, out)."""
    import numpy as np

    gaussian = np.random.default_rng(depth).standard_normal((depth, width, width))
    return np.linalg.qr(gaussian)[0].astype(np.float32)


def _input(width: int) -> "np.ndarray":
    import numpy as np

    return np.random.default_rng(0).standard_normal(width).astype(np.float32)


def compilation(which: int) -> Callable[..., Call]:
    """Make a method that compiles the measurement of a network of depths[which] layers.

    What the program measures is computed outside the clock.
    """

    def make(width: int, depths: tuple[int, int], method: str) -> Call:
        import jax

        import isometry
        from isometry import networks

        depth = depths[which]
        key = jax.random.key(0)
        x = _input(width)
        net = networks.mlp(
            [width] * (depth + 1), "tanh", "orthogonal", sigma_w=1.0, bias=False
        )
        w = jax.numpy.asarray(_weights(width, depth))
        params = {"layers": ({"w": w[:1]}, {"w": w[1:-1]}, {"w": w[-1:]})}
        chosen: str | isometry.Lanczos = method
        if method == "lanczos":
            chosen = isometry.Lanczos(steps=width, probes=1)

        def log_values(params: Mapping[str, Any]) -> jax.Array:
            spectrum = isometry.spectrum(net, params, x, method=chosen, key=key)
            return spectrum.log_values

        def compile_anew() -> Callable[[], Record]:
            jax.clear_caches()
            # Each time another function, so that nothing of the last call is found.
            measure = jax.jit(lambda params: log_values(params))
            program = measure.lower(params).compile()
            return lambda: {"depth": depth, "log_values": program(params)}

        return compile_anew

    return make


def reference(
    width: int, depths: tuple[int, int], method: str
) -> "dict[int, np.ndarray]":
    """Find the singular values of both networks by NumPy in float64."""
    import numpy as np

    values = {}
    for depth in depths:
        first, *others = _weights(width, depth).astype(np.float64)
        z = _input(width).astype(np.float64) @ first
        j = first
        for w in others:
            h = np.tanh(z)
            z = h @ w
            j = (j * (1 - h * h)) @ w
        values[depth] = np.linalg.svd(j, compute_uv=False)
    return values


def error(
    result: Record, reference: "Mapping[int, np.ndarray]", **parameters: Any
) -> float:
    """Return the largest |Δs| relative to the largest s."""
    import numpy as np

    right = reference[int(result["depth"])]
    values = np.exp(np.asarray(result["log_values"], np.float64))
    return float(np.max(np.abs(values - right)) / right[0])


def tolerance(*, width: int, depths: tuple[int, int], **parameters: Any) -> float:
    """Bound the rounding of L products of order N: √N eps each, adding up.

    A quadrature calls a value below it zero.
    """
    import numpy as np

    return max(depths) * width**0.5 * float(np.finfo(np.float32).eps)


def _task(
    width: int, depths: tuple[int, int], method: str, *, goal: float | None
) -> Task:
    shallow, deep = depths
    return Task(
        f"{method}, {shallow} and {deep} layers",
        parameters={"width": width, "depths": depths, "method": method},
        goal=goal,
    )


BENCHMARK = Benchmark(
    question="Does compile time stay flat in depth?",
    tasks=tuple(
        _task(16, (10, 1000), method, goal=0.8)
        for method in ("dense", "product", "lanczos")
    ),
    smoke=(_task(4, (4, 8), "dense", goal=None),),
    methods=(
        Method("deep network", compilation(1), ours=True),
        Method("shallow network", compilation(0)),
    ),
    reference=reference,
    error=error,
    tolerance=tolerance,
)
