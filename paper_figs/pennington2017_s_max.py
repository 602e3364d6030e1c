"""Gaussian weights stretch signals as √L; orthogonal hard-tanh networks may not at all.

Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735, Fig. 3.

The largest singular value at criticality against depth, and against q* at one depth.
With orthogonal weights and a hard tanh the law ends in a point mass at p^(−L/2), where
p is the probability of the linear part. That is at most e^½ or a little more, to a
depth of 1/(1 − p), beyond which s_max grows as √L here too. At q* = 1 this depth is 3,
at 1/4 it is 22; at 1/64 it is 10^15, and such networks are linear at all depths here.

Lines are the top of the law, which is exact. Marks are networks, with two standard
errors over draws; networks of one width share their weights, and marks at one depth are
moved apart. Where a law ends in a soft edge, the largest of N values lies below it by
O(N^(−2/3)). So the mean of ln s_max at widths N, 2N and 4N is extrapolated by
a + b N^(−2/3) + c/N. Where the law ends in a point mass, each network has that value
exactly. Networks are measured only where L is at most a fiftieth of the largest width,
and not at L = 2: there ReLU with orthogonal weights has a hard edge, with other powers
of N. The paper shows no networks here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import special

from isometry import theory
from isometry._internal.types import Key
from paper_figs import _draws, _style
from paper_figs._check import Compared, largest, least, settled, t_bound, within
from paper_figs._ensembles import Estimate, mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESETS = {
    "full": {
        "depths": (1, 4, 8),
        "widths": (100, 200, 400),
        "seeds": 40,
        "points": 31,
    },
    "smoke": {
        "depths": (1, 4),
        "widths": (50, 100, 200),
        "seeds": 20,
        "points": 6,
    },
}


class _Net(NamedTuple):
    """A kind of network.

    Attributes:
        activation: Its activation.
        q: The variance of its pre-activations.
    """

    activation: str
    q: float


LAWS = ("gaussian", "orthogonal")
NETS = {
    "hard_tanh, q* = 1/64": _Net("hard_tanh", 1 / 64),
    "hard_tanh, q* = 1/4": _Net("hard_tanh", 1 / 4),
    "hard_tanh, q* = 1": _Net("hard_tanh", 1.0),
    "relu": _Net("relu", 1.0),
}
# The depth of the scan over q*.
FIXED = 64
# Growth is measured between the last two. At a hundredth of these depths the power of
# linear Gaussian networks is 0.45, still below its limit of 1/2.
DEEP = (64, 256, 1024)
# How far a law may be off its closed form. Solvers leave 1e-12; and a layer more or
# less is seen where q* is 1/30 or more.
TOLERANCE = 1e-9


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Compute the tops of the laws, and measure networks.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        `law`, s_max by the law over (weights, net, depth); `law_scan`, the same over
        (weights, q) at one depth; and `log_s_max`, ln s_max of networks over (weights,
        width, net, measured_depth, seed).
    """
    size = PRESETS[preset]
    rng = _draws.generator(key)
    q = np.geomspace(1 / 64, 4, size["points"])
    spaced = np.geomspace(1, DEEP[-1], size["points"]).round().astype(int)
    # Spaced depths may be among the others.
    depths = sorted({*DEEP, *size["depths"], *spaced.tolist()})
    tops = [_tops(weights, depths) for weights in LAWS]
    scanned = [_Net("hard_tanh", variance) for variance in q]
    scan = [[_law(net, FIXED, weights).s_max for net in scanned] for weights in LAWS]
    measured = []
    for weights in LAWS:
        by_width = [_measured(weights, n, size, rng=rng) for n in size["widths"]]
        measured.append(by_width)
    return xarray.Dataset(
        {
            "law": (("weights", "net", "depth"), np.array(tops)),
            "law_scan": (("weights", "q"), np.array(scan)),
            "log_s_max": (
                ("weights", "width", "net", "measured_depth", "seed"),
                np.array(measured),
            ),
        },
        {
            "weights": list(LAWS),
            "net": list(NETS),
            "depth": depths,
            "q": q,
            "width": list(size["widths"]),
            "measured_depth": list(size["depths"]),
        },
    )


def _law(net: _Net, depth: int, weights: str) -> theory.Law:
    """Return the law of as many layers."""
    return theory.jacobian_law(net.activation, depth, q=net.q, weights=weights)


def _tops(weights: str, depths: Sequence[int]) -> list[list[float]]:
    """Return s_max by the laws, over (net, depth)."""
    return [
        [_law(net, depth, weights).s_max for depth in depths] for net in NETS.values()
    ]


def _measured(
    weights: str,
    width: int,
    size: dict,
    *,
    rng: np.random.Generator,
) -> Float[np.ndarray, "nets depths seeds"]:
    """Return ln s_max of networks of one width."""
    nets = [
        _draws.Critical(rng, net.activation, net.q, count=size["seeds"], n=width)
        for net in NETS.values()
    ]
    return _draws.at_depths(nets, weights, size["depths"], statistic=_log_s_max)


def _log_s_max(
    jacobian: Float[np.ndarray, "seeds n n"],
) -> Float[np.ndarray, " seeds"]:
    """Return ln s_max of each matrix."""
    return np.log(np.linalg.norm(jacobian, ord=2, axis=(1, 2)))


def _extrapolated(data: xarray.Dataset) -> Estimate:
    """Return ln s_max at infinite width."""
    n = data.width.values.astype(float)
    powers = np.stack([n**0, n ** (-2 / 3), 1 / n], axis=1)
    # There are as many widths as coefficients, so that the first row of the inverse
    # gives a as a sum over widths.
    shares = xarray.DataArray(np.linalg.inv(powers)[0], {"width": data.width})
    by_width = mean(data.log_s_max.rename(seed="draw"))
    value = (shares * by_width.value).sum("width")
    square = ((shares * by_width.error) ** 2).sum("width")
    return Estimate(value, square**0.5)


def _has_top_atom(data: xarray.Dataset) -> xarray.DataArray:
    """Return whether the law of a measured network ends in a point mass."""
    is_atom = [
        [
            [_is_atom_on_top(_law(net, depth, weights)) for depth in _depths(data)]
            for net in NETS.values()
        ]
        for weights in LAWS
    ]
    return xarray.DataArray(is_atom, dims=("weights", "net", "measured_depth"))


def _depths(data: xarray.Dataset) -> list[int]:
    """Return the depths at which networks were measured."""
    return data.measured_depth.values.tolist()


def _is_atom_on_top(law: theory.Law) -> bool:
    """Return whether the law ends in a point mass."""
    # Laws here have no density above a point mass that is not at zero.
    return bool(law.atoms) and law.atoms[-1].lam > 0


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare laws with closed forms and powers of L, and networks with the laws.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    return settled([*_closed_forms(data), *_networks(data), *_growth(data)])


def _probability(activation: str, q: ArrayLike) -> Float[np.ndarray, "..."]:
    """Return the probability that φ' is 1 at pre-activations of variance q."""
    if activation == "relu":
        return np.full(np.shape(q), 0.5)
    return special.erf(1 / np.sqrt(2 * np.asarray(q)))


def _closed_form(
    p: Float[np.ndarray, "..."], depth: ArrayLike, weights: str
) -> Float[np.ndarray, "..."]:
    """Return s_max where φ' is 1 with probability p, and 0 otherwise."""
    length = np.asarray(depth, np.float64)
    # By free probability λ = (1 + z)/z f(z)^L, with f = 1 + z/p for Gaussian weights,
    # and 1 + z/p over 1 + z for orthogonal ones. An edge is where dλ/dz = 0.
    if weights == "gaussian":
        root = np.sqrt((length - 1) ** 2 + 4 * length * p)
        z = (root - (length - 1)) / (2 * length)
        factor = 1 + z / p
    else:
        # Where the denominator is not positive there is no edge, and z → ∞.
        denominator = np.maximum(length * (1 - p) - 1, 1e-300)
        z = p / denominator
        factor = (1 + z / p) / (1 + z)
    return np.sqrt((1 + 1 / z) * factor**length)


def _closed_forms(data: xarray.Dataset) -> list[Compared]:
    """Compare laws with closed forms, and where their top atom ends with 1/(1 − p)."""
    p = np.array([_probability(net.activation, net.q) for net in NETS.values()])
    depths = data.depth.values
    scanned = _probability("hard_tanh", data.q.values)
    rows = []
    for weights in LAWS:
        expected = _closed_form(p[:, None], depths, weights)
        by_depth = data.law.sel(weights=weights) / expected - 1
        expected = _closed_form(scanned, FIXED, weights)
        by_q = data.law_scan.sel(weights=weights) / expected - 1
        for what, error in (("all L", by_depth), (f"q* scan, L = {FIXED}", by_q)):
            rows.append(
                within(
                    f"{_named(weights)}, {what}: s_max off its closed form, largest",
                    largest(abs(error)),
                    0.0,
                    tolerance=TOLERANCE,
                )
            )
    at_atom = p[:, None] ** (-depths / 2)
    is_atom = abs(data.law.sel(weights="orthogonal") / at_atom - 1) < TOLERANCE
    # ReLU at L = 2 has its edge where its atom would be.
    is_expected = depths * (1 - p[:, None]) <= 1
    num_wrong = int((is_atom != is_expected).sum())
    rows.append(
        within(
            "laws that end at p^(−L/2) beyond L = 1/(1 − p), or not up to it",
            num_wrong,
            0,
            tolerance=0,
        )
    )
    return rows


def _named(weights: str) -> str:
    """Return the name of a law of the weights in a sentence."""
    return weights.replace("gaussian", "Gaussian")


def _networks(data: xarray.Dataset) -> list[Compared]:
    """Compare networks with the tops of their laws."""
    has_atom = _has_top_atom(data)
    log_law = np.log(data.law.sel(depth=data.measured_depth))
    from_edge = _extrapolated(data).gap(log_law).where(~has_atom, 0.0)
    num_edges = int((~has_atom).sum())
    from_atom = abs(data.log_s_max - log_law).where(has_atom, 0.0)
    return [
        Compared(
            "networks from the law's soft edge, standard errors",
            largest(from_edge),
            high=t_bound(num_edges, data.sizes["seed"]),
        ),
        # The rounding of a product of a few matrices.
        within(
            "networks at the law's top atom, largest |ln s_max/law|",
            largest(from_atom),
            0.0,
            tolerance=1e-12,
        ),
    ]


def _growth(data: xarray.Dataset) -> list[Compared]:
    """Compare the growth of laws with depth."""
    _, start, end = DEEP
    ratio = data.law.sel(depth=end) / data.law.sel(depth=start)
    power = np.log(ratio) / np.log(end / start)
    # At these depths the power is not yet quite its limit of 1/2.
    gaussian = power.sel(weights="gaussian")
    flat = data.law.sel(weights="orthogonal", net="hard_tanh, q* = 1/64", depth=end)
    return [
        Compared(
            f"least d ln s_max/d ln L, Gaussian, L = {start} to {end}",
            least(gaussian),
            low=0.49,
            high=0.51,
        ),
        Compared("largest of the same", largest(gaussian), low=0.49, high=0.51),
        within(
            f"s_max, orthogonal hard-tanh, q* = 1/64, L = {end}",
            float(flat),
            1.0,
            tolerance=1e-9,
        ),
    ]


def plot(data: xarray.Dataset) -> "Figure":
    """Draw s_max against depth for both laws of the weights, and against q*.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    # Three panels are as wide as a page.
    figure, axes = _style.panels(1, 3, height=2.5, width=2.4, sharey=True)
    left, middle, right = axes[0]
    for ax, weights in ((left, "gaussian"), (middle, "orthogonal")):
        _draw_depths(ax, data, weights)
    _draw_scan(right, data)
    left.set(ylabel="largest singular value s$_\\mathrm{max}$", yscale="log")
    values = (1, 2, 5, 10, 20, 50)
    left.set_yticks(values, list(map(str, values)))
    left.minorticks_off()
    _style.legend(figure, left, ncols=4)
    return figure


def _draw_depths(ax: "Axes", data: xarray.Dataset, weights: str) -> None:
    """Draw s_max against depth."""
    measured = _extrapolated(data).at(weights=weights).exp()
    # Laws of small q* hardly differ for Gaussian weights, so that one is dashed.
    dashes = ("-", (0, (4, 3)), "-", ":")
    for i, net in enumerate(NETS):
        law = data.law.sel(weights=weights, net=net)
        _style.line(ax, data.depth, y=law, i=i, ls=dashes[i], label=net)
        # Marks of one depth stand side by side.
        beside = data.measured_depth * 1.15 ** (i - (len(NETS) - 1) / 2)
        measured.at(net=net).draw(ax, beside, i, label="")
    _style.ticks(ax, (1, 4, 16, 64, 256, 1024))
    ax.set(title=f"{weights.capitalize()} weights (lines: laws)", xlabel="depth L")


def _draw_scan(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw s_max against q* at one depth."""
    for i, weights in enumerate(LAWS, start=len(NETS)):
        law = data.law_scan.sel(weights=weights)
        _style.line(ax, data.q, y=law, i=i, label=weights.capitalize())
    labels = {1 / 64: "1/64", 1 / 16: "1/16", 1 / 4: "1/4", 1: "1", 4: "4"}
    _style.ticks(ax, list(labels))
    ax.set_xticks(list(labels), list(labels.values()))
    ax.set(title=f"Laws of hard_tanh, L = {FIXED}", xlabel="q*")
    ax.legend(loc="upper left")
