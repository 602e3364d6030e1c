"""How much perturbations grow, between two points and from layer to layer."""

import math
from collections.abc import Mapping

import numpy as np

from isometry.measure._record import Spectrum
from isometry.records import Signals
from isometry.structure import Anatomy
from isometry.verdicts._flag import PerSeed

# A layer is named if |ln chi| is at least this share of that of the worst layer. With 1
# only one of many nearly equal layers would be named; with 0 also those where ln chi
# has the wrong sign by rounding alone.
_SHARE = 0.1


def growth_of(
    sp: Spectrum,
    num_outputs: int,
) -> PerSeed:
    """Return ln(‖J‖_F²/num_outputs), for each seed the median over inputs.

    It is ln of the mean square at the outputs of J, if every input of J is perturbed by
    independent noise of variance 1.

    Args:
        sp: The spectrum of J over (seeds, inputs).
        num_outputs: The number of outputs of J.
    """
    # ‖J‖_F² = E s² times the number of singular values. The mean is taken relative to
    # s_max, because s² of a deep network may overflow.
    log_s = np.asarray(sp.log_values, float)
    log_max = log_s[..., 0]
    is_zero = np.isneginf(log_max)
    reference = np.where(is_zero, 0, log_max)
    shifted = log_s - reference[..., None]
    mean = np.exp(2 * shifted).mean(-1)
    # The mean is zero if the Jacobian is; 1 instead avoids a warning of ln 0.
    safe_mean = np.where(is_zero, 1, mean)
    log_mean = 2 * log_max + np.log(safe_mean)
    return np.median(log_mean, axis=-1) + math.log(sp.size / num_outputs)


def growth_by_layer(
    signals: Signals,
    anatomy: Anatomy,
    averaging: Mapping[str, float],
) -> dict[str, float]:
    """Return ln chi of each layer or block, in the order of the computation.

    Each is ln of the median over seeds and inputs. Only points on all paths are taken.

    Args:
        signals: The signals of the network.
        anatomy: The anatomy of the network.
        averaging: For each layer with an average pooling behind it, ½ ln of the number
            of values in each average.
    """
    growths: dict[str, float] = {}
    joined = 0.0
    chis = np.asarray(signals.chi, float).reshape(-1, len(signals.points))
    for point, chi in zip(signals.points, chis.T, strict=True):
        # Points behind an activation (":out") are left out: the chi of the next layer
        # counts from the last pre-activation, and so holds theirs.
        if not (point.endswith(":out") or np.isnan(chi).any()):
            name = point.removesuffix(":sum")
            # The output is what the last layer computes, unless f says otherwise.
            if point == "output" and anatomy.layers:
                name = anatomy.layers[-1].name
            median = float(np.median(chi))
            log_chi = math.log(median) if median else -math.inf
            growths[name] = log_chi + 2 * joined
            joined = 0.0
        # A pooling behind this point lowers chi of the next point.
        joined += averaging.get(point, 0.0)
    return growths


def worst_layers(
    growths: Mapping[str, float],
    *,
    is_below: bool,
) -> tuple[str, ...]:
    """Return the layers at which perturbations shrink or grow most, the worst first.

    Args:
        growths: ln chi by layer.
        is_below: Whether shrinking is asked for, not growth.
    """
    sign = -1 if is_below else 1
    bad = {name: sign * growth for name, growth in growths.items()}
    worst = max(bad.values(), default=0.0)
    if worst <= 0:
        return ()
    names = [name for name, growth in bad.items() if growth >= _SHARE * worst]
    # Sorting is stable: layers that are equal to a digit stay in their order.
    return tuple(sorted(names, key=lambda name: -round(bad[name], 1)))
