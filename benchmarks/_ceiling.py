"""The rate of a plain matrix product, which no method built on products can pass: measured as a benchmark's guest."""

from typing import Any

from benchmarks._declare import CORES, Benchmark, Method, jax_environment

_BLAS = jax_environment(blas_threads=CORES) | {"OMP_NUM_THREADS": str(CORES)}


def _operands(order: int, dtype: str) -> Any:
    import numpy as np

    return np.random.default_rng(0).standard_normal((2, order, order)).astype(dtype)


def _numpy(order: int, dtype: str) -> Any:
    a, b = _operands(order, dtype)
    return lambda: a @ b


def _jax(order: int, dtype: str) -> Any:
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    a, b = jax.numpy.asarray(_operands(order, dtype))
    with jax.default_matmul_precision("highest"):
        product = jax.jit(jax.numpy.matmul).lower(a, b).compile()
    return lambda: product(a, b)


def _reference(order: int, dtype: str) -> Any:
    a, b = _operands(order, dtype).astype("float64")
    return a @ b


def _error(result: Any, reference: Any, order: int, dtype: str) -> float:
    return float(abs(result - reference).max())


def _tolerance(order: int, dtype: str) -> float:
    """Higham and Mary (2019): an inner product is off by λ √n u |a|ᵀ|b|, rarely more with λ = 5; |a|ᵀ|b| < n here."""
    import numpy as np

    return 5 * order**0.5 * float(np.finfo(dtype).eps) / 2 * order


BENCHMARK = Benchmark(
    question="How fast is a matrix product here?",
    tasks=(),
    smoke=(),
    methods=(Method("GEMM numpy", _numpy, environment=_BLAS), Method("GEMM jax", _jax, environment=_BLAS)),
    reference=_reference,
    error=_error,
    tolerance=_tolerance,
)
