"""Models: modules of a library as hashable objects, with a function for each mode."""

import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeAlias, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from isometry._internal import checks, kinds
from isometry._internal.errors import InputError
from isometry._internal.types import Key, Params
from isometry.networks.adapters._examples import batch_of_one

# Which of several outputs is meant: an index, a key or the name of a field. None is the
# first.
Output: TypeAlias = int | str | None

# The names of mode arguments, with the value of each in inference. They are looked for
# in the signature of the module's call.
MODES = {
    "train": False,
    "training": False,
    "is_training": False,
    "enable_dropout": False,
    "deterministic": True,
    "inference": True,
    "use_running_average": True,
}


class Held:
    """A wrapper that makes any value hashable, such as a module that holds a list.

    Two wrappers of values with a hash are equal if the values are equal; of values
    without one, only if they hold the same object.

    Attributes:
        value: The value.

    Example:
        >>> from isometry.networks import adapters
        >>> sizes = [3, 2]
        >>> adapters.Held(sizes) == adapters.Held(sizes)
        True
        >>> adapters.Held(sizes) == adapters.Held([3, 2])
        False
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
        # `==` of two arrays would be an array. Arrays have no hash, so `_identity` is
        # their id and `==` is that of two numbers.
        return self._hash == other._hash and bool(self._identity == other._identity)

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True)
class Arguments:
    """The arguments with which a module is called.

    Attributes:
        names: The names in `MODES` that the call has as arguments.
        added: Further arguments that the user gave, by name.
        is_spread: Whether x is a tuple that is unpacked into several arguments.
        late: The names of those arguments, of x or of its entries, that stand behind
            one that is passed by name. They are passed by name as well.

    Example:
        >>> from isometry.networks import adapters
        >>> adapters.Arguments()  # of a call module(x)
        Arguments(names=(), added=(), is_spread=False, late=())
    """

    names: tuple[str, ...] = ()
    added: tuple[tuple[str, Held], ...] = ()
    is_spread: bool = False
    late: tuple[str, ...] = ()

    @classmethod
    def read(
        cls,
        signature: inspect.Signature,
        example: PyTree,
        added: Mapping[str, object],
        *,
        reserved: tuple[str, ...] = (),
    ) -> "Arguments":
        """Find out from the signature of a module's call how it has to be called.

        Args:
            signature: The signature, without `self`.
            example: One example.
            added: Further arguments that the user gave, by name.
            reserved: The names of arguments that the adapter itself passes.

        Returns:
            The arguments. Those that set a mode, such as `train`, are listed in
            `names`, and need no entry of the example.

        Raises:
            InputError: The call requires more arguments than the example has entries,
                beside those in `MODES`, `added` and `reserved`.

        Example:
            >>> import inspect
            >>> from isometry.networks import adapters
            >>> def call(x, train):
            ...     return x
            >>> signature = inspect.signature(call)
            >>> adapters.Arguments.read(signature, jnp.ones(3), added={}).names
            ('train',)
        """
        parameters = signature.parameters
        # Arguments that are passed by name cannot hold a part of the example.
        taken = {*MODES, *added, *reserved}
        positional = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        required = [
            name
            for name, parameter in parameters.items()
            if parameter.kind in positional
            and parameter.default is inspect.Parameter.empty
            and name not in taken
        ]
        # A named tuple is one input with fields, so it is not unpacked.
        is_tuple = type(example) is tuple
        is_spread = is_tuple and len(example) == len(required) > 1
        if len(required) > 1 and not is_spread:
            _refuse_missing(required)
        order = list(parameters)
        # What stands behind an argument that is passed by name has no position.
        before = itertools.takewhile(lambda name: name not in taken, order)
        num_before = len(list(before))
        return cls(
            names=tuple(name for name in MODES if name in {*parameters, *added}),
            added=tuple((name, Held(value)) for name, value in sorted(added.items())),
            is_spread=is_spread,
            late=tuple(name for name in required if order.index(name) > num_before),
        )

    def positional(self, x: PyTree) -> tuple[PyTree, ...]:
        """Return the arguments that are passed by position: x, or its entries.

        Args:
            x: One example, or a batch.

        Returns:
            The arguments.

        Example:
            >>> from isometry.networks import adapters
            >>> adapters.Arguments().positional((1, 2))
            ((1, 2),)
            >>> adapters.Arguments(is_spread=True).positional((1, 2))
            (1, 2)
        """
        entries = self._entries(x)
        return entries[: len(entries) - len(self.late)]

    def _entries(self, x: PyTree) -> tuple[PyTree, ...]:
        return x if self.is_spread else (x,)

    def by_name(self, x: PyTree = None, *, is_training: bool) -> dict[str, Any]:
        """Return the arguments by name: the mode, `added`, and the `late` entries of x.

        In inference, a mode argument has the value that the user gave. In training it
        has its training value whatever the user gave, because most users write
        `train=False` for `net` and not for `net.training`.

        Args:
            x: One example, or a batch. It may be left out if no argument is late.
            is_training: Whether the mode is training.

        Returns:
            The values by the names of the arguments.

        Example:
            >>> from isometry.networks import adapters
            >>> arguments = adapters.Arguments(names=("train",))
            >>> arguments.by_name(is_training=True)
            {'train': True}
        """
        added = {name: held.value for name, held in self.added}
        if self.late:
            entries = self._entries(x)[-len(self.late) :]
            added |= dict(zip(self.late, entries, strict=True))
        if is_training:
            return {**added, **{name: not MODES[name] for name in self.names}}
        return {**{name: MODES[name] for name in self.names}, **added}


def _refuse_missing(required: Sequence[str]) -> NoReturn:
    """Raise for a call with more required arguments than the example has entries."""
    first, *others = required
    by_name = ", ".join(f"{name}=..." for name in others)
    raise InputError(
        f"example has no entry for each argument that the call requires, "
        f"{' and '.join(required)}; write a tuple ({', '.join(required)}) of one x, or "
        f"{first} alone, and the others by name ({by_name})."
    )


@dataclass(frozen=True, kw_only=True)
class Model(ABC):
    """A module of a library without its parameters, hashable.

    An adapter has one subclass, a frozen dataclass with keyword-only fields. If its
    `takes_batch` is False, the module is called on one example in inference.

    Attributes:
        takes_batch: Whether `infer` takes a batch, as in most libraries, or one
            example.
        remedy: The end of the error message for a model whose mode no argument
            switches.
        arguments: The arguments of its call.
        axes: The names of mapped axes, of a pmap over devices or a vmap over examples,
            over which its norms take statistics in training.

    Example:
        `adapted` has a whole adapter. A model that computes the same in both modes:

        >>> import dataclasses
        >>> from isometry.networks import adapters
        >>> @dataclasses.dataclass(frozen=True, kw_only=True)
        ... class Plain(adapters.Model):
        ...     module: adapters.Held
        ...     name = "Plain"
        ...
        ...     def infer(self, params, xs, key):
        ...         return self.module.value(params, xs)
        ...
        ...     train = infer
        >>> model = Plain(arguments=adapters.Arguments(), module=adapters.Held(jnp.dot))
        >>> model.infer(jnp.eye(2), jnp.ones(2), None)
        Array([1., 1.], dtype=float32)
    """

    # Whether `infer` takes a batch, as in most libraries, or one example.
    takes_batch: ClassVar[bool] = True

    # The end of the error message for a model whose mode no argument switches.
    remedy: ClassVar[str] = ""

    arguments: Arguments
    axes: tuple[Hashable, ...] = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the module's class or of the function, for messages.

        Example:
            >>> import flax.linen as nn
            >>> networks.flax(nn.Dense(3), jnp.ones(4)).function.model.name
            'Dense'
        """

    @abstractmethod
    def infer(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        """Return all outputs of the model in inference.

        Args:
            params: The parameters.
            xs: A batch; one example if `takes_batch` is False.
            key: A random key, for models that need one in inference too; or None.

        Returns:
            The outputs.

        Example:
            >>> import flax.linen as nn
            >>> net = networks.flax(nn.Dense(3), jnp.ones(4))
            >>> params = net.init(jax.random.key(0))
            >>> net.function.model.infer(params, jnp.ones((2, 4)), None).shape
            (2, 3)
        """

    @abstractmethod
    def train(self, params: Params, xs: PyTree, key: Key | None) -> PyTree:
        """Return all outputs of the model in training, without the updated state.

        Args:
            params: The parameters.
            xs: A batch.
            key: A random key, for models that draw; or None.

        Returns:
            The outputs.

        Example:
            >>> import flax.linen as nn
            >>> net = networks.flax(nn.Dense(3), jnp.ones(4))
            >>> params = net.init(jax.random.key(0))
            >>> net.function.model.train(params, jnp.ones((2, 4)), None).shape
            (2, 3)
        """

    def for_training(self, params: Params, xs: PyTree) -> "Model":
        """Return a copy of the model with the `axes` that `train` needs.

        Args:
            params: Shapes of the parameters.
            xs: Shapes of a batch.

        Returns:
            The copy; the model itself if its norms name no axes.

        Raises:
            NotDefined: The model has no training mode.

        Example:
            >>> import flax.linen as nn
            >>> net = networks.flax(nn.Dense(3), jnp.ones(4))
            >>> model, xs = net.function.model, jnp.ones((2, 4))
            >>> model.for_training(net.shapes, xs) == model
            True
        """
        del params, xs
        return self


@dataclass(frozen=True)
class Inference:
    """The map (params, x) -> output of a model in inference, x one example.

    Attributes:
        model: The model.
        output: Which of its outputs is meant.
        has_key: Whether its call needs a key although its output depends on none.
    """

    model: Model
    output: Output = None
    has_key: bool = False

    def __call__(self, params: Params, x: PyTree) -> Array:
        # `has_key` is set only after a trace has shown that the output does not depend
        # on the key, so any key will do.
        return self.with_key(params, x, jax.random.key(0) if self.has_key else None)

    def with_key(self, params: Params, x: PyTree, key: Key | None) -> Array:
        """Return the output for x, with a random key (or None) for the model's call.

        Raises:
            InputError: The output is not an array with one row for each example.
        """
        if not self.model.takes_batch:
            return picked(self.model.infer(params, x, key), self.output)
        y = picked(self.model.infer(params, batch_of_one(x), key), self.output)
        # `y[0]` of any other shape would be taken for the output of this example.
        if y.ndim == 0 or y.shape[0] != 1:
            raise InputError(
                f"the module returns shape {y.shape} for a batch of one example, whose "
                "axis should come first; write a module that returns a row for each "
                "example, and not, for instance, their mean."
            )
        return y[0]


@dataclass(frozen=True)
class Training:
    """The map (params, x) -> output of a model in training, x a whole batch.

    Attributes:
        model: The model.
        output: Which of its outputs is meant.
        draws: Whether the output depends on a random key. Then x is a pair
            (batch, key).
    """

    model: Model
    output: Output
    draws: bool

    def __call__(self, params: Params, x: PyTree) -> Array:
        is_pair = type(x) is tuple and len(x) == 2
        ends_with_key = is_pair and kinds.is_key(x[1])
        if self.draws and not ends_with_key:
            raise InputError(
                f"x has shape {jax.tree.map(jnp.shape, x)}, and in training mode this "
                "model draws, as dropout does; write x=(batch, key)."
            )
        if self.draws:
            batch, key = x
            return self.with_key(params, batch, key)
        # A pair that is unpacked may be (array, key): both are inputs of the model
        # then.
        if ends_with_key and not self.model.arguments.is_spread:
            raise InputError(
                "x is a pair (batch, key), and this model draws nothing in training "
                "mode; write x=batch."
            )
        # Many models split a key that they do not use, such as that of dropout at rate
        # 0. So a key is passed, and the output does not depend on it.
        return self.with_key(params, x, jax.random.key(0))

    def with_key(self, params: Params, xs: PyTree, key: Key | None) -> Array:
        """Return the output for a batch, with a random key for the model's call."""
        return picked(self.model.train(params, xs, key), self.output)


class WithState(NamedTuple):
    """Parameters of a model with a state, as a pair (params, state).

    The names of layers are the paths in `params`.
    """

    params: PyTree
    state: PyTree


def picked(y: Any, output: Output) -> Array:
    """Return one array out of what a model returns.

    Args:
        y: An array, or a tuple, a mapping or a record of several.
        output: Which of several is meant. None is the first of a tuple or list.

    Raises:
        InputError: There is no such output, or it is no array.
    """
    # Tuples have the main output first by convention, and auxiliary ones behind it. In
    # a mapping no output comes first, so the user has to name one.
    if output is not None:
        y = _chosen(y, output)
    elif isinstance(y, (tuple, list)) and y:
        y = y[0]
    if not hasattr(y, "dtype"):
        raise InputError(
            f"the module returns {checks.kind_of(y)}, and one array is meant; write "
            "output=, an index, a key or the name of a field."
        )
    return cast(Array, y)


def _chosen(y: Any, output: int | str) -> Any:
    """Return the entry or field `output` of y; raise InputError if there is none."""
    # A single array is refused: `output=0` would take its first row, and a name could
    # be one of its attributes.
    is_several = not hasattr(y, "dtype")
    is_named = is_several and isinstance(output, str)
    try:
        # A name is the field of a named tuple or of another record.
        if is_named and not isinstance(y, Mapping):
            return getattr(y, str(output))
        if is_several:
            return y[output]
    except (AttributeError, TypeError, KeyError, IndexError):
        pass
    raise InputError(
        f"output={output!r} is none of the module's outputs; it returns "
        f"{checks.kind_of(y)}."
    )


def name_of(function: object) -> str:
    """Return the name of a function, or of the class of a callable object."""
    return getattr(function, "__name__", type(function).__name__)


def drawing_refused(detail: str = "") -> InputError:
    """Return the error for a module that draws random numbers in inference.

    Args:
        detail: What is known of where it draws: ": Dropout_0 needs PRNG".
    """
    return InputError(
        f"the module draws at random in inference mode{detail}. Give its call an "
        f"argument that switches this off, one of {', '.join(MODES)}, or build it "
        "without dropout."
    )
