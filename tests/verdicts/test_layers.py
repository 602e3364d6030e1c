"""The per-layer table: what it takes from the certificates of several seeds."""

from isometry.certificates import LayerLock
from isometry.verdicts._layers import LayerRow, _with_locks


def test_each_axis_has_the_number_of_its_worst_seed():
    """One seed has the fewest rows that differ, the other the fewest columns."""
    row = LayerRow(
        layer="fc",
        shape=(9, 9),
        q=None,
        chi=None,
        gradient=None,
        distinct=None,
        never_moves=None,
        flags=(),
    )
    locks = []
    for distinct, share in [((3, 9), 0.0), ((4, 4), 0.5)]:
        lock = LayerLock(
            name="fc",
            shape=(9, 9),
            distinct=distinct,
            never_moves=share,
            rank_bound=4,
            first_gradient=1,
            grade="bit for bit",
        )
        locks.append(lock)
    worst = _with_locks(row, locks)
    assert worst.distinct == (3, 4)
    assert worst.never_moves == 0.5
