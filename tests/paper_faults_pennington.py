"""Faults that make the papers' figures of critical dense networks fail.

Each is planted by replacing one attribute, of the figure or of the library; the check
of the figure at its smoke preset must then fail.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.paper_faults import Fault, argument, given, result


def _point(**factors: float) -> Callable[[Any], Any]:
    """Return what multiplies fields of a critical point by factors."""

    def change(point: Any) -> Any:
        scaled = {name: by * getattr(point, name) for name, by in factors.items()}
        return dataclasses.replace(point, **scaled)

    return result(change)


def _always(value: Any) -> Callable[[Any], Any]:
    """Return what makes an argument this value."""
    return lambda _: value


FAULTS = [
    Fault(
        "pennington2017_spectra",
        "weights 5 % larger",
        "isometry.theory.critical_at",
        _point(sigma_w=1.05),
    ),
    Fault(
        "pennington2017_spectra",
        "erf instead of each activation",
        "paper_figs._draws.phi",
        argument(0, _always("erf")),
    ),
    Fault(
        "pennington2017_spectra",
        "Gaussian instead of orthogonal weights",
        "paper_figs._draws.square",
        argument(1, _always("gaussian")),
    ),
    Fault(
        "pennington2017_spectra",
        "laws at q* = 1/2 instead of 1/4",
        "isometry.theory.jacobian_law",
        given(q=0.5),
    ),
    Fault(
        "pennington2017_variance_law",
        "weights 5 % larger",
        "isometry.theory.critical_at",
        _point(sigma_w=1.05),
    ),
    Fault(
        "pennington2017_variance_law",
        "erf instead of each activation",
        "paper_figs._draws.phi",
        argument(0, _always("erf")),
    ),
    Fault(
        "pennington2017_variance_law",
        "Gaussian instead of orthogonal weights",
        "paper_figs._draws.square",
        argument(1, _always("gaussian")),
    ),
    Fault(
        "pennington2017_variance_law",
        "s₁ = −1.05 instead of −1",
        "paper_figs.pennington2017_variance_law.S1",
        lambda constants: {**constants, "gaussian": -1.05},
    ),
    Fault(
        "pennington2017_s_max",
        "weights 5 % larger",
        "isometry.theory.critical_at",
        _point(sigma_w=1.05),
    ),
    Fault(
        "pennington2017_s_max",
        "tanh instead of hard tanh and ReLU",
        "paper_figs._draws.phi",
        argument(0, _always("tanh")),
    ),
    Fault(
        "pennington2017_s_max",
        "Gaussian instead of orthogonal weights",
        "paper_figs._draws.square",
        argument(1, _always("gaussian")),
    ),
    Fault(
        "pennington2017_s_max",
        "laws of √L layers instead of L",
        "isometry.theory.jacobian_law",
        argument(1, math.isqrt),
    ),
    Fault(
        "pennington2018_universality",
        "weights 5 % larger",
        "isometry.theory.critical_at",
        _point(sigma_w=1.05),
    ),
    Fault(
        "pennington2018_universality",
        "tanh instead of each activation",
        "paper_figs._draws.phi",
        argument(0, _always("tanh")),
    ),
    Fault(
        "pennington2018_universality",
        "Gaussian instead of orthogonal weights",
        "paper_figs._draws.square",
        argument(1, _always("gaussian")),
    ),
    Fault(
        "pennington2018_universality",
        "σ₀² 5 % larger",
        "paper_figs.pennington2018_universality.SPREAD",
        lambda spread: 1.05 * spread,
    ),
    Fault(
        "pennington2018_universality",
        "rates of the classes exchanged",
        "paper_figs.pennington2018_universality.RATE",
        lambda rates: {"smooth": rates["bernoulli"], "bernoulli": rates["smooth"]},
    ),
    Fault(
        "hu2020_width_depth",
        "weights 5 % larger",
        "paper_figs._draws.square",
        result(lambda weights: 1.05 * weights),
    ),
    Fault(
        "hu2020_width_depth",
        "Gaussian instead of orthogonal weights",
        "paper_figs._draws.square",
        argument(1, _always("gaussian")),
    ),
    Fault(
        "hu2020_width_depth",
        "L* to the power of a half",
        "paper_figs.hu2020_width_depth._frontier",
        result(np.sqrt),
    ),
    Fault(
        "hu2020_width_depth",
        "a rate that does not fall with depth",
        "paper_figs.hu2020_width_depth._start",
        result(lambda task: task._replace(rate=len(task.weights) * task.rate)),
    ),
    Fault(
        "hu2020_width_depth",
        "the gain m/d_y instead of its root",
        "paper_figs.hu2020_width_depth._start",
        result(lambda task: task._replace(gain=task.gain**2)),
    ),
    Fault(
        "pennington2017_training_time",
        "weights 5 % larger",
        "paper_figs._draws.square",
        result(lambda weights: 1.05 * weights),
    ),
    Fault(
        "pennington2017_training_time",
        "orthogonal and Gaussian weights exchanged",
        "paper_figs._draws.square",
        argument(1, {"orthogonal": "gaussian", "gaussian": "orthogonal"}.get),
    ),
    Fault(
        "pennington2017_training_time",
        "Gaussian instead of orthogonal weights",
        "paper_figs._draws.square",
        argument(1, _always("gaussian")),
    ),
]
