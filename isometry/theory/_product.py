"""Free multiplicative convolution: the inverse moment function of a product of free factors, and its inversion.

With ψ = zG − 1 = M(z), S(ψ) = (1 + ψ)/(ψ M⁻¹(ψ)) multiplies over free factors (Voiculescu 1987), so log M⁻¹ is a sum:

    log λ = Σ_c a_c log(1 + cψ) + b log ψ + Σ_k n_k log ζ_k + s ψ + β ψ/(1 + ψ) + const,   M_k(ζ_k) = c_k ψ,

where ψ counts over the min(m, n) singular values and c = min(m, n)/(dimension at which a factor acts): 1 for square
products. A square Gaussian factor adds log(1 + ψ), an orthogonal one nothing, a diagonal D² adds
log ψ − log(1 + ψ) + log ζ. On the support ψ lies in the closed lower half-plane and every ζ in the upper one.

Density and distribution follow without integration: −Im ψ/π is the density of log λ, and P(x > λ) = Im H/π with
dH = (1 + ψ) dlog λ, elementary term by term (`mass`).
"""

import functools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from isometry.theory._measure import Array, Measure, discrete

_CAP = 0.7  # largest Newton step in log ζ
_BENDS = 9  # stops of arg λ on the way from the negative axis to a tenth of π
_MANY = 4  # so many factors are first replaced by few
_QUICK = ((0.2, 1), (1e-3, 1), (1e-6, 1))  # how near to the axis the way ends, over the distance to an edge; its steps
_PATIENT = (*_QUICK, (0.2, 4), (1e-6, 4), (1e-3, 16))  # where ψ passes zero, and a ζ infinity, the solution turns fast
_LAST = 1e-13  # arg λ of the last stop before the axis, at the very edge


class NotConverged(ArithmeticError):
    """The inversion left a residual above its tolerance; no number is returned."""


class Factor(NamedTuple):
    """A diagonal factor D²: its law, how many of them, and min(m, n)/(its dimension)."""

    measure: Measure
    times: float
    ratio: float


class State(NamedTuple):
    """A point of the curve: log ζ of shape (K, n); ψ, log λ and dlog λ/dψ of shape (n,); dψ/dlog ζ_k over c_k."""

    w: Array
    psi: Array
    one_plus: Array
    log_lam: Array
    slope: Array
    rates: Array
    mismatch: Array


@dataclass(frozen=True, eq=False)
class Product:
    """log M⁻¹ as the sum above. `budget` is the rank left by the weights, over min(m, n): atoms are counted from it."""

    factors: tuple[Factor, ...] = (Factor(discrete([1.0], [1.0]), 1, 1.0),)
    ones: tuple[tuple[float, float], ...] = ()  # (c, a_c)
    power: float = 0.0  # b
    smooth: float = 0.0
    bernoulli: float = 0.0
    const: float = 0.0
    budget: float = 1.0
    rank: float = 1.0  # 1 − mass at zero

    @property
    def is_its_factor(self) -> bool:
        """Whether the law is that of its only D², but for a scale: then nothing is to be inverted."""
        one = len(self.factors) == 1 and self.factors[0].times == self.factors[0].ratio == 1
        return one and not (self.power or self.smooth or self.bernoulli or any(a for _, a in self.ones))

    def state(self, w: Array) -> State:
        """Everything at log ζ = w, (K, n); the first factor says ψ."""
        with np.errstate(all="ignore"):  # at a pole, or where ζ under- or overflows: not finite, and never returned
            return self._state(w)

    def _state(self, w: Array) -> State:
        psis, ups, slopes = zip(
            *(f.measure.transforms(np.exp(x)) for f, x in zip(self.factors, w, strict=True)), strict=True
        )
        lead = self.factors[0]
        zero = lead.measure.zero_mass
        psi, up = psis[0] / lead.ratio, ups[0] + zero  # 1 + M of the lead
        one_plus = (ups[0] + (lead.ratio - 1 + zero)) / lead.ratio
        mismatch = np.stack([self._gap(f, p, u, psi, ups[0]) for f, p, u in zip(self.factors, psis, ups, strict=True)])
        rates = np.stack(slopes) / self._ratios
        value = self._free_of_zeta(psi, one_plus, up) + self._counts[:, 0] @ w
        slope = self._slope_free_of_zeta(psi, one_plus, up) + np.sum(self._counts / rates, 0)
        return State(w, psi, one_plus, value, slope, rates, mismatch)

    def _gap(self, f: Factor, psi_k: Array, up_k: Array, psi: Array, up: Array) -> Array:
        """c_k ψ − M_k, over c_k: from P(d > 0) + M where that is the smaller, so that nothing cancels."""
        lead = self.factors[0]
        near = np.abs(up) < 0.5 if f.ratio == lead.ratio else np.zeros(psi.shape, bool)
        apart = lead.measure.zero_mass - f.measure.zero_mass
        return np.where(near, (up - up_k + apart) / f.ratio, psi - psi_k / f.ratio)

    @property
    def _ratios(self) -> Array:
        return np.array([[f.ratio] for f in self.factors])

    @property
    def _counts(self) -> Array:
        return np.array([[f.times] for f in self.factors])

    def _ones(self, psi: Array, one_plus: Array, up: Array | None = None) -> list[tuple[float, float, Array]]:
        """(c, a_c, 1 + cψ); `up` is that of the lead's c, to relative accuracy."""
        known = {1.0: one_plus} if up is None else {self.factors[0].ratio: up, 1.0: one_plus}
        return [(c, a, known[c] if c in known else 1 + c * psi) for c, a in self.ones if a]

    def _free_of_zeta(self, psi: Array, one_plus: Array, lead_up: Array) -> Array:
        value = self.const + self.smooth * psi
        for _, a, up in self._ones(psi, one_plus, lead_up):
            value = value + a * _log_below(up)
        if self.power:
            value = value + self.power * _log_below(psi)
        return value + self.bernoulli * psi / one_plus if self.bernoulli else value

    def _slope_free_of_zeta(self, psi: Array, one_plus: Array, lead_up: Array) -> Array:
        """Derivative in ψ. The terms in ψ and 1 + ψ are joined: at an atom ψ → ∞ and they cancel."""
        slope = self.smooth * np.ones_like(psi)
        square = sum(a for c, a in self.ones if c == 1)
        if self.power or square:
            slope = slope + (self.power + (square + self.power) * psi) / (psi * one_plus)
        for c, a, up in self._ones(psi, one_plus, lead_up):
            slope = slope + (a * c / up if c != 1 else 0.0)
        return slope + self.bernoulli / one_plus**2 if self.bernoulli else slope

    def mass(self, at: State, t: Array, below: bool = False) -> Array:
        """P(x > e^t), or P(x ≤ e^t) if `below`: the smaller of the two keeps its relative accuracy.

        P(x > λ) = Im H/π, H(λ) = E log(λ − x), on the real axis approached from above. H + (1 + ψ)(t − log λ(ψ, ζ))
        is stationary in ψ and in every ζ, so that their errors, which great depth multiplies, enter squared.
        """
        psi = at.psi.real - 1j * np.abs(at.psi.imag)
        one_plus = at.one_plus.real - 1j * np.abs(at.one_plus.imag)
        turn = np.arctan2(np.abs(psi.imag), -psi.real) if below else _angle_below(psi)  # from −π, or from 0
        total = self.smooth * (psi + psi**2 / 2).imag + self.power * (turn + psi.imag)
        for c, a, up in self._ones(psi, one_plus):
            total = total + a * (psi.imag + (1 - 1 / c) * _angle_below(up))
        if self.bernoulli:
            total = total + self.bernoulli * _angle_below(one_plus)
        total = total + (one_plus * (t - at.log_lam)).imag
        total = -total / np.pi if below else total / np.pi
        for f, w in zip(self.factors, at.w, strict=True):
            w = w.real + 1j * np.maximum(w.imag, 0.0)
            zeta = np.where(w.imag == 0, np.exp(w.real) + 0j, np.exp(w))
            total = total + f.times * f.measure.log_potential_angle(zeta, below) / f.ratio
            if f.ratio != 1:
                total = total + f.times * (1 - 1 / f.ratio) * (np.pi - w.imag if below else w.imag) / np.pi
        return total

    def turns(self, psi: Any, negative: Any, one_plus: Any = None) -> Any:
        """−Im log λ/π at real ψ with so many negative ζ: 0 where λ > 0, and one of few whole numbers elsewhere."""
        turns = self.power * (psi < 0) - negative
        for c, a in self.ones:
            turns = turns + a * ((one_plus if c == 1 and one_plus is not None else 1 + c * psi) < 0)
        return turns

    def newton(self, w: Array, target: Array, rounds: int, cap: float = _CAP) -> State:
        """Newton on log λ = target and M_k(ζ_k) = c_k ψ together, steps in log ζ capped; converged columns rest."""
        w = np.array(w, complex)
        active, before = np.arange(w.shape[1]), np.zeros(w.shape[1])
        for _ in range(rounds):
            at = self.state(w[:, active])
            step = self.newton_step(at, target[active])
            size = np.abs(step).max(0)
            w[:, active] += step * np.minimum(1, cap / np.maximum(size, 1e-300))
            left = size * np.clip(size / np.maximum(before[active], 1e-30), 0, 1)  # at most: the error is squared
            before[active] = size
            active = active[left > 1e-14 * (1 + np.abs(w[:, active]).max(0))]
            if not len(active):
                break
        return self.state(w)

    def newton_step(self, at: State, target: Array) -> Array:
        """(K, n): the step in log ζ."""
        with np.errstate(all="ignore"):
            lag = np.sum(self._counts * at.mismatch / at.rates, 0)
            move = (target - at.log_lam - lag) / at.slope
            return (at.mismatch + move) / at.rates

    @functools.cached_property
    def _negative_axis(self) -> list[Array]:
        """Rising log |λ| and the rows of log |ζ_k| on the negative axis, where everything is real and monotone."""
        x = np.sinh(np.linspace(-1, 1, 250) * np.arcsinh(690.0))
        tables = [f.measure.transforms(-np.exp(x)) for f in self.factors]
        lead = self.factors[0]
        psi, up = tables[0][0].real / lead.ratio, tables[0][1].real + lead.measure.zero_mass
        w = np.zeros((len(self.factors), len(x)))
        for k, (f, (p, u, _)) in enumerate(zip(self.factors, tables, strict=True)):
            with np.errstate(all="ignore"):  # far out both vanish
                aim = np.log((up if f.ratio == lead.ratio else 1 + f.ratio * psi) / (-f.ratio * psi))
                level = np.log((u.real + f.measure.zero_mass) / -p.real)
            w[k] = x if k == 0 else np.interp(aim, *_increasing(level, x))
        return _increasing(self.state(w + 1j * np.pi).log_lam.real, *w)

    def on_negative_axis(self, t: Array) -> Array:
        """log ζ, (K, n), for λ = −e^t, where ψ is real in (−rank, 0): from a table, then by Newton."""
        level, *rows = self._negative_axis
        guess = np.stack([np.interp(t, level, row) for row in rows])
        return self.newton(guess + 1j * np.pi, t + 1j * np.pi, 30).w

    def solve(self, t: Array, distance: Array | float = 1e-2, guess: Array | None = None) -> State:
        """The state at λ = e^t + i0 for t inside the support, (n,), as `attempt` finds it.

        **Raises** `NotConverged`: |log λ − t| above 1e-9 (1e-12 is usual).
        """
        at, good = self.attempt(t, distance, guess, patient=True)
        if not good.all():
            worst = self._residual(at, t)[~good].max()
            raise NotConverged(f"Law: it could not be inverted at log lam = {t[~good][:3]}; residual {worst:.1e}.")
        return at

    def attempt(
        self, t: Array, distance: Array | float = 1e-2, guess: Array | None = None, patient: bool = False
    ) -> tuple[State, Array]:
        """The state at λ = e^t + i0 for t inside the support, (n,), and where it was found.

        From `guess` if that leads there, else by continuation in arg λ from π, where the solution is unique, to 0: it
        is analytic in between, whatever the factors. `distance` is that of t to the nearest edge; `patient` tries
        more, where it is known to be inside. No broadening remains.
        """
        if self.is_its_factor:
            at = self.state(t[None] - self.const + 0j)
            return at, np.isfinite(at.psi)
        distance = np.broadcast_to(distance, t.shape)
        at, good = self._from_guess(t, distance, guess)
        if good.all():
            return at, good
        w = at.w
        for closer, finer in _PATIENT if patient else _QUICK:
            left = ~good
            if left.any():
                at = self._continued(t[left], closer * distance[left], finer)
                w[:, left], good[left] = at.w, self._landed(at, t[left])
        return self.state(w), good

    def _from_guess(self, t: Array, distance: Array, guess: Array | None) -> tuple[State, Array]:
        """Newton from a guess: a near one, or with many factors the solution of a like product with few."""
        if guess is not None:
            at = self.newton(guess, t + 0j, 12, 0.2)
            return at, self._landed(at, t)
        if self.coarse is None:
            return State(np.zeros((len(self.factors), len(t)), complex), *[t] * 6), np.zeros(len(t), bool)
        coarse, row, shift = self.coarse
        rough, _ = coarse.attempt(t, distance)
        at = self.newton(rough.w[row] + shift, t + 0j, 12, 0.3)
        with np.errstate(invalid="ignore"):  # on the axis it might be another branch
            return at, self._landed(at, t) & (at.psi.imag < -1e-6 * np.abs(at.psi))

    @functools.cached_property
    def coarse(self) -> tuple["Product", Array, Array] | None:
        """With one factor for all of a size, the one of mean spread; which stands for each, and log ζ less its own."""
        ratios = list(dict.fromkeys(f.ratio for f in self.factors))
        if len(self.factors) < _MANY or len(ratios) == len(self.factors):
            return None
        kept, shift, const = [], np.zeros((len(self.factors), 1)), self.const
        for ratio in ratios:
            alike = [f for f in self.factors if f.ratio == ratio]
            spread = np.array([f.measure.relative_variance() for f in alike])
            typical = alike[int(np.argmin(np.abs(spread - spread.mean())))].measure
            for k, f in enumerate(self.factors):
                if f.ratio == ratio:
                    shift[k] = math.log(f.measure.moment(1) / typical.moment(1))
                    const += f.times * float(shift[k, 0])
            kept.append(Factor(typical, sum(f.times for f in alike), ratio))
        row = [next(i for i, k in enumerate(kept) if k.ratio == f.ratio) for f in self.factors]
        return replace(self, factors=tuple(kept), const=const), np.array(row), shift

    def _continued(self, t: Array, nearest: Array, finer: int) -> State:
        first = np.pi / (_BENDS + 1)
        last = np.clip(nearest, _LAST, first)
        steps = finer * (1 + int(np.ceil(np.log(first / last.min()) / 1.5)))
        approach = first * (last / first) ** (np.arange(1, steps + 1)[:, None] / steps)
        at, before = self.state(self.on_negative_axis(t)), np.pi
        for bend in [*np.linspace(np.pi, first, 1 + finer * _BENDS)[1:, None], *approach]:
            with np.errstate(all="ignore"):
                ahead = at.w + 1j * (bend - before) / (at.slope * at.rates)
            at, before = self.newton(ahead, t + 1j * bend, 2), bend
        return self.newton(at.w, t + 0j, 40, 0.3)

    def _residual(self, at: State, t: Array) -> Array:
        return np.maximum(np.abs(at.log_lam - t), np.abs(at.mismatch).max(0))

    def _landed(self, at: State, t: Array) -> Array:
        """Small residual, on the sheet where Im ψ ≤ 0 ≤ arg ζ ≤ π; where ψ all but vanishes its values must agree, too:
        inside the support it is not zero, but Newton may run off to where it is."""
        small = self._residual(at, t) <= 1e-9 * (1 + 1e-3 * np.abs(t))
        small &= np.abs(at.mismatch).max(0) <= 1e-6 * np.abs(at.psi)
        slack = 1e-9
        sheet = (at.psi.imag <= slack * np.abs(at.psi)) & np.all(
            (at.w.imag >= -slack) & (at.w.imag <= np.pi + slack), 0
        )
        return small & sheet


def _log_below(x: Array) -> Array:
    """log with arg in (−3π/2, π/2]: analytic on the closed lower half-plane."""
    return np.log(x) - 2j * np.pi * ((x.real < 0) & (x.imag >= 0))


def _angle_below(x: Array) -> Array:
    """arg in [−π, 0] for x in the closed lower half-plane, to relative accuracy at both ends of the real axis."""
    return -np.arctan2(np.abs(x.imag), x.real)


def _increasing(level: Array, *rows: Array) -> list[Array]:
    """Columns at which `level` keeps rising, outward from the middle, for interpolation; far out it may be rounding."""
    with np.errstate(all="ignore"):
        order = np.arange(len(level))[:: 1 if np.nanmedian(np.diff(level)) >= 0 else -1]
    left, right = np.split(level[order], 2)
    keep = np.r_[records(-left[::-1])[::-1], records(right)]
    return [level[order][keep], *(r[order][keep] for r in rows)]


def records(x: Array) -> Array:
    """Where x passes all that came before."""
    x = np.where(np.isfinite(x), x, -math.inf)
    return x > np.r_[-math.inf, np.maximum.accumulate(x)[:-1]]
