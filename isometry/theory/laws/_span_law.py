"""The law between two pre-activations: J = W_L D_{L−1} … W_1 D_0."""

import math
from collections.abc import Sequence

from isometry.activations import Activation
from isometry.theory.laws._jacobian_law import (
    Pair,
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
    """Return the law of L pairs of a D and the W behind it.

    In contrast to `jacobian_law` every D stands in front of its W, where its dimension
    is that of the inputs.

    Args:
        phi: The activation.
        q: The variances at D_0, …, D_{L−1}.
        sigma_w: The scales of W_1, …, W_L.
        widths: The dimensions at D_0, …, D_{L−1} and at the output of W_L.
        is_gaussian: Whether the weights are Gaussian, else orthogonal.
        taps: For each orthogonal W, how often the flattened kernel reads an input.

    Raises:
        NotDefined: phi jumps or is flat.
        InputError: E phi'^4 diverges.
    """
    require_law(phi, sorted(set(q)))
    depth = len(q)
    distinct = list(map(float, q))
    if is_scale_free(phi, min(q), 4.0, max(q)):
        distinct = [1.0] * depth
    slopes = slopes_of(phi, merged(distinct), widths[:-1])
    # Behind each W stands the D of the next pair, and D_0 behind none.
    behind = [*slopes[1:], ()]
    pairs = [Pair(None, slopes[0])]
    for sigma, slope, hits in zip(sigma_w, behind, taps, strict=True):
        pairs.append(Pair(2 * math.log(sigma), slope, hits))
    product = chain(pairs, (widths[0], *widths), is_gaussian=is_gaussian)
    zeros = abs(widths[-1] - widths[0]) / min(widths[0], widths[-1])
    kind = "gaussian" if is_gaussian else "orthogonal"
    name = f"{phi.name}, depth {depth}, {kind}"
    return Law(
        product,
        name,
        structural_zeros=zeros,
        pairs=depth,
    )
