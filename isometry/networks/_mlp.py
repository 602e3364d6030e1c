"""Fully connected networks: z_1 = W_1 x + b_1, z_l = W_l phi(z_{l-1}) + b_l, the last layer linear."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from isometry import _checks, activations, schemes, theory
from isometry._internal import precision
from isometry.activations import Activation
from isometry.linalg import Factors
from isometry.networks._law import mlp_law
from isometry.networks._network import Function, Network, Outputs, WeightedLayer
from isometry.schemes import Layer, Scheme


@dataclass(frozen=True)
class Run:
    """Consecutive layers of one shape and role: stored stacked, drawn as one batch, scanned."""

    role: str
    start: int
    length: int
    fan_in: int
    fan_out: int


def runs_of(widths: tuple[int, ...]) -> tuple[Run, ...]:
    """The runs of an MLP. Stem and head are runs of their own, whatever widths coincide."""
    depth = len(widths) - 1
    roles = ["hidden"] * depth
    roles[0], roles[-1] = "stem", "head"
    shapes = list(zip(roles, widths[:-1], widths[1:], strict=True))
    runs, start = [], 0
    for (role, fan_in, fan_out), group in itertools.groupby(shapes):
        length = len(list(group))
        runs.append(Run(role, start, length, fan_in, fan_out))
        start += length
    return tuple(runs)


@dataclass(frozen=True)
class MlpFunction(Function):
    """(params, x) → y of an MLP; compile time is flat in depth, for equal layers are scanned."""

    widths: tuple[int, ...]
    activation: Activation

    @property
    def depth(self) -> int:
        return len(self.widths) - 1

    @property
    def pairs(self) -> int:
        return self.depth - 2

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.widths[0],)

    def expect(self, call: str, params: Any, at: str = "") -> None:
        expected = {}
        for i, run in enumerate(runs_of(self.widths)):
            expected[f"['layers'][{i}]['w']"] = (run.length, run.fan_in, run.fan_out)
            expected[f"['layers'][{i}]['b']"] = (run.length, run.fan_out)
        if not any(name.endswith("['b']") for name in _checks.leaf_shapes(params)):
            expected = {name: shape for name, shape in expected.items() if name.endswith("['w']")}
        _checks.same_leaves(call, expected, params, at)

    def __call__(self, params: Any, x: Any) -> Any:
        z = self.stem(params, x)
        return self._through(params["layers"][1:], z)

    def stem(self, params: Any, x: Any) -> Any:
        if jnp.shape(x) != self.input_shape:
            raise _checks.InputError(
                f"mlp(): x has shape {jnp.shape(x)}; this network takes one example of shape {self.input_shape}. "
                "For a batch write jax.vmap(net, (None, 0))(params, xs)."
            )
        first = params["layers"][0]
        return _affine(jax.tree.map(lambda a: a[0], first), jnp.asarray(x, first["w"].dtype))

    def hidden(self, params: Any, z: Any) -> Any:
        return self._through(params["layers"][1:-1], z)

    def pre_activations(self, params: Any, x: Any) -> list[Any]:
        z = self.stem(params, x)
        found = [z] if self.depth > 1 else []
        for run in params["layers"][1:-1]:
            z, every = self._run(run, z)
            found.extend(every)
        return found

    @property
    def shares_matrices(self) -> bool:
        return True

    @property
    def has_dead_slopes(self) -> bool:
        return bool(self.activation.kinks) and self.depth > 1  # a smooth one is flat nowhere

    def factors(self, params: Any, x: Any, span: str) -> list[Factors]:
        z = self.stem(params, x)
        slopes = []  # of the units behind each run
        for i, run in enumerate(params["layers"][:-1]):
            z, every = (z, [z]) if i == 0 else self._run(run, z)
            every = jnp.stack(list(every)) if isinstance(every, list) else every
            # relu'(NaN) is 0: what has overflowed would pass for units that are switched off
            slopes.append(jnp.where(jnp.isnan(every), jnp.nan, self.activation.slope(every)))
        inner = [Factors(run["w"].mT, d) for run, d in zip(params["layers"][1:-1], slopes[1:], strict=True)]
        if span == "hidden":  # from z_1, before its slopes, to z_{depth-1}, before its own
            matrix, last = inner.pop()
            inner.append(Factors(matrix, last.at[-1].set(1)))  # pyright: ignore[reportOptionalMemberAccess]
            return [Factors(None, slopes[0]), *inner]
        ends = [params["layers"][0]["w"].mT, params["layers"][-1]["w"].mT]
        return [Factors(ends[0], slopes[0]), *inner, Factors(ends[1])] if slopes else [Factors(ends[1])]

    def _through(self, runs: Any, z: Any) -> Any:
        for run in runs:
            z, _ = self._run(run, z)
        return z

    def _run(self, run: Any, z: Any) -> tuple[Any, Any]:
        """z after a run of layers, and after each of them. A run longer than one is square, so it can be scanned."""

        def step(z: Any, layer: Any) -> tuple[Any, Any]:
            z = _affine(layer, self.activation(z))
            return z, z

        if run["w"].shape[0] > 1:
            return jax.lax.scan(step, z, run)
        z, _ = step(z, jax.tree.map(lambda a: a[0], run))
        return z, [z]


def _affine(layer: Any, x: Any) -> Any:
    y = x @ layer["w"]
    return y + layer["b"] if "b" in layer else y


def _outputs(h: Any, layer: WeightedLayer) -> Any:
    """What a layer makes of a batch `h`, (examples, fan_in)."""
    y = h @ layer.w
    return y if layer.b is None else y + layer.b[None]


@dataclass(frozen=True, eq=False, repr=False)
class Mlp(Network):
    """What `mlp` returns."""

    widths: tuple[int, ...]
    activation: Activation
    scheme: Scheme
    bias: bool
    dtype: Any

    @property
    def function(self) -> MlpFunction:
        """The map (params, x) → y alone."""
        return MlpFunction(self.widths, self.activation)

    def init(self, key: Any) -> dict[str, Any]:
        """Draw parameters: {"layers": a tuple of runs {"w": (r, in, out), "b": (r, out)}}.

        Layer l draws its weights and biases from the l-th pair of (depth, 2) split keys, so that they do not depend on
        how layers are grouped. The draw alone: what a data-driven scheme makes of inputs is `net.adjust`, which
        `ensemble` and `audit` call.
        """
        _checks.key("init", key)
        # As a vector, which compiles in half the time, and then in pairs.
        keys = jax.random.split(key, 2 * self.depth)
        keys = keys.reshape(self.depth, 2, *key.shape)
        return {
            "layers": tuple(self._draw(run, keys[run.start : run.start + run.length]) for run in runs_of(self.widths))
        }

    def _draw(self, run: Run, keys: Any) -> dict[str, Any]:
        def one(layer: Layer, key: Any) -> dict[str, Any]:
            key_w, key_b = key
            drawn = {"w": self.scheme.initializer(layer)(key_w, (run.fan_in, run.fan_out), self.dtype)}
            if self.bias:
                drawn["b"] = self.scheme.bias_initializer(layer)(key_b, (run.fan_out,), self.dtype)
            return drawn

        layers = self._layers_of(run)
        if self.scheme.alike:
            return jax.vmap(lambda key: one(layers[0], key))(keys)
        drawn = [one(layer, keys[i]) for i, layer in enumerate(layers)]
        return jax.tree.map(lambda *a: jnp.stack(a), *drawn)

    @property
    def hidden_activations(self) -> tuple[Activation, ...]:
        """Its activation, once for each hidden layer."""
        return (self.activation,) * (self.depth - 1)

    @property
    def plan(self) -> tuple[Layer, ...]:
        """The layers without their arrays, first to last."""
        return tuple(layer for run in runs_of(self.widths) for layer in self._layers_of(run))

    def _layers_of(self, run: Run) -> list[Layer]:
        return [Layer(run.role, run.start + i, self.depth, run.fan_in, run.fan_out) for i in range(run.length)]

    def layers(self, params: Any) -> Iterator[WeightedLayer]:
        for run, stacked in zip(runs_of(self.widths), params["layers"], strict=True):
            for i, layer in enumerate(self._layers_of(run)):
                b = stacked["b"][i] if "b" in stacked else None
                yield WeightedLayer(**vars(layer), w=stacked["w"][i], b=b)

    def with_layers(self, params: Any, layers: Iterable[WeightedLayer]) -> dict[str, Any]:
        found = list(layers)
        runs = []
        for run, old in zip(runs_of(self.widths), params["layers"], strict=True):
            chosen = found[run.start : run.start + run.length]
            shapes = {name: [jnp.shape(getattr(layer, name)) for layer in chosen] for name in old}
            if any(came != [old[name].shape[1:]] * run.length for name, came in shapes.items()):
                raise _checks.InputError(
                    f"with_layers(): from layer {run.start} on the shapes are {shapes}; the network has {run.length} "
                    f"of {run.fan_in}×{run.fan_out}."
                )
            runs.append({n: jnp.stack([getattr(layer, n) for layer in chosen]).astype(a.dtype) for n, a in old.items()})
        if len(found) != self.depth:
            raise _checks.InputError(f"with_layers(): {len(found)} layers for a network of {self.depth}.")
        return {"layers": tuple(runs)}

    def sweep(self, params: Any, xs: Any, change: Callable[[WeightedLayer, Outputs], WeightedLayer]) -> dict[str, Any]:
        h, found = jnp.asarray(xs, params["layers"][0]["w"].dtype), []
        with precision.full():
            for layer in self.layers(params):
                outputs = functools.partial(_outputs, h)
                found.append(change(layer, outputs))
                h = self.activation(outputs(found[-1]))
        return self.with_layers(params, found)

    def with_width(self, width: int) -> "Mlp":
        """The same network with every hidden width replaced."""
        _checks.integer("with_width", low=1, width=width)
        # not through `mlp`, which would solve for the scheme's scale again
        net = replace(self, widths=(self.widths[0], *[int(width)] * (self.depth - 1), self.widths[-1]))
        jax.eval_shape(net.init, jax.random.key(0))
        return net

    def law(self, span: str, xs: Any) -> theory.Law:
        _checks.concrete("law", xs=xs)
        _checks.examples("law", (self.widths[0],), xs)
        return mlp_law(self.activation, self.scheme, self.plan, self.scheme.sigma_b if self.bias else 0.0, span, xs)

    def __repr__(self) -> str:
        return (
            f"mlp({list(self.widths)}, activation={self.activation.name!r}, scheme={self.scheme!r}, bias={self.bias})"
        )


def mlp(
    widths: Sequence[int],
    activation: Any = "tanh",
    scheme: Any = "orthogonal",
    sigma_w: float | None = None,
    sigma_b: float | None = None,
    bias: bool = True,
    dtype: Any = None,
) -> Mlp:
    """A fully connected network; `net.depth` = len(widths) − 1 weight layers, the last one linear.

    **Arguments**
    - `widths`: [n_in, hidden ..., n_out], each at least 1.
    - `activation`: a name (`activations.names()`), an elementwise callable, or an `Activation`.
    - `scheme`: a scheme's name, a catalogue name that needs no arguments, an initializer, or a `Scheme`.
    - `sigma_w`, `sigma_b`: fan_in·Var(W) = sigma_w² for Gaussian weights, every singular value sigma_w for orthogonal
      ones; biases N(0, sigma_b²). None leaves the choice to the scheme: critical for the activation.
    - `bias`: whether there are biases at all; without them sigma_b must be 0 or None.
    - `dtype`: of the parameters and of the arithmetic; None is JAX's default.

    **Raises** `ValueError`: fewer than two widths or one below 1; an unknown name; a scheme not defined for these
    shapes; a sigma for a scheme with a scale of its own; an activation that is not elementwise, whose slopes would be
    taken for a diagonal all the same; `NoCriticalPoint`. Nothing is drawn here.
    """
    try:
        sizes = tuple(widths)
    except TypeError:
        raise _checks.InputError(
            f"mlp(): widths={_checks.show(widths)} is not a sequence; write [64, 128, 10]."
        ) from None
    if len(sizes) < 2:
        raise _checks.InputError(f"mlp(): widths={list(sizes)} has {len(sizes)}; write [n_in, hidden ..., n_out].")
    for i, width in enumerate(sizes):
        _checks.integer("mlp", low=1, **{f"widths[{i}]": width})
    with _checks.named("mlp"):
        phi = activations.get(activation)
    if not phi.named:
        _checks.elementwise("mlp", f"activation={phi.name}", phi)
    if sigma_b is not None:
        _checks.number("mlp", low=0.0, sigma_b=sigma_b)
    if not bias and sigma_b:
        raise _checks.InputError(f"mlp(): sigma_b={sigma_b} with bias=False; drop one of the two.")
    kind = _checks.float_dtype("mlp", dtype)
    net = Mlp(
        tuple(int(n) for n in sizes), phi, schemes.resolve(scheme, phi, sigma_w, sigma_b, "mlp"), bool(bias), kind
    )
    jax.eval_shape(net.init, jax.random.key(0))  # a scheme that does not fit these shapes says so now
    return net
