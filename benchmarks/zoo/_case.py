"""A network that is no perceptron: its architecture, its fault, and its truth."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from isometry.networks import Network

# In order of gravity, as an audit prints them.
FLAGS = (
    "zero_gradient",
    "rank_constrained_training",
    "locked_symmetry",
    "duplicate_blocks",
    "dead_branch",
    "dead_units",
    "rank_collapse",
    "attention_collapse",
    "saturated_units",
    "vanishing",
    "exploding",
    "ordered_phase",
    "chaotic_phase",
    "anisometric",
    "outlier_dominated",
    "below_floor",
)

# What a shallow critical network with random weights must not raise. Not asked of it:
# anisometric and outlier_dominated, which depend on depth and width, and which only
# exact isometries are known to be free of.
_HEALTHY = frozenset(FLAGS) - {"anisometric", "outlier_dominated"}

# What an unrelated fault must not raise: the facts of a draw. Flags of the spectrum are
# asked of a planted network only where its fault decides them.
_FACTS = frozenset(
    {
        "zero_gradient",
        "locked_symmetry",
        "duplicate_blocks",
        "dead_branch",
        "dead_units",
        "attention_collapse",
        "exploding",
    }
)

# Of matrices that are chosen and not drawn (ZerO: zeros, identities, Hadamard) these
# are not asked: whether a unit is locked depends on which layers meet.
NOT_OF_CHOSEN = (
    "zero_gradient rank_constrained_training locked_symmetry dead_units rank_collapse "
    "vanishing ordered_phase below_floor"
)

# Weights of one seed, by their path: "blocks/first/w". A plant changes them in place.
Weights = dict[str, np.ndarray]
Plant = Callable[[Weights], None]


@dataclass(frozen=True, eq=False)
class Case:
    """One network of the zoo.

    Attributes:
        name: Unique, and the name of a file.
        build: Returns its network. Cases of one architecture share it, so that their
            programs are compiled once.
        inputs: The shape of one input; if `tokens` is set, of whole numbers below it.
        plant: What is broken in the drawn parameters; None if nothing is.
        raised: Flags that must be raised.
        unasked: Flags of which construction does not tell the truth.
        also_clear: Flags that must be clear although most cases do not ask them.
        tokens: The number of different tokens; None if inputs are Gaussian.
    """

    name: str
    build: Callable[[], Network]
    inputs: tuple[int, ...]
    plant: Plant | None = None
    raised: str = ""
    unasked: str = ""
    also_clear: str = ""
    tokens: int | None = None

    @property
    def quoted(self) -> bool:
        """Whether figures are quoted on it; a bit of the hash of its name decides."""
        return bool(hashlib.sha256(self.name.encode()).digest()[0] & 1)

    @property
    def truth(self) -> dict[str, bool | None]:
        """Each flag: must be raised (True), must be clear (False), not asked (None)."""
        raised = set(self.raised.split())
        asked = _HEALTHY if self.plant is None else _FACTS
        clear = asked | set(self.also_clear.split())
        clear = clear - raised - set(self.unasked.split())
        truth: dict[str, bool | None] = dict.fromkeys(FLAGS)
        truth.update(dict.fromkeys(clear, False))
        truth.update(dict.fromkeys(raised, True))
        return truth

    def draw_inputs(self, key: Array, num_examples: int) -> Array:
        """Draw examples along a first axis."""
        shape = (num_examples, *self.inputs)
        if self.tokens is not None:
            return jax.random.randint(key, shape, minval=0, maxval=self.tokens)
        return jax.random.normal(key, shape)

    def planted(self, keys: Array) -> dict:
        """Draw parameters with the fault in them, stacked over keys."""
        init = self.build().init
        seeds = [self._planted_one(init(key)) for key in keys]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)

    def _planted_one(self, params: dict) -> dict:
        """Return the parameters of one seed with the fault in them."""
        paths, structure = jax.tree_util.tree_flatten_with_path(params)
        # Copies, because arrays of JAX are read-only.
        weights = {path_name(path): np.array(leaf) for path, leaf in paths}
        assert self.plant is not None
        self.plant(weights)
        return jax.tree.unflatten(structure, list(weights.values()))


def path_name(path: tuple) -> str:
    """Return a path as text: "blocks/first/w"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
