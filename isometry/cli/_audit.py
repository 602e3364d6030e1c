"""`isometry audit`: a table of flags, their picture and their numbers."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

from typer import Option

from isometry.cli import _cache, _exit_codes, _networks, _options, _terminal
from isometry.cli._command import Command, split

if TYPE_CHECKING:
    from isometry._internal.types import Key
    from isometry.data import Data
    from isometry.networks import Network
    from isometry.verdicts import Reports

SCHEMES = (
    "orthogonal",
    "identity",
    "partial_identity",
    "zer_o",
    "gaussian",
    "xavier",
    "kaiming",
)

# Labels that an audit tells of a network, for the length of the bar.
_NUM_PARTS = 9

_SUMMARY = "Say what will go wrong in training, and what to do."
_TEXT = """For each scheme the singular values of the input-output Jacobian are
measured, and flags are raised. The data are handwritten digits, or what --data names;
for a --model without --data, examples and targets are drawn at random.

A network of your own: --model package.module:function, where the function returns a
Network, or a pair: a Flax module, or a function of a key that builds an Equinox module,
and one example.
"""
_EXAMPLE = "isometry audit --scheme orthogonal,partial_identity --depth 12"


@dataclass(frozen=True, kw_only=True)
class Settings(_networks.Settings):
    """What the command is asked for.

    Attributes:
        train_steps: Number of steps of the training probe.
    """

    train_steps: int

    def check(self) -> None:
        """Refuse numbers that are too small, and options that have no effect."""
        # Imported here, as everywhere in commands: it brings JAX with it.
        from isometry._internal import checks

        super().check()
        checks.integer("--train-steps", self.train_steps, low=0)


@dataclass(frozen=True)
class Outputs:
    """Where the results go.

    Attributes:
        out: The folder for audit.json and audit.png.
        html: The file for the report as a web page, or None.
        as_json: Whether the JSON is printed, and not the table.
    """

    out: str
    html: str | None
    as_json: bool

    def prepare(self) -> pathlib.Path:
        """Make the folders, and return that of audit.json.

        Raises:
            InputError: A path cannot be written to.
            MissingExtra: A library that draws is not installed.
        """
        from isometry import store
        from isometry._internal import checks
        from isometry._internal.errors import InputError

        checks.extra("matplotlib", "plot")
        if self.html is not None:
            checks.extra("jinja2", "report")
            if os.path.isdir(self.html) or not os.path.basename(self.html):
                raise InputError(
                    f"--html={self.html!r} is a folder; write the name of a file, "
                    "such as report.html."
                )
            store.prepare(pathlib.Path(self.html).parent)
        return store.prepare(self.out)


def audit(  # noqa: PLR0917 (typer reads the options off the signature)
    scheme: Annotated[
        list[str] | None,
        Option(help="A scheme; repeat or separate by commas. Default: seven."),
    ] = None,
    model: _options.Model = None,
    width: _options.Width = _options.WIDTH,
    depth: _options.Depth = _options.DEPTH,
    activation: _options.ActivationName = _options.ACTIVATION,
    data: _options.Data = None,
    seeds: _options.Seeds = 8,
    inputs: _options.Inputs = 16,
    train_steps: Annotated[
        int, Option(help="Steps of the training probe; 0 for none.")
    ] = 200,
    out: Annotated[
        str, Option(help="Folder for audit.json and audit.png.")
    ] = "isometry-audit",
    html: Annotated[
        str | None,
        Option(help="File for a report to send to a colleague: one web page."),
    ] = None,
    json: _options.Json = False,
    fail_on: Annotated[
        list[str] | None,
        Option(
            help="Exit with 1 if a scheme raises this flag, with 3 if one was not "
            "judged by it; repeatable."
        ),
    ] = None,
    seed: _options.Seed = 0,
    no_cache: _options.NoCache = False,
) -> int:
    """Read the options, and run the command."""
    _cache.prepare(is_off=no_cache)
    settings = Settings(
        schemes=split("--scheme", scheme),
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
    outputs = Outputs(out=out, html=html, as_json=json)
    return run(settings, outputs, split("--fail-on", fail_on))


COMMAND = Command(
    name="audit", function=audit, summary=_SUMMARY, text=_TEXT, example=_EXAMPLE
)


def run(settings: Settings, outputs: Outputs, fail_on: Sequence[str]) -> int:
    """Check everything, audit, write the files, print.

    Args:
        settings: What to audit.
        outputs: Where the results go.
        fail_on: Flags that make the exit code 1 if one is raised, and 3 if one is
            neither raised nor clear.

    Returns:
        The exit code.
    """
    import jax

    from isometry import plots, store, verdicts
    from isometry._internal import checks, provenance, strict_json
    from isometry.cli import _perceptrons

    settings.check()
    for flag in fail_on:
        checks.one_of("--fail-on", flag, verdicts.flag_names())
    is_drawn = settings.model is not None and settings.data is None
    # Networks, data and the probe draw apart: other data, and the same networks.
    key_nets, key_data, key_rest = jax.random.split(jax.random.key(settings.seed), 3)
    num_networks = len(settings.schemes) or len(SCHEMES)
    with _terminal.progress(_NUM_PARTS * num_networks) as tell:
        # It takes a second, and the first line is not to wait for it. Other data may be
        # refused, in one line.
        if settings.model is None and settings.data in (None, "digits"):
            tell("reading digits")
        nets, undefined, source = _networks_and_data(settings, key_data)
        # Refused now, and not after minutes of measuring.
        folder = outputs.prepare()
        found = verdicts.audit(
            nets,
            jax.random.split(key_nets, settings.seeds),
            source.xs,
            targets=source.targets,
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
        "data": _perceptrons.described(settings.data, source, is_drawn=is_drawn),
        **reports.as_dict(),
    }
    # All files are there before anything is printed, whoever reads the output.
    written = store.write_report(folder / "audit", result, figure)
    if outputs.html is not None:
        reports.to_html(outputs.html)
        written.append(pathlib.Path(outputs.html))
    if outputs.as_json:
        print(strict_json.dumps(result), end="")
    else:
        _print(reports)
        _terminal.show(f"data: {result['data']}")
    _terminal.report_files(written, as_json=outputs.as_json)
    return exit_code(reports, fail_on)


def exit_code(reports: "Reports", fail_on: Sequence[str]) -> int:
    """Return the exit code, and say on stderr which networks were not judged.

    Args:
        reports: What was found.
        fail_on: The flags of --fail-on.
    """
    if not fail_on:
        return _exit_codes.CLEAN
    is_raised = False
    is_judged = True
    for name, report in reports.items():
        for flag in (report.flags[wanted] for wanted in dict.fromkeys(fail_on)):
            # What training ends by itself, as zeros in a last layer, is no failure.
            if flag.raised:
                is_raised = is_raised or not flag.recovering
            elif flag.state != "clear":
                is_judged = False
                state = flag.state.replace("_", " ")
                _terminal.complain(f"{name}: {flag.name} is {state}: {flag.reason}")
    for name, why in reports.undefined.items():
        is_judged = False
        _terminal.complain(f"{name}: not defined, and judged by no flag: {why}")
    if is_raised:
        return _exit_codes.RAISED
    return _exit_codes.CLEAN if is_judged else _exit_codes.UNJUDGED


def _networks_and_data(
    settings: Settings, key: "Key"
) -> tuple["Mapping[str, Network]", dict[str, str], "Data"]:
    """Return the networks, those that do not exist with the reason, and the data."""
    from isometry.cli import _model, _perceptrons

    if settings.model is not None:
        nets, source = _model.networks_and_data(
            settings.model, settings.schemes, data=settings.data, key=key
        )
        return nets, {}, source
    source = _perceptrons.load(settings.data or "digits", key)
    perceptrons = _perceptrons.Perceptrons(
        schemes=settings.schemes,
        width=settings.width,
        depth=settings.depth,
        activation=settings.activation,
    )
    return *perceptrons.draw_from(SCHEMES, source), source


def _print(reports: "Reports") -> None:
    """Print the table; of a single network its verdict."""
    from isometry import verdicts

    console = _terminal.console()
    console.print(verdicts.rich_table(reports, console.width))
    if len(reports) == 1:
        (report,) = reports.values()
        _terminal.show(f"\n{report}\n\n{report.layers()}")
