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

# XLA keeps a value beside its derivative, or in the order of axes that a kernel wants.
# Fitted, as the other constants of footprints, to what XLA allocates on a CPU for the
# programs of tests/measure/test_cost.py: with half of each some programs take more
# than the bound, with twice each chunks are half as large as they could be.
COPIES = 2

# Bytes of scalars and counters, each in a line of its own.
SMALL = 4096


class Footprint(NamedTuple):
    """Bytes of measuring the inputs of one seed together.

    The sum is `shared` + inputs * (`each` + directions at a time * `a_direction`).

    Attributes:
        shared: Bytes that all inputs of a seed share.
        each: Bytes of one input, without directions.
        a_direction: Bytes of one direction of one input.
        directions: How many directions a Jacobian takes; a smaller number at a time
            takes longer, and fits where all of them do not.
    """

    shared: int
    each: int
    a_direction: int = 0
    directions: int = 0

    def bytes(self, chunk: int | None = None) -> int:
        """Return the bytes of one input, with `chunk` directions at a time or all."""
        at_a_time = self.directions
        if chunk is not None:
            at_a_time = min(chunk, self.directions)
        return self.shared + self.each + at_a_time * self.a_direction

    def chunk(self, budget: int) -> int | None:
        """Return how many directions at a time a budget allows, at least one.

        None is all of them, or a method that takes none.
        """
        if self.bytes() <= budget or self.a_direction == 0:
            return None
        return max(1, (budget - self.bytes(0)) // self.a_direction)


class Method:
    """A way to find the spectrum of a Jacobian.

    Extend this class in a file of its own, as a frozen dataclass of hashable fields,
    and write `spectrum`; the other functions have defaults. An instance can be passed
    as `method=` at once, and after `methods.register("name", MyMethod)` its name too.

    Attributes:
        needs_key: Whether the method draws random numbers.
        needs_factors: Whether `target.factors` is asked for, so that a function that is
            no network is cut into blocks.
        forms_jacobian: Whether `of_jacobian` measures a Jacobian that is formed
            already, so that progress can be told while it is.
        probes: Of how many quadratures of equal mass the nodes come.

    Example:
        >>> import dataclasses
        >>> from isometry.measure import methods
        >>> @dataclasses.dataclass(frozen=True)
        ... class Gram(methods.Method):
        ...     def spectrum(self, target, params, x, key):
        ...         jacobian = target.jacobian(params, x)
        ...         squares = jnp.linalg.eigvalsh(jacobian @ jacobian.T)[::-1]
        ...         return target.record(self, jnp.log(squares) / 2, log_floor=-8.0)
        >>> matrix = jnp.diag(jnp.array([3.0, 2.0]))
        >>> sp = isometry.spectrum(jnp.dot, matrix, jnp.ones(2), method=Gram())
        >>> [round(float(s), 3) for s in sp.values]
        [3.0, 2.0]
    """

    needs_key = False
    needs_factors = False
    forms_jacobian = False
    probes = 1

    def check(self, target: "Target", key: Key | None) -> None:
        """Refuse a target that this method cannot measure, with the reason.

        Args:
            target: The span of f.
            key: What the user passed; a single random key if `needs_key`.

        Raises:
            InputError: The reason, and what to write instead.
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
                `target.factors` show its Jacobian, `target.record` makes the spectrum.
            params: The parameters.
            x: One example.
            key: A random key if `needs_key`, else None.

        Returns:
            The spectrum. Its nodes are NaN where the Jacobian is not finite.
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
            The spectra, of batch axes (seeds, inputs).
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
        """Measure Jacobians that are formed already, if `forms_jacobian`; traced.

        Args:
            target: The span of f.
            matrix: (..., m, n).

        Returns:
            The spectrum.
        """
        raise NotImplementedError(f"{type(self).__name__} forms no Jacobian.")

    def footprint(
        self,
        target: "Target",
        params: Params,
        x: Array,
    ) -> Footprint:
        """Bound the bytes of measuring, from shapes alone.

        Args:
            target: The span of f.
            params: Shapes of the parameters, in the dtype of the measurement.
            x: Shape of one example.

        Returns:
            The bytes. By default those of autodiff of f in all directions at once, and
            of four arrays of the Jacobian's size.
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
        """
        return 0

    def may_narrow(self, target: "Target") -> bool:
        """Tell whether counting something first can make the program smaller."""
        return False

    def narrow(
        self,
        target: "Target",
        params: Params,
        xs: Array,
    ) -> Array:
        """Count for each of seeds × inputs, if `may_narrow`; traced.

        Args:
            target: The span of f.
            params: Parameters, stacked over seeds.
            xs: Examples, stacked over inputs.

        Returns:
            (seeds, inputs) whole numbers.
        """
        raise NotImplementedError(f"{type(self).__name__} counts nothing.")

    def narrowed(self, target: "Target", most: int) -> "Target":
        """Return a target whose program is smaller, if it may be.

        Args:
            target: The span of f.
            most: The largest number that `narrow` counted.

        Returns:
            The target to measure instead.
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
