"""The horizontal axis of pictures, and densities for a unit of it."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from isometry import linalg
from isometry.measure._record import Spectrum
from isometry.plots._style import Line
from isometry.theory import Law

LN10 = math.log(10)

# In decades: a narrower histogram is that of one value. With ten times more, spectra
# of width 0.05 would be a single bar; with a hundredth, ticks would differ in the
# fifth digit, as in the rounding of single precision.
LEAST_RANGE = 1e-3

# Confidence level of the two-sided bands over probes.
_LEVEL = 0.95


class Axis(NamedTuple):
    """An axis: the variable "s", or "lam" for s², on the scale "log" or "linear"."""

    variable: str
    scale: str

    @property
    def power(self) -> float:
        """The power of s that the variable is."""
        if self.variable == "lam":
            return 2.0
        return 1.0

    @property
    def is_log(self) -> bool:
        """Whether the decimal logarithm is drawn."""
        return self.scale == "log"

    @property
    def label(self) -> str:
        """The label of the axis."""
        labels = {
            ("s", "linear"): "singular value s",
            ("lam", "linear"): "λ = s²",
            ("s", "log"): "log$_{10}$ s",
            ("lam", "log"): "log$_{10}$ λ",
        }
        return labels[self.variable, self.scale]

    def place(self, log_s: np.ndarray | float) -> np.ndarray:
        """Return the position of ln s on the axis."""
        if self.is_log:
            return self.power * np.asarray(log_s) / LN10
        return np.exp(self.power * log_s)

    def log_s(self, x: np.ndarray) -> np.ndarray:
        """Return ln s at a position, -inf where the variable is not positive."""
        if self.is_log:
            return x * LN10 / self.power
        with np.errstate(divide="ignore"):
            return np.log(np.maximum(x, 0)) / self.power

    def log_s_per_unit(self, x: np.ndarray) -> np.ndarray:
        """Return the derivative of ln s with respect to x."""
        if self.is_log:
            return np.full_like(x, LN10 / self.power)
        return 1 / (self.power * x)

    def law_density(self, law: Law, x: Line) -> np.ndarray:
        """Return the density of a law's continuous part at x, per unit of x."""
        if self.is_log:
            unit = LN10 / self.power
            return np.asarray(law.density(x * unit, "log_s")) * unit
        return np.asarray(law.density(x, self.variable))


class Band(NamedTuple):
    """A smooth density with its 95 % band over probes.

    Of a single probe, which has no spread, the three lines are equal.
    """

    mean: Line
    low: Line
    high: Line


def smooth_density(sp: Spectrum, axis: Axis, x: Line) -> Band:
    """Return the smooth density of a quadrature, all matrices pooled, per unit of x.

    Args:
        sp: A spectrum with a quadrature.
        axis: The axis on which x are positions.
        x: Positions.
    """
    from scipy import special

    rules = sp.quadrature
    assert rules is not None, "of singular values there is a histogram"
    num_nodes = rules.log_values.shape[-1]
    # A series for every probe of every matrix, at the same points.
    density = linalg.smooth_density(
        jnp.asarray(rules.log_values),
        jnp.asarray(rules.weights),
        steps=jnp.asarray(rules.steps)[..., None],
        log_points=jnp.asarray(axis.log_s(x), rules.log_values.dtype),
        most=num_nodes,
    )
    unit = axis.log_s_per_unit(x)
    probes = density.shape[-2]
    by_matrix = np.asarray(density, float).reshape(-1, probes, len(x))
    by_probe = unit * by_matrix.mean(0)
    mean = by_probe.mean(0)
    # One probe has no spread, and so no band.
    if probes < 2:
        return Band(mean, mean, mean)
    error = by_probe.std(0, ddof=1) / math.sqrt(probes)
    quantile = special.stdtrit(probes - 1, (1 + _LEVEL) / 2)
    reach = quantile * error
    # A density is not negative.
    low = np.maximum(mean - reach, 0)
    return Band(mean, low, mean + reach)


def log_floor(sp: Spectrum) -> float:
    """Return the highest ln s below which some matrix resolves nothing.

    For singular values this is the rounding floor. For a quadrature it is the width of
    the bump into which the smooth density turns a zero: two standard deviations
    (`linalg.smooth_density`).
    """
    log_top = np.asarray(sp.log_values[..., 0], float)
    if sp.quadrature is None:
        return float(np.max(log_top + np.asarray(sp.log_floor, float)))
    deviation = math.pi / (4 * np.asarray(sp.quadrature.steps, float))
    return float(np.max(log_top + np.log(2 * deviation)))
