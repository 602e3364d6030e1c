"""The flag outlier_dominated: a few singular values carry the mean square."""

from isometry._internal.types import Key
from isometry.verdicts._flag import RAISED, Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._registry import flag
from isometry.verdicts._spans import in_words, judge_spans

_SOURCE = (
    "more than half of Σ s² in values apart from the bulk: convention; that values "
    "leave the bulk: Baik, Ben Arous and Péché (2005, arXiv:math/0403022)"
)
_REMEDY = (
    "weights of mean zero, centred activations or a norm layer; judge the scale by the "
    "bulk, not by E s²"
)


@flag("outlier_dominated", threshold=0.5, rank=115, source=_SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether outliers carry more than half of the sum of s².

    E s² is then the gain in a few directions, such as the mean of all units. The gain
    in all other directions is that of the bulk.
    """
    line = measured.threshold("outlier_dominated")
    # Each span is judged, because a head may hide the outliers of the hidden layers.
    outliers = measured.outliers
    judged = judge_spans(
        {span: one.share for span, one in outliers.items()},
        line,
        key=key,
        thresholds=measured.thresholds,
    )
    reason = (
        f"{100 * judged.worst.value:.3g} % of Σ s² lie in values apart from the bulk "
        f"({in_words(judged.span)})"
    )
    limit = f"at most {100 * line:g} %"
    reason = judged.with_state(reason, unsure=measured.unsure, limit=limit)
    where: tuple[str, ...] = ()
    if judged.state == RAISED:
        where = measured.subject.ends(judged.span)
    return judged.flag(
        "outlier_dominated",
        reason,
        remedy=_REMEDY,
        threshold=line,
        source=_SOURCE,
        evidence={
            "share": judged.by_span(),
            # The remedy is to judge the scale by the gain of the bulk, which is here.
            "outliers": {span: one._asdict() for span, one in outliers.items()},
        },
        where=where,
    )
