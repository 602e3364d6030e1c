"""Compile time of a measurement against the depth of the network.

One program that measures a Jacobian's spectrum, compiled anew at each call, for a network of 10 and of 1000 layers.
Goal: the deep one compiles in at most 1.25 times the time, for equal layers are scanned.
"""

from collections.abc import Callable
from typing import Any

from benchmarks._declare import Benchmark, Method, Task

Call = Callable[[], Any]


def _weights(width: int, depth: int) -> Any:
    """(depth, in, out), Haar."""
    import numpy as np

    return np.linalg.qr(np.random.default_rng(depth).standard_normal((depth, width, width)))[0].astype(np.float32)


def _input(width: int) -> Any:
    import numpy as np

    return np.random.default_rng(0).standard_normal(width).astype(np.float32)


def compilation(which: int) -> Callable[..., Call]:
    """Compiling the measurement of a network of depths[which] layers; what it measures is had outside the clock."""

    def make(width: int, depths: tuple[int, int], method: str) -> Call:
        import jax

        import isometry
        from isometry import networks

        depth, key, x = depths[which], jax.random.key(0), _input(width)
        net = networks.mlp([width] * (depth + 1), "tanh", "orthogonal", sigma_w=1.0, bias=False)
        w = jax.numpy.asarray(_weights(width, depth))
        params = {"layers": tuple({"w": run} for run in (w[:1], w[1:-1], w[-1:]))}
        how = isometry.Lanczos(steps=width, probes=1) if method == "lanczos" else method

        def compile_anew() -> Call:
            jax.clear_caches()
            measure = jax.jit(lambda params: isometry.spectrum(net, params, x, method=how, key=key).log_values)
            program = measure.lower(params).compile()
            return lambda: {"depth": depth, "log_values": program(params)}

        return compile_anew

    return make


def reference(width: int, depths: tuple[int, int], method: str) -> Any:
    """The singular values of both networks by NumPy in float64."""
    import numpy as np

    found = {}
    for depth in depths:
        first, *others = _weights(width, depth).astype(np.float64)
        z, j = _input(width).astype(np.float64) @ first, first
        for w in others:
            h = np.tanh(z)
            z, j = h @ w, (j * (1 - h * h)) @ w
        found[depth] = np.linalg.svd(j, compute_uv=False)
    return found


def error(result: Any, reference: Any, **parameters: Any) -> float:
    """The largest |Δs| relative to the largest s."""
    import numpy as np

    s = reference[int(result["depth"])]
    return float(np.max(np.abs(np.exp(np.asarray(result["log_values"], np.float64)) - s)) / s[0])


def tolerance(width: int, depths: tuple[int, int], **parameters: Any) -> float:
    """Rounding of L products of order N, √N eps each, adding up; below it a quadrature calls a value zero."""
    import numpy as np

    return max(depths) * width**0.5 * float(np.finfo(np.float32).eps)


def _task(width: int, depths: tuple[int, int], method: str, goal: float | None) -> Task:
    parameters = {"width": width, "depths": depths, "method": method}
    return Task(f"{method}, {depths[0]} and {depths[1]} layers", parameters, goal)


BENCHMARK = Benchmark(
    question="Does compile time stay flat in depth?",
    tasks=tuple(_task(16, (10, 1000), method, 0.8) for method in ("dense", "product", "lanczos")),
    smoke=(_task(4, (4, 8), "dense", None),),
    methods=(Method("deep network", compilation(1), ours=True), Method("shallow network", compilation(0))),
    reference=reference,
    error=error,
    tolerance=tolerance,
)
