"""Faults that make the figures of learning in linear nets, and from ZerO, fail.

Each is planted by replacing one attribute, of the figure or of the library; the check
of the figure at its smoke preset must then fail.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from tests.paper_faults import Fault, argument, given, result

EXCHANGED = {"orthogonal": "gaussian", "gaussian": "orthogonal"}


def _decaying(derivatives: Callable[..., Any]) -> Callable[..., Any]:
    """Return what lets the weights decay while they learn."""

    def changed(weights: Any, target: Any) -> Any:
        return derivatives(weights, target) - 0.05 * weights

    return changed


def _steeper(losses: Callable[..., Any]) -> Callable[..., Any]:
    """Return what trains at rates that fall with the root of the depth."""

    def changed(weights: Any, rates: Any, *args: Any, **kwargs: Any) -> Any:
        depth = weights.hidden.shape[1] + 2
        return losses(weights, rates * depth**0.5, *args, **kwargs)

    return changed


def _without_a_gain(mean_field: Callable[..., float]) -> Callable[..., float]:
    """Return what leaves g² out of one of the factors of mean field."""

    def changed(gain: float, mean_square: float) -> float:
        return mean_field(gain, mean_square) - 2 * math.log(gain)

    return changed


def _from_noise(train: Callable[..., Any]) -> Callable[..., Any]:
    """Return what trains from weights that are off by 5 %."""

    def changed(weights: list[np.ndarray], *args: Any, **kwargs: Any) -> Any:
        rng = np.random.default_rng(0)
        for i, weight in enumerate(weights):
            noise = 0.05 * rng.standard_normal(weight.shape) / math.sqrt(len(weight))
            weights[i] = (weight + noise).astype(weight.dtype)
        return train(weights, *args, **kwargs)

    return changed


def _shifted(outputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return signals of layers with a bias of 5 % behind the first."""
    return [outputs[0], *(signal + 0.05 for signal in outputs[1:])]


def _anew(generator: Callable[..., Any]) -> Callable[..., Any]:
    """Return what makes another generator at each call."""
    count = itertools.count()

    def changed(key: jax.Array) -> Any:
        return generator(jax.random.fold_in(key, next(count)))

    return changed


FAULTS = [
    Fault(
        "saxe2013_learning_curves",
        "rotations that are 5 % too large",
        "paper_figs._draws.square",
        result(lambda rotations: 1.05 * rotations),
    ),
    Fault(
        "saxe2013_learning_curves",
        "Gaussian matrices instead of rotations",
        "paper_figs._draws.square",
        argument(1, lambda _: "gaussian"),
    ),
    Fault(
        "saxe2013_learning_curves",
        "weights that decay",
        "paper_figs.saxe2013_learning_curves._derivatives",
        _decaying,
    ),
    Fault(
        "saxe2013_learning_curves",
        "theory of half a layer more",
        "paper_figs.saxe2013_learning_curves._theory_time",
        argument(2, lambda depth: depth + 0.5),
    ),
    Fault(
        "saxe2013_learning_curves",
        "closed form with a time that is 5 % too long",
        "paper_figs.saxe2013_learning_curves._closed_form",
        argument(1, lambda times: 1.05 * times),
    ),
    Fault(
        "saxe2013_linear_learning",
        "matrices that are 5 % too large",
        "paper_figs._draws.square",
        result(lambda matrices: 1.05 * matrices),
    ),
    Fault(
        "saxe2013_linear_learning",
        "orthogonal and Gaussian exchanged",
        "paper_figs._draws.square",
        argument(1, lambda law: EXCHANGED[law]),
    ),
    Fault(
        "saxe2013_linear_learning",
        "rates that fall with the root of the depth",
        "paper_figs.saxe2013_linear_learning._losses",
        _steeper,
    ),
    Fault(
        "saxe2013_linear_learning",
        "singular values of the law that are 5 % too large",
        "paper_figs.saxe2013_linear_learning._law",
        result(lambda log_values: log_values + math.log(1.05)),
    ),
    Fault(
        "saxe2013_linear_learning",
        "the law of a factor more",
        "paper_figs.saxe2013_linear_learning._law",
        argument(0, lambda count: count + 1),
    ),
    Fault(
        "saxe2013_nonlinear_gain",
        "gains that are 5 % larger",
        "paper_figs.saxe2013_nonlinear_gain._log_values",
        argument(1, lambda gain: 1.05 * gain),
    ),
    Fault(
        "saxe2013_nonlinear_gain",
        "Gaussian instead of orthogonal weights",
        "paper_figs._draws.square",
        argument(1, lambda _: "gaussian"),
    ),
    Fault(
        "saxe2013_nonlinear_gain",
        "theory of erf instead of tanh",
        "isometry.theory.chi",
        argument(0, lambda _: "erf"),
    ),
    Fault(
        "saxe2013_nonlinear_gain",
        "the root of each layer's factor",
        "isometry.theory.chi",
        result(math.sqrt),
    ),
    Fault(
        "saxe2013_nonlinear_gain",
        "lengths that do not change from layer to layer",
        "isometry.theory.q_map",
        lambda _: lambda activation, q, *args, **kwargs: q,
    ),
    Fault(
        "saxe2013_nonlinear_gain",
        "theory without the gain of one layer",
        "paper_figs.saxe2013_nonlinear_gain._mean_field",
        _without_a_gain,
    ),
    Fault(
        "zero2021_partial_identity_rank",
        "weights off by 5 %",
        "paper_figs._zero.train",
        _from_noise,
    ),
    Fault(
        "zero2021_partial_identity_rank",
        "signals that do not stay zero behind the identity",
        "paper_figs._zero._layers",
        result(_shifted),
    ),
    Fault(
        "zero2021_partial_identity_rank",
        "a batch for each width",
        "paper_figs._draws.generator",
        _anew,
    ),
    Fault(
        "zero2021_rank_ceiling",
        "weights off by 5 %",
        "paper_figs._zero.train",
        _from_noise,
    ),
    Fault(
        "zero2021_rank_ceiling",
        "Hadamard signs that repeat after half as many",
        "paper_figs.zero2021_rank_ceiling._period",
        result(lambda period: period // 2),
    ),
    Fault(
        "zero2021_rank_ceiling",
        "all weights in float64",
        "paper_figs.zero2021_rank_ceiling.RUNS",
        lambda runs: {
            name: run._replace(dtype="float64") for name, run in runs.items()
        },
    ),
    Fault(
        "zero2021_rank_ceiling",
        "orthogonal weights instead of all",
        "isometry.networks.mlp",
        given(scheme="orthogonal"),
    ),
]
