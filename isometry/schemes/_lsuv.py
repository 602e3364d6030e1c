"""Layer-sequential unit variance: orthonormal weights, rescaled by measured outputs."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from isometry import initializers
from isometry._internal.errors import InputError
from isometry._internal.types import Params
from isometry.schemes._measuring import Measured, Slice, scaled
from isometry.schemes._scheme import Scheme, same
from isometry.structure._place import Place
from isometry.structure._tapping import in_cond
from isometry.structure._usage import Usage, usages

# Tol_var and T_max of Algorithm 1. Where outputs are linear in the weights the first
# division is exact, and neither matters. Elsewhere, a tolerance ten times smaller takes
# more divisions, and one ten times larger leaves deviations from 0 to 2; fewer attempts
# give up on layers that would still converge.
TOLERANCE = 0.1
ATTEMPTS = 10


def _fit(net: Callable[[Params, PyTree], PyTree], params: Params, xs: PyTree) -> Params:
    """Divide each layer's weights by the standard deviation of its outputs, in order.

    This is the paper's loop, but every layer is divided at least once, where the paper
    leaves alone what is within 0.1. One division gives outputs that are linear in the
    weights (zero biases) a standard deviation of 1 up to rounding.
    """
    measured = Measured(net, params, xs)
    slices, taps = measured.slices()
    # One program reads all layers: it is compiled once, not once for each layer.
    variances = measured.variances(
        taps,
        lambda readings: [readings[one.tap][one.entries] for one in slices],
    )
    used = usages(measured.anatomy)
    # Measured once for each division, which shows whether it was enough, and serves the
    # next layer too.
    spreads = np.sqrt(variances(params))
    for position, where in enumerate(slices):
        for num_divisions in range(ATTEMPTS + 1):
            spread = float(spreads[position])
            if num_divisions > 0 and abs(spread - 1) <= TOLERANCE:
                break
            # Dead units and constant inputs have 0 here, and overflow inf or NaN: no
            # division makes 1 of these.
            if not 0 < spread < np.inf:
                raise InputError(_not_scalable(measured, where, taps, spread=spread))
            # Many divisions would bring the weight down to the eps of its norm, where
            # it is scaled at last, and of the size of rounding.
            if num_divisions > 0 and used[where.source.name].is_normalized:
                raise InputError(_not_scaled(where, used[where.source.name]))
            params = scaled(params, where, spread)
            spreads = np.sqrt(variances(params))
        else:
            raise InputError(_not_scaled(where, used[where.source.name]))
    return jax.tree.map(jnp.asarray, params)


def _not_scalable(
    measured: Measured,
    where: Slice,
    taps: Mapping[str, Place],
    *,
    spread: float,
) -> str:
    """Say why outputs with this standard deviation cannot be scaled to 1."""
    # A value in an arm that is not taken is read as NaN.
    in_arm = in_cond(measured.anatomy.closed, taps[where.tap])
    if in_arm and np.isnan(spread):
        return (
            f"layer {where.name!r} is in an arm of a cond that not all of xs take, and "
            "has no outputs where it is not taken; lsuv cannot scale it. Choose "
            "between the results of both arms by jnp.where, or take another scheme."
        )
    return (
        f"the outputs of layer {where.name!r} have standard deviation {spread} over "
        "xs; lsuv cannot scale them to 1. Give inputs that differ, or another "
        "activation."
    )


def _not_scaled(where: Slice, usage: Usage) -> str:
    """Say why divisions of the weight have not brought its outputs to 1."""
    if usage.is_normalized:
        return (
            f"the network divides the weight of layer {where.name!r} by its own norm, "
            "so scaling it changes no output; lsuv needs weights that are used as they "
            "are. Write the layer without this norm, or take another scheme."
        )
    told = usage.note()
    needed = "biases that are small against them, as net.init draws them"
    if told:
        needed = f"weights that are used as they are, and this one is {told}"
    return (
        f"after {ATTEMPTS} divisions the outputs of layer {where.name!r} still have no "
        f"standard deviation of 1 ± {TOLERANCE} over xs; lsuv needs {needed}."
    )


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
