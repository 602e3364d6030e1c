"""The flag rank_collapse: inputs, or tokens, that become alike with depth."""

from typing import Any

import jax
import numpy as np

from isometry._internal.types import Key
from isometry.verdicts import _activity, _collapse
from isometry.verdicts._collapse import Collapse
from isometry.verdicts._flag import CLEAR, UNDECIDED, Flag, undecided, worst_state
from isometry.verdicts._measured import Measured
from isometry.verdicts._registry import flag

_SOURCE = "six depth scales (Schoenholz et al., 2017, arXiv:1611.01232)"
_REMEDY = (
    'sigma_w at the critical value: net.with_scheme("orthogonal") or "gaussian", '
    "without sigma_w; fewer layers, or skip connections"
)


@flag("rank_collapse", threshold="depth_scales", rank=50, source=_SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether squared differences of inputs, or tokens, fall by more than e^6.

    Differences are measured by R = ‖H − mean‖²/‖H‖² over inputs, or over the tokens of
    each input. R at the last pre-activation on all paths is compared with R of the
    input. An R below 10 u², with u the unit roundoff, is rounding and counts as zero.
    The median over seeds is judged.
    """
    collapses = {"inputs": _collapse.of_inputs(measured.subject)}
    tokens = _collapse.of_tokens(measured.subject)
    if tokens is not None:
        collapses["tokens"] = tokens
    # Tokens of one input may become one while inputs stay apart, and the reverse.
    flags = {
        what: _judged(what, one, measured, key=jax.random.fold_in(key, i))
        for i, (what, one) in enumerate(collapses.items())
    }
    states = {what: one.state for what, one in flags.items()}
    _, worst = worst_state(states)
    result = flags[worst]
    # A network without tokens has only the differences between inputs.
    if tokens is not None:
        result.evidence["states"] = states
        result.evidence["log_ratio_of_tokens"] = np.median(tokens.log_ratio, 1)
    wrong = _activity.lost(measured.subject, measured.thresholds)
    # If signals underflow to zero, inputs look as if they had become equal.
    if wrong:
        return undecided(result, wrong)
    return result


def _judged(
    what: str,
    collapse: Collapse,
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge the differences between inputs, or between tokens."""
    evidence: dict[str, Any] = {
        "inputs": measured.num_inputs,
        "spread_of_inputs": float(np.median(collapse.before)),
        "points": list(collapse.points),
        "log_ratio": np.median(collapse.log_ratio, 1),
    }
    if not collapse.points:
        reason = "no hidden layers"
        return _flag(CLEAR, reason, evidence=evidence)
    # If R of the input is zero or rounding, a ratio to it says nothing.
    if not collapse.is_known:
        reason = f"the {what} do not differ"
        if what == "inputs" and measured.num_inputs == 1:
            reason = "one input alone cannot come nearer to another"
        return _flag(UNDECIDED, reason, evidence=evidence)
    judged = _collapse.judge(collapse, measured.thresholds, key)
    reason = judged.in_words(what)
    if judged.state == UNDECIDED:
        reason += f"; {measured.unsure}"
    where = ()
    if judged.state != CLEAR:
        where = (judged.last,)
    return _flag(
        judged.state,
        reason,
        value=judged.value,
        interval=judged.interval,
        # The value is ln of a ratio that falls, so the threshold is negative.
        threshold=-measured.threshold("rank_collapse"),
        evidence=evidence,
        where=where,
    )


def _flag(state: str, reason: str, **fields: Any) -> Flag:
    return Flag(
        "rank_collapse", state, reason, remedy=_REMEDY, source=_SOURCE, **fields
    )
