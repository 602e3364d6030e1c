"""Layer-sequential unit variance: orthonormal weights, rescaled by what inputs do."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from isometry import initializers
from isometry._internal.errors import InputError
from isometry._internal.types import Params
from isometry.schemes._measuring import Measured, scaled
from isometry.schemes._scheme import Scheme, same

# Tol_var and T_max of Algorithm 1. The loop ends after one division where outputs are
# linear in the weights, so neither decides anything but when to give up.
TOLERANCE = 0.1
ATTEMPTS = 10


def _fit(net: Callable[[Params, PyTree], PyTree], params: Params, xs: PyTree) -> Params:
    """Divide each layer's weights by the standard deviation of its outputs, in order.

    The paper's loop, but with at least one division: of outputs that are linear in the
    weights (zero biases) it makes the standard deviation 1 to rounding, where the paper
    leaves what is within 0.1.
    """
    measured = Measured(net, params, xs)
    slices, taps = measured.slices()
    # One program reads all layers, so it is compiled once and not once a layer.
    variances = measured.variances(
        taps,
        lambda readings: [readings[one.tap][one.entries] for one in slices],
    )
    for position, where in enumerate(slices):
        for divisions in range(ATTEMPTS + 1):
            spread = float(np.sqrt(variances(params)[position]))
            if divisions and abs(spread - 1) <= TOLERANCE:
                break
            # Dead units, constant inputs and overflow all end here.
            if not 0 < spread < np.inf:
                raise InputError(
                    f"the outputs of layer {where.name!r} have standard deviation "
                    f"{spread} over xs; lsuv cannot scale them to 1. Give inputs that "
                    "differ, or another activation."
                )
            params = scaled(params, where, spread)
        else:
            raise InputError(
                f"after {ATTEMPTS} divisions the outputs of layer {where.name!r} still "
                f"have no standard deviation of 1 ± {TOLERANCE} over xs; lsuv needs "
                "biases that are small against them, as net.init draws them."
            )
    return jax.tree.map(jnp.asarray, params)


SCHEMES = (
    Scheme(
        "lsuv",
        same(initializers.orthogonal()),
        "orthogonal weights, rescaled layer after layer so that outputs on real inputs "
        "have unit variance",
        law="drawn as orthogonal(1), biases 0; adjusted on inputs xs: the outputs of "
        "each layer have standard deviation 1 over xs and units (of a recurrent one, "
        "over steps too, within 0.1); net.init alone gives the draw, ensemble and "
        "audit adjust it",
        citation="Mishkin and Matas (2016), arXiv:1511.06422",
        differs="the paper leaves alone what is within 0.1 of variance 1; here every "
        "layer is divided once",
        fit=_fit,
    ),
)
