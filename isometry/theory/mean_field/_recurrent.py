"""Mean-field theory of recurrent networks: what their states and perturbations do."""

import math
from collections.abc import Mapping
from typing import NamedTuple, cast

import jax
import numpy as np

from isometry._internal import blas, checks, randomness
from isometry._internal.errors import InputError, NotDefined, public
from isometry._internal.types import Key
from isometry.activations import Activation
from isometry.theory.mean_field import _gates, _lstm, _population
from isometry.theory.mean_field._fixed_points import q_fixed_point
from isometry.theory.mean_field._gates import (
    CONTENTS,
    SWITCHES,
    PerGate,
    Scales,
    State,
    per_gate,
)
from isometry.theory.mean_field._host import ActivationLike, evaluate, record
from isometry.theory.mean_field._moments import differentiable, finite, moments

# Steps of the simulation: a number, and a number for each step over which gates keep a
# state. With half of both, weakly driven cells grow 0.5 % slower; twice as many take
# four times as long.
_STEPS = 220
_STEPS_PER_MEMORY = 20

# Gates that keep a state for more steps would ask for a thousand steps, a minute.
_LONGEST_MEMORY = 50

# Long memories need many steps, and time grows with their square. So there are fewer
# sites then, but not fewer than this: the averages are over more steps instead.
_USUAL_STEPS = 240
_FEWEST_SITES = 512

# Perturbations need some steps to reach the direction that grows fastest.
_FEWEST_STEPS = 30


class Recurrent(NamedTuple):
    """The stationary state of a wide recurrent network, and how perturbations grow.

    Attributes:
        q: The mean square of h; in a vanilla network that of the pre-activation.
        chi: The growth of |dh|² in a step if the weights were drawn anew in each.
        rate: The growth of |dh|² in a step, over many steps, with these weights.

    Example:
        >>> point = theory.recurrent("vanilla", sigma_w=1.0, sigma_v=1.0)
        >>> round(point.q, 6), point.chi == point.rate
        (1.463851, True)
    """

    q: float
    chi: float
    rate: float


@public("recurrent")
def recurrent(
    cell: str,
    sigma_w: PerGate,
    sigma_v: PerGate,
    sigma_b: PerGate = 0.0,
    gate_bias: PerGate = 0.0,
    *,
    tied: bool = True,
    input_variance: float = 1.0,
    activation: ActivationLike | None = None,
    steps: int | None = None,
    sites: int = 4096,
    key: Key | None = None,
) -> Recurrent:
    """Compute how the state and its perturbations grow in a recurrent network.

    The network is that of `networks.rnn` with the same arguments, in the limit of many
    units and after many steps: it starts at h = 0 and reads inputs that are independent
    from entry to entry and from step to step. The gates, whose names sigma_w, sigma_v,
    sigma_b and gate_bias may map to numbers, are

    - "vanilla": "state", h' = phi(W h + V x + b).
    - "minimal": "update" and "candidate", h' = u h + (1 − u) z, u = s(W h + V z + b).
      Without `activation` z is the input, E z² = `input_variance`, as Chen et al.
      (2018) write this cell, and a number that is not in a mapping is for "update"
      alone. With it z = phi(V x + b) as in `networks.rnn`, and such a number is for
      "candidate" too.
    - "gru": "update", "reset" and "candidate"; the reset acts before the matrix.
    - "lstm": "input", "forget", "output" and "cell"; phi must be tanh.

    W acts on h (in the candidate of a GRU on r h), V on the input: fan_in · Var(W_ij) =
    sigma_w² and fan_in · Var(V_ij) = sigma_v². Recurrent weights may be orthogonal too,
    with all singular values sigma_w. Both have a distribution that rotations do not
    change; for other weights, such as the identity, the results do not hold.

    A perturbation dh reaches the next h through W and through all gates. In an LSTM it
    is accompanied by dc, and both grow alike. `chi` is exact if all weights and biases
    are drawn anew in each step (Chen et al., 2018; Gilboa et al., 2019). With tied
    weights, those of every recurrent network, the gates of a unit are correlated over
    time. For a vanilla network that changes neither q nor the rate. For gated cells it
    does: q can be ten times, and the rate a third, larger. So q and the rate of gated
    cells with tied weights are simulated, as averages over the last two thirds of
    `steps` steps of `sites` units. Weights are drawn as they are applied, which leaves
    no systematic error of a finite width. From key to key, 4096 sites scatter by 0.1 to
    0.9 % in the rate, and by up to 1 % in q where the network is chaotic. A call takes
    about a second. The rate is below its limit of many steps by an amount that falls as
    1/steps: at the default not measurable if inputs are strong, 0.5 % if they are weak,
    and 2 % if random biases are as large as what changes in time. A chaotic network of
    finite width grows more slowly: an LSTM by 1.5 % at 250 units, and 0.4 % at 1500.

    Args:
        cell: "vanilla", "minimal", "gru" or "lstm".
        sigma_w: Scale of the recurrent weights: a number for all gates, or a mapping
            from names of gates to numbers. A gate that it does not name has 1.
        sigma_v: Scale of the input weights, likewise.
        sigma_b: Standard deviation of the biases, likewise; 0 for a gate that a mapping
            does not name.
        gate_bias: Mean of the biases. A number is for all gates with a logistic
            function, a mapping for the gates that it names; all other means are 0.
        tied: Whether all steps share one draw of the weights, as recurrent networks do.
        input_variance: The mean square of the entries of x.
        activation: phi, as a name (`activations.names()`), an elementwise callable, or
            an `Activation`. None is tanh, and for "minimal" no function at all.
        steps: The number of steps of the simulation, at least 30. None is 240, and more
            if gates stay open for many steps.
        sites: The number of units of the simulation, at least 512; the scatter falls as
            one over its root.
        key: The random key of the simulation. None is `jax.random.key(0)`: equal
            arguments give equal results.

    Returns:
        The mean square q of the state, and the growth of |dh|² in a step: chi with
        fresh weights in each step, and the rate with those of the network. Where the
        state stays 0, without inputs and biases, all three are exact.

    Raises:
        InputError: An argument is not of this form, or a mapping names a gate that the
            cell does not have.
        NoFixedPoint: The state grows without bound.
        NotDefined: The gates stay open for more than 50 steps (with tied weights), or
            phi of an LSTM is not tanh.

    Example:
        Fresh weights would make this GRU ordered. Tied, as they are, it is chaotic:

        >>> scales = {"update": 2.0, "reset": 2.0, "candidate": 3.0}
        >>> bias = {"update": 1.0, "reset": 1.0}
        >>> point = theory.recurrent(
        ...     "gru", scales, 0.1**0.5, gate_bias=bias, sites=1024
        ... )
        >>> round(point.chi, 4), round(point.rate, 1)
        (0.8574, 1.1)

        A critical initialization, the scale at which perturbations neither grow nor
        die, by a root finder:

        >>> import scipy.optimize
        >>> def excess(sigma):
        ...     scales = {"candidate": sigma}
        ...     return theory.recurrent("gru", scales, 0.5, sites=512).rate - 1
        >>> sigma = scipy.optimize.brentq(excess, 2.5, 3.5, xtol=0.2)
        >>> round(sigma, 1)
        3.0
    """
    kind = checks.one_of("cell", cell, SWITCHES)
    # The candidate of a minimal cell is then the input: linear, of scale 1.
    if activation is None and kind == "minimal":
        activation = "linear"
        sigma_v, sigma_b = _of_gate(sigma_v), _of_gate(sigma_b)
    phi = record("tanh" if activation is None else activation)
    differentiable(phi, 1.0)
    checks.on_host("input_variance", input_variance)
    variance = float(checks.number("input_variance", input_variance, low=0.0))
    gates = _scales(
        kind,
        sigma_w=sigma_w,
        sigma_v=sigma_v,
        sigma_b=sigma_b,
        gate_bias=gate_bias,
        input_variance=variance,
    )
    sites = checks.integer("sites", sites, low=_FEWEST_SITES)
    if steps is not None:
        steps = checks.integer("steps", steps, low=_FEWEST_STEPS)
    if kind == "lstm" and phi.name != "tanh":
        raise NotDefined(
            f"activation={phi.name!r}: of an LSTM theory is known for tanh; "
            "isometry.signals measures other networks."
        )
    state = _untied(kind, phi, gates)
    if kind == "vanilla" or not tied:
        return Recurrent(state.q, state.chi, state.chi)
    if state.q == 0:
        return Recurrent(0.0, state.chi, _growth_at_zero(kind, phi, gates))
    if kind == "minimal":
        square = _gates.content(
            phi, gates["candidate"].bias, gates["candidate"].drive
        ).square
        gates = {**gates, "update": _gates.of_input(gates["update"], square)}
    if key is None:
        key = jax.random.key(0)
    q, rate = _tied(
        kind,
        phi,
        gates,
        memory=state.memory,
        steps=steps,
        sites=sites,
        key=checks.key("key", key),
    )
    return Recurrent(q, state.chi, rate)


def _of_gate(value: PerGate) -> PerGate:
    """Return numbers by gate, where a plain number is that of "update" alone."""
    if isinstance(value, Mapping):
        return value
    return {"update": value}


def _scales(
    cell: str,
    *,
    sigma_w: PerGate,
    sigma_v: PerGate,
    sigma_b: PerGate,
    gate_bias: PerGate,
    input_variance: float,
) -> dict[str, Scales]:
    """Check the scales of all gates; return what their pre-activations consist of.

    A pre-activation is W h + V x + b, W and V with independent entries. A scale is one
    number for all gates, or a mapping from gate to number.
    """
    names = SWITCHES[cell] + CONTENTS[cell]
    # The candidate of a minimal cell reads x alone.
    with_state = SWITCHES[cell] if cell == "minimal" else names
    of_w = per_gate("sigma_w", sigma_w, with_state, default=1.0)
    of_v = per_gate("sigma_v", sigma_v, names, default=1.0)
    of_b = per_gate("sigma_b", sigma_b, names, default=0.0)
    # One number is the bias of the gates that switch, a mapping of any gate.
    if isinstance(gate_bias, Mapping):
        means = per_gate("gate_bias", gate_bias, names, default=0.0, low=-math.inf)
    else:
        switches = SWITCHES[cell]
        means = per_gate("gate_bias", gate_bias, switches, default=0.0, low=-math.inf)
        if gate_bias and not switches:
            raise InputError(
                f"gate_bias={gate_bias:g}: a vanilla cell has no gates; write sigma_b "
                "for random biases, or another cell."
            )
    gates = {}
    for name in names:
        # The update gate of a minimal cell reads z. Its scale is that for an input of
        # mean square 1, and `of_input` puts E z² there.
        reads_z = cell == "minimal" and name == "update"
        noise = of_v[name] ** 2 * (1.0 if reads_z else input_variance)
        gates[name] = Scales(
            recurrent=of_w.get(name, 0.0) ** 2,
            drive=noise + of_b[name] ** 2,
            noise=noise,
            bias=means.get(name, 0.0),
        )
    return gates


# Products with vectors and small matrices gain nothing from more threads, which take
# ten times more of the processor: they wait for one another by spinning.
@blas.single_threaded()
def _untied(
    cell: str,
    phi: Activation,
    gates: Mapping[str, Scales],
) -> State:
    """Return the fixed point with fresh weights in every step."""
    if cell == "vanilla":
        return _vanilla(phi, gates)
    if cell == "minimal":
        return _gates.minimal(phi, gates)
    if cell == "gru":
        return _gates.gru(phi, gates)
    if gates["cell"].drive == gates["cell"].bias == 0:
        return _lstm.at_zero(gates)
    return _lstm.lstm(gates)


def _vanilla(
    phi: Activation,
    gates: Mapping[str, Scales],
) -> State:
    state = gates["state"]
    starts_at_zero = state.drive == 0 and evaluate(phi, np.zeros(1))[0][0] == 0
    if state.bias == 0 and state.recurrent > 0 and not starts_at_zero:
        # The fixed point of a deep network whose biases are V x + b. Its search does
        # not slow down where the map is close to critical.
        point = q_fixed_point(phi, state.recurrent**0.5, state.drive**0.5)
        slope = finite(phi, point.value, moments(phi, point.value).slope[0])
        return State(q=point.value, chi=state.recurrent * slope, memory=0.0)
    return _gates.vanilla(phi, gates)


@blas.single_threaded()
def _tied(
    cell: str,
    phi: Activation,
    gates: Mapping[str, Scales],
    *,
    memory: float,
    steps: int | None,
    sites: int,
    key: Key,
) -> tuple[float, float]:
    """Return q and the growth of |dh|² with the same weights in every step."""
    if steps is None:
        length = 1 / (1 - memory) if memory < 1 else math.inf
        if length > _LONGEST_MEMORY:
            raise NotDefined(
                f"the gates keep a state for {length:.0f} steps, and the growth with "
                "tied weights takes ten times as many to settle; write steps= "
                "for the growth so far, tied=False for fresh weights in every step, or "
                "lower gate_bias."
            )
        steps = round(_STEPS + _STEPS_PER_MEMORY * length)
        affordable = round(sites * (_USUAL_STEPS / steps) ** 2)
        sites = min(sites, max(affordable, _FEWEST_SITES))
    population = _population.Sites(
        phi,
        gates,
        num=sites,
        rng=randomness.host_generator(key),
        most=steps,
    )
    return _population.growth(cell, population, first=steps // 3)


def _growth_at_zero(
    cell: str,
    phi: Activation,
    gates: Mapping[str, Scales],
) -> float:
    """Return the growth of |dh|² at the state 0, which is a fixed point.

    The Jacobian is the same in every step: diag(a) + diag(s) W diag(r). Perturbations
    grow by the square of its spectral radius, the λ with sigma_w² E s² r²/(λ − a)² = 1,
    or the largest a if that is larger.
    """
    # Here, because `import isometry` does without SciPy.
    from scipy.optimize import brentq

    slope = float(evaluate(phi, np.zeros(1))[1][0])
    # a is the gate that keeps the state. The entries of s are those of the gate that
    # feeds new content in, those of r those of the gate through which W is fed.
    if cell == "minimal":
        kept, feeding, fed, strength = "update", None, None, 0.0
    elif cell == "gru":
        kept, feeding, fed = "update", None, "reset"
        strength = gates["candidate"].recurrent * slope**2
    else:
        kept, feeding, fed = "forget", "input", "output"
        strength = gates["cell"].recurrent * slope**4
    u, weights = _gates.nodes(gates[kept].bias, gates[kept].drive)
    a = 1 / (1 + np.exp(-u))
    if fed is not None:
        strength *= _square(gates[fed])
    if feeding is not None:
        strength *= _square(gates[feeding])
    # In a GRU the same gate keeps the state and lets the candidate in.
    share = (1 - a) ** 2 if cell == "gru" else np.ones_like(a)

    def excess(lam: float) -> float:
        return strength * float(weights @ (share / (lam - a) ** 2)) - 1

    # Random biases leave some unit with a gate that never closes.
    largest = 1.0 if len(a) > 1 else float(a[0])
    if strength == 0 or (len(a) > 1 and excess(1.0) <= 0):
        return largest**2
    if len(a) == 1:
        return (largest + math.sqrt(strength * float(share[0]))) ** 2
    high = 1.0 + math.sqrt(strength)
    return cast(float, brentq(excess, 1.0, high, xtol=1e-14)) ** 2


def _square(gate: Scales) -> float:
    return _gates.switch(gate.bias, gate.drive).square
