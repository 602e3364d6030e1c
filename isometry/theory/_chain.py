"""Free products from what they are made of: weights and diagonal factors, one layer after another, any widths.

Notation of `_product`. With ψ_n = ψ · min(m, n)/n at a layer of width n, a factor W of shape (m, n) takes log M⁻¹ by
  Gaussian, variance σ²/n:      + log σ² + log(m/n) + log(1 + ψ_m)
  Haar, singular values σ:      + log σ² [+ log(m/n) + log(1 + ψ_m) − log(1 + ψ_n) if m < n]
and a diagonal D² of size m by + log ψ_m − log(1 + ψ_m) + log ζ(ψ_m). Source: Burda, Jarosz, Livan, Nowak, Swiech
(2010), arXiv:1007.3594, for rectangular Gaussian products; the Haar rule is the S-transform (1 + ψ)/(m/n + ψ) of a
projection.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from isometry.theory._measure import Measure, discrete
from isometry.theory._product import Factor, Product

UNIT = discrete([1.0], [1.0])
Counts = Mapping[tuple[Measure, float], float]
"""How many D² there are of each law and min(m, n)/size."""


class Pair(NamedTuple):
    """One (W, D) pair: the law of D² and log sigma_w².

    `shares`: several laws in place of the one, each with its share of log ζ; they add up to 1.
    """

    measure: Measure
    log_square: float
    shares: tuple[tuple[Measure, float], ...] = ()


def chain(pairs: Sequence[Pair], gaussian: bool, widths: Sequence[int | float]) -> Product:
    """The product J = D_L W_L … D_1 W_1 for widths (n_0, …, n_L), normalized over min(n_0, n_L)."""
    size = min(widths[0], widths[-1])
    ones: Counter[float] = Counter({size / widths[0]: 1})
    const, power, lost = -math.log(size / widths[0]), -1.0, 0.0
    counts: defaultdict[tuple[Measure, float], float] = defaultdict(float)
    for (measure, log_square, shares), n, m in zip(pairs, widths[:-1], widths[1:], strict=True):
        const += log_square
        if gaussian or m < n:
            const += math.log(m / n)
            ones[size / m] += 1
        if not gaussian and m < n:
            ones[size / n] -= 1
            lost += (n - m) / size
        if len(measure.atoms) == 1 and not measure.nodes.size:  # a multiple of the identity
            const += math.log(measure.atoms[0])
        else:
            const += math.log(size / m)
            ones[size / m] -= 1
            power += 1
            for law, share in shares or ((measure, 1),):
                counts[law, size / m] += share
    rank = min([widths[0], *(m * (1 - p.measure.zero_mass) for p, m in zip(pairs, widths[1:], strict=True))]) / size
    return assemble(counts, ones, power, const, budget=widths[0] / size - lost, rank=min(1.0, rank))


def assemble(
    counts: Counts,
    ones: Counter[float],
    power: float,
    const: float,
    smooth: float = 0.0,
    bernoulli: float = 0.0,
    budget: float = 1.0,
    rank: float = 1.0,
) -> Product:
    """A `Product` from its terms.

    Where no D² is as small as the rank, δ_1 takes part: log ζ = log(1 + cψ) − log cψ, so that the first factor's ψ
    ends at −rank, as it must on the negative axis.
    """
    ones, counts = Counter(ones), defaultdict(float, counts)
    if not any((1 - measure.zero_mass) / ratio <= rank * (1 + 1e-12) for measure, ratio in counts):
        c = min(ones, key=lambda c: abs(c * rank - 1))
        counts[UNIT, c] += 1
        ones[c] -= 1
        const += math.log(c)
        power += 1
    lead_first = sorted(counts.items(), key=lambda item: (1 - item[0][0].zero_mass) / item[0][1])
    factors = tuple(Factor(measure, n, ratio) for (measure, ratio), n in lead_first)
    kept = tuple(sorted((c, a) for c, a in ones.items() if a))
    return Product(factors, kept, power, smooth, bernoulli, const, budget, rank)


def multiplied(products: Sequence[Product]) -> Product:
    """The free multiplicative convolution of square products: what adds up is log M⁻¹ − log(1 + ψ) + log ψ."""
    counts: defaultdict[tuple[Measure, float], float] = defaultdict(float)
    ones: Counter[float] = Counter({1.0: 1})
    for p in products:
        ones[1.0] -= 1
        for c, a in p.ones:
            ones[c] += int(a)
        for f in p.factors:
            counts[f.measure, f.ratio] += f.times
    return assemble(
        counts,
        ones,
        sum(p.power + 1 for p in products) - 1,
        sum(p.const for p in products),
        sum(p.smooth for p in products),
        sum(p.bernoulli for p in products),
        1 - sum(1 - p.budget for p in products),
        min(p.rank for p in products),
    )
