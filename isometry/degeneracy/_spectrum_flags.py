"""Flags read off the singular values of the Jacobian: vanishing, exploding, anisometric, below_floor."""

from typing import Any

import jax
import numpy as np

from isometry.degeneracy._flag import (
    CLEAR,
    RAISED,
    UNDECIDED,
    Flag,
    Thresholds,
    above,
    flipped,
    interval,
    unsure,
)
from isometry.degeneracy._unit_flags import slopes
from isometry.measure._record import Spectrum

_SCALE = "|K ln chi_1| = 6, six depth scales (Schoenholz et al., 2017, arXiv:1611.01232)"
_FLOOR = "the floor of the method, max(m, n)·eps of the largest singular value for a dense factorization"
_CLASS = "sigma_0² = 1 (Pennington et al., 2018, arXiv:1802.09979)"


def spectrum_flags(spectra: dict[str, Spectrum], limits: Thresholds, key: Any) -> dict[str, Flag]:
    """Judge every measured span; a flag is raised if it is raised in any.

    Quenched statistics, the median over inputs and then over seeds, because the squared norm of a product of random
    matrices is log-normal at finite width and its mean belongs to rare draws.

    - gain g = ½ ln E s² over the min(m, n) values. (Per input dimension instead, an isometry from 64 inputs onto 10
      outputs would already lose half of the threshold.)
    - anisometry v = Var(s²)/(E s²)², zeros included; 0 at isometry, whatever the scale.
    """
    gains, spreads = {}, {}
    for i, (span, sp) in enumerate(spectra.items()):
        log_mean, anisometry = gain_per_seed(sp)
        gains[span] = _measured(log_mean, jax.random.fold_in(key, 2 * i), limits)
        spreads[span] = _measured(anisometry, jax.random.fold_in(key, 2 * i + 1), limits)
    seeds = next(iter(spectra.values())).log_values.shape[0]
    return {
        "vanishing": _gain_flag("vanishing", -1.0, gains, seeds, limits),
        "exploding": _gain_flag("exploding", 1.0, gains, seeds, limits),
        "anisometric": _anisometric(spreads, seeds, limits),
    }


def gain_per_seed(sp: Spectrum) -> tuple[np.ndarray, np.ndarray]:
    """(seeds,) medians over inputs of g and of v; in float64 and relative to s_max, so that no depth overflows."""
    logs = np.asarray(sp.log_values, float)
    top = logs[..., :1]
    zero = np.isneginf(top[..., 0])
    lam = np.exp(2 * np.where(np.isneginf(logs), -np.inf, logs - np.where(np.isneginf(top), 0, top)))
    m1, m2 = lam.mean(-1), (lam**2).mean(-1)
    safe = np.where(zero, 1, m1)
    gain = np.where(zero, -np.inf, np.where(zero, 0, top[..., 0]) + np.log(safe) / 2)
    spread = np.where(zero, np.inf, m2 / safe**2 - 1)
    return np.median(gain, axis=-1), np.median(spread, axis=-1)


def _measured(per_seed: np.ndarray, key: Any, limits: Thresholds) -> dict[str, Any]:
    return {"value": float(np.median(per_seed)), "interval": interval(per_seed, key, limits.confidence)}


def _worst(states: dict[str, str]) -> tuple[str, str]:
    """(state, span) of the most serious state."""
    order = {RAISED: 0, UNDECIDED: 1, CLEAR: 2}
    span = min(states, key=lambda s: order[states[s]])
    return states[span], span


def _gain_flag(name: str, sign: float, gains: dict[str, Any], seeds: int, limits: Thresholds) -> Flag:
    states = {}
    for span, g in gains.items():
        bounds = g["interval"] if sign > 0 else flipped(g["interval"])
        states[span] = above(sign * g["value"], bounds, limits.log_gain, seeds, limits)
    state, span = _worst(states)
    g = gains[span]
    reason = f"½ ln E s² = {g['value']:+.2f} ({span.replace('_', ' ')})"
    if state == UNDECIDED:
        reason += f"; {unsure(seeds, limits)}"
    elif state == CLEAR:
        reason += f", not {'above' if sign > 0 else 'below'} {sign * limits.log_gain:+g}"
    remedy = (
        'raise sigma_w to its critical value: scheme="orthogonal" or "gaussian" without sigma_w'
        if sign < 0
        else 'lower sigma_w to its critical value: scheme="orthogonal" or "gaussian" without sigma_w'
    )
    evidence = {"gain": gains, "states": states}
    return Flag(name, state, reason, remedy, g["value"], g["interval"], sign * limits.log_gain, _SCALE, evidence)


def _anisometric(spreads: dict[str, Any], seeds: int, limits: Thresholds) -> Flag:
    states = {
        span: above(v["value"], v["interval"], limits.anisometry, seeds, limits)
        if np.isfinite(v["value"])
        else UNDECIDED
        for span, v in spreads.items()
    }
    state, span = _worst(states)
    v = spreads[span]
    reason = f"Var(s²)/(E s²)² = {v['value']:.2f} ({span.replace('_', ' ')})"
    if not np.isfinite(v["value"]):
        reason = "the Jacobian is zero, its anisometry undefined"
    elif state == UNDECIDED:
        reason += f"; {unsure(seeds, limits)}"
    elif state == CLEAR:
        reason += f", at most {limits.anisometry:g}"
    remedy = (
        "orthogonal weights and an activation near its linear regime (tanh, small q); no Gaussian chain is isometric"
    )
    evidence = {"anisometry": spreads, "states": states}
    return Flag("anisometric", state, reason, remedy, v["value"], v["interval"], limits.anisometry, _CLASS, evidence)


def below_floor(net: Any, spectra: dict[str, Spectrum], layers: list[Any], limits: Thresholds, key: Any) -> Flag:
    """Singular values too small for the method, though not known to be zero: ln s of the median one is no number.

    A Jacobian has no more rank than any layer has units with a slope at that input; the values beyond are zeros, which
    a dense factorization turns into noise, and are left out here. The share of the others below the floor is averaged
    over inputs; the median over seeds is judged, in the worst span. Such values are censored, not dropped: they count
    as zeros, and statistics of ln s say how much mass they leave out.

    `layers`: what `pre_activations` returns for the inputs of the spectra.
    """
    live = [(np.asarray(slopes(net.activation, z)) != 0).sum(-1) for z in layers]  # (seeds, inputs) each
    shares = {}
    for i, (span, sp) in enumerate(spectra.items()):
        gates = live if span == "end_to_end" else live[:-1]  # the slopes behind z_(depth-1) are outside the hidden span
        per_seed = _censored(sp, gates).mean(-1)
        shares[span] = _measured(per_seed, jax.random.fold_in(key, i), limits)
    seeds = next(iter(spectra.values())).log_values.shape[0]
    line = limits.below_floor
    states = {span: above(s["value"], s["interval"], line, seeds, limits) for span, s in shares.items()}
    state, span = _worst(states)
    found = shares[span]
    reason = (
        f"{100 * found['value']:.2g} % of the values that may not be zero are unresolved ({span.replace('_', ' ')})"
    )
    reason += f"; {unsure(seeds, limits)}" if state == UNDECIDED else ""
    remedy = 'isometry.ensemble(..., method="product"), which has no floor, or dtype=jnp.float64'
    floors = {span: float(np.asarray(sp.log_floor).max()) for span, sp in spectra.items()}
    evidence = {"share": shares, "states": states, "log_floor": floors}
    return Flag("below_floor", state, reason, remedy, found["value"], found["interval"], line, _FLOOR, evidence)


def _censored(sp: Spectrum, live: list[np.ndarray]) -> np.ndarray:
    """(seeds, inputs): unresolved values as a share of those that are not zero for certain; 0 where all are."""
    logs = np.asarray(sp.log_values)
    rank = np.minimum.reduce([np.full(logs.shape[:-1], sp.size), *live, (~np.isneginf(logs)).sum(-1)])
    unresolved = (~np.asarray(sp.resolved)).sum(-1) - (sp.size - rank)
    return np.where(rank > 0, np.maximum(unresolved, 0) / np.maximum(rank, 1), 0.0)
