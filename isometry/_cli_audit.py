"""`isometry audit`: a table of flags, their picture and their numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option, Typer

from isometry import _cli_common as common

if TYPE_CHECKING:
    from isometry.networks import Network
    from isometry.verdicts import Reports

_CALL = "isometry audit"
SCHEMES = (
    "orthogonal",
    "identity",
    "partial_identity",
    "zer_o",
    "gaussian",
    "xavier",
    "kaiming",
)
_HELP = """Measure, for each scheme, the singular values of the input-output Jacobian on
real data, and flag what will go wrong in training.

Example: isometry audit --scheme orthogonal,partial_identity --activation relu --depth
12 --out relu

A network of one's own: isometry audit --model package.module:function, where the
function returns a Network, or a pair: a Flax module, or a function of a key that builds
an Equinox module, and one example.
"""


@dataclass(frozen=True)
class Settings:
    """What the command is asked for.

    Attributes:
        schemes: Names of schemes; none for the default ones.
        model: "package.module:function", or None for perceptrons.
        width: Hidden width of the perceptrons.
        depth: Number of their weight layers.
        activation: Name of their activation.
        data: What --data names; None for a default.
        seeds: Number of networks of each scheme.
        inputs: Number of examples at which Jacobians are taken.
        train_steps: Number of steps of the training probe.
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
    train_steps: int
    seed: int

    def check(self) -> None:
        """Refuse numbers that are too small."""
        # Imported here, as everywhere in commands: it brings JAX with it.
        from isometry._internal import checks

        common.of_perceptrons(
            self.model,
            {
                "--width": (self.width, common.WIDTH),
                "--depth": (self.depth, common.DEPTH),
                "--activation": (self.activation, common.ACTIVATION),
            },
        )
        for option, value, low in (
            ("--width", self.width, 1),
            ("--depth", self.depth, 1),
            ("--seeds", self.seeds, 1),
            ("--inputs", self.inputs, 1),
            ("--train-steps", self.train_steps, 0),
            ("--seed", self.seed, 0),
        ):
            checks.integer(option, value, low=low)


def add(app: Typer) -> None:
    """Register the command."""

    @common.command(app, "audit", _HELP)
    def audit(  # noqa: PLR0917 (typer reads the options off the signature)
        scheme: Annotated[
            list[str] | None,
            Option(help="A scheme; repeat or separate by commas. Default: seven."),
        ] = None,
        model: common.Model = None,
        width: common.Width = common.WIDTH,
        depth: common.Depth = common.DEPTH,
        activation: common.ActivationName = common.ACTIVATION,
        data: common.DataOrDefault = None,
        seeds: common.Seeds = 8,
        inputs: common.Inputs = 16,
        train_steps: Annotated[
            int, Option(help="Steps of the training probe; 0 for none.")
        ] = 200,
        out: Annotated[
            str, Option(help="Folder for audit.json and audit.png.")
        ] = "isometry-audit",
        json: common.Json = False,
        fail_on: Annotated[
            list[str] | None,
            Option(help="Exit with 1 if a scheme raises this flag; repeatable."),
        ] = None,
        seed: common.Seed = 0,
    ) -> int:
        settings = Settings(
            schemes=common.split(_CALL, "--scheme", scheme),
            model=model,
            width=width,
            depth=depth,
            activation=activation,
            data=data,
            seeds=seeds,
            inputs=inputs,
            train_steps=train_steps,
            seed=seed,
        )
        flags = common.split(_CALL, "--fail-on", fail_on)
        return run(settings, out=out, as_json=json, fail_on=flags)


def run(settings: Settings, *, out: str, as_json: bool, fail_on: Sequence[str]) -> int:
    """Check everything, audit, write audit.json and audit.png, print.

    Args:
        settings: What to audit.
        out: The folder for both files.
        as_json: Whether the JSON is printed, and not the table.
        fail_on: Flags that make the exit code 1 if one is raised.

    Returns:
        The exit code.
    """
    from isometry._internal import errors

    return errors.public(_CALL)(_run)(
        settings, out=out, as_json=as_json, fail_on=fail_on
    )


def _run(settings: Settings, *, out: str, as_json: bool, fail_on: Sequence[str]) -> int:
    # Imported here: `isometry --help` need not wait a second for JAX.
    import jax

    from isometry import plots, store, verdicts
    from isometry._internal import checks, provenance, strict_json

    settings.check()
    for flag in fail_on:
        checks.one_of("--fail-on", flag, verdicts.flag_names())
    # Networks, data and the probe draw apart: other data, and the same networks.
    key_nets, key_data, key_rest = jax.random.split(jax.random.key(settings.seed), 3)
    num_networks = max(len(settings.schemes), 1) if settings.model else len(SCHEMES)
    with common.progress(_NUM_PARTS * num_networks, is_plain=True) as tell:
        # It takes a second, and the first line is not to wait for it. Other data may be
        # refused, in one line.
        if settings.model is None and settings.data in (None, "digits"):
            tell("reading digits")
        nets, undefined, xs, targets = _asked(settings, key_data)
        # Both are refused now, and not after minutes of measuring.
        checks.extra("matplotlib", "plot")
        folder = store.prepare(out)
        found = verdicts.audit(
            nets,
            jax.random.split(key_nets, settings.seeds),
            xs,
            targets=targets,
            train_steps=settings.train_steps,
            key=key_rest,
            inputs=settings.inputs,
            progress=tell,
        )
        assert isinstance(found, verdicts.Reports), "of a mapping"
        # Schemes that do not exist at these widths have their line in the table too.
        reports = verdicts.Reports(found.reports, undefined | found.undefined)
        figure = plots.audit(reports)
    result = {
        "provenance": provenance.provenance(),
        "settings": asdict(settings),
        **reports.as_dict(),
    }
    # Both files are there before anything is printed, whoever reads the output.
    written = store.write_report(folder / "audit", result, figure)
    if as_json:
        print(strict_json.dumps(result), end="")
    else:
        _print(reports)
    common.told(written, as_json)
    is_failed = any(reports.raised(flag) for flag in fail_on)
    return common.EXIT_RAISED if is_failed else common.EXIT_CLEAN


# Labels that an audit tells of a network, for the length of the bar.
_NUM_PARTS = 9


def _asked(
    settings: Settings, key: Any
) -> tuple["Mapping[str, Network]", dict[str, str], Any, Any]:
    """Return the networks, those that do not exist, and the data."""
    # Examples for a network of one's own are drawn, unless --data names some.
    if settings.model is not None:
        nets, xs, targets = common.model_and_data(
            _CALL, settings.model, settings.schemes, data=settings.data, key=key
        )
        return nets, {}, xs, targets
    xs, targets = common.load(_CALL, settings.data or "digits", key)
    nets, undefined = common.networks_of(
        list(settings.schemes),
        SCHEMES,
        width=settings.width,
        depth=settings.depth,
        activation=settings.activation,
        xs=xs,
        targets=targets,
    )
    return nets, undefined, xs, targets


def _print(reports: "Reports") -> None:
    """Print the table; of a single network its verdict."""
    from isometry import verdicts

    # A log, or a page that a command is pasted into, has as many as a screen.
    console = common.console(columns=80)
    console.print(verdicts.rich_table(reports, console.width))
    if len(reports) == 1:
        (report,) = reports.values()
        print(f"\n{report}\n\n{report.layers()}")
