"""Each mode of a deep linear net rises along its own sigmoid, known in closed form.

Saxe, McClelland, Ganguli (2014), arXiv:1312.6120, Eqs. 12 to 15 and Fig. 3.

Linear networks of D square matrices follow the gradient flow on a task with singular
values s = 1, 3/4, 1/2 and 1/4. They start from decoupled weights, W_l = R_l u₀^(1/D)
R_(l+1)ᵀ, with random rotations R and u₀ = 1e-3. Marks are the strengths u of the modes
in the product of the matrices, which are integrated as a whole, to a relative 1e-10 a
step. Lines are the theory: for three layers (D = 2) u(t) = s/(1 − (1 − s/u₀) e^(−2st)),
and for more the inverse of t(u) = ∫ dv/(D v^(2 − 2/D) (s − v)), from u₀ to u. The
integrator's error grows as u does, at most by s/u₀, and 1e-6 allows for 10 steps' worth
of it. The paper shows curves of D = 2 on a task of its own; deeper networks are drawn
here.
"""

import functools
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import xarray
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import integrate

from isometry._internal.types import Key
from paper_figs import _draws, _style
from paper_figs._check import Compared, largest, settled, within

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Modes: TypeAlias = Float[np.ndarray, "mode point"]
_Layers: TypeAlias = Float[np.ndarray, "layer out in"]
_Array: TypeAlias = Float[np.ndarray, "..."]


class Size(NamedTuple):
    """How large the figure is.

    Attributes:
        depths: Numbers of matrices, 2 among them.
        times: How often the strength of a mode is measured.
    """

    depths: tuple[int, ...]
    times: int


PRESETS = {
    "full": Size(depths=(2, 3, 8), times=25),
    "smoke": Size(depths=(2, 3), times=12),
}

# Singular values of the task, the strongest first.
S = np.array([1.0, 0.75, 0.5, 0.25])
# The strength of all modes at first. From a tenfold one modes rise at once, without a
# plateau; from a tenth of it the integrator's error grows tenfold.
START = 1e-3
# Units of each layer. With more of them than modes, some directions learn nothing.
SIZE = 8
# The integrator's relative error a step. What `check` allows is in proportion, and is
# 1e-6 here. A tenth of it only takes more steps.
RTOL = 1e-10
# Curves are followed to this share of s, which they only reach at infinity.
LEARNED = 0.98


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Follow the modes of networks under gradient flow at times that theory sets.

    Args:
        preset: "full" or "smoke".
        key: The key of the rotations.

    Returns:
        Over (layers, mode, point): `law_time`, the time at which theory says that the
        strength is `law_u`, and `u`, the strength that is measured then.
    """
    size = PRESETS[preset]
    rng = _draws.generator(key)
    strengths = np.stack([_strengths(s, size.times) for s in S])
    times = []
    measured = []
    for depth in size.depths:
        times_here = _theory_times(strengths, depth)
        times.append(times_here)
        measured.append(_flow(rng, depth, times_here))
    names = ("layers", "mode", "point")
    shape = (len(size.depths), *strengths.shape)
    return xarray.Dataset(
        {
            "u": (names, np.stack(measured)),
            "law_u": (names, np.broadcast_to(strengths, shape)),
            "law_time": (names, np.stack(times)),
        },
        {"layers": list(size.depths), "mode": S},
    )


def _strengths(s: float, count: int) -> Float[np.ndarray, " point"]:
    """Return strengths of a mode from the first to nearly the last, closer at first."""
    shares = LEARNED * np.linspace(0, 1, count) ** 2
    return START + shares * (s - START)


def _theory_times(strengths: _Modes, depth: int) -> _Modes:
    """Return when theory puts each mode at these strengths."""
    times = np.empty_like(strengths)
    for mode, point in np.ndindex(times.shape):
        strength = float(strengths[mode, point])
        s = float(S[mode])
        times[mode, point] = _theory_time(strength, s, depth)
    return times


def _theory_time(strength: float, s: float, depth: int) -> float:
    """Return t(u) of one mode, by quadrature."""

    # Strengths grow exponentially at first, so that ln v takes the place of v.
    def time_per_log(log_v: float) -> float:
        missing = s - np.exp(log_v)
        power = np.exp(log_v * (2 / depth - 1))
        return power / (depth * missing)

    # Far more exact than the integrator of the flow.
    time, _ = integrate.quad(
        time_per_log,
        np.log(START),
        np.log(strength),
        epsabs=0,
        epsrel=1e-12,
    )
    return time


def _closed_form(s: float | _Array, times: _Array) -> _Array:
    """Return u(t) of three layers."""
    decay = np.exp(-2 * s * times)
    return s / (1 - (1 - s / START) * decay)


def _flow(rng: np.random.Generator, depth: int, times: _Modes) -> _Modes:
    """Return the strengths of modes under gradient flow, each at its own times."""
    rotations = _draws.square(rng, "orthogonal", depth + 1, n=SIZE)
    # The modes of the task are the first columns of the two outermost rotations.
    first = rotations[0][:, : len(S)]
    last = rotations[-1][:, : len(S)]
    target = first * S @ last.T
    scale = START ** (1 / depth)
    behind = rotations[1:].transpose(0, 2, 1)
    weights = scale * rotations[:-1] @ behind

    def slope(_: float, flat: _Array) -> _Array:
        layers = flat.reshape(weights.shape)
        return _derivatives(layers, target).ravel()

    solution = integrate.solve_ivp(
        slope,
        (0, times.max()),
        weights.ravel(),
        method="DOP853",
        t_eval=np.unique(times),
        rtol=RTOL,
        atol=RTOL * START,
    )
    strengths = []
    for flat in solution.y.T:
        layers = flat.reshape(weights.shape)
        product = functools.reduce(np.matmul, layers)
        modes = np.sum(first * (product @ last), axis=0)
        strengths.append(modes)
    by_mode = np.stack(strengths, axis=1)
    places = np.searchsorted(solution.t, times)
    return np.take_along_axis(by_mode, places, axis=1)


def _derivatives(weights: _Layers, target: _Array) -> _Layers:
    """Return the time derivatives of all layers.

    They are dW_l/dt = (W_1 … W_(l−1))ᵀ (Σ − W_1 … W_D) (W_(l+1) … W_D)ᵀ, the gradient
    flow on ½|Σ − W_1 … W_D|², where W_1 is next to the output.
    """
    before = [np.eye(SIZE)]
    for weight in weights:
        before.append(before[-1] @ weight)
    behind = [np.eye(SIZE)]
    for weight in weights[::-1]:
        behind.append(weight @ behind[-1])
    whole = before.pop()
    # The whole product is the last of these, too.
    behind.pop()
    missing = target - whole
    behind.reverse()
    slopes = []
    for left, right in zip(before, behind, strict=True):
        slopes.append(left.T @ missing @ right.T)
    return np.stack(slopes)


def _largest_error(measured: xarray.DataArray, expected: ArrayLike) -> float:
    """Return the largest relative error."""
    relative = measured / expected - 1
    return largest(abs(relative))


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare strengths with the theory, and the quadrature with the closed form.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    bound = 10 * RTOL * S.max() / START
    rows = []
    for depth in data.layers.values:
        there = data.sel(layers=depth)
        what = f"D = {depth}: u over the theory's − 1, largest"
        off = _largest_error(there.u, there.law_u)
        rows.append(within(what, off, 0, tolerance=bound))
    three_layers = data.sel(layers=2)
    times = three_layers.law_time.values
    closed = _closed_form(S[:, None], times)
    last_times = times[:, -1]
    rows += [
        within(
            "D = 2: u over the closed form − 1, largest",
            _largest_error(three_layers.u, closed),
            0,
            tolerance=bound,
        ),
        Compared(
            "D = 2: time to 0.98 s, weakest mode over strongest",
            float(last_times[-1] / last_times[0]),
            low=1,
            high=float(S[0] / S[-1]),
            words="below the ratio of s, 4, by the logarithm",
        ),
    ]
    return settled(rows)


def plot(data: xarray.Dataset) -> "Figure":
    """Draw the modes of a three-layer network, and the strongest mode at each depth.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, axes = _style.panels(1, 2, height=2.5)
    left, right = axes[0]
    _draw_modes(left, data)
    _draw_depths(right, data)
    return figure


def _draw_modes(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the strengths of all modes of three layers against time."""
    three_layers = data.sel(layers=2)
    last = float(three_layers.law_time.max())
    times = np.linspace(0, last, 200)
    for i, s in enumerate(S):
        mode = three_layers.sel(mode=s)
        label = f"s = {s:g}"
        _style.dots(ax, mode.law_time, mode.u, error=None, i=i, label=label)
        predicted = _closed_form(s, times)
        _style.line(ax, times, y=predicted, i=i)
    ax.set(
        xlabel="time, units of τ",
        ylabel="strength u of the mode",
        title="Three layers, D = 2 (lines: closed form)",
    )
    # Between the curves of the second and the third mode.
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.6), ncols=2)


def _draw_depths(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the strength of the strongest mode of each depth against time."""
    # More points than there are marks, for a line without corners.
    strengths = _strengths(S[0], 100)
    for i, depth in enumerate(data.layers.values):
        mode = data.sel(layers=depth, mode=S[0])
        times = [_theory_time(u, S[0], depth) for u in strengths]
        label = f"D = {depth}"
        _style.dots(ax, mode.law_time, mode.u, error=None, i=i, label=label)
        _style.line(ax, times, y=strengths, i=i)
    ax.set(
        xlabel="time, units of τ",
        title="Strongest mode, D matrices (lines: theory)",
    )
    # Between the curves of three and of eight matrices.
    ax.legend(loc="center", bbox_to_anchor=(0.68, 0.5))
