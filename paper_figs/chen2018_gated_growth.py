"""Theory that draws the weights anew in each step calls a chaotic GRU ordered.

Chen, Pennington and Schoenholz (2018), arXiv:1806.05394 (minimal cells), and Gilboa et
al. (2019), arXiv:1901.08987 (GRU, LSTM): perturbations of a recurrent state grow by χ
in a step, and time scales are −1/ln χ; a large bias of the gate that keeps the state
brings χ to 1. Both papers draw the weights of every step anew. That they are the same
in every step correlates the gates of a unit over time, which changes little where
recurrence is weak, and much where it is strong.

Left: growth of |δh|² per step in a GRU against the scale of the candidate's recurrent
weights; those of the gates are 2, inputs have σ_v² = 0.1, gates a bias of 1. Marks:
networks of N and 2N units, extrapolated to N → ∞ as the finite width slows growth
by a share of 1/N; their equations and tangents are written out in NumPy; lines:
`theory.recurrent`. Middle: the distance of two states that read the same inputs. Where
theory with fresh weights foresees decay, it grows to a finite one. Right: the time in
which a minimal cell forgets its state, against the bias of its gate. It grows as e^bias
once the gate is open, the critical initialization of both papers; with weak recurrence
both theories agree.

Marks: means over draws with two standard errors. Experiments on data are not
reproduced. Full: 1 minute on 2 cores.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
import xarray
from jaxtyping import Float
from scipy.special import expit

from isometry import networks, theory
from isometry._internal.types import Key
from paper_figs import _style
from paper_figs._check import Compared, settled, t_bound, within

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESETS = {
    "full": {
        "units": 200,
        "seeds": 24,
        "steps": 240,
        "scales": (1.0, 1.5, 2.0, 2.5, 3.0, 3.5),
        "biases": (0.0, 1.0, 2.0, 3.0),
        "sites": 4096,
    },
    "smoke": {
        "units": 100,
        "seeds": 16,
        "steps": 160,
        "scales": (1.0, 3.0),
        "biases": (0.0, 2.0),
        "sites": 2048,
    },
}

# The third case of the table of gated cells that was checked by hand.
GATES = 2.0
GRU_BIAS = 1.0
INPUT = 0.1**0.5
# A minimal cell with weak recurrence.
WEAK = 0.3
# The scatter of `theory.recurrent`, as a share of the growth: up to 0.9 %.
SCATTER = 0.01
# The scale whose untied growth was derived by hand, and from which on order is claimed
# wrongly.
CHAOTIC = 3.0
UNTIED = 0.8573995


class _Cell(NamedTuple):
    """A recurrent network.

    Attributes:
        kind: "gru" or "minimal".
        scales: Scales of the recurrent weights.
        sigma_v: Scale of the input weights.
        bias: The mean bias of the gates.
    """

    kind: str
    scales: dict[str, float]
    sigma_v: float
    bias: float


def _gru(scale: float) -> _Cell:
    """Return a GRU with this scale of its candidate."""
    scales = {"update": GATES, "reset": GATES, "candidate": scale}
    return _Cell("gru", scales, sigma_v=INPUT, bias=GRU_BIAS)


def _minimal(bias: float) -> _Cell:
    """Return a minimal cell with this bias of its gate."""
    return _Cell("minimal", {"update": WEAK}, sigma_v=1.0, bias=bias)


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure how fast perturbations grow, and compute what theory says.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        `rate` over (scale, seed), `time_rate` over (bias, seed); `law_tied`,
        `law_fresh` over scale, `law_time_tied`, `law_time_fresh` over bias; `distance`
        over (scale, seed, step); and `law_quadrature`, the growth of minimal cells with
        fresh weights by a quadrature of our own.
    """
    size = PRESETS[preset]
    grus = [_gru(scale) for scale in size["scales"]]
    minimals = [_minimal(bias) for bias in size["biases"]]
    measured = [_measured(cell, size, key=key) for cell in grus]
    times = [_measured(cell, size, key=key) for cell in minimals]
    return xarray.Dataset(
        {
            "rate": (("scale", "seed"), [rate for rate, _ in measured]),
            "distance": (("scale", "seed", "step"), [d for _, d in measured]),
            "time_rate": (("bias", "seed"), [rate for rate, _ in times]),
            "law_tied": ("scale", [_law(cell, size, tied=True) for cell in grus]),
            "law_fresh": ("scale", [_law(cell, size, tied=False) for cell in grus]),
            "law_time_tied": ("bias", [_law(c, size, tied=True) for c in minimals]),
            "law_time_fresh": ("bias", [_law(c, size, tied=False) for c in minimals]),
            "law_quadrature": ("bias", [_quadrature(cell) for cell in minimals]),
        },
        {
            "scale": list(size["scales"]),
            "bias": list(size["biases"]),
            "step": np.arange(1, size["steps"] + 1),
        },
        {"units": size["units"]},
    )


def _law(cell: _Cell, size: dict, *, tied: bool) -> float:
    """Return the growth of |δh|² in a step, as the library predicts it."""
    # Without an activation the candidate of a minimal cell is the input itself.
    activation = "tanh" if cell.kind == "gru" else "linear"
    sigma_v = cell.sigma_v
    point = theory.recurrent(
        cell.kind,
        cell.scales,
        sigma_v,
        gate_bias=cell.bias,
        tied=tied,
        activation=activation,
        sites=size["sites"],
    )
    return point.rate


def _measured(
    cell: _Cell, size: dict, *, key: Key
) -> tuple[Float[np.ndarray, " seeds"], Float[np.ndarray, "seeds steps"]]:
    """Return the growth of |δh|² per step, and distances of two states."""
    rates, distances = [], []
    for seed in range(size["seeds"]):
        keys = jax.random.split(jax.random.fold_in(key, seed))
        steps, units = size["steps"], size["units"]
        narrow, _ = _simulated(cell, units, steps, key=keys[0])
        wide, distance = _simulated(cell, 2 * units, steps, key=keys[1])
        # Finite width slows the growth by a share of 1/N, which cancels here.
        rates.append(wide**2 / narrow)
        distances.append(distance)
    return np.array(rates), np.array(distances)


def _simulated(
    cell: _Cell, units: int, steps: int, *, key: Key
) -> tuple[float, Float[np.ndarray, " steps"]]:
    """Return growth and distances of one network."""
    net = networks.rnn(
        units,
        units,
        1,
        cell=cell.kind,
        activation="tanh" if cell.kind == "gru" else "linear",
        scheme="gaussian",
        sigma_w=cell.scales,
        sigma_v=cell.sigma_v,
        gate_bias=cell.bias,
    )
    params = jax.tree.map(np.asarray, net.init(key))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    step = {"gru": _gru_step, "minimal": _minimal_step}[cell.kind]
    h, dh = np.zeros(units), rng.standard_normal(units)
    logs, distances = [], []
    other = None
    for t in range(steps):
        x = rng.standard_normal(units)
        if other is not None:
            other, _ = step(params, other, x, dh=dh)
        h, dh = step(params, h, x, dh=dh)
        # The tangent is kept at length 1, and its growth summed.
        length = np.linalg.norm(dh)
        dh = dh / length
        logs.append(2 * math.log(length))
        # States are compared once they have forgotten the start.
        if t == steps // 3:
            other = h + 1e-3 * rng.standard_normal(units)
        if other is not None:
            distances.append(np.mean((h - other) ** 2))
    later = logs[steps // 3 :]
    padded = np.full(steps, np.nan)
    padded[: len(distances)] = distances
    return math.exp(np.mean(later)), padded


def _gru_step(
    params: dict, h: np.ndarray, x: np.ndarray, *, dh: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return h' = u h + (1 − u) tanh(W(r h) + V x), and its tangent."""
    update, reset, candidate = (params[n] for n in ("update", "reset", "candidate"))
    u = expit(h @ update["recurrent"] + x @ update["input"] + update["b"])
    r = expit(h @ reset["recurrent"] + x @ reset["input"] + reset["b"])
    inner = (r * h) @ candidate["recurrent"] + x @ candidate["input"] + candidate["b"]
    g = np.tanh(inner)
    du = u * (1 - u) * (dh @ update["recurrent"])
    dr = r * (1 - r) * (dh @ reset["recurrent"])
    dg = (1 - g**2) * ((dr * h + r * dh) @ candidate["recurrent"])
    return u * h + (1 - u) * g, du * (h - g) + u * dh + (1 - u) * dg


def _minimal_step(
    params: dict, h: np.ndarray, x: np.ndarray, *, dh: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return h' = u h + (1 − u) z, with z = V x, and its tangent."""
    update, candidate = params["update"], params["candidate"]
    z = x @ candidate["input"] + candidate["b"]
    u = expit(h @ update["recurrent"] + z @ update["input"] + update["b"])
    du = u * (1 - u) * (dh @ update["recurrent"])
    return u * h + (1 - u) * z, du * (h - z) + u * dh


def _quadrature(cell: _Cell) -> float:
    """Return χ of a minimal cell with fresh weights, by a quadrature of its own."""
    points, masses = np.polynomial.hermite_e.hermegauss(101)
    masses = masses / masses.sum()
    weak = cell.scales["update"] ** 2
    # z has the mean square of V x, and enters the gate through a V of scale 1 again.
    square = cell.sigma_v**2
    drive = square * cell.sigma_v**2

    def gate(q: float) -> Float[np.ndarray, " points"]:
        return expit(math.sqrt(weak * q + drive) * points + cell.bias)

    q = square
    # The gate depends on q weakly, so that this converges in a few steps.
    for _ in range(200):
        u = gate(q)
        q = masses @ (1 - u) ** 2 * square / (1 - masses @ u**2)
    u = gate(q)
    slope = masses @ (u * (1 - u)) ** 2
    # The states and the inputs in h − z are independent.
    return float(masses @ u**2 + weak * slope * (q + square))


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Hold networks against theory with tied weights, and that with fresh ones.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: One of them does not hold.
    """
    seeds = data.sizes["seed"]
    bound = t_bound(data.sizes["scale"] + data.sizes["bias"], seeds)
    root = math.sqrt(seeds)
    rows = []
    for scale in data.scale.values:
        of_scale = data.sel(scale=scale)
        error = float(of_scale.rate.std("seed", ddof=1)) / root
        rate, tied = float(of_scale.rate.mean("seed")), float(of_scale.law_tied)
        tolerance = bound * error + SCATTER * tied
        what = f"GRU, scale {scale:g}: growth of |δh|² per step"
        rows.append(within(what, rate, tied, tolerance=tolerance))
    for bias in data.bias.values:
        of_bias = data.sel(bias=bias)
        error = float(of_bias.time_rate.std("seed", ddof=1)) / root
        rate = float(of_bias.time_rate.mean("seed"))
        tied = float(of_bias.law_time_tied)
        tolerance = bound * error + SCATTER * tied
        what = f"minimal, bias {bias:g}: growth of |δh|² per step"
        rows.append(within(what, rate, tied, tolerance=tolerance))
    chaotic = data.sel(scale=CHAOTIC)
    fresh = float(chaotic.law_fresh)
    error = float(chaotic.rate.std("seed", ddof=1)) / root
    surely = float(chaotic.rate.mean("seed")) - 2 * error
    difference = abs(data.law_time_fresh - data.law_quadrature).max()
    rows += [
        Compared(
            f"GRU, scale {CHAOTIC:g}: growth, less two standard errors", surely, low=1.0
        ),
        # The closed form of the same case, by hand.
        within(f"GRU, scale {CHAOTIC:g}: χ of fresh weights", fresh, UNTIED, 1e-6),
        within("minimal: χ against our quadrature", float(difference), 0.0, 1e-9),
    ]
    return settled(rows)


def plot(data: xarray.Dataset) -> "Figure":
    """Draw growth against scale, distances over time, and times of forgetting.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    # Three panels are as wide as a page.
    figure, axes = _style.panels(1, 3, height=2.5, width=2.7)
    left, middle, right = axes[0]
    _draw_growth(left, data)
    _draw_distances(middle, data)
    _draw_times(right, data)
    return figure


def _draw_growth(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the growth of |δh|² per step against the scale."""
    root = math.sqrt(data.sizes["seed"])
    error = 2 * data.rate.std("seed", ddof=1) / root
    label = "networks, N → ∞"
    mean = data.rate.mean("seed")
    _style.dots(ax, data.scale, mean, error=error, i=0, label=label)
    _style.line(ax, data.scale, y=data.law_tied, i=0, label="theory, tied")
    fresh = data.law_fresh
    _style.line(ax, data.scale, y=fresh, i=1, ls="--", label="theory, fresh weights")
    ax.axhline(1.0, color="0.6", lw=0.8, ls=":", zorder=1)
    ax.set(
        xlabel="scale of the candidate's weights",
        ylabel="growth of |δh|² in a step",
        title="GRU (dotted: order | chaos)",
    )
    ax.legend(loc="upper left")


def _draw_distances(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the squared distance of two states over time."""
    for i, scale in enumerate((data.scale.values[0], CHAOTIC)):
        of_scale = data.sel(scale=scale)
        distance = of_scale.distance.mean("seed").dropna("step")
        time = np.arange(distance.sizes["step"])
        label = f"scale {scale:g}"
        _style.line(ax, time, y=distance, i=i, label=label)
        fresh = float(distance[0]) * float(of_scale.law_fresh) ** time
        label = f"scale {scale:g}, fresh weights"
        _style.line(ax, time, y=fresh, i=i, ls="--", label=label)
    ax.set(
        xlabel="steps",
        ylabel="mean square distance",
        title="Two states, the same inputs",
        yscale="log",
        ylim=(1e-14, 1e6),
    )
    ax.legend(loc="upper left")


def _draw_times(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the time of forgetting against the bias of the gate."""
    times = -1 / np.log(data.time_rate)
    root = math.sqrt(data.sizes["seed"])
    error = 2 * times.std("seed", ddof=1) / root
    mean = times.mean("seed")
    _style.dots(ax, data.bias, mean, error=error, i=0, label="networks, N → ∞")
    laws = {"theory, tied": "law_time_tied", "theory, fresh weights": "law_time_fresh"}
    for i, (label, name) in enumerate(laws.items()):
        time = -1 / np.log(data[name])
        _style.line(ax, data.bias, y=time, i=i, ls=("-", "--")[i], label=label)
    ax.set(
        xlabel="bias of the update gate",
        ylabel="time of forgetting, steps",
        title=f"Minimal cell, recurrent scale {WEAK:g}",
        yscale="log",
    )
    marked = (1, 2, 5, 10)
    ax.set_yticks(marked, [str(time) for time in marked])
    ax.minorticks_off()
    ax.legend(loc="upper left")
