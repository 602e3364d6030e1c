"""Random inputs of f, where the user gives none: of every size, over all rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, PyTree

from isometry._internal import checks, jaxprs
from isometry._internal.errors import InputError
from isometry._internal.types import Key

# Standard deviations are log-uniform between 1/8 and 8: small inputs keep a saturating
# activation near 0, large ones drive a unit over a constant bias. At 1/64 differences
# of second order would drown in rounding; at 64 most units are saturated.
_LOG2_SIZES = 3.0


@dataclass
class RandomInputs:
    """Draws inputs of given shapes.

    Attributes:
        shapes: The shapes of x.
        num_rows: For each leaf of whole numbers, how many values it may take.
        period: How many inputs show every value of every leaf at least once.
    """

    shapes: PyTree
    num_rows: Mapping[int, int]
    period: int = field(init=False)

    def __post_init__(self) -> None:
        leaves = jax.tree.leaves(self.shapes)
        # A sequence of 16 tokens shows 16 of 50,000 rows.
        periods = [
            math.ceil(rows / max(1, math.prod(leaves[i].shape)))
            for i, rows in self.num_rows.items()
        ]
        self.period = max(periods, default=1)
        # What is left of a random order of all values; so that none is missed.
        self._left: dict[int, list[np.ndarray]] = {}

    def __call__(self, key: Key) -> PyTree:
        """Draw an input."""
        leaves, tree = jax.tree.flatten(self.shapes)
        rng = _generator(key)
        drawn = [self._leaf(i, leaf, key, rng=rng) for i, leaf in enumerate(leaves)]
        return tree.unflatten(drawn)

    def _leaf(
        self,
        index: int,
        leaf: jax.ShapeDtypeStruct,
        key: Key,
        *,
        rng: np.random.Generator,
    ) -> Array | np.ndarray:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            own = jax.random.fold_in(key, index)
            return jax.random.split(own, leaf.shape) if leaf.shape else own
        # Keys of the old kind are numbers like others to JAX.
        if checks.is_key(leaf):
            return rng.integers(2**32, size=leaf.shape, dtype=np.uint32)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
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
        rows = self.num_rows[index]
        pack = self._left.setdefault(index, [])
        while sum(map(len, pack)) < math.prod(leaf.shape):
            pack.append(rng.permutation(rows))
        cards = np.concatenate([*pack, np.zeros(0, np.int64)])
        # What is left is dealt out first next time.
        used = math.prod(leaf.shape)
        self._left[index] = [cards[used:]]
        return cards[:used].reshape(leaf.shape)


@dataclass
class Batches:
    """Draws rows of the user's data, each row once before any comes twice.

    Attributes:
        xs: The data, rows along a first axis.
        size: The number of rows of a batch.
        period: How many batches show every row at least once.
    """

    xs: PyTree
    size: int
    period: int = field(init=False)

    def __post_init__(self) -> None:
        self._num = len(jax.tree.leaves(self.xs)[0])
        self.period = math.ceil(self._num / self.size)
        self._left = np.zeros(0, np.int64)

    def __call__(self, key: Key) -> PyTree:
        """Draw a batch."""
        if len(self._left) < self.size:
            shuffled = _generator(key).permutation(self._num)
            self._left = np.concatenate([self._left, shuffled])
        # Rows that are left over come first in the next batch.
        rows, self._left = self._left[: self.size], self._left[self.size :]
        return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], self.xs)


def _generator(key: Key) -> np.random.Generator:
    """Return NumPy's generator, which compiles nothing, seeded by a key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


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
        InputError: A leaf of whole numbers selects nothing of which the size is known.
    """
    paths = jax.tree_util.tree_leaves_with_path(shapes)
    variables = closed.jaxpr.invars[num_params:]
    num_rows = {}
    for i, ((path, leaf), variable) in enumerate(zip(paths, variables, strict=True)):
        is_whole = jnp.issubdtype(leaf.dtype, jnp.integer) and not checks.is_key(leaf)
        if not is_whole:
            continue
        # The smallest, where several arrays are indexed: beyond it JAX clips.
        sizes = _indexed(closed.jaxpr, {variable})[0]
        if not sizes:
            name = f"x{jax.tree_util.keystr(path)}"
            raise InputError(
                f"{name} holds whole numbers that select no rows of a parameter, so "
                "their range is not known; write draw=lambda key: x."
            )
        num_rows[i] = min(sizes)
    return RandomInputs(shapes, num_rows)


def _indexed(
    jaxpr: core.Jaxpr,
    indices: set[core.Var],
) -> tuple[list[int], set[core.Var]]:
    """Find what whole numbers select rows of.

    Args:
        jaxpr: A program.
        indices: Its variables that hold the whole numbers.

    Returns:
        The sizes of the axes along which rows are selected, and all variables that hold
        whole numbers made of those.
    """
    sizes: list[int] = []
    reached = set(indices)
    for eqn in jaxpr.eqns:
        hits = [isinstance(v, core.Var) and v in reached for v in eqn.invars]
        if not any(hits):
            continue
        name = eqn.primitive.name
        # What is selected from, and along which axes.
        shape = _shape(eqn.invars[0])
        if name == "gather" and hits[1]:
            axes = eqn.params["dimension_numbers"].start_index_map
            sizes += [shape[axis] for axis in axes]
        elif name == "dynamic_slice" and any(hits[1:]):
            axes = [axis for axis, hit in enumerate(hits[1:]) if hit]
            sizes += [shape[axis] for axis in axes]
        for part in jaxprs.inner(eqn):
            sizes += _inside(eqn, part, hits)
        reached |= {v for v in eqn.outvars if _is_whole(v)}
    return sizes, reached


def _inside(
    eqn: core.JaxprEqn,
    part: core.Jaxpr,
    hits: Sequence[bool],
) -> list[int]:
    """Find what is selected inside of a program that an equation calls."""
    # The predicate of a cond, for example, is no argument of its branches.
    outer = hits[len(hits) - len(part.invars) :]
    inner = {v for v, hit in zip(part.invars, outer, strict=False) if hit}
    return _indexed(part, inner)[0]


def _shape(atom: core.Var | core.Literal) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def _is_whole(v: core.Var) -> bool:
    dtype = getattr(v.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.integer)
