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
`theory.recurrent`. Middle: the distance of two states that read the same inputs. At
scale 3 it grows, where theory with fresh weights foresees decay. Right: the time in
which a minimal cell forgets its state, against the bias of its gate, which lengthens it
as both papers say. Its recurrence is weak, and networks differ less from theory with
fresh weights than any GRU does.

Marks: means over draws with two standard errors. Experiments on data are not
reproduced.
"""

import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax
import numpy as np
import xarray
from jaxtyping import Float
from scipy.special import expit

from isometry import networks, theory
from isometry._internal.types import Key
from paper_figs import _draws, _style
from paper_figs._check import Compared, largest, least, settled, t_bound, within
from paper_figs._ensembles import Estimate, marked_heights, mean, three_panels

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

# Entries of legends.
NETWORKS = "networks, N → ∞"
TIED = "theory, tied"
FRESH = "theory, fresh weights"

# Numbers of each network.
_Numbers: TypeAlias = Float[np.ndarray, "..."]
# A state, an input or a tangent.
_Vector: TypeAlias = Float[np.ndarray, " units"]


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

    @property
    def activation(self) -> str:
        """The activation of the candidate."""
        # Without one the candidate of a minimal cell is the input itself.
        if self.kind == "minimal":
            return "linear"
        return "tanh"


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
    rates, distances = _measured_all(grus, size, key=key)
    time_rates, _ = _measured_all(minimals, size, key=key)
    return xarray.Dataset(
        {
            "rate": (("scale", "seed"), rates),
            "distance": (("scale", "seed", "step"), distances),
            "time_rate": (("bias", "seed"), time_rates),
            "law_tied": ("scale", _laws(grus, size, tied=True)),
            "law_fresh": ("scale", _laws(grus, size, tied=False)),
            "law_time_tied": ("bias", _laws(minimals, size, tied=True)),
            "law_time_fresh": ("bias", _laws(minimals, size, tied=False)),
            "law_quadrature": ("bias", [_quadrature(cell) for cell in minimals]),
        },
        {
            "scale": list(size["scales"]),
            "bias": list(size["biases"]),
            "step": np.arange(1, size["steps"] + 1),
        },
        {"units": size["units"]},
    )


def _measured_all(
    cells: list[_Cell], size: dict, *, key: Key
) -> tuple[list[_Numbers], list[_Numbers]]:
    """Return growth and distances of all cells."""
    measured = [_measured(cell, size, key=key) for cell in cells]
    rates = [rate for rate, _ in measured]
    distances = [distance for _, distance in measured]
    return rates, distances


def _laws(cells: list[_Cell], size: dict, *, tied: bool) -> list[float]:
    """Return the growth of all cells, as the library predicts it."""
    return [_law(cell, size, tied=tied) for cell in cells]


def _law(cell: _Cell, size: dict, *, tied: bool) -> float:
    """Return the growth of |δh|² in a step, as the library predicts it."""
    point = theory.recurrent(
        cell.kind,
        cell.scales,
        cell.sigma_v,
        gate_bias=cell.bias,
        tied=tied,
        activation=cell.activation,
        sites=size["sites"],
    )
    return point.rate


def _measured(cell: _Cell, size: dict, *, key: Key) -> tuple[_Numbers, _Numbers]:
    """Return the growth of |δh|² per step, and distances of two states."""
    steps = size["steps"]
    units = size["units"]
    rates, distances = [], []
    for seed in range(size["seeds"]):
        key_seed = jax.random.fold_in(key, seed)
        key_narrow, key_wide = jax.random.split(key_seed)
        narrow, _ = _simulated(cell, units, steps, key=key_narrow)
        wide, distance = _simulated(cell, 2 * units, steps, key=key_wide)
        # Finite width slows the growth by a share of 1/N, which cancels here.
        rates.append(wide**2 / narrow)
        distances.append(distance)
    return np.array(rates), np.array(distances)


def _simulated(
    cell: _Cell, units: int, steps: int, *, key: Key
) -> tuple[float, _Numbers]:
    """Return growth and distances of one network."""
    net = networks.rnn(
        units,
        units,
        1,
        cell=cell.kind,
        activation=cell.activation,
        scheme="gaussian",
        sigma_w=cell.scales,
        sigma_v=cell.sigma_v,
        gate_bias=cell.bias,
    )
    params = jax.tree.map(np.asarray, net.init(key))
    rng = _draws.generator(key)
    step = STEPS[cell.kind]
    # States are compared, and growth counts, once they have forgotten the start.
    forgotten = steps // 3
    h = np.zeros(units)
    dh = rng.standard_normal(units)
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
        if t == forgotten:
            other = h + 1e-3 * rng.standard_normal(units)
        if other is not None:
            difference = h - other
            distances.append(np.mean(difference**2))
    padded = np.full(steps, np.nan)
    padded[: len(distances)] = distances
    mean_log = np.mean(logs[forgotten:])
    return math.exp(mean_log), padded


def _affine(layer: dict, h: _Vector, x: _Vector) -> _Vector:
    """Return W h + V x + b of a gate or a candidate."""
    return h @ layer["recurrent"] + x @ layer["input"] + layer["b"]


def _gru_step(
    params: dict, h: _Vector, x: _Vector, *, dh: _Vector
) -> tuple[_Vector, _Vector]:
    """Return h' = u h + (1 − u) tanh(W(r h) + V x), and its tangent."""
    update = params["update"]
    reset = params["reset"]
    candidate = params["candidate"]
    u = expit(_affine(update, h, x))
    r = expit(_affine(reset, h, x))
    g = np.tanh(_affine(candidate, r * h, x))
    du = u * (1 - u) * (dh @ update["recurrent"])
    dr = r * (1 - r) * (dh @ reset["recurrent"])
    inner = dr * h + r * dh
    dg = (1 - g**2) * (inner @ candidate["recurrent"])
    state = u * h + (1 - u) * g
    # The gate keeps or replaces the state, and moves between the two.
    tangent = du * (h - g) + u * dh + (1 - u) * dg
    return state, tangent


def _minimal_step(
    params: dict, h: _Vector, x: _Vector, *, dh: _Vector
) -> tuple[_Vector, _Vector]:
    """Return h' = u h + (1 − u) z, with z = V x, and its tangent."""
    update = params["update"]
    candidate = params["candidate"]
    z = x @ candidate["input"] + candidate["b"]
    u = expit(_affine(update, h, z))
    du = u * (1 - u) * (dh @ update["recurrent"])
    state = u * h + (1 - u) * z
    return state, du * (h - z) + u * dh


STEPS = {"gru": _gru_step, "minimal": _minimal_step}


def _quadrature(cell: _Cell) -> float:
    """Return χ of a minimal cell with fresh weights, by a quadrature of its own."""
    points, masses = np.polynomial.hermite_e.hermegauss(101)
    masses = masses / masses.sum()
    weak = cell.scales["update"] ** 2
    # z has the mean square of V x, and enters the gate through a V of scale 1 again.
    square = cell.sigma_v**2
    drive = square * cell.sigma_v**2

    def gate(q: float) -> Float[np.ndarray, " points"]:
        deviation = math.sqrt(weak * q + drive)
        return expit(deviation * points + cell.bias)

    q = square
    # The gate depends on q weakly, so that this converges in a few steps.
    for _ in range(200):
        u = gate(q)
        added = masses @ (1 - u) ** 2 * square
        q = added / (1 - masses @ u**2)
    u = gate(q)
    slope = masses @ (u * (1 - u)) ** 2
    # The states and the inputs in h − z are independent.
    return float(masses @ u**2 + weak * slope * (q + square))


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare networks with theory with tied weights, and that with fresh ones.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    seeds = data.sizes["seed"]
    # One bound for all cells together.
    num_cells = data.sizes["scale"] + data.sizes["bias"]
    bound = t_bound(num_cells, seeds)
    rates = mean(data.rate, axis="seed")
    time_rates = mean(data.time_rate, axis="seed")
    rows = []
    for scale in data.scale.values:
        tied = float(data.law_tied.sel(scale=scale))
        what = f"GRU, scale {scale:g}: growth of |δh|² per step"
        rate = rates.at(scale=scale)
        rows.append(_against(rate, tied, bound, what=what))
    for bias in data.bias.values:
        tied = float(data.law_time_tied.sel(bias=bias))
        what = f"minimal, bias {bias:g}: growth of |δh|² per step"
        rate = time_rates.at(bias=bias)
        rows.append(_against(rate, tied, bound, what=what))
    chaotic = rates.at(scale=CHAOTIC)
    fresh = data.law_fresh.sel(scale=CHAOTIC)
    difference = abs(data.law_time_fresh - data.law_quadrature)
    rows += [
        Compared(
            f"GRU, scale {CHAOTIC:g}: growth, less two standard errors",
            float(chaotic.value) - 2 * float(chaotic.error),
            low=1.0,
        ),
        # The closed form of the same case, by hand.
        within(
            f"GRU, scale {CHAOTIC:g}: χ of fresh weights",
            float(fresh),
            UNTIED,
            tolerance=1e-6,
        ),
        within(
            "minimal: χ against our quadrature",
            largest(difference),
            0.0,
            tolerance=1e-9,
        ),
    ]
    return settled(rows + _distance_rows(data) + _weak_rows(data))


def _distance_rows(data: xarray.Dataset) -> list[Compared]:
    """Compare the distance of two chaotic states at the end with that at the start."""
    # Behind the last step that was followed is NaN.
    num_steps = data.sizes["step"] - data.sizes["step"] // 3
    distance = data.distance.sel(scale=CHAOTIC).isel(step=slice(num_steps))
    logs = xarray.apply_ufunc(np.log, distance)
    growth = mean(logs.isel(step=-1) - logs.isel(step=0), axis="seed")
    bound = t_bound(1, data.sizes["seed"])
    return [
        Compared(
            f"GRU, scale {CHAOTIC:g}: ln of the distance, last less first, lower end",
            float(growth.value - bound * growth.error),
            low=0.0,
        )
    ]


def _weak_rows(data: xarray.Dataset) -> list[Compared]:
    """Compare minimal cells with one another, and with GRUs."""
    seeds = data.sizes["seed"]
    times = _time(data.time_rate)
    # Networks of all biases are from the same draws.
    ratios = mean(times.shift(bias=-1) / times, axis="seed").part(bias=slice(-1))
    bound = t_bound(ratios.value.size, seeds)
    longer = ratios.value - bound * ratios.error
    rates = mean(data.rate, axis="seed")
    time_rates = mean(data.time_rate, axis="seed")
    bound = t_bound(rates.value.size + time_rates.value.size, seeds)
    strong = abs(rates.value / data.law_fresh - 1)
    strong = strong - bound * rates.error / data.law_fresh
    weak = abs(time_rates.value / data.law_time_fresh - 1)
    weak = weak + bound * time_rates.error / data.law_time_fresh
    return [
        Compared(
            "minimal: time at a bias over that at the one before, least lower end",
            least(longer),
            low=1.0,
        ),
        Compared(
            "minimal: growth off that of fresh weights, as a share, largest upper end",
            largest(weak),
            high=least(strong),
            words=f"less than the least lower end of a GRU, {least(strong):.3g}",
        ),
    ]


def _against(rate: Estimate, tied: float, bound: float, *, what: str) -> Compared:
    """Compare the growth of networks with theory of tied weights."""
    tolerance = bound * float(rate.error) + SCATTER * tied
    return within(what, float(rate.value), tied, tolerance=tolerance)


def plot(data: xarray.Dataset) -> "Figure":
    """Draw growth against scale, distances over time, and times of forgetting.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, left, middle, right = three_panels(height=2.5, width=2.7)
    _draw_growth(left, data)
    _draw_distances(middle, data)
    _draw_times(right, data)
    return figure


def _draw_growth(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the growth of |δh|² per step against the scale."""
    rate = mean(data.rate, axis="seed")
    rate.draw(ax, data.scale, 0, label=NETWORKS)
    _style.line(ax, data.scale, y=data.law_tied, i=0, label=TIED)
    fresh = data.law_fresh
    _style.line(ax, data.scale, y=fresh, i=1, ls="--", label=FRESH)
    # Above it two states part, below it they meet.
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
        factor = float(of_scale.law_fresh)
        fresh = float(distance[0]) * factor**time
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
    times = mean(_time(data.time_rate), axis="seed")
    times.draw(ax, data.bias, 0, label=NETWORKS)
    tied = _time(data.law_time_tied)
    fresh = _time(data.law_time_fresh)
    _style.line(ax, data.bias, y=tied, i=0, ls="-", label=TIED)
    _style.line(ax, data.bias, y=fresh, i=1, ls="--", label=FRESH)
    ax.set(
        xlabel="bias of the update gate",
        ylabel="time of forgetting, steps",
        title=f"Minimal cell, recurrent scale {WEAK:g}",
        yscale="log",
    )
    marked_heights(ax, (1, 2, 5, 10))
    ax.legend(loc="upper left")


def _time(rate: xarray.DataArray) -> xarray.DataArray:
    """Return the steps in which |δh|² falls by a factor of e."""
    log_rate = xarray.apply_ufunc(np.log, rate)
    return -1 / log_rate
