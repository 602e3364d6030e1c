"""The rate of a plain matrix product, which no method built on products can pass.

It is measured as a guest of other benchmarks, in their rounds, for each layout of the
operands: a layer is applied by `a b`, its transpose by `a bᵀ`, and the gradient of its
weights is `aᵀ b`. A library may be slower in one of them than in another.
"""

import functools
from typing import TYPE_CHECKING, TypeVar

from benchmarks._declare import CORES, Benchmark, Call, Method, jax_environment

if TYPE_CHECKING:
    import jax
    import numpy as np

# Of NumPy's arrays or of JAX's, one kind at a time.
Array = TypeVar("Array", "np.ndarray", "jax.Array")

_BLAS = jax_environment(blas_threads=CORES) | {"OMP_NUM_THREADS": str(CORES)}

# What stands behind the library in the name of a method, and the layout that it is of.
LAYOUTS = {"": "a b", ", b transposed": "a bᵀ", ", a transposed": "aᵀ b"}


def layout(method: str) -> str:
    """Return the layout of the operands that a method of this file multiplies."""
    _, comma, transposed = method.partition(",")
    return LAYOUTS[comma + transposed]


def _factors(order: int, dtype: str) -> "tuple[np.ndarray, np.ndarray]":
    """Draw a and b, row by row in memory."""
    import numpy as np

    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, order, order)).astype(dtype)
    return a, b


def _transpose(a: Array, b: Array, layout: str) -> tuple[Array, Array]:
    """Transpose the operand that a layout has transposed, as a view."""
    if layout == "a bᵀ":
        return a, b.T
    if layout == "aᵀ b":
        return a.T, b
    return a, b


def _stored(layout: str, order: int, dtype: str) -> "tuple[np.ndarray, np.ndarray]":
    """Return a and b as a layout has them in memory."""
    import numpy as np

    a, b = _transpose(*_factors(order, dtype), layout)
    return np.ascontiguousarray(a), np.ascontiguousarray(b)


def _numpy(order: int, dtype: str, *, layout: str) -> Call:
    stored = _stored(layout, order, dtype)
    # Nothing is copied: NumPy tells BLAS which operand is transposed.
    a, b = _transpose(*stored, layout)
    return lambda: a @ b


def _jax(order: int, dtype: str, *, layout: str) -> Call:
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    stored = [jax.numpy.asarray(factor) for factor in _stored(layout, order, dtype)]

    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.numpy.matmul(*_transpose(a, b, layout))

    with jax.default_matmul_precision("highest"):
        product = jax.jit(multiply).lower(*stored).compile()
    return lambda: product(*stored)


def _reference(order: int, dtype: str) -> "np.ndarray":
    a, b = _factors(order, dtype)
    return a.astype("float64") @ b.astype("float64")


def _error(
    result: "np.ndarray", reference: "np.ndarray", *, order: int, dtype: str
) -> float:
    return float(abs(result - reference).max())


def _tolerance(order: int, dtype: str) -> float:
    """Bound the rounding of inner products, all of whose |a|ᵀ|b| are below the order.

    An inner product of n terms is off by λ √n u |a|ᵀ|b|, rarely by more with λ = 5
    (Higham and Mary, 2019).
    """
    import numpy as np

    unit = float(np.finfo(dtype).eps) / 2
    return 5 * order**0.5 * unit * order


def _methods() -> tuple[Method, ...]:
    """Make a method of each library for each layout."""
    makers = {"GEMM numpy": _numpy, "GEMM jax": _jax}
    return tuple(
        Method(
            library + suffix,
            functools.partial(make, layout=layout),
            environment=_BLAS,
        )
        for suffix, layout in LAYOUTS.items()
        for library, make in makers.items()
    )


BENCHMARK = Benchmark(
    question="How fast is a matrix product here?",
    tasks=(),
    smoke=(),
    methods=_methods(),
    reference=_reference,
    error=_error,
    tolerance=_tolerance,
)
