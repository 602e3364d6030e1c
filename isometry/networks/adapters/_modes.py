"""What a model does in training: whether it draws, fixed modes, named axes."""

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
    """Tell whether the result of a call depends on its key, by tracing it alone.

    Args:
        call: A function of parameters, x and a key.
        params: Shapes of the parameters.
        x: Shapes of x.
    """
    # That it splits its key says nothing: many models split one for dropout at rate 0.
    closed = jax.make_jaxpr(call)(params, x, key_shape())
    # `read` takes all arguments after the first ones for x: here the key alone. So
    # `of_x` is what depends on the key.
    num_before_key = len(jax.tree.leaves((params, x)))
    program = read(closed, num_before_key)
    return not program.of_x.isdisjoint(program.outputs)


def with_axes(
    call: Callable[..., PyTree], names: Sequence[Hashable]
) -> Callable[..., PyTree]:
    """Bind axis names, of length 1, for norms that take statistics over devices."""
    for name in names:
        # With `in_axes=None` nothing is mapped: arrays keep their shapes, and the name
        # is bound.
        call = jax.vmap(call, in_axes=None, out_axes=None, axis_size=1, axis_name=name)
    return call


@dataclass
class Seen:
    """What the norms and dropouts of a model were seen to do in training.

    Attributes:
        fixed: The paths of those that stay in inference mode.
        axes: The names of axes over which norms take statistics.
    """

    fixed: list[str] = field(default_factory=list)
    axes: list[Hashable] = field(default_factory=list)


def require_switch(model: Model, seen: Seen) -> None:
    """Refuse a model without a mode argument that has a part in inference mode."""
    # A model that has a mode argument may keep some norms in inference mode on purpose.
    if model.arguments.names or not seen.fixed:
        return
    raise NotDefined(
        f"{model.name} has no training mode: {seen.fixed[0]!r} is called in inference "
        "mode, and its call has no argument that would switch it. Give it an argument "
        f"is_training, train or deterministic{model.remedy}."
    )


def watched(
    trace: Callable[[tuple[Hashable, ...]], object],
    watch: Callable[[Seen], AbstractContextManager],
) -> tuple[Seen, tuple[Hashable, ...]]:
    """Trace a model, and once more for each axis name that turns out to be unbound.

    Args:
        trace: Traces the model with axes of these names bound.
        watch: A context that records in a `Seen` what norms and dropouts do.

    Returns:
        What they did, and the axis names that have to be bound.
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


def switched(
    model: M,
    params: Params,
    xs: PyTree,
    *,
    watch: Callable[[Seen], AbstractContextManager],
) -> M:
    """Return a model with the axis names of its norms, found by a trace in training.

    Args:
        model: The model.
        params: Shapes of its parameters.
        xs: Shapes of a batch.
        watch: As in `watched`.

    Raises:
        NotDefined: Nothing switches the model.
    """

    def with_names(axes: tuple[Hashable, ...]) -> M:
        return dataclasses.replace(model, axes=axes)

    def trace(axes: tuple[Hashable, ...]) -> None:
        arguments = (params, xs, key_shape())
        jax.eval_shape(with_names(axes).train, *arguments)

    seen, axes = watched(trace, watch)
    require_switch(model, seen)
    return with_names(axes)


def listed(names: Hashable | Sequence[Hashable]) -> tuple[Hashable, ...]:
    """Return one name, or several, as a tuple."""
    return tuple(names) if isinstance(names, (tuple, list)) else (names,)


def axis_names(modules: Iterable[object]) -> tuple[Hashable, ...]:
    """Return the names of axes over which norms among modules take statistics."""
    names: dict[Hashable, None] = {}
    for module in modules:
        axis = getattr(module, "axis_name", None)
        if axis is not None:
            names.update(dict.fromkeys(listed(axis)))
    return tuple(names)
