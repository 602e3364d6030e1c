"""Variance set by the fans: Glorot's and He's laws as torch draws them, normals untruncated."""

import math

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._fans import TWO_AXES, Axes, fans
from isometry.initializers._gains import calculate_gain
from isometry.initializers._protocol import Initializer, arguments
from isometry.initializers._random import normal, uniform

GLOROT = "Glorot and Bengio (2010), AISTATS"
HE = "He et al. (2015), arXiv:1502.01852"


def _scaled(name, written, std_of_fans, law, axes):
    """Zero-mean entries of standard deviation `std_of_fans(fan_in, fan_out)`."""

    def draw(key, shape, dtype):
        std = std_of_fans(*fans(name, shape, *axes))
        bound = math.sqrt(3.0) * std
        scaled = normal(std=std) if law == "normal" else uniform(low=-bound, high=bound)
        return scaled.draw(key, shape, dtype)

    return Initializer(name, written, draw, least_axes=2, why=TWO_AXES)


def _xavier(name, law, gain, axes):
    _checks.number(name, low=0.0, open_low=True, gain=gain)
    return _scaled(name, arguments(gain=gain), lambda n, m: gain * math.sqrt(2.0 / (n + m)), law, axes)


@register(
    law="uniform on ±gain √(6/(fan_in + fan_out)): variance 2 gain²/(fan_in + fan_out)",
    citation=GLOROT,
    aliases=("torch xavier_uniform_", "jax glorot_uniform", "Keras GlorotUniform"),
)
def xavier_uniform(gain: float = 1.0, *, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()) -> Initializer:
    """Uniform entries of variance 2 gain²/(fan_in + fan_out).

    **Raises** `ValueError`: gain not positive; a shape of fewer than two axes; axes that do not fit the shape.
    """
    return _xavier("xavier_uniform", "uniform", gain, (in_axis, out_axis, batch_axis))


@register(
    law="N(0, 2 gain²/(fan_in + fan_out)), untruncated",
    citation=GLOROT,
    aliases=("torch xavier_normal_",),
)
def xavier_normal(gain: float = 1.0, *, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()) -> Initializer:
    """Gaussian entries of variance 2 gain²/(fan_in + fan_out), untruncated as in torch.

    **Raises** `ValueError`: gain not positive; a shape of fewer than two axes; axes that do not fit the shape.
    """
    return _xavier("xavier_normal", "normal", gain, (in_axis, out_axis, batch_axis))


def _kaiming(name, law, a, mode, nonlinearity, axes):
    _checks.one_of(name, among=("fan_in", "fan_out"), mode=mode)
    gain = calculate_gain(nonlinearity, a)
    written = arguments(a=a, mode=mode, nonlinearity=nonlinearity)
    return _scaled(name, written, lambda n, m: gain / math.sqrt(n if mode == "fan_in" else m), law, axes)


@register(
    law="uniform on ±gain √(3/fan): variance gain²/fan, gain √2 by default",
    citation=HE,
    aliases=("torch kaiming_uniform_", "jax he_uniform", "Keras HeUniform"),
)
def kaiming_uniform(
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
) -> Initializer:
    """Uniform entries of variance gain²/fan with gain = calculate_gain(nonlinearity, a).

    **Raises** `ValueError`: unknown mode or nonlinearity; a shape of fewer than two axes; axes that do not fit it.
    """
    return _kaiming("kaiming_uniform", "uniform", a, mode, nonlinearity, (in_axis, out_axis, batch_axis))


@register(
    law="N(0, gain²/fan), untruncated, gain √2 by default",
    citation=HE,
    aliases=("torch kaiming_normal_",),
)
def kaiming_normal(
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
) -> Initializer:
    """Gaussian entries of variance gain²/fan with gain = calculate_gain(nonlinearity, a), untruncated as in torch.

    **Raises** `ValueError`: unknown mode or nonlinearity; a shape of fewer than two axes; axes that do not fit it.
    """
    return _kaiming("kaiming_normal", "normal", a, mode, nonlinearity, (in_axis, out_axis, batch_axis))
