"""Every mode of a deep linear net rises along a sigmoid of its own, known in closed form.

Saxe, McClelland, Ganguli (2013), arXiv:1312.6120, Eqs. 12 to 15 and Fig. 3.

Linear nets of D square matrices under gradient flow on a task of singular values s = 1, 3/4, 1/2, 1/4, from decoupled
weights W_l = R_l u₀^(1/D) R_(l+1)ᵀ with random rotations R and u₀ = 1e-3. Marks: the strength u of each mode in the
product of the whole matrices, integrated to a relative 1e-10 a step. Lines: for D = 2 (three layers), u(t) =
s/(1 − (1 − s/u₀) e^(−2st)); for more, t(u) = ∫dv/(D v^(2 − 2/D) (s − v)) from u₀ to u. The integrator's error grows as
u does, at most by s/u₀: 1e-6 allows 10 steps' worth. Full: 2 seconds on 2 cores.
"""

import functools
from typing import Any

import numpy as np
import xarray

from paper_figs import _draws, _style
from paper_figs._check import Compared, settled, within

PRESETS = {
    "full": {"layers": (2, 3, 8), "times": 25},
    "smoke": {"layers": (2, 3), "times": 12},
}
S, START, SIZE, RTOL = np.array([1.0, 0.75, 0.5, 0.25]), 1e-3, 8, 1e-10


def compute(preset: str, key: Any) -> xarray.Dataset:
    """Over (layers, mode, point): times, and u then; `law_u`: where the theory puts the mode at that time."""
    size, rng = PRESETS[preset], _draws.generator(key)
    shares = 0.98 * np.linspace(0, 1, size["times"]) ** 2
    u = START + shares * (S[:, None] - START)
    times = np.stack([[_time(u[i], s, d) for i, s in enumerate(S)] for d in size["layers"]])
    found = np.stack([_flow(rng, d, t) for d, t in zip(size["layers"], times, strict=True)])
    names = ("layers", "mode", "point")
    return xarray.Dataset(
        {"u": (names, found), "law_u": (names, np.broadcast_to(u, found.shape)), "law_time": (names, times)},
        {"layers": list(size["layers"]), "mode": S},
    )


def _time(u: np.ndarray, s: float, layers: int) -> np.ndarray:
    """t(u), by quadrature in ln v."""
    from scipy import integrate

    def rate(x: float) -> float:
        return np.exp(x * (2 / layers - 1)) / (layers * (s - np.exp(x)))

    return np.array([integrate.quad(rate, np.log(START), np.log(v), epsabs=0, epsrel=1e-12)[0] for v in u])


def _flow(rng: np.random.Generator, layers: int, times: np.ndarray) -> np.ndarray:
    """(mode, point): u under gradient flow, each mode at its own times."""
    from scipy import integrate

    turns = _draws.square(rng, "orthogonal", layers + 1, SIZE)
    target = turns[0, :, : len(S)] * S @ turns[-1, :, : len(S)].T
    start = START ** (1 / layers) * turns[:-1] @ turns[1:].transpose(0, 2, 1)

    def slope(_: float, flat: np.ndarray) -> np.ndarray:
        return _gradient(flat.reshape(start.shape), target).ravel()

    solved = integrate.solve_ivp(
        slope, (0, times.max()), start.ravel(), "DOP853", np.unique(times), rtol=RTOL, atol=RTOL * START
    )
    products = [functools.reduce(np.matmul, flat.reshape(start.shape)) for flat in solved.y.T]
    u = np.stack([np.einsum("ia,ij,ja->a", turns[0], p, turns[-1])[: len(S)] for p in products], 1)
    return np.stack([u[i, np.searchsorted(solved.t, t)] for i, t in enumerate(times)])


def _gradient(ws: np.ndarray, target: np.ndarray) -> np.ndarray:
    """dW_l/dt = (W_1 … W_(l−1))ᵀ (Σ − W_1 … W_D) (W_(l+1) … W_D)ᵀ."""
    before, after = [np.eye(SIZE)], [np.eye(SIZE)]
    for w, v in zip(ws, ws[::-1], strict=True):
        before, after = [*before, before[-1] @ w], [v @ after[0], *after]
    missing = target - before[-1]
    return np.stack([a.T @ missing @ b.T for a, b in zip(before[:-1], after[1:], strict=True)])


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """The marks on the curves; the quadrature against the closed form of three layers; a mode's time is like 1/s."""
    apart = np.abs(data.u / data.law_u - 1)
    two = data.sel(layers=2)
    s, t = two.mode, two.law_time
    closed = s / (1 - (1 - s / START) * np.exp(-2 * s * t))
    bound = 10 * RTOL * S.max() / START
    return settled(
        [
            *(within(f"D = {d}: u over the theory's − 1, largest", float(apart.sel(layers=d).max()), 0, bound)
              for d in data.layers.values),
            within("D = 2: u over the closed form − 1, largest", float(np.abs(two.u / closed - 1).max()), 0, bound),
            Compared("D = 2: time to 0.98 s, weakest mode over strongest",
                     float(t.isel(mode=-1, point=-1) / t.isel(mode=0, point=-1)), 1, float(S[0] / S[-1]),
                     words="below the ratio of s, 4, by the logarithm"),
        ]
    )  # fmt: skip


def plot(data: xarray.Dataset) -> Any:
    """The modes of three layers in time; the strongest mode for every depth."""
    figure, (axes,) = _style.panels(1, 2, height=2.5)
    left, right = axes
    for i, s in enumerate(S):
        part = data.sel(layers=2, mode=s)
        t = np.linspace(0, float(data.law_time.sel(layers=2).max()), 200)
        left.plot(part.law_time, part.u, _style.MARKS[i], color=_style.COLOURS[i], label=f"s = {s:g}")
        _style.line(left, t, s / (1 - (1 - s / START) * np.exp(-2 * s * t)), i)
    for i, d in enumerate(data.layers.values):
        part = data.sel(layers=d, mode=S[0])
        right.plot(part.law_time, part.u, _style.MARKS[i], color=_style.COLOURS[i], label=f"D = {d}")
        _style.line(right, part.law_time, part.law_u, i)
    left.set(xlabel="time, units of τ", ylabel="strength u of the mode", title="Three layers (D = 2)")
    right.set(xlabel="time, units of τ", title="Strongest mode, D matrices")
    left.legend(loc="center right", bbox_to_anchor=(1, 0.6), ncols=2)
    right.legend(loc="center", bbox_to_anchor=(0.68, 0.5))
    return figure
