"""Predicted signals of an MLP: variances, cosines and gradients layer by layer."""

from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from isometry.networks import _predicted
from isometry.networks._predicted import Gram, PerInput
from isometry.records import Signals
from isometry.schemes import Layer
from isometry.theory.mean_field._moments import differentiable
from isometry.theory.mean_field._products import Activated, activated

if TYPE_CHECKING:
    from isometry.networks._mlp import Mlp


def mean_field(net: "Mlp", xs: ArrayLike) -> Signals:
    """Return the predicted signals, for `Mlp.mean_field`."""
    plan = net.plan
    if len(plan) > 1:
        differentiable(net.activation, 1.0)
    # fan_in · Var W of each layer.
    squares = []
    for layer in plan:
        drawn = net.scheme.drawn(layer)
        squares.append(drawn.gain(layer) ** 2)
    of_bias = net.scheme.sigma_b**2 if net.bias else 0.0
    inputs = np.asarray(xs, np.float64)
    # What each layer reads, and the pre-activation that it returns.
    n_in = inputs.shape[1]
    read = inputs @ inputs.T / n_in
    behind: list[Activated] = []
    grams: dict[str, Gram] = {"input": read}
    names = _names(plan)
    for name, square in zip(names, squares, strict=True):
        # All layers but the first read the activation of the layer before.
        if behind:
            read = behind[-1].gram
        gram = square * read + of_bias
        found = activated(net.activation, gram)
        behind.append(found)
        grams[name] = gram
        grams[f"{name}:out"] = found.gram
    grams["output"] = grams[names[-1]]
    slopes = [found.slope for found in behind]
    growth = _growth(names, squares, slopes)
    return _predicted.signals(net.anatomy, grams, growth)


def _growth(
    names: list[str],
    squares: list[float],
    slopes: list[PerInput],
) -> dict[str, PerInput]:
    """Follow the squared Jacobian of the output back to the input."""
    now = np.ones_like(slopes[-1])
    apjn = {"output": now}
    # The last layer has no activation behind it.
    apjn[names[-1]] = now
    for index in reversed(range(1, len(names))):
        before = names[index - 1]
        now = squares[index] * now
        apjn[f"{before}:out"] = now
        now = slopes[index - 1] * now
        apjn[before] = now
    apjn["input"] = squares[0] * now
    return apjn


def _names(plan: tuple[Layer, ...]) -> list[str]:
    """Return the names of the pre-activations, as the anatomy has them."""
    counts: dict[str, int] = {}
    for layer in plan:
        count = counts.get(layer.name, 0)
        counts[layer.name] = count + 1
    names = []
    seen: dict[str, int] = {}
    for layer in plan:
        index = seen.get(layer.name, 0)
        seen[layer.name] = index + 1
        # Layers of equal shape in a row are stacked, and the anatomy numbers them.
        name = layer.name
        if counts[layer.name] > 1:
            name = f"{layer.name}[{index}]"
        names.append(name)
    return names
