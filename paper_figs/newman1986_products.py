"""Products of Gaussian matrices have log singular values that spread as depth times Newman's exponents.

Newman (1986), Communications in Mathematical Physics 103, 121; not a figure of the paper: depths to 10,000 are ours.

One product of real N × N matrices of variance 1/N, read at several depths. Left: ln s_i / L against i: marks by
`linalg.product_log_singular_values`, crosses what an SVD of the multiplied-out product in float64 gives, line the
exponents ½[ψ((N − i + 1)/2) + ln 2 − ln N]. Right: the spread ln(s_1/s_N), where plain float64 stops at 1/eps. The
sum of all ln s is held against the factors' determinants, and the QR exponents against their exact mean and variance
ψ'((N − i + 1)/2)/4L. Full: 1 minute on 2 cores.
"""

from typing import Any

import jax
import numpy as np
import xarray

from isometry import linalg
from paper_figs import _draws, _style
from paper_figs._check import Compared, settled, within

PRESETS = {
    "full": {"size": 16, "depths": (10, 100, 1000, 10000)},
    "smoke": {"size": 8, "depths": (10, 1000)},
}
EPS = float(np.finfo(np.float64).eps)


def compute(preset: str, key: Any) -> xarray.Dataset:
    """Over (depth, index): ln s, that of the plain product, and the Lyapunov exponents; over depth: Σ ln |det W|."""
    size = PRESETS[preset]
    n, depths = size["size"], size["depths"]
    factors = _draws.square(_draws.generator(key), "gaussian", max(depths), n)
    determinants = np.cumsum(np.linalg.slogdet(factors)[1])
    padded = [
        np.r_[factors[:d], np.broadcast_to(np.eye(n), (len(factors) - d, n, n))] for d in depths
    ]  # one compilation
    with jax.enable_x64(True):
        graded = [np.asarray(linalg.product_log_singular_values(jax.numpy.asarray(p), every=1)) for p in padded]
        swept = [
            np.asarray(linalg.lyapunov_exponents(jax.numpy.asarray(p))) * len(factors) / d
            for p, d in zip(padded, depths, strict=True)
        ]
    names = ("depth", "index")
    return xarray.Dataset(
        {
            "log_s": (names, np.array(graded)),
            "swept": (names, np.array(swept)),
            "plain": (names, np.array([_multiplied(factors[:d]) for d in depths])),
            "determinant": ("depth", determinants[np.array(depths) - 1]),
            "law": ("index", _newman(n)[0]),
            "law_variance": ("index", _newman(n)[1]),
        },
        {"depth": list(depths), "index": np.arange(1, n + 1)},
    )


def _newman(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The exponents, and the variance of one layer's ln R_ii."""
    from scipy import special

    half = np.arange(n, 0, -1) / 2
    return (special.digamma(half) + np.log(2 / n)) / 2, special.polygamma(1, half) / 4


def _multiplied(factors: np.ndarray) -> np.ndarray:
    """ln s of the product, rescaled at every step so that it does not at least underflow."""
    product, scale = np.eye(factors.shape[1]), 0.0
    for factor in factors:
        product = factor @ product
        norm = np.linalg.norm(product)
        product, scale = product / norm, scale + np.log(norm)
    return _draws.log_values(product) + scale


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Determinants, exact means and variances, convergence, and what plain float64 loses."""
    from scipy import stats

    last = data.isel(depth=-1)
    depth, n = int(last.depth), data.sizes["index"]
    total = np.abs(data.log_s.sum("index") / data.determinant - 1)
    apart = np.abs(last.swept - data.law) / np.sqrt(data.law_variance / depth)
    settles = np.abs(data.log_s / data.depth - data.swept).max("index") * data.depth
    lost = float((last.plain - last.log_s).isel(index=-1))
    bound = float(stats.norm.ppf(1 - 0.025 / n))
    return settled(
        [
            within("Σ ln s over Σ ln |det W| − 1, largest", float(total.max()), 0.0, 1e-10),
            Compared(f"QR exponents, L = {depth}, from Newman's, standard errors", float(apart.max()), high=bound),
            Compared("ln s from L × the QR exponents, largest at any depth", float(settles.max()), high=4 * np.log(n)),
            Compared(f"plain float64 at L = {depth}: least ln s too large by", lost, 100.0),
        ]
    )


def plot(data: xarray.Dataset) -> Any:
    """ln s / L against the index; the spread against depth."""
    figure, axes = _style.panels(1, 2, height=2.6)
    left, right = axes[0]
    for i, depth in enumerate(data.depth.values):
        part, style = data.sel(depth=depth), {"ms": 3.5, "ls": "none", "color": _style.COLOURS[i]}
        left.plot(data.index, part.log_s / depth, marker=_style.MARKS[i], label=f"L = {depth}", **style)
        left.plot(data.index, part.plain / depth, marker="x", mew=0.8, **style)
    left.plot([], [], "x", color="0.4", label="multiplied out in float64")
    left.plot(data.index, data.law, color="black", zorder=3, label="Newman's exponents")
    left.set(
        xlabel="index i",
        ylabel="ln s$_i$ / L",
        title=f"Products of {data.sizes['index']} × {data.sizes['index']} matrices",
    )
    ends = lambda v: v.isel(index=0) - v.isel(index=-1)  # noqa: E731
    right.plot(data.depth, ends(data.log_s), "o", color=_style.COLOURS[0], label="graded product")
    right.plot(data.depth, ends(data.plain), "x", color=_style.COLOURS[1], label="multiplied out in float64")
    right.plot(data.depth, data.depth * float(ends(data.law)), color="black", zorder=3, label="Newman's exponents × L")
    right.axhline(-np.log(EPS), color="0.5", ls=":", lw=0.8, label="1/eps")
    right.set(xlabel="depth L", ylabel="ln (s$_1$ / s$_N$)", xscale="log", yscale="log", title="What float64 resolves")
    left.legend(loc="lower left")
    right.legend(loc="upper left")
    return figure
