"""Faults that make the papers' figures of convolutional networks fail.

Each is planted by replacing one attribute, of the figure or of the library; the check
of the figure at its smoke preset must then fail.
"""

from collections.abc import Callable
from typing import Any, NamedTuple


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


def _with(**values: Any) -> Callable[[Any], Any]:
    """Return what makes a function take these values for its keyword arguments."""

    def replace(function: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **{**kwargs, **values})

        return changed

    return replace


def _scaled(name: str, factor: float) -> Callable[[Any], Any]:
    """Return what multiplies a keyword argument of a function by a factor."""

    def replace(function: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **{**kwargs, name: factor * kwargs[name]})

        return changed

    return replace


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
        _scaled("sigma_w", 1.05),
    ),
    Fault(
        "ours_zero_padding",
        "tanh instead of ReLU",
        "isometry.networks.cnn",
        _with(activation="tanh"),
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
]
