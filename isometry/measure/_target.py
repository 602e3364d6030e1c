"""The `Target`: the map whose Jacobian is measured, and what tracing it has shown.

Targets are static arguments of compiled programs, so they are equal if f, the span and
the shapes are.
"""

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from isometry import linalg
from isometry._internal import jaxprs, precision
from isometry._internal.errors import InputError
from isometry._internal.types import Params
from isometry.linalg import Factors
from isometry.measure import _leaves, _record
from isometry.measure._blocks import Blocks
from isometry.measure._function import Program, Reference, picked
from isometry.measure._record import Spectrum
from isometry.measure._spans import PointSpan, Span
from isometry.measure.methods import Method
from isometry.networks._layered import LayeredFunction

# Fields of a target whose function has not been traced yet.
_NOTHING = jax.ShapeDtypeStruct((), np.float32)
_NOTHING_HELD = jaxprs.Held(0, 0)
_NOTHING_COARSE = jaxprs.Coarse((), None)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Target:
    """The map whose Jacobian is measured, for arguments of fixed shapes.

    Attributes:
        f: The function, wrapped so that programs can compare it.
        output: Which of its outputs is measured: an index, a key, or None.
        span: The span as the user wrote it.
        dtype: The dtype of the measurement.
        recast: The lowest dtype of params and x that is cast up to it, or None.
        points: The map of a span between named points; None for other spans.
        shape_in: Shape and dtype of the value where the span starts.
        shape_out: Shape and dtype of the value where it ends.
        coarse: What f computes below full precision.
        forward_only: Whether f has no reverse derivative.
        reverse_only: Whether f has no forward derivative.
        held: Bytes of the intermediate values of f.
        needs_factors: Whether the method reads the factors of the Jacobian, so that a
            chain of blocks is to be cut into them.
        blocks: The blocks of a chain, if they are needed and there are several.
        chunk: The number of directions that autodiff takes at a time; None for all.
        live: If inactive units are left out: an upper bound on the units that are
            active between any two layers. Otherwise None.
        version: For a user's f between points, a key that changes with what f closes
            over. Otherwise None.
    """

    f: Reference | Program
    output: int | str | None
    span: Span
    dtype: np.dtype
    recast: str | None = None
    points: PointSpan | None = None
    shape_in: jax.ShapeDtypeStruct = _NOTHING
    shape_out: jax.ShapeDtypeStruct = _NOTHING
    coarse: jaxprs.Coarse = _NOTHING_COARSE
    forward_only: bool = False
    reverse_only: bool = False
    held: jaxprs.Held = _NOTHING_HELD
    needs_factors: bool = False
    blocks: Blocks | None = None
    chunk: int | None = None
    live: int | None = None
    version: Hashable = None

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (outputs, inputs) of the Jacobian."""
        return self.shape_out.size, self.shape_in.size

    @property
    def network(self) -> LayeredFunction | None:
        """The function, if it knows its layers, as those of `mlp` and `chain` do."""
        # Between points the network's own factors do not apply.
        if self.points is not None or not isinstance(self.f, Reference):
            return None
        function = self.f.function
        return function if isinstance(function, LayeredFunction) else None

    @property
    def pairs(self) -> int | None:
        """The number of pairs of a weight matrix W and derivatives D in the span.

        None end to end, where there is one more W, and where layers are unknown.
        """
        if self.network is None or self.span == "end_to_end":
            return None
        return self.network.pairs

    @property
    def has_factors(self) -> bool:
        """Whether the factors of the Jacobian are known."""
        return self.network is not None or self.blocks is not None

    @property
    def layered(self) -> bool:
        """Whether the factors are known, with matrices that all inputs share."""
        return self.network is not None and self.network.shares_matrices

    @property
    def sparse(self) -> bool:
        """Whether derivatives of activations in the factors can be exactly zero."""
        return self.layered and self._known_network.has_dead_slopes

    @property
    def _known_network(self) -> LayeredFunction:
        """`network`, where it is known not to be None."""
        assert self.network is not None, "has_factors says that there are any"
        return self.network

    def start(self, params: Params, x: PyTree) -> Array:
        """Return the value where the span starts."""
        if self.points is not None:
            return self.points.start(params, x)
        if self.span == "end_to_end":
            return _leaves.joined(x)
        return self._known_network.stem(params, x)

    def apply(
        self,
        params: Params,
        x: PyTree,
        z: Array,
    ) -> Array:
        """Return the value at the end of the span, if that at its start is z."""
        if self.points is not None:
            return self.points.apply(params, x, z)
        if self.span == "end_to_end":
            return picked(self.f(params, _leaves.replaced(x, z)), self.output)
        return self._known_network.hidden(params, z)

    def cast(self, params: Params, x: PyTree) -> tuple[Params, PyTree]:
        """Return params and x in the dtype of the measurement."""
        if isinstance(self.f, Program):
            # What f closes over is not cast.
            constants, params = params
            params, x = precision.cast((params, x), self.dtype)
            return (constants, params), x
        return precision.cast((params, x), self.dtype)

    def abstract(self, params: Params, x: PyTree) -> tuple[Params, PyTree]:
        """Return the shapes and dtypes that params and x have after `cast`."""

        def shape_of(leaf: Array) -> jax.ShapeDtypeStruct:
            return precision.shape_of(leaf, self.dtype)

        if isinstance(self.f, Program):
            constants, params = params
            # What f closes over is not cast.
            shapes_of_constants = jax.tree.map(jax.typeof, constants)
            params, x = jax.tree.map(shape_of, (params, x))
            return (shapes_of_constants, params), x
        return jax.tree.map(shape_of, (params, x))

    def vector_map(
        self, params: Params, x: PyTree
    ) -> tuple[Callable[[Array], Array], Array]:
        """Return the span as a map of vectors, and the vector at which it starts.

        The Jacobian is the derivative of the map at that vector.
        """
        params, x = self.cast(params, x)
        start = self.start(params, x)

        def g(z: Array) -> Array:
            # A hard-coded cast in f may return another dtype than the measurement's.
            y = self.apply(params, x, z.reshape(start.shape))
            return y.ravel().astype(self.dtype)

        return g, start.ravel()

    def jacobian(self, params: Params, x: PyTree) -> Float[Array, "m n"]:
        """Return the Jacobian: the product of its factors if known, or by autodiff."""
        if self.layered:
            return self._product(params, jnp.asarray(x))
        # If f has both derivatives, `matrix_of` chooses by the shape.
        one_way = self.forward_only or self.reverse_only
        with precision.full():
            g, point = self.vector_map(params, x)
            matrix = linalg.matrix_of(
                g,
                point,
                chunk=self.chunk,
                forward=self.forward_only if one_way else None,
            )
        return matrix.astype(self.dtype)

    def _product(self, params: Params, x: Array) -> Float[Array, "m n"]:
        """Return the product of the factors at x.

        It is not computed as a batch of one by `jacobians`, which takes three times as
        long to trace.
        """
        stacks = []
        with precision.full():
            # This does not trace f again: bounding the memory has traced it already.
            for stack in _factors_cached(self, params, x):
                if stack.scale is not None:
                    stack = stack._replace(scale=stack.scale[None])
                stacks.append(stack)
            return linalg.wide_product(stacks, 1)[0]

    def jacobians(self, params: Params, xs: Array) -> Float[Array, "inputs m n"]:
        """Return the Jacobians at all xs, by one wide product for each layer."""
        with precision.full():
            return linalg.wide_product(self.factors_of_inputs(params, xs), len(xs))

    def operator(self, params: Params, x: PyTree) -> linalg.Operator:
        """Return the Jacobian as an operator: a product of factors, or linearized f."""
        if self.layered:
            return linalg.factored(self.factors(params, x))
        with precision.full():
            g, point = self.vector_map(params, x)
            operator = linalg.Operator.linearized(g, point)
        if self.reverse_only:
            _require_forward(operator)
        return operator

    def factors(self, params: Params, x: Array) -> list[Factors]:
        """Return the factors of the Jacobian, in the order of application."""
        params, x = self.cast(params, x)
        # The derivatives of activations and the blocks of a chain are computed here.
        with precision.full():
            if self.blocks is not None:
                matrices = self.blocks.jacobians(params, x)
                return [Factors(matrix[None]) for matrix in matrices]
            assert isinstance(self.span, str), "of points no layers are known"
            return self._known_network.factors(params, x, self.span)

    def factors_of_inputs(self, params: Params, xs: Array) -> list[Factors]:
        """Return the factors at all xs, as `factors` does at one.

        Matrices are the same at all inputs. Scales, the derivatives of activations, get
        a leading axis of inputs.
        """
        # The structure of the factors, with None where a stack has no scale, must be
        # known before vmap can be told what is batched.
        shapes = self.factor_shapes(params, xs[0])
        # All inputs share the matrices, so only the scales are batched.
        axes = [stack._replace(matrix=None, scale=0) for stack in shapes]
        return jax.vmap(self.factors, in_axes=(None, 0), out_axes=axes)(params, xs)

    def widest(self, params: Params, x: Array) -> int:
        """Return the largest number of units between two layers; computes nothing."""
        stacks = self.factor_shapes(params, x)
        return max(max(stack.size[1:]) for stack in stacks)

    def factor_shapes(self, params: Params, x: Array) -> list[Factors]:
        """Return the shapes of the factors at arguments of these shapes."""
        # JAX caches traces by the precision as well.
        with precision.full():
            return _factors_cached.eval_shape(self, params, x)

    def record(
        self,
        method: Method,
        log_values: Float[Array, "... nodes"],
        log_floor: Float[Array, "..."] | float,
        weights: Float[Array, "... nodes"] | None = None,
    ) -> Spectrum:
        """Return the spectrum with these nodes.

        Args:
            method: The method that measured them.
            log_values: ln s, descending; -inf for an exact zero, NaN for a Jacobian
                that is not finite.
            log_floor: ln of the smallest s that the method resolves, relative to the
                largest.
            weights: The mass of each node; by default the same for all.

        Returns:
            The measured spectrum.
        """
        m, n = self.shape
        # Each singular value counts the same. As an array of NumPy, which serves as one
        # of JAX, the weights are known to be constant and can be left out of a program.
        if weights is None:
            weights = cast(Array, _record.equal_weights(log_values, min(m, n)))
        batch = log_values.shape[:-1]
        # No method resolves values below the rounding of f itself.
        eps = self.coarse.eps
        if eps is not None:
            floor_of_f = precision.coarse_log_floor(m, n, eps)
            log_floor = jnp.maximum(jnp.asarray(log_floor), floor_of_f)
        # Methods may give one floor for all matrices.
        floor = jnp.broadcast_to(jnp.asarray(log_floor, log_values.dtype), batch)
        return Spectrum(
            log_values=log_values,
            weights=weights,
            log_floor=floor,
            method=method,
            size=min(m, n),
            structural_zeros=abs(m - n),
            span=self.span,
            pairs=self.pairs,
            recast=self.recast,
        )


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _factors_cached(
    target: Target,
    params: Params,
    x: Array,
) -> list[Factors]:
    """Return the factors of the Jacobian of a target.

    Jitted at module level, so that calls with the same shapes do not trace again.
    """
    return target.factors(params, x)


def _require_forward(operator: linalg.Operator) -> None:
    """Refuse a Jacobian of which no product J v can be computed.

    A custom_vjp rule has none, unless it is for parameters alone.
    """
    # Under vmap, as the Lanczos iteration calls it: some rules fail there alone.
    direction = jax.ShapeDtypeStruct((1, operator.shape[1]), operator.dtype)
    try:
        jax.eval_shape(jax.vmap(operator.matvec), direction)
    except TypeError as error:
        raise InputError(
            'method="lanczos" needs J v, and f holds a custom_vjp rule, which has no '
            'forward derivative; write a custom_jvp, or method="dense".'
        ) from error
