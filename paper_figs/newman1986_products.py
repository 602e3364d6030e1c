"""Products of L Gaussian matrices have ln s that grow as L times Newman's exponents.

Newman (1986), Communications in Mathematical Physics 103, 121. Not a figure of the
paper; depths up to 10,000 are ours.

One product of real N × N matrices with entries of variance 1/N, read at several depths
L. Its i-th largest singular value s_i behaves as exp(L λ_i), with the exponents
λ_i = ½[ψ((N − i + 1)/2) + ln 2 − ln N]. Left: ln s_i over L, by
`isometry.linalg.product_log_singular_values`, and the exponents as a line. Crosses are
an SVD of the product multiplied out in float64, rescaled in each step so that it cannot
underflow: values below eps times the largest are lost. Right: the logarithm of the
condition number s_1/s_N, which goes on growing where float64 stops at 1/eps.

The sum of all ln s is held against the sum of ln |det W| of the factors. The exponents
by QR are held against their exact law, of mean λ_i and variance ψ'((N − i + 1)/2)/4L.
Times L they are held against ln s, from which they differ by a number that does not
grow with L.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import special, stats

from isometry import linalg
from isometry._internal.types import Key
from paper_figs import _draws, _style
from paper_figs._check import Compared, largest, settled, within

PRESETS = {
    "full": {"size": 16, "depths": (10, 100, 1000, 10000)},
    "smoke": {"size": 8, "depths": (10, 1000)},
}

EPS = float(np.finfo(np.float64).eps)

# Sums of ln s over ten thousand factors round to about 1e-15 of themselves. One factor
# more or less would change them by 1e-4.
ROUNDING = 1e-10

# The least ln s of the deepest product is about −2 L: far more than this is lost of it.
LOST = 100.0


class _Exponents(NamedTuple):
    """Newman's exponents, and the variance of what one factor adds to L times them."""

    mean: Float[np.ndarray, " index"]
    variance: Float[np.ndarray, " index"]


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure singular values and exponents of one product at several depths.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        Over (depth, index), largest first: `log_s`; `plain`, that of the product in
        float64; and `swept`, the exponents by QR. `determinant`, the sum of ln |det W|,
        over depth. `law` and `law_variance` over index.
    """
    size = PRESETS[preset]
    num_units, depths = size["size"], size["depths"]
    rng = _draws.generator(key)
    factors = _draws.square(rng, "gaussian", max(depths), n=num_units)
    log_determinants = np.cumsum(np.linalg.slogdet(factors)[1])
    padded = [_padded(factors, depth) for depth in depths]
    with jax.enable_x64(True):
        log_s = [_graded(product) for product in padded]
        swept = list(map(_swept, padded, depths))
    plain = [_multiplied(factors[:depth]) for depth in depths]
    exponents = _newman(num_units)
    by_depth = ("depth", "index")
    return xarray.Dataset(
        {
            "log_s": (by_depth, np.array(log_s)),
            "swept": (by_depth, np.array(swept)),
            "plain": (by_depth, np.array(plain)),
            "determinant": ("depth", log_determinants[np.array(depths) - 1]),
            "law": ("index", exponents.mean),
            "law_variance": ("index", exponents.variance),
        },
        {"depth": list(depths), "index": np.arange(1, num_units + 1)},
    )


def _padded(
    factors: Float[np.ndarray, "factors n n"], depth: int
) -> Float[np.ndarray, "factors n n"]:
    """Return the first factors, and identities in the place of the others."""
    # Products of all depths have one shape, so that they are compiled once.
    padded = factors.copy()
    padded[depth:] = np.eye(factors.shape[-1])
    return padded


def _graded(factors: Float[np.ndarray, "factors n n"]) -> Float[np.ndarray, " n"]:
    """Return ln s of a product, all of them to full precision."""
    log_values = linalg.product_log_singular_values(jnp.asarray(factors), every=1)
    return np.asarray(log_values)


def _swept(
    factors: Float[np.ndarray, "factors n n"], depth: int
) -> Float[np.ndarray, " n"]:
    """Return the exponents by QR of a product of this depth."""
    # Identities add nothing, but they are counted among the factors.
    mean = np.asarray(linalg.lyapunov_exponents(jnp.asarray(factors)))
    return mean * len(factors) / depth


def _newman(num_units: int) -> _Exponents:
    """Return Newman's exponents, the largest first."""
    # The diagonal of R holds roots of χ² variables over N, with N, N − 1, …, 1 degrees
    # of freedom.
    half = np.arange(num_units, 0, -1) / 2
    return _Exponents(
        mean=(special.digamma(half) + np.log(2 / num_units)) / 2,
        variance=special.polygamma(1, half) / 4,
    )


def _multiplied(factors: Float[np.ndarray, "factors n n"]) -> Float[np.ndarray, " n"]:
    """Return ln s of the product that is multiplied out in float64."""
    product = np.eye(factors.shape[-1])
    log_scale = 0.0
    for factor in factors:
        product = factor @ product
        # Without this the product would underflow, and nothing be left of it.
        norm = np.linalg.norm(product)
        product = product / norm
        log_scale += np.log(norm)
    return _draws.log_values(product) + log_scale


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare products with determinants, exponents and their exact moments.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    last = data.isel(depth=-1)
    depth = int(last.depth)
    num_units = data.sizes["index"]
    sums = np.abs(data.log_s.sum("index") / data.determinant - 1)
    error = np.sqrt(data.law_variance / depth)
    gap = np.abs(last.swept - data.law) / error
    # Of N tests, by Bonferroni, at 5 %.
    bound = float(stats.norm.ppf(1 - 0.025 / num_units))
    # QR starts from unit vectors, and not from the singular ones. It misses the overlap
    # of the two, but only once; that is a power of N.
    apart = np.abs(data.log_s / data.depth - data.swept) * data.depth
    excess = (last.plain - last.log_s).isel(index=-1)
    return settled(
        [
            within(
                "Σ ln s over Σ ln |det W| − 1, largest",
                largest(sums),
                0.0,
                tolerance=ROUNDING,
            ),
            Compared(
                f"QR exponents, L = {depth}, from Newman's, standard errors",
                largest(gap),
                high=bound,
            ),
            Compared(
                "ln s from L × the QR exponents, largest at any depth",
                largest(apart),
                high=4 * math.log(num_units),
            ),
            Compared(
                f"plain float64 at L = {depth}: least ln s too large by",
                float(excess),
                low=LOST,
            ),
        ]
    )


def plot(data: xarray.Dataset) -> Figure:
    """Draw ln s over L against the index, and the condition number against depth.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, axes = _style.panels(1, 2, height=2.6)
    left, right = axes[0]
    _draw_values(left, data)
    _draw_conditions(right, data)
    return figure


def _draw_values(ax: Axes, data: xarray.Dataset) -> None:
    """Draw ln s over L of all depths, and Newman's exponents."""
    num_units, num_depths = data.sizes["index"], data.sizes["depth"]
    for i, depth in enumerate(data.depth.values):
        part = data.sel(depth=depth)
        colour = _style.COLOURS[i]
        ax.plot(
            data.index,
            part.log_s / depth,
            marker=_style.MARKS[i],
            # Deep products agree with one another, so their open marks are nested.
            ms=3 + 1.5 * (num_depths - 1 - i),
            mfc="none",
            ls="none",
            color=colour,
            label=f"L = {depth}",
        )
        ax.plot(data.index, part.plain / depth, "x", ms=2.5, mew=0.8, color=colour)
    ax.plot([], [], "x", ms=2.5, color="0.4", label="multiplied out in float64")
    ax.plot(data.index, data.law, color="black", lw=0.8, label="Newman's exponents")
    ax.set(
        xlabel="index i",
        ylabel="ln s$_i$ / L",
        title=f"Products of {num_units} × {num_units} matrices",
    )
    ax.legend(loc="lower left")


def _condition(log_values: xarray.DataArray) -> xarray.DataArray:
    """Return the logarithm of the largest value over the least."""
    return log_values.isel(index=0) - log_values.isel(index=-1)


def _draw_conditions(ax: Axes, data: xarray.Dataset) -> None:
    """Draw the logarithm of the condition number against depth."""
    ax.plot(
        data.depth,
        _condition(data.log_s),
        "o",
        ms=5,
        mfc="none",
        color=_style.COLOURS[0],
        label="graded product",
    )
    ax.plot(
        data.depth,
        _condition(data.plain),
        "x",
        color=_style.COLOURS[1],
        label="multiplied out in float64",
    )
    predicted = data.depth * float(_condition(data.law))
    label = "L × Newman's exponents"
    ax.plot(data.depth, predicted, color="black", lw=0.8, label=label)
    ax.axhline(-math.log(EPS), color="0.5", ls=":", lw=0.8, label="ln(1/eps)")
    ax.set(
        xlabel="depth L",
        ylabel="ln (s$_1$ / s$_N$)",
        xscale="log",
        yscale="log",
        title="What float64 resolves",
    )
    ax.legend(loc="upper left")
