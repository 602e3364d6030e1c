"""What the commands share: options, the task they are about, a bar, how they are interrupted and refused."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from typer import Option

from isometry._internal import interrupts

EXIT_CLEAN, EXIT_RAISED = 0, 1
EXIT_PIPE = 141  # what a shell says of a program that a closed pipe ends: 128 + SIGPIPE

# The perceptrons that commands draw unless another is asked for.
WIDTH, DEPTH, ACTIVATION = 128, 6, "tanh"

Width = Annotated[int, Option(help="Hidden width.")]
Depth = Annotated[int, Option(help="Number of weight layers.")]
ActivationName = Annotated[str, Option("--activation", help="Name of the activation.")]
Inputs = Annotated[int, Option(help="Inputs at which Jacobians are taken; all of the data if there are fewer.")]
Seeds = Annotated[int, Option(help="Networks drawn for each scheme.")]
Data = Annotated[str, Option(help="digits, gaussian, a .npy or .npz file, or MNIST's or CIFAR-10's files.")]
DataOrDefault = Annotated[
    str | None,
    Option(
        help="digits, gaussian, a .npy or .npz file, or MNIST's or CIFAR-10's files. Default: digits; of a --model "
        "Gaussian numbers, or tokens."
    ),
]
Model = Annotated[str | None, Option(help="A network of your own: package.module:function.")]
Json = Annotated[bool, Option("--json", help="Print the JSON instead of the table.")]
Seed = Annotated[int, Option(help="Seed of everything random.")]


def command(app: Any, name: str, text: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register a command, in which Ctrl-C is `interrupts.Stopped`; the lines of a paragraph of `text` are one."""
    paragraphs = "\n\n".join(" ".join(lines.split()) for lines in text.split("\n\n"))

    def register(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def stoppable(*args: Any, **kwargs: Any) -> int:
            try:
                return function(*args, **kwargs)
            except KeyboardInterrupt:
                raise interrupts.Stopped from None
            except (BrokenPipeError, SystemExit):  # `| head` has read enough: rich, and typer, would end with 1
                abandon_output()
                return EXIT_PIPE

        return app.command(name=name, help=paragraphs)(stoppable)

    return register


def abandon_output() -> None:
    """Send what is left in the buffer of standard output nowhere, so that Python does not fail on it at its end."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def split(call: str, option: str, values: list[str] | None) -> list[str]:
    """The words of a repeatable option, which may be separated by commas as well; none only if it is left out."""
    from isometry import _checks

    words = [word.strip() for value in values or [] for word in value.split(",") if word.strip()]
    if values and not words:
        raise _checks.InputError(
            f"{call}(): {option}={','.join(values)!r} names nothing; write a name or leave it out."
        )
    return words


def load(call: str, name: str, key: Any) -> Any:
    """What --data names: inputs and targets."""
    from isometry import _checks, data

    if name == "digits":
        return data.digits()
    if name == "gaussian":
        return data.gaussian(key, 1024, 64)
    if "." not in name and not os.path.exists(name):
        _checks.one_of(call, among=("digits", "gaussian", "FILE.npy", "FILE.npz", "FOLDER"), **{"--data": name})
    return data.load(name)


def networks_of(
    names: list[str], default: Sequence[str], width: int, depth: int, activation: str, xs: Any, targets: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """The networks by scheme, and of the `default` schemes those that do not exist here with the reason; of named ones
    that is an error."""
    import jax.numpy as jnp

    from isometry import _checks, networks

    n_in, n_out = xs.shape[1], 10
    if targets is not None:
        n_out = max(int(targets.max()) + 1, 2) if jnp.issubdtype(targets.dtype, jnp.integer) else targets.shape[1]
    nets, undefined = {}, {}
    for name in dict.fromkeys(names) or default:
        hidden = n_in if name == "identity" else width
        label = name if hidden == width or depth == 1 else f"{name} (width {hidden})"
        try:
            nets[label] = networks.mlp([n_in, *[hidden] * (depth - 1), n_out], activation, name)
        except _checks.NotDefined as error:
            if names:
                raise
            undefined[name] = str(error)
    return nets, undefined


def model_and_data(
    call: str, model: str, schemes: Sequence[str], *, data: str | None, key: Any
) -> tuple[Any, Any, Any]:
    """The networks of --model by scheme, or alone as its own code draws it; and data for it, drawn if none is named."""
    from isometry import _cli_model

    net = _cli_model.network_of(model)
    nets = net.with_schemes(list(dict.fromkeys(schemes))) if schemes else {model.partition(":")[2]: net}
    if data is None:
        return nets, _cli_model.inputs_of(net, key), None
    xs, targets = load(call, data, key)
    return nets, _cli_model.fitted(net, xs), targets


def of_perceptrons(model: str | None, given: dict[str, tuple[Any, Any]]) -> None:
    """Refuse options that describe a perceptron beside --model. given: option -> (value, default)."""
    from isometry._internal.errors import InputError

    for option, (value, default) in given.items():
        if model is not None and value != default:
            raise InputError(f"{option}={value} is of perceptrons, and --model has its own; leave it out.")


def progress(total: int, is_plain: bool = False) -> Any:
    """A context that yields `tell(stage)`: a bar on stderr; where that is not a terminal, a line each if `is_plain`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    @contextlib.contextmanager
    def bar() -> Any:
        console = Console(stderr=True)
        if not console.is_terminal:  # rich 13 ends even a bar that is disabled with an empty line
            yield functools.partial(print, file=sys.stderr, flush=True) if is_plain else lambda stage: None
            return
        columns = (BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task("starting", total=total)
            started = [False]

            def tell(stage: str) -> None:
                shown.update(task, description=stage, advance=float(started[0]))
                started[0] = True

            yield tell

    return bar()


def console(columns: int = 140) -> Any:
    """The terminal, or wherever stdout goes, there so many columns wide."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal else Console(width=columns)


def told(written: Sequence[Any], as_json: bool) -> None:
    """Say what was written; beside JSON on stderr."""
    if written:
        print("wrote " + " and ".join(map(str, written)), file=sys.stderr if as_json else sys.stdout)
