"""What a scheme may know of a layer: role, place, fans, and the branch it lies on."""

import math
from dataclasses import dataclass

from isometry._internal import checks
from isometry._internal.errors import InputError, public

ATTENTION = ("query", "key", "value", "qkv", "output")
ROLES = ("stem", "hidden", "head", "recurrent", "embedding", *ATTENTION)
KINDS = ("dense", "conv", "embedding")
STACKS = ("encoder", "decoder")

# Branches of one transformer layer: attention and feed-forward; in a decoder that
# attends to an encoder, that attention too.
_BRANCHES_OF_LAYER = 2
_BRANCHES_OF_CROSSING = 3


@dataclass(frozen=True)
class Branch:
    """Where on the residual branches of a network a layer lies.

    Layers side by side share a position: an attention branch has length 2, with query,
    key and value at 0 and the output at 1. An encoder layer has two branches; a decoder
    layer has three if it attends to an encoder.

    Attributes:
        index: Which branch, 0 for the first.
        count: How many branches the network has, or this stack of it.
        position: How many weight layers of the branch come before this one.
        length: Weight layers one after another on the branch: m in Fixup.
        stack: "encoder", "decoder", or None where there is only one stack.
        other: Branches of the stack with which it exchanges attention; 0 for none.

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
        """Whether it is the last layer of its branch, whose result is added."""
        return self.position == self.length - 1

    @property
    def crosses(self) -> bool:
        """Whether the layer lies in a decoder that attends to an encoder."""
        return self.stack == "decoder" and self.other > 0

    @property
    def layers(self) -> float:
        """How many transformer layers the stack has, by its number of branches."""
        # Attention and feed-forward; a decoder that attends to an encoder has a second
        # attention.
        per_layer = _BRANCHES_OF_CROSSING if self.crosses else _BRANCHES_OF_LAYER
        return self.count / per_layer


@dataclass(frozen=True)
class Layer:
    """What a scheme may know of a layer.

    Attributes:
        role: "stem" (reads the input), "hidden", "head" (the last), "recurrent" (reads
            its own last result), "embedding" (a row for each token); in an attention
            "query", "key", "value", "qkv" (several of them in one) and "output".
            Feed-forward layers of a branch are "hidden".
        index: 0 for the first weight layer.
        depth: How many weight layers the network has.
        fan_in: The number of entries that are summed to one output.
        fan_out: The number of outputs in its own group that one input contributes to.
        branch: The residual branch on which it lies; None on the stream. An embedding
            may name the first branch that reads it, because some schemes scale it by
            the number of branches.
        name: The name of the layer in the anatomy.
        kind: "dense", "conv" or "embedding".
        groups: Groups of channels of a convolution.
        heads: Of a layer of an attention, how many heads it serves.
        window: The spatial shape of a convolution kernel.
        follows: The name of the activation that follows it, or None.
        precedes: The name of the activation whose result it reads, or None.

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
        """The branch whose weight this is; None for an embedding, which feeds one."""
        # The branch of an embedding only tells how deep the network is that it feeds.
        return None if self.role == "embedding" else self.branch

    @property
    def num_taps(self) -> int:
        """How many taps the window of a convolution has; 1 of a dense layer."""
        return math.prod(self.window)

    @property
    def num_inputs(self) -> int:
        """Inputs of one group, the window not counted."""
        return self.fan_in // self.num_taps

    @property
    def num_outputs(self) -> int:
        """Outputs of one group, the window not counted."""
        return self.fan_out // self.num_taps
