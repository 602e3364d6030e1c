"""Compilation of measurements, around a fault of XLA's and a delay of its threads."""

import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import jax
import numpy as np

from isometry._internal import checks

P = ParamSpec("P")
R = TypeVar("R")

_OPTION = "xla_cpu_experimental_ynn_fusion_type"

# What `_inside_program` copies. Any number will do.
_NUMBER = np.zeros((), np.float32)

# XLA of jaxlib 0.10.2 and 0.11.0 hands sums on a CPU to the library YNNPACK, along with
# the products around them, and some of these are wrong: jnp.sum(t[None] * a[:, None],
# -1)[..., None] * b[:, None] in float32, for t, a and b of shapes (320, 8, 16),
# (2, 8, 16) and (2, 8, 16), is off by as much as its largest entry. It occurs in the
# derivative of a layer norm, pushed along directions that all inputs share, as those of
# a Jacobian are. jax issues 39103 (wrong sums) and 39257 (crashes) report other cases.
# Products of matrices alone are right, and stay with the library.
OPTIONS = {_OPTION: "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}

# Programs in float32 that several threads run at a time hand nothing to YNNPACK. It
# splits products into tasks for the one pool of threads that all programs share, and
# threads then change twice as often: 64 Jacobians of fifty layers of width 128 took
# 54.8 ms on two idle cores, and take 52.5 ms without it; where other processes hold the
# cores the gain is larger. Products of tiny matrices then cost up to three times as
# much, which is little beside factorizations. In float64 the products of YNNPACK are
# twice as fast as XLA's own, which is worth more.
OPTIONS_OF_THREADS = {_OPTION: ""}


class Compiled(Generic[P, R]):
    """A function that is compiled as by `jax.jit`, with sums computed right.

    Called inside a program of the user, it becomes a part of that program, which is
    compiled with the user's options.
    """

    def __init__(self, function: Callable[P, R], **settings: Any):
        functools.update_wrapper(self, function)
        self._inner = jax.jit(function, **settings)
        self._outermost = jax.jit(function, compiler_options=OPTIONS, **settings)
        self._of_threads = jax.jit(
            function, compiler_options=OPTIONS_OF_THREADS, **settings
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if _inside_program():
            return self._inner(*args, **kwargs)
        try:
            return self._outermost(*args, **kwargs)
        # While a derivative is taken, JAX refuses options too.
        except (ValueError, jax.errors.JaxRuntimeError) as error:
            _require_refusal(error)
        return self._inner(*args, **kwargs)

    def ahead(self, *args: P.args, **kwargs: P.kwargs) -> jax.stages.Compiled:
        """Return the program compiled for arguments of these shapes, without a call."""
        return self._ahead(self._outermost, *args, **kwargs)

    def for_threads(self, *args: P.args, **kwargs: P.kwargs) -> jax.stages.Compiled:
        """Return the program as `ahead` does, for several threads to run at a time."""
        # Without 64 bits nobody need ask what the results are, which takes 0.2 ms.
        if checks.x64() and self._gives_float64(*args, **kwargs):
            return self._ahead(self._outermost, *args, **kwargs)
        return self._ahead(self._of_threads, *args, **kwargs)

    def _gives_float64(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        results = jax.tree.leaves(self._inner.eval_shape(*args, **kwargs))
        return any(result.dtype == np.float64 for result in results)

    def _ahead(
        self, jitted: jax.stages.Wrapped, *args: P.args, **kwargs: P.kwargs
    ) -> jax.stages.Compiled:
        try:
            return jitted.lower(*args, **kwargs).compile()
        except jax.errors.JaxRuntimeError as error:
            _require_refusal(error)
        return self._inner.lower(*args, **kwargs).compile()

    def trace(self, *args: P.args, **kwargs: P.kwargs) -> jax.stages.Traced:
        """Trace as the method of `jax.jit` does."""
        return self._inner.trace(*args, **kwargs)


def _require_refusal(error: Exception) -> None:
    """Raise an error again, unless it says that the compiler refuses the option.

    A compiler that does not know the option does not have the fault.
    """
    if _OPTION not in str(error):
        raise error


def _inside_program() -> bool:
    """Tell whether operations are being traced for a program, and not computed."""
    # Copying a number needs no program, which would take 10 to 20 ms to compile.
    return checks.is_traced(jax.device_put(_NUMBER))


def jit(function: Callable[P, R], **settings: Any) -> Compiled[P, R]:
    """Compile a function as `jax.jit` does, with sums computed right.

    Args:
        function: The function.
        **settings: Those of `jax.jit`, but no `compiler_options`.
    """
    return Compiled(function, **settings)
