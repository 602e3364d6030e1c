"""In wide networks lengths and correlations follow maps that make order or chaos.

Poole et al. (2016), arXiv:1606.05340, Figs. 1 and 2: tanh, sigma_b = 0.3.

In a wide network with random weights the length q = |z|²/N of the pre-activations of a
layer depends only on the length in the layer before, and the correlation c of two
inputs only on their correlation in the layer before. Left: the length map. On the
dotted line a layer leaves the length as it is; the map crosses it at its fixed point.
Middle: correlations of two inputs layer by layer, from c = 0, 0.6 and 0.99 at the fixed
point of q. They tend to 1 at the smallest sigma_w and away from 1 at the others. Right:
the critical line chi_1 = 1, on which the slope of the correlation map at c = 1 is 1. It
parts order, where all inputs become alike, from chaos, where close inputs come apart.

Lines are theory. Marks are means over networks of finite width N with Gaussian weights,
with two standard errors; in the middle some are shifted sideways, so that none hides
another. A network of width N is off by O(1/N) in each layer, so every mark must lie
within its t interval plus L/N at layer L. Full: width 1000.
"""

import math
from typing import NamedTuple

import numpy as np
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isometry import theory
from isometry._internal.types import Key
from paper_figs import _draws, _style
from paper_figs._check import Compared, largest, settled, t_bound, within
from paper_figs._ensembles import Estimate, mean

PRESETS = {
    "full": {"width": 1000, "seeds": 10, "depth": 12, "grid": 41},
    "smoke": {"width": 200, "seeds": 10, "depth": 6, "grid": 13},
}

ACTIVATION = "tanh"
SIGMA_B = 0.3
# The first is in the ordered phase, the others are in the chaotic one.
SIGMA_W = (1.3, 2.5, 4.0)

# Lengths and correlations from which networks start.
Q0 = (0.5, 2.0, 6.0, 12.0)
C0 = (0.0, 0.6, 0.99)

LARGEST_Q = 15.0
# Values of sigma_b over which the critical line is drawn.
RANGE_B = (0.05, 1.5)

# Of tanh networks at sigma_b = 0.3, from chi_1 = 1 by quadrature to ten digits.
CRITICAL_SQUARE_W = 1.9476546317
# In the chaotic phase of the figure c* is 0.12 at most; a network in the ordered phase
# would have 1.
CHAOTIC = 0.5


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure lengths behind one layer, and correlations behind each layer.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        `next_q` over (sigma_w, q0, seed), with the prediction `law_q0`; `c` over
        (sigma_w, c0, layer, seed), with `law_c`; the length map `law_q` over
        (sigma_w, q); and the critical sigma_w, `law_critical`, over sigma_b.
    """
    size = PRESETS[preset]
    rng = _draws.generator(key)
    # Closer together at small q, where the map is steep.
    q = LARGEST_Q * np.linspace(0, 1, size["grid"]) ** 2
    sigma_b = np.linspace(*RANGE_B, size["grid"])
    networks = [_measured(rng, sigma_w, size) for sigma_w in SIGMA_W]
    law_c = [_law_correlations(sigma_w, size["depth"]) for sigma_w in SIGMA_W]
    return xarray.Dataset(
        {
            "law_q": (("sigma_w", "q"), [_law_lengths(q, s) for s in SIGMA_W]),
            "law_q0": (("sigma_w", "q0"), [_law_lengths(Q0, s) for s in SIGMA_W]),
            "law_c": (("sigma_w", "c0", "layer"), law_c),
            "law_critical": ("sigma_b", [_critical(value) for value in sigma_b]),
            "next_q": (
                ("sigma_w", "q0", "seed"),
                np.array([network.lengths for network in networks]),
            ),
            "c": (
                ("sigma_w", "c0", "layer", "seed"),
                np.array([network.correlations for network in networks]),
            ),
        },
        {
            "sigma_w": list(SIGMA_W),
            "q": q,
            "q0": list(Q0),
            "c0": list(C0),
            "layer": np.arange(size["depth"] + 1),
            "sigma_b": sigma_b,
        },
        {"width": size["width"]},
    )


def _critical(sigma_b: float) -> float:
    """Return the sigma_w at which chi_1 = 1."""
    return theory.critical_points(ACTIVATION, sigma_b)[0].sigma_w


def _fixed_point(sigma_w: float) -> float:
    """Return the length that layers leave as it is."""
    return theory.q_fixed_point(ACTIVATION, sigma_w, SIGMA_B).value


def _law_lengths(
    lengths: tuple[float, ...] | Float[np.ndarray, " lengths"], sigma_w: float
) -> list[float]:
    """Return the predicted length behind one layer, for each length before it."""
    return [theory.q_map(ACTIVATION, q, sigma_w, sigma_b=SIGMA_B) for q in lengths]


def _law_correlations(sigma_w: float, depth: int) -> Float[np.ndarray, "c0 layers"]:
    """Return the predicted correlations before the first layer and behind each."""
    q = _fixed_point(sigma_w)
    path = [list(C0)]
    for _ in range(depth):
        before = path[-1]
        path.append(
            [
                theory.c_map(ACTIVATION, c, q, sigma_w=sigma_w, sigma_b=SIGMA_B)
                for c in before
            ]
        )
    return np.array(path).T


class _Measured(NamedTuple):
    """What networks of one sigma_w do.

    Attributes:
        lengths: Behind one layer, from each of `Q0`.
        correlations: Before the first layer and behind each, from each of `C0`.
    """

    lengths: Float[np.ndarray, "q0 seeds"]
    correlations: Float[np.ndarray, "c0 layers seeds"]


def _measured(rng: np.random.Generator, sigma_w: float, size: dict) -> _Measured:
    """Run vectors of all lengths and correlations through the same networks."""
    width, num_seeds, num_lengths = size["width"], size["seeds"], len(Q0)
    shape = (num_seeds, width)
    # Of the pairs for the length map only the first vector is used.
    singles = [_pair(rng, q, 0.0, shape=shape)[:, :, :1] for q in Q0]
    q = _fixed_point(sigma_w)
    pairs = [_pair(rng, q, c, shape=shape) for c in C0]
    z = np.concatenate([*singles, *pairs], axis=-1)
    lengths = np.empty(0)
    correlations = [_correlations(z[..., num_lengths:])]
    for layer in range(size["depth"]):
        bias = SIGMA_B * rng.standard_normal((num_seeds, width, 1))
        weights = sigma_w * _draws.square(rng, "gaussian", num_seeds, n=width)
        z = weights @ np.tanh(z) + bias
        if layer == 0:
            squares = np.mean(z[..., :num_lengths] ** 2, axis=1)
            lengths = squares.T
        correlations.append(_correlations(z[..., num_lengths:]))
    return _Measured(lengths, np.stack(correlations, axis=1))


def _pair(
    rng: np.random.Generator, q: float, c: float, *, shape: tuple[int, int]
) -> Float[np.ndarray, "seeds width 2"]:
    """Draw two vectors of exactly this length and correlation, otherwise random."""
    _, width = shape
    basis, _ = np.linalg.qr(rng.standard_normal((*shape, 2)))
    mixing = np.array([[1.0, c], [0.0, math.sqrt(1 - c**2)]])
    return basis * math.sqrt(width * q) @ mixing


def _correlations(
    z: Float[np.ndarray, "seeds width vectors"],
) -> Float[np.ndarray, "pairs seeds"]:
    """Return the correlations of vectors that stand in pairs."""
    first = z[..., 0::2]
    second = z[..., 1::2]
    product = np.sum(first * second, axis=1)
    squares = np.sum(first**2, axis=1) * np.sum(second**2, axis=1)
    correlations = product / np.sqrt(squares)
    return correlations.T


def _over_seeds(values: xarray.DataArray) -> Estimate:
    """Return means over networks."""
    return mean(values.rename(seed="draw"))


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare networks with the maps, and the phases with known values.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    critical = _critical(SIGMA_B) ** 2
    ordered, *chaotic = [
        theory.c_fixed_point(ACTIVATION, sigma_w, SIGMA_B).value for sigma_w in SIGMA_W
    ]
    return settled(
        [
            _largest_gap(
                "q of the next layer",
                data.next_q,
                law=data.law_q0,
                slack=data.law_q0 / data.width,
            ),
            _mean_length(data),
            _largest_gap(
                "correlations",
                # Before the first layer correlations are exact.
                data.c.isel(layer=slice(1, None)),
                law=data.law_c,
                slack=data.layer / data.width,
            ),
            within(
                "critical sigma_w² at sigma_b = 0.3",
                critical,
                CRITICAL_SQUARE_W,
                tolerance=1e-8,
            ),
            within(
                f"c* at sigma_w = {SIGMA_W[0]} (ordered)", ordered, 1.0, tolerance=1e-12
            ),
            Compared(
                "largest c* at the other sigma_w (chaotic)", max(chaotic), high=CHAOTIC
            ),
        ]
    )


def _largest_gap(
    what: str,
    values: xarray.DataArray,
    *,
    law: xarray.DataArray,
    slack: xarray.DataArray,
) -> Compared:
    """Compare the worst of many means with its interval."""
    measured = _over_seeds(values)
    bound = t_bound(measured.error.size, values.sizes["seed"])
    interval = bound * measured.error + slack
    gap = np.abs(measured.value - law) / interval
    return Compared(f"{what}, largest gap over its interval", largest(gap), high=1.0)


def _mean_length(data: xarray.Dataset) -> Compared:
    """Compare the mean ratio of lengths to their predictions with 1."""
    # Single lengths fluctuate by √(2/N), which hides an error of 5 % in a narrow
    # network. The mean over twelve of them shows it.
    relative = data.next_q / data.law_q0
    together = _over_seeds(relative.mean(["sigma_w", "q0"]))
    tolerance = t_bound(1, data.sizes["seed"]) * together.error + 1 / data.width
    return within(
        "q of the next layer over its prediction, mean",
        float(together.value),
        1.0,
        tolerance=float(tolerance),
    )


def plot(data: xarray.Dataset) -> Figure:
    """Draw the length map, correlations by layer, and the phase diagram.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, axes = _style.panels(1, 3, height=2.6, width=2.4)
    left, middle, right = axes[0]
    _draw_lengths(left, data)
    _draw_correlations(middle, data)
    _draw_phases(right, data)
    _style.legend(figure, left, ncols=4)
    return figure


def _draw_lengths(ax: Axes, data: xarray.Dataset) -> None:
    """Draw the length behind a layer against that before it."""
    lengths = _over_seeds(data.next_q)
    for i, sigma_w in enumerate(SIGMA_W):
        label = rf"$\sigma_w$ = {sigma_w:g}"
        _style.line(ax, data.q, y=data.law_q.sel(sigma_w=sigma_w), i=i)
        lengths.at(sigma_w=sigma_w).draw(ax, data.q0, i, label=label)
    ax.plot(data.q, data.q, ":", color="0.4", lw=0.8, label="the same length")
    ax.set(
        xlabel="length q",
        ylabel="length q behind the layer",
        title="Length map (lines: theory)",
    )


def _draw_correlations(ax: Axes, data: xarray.Dataset) -> None:
    """Draw the correlation of two inputs against the layer."""
    correlations = _over_seeds(data.c)
    for i, sigma_w in enumerate(SIGMA_W):
        # A tenth of a layer apart, error bars can be told from one another.
        shifted = data.layer + 0.1 * (i - 1)
        for c0 in C0:
            path = data.law_c.sel(sigma_w=sigma_w, c0=c0)
            _style.line(ax, data.layer, y=path, i=i)
            marks = correlations.at(sigma_w=sigma_w, c0=c0)
            marks.draw(ax, shifted, i, label="")
    ax.set_xticks(data.layer[:: len(data.layer) // 4])
    ax.set(
        xlabel="layer",
        ylabel="correlation c",
        title="Correlation of two inputs (lines: theory)",
    )


def _draw_phases(ax: Axes, data: xarray.Dataset) -> None:
    """Draw the critical line, and where the networks are."""
    ax.plot(data.law_critical, data.sigma_b, color="black")
    for i, sigma_w in enumerate(SIGMA_W):
        mark = _style.MARKS[i]
        ax.plot(sigma_w, SIGMA_B, mark, color=_style.COLOURS[i], ms=5)
    ax.text(1.2, 1.0, "order", ha="center")
    ax.text(3.2, 1.0, "chaos", ha="center")
    ax.text(2.05, 1.2, r"$\chi_1 = 1$")
    ax.set(
        xlabel=r"$\sigma_w$",
        ylabel=r"$\sigma_b$",
        title="Phases",
        xlim=(0.5, 4.3),
        ylim=(0, 1.55),
    )
