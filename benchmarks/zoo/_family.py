"""The cases of one architecture: it is healthy, or has one of the faults."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.zoo import _plants
from benchmarks.zoo._case import Case, Plant
from benchmarks.zoo._plants import NEAR, Find
from isometry.networks import Network

# What each kind of pair asks of `_plants.twin`. A near miss is no lock.
_PAIRS: dict[str, dict[str, Any]] = {
    "twin": {},
    "opposite": {"sign": -1.0},
    "near_twin": {"near": NEAR},
}


@dataclass(frozen=True)
class Family:
    """An architecture, of which each fault makes a case.

    Attributes:
        name: What the names of its cases begin with.
        build: Returns its network.
        inputs: The shape of one input, as in `Case`.
        tokens: The number of different tokens, as in `Case`.
    """

    name: str
    build: Callable[[], Network]
    inputs: tuple[int, ...]
    tokens: int | None = None

    def healthy(
        self, *, unasked: str = "", also_clear: str = "", raised: str = ""
    ) -> Case:
        """Return the case without a fault in its weights."""
        return self._case(
            self.name, unasked=unasked, also_clear=also_clear, raised=raised
        )

    def broken(
        self,
        fault: str,
        plant: Plant,
        raised: str = "",
        *,
        unasked: str = "",
        also_clear: str = "",
    ) -> Case:
        """Return the case with a fault in its weights, and what that must raise."""
        return self._case(
            f"{self.name}-{fault}",
            plant=plant,
            raised=raised,
            unasked=unasked,
            also_clear=also_clear,
        )

    def pairs(self, find: Find, kinds: str, *, of: str = "") -> list[Case]:
        """Return cases in which two units are one, or opposite, or nearly one.

        Args:
            find: Finds the units; or channels, heads, experts.
            kinds: Some of "twin opposite near_twin".
            of: What the units are called in the names of the cases.
        """
        cases = []
        for kind in kinds.split():
            plant = partial(_plants.twin, find=find, **_PAIRS[kind])
            raised = "" if kind == "near_twin" else "locked_symmetry"
            fault = f"{kind}_{of}" if of else kind
            cases.append(self.broken(fault, plant, raised))
        return cases

    def constant(self, raised: str = "locked_symmetry", *, window: int = 1) -> Case:
        """Return the case in which all weights of a layer are equal.

        Args:
            raised: The flags that must be raised.
            window: Pixels of a kernel.
        """
        return self.broken(
            "constant",
            partial(_plants.constant, window=window),
            raised,
            # Equal columns of the head leave nothing but rounding of the gradient of a
            # cross-entropy at the first step.
            unasked="zero_gradient",
        )

    def cut_off(self, find: Find, *, unasked: str = "zero_gradient") -> Case:
        """Return the case in which nothing reaches three units, and nothing reads them.

        Each of the two waits for the other, so that they are dead for ever, and equal.
        """
        plant = partial(_plants.cut_off, find=find, count=3)
        return self.broken("dead", plant, "locked_symmetry dead_units", unasked=unasked)

    def zeroed(
        self,
        fault: str,
        names: Sequence[str],
        raised: str,
        *,
        unasked: str = "",
        also_clear: str = "",
    ) -> Case:
        """Return the case in which some weights are zero."""
        plant = partial(_plants.zero, names=tuple(names))
        return self.broken(fault, plant, raised, unasked=unasked, also_clear=also_clear)

    def zero_head(self, name: str) -> Case:
        """Return the case in which the last weight is zero, and so is the Jacobian."""
        return self.zeroed("zero_head", [name], "zero_gradient vanishing")

    def equal_blocks(self, prefix: str) -> Case:
        """Return the case of one key for all blocks of a stack.

        They read different values, so that training parts them: that is no lock.
        """
        plant = partial(_plants.equal_blocks, prefix=prefix)
        return self.broken("equal_blocks", plant, "duplicate_blocks")

    def near_equal_blocks(self, prefix: str) -> Case:
        """Return the near miss of the same."""
        plant = partial(_plants.equal_blocks, prefix=prefix, near=NEAR)
        return self.broken("near_equal_blocks", plant)

    def _case(self, name: str, **rest: Any) -> Case:
        """Return a case of this network and its inputs."""
        return Case(name, self.build, self.inputs, tokens=self.tokens, **rest)
