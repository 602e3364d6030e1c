"""What every factory returns: one calling convention for all laws.

A law is the distribution of the entries, or the exact structure of the array.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import DTypeLike, Key, Shape, Sharding
from isometry.initializers._layout import Layout

# `draw(key, shape, dtype)`, in float32 or float64.
Draw: TypeAlias = Callable[[Key, tuple[int, ...], np.dtype], Array]


def _nothing_known(shape: tuple[int, ...]) -> float:
    """Return 0, which `Initializer.largest` returns where no bound is known."""
    return 0.0


_DEFAULT_LAYOUT = Layout()


@dataclass(frozen=True, eq=False, repr=False)
class Initializer:
    """A law of arrays: `init(key, shape, dtype=None, out_sharding=None)` draws one.

    The law is the distribution of the entries, or their exact structure. The calling
    convention is that of `jax.nn.initializers`, so an initializer can stand wherever
    Flax takes one. Haiku calls `w_init(shape, dtype)` and hands out keys itself: write
    `lambda shape, dtype: init(hk.next_rng_key(), shape, dtype)`. It may be traced like
    any JAX code.

    Attributes:
        name: The factory's name, which begins the messages of errors.
        arguments: The factory's arguments as the user would write them.
        draw: `draw(key, shape, dtype)` draws an array in float32 or float64, without
            checks.
        random: Whether the law uses the key.
        least_axes: The least number of axes that a shape must have.
        why: The end of the error message if a shape has fewer.
        largest: `largest(shape)` bounds the magnitude of the entries, of Gaussian ones
            at six standard deviations. 0 where no bound is known.
        dtype: The dtype if a call names none. None is JAX's default float.
        layout: The axes and groups that the factory was given.

    Example:
        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.orthogonal(2.0)
        >>> init
        orthogonal(gain=2.0)
        >>> init(jax.random.key(0), (8, 6)).shape
        (8, 6)
    """

    name: str
    arguments: str
    draw: Draw
    random: bool = True
    least_axes: int = 0
    why: str = ""
    largest: Callable[[tuple[int, ...]], float] = _nothing_known
    dtype: DTypeLike | None = None
    layout: Layout = _DEFAULT_LAYOUT

    def __call__(
        self,
        key: Key | None,
        shape: Shape,
        dtype: DTypeLike | None = None,
        out_sharding: Sharding | None = None,
    ) -> Array:
        """Draw one array.

        Args:
            key: One random key. Deterministic initializers ignore it and take None.
            shape: Sizes of the axes, each at least 1: a tuple or a list.
            dtype: A real floating dtype; None is that of the factory, or else JAX's
                default float. bfloat16 and float16 are drawn in float32 and rounded
                once.
            out_sharding: A `jax.sharding.Sharding` or `PartitionSpec` of the result, on
                which the values do not depend. None leaves it to JAX.

        Returns:
            An array of this shape and dtype.

        Raises:
            InputError: The shape, dtype or key cannot be used, or the entries may be
                larger than any number of the dtype. The message names the factory.
        """
        # The name is known here only, so the decorator is applied at the call.
        draw_checked = public(self.name)(self._draw_checked)
        array = draw_checked(key, shape, dtype)
        if out_sharding is None:
            return array
        return _place(array, out_sharding)

    def _draw_checked(
        self, key: Key | None, shape: Shape, dtype: DTypeLike | None
    ) -> Array:
        if isinstance(key, (list, tuple)):
            raise InputError(
                f"key={key} looks like a shape. Haiku calls an initializer without a "
                "key: write lambda shape, dtype: init(hk.next_rng_key(), shape, dtype)."
            )
        sizes = checks.shape(shape, least=self.least_axes, why=self.why)
        result_dtype = checks.float_dtype(self.dtype if dtype is None else dtype)
        if self.random:
            checks.key("key", key)
        else:
            # JAX's convention asks for a key all the same, whatever it is.
            key = None
        self._check_range(sizes, result_dtype)
        draw_dtype = result_dtype
        # QR has no half precision, whose few bits cannot tell apart the variates that a
        # sampler maps to the tails.
        if jnp.finfo(result_dtype).bits < 32:
            draw_dtype = jnp.dtype(jnp.float32)
        draw = self.draw if self.random else self._compiled_draw
        # Where the key may be missing, nothing is drawn from it.
        array = draw(cast(Key, key), sizes, draw_dtype)
        return array.astype(result_dtype)

    def _check_range(self, sizes: tuple[int, ...], dtype: np.dtype) -> None:
        """Refuse a dtype in which entries may be infinite."""
        largest = self.largest(sizes)
        limit = float(jnp.finfo(dtype).max)
        if largest > limit:
            raise InputError(
                f"{self.arguments} reaches {largest:g} in magnitude, beyond the "
                f"largest {dtype.name}, {limit:g}; write smaller numbers or a wider "
                "dtype."
            )

    @functools.cached_property
    def _compiled_draw(self) -> Draw:
        # A deterministic law is a dozen tiny operations, which are faster as one
        # program. The program belongs to `self`, not to the module: a law whose gain is
        # traced must not outlive its trace.
        return jax.jit(self.draw, static_argnums=(1, 2))

    def __repr__(self) -> str:
        return f"{self.name}({self.arguments})"


def format_arguments(
    arguments: Mapping[str, object], dtype: DTypeLike | None = None
) -> str:
    """Return arguments as a user would write them: "gain=2.0, dtype='float32'"."""
    parts = [f"{name}={value!r}" for name, value in arguments.items()]
    if dtype is not None:
        parts.append(f"dtype={getattr(dtype, '__name__', dtype)!r}")
    return ", ".join(parts)


def magnitude(value: float) -> float:
    """Return |value|; 0, which bounds nothing, if the value is traced."""
    if checks.is_traced(value):
        return 0.0
    return abs(float(value))


def for_any_shape(bound: float) -> Callable[[tuple[int, ...]], float]:
    """Return an `Initializer.largest` that is `bound` for every shape."""
    return lambda shape: bound


def flat(
    sample: Callable[[tuple[int, ...]], Array], shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """Return `sample(shape)`, bit for bit, drawn as a vector and reshaped.

    `sample` must draw its entries independently: JAX numbers random entries in
    row-major order, whatever the shape.
    """
    # XLA unrolls the generation of random bits over a short last axis, such as that of
    # a convolution kernel. A vector compiles 3 to 8 times faster on the CPU.
    return sample((math.prod(shape),)).reshape(shape)


def _place(array: Array, sharding: Sharding) -> Array:
    """Return `array` with this sharding, inside jit and outside."""
    mesh = jax.sharding.get_abstract_mesh()
    if isinstance(sharding, jax.sharding.NamedSharding):
        mesh = sharding.mesh
    # A mesh with explicit axes refuses constraints, one with automatic axes reshards.
    if jax.sharding.AxisType.Explicit in mesh.axis_types:
        return jax.sharding.reshard(array, sharding)
    return jax.lax.with_sharding_constraint(array, sharding)
