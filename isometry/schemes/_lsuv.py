"""Layer-sequential unit variance: orthonormal weights, rescaled by what real inputs make of them."""

from dataclasses import replace
from typing import Any

import numpy as np

from isometry import _checks, initializers
from isometry.schemes._scheme import Scheme, same

TOLERANCE = 0.1  # Tol_var and T_max of the paper's Algorithm 1
ATTEMPTS = 10


def _fit(net: Any, params: Any, xs: Any) -> Any:
    """Divide each layer's weights by the standard deviation of its outputs over examples and units, first to last.

    The paper's loop, but with at least one division: of outputs linear in the weights (zero biases) it makes the
    standard deviation 1 to rounding, where the paper leaves what is within 0.1.
    """

    def change(layer: Any, outputs: Any) -> Any:
        for divisions in range(ATTEMPTS + 1):
            spread = float(np.asarray(outputs(layer), np.float64).std())
            if divisions and abs(spread - 1) <= TOLERANCE:
                return layer
            if not 0 < spread < np.inf:
                raise _checks.InputError(
                    f"adjust(): the outputs of layer {layer.index} have standard deviation {spread} over xs; lsuv "
                    "cannot scale them to 1. Give inputs that differ, or another activation."
                )
            layer = replace(layer, w=layer.w / np.asarray(spread, layer.w.dtype))
        raise _checks.InputError(
            f"adjust(): after {ATTEMPTS} divisions the outputs of layer {layer.index} still have no standard deviation "
            f"of 1 ± {TOLERANCE} over xs; lsuv needs biases that are small against them, as net.init draws them."
        )

    return net.sweep(params, xs, change)


SCHEMES = (
    Scheme(
        "lsuv",
        same(initializers.orthogonal()),
        "orthogonal weights, rescaled layer after layer so that outputs on real inputs have unit variance",
        law="drawn as orthogonal(1), biases 0; adjusted on inputs xs: the outputs of each layer have standard "
        "deviation 1 over xs and units; net.init alone gives the draw, ensemble and audit adjust it",
        citation="Mishkin and Matas (2016), arXiv:1511.06422",
        differs="the paper leaves alone what is within 0.1 of variance 1; here every layer is divided once",
        fit=_fit,
    ),
)
