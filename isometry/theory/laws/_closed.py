"""Factors in closed form: weights, and the two classes of great depth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex, Float

from isometry.theory.laws import _series
from isometry.theory.laws._factor import Atom, Closed
from isometry.theory.laws._half_planes import angle_below
from isometry.theory.laws._types import Numbers

Points = Complex[Numbers, " points"]
RealPoints = Float[np.ndarray, " points"]


@dataclass(frozen=True)
class Powers(Closed):
    """S(ψ) = e^−log_scale Π_c (1 + cψ)^−a_c: most weight matrices.

    Attributes:
        exponents: The pairs (c, a_c).
        log_scale: The logarithm of the mean.
    """

    exponents: tuple[tuple[float, float], ...] = ()
    log_scale: float = 0.0  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    @property
    def ones(self) -> Mapping[float, float]:
        """The exponent of each factor 1 + cψ, by its c."""
        return dict(self.exponents)

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """One value, where the exponents add up to zero: that of a projection."""
        if sum(a for _, a in self.exponents) != 0:
            return ()
        # At infinite ψ, log(1 + cψ) is log c + log ψ + 1/(cψ), and the log ψ cancel.
        log_value = self.log_scale + sum(a * math.log(c) for c, a in self.exponents)
        lost = -sum(a / c for c, a in self.exponents)
        return (Atom(log_value, lost, above=0.0),)

    def series(self, n: int) -> _series.Series:
        """Expand −log S."""
        terms = [a * _series.one_plus(c, n) for c, a in self.exponents]
        # The sum of no terms is a number, and becomes a series of zeros.
        total = np.sum(terms, axis=0) + np.zeros(n)
        total[0] += self.log_scale
        return total

    def rest(self, psi: Points, one_plus: Points) -> tuple[Points, Points]:
        """Return zeros: powers are all that there is."""
        return np.zeros_like(psi), np.zeros_like(psi)

    def potential(
        self,
        psi: Points,
        one_plus: Points,
        *,
        below: bool,
    ) -> RealPoints:
        """Return zeros: powers are all that there is."""
        return np.zeros(len(psi))


def gaussian(
    log_square: float,
    inputs: float,
    outputs: float,
    size: float,
) -> Powers:
    """Return a Gaussian matrix of variance sigma²/inputs (Burda et al., 2010).

    Args:
        log_square: log sigma².
        inputs: Number of columns.
        outputs: Number of rows.
        size: The number of singular values of the law, min(m, n) of the whole product.
    """
    # Its rows have E |row|² = sigma², so over the outputs the mean is this.
    scale = log_square + math.log(outputs / inputs)
    return Powers(((size / outputs, 1.0),), log_scale=scale)


def haar(
    log_square: float,
    inputs: float,
    outputs: float,
    size: float,
    *,
    taps: float = 1.0,
) -> Powers:
    """Return a Haar matrix with all min(inputs, outputs) singular values sigma.

    One that narrows is a projection, whose S-transform is (1 + ψ)/(m/n + ψ) over its n
    inputs. With `taps`, it is the matrix into which a kernel is flattened, which reads
    every input that often, as a convolution on a circle does. Over the outputs of a
    square layer that is (1 + ψ/taps)/(1 + ψ): a projection of rank 1/taps, stretched by
    taps, and compressed to a share 1/taps of its dimensions (Nica and Speicher, 1996).
    The other arguments are those of `gaussian`.
    """
    # The flattened matrix is an isometry, and all singular values are equal.
    if outputs >= taps * inputs:
        return Powers(log_scale=log_square + math.log(taps))
    scale = log_square + math.log(outputs / inputs)
    exponents = ((size / outputs, 1.0), (size / (taps * inputs), -1.0))
    return Powers(exponents, log_scale=scale)


def input_space(inputs: float, size: float) -> Powers:
    """Return the factor that refers a law to `size` values instead of all inputs."""
    ratio = size / inputs
    if ratio == 1:
        return Powers()
    return Powers(((ratio, 1.0), (1.0, -1.0)), log_scale=-math.log(ratio))


@dataclass(frozen=True)
class _Deep(Closed):
    """A class of great depth: no powers, mean 1, and −log S proportional to variance.

    Attributes:
        variance: The variance of λ.
    """

    variance: float

    @property
    def ones(self) -> Mapping[float, float]:
        """None."""
        return {}

    @property
    def log_scale(self) -> float:
        """Zero: the mean is 1."""
        return 0.0


@dataclass(frozen=True)
class Smooth(_Deep):
    """S(ψ) = exp(−variance · ψ): smooth slopes at great depth, or residual blocks."""

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """None: −log S grows with ψ."""
        return ()

    def series(self, n: int) -> _series.Series:
        """Expand −log S."""
        return self.variance * np.eye(n, 2)[:, 1]

    def rest(self, psi: Points, one_plus: Points) -> tuple[Points, Points]:
        """Evaluate the rest and its derivative."""
        return self.variance * psi, np.full_like(psi, self.variance)

    def potential(
        self,
        psi: Points,
        one_plus: Points,
        *,
        below: bool,
    ) -> RealPoints:
        """Evaluate Im (ψ + ψ²/2) variance/π."""
        # ∫(1 + ψ) dr with r = variance · ψ.
        sign = -1 if below else 1
        return sign * self.variance * (psi + psi**2 / 2).imag / np.pi


@dataclass(frozen=True)
class Bernoulli(_Deep):
    """S(ψ) = exp(−variance · ψ/(1 + ψ)): slopes 0 and 1 at great depth."""

    @property
    def atoms(self) -> tuple[Atom, ...]:
        """One at e^variance, of mass 1 − variance: ψ/(1 + ψ) = 1 − 1/ψ + O(1/ψ²)."""
        return (Atom(self.variance, lost=self.variance, above=0.0),)

    def series(self, n: int) -> _series.Series:
        """Expand −log S."""
        signs = -((-1.0) ** np.arange(n))
        signs[0] = 0.0
        return self.variance * signs

    def rest(self, psi: Points, one_plus: Points) -> tuple[Points, Points]:
        """Evaluate the rest and its derivative."""
        return self.variance * psi / one_plus, self.variance / one_plus**2

    def potential(
        self,
        psi: Points,
        one_plus: Points,
        *,
        below: bool,
    ) -> RealPoints:
        """Evaluate Im log(1 + ψ) variance/π."""
        # ∫(1 + ψ) dr with dr = variance · dψ/(1 + ψ)².
        sign = -1 if below else 1
        return sign * self.variance * angle_below(one_plus) / np.pi
