"""Schemes: which initializer each layer of a network gets, from its role, index, depth and fans."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from isometry import _checks, activations, initializers
from isometry.initializers._critical import critical_point

Init = Callable[..., Any]
ROLES = ("stem", "hidden", "head")


@dataclass(frozen=True)
class Layer:
    """What a scheme may know of a layer.

    - `role`: "stem" (reads the input), "hidden" or "head" (the last, linear).
    - `index`: 0 for the first weight layer; `depth`: how many weight layers the network has.
    - `branch`: name of the residual branch it lies on; None on the trunk.
    """

    role: str
    index: int
    depth: int
    fan_in: int
    fan_out: int
    branch: str | None = None


@dataclass(frozen=True, eq=False)
class Scheme:
    """A rule that chooses the initializer of each layer.

    - `choose(layer, sigma_w)`: the weights' initializer.
    - `free`: whether sigma_w and sigma_b are the user's; otherwise the scheme fixes its own scale and draws no biases.
    - `alike`: whether layers of equal shape and role get the same initializer, so that they are drawn as one batch.
    """

    name: str
    choose: Callable[[Layer, float], Init]
    definition: str
    citation: str = ""
    free: bool = False
    alike: bool = True
    sigma_w: float = 1.0
    sigma_b: float = 0.0

    def initializer(self, layer: Layer) -> Init:
        """The initializer of this layer's weights."""
        return self.choose(layer, self.sigma_w)

    def bias_initializer(self, layer: Layer) -> Init:
        """The initializer of this layer's biases: N(0, sigma_b²), or zeros."""
        return initializers.normal(std=self.sigma_b) if self.sigma_b else initializers.zeros()

    def at(self, activation: Any, sigma_w: float | None, sigma_b: float | None, call: str = "Scheme.at") -> "Scheme":
        """This scheme with its scale fixed.

        A free scheme given neither sigma is critical for the activation at sigma_b = 0, given sigma_b alone critical at
        that sigma_b; sigma_w alone means sigma_b = 0.

        **Raises** `ValueError`: a sigma for a scheme that fixes its own scale; a sigma that is not finite and
        non-negative. `NoCriticalPoint`: the activation has none.
        """
        if not self.free:
            for name, value in (("sigma_w", sigma_w), ("sigma_b", sigma_b)):
                if value is not None:
                    raise _checks.InputError(
                        f"{call}(): {name}={value}: scheme {self.name!r} fixes its own scale. Leave {name} out, or use "
                        f"one of {', '.join(s.name for s in _SCHEMES.values() if s.free)}."
                    )
            return self
        for name, value in (("sigma_w", sigma_w), ("sigma_b", sigma_b)):
            if value is not None:
                _checks.number(call, low=0.0, **{name: value})  # pyright: ignore[reportArgumentType]
        if sigma_w is None:
            point = critical_point(call, activation, None, sigma_b)
            sigma_w, sigma_b = point.sigma_w, point.sigma_b
        return replace(self, sigma_w=float(sigma_w), sigma_b=float(sigma_b or 0.0))

    def __repr__(self) -> str:
        scale = f", sigma_w={self.sigma_w:.6g}, sigma_b={self.sigma_b:.6g}" if self.free else ""
        return f"Scheme({self.name!r}{scale})"


def _gaussian(layer: Layer, sigma_w: float) -> Init:
    return initializers.normal(std=sigma_w * layer.fan_in**-0.5)


def _orthogonal(layer: Layer, sigma_w: float) -> Init:
    return initializers.orthogonal(sigma_w)


def _scaled_orthogonal(layer: Layer, sigma_w: float) -> Init:
    return initializers.orthogonal(sigma_w * max((layer.fan_out / layer.fan_in) ** 0.5, 1.0))


def _identity(layer: Layer, sigma_w: float) -> Init:
    return initializers.partial_identity() if layer.role == "head" else initializers.identity()


def _same(init: Init) -> Callable[[Layer, float], Init]:
    return lambda layer, sigma_w: init


_SCHEMES = {
    s.name: s
    for s in (
        Scheme(
            "gaussian",
            _gaussian,
            "W_ij ~ N(0, sigma_w²/fan_in), b ~ N(0, sigma_b²); critical for the activation unless the sigmas are given",
            "Poole et al. (2016), arXiv:1606.05340",
            free=True,
        ),
        Scheme(
            "orthogonal",
            _orthogonal,
            "Haar weights with every singular value sigma_w; critical for the activation unless the sigmas are given",
            "Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735",
            free=True,
        ),
        Scheme(
            "scaled_orthogonal",
            _scaled_orthogonal,
            "orthogonal times max(√(out/in), 1), so that a widening layer keeps the variance of its units",
            "Martens et al. (2021), arXiv:2110.01765",
            free=True,
        ),
        Scheme(
            "identity",
            _identity,
            "identity wherever a layer is square, as all but the head must be; partial identity in the head",
            "Le, Jaitly, Hinton (2015), arXiv:1504.00941",
        ),
        Scheme(
            "partial_identity",
            _same(initializers.partial_identity()),
            "ones on the main diagonal of every layer, zeros elsewhere",
            "Zhao, Schäfer, Anandkumar (2022), arXiv:2110.12661",
        ),
        Scheme(
            "zer_o",
            _same(initializers.zer_o()),
            "identity where a layer does not widen, a Hadamard block where it does",
            "Zhao, Schäfer, Anandkumar (2022), arXiv:2110.12661",
        ),
        Scheme(
            "xavier",
            _same(initializers.xavier_uniform()),
            "uniform weights of variance 2/(fan_in + fan_out)",
            "Glorot and Bengio (2010)",
        ),
        Scheme(
            "kaiming",
            _same(initializers.kaiming_normal()),
            "Gaussian weights of variance 2/fan_in",
            "He et al. (2015), arXiv:1502.01852",
        ),
    )
}


def names() -> tuple[str, ...]:
    """The named schemes."""
    return tuple(_SCHEMES)


def get(scheme: Any, call: str = "schemes.get") -> Scheme:
    """A `Scheme` from a scheme's name, a catalogue name that needs no arguments, an initializer, or itself.

    An initializer is used for every layer's weights, with zero biases. Where a name is both a scheme and an
    initializer (orthogonal, identity) the scheme is meant.

    **Raises** `ValueError`: an unknown name (the nearest is suggested); a factory that was not called.
    """
    if isinstance(scheme, Scheme):
        return scheme
    plain = {e.name: e for e in initializers.catalogue() if not e.needs}
    if isinstance(scheme, str):
        _checks.one_of(call, among=(*_SCHEMES, *(n for n in plain if n not in _SCHEMES)), scheme=scheme)
        if scheme in _SCHEMES:
            return _SCHEMES[scheme]
        return Scheme(scheme, _same(plain[scheme].factory()), plain[scheme].definition, plain[scheme].citation)
    name = getattr(scheme, "__name__", None)
    if any(scheme is e.factory for e in initializers.catalogue()):
        raise _checks.InputError(f"{call}(): scheme={name} is a factory; write {name}() with the parentheses.")
    if callable(scheme):
        return Scheme(
            getattr(scheme, "name", None) or name or "custom", _same(scheme), "the same initializer everywhere"
        )
    raise _checks.InputError(f"{call}(): scheme={_checks.show(scheme)} is not a name, an initializer or a Scheme.")


def resolve(
    scheme: Any, activation: activations.Activation, sigma_w: float | None, sigma_b: float | None, call: str
) -> Scheme:
    """`get` and `Scheme.at` in one: the scheme with its scale fixed for this activation."""
    return get(scheme, call).at(activation, sigma_w, sigma_b, call)
