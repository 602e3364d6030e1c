"""Residual spectra tend to a law of one number, unless slopes sit on the stream.

Tarnowski et al. (2019), arXiv:1809.08848, eq. 1 and Fig. 2, and Ling, He and Qiu
(2019), arXiv:1807.11694: blocks x' = x + a φ(Wx), of which the limit of great depth
depends on c = Σ a² σ_w² E φ'² alone, S(ψ) = exp(−c(1 + 2ψ)).

Top left: blocks of two layers at one c; lines are laws of finite depth, which the
papers do not have, black is their limit. Top right: their own blocks with three
activations, at branches that give all of them the same c; the three coincide. ReLU has
one singular value outside the law (the arrow), because its branches have a mean.
Bottom: the order x' = x + a W φ(x). Its slopes sit on the stream, which changes little
from block to block, so that blocks are not free of each other: the law of free blocks
has the right mean and too small a spread. Bottom right: the relative variance of s² of
free blocks (dashed), and with the correlations of slopes (solid). Marks there are
networks of two widths N extrapolated to infinity, 2 v(2N) − v(N), with two standard
errors. Densities are means over draws with two standard errors.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import optimize

import isometry
from isometry import Spectrum, networks, theory
from isometry._internal.types import Key
from paper_figs import _style
from paper_figs._check import Compared, settled, t_bound, within
from paper_figs._ensembles import (
    Estimate,
    Variables,
    largest_excess,
    mean,
    power,
    squared_values,
    typical_input,
)

# Not 1, at which an exponent of c would go unnoticed.
C = 0.8
ACTIVATIONS = ("tanh", "hard_tanh", "relu")


class Size(NamedTuple):
    """How large the figure is.

    Attributes:
        width: Units of the networks whose densities are shown.
        seeds: Their number.
        depths: Blocks of those at the top left.
        depth: Blocks of all others.
        strengths: The c of networks whose variances are measured.
        variance_depth: Their blocks.
        variance_width: Their units; half of them have twice as many.
        variance_seeds: Their number at each width.
    """

    width: int
    seeds: int
    depths: tuple[int, ...]
    depth: int
    strengths: tuple[float, ...]
    variance_depth: int
    variance_width: int
    variance_seeds: int


PRESETS = {
    "full": Size(
        width=256,
        seeds=16,
        depths=(2, 6, 24),
        depth=16,
        strengths=(0.25, 0.5, 1.0, 1.5, 2.0),
        variance_depth=8,
        variance_width=128,
        variance_seeds=100,
    ),
    "smoke": Size(
        width=96,
        seeds=8,
        depths=(2, 12),
        depth=8,
        strengths=(0.5, 2.0),
        variance_depth=8,
        variance_width=48,
        variance_seeds=150,
    ),
}

# ln s of the pictures. At c = 0.8 all limits end inside.
GRID = np.linspace(-2.6, 2.6, 261)

_LABELS = {"on the stream": "networks", "hard_tanh": "hard tanh", "relu": "ReLU"}
_ARROW: dict = {
    "fontsize": 6,
    "arrowprops": {"arrowstyle": "->", "lw": 0.6},
}

# Depths at which the distance of finite laws to the limit is compared. With a tenth of
# them the next order in 1/L would move the power by more than its tolerance.
_GREAT = (64, 256)


class Network(NamedTuple):
    """A kind of residual network.

    Attributes:
        activation: Its activation.
        order: The order of its branches, as `networks.resnet` has them.
        depth: The number of its blocks.
        c: Σ a² E φ'² over its blocks.
    """

    activation: str
    order: str
    depth: int
    c: float

    @property
    def branches(self) -> list[float]:
        """The multipliers that give every block the same share of c, at sigma_w = 1."""
        branches = []
        q = 1.0
        for _ in range(self.depth):
            share = self.c / self.depth
            square = share / theory.chi(self.activation, q, 1.0)
            branches.append(math.sqrt(square))
            # Of activations with a mean q grows faster, but those here that have one
            # are ReLU, whose slopes do not depend on q.
            q += square * theory.q_map(self.activation, q, 1.0, sigma_b=0.0)
        return branches

    def law(self) -> theory.Law:
        """Return the law at infinite width, of blocks free of each other."""
        # For slopes on the stream it is what the papers' argument would give.
        order = self.order
        if order == "pre_activation":
            order = "post_activation"
        return theory.residual_law(
            self.activation, self.branches, order=order, sigma_w=1.0
        )

    def spectrum(self, key: Key, *, width: int, seeds: int) -> Spectrum:
        """Measure the spectra of networks of this kind."""
        net = networks.resnet(
            width,
            self.depth,
            self.activation,
            scheme="gaussian",
            order=self.order,
            branch=self.branches,
            sigma_w=1.0,
            bias=False,
        )
        keys = jax.random.split(key, seeds)
        xs = typical_input(width)
        return isometry.ensemble(net, keys, xs, method="dense", span="hidden")


def _shown(size: Size) -> dict[str, Network]:
    """Return the networks whose densities are shown, by panel and name."""
    shown = {}
    # W₁ and W₂ are fresh on both sides of the slopes, so that this law is exact.
    for depth in size.depths:
        shown[f"depth {depth}"] = Network("relu", "two_layer", depth, c=C)
    for activation in ACTIVATIONS:
        shown[activation] = Network(activation, "post_activation", size.depth, c=C)
    shown["on the stream"] = Network("relu", "pre_activation", size.depth, c=C)
    return shown


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure densities and variances; compute the laws that they should have."""
    size = PRESETS[preset]
    key_shown, key_variances = jax.random.split(key)
    shown = _shown(size)
    return xarray.Dataset(
        {
            **_densities(key_shown, shown, size),
            **_variances(key_variances, size),
            **_limits(),
        },
        {
            "net": list(shown),
            "log_s_grid": GRID,
            "c": list(size.strengths),
            "great_depth": list(_GREAT),
            "depth": ("net", [net.depth for net in shown.values()]),
        },
        {"variance_depth": size.variance_depth},
    )


def _densities(key: Key, shown: dict[str, Network], size: Size) -> Variables:
    """Measure spectra, and compare each with the law of free blocks."""
    keys = jax.random.split(key, len(shown))
    log_s, excess, densities, variances = [], [], [], []
    for key_net, net in zip(keys, shown.values(), strict=True):
        law = net.law()
        sp = net.spectrum(key_net, width=size.width, seeds=size.seeds)
        values = np.asarray(sp.log_values, np.float64)
        log_s.append(values[:, 0])
        # A band has what chance and finite width explain, so that 1 is the most.
        excess.append(largest_excess(isometry.compare(sp, law)))
        densities.append(law.density(GRID, "log_s"))
        variances.append(_relative_variance(law))
    return {
        "log_s": (("net", "seed", "rank"), np.array(log_s)),
        "excess": ("net", excess),
        "law_density": (("net", "log_s_grid"), np.array(densities)),
        "law_variance": ("net", variances),
    }


def _relative_variance(law: theory.Law) -> float:
    return law.moment(2) / law.moment(1) ** 2 - 1


def _variances(key: Key, size: Size) -> Variables:
    """Measure Var s²/(mean s²)² of draws whose slopes sit on the stream.

    Each is measured at a width and at twice the width, and computed from theory.
    """
    measured, predicted = [], []
    for c in size.strengths:
        net = Network("relu", "pre_activation", size.variance_depth, c=c)
        by_width = []
        for scale in (1, 2):
            key, key_net = jax.random.split(key)
            width = scale * size.variance_width
            sp = net.spectrum(key_net, width=width, seeds=size.variance_seeds)
            lam = squared_values(sp)
            mean_lam = lam.mean(axis=-1)
            by_width.append(lam.var(axis=-1) / mean_lam**2)
        measured.append(by_width)
        predicted.append(_exact(net))
    return {
        "variance": (("c", "scale", "draw"), np.array(measured)),
        "law_exact": ("c", predicted),
    }


def _exact(net: Network) -> float:
    """Return Var s²/(mean s²)² of a network, with the correlations of slopes."""
    moments = theory.residual_moments(
        net.activation,
        net.branches,
        order=net.order,
        sigma_w=1.0,
    )
    return moments.variance / moments.mean**2


def _limits() -> Variables:
    """Compute the limit of great depth, how laws tend to it, and a known chain."""
    # Of linear blocks the law is known without the library, see `_polynomial_edges`.
    limit = theory.resnet_law(C)
    chain = theory.residual_law(
        "linear",
        [8**-0.5] * 8,
        order="post_activation",
        sigma_w=1.0,
    )
    distances = []
    for depth in _GREAT:
        law = Network("relu", "two_layer", depth, c=C).law()
        gap = law.cdf(GRID, "log_s") - limit.cdf(GRID, "log_s")
        distances.append(np.max(np.abs(gap)))
    return {
        "law_limit": ("log_s_grid", limit.density(GRID, "log_s")),
        "law_edges": ("edge", np.array(limit.support[0])),
        "law_chain": ("edge", np.array(chain.support[0])),
        "law_distance": ("great_depth", distances),
    }


def _free_variance(c: float, depth: int, spread: float) -> float:
    """Return Var s²/(mean s²)² of free blocks, of which each has v_X = `spread`."""
    g = c / depth
    of_block = (2 * g + spread * g**2) / (1 + g) ** 2
    return depth * of_block


def _polynomial_edges(square: float, depth: int) -> tuple[float, float]:
    """Return the edges of the law of s² of L layers x + a G x.

    With ψ of s² as a function of u, free multiplication gives the rational function
    λ(u) = (1 + u)(1 + a²u)^(L+1)(1 + a² + a²u)^(L−1)/u. The edges are its critical
    values.
    """

    # Critical points of λ are those of its logarithm, which is a sum.
    def log_value(u: float) -> float:
        factor = 1 + square * u
        inner = (depth + 1) * math.log(factor)
        outer = (depth - 1) * math.log(factor + square)
        return math.log((1 + u) / u) + inner + outer

    def slope(u: float) -> float:
        factor = 1 + square * u
        inner = (depth + 1) * square / factor
        outer = (depth - 1) * square / (factor + square)
        return 1 / (1 + u) - 1 / u + inner + outer

    # The slope is infinite at the poles, and brackets stay this far off them.
    tiny = 1e-9
    below = (tiny - 1 / square, -1 - tiny)
    above = (tiny, 1 / tiny)
    edges = []
    for bracket in (below, above):
        critical = optimize.root_scalar(slope, bracket=bracket)
        edges.append(math.exp(log_value(critical.root)))
    bottom, top = edges
    return bottom, top


def _limit_edges(c: float) -> tuple[float, float]:
    """Return the edges of s² of the limit, λ = e^(c(1 + 2ψ))(1 + ψ)/ψ at slope zero."""
    root = math.sqrt(1 + 2 / c)
    psi = np.array([-1 - root, root - 1]) / 2
    exponentials = np.exp(c * (1 + 2 * psi))
    low, high = exponentials * (1 + psi) / psi
    return low, high


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare networks with laws, and laws with closed forms."""
    rows = []
    for name in data.net.values:
        excess = float(data.excess.sel(net=name))
        what = f"{name}: largest gap over its band"
        # Blocks that are not free must not have the law of free blocks.
        if name == "on the stream":
            rows.append(Compared(f"{what} (free law)", excess, low=1.5))
            continue
        rows.append(Compared(what, excess, high=1.0))
    # The mean needs no freeness: (1 + g)^L with g = c/L.
    on_stream = data.sel(net="on the stream")
    squares = np.exp(2 * on_stream.log_s)
    square = mean(squares.mean("rank"), axis="seed")
    slack = t_bound(1, data.sizes["seed"]) * float(square.error)
    depth = int(on_stream.depth)
    predicted = (1 + C / depth) ** depth
    what = "on the stream: E s²"
    rows.append(within(what, float(square.value), predicted, tolerance=slack))
    rows += _variance_rows(data)
    rows += _law_rows(data)
    return settled(rows)


def _variance_rows(data: xarray.Dataset) -> list[Compared]:
    """Compare the variances of slopes on the stream with the exact and the free one."""
    rows = []
    variance = mean(data.variance).extrapolated()
    bound = t_bound(data.sizes["c"], data.sizes["draw"])
    for c in data.c.values:
        here = variance.at(c=c)
        exact = float(data.law_exact.sel(c=c))
        slack = bound * float(here.error)
        what = f"on the stream, c = {c:g}: Var s²/(E s²)²"
        rows.append(within(what, float(here.value), exact, tolerance=slack))
    largest = float(data.c[-1])
    last = variance.at(c=largest)
    lower = float(last.value - bound * last.error)
    free = _free_variance(largest, data.variance_depth, spread=2.0)
    what = f"on the stream, c = {largest:g}: beyond free blocks, lower bound"
    rows.append(Compared(what, lower - free, low=0.0))
    return rows


def _law_rows(data: xarray.Dataset) -> list[Compared]:
    """Compare the laws with closed forms, and with each other."""
    rows = []
    # Relative variances of factors add: k − 1 of slopes, of which k = 2 for ReLU, and
    # 1 of each Gaussian matrix.
    spreads = {"relu": 2.0}
    for name in data.net.values:
        if name.startswith("depth"):
            spreads[name] = 3.0
    for name, spread in spreads.items():
        here = data.sel(net=name)
        predicted = _free_variance(C, int(here.depth), spread)
        what = f"law, {name}: Var s²/(E s²)²"
        measured = float(here.law_variance)
        rows.append(within(what, measured, predicted, tolerance=1e-6))
    chain = _polynomial_edges(1 / 8, 8)
    rows += _edge_rows("limit", data.law_edges, _limit_edges(C))
    rows += _edge_rows("x + G x/√8, 8 blocks", data.law_chain, chain)
    what = "distance of laws to the limit: power of L"
    slope = power(np.log(data.law_distance), _GREAT)
    rows.append(within(what, slope, -1.0, tolerance=0.05))
    return rows


def _edge_rows(
    name: str, edges: xarray.DataArray, predicted: tuple[float, float]
) -> list[Compared]:
    """Compare the two edges of a law with closed forms."""
    rows = []
    for i, place in enumerate(("least", "largest")):
        what = f"{name}: {place} s²"
        edge = float(edges[i])
        # The library finds an edge as a root to some 1e-9.
        slack = 1e-7 * predicted[i]
        rows.append(within(what, edge, predicted[i], tolerance=slack))
    return rows


def plot(data: xarray.Dataset) -> Figure:
    """Draw the densities of three kinds of networks, and the variances."""
    figure, axes = _style.panels(2, 2, height=2.3)
    (depths, universal), (stream, variances) = axes
    names = [str(name) for name in data.net.values]
    by_depth = [name for name in names if name.startswith("depth")]
    _draw(depths, data, by_depth)
    _draw_laws(depths, data, by_depth, label="law of this depth")
    depths.set(title=f"Branches W₂φ(W₁x), ReLU, c = {C:g}")
    _draw(universal, data, ACTIVATIONS)
    depth = int(data.depth.sel(net="tanh"))
    universal.set(title=f"Branches φ(Wx), {depth} blocks, c = {C:g}")
    _draw(stream, data, ["on the stream"])
    _draw_laws(stream, data, ["on the stream"], label="law of free blocks")
    stream.set(title=f"Branches Wφ(x), ReLU, {depth} blocks, c = {C:g}")
    for ax in (depths, universal, stream):
        limit = data.law_limit.where(data.law_limit > 0)
        ax.plot(GRID, limit, color="black", ls="--", lw=0.9, label="limit of depth")
        ax.set(
            xlabel="ln s",
            ylabel="density of ln s",
            xlim=(GRID[0], GRID[-1]),
        )
        ax.legend(loc="upper left")
    # Where the largest singular value of a ReLU network is, outside the law.
    of_relu = data.log_s.sel(net="relu")
    top = float(of_relu.max("rank").mean())
    universal.annotate("ReLU", (top, 0), (top, 0.1), ha="center", **_ARROW)
    _draw_variances(variances, data)
    return figure


def _draw(ax: Axes, data: xarray.Dataset, names: Sequence[str]) -> None:
    """Draw measured densities."""
    edges = np.linspace(GRID[0], GRID[-1], 40)
    step = edges[1] - edges[0]
    middle = (edges[1:] + edges[:-1]) / 2
    for i, name in enumerate(names):
        log_s = data.log_s.sel(net=name).values
        counts = [np.histogram(draw, edges)[0] for draw in log_s]
        heights = np.array(counts) / (log_s.shape[-1] * step)
        density = mean(xarray.DataArray(heights, dims=("draw", "bin")))
        # Each network has bins of its own, so that marks do not cover each other.
        is_own = np.arange(len(middle)) % len(names) == i
        some = is_own & (density.value.values > 0)
        shown = Estimate(density.value[some], density.error[some])
        label = _LABELS.get(name, name)
        shown.draw(ax, middle[some], i, label=label)


def _draw_laws(
    ax: Axes, data: xarray.Dataset, names: Sequence[str], *, label: str
) -> None:
    """Draw the laws of networks, in the colours of `_draw`."""
    for i, name in enumerate(names):
        density = data.law_density.sel(net=name)
        # One entry of the legend stands for the lines of all colours.
        line_label = None
        if i == 0:
            line_label = label
        shown = density.where(density > 0)
        _style.line(ax, GRID, shown, i=i, label=line_label)


def _draw_variances(ax: Axes, data: xarray.Dataset) -> None:
    """Draw the relative variance of s² against c."""
    # Finite width shifts variances by 1/N, which cancels.
    variance = mean(data.variance).extrapolated()
    variance.draw(ax, data.c, 0, label="Networks, N → ∞")
    ax.plot(data.c, data.law_exact, color="black", label="Exact: slopes correlated")
    depth = data.variance_depth
    strengths = data.c.values
    free = [_free_variance(c, depth, spread=2.0) for c in strengths]
    ax.plot(strengths, free, color="black", ls="--", label="Free blocks")
    ax.set(
        xlabel="c",
        ylabel="Var s² / (E s²)²",
        title=f"Branches Wφ(x), ReLU, {depth} blocks",
    )
    ax.legend(loc="upper left")
