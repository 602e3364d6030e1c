"""At finite width ln |Jv|² of Gaussian ReLU networks has mean −5L/2N and variance 5L/N, though E |Jv|² is 1.

Hanin and Nica (2020), arXiv:1812.05994, for Gaussian weights; for orthogonal ones the leading order is 3L/N.

Networks with critical weights, v a fixed unit vector: mean and variance of ln |Jv|² against L/N, with two standard
errors; lines are the leading order in 1/N. It is known exactly too: each layer multiplies |Jv|² by 2/N χ² with K
degrees of freedom (Gaussian) or by twice a Beta(K/2, (N − K)/2) (orthogonal), K ~ Binomial(N, ½), as flipping the signs
of a row of W changes its mask and no square. The networks are held against that at every width, and that against 5 and
3. The spread is what makes single deep networks miss the law of infinite width. Full: 2 minutes on 2 cores.
"""

from typing import Any

import numpy as np
import xarray

from isometry import theory
from paper_figs import _draws, _style
from paper_figs._check import Compared, settled, t_bound, within

LAWS = ("gaussian", "orthogonal")
PRESETS = {
    "full": {"widths": (24, 48, 96), "ratios": (0.25, 0.5, 0.75, 1.0), "seeds": 1000},
    "smoke": {"widths": (24, 48), "ratios": (0.25, 0.5), "seeds": 400},
}


def compute(preset: str, key: Any) -> xarray.Dataset:
    """ln |Jv|² over (weights, width, L/N, seed), and the leading order of its mean and variance."""
    size, rng = PRESETS[preset], _draws.generator(key)
    measured = np.array([[_measured(rng, w, n, size) for n in size["widths"]] for w in LAWS])
    law = [theory.jacobian_law("relu", 64, q=1.0, weights=w).finite_width(64) for w in LAWS]
    ratio = np.array(size["ratios"])
    return xarray.Dataset(
        {
            "log_norm": (("weights", "width", "ratio", "seed"), measured),
            "law": (("weights", "ratio", "of"), np.array(law)[:, None] * ratio[:, None]),
        },
        {"weights": list(LAWS), "width": list(size["widths"]), "ratio": ratio, "of": ["mean", "variance"]},
    )


def _measured(rng: np.random.Generator, law: str, width: int, size: dict) -> np.ndarray:
    """(ratio, seed), of W D pairs from a Gaussian z on."""
    depths = [round(r * width) for r in size["ratios"]]
    z, v = rng.standard_normal((2, size["seeds"], width, 1))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    found = []
    for depth in range(1, max(depths) + 1):
        w = np.sqrt(2) * _draws.square(rng, law, size["seeds"], width)
        z, v = w @ np.maximum(z, 0), w @ ((z > 0) * v)
        if depth in depths:
            found.append(np.log((v**2).sum((1, 2))))
    return np.array(found)


def _exact(width: int, weights: str) -> tuple[float, float]:
    """Mean and variance that one layer adds to ln |Jv|², given that it is not dead."""
    from scipy import special, stats

    k = np.arange(1, width + 1)
    share = stats.binom.pmf(k, width, 0.5)
    share /= share.sum()
    mean, variance = special.digamma(k / 2) + np.log(4 / width), special.polygamma(1, k / 2)
    if weights == "orthogonal":
        mean = mean - special.digamma(width / 2) - np.log(2 / width)
        variance = variance - special.polygamma(1, width / 2)
    return float(share @ mean), float(share @ (variance + mean**2) - (share @ mean) ** 2)


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """The networks against the exact moments, and those against the leading order."""
    rows, moments = [], _moments(data)
    bound = t_bound(2 * moments[0][0].size, data.sizes["seed"])
    for weights, rate in zip(LAWS, (5.0, 3.0), strict=True):
        exact = xarray.DataArray([_exact(int(n), weights) for n in data.width], dims=("width", "of"))
        wanted = exact * np.round(data.ratio * data.width)
        for i, (name, (found, error)) in enumerate(zip(("mean", "variance"), moments, strict=True)):
            apart = np.abs(found.sel(weights=weights) - wanted.isel(of=i)) / error.sel(weights=weights)
            rows.append(
                Compared(f"{name}, {weights}: off the exact one, standard errors", float(apart.max()), high=bound)
            )
        n = 4096
        mean, variance = _exact(n, weights)
        rows.append(within(f"{weights}: N × variance of a layer, N = {n}", n * variance, rate, 100 / n))
        rows.append(within(f"{weights}: N × mean of a layer, N = {n}", n * mean, -rate / 2, 100 / n))
        slope = float((data.law.sel(weights=weights, of="variance") / data.ratio).mean())
        rows.append(within(f"{weights}: variance × N/L by Law.finite_width", slope, rate, 1e-9))
    return settled(rows)


def _moments(data: xarray.Dataset) -> Any:
    """((mean, its error), (variance, its error)) over seeds, the latter by the fourth moment."""
    x, seeds = data.log_norm, data.sizes["seed"]
    mean, variance = x.mean("seed"), x.var("seed", ddof=1)
    fourth = ((x - mean) ** 4).mean("seed")
    return (mean, np.sqrt(variance / seeds)), (variance, np.sqrt((fourth - variance**2) / seeds))


def plot(data: xarray.Dataset) -> Any:
    """Mean and variance against L/N."""
    figure, axes = _style.panels(1, 2, height=2.6, sharex=True)
    for ax, name, (found, error) in zip(axes[0], ("mean", "variance"), _moments(data), strict=True):
        for j, weights in enumerate(LAWS):
            for i, n in enumerate(data.width.values):
                part = {"weights": weights, "width": n}
                how = {"mfc": "white"} if j else {}
                shift = 1 + 0.03 * (i - 1)
                label = f"{weights.capitalize()}, N = {n}"
                _style.dots(ax, data.ratio * shift, found.sel(part), 2 * error.sel(part), i, label=label, **how)
            line = data.law.sel(weights=weights, of=name)
            label = f"{weights.capitalize()}, leading order"
            ax.plot(data.ratio, line, color="black", ls="--" if j else "-", zorder=3, label=label)
        ax.set(xlabel="depth over width L/N", ylabel=f"{name} of ln |Jv|²", title=f"ReLU networks: {name}")
    _style.legend(figure, axes[0, 0], ncols=4)
    return figure
