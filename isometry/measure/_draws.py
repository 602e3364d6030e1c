"""Parameters of the seeds of an ensemble: drawn from keys, adjusted, or given."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from isometry._internal import checks, kinds, memory
from isometry._internal.errors import InputError
from isometry._internal.types import Key, Params
from isometry.measure._function import Map
from isometry.networks import Network


def draw_seeds(draw: Callable[[Key], Params], source: PyTree) -> Params:
    """Return the parameters of all seeds, stacked.

    They are drawn outside of jit: operations are compiled once for all schemes, and a
    whole program would be compiled for each.

    Args:
        draw: Maps a key to parameters.
        source: The keys, along a first axis.
    """
    return jax.vmap(draw)(source)


def adjust_seeds(
    net: Network,
    params: Params,
    xs: PyTree[Array],
) -> Params:
    """Return parameters stacked over seeds, adjusted to xs if the scheme uses data.

    Seeds are adjusted one after another, on the host.
    """
    if not net.data_driven:
        return params
    # Data-driven schemes branch on values, so they cannot be vmapped over seeds.
    num_seeds = jax.tree.leaves(params)[0].shape[0]
    adjusted = []
    for i in range(num_seeds):
        of_seed = jax.tree.map(lambda a, i=i: a[i], params)
        adjusted.append(net.adjust(of_seed, xs))
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *adjusted)


def spaced(xs: Array, count: int) -> Array:
    """Return `count` examples, evenly spaced from first to last, or all if fewer."""
    # Data sets are often sorted by class; the first examples would be of one alone.
    index = np.linspace(0, len(xs) - 1, min(count, len(xs)))
    return jnp.take(xs, index.round().astype(np.int32), axis=0)


@dataclass(frozen=True, eq=False)
class Seeds:
    """The seeds of an ensemble, and how their parameters are made.

    Attributes:
        source: Keys, or the parameters themselves, stacked over seeds.
        count: The number of seeds.
        draw: Maps a key to parameters; None if `source` holds the parameters.
        net: The network whose scheme may adjust the drawn parameters, or None.
    """

    source: PyTree
    count: int
    draw: Callable[[Key], Params] | None = None
    net: Network | None = None

    def shapes(self) -> Params:
        """Return the shapes of one seed's parameters.

        Raises:
            InputError: The user's function needs the value of its key.
        """
        return self._shapes

    @functools.cached_property
    def _shapes(self) -> Params:
        # Cached, because an audit asks several times, and each traces the draw.
        # Drawing is traced and not run: one seed may take all memory.
        row = row_shapes(self.source)
        if self.draw is None:
            return row
        try:
            shapes = jax.eval_shape(self.draw, row)
        except (jax.errors.JAXTypeError, jax.errors.JAXIndexError) as error:
            # A Network draws traceably, so it is the user's function that does not.
            raise InputError(
                "sample is traced, to be mapped over keys (jax.vmap), and it needs the "
                f"value of its key: {str(error).partition(chr(10))[0]}. Draw with "
                "jax.random alone; or draw before, and write params= instead of keys "
                "and sample: jax.tree.map(lambda *leaves: jnp.stack(leaves), "
                "*map(sample, keys))."
            ) from error
        if not jax.tree.leaves(shapes):
            raise InputError(
                "f has no parameters, so that all seeds would be the same; write "
                "isometry.spectrum(f, params, x) at one input."
            )
        return shapes

    def maker(self, xs: PyTree[Array]) -> Callable[[Int[np.ndarray, " n"]], Params]:
        """Return a function from the indices of seeds to their stacked parameters.

        Args:
            xs: All examples, to which a data-driven scheme adjusts parameters.
        """

        def make(index: Int[np.ndarray, " n"]) -> Params:
            rows = jax.tree.map(lambda a: entries(a, index), self.source)
            if self.draw is None:
                return rows
            drawn = draw_seeds(self.draw, rows)
            return drawn if self.net is None else adjust_seeds(self.net, drawn, xs)

        return make


def seeds_of(
    f: Map,
    keys: Key | None,
    *,
    params: Params | None,
    sample: Callable[[Key], Params] | None,
) -> Seeds:
    """Return the seeds that the arguments `keys`, `params` and `sample` describe.

    Raises:
        InputError: Both or neither of keys and params are given, or the parameters of a
            plain f cannot be drawn.
    """
    # With both it would be unclear which of them is measured.
    if (keys is None) == (params is None):
        if keys is not None:
            raise InputError(
                "one of keys (to draw parameters) and params (stacked) is needed; both "
                "are given."
            )
        raise InputError(
            f"keys is missing; write {_KEYS}, from which parameters are drawn, or "
            "params=, which are stacked on a seeds axis."
        )
    if params is not None:
        return _seeds_of_stacked(params, sample)
    _refuse_others(f, keys)
    num_seeds = checks.keys("keys", keys).shape[0]
    if sample is not None:
        draw = checks.function("sample", sample)
        return Seeds(keys, num_seeds, draw=draw)
    if isinstance(f, Network):
        return Seeds(keys, num_seeds, draw=f.init, net=f)
    raise InputError(
        "f is a plain function; give sample=(key -> params), or params= stacked."
    )


# What a user writes for keys.
_KEYS = "keys=jax.random.split(jax.random.key(0), 8)"


def _refuse_others(f: Map, keys: Key | None) -> None:
    """Refuse inputs or parameters that are passed in the place of keys."""
    dtypes = [getattr(leaf, "dtype", None) for leaf in jax.tree.leaves(keys)]
    # JAX takes no arrays of words, and keys have a dtype of their own; both are judged
    # as keys.
    of_numpy = [dtype for dtype in dtypes if isinstance(dtype, np.dtype)]
    if not any(jnp.issubdtype(dtype, jnp.floating) for dtype in of_numpy):
        return
    # Inputs stand there if the keys were forgotten.
    shape = getattr(keys, "shape", None)
    if shape and isinstance(f, Network) and shape[1:] == f.input_shape:
        raise InputError(
            f"keys is missing: in its place stand inputs of shape {shape}. Write "
            f"{_KEYS}, and xs= by name."
        )
    raise InputError(
        f"keys is missing: in its place stands {_described(keys)}. Write {_KEYS} and "
        "xs= by name. Of parameters that are drawn already write params=, stacked on a "
        "seeds axis; a single seed's are params=jax.tree.map(lambda leaf: leaf[None], "
        "params)."
    )


def _described(value: PyTree) -> str:
    """Describe a value that was passed as keys, for a message."""
    leaves = jax.tree.leaves(value)
    if len(leaves) == 1 and leaves[0] is value:
        return f"a floating array of shape {jnp.shape(value)}"
    return f"a {type(value).__name__} of {len(leaves)} arrays"


def _seeds_of_stacked(params: Params, sample: Callable[[Key], Params] | None) -> Seeds:
    """Return the seeds of parameters that the user has stacked on a first axis."""
    if sample is not None:
        raise InputError(
            "sample draws parameters from keys, but params are given; leave one out."
        )
    checks.real("params", params)
    # A leaf without an axis of seeds would be sliced along another of its axes.
    leading = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
    if not leading:
        raise InputError(
            "params hold no array, so that there are no seeds; write "
            "isometry.spectrum(f, params, x) at one input."
        )
    num_seeds = common_length(leading)
    if num_seeds is None:
        raise InputError(
            f"the leaves of params have leading axes {sorted(leading)}; stack them on "
            "a seeds axis; one draw has jax.tree.map(lambda a: a[None], params)."
        )
    return Seeds(params, num_seeds)


def common_length(leading: set[tuple[int, ...]]) -> int | None:
    """Return the length of the leading axis that arrays share, or None.

    Args:
        leading: The `shape[:1]` of the arrays: (length,), or () for one without axes.

    Returns:
        The length; None if there are no arrays, if lengths differ, if an array has no
        axes, or if the axis is empty.
    """
    if len(leading) != 1:
        return None
    (axes,) = leading
    if axes in ((), (0,)):
        return None
    return axes[0]


def row_shapes(tree: PyTree[Array]) -> PyTree:
    """Return the shapes of one entry of the leading axis of every leaf."""

    def row(a: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(jnp.shape(a)[1:], a.dtype)

    return jax.tree.map(row, tree)


def entries(a: Array, index: Int[np.ndarray, " n"]) -> Array | np.ndarray:
    """Return a[index], without a copy if the index is a range.

    Large parameters are then not copied.
    """
    first = int(index[0])
    last = int(index[-1])
    # Padded chunks repeat their last number, so they are no range.
    is_range = len(index) == last - first + 1 and np.all(np.diff(index) == 1)
    if not is_range:
        return a[index]
    if len(index) == len(a):
        return a
    return memory.sliced(a, first, last + 1)


def key_parts(key: Key) -> tuple[str | None, Array]:
    """Return the name of the generator of a key, and its bits.

    The name is None for raw uint32 keys, which are their own bits.
    """
    if not kinds.is_typed_key(key):
        return None, key
    return str(jax.random.key_impl(key)), jax.random.key_data(key)


def comparable(leaf: Array) -> Array:
    """Return an array that NumPy can compare: the bits of a key, or the array."""
    return key_parts(leaf)[1] if kinds.is_key(leaf) else leaf
