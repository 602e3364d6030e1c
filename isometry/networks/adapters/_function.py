"""Any function of parameters and one example as a network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Array, PyTree

from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, public
from isometry._internal.types import Key, Params
from isometry.networks.adapters._adapted import BATCH, Adapted, adapted
from isometry.networks.adapters._building import noted
from isometry.networks.adapters._model import Arguments, Held, Model, Output, name_of

Map: TypeAlias = Callable[[Params, PyTree], PyTree]


@public("networks.function")
def function(
    f: Map,
    init: Callable[[Key], Params],
    example: PyTree[Array],
    *,
    output: Output = None,
) -> Adapted:
    """Make a network from f(params, x) and a function that draws params.

    Such a network has no training mode, because f does not say how it treats a batch.
    For batch norm in training, write f as a function of a whole batch, and give a batch
    as the example.

    Args:
        f: A function f(params, x) of one example.
        init: A function from a random key to parameters. It is traced.
        example: One x: an array or `jax.ShapeDtypeStruct`, or a tree of them.
        output: Which output is meant if f returns several: an index, a key or the name
            of a field. By default the first of a tuple.

    Returns:
        The network.

    Raises:
        InputError: f or init cannot be called; the output of f is not one floating
            array. Errors that f and init raise are passed on.

    Example:
        >>> def f(params, x):
        ...     return params["out"] @ jnp.tanh(params["in"] @ x)
        >>> def init(key):
        ...     return {"in": jax.random.normal(key, (5, 3)), "out": jnp.ones((2, 5))}
        >>> net = networks.function(f, init, jnp.ones(3))
        >>> [layer.name for layer in net.anatomy.layers]
        ['in', 'out']
    """
    # Before the trace, which would name neither of the two.
    for name, given in (("f", f), ("init", init)):
        if not callable(given):
            raise InputError(
                f"{name}={checks.show(given)} is not callable; write "
                "networks.function(f, init, example) with f(params, x) and init(key)."
            )

    def read(example: PyTree) -> tuple[Callable[[Key], Params], Model]:
        # A function of params and x needs no example to be called.
        del example
        return _Draw(Held(init)), _Function(arguments=Arguments(), f=Held(f))

    return adapted(
        "function",
        example,
        read,
        output=output,
        batch=BATCH,
        called="f(params, x)",
    )


@dataclass(frozen=True)
class _Draw:
    """A function that draws parameters: the user's `init`, as a hashable value.

    Attributes:
        init: The user's function.
    """

    init: Held

    def __call__(self, key: Key) -> Params:
        # The note says where an error of the user's own code came from.
        with noted("by init(key), a function of a random key alone."):
            return self.init.value(key)


@dataclass(frozen=True, kw_only=True)
class _Function(Model):
    """The user's function of one example, as a model.

    Attributes:
        arguments: Not used.
        f: The user's function.
    """

    # f takes one x, and is mapped over a batch from outside.
    takes_batch = False

    f: Held

    @property
    def name(self) -> str:
        return name_of(self.f.value)

    def infer(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        del key
        return self.f.value(params, xs)

    def train(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        raise AssertionError("for_training refuses")

    def for_training(self, params: Params, xs: PyTree) -> Model:
        del params, xs
        raise NotDefined(
            f"{self.name} has no training mode: a function of one example does not say "
            "how it treats a batch. Write networks.function(g, init, batch) with a "
            "function g(params, batch) that computes what training computes."
        )
