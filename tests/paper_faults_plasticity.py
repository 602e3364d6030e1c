"""Faults that make the figure of plasticity fail."""

import jax.numpy as jnp

from tests.paper_faults import Fault

_FIGURE = "paper_figs.dohare2024_plasticity"


def _with_run(name, **changes):
    """Return what changes one of the ways to go from task to task."""

    def replace(runs):
        return {**runs, name: runs[name]._replace(**changes)}

    return replace


def _without_new_orders(permutation):
    """Return what leaves 64 numbers, the pixels, in their order."""

    def changed(key, x):
        if x == 64:
            return jnp.arange(64)
        return permutation(key, x)

    return changed


FAULTS = [
    Fault(
        "dohare2024_plasticity",
        "tanh instead of ReLU",
        f"{_FIGURE}.ACTIVATION",
        lambda activation: "tanh",
    ),
    Fault(
        "dohare2024_plasticity",
        "a tenth of the learning rate",
        f"{_FIGURE}.RATE",
        lambda rate: rate / 10,
    ),
    Fault(
        "dohare2024_plasticity",
        "a tenth of the penalty",
        f"{_FIGURE}.RUNS",
        _with_run("isometry penalty", strength=0.001),
    ),
    Fault(
        "dohare2024_plasticity",
        "less is drawn back",
        f"{_FIGURE}.RUNS",
        _with_run("shrink and perturb", kept=0.85),
    ),
    Fault(
        "dohare2024_plasticity",
        "pixels keep their order",
        "jax.random.permutation",
        _without_new_orders,
    ),
]
