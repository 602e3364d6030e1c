"""What a scheme may know of a layer: its role, its place in the network, its fans, and the branch it lies on."""

from dataclasses import dataclass

from isometry import _checks

ATTENTION = ("query", "key", "value", "output")
ROLES = ("stem", "hidden", "head", "embedding", *ATTENTION)
STACKS = ("encoder", "decoder")


@dataclass(frozen=True)
class Branch:
    """Where on the residual branches of a trunk a layer lies.

    - `index`: which branch, 0 the first; `count`: how many branches the trunk has.
    - `position`: of the weight layer along its branch; `length`: weight layers one after another on it, m in Fixup.
      Layers side by side share a position: an attention branch has length 2, query, key and value at 0, output at 1.
    - `stack`: "encoder", "decoder", or None where there is only one trunk. `other`: branches of the stack it exchanges
      attention with, 0 for none. An encoder layer has 2 branches; a decoder layer has 3 if it attends to an encoder.

    **Raises** `ValueError`: a number out of its range; an unknown stack; `other` without a stack.
    """

    index: int
    count: int
    position: int
    length: int
    stack: str | None = None
    other: int = 0

    def __post_init__(self):
        _checks.integer("Branch", low=1, count=self.count, length=self.length)
        _checks.integer("Branch", high=self.count - 1, index=self.index)
        _checks.integer("Branch", high=self.length - 1, position=self.position)
        _checks.integer("Branch", other=self.other)
        if self.stack is not None:
            _checks.one_of("Branch", among=STACKS, stack=self.stack)
        elif self.other:
            raise _checks.InputError(f"Branch(): other={self.other} needs stack, one of {', '.join(STACKS)}.")

    @property
    def last(self) -> bool:
        """Whether the layer is the last of its branch, the one that writes to the trunk."""
        return self.position == self.length - 1

    @property
    def crosses(self) -> bool:
        """Whether the layer lies in a decoder that attends to an encoder."""
        return self.stack == "decoder" and self.other > 0

    @property
    def layers(self) -> float:
        """Transformer layers of this stack: a third of its branches where it attends to an encoder, else half."""
        return self.count / (3 if self.crosses else 2)


@dataclass(frozen=True)
class Layer:
    """What a scheme may know of a layer.

    - `role`: "stem" (reads the input), "hidden", "head" (the last, linear); in an attention branch "query", "key",
      "value" and "output"; "embedding" (a row for each token). Feed-forward layers of a branch are "hidden".
    - `index`: 0 for the first weight layer; `depth`: how many weight layers the network has.
    - `fan_in`, `fan_out`: inputs that an output reads, and outputs that an input reaches, as initializers count them.
    - `branch`: the residual branch it lies on; None on the trunk. An embedding may name the first branch that reads it,
      for some schemes scale it by the number of branches.

    **Raises** `ValueError`: an unknown role; an attention role without a branch; a stem or head on one; an index or
    fans out of range.
    """

    role: str
    index: int
    depth: int
    fan_in: int
    fan_out: int
    branch: Branch | None = None

    @property
    def on_branch(self) -> Branch | None:
        """The branch whose weight this is: None on the trunk, and for an embedding, which only feeds one."""
        return None if self.role == "embedding" else self.branch

    def __post_init__(self):
        _checks.one_of("Layer", among=ROLES, role=self.role)
        _checks.integer("Layer", low=1, depth=self.depth, fan_in=self.fan_in, fan_out=self.fan_out)
        _checks.integer("Layer", high=self.depth - 1, index=self.index)
        if not isinstance(self.branch, Branch | None):
            raise _checks.InputError(
                f"Layer(): branch={_checks.show(self.branch)} is not a Branch; write "
                "schemes.Branch(index, count, position, length), or None on the trunk."
            )
        if self.branch is None and self.role in ATTENTION:
            raise _checks.InputError(
                f"Layer(): role={self.role!r} lies on a residual branch; write branch=schemes.Branch(...)."
            )
        if self.branch is not None and self.role in ("stem", "head"):
            raise _checks.InputError(f"Layer(): role={self.role!r} lies on the trunk; leave branch out.")
