"""Densities of Jacobians that are never formed, against exact ones and against matfree.

T(N, L, B): B Jacobians of a tanh network of L square layers of width N with orthogonal
weights, one input for each of B seeds. Four Lanczos steps from four probes and the
smooth distribution behind them (`Spectrum.smooth_cdf`), against all singular values by
`ensemble`. Goal: an eighth of the time, with a Kolmogorov distance of at most 0.02.

The convolution net, 32×32×3, ten layers of 32 channels, is a plain function written
with `lax.conv`. Peer: matfree's bidiagonalization of the same products, 30 steps from a
random direction. Goal: ten times as fast, for XLA runs the transpose of a convolution
inside a loop some 20 times slower than outside, and `linalg.Operator.linearized` avoids
that.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from benchmarks._declare import Benchmark, Call, Method, Task

if TYPE_CHECKING:
    import jax
    import numpy as np

    from isometry.networks._mlp import Mlp

# A network as a plain function of its kernels and a vector.
Function: TypeAlias = "Callable[[Sequence[jax.Array], jax.Array], jax.Array]"

# Lanczos steps of the convolution net, as many for the peer. Each is two products.
# After 30 the largest value is off by 1e-7 (results/matrixfree.json).
STEPS = 30


# ---- deep networks ----


def _weights(width: int, depth: int, count: int) -> "np.ndarray":
    """Draw orthogonal weights (seeds, depth, in, out).

    They are four Haar matrices, with rows and columns permuted and signed at random.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    gaussian = rng.standard_normal((4, width, width))
    haar = np.linalg.qr(gaussian)[0].astype(np.float32)
    plus_or_minus = np.array([-1, 1], np.float32)
    weights = np.empty((count, depth, width, width), np.float32)
    for layer in weights.reshape(-1, width, width):
        rows = rng.permutation(width)
        columns = rng.permutation(width)
        permuted = haar[rng.integers(4)][rows][:, columns]
        layer[:] = permuted * rng.choice(plus_or_minus, width)
    return weights


def _ensemble(width: int, depth: int, count: int) -> "tuple[Mlp, dict[str, Any]]":
    """Return a network, and the parameters and inputs that `ensemble` takes."""
    import jax.numpy as jnp

    from isometry import networks

    w = jnp.asarray(_weights(width, depth, count))
    net = networks.mlp(
        [width] * (depth + 1), "tanh", "orthogonal", sigma_w=1.0, bias=False
    )
    first, middle, last = w[:, :1], w[:, 1:-1], w[:, -1:]
    params = {"layers": ({"w": first}, {"w": middle}, {"w": last})}
    return net, {"params": params, "xs": _input(width)}


def _input(width: int) -> "np.ndarray":
    import numpy as np

    return np.random.default_rng(1).standard_normal((1, width)).astype(np.float32)


def _grid() -> "np.ndarray":
    """Return values of s up to 1, which none exceeds: no layer stretches."""
    import numpy as np

    return np.linspace(0, 1, 2001)[1:]


def density(width: int, depth: int, count: int) -> Call:
    """Take four steps from four probes, and the distribution on the grid."""
    import jax

    import isometry

    net, given = _ensemble(width, depth, count)
    method = isometry.Lanczos(steps=4, probes=4)
    key = jax.random.key(0)

    @jax.jit
    def distribution(spectra: isometry.Spectrum) -> jax.Array:
        return spectra.smooth_cdf(_grid(), "s").mean((0, 1))

    return lambda: distribution(isometry.ensemble(net, method=method, key=key, **given))


def exact(width: int, depth: int, count: int) -> Call:
    """Find all singular values, and their distribution on the same grid."""
    import jax

    import isometry

    net, given = _ensemble(width, depth, count)

    @jax.jit
    def distribution(spectra: isometry.Spectrum) -> jax.Array:
        return spectra.cdf(_grid(), "s").mean((0, 1))

    return lambda: distribution(isometry.ensemble(net, **given))


# ---- a convolution net ----


def _convolutions(
    width: int, depth: int, channels: int
) -> "tuple[Function, list[jax.Array], jax.Array]":
    """Return the net, its kernels and an input.

    Features are last. Kernels are Gaussian, of variance 1 / fan_in. The function maps
    vectors to vectors.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    dtype = jnp.result_type(float)
    sizes = [3, *[channels] * (depth - 1), 3]
    kernels = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        gaussian = rng.standard_normal((3, 3, fan_in, fan_out))
        kernels.append(jnp.asarray(gaussian / (9 * fan_in) ** 0.5, dtype))

    def convolve(z: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            z,
            kernel,
            window_strides=(1, 1),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def f(kernels: Sequence[jax.Array], x: jax.Array) -> jax.Array:
        first, *others = kernels
        z = convolve(x.reshape(1, width, width, 3), first)
        for kernel in others:
            z = convolve(jnp.tanh(z), kernel)
        return z.ravel()

    x = jnp.asarray(rng.standard_normal(width * width * 3), dtype)
    return f, kernels, x


def ours_convolution(width: int, depth: int, channels: int) -> Call:
    """Measure the plain function by `isometry.spectrum`; return its largest node."""
    import jax

    import isometry

    f, kernels, x = _convolutions(width, depth, channels)
    method = isometry.Lanczos(STEPS, probes=1)
    key = jax.random.key(0)

    @jax.jit
    def measure(kernels: Sequence[jax.Array], x: jax.Array) -> jax.Array:
        return isometry.spectrum(f, kernels, x, method=method, key=key).log_values

    return lambda: measure(kernels, x)[0]


def matfree(width: int, depth: int, channels: int) -> Call:
    """Call `matfree.decomp.bidiag` on the linearized function."""
    import jax
    import jax.numpy as jnp
    from matfree import decomp  # pyright: ignore[reportMissingImports]

    f, kernels, x = _convolutions(width, depth, channels)

    @jax.jit
    def measure(kernels: Sequence[jax.Array], x: jax.Array) -> jax.Array:
        push = jax.linearize(lambda z: f(kernels, z), x)[1]
        start = jax.random.normal(jax.random.key(0), x.shape)
        found = decomp.bidiag(STEPS)(push, start / jnp.linalg.norm(start))
        # An array here; other decompositions have several.
        small = cast("jax.Array", found.J_small)
        return jnp.log(jnp.linalg.svd(small, compute_uv=False))

    return lambda: measure(kernels, x)[0]


# ---- what is right ----


def reference(**parameters: Any) -> "np.ndarray":
    """Return what is right in float64.

    Returns:
        All singular values in order, of deep networks; ln of the largest, of the
        convolution net.
    """
    import numpy as np

    if "channels" in parameters:
        return _largest(**parameters)
    weights = _weights(**parameters)
    x = _input(parameters["width"])[0].astype(np.float64)
    spectra = []
    for layers in weights:
        first = layers[0].astype(np.float64)
        z = x @ first
        j = first
        for w in layers[1:].astype(np.float64):
            h = np.tanh(z)
            z = h @ w
            j = (j * (1 - h * h)) @ w
        spectra.append(np.linalg.svd(j, compute_uv=False))
    return np.sort(np.concatenate(spectra))


def _largest(width: int, depth: int, channels: int) -> "np.ndarray":
    """Find ln of the largest singular value by ARPACK, in float64."""
    import jax
    import numpy as np
    from scipy.sparse.linalg import LinearOperator, svds

    jax.config.update("jax_enable_x64", True)
    f, kernels, x = _convolutions(width, depth, channels)

    def of_input(z: jax.Array) -> jax.Array:
        return f(kernels, z)

    @jax.jit
    def push(v: jax.Array) -> jax.Array:
        tangent = v.ravel().astype(x.dtype)
        return jax.jvp(of_input, (x,), (tangent,))[1]

    @jax.jit
    def pull(u: jax.Array) -> jax.Array:
        (cotangent,) = jax.vjp(of_input, x)[1](u.ravel())
        return cotangent

    # SciPy's stubs know neither the keywords nor that there are values.
    make: Any = LinearOperator
    operator = make((x.size, x.size), matvec=push, rmatvec=pull, dtype=np.float64)
    start = np.ones(x.size)
    values: Any = svds(operator, k=1, v0=start, return_singular_vectors=False)
    return np.log(values[0])


def error(result: "np.ndarray", reference: "np.ndarray", **parameters: Any) -> float:
    """Return the Kolmogorov distance on the grid; |Δ ln s| of the convolution net."""
    import numpy as np

    if "channels" in parameters:
        return float(abs(result - reference))
    counts = np.searchsorted(reference, _grid(), side="right")
    distribution = counts / len(reference)
    return float(np.max(np.abs(np.asarray(result, np.float64) - distribution)))


def tolerance(**parameters: Any) -> float:
    """Return how far a distribution, or a largest value, may be off.

    The distribution by 0.02, of which the probes' own error is a third; the largest
    value after 30 steps from a random direction by 0.05.
    """
    if "channels" in parameters:
        return 0.05
    if parameters["width"] >= 1000:
        return 0.02
    # Smoke tasks are narrow, and the probes' error grows as one over the root of the
    # width.
    return 0.2


# ---- tasks ----


def _density(width: int, depth: int, count: int, *, goal: float | None) -> Task:
    return Task(
        f"density of T({width}, {depth}, {count})",
        parameters={"width": width, "depth": depth, "count": count},
        goal=goal,
        methods=("isometry density", "exact"),
    )


def _net(width: int, depth: int, channels: int, *, goal: float | None) -> Task:
    return Task(
        f"{STEPS} steps, {width}x{width}x3",
        parameters={"width": width, "depth": depth, "channels": channels},
        goal=goal,
        methods=("isometry convolution", "matfree"),
    )


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
