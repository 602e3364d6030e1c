"""Deep linear nets with Gaussian weights train only to depths in proportion to their width, orthogonal ones to any.

Hu, Xiao, Pennington (2020), arXiv:2001.05992, Fig. 1, scaled down.

Full-batch gradient descent from f = W_L … W_1 x √(m/d_y), weights of unit scale, on whitened data (x the 16 unit
vectors) and a random linear target with d_y = 4; rate 0.2 d_y/L in the paper's scale. Maps: log₁₀ of the loss over that
of f = 0 after the steps, median over seeds; divergence counts as 1. L* is the depth at which it passes 0.1, seed by
seed, between depths on a log scale. Numbers: slope of ln L* on ln m, Gaussian, all seeds whose L* lies inside the grid
(others are censored, and counted); orthogonal: the largest loss at any width, depth and seed stays below 0.1, so L* is
beyond the deepest tried; before training it is 2 in the mean, signals being of unit scale. Widths from max(16, d_y)
on. Full: 3 minutes on 2 cores.
"""

import itertools
from typing import Any

import numpy as np
import xarray

from paper_figs import _draws, _style
from paper_figs._check import Compared, settled, within

INPUTS, OUTPUTS, RATE, PASSED = 16, 4, 0.2, 0.1
LAWS = ("gaussian", "orthogonal")
PRESETS = {
    "full": {"widths": (16, 24, 32, 48, 64), "depths": (8, 16, 32, 64, 128), "seeds": 5, "steps": 200},
    "smoke": {"widths": (16, 32), "depths": (8, 16, 32, 64), "seeds": 4, "steps": 150},
}


def compute(preset: str, key: Any) -> xarray.Dataset:
    """The loss before and after training, over (weights, width, depth, seed)."""
    size, rng = PRESETS[preset], _draws.generator(key)
    cells = [(law, m, depth) for law in LAWS for m in size["widths"] for depth in size["depths"]]
    loss = np.array([_loss(rng, *cell, size["seeds"], size["steps"]) for cell in cells])
    shape = (len(LAWS), len(size["widths"]), len(size["depths"]), size["seeds"])
    return xarray.Dataset(
        {
            "initial": (("weights", "width", "depth", "seed"), loss[:, 0].reshape(shape)),
            "loss": (("weights", "width", "depth", "seed"), loss[:, 1].reshape(shape)),
        },
        {"weights": list(LAWS), "width": list(size["widths"]), "depth": list(size["depths"])},
        {"steps": size["steps"]},
    )


def _loss(rng: np.random.Generator, law: str, m: int, depth: int, seeds: int, steps: int) -> np.ndarray:
    """(2, seed): before and after the steps, over the loss of f = 0; 1 where it has diverged."""
    ws = [_draws.square(rng, law, seeds, m) for _ in range(depth)]
    ws = [ws[0][:, :, :INPUTS], *ws[1:-1], ws[-1][:, :OUTPUTS]]
    target = rng.standard_normal((seeds, OUTPUTS, INPUTS))
    target *= np.sqrt(INPUTS / (target**2).sum((1, 2), keepdims=True))
    gain, rate, initial = np.sqrt(m / OUTPUTS), RATE * OUTPUTS / (m * depth), np.zeros(0)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(steps):
            hs = list(itertools.accumulate(ws, lambda h, w: w @ h))
            residual = gain * hs[-1] - target
            initial = (residual**2).sum((1, 2)) / INPUTS if not initial.size else initial
            delta = gain * residual
            for i in reversed(range(depth)):
                grad = delta @ hs[i - 1].mT if i else delta
                delta = ws[i].mT @ delta
                ws[i] -= rate * grad
        found = ((gain * list(itertools.accumulate(ws, lambda h, w: w @ h))[-1] - target) ** 2).sum((1, 2)) / INPUTS
    return np.stack([initial, np.where(np.isfinite(found), np.minimum(found, 1.0), 1.0)])


def _frontier(data: xarray.Dataset) -> np.ndarray:
    """(width, seed): L* of Gaussian weights; inf if all depths pass, 0 if none does."""
    log_depth, level = np.log(data.depth.values), np.log(PASSED)
    log_loss = np.log(np.maximum(data.loss.sel(weights="gaussian").transpose("width", "seed", "depth").values, 1e-300))
    found = np.zeros(log_loss.shape[:2])
    for at in np.ndindex(found.shape):
        curve = log_loss[at]
        if (curve < level).all():
            found[at] = np.inf
        elif curve[0] < level:
            i = int(np.argmax(curve >= level))
            share = (level - curve[i - 1]) / (curve[i] - curve[i - 1])
            found[at] = np.exp(log_depth[i - 1] + share * (log_depth[i] - log_depth[i - 1]))
    return found


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Gaussian: L* in proportion to width; orthogonal: everything trains."""
    from scipy import stats

    depth = _frontier(data)
    known = (depth > 0) & np.isfinite(depth)
    width = np.broadcast_to(data.width.values[:, None], depth.shape)[known]
    fit: Any = stats.linregress(np.log(width), np.log(depth[known])) if len(np.unique(width)) > 1 else None
    half = stats.t.ppf(0.975, len(width) - 2) * fit.stderr if fit else np.nan
    what = f"Gaussian: slope of ln L* on ln m (± {half:.2g} at 95 %; {int((~known).sum())} of {known.size} censored)"
    worst = float(data.loss.sel(weights="orthogonal").max())
    initial = data.initial.sel(weights="orthogonal").values.ravel()
    error = stats.t.ppf(0.9995, initial.size - 1) * initial.std(ddof=1) / np.sqrt(initial.size)
    return settled(
        [
            Compared(what, float(fit.slope) if fit else np.nan, 0.65, 1.35, "1 ± 0.35"),
            within(
                "orthogonal, before training: mean loss over that of f = 0", float(initial.mean()), 2.0, float(error)
            ),
            Compared(f"orthogonal: largest loss to L = {int(data.depth.max())}", worst, high=PASSED),
        ]
    )


def plot(data: xarray.Dataset) -> Any:
    """Two maps of the loss, the Gaussian one with L* of every width and a line of slope 1."""
    figure, axes = _style.panels(1, 2, height=2.6, width=2.6, sharey=True)
    x, y = np.arange(data.sizes["width"]), np.log2(data.depth.values)
    shown = None
    for ax, law in zip(axes[0], LAWS, strict=True):
        log_loss = np.log10(np.maximum(data.loss.sel(weights=law).median("seed").values, 1e-6))
        shown = ax.pcolormesh(x, y, log_loss.T, shading="nearest", cmap="cividis", vmin=-6, vmax=0)
        ax.set_xticks(x, [str(m) for m in data.width.values])
        ax.set_yticks(y, [str(d) for d in data.depth.values])
        ax.set(xlabel="width m", title=f"{law.capitalize()} weights")
    axes[0, 0].set_ylabel("depth L (layers)")
    depth = _frontier(data)
    known = np.where((depth > 0) & np.isfinite(depth), depth, np.nan)
    logs = np.log2(known)
    middle, error = np.nanmean(logs, 1), 2 * np.nanstd(logs, 1, ddof=1) / np.sqrt(logs.shape[1])
    _style.dots(axes[0, 0], x, middle, error, 1, label="L*, 2 standard errors", mec="white", ms=4)
    line = np.log2(data.width.values) + np.nanmean(middle - np.log2(data.width.values))
    axes[0, 0].plot(x, line, color="white", lw=1.4, label="L* ∝ m")
    figure.colorbar(shown, ax=axes, label="log$_{10}$ loss/loss of f = 0")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, facecolor="0.6", frameon=True)
    return figure
