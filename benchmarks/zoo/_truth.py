"""Whether each flag must be raised, by theory: yes, no, or not asked in between.

Means over neurons at infinite width (Poole et al., 2016; Schoenholz et al., 2017), in
NumPy. Nothing of `isometry.theory` or of the flags is used but the lines that the flags
draw. A flag must be raised if theory's number is beyond twice its line, and must be
clear if it is within half of it, both with the log-normal fluctuation of finite width
counted in. Between the two it is not asked.
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from benchmarks.zoo._case import FLAGS, Case
from benchmarks.zoo._nets import N_IN, N_OUT, Config
from isometry import Thresholds

# The mean square |x|^2/n of every input.
Q_IN = 0.1

# -ln of 32 eps in float32, which a dense factorization of such a layer resolves.
_FLOOR = 12.5

_LINES = Thresholds()

# Nodes of equal mass under the normal density. They leave out a relative 6e-3 of its
# fourth moment, in its tails; with a tenth as many it is 4e-2, and ten times as many
# take ten times as long for 8e-4.
_NODES = 2048

# Every so many nodes one is taken for means over two variables: 256 x 256 of them.
_STRIDE = 8

# Iterations of the map of variances, which take it to its fixed point. At a critical
# point, where ln chi is 0, they leave it at -0.003; a tenth as many leave -0.03.
_SETTLED = 300

# |z| at which the derivative of the activation is 0.01 of its largest value.
_BOUNDED = {"tanh": 2.993, "erf": 2.146, "hard_tanh": 1.0, "sigmoid": 5.97}

# The least share of saturated units that must be seen.
_VISIBLE = 0.04

# Below this 1 - c two inputs count as one, and 1 - c is kept from falling further.
# There -ln(1 - c) is 28, far beyond twice its line, 12.
_ALIKE = 1e-12
_LEAST_APART = 1e-13

Answer = bool | None
Function = Callable[[np.ndarray], np.ndarray]


class _Activation(NamedTuple):
    """An activation and its derivative."""

    phi: Function
    slope: Function


def _linear(z: np.ndarray) -> np.ndarray:
    return z


def _relu(z: np.ndarray) -> np.ndarray:
    return np.maximum(z, 0)


def _relu_slope(z: np.ndarray) -> np.ndarray:
    return (z > 0) * 1.0


def _leaky_relu(z: np.ndarray) -> np.ndarray:
    return np.where(z > 0, z, 0.01 * z)


def _leaky_relu_slope(z: np.ndarray) -> np.ndarray:
    return np.where(z > 0, 1, 0.01)


def _hard_tanh(z: np.ndarray) -> np.ndarray:
    return np.clip(z, -1, 1)


def _hard_tanh_slope(z: np.ndarray) -> np.ndarray:
    return (abs(z) < 1) * 1.0


def _tanh_slope(z: np.ndarray) -> np.ndarray:
    return 1 - np.tanh(z) ** 2


def _erf_slope(z: np.ndarray) -> np.ndarray:
    return 2 / math.sqrt(math.pi) * np.exp(-(z**2))


def _sigmoid_slope(z: np.ndarray) -> np.ndarray:
    return special.expit(z) * special.expit(-z)


def _gelu(z: np.ndarray) -> np.ndarray:
    return z * special.ndtr(z)


def _gelu_slope(z: np.ndarray) -> np.ndarray:
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return special.ndtr(z) + z * density


_ACTIVATIONS = {
    "linear": _Activation(_linear, np.ones_like),
    "relu": _Activation(_relu, _relu_slope),
    "leaky_relu": _Activation(_leaky_relu, _leaky_relu_slope),
    "hard_tanh": _Activation(_hard_tanh, _hard_tanh_slope),
    "tanh": _Activation(np.tanh, _tanh_slope),
    "erf": _Activation(special.erf, _erf_slope),
    "sigmoid": _Activation(special.expit, _sigmoid_slope),
    "gelu": _Activation(_gelu, _gelu_slope),
}

# The sigma_w at which chi is 1 for sigma_b = 0, where a scheme is left to choose it.
_CRITICAL = {
    "linear": 1.0,
    "tanh": 1.0,
    "hard_tanh": 1.0,
    "erf": math.sqrt(math.pi) / 2,
    "relu": math.sqrt(2),
    "leaky_relu": math.sqrt(2 / 1.0001),
}

# Schemes whose sigma_w can be chosen.
_FREE = ("gaussian", "orthogonal", "scaled_orthogonal")

# Schemes with independent entries, by the variance of their entries.
_GLOROT = ("xavier", "glorot_uniform", "glorot_normal")
_HE = ("kaiming", "he_normal")
_LECUN = ("lecun_normal", "gaussian")
_INDEPENDENT = (*_GLOROT, *_HE, *_LECUN)


def _scheme_gain(scheme: str, fan_in: int, fan_out: int) -> float:
    """Return fan_in Var(W) at sigma_w = 1."""
    if scheme in _GLOROT:
        return 2 * fan_in / (fan_in + fan_out)
    if scheme in _HE:
        return 2.0
    if scheme in _LECUN:
        return 1.0
    assert scheme in ("orthogonal", "scaled_orthogonal")
    if scheme == "scaled_orthogonal" and fan_out > fan_in:
        return 1.0
    return fan_in / max(fan_in, fan_out)


@dataclass(frozen=True)
class Field:
    """Mean-field numbers of a configuration.

    Arrays are over the hidden pre-activations z_1 to z_(depth-1).

    Attributes:
        independent: Whether the entries of a weight are independent.
        gain: fan_in Var(W) of every weight, the last included.
        q: The variance of a unit.
        slope2: The mean square of the derivative of the activation.
        kappa: The mean of its fourth power, relative to the squared mean square.
        log_apart: ln(1 - c) of two unrelated inputs, at the last of these layers.
        chi: At the fixed point of q.
    """

    independent: bool
    gain: np.ndarray
    q: np.ndarray
    slope2: np.ndarray
    kappa: np.ndarray
    log_apart: float
    chi: float

    @property
    def log_norm_variance(self) -> np.ndarray:
        """The variance of ln |J v|^2 that a layer adds, times the width.

        For Gaussian weights 3 kappa - 1 (Hanin and Nica, 2020): 5 for ReLU, 2 for a
        linear network. For orthogonal ones without the 2 that is due to the weights.
        """
        of_weights = 1 if self.independent else 3
        return 3 * self.kappa - of_weights


@functools.cache
def _grid() -> np.ndarray:
    """Return the quantiles of the standard normal distribution at the nodes."""
    return special.ndtri((np.arange(_NODES) + 0.5) / _NODES)


def _differences(phi: Function, q: float, apart: float) -> float:
    """Compute E (phi(u) - phi(v))^2 / 2 without cancellation as u and v become one.

    Args:
        phi: The activation.
        q: The variance of the Gaussians u and v.
        apart: One minus their correlation.
    """
    z = _grid()[_STRIDE // 2 :: _STRIDE]
    common = (q * (1 - apart / 2)) ** 0.5 * z[:, None]
    own = (q * apart / 2) ** 0.5 * z[None]
    squares = (phi(common + own) - phi(common - own)) ** 2
    return float(squares.mean() / 2)


def field_of(config: Config) -> Field:
    """Compute the mean field of a configuration whose scheme has one."""
    phi, slope = _ACTIVATIONS[config.activation]
    sigma_w2, sigma_b2 = _variances(config)
    sizes = [N_IN, *[config.width] * (config.depth - 1), N_OUT]
    gain = np.array(
        [
            sigma_w2 * _scheme_gain(config.scheme, fan_in, fan_out)
            for fan_in, fan_out in itertools.pairwise(sizes)
        ]
    )
    q = gain[0] * Q_IN + sigma_b2
    # Unrelated inputs share nothing but the biases.
    apart = gain[0] * Q_IN / q
    variances, slopes2, kappas, aparts = [], [], [], []
    for gain_next in gain[1:]:
        z = q**0.5 * _grid()
        slope2 = slope(z) ** 2
        variances.append(q)
        slopes2.append(slope2.mean())
        kappas.append((slope2**2).mean() / slope2.mean() ** 2)
        aparts.append(apart)
        q_next = gain_next * (phi(z) ** 2).mean() + sigma_b2
        spread = gain_next * _differences(phi, q, apart) if apart > _ALIKE else 0.0
        apart = max(min(spread / q_next, 2.0), _LEAST_APART)
        q = q_next
    hidden = float(gain[1 if config.depth > 2 else 0])
    q_star = variances[-1]
    for _ in range(_SETTLED):
        q_star = hidden * (phi(q_star**0.5 * _grid()) ** 2).mean() + sigma_b2
        # A linear network has no other fixed points than 0 and infinity.
        q_star = min(max(q_star, 1e-30), 1e30)
    chi = hidden * (slope(q_star**0.5 * _grid()) ** 2).mean()
    return Field(
        independent=config.scheme in _INDEPENDENT,
        gain=gain,
        q=np.array(variances),
        slope2=np.array(slopes2),
        kappa=np.array(kappas),
        log_apart=math.log(aparts[-1]),
        chi=float(chi),
    )


def _variances(config: Config) -> tuple[float, float]:
    """Return sigma_w^2 and sigma_b^2; a scheme that is not free has a sigma_w of 1."""
    sigma_w = config.sigma_w
    if sigma_w is None:
        sigma_w = _CRITICAL.get(config.activation, math.nan)
    sigma_w2 = sigma_w**2 if config.scheme in _FREE else 1.0
    sigma_b2 = (config.sigma_b or 0.0) ** 2
    return sigma_w2, sigma_b2


def _beyond(low: float, high: float, line: float) -> Answer:
    """Tell whether what lies in [low, high] is above a line, by a factor of two."""
    if low >= 2 * line:
        return True
    if high <= line / 2:
        return False
    return None


def _gain_interval(
    config: Config, field: Field, *, hidden: bool
) -> tuple[float, float]:
    """Return ln(E s^2)/2: the quenched mean, minus and plus a standard deviation."""
    weights, layers = slice(None), slice(None)
    if hidden:
        weights, layers = slice(1, -1), slice(0, -1)
    variance = field.log_norm_variance[layers].sum() / config.width
    log_gain = np.log(field.gain[weights]).sum() + np.log(field.slope2[layers]).sum()
    middle = (log_gain - variance / 2) / 2
    deviation = variance**0.5 / 2
    return middle - deviation, middle + deviation


def _any_span(answers: list[Answer]) -> Answer:
    """Return the answer for a flag, which is raised if it is raised in any span."""
    if True in answers:
        return True
    if None in answers:
        return None
    return False


def _from_theory(config: Config) -> dict[str, Answer]:
    """Return what theory decides."""
    field = field_of(config)
    gains = [_gain_interval(config, field, hidden=hidden) for hidden in (False, True)]
    noise = (field.log_norm_variance.sum() / config.width) ** 0.5
    growth = (config.depth - 2) * math.log(field.chi)
    apart = -field.log_apart
    variance = _law_variance(config, field)
    answers: dict[str, Answer] = {
        "vanishing": _any_span(
            [_beyond(-high, -low, _LINES.log_gain) for low, high in gains]
        ),
        "exploding": _any_span(
            [_beyond(low, high, _LINES.log_gain) for low, high in gains]
        ),
        "ordered_phase": _beyond(-growth, -growth, _LINES.depth_scales),
        "chaotic_phase": _beyond(growth, growth, _LINES.depth_scales),
        "rank_collapse": _beyond(apart - noise, apart + noise, _LINES.depth_scales),
        "anisometric": _beyond(variance, variance, _LINES.anisometry),
        "saturated_units": _saturated(config, field),
        "below_floor": _below_floor(config, field),
    }
    if answers["anisometric"] is False:
        # Of n values with Var s^2 at most half of (E s^2)^2, an eighth carries at most
        # 1/8 + sqrt(1/2 1/8 7/8) = 0.36 of the sum (Cauchy and Schwarz), below the line
        # of one half.
        answers["outlier_dominated"] = False
    phases = ("vanishing", "exploding", "ordered_phase", "chaotic_phase")
    is_trainable = all(answers[name] is False for name in phases)
    # No wider than the inputs there is no rank to constrain; random weights that can be
    # trained are trained for long enough.
    if config.width <= N_IN or is_trainable:
        answers["rank_constrained_training"] = False
    return answers


def _law_variance(config: Config, field: Field) -> float:
    """Return the variance of s^2 of the hidden span, over its squared mean."""
    variance = (field.kappa[:-1] - 1 + field.independent).sum()
    # Of width values it is at most width - 1, that of a matrix of rank one.
    return variance / (1 + variance / config.width)


def _saturated(config: Config, field: Field) -> Answer:
    """Tell whether the layer of the largest variance is saturated.

    Healthy is a variance up to 1, that of the flag's null hypothesis. Broken is twice
    the share of saturated units at this variance, if that can be seen.
    """
    largest = field.q.max()
    if config.activation not in _BOUNDED or largest <= 1:
        return False
    line = max(2 * _saturated_share(config, 1.0), _VISIBLE)
    if _saturated_share(config, largest) >= line:
        return True
    return None


def _saturated_share(config: Config, q: float) -> float:
    """Return the share of saturated units at variance q."""
    return math.erfc(_BOUNDED[config.activation] / math.sqrt(2 * q))


def _below_floor(config: Config, field: Field) -> Answer:
    """Tell whether the median of ln s lies below the floor under the largest.

    A Gaussian factor contributes (psi(N/2) - psi(N/4))/2, the difference of two
    Lyapunov exponents (Newman, 1986), which is exact for linear networks. Derivatives
    of the activation contribute at most about their kappa - 1.
    """
    width = config.width
    exponents = float(special.digamma(width / 2) - special.digamma(width / 4))
    weights = (config.depth - 2) * field.independent * exponents / 2
    slopes = (field.kappa[:-1] - 1).sum()
    is_exact = config.activation == "linear"
    return _beyond(weights if is_exact else 0.0, weights + slopes, _FLOOR)


@functools.cache
def truth(config: Config | Case) -> dict[str, Answer]:
    """Return whether each flag must be raised; None of one that is not asked."""
    if isinstance(config, Case):
        return config.truth
    answers: dict[str, Answer] = dict.fromkeys(FLAGS)
    # A perceptron has neither branches nor attention, and its layers are no blocks.
    for name in ("dead_branch", "attention_collapse", "duplicate_blocks"):
        answers[name] = False
    if config.typical:
        answers.update(_from_theory(config))
    if config.plant:
        answers["rank_constrained_training"] = None
    if config.known.get("zero_gradient"):
        # Of a zero Jacobian it is not defined.
        answers["anisometric"] = None
    if config.activation not in _BOUNDED:
        answers["saturated_units"] = False
    answers.update(config.known)
    return answers
