"""Predicted signals of residual networks, point by point."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from isometry.networks import _predicted
from isometry.networks._predicted import Gram, PerInput
from isometry.networks._resnet_law import Chain, behind, chain, square
from isometry.records import Signals
from isometry.theory.mean_field import _batches
from isometry.theory.mean_field._batches import BatchGradients, BatchPassage
from isometry.theory.mean_field._residual import (
    ORDERS,
    Gradients,
    Passage,
    follow,
    pull_back,
)

if TYPE_CHECKING:
    from isometry.networks._resnet import Resnet


def mean_field(net: "Resnet", xs: ArrayLike) -> Signals:
    """Return the predicted signals, for `Resnet.mean_field`."""
    seen = chain(net)
    values = np.asarray(xs, np.float64)
    if net.function.is_training:
        return _of_batches(net, seen, values)
    return _of_examples(net, seen, values)


def _of_examples(
    net: "Resnet",
    seen: Chain,
    values: Float[np.ndarray, "inputs n_in"],
) -> Signals:
    """Predict the signals of examples that are on their own."""
    # Everything forward is in the products of all pairs of inputs.
    stream = seen.stream(values)
    order = net.function.order
    passages = follow(
        net.function.activation,
        seen.blocks,
        order=order,
        stream=stream,
        norm=seen.norm,
    )
    ends = _ends(
        seen,
        at_input=values @ values.T / values.shape[1],
        at_blocks=stream.gram,
        at_end=passages[-1].after.gram,
    )
    grams = ends | _of_blocks(seen, passages, order)
    # From the output back. A head is the output itself, and a network without one has
    # no such point.
    now = np.ones(len(values))
    apjn = {"output": now, "head": now}
    if seen.head is not None:
        now = square(seen.head) * now
    for names, passage in zip(reversed(seen.names), reversed(passages), strict=True):
        found = pull_back(passage, now)
        apjn |= _apjn(names, passage, found, order=order, behind=now)
        now = found.before
    apjn["stem"] = now
    if seen.stem is not None:
        now = square(seen.stem) * now
    apjn["input"] = now
    return _predicted.signals(net.anatomy, grams, apjn)


def _of_batches(
    net: "Resnet",
    seen: Chain,
    values: Float[np.ndarray, "inputs batch n_in"],
) -> Signals:
    """Predict the signals of batches that are normalized by their own statistics."""
    assert seen.norm is not None, "training mode is that of batch norm"
    order = net.function.order
    num_inputs, batch, n_in = values.shape
    # Products of all examples of all batches; of a point those of equal examples.
    rows = values.reshape(-1, n_in)
    gram = rows @ rows.T / n_in
    at_input = _batches.over_inputs(gram, batch)
    crowd = _batches.Crowd(net.function.activation, num_inputs, batch)
    if seen.stem is None:
        # Units keep the values of xs.
        at_blocks = at_input
        units = crowd.of_values(values)
    else:
        gram = behind(seen.stem, gram)
        at_blocks = _batches.over_inputs(gram, batch)
        units = crowd.gaussian(gram, crowd.size)
    passages, _ = _batches.follow_batches(
        crowd,
        seen.blocks,
        order=order,
        units=units,
        norm=seen.norm,
    )
    ends = _ends(
        seen,
        at_input=at_input,
        at_blocks=at_blocks,
        at_end=passages[-1].after.gram,
    )
    grams = ends | _of_blocks(seen, passages, order)
    # From the output back, with the covariance of gradients over the batch.
    now = _batches.at_output(crowd)
    one = np.ones(num_inputs)
    apjn = {"output": one, "head": one}
    if seen.head is not None:
        now = square(seen.head) * now
    for names, passage in zip(reversed(seen.names), reversed(passages), strict=True):
        found = _batches.pull_back_batches(passage, now)
        of_block = _batches.total(now)
        apjn |= _apjn(names, passage, found, order=order, behind=of_block)
        now = found.before
    # In front of the blocks no norm acts, and the sum of squares is enough.
    growth = _batches.total(now)
    apjn["stem"] = growth
    if seen.stem is not None:
        growth = square(seen.stem) * growth
    apjn["input"] = growth
    return _predicted.signals(net.anatomy, grams, apjn)


def _ends(
    seen: Chain,
    *,
    at_input: Gram,
    at_blocks: Gram,
    at_end: Gram,
) -> dict[str, Gram]:
    """Return the products at the points outside blocks.

    Args:
        seen: The network.
        at_input: Those of the inputs.
        at_blocks: Those of the stream in front of the first block.
        at_end: Those of the stream behind the last.
    """
    output = at_end
    # The head is linear, and reads the stream itself.
    if seen.head is not None:
        output = behind(seen.head, output)
    return {"input": at_input, "stem": at_blocks, "head": output, "output": output}


def _of_blocks(
    seen: Chain,
    passages: Sequence[Passage] | Sequence[BatchPassage],
    order: str,
) -> dict[str, Gram]:
    """Return the products at the points of all blocks."""
    grams: dict[str, Gram] = {}
    for names, passage in zip(seen.names, passages, strict=True):
        grams |= _grams(names, passage, order)
    return grams


def _points(names: tuple[str, str], order: str) -> list[str | None]:
    """Return the names of the values on a branch; None of what is no point."""
    prefix, index = names
    first, second = (f"{prefix}{layer}{index}" for layer in ("first", "second"))
    layout = ORDERS[order]
    points: list[str | None] = [None] if layout.before else []
    points.append(first)
    if layout.num_layers == 2:
        points += [f"{first}:out", second]
    # What stands behind the last layer is read behind the multiplier too.
    if layout.behind:
        points.append(None)
    return points


def _last(names: tuple[str, str], order: str) -> str:
    """Return the name of the last layer of a branch."""
    prefix, index = names
    layer = "second" if ORDERS[order].num_layers == 2 else "first"
    return f"{prefix}{layer}{index}"


def _grams(
    names: tuple[str, str],
    passage: Passage | BatchPassage,
    order: str,
) -> dict[str, Gram]:
    """Return the products of values at the points of a block."""
    points = _points(names, order)
    grams = {
        name: station.gram
        for name, station in zip(points, passage.stations, strict=True)
        if name is not None
    }
    last = _last(names, order)
    block = passage.block
    # The multiplier stands behind the last layer, as an activation does elsewhere.
    grams[f"{last}:out"] = block.branch**2 * passage.stations[-1].gram
    grams[f"{last}:sum"] = passage.sum.gram
    # A point only if a norm stands behind the sum.
    grams[f"{last}:sum:out"] = passage.after.gram
    if block.shortcut is not None:
        prefix, index = names
        grams[f"{prefix}shortcut{index}"] = block.shortcut * passage.before.gram
    return grams


def _apjn(
    names: tuple[str, str],
    passage: Passage | BatchPassage,
    found: Gradients | BatchGradients,
    *,
    order: str,
    behind: PerInput,
) -> dict[str, PerInput]:
    """Return the squared Jacobians of the output at the points of a block."""
    points = _points(names, order)
    apjn = {
        name: gradient
        for name, gradient in zip(points, found.stations, strict=True)
        if name is not None
    }
    last = _last(names, order)
    # A sum passes its gradient on to both of its terms.
    apjn[f"{last}:out"] = found.sum
    apjn[f"{last}:sum"] = found.sum
    apjn[f"{last}:sum:out"] = behind
    if passage.block.shortcut is not None:
        prefix, index = names
        apjn[f"{prefix}shortcut{index}"] = passage.block.skip**2 * found.sum
    return apjn
