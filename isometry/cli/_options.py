"""Options that several commands share."""

from typing import Annotated

from typer import Option

# The perceptrons that commands draw unless another is asked for. Wide and deep enough
# that schemes differ; twice as large, the first audit would take minutes.
WIDTH, DEPTH, ACTIVATION = 128, 6, "tanh"

# More layers than any network has. With ten times as many, edges of laws would lose
# digits to rounding, and networks would take hours to build.
MOST_LAYERS = 100_000

# JAX keeps 32 bits of a seed: a larger one would be another seed without a word.
_LARGEST_SEED = 2**32 - 1

_SOURCES = "digits, gaussian, a .npy or .npz file, or MNIST's or CIFAR-10's files."

Width = Annotated[int, Option(help="Hidden width.")]
Depth = Annotated[int, Option(help="Number of weight layers.")]
ActivationName = Annotated[str, Option("--activation", help="Name of the activation.")]
Inputs = Annotated[
    int,
    Option(
        help="Inputs at which Jacobians are taken; all of the data if there are fewer."
    ),
]
Seeds = Annotated[int, Option(help="Networks drawn for each scheme.")]
Data = Annotated[
    str | None,
    Option(
        help=f"{_SOURCES} Default: digits; of a --model Gaussian numbers, or tokens."
    ),
]
# Read by `_model.network_of`.
Model = Annotated[
    str | None, Option(help="A network of your own: package.module:function.")
]
Json = Annotated[bool, Option("--json", help="Print the JSON instead of the table.")]
Seed = Annotated[int, Option(help="Seed of everything random.")]
# Every command that compiles has it, and hands it to `_cache.prepare`.
NoCache = Annotated[
    bool,
    Option(
        "--no-cache",
        help="Compile everything anew, and keep nothing for the next command.",
    ),
]


def check_seed(seed: int) -> None:
    """Refuse a seed that is negative, or that JAX would take for another one."""
    # Imported here, as everywhere in commands: it brings JAX with it.
    from isometry._internal import checks

    checks.integer("--seed", seed, high=_LARGEST_SEED)
