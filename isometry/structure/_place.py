"""Where a value arises in a program."""

from typing import NamedTuple

from jax.extend import core


class Place(NamedTuple):
    """The variable of a program that holds a value, and in which iteration.

    Attributes:
        path: Indices of the equations that enclose it, outermost first, each an index
            into the equations of the jaxpr that the one before calls: that of a jit,
            remat or custom_jvp, or the body of a scan.
        var: The variable, in the jaxpr to which the path leads.
        iterations: Which iteration of each scan on the path, outermost first, counted
            from 0. Empty: all iterations of all these scans.
    """

    path: tuple[int, ...]
    var: core.Var
    iterations: tuple[int, ...]
