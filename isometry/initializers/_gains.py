"""Gains: torch's table, and the exact ones from theory for any activation."""

import math

from isometry import activations
from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import Elementwise
from isometry.activations import Activation
from isometry.theory.mean_field import _maps

# As torch.nn.init.calculate_gain has them; leaky_relu's depends on its slope.
_TORCH_GAINS = {
    "linear": 1.0,
    "conv1d": 1.0,
    "conv2d": 1.0,
    "conv3d": 1.0,
    "conv_transpose1d": 1.0,
    "conv_transpose2d": 1.0,
    "conv_transpose3d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3,
    "relu": math.sqrt(2.0),
    "leaky_relu": math.nan,
    "selu": 3.0 / 4,
}


@public("calculate_gain")
def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Look up torch's recommended gain for a nonlinearity.

    tanh 5/3, selu 3/4, relu √2, leaky_relu √(2/(1 + slope²)), the others 1. These are
    conventions, not solutions: 5/3 for tanh keeps the variance at q = 1.18 alone, where
    a squared gradient grows by 21 % a layer. `gain` computes what theory says.

    Unlike torch this refuses a slope that is not finite (torch returns 0 or nan), and
    takes NumPy's and JAX's scalars.

    Args:
        nonlinearity: A name of torch's table.
        param: The slope of leaky_relu for negative inputs, by default 0.01. All other
            names ignore it, as in torch. Not traced.

    Returns:
        The gain.

    Raises:
        InputError: A name that torch does not know, or a slope that is not a finite
            number.
        TypeError: The slope is traced.

    Example:
        >>> from isometry import initializers
        >>> initializers.calculate_gain("leaky_relu", 1.0)
        1.0
    """
    return torch_gain(nonlinearity, slope_name="param", slope=param)


def torch_gain(nonlinearity: str, *, slope_name: str, slope: float | None) -> float:
    """Return torch's gain for a nonlinearity.

    Args:
        nonlinearity: A name of torch's table.
        slope_name: The name of the slope's argument in the caller, for messages.
        slope: The slope of leaky_relu for negative inputs; None is 0.01.
    """
    unknown_to_torch = set(activations.names()) - set(_TORCH_GAINS)
    if isinstance(nonlinearity, str) and nonlinearity in unknown_to_torch:
        raise InputError(
            f"nonlinearity={nonlinearity!r} is not in torch's table; write "
            f"initializers.gain({nonlinearity!r}), the gain that theory asks for."
        )
    checks.one_of("nonlinearity", nonlinearity, _TORCH_GAINS)
    if nonlinearity != "leaky_relu":
        return _TORCH_GAINS[nonlinearity]
    if slope is None:
        slope = 0.01
    checks.on_host(slope_name, slope)
    slope = checks.number(slope_name, slope)
    # `slope**2` raises OverflowError where the product is infinite, and the gain 0.
    squared_slope = float(slope) * float(slope)
    return math.sqrt(2.0 / (1 + squared_slope))


@public("gain")
def gain(
    activation: str | Elementwise | Activation, criterion: str = "chi", q: float = 1.0
) -> float:
    """Compute the sigma_w that theory asks for at pre-activation variance q.

    With z standard normal: for "chi" gradients keep their size, chi_1 = 1, so
    sigma_w = 1/√(E phi'(√q z)²); for "variance" the second moment is kept,
    sigma_w = √(q/E phi(√q z)²) (Schoenholz et al., 2017).

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        criterion: "chi" or "variance".
        q: Variance of the pre-activations. Finite and positive.

    Returns:
        The gain.

    Raises:
        InputError: The activation or the criterion is not known; q is not positive; the
            activation is flat (or zero) there.

    Example:
        >>> from isometry import initializers
        >>> round(initializers.gain("relu"), 4)
        1.4142
        >>> round(initializers.gain("tanh", "variance"), 4)
        1.5925
    """
    checks.one_of("criterion", criterion, ("chi", "variance"))
    q = checks.number("q", q, above=0.0)
    phi = activations.get(activation)
    if criterion == "chi":
        growth = _maps.mean_square_slope(phi, q)
    else:
        growth = _maps.mean_square(phi, q) / q
    if growth == 0:
        raise InputError(
            f"{phi.name} is constant at q={q:g}; no gain gives criterion={criterion!r}."
        )
    return growth**-0.5
