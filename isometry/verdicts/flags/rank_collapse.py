"""The flag rank_collapse: inputs, or tokens, that the network makes one."""

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
    """Raise where differences between inputs fall by more than e^6 to the last layer.

    Of them R = ‖H − mean‖²/‖H‖² over inputs is taken, at the last pre-activation that
    all paths pass; of tokens likewise, for each input. An R below 10 u² is rounding,
    and counts as none at all. The median over seeds is judged.
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
    # Of a network without tokens there is nothing more to say.
    if tokens is not None:
        result.evidence["states"] = states
        result.evidence["log_ratio_of_tokens"] = np.median(tokens.log_ratio, 1)
    wrong = _activity.lost(measured.subject, measured.thresholds)
    # Zeros that underflow made look like inputs that became one.
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
    # A ratio to what is rounding, or zero, says nothing.
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
        # Differences fall: the line is below zero.
        threshold=-measured.threshold("rank_collapse"),
        evidence=evidence,
        where=where,
    )


def _flag(state: str, reason: str, **fields: Any) -> Flag:
    return Flag(
        "rank_collapse", state, reason, remedy=_REMEDY, source=_SOURCE, **fields
    )
