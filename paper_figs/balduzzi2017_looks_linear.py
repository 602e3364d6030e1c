"""A looks-linear ReLU network is a linear isometry, though its weights are far from it.

Balduzzi et al. (2017), arXiv:1702.08591. Not a figure of the paper, which shows how
such networks train.

Hidden weights are [[B, −B], [−B, B]] with an orthogonal B, so that units come in pairs
of opposite signs. Behind a ReLU the difference of a pair is what was there before it,
and the network computes a product of orthogonal matrices. Left: singular values of a
hidden weight and of the Jacobian, next to those of a ReLU network with plain orthogonal
weights. One half of the values of the looks-linear weight is 2, and the other half is
0. Those of its Jacobian are all 1. Right, against depth: the largest |s − 1| of the
Jacobian, and the non-linearity |f(x + y) − f(x) − f(y)|/|f(x + y)|. Both vanish up to
rounding, which grows as √(L N) eps for L layers of N units. All in float64.
"""

from typing import NamedTuple

import jax
import numpy as np
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from isometry import networks
from isometry._internal.types import Key
from paper_figs import _draws, _style
from paper_figs._check import Compared, largest, least, settled, within

PRESETS = {
    "full": {"width": 128, "depths": (3, 10, 30, 100, 300)},
    "smoke": {"width": 32, "depths": (3, 30)},
}

SCHEMES = ("looks_linear", "orthogonal")

EPS = float(np.finfo(np.float64).eps)

# Room above √(L N) eps, as each product of two matrices rounds by a few eps. Errors of
# the networks are up to a fifth of √(L N) eps.
ROUNDINGS = 16

# Singular values of one weight round by about 1e-15. A weight that was drawn in float32
# would miss 2 by 1e-7.
ROUNDING_OF_WEIGHT = 1e-13

# Plain orthogonal weights with a ReLU lose directions, so that |s − 1| reaches 1; their
# networks are non-linear by 0.3 to 0.8.
NOT_ISOMETRIC = 0.5
NOT_LINEAR = 0.01

# The depth whose singular values are drawn.
DEPTH = 30


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure Jacobians and non-linearity of networks of all depths.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        Singular values: `weight`, of a hidden weight, over (scheme, unit), and
        `jacobian` over (scheme, depth, index). The non-linearity `bent` over
        (scheme, depth).
    """
    size = PRESETS[preset]
    rng = _draws.generator(key)
    depths, width = size["depths"], size["width"]
    x, y = rng.standard_normal((2, width // 2))
    drawn = [_weights(scheme, width, max(depths), key=key) for scheme in SCHEMES]
    hidden = [np.linalg.svd(weights[1], compute_uv=False) for weights in drawn]
    measured = []
    for weights in drawn:
        # Networks of all depths share their first layers and the last one.
        shorter = [[*weights[: depth - 1], weights[-1]] for depth in depths]
        measured.append([_measured(some, x, y) for some in shorter])
    jacobian = [[network.values for network in row] for row in measured]
    bent = [[network.bent for network in row] for row in measured]
    return xarray.Dataset(
        {
            "weight": (("scheme", "unit"), np.array(hidden)),
            "jacobian": (("scheme", "depth", "index"), np.array(jacobian)),
            "bent": (("scheme", "depth"), np.array(bent)),
        },
        {"scheme": list(SCHEMES), "depth": list(depths)},
    )


def _weights(
    scheme: str, width: int, depth: int, *, key: Key
) -> list[Float[np.ndarray, "fan_in fan_out"]]:
    """Draw the weights of all layers."""
    # As many inputs and outputs as B has rows.
    sizes = [width // 2, *[width] * (depth - 1), width // 2]
    with jax.enable_x64(True):
        net = networks.mlp(sizes, "relu", scheme, bias=False, dtype=np.float64)
        weights = []
        # Layer by layer, because hundreds of layers at once take long to compile.
        keys = jax.random.split(key, depth)
        for layer, layer_key in zip(net.plan, keys, strict=True):
            draw = net.scheme.initializer(layer)
            shape = (layer.fan_in, layer.fan_out)
            weights.append(np.asarray(draw(layer_key, shape, np.float64)))
    return weights


class _Measured(NamedTuple):
    """What a network does.

    Attributes:
        values: Singular values of the Jacobian at x.
        bent: How far f(x + y) is from f(x) + f(y), over its length.
    """

    values: Float[np.ndarray, " index"]
    bent: float


def _measured(
    weights: list[Float[np.ndarray, "fan_in fan_out"]],
    x: Float[np.ndarray, " inputs"],
    y: Float[np.ndarray, " inputs"],
) -> _Measured:
    """Measure the Jacobian and the non-linearity of a network."""
    output_x, jacobian = _through(weights, x)
    output_y, _ = _through(weights, y)
    output, _ = _through(weights, x + y)
    difference = np.linalg.norm(output - output_x - output_y)
    return _Measured(
        values=np.linalg.svd(jacobian, compute_uv=False),
        bent=float(difference / np.linalg.norm(output)),
    )


def _through(
    weights: list[Float[np.ndarray, "fan_in fan_out"]],
    x: Float[np.ndarray, " inputs"],
) -> tuple[Float[np.ndarray, " outputs"], Float[np.ndarray, "outputs inputs"]]:
    """Return the output of a network, and its Jacobian."""
    first, *others = weights
    z = x @ first
    jacobian = first.T
    for weight in others:
        slope = _slope(z)
        z = _activation(z) @ weight
        jacobian = weight.T @ (slope[:, None] * jacobian)
    return z, jacobian


def _activation(z: Float[np.ndarray, " units"]) -> Float[np.ndarray, " units"]:
    """Return the ReLU."""
    return np.maximum(z, 0)


def _slope(z: Float[np.ndarray, " units"]) -> Float[np.ndarray, " units"]:
    """Return the derivative of the ReLU."""
    return (z > 0).astype(np.float64)


def _deviation(data: xarray.Dataset) -> xarray.DataArray:
    """Return the largest |s − 1| of Jacobians."""
    return np.abs(data.jacobian - 1).max("index")


def _rounding(data: xarray.Dataset) -> xarray.DataArray:
    """Return to what the largest |s − 1| rounds, by depth."""
    return EPS * np.sqrt(data.depth * data.sizes["unit"])


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare both networks with linear isometries: one is one, and one is not.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    plain = data.sel(scheme="orthogonal")
    return settled(
        [
            *_looks_linear(data),
            Compared(
                "orthogonal: least of the largest |s − 1|",
                least(_deviation(plain)),
                low=NOT_ISOMETRIC,
            ),
            Compared(
                "orthogonal: least non-linearity",
                least(plain.bent),
                low=NOT_LINEAR,
            ),
        ]
    )


def _looks_linear(data: xarray.Dataset) -> list[Compared]:
    """Compare the network with an isometry, and its hidden weight with 2 and 0."""
    part = data.sel(scheme="looks_linear")
    rounding = ROUNDINGS * largest(_rounding(data))
    half = data.sizes["unit"] // 2
    upper = part.weight.isel(unit=slice(half))
    lower = part.weight.isel(unit=slice(half, None))
    return [
        within(
            "looks-linear: largest |s − 1| of the Jacobian",
            largest(_deviation(part)),
            0.0,
            tolerance=rounding,
        ),
        within(
            "looks-linear: |f(x + y) − f(x) − f(y)|/|f(x + y)|",
            largest(part.bent),
            0.0,
            tolerance=rounding,
        ),
        within(
            "looks-linear: weight, upper half, largest |s − 2|",
            largest(np.abs(upper - 2)),
            0.0,
            tolerance=ROUNDING_OF_WEIGHT,
        ),
        within(
            "looks-linear: weight, lower half, largest s",
            largest(lower),
            0.0,
            tolerance=ROUNDING_OF_WEIGHT,
        ),
    ]


def plot(data: xarray.Dataset) -> Figure:
    """Draw singular values by rank, and deviations against depth.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, axes = _style.panels(1, 2, height=2.6)
    left, right = axes[0]
    _draw_values(left, data)
    _draw_deviations(right, data)
    return figure


def _draw_values(ax: Axes, data: xarray.Dataset) -> None:
    """Draw singular values of a hidden weight and of the Jacobian, by rank."""
    for i, scheme in enumerate(SCHEMES):
        part = data.sel(scheme=scheme)
        name = scheme.replace("_", "-")
        colour = _style.COLOURS[i]
        # Open marks of weights are large, so that marks of Jacobians fit inside.
        weight = _draw_ranked(ax, part.weight)
        weight.set(color=colour, ms=5, mfc="none", label=f"{name}, weight")
        jacobian = _draw_ranked(ax, part.jacobian.sel(depth=DEPTH))
        jacobian.set(color=colour, ms=2, label=f"{name}, Jacobian")
    ax.text(0.75, 0.12, "half of the weight: 0", ha="center")
    ax.set(
        xlabel="rank / number of values",
        ylabel="singular value s",
        title=f"Singular values, {DEPTH} layers",
        ylim=(-0.15, None),
    )
    ax.legend(loc="upper right")


def _draw_ranked(ax: Axes, values: xarray.DataArray) -> Line2D:
    """Draw singular values against their rank, which goes from 0 to 1."""
    num_values = len(values)
    rank = (np.arange(num_values) + 0.5) / num_values
    # Of many equal values a few marks are enough.
    every = max(1, num_values // 32)
    (line,) = ax.plot(rank, values, "o-", lw=0.6, markevery=every)
    return line


def _draw_deviations(ax: Axes, data: xarray.Dataset) -> None:
    """Draw how far networks are from isometries, and from linear ones."""
    for i, scheme in enumerate(SCHEMES):
        part = data.sel(scheme=scheme)
        name = scheme.replace("_", "-")
        colour = _style.COLOURS[i]
        ax.plot(
            data.depth,
            part.bent,
            "s--",
            ms=5,
            mfc="none",
            color=colour,
            label=f"{name}: non-linearity",
        )
        ax.plot(
            data.depth,
            _deviation(part),
            "o-",
            ms=2.5,
            color=colour,
            label=f"{name}: largest |s − 1|",
        )
    label = "rounding, √(L N) eps"
    ax.plot(data.depth, _rounding(data), color="black", lw=0.8, label=label)
    _style.ticks(ax, data.depth)
    ax.set(
        xlabel="depth L",
        ylabel="deviation",
        yscale="log",
        title="Deviations against depth",
    )
    ax.legend(loc="center")
