"""Chains of blocks of any kind: the user's own functions, networks, looks-linear stacks."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from isometry import _checks, activations, linalg
from isometry._internal import jaxprs, precision
from isometry.activations import Activation
from isometry.linalg import Factors
from isometry.networks._network import Function, Network, WeightedLayer
from isometry.schemes import Layer


@dataclass(frozen=True)
class ChainFunction(Function):
    """(params, x) → y of blocks applied in turn; params is a tuple, one entry a block."""

    blocks: tuple[Callable[..., Any], ...]

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Of the first block; None if it is a plain function, which takes what it takes."""
        return getattr(self.blocks[0], "input_shape", None)

    def __call__(self, params: Any, x: Any) -> Any:
        return self._outputs(params, x)[-1]

    def stem(self, params: Any, x: Any) -> Any:
        return self.blocks[0](self.checked(params)[0], x)

    def hidden(self, params: Any, z: Any) -> Any:
        for block, p in list(zip(self.blocks, self.checked(params), strict=True))[1:-1]:
            z = block(p, z)
        return z

    def pre_activations(self, params: Any, x: Any) -> list[Any]:
        """The outputs of all blocks but the last."""
        return self._outputs(params, x)[:-1]

    @property
    def shares_matrices(self) -> bool:
        return False

    def factors(self, params: Any, x: Any, span: str) -> list[Factors]:
        """One dense Jacobian a block, or the layers of a block that shows them."""
        points = [x, *self._outputs(params, x)]
        picked = range(len(self.blocks)) if span == "end_to_end" else range(1, len(self.blocks) - 1)
        return [f for i in picked for f in _factors_of(self.blocks[i], params[i], points[i])]

    def _outputs(self, params: Any, x: Any) -> list[Any]:
        found = []
        for block, p in zip(self.blocks, self.checked(params), strict=True):
            x = block(p, x)
            found.append(x)
        return found

    def expect(self, call: str, params: Any, at: str = "") -> None:
        for i, (block, p) in enumerate(zip(self.blocks, self.checked(params), strict=True)):
            if isinstance(block, Function):
                block.expect(call, p, f"{at}[{i}]")

    def checked(self, params: Any) -> Any:
        """`params`, of which there is one entry a block."""
        if not isinstance(params, (tuple, list)) or len(params) != len(self.blocks):
            came = f"{len(params)} entries" if isinstance(params, (tuple, list)) else f"a {type(params).__name__}"
            raise _checks.InputError(
                f"chain(): params is {came}; write a tuple of {len(self.blocks)}, one entry a block (None for a block "
                "without parameters)."
            )
        return params


def _factors_of(block: Any, params: Any, x: Any) -> list[Factors]:
    if isinstance(block, Function):
        return block.factors(params, x, "end_to_end")

    def g(v: Any) -> Any:
        return block(params, v.reshape(x.shape)).ravel()

    forward_alone, reverse_alone = jaxprs.one_way(jax.make_jaxpr(g)(x.ravel()).jaxpr)
    matrix = linalg.matrix_of(g, x.ravel(), forward=forward_alone if forward_alone or reverse_alone else None)
    return [Factors(matrix[None])]


@dataclass(frozen=True, eq=False, repr=False)
class Chain(Network):
    """What `chain` returns."""

    blocks: tuple[Any, ...]

    @property
    def function(self) -> ChainFunction:
        """The map (params, x) → y alone."""
        return ChainFunction(tuple(b.function if isinstance(b, Network) else b for b in self.blocks))

    def init(self, key: Any) -> tuple[Any, ...]:
        """Draw the parameters of every block, each from a key of its own.

        **Raises** `ValueError`: a block that is a plain function, which has no law.
        """
        _checks.key("init", key)
        self._networks("init")
        return tuple(b.init(k) for b, k in zip(self.blocks, jax.random.split(key, len(self.blocks)), strict=True))

    @property
    def hidden_activations(self) -> tuple[Activation, ...]:
        """Those of the blocks in turn, and linear between them: a block ends with a weight, the next begins with one.

        **Raises** `ValueError`: a block that is a plain function.
        """
        first, *others = (b.hidden_activations for b in self._networks("hidden_activations"))
        return sum(((activations.linear, *phis) for phis in others), first)

    @property
    def data_driven(self) -> bool:
        """Whether the scheme of any block is."""
        return any(isinstance(b, Network) and b.data_driven for b in self.blocks)

    def adjust(self, params: Any, xs: Any) -> tuple[Any, ...]:
        """Block after block, each on what those before it, adjusted, make of `xs`."""
        _checks.concrete("adjust", params=params, xs=xs)
        found = []
        for block, p in zip(self.blocks, self.function.checked(params), strict=True):
            found.append(block.adjust(p, xs) if isinstance(block, Network) and block.data_driven else p)
            if len(found) < len(self.blocks):
                with precision.full():
                    xs = jax.vmap(block, (None, 0))(found[-1], xs)
        return tuple(found)

    @property
    def plan(self) -> tuple[Layer, ...]:
        """The layers of all blocks, renumbered."""
        layers = [layer for b in self._networks("plan") for layer in b.plan]
        return tuple(replace(layer, index=i, depth=len(layers)) for i, layer in enumerate(layers))

    def layers(self, params: Any) -> Iterator[WeightedLayer]:
        blocks = zip(self._networks("layers"), self.function.checked(params), strict=True)
        found = [layer for block, p in blocks for layer in block.layers(p)]
        return (replace(layer, index=i, depth=len(found)) for i, layer in enumerate(found))

    def with_layers(self, params: Any, layers: Any) -> tuple[Any, ...]:
        blocks, found = self._networks("with_layers"), list(layers)
        if len(found) != len(self.plan):
            raise _checks.InputError(f"with_layers(): {len(found)} layers for a chain of {len(self.plan)}.")
        rest = iter(found)
        return tuple(
            b.with_layers(p, [next(rest) for _ in b.plan])
            for b, p in zip(blocks, self.function.checked(params), strict=True)
        )

    def _networks(self, call: str) -> tuple[Network, ...]:
        for i, block in enumerate(self.blocks):
            if not isinstance(block, Network):
                raise _checks.InputError(
                    f"{call}(): block {i} of this chain, {_checks.show(block)}, is a plain function: it shows no "
                    "layers and draws nothing. Write networks.mlp(...) for it; or, to measure spectra, give its "
                    "parameters yourself (params=), or sample=(key -> params)."
                )
        return self.blocks

    def __repr__(self) -> str:
        return f"chain({', '.join(getattr(b, '__name__', repr(b)) for b in self.blocks)})"


def chain(blocks: Sequence[Callable[..., Any]]) -> Chain:
    """Blocks applied in turn: block i maps (params[i], x) to one array, that block i + 1 takes.

    **Arguments**
    - `blocks`: functions f(params, x) of one example, or networks of `isometry.networks`, in any mixture.

    `net(params, x)` takes a tuple of parameters, one entry a block. `net.depth` is the number of blocks, and
    `span="hidden"` runs from the output of the first to the input of the last. With `method="product"` each block is
    one factor of the Jacobian (a network among them as many as it has layers), so that chains of any depth are measured
    to the last digit. If all blocks are networks, `net.init(key)` draws them and `certify` takes the chain.

    **Raises** `ValueError`: no blocks; one that cannot be called.
    """
    try:
        listed = tuple(blocks)
    except TypeError:
        raise _checks.InputError(f"chain(): blocks={_checks.show(blocks)} is not a sequence; write [f1, f2].") from None
    if not listed:
        raise _checks.InputError("chain(): blocks is empty; write [f1, f2, ...].")
    for i, block in enumerate(listed):
        if not callable(block):
            raise _checks.InputError(f"chain(): blocks[{i}]={_checks.show(block)} is not callable; write f(params, x).")
    return Chain(listed)
