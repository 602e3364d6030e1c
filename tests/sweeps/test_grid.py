"""The grid of a sweep: what is an axis, and which cells have the same key."""

import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, networks
from isometry.sweeps._grid import grid_of


def test_points_are_all_combinations_of_values():
    """A cell is given by its position on each axis."""
    grid = grid_of({"a": [1, 2, 3], "b": ["x", "y"]})
    assert grid.shape == (3, 2)
    assert grid.size == 6
    assert grid.point((2, 1)) == {"a": 3, "b": "y"}


def test_values_become_numbers_of_python():
    """`run` may format and compare them, and numpy's float32 has no JSON."""
    values = {
        "range": (range(2), int),
        "numpy": (np.arange(2), int),
        "float32": (np.array([0.1, 0.2], np.float32), float),
        "jax": (jnp.arange(2.0), float),
        "mixed": ([1, 2.5], float),
        "bools": ([True, False], bool),
        "names": (np.array(["u", "v"]), str),
    }
    grid = grid_of({name: axis for name, (axis, _) in values.items()})
    for axis in grid.axes:
        kind = values[axis.name][1]
        assert [type(label) for label in axis.labels] == [kind, kind], axis.name


def test_networks_alone_are_one_axis():
    """`net.with_schemes` returns such a mapping."""
    nets = networks.mlp([4, 4], "tanh").with_schemes(["orthogonal", "gaussian"])
    grid = grid_of(nets)
    assert grid.names == ("network",)
    assert grid.labels((1,)) == {"network": "gaussian"}
    assert grid.point((1,))["network"] is nets["gaussian"]


def test_objects_of_an_axis_have_labels():
    """The store holds the label, `run` gets the object."""
    grid = grid_of({"activation": {"tanh": np.tanh, "sin": np.sin}, "seed": [0]})
    assert grid.point((1, 0)) == {"activation": np.sin, "seed": 0}
    assert grid.show((1, 0)) == "activation='sin', seed=0"


def test_identity_depends_on_names_and_values_alone():
    """The key of a cell is made from it; 1 and 1.0 are one value."""
    one = grid_of({"a": [1, 2], "b": [0.5, -0.0]})
    other = grid_of({"b": [0.0, 7.0, 0.5], "a": [5.0, 2.0]})
    assert one.identity((1, 0)) == other.identity((2, 1))
    assert one.identity((1, 1)) == other.identity((0, 1))
    texts = {one.identity((i, j)) for i in range(2) for j in range(2)}
    assert len(texts) == 4
    name = grid_of({"a": ["2"], "b": [0.5]})
    assert name.identity((0, 0)) != one.identity((1, 0))


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({}, "no axes"),
        ([1, 2], "no axes"),
        ({"a": 3}, "no list"),
        ({"a": "tanh"}, "no list"),
        ({"a": np.ones((2, 2))}, "no list"),
        ({"a": []}, "empty"),
        ({"a": [1, 1.0]}, "more than once"),
        ({"a": [1, "x"]}, "several kinds"),
        ({"a": [True, 2]}, "several kinds"),
        ({"a": [float("nan")]}, "no number and no name"),
        ({"a": [None]}, "mapping from labels"),
        ({"a": [1j]}, "no number and no name"),
        ({"a": [2**60]}, "2\\*\\*53"),
        ({"state": [1]}, "state and error"),
        ({"a/b": [1]}, "'/'"),
        ({1: [1]}, "named by a text"),
    ],
)
def test_bad_grid_is_refused(grid, words):
    with pytest.raises(InputError, match=words):
        grid_of(grid)
