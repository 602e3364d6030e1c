"""A plan carried out over seeds and inputs: what `signals` and `profile` share."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from isometry import structure
from isometry._internal import checks, jaxprs, memory, precision
from isometry._internal.errors import InputError
from isometry._internal.types import Key, Params
from isometry.measure import _arguments, _draws, _ensemble, _refusals, _spans
from isometry.measure._function import Reference, identity
from isometry.measure._plan import Function, Plan, grouped
from isometry.measure._spans import Point, Span
from isometry.structure import Anatomy
from isometry.structure._anatomy import in_order

# Copies of the parameters of a seed: as they are drawn, and in the measured dtype.
_COPIES = 2


class Run(NamedTuple):
    """A plan, with the inputs and seeds at which it is carried out.

    Attributes:
        plan: Which values are read.
        xs: The inputs, in the dtype of the measurement.
        num_inputs: The number of inputs.
        num_seeds: The number of seeds.
        make: Maps the indices of some seeds to their stacked parameters.
        seeds_at_once: The number of seeds in a chunk, all drawn before it is measured.
    """

    plan: Plan
    xs: PyTree[Array]
    num_inputs: int
    num_seeds: int
    make: Callable[[np.ndarray], Params]
    seeds_at_once: int

    def chunks(self) -> Iterable[tuple[np.ndarray, Params]]:
        """Yield chunks of seeds, as many at a time as fit in memory.

        Yields:
            `(seeds, params)`: the indices of the seeds, and their parameters, stacked.
            All chunks have the same length: the last one repeats the last seed.
        """
        for start in range(0, self.num_seeds, self.seeds_at_once):
            seeds = np.arange(start, start + self.seeds_at_once)
            # A shorter chunk would need another program, so the last seed is repeated.
            seeds = np.minimum(seeds, self.num_seeds - 1)
            yield seeds, precision.cast(self.make(seeds), self.plan.dtype)

    def joined(self, parts: Sequence[dict[str, Array]]) -> dict[str, np.ndarray]:
        """Return the results of all chunks concatenated, without repeated seeds."""
        on_host = [jax.tree.map(np.asarray, part) for part in parts]
        return {
            name: np.concatenate([part[name] for part in on_host])[: self.num_seeds]
            for name in on_host[0]
        }


def prepare(
    f: Function,
    keys: Key | None,
    xs: PyTree[Array],
    *,
    params: Params | None,
    sample: Callable[[Key], Params] | None,
    span: Span,
    dtype: jax.typing.DTypeLike | None,
    choose: Callable[[Anatomy, Point, Point], Sequence[str]],
) -> Run:
    """Check the arguments, and plan which values to read.

    Args:
        f: A `Network`, any f(params, x), or a list of blocks.
        keys: A key for each seed.
        xs: Examples along a first axis.
        params: Instead of keys, parameters stacked over seeds.
        sample: Draws parameters from a key, if f is a plain function.
        span: As in `resolve`.
        dtype: The dtype of the measurement, or None.
        choose: Maps the anatomy and both ends of the span to the names of the points.

    Returns:
        The plan, with its inputs and seeds.
    """
    for name, value in (("keys", keys), ("xs", xs), ("params", params)):
        checks.on_host(name, value)
        checks.not_abstract(name, value)
    f = _arguments.chained(f)
    function = _arguments.function_of(f)
    seeds = _draws.seeds_of(f, keys, params=params, sample=sample)
    xs, num_inputs = _ensemble.inputs_of(f, xs)
    params_shapes = seeds.shapes()
    _arguments.require_params(f, params_shapes)
    measuring_dtype = precision.measuring_dtype(dtype, params_shapes, xs)
    # Cast before f is read: an anatomy holds for these dtypes alone.
    xs = precision.cast(xs, measuring_dtype)
    shapes = _arguments.abstract(
        (params_shapes, _draws.row_shapes(xs)), measuring_dtype
    )
    anatomy = read(function, shapes)
    resolved = _spans.resolve(function, anatomy, span)
    # f is read at full precision, but may explicitly ask for less.
    coarse = jaxprs.coarse(anatomy.closed.jaxpr, measuring_dtype)
    _refusals.warn_of_precision(coarse)
    groups = grouped(anatomy, choose(anatomy, resolved.first, resolved.last))
    # Groups have not kept the order of the points; it is restored below.
    names_read = {name for group in groups for name in group.names}
    leaves, tree = jax.tree.flatten(shapes)
    reference = Reference(function)
    plan = Plan(
        f=reference,
        shapes=(tree, *((leaf.shape, leaf.dtype) for leaf in leaves)),
        program=identity(anatomy.closed, reference),
        first=resolved.first,
        last=resolved.last,
        names=tuple(in_order(anatomy, names_read)),
        dtype=measuring_dtype,
        anatomy=anatomy,
        groups=groups,
    )
    bytes_of_seed = max(1, memory.tree_bytes(params_shapes))
    seeds_at_once = memory.budget(None) // (_COPIES * bytes_of_seed)
    return Run(
        plan=plan,
        xs=xs,
        num_inputs=num_inputs,
        num_seeds=seeds.count,
        make=seeds.maker(xs),
        seeds_at_once=at_once(seeds_at_once, seeds.count),
    )


def read(function: Function, shapes: tuple[Params, PyTree]) -> Anatomy:
    """Return the anatomy of f; what f raises becomes an InputError that quotes it."""
    try:
        return structure.anatomy(function, *shapes)
    except InputError:
        raise
    # A user's f may raise anything.
    except Exception as error:
        trace = functools.partial(jax.eval_shape, function)
        raise _refusals.error_of_f(error, trace, shapes, argument="xs") from error


def hashable(f: Function) -> Function:
    """Return f, in a lambda if it has no hash, like a module that holds arrays."""
    return f if checks.is_hashable(f) else lambda *arguments: f(*arguments)


def at_once(
    fitting: int,
    count: int,
) -> int:
    """Return how many of `count` things to compute at once, at least one.

    Args:
        fitting: How many fit in memory.
        count: How many there are.
    """
    if fitting >= count:
        return count
    # The free memory differs from call to call; rounded to a power of two it is mostly
    # the same, and the program need not be compiled again.
    return 2 ** (max(fitting, 1).bit_length() - 1)


def keys_of(
    key: Key | None,
    num_seeds: int,
    num_inputs: int,
) -> Key | None:
    """Return keys of shape (seeds, inputs), or None if there is no key.

    A key depends on the indices of its seed and input, and not on how many there are.
    """
    if key is None:
        return None

    def of_seed(seed: Array) -> Key:
        # Indices are folded in. The keys of a split would depend on their number.
        key_of_seed = jax.random.fold_in(key, seed)
        inputs = jnp.arange(num_inputs)
        return jax.vmap(lambda i: jax.random.fold_in(key_of_seed, i))(inputs)

    return jax.vmap(of_seed)(jnp.arange(num_seeds))
