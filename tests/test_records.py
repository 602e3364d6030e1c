"""The record of signals: what it says of one point, why, and its table."""

import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry.records import Signals


@pytest.fixture
def signals():
    seeds, inputs, points = 2, 2, 2
    numbers = jnp.arange(8.0).reshape(seeds, inputs, points)
    correlations = jnp.array([[[1.0], [0.5]], [[0.5], [1.0]]])
    return Signals(
        q=numbers,
        c=jnp.broadcast_to(correlations, (seeds, 2, 2, points)),
        gradient=numbers + 1,
        apjn=numbers + 2,
        chi=jnp.full_like(numbers, np.nan),
        points=("input", "a"),
        sizes=(3, 4),
        span=("input", "a"),
        reasons=(("chi", "no theory of it is known."),),
    )


def test_one_point_has_the_fields_without_the_axis_of_points(signals):
    point = signals.at("a")
    np.testing.assert_array_equal(point.q, [[1, 3], [5, 7]])
    assert (point.name, point.size, point.c.shape) == ("a", 4, (2, 2, 2))


def test_unknown_names_are_refused_with_those_that_are_known(signals):
    with pytest.raises(isometry.InputError, match="Known: input, a"):
        signals.at("b")
    with pytest.raises(isometry.InputError, match="Known: q, c, gradient"):
        signals.why("Q")


def test_reason_is_given_where_there_is_one(signals):
    assert signals.why("chi") == "no theory of it is known."
    assert signals.why("q") is None


def test_table_has_means_with_errors_over_seeds(signals):
    """q of "a" is (1, 3) and (5, 7): means 2 and 6 of the seeds, 4 with an error of 2.

    The mean of c is over pairs of different inputs, so 1/2.
    """
    header, _, row, reason = signals.table().splitlines()
    assert header.split() == ["point", "size", "q", "c", "gradient", "apjn", "chi"]
    assert row.split()[:8] == ["a", "4", "4", "±", "2", "0.5", "±", "0"]
    assert reason == "chi: no theory of it is known."


def test_repr_of_many_points_fits_a_screen(signals):
    many = 500
    wide = {
        name: jnp.zeros((*getattr(signals, name).shape[:-1], many))
        for name in ("q", "c", "gradient", "apjn", "chi")
    }
    points = tuple(f"layers[{i}]" for i in range(many))
    deep = Signals(**wide, points=points, sizes=(4,) * many, span=points[:1] * 2)
    lines = repr(deep).splitlines()
    assert len(lines) < 25
    assert max(map(len, lines)) < 120
