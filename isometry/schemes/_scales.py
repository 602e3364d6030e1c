"""The scale of a free scheme in each layer of a network whose activations are read."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from isometry import activations, theory
from isometry.activations import Activation
from isometry.schemes._layer import Layer
from isometry.schemes._scheme import Scheme
from isometry.structure import WeightLayer

_NAMES = frozenset(activations.names())


class Scaled(NamedTuple):
    """A scheme with its scale fixed for one layer, and where the scale comes from."""

    scheme: Scheme
    note: str


class Scales:
    """The scale of a scheme, layer by layer."""

    def __init__(
        self,
        scheme: Scheme,
        sigma_w: float | None,
        sigma_b: float | None,
        activations: Mapping[str, Activation],
    ) -> None:
        self._scheme = scheme
        self._sigmas = (sigma_w, sigma_b)
        self._by_layer = activations
        self._by_activation: dict[str | Activation, Scaled] = {}

    def of(self, layer: Layer) -> Scaled:
        """Return the scheme with its scale fixed for a layer."""
        sigma_w, sigma_b = self._sigmas
        if not self._scheme.free:
            return Scaled(self._scheme, "")
        if sigma_w is not None:
            return Scaled(self._scheme.at("linear", sigma_w, sigma_b), "")
        if self._scheme.settled and sigma_b is None:
            return Scaled(self._scheme, "")
        if layer.name in self._by_layer:
            return self._critical(self._by_layer[layer.name], "")
        if layer.follows is not None:
            return self._critical(layer.follows, "that follows")
        if layer.precedes is not None:
            return self._critical(layer.precedes, "that it reads")
        return self._critical("linear", "")

    def _critical(self, activation: str | Activation, where: str) -> Scaled:
        if activation not in self._by_activation:
            self._by_activation[activation] = self._solved(activation)
        scaled = self._by_activation[activation]
        if not where:
            return scaled
        return scaled._replace(note=f"{scaled.note} {where}")

    def _solved(self, activation: str | Activation) -> Scaled:
        _, sigma_b = self._sigmas
        name = activation if isinstance(activation, str) else activation.name
        if name == "linear" and not sigma_b:
            return Scaled(self._scheme.at("linear", 1.0, sigma_b), "linear: sigma_w 1")
        try:
            scheme = self._scheme.at(activation, None, sigma_b)
        except theory.NoCriticalPoint:
            # No variance is kept for ever, so the one that inputs and norms have is
            # taken: there gradients keep their size.
            sigma_w = theory.chi(activation, 1.0, 1.0) ** -0.5
            scheme = self._scheme.at(activation, sigma_w, sigma_b)
            return Scaled(scheme, f"chi = 1 at unit variance of the {name}")
        return Scaled(scheme, f"critical for the {name}")


def follows(layer: WeightLayer) -> str | None:
    """Return the name of the activation that follows a layer, or None."""
    return _first_activation(layer.then)


def precedes(layer: WeightLayer, by_name: Mapping[str, WeightLayer]) -> str | None:
    """Return the name of the activation whose result a layer reads, or None."""
    directly = _first_activation(layer.before[::-1])
    if directly is not None:
        return directly
    behind = source(layer, by_name)
    # "fc1:out" is what follows fc1; "fc1" and "fc2:sum" are no activations.
    if behind is None or not (layer.reads or "").endswith(":out"):
        return None
    return follows(behind)


def source(
    layer: WeightLayer, by_name: Mapping[str, WeightLayer]
) -> WeightLayer | None:
    """Return the layer whose point a layer reads, or None."""
    if layer.reads is None:
        return None
    # Names of stretches hold a bracket and a colon of their own, so the longest name
    # that the point begins with is meant.
    found = [name for name in by_name if _begins(layer.reads, name)]
    return by_name[max(found, key=len)] if found else None


def _begins(point: str, name: str) -> bool:
    """Tell whether a point is one of a layer: its name, then a slice or a tail."""
    return point.startswith(name) and point[len(name) : len(name) + 1] in "[@:#"


def _first_activation(steps: Sequence[str]) -> str | None:
    for step in steps:
        name = step.replace(" ", "_")
        # A sum is the end of a branch; the activation behind it is read by others too,
        # and is what the stream passes.
        if name in _NAMES:
            return name
    return None
