"""Partial Jacobians tell how depth acts; a norm and a skip make every scale critical.

Doshi, He and Gromov (2023), arXiv:2111.12143, and He, Doshi and Gromov (2022),
arXiv:2206.13568: J^(l, L) = E |∂h^L/∂h^l|²/N is the product of χ over the layers
between, so it is a power of depth at criticality, and exponential elsewhere.

Top left: plain networks. At σ_w² = 2 ReLU keeps J = 1; at σ_w = 1 tanh has q = 1/2l
and χ = 1 − 1/l, so J tends to l/L: at the depth shown the slope of ln J against ln l is
still 1.08 in theory, which that of the networks is held against. Lines are mean-field
theory.

Top right and bottom left: layers x' = μx + W φ(LN(x)) + b of tanh. Without skips they
have χ = ζ = σ_w² E φ'²/(σ_w² E φ² + σ_b²) at unit variance, with them
χ = μ² + (1 − μ²) ζ. At μ = 1 that is 1 for every σ_w, and J from block l is
(q_L/q_l)^ζ, where q_l = 1 + l(σ_w² E φ² + σ_b²) is the variance of the stream: a power
of depth once q is large. The slope of ln J against ln q in networks is held against −ζ.
"Everywhere critical" means no more than that: the power itself depends on σ_w. Marks at
the bottom left are networks of two widths N extrapolated, 2 ln J(2N) − ln J(N), as the
norm alone adds 2/N to ln χ; the dotted line is μ = 1 at this depth.

Bottom right: one gain a layer, such that the mean of s² up to it is 1, brings networks
of a wrong scale to J = 1. The paper tunes |ln J| from layer to layer by gradient steps
instead; the gains are drawn from other networks than those shown.

Marks: means over draws with two standard errors.
"""

import math
from typing import NamedTuple

import jax
import numpy as np
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy import stats

from isometry import networks, theory
from isometry._internal.types import Key
from isometry.networks import Network
from paper_figs import _style
from paper_figs._check import Compared, largest, settled, t_bound, within
from paper_figs._ensembles import (
    Estimate,
    Variables,
    behind_blocks,
    mean,
    power,
    rows_of_gaps,
    squared_gradients,
    typical_input,
)


class Scale(NamedTuple):
    """An activation at a scale of weights and biases.

    Attributes:
        activation: Its name.
        sigma_w: √(fan_in · Var W).
        sigma_b: Standard deviation of the biases.
    """

    activation: str
    sigma_w: float
    sigma_b: float = 0.0


PLAIN = {
    "ReLU, critical": Scale("relu", math.sqrt(2)),
    "tanh, critical": Scale("tanh", 1.0),
    "tanh, ordered": Scale("tanh", 0.8),
    "tanh, chaotic": Scale("tanh", 1.3),
}
WRONG = {
    "ReLU, σ$_w$ = 1": Scale("relu", 1.0),
    "tanh, σ$_w$ = 2.5": Scale("tanh", 2.5, 0.3),
}
SIGMA_B = 0.3
"""Of layers with a norm: with no biases ζ would not depend on σ_w."""

# Blocks in front of the first that is counted: before, the stream is far from where
# skips below 1 bring it. With twice as many blocks J of the narrow networks scatters.
_FRONT = 4

# Depths between which the power of critical tanh networks is taken. It is off −1 by
# 0.001 there; four times as many layers take four times as long.
_GREAT = (100, 400)


class Size(NamedTuple):
    """How large the figure is.

    Attributes:
        width: Units of half of the networks with norms; others have twice as many.
        seeds: Networks of each kind.
        depth: Layers of plain networks.
        blocks: Layers with norms.
        sigmas: The σ_w of these.
        skips: Their μ.
        layers: Layers of the networks that gains are given to.
    """

    width: int
    seeds: int
    depth: int
    blocks: int
    sigmas: tuple[float, ...]
    skips: tuple[float, ...]
    layers: int


PRESETS = {
    "full": Size(
        width=96,
        seeds=40,
        depth=32,
        blocks=24,
        sigmas=(0.25, 0.5, 1.0, 2.0, 4.0),
        skips=(0.0, 0.5, 0.9, 1.0),
        layers=16,
    ),
    "smoke": Size(
        width=48,
        seeds=30,
        depth=16,
        blocks=14,
        sigmas=(0.5, 4.0),
        skips=(0.5, 1.0),
        layers=8,
    ),
}


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure partial Jacobians of plain networks, with norms, and with gains."""
    size = PRESETS[preset]
    key_plain, key_norms, key_gains = jax.random.split(key, 3)
    axes = ("sigma_w", "skip", "scale", "draw", "block")
    great = [_log_critical(depth) for depth in _GREAT]
    zetas = [_zeta(sigma_w) for sigma_w in size.sigmas]
    return xarray.Dataset(
        {
            **_plain(key_plain, size),
            "law_great": ("great", great),
            "norm": (axes, _with_norms(key_norms, size)),
            "law_zeta": ("sigma_w", zetas),
            **_with_gains(key_gains, size),
        },
        {
            "kind": list(PLAIN),
            "wrong": list(WRONG),
            "sigma_w": list(size.sigmas),
            "skip": list(size.skips),
        },
    )


def _plain(key: Key, size: Size) -> Variables:
    """Measure partial Jacobians of plain networks, and compute them from theory."""
    names = _layers(size.depth)
    measured, predicted = [], []
    for index, scale in enumerate(PLAIN.values()):
        net = _network(scale, 2 * size.width, size.depth)
        key_net = jax.random.fold_in(key, index)
        measured.append(_partial(net, key_net, names, seeds=size.seeds))
        predicted.append(_products(scale, size.depth))
    return {
        "plain": (("kind", "draw", "layer"), np.array(measured)),
        "law_plain": (("kind", "layer"), np.array(predicted)),
    }


def _network(scale: Scale, width: int, depth: int) -> Network:
    """Return a plain network with so many layers."""
    return networks.mlp(
        [width] * (depth + 1),
        scale.activation,
        "gaussian",
        sigma_w=scale.sigma_w,
        sigma_b=scale.sigma_b,
    )


def _layers(depth: int) -> list[str]:
    """Return the points of a plain network, its pre-activations."""
    # Equal layers are stacked. The last, layers/2, is the output itself.
    hidden = [f"layers/1[{layer}]" for layer in range(depth - 2)]
    return ["layers/0", *hidden]


def _partial(
    net: Network, key: Key, names: list[str], *, seeds: int
) -> Float[np.ndarray, "draw point"]:
    """Measure |∂output/∂h|²/N at points of single draws."""
    (width,) = net.example.shape
    keys = jax.random.split(key, seeds)
    return squared_gradients(net, keys, typical_input(width), names=names)


def _products(scale: Scale, depth: int) -> Float[np.ndarray, " layer"]:
    """Return J from each pre-activation of a plain network, at infinite width."""
    # Inputs have mean square 1.
    first = scale.sigma_w**2 + scale.sigma_b**2
    path = theory.q_trajectory(
        scale.activation,
        first,
        scale.sigma_w,
        sigma_b=scale.sigma_b,
        depth=depth - 2,
    )
    variances = path.tolist()
    factors = [theory.chi(scale.activation, q, scale.sigma_w) for q in variances]
    # From the output to the input.
    products = np.cumprod(factors[::-1])
    return products[::-1]


def _log_critical(depth: int) -> float:
    """Return ln J^(0, l) of critical tanh networks at a great depth."""
    path = theory.q_trajectory("tanh", 1.0, 1.0, sigma_b=0.0, depth=depth)
    return sum(math.log(theory.chi("tanh", float(q), 1.0)) for q in path)


def _zeta(sigma_w: float) -> float:
    return theory.norm_chi("tanh", sigma_w, SIGMA_B)


def _with_norms(
    key: Key, size: Size
) -> Float[np.ndarray, "sigma skip scale draw block"]:
    """Measure partial Jacobians of layers with norms and skips."""
    names = behind_blocks(size.blocks)
    by_sigma = []
    for sigma_w in size.sigmas:
        by_skip = []
        for skip in size.skips:
            by_width = []
            for scale in (1, 2):
                net = networks.resnet(
                    scale * size.width,
                    size.blocks,
                    "tanh",
                    scheme="gaussian",
                    order="pre_activation",
                    norm="layer",
                    skip=skip,
                    sigma_w=sigma_w,
                    sigma_b=SIGMA_B,
                )
                key, key_net = jax.random.split(key)
                by_width.append(_partial(net, key_net, names, seeds=size.seeds))
            by_skip.append(by_width)
        by_sigma.append(by_skip)
    return np.array(by_sigma)


def _with_gains(key: Key, size: Size) -> Variables:
    """Measure networks of a wrong scale before and after they are given gains."""
    names = ["input", *_layers(size.layers)]
    width = 2 * size.width
    partial, gains, errors = [], [], []
    for scale in WRONG.values():
        key, key_gains, key_net = jax.random.split(key, 3)
        net = _network(scale, width, size.layers)
        keys = jax.random.split(key_gains, size.seeds)
        calibrated = net.calibrated(keys, typical_input(width))
        # Drawn from the same keys, which are not those of the gains.
        before = _partial(net, key_net, names, seeds=size.seeds)
        after = _partial(calibrated, key_net, names, seeds=size.seeds)
        partial.append([before, after])
        gains.append([row.value for row in calibrated.gains.rows])
        errors.append(calibrated.gains.error)
    return {
        "gained": (("wrong", "when", "draw", "at"), np.array(partial)),
        "gain": (("wrong", "at"), np.array(gains)),
        # The standard error of the mean of s² that the gains bring to 1.
        "gain_error": ("wrong", errors),
    }


class Unit(NamedTuple):
    """Moments of tanh at unit variance, from a quadrature that is not the library's.

    Attributes:
        square: E φ².
        slope: E φ'².
    """

    square: float
    slope: float


def _unit() -> Unit:
    # The trapezoidal rule converges as fast as any for what is smooth and decays; its
    # error at this step is below 1e-14.
    z = np.linspace(-12.0, 12.0, 2401)
    step = z[1] - z[0]
    weights = stats.norm.pdf(z) * step
    phi = np.tanh(z)
    slope = 1 - phi**2
    return Unit(
        square=float(weights @ phi**2),
        slope=float(weights @ slope**2),
    )


def _own_zeta(sigma_w: float) -> float:
    """Return ζ from `_unit`."""
    unit = _unit()
    added = sigma_w**2 * unit.square + SIGMA_B**2
    return sigma_w**2 * unit.slope / added


def _factors(sigma_w: float, skip: float, blocks: int) -> Float[np.ndarray, " block"]:
    """Return χ of each layer with a norm, μ² + σ_w² E φ'²/q of the stream it reads."""
    unit = _unit()
    added = sigma_w**2 * unit.square + SIGMA_B**2
    q = 1.0
    factors = []
    for _ in range(blocks):
        factors.append(skip**2 + sigma_w**2 * unit.slope / q)
        q = skip**2 * q + added
    return np.array(factors)


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare networks with theory, and theory with closed forms."""
    rows = []
    draws = data.sizes["draw"]
    bound = t_bound(data.law_plain.size, draws)
    gaps = mean(data.plain).gap(data.law_plain) / bound
    rows += rows_of_gaps(gaps, "kind", "J")
    predicted = data.law_plain.sel(kind="ReLU, critical")
    relu = abs(predicted - 1)
    # Rounding of a product of so many χ.
    slack = 1e-14 * data.sizes["layer"]
    what = "ReLU, critical: |J − 1| in theory"
    rows.append(Compared(what, largest(relu), high=slack))
    what = "tanh, critical: power of depth in theory"
    slope = power(data.law_great.values, _GREAT)
    rows.append(within(what, slope, -1.0, tolerance=0.01))
    rows.append(_plain_slope(data))
    return settled(rows + _norm_rows(data) + _slope_rows(data) + _gain_rows(data))


def _slope(numbers: xarray.DataArray, log_x: ArrayLike, axis: str) -> Estimate:
    """Return the slope of ln of means over draws, by least squares along an axis."""
    log_x = xarray.DataArray(log_x, dims=axis)
    centred = log_x - log_x.mean()
    weights = centred / (centred**2).sum()
    means = numbers.mean("draw", skipna=False)
    logs = xarray.apply_ufunc(np.log, means)
    # Points of one network scatter together, so that errors are those of whole draws:
    # to first order the slope moves with the mean of these.
    relative = xarray.dot(numbers / means - 1, weights, dim=axis)
    return Estimate(xarray.dot(logs, weights, dim=axis), mean(relative).error)


def _plain_slope(data: xarray.Dataset) -> Compared:
    """Compare the power of the layer in critical tanh networks with theory."""
    of_kind = data.sel(kind="tanh, critical")
    log_layers = np.log(np.arange(1, data.sizes["layer"] + 1))
    slope = _slope(of_kind.plain, log_layers, axis="layer")
    # Theory has no draws; at great depth its slope is 1.
    law = np.polyfit(log_layers, np.log(of_kind.law_plain), deg=1)[0]
    # One more test beside those of all J.
    bound = t_bound(data.law_plain.size + 1, data.sizes["draw"])
    what = "tanh, critical: slope of ln J against ln l in networks"
    tolerance = bound * float(slope.error)
    return within(what, float(slope.value), float(law), tolerance=tolerance)


def _slope_rows(data: xarray.Dataset) -> list[Compared]:
    """Compare the power of q that J is behind skips with μ = 1 with ζ."""
    rows = []
    blocks = data.sizes["block"]
    # Behind the last block J is 1.
    counted = slice(_FRONT, blocks - 1)
    num_growths = data.sizes["sigma_w"] * data.sizes["skip"]
    # One family with the growth of all layers with norms.
    bound = t_bound(num_growths + data.sizes["sigma_w"], data.sizes["draw"])
    for sigma_w in data.sigma_w.values:
        numbers = data.norm.sel(sigma_w=sigma_w, skip=1.0).isel(block=counted)
        added = sigma_w**2 * _unit().square + SIGMA_B**2
        log_q = np.log(1 + added * np.arange(1, blocks + 1))[counted]
        slope = _slope(numbers, log_q, axis="block").extrapolated()
        log_factors = np.log(_factors(sigma_w, 1.0, blocks))
        log_law = (log_factors.sum() - np.cumsum(log_factors))[counted]
        zeta = _own_zeta(sigma_w)
        # Blocks are steps of q, not small ones: theory itself is off by this.
        of_steps = abs(np.polyfit(log_q, log_law, deg=1)[0] + zeta)
        tolerance = bound * float(slope.error) + float(of_steps)
        what = f"norm, μ = 1, σ_w = {sigma_w:g}: slope of ln J against ln q, −ζ"
        rows.append(within(what, float(slope.value), -zeta, tolerance=tolerance))
    return rows


def _log_growth(data: xarray.Dataset) -> Estimate:
    """Return ln J from the first counted layer with a norm at infinite width."""
    first = mean(data.norm.isel(block=_FRONT))
    return first.log().extrapolated()


def _norm_rows(data: xarray.Dataset) -> list[Compared]:
    """Compare layers with norms with the growth that the stream gives them."""
    rows = []
    growth = _log_growth(data)
    bound = t_bound(growth.value.size, data.sizes["draw"])
    blocks = data.sizes["block"]
    for skip in data.skip.values:
        gaps = []
        for sigma_w in data.sigma_w.values:
            logs = np.log(_factors(sigma_w, skip, blocks))
            predicted = logs[_FRONT + 1 :].sum()
            here = growth.at(sigma_w=sigma_w, skip=skip)
            gap = float(here.gap(predicted))
            gaps.append(gap / bound)
        what = f"norm, μ = {skip:g}: ln J, largest gap over its interval"
        rows.append(Compared(what, max(gaps), high=1.0))
    for sigma_w in data.sigma_w.values:
        zeta = float(data.law_zeta.sel(sigma_w=sigma_w))
        what = f"norm, σ_w = {sigma_w:g}: ζ in theory"
        # Both quadratures are more exact than this.
        rows.append(within(what, zeta, _own_zeta(sigma_w), tolerance=1e-9))
    return rows


def _gain_rows(data: xarray.Dataset) -> list[Compared]:
    """Compare networks of these gains with 𝒥 = 1, and the gains with known ones."""
    rows = []
    after = mean(data.gained.isel(when=1))
    bound = t_bound(after.value.size, data.sizes["draw"])
    for name in data.wrong.values:
        here = after.at(wrong=name)
        label = _plain_text(name)
        # The gains are as uncertain as the mean over the draws that they are from.
        of_gains = float(data.gain_error.sel(wrong=name))
        error = (here.error**2 + of_gains**2) ** 0.5
        gaps = Estimate(here.value, error).gap(1.0) / bound
        what = f"{label}, with gains: J, largest gap over its interval"
        rows.append(Compared(what, largest(gaps), high=1.0))
        before = data.gained.sel(wrong=name).isel(when=0, at=0)
        # A network that was right before would show nothing.
        log = abs(math.log(before.mean()))
        rows.append(Compared(f"{label}, before: |ln J|", log, low=2.0))
    rows.append(_critical_gains(data, bound))
    return rows


def _critical_gains(data: xarray.Dataset, bound: float) -> Compared:
    """Compare ReLU networks with gains with critical ones."""
    name = next(iter(WRONG))
    relu = data.sel(wrong=name)
    # Without the first layer, in front of which there are no slopes.
    log_gains = np.log(relu.gain.values[1:])
    sigma_w = WRONG[name].sigma_w * math.exp(log_gains.mean())
    # The product of so many squared gains has the error of the mean that they make.
    num_squared = 2 * len(log_gains)
    relative = bound * float(relu.gain_error) / num_squared
    critical = math.sqrt(2)
    slack = critical * relative
    return within("ReLU with gains: σ_w", sigma_w, critical, tolerance=slack)


def _plain_text(name: str) -> str:
    """Return a name without the marks of a picture."""
    return name.replace("$", "")


def plot(data: xarray.Dataset) -> Figure:
    """Draw plain networks, layers with norms, their χ, and networks with gains."""
    figure, axes = _style.panels(2, 2, height=2.3)
    (plain, depth), (factor, gained) = axes
    _draw_plain(plain, data)
    _draw_depth(depth, data)
    _draw_factor(factor, data)
    _draw_gained(gained, data)
    return figure


def _draw_plain(ax: Axes, data: xarray.Dataset) -> None:
    """Draw partial Jacobians of plain networks, from each layer to the output."""
    measured = mean(data.plain)
    layers = np.arange(1, data.sizes["layer"] + 1)
    for i, kind in enumerate(data.kind.values):
        here = measured.at(kind=kind)
        law = data.law_plain.sel(kind=kind)
        here.draw_with_line(ax, layers, i, predicted=law, label=kind)
    total = data.sizes["layer"] + 1
    # Critical tanh networks tend to it.
    ax.plot(layers, layers / total, ":", color="black", label="l/L")
    marked = [layer for layer in (1, 2, 4, 8, 16, 32) if layer < total]
    _style.ticks(ax, marked)
    ax.set(
        xlabel="layer l",
        ylabel="J to the output",
        title="Plain networks",
        yscale="log",
        ylim=(1e-3, 1e3),
    )
    ax.legend(loc="upper left", ncols=2)


def _draw_depth(ax: Axes, data: xarray.Dataset) -> None:
    """Draw partial Jacobians behind skips with μ = 1, from each layer to the output."""
    measured = mean(data.norm.sel(skip=1.0)).part(scale=1)
    blocks = data.sizes["block"]
    points = np.arange(1, blocks + 1)
    for i, sigma_w in enumerate(data.sigma_w.values):
        zeta = float(data.law_zeta.sel(sigma_w=sigma_w))
        label = f"σ$_w$ = {sigma_w:g}, ζ = {zeta:.2f}"
        logs = np.log(_factors(sigma_w, 1.0, blocks))
        # From the stream behind a block on, only later blocks act.
        law = np.exp(logs.sum() - np.cumsum(logs))
        here = measured.at(sigma_w=sigma_w)
        here.draw_with_line(ax, points, i, predicted=law, label=label)
    marked = [block for block in (1, 2, 4, 8, 16, 24) if block <= blocks]
    _style.ticks(ax, marked)
    ax.set(
        xlabel="block l",
        ylabel="J to the output",
        title="Norm and skip, μ = 1: powers of depth",
        yscale="log",
    )
    ax.legend(loc="upper right")


def _draw_factor(ax: Axes, data: xarray.Dataset) -> None:
    """Draw χ of layers with norms against σ_w."""
    blocks = data.sizes["block"]
    growth = _log_growth(data).per(blocks - _FRONT - 1)
    low, high = float(data.sigma_w[0]), float(data.sigma_w[-1])
    grid = np.geomspace(low / 1.2, high * 1.2, 60)
    zetas = np.array([_own_zeta(sigma_w) for sigma_w in grid])
    for i, skip in enumerate(data.skip.values):
        chi = growth.at(skip=skip).exp()
        # Moved apart a little, because they meet where ζ is 1.
        moved = data.sigma_w * 1.04 ** (i - 1.5)
        chi.draw(ax, moved, i, label=f"μ = {skip:g}")
        law = skip**2 + (1 - skip**2) * zetas
        _style.line(ax, grid, law, i=i)
    finite = []
    for sigma_w in grid:
        logs = np.log(_factors(sigma_w, 1.0, blocks))
        finite.append(math.exp(logs[_FRONT + 1 :].mean()))
    ax.plot(grid, finite, ":", color="black", label="μ = 1, this depth")
    _style.ticks(ax, data.sigma_w.values)
    ax.set(xlabel="σ$_w$", ylabel="χ", title="χ = μ² + (1 − μ²)ζ")
    ax.legend(loc="lower right")


def _draw_gained(ax: Axes, data: xarray.Dataset) -> None:
    """Draw partial Jacobians before and after networks are given gains."""
    measured = mean(data.gained)
    layers = np.arange(data.sizes["at"])
    for i, name in enumerate(data.wrong.values):
        # Every second layer, so that marks at 1 do not cover each other.
        some = list(layers[i :: len(WRONG)])
        here = measured.at(wrong=name).part(at=some)
        before = here.part(when=0)
        after = here.part(when=1)
        # Open marks before, full ones after.
        before.draw(ax, some, i, label=f"{name}, before", mfc="white")
        after.draw(ax, some, i, label=f"{name}, with gains")
    ax.axhline(1.0, color="black", lw=0.8)
    ax.set(
        xlabel="layer l",
        ylabel="J to the output",
        title="A gain a layer",
        yscale="log",
        ylim=(1e-5, 1e8),
    )
    ax.legend(loc="upper right")
