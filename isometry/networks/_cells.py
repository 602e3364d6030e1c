"""The equations of recurrent cells: one step from states and an input to new states.

A gate computes W h + V x + b: `recurrent` is W, `input` is V, `b` is the bias. Weights
are (in, out), so the products are written h @ W.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeAlias

import jax
from jaxtyping import Array, Float

from isometry._internal.types import Elementwise

# The arrays of one gate: "recurrent" (units, units), "input" (n, units), "b".
Gate: TypeAlias = Mapping[str, Array]

# The states that one step passes to the next, each of shape (units,); the first is h.
States: TypeAlias = tuple[Array, ...]


class Step(Protocol):
    """The update of a cell: `step(gates, activation, states, x=x)`, the new states.

    `gates` holds the arrays W, V and b of each gate by its name: the step itself
    computes W h + V x + b. `states` are those of the step before, x is one input (n,).
    """

    def __call__(
        self,
        gates: Mapping[str, Gate],
        activation: Elementwise,
        states: States,
        *,
        x: Array,
    ) -> States: ...


class Cell(NamedTuple):
    """One kind of cell.

    Attributes:
        step: The update of its states.
        states: The names of its states.
        switches: The gates that multiply, with values in (0, 1).
        contents: The gates whose results the others multiply, such as the candidate.
        embedding: The gate that reads x alone. The others read its result in the place
            of x. None if all gates read x.
        remembering: The gate that multiplies the old state, whose bias chrono sets.
            None if there is none.
        writing: The gate that multiplies the new content. None if its factor is one
            minus that of `remembering`.
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
        """The names of the gates that read h."""
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
    # The bias is added to V x, so that the anatomy finds it at the input weight in
    # every step. At the first step W h is zero, and no recurrent weight is seen.
    from_input = x @ gate["input"] + gate["b"]
    return from_input + h @ gate["recurrent"]


def _vanilla(
    gates: Mapping[str, Gate],
    activation: Elementwise,
    states: States,
    *,
    x: Array,
) -> States:
    (h,) = states
    return (activation(_gate(gates["state"], h, x)),)


def _minimal(
    gates: Mapping[str, Gate],
    activation: Elementwise,
    states: States,
    *,
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
    *,
    x: Array,
) -> States:
    (h,) = states
    update = jax.nn.sigmoid(_gate(gates["update"], h, x))
    reset = jax.nn.sigmoid(_gate(gates["reset"], h, x))
    # The reset acts before the matrix W, as in Cho et al. (2014). In cuDNN and torch it
    # acts behind it, which is another network.
    candidate = activation(_gate(gates["candidate"], reset * h, x))
    return (update * h + (1 - update) * candidate,)


def _lstm(
    gates: Mapping[str, Gate],
    activation: Elementwise,
    states: States,
    *,
    x: Array,
) -> States:
    h, c = states
    let_in = jax.nn.sigmoid(_gate(gates["input"], h, x))
    forget = jax.nn.sigmoid(_gate(gates["forget"], h, x))
    output = jax.nn.sigmoid(_gate(gates["output"], h, x))
    content = activation(_gate(gates["cell"], h, x))
    # There are no peepholes: no gate reads c.
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
