"""Laws in closed form of their S-transform: Gaussian products, and great depth."""

import functools

from isometry._internal import checks
from isometry._internal.errors import public
from isometry.theory.laws._closed import (
    Bernoulli,
    Powers,
    Smooth,
    gaussian,
    input_space,
)
from isometry.theory.laws._law import Law
from isometry.theory.laws._product import product_of
from isometry.theory.mean_field._fluctuations import frobenius_fluctuation

# The one parameter of a law lies between these: beyond, float64 does not tell its band
# from a point, or its scales apart.
_LEAST = 1e-12
_MOST = 1e4

# More layers than any network has; a hundred times more still compute.
DEEPEST = 10**5


@public("fuss_catalan")
def fuss_catalan(depth: int) -> Law:
    """Return the law of a product of square Gaussian matrices of variance 1/n.

    S = (1 + ψ)^−depth. Its moments are the Fuss-Catalan numbers, its top edge is
    (depth + 1)^(depth + 1)/depth^depth, and it has no atoms (Banica et al., 2011).

    Args:
        depth: The number of matrices, from 1 to 100000.

    Returns:
        The law.

    Raises:
        InputError: `depth` is not a whole number in this range.

    Example:
        >>> law = theory.fuss_catalan(3)
        >>> [round(law.moment(k)) for k in (1, 2, 3)]
        [1, 4, 22]
    """
    depth = checks.integer(
        "depth",
        depth,
        low=1,
        high=DEEPEST,
    )
    # All layers are alike, so there is one factor, as often as there are layers.
    layer = gaussian(
        0.0,
        1,
        1,
        size=1,
    )
    product = product_of({layer: depth})
    name = f"Fuss-Catalan, depth {depth}"
    return Law(
        product,
        name,
        pairs=depth,
        width_rate=2.0 * depth,
        frobenius_fluctuation=functools.partial(
            frobenius_fluctuation, "linear", depth=depth, weights="gaussian"
        ),
    )


@public("marchenko_pastur")
def marchenko_pastur(ratio: float) -> Law:
    """Return the law of one Gaussian matrix of variance 1/inputs.

    Its edges are (1 ± √ratio)². For ratio > 1 it is the law of the min(m, n) singular
    values; the structural zeros are counted apart (Marchenko and Pastur, 1967).

    Args:
        ratio: Outputs over inputs, from 1e-12 to 1e12.

    Returns:
        The law.

    Raises:
        InputError: `ratio` is not a number in this range.

    Example:
        >>> theory.marchenko_pastur(0.25)
        Law(Marchenko-Pastur, ratio 0.25: lam has density on [0.25, 2.25])
    """
    ratio = float(checks.number("ratio", ratio, low=_LEAST, high=1 / _LEAST))
    size = min(1.0, ratio)
    layer = gaussian(
        0.0,
        1.0,
        ratio,
        size=size,
    )
    # Over min(m, n) values, and not over all inputs.
    inputs = input_space(1.0, size)
    product = product_of({layer: 1, inputs: 1})
    zeros = abs(ratio - 1) / size
    name = f"Marchenko-Pastur, ratio {ratio:g}"
    return Law(
        product,
        name,
        structural_zeros=zeros,
        pairs=1,
    )


@public("bernoulli_class")
def bernoulli_class(sigma0_squared: float) -> Law:
    """Return the limit of great depth for slopes 0 and 1 and orthogonal weights.

    L(μ_2/μ_1² − 1) → σ0² as the depth L grows, for hard tanh, say: S = exp(−σ0² ψ/(1 +
    ψ)). Mean 1, variance σ0². The top edge is e σ0² for σ0² >= 1; below there is an
    atom of mass 1 − σ0² at exp(σ0²). Finite depth differs by O(1/L) (Pennington et al.,
    2018).

    Args:
        sigma0_squared: σ0², from 1e-12 to 1e4.

    Returns:
        The law.

    Raises:
        InputError: `sigma0_squared` is not a number in this range.

    Example:
        >>> theory.bernoulli_class(0.25).atoms
        (Atom(lam=1.2840254166877414, mass=0.75),)
    """
    variance = _parameter("sigma0_squared", sigma0_squared)
    product = product_of({Bernoulli(variance): 1})
    return Law(product, f"Bernoulli class, sigma0² {variance:g}")


@public("smooth_class")
def smooth_class(sigma0_squared: float) -> Law:
    """Return the limit of great depth for smooth activations and orthogonal weights.

    L(μ_2/μ_1² − 1) → σ0² as the depth L grows: S = exp(−σ0² ψ). No zeros, no atoms,
    mean 1, variance σ0². Finite depth differs by O(1/√L) (Pennington et al., 2018).

    Args:
        sigma0_squared: σ0², from 1e-12 to 1e4.

    Returns:
        The law.

    Raises:
        InputError: `sigma0_squared` is not a number in this range.

    Example:
        >>> theory.smooth_class(0.25)
        Law(smooth class, sigma0² 0.25: lam has density on [0.321319, 2.42376])
    """
    variance = _parameter("sigma0_squared", sigma0_squared)
    product = product_of({Smooth(variance): 1})
    return Law(product, f"smooth class, sigma0² {variance:g}")


@public("resnet_law")
def resnet_law(c: float) -> Law:
    """Return the limit of great depth of residual blocks x + α phi(Wx).

    S = exp(−c(1 + 2ψ)) with c = Σ α² sigma_w² E phi'² over the blocks: e^c times the
    smooth class with σ0² = 2c, symmetric in log s. Finite depth differs by O(1/L)
    (Tarnowski et al., 2019).

    Args:
        c: From 1e-12 to 1e4.

    Returns:
        The law.

    Raises:
        InputError: `c` is not a number in this range.

    Example:
        >>> law = theory.resnet_law(0.25)
        >>> low, high = law.support[0]
        >>> round(low * high, 9)
        1.0
    """
    c = _parameter("c", c)
    product = product_of({Smooth(2 * c): 1, Powers(log_scale=c): 1})
    return Law(product, f"residual network, c {c:g}")


def _parameter(name: str, value: float) -> float:
    return float(checks.number(name, value, low=_LEAST, high=_MOST))
