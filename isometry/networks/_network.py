"""What every network offers: parameters to draw, a call, and its anatomy."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from isometry import schemes
from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, SameInTraining, public
from isometry._internal.types import Key, Params
from isometry.activations import Activation
from isometry.networks import _arguments
from isometry.records import Signals
from isometry.schemes import Assignment, Scheme
from isometry.schemes._registry import SchemeLike
from isometry.structure import Anatomy, anatomy
from isometry.theory import Law, Moments

if TYPE_CHECKING:
    from isometry.measure._gains import Calibrated
    from isometry.measure._spans import Span

# The spans that have names. Every other span is two points of the anatomy.
SPANS = ("end_to_end", "hidden")


class Phase(NamedTuple):
    """What mean-field theory says of signals in a deep network.

    Attributes:
        name: "ordered", "critical" or "chaotic".
        chi_1: The factor by which a squared gradient grows in a layer.
        q: The variance of the pre-activations at its fixed point.
        sigma_w: The scale of the weights, by which the variance is mapped.
        sigma_b: The standard deviation of the biases.
    """

    name: str
    chi_1: float
    q: float
    sigma_w: float
    sigma_b: float


class Function(Protocol):
    """The function of a network: f(params, x) is the output for one example x."""

    def __call__(self, params: Params, x: PyTree, /) -> PyTree: ...


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Network:
    """A function f(params, x), a way to draw its parameters, and its anatomy.

    Each kind of network is a subclass with an `init` of its own. Depth, layers and
    branches are read off the anatomy.

    Attributes:
        function: The map (params, x) -> output for one example x. It holds no
            parameters and is hashable: networks of one architecture have equal
            functions, and share compiled programs.
        example: The shape and dtype of one x: a `jax.ShapeDtypeStruct`, or a tree of
            them. None if any x will do.
        scheme: The scheme that chooses the initializer of each weight. None if the
            model's own code draws the parameters.
        activation: The activation of all hidden layers. None if they have several, or
            it is not known.
        mode: "inference", or "training" if x is a whole batch with its random keys.
        sigma_w: The scale of the weights as the user gave it. None takes the
            scale that is critical for the activation of each layer, if the scheme does
            not fix its own.
        sigma_b: The standard deviation of the biases as the user gave it. None is 0.

    Example:
        >>> net = networks.mlp([3, 8, 2], "tanh")
        >>> params = net.init(jax.random.key(0))
        >>> net(params, jnp.ones(3)).shape, net.depth, net.mode
        ((2,), 2, 'inference')
    """

    function: Function
    example: PyTree
    scheme: Scheme | None
    activation: Activation | None
    mode: str = "inference"
    sigma_w: float | None = None
    sigma_b: float | None = None

    def init(self, key: Key) -> Params:
        """Draw the parameters.

        A data-driven scheme (lsuv, admin) adjusts them to inputs afterwards, by
        `adjust`, which `ensemble` and `audit` call.

        Args:
            key: A random key. It may be traced.

        Returns:
            The parameters, a tree of arrays.

        Example:
            >>> net = networks.mlp([3, 8, 2], "tanh", bias=False)
            >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0)))
            {'layers': ({'w': (1, 3, 8)}, {'w': (1, 8, 2)})}
        """
        raise NotImplementedError(f"{type(self).__name__} must define init.")

    def skeleton(self, key: Key) -> Params:
        """Return the parameters that a scheme starts from, before it draws any.

        Args:
            key: A random key. It is used if the model's own code draws the parameters.

        Returns:
            The whole tree of parameters. A scheme then replaces the weights.

        Example:
            >>> net = networks.mlp([3, 2], "tanh")
            >>> jax.tree.map(jnp.shape, net.skeleton(jax.random.key(0)))
            {'layers': ({'b': (1, 2), 'w': (1, 3, 2)},)}
        """
        return self.init(key)

    def completed(self, key: Key, params: Params) -> Params:
        """Return params with the initial state that belongs to their weights.

        `init` calls it after a scheme has replaced the weights. Most models have no
        state, or one that does not depend on the weights, and params are returned as
        they are. The averages in Haiku's batch norm do depend on them.

        Args:
            key: The key from which the parameters were drawn.
            params: Parameters with the scheme's weights, and the state from before.

        Returns:
            The parameters with the state of these weights.

        Example:
            >>> net = networks.mlp([3, 2], "tanh")
            >>> params = net.init(jax.random.key(0))
            >>> net.completed(jax.random.key(0), params) is params
            True
        """
        del key
        return params

    def __call__(self, params: Params, x: PyTree) -> PyTree:
        self._require_params(params)
        return self.function(params, x)

    def _require_params(self, params: Params) -> None:
        """Refuse parameters that are not those of this network.

        Raises:
            InputError: A leaf is missing, is not of the network, or has another shape.
        """
        # Of a network that the model's own code draws, only that code knows what it
        # takes.

    # The properties below need shapes alone: no parameters are drawn for them.

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of x; None if x is a tree of arrays, or if any x will do.

        Example:
            >>> networks.cnn([3, 8], (6, 6)).input_shape
            (6, 6, 3)
        """
        # A tree has no attribute `shape`, and None has none either.
        return getattr(self.example, "shape", None)

    @property
    def any_size(self) -> bool:
        """Whether x may have another shape than the example, as a sequence may.

        The function itself then refuses shapes that it does not take.

        Example:
            >>> networks.mlp([3, 8, 2]).any_size
            False
        """
        return False

    @functools.cached_property
    def shapes(self) -> Params:
        """The parameters with a `jax.ShapeDtypeStruct` in place of each array.

        Example:
            >>> net = networks.mlp([3, 2], "tanh", bias=False)
            >>> net.shapes["layers"][0]["w"]
            ShapeDtypeStruct(shape=(1, 3, 2), dtype=float32)
        """
        # `init` would not do: its scheme asks for these shapes. A skeleton has all
        # leaves without a scheme.
        return jax.eval_shape(self.skeleton, jax.random.key(0))

    @functools.cached_property
    def anatomy(self) -> Anatomy:
        """What the network is made of, as `isometry.anatomy` reads it from shapes.

        Raises:
            InputError: The shape of x is not known.

        Example:
            >>> net = networks.mlp([3, 8, 2], "tanh")
            >>> [layer.name for layer in net.anatomy.layers]
            ['layers/0', 'layers/1']
        """
        if self.example is None:
            raise InputError(
                f"anatomy: {checks.show(self)} begins with a plain function, whose "
                "input has no known shape; write isometry.anatomy(net, params, x)."
            )
        # `self` and not `self.function`, so that a subclass whose `__call__` does more
        # is read as the user calls it.
        return anatomy(self, self.shapes, self.example)

    @property
    def depth(self) -> int:
        """The number of weight layers on the longest path.

        Example:
            >>> networks.mlp([3, 8, 8, 2], "tanh").depth
            3
        """
        return self.anatomy.depth

    @functools.cached_property
    def assignment(self) -> Assignment | None:
        """A table of what the scheme does with each leaf of the parameters.

        None if the network has no scheme.

        Raises:
            NotDefined: The scheme has no meaning for a layer.

        Example:
            >>> net = networks.cnn([3, 8], (6,), bias=False)
            >>> [(row.name, row.initializer) for row in net.assignment.rows]
            [('layers/0', 'delta_orthogonal(gain=1.0)')]
        """
        if self.scheme is None:
            return None
        # Cached, because it reads the anatomy layer by layer, and `init` is called once
        # for each seed.
        return schemes.assign(
            self.scheme,
            self.anatomy,
            self.shapes,
            sigma_w=self.sigma_w,
            sigma_b=self.sigma_b,
            activations=self.layer_activations,
        )

    @property
    def layer_activations(self) -> Mapping[str, Activation]:
        """The activation in front of or behind a layer, by the name of the layer.

        The critical scale of a layer is that of its activation. Only layers are listed
        whose activation is an argument of the network; the activations of all others
        are read off the anatomy.

        Example:
            >>> net = networks.cnn([3, 8, 8], (6,), activation="relu")
            >>> sorted(net.layer_activations)
            ['layers/0', 'layers/1']
        """
        return {}

    @property
    def data_driven(self) -> bool:
        """Whether `adjust` changes the parameters.

        Example:
            >>> networks.mlp([3, 8, 2], "relu", "lsuv").data_driven
            True
        """
        return self.scheme is not None and self.scheme.data_driven

    @public("adjust")
    def adjust(self, params: Params, xs: PyTree[Array]) -> Params:
        """Adjust parameters to inputs, if the scheme is data-driven (lsuv, admin).

        Runs on the host.

        Args:
            params: What `init` draws.
            xs: Inputs along a first axis.

        Returns:
            The adjusted parameters; with any other scheme, `params` themselves.

        Raises:
            InputError: xs are not finite rows of the network's input; the scheme cannot
                adjust the network.

        Example:
            >>> net = networks.mlp([3, 8, 2], "tanh", "lsuv", bias=False)
            >>> xs = data.gaussian(jax.random.key(0), 16, 3).xs
            >>> params = net.adjust(net.init(jax.random.key(1)), xs)
            >>> outputs = jax.vmap(net, (None, 0))(params, xs)
            >>> round(float(outputs.std()), 3)
            1.0
        """
        # Without a scheme, the model's own code draws the parameters, and nothing
        # adjusts them.
        if self.scheme is None:
            return params
        return self.scheme.adjust(self, params, xs)

    @public("with_scheme")
    def with_scheme(
        self,
        scheme: SchemeLike,
        sigma_w: float | None = None,
        sigma_b: float | None = None,
    ) -> "Network":
        """Return a copy of the network that draws its weights by another scheme.

        The function is the same, and so are its compiled programs. `init` of the copy
        draws new weights; `assignment.table()` lists how it draws each leaf.

        Args:
            scheme: A scheme's name, an initializer's that needs no arguments, an
                initializer, or a `Scheme`.
            sigma_w: The scale of the weights, if the scheme leaves it to the user, as
                gaussian and orthogonal do. None takes the scale that is critical
                for the activation after each layer.
            sigma_b: The standard deviation of the biases, likewise. None is 0.

        Returns:
            The copy.

        Raises:
            InputError: An unknown name; a sigma for a scheme that fixes its own scale.
            NotDefined: The scheme has no meaning for a layer, which the message names.

        Example:
            >>> net = networks.mlp([3, 8, 2], "tanh").with_scheme("kaiming")
            >>> net.scheme
            Scheme('kaiming')
        """
        redrawn = Redrawn(
            function=self.function,
            example=self.example,
            scheme=schemes.get(scheme),
            activation=self.activation,
            mode=self.mode,
            base=self,
            sigma_w=sigma_w,
            sigma_b=sigma_b,
        )
        # Refuse now, and not at the first draw, what the scheme cannot do.
        redrawn.require_assignment()
        return redrawn

    @public("with_schemes")
    def with_schemes(
        self, schemes: Sequence[SchemeLike] | Mapping[str, SchemeLike]
    ) -> dict[str, "Network"]:
        """Return one network for each scheme, as a dict that `isometry.audit` accepts.

        Args:
            schemes: Names, initializers or `Scheme` objects; or a mapping from labels
                to them.

        Returns:
            The networks by label. The default label of a scheme is its name.

        Raises:
            InputError: Two schemes share a label, or `with_scheme` refuses one of them.
            NotDefined: One of the schemes has no meaning for a layer.

        Example:
            >>> nets = networks.mlp([4, 4], "tanh").with_schemes(["kaiming", "zer_o"])
            >>> list(nets)
            ['kaiming', 'zer_o']
        """
        # Labels of the user's own are taken as they are.
        if isinstance(schemes, Mapping):
            return {label: self.with_scheme(one) for label, one in schemes.items()}
        # A string is a Sequence too, but would be taken letter by letter.
        if isinstance(schemes, str) or not isinstance(schemes, Sequence):
            raise InputError(
                f"schemes={checks.show(schemes)} is not a list of schemes; write "
                '["orthogonal", "kaiming"].'
            )
        if not schemes:
            raise InputError(
                'schemes is empty; write ["orthogonal", "kaiming"], for example.'
            )
        by_label: dict[str, Network] = {}
        for one in schemes:
            label = _label(one)
            # In the dict, the second would silently replace the first.
            if label in by_label:
                raise InputError(
                    f"schemes holds {label!r} twice; write a mapping from labels to "
                    "schemes."
                )
            by_label[label] = self.with_scheme(one)
        return by_label

    @public("calibrated")
    def calibrated(
        self,
        keys: Key,
        xs: PyTree[Array],
        span: "Span" = "end_to_end",
    ) -> "Calibrated":
        """Find one gain for each weight layer, such that E s² = 1 over a span.

        The mean is over keys, inputs and singular values. Each layer that every path
        through the span meets gets the gain with which E s² is 1 from the start of the
        span to this layer. If skips lead around all layers, the last layers of the
        branches share one gain. The network that is returned multiplies its weights by
        the gains as they are drawn; `.gains.table()` says what was changed, and why a
        layer was left alone. Runs on the host.

        Args:
            keys: One for each seed.
            xs: Inputs along a first axis.
            span: "end_to_end", "hidden", or two points, as in `isometry.spectrum`.

        Returns:
            The same network with gains.

        Raises:
            NotDefined: No gain brings E s² to 1: a norm behind each layer undoes its
                scale, the skips alone have more than 1, units saturate before, or
                weights are zero.
            InputError: What `isometry.profile` refuses.

        Warns:
            UserWarning: E s² = 1 is carried by few of the draws, so that other seeds
                may be far from it, or the gains make Jacobians exactly zero. `.gains`
                keeps the sentence, and its table shows it.

        Example:
            >>> net = networks.mlp([16, 16, 16, 16], "relu", "orthogonal", sigma_w=1.0)
            >>> keys = jax.random.split(jax.random.key(0), 8)
            >>> xs = data.gaussian(jax.random.key(1), 4, 16).xs
            >>> net = net.calibrated(keys, xs)
            >>> sp = isometry.ensemble(net, keys, xs)
            >>> round(float(sp.moment(1).mean()), 2)
            1.0
        """
        # Imported here, because isometry.measure itself imports isometry.networks.
        from isometry.measure._calibration import calibrate

        return calibrate(self, keys, xs, span=span)

    @property
    def training(self) -> "Network":
        """The network as it is trained: with a whole batch, and its random keys, as x.

        Raises:
            NotDefined: The network has no training mode of its own.

        Example:
            >>> import flax.linen as nn
            >>> networks.flax(nn.Dense(3), jnp.ones(4)).training.mode
            'training'
        """
        raise SameInTraining(
            f"training: {checks.show(self)} has no training mode: it computes the same "
            "in both, without dropout or statistics of a batch."
        )

    @property
    def phase(self) -> Phase | None:
        """The phase by mean-field theory; None where no single chi_1 is known.

        Example:
            >>> net = networks.resnet(8, 4)
            >>> net.phase is None
            True
        """
        return None

    def __repr__(self) -> str:
        # The function may be an object without a name; its class has one.
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return f"{type(self).__name__}({name})"

    @public("law")
    def law(self, span: str, xs: ArrayLike) -> Law:
        """Predict the law of the singular values over a span, at infinite width.

        `compare` and `plots.overlay` take it beside a measured spectrum.

        Args:
            span: "hidden", of which most theory speaks, or "end_to_end".
            xs: Inputs along a first axis, whose mean square sets the variance of the
                first pre-activations.

        Returns:
            The law.

        Raises:
            NotDefined: No law is known for this network or its scheme.
            InputError: An unknown span; xs of another shape.

        Example:
            >>> net = networks.mlp([8, 8, 8, 8], "linear", "orthogonal", sigma_w=0.5)
            >>> round(net.law("hidden", jnp.ones((1, 8))).moment(1), 4)
            0.25
        """
        raise NotDefined(
            "no law is known of this network: the law of a product needs the "
            "weights' ensemble and the pre-activations' variances of every layer, "
            "which only networks.mlp, cnn, resnet and rnn show."
        )

    @public("moments")
    def moments(self, span: str, xs: ArrayLike) -> Moments:
        """Predict mean and variance of s² over a span, at infinite width.

        s is a singular value of the Jacobian. For networks of which these two numbers
        are known, and not the whole law.

        Args:
            span: "hidden" or "end_to_end".
            xs: Inputs along a first axis.

        Returns:
            `theory.Moments`: the mean and the variance.

        Raises:
            NotDefined: They are not known for this network.

        Example:
            >>> net = networks.cnn([8, 8, 8, 8], (6,), sigma_w=0.5)
            >>> mean, variance = net.moments("hidden", jnp.zeros((1, 6, 8)))
            >>> round(mean, 4), round(variance, 4)
            (0.25, 0.0)
        """
        raise NotDefined(
            "no prediction is implemented for this network; isometry.ensemble(net, "
            "keys, xs) measures mean and variance of s²."
        )

    @public("mean_field")
    def mean_field(self, xs: ArrayLike) -> Signals:
        """Predict what `isometry.signals` measures, at infinite width.

        Args:
            xs: Inputs along a first axis.

        Returns:
            The predicted signals.

        Raises:
            NotDefined: No prediction is implemented for this network.

        Example:
            >>> net = networks.cnn([8, 8, 8], (6,), sigma_w=0.5)
            >>> sig = net.mean_field(jnp.ones((1, 6, 8)))
            >>> float(sig.at("layers/0").q[0, 0])
            0.25
        """
        raise NotDefined(
            "no prediction is implemented for this network; isometry.signals(net, "
            "keys, xs) measures the signals."
        )


def _label(scheme: SchemeLike) -> str:
    """Return the default label of a scheme: its name, or the repr of an initializer."""
    if isinstance(scheme, str):
        return scheme
    if isinstance(scheme, Scheme):
        return scheme.name
    # The repr shows the arguments too, in which initializers of one name may differ.
    return repr(scheme)


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Built(Network):
    """The base of networks whose weights a scheme draws.

    `init` takes the parameters that `skeleton` returns, and replaces the weights as the
    scheme says. A subclass defines `skeleton`.

    Attributes:
        scheme: The scheme that draws the weights.

    Example:
        A gated layer as a network of one's own:

        >>> import dataclasses
        >>> @dataclasses.dataclass(frozen=True)
        ... class GatedFunction:
        ...     width: int
        ...
        ...     def __call__(self, params, x):
        ...         gate = jax.nn.sigmoid(x @ params["gate"])
        ...         return (gate * (x @ params["up"])) @ params["down"]
        >>> @dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
        ... class Gated(networks.Built):
        ...     def skeleton(self, key):
        ...         del key
        ...         shape = (self.function.width, self.function.width)
        ...         return {name: jnp.zeros(shape) for name in ("gate", "up", "down")}
        >>> net = Gated(
        ...     function=GatedFunction(8),
        ...     example=jnp.ones(8),
        ...     scheme=schemes.get("xavier"),
        ...     activation=None,
        ... )
        >>> params = net.init(jax.random.key(0))
        >>> net(params, jnp.ones(8)).shape, net.depth
        ((8,), 2)
    """

    scheme: Scheme

    def _require_params(self, params: Params) -> None:
        _arguments.require_like(params, self.shapes)

    def skeleton(self, key: Key) -> Params:
        """Return the parameters before a scheme draws: weights 0, scales of norms 1.

        Args:
            key: A random key, for leaves that no scheme sets.

        Returns:
            The whole tree of parameters.

        Example:
            >>> net = networks.cnn([3, 8], (6,))
            >>> jax.tree.map(jnp.shape, net.skeleton(jax.random.key(0)))
            {'layers': ({'b': (8,), 'w': (3, 3, 8)},)}
        """
        raise NotImplementedError(f"{type(self).__name__} must define skeleton.")

    @public("init")
    def init(self, key: Key) -> Params:
        """Draw the parameters by the scheme.

        Args:
            key: A random key. It may be traced.

        Returns:
            The parameters, a tree of arrays.

        Raises:
            InputError: `key` is no random key.

        Example:
            >>> net = networks.cnn([3, 8], (6,))
            >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0)))
            {'layers': ({'b': (8,), 'w': (3, 3, 8)},)}
        """
        checks.key("key", key)
        # Leaves that the scheme does not set stay as in the skeleton. If the model's
        # own code makes the skeleton, it draws them from this key, as its `init` would.
        return self.require_assignment().draw(key, self.skeleton(key))

    def require_assignment(self) -> Assignment:
        """Return what the scheme does with each leaf; raise if it cannot draw a layer.

        Returns:
            The table, as `assignment` has it.

        Raises:
            NotDefined: The scheme has no meaning for a layer.

        Example:
            >>> net = networks.cnn([3, 8], (6,))
            >>> [(row.name, row.role) for row in net.require_assignment().rows]
            [('layers/0', 'head'), ('layers/0', 'bias')]
        """
        assert self.assignment is not None, "these networks have a scheme"
        return self.assignment

    @public("with_scheme")
    def with_scheme(
        self,
        scheme: SchemeLike,
        sigma_w: float | None = None,
        sigma_b: float | None = None,
    ) -> "Built":
        """Return a copy of the network that draws its weights by another scheme.

        Args:
            scheme: A name, an initializer or a `Scheme`, as for `schemes.get`.
            sigma_w: The scale of the weights, if the scheme leaves it to the user. None
                takes the scale that is critical for the activation after each layer.
            sigma_b: The standard deviation of the biases, likewise. None is 0.

        Returns:
            The copy.

        Raises:
            InputError: An unknown name; a sigma for a scheme that fixes its own scale.
            NotDefined: The scheme has no meaning for a layer.

        Example:
            >>> networks.cnn([3, 8, 8], (6,)).with_scheme("kaiming").scheme
            Scheme('kaiming')
        """
        # `Network.with_scheme` returns a `Redrawn`. A copy keeps the class of the
        # network, and so its methods `law`, `moments` and `mean_field`.
        redrawn = dataclasses.replace(
            self,
            scheme=schemes.get(scheme),
            sigma_w=sigma_w,
            sigma_b=sigma_b,
        )
        # Refuse now, and not at the first draw, what the scheme cannot do.
        redrawn.require_assignment()
        return redrawn


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Wrapper(Network):
    """The base of networks with the function of another network, and another `init`.

    Attributes:
        base: The other network.
    """

    base: Network

    def _require_params(self, params: Params) -> None:
        self.base._require_params(params)

    @property
    def depth(self) -> int:
        """The number of weight layers on the longest path."""
        return self.base.depth

    @functools.cached_property
    def anatomy(self) -> Anatomy:
        """The anatomy of `base`, which has the same function."""
        return self.base.anatomy

    @property
    def any_size(self) -> bool:
        """Whether x may have another shape than the example."""
        return self.base.any_size

    @property
    def layer_activations(self) -> Mapping[str, Activation]:
        """The activations of `base`, by the names of layers."""
        return self.base.layer_activations

    def _with_base(self, base: Network) -> Self:
        """Return a copy of this wrapper around another network.

        Args:
            base: The network, such as the present base in training mode.
        """
        return dataclasses.replace(
            self,
            function=base.function,
            example=base.example,
            mode=base.mode,
            base=base,
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Redrawn(Wrapper, Built):
    """A network whose weights a scheme draws: what `Network.with_scheme` returns.

    All leaves that the scheme does not set are drawn by the model's own code.
    """

    def skeleton(self, key: Key) -> Params:
        """Return the parameters as the model's own code draws them."""
        return self.base.skeleton(key)

    @public("init")
    def init(self, key: Key) -> Params:
        """Draw the weights by the scheme, all other leaves by the model's own code.

        Args:
            key: A random key. It may be traced.

        Returns:
            The parameters, a tree of arrays.

        Raises:
            InputError: `key` is no random key.
        """
        drawn = super().init(key)
        # The state of a model, such as averages of its batch norms, may depend on the
        # weights that the scheme has just replaced.
        return self.base.completed(key, drawn)

    @property
    def training(self) -> "Network":
        """The network as it is trained, with the same parameters."""
        network = self._with_base(self.base.training)
        # Fill the cached property, so that both modes draw the same parameters. Scales
        # depend on what the anatomy shows around a layer, and in training mode it may
        # show something else.
        network.__dict__["assignment"] = self.assignment
        return network

    def __repr__(self) -> str:
        # The sigmas are shown as the user gave them, because a free scheme has another
        # scale in each layer.
        arguments = [repr(self.scheme.name)]
        for name in ("sigma_w", "sigma_b"):
            value = getattr(self, name)
            if value is not None:
                arguments.append(f"{name}={value!r}")
        return f"{self.base!r}.with_scheme({', '.join(arguments)})"
