"""What theory says of a configuration, flag by flag: True, False, or None where it lies in between.

Means over neurons at infinite width (Poole et al., 2016; Schoenholz et al., 2017), in NumPy: nothing of
`isometry.theory` nor of the flags is used, only where the flags draw their lines. A flag must be raised if theory's
number is beyond twice its line and must be clear if it is within half of it, both with the log-normal fluctuation of
finite width counted in; everything between is not asked.
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.zoo._case import FLAGS, Case
from benchmarks.zoo._nets import N_IN, N_OUT, Config
from isometry import Thresholds

Q_IN = 0.1  # |x|²/n of every input
_FLOOR = 12.5  # −ln of 32 eps in float32: what a dense factorization of such a layer resolves
_LINES = Thresholds()
_NODES, _SETTLED = 2048, 300
_BOUNDED = {"tanh": 2.993, "erf": 2.146, "hard_tanh": 1.0, "sigmoid": 5.97}  # |z| where |phi'| is 0.01 of its largest


def _normal(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distribution function and density of the standard normal."""
    from scipy.special import ndtr

    return ndtr(z), np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(z)


def _erf(z: np.ndarray) -> np.ndarray:
    from scipy.special import erf

    return erf(z)


Function = Callable[[np.ndarray], np.ndarray]
_PHI: dict[str, tuple[Function, Function]] = {  # phi and phi'
    "linear": (lambda z: z, np.ones_like),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
    "leaky_relu": (lambda z: np.where(z > 0, z, 0.01 * z), lambda z: np.where(z > 0, 1, 0.01)),
    "hard_tanh": (lambda z: np.clip(z, -1, 1), lambda z: (abs(z) < 1) * 1.0),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "erf": (_erf, lambda z: 2 / math.sqrt(math.pi) * np.exp(-(z**2))),
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * _sigmoid(-z)),
    "gelu": (lambda z: z * _normal(z)[0], lambda z: _normal(z)[0] + z * _normal(z)[1]),
}
# sigma_w with chi_1 = 1 at sigma_b = 0, where a scheme is left to choose it
_CRITICAL = dict.fromkeys(("linear", "tanh", "hard_tanh"), 1.0) | {"erf": math.sqrt(math.pi) / 2}
_CRITICAL |= {"relu": math.sqrt(2), "leaky_relu": math.sqrt(2 / 1.0001)}
_FREE = ("gaussian", "orthogonal", "scaled_orthogonal")

# σ̂² = fan_in·Var(W) of (fan_in, fan_out), and whether the entries are independent
_INDEPENDENT: dict[str, Callable[[int, int], float]] = {
    **dict.fromkeys(("xavier", "glorot_uniform", "glorot_normal"), lambda a, b: 2 * a / (a + b)),
    **dict.fromkeys(("kaiming", "he_normal"), lambda a, b: 2.0),
    "lecun_normal": lambda a, b: 1.0,
    "gaussian": lambda a, b: 1.0,
}
_HAAR: dict[str, Callable[[int, int], float]] = {
    "orthogonal": lambda a, b: a / max(a, b),
    "scaled_orthogonal": lambda a, b: 1.0 if b > a else a / max(a, b),
}


@dataclass(frozen=True)
class Field:
    """Mean field numbers of a configuration; arrays over z_1 … z_(depth-1), `gain` over all weights."""

    independent: bool
    gain: np.ndarray  # σ̂²
    q: np.ndarray  # variance of a unit
    slope2: np.ndarray  # E phi'²
    kappa: np.ndarray  # E phi'⁴ / (E phi'²)²
    log_apart: float  # ln (1 − c) of two unrelated inputs, at z_(depth-1)
    chi: float  # at the fixed point of q

    @property
    def log_norm_variance(self) -> np.ndarray:
        """Of ln ‖J v‖², by layer and times the width: 3 kappa − 1 for Gaussian weights (Hanin and Nica, 2020: 5 for
        ReLU, 2 for a linear network); without the 2 that is due to them for orthogonal ones."""
        return 3 * self.kappa - (1 if self.independent else 3)


@functools.cache
def _grid() -> np.ndarray:
    from scipy.special import ndtri

    return ndtri((np.arange(_NODES) + 0.5) / _NODES)


def _differences(phi: Function, q: float, apart: float) -> float:
    """E (phi(u) − phi(v))² / 2 of Gaussians u, v of variance q and correlation 1 − apart; no cancellation as c → 1."""
    z = _grid()[4::8]  # 256 nodes
    common, own = (q * (1 - apart / 2)) ** 0.5 * z[:, None], (q * apart / 2) ** 0.5 * z[None]
    return float(((phi(common + own) - phi(common - own)) ** 2).mean() / 2)


def field_of(config: Config) -> Field:
    """The mean field of a configuration whose scheme has one."""
    phi, slope = _PHI[config.activation]
    independent = config.scheme in _INDEPENDENT
    law = (_INDEPENDENT if independent else _HAAR)[config.scheme]
    free = _CRITICAL.get(config.activation, math.nan) if config.sigma_w is None else config.sigma_w
    sigma_w2, sigma_b2 = free**2 if config.scheme in _FREE else 1.0, (config.sigma_b or 0.0) ** 2
    sizes = [N_IN, *[config.width] * (config.depth - 1), N_OUT]
    gain = np.array([sigma_w2 * law(a, b) for a, b in itertools.pairwise(sizes)])
    q = gain[0] * Q_IN + sigma_b2
    apart = gain[0] * Q_IN / q  # unrelated inputs: only the biases are shared
    rows = []
    for i in range(config.depth - 1):
        z = q**0.5 * _grid()
        slope2 = slope(z) ** 2
        rows.append((q, slope2.mean(), (slope2**2).mean() / slope2.mean() ** 2, math.log(apart)))
        after = gain[i + 1] * (phi(z) ** 2).mean() + sigma_b2
        spread = gain[i + 1] * _differences(phi, q, apart) if apart > 1e-12 else 0.0
        q, apart = after, max(min(spread / after, 2.0), 1e-13)
    hidden, q_star = float(gain[1 if config.depth > 2 else 0]), rows[-1][0]
    for _ in range(_SETTLED):
        q_star = min(max(hidden * (phi(q_star**0.5 * _grid()) ** 2).mean() + sigma_b2, 1e-30), 1e30)
    chi = hidden * (slope(q_star**0.5 * _grid()) ** 2).mean()
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    q_l, slope2_l, kappa_l, log_apart = columns
    return Field(independent, gain, q_l, slope2_l, kappa_l, float(log_apart[-1]), float(chi))


def _beyond(low: float, high: float, line: float) -> bool | None:
    """Whether what lies in [low, high] is above the line: by a factor of two, or below it by one, or not asked."""
    return True if low >= 2 * line else False if high <= line / 2 else None


def _gains(config: Config, f: Field) -> list[tuple[float, float]]:
    """[low, high] of ½ ln E s², end to end and hidden: the quenched mean and a standard deviation about it."""
    found = []
    for gain, slopes in ((f.gain, slice(None)), (f.gain[1:-1], slice(0, -1))):
        variance = f.log_norm_variance[slopes].sum() / config.width
        middle = (np.log(gain).sum() + np.log(f.slope2[slopes]).sum() - variance / 2) / 2
        found.append((middle - variance**0.5 / 2, middle + variance**0.5 / 2))
    return found


def _worst(answers: list[bool | None]) -> bool | None:
    """A flag is raised if it is in any span."""
    return True if True in answers else None if None in answers else False


def _from_theory(config: Config) -> dict[str, bool | None]:
    f, pairs = field_of(config), config.depth - 2
    gains = _gains(config, f)
    noise = (f.log_norm_variance.sum() / config.width) ** 0.5
    growth = pairs * math.log(f.chi)
    variance = (f.kappa[:-1] - 1 + f.independent).sum()  # of the law of the hidden span, over its squared mean
    variance /= 1 + variance / config.width  # a matrix of rank one has n − 1
    found: dict[str, bool | None] = {
        "vanishing": _worst([_beyond(-high, -low, _LINES.log_gain) for low, high in gains]),
        "exploding": _worst([_beyond(low, high, _LINES.log_gain) for low, high in gains]),
        "ordered_phase": _beyond(-growth, -growth, _LINES.depth_scales),
        "chaotic_phase": _beyond(growth, growth, _LINES.depth_scales),
        "rank_collapse": _beyond(-f.log_apart - noise, -f.log_apart + noise, _LINES.depth_scales),
        "anisometric": _beyond(variance, variance, _LINES.anisometry),
        "saturated_units": _saturated(config, f),
        "below_floor": _below_floor(config, f),
    }
    if found["anisometric"] is False:
        # Of n values with Var s² at most half of (E s²)² an eighth carries at most 1/8 + sqrt(1/2 · 1/8 · 7/8) = 0.36
        # of the sum (Cauchy and Schwarz), below the line of one half.
        found["outlier_dominated"] = False
    calm = all(found[name] is False for name in ("vanishing", "exploding", "ordered_phase", "chaotic_phase"))
    if config.width <= N_IN or calm:  # nothing to constrain; or Gaussian, Haar and trained for long enough
        found["rank_constrained_training"] = False
    return found


def _saturated(config: Config, f: Field) -> bool | None:
    """From the variance of the worst layer: up to the null's, 1, healthy; twice the null's share and a visible one,
    broken."""
    if config.activation not in _BOUNDED or f.q.max() <= 1:
        return False
    return True if _share(config, f.q.max()) >= max(2 * _share(config, 1.0), 0.04) else None


def _share(config: Config, q: float) -> float:
    return math.erfc(_BOUNDED[config.activation] / math.sqrt(2 * q))


def _below_floor(config: Config, f: Field) -> bool | None:
    """How far the median of ln s lies below the largest. A Gaussian factor contributes ½(psi(N/2) − psi(N/4)), the
    difference of two Lyapunov exponents (Newman, 1986), exact for linear networks; slopes at most about their κ − 1."""
    from scipy.special import digamma

    n = config.width
    weights = (config.depth - 2) * f.independent * float(digamma(n / 2) - digamma(n / 4)) / 2
    slopes = (f.kappa[:-1] - 1).sum()
    return _beyond(weights if config.activation == "linear" else 0.0, weights + slopes, _FLOOR)


@functools.cache
def truth(config: Config | Case) -> dict[str, bool | None]:
    """Every flag: must it be raised (True), must it be clear (False), or is it not asked (None)."""
    if isinstance(config, Case):
        return config.truth
    found: dict[str, bool | None] = dict.fromkeys(FLAGS)
    # A perceptron has neither branches nor attention.
    found |= {"dead_branch": False, "attention_collapse": False, "duplicate_blocks": False}
    if config.typical:
        found |= _from_theory(config)
    if config.plant:
        found["rank_constrained_training"] = None
    if config.known.get("zero_gradient"):
        found["anisometric"] = None  # of a zero Jacobian it is not defined
    if config.activation not in _BOUNDED:
        found["saturated_units"] = False
    return {**found, **config.known}
