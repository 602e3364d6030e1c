"""The data and the perceptrons that a command is about, unless --model names one."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from isometry import data, networks
from isometry._internal import checks
from isometry._internal.errors import NotDefined
from isometry._internal.types import Key
from isometry.data import Data
from isometry.networks import Network

# Outputs of a network for data without targets, as many as there are digits.
_OUTPUTS = 10


@dataclass(frozen=True)
class Perceptrons:
    """What perceptrons are asked for.

    Attributes:
        schemes: Names of schemes; none for the default ones.
        width: Hidden width.
        depth: Number of weight layers.
        activation: Name of the activation.
    """

    schemes: Sequence[str]
    width: int
    depth: int
    activation: str

    def draw_from(
        self, default: Sequence[str], source: Data
    ) -> tuple[dict[str, Network], dict[str, str]]:
        """Return the networks by scheme, and the schemes that do not exist here.

        Args:
            default: The schemes if none is named.
            source: The inputs and targets, which fix the first and last width.

        Returns:
            Networks by name; and of the default schemes those that are not defined for
            these networks, with the reason.

        Raises:
            NotDefined: A scheme that was named is not defined for these networks.
        """
        n_in = source.xs.shape[1]
        n_out = _num_outputs(source)
        nets, undefined = {}, {}
        for name in dict.fromkeys(self.schemes) or default:
            # The identity has as many outputs as inputs.
            width = n_in if name == "identity" else self.width
            label = name
            if width != self.width and self.depth > 1:
                label = f"{name} (width {width})"
            widths = [n_in, *[width] * (self.depth - 1), n_out]
            try:
                nets[label] = networks.mlp(widths, self.activation, name)
            except NotDefined as error:
                if self.schemes:
                    raise
                undefined[name] = str(error)
        return nets, undefined


def _num_outputs(source: Data) -> int:
    """Return the number of classes, or of the columns of real targets."""
    targets = source.targets
    if targets is None:
        return _OUTPUTS
    if jnp.issubdtype(targets.dtype, jnp.integer):
        # Labels of a single class make two.
        return max(int(targets.max()) + 1, 2)
    return targets.shape[1]


def described(data: str | None, source: Data, *, is_drawn: bool) -> str:
    """Say in a line what the numbers were measured on.

    Args:
        data: What --data names, or None.
        source: The data.
        is_drawn: Whether they were drawn for a --model without --data.
    """
    num_examples = len(jax.tree.leaves(source.xs)[0])
    if is_drawn:
        return f"{num_examples} examples drawn at random, as --data names none"
    what = f"{num_examples} examples of {data or 'digits'}"
    return what if source.targets is not None else f"{what}, without targets"


def load(name: str, key: Key) -> Data:
    """Return the inputs and targets that --data names."""
    if name == "digits":
        return data.digits()
    if name == "gaussian":
        return data.gaussian(key, 1024, 64)
    # A word that is no path is a misspelt name.
    if "." not in name and not os.path.exists(name):
        known = ("digits", "gaussian", "FILE.npy", "FILE.npz", "FOLDER")
        checks.one_of("--data", name, known)
    return data.load(name)
