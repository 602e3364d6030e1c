"""Random inputs of f where the user gives none: at all scales, over all rows."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, PyTree

from isometry._internal import jaxprs, kinds, randomness
from isometry._internal.errors import InputError
from isometry._internal.types import Key
from isometry.structure import Anatomy

# Standard deviations are log-uniform between 1/8 and 8: small inputs keep a saturating
# activation near 0, large ones drive a unit over a constant bias. At 1/64 differences
# of second order would drown in rounding; at 64 most units are saturated.
_LOG2_SIZES = 3.0


@dataclass
class RandomInputs:
    """Draws inputs of given shapes.

    Attributes:
        shapes: The shapes of x.
        num_rows: How many rows each leaf of integers selects from, by its place among
            the leaves.
        period: The number of inputs that together hold every value of each such leaf.
    """

    shapes: PyTree
    num_rows: Mapping[int, int]
    period: int = field(init=False)

    def __post_init__(self) -> None:
        self.period = 1
        leaves = jax.tree.leaves(self.shapes)
        for i, num_rows in self.num_rows.items():
            # One input with 16 tokens holds 16 of 50,000 values.
            num_shown = max(1, math.prod(leaves[i].shape))
            self.period = max(self.period, math.ceil(num_rows / num_shown))
        # The rest of a random order of all values, by leaf, from which the next input
        # is taken; so no value is missed.
        self._left: dict[int, np.ndarray] = {}

    def __call__(self, key: Key) -> PyTree:
        """Draw an input."""
        return self._drawn(randomness.host_generator(key), lambda: key)

    def from_seed(self, seed: int) -> PyTree:
        """Draw an input from a seed below 2^32.

        With JAX's own generator of keys it is the input of `jax.random.key(seed)`. No
        key is made unless x holds keys: it would take longer than all the rest.
        """
        # The bits of that key.
        words = np.array([0, seed], np.uint32)
        make_key = functools.partial(jax.random.key, seed)
        return self._drawn(np.random.default_rng(words), make_key)

    def _drawn(
        self,
        rng: np.random.Generator,
        make_key: Callable[[], Key],
    ) -> PyTree:
        """Draw all leaves, numbers from NumPy's generator and keys from a key."""
        leaves, tree = jax.tree.flatten(self.shapes)
        drawn = []
        for i, leaf in enumerate(leaves):
            drawn.append(self._leaf(i, leaf, make_key, rng=rng))
        return tree.unflatten(drawn)

    def _leaf(
        self,
        index: int,
        leaf: jax.ShapeDtypeStruct,
        make_key: Callable[[], Key],
        *,
        rng: np.random.Generator,
    ) -> Array | np.ndarray:
        if kinds.is_typed_key(leaf):
            own = jax.random.fold_in(make_key(), index)
            # A leaf without axes is one key, while `split` returns an array.
            if not leaf.shape:
                return own
            return jax.random.split(own, leaf.shape)
        # Keys of the old kind are arrays of uint32.
        if kinds.is_key(leaf):
            return rng.integers(2**32, size=leaf.shape, dtype=np.uint32)
        if kinds.is_floating(leaf):
            size = 2.0 ** rng.uniform(-_LOG2_SIZES, _LOG2_SIZES)
            return size * rng.standard_normal(leaf.shape)
        if leaf.dtype == np.bool_:
            return rng.integers(2, size=leaf.shape).astype(bool)
        return self._rows(index, leaf, rng).astype(leaf.dtype)

    def _rows(
        self,
        index: int,
        leaf: jax.ShapeDtypeStruct,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Deal out values from a shuffled pack, which is shuffled anew when empty."""
        num_wanted = math.prod(leaf.shape)
        pack = self._left.get(index, np.zeros(0, np.int64))
        while len(pack) < num_wanted:
            shuffled = rng.permutation(self.num_rows[index])
            pack = np.concatenate([pack, shuffled])
        # The rest comes first in the next input.
        self._left[index] = pack[num_wanted:]
        return pack[:num_wanted].reshape(leaf.shape)


@dataclass
class Batches:
    """Draws rows of the user's data, each row once before any comes twice.

    Attributes:
        xs: The data, rows along a first axis.
        size: The number of rows of a batch.
        period: The number of batches that together hold every row.
    """

    xs: PyTree
    size: int
    period: int = field(init=False)

    def __post_init__(self) -> None:
        self._num_rows = len(jax.tree.leaves(self.xs)[0])
        self.period = math.ceil(self._num_rows / self.size)
        self._left = np.zeros(0, np.int64)

    def __call__(self, key: Key) -> PyTree:
        """Draw a batch."""
        if len(self._left) < self.size:
            shuffled = randomness.host_generator(key).permutation(self._num_rows)
            self._left = np.concatenate([self._left, shuffled])
        # Rows that are left over come first in the next batch.
        rows = self._left[: self.size]
        self._left = self._left[self.size :]

        def of_leaf(leaf: Array) -> np.ndarray:
            return np.asarray(leaf)[rows]

        return jax.tree.map(of_leaf, self.xs)


def input_of(draw: Callable[[Key], PyTree], seed: int) -> PyTree:
    """Draw an input from a seed, without a key where none is needed."""
    if isinstance(draw, RandomInputs):
        return draw.from_seed(seed)
    # Keys are made from NumPy's numbers: to split a key would compile a program.
    return draw(jax.random.key(seed))


def default(
    shapes: PyTree,
    closed: core.ClosedJaxpr,
    num_params: int,
) -> RandomInputs:
    """Return random inputs of given shapes.

    Args:
        shapes: The shapes of x.
        closed: The jaxpr of f, a function of the leaves of params and of x.
        num_params: The number of leaves of params.

    Raises:
        InputError: A leaf of integers selects no rows, so that its range is not known.
    """
    num_rows = _rows_selected(closed, num_params)
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    for i, (path, leaf) in enumerate(leaves):
        if kinds.is_whole(leaf) and i not in num_rows:
            name = f"x{jax.tree_util.keystr(path)}"
            raise InputError(
                f"{name} holds whole numbers that select no rows of a parameter, so "
                "their range is not known; write draw=lambda key: x."
            )
    return RandomInputs(shapes, num_rows)


def rows_selected(anatomy: Anatomy) -> dict[int, int]:
    """Return how many rows the whole numbers of x select from.

    Args:
        anatomy: The anatomy of f.

    Returns:
        The number by place among the leaves of x, of those that select rows.
    """
    return _rows_selected(anatomy.closed, anatomy.params_tree.num_leaves)


def _rows_selected(
    closed: core.ClosedJaxpr,
    num_params: int,
) -> dict[int, int]:
    """Return how many rows each leaf of x selects from, by its place.

    Args:
        closed: The jaxpr of f, a function of the leaves of params and of x.
        num_params: The number of leaves of params.
    """
    num_rows = {}
    variables = closed.jaxpr.invars[num_params:]
    for i, aval in enumerate(closed.in_avals[num_params:]):
        if not kinds.is_whole(jax.ShapeDtypeStruct(aval.shape, aval.dtype)):
            continue
        sizes = _sizes_indexed(closed.jaxpr, {variables[i]})
        # If the integers index several arrays, the smallest sets the range, because
        # JAX clips an index beyond it.
        if sizes:
            num_rows[i] = min(sizes)
    return num_rows


def _sizes_indexed(
    jaxpr: core.Jaxpr,
    indices: set[core.Var],
) -> list[int]:
    """Return the sizes of the axes along which integers select rows.

    Args:
        jaxpr: A program.
        indices: The variables of the program that hold the integers.
    """
    sizes: list[int] = []
    # Integers that are computed from indices are indices too.
    reached = set(indices)
    for eqn in jaxpr.eqns:
        hits = [isinstance(v, core.Var) and v in reached for v in eqn.invars]
        if not any(hits):
            continue
        shape = _shape(eqn.invars[0])
        sizes += [shape[axis] for axis in _selecting_axes(eqn, hits)]
        for part in jaxprs.inner(eqn):
            pairs = zip(part.invars, _of_part(eqn, hits, part), strict=False)
            inner = {variable for variable, hit in pairs if hit}
            sizes += _sizes_indexed(part, inner)
        reached |= {v for v in eqn.outvars if _is_whole(v)}
    return sizes


def _of_part(
    eqn: core.JaxprEqn,
    hits: list[bool],
    part: core.Jaxpr,
) -> list[bool]:
    """Return which arguments of a program that an equation calls are indices.

    Args:
        eqn: The equation.
        hits: Which of its operands are indices.
        part: The program.
    """
    # A while loop reads the constants of its condition, those of its body, and what it
    # carries. The condition gets all but the second.
    if eqn.primitive.name == "while" and part is eqn.params["cond_jaxpr"].jaxpr:
        num_of_cond = eqn.params["cond_nconsts"]
        carry_start = num_of_cond + eqn.params["body_nconsts"]
        return hits[:num_of_cond] + hits[carry_start:]
    # All others get the last operands. The predicate of a cond, for example, is no
    # argument of its branches.
    return hits[len(hits) - len(part.invars) :]


def _selecting_axes(
    eqn: core.JaxprEqn,
    hits: Sequence[bool],
) -> Sequence[int]:
    """Return the axes of the first operand along which an equation selects by index.

    Args:
        eqn: The equation.
        hits: Which of its operands are indices.
    """
    name = eqn.primitive.name
    if name == "gather" and hits[1]:
        return eqn.params["dimension_numbers"].start_index_map
    # A dynamic slice has a start for each axis.
    if name == "dynamic_slice":
        return [axis for axis, hit in enumerate(hits[1:]) if hit]
    return []


def _shape(atom: core.Var | core.Literal) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def _is_whole(v: core.Var) -> bool:
    dtype = getattr(v.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.integer)
