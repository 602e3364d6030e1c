"""From partial identity a network trains in a subspace no wider than its input, however wide it is.

Zhao, Schäfer, Anandkumar (2022), arXiv:2110.12661 (ZerO), Theorem 1 and Fig. 3, left.

Rank of W₃ − I (singular values above 1e-4, absolute) while a ReLU network without biases, N_x → N_x → h → h → 10,
learns digits by plain SGD (rate 0.1, batches of 64) from W = I, or as much of I as fits. Input: digits pooled to 4×4,
N_x = 16; with a data set of your own, its inputs. Right: after training, against h. Wider than N_x the networks go
through the same states (in float64, up to summation order). The paper's MNIST plateaus lie at about 155, 375, 572 and
572 for h = 256, 512, 1024 and 2048. Full (60 epochs): 1 minute on 2 cores.
"""

import itertools
from typing import Any

import numpy as np
import xarray

from paper_figs import _draws, _style, _zero
from paper_figs._check import Compared, settled, within

PRESETS = {
    "full": {"factors": (0.5, 1, 2, 4, 8), "epochs": 60, "every": 20},
    "smoke": {"factors": (0.5, 1, 2, 4), "epochs": 12, "every": 25},
}


def compute(preset: str, key: Any, data: Any = None) -> xarray.Dataset:
    """Over (width, step): rank of W₃ − I, and how far W₃ is from that of the widest network; over width: accuracy."""
    size, (xs, labels, *held) = PRESETS[preset], _zero.split(data, key)
    n_x = xs.shape[1]
    widths = [int(f * n_x) for f in size["factors"]]
    final = [[np.eye(m, n) for m, n in itertools.pairwise(_zero.sizes(xs, labels, h))] for h in widths]
    runs = [_zero.train(ws, xs, labels, size, _draws.generator(key)) for ws in final]
    steps, found = runs[0][0], [r[1] for r in runs]
    accuracy = [_zero.accuracy(ws, *held) for ws in final]
    block = [w[:n_x, :n_x] for w in (ws[2] for ws in final)]
    apart = [float(np.abs(b - block[-1]).max()) if len(b) == n_x else 0.0 for b in block]
    outside = [float(np.abs(ws[2] - np.eye(len(ws[2])))[n_x:].max(initial=0)) for ws in final]
    return xarray.Dataset(
        {
            "rank": (("width", "step"), np.array(found, float)),
            "accuracy": ("width", accuracy),
            "apart": ("width", apart),
            "outside": ("width", outside),
        },
        {"width": widths, "step": steps},
        {"inputs": n_x, "classes": int(labels.max()) + 1},
    )


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """The bound, that it is reached, the same trajectories, nothing outside the block, and that it did learn."""
    n_x, wide = data.attrs["inputs"], data.sel(width=data.width >= data.attrs["inputs"])
    spread = float((wide["rank"].max("width") - wide["rank"].min("width")).max())
    first = float(wide["rank"].sel(step=1).max())
    return settled(
        [
            Compared("rank(W₃ − I), largest at any step and width", float(data["rank"].max()), 1, n_x),
            Compared("rank at the end, h ≥ N_x, least", float(wide["rank"].isel(step=-1).min()), n_x / 2, n_x),
            Compared("rank after one step: at most the classes", first, 1, data.attrs["classes"]),
            within("ranks of all h ≥ N_x, largest difference at a step", spread, 0.0, 0.0),
            within("W₃ of all h ≥ N_x, largest difference", float(wide.apart.max()), 0.0, 1e-9),
            within("W₃ − I outside the N_x block, largest entry", float(data.outside.max()), 0.0, 0.0),
            Compared("accuracy on held-out digits, least", float(wide.accuracy.min()), 0.3, 1.0),
        ]
    )  # fmt: skip


def plot(data: xarray.Dataset) -> Any:
    """Rank against step, and at the end against width."""
    figure, axes = _style.panels(1, 2, height=2.5)
    n_x, styles = data.attrs["inputs"], ("-", "-", "--", ":", "-.")
    left, right = axes[0]
    for i, h in enumerate(data.width.values):
        how = {"ls": styles[i % 5], "lw": 2.4 - 0.4 * i, "label": f"h = {h}"}
        _style.line(left, data.step, data["rank"].sel(width=h), i, **how)
    end = data["rank"].isel(step=-1)
    right.plot(data.width, end, "o", color=_style.COLOURS[0], label="measured")
    right.plot(data.width, data.width, ":", color="0.4", lw=0.9, label="h")
    for ax in (left, right):
        ax.axhline(n_x, color="black", lw=0.9, label="N$_x$")
    _style.ticks(right, data.width)
    right.set(xlabel="width h", ylabel="rank(W$_3$ − I)", title="Partial identity, end of training", ylim=(0, 2 * n_x))
    left.set(
        xlabel="step of SGD", ylabel="rank(W$_3$ − I)", title="Partial identity, while training", ylim=(0, 1.1 * n_x)
    )
    left.legend(loc="lower right")
    right.legend(loc="upper left")
    return figure
