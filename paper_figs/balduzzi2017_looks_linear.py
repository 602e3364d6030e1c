"""A looks-linear ReLU network is linear at the start and an isometry, though its hidden weights are far from one.

Balduzzi et al. (2017), arXiv:1702.08591: hidden weights [[B, −B], [−B, B]] with B orthogonal.

Left: singular values of a hidden weight and of the Jacobian, looks-linear against plain orthogonal ReLU weights: half
of the former's weight has s = 2 and half 0, its Jacobian only s = 1. Right, against depth: the largest |s − 1| of the
Jacobian, and how far f(x + y) is from f(x) + f(y) (relative). Rounding of depth L is √(L N) eps. All in float64.
Full: 1 minute on 2 cores.
"""

from typing import Any

import jax
import numpy as np
import xarray

from isometry import networks
from paper_figs import _draws, _style
from paper_figs._check import Compared, settled, within

SCHEMES = ("looks_linear", "orthogonal")
PRESETS = {
    "full": {"width": 128, "depths": (3, 10, 30, 100, 300)},
    "smoke": {"width": 32, "depths": (3, 30)},
}
EPS = float(np.finfo(np.float64).eps)


def compute(preset: str, key: Any) -> xarray.Dataset:
    """Over (scheme, depth): s of a hidden weight and of the Jacobian, and non-linearity."""
    size, rng = PRESETS[preset], _draws.generator(key)
    depths, width = size["depths"], size["width"]
    xs = rng.standard_normal((2, width // 2))
    drawn = {scheme: _weights(scheme, width, max(depths), key) for scheme in SCHEMES}
    found = [[_measured([*ws[: d - 1], ws[-1]], *xs) for d in depths] for ws in drawn.values()]
    jacobian, bent = ([[cell[i] for cell in row] for row in found] for i in range(2))
    weight = [np.linalg.svd(ws[1], compute_uv=False) for ws in drawn.values()]
    return xarray.Dataset(
        {
            "weight": (("scheme", "unit"), np.array(weight)),
            "jacobian": (("scheme", "depth", "index"), np.array(jacobian)),
            "bent": (("scheme", "depth"), np.array(bent)),
        },
        {"scheme": list(SCHEMES), "depth": list(depths)},
    )


def _weights(scheme: str, width: int, depth: int, key: Any) -> list[np.ndarray]:
    """(in, out) each; inputs and outputs are half as many as units, as many as B has."""
    sizes = [width // 2, *[width] * (depth - 1), width // 2]
    with jax.enable_x64(True):
        net = networks.mlp(sizes, "relu", scheme, bias=False, dtype=np.float64)
        keys = jax.random.split(key, depth)  # layer by layer: little to compile
        return [
            np.asarray(net.scheme.initializer(layer)(k, (layer.fan_in, layer.fan_out), np.float64))
            for layer, k in zip(net.plan, keys, strict=True)
        ]


def _measured(ws: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    fx, jacobian = _through(ws, x)
    fy, both = _through(ws, y)[0], _through(ws, x + y)[0]
    return np.linalg.svd(jacobian, compute_uv=False), float(np.linalg.norm(both - fx - fy) / np.linalg.norm(both))


def _through(ws: list[np.ndarray], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(f(x), ∂f/∂x) with weights (in, out)."""
    z, jacobian = x @ ws[0], ws[0].T
    for w in ws[1:]:
        z, jacobian = np.maximum(z, 0) @ w, w.T @ ((z > 0)[:, None] * jacobian)
    return z, jacobian


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Linear and isometric to rounding, weights of 2 and 0; the plain network neither."""
    ll, plain = data.sel(scheme="looks_linear"), data.sel(scheme="orthogonal")
    rounding = 16 * EPS * float(data.depth.max()) ** 0.5 * data.sizes["unit"] ** 0.5
    half = data.sizes["unit"] // 2
    top, rest = ll.weight.isel(unit=slice(half)), ll.weight.isel(unit=slice(half, None))
    return settled(
        [
            within("looks-linear: largest |s − 1| of the Jacobian", float(_deviation(ll).max()), 0.0, rounding),
            within("looks-linear: |f(x + y) − f(x) − f(y)|/|f(x + y)|", float(ll.bent.max()), 0.0, rounding),
            within("looks-linear: weight, upper half, largest |s − 2|", float(np.abs(top - 2).max()), 0, 1e-13),
            within("looks-linear: weight, lower half, largest s", float(rest.max()), 0.0, 1e-13),
            Compared("orthogonal: least of the largest |s − 1|", float(_deviation(plain).min()), 0.5),
            Compared("orthogonal: least non-linearity", float(plain.bent.min()), 0.01),
        ]
    )


def _deviation(data: xarray.Dataset) -> xarray.DataArray:
    return np.abs(data.jacobian - 1).max("index")


def plot(data: xarray.Dataset) -> Any:
    """Singular values by rank; deviations against depth."""
    figure, axes = _style.panels(1, 2, height=2.6)
    left, right = axes[0]
    depth = 30
    for i, scheme in enumerate(SCHEMES):
        part, colour = data.sel(scheme=scheme), _style.COLOURS[i]
        name = scheme.replace("_", "-")
        for j, (what, said) in enumerate((("weight", "hidden weight"), ("jacobian", "Jacobian"))):
            s = (part[what] if j == 0 else part[what].sel(depth=depth)).values
            rank = (np.arange(len(s)) + 0.5) / len(s)
            left.plot(rank, s, color=colour, marker=_style.MARKS[i + 2 * j], ls=":" if j == 0 else "-", lw=0.6,
                      mfc="white" if j == 0 else colour, ms=2.5, label=f"{name}, {said}")  # fmt: skip
        right.plot(data.depth, _deviation(part), color=colour, marker="o", label=f"{name}: largest |s − 1|")
        right.plot(
            data.depth, part.bent, color=colour, marker="s", mfc="white", ls="--", label=f"{name}: non-linearity"
        )
    right.plot(data.depth, EPS * np.sqrt(data.depth * data.sizes["unit"]), color="black", lw=0.8, label="√(L N) eps")
    _style.ticks(right, data.depth)
    left.set(xlabel="rank / N", ylabel="singular value s", title=f"L = {depth}", ylim=(-0.1, None))
    right.set(xlabel="depth L", ylabel="deviation", yscale="log", title="Against depth")
    for ax in (left, right):
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.1), ncols=1)
    return figure
