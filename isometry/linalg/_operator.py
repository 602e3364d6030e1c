"""A matrix known only by its products with vectors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry import _checks
from isometry._internal import precision
from isometry.linalg._convolution import canonical


@dataclass(frozen=True, eq=False)
class Operator:
    """J as v → J v (`matvec`, n → m) and u → Jᵀ u (`rmatvec`, m → n), of `shape` (m, n) and a real `dtype`.

    Both products may close over traced arrays; the record itself is not a pytree, so build it inside jit and vmap. The
    kernels that take it trace the products at full matmul precision.

    Raises:
        ValueError: a shape without two positive axes; a dtype that is not float32 or float64.
    """

    matvec: Callable[[Any], Any]
    rmatvec: Callable[[Any], Any]
    shape: tuple[int, int]
    dtype: Any

    def __post_init__(self):
        axes = _checks.shape("Operator", self.shape, least=2, why="write (m, n).")
        if len(axes) > 2:
            raise _checks.InputError(f"Operator(): shape={axes} has {len(axes)} axes; write (m, n).")
        object.__setattr__(self, "shape", axes)
        object.__setattr__(self, "dtype", _checks.measuring_dtype("Operator", _given(self.dtype)))

    @property
    def T(self) -> "Operator":  # noqa: N802 (NumPy's name)
        """The transpose."""
        return Operator(self.rmatvec, self.matvec, (self.shape[1], self.shape[0]), self.dtype)

    @property
    def tall(self) -> "Operator":
        """Itself or its transpose: with m ≥ n, so that the n nodes of JᵀJ hold no structural zeros."""
        return self if self.shape[0] >= self.shape[1] else self.T

    @classmethod
    def of(cls, matrix: Float[Array, "m n"]) -> "Operator":
        """The products of `matrix`; bfloat16 and float16 are worked in float32.

        Raises:
            ValueError: not one matrix, empty, not real floating.
        """
        matrix = _checks.array("Operator.of", matrix=matrix)
        if matrix.ndim != 2:
            raise _checks.InputError(
                f"Operator.of(): matrix has shape {matrix.shape}; write (m, n), and vmap the batch."
            )
        if not jnp.issubdtype(matrix.dtype, jnp.floating):
            raise _checks.InputError(
                f"Operator.of(): matrix has dtype {matrix.dtype}; write matrix.astype(jnp.float32)."
            )
        matrix = matrix.astype(_checks.measuring_dtype("Operator.of", None, matrix))
        # u @ J, not J.T @ u, which in a loop XLA runs tens of times slower on a CPU (n = 1024, float32)
        return cls(lambda v: matrix @ v, lambda u: u @ matrix, (matrix.shape[0], matrix.shape[1]), matrix.dtype)

    @classmethod
    def linearized(cls, g: Callable[[Any], Any], point: Float[Array, " n"]) -> "Operator":
        """The Jacobian of g: vector → vector at `point`. g runs once, here; each product costs about one more pass.

        Jᵀ is the transpose of the linearized g, so g may hold custom_jvp rules but no custom_vjp ones. Differentiable
        in whatever g closes over and in `point`, as often as g is.

        Raises:
            ValueError: `point` or g(point) not a vector, not floating, or of different dtypes.
        """
        point = _checks.array("Operator.linearized", point=point)
        out = jax.eval_shape(g, point)
        for name, a in (("point", point), ("g(point)", out)):
            if not hasattr(a, "shape") or a.ndim != 1 or a.dtype != point.dtype:
                came = f"{a.dtype} of shape {a.shape}" if hasattr(a, "shape") else _checks.show(a)
                raise _checks.InputError(
                    f"Operator.linearized(): {name} is {came}; both point and g(point) must be vectors of one floating "
                    "dtype. Ravel them first."
                )
        dtype = _checks.measuring_dtype("Operator.linearized", point.dtype)
        with precision.full():
            _, push = jax.linearize(of_numbers(g), point)
            pull = jax.linear_transpose(push, point)
        return cls(canonical(push), canonical(lambda u: pull(u)[0]), (out.size, point.size), dtype)


def of_numbers(g: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """g, whose outputs that are no numbers have no derivative either, not even one of zero where they are constants."""

    def guarded(z: Any) -> Any:
        y = g(z)
        return (y + 0 * jnp.sum(z).astype(y.dtype)) * jnp.where(jnp.isfinite(y), 1, jnp.nan).astype(y.dtype)

    return guarded


def checked(call: str, operator: Any) -> Operator:
    """`operator` if its products map as its shape says; nothing is computed.

    Raises:
        ValueError: not an `Operator`; a product of another shape or dtype.
    """
    if not isinstance(operator, Operator):
        raise _checks.InputError(
            f"{call}(): operator={_checks.show(operator)} is not an Operator; write linalg.Operator.of(matrix)."
        )
    for name, one in (("matvec", operator), ("rmatvec", operator.T)):
        out = jax.eval_shape(one.matvec, jax.ShapeDtypeStruct(one.shape[1:], one.dtype))
        came = (getattr(out, "shape", None), getattr(out, "dtype", None))
        if came != (one.shape[:1], one.dtype):
            raise _checks.InputError(
                f"{call}(): {name} of operator maps {one.shape[1:]} to {came[1]} of shape {came[0]}; with "
                f"shape={operator.shape} it must give {one.dtype} of shape {one.shape[:1]}."
            )
    return operator


def _given(dtype: Any) -> Any:
    if dtype is None:
        raise _checks.InputError("Operator(): dtype=None is not a dtype; write jnp.float32, for example.")
    return dtype
