"""Networks that know their layers: `mlp` and `chain`.

Their Jacobian is a product of known factors, which `method="product"` multiplies to
the last digit, and their layers can be taken out and put back one by one.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from jaxtyping import Array

from isometry._internal.types import Params
from isometry.activations import Activation
from isometry.linalg import Factors
from isometry.networks._network import Network
from isometry.schemes import Layer


@dataclasses.dataclass(frozen=True)
class WeightedLayer(Layer):
    """A layer with its arrays.

    Attributes:
        w: The weights, of shape (fan_in, fan_out).
        b: The biases, of shape (fan_out,), or None.

    Example:
        >>> net = networks.mlp([3, 8, 2], "tanh")
        >>> stem, head = net.layers(net.init(jax.random.key(0)))
        >>> stem.role, stem.w.shape, head.b.shape
        ('stem', (3, 8), (2,))
    """

    # Keyword-only, because `w` has no default, and fields of `Layer` in front have one.
    w: Array = dataclasses.field(kw_only=True)
    b: Array | None = dataclasses.field(default=None, kw_only=True)


class LayeredFunction(ABC):
    """A function f(params, x) that can return the factors of its Jacobian at x.

    The factors are the weight matrices W, and between them the diagonal matrices of the
    derivatives of the activation, phi'(z). In the methods, z_l is the pre-activation of
    layer l, `depth` the number of layers, and x one example.
    """

    # Subclasses are frozen dataclasses: functions of one architecture are equal and
    # have the same hash, so they share compiled programs.

    @property
    @abstractmethod
    def depth(self) -> int:
        """The number of weight layers; of a chain the number of blocks."""

    @property
    def pairs(self) -> int | None:
        """How many pairs (W, phi') the hidden span has; None if that is not known."""
        return None

    @property
    @abstractmethod
    def shares_matrices(self) -> bool:
        """Whether the matrices of `factors` are the same at all x, unlike phi'."""

    @property
    def has_dead_slopes(self) -> bool:
        """Whether phi' can be exactly zero, as that of relu is at negative numbers."""
        # Where they can, measuring forms large Jacobians from the active units alone.
        return False

    @abstractmethod
    def __call__(self, params: Params, x: Array) -> Array:
        """Return the output for one example."""

    @abstractmethod
    def check(self, params: Params, where: str = "params") -> None:
        """Refuse parameters whose shapes are not those of this architecture.

        Args:
            params: Arrays or shapes.
            where: The name of `params` in the message.

        Raises:
            InputError: A leaf is missing, unknown, or of another shape.
        """

    @abstractmethod
    def stem(self, params: Params, x: Array) -> Array:
        """Return the first pre-activation z_1, of shape (width,)."""

    @abstractmethod
    def hidden(self, params: Params, z: Array) -> Array:
        """Return z_(depth-1), given z_1 = z: the map whose spectra theory predicts."""

    @abstractmethod
    def pre_activations(self, params: Params, x: Array) -> list[Array]:
        """Return z_1, ..., z_(depth-1), each of shape (width,)."""

    @abstractmethod
    def factors(self, params: Params, x: Array, span: str) -> list[Factors]:
        """Return the factors of the Jacobian at x, in the order of application.

        Args:
            params: The parameters.
            x: One example.
            span: "end_to_end" or "hidden".

        Returns:
            Matrices of shape (layers, fan_out, fan_in), and derivatives phi' of shape
            (layers, fan_out), grouped in runs of layers of one shape.
        """


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LayeredNetwork(Network):
    """A network whose layers can be taken out and put back.

    Attributes:
        function: The map (params, x) -> output, which knows the factors of its
            Jacobian.
    """

    function: LayeredFunction

    def _require_params(self, params: Params) -> None:
        self.function.check(params)

    @property
    def depth(self) -> int:
        """The number of weight layers; of a chain the number of blocks."""
        # Known without an anatomy, which a chain of plain functions does not have.
        return self.function.depth

    @property
    def hidden_activations(self) -> tuple[Activation, ...]:
        """The activation behind each weight layer but the last: depth - 1 of them."""
        raise NotImplementedError

    @property
    def plan(self) -> tuple[Layer, ...]:
        """The layers without their arrays, first to last."""
        raise NotImplementedError

    def layers(self, params: Params) -> Iterator[WeightedLayer]:
        """Return the layers with their arrays, first to last."""
        raise NotImplementedError

    def with_layers(self, params: Params, layers: Iterable[WeightedLayer]) -> Params:
        """Return params with the arrays of these layers, as `layers` lists them.

        Args:
            params: The parameters whose structure and dtypes are kept.
            layers: All layers of the network with their arrays, first to last.
        """
        raise NotImplementedError
