"""Strict JSON, which every reader understands.

JSON has no infinity and no NaN. Infinities are written as the strings "inf" and "-inf";
a NaN is an error, because a result states a reason instead.
"""

import json
import math
from typing import TypeAlias

import jax
import numpy as np

from isometry._internal import checks, kinds
from isometry._internal.errors import InputError

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"


def plain(value: object, where: str = "value") -> Plain:
    """Return `value` made of what JSON knows: arrays as lists, keys of dicts as text.

    Args:
        value: Any nesting of dicts, lists, tuples, arrays, numbers, strings and None.
        where: How to reach the value, for the message of an error.

    Returns:
        The same, made of Python's own types.

    Raises:
        InputError: A NaN, an object of another type, or two keys of the same text.
    """
    if isinstance(value, dict):
        return _plain_dict(value, where)
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    is_array = isinstance(value, (np.ndarray, np.generic, jax.Array))
    if is_array and not kinds.is_key(value):
        # tolist also makes a Python number of a scalar.
        return plain(np.asarray(value).tolist(), where)
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    is_nan = isinstance(value, float) and math.isnan(value)
    if not is_nan and isinstance(value, (str, bool, int, float, type(None))):
        return value
    raise InputError(f"{where}={checks.show(value)} is nothing that strict JSON knows.")


def _plain_dict(value: dict, where: str) -> dict[str, Plain]:
    # JSON knows no keys but text.
    items = {str(key): plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if len(items) < len(value):
        raise InputError(
            f"two keys of {where}={checks.show(value)} are the same text in JSON."
        )
    return items


def dumps(value: object) -> str:
    """Return indented JSON text of `value`, with a newline at its end."""
    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"
