"""What the figures of the ZerO paper share: its network, trained by plain SGD with numpy, and the rank of W₃ − I."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from isometry import InputError
from isometry import data as datasets
from paper_figs import _draws

RATE, BATCH, TOLERANCE = 0.1, 64, 1e-4


def split(data: Any, key: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(inputs, labels, held-out inputs, their labels) in float64: four fifths and one, in random order.

    Of digits pooled to 4×4 unless there is other `data`.

    **Raises** `ValueError`: `data` without labels.
    """
    given = datasets.digits(pooled=True) if data is None else data
    if given.targets is None or np.ndim(given.targets) != 1:
        raise InputError("paper_figs: ZerO's figures learn labels; give --data a .npz file with whole numbers y.")
    xs, labels = np.asarray(given.xs, np.float64), np.asarray(given.targets)
    order = _draws.generator(key).permutation(len(xs))
    xs, labels, held = xs[order], labels[order], len(xs) // 5
    return xs[held:], labels[held:], xs[:held], labels[:held]


def sizes(xs: np.ndarray, labels: np.ndarray, h: int) -> list[int]:
    """N_x → N_x → h → h → N_y."""
    return [xs.shape[1], xs.shape[1], h, h, int(labels.max()) + 1]


def train(
    ws: list[np.ndarray], xs: np.ndarray, labels: np.ndarray, size: dict, rng: np.random.Generator, decay: float = 1.0
) -> tuple[list[int], list[int]]:
    """(steps, rank of W₃ − I at each): SGD on the weights (in, out), in place and in their precision.

    `size`: "epochs", and "every" how many steps the rank is taken. The rate falls by `decay` after 12 epochs.
    """
    xs, target = xs.astype(ws[0].dtype), np.eye(ws[-1].shape[1], dtype=ws[0].dtype)[labels]
    steps, ranks = [], []
    for count, (epoch, batch) in enumerate(_batches(len(xs), size["epochs"], rng)):
        if count == 1 or count % size["every"] == 0:
            steps, ranks = [*steps, count], [*ranks, _rank(ws[2] - np.eye(len(ws[2]), dtype=ws[2].dtype))]
        _step(ws, xs[batch], target[batch], RATE * decay ** (epoch // 12))
    return steps, ranks


def accuracy(ws: Sequence[np.ndarray], xs: np.ndarray, labels: np.ndarray) -> float:
    """The share of inputs whose label the network gives."""
    return float((_outputs(ws, xs)[-1].argmax(1) == labels).mean())


def _batches(count: int, epochs: int, rng: np.random.Generator) -> Iterator[tuple[int, np.ndarray]]:
    for epoch in range(epochs):
        for batch in np.array_split(rng.permutation(count), count // BATCH):
            yield epoch, batch


def _rank(change: np.ndarray) -> int:
    """Of what is not exactly zero, so that wide networks cost no more."""
    block = change[change.any(1)][:, change.any(0)]
    return int((np.linalg.svd(block, compute_uv=False) > TOLERANCE).sum()) if block.size else 0


def _outputs(ws: Sequence[np.ndarray], x: np.ndarray) -> list[np.ndarray]:
    """The inputs and what each layer gives, ReLU behind all but the last."""
    found = [x]
    for i, w in enumerate(ws):
        z = found[-1] @ w
        found.append(z if i == len(ws) - 1 else np.maximum(z, 0))
    return found


def _step(ws: list[np.ndarray], x: np.ndarray, target: np.ndarray, rate: float) -> None:
    """One step of SGD on the cross entropy, in place."""
    hs = _outputs(ws, x)
    p = np.exp(hs[-1] - hs[-1].max(1, keepdims=True))
    delta = (p / p.sum(1, keepdims=True) - target) / len(x)
    for i in reversed(range(len(ws))):
        grad, delta = hs[i].T @ delta, (delta @ ws[i].T) * (hs[i] > 0)
        ws[i] -= rate * grad
