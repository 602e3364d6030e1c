"""Where a value arises in a program."""

from typing import NamedTuple

from jax.extend import core


class Place(NamedTuple):
    """Where a value arises in a program.

    Attributes:
        path: Indices of the equations that enclose it, outermost first, each an index
            into the equations of the jaxpr that the one before calls (jit, scan, remat,
            custom_jvp …: the body).
        var: The variable, of the innermost jaxpr of the path.
        turns: One entry for each scan on the path, outermost first: which iteration is
            meant.
    """

    path: tuple[int, ...]
    var: core.Var
    turns: tuple[int, ...]
