"""What a model does in training: does it draw, change its mode, use named axes?"""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

import jax
from jaxtyping import Array, PyTree

from isometry._internal.errors import NotDefined
from isometry._internal.types import Key, Params
from isometry.networks.adapters._examples import key_shape
from isometry.networks.adapters._model import Model
from isometry.structure._reading import read

M = TypeVar("M", bound=Model)


def depends_on_key(
    call: Callable[[Params, PyTree, Key], Array],
    params: Params,
    x: PyTree,
) -> bool:
    """Tell whether the result of a function depends on its key, from its jaxpr.

    Args:
        call: A function of parameters, x and a key.
        params: Shapes of the parameters.
        x: Shapes of x.
    """
    # A model that splits its key need not use it: dropout at rate 0 does so. What
    # counts is whether the output depends on the key.
    closed = jax.make_jaxpr(call)(params, x, key_shape())
    # `read` marks as `of_x` all values that depend on arguments behind the first
    # `num_before_key`. Behind those there is the key alone.
    num_before_key = len(jax.tree.leaves((params, x)))
    program = read(closed, num_before_key)
    return not program.of_x.isdisjoint(program.outputs)


def with_axes(
    call: Callable[..., PyTree], names: Sequence[Hashable]
) -> Callable[..., PyTree]:
    """Return a function inside which these axis names are bound, with length 1.

    Norms that take statistics over devices need them.

    Args:
        call: Any function of arrays.
        names: The axis names.
    """
    for name in names:
        # With `in_axes=None` nothing is mapped: arrays keep their shapes, and the name
        # is bound.
        call = jax.vmap(call, in_axes=None, out_axes=None, axis_size=1, axis_name=name)
    return call


@dataclass
class Seen:
    """What was recorded of the norms and dropouts of a model in training mode.

    Attributes:
        fixed: The paths of the norms and dropouts that are in inference mode.
        axes: The names of mapped axes over which norms take statistics.
    """

    fixed: list[str] = field(default_factory=list)
    axes: list[Hashable] = field(default_factory=list)


def require_switch(model: Model, seen: Seen) -> None:
    """Refuse a model that nothing switches to training mode.

    It has no mode argument, and a norm or dropout in inference mode.

    Raises:
        NotDefined: The model is such a one.
    """
    # A model that has a mode argument may keep some norms in inference mode on purpose.
    if model.arguments.names or not seen.fixed:
        return
    raise NotDefined(
        f"{model.name} has no training mode: {seen.fixed[0]!r} is called in inference "
        "mode, and its call has no argument that would switch it. Give it an argument "
        f"is_training, train or deterministic{model.remedy}."
    )


def trace_training(
    trace: Callable[[tuple[Hashable, ...]], object],
    watch: Callable[[Seen], AbstractContextManager],
) -> tuple[Seen, tuple[Hashable, ...]]:
    """Trace a model, and record what its norms and dropouts do.

    If an axis name is unbound, the model is traced once more with this name bound.

    Args:
        trace: `trace(names)` traces the model with these axis names bound.
        watch: A context manager that records in a `Seen` what norms and dropouts do.

    Returns:
        The record, and the axis names that have to be bound.
    """
    axes: tuple[Hashable, ...] = ()
    while True:
        seen = Seen()
        try:
            with watch(seen):
                trace(axes)
        # JAX raises NameError for an unbound axis name. Only then are names added: a
        # module may bind the names of its norms itself, by a vmap of its own.
        except NameError:
            missing = [name for name in seen.axes if name not in axes]
            if not missing:
                raise
            axes = (*axes, *dict.fromkeys(missing))
        else:
            return seen, axes


def with_axis_names(
    model: M,
    params: Params,
    xs: PyTree,
    *,
    watch: Callable[[Seen], AbstractContextManager],
) -> M:
    """Return a copy of a model with the axis names that it needs in training.

    Args:
        model: The model.
        params: Shapes of its parameters.
        xs: Shapes of a batch.
        watch: As in `trace_training`.

    Raises:
        NotDefined: Nothing switches the model to training mode.
    """

    def with_names(axes: tuple[Hashable, ...]) -> M:
        return dataclasses.replace(model, axes=axes)

    def trace(axes: tuple[Hashable, ...]) -> None:
        arguments = (params, xs, key_shape())
        jax.eval_shape(with_names(axes).train, *arguments)

    seen, axes = trace_training(trace, watch)
    require_switch(model, seen)
    return with_names(axes)


def listed(names: Hashable | Sequence[Hashable]) -> tuple[Hashable, ...]:
    """Return a tuple of names, from one name or from several."""
    return tuple(names) if isinstance(names, (tuple, list)) else (names,)


def axis_names(modules: Iterable[object]) -> tuple[Hashable, ...]:
    """Return the axis names over which norms among these modules take statistics."""
    names: dict[Hashable, None] = {}
    for module in modules:
        axis = getattr(module, "axis_name", None)
        if axis is not None:
            names.update(dict.fromkeys(listed(axis)))
    return tuple(names)
