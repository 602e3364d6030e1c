"""A matrix that is known only by its products with vectors."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from isometry._internal import checks, kinds, precision
from isometry._internal.errors import InputError, public
from isometry.linalg._convolution import canonical


@dataclass(frozen=True, eq=False)
class Operator:
    """A matrix J that is known only by its products with vectors.

    Both products may close over traced arrays. The record itself is not a pytree, so
    build it inside jit and vmap. The kernels that take it trace the products at full
    matmul precision.

    Attributes:
        matvec: The product v -> J v, from n numbers to m.
        rmatvec: The product u -> Jᵀ u, from m numbers to n.
        shape: (m, n).
        dtype: float32 or float64, of the vectors on both sides.

    Raises:
        InputError: `shape` is not two positive axes, or `dtype` is not float32 or
            float64.

    Example:
        >>> def sums_from_the_end(u):
        ...     return jnp.cumsum(u[::-1])[::-1]
        >>> operator = linalg.Operator(
        ...     jnp.cumsum, sums_from_the_end, shape=(3, 3), dtype=jnp.float32
        ... )
        >>> key = jax.random.key(0)
        >>> ends = linalg.extreme_singular_values(operator, key=key, steps=3)
        >>> [f"{s:.3f}" for s in ends.values]
        ['2.247', '0.555']
    """

    matvec: Callable[[Array], Array]
    rmatvec: Callable[[Array], Array]
    shape: tuple[int, int]
    dtype: DTypeLike

    @public("Operator")
    def __post_init__(self) -> None:
        axes = checks.shape(self.shape, least=2, why="write (m, n).")
        if len(axes) > 2:
            raise InputError(f"shape={axes} has {len(axes)} axes; write (m, n).")
        # To the check of dtypes, None is JAX's default.
        if self.dtype is None:
            raise InputError(
                "dtype=None is not a dtype; write jnp.float32, for example."
            )
        object.__setattr__(self, "shape", axes)
        object.__setattr__(self, "dtype", precision.measuring_dtype(self.dtype))

    @property
    def T(self) -> "Operator":  # noqa: N802 (NumPy's name)
        """The transpose.

        Example:
            >>> linalg.Operator.of(jnp.ones((2, 3))).T.shape
            (3, 2)
        """
        m, n = self.shape
        return Operator(self.rmatvec, self.matvec, shape=(n, m), dtype=self.dtype)

    @property
    def tall(self) -> "Operator":
        """The operator or its transpose, whichever has at least as many rows.

        The n values of its JᵀJ hold no structural zeros.

        Example:
            >>> linalg.Operator.of(jnp.ones((2, 3))).tall.shape
            (3, 2)
        """
        m, n = self.shape
        return self if m >= n else self.T

    @classmethod
    @public("Operator.of")
    def of(cls, matrix: ArrayLike) -> "Operator":
        """Make an operator of a matrix in memory.

        Args:
            matrix: A real floating matrix (m, n). bfloat16 and float16 are worked in
                float32.

        Returns:
            The operator; each product costs 2 m n FLOP.

        Raises:
            InputError: `matrix` is not one matrix, is empty, or not real floating.

        Example:
            >>> operator = linalg.Operator.of(jnp.array([[1.0, 2.0]]))
            >>> operator.matvec(jnp.array([3.0, 4.0]))
            Array([11.], dtype=float32)
            >>> operator.rmatvec(jnp.array([5.0]))
            Array([ 5., 10.], dtype=float32)
        """
        a = checks.array("matrix", matrix)
        if a.ndim != 2:
            raise InputError(
                f"matrix has shape {a.shape}; write (m, n), and vmap the batch."
            )
        if not kinds.is_floating(a):
            raise InputError(
                f"matrix has dtype {a.dtype}; write matrix.astype(jnp.float32)."
            )
        dtype = precision.measuring_dtype(None, a)
        a = a.astype(dtype)
        return cls(
            lambda v: a @ v,
            # Not a.T @ u, which in a loop XLA runs tens of times slower on a CPU
            # (n = 1024, float32).
            lambda u: u @ a,
            shape=(a.shape[0], a.shape[1]),
            dtype=dtype,
        )

    @classmethod
    @public("Operator.linearized")
    def linearized(
        cls,
        g: Callable[[Array], Array],
        point: ArrayLike,
    ) -> "Operator":
        """Make an operator of the Jacobian of a function from vector to vector.

        g runs once, here; each product costs about one more pass. Jᵀ is the transpose
        of the linearized g, so g may hold custom_jvp rules but no custom_vjp ones. The
        products are differentiable in whatever g closes over and in `point`, as often
        as g is.

        Args:
            g: The function.
            point: Where it is linearized: a vector of float32 or float64.

        Returns:
            The operator. Rows of outputs that are not finite are NaN.

        Raises:
            InputError: `point` or g(point) is not a vector, not floating, or they have
                different dtypes.

        Example:
            >>> operator = linalg.Operator.linearized(jnp.sin, jnp.zeros(2))
            >>> operator.matvec(jnp.array([3.0, 4.0]))
            Array([3., 4.], dtype=float32)
        """
        x = checks.array("point", point)
        out = jax.eval_shape(g, x)
        for name, value in (("point", x), ("g(point)", out)):
            if not _is_vector(value, x.dtype):
                raise InputError(
                    f"{name} is {_in_words(value)}; both point and g(point) must be "
                    "vectors of one floating dtype. Ravel them first."
                )
        dtype = precision.measuring_dtype(x.dtype)
        with precision.full():
            _, push = jax.linearize(_with_marked_outputs(g), x)
            pull = jax.linear_transpose(push, x)
        return cls(
            canonical(push),
            canonical(lambda u: pull(u)[0]),
            shape=(out.size, x.size),
            dtype=dtype,
        )


def _is_vector(value: object, dtype: DTypeLike) -> bool:
    """Tell whether an array, or its shape and dtype, is a vector of this dtype."""
    axes = getattr(value, "shape", ())
    return len(axes) == 1 and getattr(value, "dtype", None) == dtype


def _in_words(value: object) -> str:
    """Return the dtype and shape of an array, for a message."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return checks.show(value)
    return f"{getattr(value, 'dtype', None)} of shape {shape}"


def _with_marked_outputs(g: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Make outputs of g that are not finite have NaN derivatives, and no zeros."""

    def marked(z: Float[Array, " n"]) -> Float[Array, " m"]:
        y = g(z)
        # A constant output depends on z too, so that there is a derivative to mark.
        nothing = 0 * jnp.sum(z).astype(y.dtype)
        dependent = y + nothing
        mark = jnp.where(jnp.isfinite(y), 1, jnp.nan)
        return dependent * mark.astype(y.dtype)

    return marked


def checked(operator: object) -> Operator:
    """Require an `Operator` whose products map as its shape says; compute nothing.

    Raises:
        InputError: It is another object, or a product has another shape or dtype.
    """
    if not isinstance(operator, Operator):
        raise InputError(
            f"operator={checks.show(operator)} is not an Operator; write "
            "linalg.Operator.of(matrix)."
        )
    for name, one in (("matvec", operator), ("rmatvec", operator.T)):
        vector = jax.ShapeDtypeStruct(one.shape[1:], one.dtype)
        out = jax.eval_shape(one.matvec, vector)
        shape = getattr(out, "shape", None)
        dtype = getattr(out, "dtype", None)
        if (shape, dtype) != (one.shape[:1], one.dtype):
            raise InputError(
                f"{name} of operator maps {one.shape[1:]} to {dtype} of shape {shape}; "
                f"with shape={operator.shape} it must give {one.dtype} of shape "
                f"{one.shape[:1]}."
            )
    return operator
