"""Fully connected networks: z_1 = W_1 x + b_1, z_l = W_l phi(z_(l-1)) + b_l."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from isometry import schemes
from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import Elementwise, Key, Params
from isometry.activations import Activation
from isometry.linalg import Factors
from isometry.networks import _arguments, _mlp_law, _mlp_signals
from isometry.networks._layered import (
    LayeredFunction,
    LayeredNetwork,
    WeightedLayer,
)
from isometry.networks._network import Phase
from isometry.records import Signals
from isometry.schemes import Layer, Scheme
from isometry.schemes._registry import SchemeLike
from isometry.schemes._scheme import draw, is_alike
from isometry.schemes._shaping import untransformed
from isometry.theory import Law, Moments


@dataclass(frozen=True)
class Run:
    """Consecutive layers of one shape and role. Their leaves are stacked, and scanned.

    Attributes:
        role: "stem", "hidden" or "head".
        start: The index of the first layer of the run in the network.
        length: The number of layers in the run.
        fan_in: The number of inputs of each layer.
        fan_out: The number of outputs of each layer.
    """

    role: str
    start: int
    length: int
    fan_in: int
    fan_out: int


# Compiled, because each of these operations would be a program of its own.
@functools.partial(jax.jit, static_argnums=1)
def _keys_of_runs(key: Key, lengths: tuple[int, ...]) -> list[tuple[Key, Key]]:
    """Split a key into those of runs: of each layer one for w, and of each one for b.

    Args:
        key: The key of the network.
        lengths: The number of layers of each run.
    """
    depth = sum(lengths)
    # Splitting into a vector of keys and reshaping compiles in half the time of
    # splitting into shape (depth, 2).
    keys = jax.random.split(key, 2 * depth)
    keys = keys.reshape(depth, 2, *key.shape)
    runs = []
    for length in lengths:
        of_run = keys[:length]
        runs.append((of_run[:, 0], of_run[:, 1]))
        keys = keys[length:]
    return runs


def runs_of(widths: tuple[int, ...]) -> tuple[Run, ...]:
    """Divide the layers of an MLP into runs.

    Args:
        widths: (n_in, hidden ..., n_out).
    """
    depth = len(widths) - 1
    # Schemes give stem and head other initializers, so they are runs of their own even
    # where their widths equal those of hidden layers.
    roles = ["hidden"] * depth
    roles[0] = "stem"
    roles[-1] = "head"
    runs = []
    start = 0
    # Only neighbours can be stacked: the layers of a run are scanned one after another.
    shapes = zip(roles, widths[:-1], widths[1:], strict=True)
    for (role, fan_in, fan_out), group in itertools.groupby(shapes):
        length = len(list(group))
        run = Run(
            role,
            start,
            length,
            fan_in=fan_in,
            fan_out=fan_out,
        )
        runs.append(run)
        start += length
    return tuple(runs)


@dataclass(frozen=True)
class MlpFunction(LayeredFunction):
    """The map (params, x) -> output of an MLP.

    Runs are scanned, so that compile time does not grow with depth.

    Attributes:
        widths: (n_in, hidden ..., n_out).
        activation: The activation of the hidden layers.
    """

    widths: tuple[int, ...]
    activation: Activation

    @property
    def depth(self) -> int:
        return len(self.widths) - 1

    @property
    def pairs(self) -> int:
        return self.depth - 2

    @property
    def shares_matrices(self) -> bool:
        return True

    @property
    def has_dead_slopes(self) -> bool:
        # Only an activation with kinks, such as relu, has a derivative of 0 on an
        # interval.
        return bool(self.activation.kinks) and self.depth > 1

    def check(self, params: Params, where: str = "params") -> None:
        given = _arguments.shapes_by_path(params)
        wanted = {}
        for i, run in enumerate(runs_of(self.widths)):
            path = f"['layers'][{i}]"
            wanted[f"{path}['w']"] = (run.length, run.fan_in, run.fan_out)
            # `bias` holds for all layers, so one bias means that all must be there.
            if any(name.endswith("['b']") for name in given):
                wanted[f"{path}['b']"] = (run.length, run.fan_out)
        _arguments.require_shapes(where, given, wanted)

    @public("mlp")
    def __call__(self, params: Params, x: Array) -> Array:
        z = self.stem(params, x)
        return self._through(params["layers"][1:], z)

    def stem(self, params: Params, x: Array) -> Array:
        first = _first_layer(params["layers"][0])
        x = _arguments.one_example(x, self.widths[:1], first["w"].dtype)
        return _affine(first, x)

    def hidden(self, params: Params, z: Array) -> Array:
        return self._through(params["layers"][1:-1], z)

    def pre_activations(self, params: Params, x: Array) -> list[Array]:
        z = self.stem(params, x)
        # The only layer of a network of depth 1 is its head.
        if self.depth == 1:
            return []
        values = [z]
        for run in params["layers"][1:-1]:
            z, zs_of_run = self._run(run, z)
            values.extend(zs_of_run)
        return values

    def factors(self, params: Params, x: Array, span: str) -> list[Factors]:
        runs = params["layers"]
        z = self.stem(params, x)
        head = Factors(runs[-1]["w"].mT)
        # A single layer has no activation behind it.
        if self.depth == 1:
            return [head]
        h, slope = self._activated(z)
        slopes = [slope[None]]
        for run in runs[1:-1]:
            h, slopes_of_run = self._run_activated(run, h)
            slopes.append(slopes_of_run)

        hidden = []
        for run, slope in zip(runs[1:-1], slopes[1:], strict=True):
            matrix = run["w"].mT
            hidden.append(Factors(matrix, slope))
        if span == "hidden":
            # The span ends at z_(depth-1), in front of the last activation, so the last
            # slopes are replaced by 1.
            matrix, scale = hidden.pop()
            assert scale is not None, "every layer but the last has slopes"
            hidden.append(Factors(matrix, scale.at[-1].set(1)))
            return [Factors(None, slopes[0]), *hidden]
        matrix = runs[0]["w"].mT
        stem = Factors(matrix, slopes[0])
        return [stem, *hidden, head]

    def weights(self, params: Params) -> tuple[Array, ...]:
        """Return the weights of each run, of shape (*seeds, length, in, out)."""
        return tuple(run["w"] for run in params["layers"])

    def _through(self, runs: Sequence[Params], z: Array) -> Array:
        """Return the pre-activation behind several runs; z is the one before them."""
        for run in runs:
            z, _ = self._run(run, z)
        return z

    def _run(
        self, run: Params, z: Array
    ) -> tuple[Array, Float[Array, "length fan_out"]]:
        """Return the last pre-activation of a run, and the stack of all of them.

        Args:
            run: The stacked weights and biases of the run.
            z: The pre-activation before the run.
        """

        def step(z: Array, layer: Params) -> tuple[Array, Array]:
            z = _affine(layer, self.activation(z))
            return z, z

        return _in_turn(step, z, run)

    def _run_activated(
        self, run: Params, h: Array
    ) -> tuple[Array, Float[Array, "length fan_out"]]:
        """Return the last activation of a run, and the stack of all slopes phi'(z).

        Args:
            run: The stacked weights and biases of the run.
            h: The activation before the run.
        """

        # One scan returns both. Slopes that are computed from the pre-activations of
        # `_run` would take 50 ms more to compile.
        def step(h: Array, layer: Params) -> tuple[Array, Array]:
            return self._activated(_affine(layer, h))

        return _in_turn(step, h, run)

    def _activated(self, z: Array) -> tuple[Array, Array]:
        """Return phi(z) and phi'(z)."""
        # The derivative of relu at NaN is 0. NaN is kept, because a signal that has
        # overflowed would otherwise be taken for inactive units.
        slope = jnp.where(jnp.isnan(z), jnp.nan, self.activation.slope(z))
        return self.activation(z), slope


def _in_turn(
    step: Callable[[Array, Params], tuple[Array, Array]],
    state: Array,
    run: Params,
) -> tuple[Array, Float[Array, "length fan_out"]]:
    """Apply the layers of a run one after another.

    Args:
        step: `step(state, layer)` returns the next state and a result.
        state: The state before the first layer.
        run: The stacked weights and biases of the run.

    Returns:
        The last state, and the results of all layers along a first axis.
    """
    # Several layers of one shape in a row are square, so the state keeps its shape and
    # they can be scanned.
    if run["w"].shape[0] > 1:
        return jax.lax.scan(step, state, run)
    state, result = step(state, _first_layer(run))
    return state, result[None]


def _first_layer(run: Params) -> Params:
    """Return the weights and biases of the first layer of a run."""
    return jax.tree.map(lambda a: a[0], run)


def _affine(layer: Params, x: Array) -> Array:
    """Return W x + b; W x if the layer has no bias."""
    y = x @ layer["w"]
    if "b" in layer:
        return y + layer["b"]
    return y


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Mlp(LayeredNetwork):
    """A fully connected network: what `mlp` returns.

    Attributes:
        function: The map (params, x) -> output alone.
        scheme: The scheme that draws the parameters, with its sigmas.
        activation: The activation of the hidden layers.
        bias: Whether layers have biases.
        dtype: The dtype of the parameters.
    """

    function: MlpFunction
    scheme: Scheme
    activation: Activation
    bias: bool
    dtype: np.dtype

    @property
    def widths(self) -> tuple[int, ...]:
        """(n_in, hidden ..., n_out)."""
        return self.function.widths

    @public("init")
    def init(self, key: Key) -> Params:
        """Draw the parameters.

        Each layer draws its weights and biases from two keys of its own, so they do not
        depend on how layers are grouped in runs.

        Args:
            key: A random key. It may be traced.

        Returns:
            {"layers": (run, ...)}. A run is the stack of r consecutive layers of one
            shape and role, {"w": (r, in, out), "b": (r, out)}.

        Raises:
            InputError: `key` is no random key.

        Example:
            >>> net = networks.mlp([4, 8, 8, 8, 3], "tanh", bias=False)
            >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0))["layers"])
            ({'w': (1, 4, 8)}, {'w': (2, 8, 8)}, {'w': (1, 8, 3)})
        """
        checks.key("key", key)
        runs = runs_of(self.widths)
        lengths = tuple(run.length for run in runs)
        keys = _keys_of_runs(key, lengths)
        layers = []
        for run, keys_of_run in zip(runs, keys, strict=True):
            layers.append(self._draw(run, keys_of_run))
        return {"layers": tuple(layers)}

    def _draw(self, run: Run, keys: tuple[Key, Key]) -> Params:
        """Draw the stacked weights and biases of a run.

        Args:
            run: The run.
            keys: Of each layer a key for w, and of each a key for b.
        """
        layers = self._layers_of(run)
        # Most schemes give all layers of a run the same initializer, so one vmapped
        # draw serves all.
        if is_alike(self.scheme, layers[0]):
            draw_one = functools.partial(self._draw_layer, layers[0])
            return jax.vmap(draw_one)(*keys)
        drawn = []
        for layer, key_w, key_b in zip(layers, *keys, strict=True):
            of_layer = self._draw_layer(layer, key_w, key_b)
            drawn.append(of_layer)
        return jax.tree.map(lambda *arrays: jnp.stack(arrays), *drawn)

    def _draw_layer(self, layer: Layer, key_w: Key, key_b: Key) -> Params:
        """Draw the weight of a layer from the first key, its bias from the second."""
        init_w = self.scheme.initializer(layer)
        shape = (layer.fan_in, layer.fan_out)
        weight = draw(init_w, key_w, shape, dtype=self.dtype)
        drawn = {"w": weight}
        if self.bias:
            init_b = self.scheme.bias_initializer(layer)
            shape = (layer.fan_out,)
            bias = init_b(key_b, shape, self.dtype)
            drawn["b"] = bias
        return drawn

    @property
    def hidden_activations(self) -> tuple[Activation, ...]:
        """The activation, once for each hidden layer."""
        return (self.activation,) * (self.depth - 1)

    @property
    def plan(self) -> tuple[Layer, ...]:
        """The layers without their arrays, first to last."""
        layers = []
        for run in runs_of(self.widths):
            layers += self._layers_of(run)
        return tuple(layers)

    def _layers_of(self, run: Run) -> list[Layer]:
        """Return what a scheme is told of each layer of a run."""
        number = runs_of(self.widths).index(run)
        # As in the anatomy: no other function has a name there, and the identity is
        # none.
        hidden = None
        if self.activation.named and self.activation.name != "linear":
            hidden = self.activation.name
        # The first layer has no function before it, and the last none behind it.
        functions = [None, *[hidden] * (self.depth - 1), None]
        return [
            Layer(
                role=run.role,
                index=index,
                depth=self.depth,
                fan_in=run.fan_in,
                fan_out=run.fan_out,
                name=f"layers/{number}",
                follows=functions[index + 1],
                precedes=functions[index],
            )
            for index in range(run.start, run.start + run.length)
        ]

    def layers(self, params: Params) -> Iterator[WeightedLayer]:
        """Return the layers with their arrays, first to last."""
        runs = runs_of(self.widths)
        for run, stacked in zip(runs, params["layers"], strict=True):
            for i, layer in enumerate(self._layers_of(run)):
                w, b = stacked["w"][i], None
                if "b" in stacked:
                    b = stacked["b"][i]
                yield WeightedLayer(**vars(layer), w=w, b=b)

    def with_layers(self, params: Params, layers: Iterable[WeightedLayer]) -> Params:
        """Return params with the arrays of these layers, as `layers` lists them.

        Raises:
            InputError: Another number of layers, or arrays of other shapes.
        """
        given = list(layers)
        changed = []
        runs = runs_of(self.widths)
        for run, old in zip(runs, params["layers"], strict=True):
            end = run.start + run.length
            layers_of_run = given[run.start : end]
            new = {}
            for name, stacked in old.items():
                arrays = [getattr(layer, name) for layer in layers_of_run]
                shapes = [jnp.shape(array) for array in arrays]
                # If there are too few layers, the list of shapes is too short.
                wanted = [stacked.shape[1:]] * run.length
                if shapes != wanted:
                    raise InputError(
                        f"layers from {run.start} on have {name} of shapes {shapes}; "
                        f"the network has {run.length} of {run.fan_in}×{run.fan_out}."
                    )
                array = jnp.stack(arrays)
                new[name] = array.astype(stacked.dtype)
            changed.append(new)
        if len(given) != self.depth:
            raise InputError(
                f"layers holds {len(given)} layers, and the network has {self.depth}."
            )
        return {"layers": tuple(changed)}

    @public("with_scheme")
    def with_scheme(
        self,
        scheme: SchemeLike,
        sigma_w: float | None = None,
        sigma_b: float | None = None,
    ) -> "Mlp":
        """Return a copy of the network that draws its weights by another scheme.

        Args:
            scheme: A name, an initializer or a `Scheme`, as for `schemes.get`.
            sigma_w: The scale of the weights, if the scheme leaves it to the user. None
                takes the scale that is critical for the activation.
            sigma_b: The standard deviation of the biases, likewise. None is 0.

        Returns:
            The copy.

        Raises:
            InputError: An unknown name; a sigma for a scheme that fixes its own scale.
            NotDefined: The scheme has no meaning for a layer.
        """
        return mlp(
            self.widths,
            # The schemes dks and tat replace the activation. Another scheme gets the
            # activation that the user gave.
            untransformed(self.activation),
            scheme,
            sigma_w=sigma_w,
            sigma_b=sigma_b,
            bias=self.bias,
            dtype=self.dtype,
        )

    def with_width(self, width: int) -> "Mlp":
        """Return a copy of the network with another width of all hidden layers.

        Args:
            width: The width of all hidden layers.

        Returns:
            The copy, with the same scheme and the same sigmas.
        """
        checks.integer("width", width, low=1)
        # A network of one layer has no hidden width.
        hidden = [int(width)] * (self.depth - 1)
        widths = (self.widths[0], *hidden, self.widths[-1])
        function = dataclasses.replace(self.function, widths=widths)
        # `mlp` would solve for the scale of the scheme once more, so it is not called.
        net = dataclasses.replace(self, function=function)
        # A scheme that does not fit the new shapes says so now.
        _ = net.shapes
        return net

    @public("law")
    def law(self, span: str, xs: ArrayLike) -> Law:
        """Predict the law of the singular values over a span, at infinite width.

        Widths may differ from layer to layer. The variance of the first
        pre-activations is q_1 = sigma_w² |x|²/n + sigma_b², with the mean of |x|² over
        xs. The variances of later layers follow from the variance map. If all inputs
        have one norm (`data.normalize`), the law is that of each input.

        Args:
            span: "hidden", of which most theory speaks, or "end_to_end".
            xs: Inputs along a first axis.

        Returns:
            The law.

        Raises:
            NotDefined: No law is known for the scheme; all xs are zero, and the
                activation has a kink there.
            InputError: An unknown span; "hidden" of fewer than three layers; xs of
                another shape.

        Example:
            >>> net = networks.mlp([8, 8, 8, 8], "linear", "orthogonal", sigma_w=0.5)
            >>> round(net.law("end_to_end", jnp.ones((1, 8))).moment(1), 6)
            0.015625
        """
        checks.on_host("xs", xs)
        checks.examples("xs", xs, self.widths[:1])
        # Without biases their variance is 0, whatever sigma_b the scheme has.
        sigma_b = self.scheme.sigma_b if self.bias else 0.0
        return _mlp_law.law(
            self.activation,
            self.scheme,
            self.plan,
            sigma_b=sigma_b,
            span=span,
            xs=xs,
        )

    @public("moments")
    def moments(self, span: str, xs: ArrayLike) -> Moments:
        """Return mean and variance of lam = s² over a span: those of its law.

        Args:
            span: "hidden" or "end_to_end".
            xs: Inputs along a first axis.

        Returns:
            `theory.Moments`: the mean and the variance.

        Raises:
            NotDefined: No law is known for the scheme.
            InputError: What `law` refuses.

        Example:
            >>> net = networks.mlp([8, 8, 8, 8], "linear", "gaussian", sigma_w=1.0)
            >>> mean, variance = net.moments("hidden", jnp.ones((1, 8)))
            >>> round(mean, 4), round(variance, 4)
            (1.0, 1.0)
        """
        law = self.law(span, xs)
        return Moments(mean=law.moment(1), variance=law.variance)

    @public("mean_field")
    def mean_field(self, xs: ArrayLike) -> Signals:
        """Predict what `isometry.signals` measures, at infinite width.

        The products of all pairs of inputs, those of xs themselves at first, follow
        from layer to layer, with biases, any widths, and inputs of any length. apjn is
        that of the whole network, from each point to the output; gradient is its mean
        over random losses.

        Args:
            xs: Inputs along a first axis.

        Returns:
            The predicted signals, of shape (1, inputs, points): one row for all seeds.

        Raises:
            NotDefined: No law is known for the scheme; the activation jumps.
            InputError: xs of another shape.

        Example:
            >>> net = networks.mlp([8, 64, 64, 2], "tanh", "gaussian", sigma_w=1.5)
            >>> sig = net.mean_field(jnp.ones((1, 8)))
            >>> [round(float(q), 4) for q in sig.q[0, 0, 1:]]
            [2.25, 0.5406, 1.2165, 0.4301, 0.9676]
        """
        checks.on_host("xs", xs)
        checks.examples("xs", xs, self.widths[:1])
        return _mlp_signals.mean_field(self, xs)

    @property
    def phase(self) -> Phase | None:
        """The phase by mean-field theory; None where no single chi_1 is known.

        Example:
            >>> net = networks.mlp([8, 8, 8, 8], "tanh", "gaussian", sigma_w=1.5)
            >>> net.phase.name
            'chaotic'
        """
        return _mlp_law.phase(
            self.activation,
            self.scheme,
            self.plan,
            sigma_b=self.scheme.sigma_b if self.bias else 0.0,
        )

    def __repr__(self) -> str:
        return (
            f"mlp({list(self.widths)}, activation={self.activation.name!r}, "
            f"scheme={self.scheme!r}, bias={self.bias})"
        )


@public("mlp")
def mlp(  # noqa: PLR0917 (as it has always been)
    widths: Sequence[int],
    activation: str | Activation | Elementwise = "tanh",
    scheme: SchemeLike = "orthogonal",
    sigma_w: float | None = None,
    sigma_b: float | None = None,
    bias: bool = True,
    dtype: DTypeLike | None = None,
) -> Mlp:
    """Build a fully connected network. Nothing is drawn yet.

    z_1 = W_1 x + b_1, z_l = W_l phi(z_(l-1)) + b_l, and the last layer is linear.
    `net.depth` counts the weight layers: len(widths) - 1.

    Args:
        widths: [n_in, hidden ..., n_out], each at least 1.
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        scheme: A scheme's name, an initializer's that needs no arguments, an
            initializer, or a `Scheme`.
        sigma_w: The scale of the weights, if the scheme leaves it to the user. Gaussian
            weights have variance sigma_w²/fan_in, orthogonal weights all singular
            values sigma_w. None takes the scale that is critical for the activation.
        sigma_b: The standard deviation of the biases, likewise. None is 0.
        bias: Whether there are biases at all. Without them sigma_b must be 0 or None.
        dtype: The dtype of the parameters and of the arithmetic. None is JAX's default.

    Returns:
        The network.

    Raises:
        InputError: Fewer than two widths, or one below 1; an unknown name; a scheme
            that is not defined for these shapes; a sigma for a scheme with a scale of
            its own; an activation that is not elementwise.
        NoCriticalPoint: The activation has none.

    Example:
        >>> net = networks.mlp([4, 16, 16, 2], "relu", "kaiming")
        >>> params = net.init(jax.random.key(0))
        >>> net(params, jnp.ones(4)).shape
        (2,)
    """
    try:
        sizes = tuple(widths)
    except TypeError:
        raise InputError(
            f"widths={checks.show(widths)} is not a sequence; write [64, 128, 10]."
        ) from None
    if len(sizes) < 2:
        raise InputError(
            f"widths={list(sizes)} has {len(sizes)}; write [n_in, hidden ..., n_out]."
        )
    # The message names the entry, because lists of widths are often computed.
    for i, width in enumerate(sizes):
        checks.integer(f"widths[{i}]", width, low=1)
    phi = _arguments.elementwise(activation)
    if sigma_b is not None:
        checks.number("sigma_b", sigma_b, low=0.0)
    _arguments.require_bias(sigma_b, bias=bias)
    kind = checks.float_dtype(dtype)
    # The repr would print NumPy's integers as np.int64(8).
    sizes = tuple(int(size) for size in sizes)
    # Some schemes put another activation in the place of this one.
    num_activations = len(sizes) - 2
    phi, chosen = schemes.transformed(scheme, phi, num_activations)
    net = Mlp(
        function=MlpFunction(sizes, phi),
        example=jax.ShapeDtypeStruct(sizes[:1], kind),
        scheme=schemes.resolve(chosen, phi, sigma_w, sigma_b=sigma_b),
        activation=phi,
        bias=_arguments.boolean("bias", bias),
        dtype=kind,
    )
    # A scheme that does not fit these shapes says so now, and not at the first draw.
    _ = net.shapes
    return net
