"""The critical scale of each layer, by the activation around it in the anatomy.

A scheme is free if the user, or criticality, chooses its sigma_w and sigma_b.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from isometry import activations, theory
from isometry.activations import Activation
from isometry.schemes._layer import Layer
from isometry.schemes._scheme import Scheme
from isometry.structure import WeightLayer
from isometry.structure._flow import LAYOUT
from isometry.structure._nonlinearity import FURTHER, record

_NAMES = frozenset((*activations.names(), *FURTHER))

# The step in `WeightLayer.then` and `before` that is a product of two branches.
_PRODUCT = "product"

# Steps that leave the critical scale as it is: norms, pools, and moved entries.
_NEUTRAL = frozenset(
    (
        "layer norm",
        "rms norm",
        "group norm",
        "batch norm",
        "subtract mean",
        "max pool",
        "average pool",
        "average",
        "sum",
        "attention",
        "rotary",
        "circular padding",
        "scale",
        "mask",
        # Operations that move entries, under the names of their primitives.
        "concatenate",
        "slice",
        "dynamic_slice",
        "dynamic_update_slice",
        "gather",
        "scatter",
        "split",
        "stack",
        "unstack",
        "tile",
        "pad",
        "rev",
        "neg",
        "add",
        "sub",
        *LAYOUT,
    )
)
_GATES = "gates ("
_NEUTRAL_BEGINNINGS = ("+ ", "concatenate ", _GATES)

# A number that is added. Beside an activation it makes another one of it.
_SHIFT = "+ constant"

# What classifiers end with, which is no activation between layers.
_LAST = frozenset(("softmax", "log softmax"))

# How the note ends if the scale is that of the activation before a layer.
THAT_IT_READS = "that it reads"


class Scaled(NamedTuple):
    """A scheme with its sigmas for one layer.

    Attributes:
        scheme: The scheme.
        note: Where the sigmas come from, for the table of an assignment; "" if the user
            or the scheme itself fixes them.
    """

    scheme: Scheme
    note: str


class Scales:
    """The sigmas of a scheme for each layer of a network.

    If the user gives sigma_w, it holds for all layers. Otherwise the scale of a free
    scheme is critical for the activation behind the layer, or else before it.
    """

    def __init__(
        self,
        scheme: Scheme,
        sigma_w: float | None,
        sigma_b: float | None,
        *,
        activations: Mapping[str, Activation],
        following: Mapping[str, Activation],
        read: Mapping[str, Activation],
    ) -> None:
        """Take what is known of activations, by the names of layers.

        Args:
            scheme: The scheme.
            sigma_w: Its scale, or None.
            sigma_b: The scale of its biases, or None.
            activations: The activations that a network knows to follow its layers.
            following: Those that follow, if numbers multiply them.
            read: Those that layers read, if numbers multiply them.
        """
        self._scheme = scheme
        self._sigmas = (sigma_w, sigma_b)
        self._by_layer = activations
        self._following = following
        self._read = read
        self._by_activation: dict[str | Activation, Scaled] = {}

    def of(self, layer: Layer, doubt: str = "") -> Scaled:
        """Return the scheme with its sigmas for a layer.

        Args:
            layer: The layer.
            doubt: What the function `doubt` returns for the layer: "", or a reason why
                no gain is known. With a reason, the layer is treated as linear.
        """
        sigma_w, sigma_b = self._sigmas
        if not self._scheme.free:
            return Scaled(self._scheme, "")
        if sigma_w is not None:
            return Scaled(self._scheme.at("linear", sigma_w, sigma_b), "")
        if self._scheme.settled and sigma_b is None:
            return Scaled(self._scheme, "")
        if layer.name in self._by_layer:
            return self._critical(self._by_layer[layer.name], "")
        if doubt:
            linear = self._critical("linear", "")
            return linear._replace(note=f"{doubt}, so as {linear.note}")
        if layer.follows is not None:
            following = self._following.get(layer.name)
            return self._critical(following or record(layer.follows), "that follows")
        if layer.precedes is not None:
            read = self._read.get(layer.name)
            return self._critical(read or record(layer.precedes), THAT_IT_READS)
        return self._critical("linear", "")

    def _critical(self, activation: str | Activation, where: str) -> Scaled:
        """Return the scheme with critical sigmas for an activation, which are cached.

        Args:
            activation: The activation.
            where: The end of the note, such as "that follows"; "" for none.
        """
        if activation not in self._by_activation:
            self._by_activation[activation] = self._solved(activation)
        scaled = self._by_activation[activation]
        if not where:
            return scaled
        return scaled._replace(note=f"{scaled.note} {where}")

    def _solved(self, activation: str | Activation) -> Scaled:
        """Solve for critical sigmas; without a critical point, for chi = 1 at q = 1."""
        _, sigma_b = self._sigmas
        name = activation if isinstance(activation, str) else activation.name
        if name == "linear" and not sigma_b:
            return Scaled(self._scheme.at("linear", 1.0, sigma_b), "linear: sigma_w 1")
        try:
            scheme = self._scheme.at(activation, None, sigma_b)
        except theory.NoCriticalPoint:
            # No variance is a fixed point. At unit variance, which inputs and norms
            # have, chi = 1 keeps the size of gradients.
            sigma_w = theory.chi(activation, 1.0, 1.0) ** -0.5
            scheme = self._scheme.at(activation, sigma_w, sigma_b)
            return Scaled(scheme, f"chi = 1 at unit variance of the {name}")
        return Scaled(scheme, f"critical for the {name}")


def doubt(layer: WeightLayer, by_name: Mapping[str, WeightLayer]) -> str:
    """Return the reason why no critical gain is known for a layer; "" if one is.

    For example, a product of two branches follows it. If the signal grows by a factor,
    phi(u) v grows by more, so that all fixed points of the variance are unstable.

    Args:
        layer: The layer.
        by_name: All layers of the network by name.
    """
    if _PRODUCT in layer.then:
        # In a GLU, phi(u) v, the activation of the factor u comes before the product.
        factor = _first_activation(layer.then)
        if factor is not None:
            return f"no gain for a product of two branches with a {factor}"
        return "no gain for a product of two branches"
    strange = _strange(layer, layer.then)
    if strange:
        return f"no gain for {strange}"
    # Only if no activation follows, the scale depends on what comes before the layer.
    if follows(layer) is not None:
        return ""
    if _PRODUCT in layer.before:
        return "no gain behind a product of two branches"
    strange = _strange(layer, layer.before)
    behind = _behind(layer, by_name)
    if behind is not None:
        strange = strange or _strange(behind, behind.then)
    if strange:
        return f"no gain behind {strange}"
    gates = [step for step in layer.then if step.startswith(_GATES)]
    if gates and precedes(layer, by_name) is None:
        return f"no gain for {gates[0]}"
    return ""


def _strange(layer: WeightLayer, steps: Sequence[str]) -> str:
    """Return the first step that has no known gain, or "".

    Args:
        layer: The layer behind or before which the steps are.
        steps: The steps, in order.
    """
    previous = ""
    for step in steps:
        is_activation = _activation(step) is not None
        if is_activation and previous == _SHIFT:
            return f"a shifted {step}"
        # The variance has another fixed point then, and the slope is taken there.
        if step == _SHIFT and _activation(previous) is not None:
            return f"a {previous} plus a number"
        previous = step
        if is_activation or step.startswith(_NEUTRAL_BEGINNINGS):
            continue
        if layer.role == "head" and step in _LAST:
            continue
        # Several operations are written with commas: "slice, concatenate".
        if not _NEUTRAL.issuperset(step.split(", ")):
            return step
    return ""


def follows(layer: WeightLayer) -> str | None:
    """Return the name of the activation that follows a layer, or None.

    It is None too if a product follows, as in phi(u) v, or if two functions in a row
    do, as in a squared ReLU: these are no activations of one pre-activation.
    """
    if _PRODUCT in layer.then or _strange(layer, layer.then):
        return None
    return _first_activation(layer.then)


def precedes(layer: WeightLayer, by_name: Mapping[str, WeightLayer]) -> str | None:
    """Return the name of the activation whose result a layer reads, or None.

    Args:
        layer: The layer.
        by_name: All layers of the network by name.
    """
    directly = _first_activation(layer.before[::-1])
    if directly is not None:
        return directly
    behind = _behind(layer, by_name)
    if behind is None:
        return None
    return follows(behind)


def _behind(
    layer: WeightLayer, by_name: Mapping[str, WeightLayer]
) -> WeightLayer | None:
    """Return the layer before the activation whose result a layer reads, or None."""
    # Only a point ":out", such as "fc1:out", is the result of the activation behind
    # fc1. "fc1" is a pre-activation, and "fc2:sum" the stream.
    if not (layer.reads or "").endswith(":out"):
        return None
    return source(layer, by_name)


def source(
    layer: WeightLayer, by_name: Mapping[str, WeightLayer]
) -> WeightLayer | None:
    """Return the layer to which the point belongs that a layer reads, or None."""
    if layer.reads is None:
        return None
    # The name of a range of a leaf, such as "qkv[0:64]", begins with the name of the
    # leaf. So both may fit, and the longer name is the right one.
    fitting = [name for name in by_name if _begins(layer.reads, name)]
    return by_name[max(fitting, key=len)] if fitting else None


def _begins(point: str, name: str) -> bool:
    """Tell whether the name of a point is that of a layer with a slice or a suffix."""
    return point.startswith(name) and point[len(name) : len(name) + 1] in "[@:#"


def _first_activation(steps: Sequence[str]) -> str | None:
    """Return the name of the first step that is an activation, or None.

    All other steps are skipped, norms, pools and sums included: the last layer of the
    branch in relu(x + F(x)) is followed by the ReLU behind the sum.
    """
    return next(filter(None, map(_activation, steps)), None)


def _activation(step: str) -> str | None:
    """Return the name of the activation that a step is, or None."""
    # The anatomy writes "leaky relu", `activations.names()` has "leaky_relu".
    name = step.replace(" ", "_")
    return name if name in _NAMES else None
