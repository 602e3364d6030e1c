"""Strict JSON: infinities are the strings "inf" and "-inf", NaN is an error, arrays are lists."""

import json
import math
from typing import Any

import jax
import numpy as np


def plain(value: Any) -> Any:
    """`value` in terms of what strict JSON knows. NaN raises `ValueError`: a result never holds one."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.ndarray, jax.Array)):
        return plain(np.asarray(value).tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def dumps(value: Any) -> str:
    """JSON text of `value`, indented, `allow_nan=False`."""
    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"
