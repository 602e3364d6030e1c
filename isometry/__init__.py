"""isometry: can this deep network train? Jacobian singular values, the theory behind them, the flags that follow.

Names are imported when they are first used, so that a process can still set its devices and threads.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from isometry import activations as activations
    from isometry import data as data
    from isometry import initializers as initializers
    from isometry import linalg as linalg
    from isometry import networks as networks
    from isometry import plots as plots
    from isometry import schemes as schemes
    from isometry import store as store
    from isometry import theory as theory
    from isometry._checks import BatchWarning as BatchWarning
    from isometry._checks import InputError as InputError
    from isometry._checks import MissingExtra as MissingExtra
    from isometry._checks import PrecisionWarning as PrecisionWarning
    from isometry._compare import Comparison as Comparison
    from isometry._compare import compare as compare
    from isometry._cost import Cost as Cost
    from isometry._cost import cost as cost
    from isometry._ensemble import Interrupted as Interrupted
    from isometry._ensemble import ensemble as ensemble
    from isometry._jacobian import Dense as Dense
    from isometry._jacobian import Lanczos as Lanczos
    from isometry._jacobian import Product as Product
    from isometry._jacobian import jacobian as jacobian
    from isometry._spectrum import Spectrum as Spectrum
    from isometry._spectrum import spectrum as spectrum
    from isometry.degeneracy import Thresholds as Thresholds
    from isometry.degeneracy import audit as audit
    from isometry.degeneracy import certify as certify
    from isometry.degeneracy import monitor as monitor
    from isometry.degeneracy import recorded as recorded

_HOME = {
    "InputError": "_checks",
    "MissingExtra": "_checks",
    "BatchWarning": "_checks",
    "PrecisionWarning": "_checks",
    "Cost": "_cost",
    "cost": "_cost",
    "Dense": "_jacobian",
    "Lanczos": "_jacobian",
    "Product": "_jacobian",
    "jacobian": "_jacobian",
    "Spectrum": "_spectrum",
    "spectrum": "_spectrum",
    "Interrupted": "_ensemble",
    "ensemble": "_ensemble",
    "Comparison": "_compare",
    "compare": "_compare",
    "Thresholds": "degeneracy",
    "audit": "degeneracy",
    "certify": "degeneracy",
    "monitor": "degeneracy",
    "recorded": "degeneracy",
}
_MODULES = ("activations", "data", "initializers", "linalg", "networks", "plots", "schemes", "store", "theory")

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"isometry.{name}")
    if name in _HOME:
        return getattr(importlib.import_module(f"isometry.{_HOME[name]}"), name)
    raise AttributeError(f"module 'isometry' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
