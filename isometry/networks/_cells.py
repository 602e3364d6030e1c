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
    """A function that computes the new states of a cell from the old ones and an input.

    It is called as `step(gates, activation, states, x=x)`. `gates` maps the name of
    each gate to the arrays W, V and b of this gate, `states` are the old states, and x
    is one input of shape (n,).
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
    """The equations of a recurrent cell, and what each of its gates does.

    Attributes:
        step: The function that computes the new states.
        states: The names of the states.
        switches: The names of the gates with a logistic function behind them: their
            values lie in (0, 1), and multiply states and contents.
        contents: The names of the other gates, whose results are multiplied by those of
            `switches`, such as the candidate of a GRU.
        embedding: The gate that reads x alone. All other gates read the result of this
            gate in the place of x. None if all gates read x.
        remembering: The gate that multiplies the old state, whose bias chrono sets.
            None if there is none.
        writing: The gate that multiplies the new content. None if the content is
            multiplied by 1 minus the value of `remembering`.
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
        """Return the shape of each array, by the name of its gate and its own name.

        Args:
            units: The size of each state.
            n_in: The size of one input x.
        """
        shapes = {}
        for gate in self.gates:
            # With an embedding, the other gates read it in the place of x, and it has
            # as many entries as the state.
            reads_x = self.embedding in (None, gate)
            of_gate = {
                "input": (n_in if reads_x else units, units),
                "b": (units,),
            }
            if gate in self.recurrent:
                of_gate["recurrent"] = (units, units)
            shapes[gate] = of_gate
        return shapes


def _pre_activation(
    gate: Gate, h: Float[Array, " units"], x: Float[Array, " n"]
) -> Float[Array, " units"]:
    """Return W h + V x + b, with the arrays of one gate."""
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
    """Compute h' = phi(W h + V x + b)."""
    (h,) = states
    return (activation(_pre_activation(gates["state"], h, x)),)


def _minimal(
    gates: Mapping[str, Gate],
    activation: Elementwise,
    states: States,
    *,
    x: Array,
) -> States:
    """Compute h' = u * h + (1 - u) * z, with z a function of x alone."""
    (h,) = states
    embedding = gates["candidate"]
    z = activation(x @ embedding["input"] + embedding["b"])
    update = jax.nn.sigmoid(_pre_activation(gates["update"], h, z))
    return (update * h + (1 - update) * z,)


def _gru(
    gates: Mapping[str, Gate],
    activation: Elementwise,
    states: States,
    *,
    x: Array,
) -> States:
    """Compute h' = u * h + (1 - u) * g, with g a function of x and r * h."""
    (h,) = states
    update = jax.nn.sigmoid(_pre_activation(gates["update"], h, x))
    reset = jax.nn.sigmoid(_pre_activation(gates["reset"], h, x))
    # The reset acts before the matrix W, as in Cho et al. (2014). In cuDNN and torch it
    # acts behind it, which is another network.
    candidate = activation(_pre_activation(gates["candidate"], reset * h, x))
    return (update * h + (1 - update) * candidate,)


def _lstm(
    gates: Mapping[str, Gate],
    activation: Elementwise,
    states: States,
    *,
    x: Array,
) -> States:
    """Compute c' = f * c + i * g and h' = o * phi(c')."""
    h, c = states
    let_in = jax.nn.sigmoid(_pre_activation(gates["input"], h, x))
    forget = jax.nn.sigmoid(_pre_activation(gates["forget"], h, x))
    output = jax.nn.sigmoid(_pre_activation(gates["output"], h, x))
    content = activation(_pre_activation(gates["cell"], h, x))
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
