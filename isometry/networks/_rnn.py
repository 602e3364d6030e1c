"""Recurrent networks: vanilla, minimal RNN, GRU and LSTM, with a linear readout."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from isometry import activations, initializers
from isometry._internal import checks, randomness
from isometry._internal.errors import InputError, public
from isometry._internal.types import Initializer, Key, Params
from isometry.activations import Activation
from isometry.networks import _arguments, _gate_laws, _rnn_theory
from isometry.networks._cells import CELLS, Cell, States
from isometry.networks._gate_laws import GateBias, GateLaws, PerGate
from isometry.networks._network import Network
from isometry.records import Signals
from isometry.theory import Law, Moments

# Steps of `net.example`, the sequence by which the anatomy is read. The anatomy has a
# few points for every step: with ten times more steps it would fill screens, and with
# one step there would be no recurrence.
_STEPS = 16


@dataclasses.dataclass(frozen=True)
class RnnFunction:
    """The map (params, x) -> output of a recurrent network.

    Attributes:
        kind: The name of the cell, a key of `CELLS`.
        activation: phi in the equations of the cell.
        units: The size of each state.
        n_in: The size of one input of the sequence.
        n_out: The size of the output.
    """

    kind: str
    activation: Activation
    units: int
    n_in: int
    n_out: int

    @property
    def cell(self) -> Cell:
        """The equations of the cell."""
        return CELLS[self.kind]

    @public("rnn")
    def __call__(self, params: Params, x: Array) -> Float[Array, " n_out"]:
        """Return the readout of the last h, with all states 0 before the first step."""
        # Checked, because a batch of sequences would pass all gates without an error.
        x = checks.array("x", x)
        shape = x.shape
        if len(shape) != 2 or shape[0] == 0 or shape[1] != self.n_in:
            raise InputError(
                f"x has shape {shape}; this network takes one sequence of shape "
                f"(steps, {self.n_in}), at least one step. For a batch write "
                "jax.vmap(net, (None, 0))(params, xs)."
            )
        checks.real("x", x)
        head = params["head"]
        dtype = head["w"].dtype
        cell = self.cell

        def step(states: States, x_t: Float[Array, " n_in"]) -> tuple[States, None]:
            new = cell.step(params, self.activation, states, x=x_t)
            # The anatomy calls the states by these names: h@0, h@1, ...
            return tuple(map(checkpoint_name, new, cell.states)), None

        # States start at 0, as in the theory of recurrent networks.
        start = tuple(jnp.zeros(self.units, dtype) for _ in cell.states)
        (h, *_), _ = jax.lax.scan(step, start, jnp.asarray(x, dtype))
        return h @ head["w"] + head["b"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Rnn(Network):
    """A recurrent network: what `rnn` returns.

    Attributes:
        function: The map (params, x) -> output alone.
        laws: The distributions of the parameters of all gates.
        dtype: The dtype of the parameters.
    """

    function: RnnFunction
    laws: GateLaws
    dtype: np.dtype

    def _require_params(self, params: Params) -> None:
        _arguments.require_like(params, self.shapes)

    @public("init")
    def init(self, key: Key) -> Params:
        """Draw the parameters.

        Args:
            key: A random key. It may be traced.

        Returns:
            For each gate {"recurrent": (units, units), "input": (n, units), "b":
            (units,)}, where n is n_in, or units for a gate that reads z in the place of
            x; and "head": {"w": (units, n_out), "b": (n_out,)}.

        Raises:
            InputError: `key` is no random key.
        """
        checks.key("key", key)
        function = self.function
        units = function.units
        cell = function.cell
        num_keys = 2 + len(cell.gates)
        key_head, key_biases, *keys = randomness.split(key, num_keys)
        biases = self.laws.biases(key_biases, cell, units, dtype=self.dtype)
        params = {}
        shapes = cell.shapes(units, function.n_in)
        # Each gate has a key of its own, so its draw does not depend on the shapes of
        # the others.
        for gate_key, (gate, shapes_of_gate) in zip(keys, shapes.items(), strict=True):
            params[gate] = {"b": biases[gate]}
            key_recurrent, key_input = randomness.split(gate_key)
            shape = shapes_of_gate["input"]
            init = self.laws.input_weight(gate, shape[0])
            params[gate]["input"] = init(key_input, shape, self.dtype)
            # A gate that reads x alone has no recurrent weight.
            if "recurrent" in shapes_of_gate:
                init = self.laws.recurrent_weight(gate, units)
                shape = shapes_of_gate["recurrent"]
                params[gate]["recurrent"] = init(key_recurrent, shape, self.dtype)
        head = self._head()(key_head, (units, function.n_out), self.dtype)
        params["head"] = {"w": head, "b": jnp.zeros(function.n_out, self.dtype)}
        return params

    @property
    def any_size(self) -> bool:
        """Whether x may have another shape than the example: its length may differ."""
        return True

    @property
    def layer_activations(self) -> Mapping[str, Activation]:
        """The activation for which each recurrent weight is critical, by its name.

        For the gates in `Cell.switches` it is `linear`, and so their scale is 1. The
        signal does not pass through their logistic function, but is multiplied by its
        value. Weights that are critical for the logistic function would be 10 times as
        large, and almost all its values 0 or 1.
        """
        cell = self.function.cell
        by_layer = {}
        for gate in cell.recurrent:
            by_layer[f"{gate}/recurrent"] = self.function.activation
            if gate in cell.switches:
                by_layer[f"{gate}/recurrent"] = activations.linear
        return by_layer

    @public("law")
    def law(self, span: str | tuple[str, str], xs: ArrayLike) -> Law:
        """Predict the law of the singular values between two states.

        Known for vanilla cells whose W is orthogonal or Gaussian, in the limit of many
        units: that W is the same in every step changes nothing. The Jacobian from h@s
        to h@t is a product of t − s pairs D W, at the variances of the pre-activations
        of these steps, for the mean square of xs at each step.

        Of minimal and LSTM cells with Gaussian weights it is known for one step, the
        `theory.gated_law` of the gates that xs themselves lead to: those of a
        simulation of 4000 units, which make mean and quantiles right to 1 or 2 %. It is
        an average over inputs, and takes a second for each.

        Args:
            span: Two states, such as ("h@2", "h@7"); of a gated cell those before and
                behind one step, such as ("h@2", "h@3").
            xs: Sequences along a first axis, (inputs, steps, n_in).

        Returns:
            The law.

        Raises:
            NotDefined: A GRU, of which no law is known; several steps of a gated cell,
                or one with orthogonal weights; another span; W is a multiple of the
                identity; biases have a mean (of a vanilla cell), or are of chrono.
            InputError: xs of another shape; a step that it does not have.

        Example:
            >>> net = networks.rnn(64, 8, 2, scheme="gaussian", activation="linear")
            >>> law = net.law(("h@2", "h@4"), jnp.ones((1, 5, 8)))
            >>> round(law.moment(2), 6)
            3.0
        """
        return _rnn_theory.law(self, span, xs)

    @public("moments")
    def moments(self, span: str | tuple[str, str], xs: ArrayLike) -> Moments:
        """Return mean and variance of lam = s² between two states.

        They are those of the law, where there is one, and of a GRU those of one step,
        with the same simulation of the gates.

        Args:
            span: Two states, such as ("h@2", "h@7"); of a gated cell those before and
                behind one step, such as ("h@2", "h@3").
            xs: Sequences along a first axis, (inputs, steps, n_in).

        Returns:
            `theory.Moments`: the mean and the variance.

        Raises:
            NotDefined: What `law` refuses, but for one step of a GRU. With fresh
                weights in every step `theory.gated_moments` has the moments of several
                steps.
            InputError: As `law`.

        Example:
            >>> net = networks.rnn(64, 8, 2, scheme="gaussian", activation="linear")
            >>> mean, variance = net.moments(("h@2", "h@4"), jnp.ones((1, 5, 8)))
            >>> round(mean, 6), round(variance, 6)
            (1.0, 2.0)
        """
        return _rnn_theory.moments(self, span, xs)

    @public("mean_field")
    def mean_field(self, xs: ArrayLike) -> Signals:
        """Predict what `isometry.signals` measures, for many units.

        Of a vanilla network all fields are predicted at all points, from xs themselves.
        Of gated cells q and c are those of a simulation of up to 60,000 units whose
        weights are drawn where they are met: right to 1 % for up to 1000 states, of all
        inputs together. They are given at "input", "h@t" and "output".

        Args:
            xs: Sequences along a first axis, (inputs, steps, n_in).

        Returns:
            The predicted signals, of shape (1, inputs, points): one row for all seeds.

        Raises:
            NotDefined: W is a multiple of the identity, or biases are those of chrono.
            InputError: xs of another shape.

        Example:
            >>> net = networks.rnn(64, 8, 2, scheme="gaussian", activation="linear")
            >>> sig = net.mean_field(jnp.ones((1, 3, 8)))
            >>> [round(float(sig.at(f"h@{t}").q[0, 0]), 6) for t in range(3)]
            [1.0, 2.0, 3.0]
        """
        return _rnn_theory.mean_field(self, xs)

    def _head(self) -> Initializer:
        """Return the initializer of the weights of the readout, with gain 1."""
        if self.laws.recurrent == "orthogonal":
            return initializers.orthogonal()
        return _gate_laws.gaussian(1.0, self.function.units)

    def __repr__(self) -> str:
        function = self.function
        return (
            f"rnn({function.units}, {function.n_in}, {function.n_out}, "
            f"{function.kind!r}, activation={function.activation.name!r}, "
            f"scheme={self.laws.recurrent!r})"
        )


@public("networks.rnn")
def rnn(
    units: int,
    n_in: int,
    n_out: int,
    cell: str = "vanilla",
    *,
    activation: str | Activation | Callable[[Array], Array] = "tanh",
    scheme: str = "orthogonal",
    sigma_w: PerGate = 1.0,
    sigma_v: PerGate = 1.0,
    sigma_b: PerGate = 0.0,
    gate_bias: GateBias = 0.0,
    length: int = _STEPS,
) -> Rnn:
    """Build a recurrent network that reads a sequence and returns one vector.

    x is a sequence (steps, n_in) of any length. All states start at 0, the same weights
    act in every step, and the output is a linear readout of the last h. With s the
    logistic function, phi the activation, * entry by entry, the cells are

    - "vanilla": h' = phi(W h + V x + b), one gate, "state".
    - "minimal": h' = u * h + (1 - u) * z; u = s(W h + V z + b) is "update", and z =
      phi(V x + b), "candidate", reads x alone (Chen, 2017).
    - "gru": h' = u * h + (1 - u) * g; u and r, "update" and "reset", are s(W h + V x +
      b), and g = phi(W (r * h) + V x + b) is "candidate". The reset acts before the
      matrix (Cho et al., 2014), in torch and cuDNN behind it.
    - "lstm": c' = f * c + i * g, h' = o * phi(c'); i, f and o, "input", "forget" and
      "output", are s(W h + V x + b), and g = phi(W h + V x + b) is "cell".

    The point `h@t` is the state h after step t, counted from 0, and `c@t` the c of an
    LSTM: `span=("h@2", "h@7")` is the Jacobian of five steps. A perturbation of `h@2`
    reaches later states through all gates; the c of an LSTM is a state of its own, and
    is not perturbed with it. Weights are "update/recurrent", "update/input", ... and
    "head".

    Args:
        units: The number of units, the size of h.
        n_in: The size of one input.
        n_out: The size of the output.
        cell: "vanilla", "minimal", "gru" or "lstm".
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`: phi in the equations.
        scheme: The law of the recurrent weights W. "orthogonal": Haar, every singular
            value sigma_w. "gaussian": variance sigma_w**2 / units. "identity": sigma_w
            times the identity; with cell="vanilla" and activation="relu" the IRNN (Le,
            Jaitly and Hinton, 2015). With "orthogonal" the readout is orthogonal too,
            otherwise Gaussian of variance 1 / units. For all other schemes write
            `networks.rnn(...).with_scheme(name)`.
        sigma_w: The scale of recurrent weights: a number for all gates, or a mapping
            from names of gates to numbers. The scale of a gate that it does not name is
            1.
        sigma_v: The scale of the input weights V, likewise. They are Gaussian of
            variance sigma_v**2 / fan_in.
        sigma_b: The standard deviation of the biases, likewise; 0 for a gate that a
            mapping does not name.
        gate_bias: The mean of the biases. A number is for all gates with a logistic
            function (u, r, i, f, o), and a mapping for the gates that it names; all
            other means are 0. `networks.chrono(longest)` draws biases for memories of
            different lengths.
        length: The number of steps in `net.example`, and so in `net.anatomy`, which has
            points for each step. The network takes any number of steps.

    Returns:
        A network.

    Raises:
        InputError: An argument is not of this form, or a mapping names a gate that this
            cell does not have.

    Example:
        >>> net = networks.rnn(16, 3, 2, activation="linear")
        >>> params = net.init(jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (10, 3))
        >>> sp = isometry.spectrum(net, params, x, span=("h@2", "h@7"))
        >>> bool(jnp.allclose(sp.values, 1.0, atol=1e-5))
        True

        The forget gate of an LSTM stays open at first:

        >>> net = networks.rnn(16, 3, 2, cell="lstm", gate_bias={"forget": 1.0})
        >>> float(net.init(jax.random.key(0))["forget"]["b"][0])
        1.0
    """
    sizes = {"units": units, "n_in": n_in, "n_out": n_out, "length": length}
    for name, size in sizes.items():
        checks.integer(name, size, low=1)
    kind = checks.one_of("cell", cell, CELLS)
    phi = _arguments.elementwise(activation)
    if scheme not in _gate_laws.RECURRENT:
        known = ", ".join(_gate_laws.RECURRENT)
        raise InputError(
            f"scheme={checks.show(scheme)} is no law of recurrent weights ({known}); "
            f"write networks.rnn(...).with_scheme({checks.show(scheme)}), and for "
            "chrono gate_bias=networks.chrono(longest)."
        )
    # For each argument, a mapping may name only the gates that have such a weight.
    equations = CELLS[kind]
    laws = GateLaws(
        recurrent=scheme,
        sigma_w=_gate_laws.per_gate(
            "sigma_w", sigma_w, equations.recurrent, default=1.0
        ),
        sigma_v=_gate_laws.per_gate("sigma_v", sigma_v, equations.gates, default=1.0),
        sigma_b=_gate_laws.per_gate("sigma_b", sigma_b, equations.gates, default=0.0),
        gate_bias=_gate_laws.gate_biases(gate_bias, equations, kind),
    )
    dtype = checks.float_dtype(None)
    return Rnn(
        function=RnnFunction(kind, phi, int(units), n_in=int(n_in), n_out=int(n_out)),
        example=jax.ShapeDtypeStruct((int(length), int(n_in)), dtype),
        scheme=None,
        activation=phi,
        laws=laws,
        dtype=dtype,
    )
