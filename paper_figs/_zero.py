"""What the figures of ZerO share: its network, trained by plain SGD, and its rank.

All is numpy: networks are small, and their states must not depend on the width by more
than the order of sums.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from isometry import InputError
from isometry import data as datasets
from isometry._internal.types import Key
from paper_figs import _draws

Array: TypeAlias = Float[np.ndarray, "..."]
# Matrices (in, out), the first layer's first.
Weights: TypeAlias = list[Array]

# Ten times larger, and networks from the identity diverge; ten times smaller, and they
# need ten times as many steps.
RATE = 0.1
BATCH = 64
# Singular values above it count for the rank, as in the paper. It is above what leaks
# in float32, and below what gradients move in a few steps.
TOLERANCE = 1e-4
# The rate falls once in so many epochs, where it falls at all.
EPOCHS_PER_DECAY = 12


class Split(NamedTuple):
    """Inputs that are learned and others that are held out, with their labels."""

    inputs: Float[np.ndarray, "examples features"]
    labels: Int[np.ndarray, " examples"]
    held_inputs: Float[np.ndarray, "others features"]
    held_labels: Int[np.ndarray, " others"]

    @property
    def num_inputs(self) -> int:
        """The dimension of an input, N_x."""
        return self.inputs.shape[1]

    @property
    def num_classes(self) -> int:
        """The number of labels, N_y."""
        return int(self.labels.max()) + 1

    def sizes(self, width: int) -> list[int]:
        """Return the sizes of all layers, from the input to the output.

        Args:
            width: The number of units of the two wide layers.
        """
        num_inputs = self.num_inputs
        # The first hidden layer is as wide as the input: its weights are square.
        return [num_inputs, num_inputs, width, width, self.num_classes]


class Schedule(NamedTuple):
    """The schedule of a training.

    Attributes:
        epochs: The number of passes over the training set.
        every: Steps between two measurements of the rank.
        decay: What the learning rate is multiplied by every 12 epochs.
    """

    epochs: int
    every: int
    decay: float = 1.0


class History(NamedTuple):
    """The rank of W₃ − I while a network learns.

    Attributes:
        steps: Steps before which it was measured.
        ranks: The ranks.
    """

    steps: list[int]
    ranks: list[int]


def split(data: datasets.Data | None, key: Key) -> Split:
    """Compare out a fifth of the examples, drawn at random.

    Args:
        data: A user's data set, or none for digits that are pooled to 4 × 4.
        key: The key of the draw.

    Returns:
        The examples in float64.

    Raises:
        InputError: The data set has no labels.
    """
    if data is None:
        data = datasets.digits(pooled=True)
    if data.targets is None or np.ndim(data.targets) != 1:
        raise InputError(
            "paper_figs: ZerO's figures learn labels; "
            "give --data a .npz file with whole numbers y."
        )
    inputs = np.asarray(data.xs, np.float64)
    labels = np.asarray(data.targets)
    rng = _draws.generator(key)
    order = rng.permutation(len(inputs))
    num_held = len(inputs) // 5
    held = order[:num_held]
    learned = order[num_held:]
    return Split(
        inputs=inputs[learned],
        labels=labels[learned],
        held_inputs=inputs[held],
        held_labels=labels[held],
    )


def train(weights: Weights, data: Split, schedule: Schedule, *, key: Key) -> History:
    """Train a network by SGD, in place and in the precision of its weights.

    Args:
        weights: Its weights.
        data: What it learns.
        schedule: How long.
        key: The key of the batches. Networks with the same key see the same ones.
    """
    dtype = weights[0].dtype
    inputs = data.inputs.astype(dtype)
    classes = np.eye(data.num_classes, dtype=dtype)
    one_hot = classes[data.labels]
    identity = np.eye(len(weights[2]), dtype=dtype)
    history = History([], [])
    rng = _draws.generator(key)
    batches = _batches(rng, len(inputs), schedule.epochs)
    for count, (epoch, batch) in enumerate(batches):
        # The first step shows how many classes of units the gradient tells apart.
        if count == 1 or count % schedule.every == 0:
            history.steps.append(count)
            history.ranks.append(_rank(weights[2] - identity))
        num_decays = epoch // EPOCHS_PER_DECAY
        rate = RATE * schedule.decay**num_decays
        _step(weights, inputs[batch], one_hot[batch], rate=rate)
    return history


def accuracy(weights: Weights, data: Split) -> float:
    """Return the share of held-out inputs whose label a network gives.

    Args:
        weights: Its weights.
        data: The examples.
    """
    outputs = _layers(weights, data.held_inputs)[-1]
    is_right = outputs.argmax(1) == data.held_labels
    return float(is_right.mean())


def _batches(
    rng: np.random.Generator, num_examples: int, epochs: int
) -> Iterator[tuple[int, Int[np.ndarray, " batch"]]]:
    """Yield the number of the epoch and the examples of each step."""
    num_batches = num_examples // BATCH
    for epoch in range(epochs):
        order = rng.permutation(num_examples)
        for batch in np.array_split(order, num_batches):
            yield epoch, batch


def _rank(change: Float[np.ndarray, "in out"]) -> int:
    """Return how many singular values are above the tolerance."""
    # Rows and columns of exact zeros are left out, so that wide networks cost no more.
    moved_rows = change[change.any(1)]
    block = moved_rows[:, change.any(0)]
    if block.size == 0:
        return 0
    values = np.linalg.svd(block, compute_uv=False)
    return int((values > TOLERANCE).sum())


def _layers(weights: Weights, inputs: Array) -> list[Array]:
    """Return the inputs and the outputs of all layers; behind the last is no ReLU."""
    outputs = [inputs]
    for weight in weights[:-1]:
        pre_activation = outputs[-1] @ weight
        outputs.append(np.maximum(pre_activation, 0))
    outputs.append(outputs[-1] @ weights[-1])
    return outputs


def _step(weights: Weights, inputs: Array, one_hot: Array, *, rate: float) -> None:
    """Take a step of SGD on the cross entropy, in place."""
    outputs = _layers(weights, inputs)
    logits = outputs[-1]
    largest = logits.max(1, keepdims=True)
    # Against overflow; it cancels in the probabilities.
    powers = np.exp(logits - largest)
    probabilities = powers / powers.sum(1, keepdims=True)
    error = (probabilities - one_hot) / len(inputs)
    for i in reversed(range(len(weights))):
        gradient = outputs[i].T @ error
        # The error goes back through the weights that made it, before they move.
        is_active = outputs[i] > 0
        error = (error @ weights[i].T) * is_active
        weights[i] -= rate * gradient
