"""Faults that make the papers' figures of residual and normalized networks fail.

Each is planted by replacing one attribute, of the figure or of the library; the check
of the figure at its smoke preset must then fail.
"""

from collections.abc import Callable
from typing import Any

from tests.paper_faults import Fault, argument, keyword, result


def _multipliers(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what wraps `networks.resnet` such that multipliers are changed."""

    def replace(resnet: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            given = kwargs.get(name, 1.0)
            return resnet(*args, **{**kwargs, name: change(given)})

        return changed

    return replace


def _branches(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what wraps `networks.resnet` such that branches are changed."""
    return _multipliers("branch", change)


def _skips(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what wraps `networks.resnet` such that skips are changed."""
    return _multipliers("skip", change)


def _scaled(factor: float) -> Callable[[Any], Any]:
    """Return what multiplies a number, or every number of a list."""

    def change(value: Any) -> Any:
        if isinstance(value, list):
            return [factor * number for number in value]
        return factor * value

    return change


def _steeper(branches: property) -> property:
    """Return branches that fall as 1/L^¾ instead of 1/L^½."""

    def changed(self: Any) -> list[float]:
        assert branches.fget is not None
        return [branch * self.depth**-0.25 for branch in branches.fget(self)]

    return property(changed)


FAULTS = [
    Fault(
        "tarnowski2019_residual_spectra",
        "branches of the networks 5 % too strong",
        "isometry.networks.resnet",
        _branches(_scaled(1.05)),
    ),
    Fault(
        "tarnowski2019_residual_spectra",
        "networks of another activation",
        "isometry.networks.resnet",
        argument(2, lambda _: "gelu"),
    ),
    Fault(
        "tarnowski2019_residual_spectra",
        "branches that fall as 1/L^¾",
        "paper_figs.tarnowski2019_residual_spectra.Network.branches",
        _steeper,
    ),
    Fault(
        "tarnowski2019_residual_spectra",
        "a limit law of c^1.5",
        "isometry.theory.resnet_law",
        argument(0, lambda c: c**1.5),
    ),
    Fault(
        "yang2017_residual_growth",
        "branches of the networks 5 % too strong",
        "isometry.networks.resnet",
        _branches(_scaled(1.05)),
    ),
    Fault(
        "yang2017_residual_growth",
        "networks of another activation",
        "isometry.networks.resnet",
        argument(2, lambda _: "gelu"),
    ),
    Fault(
        "yang2017_residual_growth",
        "branches that fall as 1/L^¾",
        "isometry.networks.resnet",
        _branches(lambda branch: branch**1.5),
    ),
    Fault(
        "yang2017_residual_growth",
        "a plain network's chi 5 % too large",
        "isometry.theory.chi",
        result(_scaled(1.05)),
    ),
    Fault(
        "yang2019_batch_norm",
        "a factor of theory 5 % too large",
        "isometry.theory.batch_norm_growth",
        result(_scaled(1.05)),
    ),
    Fault(
        "yang2019_batch_norm",
        "networks of another activation",
        "isometry.networks.resnet",
        argument(2, lambda _: "gelu"),
    ),
    Fault(
        "yang2019_batch_norm",
        "skips 5 % too strong",
        "isometry.networks.resnet",
        _skips(_scaled(1.05)),
    ),
    Fault(
        "yang2019_batch_norm",
        "streams whose variance grows as l²",
        "paper_figs.yang2019_batch_norm._factors",
        result(lambda factors: 1 + (factors - 1) ** 2),
    ),
    Fault(
        "doshi2021_partial_jacobians",
        "skips 5 % too strong",
        "isometry.networks.resnet",
        _skips(_scaled(1.05)),
    ),
    Fault(
        "doshi2021_partial_jacobians",
        "networks with norms of another activation",
        "isometry.networks.resnet",
        argument(2, lambda _: "relu"),
    ),
    Fault(
        "doshi2021_partial_jacobians",
        "a factor of theory 5 % too large",
        "isometry.theory.norm_chi",
        result(_scaled(1.05)),
    ),
    Fault(
        "doshi2021_partial_jacobians",
        "variances that fall as 1/√l at criticality",
        "isometry.theory.q_trajectory",
        result(lambda path: path**0.5),
    ),
    Fault(
        "doshi2021_partial_jacobians",
        "weights of plain networks 5 % too large",
        "isometry.networks.mlp",
        keyword("sigma_w", _scaled(1.05)),
    ),
]
