"""From ZerO a network leaves its input's dimension behind, but not the ceiling that ZerO's own symmetry sets.

Zhao, Schäfer, Anandkumar (2022), arXiv:2110.12661 (ZerO), Fig. 3, right; the ceiling is ours.

Rank of W₃ − I (singular values above 1e-4, absolute) while a ReLU network without biases, N_x → N_x → h → h → 10,
learns digits pooled to 4×4 (N_x = 16, h = 64) by plain SGD (rate 0.1, batches of 64) from random weights (Kaiming
normal), partial identity and ZerO. At initialization, without data, `isometry.certify` says how many classes of units
ZerO leaves in W₃: P + N_y, P the power of two from N_x on, since its Hadamard rows repeat after P and only N_y units
have an outgoing weight. Right: the singular values of W₃ − I after training. In float64 those beyond the ceiling are
rounding (at most steps × eps of the largest); in float32 they leak. A data set of your own is learned at the paper's
size (h = 2P, which is 2048 for 784 inputs; 20 epochs, rate × 0.7 after 12). The paper's MNIST plateau lies near 1075,
the ceiling there is 1034: that the rest is leakage in float32 is a conjecture, which that run tests and this one only
reports. Full (8000 steps): 1 minute on 2 cores.
"""

from typing import Any

import numpy as np
import xarray

import isometry
from isometry import initializers, networks
from paper_figs import _draws, _style, _zero
from paper_figs._check import Compared, settled, within

PRESETS = {"full": {"epochs": 360, "every": 40}, "smoke": {"epochs": 40, "every": 40}}
OWN = {"epochs": 20, "every": 250}
RUNS = {"random": "float64", "partial identity": "float64", "ZerO": "float64", "ZerO, float32": "float32"}


def compute(preset: str, key: Any, data: Any = None) -> xarray.Dataset:
    """Over (run, step): rank of W₃ − I; over (run, index): its singular values at the end; over run: accuracy."""
    size, decay = (PRESETS[preset], 1.0) if data is None else (OWN, 0.7)
    xs, labels, *held = _zero.split(data, key)
    period = 2 ** int(np.ceil(np.log2(xs.shape[1])))
    sizes = _zero.sizes(xs, labels, (4 if data is None else 2) * period)
    started = [_start(run, sizes, key) for run in RUNS]
    final = [ws for ws, _ in started]
    traced = [_zero.train(ws, xs, labels, size, _draws.generator(key), decay) for ws in final]
    change = np.stack([ws[2].astype(np.float64) - np.eye(sizes[2]) for ws in final])
    return xarray.Dataset(
        {
            "rank": (("run", "step"), np.array([ranks for _, ranks in traced], float)),
            "value": (("run", "index"), np.linalg.svd(change, compute_uv=False)),
            "accuracy": ("run", [_zero.accuracy(ws, *held) for ws in final]),
        },
        {"run": list(RUNS), "step": traced[0][0], "index": np.arange(1, sizes[2] + 1)},
        {"inputs": sizes[0], "classes": sizes[-1], "period": period, "ceiling": started[-1][1],
         "steps": size["epochs"] * (len(xs) // _zero.BATCH), "own": int(data is not None)},
    )  # fmt: skip


def _start(run: str, sizes: list[int], key: Any) -> tuple[list[np.ndarray], int]:
    """The weights, and the certified bound on the rank of W₃'s change."""
    kinds = {"random": initializers.kaiming_normal(), "partial identity": initializers.partial_identity()}
    net = networks.mlp(sizes, activation="relu", scheme=kinds.get(run, initializers.zer_o()), bias=False)
    params = net.init(key)
    weights = [np.array(layer.w, RUNS[run]) for layer in net.layers(params)]
    return weights, isometry.certify(net, params).layers[2].rank_bound


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """The three curves, the ceiling against its formula, what lies above it in either precision, that all learned."""
    a, end = data.attrs, data["rank"].isel(step=-1)
    beyond = (data.value.sel(index=a["ceiling"] + 1) / data.value.isel(index=0)).to_series()
    kept, leaked = float(beyond["ZerO"]), float(beyond["ZerO, float32"])
    slack = {t: a["steps"] * float(np.finfo(t).eps) for t in ("float64", "float32")}
    excess = max(float(end.sel(run="ZerO, float32")) - a["ceiling"], 0.0)
    random, width = float(data["rank"].sel(run="random").min()), data.sizes["index"]
    return settled(
        [
            within("certified ceiling of W₃'s change, P + N_y", a["ceiling"], a["period"] + a["classes"], 0),
            within("rank from random weights, least at any step", random, width, 0),
            Compared("rank from partial identity, at any step", float(data["rank"].sel(run="partial identity").max()),
                     1, a["inputs"]),
            Compared("rank from ZerO at the end", float(end.sel(run="ZerO")), a["inputs"] + 1, a["ceiling"]),
            Compared("float64: first singular value beyond the ceiling, of the largest", kept, 0, slack["float64"]),
            Compared("float32: the same", leaked, slack["float64"], slack["float32"]),
            Compared("float32: rank at the end beyond the ceiling", excess, words="a conjecture"),
            Compared("accuracy on held-out inputs, least", float(data.accuracy.min()), 0.8, 1.0),
        ]
    )  # fmt: skip


def plot(data: xarray.Dataset) -> Any:
    """Rank against step; the singular values at the end, in both precisions."""
    figure, axes = _style.panels(1, 2, height=2.5)
    left, right = axes[0]
    ceiling, n_x = data.attrs["ceiling"], data.attrs["inputs"]
    for i, run in enumerate(list(RUNS)[:3]):
        _style.line(left, data.step, data["rank"].sel(run=run), i, label=run)
    for i, run in enumerate(list(RUNS)[2:], 2):
        how = {"color": _style.COLOURS[i], "marker": _style.MARKS[i], "ls": "none", "ms": 2.5}
        right.plot(data.index, data.value.sel(run=run), **how, label=run if i == 3 else f"{run}, float64")
    left.axhline(n_x, color="0.4", lw=0.9, ls=":", label="N$_x$")
    left.axhline(ceiling, color="black", lw=0.9, ls="--", label="ceiling, certified")
    right.axvline(ceiling + 0.5, color="black", lw=0.9, ls="--", label="ceiling, certified")
    right.axhline(_zero.TOLERANCE, color="0.4", lw=0.9, ls=":", label="tolerance of the rank")
    left.set(xlabel="step of SGD", ylabel="rank(W$_3$ − I)", title="While training", ylim=(0, None))
    right.set(xlabel="index", ylabel="singular value of W$_3$ − I", yscale="log", title="ZerO, end of training")
    left.legend(loc="center", bbox_to_anchor=(0.5, 0.67))
    right.legend(loc="lower left")
    return figure
