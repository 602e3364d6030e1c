"""What a comparison found: gaps, and the bands that they may lie in."""

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

# A statistic: "ks", "mean", "sd", "spread", "log_mean" or "outliers"; ("rank", u) for
# log lam at a rank; ("atom", lam) for the mass of an atom.
GapName: TypeAlias = str | tuple[str, float]

_LABELS = {
    "ks": "KS",
    "mean": "mean log lam",
    "sd": "sd log lam",
    "spread": "spread of log lam",
    "log_mean": "log mean lam",
    "outliers": "outliers of a draw",
}

# A band of no width is that of a number which is known exactly; a gap beyond it is
# large, and not infinite.
_LEAST_BAND = 1e-300


class Band(NamedTuple):
    """How large a gap may be if the law is true.

    Attributes:
        seeds: The half-length of the interval over seeds.
        width: How well `expected` is known at this width.
        expected: The gap that a true law has at this width.
    """

    seeds: float
    width: float
    expected: float = 0.0

    @property
    def total(self) -> float:
        """How far a gap may be from the expected one."""
        return self.seeds + self.width

    def excess(self, gap: float) -> float:
        """Return the distance from the expected gap over `total`; 1 is allowed."""
        return abs(gap - self.expected) / max(self.total, _LEAST_BAND)

    def __str__(self) -> str:
        terms = f"{self.seeds:.2g} seeds + {self.width:.2g} width"
        return f"{self.expected:+.2g} ± ({terms})"


@dataclass(frozen=True)
class Comparison:
    """A measured spectrum beside the law that it should have.

    Attributes:
        ks: The largest difference of the two distribution functions, off the atoms, at
            the log lam that the law has at each compared rank.
        wasserstein: |log lam measured - log lam predicted|, averaged over these ranks.
        atom_gaps: Measured - predicted mass of each atom by its lam; 0.0 stands for all
            mass below the floor.
        moment_gaps: Measured - predicted "mean", "sd" and "spread" of log lam over the
            compared ranks, and "log_mean", the logarithm of the mean of lam over all
            values, |J|_F²/size. The spread is the mean of the upper half of the ranks
            less that of the lower, without the outermost tenths.
        quantile_gaps: Measured - predicted log lam at a few ranks, by rank, which is
            the mass below.
        band: For "ks", "mean", "sd", "spread", "log_mean", "outliers", ("rank", u) and
            ("atom", lam), how large the gap may be: a `Band`.
        unresolved: The mass at the bottom that some draw does not resolve.
        seeds: The number of draws.
        size: The number of singular values of each.
        law: The name of the law.
        width: The number of units of a layer: of a convolution channels, not pixels.
        outliers: How many values of a draw lie beyond the law's upper edge, by more
            than the finite width explains; the mean over draws.
        expected_outliers: How many the law states. Up to so many are left out of all
            other gaps.

    Example:
        >>> factors = np.random.default_rng(0).standard_normal((2, 8, 64, 64)) / 8
        >>> sp = isometry.Spectrum.of_jacobians(factors[0] @ factors[1])
        >>> comparison = isometry.compare(sp, theory.fuss_catalan(2))
        >>> comparison.consistent
        True
        >>> round(comparison.moment_gaps["log_mean"], 3)
        -0.008
    """

    ks: float
    wasserstein: float
    atom_gaps: dict[float, float]
    moment_gaps: dict[str, float]
    quantile_gaps: dict[float, float]
    band: dict[GapName, Band]
    unresolved: float
    seeds: int
    size: int
    law: str
    width: int
    outliers: float
    expected_outliers: int

    @property
    def gaps(self) -> dict[GapName, float]:
        """Every gap that is judged, by the name of its band.

        Example:
            >>> factors = np.random.default_rng(0).standard_normal((8, 64, 64)) / 8
            >>> sp = isometry.Spectrum.of_jacobians(factors)
            >>> comparison = isometry.compare(sp, theory.fuss_catalan(1))
            >>> comparison.gaps["outliers"]
            0.0
        """
        gaps: dict[GapName, float] = {"ks": self.ks, **self.moment_gaps}
        gaps["outliers"] = self.outliers - self.expected_outliers
        # Ranks and values of atoms are both numbers, so their names say which.
        for rank, gap in self.quantile_gaps.items():
            gaps["rank", rank] = gap
        for lam, gap in self.atom_gaps.items():
            gaps["atom", lam] = gap
        return gaps

    @property
    def consistent(self) -> bool:
        """Whether every gap lies within its band.

        Example:
            >>> factors = np.random.default_rng(0).standard_normal((8, 64, 64)) / 8
            >>> sp = isometry.Spectrum.of_jacobians(factors)
            >>> isometry.compare(sp, theory.fuss_catalan(2)).consistent
            False
        """
        return not self.excesses

    @property
    def excesses(self) -> dict[GapName, float]:
        """The gaps beyond their bands, each by its `Band.excess`, a number above 1.

        Example:
            >>> factors = np.random.default_rng(0).standard_normal((8, 64, 64)) / 8
            >>> sp = isometry.Spectrum.of_jacobians(factors)
            >>> isometry.compare(sp, theory.fuss_catalan(1)).excesses
            {}
        """
        ratios = {name: self.band[name].excess(gap) for name, gap in self.gaps.items()}
        return {name: ratio for name, ratio in ratios.items() if ratio > 1}

    @property
    def _verdict(self) -> str:
        return "consistent" if self.consistent else "not consistent"

    def summary(self) -> str:
        """Write a line for the verdict and one for each gap.

        A star marks the gaps beyond their bands.

        Returns:
            The lines.

        Example:
            >>> factors = np.random.default_rng(0).standard_normal((8, 64, 64)) / 8
            >>> sp = isometry.Spectrum.of_jacobians(factors)
            >>> text = isometry.compare(sp, theory.fuss_catalan(1)).summary()
            >>> print(text.splitlines()[0])
            consistent with Fuss-Catalan, depth 1: 8 seeds, 64 singular values
        """
        counts = f"{self.seeds} seeds, {self.size} singular values"
        if self.width != self.size:
            counts += f", width {self.width}"
        lines = [f"{self._verdict} with {self.law}: {counts}"]
        for name, gap in self.gaps.items():
            band = self.band[name]
            mark = "*" if band.excess(gap) > 1 else " "
            lines.append(f"{mark} {_label(name):<22}{gap:>+10.3g}, may be {band}")
        # The distance is reported and not judged, so it has no band.
        lines.append(f"  {'Wasserstein, log lam':<22}{self.wasserstein:>10.3g}")
        if self.expected_outliers:
            lines.append(
                f"  outliers are left out of the other rows: {self.outliers:.3g} of a "
                f"draw, up to {self.expected_outliers} expected"
            )
        if self.unresolved:
            lines.append(
                f"  compared above rank {self.unresolved:.3g}, "
                "the lowest that every draw resolves"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        words = []
        for name, gap in self.gaps.items():
            band = self.band[name]
            words.append(
                f"{_label(name)} {gap:.2g} in {band.expected:.2g} ± {band.total:.2g}"
            )
        return f"Comparison({self._verdict}: {', '.join(words)})"


def _label(name: GapName) -> str:
    if isinstance(name, str):
        return _LABELS[name]
    kind, place = name
    if kind == "rank":
        return f"log lam at rank {place:.3g}"
    return "zeros" if place == 0 else f"atom at lam {place:.4g}"
