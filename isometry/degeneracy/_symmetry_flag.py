"""Units that stay equal for ever: locked_symmetry, and the certificates of several seeds that other flags read."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from isometry.degeneracy._certify import (
    BIT,
    BIT_FOR_BIT,
    IN_EXACT_ARITHMETIC,
    TOLERANCE,
    Certificate,
    certify_drawn,
    not_finite,
)
from isometry.degeneracy._flag import CLEAR, RAISED, UNDECIDED, Flag
from isometry.degeneracy._probe import RANK_FLAG, RANK_REMEDY
from isometry.degeneracy._signals import Signals
from isometry.degeneracy._underflow import seeds_of
from isometry.networks._mlp import Mlp as Network

_NAME = "locked_symmetry"
_ROUNDING = 8 * float(np.finfo(np.float32).eps)  # of a pre-activation relative to its layer's, 64 random-signed terms
_REMEDY = (
    'random weights in every layer: scheme="orthogonal" or "gaussian"; or noise of std 0.1/√fan_in on the weights: '
    "it spreads ln s by 0.1·√(depth/2), and equal units part as training amplifies it"
)
_SOURCE = {
    BIT: "coarsest equitable partition, block sums equal without any rounding: exact",
    TOLERANCE: "equitable partition, verified to the rounding of the weights, u·Σ|w| (Higham, 2002, eq. 4.4)",
}
_BOUND = (
    "rank ≤ min(signal-live classes, activation-live classes below); for partial identity Theorem 1, arXiv:2110.12661"
)


def certified(net: Network, params: Any) -> list[Certificate]:
    """The certificate of every seed of stacked `params`."""
    return [certify_drawn(net, one) for one in seeds_of(params)]


def broken(net: Network, params: Any) -> str:
    """The first parameter of stacked `params` that is NaN or infinite: seed, layer, index; empty if there is none."""
    wrong = ((seed, not_finite(net.layers(one))) for seed, one in enumerate(seeds_of(params)))
    return next((f"{where} in seed {seed}" for seed, where in wrong if where), "")


def locked_symmetry(certificates: Sequence[Certificate]) -> Flag:
    """Raised where hidden units share a class with others, live or dead, in any seed: exact, whatever the seeds.

    The value is the smallest effective width of a locked layer, the threshold that layer's width.
    """
    evidence: dict[str, Any] = {"seeds": [_plain(c) for c in certificates]}
    tier = next((c.tier for c in certificates if c.tier != BIT), BIT)
    locked = [c for c in certificates if c.locked]
    if locked:
        units = min((u for c in locked for u in c.locked), key=lambda u: u.effective_width / u.width)
        reason, layers = _reason(locked[0], units), [u.layer for u in locked[0].locked]
        evidence |= {"locked_layers": layers, "locked_seeds": len(locked)}
        return Flag(_NAME, RAISED, reason, _REMEDY, units.effective_width, None, units.width, _SOURCE[tier], evidence)
    open_ = sorted({i for c in certificates for i in c.undecided})
    if open_:
        reason = f"{_names(open_)}: units equal to within 1000 rounding bounds, but not within one"
        return Flag(_NAME, UNDECIDED, reason, _REMEDY, None, None, None, _SOURCE[TOLERANCE], evidence)
    return Flag(_NAME, CLEAR, "no equal units found", _REMEDY, None, None, None, _SOURCE[BIT], evidence)


def with_growth(flag: Flag, certificates: Sequence[Certificate], signals: Signals) -> Flag:
    """The flag with what the probe saw of locks that hold in exact arithmetic only: how fast their classes drift apart,
    and, for a phi with kinks, how near to one of them their units come: within rounding they can part at once."""
    if not any(u.locked_live for c in certificates for u in c.units):
        return flag
    found, last = signals.growth(), float(signals.spread[:, -1].max())
    least, steps = float(signals.least.min()), int(signals.steps[-1])
    evidence: dict[str, Any] = {"class_spread": signals.spread, "least_distance_from_kink": least}
    words = f"; after {steps} steps their units differ by {last:.1g}"
    if found is not None:
        evidence |= {"growth_rate": found[0], "growth_interval": found[1]}
        low, high = (steps * r for r in found[1])
        words += f", growing by e^{steps * found[0]:.2g} in as many (95 %: {low:.2g} to {high:.2g})"
    evidence["may_part_at_once"] = least < _ROUNDING
    if evidence["may_part_at_once"]:
        words += "; some lie within rounding of a kink and can part at once"
    return replace(flag, reason=flag.reason + words, evidence=flag.evidence | evidence)


def certified_rank(net: Network, certificates: Sequence[Certificate]) -> Flag | None:
    """rank_constrained_training as a theorem: training moves a hidden layer wider than the input in ≤ N_x directions.

    None where no such bound holds in every seed.
    """
    n_x = math.prod(net.input_shape or ())
    hidden = [layer for layer in net.plan if layer.role == "hidden"]
    ranks = [max((c.bounds[layer.index].rank for c in certificates), default=layer.fan_in) for layer in hidden]
    held = [i for i, layer in enumerate(hidden) if ranks[i] <= n_x < min(layer.fan_in, layer.fan_out)]
    if not held:
        return None
    layers = [hidden[i] for i in held]
    bit = all(c.bounds[layer.index].exact_rank <= n_x for c in certificates for layer in layers)
    value, size = max(ranks[i] for i in held), min(min(layer.fan_in, layer.fan_out) for layer in layers)
    reason = (
        f"{_names([layer.index + 1 for layer in layers], 'W')} cannot train in more than {value} of {size} directions, "
        f"N_x = {n_x}; {BIT_FOR_BIT if bit else IN_EXACT_ARITHMETIC}, at every step"
    )
    evidence = {"input_dimension": n_x, "certified_rank": np.array(ranks)}
    return Flag(RANK_FLAG, RAISED, reason, RANK_REMEDY, value, None, n_x, _BOUND, evidence)


def _reason(certificate: Certificate, units: Any) -> str:
    kinds = [f"{n} {kind}" for n, kind in ((units.locked_live, "live"), (units.locked_dead, "dead")) if n]
    where = _names([u.layer for u in certificate.locked])
    return f"{where} train{'s' if len(certificate.locked) == 1 else ''} like {units.effective_width} of " + (
        f"{units.width} units ({' and '.join(kinds)} share a class)"
    )


def _names(layers: Sequence[int], letter: str = "z") -> str:
    ends = (layers[0], layers[-1])[: len(layers)]
    return (" to " if len(layers) == ends[-1] - ends[0] + 1 else " … ").join(f"{letter}_{i}" for i in ends)


def _plain(c: Certificate) -> dict[str, Any]:
    """Numbers for the report, a list over layers each."""
    return {
        "tier": c.tier,
        "discrepancy": c.discrepancy,
        "classes": [len(u.live) for u in c.units],
        "effective_width": [u.effective_width for u in c.units],
        "locked_live": [u.locked_live for u in c.units],
        "locked_dead": [u.locked_dead for u in c.units],
        "dead": [int(u.dead.sum()) for u in c.units],
        "rank_bound": [b.rank for b in c.bounds],
        "holds": [b.holds for b in c.bounds],
        "first_gradient": [b.first_gradient for b in c.bounds],
        "exact_first_gradient": [b.exact_first_gradient for b in c.bounds],
        "undecided": c.undecided,
        "true_duplicates": c.true_duplicates,
        "void_for": c.void_for,
    }
