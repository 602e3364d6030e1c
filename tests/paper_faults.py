"""Faults that make the papers' figures of convolutional networks fail.

Each is planted by replacing one attribute, of the figure or of the library; the check
of the figure at its smoke preset must then fail.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Fault(NamedTuple):
    """One fault.

    Attributes:
        figure: The name of the figure.
        what: The fault in words.
        target: The dotted path of the attribute.
        replace: From the attribute to its replacement.
    """

    figure: str
    what: str
    target: str
    replace: Callable[[Any], Any]


def given(**values: Any) -> Callable[[Any], Any]:
    """Return what makes a function take these values for its keyword arguments."""

    def replace(function: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **{**kwargs, **values})

        return changed

    return replace


def keyword(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what changes a keyword argument of a function."""

    def replace(function: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **{**kwargs, name: change(kwargs[name])})

        return changed

    return replace


def result(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what changes the result of a function."""

    def replace(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: change(function(*args, **kwargs))

    return replace


def argument(place: int, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what changes one argument of a function, given by position."""

    def replace(function: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            arguments = list(args)
            arguments[place] = change(arguments[place])
            return function(*arguments, **kwargs)

        return changed

    return replace


def _noisy(train: Callable[..., Any]) -> Callable[..., Any]:
    """Return what trains from weights that are off by 5 %."""

    def changed(net: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        def noisy(leaf: jax.Array) -> jax.Array:
            key = jax.random.key(leaf.size)
            return leaf * (1 + 0.05 * jax.random.normal(key, leaf.shape, leaf.dtype))

        return train(net, jax.tree.map(noisy, params), *args, **kwargs)

    return changed


def _shifted_factor(*, positions: int = 0, exponent: float = 0.0) -> Any:
    """Return what changes the factor per layer that zero padding is claimed to cost."""

    def replace(factor: Callable[..., float]) -> Callable[..., float]:
        def changed(size: int, axes: float) -> float:
            return factor(size + positions, axes=axes + exponent)

        return changed

    return replace


FAULTS = [
    Fault(
        "ours_zero_padding",
        "weights 5 % larger",
        "isometry.networks.cnn",
        keyword("sigma_w", lambda sigma_w: 1.05 * sigma_w),
    ),
    Fault(
        "ours_zero_padding",
        "tanh instead of ReLU",
        "isometry.networks.cnn",
        given(activation="tanh"),
    ),
    Fault(
        "ours_zero_padding",
        "the factor to the power of the axes and a half",
        "paper_figs.ours_zero_padding._factor",
        _shifted_factor(exponent=0.5),
    ),
    Fault(
        "ours_zero_padding",
        "cos(π/n) instead of cos(π/(n + 1))",
        "paper_figs.ours_zero_padding._factor",
        _shifted_factor(positions=-1),
    ),
    Fault(
        "xiao2018_depth",
        "weights 5 % larger",
        "isometry.networks.cnn",
        keyword("sigma_w", lambda sigma_w: 1.05 * sigma_w),
    ),
    Fault(
        "xiao2018_depth",
        "linear instead of tanh",
        "isometry.networks.cnn",
        given(activation="linear"),
    ),
    Fault(
        "xiao2018_depth",
        "the factors of modes to the power of a half",
        "paper_figs.xiao2018_depth._factors",
        result(lambda factors: np.sqrt(np.abs(factors))),
    ),
    Fault(
        "xiao2018_depth",
        "q* = L^-1.5 instead of 1/L",
        "paper_figs.xiao2018_depth._critical",
        argument(0, lambda depth: depth**1.5),
    ),
    Fault(
        "zero2021_convolution",
        "weights off by 5 %",
        "paper_figs.zero2021_convolution._train",
        _noisy,
    ),
    Fault(
        "zero2021_convolution",
        "tanh instead of ReLU",
        "isometry.networks.cnn",
        given(activation="tanh"),
    ),
    Fault(
        "zero2021_convolution",
        "orthogonal instead of Dirac and ZerO",
        "isometry.networks.cnn",
        given(scheme="delta_orthogonal"),
    ),
    Fault(
        "zero2021_convolution",
        "Hadamard signs that repeat after twice as many",
        "paper_figs.zero2021_convolution._period",
        result(lambda period: 2 * period),
    ),
]
