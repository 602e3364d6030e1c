"""How much perturbations grow, over the hidden span and from layer to layer."""

import math
from collections.abc import Mapping

import numpy as np

from isometry.measure._record import Spectrum
from isometry.records import Signals
from isometry.structure import Anatomy
from isometry.verdicts._flag import PerSeed

# A layer is named if it takes part by so much of what the worst one does. With 1 only
# one of many equal layers is named; with 0 those that rounding puts on one side are.
_SHARE = 0.1


def growth_of(
    sp: Spectrum,
    num_outputs: int,
) -> PerSeed:
    """Return ln E|δz_last|²/|δz_first|² per unit, over the span of a spectrum.

    It is ln of ‖J‖_F² per unit at the end: what becomes of a perturbation of unit size
    in every unit at the start. For each seed the median over inputs.

    Args:
        sp: The spectrum over (seeds, inputs).
        num_outputs: The number of units at the end of the span.
    """
    # ‖J‖_F² = E s² times the number of singular values. The mean is taken relative to
    # s_max, because no s² of a deep network need be a number.
    log_s = np.asarray(sp.log_values, float)
    log_max = log_s[..., 0]
    is_zero = np.isneginf(log_max)
    reference = np.where(is_zero, 0, log_max)
    shifted = log_s - reference[..., None]
    mean = np.exp(2 * shifted).mean(-1)
    # The mean of a Jacobian that is zero is zero; 1 keeps the logarithm quiet.
    safe_mean = np.where(is_zero, 1, mean)
    log_mean = 2 * log_max + np.log(safe_mean)
    return np.median(log_mean, axis=-1) + math.log(sp.size / num_outputs)


def growth_by_layer(
    signals: Signals,
    anatomy: Anatomy,
    averaging: Mapping[str, float],
) -> dict[str, float]:
    """Return ln chi of each layer or block, in the order of the computation.

    Medians over seeds and inputs; only of points that all paths pass.

    Args:
        signals: The signals of the network.
        anatomy: The network.
        averaging: ½ ln of the values that the average behind a layer joins in one.
    """
    growths: dict[str, float] = {}
    joined = 0.0
    chis = np.asarray(signals.chi, float).reshape(-1, len(signals.points))
    for point, chi in zip(signals.points, chis.T, strict=True):
        # Only points of one kind follow each other: those behind activations count too
        # where no layer is between, and would be counted twice.
        if not (point.endswith(":out") or np.isnan(chi).any()):
            name = point.removesuffix(":sum")
            # The output is what the last layer computes, unless f says otherwise.
            if point == "output" and anatomy.layers:
                name = anatomy.layers[-1].name
            median = float(np.median(chi))
            log_chi = math.log(median) if median else -math.inf
            growths[name] = log_chi + 2 * joined
            joined = 0.0
        # What an average takes away it takes from the next point.
        joined += averaging.get(point, 0.0)
    return growths


def worst_layers(
    growths: Mapping[str, float],
    *,
    is_below: bool,
) -> tuple[str, ...]:
    """Return the layers at which perturbations die out, or grow, the worst first."""
    sign = -1 if is_below else 1
    bad = {name: sign * growth for name, growth in growths.items()}
    worst = max(bad.values(), default=0.0)
    if worst <= 0:
        return ()
    names = [name for name, growth in bad.items() if growth >= _SHARE * worst]
    # Sorting is stable: layers that are alike stay in their order.
    return tuple(sorted(names, key=lambda name: -round(bad[name], 1)))
