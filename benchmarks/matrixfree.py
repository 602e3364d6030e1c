"""Densities of Jacobians that are never formed: of deep tanh networks against the exact ones, of a convolution net.

T(N, L, B): B Jacobians of a network of L square layers of width N with orthogonal weights, one input for each of B
seeds. Four Lanczos steps from four probes and the smooth distribution behind them (`Spectrum.smooth_cdf`), against all
singular values by `ensemble`. Goal: an eighth of the time, with a Kolmogorov distance of at most 0.02.

The convolution net, 32×32×3, ten layers of 32 channels, is a plain function written with `lax.conv`. Peer: matfree's
bidiagonalization of the same products, 30 steps from a random direction. Goal: ten times as fast, for XLA runs the
transpose of a convolution inside a loop some 20 times slower than outside, and `linalg.Operator.linearized` does not.
"""

import itertools
from collections.abc import Callable
from typing import Any

from benchmarks._declare import Benchmark, Method, Task

Call = Callable[[], Any]
STEPS = 30


def _weights(width: int, depth: int, count: int) -> Any:
    """(seeds, depth, in, out), orthogonal: four Haar matrices, rows and columns shuffled and signed at random."""
    import numpy as np

    rng = np.random.default_rng(0)
    haar = np.linalg.qr(rng.standard_normal((4, width, width)))[0].astype(np.float32)
    weights = np.empty((count, depth, width, width), np.float32)
    for layer in weights.reshape(-1, width, width):
        rows, columns = rng.permutation(width), rng.permutation(width)
        layer[:] = haar[rng.integers(4)][rows][:, columns] * rng.choice(np.array([-1, 1], np.float32), width)
    return weights


def _ensemble(width: int, depth: int, count: int) -> tuple[Any, dict[str, Any]]:
    """A network and what `ensemble` takes."""
    import jax.numpy as jnp

    from isometry import networks

    w = jnp.asarray(_weights(width, depth, count))
    net = networks.mlp([width] * (depth + 1), "tanh", "orthogonal", sigma_w=1.0, bias=False)
    return net, {
        "params": {"layers": tuple({"w": run} for run in (w[:, :1], w[:, 1:-1], w[:, -1:]))},
        "xs": _input(width),
    }


def _input(width: int) -> Any:
    import numpy as np

    return np.random.default_rng(1).standard_normal((1, width)).astype(np.float32)


def _grid() -> Any:
    """Of s: no layer stretches."""
    import numpy as np

    return np.linspace(0, 1, 2001)[1:]


def density(width: int, depth: int, count: int) -> Call:
    """Four steps, four probes, and the distribution on a grid."""
    import jax

    import isometry

    net, given = _ensemble(width, depth, count)
    method, key = isometry.Lanczos(steps=4, probes=4), jax.random.key(0)
    distribution = jax.jit(lambda found: found.smooth_cdf(_grid(), "s").mean((0, 1)))
    return lambda: distribution(isometry.ensemble(net, method=method, key=key, **given))


def exact(width: int, depth: int, count: int) -> Call:
    """All singular values, and their distribution on the same grid."""
    import jax

    import isometry

    net, given = _ensemble(width, depth, count)
    distribution = jax.jit(lambda found: found.cdf(_grid(), "s").mean((0, 1)))
    return lambda: distribution(isometry.ensemble(net, **given))


def _convolutions(width: int, depth: int, channels: int) -> tuple[Callable[..., Any], list[Any], Any]:
    """(f, kernels, x): features last, kernels of fan-in variance; f maps vectors to vectors."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    sizes = [3, *[channels] * (depth - 1), 3]
    kernels = [
        jnp.asarray(rng.standard_normal((3, 3, a, b)) / (9 * a) ** 0.5, jnp.result_type(float))
        for a, b in itertools.pairwise(sizes)
    ]

    def f(kernels: Any, x: Any) -> Any:
        z = x.reshape(1, width, width, 3)
        for i, kernel in enumerate(kernels):
            z = jnp.tanh(z) if i else z
            z = jax.lax.conv_general_dilated(z, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return z.ravel()

    return f, kernels, jnp.asarray(rng.standard_normal(width * width * 3), jnp.result_type(float))


def ours_convolution(width: int, depth: int, channels: int) -> Call:
    """`isometry.spectrum` of the plain function; its largest node."""
    import jax

    import isometry

    f, kernels, x = _convolutions(width, depth, channels)
    method, key = isometry.Lanczos(STEPS, probes=1), jax.random.key(0)
    measure = jax.jit(lambda kernels, x: isometry.spectrum(f, kernels, x, method=method, key=key).log_values)
    return lambda: measure(kernels, x)[0]


def matfree(width: int, depth: int, channels: int) -> Call:
    """`matfree.decomp.bidiag` of the linearized function."""
    import jax
    import jax.numpy as jnp
    from matfree import decomp  # pyright: ignore[reportMissingImports]

    f, kernels, x = _convolutions(width, depth, channels)

    @jax.jit
    def measure(kernels: Any, x: Any) -> Any:
        push = jax.linearize(lambda z: f(kernels, z), x)[1]
        start = jax.random.normal(jax.random.key(0), x.shape)
        small = decomp.bidiag(STEPS)(push, start / jnp.linalg.norm(start)).J_small
        return jnp.log(jnp.linalg.svd(small, compute_uv=False))

    return lambda: measure(kernels, x)[0]


def reference(**parameters: Any) -> Any:
    """All singular values in float64; of the convolution net ln of the largest by ARPACK, in float64 as well."""
    import numpy as np

    if "channels" in parameters:
        return _largest(**parameters)
    weights, x = _weights(**parameters), _input(parameters["width"])[0].astype(np.float64)
    spectra = []
    for layers in weights:
        z, j = x @ layers[0].astype(np.float64), layers[0].astype(np.float64)
        for w in layers[1:].astype(np.float64):
            h = np.tanh(z)
            z, j = h @ w, (j * (1 - h * h)) @ w
        spectra.append(np.linalg.svd(j, compute_uv=False))
    return np.sort(np.concatenate(spectra))


def _largest(width: int, depth: int, channels: int) -> float:
    import jax
    import numpy as np
    from scipy.sparse.linalg import LinearOperator, svds

    jax.config.update("jax_enable_x64", True)
    f, kernels, x = _convolutions(width, depth, channels)
    push = jax.jit(lambda v: jax.jvp(lambda z: f(kernels, z), (x,), (v.ravel().astype(x.dtype),))[1])
    pull = jax.jit(lambda u: jax.vjp(lambda z: f(kernels, z), x)[1](u.ravel())[0])
    make: Any = LinearOperator  # its stubs know neither the keywords nor that there are values
    found: Any = svds(
        make((x.size, x.size), matvec=push, rmatvec=pull, dtype=np.float64),
        k=1,
        v0=np.ones(x.size),
        return_singular_vectors=False,
    )
    return float(np.log(found[0]))


def error(result: Any, reference: Any, **parameters: Any) -> float:
    """The Kolmogorov distance on the grid; |Δ ln s| of the largest value of the convolution net."""
    import numpy as np

    if "channels" in parameters:
        return float(abs(result - reference))
    distribution = np.searchsorted(reference, _grid(), side="right") / len(reference)
    return float(np.max(np.abs(np.asarray(result, np.float64) - distribution)))


def tolerance(**parameters: Any) -> float:
    """0.02, of which the probes' own error is a third; of a largest value 30 steps from a random direction, 0.05."""
    if "channels" in parameters:
        return 0.05
    return 0.02 if parameters["width"] >= 1000 else 0.2


def _density(width: int, depth: int, count: int, goal: float | None) -> Task:
    parameters = {"width": width, "depth": depth, "count": count}
    return Task(f"density of T({width}, {depth}, {count})", parameters, goal, methods=("isometry density", "exact"))


def _net(width: int, depth: int, channels: int, goal: float | None) -> Task:
    parameters = {"width": width, "depth": depth, "channels": channels}
    return Task(f"{STEPS} steps, {width}x{width}x3", parameters, goal, methods=("isometry convolution", "matfree"))


BENCHMARK = Benchmark(
    question="What is gained by not forming the Jacobian?",
    tasks=(_density(1000, 100, 4, goal=8.0), _net(32, 10, 32, goal=10.0)),
    smoke=(_density(64, 4, 4, goal=None), _net(4, 2, 3, goal=None)),
    methods=(
        Method("isometry density", density, ours=True),
        Method("exact", exact),
        Method("isometry convolution", ours_convolution, ours=True),
        Method("matfree", matfree, requires=("matfree",)),
    ),
    reference=reference,
    error=error,
    tolerance=tolerance,
)
