"""Training time grows more slowly with depth for orthogonal tanh networks than for Gaussian ones.

Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735, Figs. 5 and 6.

Steps of plain SGD (batches of 64) until 0.8 of 256 training digits are right, against the hidden layers L ≤ N/4; width
N; critical, q* = √(1/32 L), so that tanh has L (μ₂/μ₁² − 1) = 1/4; ReLU has σ_w² = 2. The inputs are normalized to
start at q*. Twelve rates c/(N L q*) side by side for each depth, that of the least median over the seeds kept. A run
without an end counts as ending at the last step, so such slopes are lower bounds. The paper has orthogonal tanh as
L^(1/2), the others as L, at N = 400 and L to 300 on CIFAR-10: reported beside ours, not asserted at this size. Errors:
95 % by Student's t over seeds. Full: 8 minutes on 2 cores.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from isometry import activations, theory
from isometry import data as datasets
from paper_figs import _draws, _style, _times
from paper_figs._check import Compared, settled

PRESETS = {
    "full": {"width": 96, "depths": (3, 6, 12, 24), "steps": 250, "seeds": 5},
    "smoke": {"width": 48, "depths": (3, 12), "steps": 200, "seeds": 5},
}
NETS = {"tanh, orthogonal": 0.5, "tanh, gaussian": 1.0, "relu, orthogonal": 1.0, "relu, gaussian": 1.0}
RATES, BATCH, SEEN, LEVEL = 2.0 ** np.arange(-6, 6), 64, 256, 0.8


def compute(preset: str, key: Any) -> xarray.Dataset:
    """Over (net, depth, seed): steps at the fastest rate; over (net, depth): the index of that rate."""
    size, rng = PRESETS[preset], _draws.generator(key)
    times = np.stack([[_steps(rng, net, d, size) for d in size["depths"]] for net in NETS])
    rate = _times.fastest(times)
    return xarray.Dataset(
        {"steps": (("net", "depth", "seed"), _times.at_rate(times, rate)), "rate": (("net", "depth"), rate)},
        {"net": list(NETS), "depth": list(size["depths"])},
        {"last": size["steps"], "width": size["width"]},
    )


def _steps(rng: np.random.Generator, net: str, depth: int, size: dict) -> np.ndarray:
    """(rate, seed)."""
    activation, weights = net.split(", ")
    n, seeds, q = size["width"], size["seeds"], float(np.sqrt(1 / 32 / depth))
    point = theory.critical_at(activation, q)
    given = datasets.digits()
    xs = datasets.normalize(given.xs, (q - point.sigma_b**2) / point.sigma_w**2 * n / given.xs.shape[1])
    drawn = _draws.square(rng, weights, seeds * (depth + 1), n).reshape(seeds, depth + 1, n, n)
    ws = [point.sigma_w * drawn[:, :-1], drawn[:, -1, :, :10]]
    bs = point.sigma_b * rng.standard_normal((seeds, depth, n))
    x = jnp.pad(xs, ((0, 0), (0, max(n - xs.shape[1], 0))))[:, :n]
    batches = jnp.asarray(rng.integers(len(x), size=(size["steps"], BATCH)))
    params = jax.tree.map(jnp.float32, (*ws, bs))
    rates = jnp.float32(RATES / (n * depth * q))
    return _times.crossing(np.asarray(_errors(params, rates, x, given.targets, batches, activation)), 1 - LEVEL)


@functools.partial(jax.jit, static_argnums=5)
def _errors(params: Any, rates: Any, xs: Any, labels: Any, batches: Any, activation: str) -> Any:
    """(rate, seed, step): the share of wrong labels among the first SEEN."""
    phi = activations.get(activation)

    def net(params: Any, x: Any) -> Any:
        hidden, head, biases = params
        z = x @ hidden[0] + biases[0]
        z = jax.lax.scan(lambda z, layer: (phi(z) @ layer[0] + layer[1], None), z, (hidden[1:], biases[1:]))[0]
        return phi(z) @ head

    def loss(params: Any, x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(net(params, x)), y[:, None], 1).mean()

    def run(rate: Any, params: Any) -> Any:
        def step(params: Any, batch: Any) -> tuple[Any, Any]:
            wrong = jnp.mean(net(params, xs[:SEEN]).argmax(-1) != labels[:SEEN], dtype=jnp.float32)
            grad = jax.grad(loss)(params, xs[batch], labels[batch])
            return jax.tree.map(lambda p, g: p - rate * g, params, grad), wrong

        return jax.lax.scan(step, params, batches)[1]

    return jax.vmap(jax.vmap(run, (None, 0)), (0, None))(rates, params)


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """The slopes, orthogonal tanh's below Gaussian tanh's; the fastest rates inside the grid; what did not end."""
    grown = {n: _times.growth(data.depth.values, data.steps.sel(net=n).values, data.attrs["last"]) for n in NETS}
    gap = data.steps.sel(net=["tanh, gaussian", "tanh, orthogonal"])
    ratio = (gap.isel(net=0).clip(max=data.attrs["last"]) / gap.isel(net=1)).T.values
    above = _times.growth(data.depth.values, ratio.T, np.inf)
    censored = float((~np.isfinite(data.steps)).mean())
    return settled(
        [
            Compared("slope of Gaussian less orthogonal tanh, less its 95 % error", above.slope - above.error, low=0),
            *(Compared(f"d ln steps/d ln L, {n} (± {g.error:.2g})", g.slope, words=f"paper: {NETS[n]:g}; reported")
              for n, g in grown.items()),
            Compared("fastest rate, least index in the grid", float(data.rate.min()), 1, len(RATES) - 2),
            Compared("the same, largest", float(data.rate.max()), 1, len(RATES) - 2),
            Compared("share of runs censored at the last step", censored, 0, 0.5),
        ]
    )  # fmt: skip


def plot(data: xarray.Dataset) -> Any:
    """Steps against depth, with the fitted powers."""
    figure, axes = _style.panels(1, 1, height=2.8)
    ax, depth = axes[0, 0], data.depth.values
    for i, net in enumerate(NETS):
        times = np.minimum(data.steps.sel(net=net).values, data.attrs["last"])
        mean, error = np.log(times).mean(1), 2 * np.log(times).std(1, ddof=1) / np.sqrt(times.shape[1])
        found = _times.growth(depth, times, data.attrs["last"])
        label = f"{net}: {found.slope:.2f} ± {found.error:.2f}"
        _style.dots(ax, depth, np.exp(mean), np.exp(mean) * error, i, label=label)
        _style.line(ax, depth, np.exp(mean.mean() + found.slope * (np.log(depth) - np.log(depth).mean())), i)
    ax.set(xlabel="hidden layers L", ylabel=f"steps to accuracy {LEVEL:g}", yscale="log", title="Powers of L fitted")
    _style.ticks(ax, depth)
    _style.legend(figure, ax, ncols=2)
    return figure
