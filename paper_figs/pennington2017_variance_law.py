"""At criticality s² has a variance in proportion to depth; for Gaussian weights ≥ L.

Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735, eq. 22: the variance of λ = s²
is L(μ₂/μ₁² − 1 − s₁), where s₁ is −1 for Gaussian weights and 0 for orthogonal ones.

Ten activations at q* = 1. Lines are the laws. Marks are networks of finite width, with
two standard errors over draws; different activations have the same weights. A network
of width N is off by terms of order L/N. So three widths N, 2N and 4N are extrapolated
to 1/N = 0 by the parabola through them, and depth ends where L/N is a tenth. Above:
variance over depth, which the paper says is constant. Below: networks over the law,
without linear networks of orthogonal weights, whose law has no variance. The check also
holds the mean of λ in networks against 1, which criticality asks for. The paper states
the formula and does not plot it.
"""

from typing import TYPE_CHECKING

import numpy as np
import xarray
from jaxtyping import Float

from isometry import theory
from isometry._internal.types import Key
from paper_figs import _draws, _style
from paper_figs._check import Compared, largest, settled, t_bound, within
from paper_figs._ensembles import Estimate, mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESETS = {
    "full": {"depths": (1, 2, 4, 8), "widths": (80, 160, 320), "seeds": 40},
    "smoke": {"depths": (1, 2), "widths": (20, 40, 80), "seeds": 80},
}

ACTIVATIONS = (
    "linear",
    "relu",
    "tanh",
    "erf",
    "hard_tanh",
    "arctan",
    "elu",
    "selu",
    "softsign",
    "leaky_relu",
)
LAWS = ("gaussian", "orthogonal")
# The constant s₁ of the paper's formula, for each law of the weights.
S1 = {"gaussian": -1.0, "orthogonal": 0.0}
Q = 1.0
# Shares of the widths N, 2N and 4N in the value at 1/N = 0 of the parabola through
# them.
EXTRAPOLATE = (1 / 3, -2.0, 8 / 3)
# μ₂/μ₁² − 1 at q* = 1 in closed form.
CLOSED_FORMS = {"linear": 0.0, "relu": 1.0, "erf": 2 / 3}
# Linear networks of orthogonal weights are isometries of which all draws agree, so that
# their standard error is rounding. A larger number would loosen the bounds of others,
# whose errors are above 1e-3; a smaller one would be rounding itself.
ROUNDING = 1e-12


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure mean and variance of λ in networks, and compute those of the laws.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        Over (weights, activation, depth): `law`, the variance by the law. With seeds as
        a fourth axis, extrapolated to infinite width: `measured`, the variance over the
        squared mean, and `mean`.
    """
    size = PRESETS[preset]
    rng = _draws.generator(key)
    predicted = [
        [
            [_predicted(a, depth, weights) for depth in size["depths"]]
            for a in ACTIVATIONS
        ]
        for weights in LAWS
    ]
    extrapolated = 0.0
    for width, share in zip(size["widths"], EXTRAPOLATE, strict=True):
        by_law = [_measured(weights, width, size, rng=rng) for weights in LAWS]
        extrapolated = extrapolated + share * np.array(by_law)
    means, variances = np.moveaxis(np.asarray(extrapolated), -1, 0)
    by_depth = ("weights", "activation", "depth")
    return xarray.Dataset(
        {
            "law": (by_depth, np.array(predicted)),
            "measured": ((*by_depth, "seed"), variances),
            "mean": ((*by_depth, "seed"), means),
        },
        {
            "weights": list(LAWS),
            "activation": list(ACTIVATIONS),
            "depth": list(size["depths"]),
        },
        {"widths": list(size["widths"])},
    )


def _predicted(activation: str, depth: int, weights: str) -> float:
    """Return the variance of λ by the law."""
    return theory.jacobian_law(activation, depth, q=Q, weights=weights).variance


def _measured(
    weights: str,
    width: int,
    size: dict,
    *,
    rng: np.random.Generator,
) -> Float[np.ndarray, "activations depths seeds 2"]:
    """Return mean and variance of λ in networks of one width."""
    nets = [
        _draws.Critical(rng, activation, Q, count=size["seeds"], n=width)
        for activation in ACTIVATIONS
    ]
    return _draws.at_depths(nets, weights, size["depths"], statistic=_moments)


def _moments(
    jacobian: Float[np.ndarray, "seeds n n"],
) -> Float[np.ndarray, "seeds 2"]:
    """Return the mean of λ, and its variance over the squared mean."""
    gram = jacobian @ np.swapaxes(jacobian, 1, 2)
    n = gram.shape[-1]
    trace = np.trace(gram, axis1=1, axis2=2)
    # The sum of squares of all entries is the sum of λ².
    square = np.sum(gram**2, axis=(1, 2))
    return np.stack([trace / n, n * square / trace**2 - 1], axis=-1)


def _over_draws(values: xarray.DataArray) -> Estimate:
    """Return means over networks, with errors that are never zero."""
    estimate = mean(values.rename(seed="draw"))
    return Estimate(estimate.value, estimate.error + ROUNDING)


def _coefficient() -> xarray.DataArray:
    """Return the claim: variance over depth, over (activation, weights)."""
    spread = [theory.variance_coefficient(name, Q) for name in ACTIVATIONS]
    of_activation = xarray.DataArray(spread, {"activation": list(ACTIVATIONS)})
    of_weights = xarray.DataArray(list(S1.values()), {"weights": list(S1)})
    return of_activation - of_weights


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare variances of laws with the closed formula, and networks with laws.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    coefficient = _coefficient()
    difference = abs(data.law - data.depth * coefficient)
    rows = [within("largest |law − formula|", largest(difference), 0.0, tolerance=1e-9)]
    # Orthogonal weights add nothing to what the activation contributes.
    of_activation = coefficient.sel(weights="orthogonal")
    for name, expected in CLOSED_FORMS.items():
        value = float(of_activation.sel(activation=name))
        rows.append(within(f"μ₂/μ₁² − 1 of {name}", value, expected, tolerance=1e-12))
    gap = _over_draws(data.measured).gap(data.law)
    bound = t_bound(gap.size, data.sizes["seed"])
    what = f"networks from the law, standard errors (worst: {_worst(gap)})"
    rows.append(Compared(what, largest(gap), high=bound))
    per_layer = _over_draws(data.measured.sel(weights="gaussian") / data.depth)
    # For the linear network it is 1. A number below 1 must be so by chance.
    short_of_one = (1 - per_layer.value) / per_layer.error
    what = "networks' variance over L, Gaussian weights: standard errors below 1"
    rows.append(Compared(what, largest(short_of_one), high=bound))
    of_means = _over_draws(data["mean"]).gap(1.0)
    what = f"networks' mean of λ from 1, standard errors (worst: {_worst(of_means)})"
    rows.append(Compared(what, largest(of_means), high=bound))
    return settled(rows)


def _worst(gap: xarray.DataArray) -> str:
    """Return the labels of the largest gap in words."""
    indices = gap.argmax(...)
    assert isinstance(indices, dict)
    labels = [gap[name][int(index)].item() for name, index in indices.items()]
    return " ".join(map(str, labels))


def plot(data: xarray.Dataset) -> "Figure":
    """Draw variance over depth and networks over laws, for both laws of the weights.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, axes = _style.panels(2, 2, height=2.2, width=3.2, sharex=True)
    for (top, bottom), weights in zip(axes.T, LAWS, strict=True):
        part = data.sel(weights=weights)
        _draw_variance(top, part)
        _draw_ratio(bottom, part)
        top.set_title(f"{weights.capitalize()} weights (lines: laws)")
        _style.ticks(bottom, data.depth)
    axes[0, 0].set_ylabel("variance of λ = s², over L")
    axes[1, 0].set_ylabel("networks / law")
    _style.legend(figure, axes[0, 0], ncols=5)
    return figure


def _beside(data: xarray.Dataset, i: int) -> xarray.DataArray:
    """Return depths, moved so that the marks of activations stand side by side."""
    # Steps ten times larger would mix depths, and smaller ones would hide marks.
    step = 1.035
    return data.depth * step ** (i - (len(ACTIVATIONS) - 1) / 2)


def _mark(i: int) -> dict[str, str]:
    """Return what tells apart marks of the same colour: the later ones are open."""
    if i < len(_style.COLOURS):
        return {}
    return {"mfc": "white"}


def _draw_variance(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the variance over depth, which does not depend on depth."""
    for i, name in enumerate(ACTIVATIONS):
        part = data.sel(activation=name)
        estimate = _over_draws(part.measured / part.depth)
        estimate.draw(ax, _beside(data, i), i, label=name, **_mark(i))
        dashes = "-"
        if _mark(i):
            dashes = "--"
        ends = _beside(data, 0)[0], _beside(data, len(ACTIVATIONS) - 1)[-1]
        level = float(part.law[0] / part.depth[0])
        _style.line(ax, ends, y=[level, level], i=i, ls=dashes, lw=0.8)
    ax.set_ylim(bottom=-0.05)


def _draw_ratio(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw what was measured over what is predicted."""
    for i, name in enumerate(ACTIVATIONS):
        part = data.sel(activation=name)
        # Linear networks of orthogonal weights have no variance.
        if not part.law.any():
            continue
        estimate = _over_draws(part.measured / part.law)
        estimate.draw(ax, _beside(data, i), i, label=name, **_mark(i))
    ax.axhline(1, color="black", lw=0.8, zorder=1)
    ax.set_xlabel("depth L")
