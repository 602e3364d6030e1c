"""Gaussian weights stretch like √L whatever q*; orthogonal hard-tanh networks stay near 1 to the depth that q* sets.

Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735, Fig. 3.

The largest singular value at criticality against depth and against q*. Lines: the top of the law, exact. Marks:
networks. Below a soft edge the largest of N values lies by O(N^(−2/3)), so the mean of ln s_max over draws at N, 2N and
4N is extrapolated by a + b N^(−2/3) + c/N; bars are two standard errors. Where the law's top is a point mass every
network has it exactly. ReLU with orthogonal weights at L = 2, a hard edge with other powers of N, is left out. Measured
only where L/N ≤ 1/50 for the widest. Full: 2 minutes on 2 cores.
"""

import functools
from typing import Any

import numpy as np
import xarray

from isometry import theory
from paper_figs import _draws, _style
from paper_figs._check import Compared, settled, t_bound, within

LAWS = ("gaussian", "orthogonal")
NETS = {"hard_tanh, q* = 1/64": ("hard_tanh", 1 / 64), "hard_tanh, q* = 1/4": ("hard_tanh", 0.25),
        "hard_tanh, q* = 1": ("hard_tanh", 1.0), "relu": ("relu", 1.0)}  # fmt: skip
FIXED = 64  # the depth of the scan over q*
PRESETS = {
    "full": {"depths": (1, 4, 8), "widths": (100, 200, 400), "seeds": 40, "points": 31},
    "smoke": {"depths": (1, 4), "widths": (50, 100, 200), "seeds": 20, "points": 6},
}


def compute(preset: str, key: Any) -> xarray.Dataset:
    """Over (weights, net, depth): the laws' s_max, and ln s_max of networks (seed, width)."""
    size, rng = PRESETS[preset], _draws.generator(key)
    q = np.geomspace(1 / 64, 4, size["points"])
    depths = sorted({64, 256, *size["depths"], *np.geomspace(1, 1024, size["points"]).round().astype(int).tolist()})
    law = [[[_top(*net, d, w) for d in depths] for net in NETS.values()] for w in LAWS]
    scan = [[_top("hard_tanh", v, FIXED, w) for v in q] for w in LAWS]
    measured = np.stack([[_measured(rng, w, n, size) for n in size["widths"]] for w in LAWS])
    names = ("weights", "net", "depth")
    return xarray.Dataset(
        {
            "law": (names, np.array(law)),
            "law_scan": (("weights", "q"), np.array(scan)),
            "log_s_max": (("weights", "width", "net", "measured_depth", "seed"), measured),
        },
        {"weights": list(LAWS), "net": list(NETS), "depth": depths, "q": q,
         "width": list(size["widths"]), "measured_depth": list(size["depths"])},
    )  # fmt: skip


@functools.cache
def _law(activation: str, q: float, depth: int, weights: str) -> theory.Law:
    return theory.jacobian_law(activation, depth, q=q, weights=weights)


def _top(activation: str, q: float, depth: int, weights: str) -> float:
    return _law(activation, q, depth, weights).s_max


def _measured(rng: np.random.Generator, law: str, width: int, size: dict) -> np.ndarray:
    """(net, depth, seed)."""
    nets = [_draws.Critical(rng, a, q, size["seeds"], width) for a, q in NETS.values()]
    found = []
    for depth in range(1, max(size["depths"]) + 1):
        weights = _draws.square(rng, law, size["seeds"], width)
        for net in nets:
            net.step(weights)
        if depth in size["depths"]:
            found.append([np.log(np.linalg.norm(net.jacobian, 2, (1, 2))) for net in nets])
    return np.swapaxes(found, 0, 1)


def _extrapolated(data: xarray.Dataset) -> tuple[xarray.DataArray, xarray.DataArray]:
    """ln s_max at infinite width, and its standard error."""
    n = data.width.values.astype(float)
    share = xarray.DataArray(np.linalg.inv(np.stack([n**0, n ** (-2 / 3), 1 / n], 1))[0], {"width": data.width})
    mean, error = data.log_s_max.mean("seed"), data.log_s_max.std("seed", ddof=1) / np.sqrt(data.sizes["seed"])
    return (share * mean).sum("width"), np.sqrt(((share * error) ** 2).sum("width"))


def _topped(data: xarray.Dataset) -> xarray.DataArray:
    """Whether the top of the law that is measured is a point mass."""
    laws = [[[_law(*net, d, w) for d in data.measured_depth.values.tolist()] for net in NETS.values()] for w in LAWS]
    dims = ("weights", "net", "measured_depth")
    return xarray.DataArray([[[bool(a.atoms and a.atoms[-1].lam > 0) for a in r] for r in p] for p in laws], dims=dims)


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """The closed forms; the networks; growth like √L against none."""
    atom, (found, error) = _topped(data), _extrapolated(data)
    law = np.log(data.law.sel(depth=data.measured_depth))
    apart = (np.abs(found - law) / error).where(~atom)
    exact = np.abs(data.log_s_max - law).where(atom)
    relu = data.law.sel(net="relu", depth=64) ** 2
    growth = np.log(data.law.sel(depth=1024) / data.law.sel(depth=256)) / np.log(4)
    gaussian = growth.sel(weights="gaussian")
    deep = float(data.law.sel(weights="orthogonal", net="hard_tanh, q* = 1/64", depth=1024))
    bound = t_bound(int((~atom).sum()), data.sizes["seed"])
    return settled(
        [
            within("λ_max, ReLU, Gaussian, L = 64", float(relu.sel(weights="gaussian")), 347.947, 5e-4),
            within("λ_max, ReLU, orthogonal, L = 64", float(relu.sel(weights="orthogonal")), 172.609, 5e-4),
            Compared("networks from the law's soft edge, standard errors", float(apart.max()), high=bound),
            within("networks at the law's top atom, largest |ln s_max/law|", float(exact.max()), 0.0, 1e-12),
            Compared("least d ln s_max/d ln L, Gaussian, L = 256 to 1024", float(gaussian.min()), 0.49, 0.51),
            Compared("largest of the same", float(gaussian.max()), 0.49, 0.51),
            within("s_max, orthogonal hard-tanh, q* = 1/64, L = 1024", deep, 1.0, 1e-9),
        ]
    )  # fmt: skip


def plot(data: xarray.Dataset) -> Any:
    """Against depth for both laws of the weights; against q* at one depth."""
    figure, axes = _style.panels(1, 3, height=2.7, width=2.4, sharey=True)
    found, error = _extrapolated(data)
    for ax, weights in zip(axes[0], LAWS, strict=False):
        for i, net in enumerate(NETS):
            part = data.sel(weights=weights, net=net)
            _style.line(ax, data.depth, part.law, i, ls=("-", "-", "-", "--")[i], label=net)
            where = {"weights": LAWS.index(weights), "net": i}
            mean, bar = np.exp(found.isel(where)), 2 * error.isel(where)
            _style.dots(ax, data.measured_depth, mean, mean * bar, i)
        ax.set(title=f"{weights.capitalize()} weights", xscale="log", yscale="log", xlabel="depth L")
    for i, weights in enumerate(LAWS):
        _style.line(axes[0, 2], data.q, data.law_scan.sel(weights=weights), i + 4, label=weights.capitalize())
    axes[0, 2].set(title=f"hard_tanh, L = {FIXED}", xscale="log", xlabel="q*")
    axes[0, 2].legend(loc="upper left")
    axes[0, 0].set_ylabel("largest singular value s$_{max}$")
    _style.legend(figure, axes[0, 0], ncols=4)
    return figure
