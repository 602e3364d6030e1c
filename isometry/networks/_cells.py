"""The equations of recurrent cells: one step from states and an input to new states.

A gate computes W h + V x + b: `recurrent` is W, `input` is V, `b` is the bias. Weights
are (in, out), so the products are written h @ W.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
from jaxtyping import Array, Float

from isometry._internal.types import Elementwise

# The arrays of one gate: "recurrent" (units, units), "input" (n, units), "b".
Gate: TypeAlias = Mapping[str, Array]

# The states that one step passes to the next, each of shape (units,); the first is h.
States: TypeAlias = tuple[Array, ...]

Step: TypeAlias = Callable[[Mapping[str, Gate], Elementwise, States, Array], States]


class Cell(NamedTuple):
    """One kind of cell.

    Attributes:
        step: Its equations: (gates, activation, states, x) to the new states.
        states: The names of its states.
        switches: The gates that multiply, with values in (0, 1).
        contents: The gates that make what is multiplied.
        embedding: The gate that reads x alone, and whose result the others read in the
            place of x. None if they read x.
        remembering: The gate that keeps the old state, on which chrono acts.
        writing: The gate beside it that lets in the new, or None if that is one minus
            the other.
    """

    step: Step
    states: tuple[str, ...]
    switches: tuple[str, ...]
    contents: tuple[str, ...]
    embedding: str | None = None
    remembering: str | None = None
    writing: str | None = None

    @property
    def gates(self) -> tuple[str, ...]:
        """The names of all gates."""
        return self.switches + self.contents

    @property
    def recurrent(self) -> tuple[str, ...]:
        """The names of those that read h."""
        return tuple(gate for gate in self.gates if gate != self.embedding)

    def shapes(self, units: int, n_in: int) -> dict[str, dict[str, tuple[int, ...]]]:
        """Return the shapes of the arrays of each gate."""
        shapes = {}
        for gate in self.gates:
            reads_x = self.embedding in (None, gate)
            of_gate = {
                "input": (n_in if reads_x else units, units),
                "b": (units,),
            }
            if gate in self.recurrent:
                of_gate["recurrent"] = (units, units)
            shapes[gate] = of_gate
        return shapes


def _gate(
    gate: Gate, h: Float[Array, " units"], x: Float[Array, " n"]
) -> Float[Array, " units"]:
    """Compute W h + V x + b."""
    # The bias is added to V x first, which is there in every step, while W h is zero in
    # the first one: so the anatomy finds the bias at the input weight.
    from_input = x @ gate["input"] + gate["b"]
    return from_input + h @ gate["recurrent"]


def _vanilla(
    gates: Mapping[str, Gate],
    activation: Elementwise,
    states: States,
    x: Array,
) -> States:
    (h,) = states
    return (activation(_gate(gates["state"], h, x)),)


def _minimal(
    gates: Mapping[str, Gate],
    activation: Elementwise,
    states: States,
    x: Array,
) -> States:
    (h,) = states
    embedding = gates["candidate"]
    z = activation(x @ embedding["input"] + embedding["b"])
    update = jax.nn.sigmoid(_gate(gates["update"], h, z))
    return (update * h + (1 - update) * z,)


def _gru(
    gates: Mapping[str, Gate],
    activation: Elementwise,
    states: States,
    x: Array,
) -> States:
    (h,) = states
    update = jax.nn.sigmoid(_gate(gates["update"], h, x))
    reset = jax.nn.sigmoid(_gate(gates["reset"], h, x))
    # Reset before the matrix, as Cho et al. (2014) have it. cuDNN and torch reset
    # behind it, which is another network.
    candidate = activation(_gate(gates["candidate"], reset * h, x))
    return (update * h + (1 - update) * candidate,)


def _lstm(
    gates: Mapping[str, Gate],
    activation: Elementwise,
    states: States,
    x: Array,
) -> States:
    h, c = states
    let_in = jax.nn.sigmoid(_gate(gates["input"], h, x))
    forget = jax.nn.sigmoid(_gate(gates["forget"], h, x))
    output = jax.nn.sigmoid(_gate(gates["output"], h, x))
    content = activation(_gate(gates["cell"], h, x))
    # Without peepholes: no gate reads c.
    c = forget * c + let_in * content
    return output * activation(c), c


CELLS: dict[str, Cell] = {
    "vanilla": Cell(
        _vanilla,
        states=("h",),
        switches=(),
        contents=("state",),
    ),
    "minimal": Cell(
        _minimal,
        states=("h",),
        switches=("update",),
        contents=("candidate",),
        embedding="candidate",
        remembering="update",
    ),
    "gru": Cell(
        _gru,
        states=("h",),
        switches=("update", "reset"),
        contents=("candidate",),
        remembering="update",
    ),
    "lstm": Cell(
        _lstm,
        states=("h", "c"),
        switches=("input", "forget", "output"),
        contents=("cell",),
        remembering="forget",
        writing="input",
    ),
}
