"""JSON that every reader understands."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError
from isometry._internal import strict_json


def refuse(constant):
    raise AssertionError(f"{constant} is not strict JSON")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([math.inf, -math.inf, np.float32(-np.inf)], ["inf", "-inf", "-inf"]),
        (np.array([[1.0, -np.inf]]), [[1.0, "-inf"]]),
        (jnp.arange(3), [0, 1, 2]),
        (jnp.ones(2, jnp.bfloat16), [1.0, 1.0]),
        (np.float64(0.1), 0.1),
        (np.int32(7), 7),
        (np.bool_(True), True),
        (10**400, 10**400),
        (None, None),
        ({3: (1, "text")}, {"3": [1, "text"]}),
    ],
)
def test_values_become_what_json_knows(value, expected):
    text = strict_json.dumps(value)
    assert json.loads(text, parse_constant=refuse) == expected


@pytest.mark.parametrize(
    "nan", [math.nan, np.float32(np.nan), np.array([1.0, np.nan]), {"deep": [math.nan]}]
)
def test_nan_is_refused(nan):
    with pytest.raises(InputError, match="nan is nothing that strict JSON knows"):
        strict_json.dumps(nan)


@pytest.mark.parametrize("value", [1j, b"bytes", {1, 2}, jax.random.key(0), object()])
def test_what_json_does_not_know_is_refused(value):
    with pytest.raises(InputError, match="is nothing that strict JSON knows"):
        strict_json.dumps(value)


def test_refusal_says_where_the_value_is():
    with pytest.raises(InputError, match=r"value\['a'\]\[1\]=nan"):
        strict_json.dumps({"a": [1.0, math.nan]})


def test_two_keys_of_one_text_are_refused():
    with pytest.raises(InputError, match=r"two keys of value\[2\]=.* the same text"):
        strict_json.plain({2: {1: "a", "1": "b"}})
