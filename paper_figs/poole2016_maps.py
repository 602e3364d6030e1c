"""Lengths and correlations in wide networks follow one-dimensional maps, whose fixed points make order or chaos.

Poole et al. (2016), arXiv:1606.05340, Figs. 1 and 2: tanh, sigma_b = 0.3.

Left: length q of a layer against the next; middle: correlation of two inputs after each layer; right: the phase
diagram, chi_1 = 1 between order and chaos. Lines are theory, marks wide networks with Gaussian weights (mean over
draws, two standard errors). A finite network is off by O(1/N): the worst mark must lie within its t interval plus L/N.
Full (width 1000): 1 minute on 2 cores.
"""

from typing import Any

import numpy as np
import xarray

from isometry import theory
from paper_figs import _draws, _style
from paper_figs._check import Compared, settled, t_bound, within

SIGMA_W, SIGMA_B = (1.3, 2.5, 4.0), 0.3
Q0 = (0.5, 2.0, 6.0, 12.0)
C0 = (0.0, 0.6, 0.99)
PRESETS = {
    "full": {"width": 1000, "seeds": 10, "depth": 12, "grid": 41},
    "smoke": {"width": 200, "seeds": 10, "depth": 6, "grid": 13},
}


def compute(preset: str, key: Any) -> xarray.Dataset:
    """Length maps from each q, correlations by layer from each c, and the critical line."""
    size, rng = PRESETS[preset], _draws.generator(key)
    q, points = (
        15 * np.linspace(0, 1, size["grid"]) ** 2,
        [theory.q_fixed_point("tanh", s, SIGMA_B).value for s in SIGMA_W],
    )
    sigma_b = np.linspace(0.05, 1.5, size["grid"])
    at = list(zip(SIGMA_W, points, strict=True))
    measured = [_measured(rng, s, p, size) for s, p in at]
    return xarray.Dataset(
        {
            "law_q": (("sigma_w", "q"), [[theory.q_map("tanh", v, s, SIGMA_B) for v in q] for s in SIGMA_W]),
            "law_q0": (("sigma_w", "q0"), [[theory.q_map("tanh", v, s, SIGMA_B) for v in Q0] for s in SIGMA_W]),
            "law_c": (("sigma_w", "c0", "layer"), [[_path(c, p, s, size["depth"]) for c in C0] for s, p in at]),
            "law_critical": ("sigma_b", [_critical(v) for v in sigma_b]),
            "next_q": (("sigma_w", "q0", "seed"), np.array([m[0] for m in measured])),
            "c": (("sigma_w", "c0", "layer", "seed"), np.array([m[1] for m in measured])),
        },
        {"sigma_w": list(SIGMA_W), "q": q, "q0": list(Q0), "c0": list(C0), "layer": np.arange(size["depth"] + 1),
         "sigma_b": sigma_b},
        {"width": size["width"]},
    )  # fmt: skip


def _critical(sigma_b: float) -> float:
    return theory.critical_points("tanh", sigma_b)[0].sigma_w


def _path(c: float, q: float, sigma_w: float, depth: int) -> list[float]:
    found = [c]
    for _ in range(depth):
        found.append(theory.c_map("tanh", found[-1], q, sigma_w, SIGMA_B))
    return found


def _measured(rng: np.random.Generator, sigma_w: float, q: float, size: dict) -> tuple[np.ndarray, np.ndarray]:
    """(lengths after one layer (q0, seed), correlations (c0, layer, seed)), the latter of vectors that start at q."""
    n, seeds = size["width"], size["seeds"]
    z = [_pair(rng, v, 0.0, seeds, n)[:, :, :1] for v in Q0] + [_pair(rng, q, c, seeds, n) for c in C0]
    z = np.concatenate(z, -1)
    lengths, found = np.zeros(0), [_correlations(z[..., len(Q0) :])]
    for layer in range(size["depth"]):
        bias = SIGMA_B * rng.standard_normal((seeds, n, 1))
        z = sigma_w * _draws.square(rng, "gaussian", seeds, n) @ np.tanh(z) + bias
        lengths = (z[..., : len(Q0)] ** 2).mean(1).T if layer == 0 else lengths
        found.append(_correlations(z[..., len(Q0) :]))
    return lengths, np.stack(found, 1)


def _pair(rng: np.random.Generator, q: float, c: float, seeds: int, n: int) -> np.ndarray:
    """(seeds, n, 2): two vectors of exactly this length and correlation, otherwise random."""
    basis = np.linalg.qr(rng.standard_normal((seeds, n, 2)))[0] * np.sqrt(n * q)
    return basis @ np.array([[1.0, c], [0.0, np.sqrt(1 - c**2)]])


def _correlations(z: np.ndarray) -> np.ndarray:
    """(c0, seed)."""
    a, b = z[..., 0::2], z[..., 1::2]
    return ((a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))).T


def _means(values: xarray.DataArray) -> tuple[xarray.DataArray, xarray.DataArray]:
    return values.mean("seed"), values.std("seed", ddof=1) / np.sqrt(values.sizes["seed"])


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Networks on the maps; where correlations go; a critical point of known value."""
    rows, seeds = [], data.sizes["seed"]
    (q, q_error), (c, c_error) = _means(data.next_q), _means(data.c.isel(layer=slice(1, None)))
    for name, found, error, law, slack in (
        ("q of the next layer", q, q_error, data.law_q0, data.law_q0 / data.width),
        ("correlations", c, c_error, data.law_c, data.layer / data.width),
    ):
        apart = np.abs(found - law) / (t_bound(error.size, seeds) * error + slack)
        rows.append(Compared(f"{name}, largest gap over its interval", float(apart.max()), high=1.0))
    rows.append(within("critical sigma_w² at sigma_b = 0.3", _critical(SIGMA_B) ** 2, 1.9476546317, 1e-8))
    ordered, *chaotic = (theory.c_fixed_point("tanh", s, SIGMA_B).value for s in SIGMA_W)
    rows.append(within(f"c* at sigma_w = {SIGMA_W[0]} (ordered)", ordered, 1.0, 1e-12))
    rows.append(Compared("largest c* at the other sigma_w (chaotic)", max(chaotic), high=0.5))
    return settled(rows)


def plot(data: xarray.Dataset) -> Any:
    """Length map, correlations by layer, phase diagram."""
    figure, axes = _style.panels(1, 3, height=2.6, width=2.4)
    lengths, correlations, phases = axes[0]
    (q, q_error), (c, c_error) = _means(data.next_q), _means(data.c)
    for i, s in enumerate(SIGMA_W):
        name = f"sigma_w = {s:g}"
        _style.line(lengths, data.q, data.law_q.sel(sigma_w=s), i, label=name)
        _style.dots(lengths, data.q0, q.sel(sigma_w=s), 2 * q_error.sel(sigma_w=s), i)
        for c0 in C0:
            at = {"sigma_w": s, "c0": c0}
            _style.line(correlations, data.layer, data.law_c.sel(at), i)
            _style.dots(correlations, data.layer, c.sel(at), 2 * c_error.sel(at), i)
        phases.plot(s, SIGMA_B, _style.MARKS[i], color=_style.COLOURS[i], ms=5)
    lengths.plot(data.q, data.q, ":", color="0.4", lw=0.8, label="q = next q")
    phases.plot(data.law_critical, data.sigma_b, color="black", label="chi_1 = 1")
    for text, x, y in (("order", 1.3, 1.0), ("chaos", 3.3, 0.6)):
        phases.text(x, y, text, ha="center")
    lengths.set(xlabel="length q", ylabel="length q of the next layer", title="Length map")
    correlations.set(xlabel="layer", ylabel="correlation c", title="Correlations of two inputs")
    phases.set(xlabel="sigma_w", ylabel="sigma_b", title="Phases of tanh networks", xlim=(0.5, 4.3))
    handles = [line for ax in (lengths, phases) for line in ax.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside upper center", ncols=5)
    return figure
