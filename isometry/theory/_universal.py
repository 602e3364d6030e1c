"""Laws in closed form of their S-transform: Gaussian products, limits of great depth, residual networks."""

from collections import Counter

from isometry import _checks
from isometry.theory._chain import UNIT, Pair, assemble, chain
from isometry.theory._law import Law

_LEAST, _MOST = 1e-12, 1e4
"""Of a law's one parameter: beyond, float64 tells its band from a point, or its scales apart, no more."""
DEEPEST = 10**5


def fuss_catalan(depth: int) -> Law:
    """lam of a product of `depth` square Gaussian matrices of variance 1/n: S = (1 + ψ)^−depth.

    Moments are the Fuss-Catalan numbers, the top edge is (depth + 1)^(depth + 1)/depth^depth, no atoms.

    **Raises** `ValueError`: depth not a whole number from 1 to 100000. Source: Banica et al. (2011), arXiv:0710.5931.
    """
    _checks.integer("fuss_catalan", low=1, high=DEEPEST, depth=depth)
    depth = int(depth)
    product = chain([Pair(UNIT, 0.0)] * depth, gaussian=True, widths=[1] * (depth + 1))
    return Law(product, f"Fuss-Catalan, depth {depth}", pairs=depth, width_rate=2.0 * depth)


def marchenko_pastur(ratio: float) -> Law:
    """lam of one Gaussian matrix of `ratio` = outputs/inputs and variance 1/inputs; edges (1 ± √ratio)².

    For ratio > 1 the law is that of the min(m, n) singular values; the structural zeros are counted apart.

    **Raises** `ValueError`: ratio not a number from 1e-12 to 1e12. Source: Marchenko and Pastur (1967).
    """
    _checks.number("marchenko_pastur", low=_LEAST, high=1 / _LEAST, ratio=ratio)
    ratio = float(ratio)
    ratio = float(ratio)
    product = chain([Pair(UNIT, 0.0)], gaussian=True, widths=[1.0, ratio])
    return Law(product, f"Marchenko-Pastur, ratio {ratio:g}", abs(ratio - 1) / min(1.0, ratio), 1)


def bernoulli_class(sigma0_squared: float) -> Law:
    """Limit of great depth for phi' in {0, 1} and orthogonal weights, L(μ_2/μ_1² − 1) → σ0²: S = exp(−σ0² ψ/(1 + ψ)).

    Hard tanh, for one. Top edge e σ0² for σ0² ≥ 1, else an atom of weight 1 − σ0² at exp(σ0²). Mean 1, variance σ0².
    Finite depth differs by O(1/L).

    **Raises** `ValueError`: sigma0_squared not a number from 1e-12 to 1e4.

    Source: Pennington et al. (2018), arXiv:1802.09979.
    """
    _checks.number("bernoulli_class", low=_LEAST, high=_MOST, sigma0_squared=sigma0_squared)
    sigma0_squared = float(sigma0_squared)
    product = assemble({}, Counter({1.0: 1}), -1.0, 0.0, bernoulli=float(sigma0_squared))
    return Law(product, f"Bernoulli class, sigma0² {sigma0_squared:g}")


def smooth_class(sigma0_squared: float) -> Law:
    """Limit of great depth for smooth phi, orthogonal weights, L(μ_2/μ_1² − 1) → σ0²: S = exp(−σ0² ψ).

    No zeros, no atoms, mean 1, variance σ0². Finite depth differs by O(1/√L).

    **Raises** `ValueError`: sigma0_squared not a number from 1e-12 to 1e4.

    Source: Pennington et al. (2018), arXiv:1802.09979.
    """
    _checks.number("smooth_class", low=_LEAST, high=_MOST, sigma0_squared=sigma0_squared)
    sigma0_squared = float(sigma0_squared)
    product = assemble({}, Counter({1.0: 1}), -1.0, 0.0, smooth=float(sigma0_squared))
    return Law(product, f"smooth class, sigma0² {sigma0_squared:g}")


def resnet_law(c: float) -> Law:
    """Limit of great depth of x + αφ(Wx): S = exp(−c(1 + 2ψ)) with `c` = Σ_l α_l² sigma_w² E phi'².

    e^c times the smooth class with σ0² = 2c: symmetric in log s. Finite depth differs by O(1/L).

    **Raises** `ValueError`: c not a number from 1e-12 to 1e4. Source: Tarnowski et al. (2019), arXiv:1809.08848.
    """
    _checks.number("resnet_law", low=_LEAST, high=_MOST, c=c)
    c = float(c)
    product = assemble({}, Counter({1.0: 1}), -1.0, float(c), smooth=2 * float(c))
    return Law(product, f"residual network, c {c:g}")
