"""At fixed σ₀² = L(μ₂/μ₁² − 1) only the class of the activation matters in the end: smooth at 0, or linear near 0.

Pennington, Schoenholz, Ganguli (2018), arXiv:1802.09979, Figs. 2 and 3.

Critical networks with orthogonal weights, q*(L) solved so that σ₀² = 1/4. Left and middle: densities of s at one depth,
lines the laws of each activation and of the class's limit (black), marks networks; a triangle is a point mass at its
height in the histogram; a few low marks beside the smooth class are the one direction of each network along its own
signal, which belongs to no law. Right: Wasserstein distance (of s) of each law to its limit, against depth: it falls
as 1/√L in the smooth class and as 1/L in the Bernoulli class. Full: 1 minute on 2 cores.
"""

import functools
from typing import Any

import numpy as np
import xarray

from isometry import compare, theory
from paper_figs import _draws, _style
from paper_figs._check import Compared, settled, within

CLASS = {"tanh": "smooth", "erf": "smooth", "arctan": "smooth", "hard_tanh": "bernoulli", "shifted_relu": "bernoulli"}
LIMIT = {"smooth": theory.smooth_class, "bernoulli": theory.bernoulli_class}
SPREAD = 0.25
PRESETS = {
    "full": {"depth": 64, "depths": (16, 32, 64, 128, 256, 512, 1024), "width": 256, "seeds": 10},
    "smoke": {"depth": 16, "depths": (256, 1024), "width": 64, "seeds": 8},
}
RANKS = (np.arange(64) + 0.5) / 64
EDGES = np.linspace(0, 1.75, 57)


def compute(preset: str, key: Any) -> xarray.Dataset:
    """Quantiles of s (activation, depth) and of the limits (class); q*; ln s of networks at one depth."""
    size, rng = PRESETS[preset], _draws.generator(key)
    depths = size["depths"]
    q = [[_q(a, d) for d in depths] for a in CLASS]
    law = [[_law(a, d).quantile(RANKS, "s") for d in depths] for a in CLASS]
    measured = [_measured(rng, a, size) for a in CLASS]
    return xarray.Dataset(
        {
            "q": (("activation", "depth"), np.array(q)),
            "law": (("activation", "depth", "rank"), np.array(law)),
            "law_limit": (("cls", "rank"), np.array([make(SPREAD).quantile(RANKS, "s") for make in LIMIT.values()])),
            "log_s": (("activation", "seed", "index"), np.array(measured)),
        },
        {"activation": list(CLASS), "depth": list(depths), "cls": list(LIMIT), "rank": RANKS},
        {"depth": size["depth"]},
    )


@functools.cache
def _q(activation: str, depth: int) -> float:
    """q* with depth (μ₂/μ₁² − 1) = σ₀²."""
    from scipy import optimize

    off = lambda log_q: depth * theory.variance_coefficient(activation, np.exp(log_q)) / SPREAD - 1  # noqa: E731
    root: Any = optimize.brentq(off, np.log(1e-4), np.log(2.0), xtol=1e-10)
    return float(np.exp(root))


@functools.cache
def _law(activation: str, depth: int) -> theory.Law:
    return theory.jacobian_law(activation, depth, q=_q(activation, depth))


def _measured(rng: np.random.Generator, activation: str, size: dict) -> np.ndarray:
    net = _draws.Critical(rng, activation, _q(activation, size["depth"]), size["seeds"], size["width"])
    for _ in range(size["depth"]):
        net.step(_draws.square(rng, "orthogonal", size["seeds"], size["width"]))
    return _draws.log_values(net.jacobian)


def _distance(data: xarray.Dataset, cls: str) -> xarray.DataArray:
    """(activation, depth) Wasserstein distance of s to a class's limit."""
    return np.abs(data.law - data.law_limit.sel(cls=cls)).mean("rank")


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Rates, collapse within a class and not across, the limits' edges, the networks."""
    smooth, bernoulli = LIMIT["smooth"](SPREAD), LIMIT["bernoulli"](SPREAD)
    rows = [
        within("λ₋ of the smooth class", smooth.support[0][0], 0.32131892, 1e-7),
        within("λ₊ of the smooth class", smooth.support[0][1], 2.42376260, 1e-7),
        within("mass of the Bernoulli class at e^{σ₀²}", bernoulli.atoms[-1].mass, 1 - SPREAD, 1e-12),
    ]
    last = data.depth.values[-1]
    for name, cls in CLASS.items():
        d = _distance(data.sel(activation=name), cls)
        rate = float(np.log(d.sel(depth=last) / d.sel(depth=last // 4)) / np.log(4))
        rows.append(within(f"{name}: rate of the distance to its limit", rate, {"smooth": -0.5}.get(cls, -1.0), 0.05))
        other = _distance(data.sel(activation=name), {"smooth": "bernoulli"}.get(cls, "smooth")).sel(depth=last)
        rows.append(Compared(f"{name}: distance to the other class over that to its own", float(other / d[-1]), 3.0))
        log_s = data.log_s.sel(activation=name).values
        found = compare(_draws.spectrum(log_s, data.attrs["depth"]), _law(name, data.attrs["depth"]))
        worst = max(found.band[gap].excess(value) for gap, value in found.gaps.items())
        rows.append(Compared(f"{name}: networks, largest gap over its band", worst, high=1.0))
    return settled(rows)


def plot(data: xarray.Dataset) -> Any:
    """Densities of each class at one depth; distances to the limits."""
    figure, axes = _style.panels(1, 3, height=2.6, width=2.4)
    fine, width, depth = np.linspace(0.002, 1.75, 500), np.diff(EDGES)[0], data.attrs["depth"]
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    for ax, cls in zip(axes[0], LIMIT, strict=False):
        for i, name in enumerate(CLASS):
            if CLASS[name] != cls:
                continue
            s = np.exp(data.log_s.sel(activation=name).values.ravel())
            count = np.histogram(s, EDGES)[0]
            some = count > 0
            height, bar = count[some] / s.size / width, np.sqrt(count[some]) / s.size / width
            _style.dots(ax, middle[some], height, bar, i, ms=2.2, lw=0.5, capsize=0)
            _density(ax, _law(name, depth), fine, width, i, label=name)
        _density(ax, LIMIT[cls](SPREAD), fine, width, 6, lw=0.9, ls="--", label="limit, L → ∞")
        ax.set(title=f"{cls.capitalize()} class, L = {depth}", xlabel="singular value s", yscale="log", ylim=(0.02, 60))
    ax = axes[0, 2]
    for i, (name, cls) in enumerate(CLASS.items()):
        style = {"marker": _style.MARKS[i], "label": name}
        _style.line(ax, data.depth, _distance(data.sel(activation=name), cls), i, **style)
    for cls, rate, at in (("smooth", -0.5, "1/√L"), ("bernoulli", -1.0, "1/L")):
        of = [name for name, own in CLASS.items() if own == cls]
        start = float(_distance(data.sel(activation=of), cls).isel(depth=0).min()) / 2.5
        guide = start * (data.depth / data.depth[0]) ** rate
        ax.plot(data.depth, guide, ":", color="black", lw=0.8)
        ax.annotate(
            at, (float(data.depth[-1]), float(guide[-1])), xytext=(0, -8), textcoords="offset points", ha="right"
        )
    ax.set(
        title="Distance to the limit", xlabel="depth L", ylabel="Wasserstein distance of s", xscale="log", yscale="log"
    )
    ax.margins(y=0.15)
    _style.ticks(ax, data.depth)
    axes[0, 0].set_ylabel("density of s")
    for panel in axes[0, :2]:
        panel.legend(loc="upper left")
    return figure


def _density(ax: Any, law: theory.Law, x: np.ndarray, width: float, i: int, **style: Any) -> None:
    y = np.asarray(law.density(x, "s"))
    _style.line(ax, x, np.where(y > 0, y, np.nan), i, **style)
    for atom in law.atoms:
        if atom.lam > 0:
            ax.plot(atom.lam**0.5, atom.mass / width, "v", color=_style.COLOURS[i], ms=6, mfc="none", zorder=4)
