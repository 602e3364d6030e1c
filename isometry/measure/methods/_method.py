"""What a method of measuring is: the base class that each of them extends."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
from jaxtyping import Array, PyTree

from isometry._internal import memory
from isometry._internal.types import Key, Params

if TYPE_CHECKING:
    from isometry.measure._record import Spectrum
    from isometry.measure._target import Target

# Copies of a value: XLA also keeps its derivative, or another order of its axes. Like
# all constants of footprints it is fitted to what XLA allocates on a CPU for the
# programs of tests/measure/test_cost.py: with half of it some programs take more than
# the bound, with twice as much chunks are half as large as they could be.
COPIES = 2

# Bytes of scalars and counters, of which each takes a whole cache line.
SMALL = 4096


class Footprint(NamedTuple):
    """Bytes that a measurement takes at all inputs of one seed.

    They are `shared` + inputs * (`each` + directions at a time * `a_direction`).

    Attributes:
        shared: Bytes that all inputs of a seed share.
        each: Bytes of one input, without directions.
        a_direction: Bytes of one direction (a tangent or cotangent) of one input.
        directions: The number of directions of a Jacobian. With fewer at a time a
            measurement takes longer and less memory.

    Example:
        >>> methods.Footprint(shared=100, each=10, a_direction=5, directions=8)
        Footprint(shared=100, each=10, a_direction=5, directions=8)
    """

    shared: int
    each: int
    a_direction: int = 0
    directions: int = 0

    def bytes(self, chunk: int | None = None) -> int:
        """Return the bytes of one input.

        Args:
            chunk: How many directions are taken at a time; all of them by default.

        Returns:
            The bytes, with what all inputs share.

        Example:
            >>> takes = methods.Footprint(100, each=10, a_direction=5, directions=8)
            >>> takes.bytes(), takes.bytes(chunk=2)
            (150, 120)
        """
        at_a_time = self.directions
        if chunk is not None:
            at_a_time = min(chunk, self.directions)
        return self.shared + self.each + at_a_time * self.a_direction

    def chunk(self, budget: int) -> int | None:
        """Return how many directions at a time a budget allows.

        Args:
            budget: Bytes that one input may take, with what all inputs share.

        Returns:
            The number, at least one; None if all of them fit, or if there are none.

        Example:
            >>> takes = methods.Footprint(100, each=10, a_direction=5, directions=8)
            >>> takes.chunk(130), takes.chunk(1000)
            (4, None)
        """
        if self.bytes() <= budget or self.a_direction == 0:
            return None
        return max(1, (budget - self.bytes(0)) // self.a_direction)


class Method:
    """A way to measure the spectrum of a Jacobian.

    Extend this class in a file of its own, as a frozen dataclass of hashable fields,
    and write `spectrum`; the other functions have defaults. An instance can be passed
    as `method=` at once, and after `methods.register("name", MyMethod)` its name too.

    Attributes:
        needs_key: Whether the method draws random numbers.
        needs_factors: Whether the method reads `target.factors`. If so, a function that
            is not a `Network` is cut into blocks first, if it is a chain of several.
        forms_jacobian: Whether the method can start from a complete Jacobian, by
            `of_jacobian`. The caller can then form it and report progress meanwhile.

    Example:
        >>> import dataclasses
        >>> @dataclasses.dataclass(frozen=True)
        ... class Gram(methods.Method):
        ...     def spectrum(self, target, params, x, key):
        ...         jacobian = target.jacobian(params, x)
        ...         squares = jnp.linalg.eigvalsh(jacobian @ jacobian.T)[::-1]
        ...         # Rounding of s² hides s below sqrt(eps) = exp(-8) of the largest.
        ...         return target.record(self, jnp.log(squares) / 2, log_floor=-8.0)
        >>> matrix = jnp.diag(jnp.array([3.0, 2.0]))
        >>> sp = isometry.spectrum(jnp.dot, matrix, jnp.ones(2), method=Gram())
        >>> [round(float(s), 3) for s in sp.values]
        [3.0, 2.0]
    """

    needs_key = False
    needs_factors = False
    forms_jacobian = False

    def check(self, target: "Target", key: Key | None) -> None:
        """Refuse a target that this method cannot measure, with the reason.

        Args:
            target: The span of f.
            key: What the user passed; a single random key if `needs_key`.

        Returns:
            None, if it can be measured.

        Raises:
            InputError: The reason, and what to write instead.

        Example:
            >>> class Square(isometry.Dense):
            ...     def check(self, target, key):
            ...         m, n = target.shape
            ...         if m != n:
            ...             raise isometry.InputError(f"{m}×{n} is no square.")
            >>> wide, x = jnp.ones((2, 3)), jnp.ones(3)
            >>> isometry.spectrum(jnp.dot, wide, x, method=Square())
            Traceback (most recent call last):
            isometry.InputError: spectrum(): 2×3 is no square.
        """

    def spectrum(
        self,
        target: "Target",
        params: Params,
        x: Array,
        key: Key | None,
    ) -> "Spectrum":
        """Measure one Jacobian; traced.

        Args:
            target: The span of f: `target.jacobian`, `target.operator` and
                `target.factors` give its Jacobian, `target.record` makes the spectrum.
            params: The parameters.
            x: One example.
            key: A random key if `needs_key`, else None.

        Returns:
            The spectrum. Its nodes are NaN if the Jacobian is not finite.

        Example:
            >>> class Diagonal(methods.Method):
            ...     def spectrum(self, target, params, x, key):
            ...         # Of a function that acts on each entry alone.
            ...         entries = jnp.diag(target.jacobian(params, x))
            ...         values = jnp.sort(jnp.abs(entries), descending=True)
            ...         return target.record(self, jnp.log(values), log_floor=-jnp.inf)
            >>> x = jnp.array([-2.0, 3.0])
            >>> sp = isometry.spectrum(jnp.multiply, x, x, method=Diagonal())
            >>> [round(float(s), 3) for s in sp.values]
            [3.0, 2.0]
        """
        raise NotImplementedError(f"{type(self).__name__} has no spectrum().")

    def spectra(
        self,
        target: "Target",
        params: Params,
        xs: Array,
        keys: Key | None,
    ) -> "Spectrum":
        """Measure the Jacobians of seeds × inputs; traced.

        Args:
            target: The span of f.
            params: Parameters, stacked over seeds.
            xs: Examples, stacked over inputs.
            keys: (seeds, inputs) random keys if `needs_key`, else None.

        Returns:
            The spectra, of batch axes (seeds, inputs). By default `spectrum` of each,
            one seed after another.

        Example:
            >>> class Unhurried(isometry.Dense):
            ...     def spectra(self, target, params, xs, keys):
            ...         # One Jacobian at a time, where Dense takes all of them at once.
            ...         return methods.Method.spectra(self, target, params, xs, keys)
            >>> weights = jnp.stack([jnp.eye(2), 2 * jnp.eye(2)])
            >>> xs = jnp.ones((3, 2))
            >>> method = Unhurried()
            >>> sp = isometry.ensemble(jnp.dot, params=weights, xs=xs, method=method)
            >>> sp.values[:, 0].round(3).tolist()
            [[1.0, 1.0], [2.0, 2.0]]
        """
        over_inputs = jax.vmap(
            lambda p, x, key: self.spectrum(target, p, x, key=key),
            in_axes=(None, 0, 0),
        )
        return in_turn(
            lambda seed: over_inputs(seed[0], xs, seed[1]),
            (params, keys),
        )

    def of_jacobian(self, target: "Target", matrix: Array) -> "Spectrum":
        """Measure Jacobians that are given as matrices, if `forms_jacobian`; traced.

        Args:
            target: The span of f.
            matrix: (..., m, n).

        Returns:
            The spectrum.

        Example:
            >>> class Eigenvalues(methods.Method):
            ...     forms_jacobian = True
            ...     def of_jacobian(self, target, matrix):
            ...         values = jnp.abs(jnp.linalg.eigvalsh(matrix))
            ...         values = jnp.sort(values, descending=True)
            ...         return target.record(self, jnp.log(values), log_floor=-14.0)
            ...     def spectrum(self, target, params, x, key):
            ...         return self.of_jacobian(target, target.jacobian(params, x))
            >>> matrix = jnp.array([[0.0, 2.0], [2.0, 0.0]])
            >>> method = Eigenvalues()
            >>> sp = isometry.spectrum(jnp.dot, matrix, jnp.ones(2), method=method)
            >>> sp.values.round(3).tolist()
            [2.0, 2.0]
        """
        raise NotImplementedError(f"{type(self).__name__} forms no Jacobian.")

    def footprint(
        self,
        target: "Target",
        params: Params,
        x: Array,
    ) -> Footprint:
        """Bound the bytes of a measurement, from shapes alone.

        Args:
            target: The span of f.
            params: Shapes of the parameters, in the dtype of the measurement.
            x: Shape of one example.

        Returns:
            The bytes. By default those of autodiff of f in all directions at once, and
            of four arrays of the Jacobian's size.

        Example:
            >>> class Greedy(isometry.Dense):
            ...     def footprint(self, target, params, x):
            ...         return methods.Footprint(shared=0, each=10**6)
            >>> isometry.spectrum(
            ...     jnp.dot, jnp.eye(2), jnp.ones(2), method=Greedy(), max_bytes=1000)
            Traceback (most recent call last):
            isometry.InputError: spectrum(): the Jacobian needs 1 MB by Greedy() ...
        """
        m, n = target.shape
        matrices = 4 * m * n * target.dtype.itemsize
        return Footprint(
            shared=memory.tree_bytes(params) + SMALL,
            each=matrices + COPIES * target.held.in_all,
            a_direction=COPIES * target.held.at_once,
            directions=min(m, n),
        )

    def operations(
        self,
        target: "Target",
        params: Params,
        x: Array,
    ) -> int:
        """Count the operations of factorizations, which XLA does not know.

        Args:
            target: The span of f.
            params: Shapes of the parameters.
            x: Shape of one example.

        Returns:
            Floating point operations by textbook counts; 0 by default.

        Example:
            >>> class Free(isometry.Dense):
            ...     def operations(self, target, params, x):
            ...         return 0
            >>> weights, x = jnp.eye(8), jnp.ones(8)
            >>> dense = isometry.cost(jnp.dot, weights, x, method="dense")
            >>> free = isometry.cost(jnp.dot, weights, x, method=Free())
            >>> dense.flop - free.flop
            1365
        """
        return 0

    def may_narrow(self, target: "Target") -> bool:
        """Tell whether a first program can show that a smaller one is enough.

        Args:
            target: The span of f.

        Returns:
            Whether `narrow` and then `narrowed` are called; by default they are not.

        Example:
            >>> class Whole(isometry.Dense):
            ...     def may_narrow(self, target):
            ...         return False
            >>> net = networks.mlp([32] * 6, "tanh", "orthogonal")
            >>> keys = jax.random.split(jax.random.key(0), 2)
            >>> isometry.ensemble(net, keys, jnp.ones((3, 32)), method=Whole()).method
            Whole()
        """
        return False

    def narrow(
        self,
        target: "Target",
        params: Params,
        xs: Array,
    ) -> Array:
        """Compute one number for each seed and input, which decides the size; traced.

        It is called if `may_narrow`. `Dense` counts the units that are active.

        Args:
            target: The span of f.
            params: Parameters, stacked over seeds.
            xs: Examples, stacked over inputs.

        Returns:
            (seeds, inputs) whole numbers.

        Example:
            >>> class Counting(isometry.Dense):
            ...     def may_narrow(self, target):
            ...         return True
            ...     def narrow(self, target, params, xs):
            ...         return jnp.sum(jnp.dot(params, xs.T) > 0, axis=1)
            ...     def narrowed(self, target, most):
            ...         print(f"at most {most} outputs are positive")
            ...         return target
            >>> weights = jnp.stack([jnp.eye(2), -jnp.eye(2)])
            >>> xs = jnp.ones((1, 2))
            >>> method = Counting()
            >>> sp = isometry.ensemble(jnp.dot, params=weights, xs=xs, method=method)
            at most 2 outputs are positive
        """
        raise NotImplementedError(f"{type(self).__name__} counts nothing.")

    def narrowed(self, target: "Target", most: int) -> "Target":
        """Return the target to measure, with a smaller program if the count allows it.

        Args:
            target: The span of f.
            most: The largest number that `narrow` counted.

        Returns:
            The target to measure instead.

        Example:
            >>> class Telling(isometry.Dense):
            ...     def may_narrow(self, target):
            ...         return target.sparse
            ...     def narrowed(self, target, most):
            ...         smaller = super().narrowed(target, most)
            ...         print(f"{most} units alive, {smaller.live} taken")
            ...         return smaller
            >>> net = networks.mlp([256] * 5, "relu")
            >>> keys, xs = jax.random.split(jax.random.key(0), 2), jnp.ones((1, 256))
            >>> sp = isometry.ensemble(net, keys, xs, method=Telling())
            136 units alive, 160 taken
        """
        return target


def in_turn(function: Callable[[PyTree], PyTree], stacked: PyTree) -> PyTree:
    """Apply a function to each entry of the leading axis, one after another.

    A single entry is taken without a loop, which would copy it.
    """
    if len(jax.tree.leaves(stacked)[0]) > 1:
        return jax.lax.map(function, stacked)
    result = function(jax.tree.map(lambda a: a[0], stacked))
    return jax.tree.map(lambda a: a[None], result)
