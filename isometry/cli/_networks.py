"""What every command about networks is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass

from isometry.cli import _options


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a command is asked for; each command adds its own.

    Attributes:
        schemes: Names of schemes; none for the default ones.
        model: "package.module:function", or None for perceptrons.
        width: Hidden width of the perceptrons.
        depth: Number of their weight layers.
        activation: Name of their activation.
        data: What --data names; None for a default.
        seeds: Number of networks of each scheme.
        inputs: Number of examples at which Jacobians are taken.
        seed: The seed of everything random.
    """

    schemes: Sequence[str]
    model: str | None
    width: int
    depth: int
    activation: str
    data: str | None
    seeds: int
    inputs: int
    seed: int

    def check(self) -> None:
        """Refuse numbers out of range, and options that have no effect."""
        # Imported here, as everywhere in commands: they bring JAX with them.
        from isometry._internal import checks
        from isometry._internal.errors import InputError

        of_perceptrons = {
            "--width": (self.width, _options.WIDTH),
            "--depth": (self.depth, _options.DEPTH),
            "--activation": (self.activation, _options.ACTIVATION),
        }
        for option, (value, default) in of_perceptrons.items():
            if self.model is not None and value != default:
                raise InputError(
                    f"{option}={value} is of perceptrons, and --model has its own; "
                    "leave it out."
                )
        checks.integer("--width", self.width, low=1)
        checks.integer("--depth", self.depth, low=1, high=_options.MOST_LAYERS)
        checks.integer("--seeds", self.seeds, low=1)
        checks.integer("--inputs", self.inputs, low=1)
        _options.check_seed(self.seed)
