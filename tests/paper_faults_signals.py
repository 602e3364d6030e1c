"""Faults that make the papers' figures of signals and products of matrices fail.

Each is planted by replacing one attribute, of the figure or of the library; the check
of the figure at its smoke preset must then fail.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from isometry.initializers import Initializer
from tests.paper_faults import Fault, argument, given, result


def _value(value: Any) -> Callable[[Any], Any]:
    """Return what puts a value in the place of another."""

    def replace(_: Any) -> Any:
        return value

    return replace


def _larger(value: Any) -> Any:
    """Return a value that is 5 % larger."""
    return 1.05 * value


def _scaled(initializer: Initializer) -> Initializer:
    """Return an initializer of weights that are 5 % larger."""

    def draw(*args: Any) -> Any:
        return 1.05 * initializer.draw(*args)

    return dataclasses.replace(initializer, draw=draw)


def _erf_for_tanh(activation: str) -> str:
    """Return an activation, with erf in the place of tanh."""
    if activation == "tanh":
        return "erf"
    return activation


def _same_each_time(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Return what draws weights of a law and a width once, and then returns them."""
    drawn: dict[tuple[Any, ...], Any] = {}

    def same(rng: Any, law: str, count: int, n: int) -> Any:
        if (law, n) not in drawn:
            drawn[law, n] = draw(rng, law, count, n=n)
        return drawn[law, n]

    return same


def _without_some_units(weights: Any) -> Any:
    """Return weights of the same mean square, of which each eighth row is zero."""
    is_kept = np.arange(weights.shape[1]) % 8 > 0
    return weights * is_kept[:, None] / np.mean(is_kept) ** 0.5


def _without_a_block(weights: list[Any]) -> list[Any]:
    """Return weights whose second layer has a block of zeros."""
    first, second, *others = weights
    half = len(second) // 2
    is_kept = np.ones_like(second)
    is_kept[:half, half:] = 0
    return [first, second * is_kept, *others]


FAULTS = [
    Fault(
        "poole2016_maps",
        "weights 5 % larger",
        "paper_figs._draws.square",
        result(_larger),
    ),
    Fault(
        "poole2016_maps",
        "theory of erf",
        "paper_figs.poole2016_maps.ACTIVATION",
        _value("erf"),
    ),
    Fault(
        "poole2016_maps",
        "a correlation map without biases",
        "isometry.theory.c_map",
        given(sigma_b=0.0),
    ),
    Fault(
        "poole2016_maps",
        "a length map with sigma_w^1.5 for its square",
        "isometry.theory.q_map",
        argument(2, lambda sigma_w: sigma_w**0.75),
    ),
    Fault(
        "poole2016_maps",
        "a critical line at biases 5 % larger",
        "isometry.theory.critical_points",
        argument(1, _larger),
    ),
    Fault(
        "hanin2020_fluctuation",
        "weights 5 % larger",
        "paper_figs._draws.square",
        result(_larger),
    ),
    Fault(
        "hanin2020_fluctuation",
        "orthogonal weights where Gaussian ones are meant",
        "paper_figs._draws.square",
        argument(1, lambda _: "orthogonal"),
    ),
    Fault(
        "hanin2020_fluctuation",
        "a rate that is 5 % too large",
        "paper_figs.hanin2020_fluctuation.RATES",
        lambda rates: {weights: 1.05 * rate for weights, rate in rates.items()},
    ),
    Fault(
        "hanin2020_fluctuation",
        "the same weights in each layer",
        "paper_figs._draws.square",
        _same_each_time,
    ),
    Fault(
        "hanin2020_fluctuation",
        "one unit in eight without weights",
        "paper_figs._draws.square",
        result(_without_some_units),
    ),
    Fault(
        "newman1986_products",
        "entries 5 % larger",
        "paper_figs._draws.square",
        result(_larger),
    ),
    Fault(
        "newman1986_products",
        "orthogonal factors",
        "paper_figs._draws.square",
        argument(1, lambda _: "orthogonal"),
    ),
    Fault(
        "newman1986_products",
        "a product without its first factor",
        "isometry.linalg.product_log_singular_values",
        argument(0, lambda factors: factors.at[0].set(jnp.eye(factors.shape[-1]))),
    ),
    Fault(
        "newman1986_products",
        "exponents with one degree of freedom less",
        "scipy.special.digamma",
        argument(0, lambda half: half - 0.5 + 1e-3),
    ),
    Fault(
        "newman1986_products",
        "entries that are divided once more by N^0.05",
        "paper_figs._draws.square",
        result(lambda factors: factors / factors.shape[-1] ** 0.05),
    ),
    Fault(
        "balduzzi2017_looks_linear",
        "weights 5 % larger",
        "paper_figs.balduzzi2017_looks_linear._weights",
        result(lambda weights: [1.05 * weight for weight in weights]),
    ),
    Fault(
        "balduzzi2017_looks_linear",
        "tanh instead of ReLU",
        "paper_figs.balduzzi2017_looks_linear._activation",
        _value(np.tanh),
    ),
    Fault(
        "balduzzi2017_looks_linear",
        "orthogonal weights without pairs of units",
        "isometry.networks.mlp",
        argument(2, lambda _: "orthogonal"),
    ),
    Fault(
        "balduzzi2017_looks_linear",
        "a linear network with orthogonal weights",
        "paper_figs.balduzzi2017_looks_linear._slope",
        _value(np.ones_like),
    ),
    Fault(
        "balduzzi2017_looks_linear",
        "a looks-linear network without one of its blocks",
        "paper_figs.balduzzi2017_looks_linear._weights",
        result(_without_a_block),
    ),
    Fault(
        "schoenholz2016_depth_scales",
        "weights 5 % larger",
        "paper_figs._draws.square",
        result(_larger),
    ),
    Fault(
        "schoenholz2016_depth_scales",
        "theory of erf",
        "paper_figs.schoenholz2016_depth_scales.ACTIVATION",
        _value("erf"),
    ),
    Fault(
        "schoenholz2016_depth_scales",
        "rates over one layer less",
        "paper_figs.schoenholz2016_depth_scales._response",
        result(lambda ratio: np.abs(ratio) ** (4 / 3)),
    ),
    Fault(
        "schoenholz2016_depth_scales",
        "depth scales to the power of 1.5",
        "paper_figs.schoenholz2016_depth_scales._xi",
        result(lambda scales: tuple(scale**1.5 for scale in scales)),
    ),
    Fault(
        "schoenholz2016_depth_scales",
        "networks of one sigma_w² that are trained instead of many",
        "paper_figs.schoenholz2016_depth_scales._initial",
        argument(1, lambda square_w: 0 * square_w + 1.0),
    ),
    Fault(
        "every_initializer_spectrum",
        "weights 5 % larger",
        "isometry.networks.mlp",
        argument(2, _scaled),
    ),
    Fault(
        "every_initializer_spectrum",
        "networks of erf instead of tanh",
        "isometry.networks.mlp",
        argument(1, _erf_for_tanh),
    ),
    Fault(
        "every_initializer_spectrum",
        "the law of orthogonal weights for all",
        "isometry.theory.jacobian_law",
        given(weights="orthogonal"),
    ),
    Fault(
        "every_initializer_spectrum",
        "laws of one layer less",
        "paper_figs._pairing._law",
        given(length=7),
    ),
    Fault(
        "every_initializer_spectrum",
        "an initializer that is left out without a reason",
        "paper_figs.every_initializer_spectrum.pairings",
        result(lambda pairings: pairings._replace(rows=pairings.rows[3:])),
    ),
]
