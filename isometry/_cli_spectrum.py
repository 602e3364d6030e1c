"""`isometry spectrum`: the singular values of the Jacobians of a scheme's networks, beside their law."""

from typing import Annotated, Any

from typer import Option

from isometry import _cli_common as common

_CALL = "isometry spectrum"
_HELP = """Measure the singular values of the input-output Jacobian of a scheme's networks on real data: their
statistics over seeds, and beside them what the law of infinite width says, where there is one.

Example: isometry spectrum --scheme orthogonal,gaussian --activation tanh --depth 12 --span hidden --out tanh

A network of one's own: isometry spectrum --model package.module:function, where the function returns a Network, or a
pair: a Flax module, or a function of a key that builds an Equinox module, and one example.
"""


def add(app: Any) -> None:
    """Register the command."""

    @common.command(app, "spectrum", _HELP)
    def spectrum(
        scheme: Annotated[
            list[str] | None, Option(help="A scheme; repeat or separate by commas. Default: orthogonal.")
        ] = None,
        model: common.Model = None,
        width: common.Width = common.WIDTH,
        depth: common.Depth = common.DEPTH,
        activation: common.ActivationName = common.ACTIVATION,
        data: common.DataOrDefault = None,
        seeds: common.Seeds = 8,
        inputs: common.Inputs = 16,
        span: Annotated[
            str,
            Option(help="end_to_end; hidden: from z_1 to z_(depth-1); or two points of the anatomy: embed,output."),
        ] = "end_to_end",
        method: Annotated[str, Option(help="auto, dense, product or lanczos.")] = "auto",
        out: Annotated[str | None, Option(help="Folder for spectrum.json and spectrum.png; none if left out.")] = None,
        json: common.Json = False,
        seed: common.Seed = 0,
    ) -> int:
        names = common.split(_CALL, "--scheme", scheme)
        return run(names, model, width, depth, activation, data, seeds, inputs, span, method, out, json, seed)


def run(
    schemes: list[str],
    model: str | None,
    width: int,
    depth: int,
    activation: str,
    data: str | None,
    seeds: int,
    inputs: int,
    span: str,
    method: str,
    out: str | None,
    as_json: bool,
    seed: int,
) -> int:
    """Check everything, measure, write, print; the exit code."""
    import jax

    from isometry import _checks, store
    from isometry._internal import errors, provenance, strict_json

    own = {
        "--width": (width, common.WIDTH),
        "--depth": (depth, common.DEPTH),
        "--activation": (activation, common.ACTIVATION),
    }
    errors.public(_CALL)(common.of_perceptrons)(model, own)
    _check(model, width, depth, seeds, inputs, seed, span, method)
    key_nets, key_data, key_probes = jax.random.split(jax.random.key(seed), 3)
    if model is None:
        xs, targets = common.load(_CALL, data or "digits", key_data)
        nets, _ = common.networks_of(schemes or ["orthogonal"], (), width, depth, activation, xs, targets)
    else:
        nets, xs, _ = common.model_and_data(_CALL, model, schemes, data=data, key=key_data)
    if out is not None:
        _checks.extra(_CALL, "matplotlib", "plot")
    folder = None if out is None else store.prepare(out)
    keys, found = jax.random.split(key_nets, seeds), {}
    with common.progress(len(nets)) as tell:
        for name, net in nets.items():
            tell(name)
            errors.public(_CALL)(_check_tokens)(net, span)
            found[name] = _of(net, keys, xs, inputs, _points(span), method, key_probes)
    settings = {
        "model": model, "width": width, "depth": depth, "activation": activation, "data": data, "seeds": seeds,
        "inputs": inputs,
        "span": span, "method": method, "seed": seed,
    }  # fmt: skip
    rows = {name: row for name, (_, _, row) in found.items()}
    result = {"provenance": provenance.provenance(), "settings": settings, "spectra": rows}
    written = [] if folder is None else store.write_report(folder / "spectrum", result, _picture(found))
    if as_json:
        print(strict_json.dumps(result), end="")
    else:
        _print(rows)
    common.told(written, as_json)
    return common.EXIT_CLEAN


def _points(span: str) -> Any:
    """The span that --span names: a name, or two points."""
    first, comma, last = span.partition(",")
    return (first.strip(), last.strip()) if comma else span


def _check(
    model: str | None, width: int, depth: int, seeds: int, inputs: int, seed: int, span: str, method: str
) -> None:
    from isometry import _checks, networks
    from isometry.measure import methods

    least = {"--width": (width, 1), "--depth": (depth, 1), "--seeds": (seeds, 1), "--inputs": (inputs, 1)}
    for name, (value, low) in {**least, "--seed": (seed, 0)}.items():
        _checks.integer(_CALL, low=low, **{name: value})
    if "," not in span:
        _checks.one_of(_CALL, among=networks.SPANS, **{"--span": span})
    _checks.one_of(_CALL, among=methods.METHODS, **{"--method": method})
    if span == "hidden" and model is None:
        _checks.integer(f"{_CALL} --span hidden", low=3, **{"--depth": depth})


def _check_tokens(net: Any, span: str) -> None:
    """Refuse a span from tokens, which have no derivative; name the option to write instead."""
    from isometry._internal.errors import InputError
    from isometry.measure import _spans

    is_floating = span != "end_to_end" or net.example is None or _spans.floating_leaves_of_x(net.anatomy)
    if not is_floating and net.anatomy.embeddings:
        start = net.anatomy.embeddings[0].name
        raise InputError(f"x is tokens, which have no derivative; write --span {start},output.")


def _of(net: Any, keys: Any, xs: Any, inputs: int, span: Any, method: str, key: Any) -> tuple[Any, Any, dict[str, Any]]:
    """(the spectrum, its law or None, what is said of both)."""
    import jax

    from isometry.measure import _draws, _ensemble

    points = jax.tree.map(lambda leaf: _draws.spaced(leaf, inputs), xs)
    drawn: dict[str, Any] = {"keys": keys}
    if net.data_driven:  # to all of the data, not to the few inputs
        drawn = {"params": _draws.adjust_seeds(net, _draws.draw_seeds(net.init, keys), xs)}
    sp = _ensemble.ensemble(net, xs=points, method=method, span=span, key=key, **drawn)
    law, statistics, excesses, why = _judged(net, sp, span, points)
    row = {
        "spectrum": repr(sp), "size": sp.size, "structural_zeros": sp.structural_zeros,
        "statistics": statistics, "law": law and law.name, "no_law": why if law is None else None,
        "consistent": None if excesses is None else not excesses, "excesses": excesses,
        "not_compared": None if law is None else why,
    }  # fmt: skip
    return sp, law, row


def _judged(
    net: Any, sp: Any, span: Any, points: Any
) -> tuple[Any, dict[str, Any], dict[str, float] | None, str | None]:
    """(the law or None, the statistics, the excesses or None; why there is no law, or none whose numbers can be found,
    or no comparison)."""
    from isometry import _checks, _summary

    try:
        law = net.law(span, points)
        return law, _summary.summary(sp, law), *_summary.verdict(sp, law)
    except (_checks.InputError, ArithmeticError) as error:
        return None, _summary.summary(sp), None, _checks.reason(error)


def _picture(found: dict[str, tuple[Any, Any, Any]]) -> Any:
    """A panel a scheme, under its law where there is one."""
    from matplotlib.figure import Figure

    from isometry import plots

    figure = Figure(figsize=(5.0, 3.2 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), squeeze=False)[:, 0]
    for ax, (name, (sp, law, _)) in zip(panels, found.items(), strict=True):
        if law is None:
            plots.spectrum(sp, ax, color=plots.COLOURS[0])
            ax.set_title(f"{name}: no law", fontsize=8)
        else:
            plots.overlay(sp, law, ax)
            ax.text(0.02, 0.97, name, transform=ax.transAxes, va="top", fontsize=8)
    return figure


def _print(rows: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table

    console = common.console()
    for name, row in rows.items():
        table = Table(title=f"{name}: {row['spectrum']}", title_justify="left")
        for column in ("statistic", "mean", "± s.e.", "law"):
            table.add_column(column, justify="left" if column == "statistic" else "right", overflow="fold")
        for statistic, line in row["statistics"].items():
            table.add_row(statistic, *(_cell(line, column) for column in ("mean", "standard_error", "law")))
        console.print(table)
        unknown = {line["why"]: None for line in row["statistics"].values() if "why" in line}
        for reason in unknown:  # each once, in order
            console.print(f"unknown: {reason}", highlight=False, markup=False)
        console.print(_verdict(row), highlight=False, markup=False)


def _cell(line: dict[str, Any], column: str) -> str:
    if line[column] is not None:
        return f"{line[column]:.5g}"
    return "unknown" if column == "mean" else ""


def _verdict(row: dict[str, Any]) -> str:
    if row["law"] is None:
        return f"no law: {row['no_law']}"
    if row["consistent"] is None:
        return f"law: {row['law']}; not compared: {row['not_compared']}"
    if row["consistent"]:
        return f"consistent with {row['law']}"
    beyond = ", ".join(f"{name} {ratio:.2g}" for name, ratio in row["excesses"].items())
    return f"not consistent with {row['law']}; gaps over what they may be: {beyond}"
