"""The flag attention_collapse: attention makes tokens alike, or can never learn."""

from typing import Any

import numpy as np

from isometry._internal.types import Key
from isometry.structure import Attention
from isometry.verdicts import _activity, _collapse
from isometry.verdicts._flag import CLEAR, RAISED, UNDECIDED, Flag, undecided
from isometry.verdicts._measured import Measured
from isometry.verdicts._registry import flag

_SOURCE = (
    "tokens become one, and queries and keys lose their gradient (Dong et al., 2021, "
    "arXiv:2103.03404; Noci et al., 2022, arXiv:2206.03126); six depth scales"
)
_LOCKED = "queries and keys without gradient at any step: certificate"
_REMEDY = (
    "skip connections around every attention, a smaller scale of its branch "
    "(1/sqrt(depth)), or values and mixing near the identity (schemes mimetic, shaped)"
)
_REMEDY_OF_LOCK = (
    "random queries and keys: where both are zero, each is the gradient of the other"
)


@flag("attention_collapse", threshold="depth_scales", rank=55, source=_SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether tokens become alike, or queries and keys never get a gradient.

    The spread of the tokens of an input, R = ‖H − mean‖²/‖H‖², must not fall by more
    than e^6 from the embedding to the end of the last block. If all tokens are equal,
    every attention returns their average, and queries and keys get no gradient.
    """
    attentions = measured.subject.anatomy.attentions
    if not attentions:
        return Flag("attention_collapse", CLEAR, "no attention", source=_SOURCE)
    locked = _locked(measured, attentions)
    # A certificate decides without a look at tokens, and whatever the number of seeds.
    if locked:
        return Flag(
            "attention_collapse",
            RAISED,
            f"{', '.join(locked[:2])}: no gradient at any step, certified",
            remedy=_REMEDY_OF_LOCK,
            value=len(locked),
            threshold=0,
            source=_LOCKED,
            evidence={"locked": list(locked)},
            where=locked,
        )
    collapse = _collapse.of_tokens(measured.subject)
    if collapse is None:
        reason = "no values of tokens lie on all paths, before and behind an attention"
        return Flag("attention_collapse", CLEAR, reason, source=_SOURCE)
    evidence: dict[str, Any] = {
        "spread_of_tokens": float(np.median(collapse.before)),
        "points": list(collapse.points),
        "log_ratio": np.median(collapse.log_ratio, 1),
    }
    # If R of the embeddings is zero or rounding, a ratio to it says nothing.
    if not collapse.is_known:
        reason = "the tokens that enter do not differ"
        return Flag("attention_collapse", UNDECIDED, reason, evidence=evidence)
    judged = _collapse.judge(collapse, measured.thresholds, key)
    reason = judged.in_words("tokens")
    if judged.state == UNDECIDED:
        reason += f"; {measured.unsure}"
    where = ()
    if judged.state != CLEAR:
        where = (judged.last,)
    result = Flag(
        "attention_collapse",
        judged.state,
        reason,
        remedy=_REMEDY,
        value=judged.value,
        interval=judged.interval,
        threshold=-measured.threshold("attention_collapse"),
        source=_SOURCE,
        evidence=evidence,
        where=where,
    )
    wrong = _activity.lost(measured.subject, measured.thresholds)
    # If signals underflow to zero, tokens look as if they had become equal.
    if wrong:
        return undecided(result, wrong)
    return result


def _locked(
    measured: Measured,
    attentions: tuple[Attention, ...],
) -> tuple[str, ...]:
    """Return layers of queries and keys that never get a gradient, in some seed.

    Both must be locked: if only one of them is zero, the other has to wait for a step.
    """
    locked: dict[str, None] = {}
    for certificate in measured.certificates:
        first_step = {lock.name: lock.first_gradient for lock in certificate.layers}
        share = {lock.name: lock.never_moves for lock in certificate.layers}
        for attention in attentions:
            # A fused layer also makes the values, which may get a gradient. Then the
            # share of entries that never move decides.
            is_fused = attention.query == attention.value
            layers = (*attention.query, *attention.key)
            rows = [row for row in first_step if _is_of(row, layers)]
            # Blocks of a stack are locked one by one.
            for index in {_index(row) for row in rows}:
                of_slice = [row for row in rows if _index(row) == index]
                if is_fused:
                    line = _share_of_queries_and_keys(attention)
                    is_locked = all(share[row] >= line for row in of_slice)
                else:
                    is_locked = all(first_step[row] is None for row in of_slice)
                if is_locked and layers:
                    locked |= dict.fromkeys(of_slice)
    return tuple(locked)


def _is_of(
    row: str,
    layers: tuple[str, ...],
) -> bool:
    """Tell whether a row of a certificate names one of the layers, or a slice of it."""
    return row in layers or row.rpartition("[")[0] in layers


def _index(row: str) -> str:
    """Return the slice of a row: "3" of "blocks/query[3]", "" of a whole layer."""
    _, bracket, rest = row.rpartition("[")
    if not bracket:
        return ""
    return rest.rstrip("]")


def _share_of_queries_and_keys(attention: Attention) -> float:
    """Return which share of the outputs of a fused layer are queries and keys."""
    # If the sizes are not known, queries, keys and values are taken to be of one size.
    if len(attention.shares) != 3:
        return 2 / 3
    query, key, value = (stop - start for start, stop in attention.shares)
    return (query + key) / (query + key + value)
