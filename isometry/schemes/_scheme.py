"""A scheme: which initializer each layer of a network gets, and what its residual branches start from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Any, NamedTuple

from isometry import _checks, initializers
from isometry._internal.errors import public
from isometry.initializers._critical import critical_point
from isometry.schemes._layer import Branch, Layer

Init = Callable[..., Any]


class Residual(NamedTuple):
    """Initial multipliers of a residual block: `skip`·x + `branch`·F(x)."""

    branch: float = 1.0
    skip: float = 1.0


class Drawn(NamedTuple):
    """The ensemble that a layer's weights are drawn from: `weights` is "gaussian", of variance sigma_w²/fan_in, or
    "orthogonal", Haar with every singular value sigma_w."""

    weights: str
    sigma_w: float

    def gain(self, layer: Layer) -> float:
        """√(fan_in · Var W): what q_map takes for sigma_w."""
        lost = layer.fan_in / max(layer.fan_in, layer.fan_out) if self.weights == "orthogonal" else 1.0
        return self.sigma_w * lost**0.5


def _plain_block(branch: Branch) -> Residual:
    return Residual()


@dataclass(frozen=True, eq=False)
class Scheme:
    """A rule that chooses the initializer of each layer.

    - `name`: as it is asked for. `choose(layer, sigma_w)`: the weights' initializer.
    - `definition`, `law`, `isometric`, `citation`, `aliases`, `differs`: as in the catalogue of initializers.
    - `free`: whether sigma_w and sigma_b are the user's; otherwise the scheme fixes its own scale and draws no biases.
    - `alike`: whether layers that differ in nothing but their index, and their branch's, get the same initializer, so
      that they are drawn as one batch.
    - `multipliers(branch)`: what `residual` returns.
    - `fit(net, params, xs)`: what `adjust` does, for a scheme that looks at data; None for all others.
    - `ensemble(layer, sigma_w)`: what `drawn` returns, for a scheme whose weights are independent and Gaussian or Haar.
    - `pairs`: pairs of roles whose layers, one of each on a branch, must be drawn from the same key: their weights are
      two factors of one random matrix.
    """

    name: str
    choose: Callable[[Layer, float], Init]
    definition: str
    citation: str = ""
    law: str = ""
    isometric: str = ""
    aliases: tuple[str, ...] = ()
    differs: str = ""
    free: bool = False
    alike: bool = True
    multipliers: Callable[[Branch], Residual] = _plain_block
    fit: Callable[[Any, Any, Any], Any] | None = None
    ensemble: Callable[[Layer, float], Drawn] | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    sigma_w: float = 1.0
    sigma_b: float = 0.0

    def initializer(self, layer: Layer) -> Init:
        """The initializer of this layer's weights. **Raises** `ValueError`: not a `Layer`."""
        _a("Scheme.initializer", "layer", layer, Layer)
        return self.choose(layer, self.sigma_w)

    def bias_initializer(self, layer: Layer) -> Init:
        """The initializer of this layer's biases: N(0, sigma_b²), or zeros. **Raises** `ValueError`: not a `Layer`."""
        _a("Scheme.bias_initializer", "layer", layer, Layer)
        return initializers.normal(std=self.sigma_b) if self.sigma_b else initializers.zeros()

    def residual(self, branch: Branch) -> Residual:
        """Initial multipliers (branch, skip) of the block that this branch belongs to; (1, 1) unless stated.

        **Raises** `ValueError`: not a `Branch`.
        """
        _a("Scheme.residual", "branch", branch, Branch)
        return self.multipliers(branch)

    def drawn(self, layer: Layer) -> Drawn:
        """The ensemble of this layer's weights, where theory has laws for it.

        **Raises** `NotDefined`: weights that are not independent between layers and Gaussian or Haar orthogonal.
        """
        _a("Scheme.drawn", "layer", layer, Layer)
        if self.ensemble is None:
            raise _checks.NotDefined(
                f"Scheme.drawn(): no law is known of {self.name}: there is one of weights drawn Gaussian or Haar, "
                "layer by layer."
            )
        return self.ensemble(layer, self.sigma_w)

    @property
    def data_driven(self) -> bool:
        """Whether `adjust` changes anything."""
        return self.fit is not None

    def adjust(self, net: Any, params: Any, xs: Any) -> Any:
        """`params` of a `Network` adjusted to the inputs `xs`, (examples, *net.input_shape); only `lsuv` does anything.

        `ensemble` and `audit` call it on what they draw, with the inputs they are given; `net.init` cannot. Runs on the
        host; a tracer is a `TypeError`.

        **Raises** `ValueError`: xs not floating, not finite or not of that shape; what the scheme itself refuses.
        """
        _checks.concrete("adjust", params=params, xs=xs)
        _checks.examples("adjust", net.input_shape, xs)
        return params if self.fit is None else self.fit(net, params, xs)

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
                        "one that leaves it to you, gaussian or orthogonal."
                    )
            return self
        for name, value in (("sigma_w", sigma_w), ("sigma_b", sigma_b)):
            if value is not None:
                _checks.number(call, low=0.0, **{name: value})  # pyright: ignore[reportArgumentType]
        if sigma_w is None:
            point = public(call)(critical_point)(activation, sigma_b=sigma_b)
            sigma_w, sigma_b = point.sigma_w, point.sigma_b
        return replace(self, sigma_w=float(sigma_w), sigma_b=float(sigma_b or 0.0))

    def __repr__(self) -> str:
        scale = f", sigma_w={self.sigma_w:.6g}, sigma_b={self.sigma_b:.6g}" if self.free else ""
        return f"Scheme({self.name!r}{scale})"


def _a(call: str, name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        fields = ", ".join(field.name for field in dataclass_fields(kind))
        raise _checks.InputError(
            f"{call}(): {name}={_checks.show(value)} is not a {kind.__name__}; write schemes.{kind.__name__}({fields})."
        )


def same(init: Init) -> Callable[[Layer, float], Init]:
    """The same initializer for every layer."""
    return lambda layer, sigma_w: init
