"""What a scheme is told of a layer: its role, its fans, and its place on a branch."""

import math
from dataclasses import dataclass

from isometry._internal import checks
from isometry._internal.errors import InputError, public

ATTENTION = ("query", "key", "value", "qkv", "output")
ROLES = ("stem", "hidden", "head", "recurrent", "embedding", *ATTENTION)
KINDS = ("dense", "conv", "embedding")
STACKS = ("encoder", "decoder")

# The number of branches in one layer of a transformer: attention and feed-forward. A
# decoder layer that attends to an encoder has a second attention.
_BRANCHES_OF_LAYER = 2
_BRANCHES_OF_CROSSING = 3


@dataclass(frozen=True)
class Branch:
    """The place of a layer on the residual branches of a network.

    A network has one stack of branches, or two: an encoder and a decoder that attends
    to it. Layers that read the same input share a position: the branch of an attention
    has length 2, with query, key and value at position 0 and the output at 1.

    Attributes:
        index: The index of the branch in its stack, 0 for the first.
        count: The number of branches in the stack.
        position: The number of weight layers before this one on the branch.
        length: The number of weight layers one after another on the branch.
        stack: "encoder" or "decoder"; None if there is one stack.
        other: The number of branches in the other stack; 0 if there is one stack.

    Raises:
        InputError: A number out of its range, an unknown stack, or `other` without a
            stack.

    Example:
        >>> branch = schemes.Branch(index=0, count=12, position=1, length=2)
        >>> branch.last, branch.layers
        (True, 6.0)
    """

    index: int
    count: int
    position: int
    length: int
    stack: str | None = None
    other: int = 0

    @public("Branch")
    def __post_init__(self) -> None:
        checks.integer("count", self.count, low=1)
        checks.integer("length", self.length, low=1)
        checks.integer("index", self.index, low=0, high=self.count - 1)
        checks.integer("position", self.position, low=0, high=self.length - 1)
        checks.integer("other", self.other, low=0)
        if self.stack is not None:
            checks.one_of("stack", self.stack, STACKS)
        elif self.other:
            raise InputError(
                f"other={self.other} needs stack, one of {', '.join(STACKS)}."
            )

    @property
    def last(self) -> bool:
        """Whether the layer is the last one of its branch.

        Example:
            >>> schemes.Branch(index=0, count=12, position=1, length=2).last
            True
        """
        return self.position == self.length - 1

    @property
    def crosses(self) -> bool:
        """Whether the layer lies in a decoder that attends to an encoder.

        Example:
            >>> branch = schemes.Branch(0, 9, 0, length=2, stack="decoder", other=6)
            >>> branch.crosses
            True
        """
        return self.stack == "decoder" and self.other > 0

    @property
    def layers(self) -> float:
        """The number of transformer layers in the stack, from `count`.

        Example:
            >>> schemes.Branch(index=0, count=12, position=1, length=2).layers
            6.0
            >>> schemes.Branch(0, 9, 0, length=2, stack="decoder", other=6).layers
            3.0
        """
        per_layer = _BRANCHES_OF_CROSSING if self.crosses else _BRANCHES_OF_LAYER
        return self.count / per_layer


@dataclass(frozen=True)
class Layer:
    """What a scheme is told of a layer.

    Attributes:
        role: "stem" (reads the input), "hidden", "head" (the last layer), "recurrent"
            (reads its own result of the step before), "embedding" (a row for each
            token); in an attention "query", "key", "value", "output", and "qkv" (one
            weight for values and others). Feed-forward layers of a branch are "hidden".
        index: The index of the layer among all weight layers, 0 for the first.
        depth: The number of weight layers in the network.
        fan_in: The number of inputs that are summed to one output, window included.
        fan_out: The number of outputs that one input contributes to, window included.
        branch: The place of the layer on the residual branches; None on the stream. An
            embedding may have that of the first branch that reads it, because some
            schemes scale embeddings by the number of branches.
        name: The name of the layer in the anatomy.
        kind: "dense", "conv" or "embedding".
        groups: The number of groups of channels of a convolution; 1 for other layers.
        heads: The number of heads, for a layer of an attention; None for other layers.
        window: The taps of a convolution kernel along each axis; () for other layers.
        follows: The name of the activation behind the layer; None if there is none. It
            is one of `activations.names()`, or relu6, hard_silu, mish, abs or cos.
        precedes: The name of the activation before the layer; None if there is none.

    Raises:
        InputError: An unknown role or kind, a stem or head on a branch, an index or
            fans out of range.

    Example:
        >>> layer = schemes.Layer("hidden", index=1, depth=3, fan_in=64, fan_out=64)
        >>> schemes.get("kaiming").initializer(layer)
        kaiming_normal(a=0.0, mode='fan_in', nonlinearity='leaky_relu')
    """

    role: str
    index: int
    depth: int
    fan_in: int
    fan_out: int
    branch: Branch | None = None
    name: str = ""
    kind: str = "dense"
    groups: int = 1
    heads: int | None = None
    window: tuple[int, ...] = ()
    follows: str | None = None
    precedes: str | None = None

    @public("Layer")
    def __post_init__(self) -> None:
        # Schemes treat an unknown role as "hidden", so a misspelt one would silently
        # get the wrong initializer.
        checks.one_of("role", self.role, ROLES)
        checks.one_of("kind", self.kind, KINDS)
        for name in ("depth", "fan_in", "fan_out", "groups"):
            checks.integer(name, getattr(self, name), low=1)
        checks.integer("index", self.index, low=0, high=self.depth - 1)
        if not isinstance(self.branch, Branch | None):
            raise InputError(
                f"branch={checks.show(self.branch)} is not a Branch; write "
                "schemes.Branch(index, count, position, length), or None on the stream."
            )
        # A stem reads the input and a head returns the output, so neither can lie
        # between the start and the end of a branch.
        if self.branch is not None and self.role in ("stem", "head"):
            raise InputError(
                f"role={self.role!r} lies on the stream; leave branch out."
            )

    @property
    def on_branch(self) -> Branch | None:
        """The place of the layer on a branch; None on the stream.

        Example:
            >>> layer = schemes.Layer("hidden", index=1, depth=3, fan_in=4, fan_out=4)
            >>> layer.on_branch is None
            True
        """
        # An embedding is on the stream: its `branch` is that of the first reader.
        return None if self.role == "embedding" else self.branch

    @property
    def num_taps(self) -> int:
        """The number of taps in the window of a convolution; 1 for other layers.

        Example:
            >>> layer = schemes.Layer("stem", 0, 2, fan_in=9, fan_out=24, window=(3,))
            >>> layer.num_taps
            3
        """
        return math.prod(self.window)

    @property
    def num_inputs(self) -> int:
        """The number of input channels of one group.

        Example:
            >>> layer = schemes.Layer("stem", 0, 2, fan_in=9, fan_out=24, window=(3,))
            >>> layer.num_inputs
            3
        """
        return self.fan_in // self.num_taps

    @property
    def num_outputs(self) -> int:
        """The number of output channels of one group.

        Example:
            >>> layer = schemes.Layer("stem", 0, 2, fan_in=9, fan_out=24, window=(3,))
            >>> layer.num_outputs
            8
        """
        return self.fan_out // self.num_taps


class Watched(Layer):
    """A layer that remembers whether its index, or that of its branch, was read.

    Attributes:
        has_read_index: Whether it was.
    """

    has_read_index: bool

    @classmethod
    def of(cls, layer: Layer) -> "Watched":
        """Return a watched copy of a layer."""
        # Not by the constructor, whose checks read the index.
        watched = object.__new__(cls)
        watched.__dict__.update(layer.__dict__, has_read_index=False)
        if layer.branch is not None:
            branch = object.__new__(_WatchedBranch)
            branch.__dict__.update(layer.branch.__dict__, layer=watched)
            watched.__dict__["branch"] = branch
        return watched

    def __getattribute__(self, name: str) -> object:
        if name == "index":
            object.__setattr__(self, "has_read_index", True)
        return super().__getattribute__(name)


class _WatchedBranch(Branch):
    """The branch of a watched layer.

    Attributes:
        layer: The layer.
    """

    layer: Watched

    def __getattribute__(self, name: str) -> object:
        if name == "index":
            object.__setattr__(self.layer, "has_read_index", True)
        return super().__getattribute__(name)
