"""Gains: torch's table, and the exact ones from theory for any activation."""

import math
from typing import Any

from isometry import _checks, activations
from isometry.theory import _mean_field

_TORCH = {
    "linear": 1.0, "conv1d": 1.0, "conv2d": 1.0, "conv3d": 1.0,
    "conv_transpose1d": 1.0, "conv_transpose2d": 1.0, "conv_transpose3d": 1.0,
    "sigmoid": 1.0, "tanh": 5.0 / 3, "relu": math.sqrt(2.0), "leaky_relu": None, "selu": 3.0 / 4,
}  # fmt: skip


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """torch's recommended gain for `nonlinearity`, a name of its table.

    tanh 5/3, selu 3/4, relu √2, leaky_relu √(2/(1 + slope²)) with slope 0.01, the others 1.

    These are conventions, not solutions: 5/3 for tanh keeps no variance at any q. `gain` computes what theory says.
    As in torch `param` is ignored, whatever it is, for all names but leaky_relu, and True is no slope. Unlike torch we
    refuse a slope that is not finite (torch returns 0 or nan) and take NumPy's and JAX's scalars.

    **Raises** `ValueError`: a name torch does not know; a slope that is not a finite number. `TypeError`: traced slope.
    """
    return torch_gain("calculate_gain", nonlinearity, param=param)


def torch_gain(call: str, nonlinearity: str, **slope: Any) -> float:
    """`calculate_gain` for `call`, whose name of the slope is the keyword."""
    _checks.one_of(call, among=_TORCH, nonlinearity=nonlinearity)
    if nonlinearity != "leaky_relu":
        return float(_TORCH[nonlinearity] or 1.0)
    ((name, value),) = slope.items()
    value = 0.01 if value is None else value
    _checks.concrete(call, **{name: value})
    _checks.finite(call, **{name: value})
    return math.sqrt(2.0 / (1 + float(value) * float(value)))  # ** 2 raises where the square overflows


def gain(activation: Any, criterion: str = "chi", q: float = 1.0) -> float:
    """The sigma_w that theory asks for at pre-activation variance `q`, for any `activation` (name, callable, record).

    - `criterion="chi"`: chi_1 = 1, gradients keep their size: 1/√E[phi'²].
    - `criterion="variance"`: the second moment is kept, E phi² sigma_w² = q: √(q/E[phi²]).

    **Raises** `ValueError`: unknown activation or criterion, negative q, an activation that is flat (or zero) there.
    """
    _checks.one_of("gain", among=("chi", "variance"), criterion=criterion)
    _checks.number("gain", low=0.0, open_low=True, q=q)
    with _checks.named("gain"):
        phi = activations.get(activation)
    moment = _mean_field.mean_square_slope(phi, q) if criterion == "chi" else _mean_field.mean_square(phi, q) / q
    if moment == 0:
        raise _checks.InputError(f"gain(): {phi.name} is constant at q={q:g}; no gain gives criterion={criterion!r}.")
    return moment**-0.5
