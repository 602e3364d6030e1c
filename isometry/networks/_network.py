"""What every network offers: parameters to draw, a call, and its anatomy."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, Self

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, PyTree

from isometry import schemes
from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, public
from isometry._internal.types import Key, Params
from isometry.activations import Activation
from isometry.records import Signals
from isometry.schemes import Assignment, Scheme
from isometry.schemes._registry import SchemeLike
from isometry.structure import Anatomy, anatomy
from isometry.theory import Law

if TYPE_CHECKING:
    from isometry.measure._gains import Calibrated
    from isometry.measure._spans import Span

# The spans that have names. Every other span is two points of the anatomy.
SPANS = ("end_to_end", "hidden")


class Function(Protocol):
    """The function of a network, f(params, x) of one example x."""

    def __call__(self, params: Params, x: PyTree, /) -> PyTree: ...


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Network:
    """A function f(params, x), how its parameters are drawn, and what it is made of.

    A subclass is a frozen dataclass with these fields, which its factory fills in, and
    overrides `init`. Everything else is read off the anatomy.

    Attributes:
        function: The map (params, x) -> output for one example x. It is hashable, equal
            to the functions of networks of the same architecture, and holds no
            parameters: compiled programs are cached by it.
        example: One x: a `jax.ShapeDtypeStruct`, or a tree of them. None if any x will
            do.
        scheme: What chooses the initializers of the weights; None if the parameters are
            drawn as the model's own code draws them.
        activation: The one activation of all hidden layers; None where there are
            several, or none is known.
        mode: "inference", or "training" if x is a whole batch with its random keys.
        sigma_w: The scale of the weights that was asked for, of a scheme that leaves it
            free; None is critical.
        sigma_b: The standard deviation of the biases, likewise.

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
            key: A random key, which is used if the model draws them itself.

        Returns:
            All leaves of the parameters. A scheme then replaces the weights.

        Example:
            >>> net = networks.mlp([3, 2], "tanh")
            >>> jax.tree.map(jnp.shape, net.skeleton(jax.random.key(0)))
            {'layers': ({'b': (1, 2), 'w': (1, 3, 2)},)}
        """
        return self.init(key)

    def completed(self, key: Key, params: Params) -> Params:
        """Update the state in parameters whose weights a scheme has drawn.

        The initial state of most models does not depend on the weights, and the
        parameters are returned as they are. Haiku's batch norm starts from averages of
        a batch, which do.

        Args:
            key: The key from which the parameters were drawn.
            params: Parameters, whose state belongs to the weights before.

        Returns:
            The parameters.

        Example:
            >>> net = networks.mlp([3, 2], "tanh")
            >>> params = net.init(jax.random.key(0))
            >>> net.completed(jax.random.key(0), params) is params
            True
        """
        del key
        return params

    def __call__(self, params: Params, x: PyTree) -> PyTree:
        return self.function(params, x)

    # What follows is read off shapes: nothing is drawn, however large the network is.

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """The shape of x; None if x is a tree of arrays, or if any x will do."""
        # A tree has no attribute `shape`, and None has none either.
        return getattr(self.example, "shape", None)

    @property
    def any_size(self) -> bool:
        """Whether x may be larger or smaller than the example, as sequences may be.

        The function itself then refuses what it does not take.
        """
        return False

    @functools.cached_property
    def shapes(self) -> Params:
        """The shapes of the parameters. Nothing is drawn."""
        # `init` would not do: its scheme asks for these shapes. A skeleton has all
        # leaves without a scheme.
        return jax.eval_shape(self.skeleton, jax.random.key(0))

    @functools.cached_property
    def anatomy(self) -> Anatomy:
        """What the network is made of, read from shapes alone: `isometry.anatomy`."""
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
        """The number of weight layers on the longest path."""
        return self.anatomy.depth

    @functools.cached_property
    def assignment(self) -> Assignment | None:
        """What the scheme does with each leaf of the parameters, a table of rows.

        None without a scheme.
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

        A network lists only those that it knows from its own arguments. For all other
        layers the activation is read off the anatomy.
        """
        return {}

    @property
    def data_driven(self) -> bool:
        """Whether `adjust` changes anything."""
        return self.scheme is not None and self.scheme.data_driven

    @public("adjust")
    def adjust(self, params: Params, xs: PyTree[Array]) -> Params:
        """Adjust parameters to inputs, as a data-driven scheme does.

        Runs on the host.

        Args:
            params: What `init` draws.
            xs: Inputs along a first axis.

        Returns:
            The adjusted parameters; `params` themselves of all other schemes.

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

        The function stays, and with it all compiled programs. `assignment.table()` of
        the copy lists what becomes of each leaf of the parameters.

        Args:
            scheme: A scheme's name, an initializer's that needs no arguments, an
                initializer, or a `Scheme`.
            sigma_w: The scale of the weights of a scheme that leaves it free (gaussian,
                orthogonal). None: critical for the activation behind each layer.
            sigma_b: The standard deviation of the biases, likewise.

        Returns:
            A network.

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
        redrawn.drawing()
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
        """
        raise NotDefined(
            f"training: {checks.show(self)} has no training mode: it computes the same "
            "in both, without dropout or statistics of a batch."
        )

    def __repr__(self) -> str:
        # The function may be an object without a name; its class has one.
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return f"{type(self).__name__}({name})"

    @public("law")
    def law(self, span: str, xs: ArrayLike) -> Law:
        """Predict the law of the singular values over a span, at infinite width.

        It is what `compare` and `plots.overlay` take beside a measured spectrum.

        Args:
            span: "hidden", the object of the theory, or "end_to_end".
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
            "which only networks.mlp shows."
        )

    @public("moments")
    def moments(self, span: str, xs: ArrayLike) -> tuple[float, float]:
        """Predict mean and variance of lam = s² over a span, where only they are known.

        Args:
            span: "hidden" or "end_to_end".
            xs: Inputs along a first axis.

        Returns:
            Mean and variance.

        Raises:
            NotDefined: They are not known for this network.

        Example:
            >>> net = networks.mlp([8, 8, 8, 8], "tanh")
            >>> try:
            ...     net.moments("hidden", jnp.ones((1, 8)))
            ... except isometry.InputError as error:
            ...     print(error)
            moments(): no moments are known of this network.
        """
        raise NotDefined("no moments are known of this network.")

    @public("mean_field")
    def mean_field(self, xs: ArrayLike) -> Signals:
        """Predict the signals of `isometry.signals`, at infinite width.

        Args:
            xs: Inputs along a first axis.

        Returns:
            The predicted signals.

        Raises:
            NotDefined: The maps of this network are not known.

        Example:
            >>> net = networks.mlp([8, 8, 8, 8], "tanh")
            >>> try:
            ...     net.mean_field(jnp.ones((1, 8)))
            ... except isometry.InputError as error:
            ...     print(error)
            mean_field(): no maps are known of this network.
        """
        raise NotDefined("no maps are known of this network.")


def _label(scheme: SchemeLike) -> str:
    if isinstance(scheme, str):
        return scheme
    if isinstance(scheme, Scheme):
        return scheme.name
    # The repr shows the arguments too, in which initializers of one name may differ.
    return repr(scheme)


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Built(Network):
    """The base of this package's networks: a function, a skeleton, a scheme that draws.

    A subclass defines `skeleton`, and the fields of its own that `__repr__` shows.

    Attributes:
        scheme: The scheme that draws the weights.
    """

    scheme: Scheme

    def skeleton(self, key: Key) -> Params:
        """Return all leaves as they are before a scheme draws: zeros, norm scales 1."""
        raise NotImplementedError(f"{type(self).__name__} must define skeleton.")

    @public("init")
    def init(self, key: Key) -> Params:
        """Draw the parameters by the scheme."""
        checks.key("key", key)
        # Leaves that the scheme leaves alone stay as in the skeleton. If the user's own
        # code makes the skeleton, they are drawn with this key, as by its own `init`.
        return self.drawing().draw(key, self.skeleton(key))

    def drawing(self) -> Assignment:
        """Return how the scheme draws each leaf of the parameters."""
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

        Arguments and errors are those of `Network.with_scheme`.
        """
        # `Network.with_scheme` makes a wrapper. A copy has the class of the network,
        # and so its `law`, `moments` and `mean_field`.
        redrawn = dataclasses.replace(
            self,
            scheme=schemes.get(scheme),
            sigma_w=sigma_w,
            sigma_b=sigma_b,
        )
        # Refuse now, and not at the first draw, what the scheme cannot do.
        redrawn.drawing()
        return redrawn


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Wrapper(Network):
    """The base of networks that have the function of another, and draw otherwise.

    Attributes:
        base: The other network.
    """

    base: Network

    @property
    def depth(self) -> int:
        """The number of weight layers on the longest path."""
        return self.base.depth

    @functools.cached_property
    def anatomy(self) -> Anatomy:
        """The anatomy of `base`, whose architecture is the same."""
        return self.base.anatomy

    @property
    def any_size(self) -> bool:
        """Whether x may be larger or smaller than the example."""
        return self.base.any_size

    @property
    def layer_activations(self) -> Mapping[str, Activation]:
        """The activations that `base` itself knows."""
        return self.base.layer_activations

    def _with_base(self, base: Network) -> Self:
        """Return the same wrapper around a network, such as `base` in training mode."""
        return dataclasses.replace(
            self,
            function=base.function,
            example=base.example,
            mode=base.mode,
            base=base,
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Redrawn(Wrapper, Built):
    """Any network with its weights drawn by a scheme: what `with_scheme` returns.

    Leaves that the scheme leaves alone are as the network's own `init` draws them.
    """

    def skeleton(self, key: Key) -> Params:
        """Return the parameters as the network's own code draws them."""
        return self.base.skeleton(key)

    @public("init")
    def init(self, key: Key) -> Params:
        """Draw the weights by the scheme, and the rest as the network's own code."""
        drawn = super().init(key)
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
