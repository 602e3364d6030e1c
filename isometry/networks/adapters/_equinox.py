"""Modules of Equinox as networks."""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, PyTree

from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, public
from isometry._internal.types import Key, Params
from isometry.networks.adapters import _modes
from isometry.networks.adapters._adapted import BATCH, Adapted, adapted
from isometry.networks.adapters._building import Build, Library, key_paths
from isometry.networks.adapters._model import (
    Arguments,
    Held,
    Model,
    Output,
    WithState,
)

_LIBRARY = Library(adapter="equinox", module="equinox.Module", argument="key")


class EquinoxNetwork(Adapted):
    """The network of an Equinox module: what `networks.equinox` returns.

    Example:
        >>> import equinox as eqx
        >>> def build(key):
        ...     return eqx.nn.Linear(2, 3, key=key)
        >>> net = networks.equinox(build, jnp.ones(2))
        >>> trained = build(jax.random.key(1))
        >>> y = net(net.params_of(trained), jnp.ones(2))
        >>> bool(jnp.array_equal(y, trained(jnp.ones(2))))
        True
    """

    def params_of(self, module: Any, state: Any = None) -> Params:
        """Return the parameters of another module, such as a trained one.

        Args:
            module: A module of the same architecture.
            state: The `eqx.nn.State` of this module, if it has one.

        Returns:
            The arrays of the module, `eqx.filter(module, eqx.is_array)`; with a state,
            a named tuple (params, state) of these arrays and the state.
        """
        eqx = checks.extra("equinox", "equinox")
        arrays = eqx.filter(module, eqx.is_array)
        return arrays if state is None else WithState(arrays, state)

    def module(self, params: Params) -> Any:
        """Return the module with these parameters, in the mode of the network.

        Args:
            params: Parameters of the network.

        Returns:
            A module; with state, a pair (module, state).
        """
        model = self.function.model
        assert isinstance(model, _Equinox), "networks.equinox makes these alone"
        module, state = model.combined(params, is_training=self.mode == "training")
        return (module, state) if model.has_state else module


@public("networks.equinox")
def equinox(
    build: Build,
    example: PyTree[Array],
    *,
    output: Output = None,
    batch: int = BATCH,
    **call: object,
) -> EquinoxNetwork:
    """Make a network of an Equinox module.

    The module is called on one example, as Equinox does. `eqx.nn.inference_mode` sets
    its mode. Mode arguments of its call are set to the same mode: `inference`,
    `deterministic`, `train`, `training`, `is_training` and `enable_dropout`. If its
    call has an argument `key` or `state`, a random key or the `eqx.nn.State` is passed.

    `net` is the module in inference: batch statistics are those in its state.
    `net.training` is the module in training, vmapped over a whole batch with a key for
    each example; the vmap has the axis name of the module's batch norms.
    `networks.adapters` says which of the two is meant when.

    Args:
        build: A function build(key) that returns the module, such as its class, or a
            pair (module, state), as `eqx.nn.make_with_state(MLP)` does.
        example: One x: an array or `jax.ShapeDtypeStruct`, or a tree of them. If the
            call has several required arguments, a tuple with an entry for each is
            unpacked into them.
        output: Which output is meant if the module returns several: an index, a key or
            the name of a field. By default the first of a tuple.
        batch: The number of examples in `net.training.example`. Other numbers can be
            measured as well.
        **call: Further arguments of the module's call. A mode argument, such as
            `train=False`, has this value in `net`. In `net.training` it is set for
            training, whatever its value here.

    Returns:
        The network. Its parameters are the arrays of the module,
        `eqx.filter(module, eqx.is_array)`; of a module with an `eqx.nn.State`, a named
        tuple (params, state). `net.params_of(module, state)` returns those of a trained
        module, and `net.module(params)` makes a module of them.

    Raises:
        InputError: build does not return an Equinox module; an output that is not one
            floating array; a module that draws in inference. What the module itself
            raises is passed on.
        MissingExtra: Equinox is not installed.

    Example:
        >>> import equinox as eqx
        >>> def build(key):
        ...     return eqx.nn.MLP(4, 3, width_size=8, depth=2, key=key)
        >>> net = networks.equinox(build, jnp.ones(4))
        >>> params = net.init(jax.random.key(0))
        >>> isometry.spectrum(net, params, jnp.ones(4)).size
        3
        >>> type(net.module(params)).__name__
        'MLP'
    """
    eqx = checks.extra("equinox", "equinox")
    _LIBRARY.require_function(build, eqx.Module)

    def read(example: PyTree) -> tuple[Callable[[Key], Params], Model]:
        return _Draw(Held(build)), _read(build, example, call)

    return adapted(
        "equinox",
        example,
        read,
        output=output,
        batch=batch,
        called="the module, called on x,",
        kind=EquinoxNetwork,
    )


def _built(build: Build, key: Key) -> tuple[Any, Any]:
    """Return the module and its state, which is None for most."""
    eqx = checks.extra("equinox", "equinox")
    module = _LIBRARY.built(build, key)
    state = None
    # `eqx.nn.make_with_state(MLP)` returns a pair (module, state). Anything else is
    # taken for the module, and checked below.
    if isinstance(module, tuple) and len(module) == 2:
        module, state = module
    _LIBRARY.require_module(module, eqx.Module, ", or a pair of one and its state")
    return module, state


def _read(build: Build, example: PyTree, call: Mapping[str, object]) -> "_Equinox":
    """Return the model of the module that `build` returns, from a trace of `build`.

    Args:
        build: The build function.
        example: The shapes of one x.
        call: Further arguments of the module's call, by name.
    """
    eqx = checks.extra("equinox", "equinox")
    module, state = eqx.filter_eval_shape(_built, build, jax.random.key(0))
    # Tracing leaves shapes in place of arrays. Everything else, such as functions and
    # numbers, is the same for every key, so it can be kept.
    arrays, rest = eqx.partition(module, _is_shape)
    signature = inspect.signature(module.__call__)
    named = signature.parameters
    return _Equinox(
        arguments=Arguments.read(signature, example, call, reserved=("key", "state")),
        rest=Held(rest),
        structure=jax.tree.structure(arrays),
        paths=tuple(key_paths(arrays)),
        has_state=state is not None,
        takes_key="key" in named and "key" not in call,
        axes=_modes.axis_names(_submodules(module)),
    )


def _is_shape(leaf: object) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _submodules(module: Any) -> list[Any]:
    """Return a module and all modules inside it."""
    eqx = checks.extra("equinox", "equinox")
    modules = []

    def gather(node: object) -> bool:
        # JAX calls `is_leaf` on every node before it goes on inside, so this visits all
        # modules. Returning False makes it go on.
        if isinstance(node, eqx.Module):
            modules.append(node)
        return False

    jax.tree.leaves(module, is_leaf=gather)
    return modules


@dataclass(frozen=True)
class _Draw:
    """A function from a key to the arrays of a module, and its state if it has one.

    Attributes:
        build: The user's build function.
    """

    build: Held

    def __call__(self, key: Key) -> Params:
        eqx = checks.extra("equinox", "equinox")
        module, state = _built(self.build.value, key)
        arrays = eqx.filter(module, eqx.is_array)
        return arrays if state is None else WithState(arrays, state)


@dataclass(frozen=True, kw_only=True)
class _Equinox(Model):
    """An Equinox module without its arrays.

    Attributes:
        arguments: The arguments of its call.
        rest: The module with None in place of its arrays.
        structure: The treedef of its arrays.
        paths: The key paths of its arrays.
        has_state: Whether its call takes a state and returns a new one.
        takes_key: Whether its call takes a key.
    """

    takes_batch = False

    rest: Held
    structure: Any
    paths: tuple[str, ...]
    has_state: bool
    takes_key: bool

    def combined(self, params: Params, *, is_training: bool) -> tuple[Any, Any]:
        """Return the pair (module, state) with these parameters.

        The state is None if the module has none.

        Args:
            params: The parameters.
            is_training: Whether the module is set to training mode.

        Raises:
            InputError: params are not those of this module.
        """
        eqx = checks.extra("equinox", "equinox")
        state = None
        if self.has_state:
            if not (isinstance(params, (tuple, list)) and len(params) == 2):
                raise InputError(
                    f"params is a {type(params).__name__}; of a module with state "
                    "write a pair, net.params_of(module, state)."
                )
            params, state = params
            # Equinox invalidates a state once a call has used it. Rebuilding the tree
            # makes another state, so the caller's can be used again.
            state = jax.tree.map(lambda leaf: leaf, state)
        # `params` may be a whole module. Its arrays alone are used, because everything
        # else is in `rest`.
        arrays = eqx.filter(params, eqx.is_array)
        if jax.tree.structure(arrays) != self.structure:
            arrays = self._with_own_structure(arrays)
        module = eqx.combine(arrays, self.rest.value)
        return eqx.nn.inference_mode(module, value=not is_training), state

    def _with_own_structure(self, arrays: PyTree) -> PyTree:
        """Return `arrays` with the tree structure of this network's module.

        Treedefs of two equal modules can differ: a static field may hold a function
        that is created anew with each module. Leaves are then matched by path.

        Raises:
            InputError: The paths of `arrays` are not those of this network.
        """
        paths = key_paths(arrays)
        if sorted(paths) != sorted(self.paths):
            # Counters keep paths that are there more than once.
            wanted, given = Counter(self.paths), Counter(paths)
            missing = sorted((wanted - given).elements())
            unknown = sorted((given - wanted).elements())
            what = f"lacks {missing[0]}" if missing else f"holds {unknown[0]} as well"
            raise InputError(
                f"params {what}; write what net.init returns, or for a module of your "
                "own net.params_of(module), with state net.params_of(module, state)."
            )
        leaves = jax.tree.leaves(arrays)
        # Fields may stand in another order than here.
        if paths != list(self.paths):
            by_path = dict(zip(paths, leaves, strict=True))
            leaves = [by_path[path] for path in self.paths]
        return jax.tree.unflatten(self.structure, leaves)

    @property
    def name(self) -> str:
        return type(self.rest.value).__name__

    def infer(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        module, state = self.combined(params, is_training=False)
        return self._called(module, state, xs, key=key, is_training=False)

    def train(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        module, state = self.combined(params, is_training=True)

        def of_one(x: PyTree, key: Key | None) -> PyTree:
            return self._called(module, state, x, key=key, is_training=True)

        # Each example draws for itself, as in Equinox's own training loops.
        keys = None
        if key is not None:
            first, *_ = jax.tree.leaves(xs)
            keys = jax.random.split(key, len(first))
        # Norms take their statistics over the axis of this name.
        name = self.axes[0] if self.axes else None
        return jax.vmap(of_one, axis_name=name)(xs, keys)

    def _called(
        self,
        module: Any,
        state: Any,
        x: PyTree,
        *,
        key: Key | None,
        is_training: bool,
    ) -> PyTree:
        """Return all outputs of a module for one example, without the new state."""
        named = self.arguments.by_name(x, is_training=is_training)
        if self.takes_key:
            named["key"] = key
        if not self.has_state:
            return module(*self.arguments.positional(x), **named)
        y, _ = module(*self.arguments.positional(x), state=state, **named)
        return y

    def for_training(self, params: Params, xs: PyTree) -> Model:
        del params, xs
        if len(self.axes) < 2:
            return self
        names = ", ".join(map(repr, self.axes))
        raise NotDefined(
            f"{self.name} has no training mode: modules in it take statistics over "
            f"axes of several names, {names}, and a batch has one axis. Give all of "
            "them the same axis_name."
        )
