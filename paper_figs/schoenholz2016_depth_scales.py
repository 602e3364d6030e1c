"""Signals in wide networks live for depth scales that theory knows, and networks train to a few of them.

Schoenholz et al. (2016), arXiv:1611.01232, Figs. 2 and 5: tanh, sigma_b² = 0.05.

Left: depth scales. Marks come from the linear response of networks at their fixed point (width 400, 40 draws, two
standard errors): two inputs a little off c*, or one a little too long, on the same weights; the rate is −ln of the mean
ratio of the deviations after 4 layers, over 4. A network of width N is off by O(1/N) a layer: rates must lie within
their t interval plus 5/N. Right: training accuracy on 8×8 digits after 300 steps of SGD (width 64, rate 0.003, batches
of 64; the paper: MNIST, width 300). The depth of half accuracy grows with xi_c. Its multiple depends on rate and steps;
the paper draws 6, where e⁻⁶ of a signal is left, as the end of what trains: it must not lie beyond. Depths beyond the
deepest tried are censored, and left out of slope and factor. Full: 6 minutes on 2 cores.
"""

import itertools
from typing import Any

import numpy as np
import xarray

from isometry import data as datasets
from isometry import theory
from paper_figs import _draws, _style
from paper_figs._check import Compared, settled, t_bound

SQUARE_B, STEPS, RATE, BATCH, LAYERS, OFF = 0.05, 300, 0.003, 64, 4, 1e-4
SIGMA_B = SQUARE_B**0.5
RESPONSE = (1.0, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0)
PRESETS = {
    "full": {"width": 400, "draws": 40, "seeds": 3, "depths": (6, 10, 16, 25, 40, 64, 96),
             "square_w": (1.0, 1.15, 1.3, 1.4, 1.5, 1.7, 2.0, 2.5, 3.0, 3.5, 4.0), "grid": 61},
    "smoke": {"width": 200, "draws": 40, "seeds": 2, "depths": (6, 12, 24), "square_w": (0.7, 1.0, 1.2), "grid": 13},
}  # fmt: skip


def compute(preset: str, key: Any, data: Any = None) -> xarray.Dataset:
    """Theory's and measured depth scales over sigma_w², and accuracies over (sigma_w², depth, seed)."""
    size, rng = PRESETS[preset], _draws.generator(key)
    given = datasets.digits() if data is None else data
    fine = np.linspace(min(size["square_w"]), 4.0, size["grid"])
    accuracy = [_train(rng, given, np.repeat(size["square_w"], size["seeds"]), depth) for depth in size["depths"]]
    accuracy = np.array(accuracy).reshape(len(size["depths"]), len(size["square_w"]), -1)
    return xarray.Dataset(
        {
            "law_xi": (("fine", "scale"), [_xi(v) for v in fine]),
            "law_at": (("response", "scale"), [_xi(v) for v in RESPONSE]),
            "law_trained": (("square_w", "scale"), [_xi(v) for v in size["square_w"]]),
            "ratio": (("response", "scale", "draw"), [_response(rng, v, size) for v in RESPONSE]),
            "accuracy": (("depth", "square_w", "seed"), accuracy),
        },
        {"fine": fine, "response": list(RESPONSE), "scale": ["xi_q", "xi_c"], "square_w": list(size["square_w"]),
         "depth": list(size["depths"])},
        {"width": size["width"], "classes": int(np.max(np.asarray(given.targets))) + 1},
    )  # fmt: skip


def _xi(square_w: float) -> tuple[float, float]:
    found = theory.depth_scales("tanh", square_w**0.5, SIGMA_B)
    return found.xi_q, found.xi_c


def _response(rng: np.random.Generator, square_w: float, size: dict) -> np.ndarray:
    """(scale, draw): deviations of q from q* and of c from c* after the layers, over those before."""
    n, draws, sigma_w = size["width"], size["draws"], square_w**0.5
    q = theory.q_fixed_point("tanh", sigma_w, SIGMA_B).value
    c = theory.c_fixed_point("tanh", sigma_w, SIGMA_B).value
    near = (c - OFF, min(c + OFF, 1.0))
    basis = np.linalg.qr(rng.standard_normal((draws, n, 2)))[0] * np.sqrt(n * q)
    mix = np.array([[1.0, 1 + OFF, *near], [0.0, 0.0, *(np.sqrt(1 - v**2) for v in near)]])
    z = basis @ mix
    before = _deviations(z)
    for _ in range(LAYERS):
        bias = SIGMA_B * rng.standard_normal((draws, n, 1))
        z = sigma_w * _draws.square(rng, "gaussian", draws, n) @ np.tanh(z) + bias
    return _deviations(z) / before


def _deviations(z: np.ndarray) -> np.ndarray:
    """(scale, draw), from (draw, n, four vectors): the lengthened less the plain, the closer pair less the other."""
    q, overlap = (z**2).mean(1), (z[:, :, :1] * z[:, :, 2:]).mean(1)
    c = overlap / np.sqrt(q[:, :1] * q[:, 2:])
    return np.stack([q[:, 1] - q[:, 0], c[:, 1] - c[:, 0]])


def _train(rng: np.random.Generator, given: Any, square_w: np.ndarray, depth: int, n: int = 64) -> np.ndarray:
    """Accuracy over the last 20 batches of networks (one a sigma_w²) of so many layers; all see the same batches."""
    xs, labels = np.asarray(given.xs, np.float32), np.asarray(given.targets)
    xs = xs - xs.mean(0)
    xs = xs / np.sqrt((xs**2).mean(1, keepdims=True))
    sizes, draw = [xs.shape[1], *[n] * (depth - 1), int(labels.max()) + 1], rng.standard_normal
    scale = np.sqrt(square_w)[:, None, None]
    ws = [(scale / a**0.5 * draw((len(scale), a, b))).astype(np.float32) for a, b in itertools.pairwise(sizes)]
    bs = [(SIGMA_B * draw((len(scale), 1, b))).astype(np.float32) for b in sizes[1:]]
    target, right = np.eye(sizes[-1], dtype=np.float32)[labels], []
    for _ in range(STEPS):
        batch = rng.choice(len(xs), BATCH, replace=False)
        right.append((_step(ws, bs, xs[batch], target[batch]).argmax(2) == labels[batch]).mean(1))
    return np.mean(right[-20:], 0)


def _step(ws: list[np.ndarray], bs: list[np.ndarray], x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The outputs, and one step of SGD on the cross entropy in place."""
    hs = [np.broadcast_to(x, (len(ws[0]), *x.shape))]
    for w, b in zip(ws[:-1], bs[:-1], strict=True):
        hs.append(np.tanh(hs[-1] @ w + b))
    z = hs[-1] @ ws[-1] + bs[-1]
    p = np.exp(z - z.max(2, keepdims=True))
    delta = (p / p.sum(2, keepdims=True) - target) / len(x)
    for i in reversed(range(len(ws))):
        grad, bias = hs[i].mT @ delta, delta.sum(1, keepdims=True)
        delta = (delta @ ws[i].mT) * (1 - hs[i] ** 2)
        ws[i] -= np.float32(RATE) * grad
        bs[i] -= np.float32(RATE) * bias
    return z


def _rates(data: xarray.Dataset) -> tuple[xarray.DataArray, xarray.DataArray]:
    """−ln of the mean ratio a layer, and its standard error."""
    mean, error = data.ratio.mean("draw"), data.ratio.std("draw", ddof=1) / np.sqrt(data.sizes["draw"])
    return -np.log(np.maximum(mean, 1e-12)) / LAYERS, error / mean / LAYERS


def _half_depths(data: xarray.Dataset) -> np.ndarray:
    """(square_w,): where mean accuracy is half-way from 1 to chance, between depths on a log scale; NaN if nowhere."""
    log_depth, level = np.log(data.depth.values), (1 + 1 / data.attrs["classes"]) / 2
    found = []
    for curve in data.accuracy.mean("seed").values.T:
        i = int(np.argmax(curve < level))
        share = (curve[i - 1] - level) / (curve[i - 1] - curve[i]) if i else np.nan
        found.append(np.exp(log_depth[i - 1] + share * (log_depth[i] - log_depth[i - 1])) if i else np.nan)
    return np.array(found)


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Scales as theory has them; the depth of half accuracy proportional to xi_c."""
    from scipy import stats

    rate, error = _rates(data)
    apart = np.abs(rate - 1 / data.law_at) / (t_bound(rate.size, data.sizes["draw"]) * error + 5 / data.attrs["width"])
    what = "{}: rates, largest gap over its interval"
    rows = [Compared(what.format(s), float(apart.sel(scale=s).max()), high=1.0) for s in ("xi_q", "xi_c")]
    depth, xi = _half_depths(data), data.law_trained.sel(scale="xi_c").values
    known = np.isfinite(depth)
    x, y = np.log(xi[known]), np.log(depth[known])
    slope, log_factor = (np.polyfit(x, y, 1)[0], y - x) if len(x) > 1 else (np.nan, np.full(2, np.nan))
    half = stats.t.ppf(0.975, max(len(log_factor) - 1, 1)) * log_factor.std(ddof=1) / np.sqrt(len(log_factor))
    low, middle, high = np.exp(log_factor.mean() + half * np.array([-1, 0, 1]))
    what = f"depth of half accuracy over xi_c (95 %: {low:.2f} to {high:.2f})"
    rows.append(Compared(what, float(middle), 1.0, 6.0))
    return settled([*rows, Compared("slope of its log on ln xi_c", float(slope), 0.65, 1.35, "1 ± 0.35")])


def plot(data: xarray.Dataset) -> Any:
    """Depth scales, and accuracy over (sigma_w², depth) with 6 xi_c."""
    figure, axes = _style.panels(1, 2, height=2.6)
    left, right = axes[0]
    rate, error = _rates(data)
    for i, (scale, name) in enumerate((("xi_q", r"$\xi_q$"), ("xi_c", r"$\xi_c$"))):
        r, e = rate.sel(scale=scale), error.sel(scale=scale)
        some = r > 2 * e
        _style.dots(left, data.response[some], (1 / r)[some], (2 * e / r**2)[some], i, label=f"{name}, networks")
        _style.line(left, data.fine, data.law_xi.sel(scale=scale), i, label=f"{name}, theory")
    left.set(
        xlabel=r"$\sigma_w^2$", ylabel="depth scale (layers)", title="Depth scales", yscale="log", ylim=(0.6, 1000)
    )
    left.legend(loc="upper right")
    mean = data.accuracy.mean("seed")
    shown = right.pcolormesh(data.square_w, data.depth, mean, shading="nearest", cmap="cividis", vmin=0, vmax=1)
    figure.colorbar(shown, ax=right, label="training accuracy")
    right.plot(data.fine, 6 * data.law_xi.sel(scale="xi_c"), color="white", lw=1.4, label=r"$6\,\xi_c$, theory")
    right.plot(data.square_w, _half_depths(data), "o", color=_style.COLOURS[1], mec="white", label="half accuracy")
    depths = data.depth.values
    right.set(xlabel=r"$\sigma_w^2$", ylabel="depth (layers)", title="Trained on digits", yscale="log")
    right.set_ylim(depths[0] ** 1.5 / depths[1] ** 0.5, depths[-1] ** 1.5 / depths[-2] ** 0.5)
    right.set_xlim(float(data.square_w[0]) - 0.08, float(data.square_w[-1]) + 0.12)
    right.set_yticks(depths, [str(d) for d in depths])
    right.minorticks_off()
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2, facecolor="0.6", frameon=True)
    return figure
