"""Variance set by the fans: Glorot's, He's and the layers' default laws as torch draws them, normals untruncated."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from isometry import _checks
from isometry.initializers._catalogue import register
from isometry.initializers._fans import TWO_AXES, Axes, Layout, fans
from isometry.initializers._gains import torch_gain
from isometry.initializers._protocol import Initializer, arguments, magnitude
from isometry.initializers._random import NORMAL_REACH, SPECTRUM, normal, uniform

GLOROT = "Glorot and Bengio (2010), AISTATS"
HE = "He et al. (2015), arXiv:1502.01852"


def _scaled(
    name: str, written: dict[str, Any], std_of_fans: Callable[[int, int], Any], law: str, layout: Layout
) -> Initializer:
    """Zero-mean entries of standard deviation `std_of_fans(fan_in, fan_out)`."""

    def draw(key, shape, dtype):
        std = std_of_fans(*fans(name, shape, *layout))
        bound = math.sqrt(3.0) * std
        if law == "uniform" and 2 * magnitude(bound) > float(jnp.finfo(dtype).max):
            raise _checks.InputError(
                f"{name}(): {arguments(**written)} makes an interval of width {2 * bound:g}, beyond the largest "
                f"{jnp.dtype(dtype).name}; write smaller numbers or a wider dtype."
            )
        scaled = normal(std=std) if law == "normal" else uniform(low=-bound, high=bound)
        return scaled.draw(key, shape, dtype)

    def largest(shape):
        return magnitude(
            (NORMAL_REACH if law == "normal" else math.sqrt(3.0)) * std_of_fans(*fans(name, shape, *layout))
        )

    named = arguments(**written, **layout.changed())
    return Initializer(name, named, draw, least_axes=2, why=TWO_AXES, largest=largest)


def _xavier(name, law, gain, layout):
    _checks.number(name, low=0.0, open_low=True, gain=gain)
    return _scaled(name, {"gain": gain}, lambda n, m: gain * math.sqrt(2.0 / (n + m)), law, layout)


@register(
    law="entries independent, uniform on ±gain √(6/(fan_in + fan_out)): mean 0, variance 2 gain²/(fan_in + fan_out); "
    + SPECTRUM,
    citation=GLOROT,
    aliases=("torch xavier_uniform_",),
    differs="jax.nn.initializers.xavier_uniform() is glorot_uniform(): the same law, other bits",
)
def xavier_uniform(
    gain: float = 1.0, *, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), groups: int = 1
) -> Initializer:
    """Uniform entries of variance 2 gain²/(fan_in + fan_out).

    `jax.nn.initializers.xavier_uniform()` is `glorot_uniform()` here, bit for bit from the same key; the law is one.

    fan_out counts the outputs of all groups, as in torch; with `groups` those of one.

    **Raises** `ValueError`: gain not positive; a shape of fewer than two axes; axes or groups that do not fit it.
    """
    return _xavier("xavier_uniform", "uniform", gain, Layout(in_axis, out_axis, batch_axis, groups))


@register(
    law="entries independent N(0, 2 gain²/(fan_in + fan_out)), untruncated; " + SPECTRUM,
    citation=GLOROT,
    aliases=("torch xavier_normal_",),
    differs="jax.nn.initializers.xavier_normal() is glorot_normal(): of the same variance, but truncated",
)
def xavier_normal(
    gain: float = 1.0, *, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = (), groups: int = 1
) -> Initializer:
    """Gaussian entries of variance 2 gain²/(fan_in + fan_out), untruncated as in torch.

    `jax.nn.initializers.xavier_normal()` is `glorot_normal()` here, bit for bit from the same key: of the same
    variance, but truncated.

    fan_out counts the outputs of all groups, as in torch; with `groups` those of one.

    **Raises** `ValueError`: gain not positive; a shape of fewer than two axes; axes or groups that do not fit it.
    """
    return _xavier("xavier_normal", "normal", gain, Layout(in_axis, out_axis, batch_axis, groups))


def _kaiming(name, law, a, mode, nonlinearity, layout):
    _checks.one_of(name, among=("fan_in", "fan_out"), mode=mode)
    gain = torch_gain(name, nonlinearity, a=a)
    written = {"a": a, "mode": mode, "nonlinearity": nonlinearity}
    return _scaled(name, written, lambda n, m: gain / math.sqrt(n if mode == "fan_in" else m), law, layout)


@register(
    law="entries independent, uniform on ±gain √(3/fan): mean 0, variance gain²/fan, gain √2 by default; " + SPECTRUM,
    citation=HE,
    aliases=("torch kaiming_uniform_",),
    differs="jax.nn.initializers.kaiming_uniform() is he_uniform(): the same law, other bits",
)
def kaiming_uniform(
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
) -> Initializer:
    """Uniform entries of variance gain²/fan with gain = calculate_gain(nonlinearity, a).

    As in torch, `a` is the slope of leaky_relu and every other `nonlinearity` ignores it. The default a = 0 gives the
    gain √2 of ReLU, whereas `calculate_gain("leaky_relu")` takes slope 0.01; torch's own layers pass a = √5
    (`torch_default`). `mode` is "fan_in" or "fan_out" as written here; torch takes capitals too.

    `jax.nn.initializers.kaiming_uniform()` is `he_uniform()` here, bit for bit from the same key; the law is one.

    fan_out counts the outputs of all groups, as in torch; with `groups` those of one.

    **Raises** `ValueError`: unknown mode or nonlinearity; a shape of fewer than two axes; axes or groups that do not
    fit it.
    """
    layout = Layout(in_axis, out_axis, batch_axis, groups)
    return _kaiming("kaiming_uniform", "uniform", a, mode, nonlinearity, layout)


@register(
    law="entries independent N(0, gain²/fan), untruncated, gain √2 by default; " + SPECTRUM,
    citation=HE,
    aliases=("torch kaiming_normal_",),
    differs="jax.nn.initializers.kaiming_normal() is he_normal(): of the same variance, but truncated",
)
def kaiming_normal(
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
) -> Initializer:
    """Gaussian entries of variance gain²/fan with gain = calculate_gain(nonlinearity, a), untruncated as in torch.

    `a`, `mode`, `nonlinearity` and `groups` as in `kaiming_uniform`. `jax.nn.initializers.kaiming_normal()` is
    `he_normal()` here, bit for bit from the same key: of the same variance, but truncated.

    **Raises** `ValueError`: unknown mode or nonlinearity; a shape of fewer than two axes; axes or groups that do not
    fit it.
    """
    layout = Layout(in_axis, out_axis, batch_axis, groups)
    return _kaiming("kaiming_normal", "normal", a, mode, nonlinearity, layout)


@register(
    law="entries independent, uniform on ±1/√fan_in: mean 0, variance 1/(3 fan_in), as of kaiming_uniform(a=√5); "
    + SPECTRUM,
    citation="torch.nn.Linear.reset_parameters; LeCun et al. (1998), Efficient BackProp",
    aliases=("torch Linear.weight", "torch Conv.weight"),
)
def torch_default(*, in_axis: Axes = -2, out_axis: Axes = -1, batch_axis: Axes = ()) -> Initializer:
    """Uniform entries on ±1/√fan_in, the weights of torch's Linear and Conv layers.

    torch writes it `kaiming_uniform_(a=√5)`; the variance 1/(3 fan_in) is a sixth of what ReLU asks for.
    torch's transposed convolutions store (in, out/groups, *window) and take the same axes, so that their "fan_in" is
    the fan_out of one group: `in_axis=1, out_axis=0` follows torch; `in_axis=0, out_axis=1`, ungrouped, is the fan_in.

    **Raises** `ValueError`: a shape of fewer than two axes; axes that do not fit it.
    """
    return _scaled(
        "torch_default", {}, lambda n, m: 1 / math.sqrt(3.0 * n), "uniform", Layout(in_axis, out_axis, batch_axis)
    )


@register(
    law="entries independent, uniform on ±1/√fan_in: mean 0, variance 1/(3 fan_in)",
    citation="torch.nn.Linear.reset_parameters",
    aliases=("torch Linear.bias", "torch Conv.bias"),
    needs=("fan_in",),
)
def torch_default_bias(fan_in: int) -> Initializer:
    """Uniform entries on ±1/√fan_in, the biases of torch's Linear and Conv layers.

    A bias does not know the weight's fan_in: it is the inputs (of one group) times the window. For a transposed
    convolution torch takes the outputs of one group times the window.

    **Raises** `ValueError`: fan_in not a positive whole number.
    """
    _checks.integer("torch_default_bias", low=1, fan_in=fan_in)
    bound = 1 / math.sqrt(fan_in)
    return Initializer("torch_default_bias", arguments(fan_in=fan_in), uniform(low=-bound, high=bound).draw)
