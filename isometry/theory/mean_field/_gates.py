"""Recurrent cells of which the gates are drawn anew in every step: untied mean field.

With fresh weights in every step a pre-activation W h + V x + b is Gaussian and
independent of the state, so a cell has one number, the mean square Q of its h. The
equations of the cells, and the names of their gates, are those of `networks.rnn`. With
s² = Var(W h) of a gate, squares of a perturbation grow in a step by

    minimal:  E u² + s_u² E u'² E(h − z)² / Q
    gru:      E u² + s_u² E u'² E(h − g)² / Q
              + E(1 − u)² E g'² s_g² (E r² + s_r² E r'²)

(Chen, Pennington and Schoenholz, 2018, for the first; Gilboa et al., 2019, for the
assumption).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from isometry._internal import checks
from isometry.activations import Activation
from isometry.theory.mean_field._fixed_points import NoFixedPoint
from isometry.theory.mean_field._host import evaluate
from isometry.theory.mean_field._pieces import octave_of, pieces
from isometry.theory.mean_field._quadrature import REACH, bell, gauss

# One number for all gates, or numbers by the names of gates.
PerGate: TypeAlias = float | Mapping[str, float]

Nodes = Float[np.ndarray, " nodes"]

# The gates of a cell with a logistic function behind them, and the others.
SWITCHES = {
    "vanilla": (),
    "minimal": ("update",),
    "gru": ("update", "reset"),
    "lstm": ("input", "forget", "output"),
}
CONTENTS = {
    "vanilla": ("state",),
    "minimal": ("candidate",),
    "gru": ("candidate",),
    "lstm": ("cell",),
}

# The logistic function and tanh turn over at arguments of order one, and are flat
# beyond 40 in float64.
_TURNS = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 40.0])

# A fixed point is left alone when steps change it by less than this share.
_SETTLED = 1e-14

# Accelerated steps of the search for a fixed point. It takes 5 to 20; at 1000 the map
# has no fixed point, or one that float64 cannot tell from a critical one.
_ROUNDS = 1000

# A mean square that passes this grows without bound.
_DIVERGED = 1e12


def per_gate(
    name: str,
    value: PerGate,
    gates: Sequence[str],
    *,
    default: float,
    low: float = 0.0,
) -> dict[str, float]:
    """Return the number of each gate.

    Args:
        name: The name of the argument, for messages.
        value: One number for all gates, or a mapping from gates to numbers.
        gates: The names of the gates that have such a number.
        default: The number for gates that the mapping does not name.
        low: The smallest number allowed.

    Raises:
        InputError: An unknown gate, or a number that is not finite or below `low`.
        TracedError: The value is traced.
    """
    checks.on_host(name, value)
    if not isinstance(value, Mapping):
        number = float(checks.number(name, value, low=low))
        return dict.fromkeys(gates, number)
    numbers = dict.fromkeys(gates, default)
    # A misspelt gate is an error: with `dict.get` it would silently have the default.
    for gate, given in value.items():
        gate = checks.one_of(f"gate of {name}", gate, gates)
        numbers[gate] = float(checks.number(f"{name}[{gate!r}]", given, low=low))
    return numbers


@dataclasses.dataclass(frozen=True)
class Scales:
    """The distribution of a gate's pre-activation, for a given mean square of h.

    Attributes:
        recurrent: sigma_w², the factor of the mean square of what W is applied to.
        drive: The variance of V x + b, in which biases are drawn anew in every step.
        noise: The variance of V x, the part of `drive` that changes from step to step.
        bias: The mean of b.
    """

    recurrent: float
    drive: float
    noise: float
    bias: float

    def variance(self, square: float) -> float:
        """Return the variance, where W is applied to a vector of this mean square."""
        return self.recurrent * square + self.drive


class Switch(NamedTuple):
    """Moments of a logistic function u of a Gaussian.

    Attributes:
        square: E u².
        closed: E (1 − u)².
        half: E u (1 − u).
        slope: E u'².
    """

    square: float
    closed: float
    half: float
    slope: float


class Content(NamedTuple):
    """Moments of an activation g of a Gaussian: E g, E g² and E g'²."""

    mean: float
    square: float
    slope: float


class State(NamedTuple):
    """A fixed point of a cell.

    Attributes:
        q: The mean square of h; of a vanilla cell of its pre-activation.
        chi: The growth of |dh|² in a step with fresh weights.
        memory: E u², the share of the mean square of a state that a step keeps.
    """

    q: float
    chi: float
    memory: float


def nodes(
    mean: float,
    variance: float,
    phi: Activation | None = None,
) -> tuple[Nodes, Nodes]:
    """Return points u and weights, so that Σ w f(u) is E f(u) of a Gaussian u.

    Panels end where f turns over: at the logistic function's turns, or at the kinks of
    an activation.

    Args:
        mean: The mean of u.
        variance: The variance of u.
        phi: The activation, if f depends on one.
    """
    if variance == 0:
        return np.array([mean]), np.ones(1)
    scale = math.sqrt(variance)
    edges = [np.linspace(-REACH, REACH, round(2 * REACH) + 1)]
    turns = np.concatenate([-_TURNS, np.zeros(1), _TURNS])
    edges.append((turns - mean) / scale)
    if phi is not None:
        furthest = abs(mean) + REACH * scale
        edges.append((pieces(phi, octave_of(furthest)).edges - mean) / scale)
    z = np.unique(np.concatenate(edges))
    z = z[np.abs(z) <= REACH]
    at, mass = gauss(z[:-1], z[1:])
    weights = mass * bell(at)
    return mean + scale * at.ravel(), weights.ravel()


def switch(
    mean: float,
    variance: float,
) -> Switch:
    """Compute the moments of a gate with a logistic function."""
    # Here, because `import isometry` does without SciPy.
    from scipy import special

    u, weights = nodes(mean, variance)
    value = special.expit(u)
    # 1 − u from the other side, because it cancels where the gate is wide open.
    rest = special.expit(-u)
    return Switch(
        square=float(weights @ value**2),
        closed=float(weights @ rest**2),
        half=float(weights @ (value * rest)),
        slope=float(weights @ (value * rest) ** 2),
    )


def content(
    phi: Activation,
    mean: float,
    variance: float,
) -> Content:
    """Compute the moments of a gate with an activation."""
    u, weights = nodes(mean, variance, phi)
    value, slope = evaluate(phi, u)
    return Content(
        mean=float(weights @ value),
        square=float(weights @ value**2),
        slope=float(weights @ slope**2),
    )


def settled(
    step: Callable[[float], float],
    *,
    share: float = _SETTLED,
) -> float:
    """Return the fixed point of `step` that iterating it from 0 reaches.

    Args:
        step: The map.
        share: It is reached when steps change it by less than this share.

    Raises:
        NoFixedPoint: It grows without bound, or does not settle.
    """
    x = 0.0
    for _ in range(_ROUNDS):
        first = step(x)
        second = step(first)
        if not second < _DIVERGED:
            raise NoFixedPoint("the mean square of the state grows without bound.")
        change, bend = second - first, second - 2 * first + x
        if abs(change) <= share * second:
            return second
        # Aitken's step is exact for a geometric approach, the last stage of every one.
        # It is not taken where steps grow: it would lead to an unstable fixed point.
        x = second
        if abs(change) < abs(change - bend):
            ahead = second - change**2 / bend
            x = ahead if ahead >= 0 else second
    raise NoFixedPoint("the mean square of the state does not settle.")


def vanilla(
    phi: Activation,
    gates: Mapping[str, Scales],
) -> State:
    """Return the fixed point of h' = phi(W h + V x + b), with q of the argument."""
    state = gates["state"]

    def step(variance: float) -> float:
        return state.variance(content(phi, state.bias, variance).square)

    variance = settled(step)
    chi = state.recurrent * content(phi, state.bias, variance).slope
    return State(
        q=variance + state.bias**2,
        chi=chi,
        memory=0.0,
    )


def minimal(
    phi: Activation,
    gates: Mapping[str, Scales],
) -> State:
    """Return the fixed point of h' = u h + (1 − u) z, with z = phi(V x + b)."""
    update, candidate = gates["update"], gates["candidate"]
    # z reads x alone, so its moments do not depend on the state. The gate reads z.
    z = content(phi, candidate.bias, candidate.drive)
    update = of_input(update, z.square)

    def of(q: float) -> Switch:
        return switch(update.bias, update.variance(q))

    q = settled(lambda q: _mixed(of(q), z))
    u = of(q)
    # E h = E z, and h and z are independent.
    distance = q + z.square - 2 * z.mean**2
    return State(
        q=q,
        chi=u.square + update.recurrent * u.slope * distance,
        memory=u.square,
    )


def gru(
    phi: Activation,
    gates: Mapping[str, Scales],
) -> State:
    """Return the fixed point of h' = u h + (1 − u) g, g = phi(W(r h) + V x + b)."""
    update, reset, candidate = gates["update"], gates["reset"], gates["candidate"]

    def of(q: float) -> tuple[Switch, Switch, Content]:
        u = switch(update.bias, update.variance(q))
        r = switch(reset.bias, reset.variance(q))
        variance = candidate.variance(r.square * q)
        return u, r, content(phi, candidate.bias, variance)

    def step(q: float) -> float:
        u, _, g = of(q)
        return _mixed(u, g)

    q = settled(step)
    u, r, g = of(q)
    distance = q + g.square - 2 * g.mean**2
    # d(r h) = r dh + r' h (W dh) has this mean square over that of dh.
    of_product = r.square + reset.recurrent * r.slope * q
    chi = u.square + update.recurrent * u.slope * distance
    chi += u.closed * g.slope * candidate.recurrent * of_product
    return State(
        q=q,
        chi=chi,
        memory=u.square,
    )


def of_input(
    gate: Scales,
    square: float,
) -> Scales:
    """Return a gate that reads an input of this mean square in the place of 1."""
    noise = gate.noise * square
    return dataclasses.replace(gate, drive=gate.drive - gate.noise + noise, noise=noise)


def _mixed(
    u: Switch,
    g: Content,
) -> float:
    """Return the mean square Q with Q = E(u h + (1 − u) g)², given u and g.

    h and g are independent given u, and E h = E g.
    """
    new = u.closed * g.square + 2 * u.half * g.mean**2
    # 1 − E u² = E(1 − u)² + 2 E u(1 − u), without cancellation.
    return new / (u.closed + 2 * u.half)
