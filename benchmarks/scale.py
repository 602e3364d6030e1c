"""Time and memory as a measurement grows: curves, of which `_curves` makes a figure.

Perceptrons T(N, L, B) as in `spectra`, along their width, depth, and number of
Jacobians; then a convolutional network and a transformer, whose Jacobians have 10² to
10⁷ entries; and ResNet-18 on an ImageNet picture, all of its 1000 values. That one is
to take at most 1.3 times its 1000 vector-Jacobian products and one factorization, and
4 GB in all.

Every process has one thread of BLAS: more of them spin in factorizations whenever a
core is busy, and would draw bumps. Processes where nothing is set are what `spectra`
compares.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from benchmarks import spectra
from benchmarks._declare import (
    NOBODY,
    PLAIN_JAX,
    Benchmark,
    Call,
    Method,
    Rival,
    Task,
    jax_environment,
)

if TYPE_CHECKING:
    import jax
    import numpy as np

    from benchmarks._models import Model

# Bytes that our measurements of models may take beside their arguments; perceptrons
# are measured with the default, a quarter of the free memory. ResNet-18 needs 2.5e9 at
# least; with its arguments and libraries, 4e9 are then not exceeded.
BUDGET = 3_000_000_000

# Bytes of the process that measures ResNet-18, interpreter and libraries included.
MOST_OF_RESNET = 4_000_000_000

# Directions that a user pulls back at a time. With 1 and with 100 the thousand of
# ResNet-18 take longer.
DIRECTIONS = 10

VJPS = "VJPs and a factorization"


def _make(model: str, dtype: str, **size: int) -> "Model":
    """Make a model, in a process that computes in its type from then on."""
    import jax

    from benchmarks import _models

    jax.config.update("jax_enable_x64", dtype == "float64")
    return _models.MODELS[model](dtype=dtype, **size)


def ours(model: str, dtype: str, **parameters: Any) -> Call:
    """Call `isometry.ensemble` for perceptrons, else `isometry.spectrum`, compiled."""
    if model == "mlp":
        return spectra.ours(dtype=dtype, **parameters)
    import jax

    import isometry

    f, params, x, *_ = _make(model, dtype, **parameters)
    params, x = jax.tree.map(jax.numpy.asarray, (params, x))

    @jax.jit
    def measure(params: Any, x: jax.Array) -> jax.Array:
        return isometry.spectrum(f, params, x, max_bytes=BUDGET).values

    return lambda: measure(params, x)


def plain_jax(model: str, dtype: str, **parameters: Any) -> Call:
    """Do what a user writes: jit of jacrev, then svd."""
    if model == "mlp":
        return spectra.plain_jax(dtype=dtype, **parameters)
    import jax
    import jax.numpy as jnp

    f, params, x, *_ = _make(model, dtype, **parameters)
    params, x = jax.tree.map(jnp.asarray, (params, x))

    @jax.jit
    def measure(params: Any, x: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            jacobian = jax.jacrev(f, argnums=1)(params, x)
            matrix = jacobian.reshape(len(jacobian), -1)
            return jnp.linalg.svd(matrix, compute_uv=False)

    return lambda: measure(params, x)


def _rows(
    f: "Callable[..., jax.Array]", params: Any, x: "jax.Array"
) -> "Callable[[], Iterator[jax.Array]]":
    """Return a function that pulls all directions back, `DIRECTIONS` at a time."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def pull_some(params: Any, x: jax.Array, directions: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            _, pull = jax.vjp(lambda x: f(params, x), x)
            (rows,) = jax.vmap(pull)(directions)
            return rows.reshape(len(directions), -1)

    def pull_all() -> "Iterator[jax.Array]":
        num_outputs = jax.eval_shape(f, params, x).size
        directions = jnp.eye(num_outputs, dtype=x.dtype)
        for start in range(0, num_outputs, DIRECTIONS):
            yield pull_some(params, x, directions[start : start + DIRECTIONS])

    return pull_all


def vjps_and_factorization(model: str, dtype: str, **parameters: Any) -> Call:
    """Pull a few directions at a time back, in a loop; then QR, and the values of R.

    It is what a user writes whose whole Jacobian does not fit into memory at once.
    """
    import jax
    import jax.numpy as jnp

    f, params, x, *_ = _make(model, dtype, **parameters)
    params, x = jax.tree.map(jnp.asarray, (params, x))
    rows = _rows(f, params, x)

    @jax.jit
    def values(jacobian: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            triangle = jnp.linalg.qr(jacobian.T, mode="r")
            return jnp.linalg.svd(triangle, compute_uv=False)

    def measure() -> jax.Array:
        return values(jnp.concatenate(list(rows())))

    return measure


# ---- what is right ----


def reference(model: str, dtype: str, **parameters: Any) -> "np.ndarray":
    """Find the values in float64, from weights that are rounded as those measured.

    Of perceptrons NumPy multiplies the layers; of the others JAX pulls directions back,
    and NumPy factorizes.
    """
    if model == "mlp":
        return spectra.reference(dtype=dtype, **parameters)
    import jax
    import jax.numpy as jnp
    import numpy as np

    f, params, x, *_ = _make(model, dtype, **parameters)
    jax.config.update("jax_enable_x64", True)
    wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (params, x))
    params, x = wide

    jacobian = np.concatenate(list(_rows(f, params, x)()))
    if jacobian.shape[1] > jacobian.shape[0]:
        jacobian = np.linalg.qr(jacobian.T, mode="r")
    return np.linalg.svd(jacobian, compute_uv=False)


def error(result: "np.ndarray", reference: "np.ndarray", **parameters: Any) -> float:
    """Return the largest |Δs| relative to the largest s of each Jacobian."""
    return spectra.error(result, reference, **parameters)


def tolerance(model: str, dtype: str, **parameters: Any) -> float:
    """Bound the rounding of L products of sums of n terms: √n eps each, adding up.

    The factorization of N values adds √N eps.
    """
    if model == "mlp":
        return spectra.tolerance(dtype=dtype, **parameters)
    import numpy as np

    made = _make(model, dtype, **parameters)
    order = made.num_outputs**0.5 + made.depth * made.fan_in**0.5
    return order * float(np.finfo(dtype).eps)


# ---- tasks ----


def perceptron(curve: str, *, width: int, depth: int, count: int) -> Task:
    """Declare T(width, depth, count), as a point of a curve."""
    size = {"width": width, "depth": depth, "Jacobians": count}[curve]
    return Task(
        f"{curve} {size}",
        parameters={
            "model": "mlp",
            "width": width,
            "depth": depth,
            "inputs": count // spectra.SEEDS,
            "dtype": "float32",
            "activation": "tanh",
        },
        methods=("isometry", PLAIN_JAX),
        against=(NOBODY,),
    )


def of_model(model: str, **size: int) -> Task:
    """Declare a model of a size, as a point of the curve of that model."""
    (number,) = size.values()
    return Task(
        f"{model} {number}",
        parameters={"model": model, "dtype": "float32", **size},
        methods=("isometry", PLAIN_JAX),
        against=(NOBODY,),
    )


def resnet18(side: int) -> Task:
    """Declare all values of ResNet-18 at one picture."""
    return Task(
        f"resnet18 {side}",
        parameters={"model": "resnet18", "dtype": "float32", "side": side},
        methods=("isometry", VJPS),
        against=(NOBODY,),
        rivals=(Rival(VJPS, goal=1 / 1.3, least=1 / 1.3),),
        memory=MOST_OF_RESNET,
    )


BENCHMARK = Benchmark(
    question="How do time and memory grow with the size of what is measured?",
    tasks=(
        resnet18(224),
        *(
            perceptron("width", width=width, depth=8, count=4)
            for width in (64, 128, 256, 512, 1024, 2048)
        ),
        *(
            perceptron("depth", width=64, depth=depth, count=16)
            for depth in (4, 16, 64, 250, 1000)
        ),
        *(
            perceptron("Jacobians", width=64, depth=8, count=count)
            for count in (4, 16, 64, 256, 1024, 4096)
        ),
        *(of_model("cnn", side=side) for side in (4, 6, 10, 18, 32, 56)),
        *(of_model("transformer", tokens=tokens) for tokens in (1, 2, 6, 20, 64, 200)),
    ),
    smoke=(
        perceptron("width", width=8, depth=3, count=4),
        of_model("cnn", side=3),
        of_model("transformer", tokens=2),
    ),
    methods=(
        Method("isometry", ours, ours=True, environment=jax_environment()),
        Method(PLAIN_JAX, plain_jax, environment=jax_environment()),
        Method(VJPS, vjps_and_factorization, environment=jax_environment()),
    ),
    reference=reference,
    error=error,
    tolerance=tolerance,
)
