"""Modules of Flax's NNX as networks."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from isometry._internal import checks, kinds
from isometry._internal.errors import InputError, public
from isometry._internal.types import Key, Params
from isometry.networks.adapters import _modes
from isometry.networks.adapters._adapted import BATCH, Adapted, adapted
from isometry.networks.adapters._building import Build, Library, key_paths
from isometry.networks.adapters._model import Arguments, Held, Model, Output

_LIBRARY = Library(adapter="nnx", module="flax.nnx.Module", argument="rngs")


class NnxNetwork(Adapted):
    """The network of an NNX module: what `networks.nnx` returns.

    Example:
        >>> from flax import nnx
        >>> def build(rngs):
        ...     return nnx.Linear(2, 3, rngs=rngs)
        >>> net = networks.nnx(build, jnp.ones(2))
        >>> trained = build(nnx.Rngs(1))
        >>> y = net(net.params_of(trained), jnp.ones(2))
        >>> bool(jnp.array_equal(y, trained(jnp.ones(2))))
        True
    """

    def params_of(self, module: Any) -> Params:
        """Return the parameters of another module, such as a trained one.

        Args:
            module: A module of the same architecture.

        Returns:
            The state of the module without its random keys,
            `nnx.state(module, nnx.Not(nnx.RngState))`.
        """
        nnx = checks.extra("flax.nnx", "flax")
        is_variable = nnx.Not(nnx.RngState)
        return _copied(nnx.state(module, is_variable))

    def module(self, params: Params) -> Any:
        """Return the module with these parameters, in the mode of the network.

        Args:
            params: Parameters of the network.

        Returns:
            A module.
        """
        model = self.function.model
        assert isinstance(model, _Nnx), "networks.nnx makes these alone"
        is_training = self.mode == "training"
        return model.merged(params, None, is_training=is_training)


@public("networks.nnx")
def nnx(
    build: Build,
    example: PyTree[Array],
    *,
    output: Output = None,
    batch: int = BATCH,
    **call: object,
) -> NnxNetwork:
    """Make a network of a Flax NNX module.

    The module is called on `x[None]`, a batch of one, and the first row of the result
    is taken. `module.eval()` and `module.train()` set its mode. Mode arguments of its
    call are set to the same mode: `train`, `training`, `is_training`, `deterministic`
    and `use_running_average`. If its call has an argument `rngs`, `nnx.Rngs(key)` are
    passed, with the key in x.

    `net` is the module in inference: batch statistics are those in the parameters.
    `net.training` is the module on a whole batch, with the statistics of that batch and
    with dropout; `networks.adapters` says which of the two is meant when.

    Args:
        build: A function build(rngs) that returns the module, such as its class.
        example: One x, without a batch axis: an array or `jax.ShapeDtypeStruct`, or a
            tree of them, each of which gets a batch axis. If the call has several
            required arguments, a tuple with an entry for each is unpacked into them.
        output: Which output is meant if the module returns several: an index, a key or
            the name of a field. By default the first of a tuple.
        batch: The number of examples in `net.training.example`. Other numbers can be
            measured as well.
        **call: Further arguments of the module's call. A mode argument, such as
            `train=False`, has this value in `net`. In `net.training` it is set for
            training, whatever its value here.

    Returns:
        The network. Its parameters are the module's state without random keys, as
        `net.params_of(module)` returns it: `nnx.state(module, nnx.Not(nnx.RngState))`.
        The state of a trained module can be passed as it is.

    Raises:
        InputError: build does not return an NNX module; an example with a batch axis;
            an output that is not one floating array. What the module itself raises is
            passed on.
        MissingExtra: Flax is not installed.

    Example:
        >>> from flax import nnx
        >>> def build(rngs):
        ...     layers = nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        ...     return nnx.Sequential(*layers, nnx.relu, nnx.Linear(8, 3, rngs=rngs))
        >>> net = networks.nnx(build, jnp.ones(4))
        >>> params = net.init(jax.random.key(0))
        >>> isometry.spectrum(net, params, jnp.ones(4)).size
        3
    """
    nnx = checks.extra("flax.nnx", "flax")
    _LIBRARY.require_function(build, nnx.Module)

    def read(example: PyTree) -> tuple[Callable[[Key], Params], Model]:
        draw = _Draw(Held(build))
        model = _read(build, example, call)
        return draw, model

    return adapted(
        "nnx",
        example,
        read,
        output=output,
        batch=batch,
        called="the module, called on x[None],",
        kind=NnxNetwork,
    )


def _built(build: Build, key: Key) -> Any:
    """Return the module that `build` returns for `nnx.Rngs(key)`."""
    nnx = checks.extra("flax.nnx", "flax")
    rngs = nnx.Rngs(key)
    module = _LIBRARY.built(build, rngs)
    instead = "; of a linen module write networks.flax(module, example)"
    _LIBRARY.require_module(module, nnx.Module, instead)
    return module


def _read(build: Build, example: PyTree, call: Mapping[str, object]) -> "_Nnx":
    """Return the model of the module that `build` returns, from a trace of `build`.

    Args:
        build: The build function.
        example: The shapes of one x.
        call: Further arguments of the module's call, by name.
    """
    nnx = checks.extra("flax.nnx", "flax")
    # The GraphDef is the same for every key, so any key will do.
    key = jax.random.key(0)
    module = nnx.eval_shape(lambda: _built(build, key))
    signature = inspect.signature(module.__call__)
    arguments = Arguments.read(
        signature,
        example,
        call,
        reserved=("rngs",),
    )
    # The mode is a static field of the module, so each has a GraphDef of its own.
    module.train()
    in_training = nnx.graphdef(module)
    module.eval()
    is_variable = nnx.Not(nnx.RngState)
    in_inference, params, rngs = nnx.split(module, is_variable, ...)
    leaves, tree = jax.tree.flatten(rngs)
    return _Nnx(
        arguments=arguments,
        in_inference=Held(in_inference),
        in_training=Held(in_training),
        axes=_modes.axis_names(_submodules(module)),
        kind=type(module).__name__,
        structure=jax.tree.structure(params),
        rngs=Held((tuple(leaves), tree)),
        takes_rngs="rngs" in signature.parameters and "rngs" not in call,
    )


def _submodules(module: Any) -> list[Any]:
    """Return a module and all modules inside it."""
    nnx = checks.extra("flax.nnx", "flax")
    # Unlike in linen, submodules exist before any call, so they are found without a
    # trace.
    nodes = [node for _, node in nnx.iter_graph(module)]
    return [node for node in nodes if isinstance(node, nnx.Module)]


def _copied(state: Params) -> Params:
    """Return a copy of a state, with new variables for the same arrays.

    NNX changes variables in place. A module that shared its variables with the
    parameters would write its new averages into the parameters.
    """
    return jax.tree.map(lambda leaf: leaf, state)


@dataclass(frozen=True)
class _Draw:
    """A function from a key to the state of a module without its random keys.

    Attributes:
        build: The user's build function.
    """

    build: Held

    def __call__(self, key: Key) -> Params:
        nnx = checks.extra("flax.nnx", "flax")
        module = _built(self.build.value, key)
        is_variable = nnx.Not(nnx.RngState)
        return nnx.state(module, is_variable)


@dataclass(frozen=True, kw_only=True)
class _Nnx(Model):
    """An NNX module without its arrays.

    Attributes:
        arguments: The arguments of its call.
        in_inference: Its `nnx.GraphDef` after `module.eval()`.
        in_training: Its `nnx.GraphDef` after `module.train()`.
        kind: The name of its class.
        structure: The treedef of its parameters.
        rngs: The state of its random streams: shapes of the leaves, and the treedef.
            Each stream has two leaves, its key and the count of keys drawn from it.
        takes_rngs: Whether its call has an argument `rngs`.
    """

    in_inference: Held
    in_training: Held
    kind: str
    structure: Any
    rngs: Held
    takes_rngs: bool

    def merged(self, params: Params, key: Key | None, *, is_training: bool) -> Any:
        """Return the module with these parameters, in one of its modes.

        Args:
            params: The parameters, an `nnx.State`.
            key: The random key from which the module draws; None in inference.
            is_training: Whether the module is in training mode.

        Raises:
            InputError: params are not an `nnx.State`, or a variable is missing.
        """
        nnx = checks.extra("flax.nnx", "flax")
        graphdef = self.in_inference
        if is_training:
            graphdef = self.in_training
        if not isinstance(params, nnx.State):
            raise InputError(
                f"params is a {type(params).__name__}; write what net.init returns, or "
                "net.params_of(module) for a module of your own."
            )
        # nnx.state(module) holds random keys too. They are dropped, because the key of
        # this call decides what is drawn.
        is_variable = nnx.Not(nnx.RngState)
        params, _ = nnx.split_state(params, is_variable, ...)
        self._require_all(params)
        rngs = self._rng_state(key)
        return nnx.merge(graphdef.value, _copied(params), rngs)

    def _require_all(self, params: Params) -> None:
        """Refuse params in which a variable of the module is missing."""
        if jax.tree.structure(params) == self.structure:
            return
        # Any leaves will do, because the paths alone are compared.
        leaves = range(self.structure.num_leaves)
        wanted = jax.tree.unflatten(self.structure, leaves)
        given = set(key_paths(params))
        missing = sorted(set(key_paths(wanted)) - given)
        # Treedefs differ in the metadata of variables too, which `nnx.merge` does not
        # mind. Only a missing leaf is an error.
        if missing:
            raise InputError(
                f"params lacks {', '.join(missing[:3])}; write net.params_of(module), "
                "which is nnx.state(module, nnx.Not(nnx.RngState))."
            )

    def _rng_state(self, key: Key | None) -> PyTree:
        """Return the initial state of all random streams, made from one key.

        Args:
            key: A random key. None in inference, where nothing is drawn.
        """
        shapes, tree = self.rngs.value
        # In inference nothing is drawn, but `nnx.merge` needs every leaf of the
        # GraphDef.
        base = jax.random.key(0) if key is None else key
        leaves = []
        for i, leaf in enumerate(shapes):
            if kinds.is_typed_key(leaf):
                value = jax.random.fold_in(base, i)
                # The stream of stacked layers holds a stack of keys.
                if leaf.shape:
                    value = jax.random.split(value, leaf.shape)
            else:
                # The count of the stream: nothing has been drawn from it.
                value = jnp.zeros(leaf.shape, leaf.dtype)
            leaves.append(value)
        return jax.tree.unflatten(tree, leaves)

    def _called(
        self, params: Params, xs: PyTree, key: Key | None, *, is_training: bool
    ) -> PyTree:
        """Return all outputs of the module for a batch."""
        module = self.merged(params, key, is_training=is_training)
        named = self.arguments.by_name(xs, is_training=is_training)
        if self.takes_rngs and key is not None:
            nnx = checks.extra("flax.nnx", "flax")
            named["rngs"] = nnx.Rngs(key)
        positional = self.arguments.positional(xs)
        return module(*positional, **named)

    @property
    def name(self) -> str:
        return self.kind

    def infer(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        return self._called(params, xs, key, is_training=False)

    def train(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        called = functools.partial(self._called, is_training=True)
        return _modes.with_axes(called, self.axes)(params, xs, key)
