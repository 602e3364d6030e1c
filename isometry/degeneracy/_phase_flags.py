"""Order and chaos, and inputs that become one: ordered_phase, chaotic_phase, rank_collapse."""

import math
from typing import Any

import jax
import numpy as np

from isometry import _checks, theory
from isometry.degeneracy._flag import (
    CLEAR,
    UNDECIDED,
    Flag,
    Thresholds,
    above,
    flipped,
    interval,
    unsure,
)
from isometry.degeneracy._spectrum_flags import gain_per_seed
from isometry.measure._record import Spectrum
from isometry.networks._mlp import Mlp as Network

_SIX = "six depth scales (Schoenholz et al., 2017, arXiv:1611.01232)"
_CRITICAL = 'the critical value: scheme="orthogonal" or "gaussian" without sigma_w'
_APART = f"sigma_w at {_CRITICAL}; fewer layers, or skip connections"
_NOISE = 10  # u²: rounding makes relative differences of mean square u² between inputs; ten of them by convention


def phase_flags(
    net: Network, spectra: dict[str, Spectrum], limits: Thresholds, key: Any, forward: dict[str, Any] | None = None
) -> dict[str, Flag]:
    """ordered_phase and chaotic_phase: raised where K ln chi_1 leaves ±6 over the K (W, D) pairs of the hidden span.

    chi_1 is theory's, at the fixed point of the variance, where the scheme's ensemble is known (`Scheme.drawn`) and its
    layers share one sigma_w; for the others e^(growth/K), with the growth ln E‖δz_(depth-1)‖²/‖δz_1‖² per unit that the
    hidden Jacobian shows. The evidence holds the phase and the measured growth in either case, and what
    `forward_signal` fitted, as `forward`: its depth scale stands beside theory's, `depth_scale`.
    """
    pairs = max(net.depth - 2, 0)
    evidence: dict[str, Any] = {"pairs": pairs, **({"forward": forward} if forward else {})}
    measured, seeds = None, spectra["end_to_end"].log_values.shape[0]
    if pairs:
        growth = _growth(net, spectra["hidden"])
        measured = (float(np.median(growth)), interval(growth, key, limits.confidence))
        evidence |= {"measured_growth": measured[0], "measured_interval": measured[1]}
    predicted = _predicted(net)
    if predicted is not None:
        evidence |= {"basis": "theory", **predicted, "growth": pairs * math.log(predicted["chi_1"])}
        value, bounds, enough = evidence["growth"], None, limits.least_seeds
    elif measured is not None:
        value, bounds = measured
        chi = math.exp(value / pairs)
        evidence |= {"basis": "measured", "phase": _phase_of(*bounds), "chi_1": chi, "growth": value}
        enough = seeds
    else:
        evidence |= {"basis": "none", "phase": "unknown"}
        value, bounds, enough = 0.0, None, limits.least_seeds
    return {
        f"{name}_phase": _phase_flag(name, sign, value, bounds, enough, evidence, limits)
        for name, sign in (("ordered", -1.0), ("chaotic", 1.0))
    }


def _growth(net: Network, sp: Spectrum) -> np.ndarray:
    """(seeds,) ln of ‖J‖_F² per unit of z_(depth-1): the growth of a perturbation of unit size per unit of z_1."""
    gain, _ = gain_per_seed(sp)
    return 2 * gain + math.log(sp.size / net.plan[-1].fan_in)


def _predicted(net: Network) -> dict[str, Any] | None:
    """Theory's phase, chi_1 and q*, or None where the law of the weights or the map of the variance is not known.

    Orthogonal weights between unequal widths do not keep the variance of a unit, so there is no single chi_1.
    """
    layers = net.plan[1:-1] or net.plan
    try:
        gains = [net.scheme.drawn(layer).gain(layer) for layer in layers]
        if not 0 < max(gains) <= min(gains) * (1 + 1e-12):  # rounding of the widths' ratio
            return None
        found = theory.phase_diagram(net.activation, gains[0], net.scheme.sigma_b)
    except _checks.InputError:  # another ensemble; or phi jumps, or its expectations diverge
        return None
    chi, q = float(found.chi[0, 0]), float(found.q[0, 0])
    if not 0 < chi < math.inf:
        return None
    return {
        "phase": str(found.phase[0, 0]),
        "chi_1": chi,
        "q": q,
        "sigma_w": float(gains[0]),
        "sigma_b": float(net.scheme.sigma_b),
        "depth_scale": 1 / abs(math.log(chi)) if found.phase[0, 0] != "critical" else math.inf,
    }


def _phase_of(low: float, high: float) -> str:
    return "ordered" if high < 0 else "chaotic" if low > 0 else "critical"


def _phase_flag(
    name: str, sign: float, value: float, bounds: Any, seeds: int, evidence: dict[str, Any], limits: Thresholds
) -> Flag:
    around = (value, value) if bounds is None else bounds
    state = (
        above(sign * value, around if sign > 0 else flipped(around), limits.depth_scales, seeds, limits)
        if evidence["pairs"]
        else CLEAR
    )
    if not evidence["pairs"]:
        reason = f"no hidden pair of layers; phase: {evidence['phase']}"
    else:
        reason = f"{evidence['phase']} phase, chi_1 = {evidence['chi_1']:.4g} ({evidence['basis']})"
        reason += f": K ln chi_1 = {value:+.2f} over {evidence['pairs']} pairs"
    if state == UNDECIDED:
        reason += f"; {unsure(seeds, limits)}"
    remedy = f"{'raise' if sign < 0 else 'lower'} sigma_w to {_CRITICAL}"
    return Flag(f"{name}_phase", state, reason, remedy, value, bounds, sign * limits.depth_scales, _SIX, evidence)


def forward_signal(layers: list[Any], limits: Thresholds, key: Any) -> dict[str, Any]:
    """The signal from z_1 to z_(depth-1), layer by layer the median over seeds: `log_norm`, ½ ln of the mean square;
    `correlation`, mean cosine of two inputs; `stable_rank`, ‖H‖_F²/‖H‖_2² over inputs × units.

    `fitted_depth_scale` is the number of layers over which differences between inputs fall by e in square, −1/slope of
    ln R (see `rank_collapse`) over the second half of the layers, with the interval of the seeds' median slope:
    None where R does not fall for certain, or fewer than three layers of it are above rounding. In the ordered phase
    theory has 1/|ln chi_1| (Schoenholz et al., 2017, eq. 9).
    """
    found: dict[str, Any] = {"log_norm": [], "correlation": [], "stable_rank": [], "fitted_depth_scale": None}
    logs = []
    for z in layers:
        h = np.asarray(z, float)
        peak = np.maximum(np.abs(h).max((1, 2)), np.finfo(float).tiny)
        h = h / peak[:, None, None]
        total, inputs = (h**2).sum((1, 2)), h.shape[1]
        spread = _spread(h)
        real = spread >= _least(np.asarray(z))
        logs.append(np.where(real, np.log(np.where(real, spread, 1)), -np.inf))
        top = np.linalg.norm(h, 2, (1, 2)) ** 2
        with np.errstate(divide="ignore"):
            size = np.log(peak) + np.log(total / h[0].size) / 2
        found["log_norm"].append(float(np.median(size)))
        found["stable_rank"].append(float(np.median(np.where(top > 0, total / np.where(top > 0, top, 1), 0))))
        found["correlation"].append(float(np.median(1 - spread * inputs / max(inputs - 1, 1))))
    tail = np.stack(logs[len(logs) // 2 :]) if logs else np.zeros((0, 1))
    tail = tail[np.isfinite(tail).all(1)]
    if len(tail) >= 3 and tail.shape[1] >= limits.least_seeds:
        slopes = np.polyfit(np.arange(len(tail)), tail, 1)[0]
        low, high = interval(slopes, key, limits.confidence)
        if high < 0:
            found |= {"fitted_depth_scale": -1 / float(np.median(slopes)), "fitted_interval": (-1 / low, -1 / high)}
    return found


def rank_collapse(xs: Any, layers: list[Any], limits: Thresholds, key: Any) -> Flag:
    """Inputs that the network makes one: R = ‖H − mean‖_F²/‖H‖_F² over inputs falls by more than e^6 to the last layer.

    R of a layer's pre-activations H is (1 − c)(1 − 1/M) for M inputs of mean correlation c, so that it falls as 1 − c
    does, by e every depth scale. An R below 10 u² is rounding and counts as none at all. Median over seeds.

    `layers`: what `pre_activations` returns for the inputs `xs`.
    """
    name = "rank_collapse"
    before = float(_spread(np.asarray(xs).reshape(1, len(xs), -1))[0])
    evidence: dict[str, Any] = {"inputs": len(xs), "spread_of_inputs": before, "log_ratio": []}
    if not layers:
        return Flag(name, CLEAR, "no hidden layers", _APART, source=_SIX, evidence=evidence)
    if before < _least(np.asarray(xs)):
        why = "the inputs do not differ" if len(xs) > 1 else "one input alone cannot come nearer to another"
        return Flag(name, UNDECIDED, why, _APART, source=_SIX, evidence=evidence)
    ratios = np.stack([_log_ratio(np.asarray(z), before) for z in layers])
    evidence["log_ratio"] = np.median(ratios, 1)
    last, seeds = ratios[-1], ratios.shape[1]
    value, bounds = float(np.median(last)), interval(last, key, limits.confidence)
    state = above(-value, flipped(bounds), limits.depth_scales, seeds, limits)
    reason = f"differences between inputs change by e^{value:+.2f} to z_{len(layers)}"
    if np.isneginf(value):
        reason = f"all inputs are one at z_{len(layers)}, to rounding"
    if state == UNDECIDED:
        reason += f"; {unsure(seeds, limits)}"
    return Flag(name, state, reason, _APART, value, bounds, -limits.depth_scales, _SIX, evidence)


def _least(values: np.ndarray) -> float:
    return _NOISE * float(jax.numpy.finfo(values.dtype).eps / 2) ** 2


def _log_ratio(z: np.ndarray, before: float) -> np.ndarray:
    """(seeds,) ln R/R_0; −inf where R is rounding."""
    spread = _spread(z)
    real = spread >= _least(z)
    return np.where(real, np.log(np.where(real, spread, 1) / before), -np.inf)


def _spread(h: np.ndarray) -> np.ndarray:
    """(seeds,) R of (seeds, inputs, units), in float64 and relative to the largest entry; 0 if all entries are."""
    h = h.astype(float)
    peak = np.abs(h).max((1, 2), keepdims=True)
    h = h / np.where(peak > 0, peak, 1)
    total = (h**2).sum((1, 2))
    return ((h - h.mean(1, keepdims=True)) ** 2).sum((1, 2)) / np.where(total > 0, total, 1)
