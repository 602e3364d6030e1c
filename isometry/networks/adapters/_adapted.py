"""What all adapters share: the network, its two modes, outputs, keys and messages."""

import contextlib
import dataclasses
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from isometry._internal import checks
from isometry._internal.errors import FromCall, InputError, NotDefined
from isometry._internal.types import Key, Params
from isometry.networks._network import Network
from isometry.structure._reading import read

# An index, a key or the name of a field.
Output: TypeAlias = int | str | None

M = TypeVar("M", bound="Model")
N = TypeVar("N", bound="Adapted")

# A function that builds a module, or its class.
Build: TypeAlias = Callable[..., Any]

# Arguments by which models are told their mode, and what each is in inference. They are
# looked for in the signature of the module's own call.
MODES = {
    "train": False,
    "training": False,
    "is_training": False,
    "enable_dropout": False,
    "deterministic": True,
    "inference": True,
    "use_running_average": True,
}

# Number of examples in the batch of `net.training`, as far as it has to be known: its
# anatomy, and the batch at which Haiku draws its averages. Eight are the fewest of
# which the variance is known to a half, sqrt(2/8).
BATCH = 8


class Held:
    """A value as a part of something hashable.

    Two are equal if their values are, or if those cannot be compared, such as modules
    that hold a list or an array, only if they are the same object.
    """

    value: Any

    def __init__(self, value: object):
        self.value = value
        self._identity: Hashable = value
        try:
            self._hash = hash(value)
        # Flax raises an error of its own kind for modules with unhashable fields.
        except Exception:
            self._identity = id(value)
            self._hash = hash(self._identity)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Held):
            return False
        # Arrays compare entry by entry, but they have no hash, so none gets here.
        return self._hash == other._hash and bool(self._identity == other._identity)

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True)
class Arguments:
    """How the call of a module takes an example, its mode and what the user adds.

    Attributes:
        names: The arguments among `MODES` that the call has.
        added: What the user wrote beside the example, by name.
        is_spread: Whether a tuple is passed as several arguments.
    """

    names: tuple[str, ...] = ()
    added: tuple[tuple[str, Held], ...] = ()
    is_spread: bool = False

    @classmethod
    def read(
        cls,
        signature: inspect.Signature,
        example: PyTree,
        added: Mapping[str, object],
        *,
        reserved: tuple[str, ...] = (),
    ) -> "Arguments":
        """Read them off the signature of the call, without `self`.

        Args:
            signature: Its signature.
            example: One example.
            added: What the user wrote beside it.
            reserved: Names of arguments that the adapter itself passes.
        """
        parameters = signature.parameters
        taken = {*MODES, *added, *reserved}
        positional = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        required = [
            parameter
            for name, parameter in parameters.items()
            if parameter.kind in positional
            and parameter.default is inspect.Parameter.empty
            and name not in taken
        ]
        is_tuple = type(example) is tuple
        return cls(
            names=tuple(name for name in MODES if name in {*parameters, *added}),
            added=tuple((name, Held(value)) for name, value in sorted(added.items())),
            is_spread=is_tuple and len(example) == len(required) > 1,
        )

    def positional(self, x: PyTree) -> tuple[PyTree, ...]:
        """Return the arguments that hold the example."""
        return x if self.is_spread else (x,)

    def by_name(self, *, is_training: bool) -> dict[str, Any]:
        """Return the others: those of the mode, and what the user added.

        What the user wrote counts in inference. In training all arguments of the mode
        are switched, because `train=False` is what most write for `net`.
        """
        added = {name: held.value for name, held in self.added}
        if is_training:
            return {**added, **{name: not MODES[name] for name in self.names}}
        return {**{name: MODES[name] for name in self.names}, **added}


@dataclass(frozen=True, kw_only=True)
class Model(ABC):
    """A module of a framework, called with parameters. It is hashable and holds none.

    Attributes:
        arguments: How its call takes an example.
        axes: The names of axes over which its norms take statistics in training, beside
            those of the batch: of devices, or of a map over examples.
    """

    # Whether inference takes a batch, as in most frameworks, or one example.
    takes_batch: ClassVar[bool] = True

    arguments: Arguments
    axes: tuple[Hashable, ...] = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the module's class or of the function, for messages."""

    @abstractmethod
    def infer(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        """Return all outputs in inference; `xs` is one example if not `takes_batch`."""

    @abstractmethod
    def train(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        """Return all outputs for a batch in training; updates of state are dropped."""

    def for_training(self, params: Params, xs: PyTree) -> "Model":
        """Return the model with what `train` needs, from shapes.

        Raises:
            NotDefined: The training mode cannot be had.
        """
        del params, xs
        return self


@dataclass(frozen=True)
class Inference:
    """The function (params, x) -> output of a model in inference, x one example.

    Attributes:
        model: The model.
        output: Which of its outputs is meant.
        has_key: Whether its call needs a key although it draws nothing.
    """

    model: Model
    output: Output = None
    has_key: bool = False

    def __call__(self, params: Params, x: PyTree) -> Array:
        # The output was found not to depend on the key.
        return self.with_key(params, x, jax.random.key(0) if self.has_key else None)

    def with_key(self, params: Params, x: PyTree, key: Key | None) -> Array:
        """Return the output if this key is passed to the call."""
        if not self.model.takes_batch:
            return picked(self.model.infer(params, x, key), self.output)
        y = picked(self.model.infer(params, batch_of_one(x), key), self.output)
        if y.ndim == 0 or y.shape[0] != 1:
            raise InputError(
                f"the module returns shape {y.shape} for a batch of one example, whose "
                "axis should come first; write a module that returns a row for each "
                "example, and not, for instance, their mean."
            )
        return y[0]


@dataclass(frozen=True)
class Training:
    """The function (params, x) -> outputs of a model in training, x the whole batch.

    Attributes:
        model: The model.
        output: Which of its outputs is meant.
        draws: Whether it draws, so that x is a pair (batch, key).
    """

    model: Model
    output: Output
    draws: bool

    def __call__(self, params: Params, x: PyTree) -> Array:
        ends_with_key = isinstance(x, tuple) and len(x) == 2 and checks.is_key(x[1])
        if not self.draws:
            return self.with_key(params, x, None)
        if not ends_with_key:
            raise InputError(
                f"x is {checks.show(jax.tree.map(jnp.shape, x))}, and in training mode "
                "this model draws, as dropout does; write x=(batch, key)."
            )
        batch, key = x
        return self.with_key(params, batch, key)

    def with_key(self, params: Params, xs: PyTree, key: Key | None) -> Array:
        """Return the output for a batch if this key is passed to the call."""
        return picked(self.model.train(params, xs, key), self.output)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Adapted(Network):
    """A model of another library. `networks.adapters` says what its modes mean.

    Attributes:
        function: The map (params, x) -> output alone.
        example: The shapes and dtypes of one x; in training mode, of a batch.
        scheme: None, because parameters are drawn as the model's own code draws them.
        activation: None, because a model may have several.
        mode: "inference" or "training".
        adapter: The name of the function that made the network, such as "flax".
        draw: Draws the parameters from a key.
        batch: The number of examples in the example of `training`.

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

    def init(self, key: Key) -> Params:
        """Draw parameters as the model's own initialization does.

        Args:
            key: A random key.

        Returns:
            The parameters, with all collections of state that the model has.

        Example:
            >>> import flax.linen as nn
            >>> net = networks.flax(nn.Dense(3), jnp.ones(4))
            >>> params = net.init(jax.random.key(0))
            >>> params["params"]["kernel"].shape
            (4, 3)
        """
        checks.key("key", key)
        return _drawn(self.draw, key)

    @functools.cached_property
    def training(self) -> "Adapted":
        """The model in training mode: x is a batch, or a pair (batch, key).

        Raises:
            NotDefined: The model's mode was fixed when it was built.
        """
        if isinstance(self.function, Training):
            return self
        model, output = self.function.model, self.function.output
        xs = jax.tree.map(functools.partial(_stacked, size=self.batch), self.example)
        with _noted(f"in training mode, on a batch {brief(xs)}"):
            model = model.for_training(self.shapes, xs)
            function = Training(model, output, draws=True)
            draws = depends_on_key(function.with_key, self.shapes, xs)
        net = dataclasses.replace(
            self,
            function=Training(model, output, draws),
            example=(xs, KEY) if draws else xs,
            mode="training",
        )
        # Parameters are the same in both modes.
        net.__dict__["shapes"] = self.shapes
        return net

    def __repr__(self) -> str:
        name = self.function.model.name
        return f"{self.adapter}({name}, {brief(self.example)}), {self.mode}"


# The shape of a random key.
KEY = jax.eval_shape(lambda: jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def _drawn(draw: Callable[[Key], Params], key: Key) -> Params:
    """Draw parameters, as one program.

    Flax and Haiku run the whole model to draw its parameters. Compiled, none of that is
    left but the drawing.
    """
    return draw(key)


def adapted(
    adapter: str,
    example: PyTree,
    read_module: Callable[[PyTree], tuple[Callable[[Key], Params], Model]],
    *,
    output: Output,
    batch: int,
    kind: type[N] = Adapted,
) -> N:
    """Make a network of what an adapter has read, and try it on shapes.

    Args:
        adapter: The name of the public function, such as "flax".
        example: One x, arrays or their shapes.
        read_module: From the shapes of an example to what draws the parameters, and to
            the model. Both must be hashable.
        output: Which output is meant.
        batch: The number of examples of `net.training`.
        kind: The class of the network.

    Raises:
        InputError: The example seems to be a batch; the output is no floating array; an
            argument is not of its kind.
    """
    example = _abstract(example)
    checks.integer("batch", batch, low=1)
    try:
        draw, function, shapes = _tried(read_module, example, output)
    except FromCall:
        raise
    # The user's module may raise anything, and what it says is shown as it is.
    except Exception as error:
        row = _row(example)
        if row is not None and _works(read_module, row, output):
            raise InputError(
                f"example has shape {brief(example)}, at which the module raises "
                f"{type(error).__name__}; at a row of it, {brief(row)}, it does not. "
                "Write one x, without the axis of a batch: example[0]."
            ) from error
        error.add_note(
            f"Raised by the module for the example {brief(example)}. It must be one x, "
            "without the axis of a batch."
        )
        raise
    net = kind(
        function=function,
        example=example,
        adapter=adapter,
        draw=draw,
        batch=batch,
    )
    # They were traced just now.
    net.__dict__["shapes"] = shapes
    return net


def _tried(
    read_module: Callable[[PyTree], tuple[Callable[[Key], Params], Model]],
    example: PyTree,
    output: Output,
) -> tuple[Callable[[Key], Params], Inference, Params]:
    """Read a module and call it, both on shapes."""
    draw, model = read_module(example)
    shapes = jax.eval_shape(draw, KEY)
    function = Inference(model, output)
    try:
        y = jax.eval_shape(function, shapes, example)
    except FromCall:
        raise
    # Many modules split the key that they are called with before they look whether they
    # need it.
    except Exception:
        function = Inference(model, output, has_key=True)
        try:
            draws = depends_on_key(function.with_key, shapes, example)
        except Exception:
            draws = None
        if draws is None:
            raise
        if draws:
            raise InputError(
                "the module draws at random in inference mode. Give its call an "
                "argument that switches this off, one of "
                f"{', '.join(MODES)}, or build it without dropout."
            ) from None
        y = jax.eval_shape(function, shapes, example)
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise InputError(
            f"the module returns {y.dtype}, which has no derivative; write output= to "
            "choose another output, or return the logits."
        )
    return draw, function, shapes


def _works(
    read_module: Callable[[PyTree], tuple[Callable[[Key], Params], Model]],
    example: PyTree,
    output: Output,
) -> bool:
    try:
        _tried(read_module, example, output)
    except Exception:
        return False
    return True


def depends_on_key(
    call: Callable[[Params, PyTree, Key], Array],
    params: Params,
    x: PyTree,
) -> bool:
    """Tell from shapes whether what a call returns depends on its key."""
    closed = jax.make_jaxpr(call)(params, x, KEY)
    # To the reader all arguments but the last are parameters.
    num_params = len(jax.tree.leaves((params, x)))
    program = read(closed, num_params)
    return not program.of_x.isdisjoint(program.outputs)


def picked(y: PyTree, output: Output) -> Array:
    """Return the output that is meant: of several, `output` or the first."""
    if output is not None:
        y = _chosen(y, output)
    elif isinstance(y, (tuple, list)) and y:
        y = y[0]
    if not hasattr(y, "dtype"):
        raise InputError(
            f"the module returns {_outputs(y)}, and one array is meant; write output=, "
            "an index, a key or the name of a field."
        )
    return y


def _chosen(y: PyTree, output: int | str) -> PyTree:
    try:
        # A named tuple and the records of many libraries have fields.
        if isinstance(output, str) and hasattr(y, output):
            return getattr(y, output)
        return y[output]
    except (TypeError, KeyError, IndexError):
        raise InputError(
            f"output={output!r} is none of the module's outputs; it returns "
            f"{_outputs(y)}."
        ) from None


def _outputs(y: PyTree) -> str:
    """Describe what a module returns."""
    kind = type(y).__name__
    if isinstance(y, Mapping):
        return f"a {kind} of {', '.join(map(repr, y))}"
    if isinstance(y, (tuple, list)):
        return f"a {kind} of {len(y)}"
    if hasattr(y, "dtype"):
        return f"one array, {brief(y)}"
    return f"a {kind}"


class WithState(NamedTuple):
    """Parameters of a model that has a state beside them. It unpacks as a pair.

    The names of layers are the paths in `params`.
    """

    params: PyTree
    state: PyTree


def with_axes(
    call: Callable[..., PyTree], names: Sequence[Hashable]
) -> Callable[..., PyTree]:
    """Bind axes of length 1 for norms that take statistics over all devices."""
    for name in names:
        # Nothing is mapped, so no array gets an axis.
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
    """Refuse a model that nothing switches, if a part of it stays in inference mode."""
    # A model with a switch may leave norms in inference mode for its own reasons.
    if model.arguments.names or not seen.fixed:
        return
    raise NotDefined(
        f"{model.name} has no training mode: {seen.fixed[0]!r} is called in inference "
        "mode, and its call has no argument that would switch it. Make a network of "
        "the module as it is built for training, or give its call an argument train "
        "(or is_training, deterministic)."
    )


def watched(
    trace: Callable[[tuple[Hashable, ...]], object],
    watch: Callable[[Seen], AbstractContextManager],
) -> Seen:
    """Trace a model, again if its norms ask for axes that have no name yet.

    Args:
        trace: Traces the model with axes of these names.
        watch: A context in which what its norms and dropouts do is written down.

    Returns:
        What they did.
    """
    axes: tuple[Hashable, ...] = ()
    while True:
        seen = Seen()
        try:
            with watch(seen):
                trace(axes)
        # JAX raises it for an axis without a name.
        except NameError:
            missing = [name for name in seen.axes if name not in axes]
            if not missing:
                raise
            axes = (*axes, *dict.fromkeys(missing))
        else:
            return seen


def switched(
    model: M,
    params: Params,
    xs: PyTree,
    *,
    watch: Callable[[Seen], AbstractContextManager],
) -> M:
    """Return a model with the axes that its norms ask for in training, from shapes.

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
        jax.eval_shape(with_names(axes).train, params, xs, KEY)

    seen = watched(trace, watch)
    require_switch(model, seen)
    return with_names(tuple(dict.fromkeys(seen.axes)))


# --- Examples


def _abstract(example: PyTree) -> PyTree:
    """Return the shapes and dtypes of an example."""
    leaves = jax.tree.leaves(example)
    if not leaves:
        raise InputError("example holds no array; write one x, such as jnp.ones(3).")
    # A list of numbers is what a user means by an array.
    if all(isinstance(leaf, (bool, int, float)) for leaf in leaves):
        return _shape_of("example", example)
    paths = jax.tree_util.tree_leaves_with_path(example)
    shapes = [
        _shape_of(f"example{jax.tree_util.keystr(path)}", leaf) for path, leaf in paths
    ]
    return jax.tree.unflatten(jax.tree.structure(example), shapes)


def _shape_of(name: str, leaf: object) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if checks.is_key(leaf):
        array = leaf
    else:
        array = checks.array(name, leaf)
    return jax.ShapeDtypeStruct(jnp.shape(array), array.dtype)


def _is_typed_key(leaf: jax.Array | jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def batch_of_one(x: PyTree) -> PyTree:
    """Give every leaf but random keys a batch axis."""

    def with_axis(leaf: Array) -> Array:
        return leaf if _is_typed_key(leaf) else jnp.asarray(leaf)[None]

    return jax.tree.map(with_axis, x)


def _stacked(leaf: jax.ShapeDtypeStruct, size: int) -> jax.ShapeDtypeStruct:
    """Return the shape of a batch; all examples share a random key."""
    if _is_typed_key(leaf):
        return leaf
    return jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype)


def _row(example: PyTree) -> PyTree | None:
    """Return the shape of a row of an example, or None if it has no rows."""
    leaves = jax.tree.leaves(example)
    if not all(leaf.shape for leaf in leaves):
        return None

    def row(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)

    return jax.tree.map(row, example)


@dataclass(frozen=True)
class Shapes:
    """The shapes of an example, hashable."""

    leaves: tuple[jax.ShapeDtypeStruct, ...]
    tree: Any

    @classmethod
    def of(cls, example: PyTree) -> "Shapes":
        """Return those of an example."""
        leaves, tree = jax.tree.flatten(example)
        return cls(tuple(leaves), tree)

    def batch(self, key: Key, size: int) -> PyTree:
        """Draw a batch: standard normal numbers, and zeros for whole ones.

        Zeros throughout would give averages of zero variance, and a norm of them
        multiplies by 1 / sqrt(epsilon).
        """
        leaves = []
        for i, leaf in enumerate(self.leaves):
            # Not the key itself, from which the parameters are drawn.
            own = jax.random.fold_in(key, i)
            shape = (size, *leaf.shape)
            if _is_typed_key(leaf):
                leaves.append(own)
            elif jnp.issubdtype(leaf.dtype, jnp.inexact):
                leaves.append(jax.random.normal(own, shape, leaf.dtype))
            else:
                leaves.append(jnp.zeros(shape, leaf.dtype))
        return jax.tree.unflatten(self.tree, leaves)


# --- Messages


def brief(tree: PyTree) -> str:
    """Write shapes as "float32[8,3]", of a tree as tuples and dicts of them."""

    def written(leaf: jax.ShapeDtypeStruct) -> str:
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"

    return str(jax.tree.map(written, tree)).replace("'", "")


@contextlib.contextmanager
def _noted(where: str) -> Iterator[None]:
    """Add a note to what the user's module raises."""
    try:
        yield
    except FromCall:
        raise
    except Exception as error:
        error.add_note(f"Raised by the module {where}.")
        raise


def called_with(build: Build, argument: str, value: object) -> Any:
    """Call what builds a module, whether its one argument is named or not."""
    # A metaclass hides the signature of a class's own initialization.
    signed = build.__init__ if isinstance(build, type) else build
    try:
        parameter = inspect.signature(signed).parameters.get(argument)
    # Some callables have no signature.
    except (TypeError, ValueError):
        parameter = None
    if parameter is not None and parameter.kind is inspect.Parameter.KEYWORD_ONLY:
        return build(**{argument: value})
    return build(value)


def name_of(function: object) -> str:
    """Return the name of a function, or of the class of a callable object."""
    return getattr(function, "__name__", type(function).__name__)


def listed(names: Hashable | Sequence[Hashable]) -> tuple[Hashable, ...]:
    """Return one name, or several, as a tuple."""
    return tuple(names) if isinstance(names, (tuple, list)) else (names,)
