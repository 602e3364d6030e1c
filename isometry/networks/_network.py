"""What measurement, certificates and the probe may ask of any network."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isometry import _checks
from isometry.activations import Activation
from isometry.linalg import Factors
from isometry.schemes import Layer, Scheme
from isometry.structure import Anatomy, anatomy
from isometry.theory import Law

SPANS = ("end_to_end", "hidden")


@dataclass(frozen=True)
class WeightedLayer(Layer):
    """A layer with its arrays: `w` of shape (fan_in, fan_out), `b` of shape (fan_out,) or None."""

    w: Any = None
    b: Any = None


Outputs = Callable[[WeightedLayer], Any]


class Function(ABC):
    """The map (params, x) → y of an architecture, whatever law its parameters were drawn from.

    Hashable and equal by architecture, so that programs compiled for one scheme serve all.
    """

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one example; None if any will do."""

    @property
    @abstractmethod
    def depth(self) -> int:
        """Number of weight layers."""

    @property
    def pairs(self) -> int | None:
        """How many (W, D) pairs `hidden` holds; None where they are not known."""
        return None

    @abstractmethod
    def expect(self, call: str, params: Any, at: str = "") -> None:
        """Nothing, if `params` have the shapes of this architecture's, as far as it fixes them.

        `call`: whose argument they are; `at`: their path in it.

        **Raises** `ValueError`: they have not.
        """

    @abstractmethod
    def __call__(self, params: Any, x: Array) -> Array:
        """The output for one example."""

    @abstractmethod
    def stem(self, params: Any, x: Array) -> Array:
        """x → z_1, the first pre-activation."""

    @abstractmethod
    def hidden(self, params: Any, z: Array) -> Array:
        """z_1 → z_{depth-1}: depth − 2 pairs of a diagonal of slopes and a weight, the object of the theory."""

    @abstractmethod
    def pre_activations(self, params: Any, x: Array) -> list[Array]:
        """z_1 … z_{depth-1} for one example."""

    @property
    @abstractmethod
    def shares_matrices(self) -> bool:
        """Whether the matrices of `factors` are the same for every x, which only moves the scales."""

    @property
    def has_dead_slopes(self) -> bool:
        """Whether scales of `factors` can be exactly zero, as those of relu are."""
        return False

    @abstractmethod
    def factors(self, params: Any, x: Array, span: str) -> list[Factors]:
        """The factors of the Jacobian over a span ("end_to_end" or "hidden") at x, first to last."""


class Network(ABC):
    """A `Function`, its hidden `activation`, and the law of its parameters, a `scheme`."""

    activation: Activation
    scheme: Scheme

    @property
    @abstractmethod
    def function(self) -> Function:
        """The map (params, x) → y alone."""

    @abstractmethod
    def init(self, key: Any) -> Any:
        """Parameters drawn from `key`; those of a data-driven scheme before `adjust`, which needs inputs."""

    @property
    @abstractmethod
    def hidden_activations(self) -> tuple[Activation, ...]:
        """What follows each weight layer but the last.

        **Raises** `ValueError`: a network that does not show it.
        """

    @property
    def data_driven(self) -> bool:
        """Whether `adjust` changes anything."""
        return self.scheme.data_driven

    def adjust(self, params: Any, xs: Any) -> Any:
        """`params` as a data-driven scheme makes them of inputs `xs`, (examples, *input_shape): `Scheme.adjust`.

        `ensemble` and `audit` call it on what they draw. Runs on the host; a tracer is a `TypeError`.
        """
        return self.scheme.adjust(self, params, xs)

    @property
    @abstractmethod
    def plan(self) -> tuple[Layer, ...]:
        """The layers without their arrays, first to last."""

    @abstractmethod
    def layers(self, params: Any) -> Iterator[WeightedLayer]:
        """One layer with its arrays after another, first to last."""

    @abstractmethod
    def with_layers(self, params: Any, layers: Iterable[WeightedLayer]) -> Any:
        """`params` with the arrays of `layers` in place of its own: the inverse of `layers(params)`.

        **Raises** `ValueError`: not one layer for each of the network's, of the same shapes.
        """

    def sweep(self, params: Any, xs: Any, change: Callable[[WeightedLayer, Outputs], WeightedLayer]) -> Any:
        """`params` changed layer after layer on a batch `xs`: `change(layer, outputs)` returns the layer to go on with.

        `outputs(layer)` is what the layer, as it is or changed, makes of the batch behind the layers already changed.

        **Raises** `ValueError`: a network that has no such order of layers.
        """
        raise _checks.InputError(
            f"sweep(): {type(self).__name__} does not offer its layers one after another, so that lsuv cannot adjust "
            "it as a whole. Of a chain write net.adjust(params, xs), which adjusts its blocks."
        )

    def law(self, span: str, xs: Any) -> Law:
        """The law of the singular values over a span, at infinite width: what `compare` and `plots.overlay` take.

        **Arguments**
        - `span`: "hidden", the object of the theory, or "end_to_end", with one W more.
        - `xs`: (inputs, *input_shape). They set the variance of the first pre-activations,
          q_1 = sigma_w² |x|²/n_in + sigma_b², by the mean of |x|² over them: the law is that of each input where all
          have one norm (`data.normalize`) or phi' does not depend on scale. From there q_l follows the variance map
          layer by layer, at its fixed point or not.

        Widths may differ from layer to layer. Host only.

        **Raises** `ValueError`: an unknown span; "hidden" of fewer than three layers; xs of another shape.
        `NotDefined`: a network or a scheme for which no law is known; the reason is in the message.
        """
        raise _checks.NotDefined(
            f"law(): no law is known for a {type(self).__name__.lower()}: the law of a product needs the weights' "
            "ensemble and the pre-activations' variances of every layer, which only networks.mlp shows."
        )

    @functools.cached_property
    def anatomy(self) -> Anatomy:
        """What the network is made of, read from shapes alone: `isometry.anatomy` of it.

        **Raises** `ValueError`: a chain with a block that is a plain function, whose parameters or input have no shape.
        """
        if self.input_shape is None:
            raise _checks.InputError(
                f"anatomy: {_checks.show(self)} begins with a plain function, whose input has no known shape; write "
                "isometry.anatomy(net, params, x)."
            )
        params = jax.eval_shape(self.init, jax.random.key(0))
        # Networks take inputs in the dtype of their parameters.
        x = jax.ShapeDtypeStruct(self.input_shape, jnp.result_type(*jax.tree.leaves(params)))
        return anatomy(self, params, x)

    def __call__(self, params: Any, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.function(params, x)

    @property
    def depth(self) -> int:
        """Number of weight layers."""
        return self.function.depth

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one example; None if any will do."""
        return self.function.input_shape
