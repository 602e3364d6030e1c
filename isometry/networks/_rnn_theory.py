"""What theory predicts of recurrent networks: signals, and laws over steps."""

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from isometry import theory
from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined
from isometry.networks import _predicted
from isometry.networks._gate_laws import Chrono
from isometry.records import Signals
from isometry.theory import Law, Moments
from isometry.theory.laws._gated_moments import of_one_step
from isometry.theory.mean_field import _gates, _population
from isometry.theory.mean_field._gates import Scales
from isometry.theory.mean_field._moments import differentiable
from isometry.theory.mean_field._population import OneStep
from isometry.theory.mean_field._products import products

if TYPE_CHECKING:
    from isometry.networks._rnn import Rnn

Sequences = Float[np.ndarray, "inputs steps n_in"]

# Units of the wide network that stands for gated cells: at 60,000 the error of q is
# 0.6 %, and with a quarter of them twice as large. Each keeps a number for every state
# of every input, and together they take up to half a gigabyte.
_MOST_SITES = 60_000
_FEWEST_SITES = 2_000
_STATES_OF_SITES = 20_000_000

# Units whose gates make a law: mean and quantiles are right to 1 or 2 %. Four times as
# many take four times as long, a second for each input, and halve the error.
_SITES_OF_LAW = 4_000

_GRADIENTS = (
    "of gated cells they are not predicted: the gates of a unit are correlated from "
    "step to step; theory.recurrent has the growth of a perturbation in a step."
)
_AROUND = "not defined at points around which the inputs of later steps lead."


def _scales(net: "Rnn") -> dict[str, Scales]:
    """Return the distribution of each gate, for inputs of mean square 1.

    Raises:
        NotDefined: The recurrent weights are multiples of the identity, or the biases
            are drawn by chrono.
    """
    laws = net.laws
    if laws.recurrent == "identity":
        raise NotDefined(
            'scheme="identity": theory is for recurrent weights that are Gaussian or '
            "orthogonal. With W = 1 every unit is on its own."
        )
    if isinstance(laws.gate_bias, Chrono):
        raise NotDefined(
            "the biases of chrono differ from unit to unit, and theory is for Gaussian "
            "ones; isometry.signals(net, keys, xs) measures."
        )
    # A gate that does not read h has no recurrent weights, and no entry in sigma_w.
    of_w, means = dict(laws.sigma_w), dict(laws.gate_bias)
    of_v, of_b = dict(laws.sigma_v), dict(laws.sigma_b)
    return {
        gate: Scales(
            recurrent=of_w.get(gate, 0.0) ** 2,
            drive=of_v[gate] ** 2 + of_b[gate] ** 2,
            noise=of_v[gate] ** 2,
            bias=means[gate],
        )
        for gate in net.function.cell.gates
    }


def _checked(net: "Rnn", xs: ArrayLike) -> Sequences:
    """Return xs in float64, if its shape is (inputs, steps, n_in)."""
    checks.on_host("xs", xs)
    sequences = np.asarray(xs, np.float64)
    n_in = net.function.n_in
    if sequences.ndim != 3 or sequences.size == 0 or sequences.shape[2] != n_in:
        raise InputError(
            f"xs has shape {sequences.shape}; write sequences along a first axis, "
            f"(inputs, steps, {n_in})."
        )
    return sequences


def mean_field(net: "Rnn", xs: ArrayLike) -> Signals:
    """Return the predicted signals, for `Rnn.mean_field`."""
    sequences = _checked(net, xs)
    gates = _scales(net)
    if net.function.kind == "vanilla":
        return _of_vanilla(net, gates["state"], sequences)
    return _of_gated(net, gates, sequences)


def _of_vanilla(net: "Rnn", state: Scales, xs: Sequences) -> Signals:
    """Predict all fields at the points of a vanilla network."""
    phi = net.function.activation
    differentiable(phi, 1.0)
    steps = xs.shape[1]
    # V and b are the same in all steps, so E u_a u_b of their part is known before.
    of_x = np.einsum("atn,btn->tab", xs, xs) / xs.shape[2]
    bias = state.drive - state.noise + state.bias**2
    of_input = state.noise * of_x + bias
    of_state, of_sum, recurrent, slopes = [], [], [], []
    old = np.zeros_like(of_x[0])
    for t in range(steps):
        recurrent.append(state.recurrent * old)
        of_sum.append(recurrent[-1] + of_input[t])
        old, slope = _activated(net, of_sum[-1], state.bias)
        of_state.append(old)
        slopes.append(slope)

    # Squared derivatives of the outputs, over the number of outputs.
    square = _head(net)
    at_state, at_sum = [], []
    growth = np.full(len(xs), square)
    for slope in reversed(slopes):
        at_state.append(growth)
        at_sum.append(slope * growth)
        growth = state.recurrent * at_sum[-1]
    at_state, at_sum = at_state[::-1], at_sum[::-1]

    grams = {"input": np.einsum("atn,btn->ab", xs, xs) / xs[0].size}
    # Each step reads an x of its own, so the squares of the steps add.
    apjn = {"input": state.noise * np.sum(at_sum, axis=0)}
    sizes = {"input": xs[0].size}
    on_all_paths = ["input"]
    units = net.function.units
    for t in range(steps):
        # At the first step W h is zero, and the network does not compute it.
        names = {f"state/input@{t}": (of_input[t], at_sum[t])}
        last = f"state/input@{t}"
        if t:
            last = f"state/recurrent@{t}:sum"
            names[f"state/recurrent@{t}"] = (recurrent[t], at_sum[t])
            names[last] = (of_sum[t], at_sum[t])
            names[f"{last}:out"] = (of_state[t], at_state[t])
        names[f"h@{t}"] = (of_state[t], at_state[t])
        for name, (gram, of_name) in names.items():
            grams[name], apjn[name], sizes[name] = gram, of_name, units
        # A later x leads around the points of earlier steps.
        if t == steps - 1:
            on_all_paths += [last, f"h@{t}", "output"]
    grams["output"] = square * of_state[-1]
    apjn["output"] = np.ones(len(xs))
    sizes["output"] = net.function.n_out
    chi = {}
    for before, name in itertools.pairwise(on_all_paths):
        chi[name] = apjn[before] / apjn[name]
    return _predicted.record(
        grams,
        apjn,
        chi,
        sizes=sizes,
        reasons=(("chi", _AROUND),),
    )


def _activated(
    net: "Rnn",
    gram: Float[np.ndarray, "inputs inputs"],
    mean: float,
) -> tuple[Float[np.ndarray, "inputs inputs"], Float[np.ndarray, " inputs"]]:
    """Return E phi(u_a) phi(u_b) for all pairs of inputs, and E phi'(u_a)².

    Args:
        net: The network.
        gram: E u_a u_b.
        mean: E u.
    """
    phi = net.function.activation
    # `content` and `products` ask for covariances, without the part of the mean.
    centred = gram - mean**2
    variances = np.diag(centred)
    moments = [_gates.content(phi, mean, float(v)) for v in variances]
    new = np.diag([moment.square for moment in moments])
    rows, columns = np.triu_indices(len(gram), k=1)
    if len(rows):
        if mean != 0:
            raise NotDefined(
                "the biases have a mean, and cosines of two inputs are predicted for "
                "biases without; write one input."
            )
        means = products(
            phi,
            first=variances[rows],
            second=variances[columns],
            covariance=centred[rows, columns],
        )
        new[rows, columns] = new[columns, rows] = means
    return new, np.array([moment.slope for moment in moments])


def _of_gated(net: "Rnn", gates: dict[str, Scales], xs: Sequences) -> Signals:
    """Predict q and c of h after each step of a gated network."""
    function = net.function
    sites = _driven(net, gates, xs, most=_MOST_SITES)
    paths = _population.paths(function.kind, sites, xs)
    grams = {"input": np.einsum("atn,btn->ab", xs, xs) / xs[0].size}
    sizes = {"input": xs[0].size}
    of_states = np.einsum("atk,btk->tab", paths, paths) / sites.num
    for t, gram in enumerate(of_states):
        grams[f"h@{t}"] = gram
        sizes[f"h@{t}"] = function.units
    grams["output"] = _head(net) * of_states[-1]
    sizes["output"] = function.n_out
    # Behind the last state there is the linear head alone.
    apjn = {"output": np.ones(len(xs))}
    apjn[f"h@{len(of_states) - 1}"] = np.full(len(xs), _head(net))
    reasons = [(field, _GRADIENTS) for field in ("gradient", "apjn", "chi")]
    return _predicted.record(
        grams,
        apjn,
        {},
        sizes=sizes,
        reasons=reasons,
    )


def _driven(
    net: "Rnn",
    gates: dict[str, Scales],
    xs: Sequences,
    *,
    most: int,
) -> _population.Driven:
    """Return the wide network that stands for a gated one.

    Args:
        net: The network.
        gates: The distributions of its gates.
        xs: The sequences that it reads.
        most: The number of its units at most.
    """
    function = net.function
    # Named activations have a derivative in the mean; a callable may jump.
    if not function.activation.named:
        differentiable(function.activation, 1.0)
    num_states = xs.shape[0] * xs.shape[1]
    num = min(most, _STATES_OF_SITES // num_states)
    return _population.Driven(
        function.activation,
        gates,
        max(_FEWEST_SITES, num),
        n_in=function.n_in,
        rng=np.random.default_rng(0),
        most=num_states,
    )


def _head(net: "Rnn") -> float:
    """Return the mean square of an output over that of h; units · Var of the head."""
    if net.laws.recurrent != "orthogonal":
        return 1.0
    # All singular values are 1, and there are as many as the smaller of the two sizes.
    return min(1.0, net.function.units / net.function.n_out)


def law(net: "Rnn", span: str | tuple[str, str], xs: ArrayLike) -> Law:
    """Return the law of the Jacobian between two states, for `Rnn.law`."""
    sequences = _checked(net, xs)
    first, last = _steps(span, sequences.shape[1])
    if net.function.kind == "vanilla":
        return _law_of_vanilla(net, sequences, first, last=last)
    if net.function.kind == "gru":
        raise NotDefined(
            "no law is known of a GRU: its reset stands between two matrices. Mean and "
            "variance of one step are net.moments, theory.recurrent has the growth of "
            "a perturbation, and isometry.ensemble measures the spectrum."
        )
    laws = []
    for step in _one_step(net, sequences, first, last=last):
        # The scales of the weights are in s.
        a = np.sqrt(step.kept.astype(float))
        s = np.sqrt(step.fed.astype(float))
        laws.append(theory.gated_law(a, s, sigma_w=1.0))
    if len(laws) == 1:
        return laws[0]
    share = 1 / len(laws)
    name = f"one step of a {net.function.kind} cell"
    return theory.Mixture(laws, [share] * len(laws), name)


def moments(net: "Rnn", span: str | tuple[str, str], xs: ArrayLike) -> Moments:
    """Return mean and variance of lam between two states, for `Rnn.moments`."""
    sequences = _checked(net, xs)
    first, last = _steps(span, sequences.shape[1])
    if net.function.kind == "vanilla":
        found = _law_of_vanilla(net, sequences, first, last=last)
        return Moments(mean=found.moment(1), variance=found.variance)
    steps = _one_step(net, sequences, first, last=last)
    of_inputs = np.array([of_one_step(step) for step in steps])
    means, variances = of_inputs.T
    # The values of all inputs together also differ by the means of the inputs.
    variance = variances.mean() + means.var()
    return Moments(mean=float(means.mean()), variance=float(variance))


def _one_step(
    net: "Rnn",
    sequences: Sequences,
    first: int,
    *,
    last: int,
) -> list[OneStep]:
    """Return the Jacobian of one step of a gated cell, for each sequence.

    Raises:
        NotDefined: There is more than one step between the states, or weights are not
            Gaussian.
    """
    kind = net.function.kind
    if last > first + 1:
        raise NotDefined(
            f"over {last - first} steps of a {kind} cell neither a law nor moments are "
            "known: its gates multiply the state itself, and with the same weights in "
            "every step they are correlated from step to step. They are known of one "
            f'step, span=("h@{first}", "h@{first + 1}"); theory.recurrent has the '
            "growth of a perturbation, and isometry.ensemble measures the spectrum."
        )
    gates = _scales(net)
    if net.laws.recurrent != "gaussian":
        raise NotDefined(
            f"scheme={net.laws.recurrent!r}: one step of a {kind} cell is known for "
            'Gaussian weights; write scheme="gaussian".'
        )
    sites = _driven(net, gates, sequences[:, : last + 1], most=_SITES_OF_LAW)
    return _population.jacobians(kind, sites, sequences[:, : last + 1])


def _law_of_vanilla(
    net: "Rnn",
    sequences: Sequences,
    first: int,
    *,
    last: int,
) -> Law:
    """Return the law of the steps of a vanilla network: of D W as often as steps."""
    state = _scales(net)["state"]
    if state.bias != 0:
        raise NotDefined(
            "the law is known for biases of mean 0; write sigma_b for random biases."
        )
    # The law is for one variance a step: the mean over the sequences.
    of_x = (sequences**2).mean(axis=(0, 2))
    q, square = [], 0.0
    for t in range(last + 1):
        variance = state.recurrent * square + state.noise * of_x[t]
        variance += state.drive - state.noise
        q.append(float(variance))
        square = _gates.content(net.function.activation, 0.0, variance).square
    return theory.jacobian_law(
        net.function.activation,
        depth=last - first,
        q=q[first + 1 :],
        sigma_w=math.sqrt(state.recurrent),
        weights=net.laws.recurrent,
    )


def _steps(span: str | tuple[str, str], num_steps: int) -> tuple[int, int]:
    """Return the steps behind which a span begins and ends.

    Raises:
        NotDefined: It is another span than one from a state to a later one.
        InputError: There is no such step.
    """
    # The spans that have a name, "hidden" and others, are none between two states.
    names = span if isinstance(span, tuple) else ()
    steps = []
    for name in names:
        text = str(name)
        if text.startswith("h@") and text[2:].isdigit():
            steps.append(int(text[2:]))
    if len(steps) != 2:
        raise NotDefined(
            f"span={checks.show(span)}: of a recurrent network theory is known between "
            'two states; write span=("h@2", "h@7").'
        )
    first, last = steps
    if not first < last < num_steps:
        raise InputError(
            f"span={checks.show(span)} does not go from a step to a later one of the "
            f"{num_steps} steps of xs, counted from 0."
        )
    return first, last
