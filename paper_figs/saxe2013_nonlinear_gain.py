"""Orthogonal tanh chains: errors vanish below g = 1 and spread above it; at g = 1 neither, and yet no isometry.

Saxe, McClelland, Ganguli (2013), arXiv:1312.6120, Fig. 7.

Singular values of the Jacobian of x → g W tanh(x), 99 times over, W orthogonal and drawn anew for each layer, against
the gain g and the variance of the input; float64. Below g = 1 every one decays, with ln s at most 99 ln g exactly,
since tanh' ≤ 1; above, the largest grow and the smallest do not follow. Lines: where mean field puts the mean of s²,
Π g² E tanh'(√q_l z)², q_l by the length map; finite nets of this depth scatter about it. The paper has width 1000 and
shows some nets; here 200, and marks with 5 % to 95 % of the values over all draws. At g = 1 the median is below 1, and
the more so the larger the input; a little above it the median is nearer to 1, but the values lie wider apart.
Full: 1 minute on 2 cores.
"""

from typing import Any

import numpy as np
import xarray

from isometry import theory
from paper_figs import _draws, _style
from paper_figs._check import Compared, settled, t_bound

LAYERS, SHARES = 99, (0.05, 0.5, 0.95)
PRESETS = {
    "full": {"width": 200, "gains": (0.9, 0.95, 1.0, 1.05, 1.1), "inputs": (0.2, 1.0, 4.0), "draws": 10},
    "smoke": {"width": 50, "gains": (0.9, 1.0, 1.1), "inputs": (0.2, 1.0), "draws": 10},
}


def compute(preset: str, key: Any) -> xarray.Dataset:
    """Over (gain, input, draw): quantiles of ln s, its least and largest, ln of the mean of s²; that by mean field."""
    size, rng = PRESETS[preset], _draws.generator(key)
    shape = len(size["gains"]), len(size["inputs"])
    log_s = np.empty((*shape, size["draws"], size["width"]))
    for draw in range(size["draws"]):
        weights = _draws.square(rng, "orthogonal", LAYERS, size["width"])
        direction = rng.standard_normal(size["width"])
        for i, j in np.ndindex(shape):
            log_s[i, j, draw] = _chain(weights, size["gains"][i], size["inputs"][j], direction)
    names = ("gain", "input", "draw")
    law = [[_mean_field(g, q) for q in size["inputs"]] for g in size["gains"]]
    return xarray.Dataset(
        {
            "log_s": ((*names, "share"), np.quantile(log_s, SHARES, -1).transpose(1, 2, 3, 0)),
            "largest": (names, log_s.max(-1)),
            "mean_square": (names, np.log(np.exp(2 * log_s).mean(-1))),
            "law": (("gain", "input"), np.array(law)),
        },
        {"gain": list(size["gains"]), "input": list(size["inputs"]), "share": list(SHARES)},
        {"width": size["width"]},
    )  # fmt: skip


def _chain(weights: np.ndarray, gain: float, q: float, direction: np.ndarray) -> np.ndarray:
    """ln s of the Jacobian, at an input of mean square q."""
    x = direction * np.sqrt(q / np.mean(direction**2))
    jacobian = np.eye(len(x))
    for w in weights:
        h = np.tanh(x)
        jacobian = gain * w @ ((1 - h**2)[:, None] * jacobian)
        x = gain * w @ h
    return _draws.log_values(jacobian)


def _mean_field(gain: float, q: float) -> float:
    """ln of the mean of s² in infinite width."""
    total = 0.0
    for _ in range(LAYERS):
        total += np.log(theory.chi("tanh", q, gain))
        q = theory.q_map("tanh", q, gain, 0.0)
    return total


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Decay below g = 1; at 1 the spectrum spans less than above and its median is nearer to 1 than below."""
    middle = data.log_s.sel(share=0.5)
    spread = data.log_s.sel(share=0.95) - data.log_s.sel(share=0.05)
    low, high = float(data.gain.min()), float(data.gain.max())
    bound = t_bound(data.sizes["input"], data.sizes["draw"])

    def apart(difference: xarray.DataArray) -> float:
        """The mean over its standard error, draw by draw, least over the inputs."""
        error = difference.std("draw", ddof=1) / np.sqrt(data.sizes["draw"])
        return float((difference.mean("draw") / error).min())

    field = float(np.abs(data.mean_square.mean("draw") - data.law).max())
    slack = 2 * LAYERS * np.finfo(np.float64).eps * 200
    return settled(
        [
            Compared(f"g = {low:g}: largest ln s less {LAYERS} ln g",
                     float(data.largest.sel(gain=low).max()) - LAYERS * np.log(low), high=slack),
            Compared("g = 1: largest ln s", float(data.largest.sel(gain=1).max()), high=slack),
            Compared(f"g = {high:g}: largest ln s, least over nets", float(data.largest.sel(gain=high).min()), low=0),
            Compared(f"median of ln s, g = 1 less g = {low:g}: standard errors",
                     apart(middle.sel(gain=1) - middle.sel(gain=low)), low=bound),
            Compared(f"ln s from 5 % to 95 %, g = {high:g} less g = 1: standard errors",
                     apart(spread.sel(gain=high) - spread.sel(gain=1)), low=bound),
            Compared("ln of the mean of s² from mean field, largest; finite width: L/N", field, 0,
                     LAYERS / data.attrs["width"]),
            Compared("median of s at g = 1, smallest input: not isometric",
                     float(np.exp(middle.sel(gain=1).isel(input=0).mean())), 0, 1),
        ]
    )  # fmt: skip


def plot(data: xarray.Dataset) -> Any:
    """A panel for each input variance: marks and ranges of s against the gain, mean field over them."""
    figure, (axes,) = _style.panels(1, data.sizes["input"], height=2.5, width=2.3, sharey=True)
    for ax, q in zip(axes, data.input.values, strict=True):
        part = data.sel(input=q)
        low, middle, high = (part.log_s.sel(share=p).mean("draw") / np.log(10) for p in SHARES)
        bars = np.stack([middle - low, high - middle])
        _style.dots(ax, data.gain, middle, bars, 0, label="median; 5 % to 95 %")
        top = part.largest / np.log(10)
        error = 2 * top.std("draw", ddof=1) / np.sqrt(data.sizes["draw"])
        _style.dots(ax, data.gain, top.mean("draw"), error, 1, label="largest")
        rms = part.mean_square / (2 * np.log(10))
        error = 2 * rms.std("draw", ddof=1) / np.sqrt(data.sizes["draw"])
        _style.dots(ax, data.gain, rms.mean("draw"), error, 2, label="root mean square")
        _style.line(ax, data.gain, part.law / (2 * np.log(10)), 2, label="root mean square, mean field")
        ax.axhline(0, color="0.6", lw=0.7, ls=":")
        ax.set(xlabel="gain g", title=f"mean square of the input {q:g}")
    axes[0].set_ylabel("log$_{10}$ s")
    _style.legend(figure, axes[0], ncols=4)
    return figure
