"""The law up to a pre-activation: J = W_L D_{L−1} … W_1 D_0, or with W_0 before D_0."""

import math
from collections.abc import Sequence

from isometry.activations import Activation
from isometry.theory.laws._jacobian_law import (
    Pair,
    Shares,
    chain,
    is_scale_free,
    merged,
    require_law,
    slopes_of,
)
from isometry.theory.laws._law import Law


def span_law(
    phi: Activation,
    q: Sequence[float],
    sigma_w: Sequence[float],
    *,
    widths: Sequence[float],
    is_gaussian: bool,
    taps: Sequence[float],
) -> Law:
    """Return the law of pairs of a D and the W behind it.

    In contrast to `jacobian_law` every D stands in front of its W, where its dimension
    is that of the inputs.

    Args:
        phi: The activation.
        q: The variances at D_0, …, D_{L−1}.
        sigma_w: The scales of W_1, …, W_L; with one more, that of W_0 before them.
        widths: The dimensions at the input of the first factor, and at the output of
            each W.
        is_gaussian: Whether the weights are Gaussian, else orthogonal.
        taps: For each W, how often its flattened kernel reads an input; 1 of weights
            that are no flattened orthogonal kernels.

    Raises:
        NotDefined: phi jumps or is flat.
        InputError: E phi'^4 diverges.
    """
    depth = len(q)
    slopes: list[Shares] = []
    if depth:
        require_law(phi, sorted(set(q)))
        distinct = list(map(float, q))
        # Linear, ReLU and leaky ReLU have one law for all variances.
        extremes = (min(q), 4.0, max(q))
        if is_scale_free(phi, *extremes):
            distinct = [1.0] * depth
        slopes = slopes_of(phi, merged(distinct), widths[-depth - 1 : -1])
    # Behind each W stands the D of the next pair.
    behind = [*slopes, ()]
    pairs = []
    if len(sigma_w) == depth:
        # The first D has no W in front of it.
        pairs.append(Pair(None, behind.pop(0)))
        widths = (widths[0], *widths)
    for sigma, slope, hits in zip(sigma_w, behind, taps, strict=True):
        pairs.append(Pair(2 * math.log(sigma), slope, hits))
    product = chain(pairs, widths, is_gaussian=is_gaussian)
    zeros = abs(widths[-1] - widths[0]) / min(widths[0], widths[-1])
    kind = "gaussian" if is_gaussian else "orthogonal"
    name = f"{phi.name}, depth {depth}, {kind}"
    return Law(
        product,
        name,
        structural_zeros=zeros,
        pairs=depth,
    )
