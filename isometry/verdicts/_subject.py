"""What is audited: a function, its parameters over seeds, and examples."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree

from isometry._internal import checks, kinds
from isometry._internal.errors import InputError, NotDefined
from isometry._internal.types import Key, Params
from isometry.measure import _arguments, _draws, _ensemble, _run, _spans
from isometry.measure._draws import Seeds
from isometry.measure._function import Map
from isometry.measure._spans import Span
from isometry.networks import Network
from isometry.structure import Anatomy
from isometry.structure._following import NORMS

# The anatomy's names of operations that average over positions.
_AVERAGES = frozenset({"average", "average pool"})


@dataclass(frozen=True, eq=False)
class Subject:
    """A network under audit.

    Attributes:
        name: The label of the network in the report.
        f: A `Network`, or any f(params, x) of one example.
        seeds: Where the parameters of each seed come from.
        xs: All examples, along a first axis.
        few: The examples at which Jacobians are taken, evenly spaced among `xs`.
        anatomy: The layers and points of f, for one example.
        span: The two points of the end-to-end Jacobian: from the input to the output;
            in a token model from the embedding to the output.
        training: The training mode of the network; None if it has none of its own.
    """

    name: str
    f: Map
    seeds: Seeds
    xs: PyTree[Array]
    few: PyTree[Array]
    anatomy: Anatomy
    span: Span
    training: Network | None

    @property
    def network(self) -> Network | None:
        """The `Network`, or None if f is a plain function."""
        return self.f if isinstance(self.f, Network) else None

    @property
    def num_seeds(self) -> int:
        """The number of seeds; 1 of a checkpoint."""
        return self.seeds.count

    @property
    def num_inputs(self) -> int:
        """The number of examples at which Jacobians are taken."""
        return jax.tree.leaves(self.few)[0].shape[0]

    @property
    def is_drawn(self) -> bool:
        """Whether parameters are drawn from keys; False if they were given."""
        return self.seeds.draw is not None

    @functools.cached_property
    def has_hidden_span(self) -> bool:
        """Whether "hidden" is a span of this network."""
        try:
            _spans.resolve(_arguments.function_of(self.f), self.anatomy, "hidden")
        except InputError:
            return False
        return True

    def ends(self, span: str) -> tuple[str, ...]:
        """Return the names of the points where a measured span begins and ends.

        Jacobians that were given have no place in the network, and so no ends.
        """
        if span not in ("end_to_end", "hidden"):
            return ()
        function = _arguments.function_of(self.f)
        chosen = self.span if span == "end_to_end" else span
        resolved = _spans.resolve(function, self.anatomy, chosen)
        return resolved.first.name, resolved.last.name

    @functools.cached_property
    def size_of_hidden(self) -> int:
        """The number of units at the end of the hidden span."""
        _, last = self.ends("hidden")
        return math.prod(self.anatomy.shape(last).shape)

    @property
    def size_of_output(self) -> int:
        """The number of entries of the output."""
        return math.prod(self.anatomy.shape("output").shape)

    def log_averaging(self, span: Span) -> float:
        """Return the sum of ½ ln of the number of values in each average pooling.

        Only poolings before the end of the span count.

        An average over n positions divides the squared gain by n. That is no vanishing
        gradient, because the gradient of a shared weight is a sum over n positions.
        """
        last = "output"
        if span == "hidden":
            _, last = self.ends("hidden")
        anatomy = self.anatomy
        return sum(
            joined
            for name, joined in self.averaging.items()
            if f"{name}:out" != last and anatomy.upstream(f"{name}:out", last)
        )

    @functools.cached_property
    def averaging(self) -> dict[str, float]:
        """½ ln of the number of values that are averaged behind a layer, by layer.

        Only poolings on all paths are listed, because only these divide the gain.
        """
        joined: dict[str, float] = {}
        for layer in self.anatomy.layers:
            behind = f"{layer.name}:out"
            is_average = not _AVERAGES.isdisjoint(layer.then)
            if not is_average or behind not in self.anatomy.points:
                continue
            # A pooling on a branch, such as that of a gate, is not on all paths.
            if not self.anatomy.cuts(behind):
                continue
            before = math.prod(self.anatomy.shape(layer.name).shape)
            after = math.prod(self.anatomy.shape(behind).shape)
            joined[layer.name] = math.log(before / after) / 2
        return joined

    @functools.cached_property
    def normalized_points(self) -> tuple[str, ...]:
        """The points of the first embedding that a norm separates from all layers.

        The norm reads the value at the last of them. Empty without an embedding, or if
        a layer reads it without a norm, or if no point shows what the norm reads.
        """
        embedding = next(iter(self.anatomy.embeddings), None)
        if embedding is None:
            return ()
        points = (embedding.name, f"{embedding.name}:out")
        # Such a norm lies in front of ":out". What is added before it is not seen.
        if not NORMS.isdisjoint(embedding.then):
            is_read = embedding.then[0] in NORMS
            return points[:1] if is_read else ()
        readers = [layer for layer in self.anatomy.layers if layer.reads in points]
        is_normalized = [not NORMS.isdisjoint(layer.before) for layer in readers]
        return points if readers and all(is_normalized) else ()

    @property
    def has_zero_weight(self) -> Bool[np.ndarray, " seeds"]:
        """Whether any weight layer, or any slice of a stacked one, is zero."""
        by_layer = [np.zeros(self.num_seeds, bool), *self.zero_weights.values()]
        return np.any(by_layer, axis=0)

    @functools.cached_property
    def zero_weights(self) -> dict[str, Bool[np.ndarray, " seeds"]]:
        """For each weight layer, by name, whether it or any slice of it is zero."""
        by_path = jax.tree_util.tree_leaves_with_path(self.params)
        leaves = {jax.tree_util.keystr(path): leaf for path, leaf in by_path}
        is_zero = {}
        for layer in self.anatomy.layers:
            weights = np.asarray(leaves[layer.path])
            # All axes are reduced but that of seeds and those along which layers are
            # stacked.
            stacks = [0, *(axis + 1 for axis in layer.stacked_axes)]
            axes = tuple(i for i in range(weights.ndim) if i not in stacks)
            is_zero_slice = ~weights.any(axis=axes)
            is_zero[layer.name] = is_zero_slice.reshape(self.num_seeds, -1).any(1)
        return is_zero

    @property
    def zero_bottlenecks(self) -> tuple[str, ...]:
        """The names of layers on all paths whose weight is zero in all seeds."""
        zeros = [name for name, is_zero in self.zero_weights.items() if is_zero.all()]
        return tuple(name for name in zeros if self._is_bottleneck(name))

    def _is_bottleneck(self, name: str) -> bool:
        """Whether every path runs through the layer. False for a stacked layer.

        A stacked layer has several points, none of which has the layer's name alone.
        """
        return name in self.anatomy.points and self.anatomy.cuts(name)

    @functools.cached_property
    def params(self) -> Params:
        """The parameters of all seeds, stacked along a first axis."""
        network = self.network
        if self.is_drawn and network is not None and network.scheme is None:
            # A model of another library draws all its parameters in one program. Under
            # vmap over keys XLA takes twice as long to compile that program: 10 s for a
            # small convolutional network. So the keys are taken one after another.
            drawn = [network.init(key) for key in self.seeds.source]
            return jax.tree.map(lambda *leaves: _stacked(leaves), *drawn)
        make = self.seeds.maker(self.xs)
        return make(np.arange(self.seeds.count))

    def params_of(self, seed: int) -> Params:
        """Return the parameters of one seed, on the host."""

        def of_seed(leaf: Array) -> Array | np.ndarray:
            if kinds.is_key(leaf):
                return leaf[seed]
            # Indexed by NumPy, because JAX would compile two programs for each shape.
            return np.asarray(np.asarray(leaf)[seed])

        return jax.tree.map(of_seed, self.params)


def _stacked(leaves: Sequence[Array]) -> Array:
    """Stack arrays in NumPy, because JAX would compile programs for each shape."""
    if kinds.is_key(leaves[0]):
        return jnp.stack(leaves)
    return checks.on_device(np.stack([np.asarray(leaf) for leaf in leaves]))


def subject_of(
    name: str,
    f: Map | list[Map],
    keys: Key | None,
    xs: PyTree[Array] | None,
    *,
    params: Params | None,
    sample: Callable[[Key], Params] | None,
    num_inputs: int,
) -> Subject:
    """Check the arguments of an audit, and read the network.

    No parameters are drawn, and the network is not run.

    Args:
        name: The label of the network in the report.
        f: A `Network`, any f(params, x), or a list of blocks.
        keys: A key for each seed.
        xs: Examples along a first axis.
        params: Instead of keys, parameters stacked over seeds.
        sample: Draws parameters from a key, if f is a plain function.
        num_inputs: At how many examples Jacobians are taken.

    Returns:
        The network with its seeds, examples and anatomy.

    Raises:
        InputError: An argument that `isometry.ensemble` refuses too; x holds no
            floating numbers and is looked up in no embedding.
    """
    # A list of blocks becomes one network.
    f = _arguments.chained(f)
    function = _arguments.function_of(f)
    if isinstance(f, Network) and f.mode == "training":
        raise InputError(
            f"f is {checks.show(f)}, in training mode; write the network itself. Its "
            "training mode is used where training is judged."
        )
    # Shapes are enough to read the network; parameters are drawn when first asked for.
    xs, _ = _ensemble.inputs_of(f, xs)
    row = _draws.row_shapes(xs)
    seeds = _draws.seeds_of(f, keys, params=params, sample=sample)
    anatomy = _run.read(function, (seeds.shapes(), row))
    return Subject(
        name=name,
        f=f,
        seeds=seeds,
        xs=xs,
        few=jax.tree.map(lambda leaf: _draws.spaced(leaf, num_inputs), xs),
        anatomy=anatomy,
        span=_span(anatomy),
        training=_training_of(f),
    )


def _span(anatomy: Anatomy) -> Span:
    """Return the two points of the end-to-end Jacobian.

    It begins at the input, or at the embedding if x is tokens, with a mask or without.
    """
    is_floating = bool(_spans.floating_leaves_of_x(anatomy))
    if is_floating and not _spans.holds_tokens(anatomy):
        return "end_to_end"
    embedding = next(iter(anatomy.embeddings), None)
    if embedding is None:
        raise InputError(
            f"xs holds no floating numbers and is looked up in no embedding; "
            f"{_spans.where_to_start(anatomy)}"
        )
    return (embedding.name, "output")


def _training_of(f: Map) -> Network | None:
    """Return the training mode of a network that has one of its own."""
    if not isinstance(f, Network):
        return None
    try:
        return f.training
    except NotDefined:
        return None
