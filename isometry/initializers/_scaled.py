"""Variance set by the fans as torch draws it: Glorot's and He's, not truncated."""

import functools
import math
from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import Axes, DTypeLike, Key
from isometry.initializers._catalogue import register
from isometry.initializers._gains import torch_gain
from isometry.initializers._initializer import Initializer, format_arguments, magnitude
from isometry.initializers._layout import Layout
from isometry.initializers._random import (
    NORMAL_REACH,
    SPECTRUM,
    sample_normal,
    sample_uniform,
)

_GLOROT = "Glorot and Bengio (2010), AISTATS"
_HE = "He et al. (2015), arXiv:1502.01852"

# Standard deviation as a function of fan_in and fan_out.
StdOfFans: TypeAlias = Callable[[float, float], float]


def scaled_normal(
    name: str,
    std_of_fans: StdOfFans,
    layout: Layout,
    *,
    arguments: dict[str, object],
    dtype: DTypeLike | None,
) -> Initializer:
    """Return an initializer of independent entries N(0, std²).

    Args:
        name: The name of the factory, for messages and the repr.
        std_of_fans: The standard deviation, a function of fan_in and fan_out.
        layout: The axes and groups.
        arguments: The arguments of the factory, for the repr; without axes and groups.
        dtype: The dtype if a call names none.
    """

    def draw(
        key: Key, shape: tuple[int, ...], draw_dtype: np.dtype
    ) -> Float[Array, "..."]:
        std = std_of_fans(*layout.fans(shape))
        return sample_normal(key, shape, draw_dtype, mean=0.0, std=std)

    def largest(shape: tuple[int, ...]) -> float:
        return NORMAL_REACH * magnitude(std_of_fans(*layout.fans(shape)))

    return Initializer(
        name,
        format_arguments(arguments | layout.changed(), dtype),
        draw,
        largest=largest,
        dtype=dtype,
        layout=layout,
    )


def scaled_uniform(
    name: str,
    std_of_fans: StdOfFans,
    layout: Layout,
    *,
    arguments: dict[str, object],
    dtype: DTypeLike | None,
) -> Initializer:
    """Return an initializer of independent entries, uniform on ±√3 std.

    The arguments are those of `scaled_normal`.
    """

    def bound_of(shape: tuple[int, ...]) -> float:
        # Uniform on (-1, 1) has variance 1/3.
        return math.sqrt(3.0) * std_of_fans(*layout.fans(shape))

    def draw(
        key: Key, shape: tuple[int, ...], draw_dtype: np.dtype
    ) -> Float[Array, "..."]:
        bound = bound_of(shape)
        # Refused here in the user's arguments; `sample_uniform` would speak of bounds
        # that the user never wrote.
        if 2 * magnitude(bound) > float(jnp.finfo(draw_dtype).max):
            raise InputError(
                f"{format_arguments(arguments)} makes an interval of width "
                f"{2 * bound:g}, beyond the largest {draw_dtype.name}; write smaller "
                "numbers or a wider dtype."
            )
        return sample_uniform(key, shape, draw_dtype, low=-bound, high=bound)

    def largest(shape: tuple[int, ...]) -> float:
        return magnitude(bound_of(shape))

    return Initializer(
        name,
        format_arguments(arguments | layout.changed(), dtype),
        draw,
        largest=largest,
        dtype=dtype,
        layout=layout,
    )


@register(
    law="entries independent, uniform on ±gain √(6/(fan_in + fan_out)): mean 0, "
    "variance 2 gain²/(fan_in + fan_out); " + SPECTRUM,
    citation=_GLOROT,
    aliases=("torch xavier_uniform_",),
    differs="jax.nn.initializers.xavier_uniform() is glorot_uniform(): the same law, "
    "other bits",
)
@public("xavier_uniform")
def xavier_uniform(
    gain: float = 1.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw uniform entries of variance 2 gain²/(fan_in + fan_out).

    The interval is ±gain √(6/(fan_in + fan_out)) (Glorot and Bengio, 2010, equation
    16). `jax.nn.initializers.xavier_uniform()` is `glorot_uniform()` here, bit for bit
    from the same key in float32 and float64: the same distribution, other samples.

    Args:
        gain: Multiplies the entries. Finite and positive.
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
            They do not count towards the fans.
        groups: Number of groups (Flax's `feature_group_count`). fan_out is that of one
            group; left at 1, it counts the outputs of all groups, as torch does.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes.

    Raises:
        InputError: `gain` is not positive; `layout` is not known, or given beside axes.
            When the initializer is called: the shape has fewer than two axes; axes or
            groups do not fit the shape; `gain` is too large for the dtype.

    Example:
        >>> import jax
        >>> from isometry import initializers
        >>> w = initializers.xavier_uniform()(jax.random.key(0), (200, 100))
        >>> round(float((200 + 100) * w.var()), 1)
        2.0

        A kernel of (d, heads, head_dim) has d inputs and heads·head_dim outputs:

        >>> init = initializers.xavier_uniform(in_axis=0, out_axis=(1, 2))
        >>> w = init(jax.random.key(0), (200, 4, 25))
        >>> round(float((200 + 100) * w.var()), 1)
        2.0
    """
    gain = checks.number("gain", gain, above=0.0)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    std = functools.partial(_glorot_std, gain)
    return scaled_uniform(
        "xavier_uniform", std, axes, arguments={"gain": gain}, dtype=dtype
    )


@register(
    law="entries independent N(0, 2 gain²/(fan_in + fan_out)), untruncated; "
    + SPECTRUM,
    citation=_GLOROT,
    aliases=("torch xavier_normal_",),
    differs="jax.nn.initializers.xavier_normal() is glorot_normal(): of the same "
    "variance, but truncated",
)
@public("xavier_normal")
def xavier_normal(
    gain: float = 1.0,
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw Gaussian entries of variance 2 gain²/(fan_in + fan_out), untruncated.

    torch's law, of the variance of Glorot and Bengio (2010, equation 12).
    `jax.nn.initializers.xavier_normal()` is `glorot_normal()` here, bit for bit from
    the same key in float32 and float64: of the same variance, but truncated.

    Args:
        gain: Multiplies the entries. Finite and positive.
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
            They do not count towards the fans.
        groups: Number of groups (Flax's `feature_group_count`). fan_out is that of one
            group; left at 1, it counts the outputs of all groups, as torch does.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes.

    Raises:
        InputError: `gain` is not positive; `layout` is not known, or given beside axes.
            When the initializer is called: the shape has fewer than two axes; axes or
            groups do not fit the shape; `gain` is too large for the dtype.

    Example:
        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.xavier_normal(in_axis=0, out_axis=(1, 2))
        >>> w = init(jax.random.key(0), (200, 4, 25))
        >>> round(float((200 + 100) * w.var()), 1)
        2.0
    """
    gain = checks.number("gain", gain, above=0.0)
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    std = functools.partial(_glorot_std, gain)
    return scaled_normal(
        "xavier_normal", std, axes, arguments={"gain": gain}, dtype=dtype
    )


def _glorot_std(gain: float, fan_in: float, fan_out: float) -> float:
    # Signals keep their variance at fan_in·Var = 1, gradients at fan_out·Var = 1; the
    # average of the fans is the compromise (Glorot and Bengio, 2010, equation 12).
    return gain * math.sqrt(2.0 / (fan_in + fan_out))


@register(
    law="entries independent, uniform on ±gain √(3/fan): mean 0, variance gain²/fan, "
    "gain √2 by default; " + SPECTRUM,
    citation=_HE,
    aliases=("torch kaiming_uniform_",),
    differs="jax.nn.initializers.kaiming_uniform() is he_uniform(): the same law, "
    "other bits",
)
@public("kaiming_uniform")
def kaiming_uniform(
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw uniform entries of variance gain²/fan, by default He's 2/fan_in.

    The gain is `calculate_gain(nonlinearity, a)`, the interval ±gain √(3/fan) (He et
    al., 2015, equations 10 and 15). The default a = 0 gives the gain √2 of ReLU,
    whereas `calculate_gain("leaky_relu")` takes slope 0.01; torch's own layers pass
    a = √5 (`torch_default`).

    `jax.nn.initializers.kaiming_uniform()` is `he_uniform()` here, bit for bit from the
    same key in float32 and float64: the same distribution, other samples.

    Args:
        a: Slope of leaky_relu for negative inputs. Every other `nonlinearity` ignores
            it, as in torch. A number, not a tracer.
        mode: "fan_in" or "fan_out", in lower case; torch takes capitals too.
        nonlinearity: A name that `calculate_gain` knows.
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
            They do not count towards the fans.
        groups: Number of groups (Flax's `feature_group_count`). fan_out is that of one
            group; left at 1, it counts the outputs of all groups, as torch does.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes.

    Raises:
        InputError: `mode` or `nonlinearity` is not known; `a` is not finite; `layout`
            is not known, or given beside axes. When the initializer is called: the
            shape has fewer than two axes; axes or groups do not fit the shape.

    Example:
        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.kaiming_uniform(in_axis=0, out_axis=(1, 2))
        >>> w = init(jax.random.key(0), (200, 4, 25))
        >>> round(float(200 * w.var()), 1)
        2.0
    """
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    std = _he_std(a, mode, nonlinearity)
    arguments = {"a": a, "mode": mode, "nonlinearity": nonlinearity}
    return scaled_uniform(
        "kaiming_uniform", std, axes, arguments=arguments, dtype=dtype
    )


@register(
    law="entries independent N(0, gain²/fan), untruncated, gain √2 by default; "
    + SPECTRUM,
    citation=_HE,
    aliases=("torch kaiming_normal_",),
    differs="jax.nn.initializers.kaiming_normal() is he_normal(): of the same "
    "variance, but truncated",
)
@public("kaiming_normal")
def kaiming_normal(
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw Gaussian entries of variance gain²/fan, by default He's 2/fan_in.

    The gain is `calculate_gain(nonlinearity, a)` (He et al., 2015, equations 10 and
    14). As in torch, the Gaussian is not truncated.

    JAX's function of this name draws a truncated Gaussian of the same variance: that is
    `he_normal()` here, bit for bit from the same key in float32 and float64.

    Args:
        a: Slope of leaky_relu for negative inputs. Every other `nonlinearity` ignores
            it, as in torch. A number, not a tracer.
        mode: "fan_in" or "fan_out", in lower case; torch takes capitals too.
        nonlinearity: A name that `calculate_gain` knows.
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
            They do not count towards the fans.
        groups: Number of groups (Flax's `feature_group_count`). fan_out is that of one
            group; left at 1, it counts the outputs of all groups, as torch does.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes.

    Raises:
        InputError: `mode` or `nonlinearity` is not known; `a` is not finite; `layout`
            is not known, or given beside axes. When the initializer is called: the
            shape has fewer than two axes; axes or groups do not fit the shape.

    Example:
        >>> import jax
        >>> from isometry import initializers
        >>> init = initializers.kaiming_normal(in_axis=0, out_axis=(1, 2))
        >>> w = init(jax.random.key(0), (200, 4, 25))
        >>> round(float(200 * w.var()), 1)
        2.0
    """
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    std = _he_std(a, mode, nonlinearity)
    arguments = {"a": a, "mode": mode, "nonlinearity": nonlinearity}
    return scaled_normal("kaiming_normal", std, axes, arguments=arguments, dtype=dtype)


def _he_std(a: float, mode: str, nonlinearity: str) -> StdOfFans:
    """Return the standard deviation gain/√fan as a function of the fans."""
    checks.one_of("mode", mode, ("fan_in", "fan_out"))
    gain = torch_gain(nonlinearity, slope_name="a", slope=a)
    if mode == "fan_in":
        return lambda fan_in, fan_out: gain / math.sqrt(fan_in)
    return lambda fan_in, fan_out: gain / math.sqrt(fan_out)


@register(
    law="entries independent, uniform on ±1/√fan_in: mean 0, variance 1/(3 fan_in), as "
    "of kaiming_uniform(a=√5); " + SPECTRUM,
    citation="torch.nn.Linear.reset_parameters; "
    "LeCun et al. (1998), Efficient BackProp",
    aliases=("torch Linear.weight", "torch Conv.weight"),
)
@public("torch_default")
def torch_default(
    *,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
    batch_axis: Axes = (),
    groups: int = 1,
    layout: str | None = None,
    dtype: DTypeLike | None = None,
) -> Initializer:
    """Draw uniform entries on ±1/√fan_in, torch's weights of Linear and Conv.

    torch writes it `kaiming_uniform_(a=√5)`; the variance 1/(3 fan_in) is a sixth of
    what ReLU asks for. torch's transposed convolutions store (in, out/groups, *window),
    and torch takes axis 1 for their inputs too, so that its "fan_in" is the fan_out of
    one group. `layout="torch"` does the same. For a layer without groups,
    `in_axis=0, out_axis=1` takes the true fan_in.

    Args:
        in_axis: Axis or axes of the inputs.
        out_axis: Axis or axes of the outputs.
        batch_axis: Axes over independent weights, such as stacked layers or experts.
            They do not count towards the fans.
        groups: Number of groups (Flax's `feature_group_count`), a divisor of the number
            of outputs. It does not change fan_in: the weight of a grouped layer stores
            the in/groups inputs of one group.
        layout: A name instead of `in_axis` and `out_axis`: "jax" is (*window, in, out),
            "torch" (out, in, *window), "heads_in" (in, heads, head_dim), "heads_out"
            (heads, head_dim, out).
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer of shapes with at least two axes.

    Raises:
        InputError: `layout` is not known, or given beside axes. When the initializer is
            called: the shape has fewer than two axes; axes or groups do not fit the
            shape.

    Example:
        >>> import jax
        >>> from isometry import initializers
        >>> w = initializers.torch_default()(jax.random.key(0), (100, 50))
        >>> round(float(abs(w).max()), 2)
        0.1

        Of a kernel (d, heads, head_dim) the fan_in is d:

        >>> init = initializers.torch_default(in_axis=0, out_axis=(1, 2))
        >>> w = init(jax.random.key(0), (100, 5, 10))
        >>> round(float(abs(w).max()), 2)
        0.1
    """
    axes = Layout.of(layout, in_axis, out_axis, batch_axis=batch_axis, groups=groups)
    return scaled_uniform(
        "torch_default",
        # torch writes kaiming_uniform_ with a = √5, whose gain squared is 2/(1 + 5).
        lambda fan_in, fan_out: 1 / math.sqrt(3.0 * fan_in),
        axes,
        arguments={},
        dtype=dtype,
    )


@register(
    law="entries independent, uniform on ±1/√fan_in: mean 0, variance 1/(3 fan_in)",
    citation="torch.nn.Linear.reset_parameters",
    aliases=("torch Linear.bias", "torch Conv.bias"),
    needs=("fan_in",),
)
@public("torch_default_bias")
def torch_default_bias(
    fan_in: int, *, groups: int = 1, dtype: DTypeLike | None = None
) -> Initializer:
    """Draw uniform entries on ±1/√fan_in, torch's biases of Linear and Conv.

    A bias does not know the weight that it is added to, so fan_in is an argument. For a
    transposed convolution torch takes the outputs of one group times the window.

    Args:
        fan_in: Inputs of one group times the window. At least 1.
        groups: Number of groups, which must divide the bias. The law does not depend on
            it, because `fan_in` is a group's.
        dtype: The dtype if a call names none. None is JAX's default float.

    Returns:
        An initializer for any shape.

    Raises:
        InputError: `fan_in` is not a positive whole number; the groups do not divide
            the bias.

    Example:
        >>> import jax
        >>> from isometry import initializers
        >>> b = initializers.torch_default_bias(100)(jax.random.key(0), (50,))
        >>> round(float(abs(b).max()), 2)
        0.1
    """
    checks.integer("fan_in", fan_in, low=1)
    # torch's Linear and Conv take the bound of their weights for their biases.
    bound = 1 / math.sqrt(fan_in)
    arguments: dict[str, object] = {"fan_in": fan_in}
    if groups != 1:
        arguments["groups"] = groups

    def draw(key: Key, shape: tuple[int, ...], dtype: np.dtype) -> Array:
        # A bias is all outputs, whatever its shape: Equinox stores (out, 1, 1).
        every_axis = Layout((), tuple(range(len(shape))), groups=groups)
        every_axis.outputs_per_group(shape)
        return sample_uniform(key, shape, dtype, low=-bound, high=bound)

    return Initializer(
        "torch_default_bias", format_arguments(arguments, dtype), draw, dtype=dtype
    )
