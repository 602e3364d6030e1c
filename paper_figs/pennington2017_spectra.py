"""At criticality the whole spectrum is known: Gaussian weights spread it with depth, orthogonal ones need not.

Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735, Fig. 2.

Densities of log₁₀ s at q* = 1/4, depths 2 to 128: lines are the laws, marks histograms of networks of finite width
(with √count bars). A triangle is a point mass off zero, at the height it has in the histogram. Zeros (half of ReLU's
values) and what float64 does not resolve of a deep Gaussian product are in neither. The numbers: every gap that
`isometry.compare` judges over its 95 % interval over draws plus its term for finite width; the worst must stay below 1.
Full (width 256, 10 draws): 2 minutes on 2 cores.
"""

from typing import Any

import numpy as np
import xarray

from isometry import compare, theory
from paper_figs import _draws, _style
from paper_figs._check import Compared, settled

CASES = ("linear gaussian", "relu orthogonal", "hard_tanh orthogonal", "tanh orthogonal")
Q = 0.25
PRESETS = {
    "full": {"depths": (2, 8, 32, 128), "width": 256, "seeds": 10},
    "smoke": {"depths": (2, 8), "width": 64, "seeds": 10},
}
EDGES = np.linspace(-3, 1.5, 91)
FINE = np.linspace(-3, 1.5, 601)


def compute(preset: str, key: Any) -> xarray.Dataset:
    """ln s of the networks, and the laws' densities of log₁₀ s and topmost atoms."""
    size, rng = PRESETS[preset], _draws.generator(key)
    measured = np.stack([_measured(rng, case, size) for case in CASES])
    laws = [[_law(case, depth) for depth in size["depths"]] for case in CASES]
    density = [[law.density(FINE * np.log(10), "log_s") * np.log(10) for law in row] for row in laws]
    atoms = [[law.atoms[-1] if law.atoms and law.atoms[-1].lam > 0 else (1.0, 0.0) for law in row] for row in laws]
    names = ("case", "depth")
    return xarray.Dataset(
        {
            "log_s": ((*names, "seed", "index"), measured),
            "law_density": ((*names, "log10_s"), np.array(density)),
            "law_atom": ((*names, "of_atom"), np.array(atoms)),
        },
        {"case": list(CASES), "depth": list(size["depths"]), "log10_s": FINE, "of_atom": ["lam", "mass"]},
    )


def _law(case: str, depth: int) -> theory.Law:
    activation, weights = case.split()
    return theory.jacobian_law(activation, depth, q=Q, weights=weights)


def _measured(rng: np.random.Generator, case: str, size: dict) -> np.ndarray:
    """(depth, seed, index)."""
    activation, weights = case.split()
    net, found = _draws.Critical(rng, activation, Q, size["seeds"], size["width"]), []
    for depth in range(1, max(size["depths"]) + 1):
        net.step(_draws.square(rng, weights, size["seeds"], size["width"]))
        if depth in size["depths"]:
            found.append(_draws.log_values(net.jacobian))
    return np.stack(found)


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Each spectrum is the law's, and that of orthogonal ReLU networks is not the Gaussian law's."""
    rows = []
    for case in CASES:
        for depth in data.depth.values.tolist():
            worst = _worst(data, case, _law(case, depth))
            rows.append(Compared(f"{case}, L = {depth}: largest gap over its band", worst, high=1.0))
    wrong = min(_worst(data, "relu orthogonal", _law("relu gaussian", d)) for d in data.depth.values.tolist())
    return settled([*rows, Compared("relu orthogonal against the Gaussian law: the same", wrong, 1.0)])


def _worst(data: xarray.Dataset, case: str, law: theory.Law) -> float:
    log_s = data.log_s.sel(case=case, depth=law.pairs).values
    found = compare(_draws.spectrum(log_s, law.pairs or 0), law)
    return max(found.band[name].excess(gap) for name, gap in found.gaps.items())


def plot(data: xarray.Dataset) -> Any:
    """A panel a case: densities of all depths."""
    figure, axes = _style.panels(2, 2, height=2.1, width=3.2, sharex=True, sharey=True)
    width = np.diff(EDGES)[0]
    for ax, case in zip(axes.ravel(), CASES, strict=True):
        for i, depth in enumerate(data.depth.values):
            part = data.sel(case=case, depth=depth)
            sp = _draws.spectrum(part.log_s.values, int(depth))
            kept = np.asarray(sp.log_values)[np.asarray(sp.resolved)] / np.log(10)
            count, unit = np.histogram(kept, EDGES)[0], part.log_s.size * width
            some = count > 0
            middle = (EDGES[1:] + EDGES[:-1]) / 2
            _style.dots(ax, middle[some], count[some] / unit, np.sqrt(count[some]) / unit, i, ms=2, lw=0.4, capsize=0)
            line = part.law_density.where(part.law_density > 0)
            _style.line(ax, FINE, line, i, label=f"L = {depth}")
            lam, mass = part.law_atom.values
            if mass:
                place = np.log10(lam) / 2
                ax.plot(place, mass / width, "v", color=_style.COLOURS[i], ms=6, mfc="none", zorder=4)
        ax.set(
            title=case.replace(" g", ", G").replace(" o", ", o") + " weights",
            yscale="log",
            ylim=(0.01, 30),
            xlim=(-3, 1.5),
        )
        ax.axvline(0, color="0.7", lw=0.6, zorder=0)
    for ax in axes[-1]:
        ax.set_xlabel("log$_{10}$ s")
    for ax in axes[:, 0]:
        ax.set_ylabel("density of log$_{10}$ s")
    _style.legend(figure, axes[0, 0], ncols=4)
    return figure
