"""Walks along a graph of four places and a loop."""

from isometry.structure._walking import reached

FOLLOWING = {0: [1, 2], 1: [3], 2: [3], 3: [0], 4: [0]}


def test_walk_reaches_all_that_follows_and_its_start():
    assert reached([1], FOLLOWING.__getitem__) == {0, 1, 2, 3}
    assert reached([3, 4], lambda _: ()) == {3, 4}
    assert reached([], FOLLOWING.__getitem__) == set()
