"""The flag saturated_units: units of a bounded activation in its flat part."""

from typing import Any, NamedTuple

import numpy as np

from isometry._internal.numerals import percent
from isometry._internal.types import Key
from isometry.verdicts import _nulls
from isometry.verdicts._activity import Activity
from isometry.verdicts._flag import (
    CLEAR,
    UNDECIDED,
    Flag,
    PerSeed,
    interval,
    state_above,
)
from isometry.verdicts._measured import Measured
from isometry.verdicts._mode import mode_of_training
from isometry.verdicts._registry import flag

_SOURCE = (
    "below {share:g} of the largest slope (convention); binomial null at "
    "pre-activations of {basis}"
)
_REMEDY = "smaller sigma_w and sigma_b, or inputs scaled to unit variance"


class _Row(NamedTuple):
    """How many units behind one point are saturated.

    Attributes:
        point: The name of the point.
        share: The share of saturated units over units and inputs, for each seed.
        line: The largest share that chance explains.
        probability: The probability that one unit is saturated by chance.
        variance: The variance of pre-activations in the null hypothesis.
        largest_slope: The largest slope of the activation.
    """

    point: str
    share: PerSeed
    line: float
    probability: float
    variance: float
    largest_slope: float

    @property
    def excess(self) -> float:
        """By how much the mean share exceeds what chance explains."""
        return float(self.share.mean()) - self.line


@flag("saturated_units", threshold="saturated_slope", rank=60, source="convention")
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether more units of a bounded activation are saturated than by chance.

    A unit is saturated where |phi'| is below 0.01 of its largest value. The null
    hypothesis is a Gaussian pre-activation whose variance is that of criticality, or 1
    if that is larger. All inputs and positions of a unit count as one sample: they may
    be fully correlated, and this gives the widest distribution. The level is divided
    among the layers. Gates are left out. The worst layer is judged.
    """
    share = measured.threshold("saturated_slope")
    # A gate works by saturating: a forget gate that keeps everything is flat.
    bounded = {
        name: one
        for name, one in measured.activity.items()
        if one.largest_slope is not None and not one.is_gate
    }
    if not bounded:
        return _none(measured, share)
    # Bonferroni: if each of 20 layers were tested at 99 %, every fifth healthy network
    # would raise an alarm.
    level = 1 - (1 - measured.threshold("dead_level")) / len(bounded)
    rows = [
        _row(name, one, measured, share=share, level=level)
        for name, one in bounded.items()
    ]
    # The share that chance explains differs between layers. So they are compared by how
    # much they exceed it.
    worst = max(rows, key=lambda row: row.excess)
    value = float(worst.share.mean())
    bounds = interval(
        worst.share, key, confidence=measured.threshold("confidence"), statistic=np.mean
    )
    # If the parameters were given, saturation is a fact; if not, a matter of the draw.
    is_sure = measured.is_sure or not measured.subject.is_drawn
    state = state_above(value, bounds, worst.line, is_sure=is_sure)
    basis = _basis(worst.variance)
    reason = f"{percent(value)} of the units of {worst.point} are saturated"
    reason += mode_of_training(measured)
    if state == UNDECIDED:
        reason += f"; {measured.unsure}"
    elif state == CLEAR and value:
        reason += f"; {basis} alone gives up to {percent(worst.line)}"
    # The worst first: they are what a user looks at.
    ranked = sorted(rows, key=lambda row: row.excess, reverse=True)
    return Flag(
        "saturated_units",
        state,
        reason,
        remedy=_REMEDY,
        value=value,
        interval=bounds,
        threshold=worst.line,
        source=_SOURCE.format(share=share, basis=basis),
        evidence=_evidence(rows, worst),
        where=tuple(row.point for row in ranked if row.excess > 0),
    )


def _none(
    measured: Measured,
    share: float,
) -> Flag:
    """Return the clear flag of a network without units that could saturate."""
    names = [one.nonlinearity for one in measured.activity.values()]
    # Either there are no units, or the nonlinearities are not bounded, or gates.
    reason = "no hidden units"
    if names:
        listed = ", ".join(dict.fromkeys(names))
        is_gated = any(one.is_gate for one in measured.activity.values())
        reason = f"{listed}: not bounded, it does not saturate"
        if is_gated:
            reason = f"{listed}: gates, or not bounded"
    return Flag(
        "saturated_units",
        CLEAR,
        reason,
        remedy=_REMEDY,
        source=_SOURCE.format(share=share, basis="unit variance"),
        evidence={"bounded": False, "layers": []},
    )


def _row(
    name: str,
    activity: Activity,
    measured: Measured,
    *,
    share: float,
    level: float,
) -> _Row:
    """Count the saturated units behind one point, and how many chance explains."""
    largest = activity.largest_slope
    assert largest is not None, "only bounded ones are counted"
    variance = _nulls.healthy_variance(activity.activation, _sigma_b(measured))
    probability = _nulls.saturated_probability(
        activity.activation, share * largest, variance
    )
    # All positions and inputs of a channel count as one sample: see `judge`.
    num_units = measured.num_seeds * activity.num_channels
    num_entries = activity.num_channels * activity.num_positions
    return _Row(
        point=name,
        share=(activity.num_flat / num_entries).mean(1),
        line=_nulls.saturated_quantile(num_units, probability, level),
        probability=probability,
        variance=variance,
        largest_slope=largest,
    )


def _sigma_b(measured: Measured) -> float:
    """Return the standard deviation of the biases by the scheme; 0 if not known."""
    network = measured.subject.network
    if network is None or network.scheme is None:
        return 0.0
    # A scheme without sigma_b sets biases to zero.
    return float(network.scheme.sigma_b or 0.0)


def _basis(variance: float) -> str:
    """Return the variance of the null hypothesis in words."""
    if variance > 1:
        return f"the critical variance, q* = {variance:.3g},"
    return "unit variance"


def _evidence(
    rows: list[_Row],
    worst: _Row,
) -> dict[str, Any]:
    """Return every number behind the flag, by name."""
    return {
        "bounded": True,
        "largest_slope": worst.largest_slope,
        "null_probability": worst.probability,
        "null_variance": worst.variance,
        "points": [row.point for row in rows],
        "share": [float(row.share.mean()) for row in rows],
        "thresholds": [row.line for row in rows],
    }
