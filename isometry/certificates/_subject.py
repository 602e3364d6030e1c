"""What is certified: a function, its anatomy, and how its inputs are drawn."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from isometry import structure
from isometry._internal import checks, kinds
from isometry._internal.errors import (
    FromCall,
    InputError,
    NotDefined,
    SameInTraining,
)
from isometry._internal.types import Key, Params
from isometry.certificates import _draws
from isometry.certificates._data import Data
from isometry.certificates._gradients import Draw
from isometry.certificates._programs import Function
from isometry.networks import chain
from isometry.networks._chain import Chain
from isometry.networks._network import Network
from isometry.structure import Anatomy


class Subject(NamedTuple):
    """A function to certify.

    Attributes:
        f: The function whose gradients are drawn.
        anatomy: The anatomy of f, whose layers are the rows of the certificate.
        point_f: The function of one example, for `Certificate.units`.
        points: The anatomy of `point_f`.
        draw: Draws an input of f.
        draw_point: Draws an input of `point_f`.
        period: The number of inputs that together show all rows of the data or of an
            embedding.
        draws_rows: Whether integers in x are drawn by the user's own function.
        mode: The mode of f that is certified, in words.
    """

    f: Function
    anatomy: Anatomy
    point_f: Function
    points: Anatomy
    draw: Draw
    draw_point: Draw
    period: int
    draws_rows: bool
    mode: str


def subject(
    f: Function | Sequence[Function],
    params: Params,
    x: PyTree,
    *,
    draw: Draw | None,
    xs: PyTree,
    loss: Callable[..., Array] | None,
) -> Subject:
    """Check the arguments of `certify`, and return the function to certify.

    Args:
        f: A network, a list of blocks, or any f(params, x).
        params: Parameters.
        x: One example or its shapes, or None.
        draw: Draws inputs, or None.
        xs: The user's data, or None.
        loss: Maps an output, or an output and a target, to a number; or None.
    """
    # Every argument is checked before anything is traced, which may take seconds.
    f = _function(f)
    check_params(params)
    _check_inputs(x, draw=draw, xs=xs, loss=loss)
    # Training differs from inference by dropout and by statistics of a batch.
    network: Function = f
    mode = ""
    if isinstance(f, Network):
        _check_fit(f, params)
        network, mode = _in_training(f)
    num_params = len(jax.tree.leaves(params))
    if xs is not None:
        return of_data(f, network, params, xs=xs, loss=loss, mode=mode)
    shapes = _example(f, network, x, draw=draw)
    anatomy = read(network, params, shapes)
    whole = Subject(
        f=network,
        anatomy=anatomy,
        point_f=network,
        points=anatomy,
        draw=draw or _draws.default(shapes, anatomy.closed, num_params),
        draw_point=draw or _draws.default(shapes, anatomy.closed, num_params),
        period=1,
        draws_rows=draw is not None,
        mode=mode or "f as it is",
    )
    # A user's draw must return the same shapes every time.
    if draw is not None:
        return whole._replace(draw=_checked(draw, shapes))
    whole = whole._replace(period=cast(_draws.RandomInputs, whole.draw).period)
    if network is f or not isinstance(f, Network):
        return whole
    # `units` reads a single example: in a batch, values have an axis of examples too.
    row = shapes_of(f.example)
    points = read(f, params, row)
    draw_point = _draws.default(row, points.closed, num_params)
    return whole._replace(point_f=f, points=points, draw_point=draw_point)


def _function(f: Function | Sequence[Function]) -> Function:
    """Return what the user passed as f as one function or network."""
    checks.no_module("f", f)
    if isinstance(f, (list, tuple)):
        f = chain(list(f))
    # With a plain function among the blocks the shapes of the parameters are not known,
    # so the chain is certified as a plain function.
    if isinstance(f, Chain) and not all(isinstance(b, Network) for b in f.blocks):
        f = f.function
    if not callable(f):
        raise InputError(
            f"f={checks.show(f)} is not callable; write f(params, x) or a Network."
        )
    return f


def _check_inputs(
    x: PyTree,
    *,
    draw: Draw | None,
    xs: PyTree,
    loss: Callable[..., Array] | None,
) -> None:
    """Require arguments that say in one way what the inputs are."""
    for name, value in (("x", x), ("xs", xs)):
        checks.on_host(name, value)
        if value is not None:
            checks.real(name, value)
    if draw is not None and not callable(draw):
        raise InputError(f"draw={checks.show(draw)} is not callable; write draw(key).")
    # Inputs are either drawn at random or given.
    if draw is not None and xs is not None:
        raise InputError("draw and xs were both given; write one of them.")
    if loss is not None and xs is None:
        raise InputError("loss was given without xs; write xs=, the data it is of.")


def check_params(params: Params) -> None:
    """Require finite real arrays, of which some are floating."""
    checks.on_host("params", params)
    checks.not_abstract("params", params)
    checks.real("params", params)
    # Whole numbers and keys among the parameters are not trained.
    num_floating = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if kinds.is_key(leaf):
            continue
        if not kinds.is_floating(leaf):
            continue
        num_floating += np.size(leaf)
        if checks.num_not_finite(leaf):
            values = np.asarray(leaf, np.float64)
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise InputError(
                f"params{jax.tree_util.keystr(path)} is {values[index]} at {index}; "
                "nothing follows from parameters that are NaN or infinite."
            )
    if num_floating == 0:
        raise InputError("params holds no floating array, so nothing could be trained.")


def _check_fit(
    net: Network,
    params: Params,
) -> None:
    """Require parameters of a network's structure and shapes."""
    # Key paths are the same for lists and tuples, which f takes alike.
    wanted = _by_path(net.shapes)
    given = _by_path(params)
    for path in [*wanted, *given]:
        if wanted.get(path) == given.get(path):
            continue
        if path not in given:
            came = "is missing"
        elif path not in wanted:
            came = f"has shape {given[path]}, but the network has no such leaf"
        else:
            came = f"has shape {given[path]}, not {wanted[path]}"
        raise InputError(
            f"params{path} {came}; write params=net.init(key), one draw of this "
            "network."
        )


def _by_path(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): np.shape(leaf) for path, leaf in leaves}


def _in_training(net: Network) -> tuple[Network, str]:
    """Return the network in training mode, if it has one, and the mode in words."""
    if net.mode == "training":
        return net, "training mode"
    try:
        return net.training, "training mode"
    except SameInTraining:
        return net, "training mode"
    except NotDefined:
        return net, "inference mode only"


def _example(
    f: Function,
    network: Function,
    x: PyTree,
    *,
    draw: Draw | None,
) -> PyTree:
    """Return the shapes of an input of the function that is certified."""
    # The user's draw returns the input itself; in training mode that is a batch.
    if draw is not None:
        return shapes_of(draw(jax.random.key(0)))
    is_batch = isinstance(network, Network) and network is not f
    if is_batch and x is not None:
        # x is one example, and training takes a batch of them.
        _require_same_shapes(shapes_of(x), cast(Network, f).example)
    if isinstance(network, Network) and (is_batch or x is None):
        if network.example is None:
            raise InputError(
                "x is missing, and the network takes any; write x=, one example."
            )
        return shapes_of(network.example)
    if x is None:
        raise InputError("x is missing; write x=, one example, or draw=lambda key: x.")
    return shapes_of(x)


def _require_same_shapes(
    given: PyTree,
    own: PyTree,
) -> None:
    """Refuse an example that the network was not built for."""
    came = [leaf.shape for leaf in jax.tree.leaves(given)]
    wanted = [leaf.shape for leaf in jax.tree.leaves(own)]
    # Dtypes may differ, because all is computed in float64.
    if came != wanted:
        raise InputError(
            f"x has shapes {came}, and the network was built for {wanted}; leave x "
            "out, or build it with x as its example."
        )


def shapes_of(tree: PyTree) -> PyTree:
    def of_leaf(leaf: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf))

    return jax.tree.map(of_leaf, tree)


def of_data(
    f: Function,
    network: Function,
    params: Params,
    *,
    xs: PyTree,
    loss: Callable[..., Array] | None,
    mode: str,
) -> Subject:
    """Return what is certified if data are given: f on batches of these examples."""
    data = Data.of(f, network, xs=xs, loss=loss)
    shapes = shapes_of(data.draw(jax.random.key(0)))
    return Subject(
        f=data.batch,
        anatomy=read(data.batch, params, shapes),
        point_f=f,
        points=read(f, params, shapes_of(data.draw_row(jax.random.key(0)))),
        draw=data.draw,
        draw_point=data.draw_row,
        period=data.batches.period,
        draws_rows=False,
        mode=", ".join(filter(None, [mode, f"on these {data.num_rows} examples"])),
    )


def read(
    f: Function,
    params: Params,
    shapes: PyTree,
) -> Anatomy:
    """Return the anatomy of f; an error of f is passed on with a note."""
    try:
        return structure.anatomy(f, params, shapes)
    except FromCall:
        raise
    # A user's f may raise anything.
    except Exception as error:
        error.add_note(f"Raised by f for params and an x of {checks.show(shapes)}.")
        raise


def _checked(
    draw: Draw,
    shapes: PyTree,
) -> Draw:
    """Return `draw` with a check that it returns the same shapes every time."""

    def drawn(key: Key) -> PyTree:
        x = draw(key)
        came = shapes_of(x)
        # A program is compiled for one structure.
        if jax.tree.structure(came) != jax.tree.structure(shapes) or came != shapes:
            raise InputError(
                f"draw returned {checks.show(came)}, and before "
                f"{checks.show(shapes)}; write a draw(key) that returns the same "
                "shapes every time."
            )
        return x

    return drawn
