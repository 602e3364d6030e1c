"""Strict JSON: infinities are the strings "inf" and "-inf", NaN is an error, arrays are lists."""

import json
import math
from typing import Any

import jax
import numpy as np

from isometry._internal import checks
from isometry._internal.errors import InputError


def plain(value: Any, where: str = "value") -> Any:
    """`value` in terms of what strict JSON knows. NaN raises `ValueError`: a result never holds one."""
    if isinstance(value, dict):
        named = {str(k): plain(v, f"{where}[{k!r}]") for k, v in value.items()}
        if len(named) < len(value):
            raise InputError(f"store: two keys of {where}={checks.show(value)} are the same text in JSON.")
        return named
    if isinstance(value, (list, tuple)):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, (np.ndarray, jax.Array)) and not checks.is_key(value):
        return plain(np.asarray(value).tolist(), where)
    if isinstance(value, np.generic):
        return plain(value.item(), where)
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if not (value is None or isinstance(value, (str, bool, int, float))) or value != value:
        raise InputError(f"store: {where}={checks.show(value)} is nothing that strict JSON knows.")
    return value


def dumps(value: Any) -> str:
    """JSON text of `value`, indented, `allow_nan=False`."""
    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"
