"""Modules of Flax's linen as networks."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
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
    drawing_refused,
)
from isometry.networks.adapters._modes import Seen


@public("networks.flax")
def flax(
    module: Any,
    example: PyTree[Array],
    *,
    output: Output = None,
    batch: int = BATCH,
    in_training: Any = None,
    **apply: object,
) -> Adapted:
    """Make a network of a Flax linen module.

    The module is called on `x[None]`, a batch of one, and the first row of the result
    is taken. Arguments of its call that are named `train`, `training`, `is_training`,
    `deterministic` or `use_running_average` are set by the mode of the network.

    `net` is the module in inference, as it is when no collection is mutable: batch
    statistics are those in the parameters. `net.training` is the module on a whole
    batch, with the statistics of that batch and with dropout; `networks.adapters` says
    which of the two is meant when.

    Args:
        module: A module.
        example: One x, without a batch axis: an array or `jax.ShapeDtypeStruct`, or a
            tree of them, each of which gets a batch axis. If the call has several
            required arguments, a tuple with an entry for each is unpacked into them.
        output: Which output is meant if the module returns several: an index, a key or
            the name of a field. By default the first of a tuple.
        batch: The number of examples in `net.training.example`. Other numbers can be
            measured as well.
        in_training: The module as it is built for training, if its mode is chosen when
            it is built and not when it is called.
        **apply: Further arguments of the module's call. A mode argument, such as
            `train=False`, has this value in `net`. In `net.training` it is set for
            training, whatever its value here.

    Returns:
        The network. Its parameters are all that `module.init` returns, such as
        `{"params": ..., "batch_stats": ...}`, without the boxes of `nn.Partitioned`.
        Trained variables can be passed as they are. For a module that has the
        collection "params" alone, so can the tree inside "params".

    Raises:
        InputError: Not a linen module; an example with a batch axis, or with tokens
            that are floating; an output that is not one floating array; a module that
            draws in inference. What else the module raises is passed on.
        MissingExtra: Flax is not installed.

    Example:
        >>> import flax.linen as nn
        >>> class Classifier(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x, train):
        ...         x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        ...         x = nn.Dropout(0.5, deterministic=not train)(nn.relu(x))
        ...         return nn.Dense(3)(x)
        >>> net = networks.flax(Classifier(), jnp.ones(5))
        >>> params = net.init(jax.random.key(0))
        >>> isometry.spectrum(net, params, jnp.ones(5)).size
        3
        >>> net.training
        flax(Classifier, (float32[8,5], key<fry>[])), training
    """
    _require_module("module", module)
    if in_training is None:
        in_training = module
    _require_module("in_training", in_training)

    def read(example: PyTree) -> tuple[Callable[[Key], Params], Model]:
        # Only the signature of the call is read. A field of the module may be called
        # `train` and mean anything.
        signature = inspect.signature(module.__call__)
        arguments = Arguments.read(signature, example, apply)
        draw = _Draw(Held(module), arguments, Shapes.of(example))
        collections = tuple(sorted(jax.eval_shape(draw, key_shape())))
        return draw, _Linen(
            arguments=arguments,
            module=Held(module),
            in_training=Held(in_training),
            collections=collections,
        )

    return adapted(
        "flax",
        example,
        read,
        output=output,
        batch=batch,
        called="the module, called on x[None],",
    )


def _require_module(name: str, module: Any) -> None:
    """Refuse a value that is not an unbound instance of a linen module.

    Args:
        name: The name of the argument, for messages.
        module: The value.

    Raises:
        InputError: It is another value.
    """
    linen = checks.extra("flax.linen", "flax")
    if isinstance(module, type) and issubclass(module, linen.Module):
        raise InputError(
            f"{name} is the class {module.__name__}, and an instance is meant; write "
            f"networks.flax({module.__name__}(...), example)."
        )
    if not isinstance(module, linen.Module):
        raise InputError(
            f"{name}={checks.show(module)} is not a flax.linen.Module instance; write "
            "networks.flax(MLP(), example), or networks.nnx, equinox, haiku or "
            "function for other models."
        )
    # A bound module would use its own parameters, and ignore those passed to the
    # network.
    if module.scope is not None:
        raise InputError(
            f"{name}={checks.show(type(module).__name__)} is bound to parameters; "
            "write module.clone()."
        )


@dataclass(frozen=True)
class _Draw:
    """A function from a key to what `module.init` returns, in inference mode.

    Attributes:
        module: The module.
        arguments: The arguments of its call.
        example: The shapes of one x.
    """

    module: Held
    arguments: Arguments
    example: Shapes

    def __call__(self, key: Key) -> Params:
        linen = checks.extra("flax.linen", "flax")
        module = self.module.value
        xs = self.example.batch(key, 1)
        # One key is enough: Flax draws for every other stream, such as "dropout", from
        # the key of "params".
        variables = module.init(
            key,
            *self.arguments.positional(xs),
            **self.arguments.by_name(xs, is_training=False),
        )
        return linen.meta.unbox(variables)


@dataclass(frozen=True, kw_only=True)
class _Linen(Model):
    """A linen module, which holds no parameters of its own.

    Attributes:
        arguments: The arguments of its call.
        module: The module in inference.
        in_training: The module in training; for most the same.
        collections: The names of the collections that its `init` returns.
    """

    remedy = (
        ", or write networks.flax(module, example, in_training=...) with the module "
        "as it is built for training"
    )

    module: Held
    in_training: Held
    collections: tuple[str, ...]

    @property
    def name(self) -> str:
        return type(self.module.value).__name__

    def infer(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        # A module that needs a key in inference is refused below.
        del key
        errors = checks.extra("flax.errors", "flax")
        try:
            # No collection is mutable here, so Flax raises for a module that updates
            # one in inference mode too.
            return self.module.value.apply(
                self._variables(params),
                *self.arguments.positional(xs),
                **self.arguments.by_name(xs, is_training=False),
            )
        except errors.InvalidRngError as error:
            # The message of Flax begins with the submodule and the stream: 'Dropout_0
            # needs PRNG for "dropout" (https://...)'. For the module itself it has the
            # name None.
            detail, _, _ = str(error).partition(" (")
            if detail.startswith("None "):
                detail = self.name + detail.removeprefix("None")
            raise drawing_refused(f": {detail}") from error

    def train(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        return _modes.with_axes(self._trained, self.axes)(params, xs, key)

    def _trained(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        """Return all outputs for a batch in training. `axes` must be bound outside."""
        variables = self._variables(params)
        # Norms write new averages in training, so their collections must be mutable.
        # The new values are dropped.
        mutable = [name for name in variables if name != "params"]
        rngs = None
        if key is not None:
            # A module may ask `has_rng("dropout")`, so that stream gets a key of its
            # own. All other streams draw from the key of "params".
            key_params, key_dropout = jax.random.split(key)
            rngs = {"params": key_params, "dropout": key_dropout}
        y, _ = self.in_training.value.apply(
            variables,
            *self.arguments.positional(xs),
            rngs=rngs,
            mutable=mutable,
            **self.arguments.by_name(xs, is_training=True),
        )
        return y

    def _variables(self, params: Params) -> Mapping[str, PyTree]:
        """Return params as a mapping of all collections that the module has.

        Args:
            params: All collections; or the tree inside "params", for a module with no
                other collection.

        Raises:
            InputError: It is no mapping, or a collection is missing.
        """
        if not isinstance(params, Mapping):
            raise InputError(
                f"params is a {type(params).__name__}; write what module.init returns, "
                f"a mapping of {', '.join(self.collections)}."
            )
        # Training loops often keep `variables["params"]` alone.
        if self.collections == ("params",) and "params" not in params:
            return {"params": params}
        missing = [name for name in self.collections if name not in params]
        if missing:
            raise InputError(
                f"params has no collection {', '.join(map(repr, missing))}; write all "
                "that module.init returns: {"
                + ", ".join(f"{name!r}: ..." for name in self.collections)
                + "}."
            )
        return params

    def for_training(self, params: Params, xs: PyTree) -> Model:
        return _modes.with_axis_names(self, params, xs, watch=_watch)


@contextlib.contextmanager
def _watch(seen: Seen) -> Iterator[None]:
    """Record in `seen` what norms and dropouts do, as long as this context is open.

    Args:
        seen: The record, to which paths and axis names are appended.
    """
    linen = checks.extra("flax.linen", "flax")

    def look(
        call: Callable[..., PyTree],
        args: tuple[object, ...],
        kwargs: dict[str, object],
        context: Any,
    ) -> PyTree:
        module = context.module
        if context.method_name == "__call__":
            axis = getattr(module, "axis_name", None)
            if axis is not None:
                seen.axes += _modes.listed(axis)
            if _is_off(module, args, kwargs):
                seen.fixed.append("/".join(module.path))
        return call(*args, **kwargs)

    with linen.intercept_methods(look):
        yield


def _is_off(
    module: object,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> bool:
    """Tell whether a call is that of a norm or dropout of Flax in inference mode.

    Args:
        module: The module that is called.
        args: The arguments that it gets by position.
        kwargs: The arguments that it gets by name.
    """
    linen = checks.extra("flax.linen", "flax")
    # In a module of the user's own, a field called `deterministic` may mean anything.
    known = (linen.BatchNorm, linen.Dropout, linen.MultiHeadDotProductAttention)
    if not isinstance(module, known):
        return False
    for name in ("use_running_average", "deterministic"):
        if not hasattr(module, name):
            continue
        # The call may have passed it by position: it is the second argument of the
        # calls of BatchNorm and of Dropout.
        given = kwargs.get(name)
        if len(args) == 2:
            given = args[1]
        is_off = given is True or getattr(module, name) is True
        # Dropout at rate 0 is the same in both modes, so it is not reported.
        rates = [getattr(module, rate, None) for rate in ("rate", "dropout_rate")]
        return is_off and 0.0 not in rates
    return False
