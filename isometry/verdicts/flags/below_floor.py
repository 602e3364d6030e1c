"""The flag below_floor: singular values too small for the method that measured them."""

import numpy as np
from jaxtyping import Float, Int

from isometry._internal.numerals import percent
from isometry._internal.types import Key
from isometry.measure._record import Spectrum
from isometry.verdicts._flag import RAISED, Flag, undecided
from isometry.verdicts._measured import Measured
from isometry.verdicts._registry import flag
from isometry.verdicts._spans import in_words, judge_spans

_SOURCE = (
    "the floor of the method, max(m, n)·eps of the largest singular value for a dense "
    "factorization"
)
_REMEDY = (
    'isometry.ensemble(..., method="product"), which has no floor, or dtype=jnp.float64'
)


@flag("below_floor", threshold="below_floor", rank=120, source=_SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether over half of the values that may not be zero are below the floor.

    Then the median of ln s is not known. Singular values beyond an upper bound on the
    rank (see `_activity.rank_bounds`) are zero, and are left out of the share. All
    other values below the floor are censored, not dropped: they count as zeros, and
    statistics of ln s report how much mass they leave out.
    """
    line = measured.threshold("below_floor")
    # The mean over inputs, because a share of values may be averaged.
    shares, floors = {}, {}
    for span, sp in measured.spectra.items():
        share = _unresolved_share(sp, measured.rank_bounds[span])
        shares[span] = share.mean(-1)
        floors[span] = float(np.asarray(sp.log_floor).max())
    judged = judge_spans(shares, line, key=key, thresholds=measured.thresholds)
    reason = (
        f"{percent(judged.worst.value)} of the values that may not be zero are "
        f"unresolved ({in_words(judged.span)})"
    )
    reason = judged.with_state(reason, unsure=measured.unsure, limit="")
    where: tuple[str, ...] = ()
    if judged.state == RAISED and not measured.lost:
        where = measured.subject.ends(judged.span)
    result = judged.flag(
        "below_floor",
        reason,
        remedy=_REMEDY,
        threshold=line,
        source=_SOURCE,
        evidence={"share": judged.by_span(), "log_floor": floors},
        where=where,
    )
    # If signals underflow float64, values that are zero and values that are not
    # resolved cannot be told apart.
    if measured.lost:
        return undecided(result, measured.lost)
    return result


def _unresolved_share(
    sp: Spectrum,
    rank_bound: Int[np.ndarray, "seeds inputs"],
) -> Float[np.ndarray, "seeds inputs"]:
    """Return the unresolved values as a share of those that may not be zero.

    The share is 0 where all values are known to be zero.
    """
    # A method without a floor reports −inf only for values that are zero.
    num_not_zero = (~np.isneginf(np.asarray(sp.log_values))).sum(-1)
    rank = np.minimum(rank_bound, num_not_zero)
    # Values beyond the rank are zero; they are unresolved too, but do not count.
    num_zero = sp.size - rank
    num_unresolved = (~np.asarray(sp.resolved)).sum(-1) - num_zero
    share = np.maximum(num_unresolved, 0) / np.maximum(rank, 1)
    return np.where(rank > 0, share, 0.0)
