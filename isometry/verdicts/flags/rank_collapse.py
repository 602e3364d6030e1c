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
def judge(measured: Measured, key: Key) -> Flag:
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
    _, worst = worst_state({what: one.state for what, one in flags.items()})
    if tokens is not None:
        flags[worst].evidence["states"] = {w: one.state for w, one in flags.items()}
        flags[worst].evidence["log_ratio_of_tokens"] = np.median(tokens.log_ratio, 1)
    wrong = _activity.lost(measured.subject, measured.thresholds)
    return undecided(flags[worst], wrong) if wrong else flags[worst]


def _judged(what: str, collapse: Collapse, measured: Measured, key: Key) -> Flag:
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
    last = collapse.points[-1]
    reason = f"differences between {what} change by e^{judged.value:+.2f} to {last}"
    if np.isneginf(judged.value):
        reason = f"all {what} are one at {last}, to rounding"
    if judged.state == UNDECIDED:
        reason += f"; {measured.unsure}"
    return _flag(
        judged.state,
        reason,
        value=judged.value,
        interval=judged.interval,
        threshold=-measured.threshold("rank_collapse"),
        evidence=evidence,
        where=(last,) if judged.state != CLEAR else (),
    )


def _flag(state: str, reason: str, **fields: Any) -> Flag:
    return Flag(
        "rank_collapse", state, reason, remedy=_REMEDY, source=_SOURCE, **fields
    )
