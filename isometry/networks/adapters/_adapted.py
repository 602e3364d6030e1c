"""The network that adapters return: it is built from a model and tried on shapes."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeAlias, TypeVar

import jax
from jaxtyping import PyTree

from isometry._internal import checks, kinds
from isometry._internal.errors import FromCall, InputError, public
from isometry._internal.types import Key, Params
from isometry.networks._network import Network
from isometry.networks.adapters._building import noted
from isometry.networks.adapters._examples import (
    abstract,
    brief,
    first_row,
    key_shape,
    stacked,
    whole_numbers,
)
from isometry.networks.adapters._model import (
    Inference,
    Model,
    Output,
    Training,
    drawing_refused,
)
from isometry.networks.adapters._modes import depends_on_key

# The default number of examples in a batch: in `net.training.example`, of which the
# anatomy is read, and in the batch from which Haiku's batch norm starts its averages.
# The relative standard error of a variance of n examples is sqrt(2/n), 1/2 at 8. At 80
# it would be 1/6, and the memory ten times as large; one example has no variance.
BATCH = 8

N = TypeVar("N", bound="Adapted")

# A function of the shapes of an example that returns a pair: the function that draws
# the parameters, and the model.
Reader: TypeAlias = Callable[[PyTree], tuple[Callable[[Key], Params], Model]]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Adapted(Network):
    """A network made from a model of another library.

    `networks.adapters` says what its two modes mean.

    Attributes:
        function: The map (params, x) -> output alone.
        example: The shapes and dtypes of one x; in training mode, of a batch.
        scheme: None, because the model's own code draws the parameters.
        activation: None, because a model may have several.
        mode: "inference" or "training".
        adapter: The name of the function that made the network, such as "flax".
        draw: A function from a random key to parameters.
        batch: The number of examples in `training.example`.

    Example:
        >>> import flax.linen as nn
        >>> net = networks.flax(nn.Dense(3), jnp.ones(4))
        >>> net
        flax(Dense, float32[4]), inference
        >>> net.training.example
        ShapeDtypeStruct(shape=(8, 4), dtype=float32)
    """

    function: Inference | Training
    scheme: None = None
    activation: None = None
    adapter: str
    draw: Callable[[Key], Params]
    batch: int

    @public("init")
    def init(self, key: Key) -> Params:
        """Draw the parameters by the model's own code.

        Args:
            key: A random key.

        Returns:
            The parameters, with the state of the model, such as batch statistics.

        Example:
            >>> import flax.linen as nn
            >>> net = networks.flax(nn.Dense(3), jnp.ones(4))
            >>> params = net.init(jax.random.key(0))
            >>> params["params"]["kernel"].shape
            (4, 3)
        """
        checks.key("key", key)
        return _compiled_draw(self.draw, key)

    @property
    def training(self) -> Self:
        """The model in training mode: x is a batch, or a pair (batch, key).

        Raises:
            NotDefined: The model's mode was fixed when it was built.

        Example:
            >>> import flax.linen as nn
            >>> net = networks.flax(nn.Dense(3), jnp.ones(4))
            >>> net.training.example.shape
            (8, 4)
        """
        return self._in_training

    @functools.cached_property
    def _in_training(self) -> Self:
        if isinstance(self.function, Training):
            return self
        # Training mode is traced on a batch, since batch norm needs several examples.
        model, output = self.function.model, self.function.output
        xs = jax.tree.map(functools.partial(stacked, size=self.batch), self.example)
        with noted(f"by the module in training mode, on a batch {brief(xs)}."):
            model = model.for_training(self.shapes, xs)
            # The first trace passes a key, and finds out whether the model uses one.
            # Only then is x a pair (batch, key).
            function = Training(model, output, draws=True)
            draws = depends_on_key(function.with_key, self.shapes, xs)
        net = dataclasses.replace(
            self,
            function=Training(model, output, draws),
            example=(xs, key_shape()) if draws else xs,
            mode="training",
        )
        # Fill the cached property: both modes have the same parameters.
        net.__dict__["shapes"] = self.shapes
        return net

    def __repr__(self) -> str:
        name = self.function.model.name
        return f"{self.adapter}({name}, {brief(self.example)}), {self.mode}"


@functools.partial(jax.jit, static_argnums=0)
def _compiled_draw(draw: Callable[[Key], Params], key: Key) -> Params:
    """Return `draw(key)`, compiled as one program.

    Flax and Haiku run the whole model to draw its parameters. XLA removes the model
    from the program, because its output is not used, and leaves the drawing.
    """
    return draw(key)


@public("networks.adapters.adapted")
def adapted(
    adapter: str,
    example: PyTree,
    read_module: Reader,
    *,
    output: Output = None,
    batch: int = BATCH,
    called: str = "the module, called on x,",
    kind: type[N] = Adapted,
) -> N:
    """Return the network of a model, after a call of the model on shapes.

    An adapter is a function that ends with this call. Nothing is computed: the model is
    traced on the shapes of the example.

    Args:
        adapter: The name of the adapter, such as "flax", for the repr of the network.
        example: One x, arrays or their shapes.
        read_module: A function from the shapes of an example to a pair: the function
            that draws the parameters from a key, and the model. Both must be hashable,
            and equal for equal modules: frozen dataclasses whose fields are `Held`.
        output: An index, a key or the name of a field, if the model returns several
            outputs. None is the first.
        batch: The number of examples in `net.training.example`.
        called: What is called and on what, as in "the module, called on x,". It becomes
            part of a note on errors of the model.
        kind: The class of the network.

    Returns:
        The network.

    Raises:
        InputError: The example seems to be a batch; the output is no floating array;
            `batch` is below 1. Errors of the model are passed on.

    Example:
        A library whose modules have `make(key)` and `run(params, xs, key)`, where a key
        means training:

        >>> import dataclasses
        >>> from isometry.networks import adapters
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class Tiny(adapters.Model):
        ...     module: adapters.Held
        ...
        ...     @property
        ...     def name(self):
        ...         return type(self.module.value).__name__
        ...
        ...     def infer(self, params, xs, key):
        ...         return self.module.value.run(params, xs, None)
        ...
        ...     def train(self, params, xs, key):
        ...         return self.module.value.run(params, xs, key)
        >>> @dataclasses.dataclass(frozen=True)
        ... class Draw:
        ...     module: adapters.Held
        ...
        ...     def __call__(self, key):
        ...         return self.module.value.make(key)
        >>> def tiny(module, example):
        ...     held = adapters.Held(module)
        ...     model = Tiny(arguments=adapters.Arguments(), module=held)
        ...     return adapters.adapted("tiny", example, lambda _: (Draw(held), model))

        One of its modules as a network:

        >>> class Dense:
        ...     def make(self, key):
        ...         return {"kernel": jax.random.normal(key, (4, 3))}
        ...
        ...     def run(self, params, xs, key):
        ...         return xs @ params["kernel"]
        >>> net = tiny(Dense(), jnp.ones(4))
        >>> net, net.depth
        (tiny(Dense, float32[4]), inference, 1)
    """
    # Only shapes and dtypes are kept: with its numbers, equal networks would compare
    # as different, and compile anew.
    example = abstract(example)
    checks.integer("batch", batch, low=1)
    # Any error of the model gets this note. If the cause can be told from the shapes, a
    # better error replaces it.
    with noted(f"by {called} for the example {brief(example)}, which is one x."):
        try:
            draw, function, shapes = _tried(read_module, example, output)
        except FromCall:
            raise
        except Exception as error:
            _refuse_common_mistakes(error, read_module, example, output=output)
            raise
    net = kind(
        function=function,
        example=example,
        adapter=adapter,
        draw=draw,
        batch=batch,
    )
    # Fill the cached property: `_tried` has traced the shapes already.
    net.__dict__["shapes"] = shapes
    return net


def _pair(returned: object) -> tuple[Callable[[Key], Params], Model]:
    """Return what a reader returned, if it is a draw function and a model.

    Raises:
        InputError: It is anything else, or has no hash.
    """
    if isinstance(returned, tuple) and len(returned) == 2:
        draw, model = returned
        if callable(draw) and isinstance(model, Model):
            _check_hash("function that draws", draw)
            _check_hash("model", model)
            return draw, model
    raise InputError(
        f"read_module returned {checks.show(returned)}; return a pair: the function "
        "that draws the parameters from a key, and an adapters.Model."
    )


def _check_hash(what: str, value: object) -> None:
    """Refuse a value without a hash, by which programs are kept."""
    try:
        hash(value)
    except TypeError as error:
        raise InputError(
            f"the {what} that read_module returned has no hash ({error}); write a "
            "frozen dataclass whose fields are adapters.Held(...)."
        ) from error


def _tried(
    read_module: Reader,
    example: PyTree,
    output: Output,
) -> tuple[Callable[[Key], Params], Inference, Params]:
    """Return the draw function, the map and the shapes of params of a model.

    Args:
        read_module: As for `adapted`.
        example: The shapes of one x.
        output: As for `adapted`.

    Raises:
        InputError: The model draws in inference, or its output is not one floating
            array. Errors of the model are passed on.
    """
    # Traced on shapes, so that large models become networks on any machine.
    draw, model = _pair(read_module(example))
    shapes = jax.eval_shape(draw, key_shape())
    function = Inference(model, output)
    try:
        y = jax.eval_shape(function, shapes, example)
    except FromCall:
        raise
    # Many modules split their key before they look whether they need it, and fail
    # without one. So the call is tried once more with a key.
    except Exception:
        function = Inference(model, output, has_key=True)
        try:
            draws = depends_on_key(function.with_key, shapes, example)
        except Exception:
            draws = None
        if draws is None:
            raise
        if draws:
            raise drawing_refused() from None
        y = jax.eval_shape(function, shapes, example)
    if y.size == 0:
        raise InputError(
            f"the module returns {brief(y)}, which holds no number; write a module "
            "with at least one output."
        )
    if not kinds.is_floating(y):
        raise InputError(
            f"the module returns {y.dtype}, which has no derivative; write output= to "
            "choose another output, or return the logits."
        )
    return draw, function, shapes


def _refuse_common_mistakes(
    error: Exception,
    read_module: Reader,
    example: PyTree,
    *,
    output: Output,
) -> None:
    """Raise a better error if the example is a batch, or has floating tokens.

    It is a batch if the model accepts one row of it; it has floating tokens if the
    model accepts whole numbers of the same shape.

    Args:
        error: What the model raised at the example.
        read_module: As for `adapted`.
        example: The shapes of the example.
        output: As for `adapted`.

    Raises:
        InputError: The example is one of these two.
    """
    raised = f"at which the module raises {type(error).__name__}"
    row = first_row(example)
    if row is not None and _works(read_module, row, output):
        raise InputError(
            f"example has shape {brief(example)}, {raised}; at a row of it, "
            f"{brief(row)}, it does not. Write one x, without the axis of a batch: "
            "example[0]."
        ) from error
    tokens = whole_numbers(example)
    if tokens is not None and _works(read_module, tokens, output):
        raise InputError(
            f"example is {brief(example)}, {raised}; at whole numbers, "
            f"{brief(tokens)}, it does not. Write tokens as whole numbers: "
            "example.astype(int)."
        ) from error


def _works(
    read_module: Reader,
    example: PyTree,
    output: Output,
) -> bool:
    """Tell whether a model accepts an example."""
    try:
        _tried(read_module, example, output)
    except Exception:
        return False
    return True
