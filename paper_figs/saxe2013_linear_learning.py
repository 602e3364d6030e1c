"""Deep linear nets from orthogonal weights learn as fast however deep they are; from Gaussian weights they slow down.

Saxe, McClelland, Ganguli (2013), arXiv:1312.6120, Figs. 6A and 6B.

Left: steps of full-batch gradient descent until a linear net of D matrices, hidden width 64, has learned digits, pooled
to 4×4, centred and whitened, up to an excess loss of 1e-3 of the target's square, at the fastest of ten rates c/D. D
begins at 4: with D = 2 the best rate takes two steps, half of what any deeper net takes. Runs without an end count as
ending at the last step; where those are of the deepest nets the Gaussian slope is a lower bound. Bars: 95 % of the mean
over seeds. "Flat" is a slope within 0.1: 7 % a doubling. Right: singular values of products of N × N Gaussian matrices,
marks with two standard errors, against the Fuss-Catalan law; at finite N, E tr (JJᵀ)² follows an exact recursion.
Products of orthogonal matrices keep every value at 1. Full: 2 minutes on 2 cores.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from isometry import data as datasets
from isometry import theory
from paper_figs import _draws, _style, _times
from paper_figs._check import Compared, settled, t_bound, within

LAWS, RATES, LEVEL, SHARES = ("orthogonal", "gaussian"), np.geomspace(0.1, 3.2, 10), 1e-3, np.linspace(0.05, 0.95, 19)
PRESETS = {
    "full": {"depths": (4, 8, 16, 32), "steps": 600, "seeds": 5, "n": 200, "factors": (1, 4, 16), "draws": 40},
    "smoke": {"depths": (4, 16), "steps": 150, "seeds": 4, "n": 50, "factors": (1, 4), "draws": 40},
}
WIDTH = 64


def compute(preset: str, key: Any) -> xarray.Dataset:
    """(weights, depth, seed): steps at the fastest rate, and which that is; (weights, factors, draw): products."""
    size, rng, target = PRESETS[preset], _draws.generator(key), _task()
    times = np.stack([[_steps(rng, w, d, size, target) for d in size["depths"]] for w in LAWS])
    rate = _times.fastest(times)
    log_s = np.stack([[_product(rng, w, size["n"], d, size["draws"]) for d in size["factors"]] for w in LAWS])
    laws = [[np.log(theory.fuss_catalan(d).quantile(float(p), variable="s")) for p in SHARES] for d in size["factors"]]
    return xarray.Dataset(
        {
            "steps": (("weights", "depth", "seed"), _times.at_rate(times, rate)),
            "rate": (("weights", "depth"), rate),
            "log_s": (("weights", "factors", "draw", "share"), np.quantile(log_s, SHARES, -1).transpose(1, 2, 3, 0)),
            "second": (("weights", "factors", "draw"), np.exp(4 * log_s).mean(-1)),
            "law": (("factors", "share"), np.array(laws, float)),
        },
        {"weights": list(LAWS), "depth": list(size["depths"]), "share": SHARES, "factors": list(size["factors"])},
        {"last": size["steps"], "n": size["n"]},
    )


def _task() -> np.ndarray:
    """Σ_xy of whitened inputs, (16, 10)."""
    given = datasets.digits(pooled=True)
    x, y = np.asarray(given.xs, np.float64), np.eye(10)[np.asarray(given.targets)]
    x, y = x - x.mean(0), y - y.mean(0)
    values, basis = np.linalg.eigh(x.T @ x / len(x))
    return (x @ basis / np.sqrt(values)).T @ y / len(x)


def _steps(rng: np.random.Generator, weights: str, depth: int, size: dict, target: np.ndarray) -> np.ndarray:
    """(rate, seed): steps until the excess loss is LEVEL of the target's square."""
    n, (inputs, outputs) = WIDTH, target.shape
    ws = _draws.square(rng, weights, size["seeds"] * depth, n).reshape(size["seeds"], depth, n, n)
    given = jax.tree.map(jnp.float32, ((ws[:, 0, :inputs], ws[:, 1:-1], ws[:, -1, :, :outputs]), RATES / depth, target))
    return _times.crossing(np.asarray(_losses(*given, size["steps"])), LEVEL)


@functools.partial(jax.jit, static_argnums=3)
def _losses(ws: Any, rates: Any, target: Any, steps: int) -> Any:
    """(rate, seed, step): |W − Σ|²/|Σ|², all side by side."""
    scale = jnp.sum(target**2)

    def loss(ws: Any) -> Any:
        whole = jax.lax.scan(lambda h, w: (h @ w, None), ws[0], ws[1])[0] @ ws[2]
        return jnp.sum((whole - target) ** 2) / 2

    def run(rate: Any, ws: Any) -> Any:
        def step(ws: Any, _: Any) -> tuple[Any, Any]:
            value, grad = jax.value_and_grad(loss)(ws)
            return jax.tree.map(lambda w, g: w - rate * g, ws, grad), 2 * value / scale

        return jax.lax.scan(step, ws, length=steps)[1]

    return jax.vmap(jax.vmap(run, (None, 0)), (0, None))(rates, ws)


def _product(rng: np.random.Generator, weights: str, n: int, depth: int, draws: int) -> np.ndarray:
    """(draw, n): ln s."""
    products = [functools.reduce(np.matmul, _draws.square(rng, weights, depth, n)) for _ in range(draws)]
    return _draws.log_values(np.stack(products))


def _second_moment(n: int, factors: int) -> float:
    """E (1/n) tr (JJᵀ)²: a factor takes (tr A², (tr A)²) to ((1 + 1/n) tr A² + (tr A)²/n, (tr A)² + 2 tr A²/n)."""
    step = np.array([[1 + 1 / n, 1 / n], [2 / n, 1.0]])
    return float((np.linalg.matrix_power(step, factors) @ [n, n**2])[0] / n)


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Flat against growing; the fastest rates inside the grid; the products' moments."""
    grown = {w: _times.growth(data.depth.values, data.steps.sel(weights=w).values, data.attrs["last"]) for w in LAWS}
    flat, steep = grown["orthogonal"], grown["gaussian"]
    second = data.second.sel(weights="gaussian")
    exact = np.array([_second_moment(data.attrs["n"], d) for d in data.factors.values.tolist()])
    apart = np.abs(second.mean("draw") - exact) / (second.std("draw", ddof=1) / np.sqrt(data.sizes["draw"]))
    straight = np.abs(data.log_s.sel(weights="orthogonal")).max()
    slack = data.attrs["n"] * float(data.factors.max()) * np.finfo(np.float64).eps
    ends = np.isfinite(data.steps.sel(weights="orthogonal"))
    return settled(
        [
            Compared("orthogonal: d ln steps/d ln D, with its error, largest", abs(flat.slope) + flat.error, 0, 0.1),
            Compared("Gaussian: the same, least", steep.slope - steep.error, low=flat.slope + flat.error,
                     words="above the orthogonal one"),
            Compared("runs from orthogonal weights that reached the level", float(ends.mean()), 1, 1),
            Compared("fastest rate, least index in the grid", float(data.rate.min()), 1, len(RATES) - 2),
            Compared("the same, largest", float(data.rate.max()), 1, len(RATES) - 2),
            Compared("tr (JJᵀ)² from the exact mean, standard errors", float(apart.max()), 0,
                     t_bound(data.sizes["factors"], data.sizes["draw"])),
            within("orthogonal products, largest |ln s|", float(straight), 0, slack),
        ]
    )  # fmt: skip


def plot(data: xarray.Dataset) -> Any:
    """Steps against depth; quantiles of the products' singular values."""
    figure, (axes,) = _style.panels(1, 2, height=2.5)
    left, right = axes
    for i, w in enumerate(LAWS):
        steps = np.log(np.minimum(data.steps.sel(weights=w), data.attrs["last"]))
        error = t_bound(1, data.sizes["seed"]) * steps.std("seed", ddof=1) / np.sqrt(data.sizes["seed"])
        mean = np.exp(steps.mean("seed"))
        _style.dots(
            left,
            data.depth,
            mean,
            np.stack([mean * (1 - np.exp(-error)), mean * (np.exp(error) - 1)]),
            i,
            ls="-",
            label=f"{w} weights",
        )
    left.axhline(data.attrs["last"], color="0.4", lw=0.9, ls=":", label="last step")
    left.set(xlabel="weight matrices D", ylabel="steps to the level", title="Learning time, fastest rate", yscale="log")
    _style.ticks(left, data.depth)
    for i, d in enumerate(data.factors.values):
        part = data.log_s.sel(weights="gaussian", factors=d) / np.log(10)
        error = 2 * part.std("draw", ddof=1) / np.sqrt(data.sizes["draw"])
        _style.dots(right, data.share, part.mean("draw"), error, i + 2, label=f"{d} Gaussian")
        _style.line(right, data.share, data.law.sel(factors=d) / np.log(10), i + 2)
    both = data.log_s.sel(weights="orthogonal").isel(factors=-1).mean("draw")
    right.plot(data.share, both, "x", color=_style.COLOURS[0], label=f"{int(data.factors[-1])} orthogonal")
    right.set(xlabel="share of singular values below", ylabel="log$_{10}$ s", title="Products of matrices")
    left.legend(loc="center right", bbox_to_anchor=(1, 0.27))
    right.legend(loc="lower right")
    return figure
