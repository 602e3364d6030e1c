"""Chains of blocks of any kind: the user's own functions, networks, other chains."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import jax
from jaxtyping import Array, Float, PyTree

from isometry import activations, linalg
from isometry._internal import checks, jaxprs, precision
from isometry._internal.errors import InputError, NotDefined, SameInTraining, public
from isometry._internal.types import Key, Params
from isometry.activations import Activation
from isometry.linalg import Factors
from isometry.networks._layered import LayeredFunction, LayeredNetwork, WeightedLayer
from isometry.networks._network import Network
from isometry.schemes import Layer

Block: TypeAlias = Callable[[Params, Array], Array]


@dataclass(frozen=True)
class ChainFunction(LayeredFunction):
    """The map (params, x) -> output of a chain; params has one entry per block.

    Attributes:
        blocks: The functions of the blocks.
    """

    blocks: tuple[Block, ...]

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def shares_matrices(self) -> bool:
        return False

    def check(self, params: Params, where: str = "params") -> None:
        entries = self.entries(params, where)
        for i, (block, entry) in enumerate(zip(self.blocks, entries, strict=True)):
            # A plain function does not say which parameters it takes, so they are not
            # checked.
            if isinstance(block, LayeredFunction):
                block.check(entry, f"{where}[{i}]")

    def entries(self, params: Params, where: str = "params") -> Sequence[Params]:
        """Return the parameters of the blocks, one entry for each block.

        Args:
            params: A tuple or a list with one entry for each block.
            where: The name of `params` in the message.

        Raises:
            InputError: It is something else, or has another number of entries.
        """
        # Of other types, `zip` would iterate over the keys of a mapping or the rows of
        # an array, without an error.
        is_sequence = isinstance(params, (tuple, list))
        if is_sequence and len(params) == self.depth:
            return params
        given = f"a {type(params).__name__}"
        if is_sequence:
            given = f"{len(params)} entries"
        raise InputError(
            f"{where} is {given}; write a tuple of {self.depth}, one entry per block "
            "(None for a block without parameters)."
        )

    @public("chain")
    def __call__(self, params: Params, x: Array) -> Array:
        return self._outputs(params, x)[-1]

    def stem(self, params: Params, x: Array) -> Array:
        first, *_ = self.entries(params)
        return self.blocks[0](first, x)

    def hidden(self, params: Params, z: Array) -> Array:
        entries = self.entries(params)
        for block, entry in zip(self.blocks[1:-1], entries[1:-1], strict=True):
            z = block(entry, z)
        return z

    def pre_activations(self, params: Params, x: Array) -> list[Array]:
        """Return the outputs of all blocks but the last, for one example."""
        return self._outputs(params, x)[:-1]

    def factors(self, params: Params, x: Array, span: str) -> list[Factors]:
        """Return the factors of all blocks in the span, in the order of application.

        A network that knows its layers has a factor for each of them; any other block
        has one factor, the matrix of its Jacobian.
        """
        # The output of each block is the point where the next is differentiated.
        points = [x, *self._outputs(params, x)]
        blocks = range(self.depth)
        if span == "hidden":
            blocks = blocks[1:-1]
        factors = []
        for i in blocks:
            factors += _factors_of(self.blocks[i], params[i], points[i])
        return factors

    def _outputs(self, params: Params, x: Array) -> list[Array]:
        """Return the output of each block for one example."""
        outputs = []
        for block, entry in zip(self.blocks, self.entries(params), strict=True):
            x = block(entry, x)
            outputs.append(x)
        return outputs


def _factors_of(block: Block, params: Params, x: Array) -> list[Factors]:
    """Return the factors of one block's Jacobian at x: the matrix, if none are known.

    Args:
        block: The function of the block.
        params: The parameters of the block.
        x: The input of the block.
    """
    if isinstance(block, LayeredFunction):
        return block.factors(params, x, "end_to_end")

    # Blocks may map arrays of any shape; a factor is a matrix, so both are flattened.
    def g(vector: Float[Array, " n"]) -> Float[Array, " m"]:
        return block(params, vector.reshape(x.shape)).ravel()

    no_reverse, no_forward = jaxprs.one_way(jax.make_jaxpr(g)(x.ravel()).jaxpr)
    # A block that allows both modes gets None: `matrix_of` then chooses by the shape.
    forward = no_reverse if no_reverse or no_forward else None
    matrix = linalg.matrix_of(g, x.ravel(), forward=forward)
    return [Factors(matrix[None])]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Chain(LayeredNetwork):
    """A network that applies blocks one after another: what `chain` returns.

    Attributes:
        function: The map (params, x) -> output alone.
        blocks: The blocks as the user gave them: functions and networks.
    """

    function: ChainFunction
    blocks: tuple[Block, ...]

    @public("init")
    def init(self, key: Key) -> tuple[Params, ...]:
        """Draw the parameters of every block, each from a key of its own.

        Args:
            key: A random key. It may be traced.

        Returns:
            A tuple of parameters, one entry per block.

        Raises:
            InputError: A block is a plain function, which draws nothing.

        Example:
            >>> net = networks.chain([networks.mlp([3, 4]), networks.mlp([4, 2])])
            >>> len(net.init(jax.random.key(0)))
            2
        """
        checks.key("key", key)
        blocks = self._networks()
        keys = jax.random.split(key, len(blocks))
        return tuple(block.init(own) for block, own in zip(blocks, keys, strict=True))

    @property
    def training(self) -> Network:
        """The network as it is trained; a chain has no such mode.

        Raises:
            NotDefined: Always. The message says whether a block differs in training.

        Example:
            >>> networks.chain([networks.mlp([3, 2])]).mode
            'inference'
        """
        for i, block in enumerate(self.blocks):
            if isinstance(block, Network) and _differs_in_training(block):
                raise NotDefined(
                    f"training: a chain has no training mode, and its block {i}, "
                    f"{checks.show(block)}, may differ in training. Make one model of "
                    "all blocks."
                )
        return super().training

    @property
    def hidden_activations(self) -> tuple[Activation, ...]:
        """The activations of the blocks in turn, with `linear` between two blocks."""
        first, *others = (block.hidden_activations for block in self._layered())
        joined = list(first)
        for of_block in others:
            # A block ends with a weight layer and the next begins with one, so nothing
            # but a linear activation lies between these two.
            joined += [activations.linear, *of_block]
        return tuple(joined)

    @property
    def data_driven(self) -> bool:
        """Whether `adjust` changes the parameters of any block."""
        networks = [block for block in self.blocks if isinstance(block, Network)]
        return any(block.data_driven for block in networks)

    @public("adjust")
    def adjust(self, params: Params, xs: PyTree[Array]) -> tuple[Params, ...]:
        """Adjust the parameters of each block to the outputs of the block before it.

        Args:
            params: What `init` draws.
            xs: Inputs along a first axis.

        Returns:
            The adjusted parameters. Blocks whose scheme is not data-driven, and plain
            functions, keep theirs.

        Example:
            >>> block = networks.mlp([3, 3], "tanh", "lsuv", bias=False)
            >>> net = networks.chain([block, block])
            >>> xs = data.gaussian(jax.random.key(0), 16, 3).xs
            >>> params = net.adjust(net.init(jax.random.key(1)), xs)
            >>> outputs = jax.vmap(net, (None, 0))(params, xs)
            >>> round(float(outputs.std()), 3)
            1.0
        """
        checks.on_host("params", params)
        checks.on_host("xs", xs)
        adjusted = []
        before = None
        entries = self.function.entries(params)
        for block, entry in zip(self.blocks, entries, strict=True):
            # The inputs of this block are the outputs of the adjusted block before it.
            if before is not None:
                with precision.full():
                    xs = jax.vmap(before, (None, 0))(adjusted[-1], xs)
            # Parameters of other blocks are passed on without a copy.
            if isinstance(block, Network) and block.data_driven:
                entry = block.adjust(entry, xs)
            adjusted.append(entry)
            before = block
        return tuple(adjusted)

    @property
    def plan(self) -> tuple[Layer, ...]:
        """The layers of all blocks without their arrays, with indices in the chain."""
        layers = [layer for block in self._layered() for layer in block.plan]
        return tuple(_numbered(layers))

    def layers(self, params: Params) -> Iterator[WeightedLayer]:
        """Return the layers of all blocks with their arrays, indexed in the chain."""
        pairs = zip(self._layered(), self.function.entries(params), strict=True)
        layers = [layer for block, entry in pairs for layer in block.layers(entry)]
        return iter(_numbered(layers))

    def with_layers(
        self, params: Params, layers: Iterable[WeightedLayer]
    ) -> tuple[Params, ...]:
        """Return params with the arrays of these layers, as `layers` lists them.

        Raises:
            InputError: Another number of layers, or arrays of other shapes.
        """
        blocks = self._layered()
        entries = self.function.entries(params)
        given = list(layers)
        num_layers = len(self.plan)
        if len(given) != num_layers:
            raise InputError(
                f"layers holds {len(given)} layers, and the chain has {num_layers}."
            )
        changed = []
        # The list is consumed from the front: each block takes as many layers as it
        # has.
        for block, entry in zip(blocks, entries, strict=True):
            own = given[: len(block.plan)]
            given = given[len(block.plan) :]
            changed.append(block.with_layers(entry, own))
        return tuple(changed)

    def _networks(self) -> tuple[Network, ...]:
        """Return the blocks; refuse a block that is a plain function."""
        networks = []
        for i, block in enumerate(self.blocks):
            if not isinstance(block, Network):
                raise InputError(
                    f"block {i} of this chain, {checks.show(block)}, is a plain "
                    "function: it shows no layers and draws nothing. Write "
                    "networks.mlp(...) for it; or, to measure spectra, give its "
                    "parameters yourself (params=), or sample=(key -> params)."
                )
            networks.append(block)
        return tuple(networks)

    def _layered(self) -> tuple[LayeredNetwork, ...]:
        """Return the blocks; refuse a block that does not know its layers."""
        layered = []
        for i, block in enumerate(self._networks()):
            if not isinstance(block, LayeredNetwork):
                raise InputError(
                    f"block {i} of this chain, {checks.show(block)}, does not show its "
                    "layers one after another, as networks.mlp does."
                )
            layered.append(block)
        return tuple(layered)

    def __repr__(self) -> str:
        # Functions have a name; a network, which has none, is shown by its repr.
        names = [getattr(block, "__name__", repr(block)) for block in self.blocks]
        return f"chain({', '.join(names)})"


def _numbered(layers: Sequence[Layer]) -> list:
    """Return copies of layers whose index and depth are those in one long network."""
    depth = len(layers)
    return [replace(layer, index=i, depth=depth) for i, layer in enumerate(layers)]


def _differs_in_training(block: Network) -> bool:
    """Tell whether a block may compute something else in training."""
    try:
        _ = block.training
    except SameInTraining:
        return False
    # Its mode may be fixed in inference, which says nothing of training.
    except NotDefined:
        return True
    return True


def _function_of(block: Block) -> Block:
    """Return the function of a network; a plain function as it is."""
    if isinstance(block, Network):
        return block.function
    return block


@public("chain")
def chain(blocks: Sequence[Block]) -> Chain:
    """Build a network that applies blocks one after another.

    Block i maps (params[i], x) to the x of block i + 1: `net(params, x)` takes a tuple
    of parameters, one entry per block. `net.depth` is the number of blocks, and
    `span="hidden"` runs from the output of the first block to the input of the last.
    With `method="product"` each block is one factor of the Jacobian (an MLP one factor
    for each of its layers), so that chains of any depth are measured to the last digit.
    If all blocks are networks, `net.init(key)` draws their parameters.

    Args:
        blocks: Functions f(params, x) of one example, or networks, in any mixture.

    Returns:
        The network.

    Raises:
        InputError: There are no blocks, or a block cannot be called.

    Example:
        >>> def double(params, x):
        ...     return 2 * x
        >>> net = networks.chain([double, networks.mlp([3, 2], bias=False)])
        >>> params = (None, {"layers": ({"w": jnp.ones((1, 3, 2))},)})
        >>> net(params, jnp.ones(3))
        Array([6., 6.], dtype=float32)
    """
    try:
        listed = tuple(blocks)
    except TypeError:
        raise InputError(
            f"blocks={checks.show(blocks)} is not a sequence; write [f1, f2]."
        ) from None
    if not listed:
        raise InputError("blocks is empty; write [f1, f2, ...].")
    for i, block in enumerate(listed):
        if not callable(block):
            raise InputError(
                f"blocks[{i}]={checks.show(block)} is not callable; write f(params, x)."
            )
    # `ChainFunction` gets functions, not networks, so that chains of one architecture
    # are equal and share compiled programs.
    functions = [_function_of(block) for block in listed]
    return Chain(
        function=ChainFunction(tuple(functions)),
        # A plain function at the start has no example.
        example=getattr(listed[0], "example", None),
        scheme=None,
        activation=None,
        blocks=listed,
    )
