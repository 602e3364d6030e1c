"""What ordered_phase and chaotic_phase share: chi_1 and the growth over the depth."""

import math
from typing import Any

import numpy as np

from isometry._internal.types import Key
from isometry.networks._network import Phase
from isometry.verdicts._flag import (
    CLEAR,
    RAISED,
    UNDECIDED,
    Flag,
    Interval,
    flipped,
    interval,
    state_above,
)
from isometry.verdicts._measured import Measured
from isometry.verdicts._scale import OF_ZEROS

SOURCE = "six depth scales (Schoenholz et al., 2017, arXiv:1611.01232)"
_REMEDY = (
    'sigma_w to the critical value: net.with_scheme("orthogonal") or "gaussian", '
    "without it"
)


def judge_phase(
    name: str,
    measured: Measured,
    key: Key,
    *,
    is_ordered: bool,
) -> Flag:
    """Judge K ln chi_1 over the K pairs (W, D) of the hidden span.

    Where the distribution of the weights and the map of the variance are known, chi_1
    is that of mean-field theory at the fixed point of the variance. For all other
    networks it is e^(growth/K), with the growth measured in the hidden Jacobian. A
    raised flag names the layers or blocks whose own chi is worst.

    Args:
        name: The name of the flag.
        measured: What was measured.
        key: A key of the bootstrap.
        is_ordered: Whether a value below the threshold is what is wrong.
    """
    # ordered_phase is raised below −6, chaotic_phase above 6.
    sign = -1 if is_ordered else 1
    line = sign * measured.threshold("depth_scales")
    pairs = measured.num_pairs
    evidence: dict[str, Any] = {"pairs": pairs}
    # None where theory knows no phase of this network.
    theory, growths = measured.phase, measured.growth
    if not pairs:
        evidence |= {"basis": "none", "phase": "unknown"}
        if theory is not None:
            evidence |= _of_theory(theory)
        reason = f"no hidden pair of layers; phase: {evidence['phase']}"
        return Flag(name, CLEAR, reason, source=SOURCE, evidence=evidence)
    assert growths is not None, "there are pairs"
    value = float(np.median(growths))
    bounds = interval(growths, key, confidence=measured.threshold("confidence"))
    evidence["forward"] = measured.forward
    evidence |= {"measured_growth": value, "measured_interval": bounds}
    if theory is None:
        chi = math.exp(value / pairs)
        evidence |= {"basis": "measured", "phase": _name(bounds), "chi_1": chi}
    else:
        # chi_1 of theory is that of infinite width, and does not scatter over seeds.
        value, bounds = pairs * math.log(theory.chi_1), None
        evidence |= _of_theory(theory)
    evidence["growth"] = value
    evidence["log_chi"] = measured.growth_by_layer
    state = _state(value, bounds, line=line, measured=measured)
    counted = "1 pair" if pairs == 1 else f"{pairs} pairs"
    reason = (
        f"{evidence['phase']} phase, chi_1 = {evidence['chi_1']:.4g} "
        f"({evidence['basis']}): K ln chi_1 = {value:+.2f} over {counted}"
    )
    if state == UNDECIDED:
        reason += f"; {measured.unsure}"
    where: tuple[str, ...] = ()
    if state == RAISED:
        span = "hidden" if "hidden" in measured.spectra else "end_to_end"
        where = measured.worst_layers(span, is_below=is_ordered)
    remedy = f"{'raise' if is_ordered else 'lower'} {_REMEDY}"
    if np.isneginf(value):
        remedy = OF_ZEROS
    return Flag(
        name,
        state,
        reason,
        remedy=remedy,
        value=value,
        interval=bounds,
        threshold=line,
        source=SOURCE,
        evidence=evidence,
        where=where,
    )


def _of_theory(phase: Phase) -> dict[str, Any]:
    """Return phase, chi_1 and q* of theory, and the depth scale, as evidence."""
    # At criticality correlations relax as a power of the depth: the scale is infinite.
    depth_scale = math.inf
    if phase.name != "critical":
        depth_scale = 1 / abs(math.log(phase.chi_1))
    return {
        "basis": "theory",
        "phase": phase.name,
        "chi_1": phase.chi_1,
        "q": phase.q,
        "sigma_w": phase.sigma_w,
        "sigma_b": phase.sigma_b,
        "depth_scale": depth_scale,
    }


def _name(bounds: Interval) -> str:
    """Return the phase that an interval of the measured growth shows."""
    low, high = bounds
    if high < 0:
        return "ordered"
    if low > 0:
        return "chaotic"
    # The interval holds zero: growth and decay cannot be told apart.
    return "critical"


def _state(
    value: float,
    bounds: Interval | None,
    *,
    line: float,
    measured: Measured,
) -> str:
    """Return the state of the flag.

    Args:
        value: K ln chi_1.
        bounds: The interval of the value over seeds; None if the value is theory's.
        line: The threshold; below zero in the ordered phase.
        measured: For the number of seeds.
    """
    # Theory's value does not depend on the draw, so any number of seeds will do.
    is_sure = bounds is None or measured.is_sure
    around = (value, value) if bounds is None else bounds
    if line < 0:
        return state_above(-value, flipped(around), -line, is_sure=is_sure)
    return state_above(value, around, line, is_sure=is_sure)
