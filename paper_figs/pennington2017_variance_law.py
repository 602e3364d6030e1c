"""At criticality the squared singular values spread as L(μ₂/μ₁² − 1 − s₁): for Gaussian weights always, at least as L.

Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735, eq. 22; s₁ is −1 for Gaussian weights and 0 for orthogonal.

Lines: the variance of λ = s² at q* = 1 by the law itself, for ten activations and both laws of the weights. Marks:
networks of finite width, as m₂/m₁² − 1 of each draw and depth. It is off by O(L/N), so three widths N, 2N, 4N are
extrapolated to 1/N = 0 (the parabola through them), and depth stops where L/N is a tenth; bars are two standard errors
over draws, of which the networks share their weights. Linear networks of orthogonal weights have no variance and are
left out of the logarithmic axes. Full: 2 minutes on 2 cores.
"""

from typing import Any

import numpy as np
import xarray

from isometry import theory
from paper_figs import _draws, _style
from paper_figs._check import Compared, settled, t_bound, within

ACTIVATIONS = ("linear", "relu", "tanh", "erf", "hard_tanh", "arctan", "elu", "selu", "softsign", "leaky_relu")
LAWS = ("gaussian", "orthogonal")
Q = 1.0
PRESETS = {
    "full": {"depths": (1, 2, 4, 8), "widths": (80, 160, 320), "seeds": 40},
    "smoke": {"depths": (1, 2), "widths": (20, 40, 80), "seeds": 80},
}
EXTRAPOLATE = (1 / 3, -2.0, 8 / 3)  # the value at 1/N = 0 of the parabola through N, 2N, 4N
KNOWN = {"linear": 0.0, "relu": 1.0, "erf": 2 / 3}  # μ₂/μ₁² − 1 at q* = 1 in closed form


def compute(preset: str, key: Any) -> xarray.Dataset:
    """(weights, activation, depth): the law's variance, and the networks' over seeds, extrapolated."""
    size, rng = PRESETS[preset], _draws.generator(key)
    shape = (len(LAWS), len(ACTIVATIONS), len(size["depths"]))
    names = ("weights", "activation", "depth")
    law = [[[_predicted(a, d, w) for d in size["depths"]] for a in ACTIVATIONS] for w in LAWS]
    measured = np.zeros((*shape, size["seeds"]))
    for width, share in zip(size["widths"], EXTRAPOLATE, strict=True):
        measured += share * np.stack([_measured(rng, w, width, size) for w in LAWS])
    return xarray.Dataset(
        {"law": (names, np.array(law)), "measured": ((*names, "seed"), measured)},
        {"weights": list(LAWS), "activation": list(ACTIVATIONS), "depth": list(size["depths"])},
        {"widths": list(size["widths"])},
    )


def _predicted(activation: str, depth: int, weights: str) -> float:
    return theory.jacobian_law(activation, depth, q=Q, weights=weights).variance


def _measured(rng: np.random.Generator, law: str, width: int, size: dict) -> np.ndarray:
    """(activation, depth, seed)."""
    nets = [_draws.Critical(rng, a, Q, size["seeds"], width) for a in ACTIVATIONS]
    found = []
    for depth in range(1, max(size["depths"]) + 1):
        weights = _draws.square(rng, law, size["seeds"], width)
        for net in nets:
            net.step(weights)
        if depth in size["depths"]:
            found.append([_spread(net.jacobian) for net in nets])
    return np.swapaxes(found, 0, 1)


def _spread(jacobian: np.ndarray) -> np.ndarray:
    gram = jacobian @ np.swapaxes(jacobian, 1, 2)
    n = gram.shape[-1]
    return n * (gram**2).sum((1, 2)) / np.trace(gram, axis1=1, axis2=2) ** 2 - 1


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """The law is the formula; the networks have the law's variance; Gaussian weights never have less than L."""
    s1 = xarray.DataArray([-1.0, 0.0], {"weights": list(LAWS)})
    mu = xarray.DataArray([theory.variance_coefficient(a, Q) for a in ACTIVATIONS], {"activation": list(ACTIVATIONS)})
    formula = data.depth * (mu - s1)
    found, error = data.measured.mean("seed"), _error(data)
    apart = np.abs(found - data.law) / (error + 1e-12)
    bound = t_bound(apart.size, data.sizes["seed"])
    at = " ".join(str(apart[name][int(i)].item()) for name, i in apart.argmax(...).items())
    least = float((formula / data.depth).sel(weights="gaussian").min())
    return settled(
        [
            within("largest |law − formula|", float(np.abs(data.law - formula).max()), 0.0, 1e-9),
            *(within(f"μ₂/μ₁² − 1 of {a}", float(mu.sel(activation=a)), v, 1e-12) for a, v in KNOWN.items()),
            Compared(f"networks from the law, standard errors (worst: {at})", float(apart.max()), high=bound),
            Compared("least variance over L, Gaussian weights", least, 1.0),
        ]
    )


def _error(data: xarray.Dataset) -> xarray.DataArray:
    return data.measured.std("seed", ddof=1) / np.sqrt(data.sizes["seed"])


def plot(data: xarray.Dataset) -> Any:
    """Variance against depth, and what was measured over what is predicted, for both laws of the weights."""
    figure, axes = _style.panels(2, 2, height=2.1, width=3.2, sharex=True)
    for column, weights in zip(axes.T, LAWS, strict=True):
        for i, name in enumerate(ACTIVATIONS):
            part = data.sel(weights=weights, activation=name)
            if not part.law.any():
                continue  # linear and orthogonal: isometric
            shift = 1.035 ** (i - 4.5)  # side by side
            mean, bar = part.measured.mean("seed"), 2 * _error(part)
            filled = {"mfc": "white"} if i >= len(_style.COLOURS) else {}
            _style.line(column[0], part.depth, part.law, i, ls="--" if filled else "-")
            _style.dots(column[0], part.depth, mean, bar, i, label=name, **filled)
            _style.dots(column[1], part.depth * shift, mean / part.law, bar / part.law, i, **filled)
        column[0].set(title=f"{weights.capitalize()} weights", xscale="log", yscale="log", ylabel="variance of λ = s²")
        column[1].axhline(1, color="black", lw=1, zorder=3)
        column[1].set(xlabel="depth L", ylabel="measured / predicted", title="extrapolated to infinite width")
        _style.ticks(column[1], data.depth)
    _style.legend(figure, axes[0, 0], ncols=5)
    return figure
