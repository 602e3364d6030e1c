"""In deep networks of fixed σ₀² only the class of the activation shapes the spectrum.

Pennington, Schoenholz, Ganguli (2018), arXiv:1802.09979, Figs. 2 and 3. A class is
smooth at 0, or linear near 0; the latter is the Bernoulli class.

Critical networks with orthogonal weights, with q*(L) solved such that
σ₀² = L(μ₂/μ₁² − 1) is 1/4. Left and middle: densities of s at one depth. Coloured lines
are the laws of each activation, the black one is the limit of the class, and marks are
networks, with two standard errors over draws. A triangle is a point mass, at the height
that it has in the histogram. A few low marks beside the smooth class are one direction
of each network, that of its own signal, which belongs to no law. Right: the Wasserstein
distance of s between each law and the limit of its class. It falls as 1/√L in the
smooth class and as 1/L in the Bernoulli class.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import xarray
from jaxtyping import Float
from scipy import optimize

import isometry
from isometry import theory
from isometry._internal.types import Key
from paper_figs import _densities, _draws, _style
from paper_figs._check import Compared, settled, within
from paper_figs._ensembles import largest_excess

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESETS = {
    "full": {
        "depth": 64,
        "depths": (16, 32, 64, 128, 256, 512, 1024),
        "width": 256,
        "seeds": 10,
    },
    "smoke": {
        "depth": 16,
        "depths": (256, 1024),
        "width": 64,
        "seeds": 8,
    },
}

CLASS = {
    "tanh": "smooth",
    "erf": "smooth",
    "arctan": "smooth",
    "hard_tanh": "bernoulli",
    "shifted_relu": "bernoulli",
}
LIMIT = {"smooth": theory.smooth_class, "bernoulli": theory.bernoulli_class}
OTHER = {"smooth": "bernoulli", "bernoulli": "smooth"}
# The claim: the power of L with which laws approach their limit.
RATE = {"smooth": -0.5, "bernoulli": -1.0}
# σ₀², which the paper keeps fixed as depth grows.
SPREAD = 0.25

# Distances are means over this many quantiles. Ten times fewer would miss how the mass
# is spread within the classes; ten times as many take ten times as long.
RANKS = (np.arange(64) + 0.5) / 64
HIGHEST = 1.75
EDGES = np.linspace(0, HIGHEST, 57)
# Where densities are drawn. At 0 that of the Bernoulli class is infinite.
FINE = np.linspace(0.002, HIGHEST, 500)


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Compute quantiles of laws and limits, and measure networks at one depth.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        `q`, the variance over (activation, depth); `law`, quantiles of s by the laws
        over (activation, depth, rank); `law_limit`, those of the limits over (cls,
        rank); and `log_s`, ln s of networks over (activation, seed, index).
    """
    size = PRESETS[preset]
    rng = _draws.generator(key)
    depths = size["depths"]
    variances = [[_q(name, depth) for depth in depths] for name in CLASS]
    quantiles = [[_quantiles(_law(name, depth)) for depth in depths] for name in CLASS]
    limits = [_quantiles(limit(SPREAD)) for limit in LIMIT.values()]
    measured = [_measured(name, size, rng=rng) for name in CLASS]
    return xarray.Dataset(
        {
            "q": (("activation", "depth"), np.array(variances)),
            "law": (("activation", "depth", "rank"), np.array(quantiles)),
            "law_limit": (("cls", "rank"), np.array(limits)),
            "log_s": (("activation", "seed", "index"), np.array(measured)),
        },
        {
            "activation": list(CLASS),
            "depth": list(depths),
            "cls": list(LIMIT),
            "rank": RANKS,
        },
        {"depth": size["depth"]},
    )


def _q(activation: str, depth: int) -> float:
    """Return the q* at which L(μ₂/μ₁² − 1) is σ₀²."""

    def relative_excess(log_q: float) -> float:
        coefficient = theory.variance_coefficient(activation, math.exp(log_q))
        return depth * coefficient / SPREAD - 1

    # The coefficient grows with q*: from nothing to more than any depth here needs.
    lowest, highest = math.log(1e-4), math.log(2.0)
    root = optimize.brentq(relative_excess, lowest, highest, xtol=1e-10)
    return math.exp(cast(float, root))


def _law(activation: str, depth: int) -> theory.Law:
    """Return the law of an activation at the q* of this depth."""
    return theory.jacobian_law(activation, depth, q=_q(activation, depth))


def _quantiles(law: theory.Law) -> Float[np.ndarray, " rank"]:
    """Return quantiles of s."""
    return np.asarray(law.quantile(RANKS, "s"))


def _measured(
    activation: str,
    size: dict,
    *,
    rng: np.random.Generator,
) -> Float[np.ndarray, "seeds n"]:
    """Return ln s of networks at one depth."""
    depth = size["depth"]
    q = _q(activation, depth)
    net = _draws.Critical(rng, activation, q, count=size["seeds"], n=size["width"])
    by_net = _draws.at_depths([net], "orthogonal", [depth], statistic=_draws.log_values)
    return by_net[0, 0]


def _distance(data: xarray.Dataset, cls: str) -> xarray.DataArray:
    """Return Wasserstein distances of s: of laws by depth from their class's limit."""
    return abs(data.law - data.law_limit.sel(cls=cls)).mean("rank")


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare laws with limits of their universality classes, and networks with laws.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    rows = _limits()
    for name in CLASS:
        rows += _of_activation(data, name)
    return settled(rows)


def _limits() -> list[Compared]:
    """Compare the limits of the classes with closed forms."""
    smooth = LIMIT["smooth"](SPREAD)
    bernoulli = LIMIT["bernoulli"](SPREAD)
    ((lowest, highest),) = smooth.support
    mass = bernoulli.atoms[-1].mass
    return [
        within("λ₋ of the smooth class", lowest, 0.32131892, tolerance=1e-7),
        within("λ₊ of the smooth class", highest, 2.42376260, tolerance=1e-7),
        within(
            "mass of the Bernoulli class at e^{σ₀²}", mass, 1 - SPREAD, tolerance=1e-12
        ),
    ]


def _of_activation(data: xarray.Dataset, name: str) -> list[Compared]:
    """Compare an activation's law with the limit of its class, and with networks."""
    cls = CLASS[name]
    part = data.sel(activation=name)
    own = _distance(part, cls)
    last = data.depth.values[-1]
    # Over a factor of four in depth, which both presets have.
    ratio = own.sel(depth=last) / own.sel(depth=last // 4)
    rate = float(np.log(ratio) / math.log(4))
    other = _distance(part, OTHER[cls])
    depth = data.attrs["depth"]
    sp = _draws.spectrum(part.log_s.values, depth)
    comparison = isometry.compare(sp, _law(name, depth))
    return [
        within(
            f"{name}: rate of the distance to its limit",
            rate,
            RATE[cls],
            tolerance=0.05,
        ),
        Compared(
            f"{name}: distance to the other class over that to its own",
            float(other.sel(depth=last) / own.sel(depth=last)),
            low=3.0,
        ),
        Compared(
            f"{name}: networks, largest gap over its band",
            largest_excess(comparison),
            high=1.0,
        ),
    ]


def plot(data: xarray.Dataset) -> "Figure":
    """Draw densities of each class at one depth, and distances to the limits.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    # Three panels are as wide as a page.
    figure, axes = _style.panels(1, 3, height=2.6, width=2.4)
    left, middle, right = axes[0]
    _draw_class(left, data, "smooth")
    _draw_class(middle, data, "bernoulli")
    _draw_distances(right, data)
    left.set_ylabel("density of s")
    return figure


def _members(cls: str) -> Sequence[str]:
    """Return the activations of a class."""
    return [name for name in CLASS if CLASS[name] == cls]


def _draw_class(ax: "Axes", data: xarray.Dataset, cls: str) -> None:
    """Draw the densities of a class at one depth."""
    depth = data.attrs["depth"]
    names = list(CLASS)
    for name in _members(cls):
        i = names.index(name)
        s = np.exp(data.log_s.sel(activation=name).values)
        _densities.draw_values(ax, s, EDGES, i=i, label=name)
        _draw_law(ax, _law(name, depth), i=i)
    # In black, and through the other lines.
    _draw_law(ax, LIMIT[cls](SPREAD), i=6, label="limit, L → ∞", dashes="--")
    ax.set(
        title=f"{cls.capitalize()} class, L = {depth}",
        xlabel="singular value s",
        yscale="log",
        ylim=(0.02, 60),
        xlim=(0, HIGHEST),
    )
    ax.legend(loc="upper left")


def _draw_law(
    ax: "Axes",
    law: theory.Law,
    *,
    i: int,
    label: str | None = None,
    dashes: str = "-",
) -> None:
    """Draw the density of a law, and its point masses."""
    density = np.asarray(law.density(FINE, "s"))
    _densities.draw_law(ax, FINE, density, i=i, label=label, dashes=dashes)
    for atom in law.atoms:
        if atom.lam > 0:
            place = math.sqrt(atom.lam)
            _densities.draw_atom(ax, place, atom.mass, edges=EDGES, i=i, size=4 + i)


def _draw_distances(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the distance of each law to the limit of its class against depth."""
    # Activations of a class nearly coincide, so that earlier ones have larger marks.
    sizes = {"tanh": 7, "erf": 5, "arctan": 2.5, "hard_tanh": 7, "shifted_relu": 4}
    for i, (name, cls) in enumerate(CLASS.items()):
        _style.line(
            ax,
            data.depth,
            y=_distance(data.sel(activation=name), cls),
            i=i,
            marker=_style.MARKS[i],
            ms=sizes[name],
            mfc="none",
            lw=0.8,
            label=name,
        )
    for cls, text in (("smooth", "1/√L"), ("bernoulli", "1/L")):
        own = _distance(data.sel(activation=_members(cls)), cls)
        # Below the marks.
        start = float(own.isel(depth=0).min()) / 2.5
        guide = start * (data.depth / data.depth[0]) ** RATE[cls]
        ax.plot(data.depth, guide, ":", color="black", lw=0.8)
        ax.annotate(
            text,
            (float(data.depth[-1]), float(guide[-1])),
            xytext=(0, -8),
            textcoords="offset points",
            ha="right",
        )
    _style.ticks(ax, data.depth)
    ax.margins(y=0.15)
    ax.set(
        title="Distance of laws to the limit",
        xlabel="depth L",
        ylabel="Wasserstein distance of s",
        yscale="log",
    )
