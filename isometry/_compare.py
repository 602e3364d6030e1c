"""Where measurement and theory meet: a `Spectrum` of many draws against the `Law` of infinite width.

A law holds as the width N grows, so a band from resampled seeds alone rejects the truth once there are enough seeds.
Every tolerance here is therefore a sum of two terms, an interval over seeds and a finite-width term derived as follows.

1. *Resolution.* A measure of N nodes knows ranks to ±1/(2N): log lam at rank u may be anywhere in Q(u ± 1/(2N)), Q the
   law's quantile function. (Nodes of a quadrature are no values at ranks; of them `compare` says so and judges
   nothing.) Means over many ranks are better known, and the "spread" takes a quarter of the above. The argument is for
   one real Gaussian matrix: its mean count of values is N times the law's plus (δ_low + δ_high)/4 less half an arcsine
   law (so that E tr (WWᵀ)^k exceeds N m_k by 0, 1, 6 for k = 1, 2, 3, as the exact N, 2N + 1, 5N + 6 + 4/N do), so off
   by at most a quarter, in rank by 1/(4N). For products it is supported by simulation alone, as `compare` says. The
   distribution functions themselves differ by 1/N, not by 1/√N: singular values repel, and a p-value of pooled values
   as if they were independent would be void.
2. *Curvature.* At a given rank log lam is a sum over layers of logarithms of averages over N units, each right in the
   mean; so its own mean is off by half its variance between draws, as in E log x ≈ log E x − Var(log x)/2.
   Source: Hanin and Nica (2020), arXiv:1812.05994, for the norm of Jv, where this is exact.

Ranks are compared from the first that every draw resolves. The mass below is compared as one number, the zeros, with
the law's mass below the floor; a product of masks has the rank of the smallest, min_l Binomial(N, p_l), so that the
law's zeros are a lower bound whose deficit, of order √(log L/N), is computed.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from isometry import _checks
from isometry._ranks import Measured, Table, zero_mass
from isometry.measure._record import Spectrum
from isometry.theory import Law, Mixture

LEVEL = 0.05
"""Chance of calling a true law inconsistent, shared by all tests of one comparison (Bonferroni)."""
LEAST_SEEDS = 5
_SHARES = (0.1, 0.5, 0.9)  # of the compared ranks: where scale shows that a mean of log lam buries under its low end


class Band(NamedTuple):
    """What a gap may be: `expected` at this width, ± the interval over `seeds` and the finite-`width` term."""

    seeds: float
    width: float
    expected: float = 0.0

    @property
    def total(self) -> float:
        """How far a gap may be from what is expected."""
        return self.seeds + self.width

    def __str__(self) -> str:
        return f"{self.expected:+.2g} ± ({self.seeds:.2g} seeds + {self.width:.2g} width)"

    def excess(self, gap: float) -> float:
        """How far it is, over how far it may be: consistent up to 1."""
        return abs(gap - self.expected) / max(self.total, 1e-300)


@dataclass(frozen=True)
class Comparison:
    """A measured spectrum beside the law it should have.

    - `ks`: largest distance of the two distribution functions off the atoms, at the mean log lam of each rank.
    - `wasserstein`: E |log lam measured − log lam predicted|, rank by rank.
    - `moment_gaps`: measured − predicted "mean", "sd" and "spread" of log lam, over the ranks above `unresolved`; the
      spread is the mean of their upper half less that of their lower, without the outermost tenths.
    - `atom_gaps`: measured − predicted mass of each atom by its place lam; 0.0 stands for all mass below the floor.
    - `quantile_gaps`: measured − predicted log lam at a few ranks (mass below).
    - `band`: for "ks", "mean", "sd", "spread", ("rank", u) and ("atom", lam) what the gap may be: a `Band`.
    - `unresolved`: the mass at the bottom that some draw does not resolve.
    - `seeds`, `size`: how many draws, and singular values of each; `law`: the law's name.
    """

    ks: float
    wasserstein: float
    atom_gaps: dict[float, float]
    moment_gaps: dict[str, float]
    quantile_gaps: dict[float, float]
    band: dict[Any, Band]
    unresolved: float
    seeds: int
    size: int
    law: str

    @property
    def gaps(self) -> dict[Any, float]:
        """Every gap that is judged, by the name of its band."""
        ranks = {("rank", u): gap for u, gap in self.quantile_gaps.items()}
        return {"ks": self.ks, **self.moment_gaps, **ranks, **{("atom", a): gap for a, gap in self.atom_gaps.items()}}

    @property
    def consistent(self) -> bool:
        """Whether every gap lies within its band."""
        return not self.excesses

    @property
    def excesses(self) -> dict[Any, float]:
        """The gaps beyond their bands, as multiples of them."""
        ratios = {name: self.band[name].excess(gap) for name, gap in self.gaps.items()}
        return {name: ratio for name, ratio in ratios.items() if ratio > 1}

    def _rows(self) -> list[tuple[Any, float, Band]]:
        return [(name, gap, self.band[name]) for name, gap in self.gaps.items()]

    def summary(self) -> str:
        """A line for the verdict and one for each gap."""
        verdict = "consistent" if self.consistent else "not consistent"
        lines = [f"{verdict} with {self.law}: {self.seeds} seeds, {self.size} singular values"]
        for name, gap, band in self._rows():
            mark = " " if band.excess(gap) <= 1 else "*"
            lines.append(f"{mark} {_label(name):<22}{gap:>+10.3g}, may be {band}")
        lines.append(f"  {'Wasserstein, log lam':<22}{self.wasserstein:>10.3g}")
        if self.unresolved:
            lines.append(f"  compared above rank {self.unresolved:.3g}, the lowest that every draw resolves")
        return "\n".join(lines)

    def __repr__(self) -> str:
        words = ", ".join(
            f"{_label(name)} {gap:.2g} in {b.expected:.2g} ± {b.total:.2g}" for name, gap, b in self._rows()
        )
        return f"Comparison({'consistent' if self.consistent else 'not consistent'}: {words})"


def _label(name: Any) -> str:
    if name[0] == "rank":
        return f"log lam at rank {name[1]:.3g}"
    if name[0] == "atom":
        return "zeros" if name[1] == 0 else f"atom at lam {name[1]:.4g}"
    return {"ks": "KS", "mean": "mean log lam", "sd": "sd log lam", "spread": "spread of log lam"}[name]


def compare(sp: Spectrum, law: Law, *, key: Any = None, resamples: int = 200) -> Comparison:
    """Is this spectrum, measured over seeds, one that the law predicts? With numbers.

    **Arguments**
    - `sp`: a `Spectrum` over (seeds, inputs), as `ensemble` returns it, of a method that finds the values (of
      "lanczos" if it takes as many steps as there are); of the span the law is for, or of given Jacobians.
    - `law`: for the same number of (W, D) pairs: `net.law("hidden", xs)`, or `theory.jacobian_law`.
    - `key`: of `resamples` bootstrap samples of the seeds; None takes standard errors over seeds and a
      Bonferroni bound for the distribution function, which is wider. t quantiles either way, 95 % for all together.

    A gap is consistent within its interval over seeds plus the finite-width term (see the module). Inputs of one seed
    are averaged: only seeds are independent.

    What it tells apart at width 256 and 20 seeds: sigma_w ± 2 %, a tenth more layers, and Gaussian from orthogonal for
    ReLU/Gaussian at depth 20 and tanh/orthogonal at depth 10; 11 layers taken for 10, ReLU/Gaussian, in 12 ensembles
    of 12; for tanh/Gaussian at depth 8, where q makes up for the scale, a law 2 % too large in 240 of 240, one 2 % too
    small in 213 of 240. False alarms: 1 in 870 ensembles of ten true laws, width 64 to 256, 10 or 20 seeds, below 0.7 %
    (95 %, Clopper-Pearson); the spread's band was chosen on the first of these, and 120 drawn afterwards gave none.
    Host only. Cost: a few thousand quantiles of the law, about a second.

    **Raises** `ValueError`: not a `Spectrum` or a `Law`; nodes of quadratures instead of singular values; no seeds axis
    or fewer than five seeds; a span or number of pairs the law is not for; so few resolved values that there is nothing
    to compare.
    """
    call = "compare"
    _checks.concrete(call, sp=sp, key=key)
    meet(call, sp, law)
    _values(call, sp)
    _enough(call, sp)
    _checks.integer(call, low=20, resamples=resamples)
    if key is not None:
        _checks.key(call, key)
    picks = None if key is None else _picks(key, resamples, sp.log_values.shape[0])
    return _judge(sp, law, Measured.of(sp, law), picks)


def _picks(key: Any, resamples: int, seeds: int) -> np.ndarray:
    """(resamples, seeds) indices, drawn by numpy from the bits of the key: nothing to compile."""
    return np.random.default_rng(np.asarray(_checks.key_bits(key)).ravel()).integers(0, seeds, (resamples, seeds))


def _values(call: str, sp: Spectrum) -> None:
    """Ranks, atoms and zeros are those of singular values."""
    if not sp.knows_values:
        raise _checks.NotDefined(
            f"{call}(): unknown, because {sp.method} finds nodes of quadratures, which are not singular values and do "
            f"not tell ranks, atoms or zeros; measure with method='dense', or Lanczos({sp.size}), which finds all. "
            "plots.overlay draws the smooth density over the law, and sp.interval('moment') bounds what "
            "law.moment(1) predicts."
        )


def _enough(call: str, sp: Spectrum) -> None:
    """There are seeds to say how sure a comparison is."""
    shape = tuple(sp.log_values.shape)
    if len(shape) < 2 or shape[0] < LEAST_SEEDS:
        came = "no seeds axis" if len(shape) < 2 else f"{shape[0]} seeds"
        raise _checks.InputError(
            f"{call}(): sp has {came} (shape {shape}); at least {LEAST_SEEDS} are needed to say how far one draw is "
            "from the next; measure 20, for example."
        )


def meet(call: str, sp: Any, law: Any) -> None:
    """The spectrum and the law are of the same thing.

    **Raises** `ValueError`: another type, span, number of pairs or shape; says which and what to write.
    """
    if not isinstance(sp, Spectrum):
        raise _checks.InputError(f"{call}(): sp={_checks.show(sp)} is not a Spectrum; write isometry.ensemble(...).")
    if not isinstance(law, Law):
        raise _checks.InputError(
            f'{call}(): law={_checks.show(law)} is not a Law; write net.law("hidden", xs) or theory.jacobian_law(...).'
        )
    if sp.span not in (law.span, "given"):
        raise _checks.InputError(
            f"{call}(): sp is of the span {sp.span!r} and the law of {law.span!r}; " + _advice(sp.span, law.span)
        )
    if sp.span == "hidden" and sp.pairs is not None and sp.pairs != law.pairs:
        known = "no number of pairs: a limit of great depth" if law.pairs is None else f"{law.pairs} pairs"
        raise _checks.InputError(
            f"{call}(): sp has {sp.pairs} (W, D) pairs and the law {known}; write theory.jacobian_law(..., "
            f"depth={sp.pairs}), or net.law('hidden', xs)."
        )
    zeros = sp.structural_zeros / sp.size
    if abs(zeros - law.structural_zeros) > 1e-9 * (1 + zeros):
        raise _checks.InputError(
            f"{call}(): sp has {zeros:.4g} structural zeros per singular value and the law {law.structural_zeros:.4g}: "
            "they are of different shapes; give jacobian_law the widths of the span."
        )


def _advice(measured: object, predicted: str) -> str:
    if measured == "end_to_end" and predicted == "hidden":
        return (
            "end to end a network has one W more than D's, which is not the law of its pairs. Measure with "
            "span='hidden', or take net.law('end_to_end', xs). Of a plain f that is itself a product of n pairs say "
            "so: dataclasses.replace(sp, span='hidden', pairs=n)."
        )
    return f"write net.law({measured!r}, xs), or measure with span={predicted!r}."


def _judge(sp: Spectrum, law: Law, measured: Measured, picks: Any) -> Comparison:
    u = measured.ranks()
    table = Table(law, zero_mass(law) + float(u[0] - zero_mass(law)) / 8, measured.windows)
    logs, predicted = measured.at_ranks(u), table.quantile(u)
    bend = logs.reshape(-1, len(u)).var(0, ddof=1) / 2
    reach = table.reach(u, measured.steps_at(u) / 2) + measured.rounding
    tests = 4 + len(_SHARES) + len(measured.windows) + _has_zeros(law, measured)
    level, seeds = LEVEL / tests, len(logs)
    noise = lambda per_seed: _t_quantile(1 - level / 2, seeds - 1) * _standard_error(per_seed, picks)  # noqa: E731
    ks, band = _distance(measured, table, bend, u, picks, level)
    gaps, bands = {}, {"ks": band}
    for name, (per_seed, value, expected, width) in {
        **_moments(logs, predicted, reach, bend),
        **_quantiles(u, logs, predicted, reach, bend),
        **_atoms(law, sp.size, measured, band.width),
    }.items():
        gaps[name], bands[name] = float(per_seed.mean() - value), Band(noise(per_seed), width, expected)
    return Comparison(
        ks=ks,
        wasserstein=float(np.abs(logs.mean((0, 1)) - predicted).mean()),
        atom_gaps={name[1]: gap for name, gap in gaps.items() if name[0] == "atom"},
        moment_gaps={name: gaps[name] for name in ("mean", "sd", "spread")},
        quantile_gaps={name[1]: gap for name, gap in gaps.items() if name[0] == "rank"},
        band=bands,
        unresolved=measured.cut,
        seeds=seeds,
        size=sp.size,
        law=law.name,
    )


def _moments(logs: np.ndarray, predicted: np.ndarray, reach: np.ndarray, bend: np.ndarray) -> dict[Any, Any]:
    """By name: the statistic (seeds,), the law's value, the gap expected at this width, and how well that is known.

    A displacement a(u) moves the mean by E a and the sd by at most √E a². Curvature is of second order, and known to
    its own size only: the pre-activations' variances drift by as much. Of the spread both are known to half: measured
    over ten true laws its gap, less what is expected, is on average at most 0.55 of their sum.
    """
    apart = (logs - logs.mean((0, 1))).var(-1).mean()  # what draws that differ in shape add to the variance of each
    sd = float(predicted.std())
    bent = math.sqrt(float((predicted - bend).var()) + apart) - sd
    mean = float(bend.mean())
    low, high = _halves(len(predicted))
    wide = lambda a: a[..., high].mean(-1) - a[..., low].mean(-1)  # noqa: E731
    known = float(reach[low].mean() + reach[high].mean()) / 2  # on average over ranks to half: see the module
    bow = float(wide(bend))
    return {
        "spread": (wide(logs).mean(1), float(wide(predicted)), -bow, (known + abs(bow)) / 2),
        "mean": (logs.mean(-1).mean(1), float(predicted.mean()), -mean, float(reach.mean()) + mean),
        "sd": (logs.std(-1).mean(1), sd, bent, float(np.sqrt((reach**2).mean())) + abs(bent)),
    }


def _halves(count: int) -> tuple[slice, slice]:
    """The compared ranks in two halves, a tenth at either end left out: what edges do to the sd they do not see."""
    return slice(count // 10, count // 2), slice(count // 2, count - count // 10)


def _quantiles(u: np.ndarray, logs: np.ndarray, predicted: np.ndarray, reach: np.ndarray, bend: np.ndarray) -> dict:
    """As `_moments`, log lam at a few ranks."""
    at = [round(share * (len(u) - 1)) for share in _SHARES]
    return {
        ("rank", float(u[i])): (logs[..., i].mean(1), float(predicted[i]), -float(bend[i]), float(reach[i] + bend[i]))
        for i in dict.fromkeys(at)
    }


def _has_zeros(law: Law, measured: Measured) -> bool:
    return bool(law.zero_mass > 0 or measured.zeros.any() or measured.below.max() > measured.step)


def _atoms(law: Law, size: int, measured: Measured, ks: float) -> dict[Any, Any]:
    """As `_moments`, the masses. What an atom loses varies like lam, and so is known to its variance over itself."""
    found = {}
    for atom in law.atoms:
        if atom.lam > 0:
            mass = measured.atom(atom.lam)
            lost = max(1 - atom.mass, measured.step)
            found["atom", atom.lam] = (mass, atom.mass, 0.0, measured.step + float(mass.var(ddof=1)) / lost)
    if _has_zeros(law, measured):
        found["atom", 0.0] = (measured.zeros - measured.below, 0.0, 0.0, _rank_deficit(law, size) + ks)
    return found


def _distance(
    measured: Measured, table: Table, bend: np.ndarray, u: np.ndarray, picks: Any, level: float
) -> tuple[float, Band]:
    """Largest distance of the distribution functions off the atoms, and what it may be."""
    t = np.unique(table.quantile(u))
    for low, high in measured.windows.values():
        t = t[(t < low) | (t > high)]
    if not len(t):
        return 0.0, Band(0.0, measured.step, 0.0)
    per_seed, law = measured.cdf(t), table.cdf(t)
    b = np.interp(t, table.quantile(u), bend)
    smear = np.abs((table.cdf(t + np.sqrt(2 * b)) + table.cdf(t - np.sqrt(2 * b))) / 2 - law)
    width = measured.step + float((np.maximum(table.cdf(t + b) - law, law - table.cdf(t - b)) + smear).max())
    mean, seeds = per_seed.mean(0), len(per_seed)
    if picks is None:
        quantile = _t_quantile(1 - level / (2 * len(t)), seeds - 1)
        noise = quantile * float(per_seed.std(0, ddof=1).max()) / math.sqrt(seeds)
    else:
        drawn = np.stack([np.abs(per_seed[p].mean(0) - mean).max() for p in picks])
        small = (
            _t_quantile(1 - level / 2, seeds - 1) / _t_quantile(1 - level / 2, 10**9) * math.sqrt(seeds / (seeds - 1))
        )
        noise = small * float(np.quantile(drawn, 1 - level, method="higher"))
    return float(np.abs(mean - law).max()), Band(noise, width, 0.0)


def _standard_error(per_seed: np.ndarray, picks: Any) -> float:
    """Of the mean over seeds; resampled where there are samples, with the n/(n − 1) that a resample lacks."""
    n = len(per_seed)
    if picks is None:
        return float(per_seed.std(ddof=1)) / math.sqrt(n)
    return float(per_seed[picks].mean(1).std()) * math.sqrt(n / (n - 1))


def _t_quantile(p: float, freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf(p, freedom))


def _rank_deficit(law: Law, size: int) -> float:
    """How much the zeros of a finite product exceed the law's: its rank is the least of its masks' Binomial ranks."""
    from scipy import stats

    if isinstance(law, Mixture):
        parts = zip(law.shares, law.laws, strict=True)
        return sum(share * _rank_deficit(part, size) for share, part in parts)
    k = np.arange(1, size + 1)
    at_least = np.ones(size)
    for mask in law.product.masks:
        n = round(size / mask.ratio)
        at_least = at_least * stats.binom.sf(k - 1, n, 1 - mask.zero_mass) ** mask.times
    return max(0.0, law.product.rank - float(at_least.sum()) / size)
