"""Transformed functions of Haiku as networks."""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, PyTree

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import Key, Params
from isometry.networks.adapters import _modes
from isometry.networks.adapters._adapted import BATCH, Adapted, adapted
from isometry.networks.adapters._examples import Shapes, key_shape
from isometry.networks.adapters._model import (
    Arguments,
    Held,
    Model,
    Output,
    WithState,
    name_of,
)
from isometry.networks.adapters._modes import Seen


class HaikuNetwork(Adapted):
    """The network of a transformed function: what `networks.haiku` returns."""

    def params_of(self, params: Params, state: PyTree = None) -> Params:
        """Return parameters and state of Haiku as parameters of the network.

        Args:
            params: What `init` or training returns.
            state: The state, for a function that has one.

        Returns:
            `params`; with a state, the named tuple (params, state).

        Example:
            >>> import haiku as hk
            >>> transformed = hk.transform_with_state(lambda x: hk.Linear(3)(x))
            >>> net = networks.haiku(transformed, jnp.ones(2))
            >>> params, state = transformed.init(jax.random.key(1), jnp.ones((1, 2)))
            >>> net(net.params_of(params, state), jnp.ones(2)).shape
            (3,)
        """
        return params if state is None else WithState(params, state)

    def completed(self, key: Key, params: Params) -> Params:
        """Return params with the averages of batch norm that belong to their weights.

        The averages in `params` were computed with the weights that Haiku's own `init`
        drew. Here they are computed from the same batch with the scheme's weights.

        Args:
            key: The key from which the parameters were drawn.
            params: Parameters with the scheme's weights, and averages from before.

        Returns:
            The parameters with the new averages.
        """
        model, draw = self.function.model, self.draw
        assert isinstance(model, _Haiku), "networks.haiku makes these alone"
        assert isinstance(draw, _Draw), "networks.haiku makes these alone"
        # Without a state there are no averages.
        if not model.has_state:
            return params
        return _with_new_state(model, draw, params, key=key)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _with_new_state(
    model: "_Haiku",
    draw: "_Draw",
    params: Params,
    *,
    key: Key,
) -> Params:
    """Return params with the state after one call on the batch that `draw` uses.

    Args:
        model: The model.
        draw: The function that drew the parameters.
        params: The parameters, with the state before the call.
        key: The key from which they were drawn.
    """
    # `draw` has been traced in training mode, and knows the axes of its norms.
    model = dataclasses.replace(model, axes=draw.axes)
    xs = draw.example.batch(key, draw.batch)
    return model.updated(params, xs, key)


@public("networks.haiku")
def haiku(
    transformed: Any,
    example: PyTree[Array],
    *,
    output: Output = None,
    batch: int = BATCH,
    **apply: object,
) -> HaikuNetwork:
    """Make a network of what `hk.transform` or `hk.transform_with_state` returns.

    The function is called on `x[None]`, a batch of one, and the first row of the result
    is taken. If it has an argument `is_training` (or `train`, `training`,
    `deterministic`), the mode of the network sets it. Without such an argument, the
    function computes the same in both modes. A key is passed if `apply` takes one.

    `net` is the function in inference: batch statistics are those in the state.
    `net.training` is the function on a whole batch, with the statistics of that batch
    and with dropout; `networks.adapters` says which of the two is meant when.

    Haiku's batch norm has no averages before its first call in training mode. So
    `net.init(key)` calls the function on `batch` examples of standard normal numbers,
    and the averages are those of that batch. `net.with_scheme` does the same with the
    weights that the scheme has drawn. For inputs of another scale draw the state
    yourself: `params = transformed.init(key, xs, is_training=True)`.

    Args:
        transformed: An `hk.Transformed` or `hk.TransformedWithState`, with or without
            `hk.without_apply_rng`.
        example: One x, without a batch axis: an array or `jax.ShapeDtypeStruct`, or a
            tree of them, each of which gets a batch axis. If the function has several
            required arguments, a tuple with an entry for each is unpacked into them.
        output: Which output is meant if the function returns several: an index, a key
            or the name of a field. By default the first of a tuple.
        batch: The number of examples from which the initial averages are computed, and
            in `net.training.example`. Other numbers can be measured as well.
        **apply: Further arguments of the function. A mode argument, such as
            `train=False`, has this value in `net`. In `net.training` it is set for
            training, whatever its value here.

    Returns:
        The network. Its parameters are what `transformed.init` returns; of a function
        with state, a named tuple (params, state). Trained parameters can be passed as
        they are. As `net.params_of(params, state)`, their layers have the same names as
        in `net.anatomy`.

    Raises:
        InputError: Not a transformed function; an example with a batch axis, or with
            tokens that are floating; an output that is not one floating array; a
            function that draws in inference. What else the function raises is passed
            on.
        MissingExtra: Haiku is not installed.

    Example:
        >>> import haiku as hk
        >>> def forward(x, is_training):
        ...     x = hk.BatchNorm(True, True, 0.9)(hk.Linear(8)(x), is_training)
        ...     return hk.Linear(3)(jax.nn.relu(x))
        >>> net = networks.haiku(hk.transform_with_state(forward), jnp.ones(5))
        >>> params = net.init(jax.random.key(0))
        >>> isometry.spectrum(net, params, jnp.ones(5)).size
        3
    """
    hk = checks.extra("haiku", "haiku")
    if not isinstance(transformed, (hk.Transformed, hk.TransformedWithState)):
        raise InputError(
            f"transformed={checks.show(transformed)} is not a transformed function; "
            "write networks.haiku(hk.transform(f), example), with batch norm "
            "hk.transform_with_state(f)."
        )
    has_state = isinstance(transformed, hk.TransformedWithState)

    def read(example: PyTree) -> tuple[Callable[[Key], Params], Model]:
        # The arguments of the function come behind Haiku's own in init(rng, *args) and
        # apply(params, [state], [rng], *args). So `init` shows them, and how many more
        # `apply` has tells whether it takes a key.
        of_init = list(inspect.signature(transformed.init).parameters.values())
        of_apply = inspect.signature(transformed.apply).parameters
        signature = inspect.Signature(of_init[1:])
        # Haiku keeps the user's function as an attribute; its name is for messages.
        origin = getattr(transformed.init, "_original_fn", transformed)
        num_own = len(of_apply) - len(of_init[1:])
        arguments = Arguments.read(signature, example, apply)
        model = _Haiku(
            arguments=arguments,
            apply=Held(transformed.apply),
            function=name_of(origin),
            has_state=has_state,
            # Haiku's own arguments are params, the state if there is one, and a key.
            takes_key=num_own > 1 + has_state,
        )
        draw = _Draw(
            init=Held(transformed.init),
            arguments=arguments,
            example=Shapes.of(example),
            batch=batch,
            has_state=has_state,
        )
        return draw.with_axes(), model

    return adapted(
        "haiku",
        example,
        read,
        output=output,
        batch=batch,
        called="the function, called on a batch of x,",
        kind=HaikuNetwork,
    )


@dataclass(frozen=True)
class _Draw:
    """A function from a key to what Haiku's `init` returns, in training mode.

    Attributes:
        init: Haiku's `init`.
        arguments: The arguments of the function.
        example: The shapes of one x.
        batch: The number of examples that `init` is called on.
        has_state: Whether the function has a state.
        axes: The names of mapped axes over which norms take statistics.
    """

    init: Held
    arguments: Arguments
    example: Shapes
    batch: int
    has_state: bool
    axes: tuple[Hashable, ...] = ()

    def with_axes(self) -> "_Draw":
        """Return a copy with the `axes` that a trace of `init` finds."""

        # Which axes a norm names is known only from a call, and a call needs them.
        def trace(axes: tuple[Hashable, ...]) -> None:
            jax.eval_shape(dataclasses.replace(self, axes=axes), key_shape())

        _, axes = _modes.trace_training(trace, _watch)
        return dataclasses.replace(self, axes=axes)

    def __call__(self, key: Key) -> Params:
        return _modes.with_axes(self._drawn, self.axes)(key)

    def _drawn(self, key: Key) -> Params:
        """Return parameters drawn from a key. `axes` must be bound outside."""
        xs = self.example.batch(key, self.batch)
        # In training mode, because in inference mode batch norm would read averages
        # that do not exist yet.
        drawn = self.init.value(
            key,
            *self.arguments.positional(xs),
            **self.arguments.by_name(xs, is_training=True),
        )
        return WithState(*drawn) if self.has_state else drawn


@dataclass(frozen=True, kw_only=True)
class _Haiku(Model):
    """A transformed function of Haiku.

    Attributes:
        arguments: The arguments of the function.
        apply: Haiku's `apply`.
        function: The name of the function.
        has_state: Whether `apply` takes a state and returns a new one.
        takes_key: Whether `apply` takes a key.
    """

    apply: Held
    function: str
    has_state: bool
    takes_key: bool

    def _called(
        self, params: Params, xs: PyTree, key: Key | None, *, is_training: bool
    ) -> PyTree:
        """Return all outputs for a batch, without the new state."""
        y = self._applied(params, xs, key, is_training=is_training)
        if self.has_state:
            y, _ = y
        return y

    def _applied(
        self, params: Params, xs: PyTree, key: Key | None, *, is_training: bool
    ) -> PyTree:
        """Return what `apply` returns: with state, a pair (outputs, state)."""
        own = self._own(params)
        # After hk.without_apply_rng, `apply` takes no key.
        if self.takes_key:
            own = (*own, key)
        return self.apply.value(
            *own,
            *self.arguments.positional(xs),
            **self.arguments.by_name(xs, is_training=is_training),
        )

    def _own(self, params: Params) -> tuple[PyTree, ...]:
        """Return the first arguments of `apply`: (params,) or (params, state)."""
        if not self.has_state:
            return (params,)
        if isinstance(params, (tuple, list)) and len(params) == 2:
            return tuple(params)
        raise InputError(
            f"params is a {type(params).__name__}; of a function with state write what "
            "its init returns, (params, state)."
        )

    @property
    def name(self) -> str:
        return self.function

    def infer(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        return self._called(params, xs, key, is_training=False)

    def updated(self, params: Params, xs: PyTree, key: Key) -> Params:
        """Return params with the state after one call on a batch in training."""

        def state_after(params: Params, xs: PyTree, key: Key) -> PyTree:
            _, state = self._applied(params, xs, key, is_training=True)
            return state

        state = _modes.with_axes(state_after, self.axes)(params, xs, key)
        own, _ = self._own(params)
        return WithState(own, state)

    def train(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        called = functools.partial(self._called, is_training=True)
        return _modes.with_axes(called, self.axes)(params, xs, key)

    def for_training(self, params: Params, xs: PyTree) -> Model:
        return _modes.with_axis_names(self, params, xs, watch=_watch)


@contextlib.contextmanager
def _watch(seen: Seen) -> Iterator[None]:
    """Record in `seen` what batch norms do, as long as this context is open.

    Haiku's dropout is a plain function, which no interceptor sees.

    Args:
        seen: The record, to which names of modules and of axes are appended.
    """
    hk = checks.extra("haiku", "haiku")

    def look(
        call: Callable[..., PyTree],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        context: Any,
    ) -> PyTree:
        module = context.module
        is_norm = isinstance(module, hk.BatchNorm)
        if is_norm and context.method_name == "__call__":
            # `is_training` is the second argument of the call, by name or by position.
            given = kwargs.get("is_training")
            if len(args) > 1:
                given = args[1]
            if given is False:
                seen.fixed.append(module.module_name)
            if module.cross_replica_axis is not None:
                seen.axes += _modes.listed(module.cross_replica_axis)
        return call(*args, **kwargs)

    with hk.intercept_methods(look):
        yield
