"""`isometry spectrum`: singular values of a scheme's networks beside their law."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from isometry.cli import _cache, _exit_codes, _networks, _options, _terminal
from isometry.cli._command import Command, split

if TYPE_CHECKING:
    from jaxtyping import Array, PyTree
    from matplotlib.figure import Figure

    from isometry._internal.types import Key
    from isometry.cli._summary import Line
    from isometry.data import Data
    from isometry.measure._record import Spectrum
    from isometry.networks import Network
    from isometry.theory import Law

_SUMMARY = "Measure singular values of Jacobians beside their law."
_TEXT = """Statistics of the input-output Jacobian over seeds and inputs, and beside
them what the law of infinite width says, where there is one. The inputs are handwritten
digits, or what --data names; for a --model without --data they are drawn at random.

A network of your own: --model package.module:function, where the function returns a
Network, or a pair: a Flax module, or a function of a key that builds an Equinox module,
and one example.
"""
_EXAMPLE = "isometry spectrum --scheme orthogonal,gaussian --span hidden"

_DEFAULT_SCHEMES = ("orthogonal",)

# Two points, as messages about Python's arguments name them.
_PAIR = re.compile(r"span=\(['\"]([^'\"]*)['\"], ['\"]([^'\"]*)['\"]\)")

# Height and width of a panel in inches: a column of a paper.
_PANEL = (3.2, 5.0)


@dataclass(frozen=True, kw_only=True)
class Settings(_networks.Settings):
    """What the command is asked for.

    Attributes:
        span: The name of a span, or two points separated by a comma.
        method: The name of a method.
    """

    span: str
    method: str

    def check(self) -> None:
        """Refuse numbers that are too small, unknown names, options without effect."""
        from isometry import networks
        from isometry._internal import checks
        from isometry.measure import methods

        super().check()
        # The names of points are checked against the anatomy, when they are measured.
        if "," not in self.span:
            checks.one_of("--span", self.span, networks.SPANS)
        checks.one_of("--method", self.method, methods.METHODS)
        # Between z_1 and z_(depth-1) there is nothing in fewer layers.
        if self.span == "hidden" and self.model is None:
            checks.integer("--span hidden, --depth", self.depth, low=3)

    @property
    def points(self) -> str | tuple[str, str]:
        """The span as `isometry.spectrum` takes it: a name, or two points."""
        first, comma, last = self.span.partition(",")
        return (first.strip(), last.strip()) if comma else self.span


@dataclass(frozen=True)
class Judged:
    """A spectrum and its law.

    Attributes:
        spectrum: What was measured.
        statistics: Statistics over seeds, beside the law's.
        law: The law, or None.
        no_law: Why there is no law, or none whose numbers can be found.
        excesses: How many times too far apart the two are, by statistic; empty where
            they are consistent; None if they are not compared.
        not_compared: Why not.
    """

    spectrum: "Spectrum"
    statistics: "Mapping[str, Line]"
    law: "Law | None" = None
    no_law: str | None = None
    excesses: Mapping[str, float] | None = None
    not_compared: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain: dict[str, Any] = {
            "spectrum": repr(self.spectrum),
            "size": self.spectrum.size,
            "structural_zeros": self.spectrum.structural_zeros,
            "statistics": {
                name: line.as_dict() for name, line in self.statistics.items()
            },
            "law": None,
            "no_law": self.no_law,
            "consistent": None,
            "excesses": self.excesses,
            "not_compared": self.not_compared,
        }
        if self.law is not None:
            plain["law"] = self.law.name
        if self.excesses is not None:
            plain["consistent"] = not self.excesses
        return plain


def spectrum(  # noqa: PLR0917 (typer reads the options off the signature)
    scheme: Annotated[
        list[str] | None,
        Option(help="A scheme; repeat or separate by commas. Default: orthogonal."),
    ] = None,
    model: _options.Model = None,
    width: _options.Width = _options.WIDTH,
    depth: _options.Depth = _options.DEPTH,
    activation: _options.ActivationName = _options.ACTIVATION,
    data: _options.Data = None,
    seeds: _options.Seeds = 8,
    inputs: _options.Inputs = 16,
    span: Annotated[
        str,
        Option(
            help="end_to_end; hidden: from z_1 to z_(depth-1); or two points of the "
            "anatomy: embed,output."
        ),
    ] = "end_to_end",
    method: Annotated[str, Option(help="auto, dense, product or lanczos.")] = "auto",
    out: Annotated[
        str | None,
        Option(help="Folder for spectrum.json and spectrum.png; none if left out."),
    ] = None,
    json: _options.Json = False,
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
        span=span,
        method=method,
        seed=seed,
    )
    return run(settings, out=out, as_json=json)


COMMAND = Command(
    name="spectrum", function=spectrum, summary=_SUMMARY, text=_TEXT, example=_EXAMPLE
)


def run(settings: Settings, *, out: str | None, as_json: bool) -> int:
    """Check everything, measure, write, print; return the exit code."""
    import jax

    from isometry import store
    from isometry._internal import checks, provenance, strict_json
    from isometry.cli import _perceptrons

    settings.check()
    is_drawn = settings.model is not None and settings.data is None
    key_nets, key_data, key_probes = jax.random.split(jax.random.key(settings.seed), 3)
    keys = jax.random.split(key_nets, settings.seeds)
    judged = {}
    with _terminal.progress(len(settings.schemes) + 1) as tell:
        # The first line is not to wait for it. Other data may be refused, in one line.
        if settings.model is None and settings.data in (None, "digits"):
            tell("reading digits")
        nets, source = _networks_and_data(settings, key_data)
        if out is not None:
            checks.extra("matplotlib", "plot")
        for net in nets.values():
            _refuse_span(net, settings)
        folder = None if out is None else store.prepare(out)
        for name, net in nets.items():
            tell(f"{name}: Jacobians and law")
            draw = Draw(keys=keys, xs=source.xs, key=key_probes)
            judged[name] = _measured(net, draw, settings)
    rows = {name: one.as_dict() for name, one in judged.items()}
    result = {
        "provenance": provenance.provenance(),
        "settings": asdict(settings),
        "data": _perceptrons.described(settings.data, source, is_drawn=is_drawn),
        "spectra": rows,
    }
    written = []
    if folder is not None:
        written = store.write_report(folder / "spectrum", result, _picture(judged))
    if as_json:
        print(strict_json.dumps(result), end="")
    else:
        _print(judged)
        _terminal.show(f"data: {result['data']}")
    _terminal.report_files(written, as_json=as_json)
    return _exit_codes.CLEAN


def _networks_and_data(
    settings: Settings, key: "Key"
) -> tuple["Mapping[str, Network]", "Data"]:
    """Return the networks by name, and the data."""
    from isometry.cli import _model, _perceptrons

    if settings.model is not None:
        return _model.networks_and_data(
            settings.model, settings.schemes, data=settings.data, key=key
        )
    source = _perceptrons.load(settings.data or "digits", key)
    perceptrons = _perceptrons.Perceptrons(
        schemes=settings.schemes or _DEFAULT_SCHEMES,
        width=settings.width,
        depth=settings.depth,
        activation=settings.activation,
    )
    nets, _ = perceptrons.draw_from((), source)
    return nets, source


def _refuse_span(net: "Network", settings: Settings) -> None:
    """Refuse a span that the network does not have, before anything is written.

    Of tokens the message says which one to write instead.
    """
    from isometry._internal.errors import InputError
    from isometry.measure import _spans

    if net.example is None:
        return
    span = settings.points
    is_floating = bool(_spans.floating_leaves_of_x(net.anatomy))
    if span == "end_to_end" and not is_floating and net.anatomy.embeddings:
        start = net.anatomy.embeddings[0].name
        raise InputError(
            f"x is tokens, which have no derivative; write --span {start},output."
        )
    try:
        if isinstance(span, str):
            _spans.ends(net.anatomy, span)
        else:
            _spans.resolve(net, net.anatomy, span)
    except InputError as error:
        # A span of Python, a pair in brackets, as the option is written.
        message = _PAIR.sub(r"--span \1,\2", error.message)
        message = message.replace("span=", "--span: ", 1)
        raise InputError(message) from None


@dataclass(frozen=True)
class Draw:
    """What is drawn for a measurement.

    Attributes:
        keys: A key for each network.
        xs: The data.
        key: Draws probes.
    """

    keys: "Array"
    xs: "PyTree[Array]"
    key: "Key"


def _measured(net: "Network", draw: Draw, settings: Settings) -> Judged:
    """Measure the spectrum of a network, and judge it by its law."""
    import jax

    from isometry.measure import _draws, _ensemble

    points = jax.tree.map(lambda leaf: _draws.spaced(leaf, settings.inputs), draw.xs)
    networks: dict[str, Any] = {"keys": draw.keys}
    # A scheme that is fitted to data is fitted to all of it, not to the few inputs.
    if net.data_driven:
        params = _draws.draw_seeds(net.init, draw.keys)
        networks = {"params": _draws.adjust_seeds(net, params, draw.xs)}
    sp = _ensemble.ensemble(
        net,
        xs=points,
        method=settings.method,
        span=settings.points,
        key=draw.key,
        **networks,
    )
    return judge(net, sp, span=settings.points, points=points)


def judge(
    net: "Network",
    sp: "Spectrum",
    *,
    span: str | tuple[str, str],
    points: "PyTree[Array]",
) -> Judged:
    """Compare a spectrum with the law of its network, if that has one."""
    from isometry._internal.errors import InputError
    from isometry.cli import _summary

    if not isinstance(span, str):
        return Judged(
            spectrum=sp,
            statistics=_summary.summary(sp),
            no_law="laws are known of whole spans, not between two points",
        )
    try:
        law = net.law(span, points)
        statistics = _summary.summary(sp, law)
    # A law may exist, and its edges not be found.
    except (InputError, ArithmeticError) as error:
        return Judged(
            spectrum=sp,
            statistics=_summary.summary(sp),
            no_law=_summary.reason(error),
        )
    excesses, not_compared = _summary.excesses(sp, law)
    return Judged(
        spectrum=sp,
        statistics=statistics,
        law=law,
        excesses=excesses,
        not_compared=not_compared,
    )


def _picture(judged: Mapping[str, Judged]) -> "Figure":
    """Draw a panel for each scheme, under its law where there is one."""
    from matplotlib.figure import Figure

    from isometry import plots
    from isometry.plots._style import literal

    # Below one another, so that their axes can be compared.
    height, width = _PANEL
    figure = Figure(figsize=(width, height * len(judged)), layout="constrained")
    panels = figure.subplots(len(judged), squeeze=False)[:, 0]
    for ax, (name, one) in zip(panels, judged.items(), strict=True):
        if one.law is None:
            plots.spectrum(one.spectrum, ax, color=plots.COLOURS[0])
            ax.set_title(f"{literal(name)}: no law", fontsize=8)
        else:
            plots.overlay(one.spectrum, one.law, ax)
            corner = {"transform": ax.transAxes, "va": "top", "fontsize": 8}
            ax.text(0.02, 0.97, literal(name), **corner)
    return figure


def _print(judged: Mapping[str, Judged]) -> None:
    """Print a table for each network, and below it what its law says."""
    console = _terminal.console()
    for name, one in judged.items():
        table = _terminal.table(
            f"{name}: {one.spectrum!r}",
            {
                "statistic": "label",
                "mean": "number",
                "± s.e.": "number",
                "law": "number",
            },
        )
        for statistic, line in one.statistics.items():
            table.add_row(statistic, *line.cells())
        console.print(table)
        lines = one.statistics
        whys = {statistic: line.why for statistic, line in lines.items()}
        no_laws = {statistic: line.no_law for statistic, line in lines.items()}
        remarks = [
            *_reasons("no mean", whys),
            *_reasons("no value of the law", no_laws),
            _verdict(one.as_dict()),
        ]
        for remark in remarks:
            console.print(remark, highlight=False, markup=False)


def _reasons(label: str, reasons: Mapping[str, str]) -> list[str]:
    """Return a line for each reason, which several statistics may share."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if reason:
            names.setdefault(reason, []).append(name)
    return [f"{label} for {', '.join(of)}: {reason}" for reason, of in names.items()]


def _verdict(row: Mapping[str, Any]) -> str:
    """Say whether a spectrum is consistent with its law."""
    if row["law"] is None:
        return f"no law: {row['no_law']}"
    if row["consistent"] is None:
        return f"law: {row['law']}; not compared: {row['not_compared']}"
    if row["consistent"]:
        return f"consistent with {row['law']}"
    gaps = [f"{name} {ratio:.2g}" for name, ratio in row["excesses"].items()]
    return (
        f"not consistent with {row['law']}; gaps over what they may be: "
        f"{', '.join(gaps)}"
    )
