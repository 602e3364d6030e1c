"""What mean-field theory knows of a plane: the critical line, and depth scales."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from isometry import activations
from isometry._internal import checks
from isometry._internal.errors import InputError
from isometry._internal.types import Elementwise
from isometry.activations import Activation
from isometry.plots._plane import GridAxis
from isometry.theory import (
    NoCriticalPoint,
    NoFixedPoint,
    critical_at,
    depth_scales,
)

if TYPE_CHECKING:
    from xarray import Dataset

# Curves by their label, or an activation of which theory knows them.
Theory: TypeAlias = (
    Mapping[str, tuple[ArrayLike, ArrayLike]] | str | Activation | Elementwise
)

# Signals and gradients are lost after about so many depth scales: e⁻⁶ of them is left
# (Schoenholz et al., 2017, Fig. 5).
SCALES_TRAINED = 6

# The critical line is looked for at fixed points q over the range of the theory, a few
# a decade, and then drawn where it crosses the axes, at so many points. With a tenth of
# them it would have corners; ten times more would take seconds.
_SEARCHED = np.geomspace(1e-9, 1e12, 85)
_POINTS = 240

# Depth scales take up to 40 ms a point. They are computed at a few points, and then
# halfway between neighbours whose curves differ by more than a share of the height of
# the picture, or that may hide a divergence: unless they differ by less than a pixel.
_FIRST_POINTS = 25
_COARSE = 0.06
_PLATEAU = 1e-3

# Halvings, after which a divergence is narrower than a pixel of any screen.
_HALVINGS = 14

# The least sigma_w as a share of the largest, where an axis reaches down to 0 or below.
_LEAST = 1e-3

Points: TypeAlias = Float[np.ndarray, " points"]

# The two depths, of signals and of gradients, at each point.
Depths: TypeAlias = Float[np.ndarray, "points kinds"]

# Lines by their labels, with the coordinates of each by the names of the axes.
Lines: TypeAlias = dict[str, dict[str, Points]]


class Curve(NamedTuple):
    """A curve over the plane, in the units of its axes; NaN where it is interrupted."""

    label: str
    x: Points
    y: Points

    @property
    def is_point(self) -> bool:
        """Whether it is a single point but for rounding: the critical line of ReLU."""
        is_drawn = np.isfinite(self.x) & np.isfinite(self.y)
        if not is_drawn.any():
            return False
        x, y = self.x[is_drawn], self.y[is_drawn]
        return bool(np.allclose(x, x[0]) and np.allclose(y, y[0]))


def curves(
    theory: Theory | None,
    dataset: "Dataset",
    *,
    x: GridAxis,
    y: GridAxis,
) -> list[Curve]:
    """Return the curves that the user gives, or that theory knows of an activation.

    Raises:
        InputError: Theory knows nothing of these axes; the other sigma is not known; a
            curve is not two sequences of numbers.
    """
    if theory is None:
        return []
    if isinstance(theory, Mapping):
        return [_given(str(label), curve) for label, curve in theory.items()]
    if isinstance(theory, str):
        # The message names this argument, where `activations.get` has its own.
        theory = checks.one_of_any_case("theory", theory, activations.names())
    phi = activations.get(theory)
    by_name = {axis.name: axis for axis in (x, y) if axis.names is None}
    known = _KNOWN.get(frozenset(by_name))
    if known is None:
        raise InputError(
            f"theory={phi.name!r} knows curves over sigma_w and sigma_b, and over "
            f"depth and one of them, not over x={x.name!r} and y={y.name!r}. Write "
            "theory=None, or curves of your own: {label: (xs, ys)}."
        )
    # The curves are known by the names of the axes, whichever of them lies along x.
    lines = known(phi, dataset, by_name)
    return [Curve(label, line[x.name], line[y.name]) for label, line in lines.items()]


def _given(label: str, curve: tuple[ArrayLike, ArrayLike]) -> Curve:
    """Return a curve of the user's as two arrays of equal length."""
    advice = "write two sequences of numbers of equal length, (xs, ys)."
    try:
        xs, ys = (np.asarray(numbers, float) for numbers in curve)
    except (TypeError, ValueError):
        raise InputError(
            f"theory[{label!r}]={checks.show(curve)} is not a curve; {advice}"
        ) from None
    if xs.ndim != 1 or xs.shape != ys.shape:
        raise InputError(
            f"theory[{label!r}] has shapes {xs.shape} and {ys.shape}; {advice}"
        )
    return Curve(label, xs, ys)


def _scalar(dataset: "Dataset", name: str) -> float:
    """Return the sigma that is the same in the whole plane."""
    if name in dataset.coords and dataset.variables[name].ndim == 0:
        value = dataset.variables[name].values.item()
        return checks.number(f"dataset.{name}", value, low=0)
    if name in dataset.dims:
        raise InputError(
            f"theory needs one {name}, and dataset holds {dataset.sizes[name]}; "
            f"select one: dataset.sel({name}=...)."
        )
    if name in dataset.attrs:
        return checks.number(f"dataset.attrs[{name!r}]", dataset.attrs[name], low=0)
    raise InputError(
        f"theory needs {name}, which dataset does not hold; "
        f"write dataset.assign_coords({name}=...), with a number."
    )


def _critical_line(
    phi: Activation,
    dataset: "Dataset",
    axes: Mapping[str, GridAxis],
) -> Lines:
    """Return chi_1 = 1 in the plane of sigma_w and sigma_b, by the names of the axes.

    The fixed point q is the parameter along the line. Stable fixed points, at which
    deep networks arrive, and unstable ones have a curve each.
    """
    w, b = axes["sigma_w"], axes["sigma_b"]
    line = _critical_at(phi, _SEARCHED)
    crosses = _overlaps(w, line.sigma_w) & _overlaps(b, line.sigma_b)
    segments = np.flatnonzero(crosses)
    nowhere = {"χ₁ = 1": {w.name: line.sigma_w, b.name: line.sigma_b}}
    if not segments.size:
        return nowhere
    low, high = _SEARCHED[segments[0]], _SEARCHED[segments[-1] + 1]
    line = _critical_at(phi, np.geomspace(low, high, _POINTS))
    is_inside = w.holds(line.sigma_w) & b.holds(line.sigma_b)
    found = {}
    for label, is_drawn in (
        ("χ₁ = 1", line.is_stable),
        ("χ₁ = 1, unstable", ~line.is_stable),
    ):
        if (is_drawn & is_inside).any():
            found[label] = {
                w.name: np.where(is_drawn, line.sigma_w, np.nan),
                b.name: np.where(is_drawn, line.sigma_b, np.nan),
            }
    return found or nowhere


class _Line(NamedTuple):
    """Critical points by rising q; NaN where there is none."""

    sigma_w: Points
    sigma_b: Points
    is_stable: Bool[np.ndarray, " points"]


def _critical_at(phi: Activation, variances: Points) -> _Line:
    """Return the critical point of each fixed point q."""
    sigma_w = np.full(len(variances), np.nan)
    sigma_b = sigma_w.copy()
    is_stable = np.ones(len(variances), bool)
    for i, q in enumerate(variances.tolist()):
        try:
            point = critical_at(phi, q)
        except NoCriticalPoint:
            continue
        except InputError:
            # Far out the expectations of some activations diverge, and nothing is known
            # there: of exp beyond q = 100. What jumps is refused at every q.
            if q > 1:
                continue
            raise
        sigma_w[i], sigma_b[i] = point.sigma_w, point.sigma_b
        is_stable[i] = point.stable
    return _Line(sigma_w, sigma_b, is_stable)


def _overlaps(axis: GridAxis, along: Points) -> Bool[np.ndarray, " segments"]:
    """Tell which segments of a line have some part within the range of an axis."""
    # A segment with one end that does not exist is judged by the other.
    low = np.fmin(along[:-1], along[1:])
    high = np.fmax(along[:-1], along[1:])
    return (high >= axis.edges[0]) & (low <= axis.edges[-1])


def _depths_over_sigma(
    phi: Activation,
    dataset: "Dataset",
    axes: Mapping[str, GridAxis],
) -> Lines:
    """Return the depth scales over sigma_w or sigma_b, whichever is an axis."""
    (along,) = axes.keys() - {"depth"}
    (other,) = {"sigma_w", "sigma_b"} - {along}
    fixed = _scalar(dataset, other)

    def depths_at(sigma: float) -> tuple[float, float]:
        return _depths(phi, **{along: sigma, other: fixed})

    return _refined(depths_at, axes[along], axes["depth"])


def _depths(phi: Activation, sigma_w: float, sigma_b: float) -> tuple[float, float]:
    """Return to which depths signals and gradients reach; NaN for no fixed point."""
    try:
        scales = depth_scales(phi, sigma_w, sigma_b)
    except NoFixedPoint:
        return math.nan, math.nan
    return SCALES_TRAINED * scales.xi_c, SCALES_TRAINED * scales.xi_grad


def _refined(
    depths_at: Callable[[float], tuple[float, float]],
    sigma: GridAxis,
    depth: GridAxis,
) -> Lines:
    """Return depths along an axis of sigma, at points close enough for smooth lines."""
    # Neither sigma is negative, and that of the weights is not zero.
    least = max(sigma.edges[0], _LEAST * sigma.edges[-1])
    along = np.linspace(float(sigma.position(least)), 1.0, _FIRST_POINTS)
    depths = _at_each(depths_at, sigma.at(along))
    for _ in range(_HALVINGS):
        coarse = np.flatnonzero(_is_coarse(depth.position(depths)))
        if not coarse.size:
            break
        middle = (along[coarse] + along[coarse + 1]) / 2
        between = _at_each(depths_at, sigma.at(middle))
        along = np.insert(along, coarse + 1, middle)
        depths = np.insert(depths, coarse + 1, between, axis=0)
    values = sigma.at(along)
    of_signals = {sigma.name: values, depth.name: depths[:, 0]}
    of_gradients = {sigma.name: values, depth.name: depths[:, 1]}
    return {
        f"{SCALES_TRAINED} ξ$_c$": of_signals,
        f"{SCALES_TRAINED} ξ$_\\nabla$": of_gradients,
    }


def _at_each(
    depths_at: Callable[[float], tuple[float, float]], sigmas: Points
) -> Depths:
    """Return the depths at each sigma, a row each."""
    return np.array([depths_at(sigma) for sigma in sigmas.tolist()])


def _is_coarse(heights: Depths) -> Bool[np.ndarray, " segments"]:
    """Tell between which points a curve moves far, or may hide a divergence.

    Args:
        heights: Positions in the picture, from 0 to 1.
    """
    # Where there is no fixed point nothing is drawn, but the curve may diverge just
    # before, so the end of the range is approached as if it did.
    heights = np.nan_to_num(heights, nan=1.0)
    moves_far = np.abs(np.diff(heights, axis=0)) > _COARSE
    # Between two points may be a peak if the slope changes from up to down there. One
    # that leaves the picture at the top needs no finer points, nor does a plateau.
    rise = np.diff(heights, axis=0, prepend=heights[:1])
    fall = -np.diff(heights, axis=0, append=heights[-1:])
    is_peak = (rise >= 0) & (fall >= 0) & (np.maximum(rise, fall) > _PLATEAU)
    is_peak &= (heights > 0) & (heights < 1)
    is_near_peak = is_peak[:-1] | is_peak[1:]
    return np.any(moves_far | is_near_peak, axis=1)


# What theory knows, by the axes of the plane.
_KNOWN = {
    frozenset(("sigma_w", "sigma_b")): _critical_line,
    frozenset(("depth", "sigma_w")): _depths_over_sigma,
    frozenset(("depth", "sigma_b")): _depths_over_sigma,
}
