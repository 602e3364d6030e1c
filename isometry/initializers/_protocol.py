"""The calling convention every factory returns: checked shape and dtype, coarse types drawn in float32, cast last."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from isometry import _checks

Draw = Callable[[Any, tuple[int, ...], Any], jax.Array]


@dataclass(frozen=True, eq=False, repr=False)
class Initializer:
    """What a factory returns: `init(key, shape, dtype=None, out_sharding=None) -> Array`, as in `jax.nn.initializers`.

    **Arguments of the call**
    - `key`: a random key; deterministic initializers ignore it and take None.
    - `shape`: sequence of positive ints; lists are welcome.
    - `dtype`: a real floating type; None is JAX's default. bfloat16 and float16 are drawn in float32 and cast last.
    - `out_sharding`: a `jax.sharding.Sharding` or `PartitionSpec` for the result; the values do not depend on it.

    Fields: `name` and `arguments` of the factory's call, for messages; `draw(key, shape, dtype)`, its law; `random`,
    whether it uses the key; `least_axes` of a shape, and `why`; `largest(shape)` of the magnitudes drawn, of
    Gaussian ones six standard deviations.

    **Raises** `ValueError`, naming the factory: a shape, dtype or key that cannot be used, a dtype that `largest`
    overflows. Traced like any JAX code.
    """

    name: str
    arguments: str
    draw: Draw
    random: bool = True
    least_axes: int = 0
    why: str = ""
    largest: Callable[[tuple[int, ...]], float] = lambda shape: 0.0

    def __call__(self, key: Any, shape: Sequence[int], dtype: Any = None, out_sharding: Any = None) -> jax.Array:
        axes = _checks.shape(self.name, shape, least=self.least_axes, why=self.why)
        kind = _checks.float_dtype(self.name, dtype)
        if self.random:
            _checks.key(self.name, key)
        if (largest := self.largest(axes)) > float(jnp.finfo(kind).max):
            raise _checks.InputError(
                f"{self.name}(): {self.arguments} reaches {largest:g} in magnitude, beyond the largest "
                f"{jnp.dtype(kind).name}, {float(jnp.finfo(kind).max):g}; write smaller numbers or a wider dtype."
            )
        draw, key = (self.draw, key) if self.random else (self._program, None)
        drawn = draw(key, axes, kind if jnp.finfo(kind).bits >= 32 else jnp.dtype(jnp.float32)).astype(kind)
        return drawn if out_sharding is None else place(drawn, out_sharding)

    @functools.cached_property
    def _program(self) -> Draw:
        """A deterministic draw, a dozen tiny operations, compiled once a shape as one; it lives no longer than `self`,
        which may hold a tracer."""
        return jax.jit(self.draw, static_argnums=(1, 2))

    def __repr__(self) -> str:
        return f"{self.name}({self.arguments})"


def arguments(**named: Any) -> str:
    """Arguments as written in a call, for the repr."""
    return ", ".join(f"{name}={value!r}" for name, value in named.items())


def magnitude(value: Any) -> float:
    """|value|; 0 if it is traced, for then nothing can be said."""
    return 0.0 if _checks.is_traced(value) else abs(float(value))


def flat(sample: Callable[[tuple[int, ...]], jax.Array], shape: tuple[int, ...]) -> jax.Array:
    """`sample(shape)`, drawn as one axis: bit for bit the same, and XLA compiles it for the CPU 3 to 8 times faster."""
    return sample((math.prod(shape),)).reshape(shape)


def place(array: jax.Array, sharding: Any) -> jax.Array:
    """`array` laid out by `sharding`, inside jit and outside it, for meshes of automatic and of explicit axes."""
    mesh = sharding.mesh if isinstance(sharding, jax.sharding.NamedSharding) else jax.sharding.get_abstract_mesh()
    if jax.sharding.AxisType.Explicit in mesh.axis_types:
        return jax.sharding.reshard(array, sharding)
    return jax.lax.with_sharding_constraint(array, sharding)
