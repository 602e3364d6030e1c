"""The flag anisometric: some directions are stretched much more than others."""

import numpy as np

from isometry._internal.types import Key
from isometry.verdicts._flag import RAISED, Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._registry import flag
from isometry.verdicts._spans import in_words, judge_spans

_SOURCE = "sigma_0² = 1 (Pennington et al., 2018, arXiv:1802.09979)"
_REMEDY = (
    "often nothing: weights drawn at random, as libraries draw them, do this from a "
    "few layers on, and train; directions with a small s are learnt late, the later "
    "the deeper the network is. Orthogonal weights, and tanh at a small q, keep s alike"
)


@flag("anisometric", threshold="anisometry", rank=110, source=_SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether Var(s²)/(E s²)² of a span is above 1 in the median over seeds."""
    line = measured.threshold("anisometry")
    # The anisometry of a zero Jacobian is not known; the flag `vanishing` reports it.
    judged = judge_spans(
        {span: gain.anisometry for span, gain in measured.gains.items()},
        line,
        key=key,
        thresholds=measured.thresholds,
        is_infinite_known=False,
    )
    value = judged.worst.value
    reason = f"Var(s²)/(E s²)² = {value:.2f} ({in_words(judged.span)})"
    if not np.isfinite(value):
        reason = "the Jacobian is zero, its anisometry undefined"
    else:
        limit = f"at most {line:g}"
        reason = judged.with_state(reason, unsure=measured.unsure, limit=limit)
    where: tuple[str, ...] = ()
    if judged.state == RAISED:
        where = measured.subject.ends(judged.span)
    return judged.flag(
        "anisometric",
        reason,
        remedy=_REMEDY,
        threshold=line,
        source=_SOURCE,
        evidence={"anisometry": judged.by_span()},
        where=where,
    )
