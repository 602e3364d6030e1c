"""`isometry audit`: a table of flags, their picture and their numbers."""

from typing import Annotated, Any

from typer import Option

from isometry import _cli_common as common

_CALL = "isometry audit"
SCHEMES = ("orthogonal", "identity", "partial_identity", "zer_o", "gaussian", "xavier", "kaiming")
_HELP = """Measure, for each scheme, the singular values of the input-output Jacobian on real data, and flag what
will go wrong in training.

Example: isometry audit --scheme orthogonal,partial_identity --activation relu --depth 12 --out relu
"""


def add(app: Any) -> None:
    """Register the command."""

    @common.command(app, "audit", _HELP)
    def audit(
        scheme: Annotated[
            list[str] | None, Option(help="A scheme; repeat or separate by commas. Default: seven.")
        ] = None,
        width: common.Width = 128,
        depth: common.Depth = 6,
        activation: common.ActivationName = "tanh",
        data: common.Data = "digits",
        seeds: common.Seeds = 8,
        inputs: common.Inputs = 16,
        train_steps: Annotated[int, Option(help="Steps of the training probe; 0 for none.")] = 200,
        out: Annotated[str, Option(help="Folder for audit.json and audit.png.")] = "isometry-audit",
        json: common.Json = False,
        fail_on: Annotated[
            list[str] | None, Option(help="Exit with 1 if a scheme raises this flag; repeatable.")
        ] = None,
        seed: common.Seed = 0,
    ) -> int:
        names, flags = common.split(_CALL, "--scheme", scheme), common.split(_CALL, "--fail-on", fail_on)
        return run(names, width, depth, activation, data, seeds, inputs, train_steps, out, json, flags, seed)


def run(
    schemes: list[str],
    width: int,
    depth: int,
    activation: str,
    data: str,
    seeds: int,
    inputs: int,
    train_steps: int,
    out: str,
    as_json: bool,
    fail_on: list[str],
    seed: int,
) -> int:
    """`isometry audit`: check everything, audit, write audit.json and audit.png, print; the exit code."""
    import jax

    from isometry import _checks, degeneracy, plots, store
    from isometry._internal import provenance, strict_json

    for name, value, low in (
        ("--width", width, 1), ("--depth", depth, 1), ("--seeds", seeds, 1), ("--inputs", inputs, 1),
        ("--train-steps", train_steps, 0), ("--seed", seed, 0),
    ):  # fmt: skip
        _checks.integer(_CALL, low=low, **{name: value})
    for flag in fail_on:
        _checks.one_of(_CALL, among=degeneracy.FLAGS, **{"--fail-on": flag})
    key_nets, key_data, key_rest = jax.random.split(jax.random.key(seed), 3)
    xs, targets = common.load(_CALL, data, key_data)
    nets, undefined = common.networks_of(schemes, SCHEMES, width, depth, activation, xs, targets)
    _checks.extra(_CALL, "matplotlib", "plot")
    folder = store.prepare(out)
    with common.progress(5 * len(nets)) as tell:
        found: Any = degeneracy.audit(
            nets, jax.random.split(key_nets, seeds), xs, targets=targets, train_steps=train_steps, key=key_rest,
            inputs=inputs, progress=tell,
        )  # fmt: skip
        reports = degeneracy.Reports(found.reports, undefined | dict(found.undefined))
        figure = plots.audit(reports)
    setting = {
        "width": width, "depth": depth, "activation": activation, "data": data, "seeds": seeds, "inputs": inputs,
        "train_steps": train_steps, "seed": seed,
    }  # fmt: skip
    result = {"provenance": provenance.provenance(), "settings": setting, **reports.as_dict()}
    written = store.write_report(folder / "audit", result, figure)
    if as_json:
        print(strict_json.dumps(result), end="")
    else:
        console = common.console()
        console.print(degeneracy.rich_table(reports, console.width))
    common.told(written, as_json)
    return common.EXIT_RAISED if any(reports.raised(flag) for flag in fail_on) else common.EXIT_CLEAN
