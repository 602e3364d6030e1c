"""The arguments f, x and span of a measurement, in one form; refuses wrong ones."""

from typing import cast

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import PyTree

from isometry._internal import checks, kinds, precision
from isometry._internal.errors import InputError
from isometry._internal.types import Params
from isometry.measure import _leaves, _spans
from isometry.measure._function import Map
from isometry.measure._spans import End, Span
from isometry.networks import Network, chain
from isometry.networks._network import Built, Redrawn

# The bits of float32; lower floating dtypes are cast up to it.
_FULL_BITS = 32


def chained(f: Map | list[Map]) -> Map:
    """Return f, or the chain of a list of blocks; refuse a module of a library."""
    checks.no_module("f", f)
    return chain(f) if isinstance(f, (list, tuple)) else f


def function_of(f: Map | list[Map]) -> Map:
    """Return f(params, x) of a network, of a list of blocks, or of itself."""
    f = chained(f)
    if isinstance(f, Network):
        f = f.function
    if not callable(f):
        raise InputError(
            f"f={checks.show(f)} is not callable; write f(params, x) for one example x."
        )
    return f


def example(x: PyTree) -> PyTree:
    """Return an example whose leaves are arrays; a list of numbers is one array."""
    # Trees of arrays are for functions that take them; a list of numbers is what a user
    # means by an array.
    leaves = jax.tree.leaves(x)
    are_numbers = all(isinstance(leaf, (bool, int, float)) for leaf in leaves)
    is_array = jax.tree.structure(x).num_nodes == 1
    # A dictionary or a tuple of arrays stays a tree.
    if are_numbers or is_array:
        return x if isinstance(x, jax.ShapeDtypeStruct) else checks.array("x", x)
    paths = jax.tree_util.tree_leaves_with_path(x)
    arrays = []
    for path, leaf in paths:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            leaf = _leaves.array_or_key(f"x{jax.tree_util.keystr(path)}", leaf)
        arrays.append(leaf)
    return jax.tree.unflatten(jax.tree.structure(x), arrays)


def abstract(tree: PyTree, dtype: DTypeLike) -> PyTree:
    """Return the shapes of `tree` after its floating leaves are cast to `dtype`."""
    return jax.tree.map(lambda leaf: precision.shape_of(leaf, dtype), tree)


def require_example(f: Map | list[Map], x: PyTree, argument: str) -> None:
    """Refuse an x that is not what a `Network` takes: a batch, or another shape.

    Args:
        f: A network. Of any other f nothing is known, and any x passes.
        x: One example, or its shape.
        argument: The name of the argument that holds x, "x" or "xs".
    """
    if not isinstance(f, Network) or f.example is None or f.any_size:
        return
    # In training mode x is a batch, with any number of examples.
    if f.mode == "training":
        return
    shapes = f.example
    if jax.tree.structure(x) != jax.tree.structure(shapes):
        raise InputError(
            f"{argument} is a tree {jax.tree.structure(x)}, and this network takes "
            f"{_described(shapes)}."
        )
    pairs = list(zip(jax.tree.leaves(x), jax.tree.leaves(shapes), strict=True))
    if all(jnp.shape(leaf) == expected.shape for leaf, expected in pairs):
        return
    is_batch = all(jnp.shape(leaf)[1:] == expected.shape for leaf, expected in pairs)
    if argument == "xs":
        raise InputError(
            f"xs holds rows of {_described(x)}, and this network takes rows of "
            f"{_described(shapes)}."
        )
    if is_batch:
        count = jnp.shape(jax.tree.leaves(x)[0])[0]
        raise InputError(
            f"x is {_described(x)}: {count} examples, and one of {_described(shapes)} "
            "is meant; write x[0], or isometry.ensemble(net, params=..., xs=x) for "
            "all, with params stacked on a seeds axis."
        )
    raise InputError(
        f"x is {_described(x)}, and this network takes one example of "
        f"{_described(shapes)}. For another size build the network with such an "
        "example."
    )


def require_params(f: Map | list[Map], params: PyTree) -> None:
    """Refuse parameters that are not those of a `Network`, if it knows its own.

    Those of another network may fit, and its Jacobian would be measured in silence.

    Args:
        f: A network. Of any other f nothing is known, and all parameters pass.
        params: The parameters, or their shapes.
    """
    if isinstance(f, Network):
        f._require_params(params)


def _described(x: PyTree) -> str:
    """Return the shape of an input as text, or the shapes of its leaves."""
    if jax.tree.structure(x).num_nodes == 1:
        return f"shape {jnp.shape(x)}"
    return f"shapes {jax.tree.map(jnp.shape, x)}"


def canonical(span: Span) -> Span:
    """Return a span as a name or as tuples, which are hashable."""
    # A string by itself names a span, and not a point.
    if isinstance(span, str):
        return _spans.require_named(span)
    if isinstance(span, (tuple, list)):
        span = cast(Span, tuple(map(_end, span)))
    if not checks.is_hashable(span):
        raise InputError(
            f"span={checks.show(span)} is not a span; write two points of "
            "isometry.anatomy(f, params, x).points."
        )
    return span


def _end(end: End) -> End:
    """Return one end of a span, its lists as tuples, which are hashable."""
    return cast(End, tuple(end)) if isinstance(end, list) else end


def lowest_dtype(params: Params, x: PyTree) -> str | None:
    """Return the name of the lowest floating dtype, if it is below float32."""
    leaves = jax.tree.leaves((params, x))
    dtypes = {jnp.result_type(leaf) for leaf in leaves if not kinds.is_key(leaf)}
    # Integers, such as tokens, are not cast and lose nothing.
    low = [
        dtype.name
        for dtype in dtypes
        if jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < _FULL_BITS
    ]
    return min(low, default=None)


def cannot_be_batch(f: Map | list[Map]) -> bool:
    """Tell whether x is known to be what f takes, and no batch by mistake.

    Otherwise the caller warns of an x whose rows do not affect each other.
    `require_example` has compared x with the example of a network already.
    """
    if not isinstance(f, Network):
        return False
    # The package's own networks know their example from their arguments. There rows may
    # be independent nevertheless: delta kernels never mix the rows of an image. The
    # example of an adapter comes from the user, and may be a batch itself.
    is_own = isinstance(f, Built) and not isinstance(f, Redrawn)
    # In training mode x is meant to be a batch.
    return is_own or f.mode == "training"
