"""The command line. Thin: every command is one call of a documented function.

It owns its process, so devices and threads are set in the environment before jax or numpy is imported.
"""

import os
import sys
from typing import Annotated, Any

_ENVIRONMENT = {
    # One BLAS thread: multi-threaded BLAS inside small factorizations collapses when a core is busy.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # XLA sizes its thread pool by this; with two threads, batched factorizations can deadlock in it.
    "NPROC": str(max(4, os.cpu_count() or 1)),
}

SCHEMES = ("orthogonal", "identity", "partial_identity", "zer_o", "gaussian", "xavier", "kaiming")
EXIT_CLEAN, EXIT_RAISED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


_HELP = """Measure, for each scheme, the singular values of the input-output Jacobian on real data, and flag what
will go wrong in training.

Example: isometry audit --scheme orthogonal,partial_identity --activation relu --depth 12 --out relu
"""

_HELP_SCHEMES = """List every initialization scheme and every initializer with its law, or show one in full.

Example: isometry schemes lsuv
"""


def main(argv: list[str] | None = None) -> None:
    """Entry point: run the command and exit with its code; every refusal is one line on stderr."""
    ours = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(ours)
    from isometry import _checks

    try:
        typer = _checks.extra("isometry", "typer", "cli")
        _checks.extra("isometry", "rich", "cli")
        code = _app(typer, ours)(args=argv, standalone_mode=False)
    except (_checks.InputError, _checks.MissingExtra) as error:
        code = _refuse(str(error), EXIT_USAGE)
    except KeyboardInterrupt:
        code = _refuse("interrupted; nothing was written", EXIT_INTERRUPTED)
    except Exception as error:  # usage errors of typer, whose class moved between its versions; all else travels on
        if type(error).__name__ == "Abort":
            code = _refuse("interrupted; nothing was written", EXIT_INTERRUPTED)
        elif hasattr(error, "format_message"):
            code = _refuse(error.format_message(), EXIT_USAGE)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            raise
    sys.exit(code if isinstance(code, int) else EXIT_CLEAN)


def _refuse(message: str, code: int) -> int:
    print("isometry: " + " ".join(message.split()), file=sys.stderr)
    return code


def _app(typer: Any, ours: dict[str, str]) -> Any:
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Can this network train? Ask before training it.",
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            import isometry

            print(isometry.__version__)
            raise typer.Exit(EXIT_CLEAN)

    version_option = typer.Option("--version", is_eager=True, callback=show_version, help="Print the version and stop.")

    @app.callback()
    def _(version: Annotated[bool, version_option] = False) -> None:
        pass

    option = typer.Option

    @app.command(help=_HELP)
    def audit(
        scheme: Annotated[
            list[str] | None, option(help="A scheme; repeat or separate by commas. Default: seven.")
        ] = None,
        width: Annotated[int, option(help="Hidden width.")] = 128,
        depth: Annotated[int, option(help="Number of weight layers.")] = 6,
        activation: Annotated[str, option(help="Name of the activation.")] = "tanh",
        data: Annotated[
            str, option(help="digits, gaussian, a .npy or .npz file, or MNIST's or CIFAR-10's files.")
        ] = "digits",
        seeds: Annotated[int, option(help="Networks drawn a scheme.")] = 8,
        inputs: Annotated[int, option(help="Inputs at which Jacobians are taken.")] = 16,
        train_steps: Annotated[int, option(help="Steps of the training probe; 0 for none.")] = 200,
        out: Annotated[str, option(help="Folder for audit.json and audit.png.")] = "isometry-audit",
        json: Annotated[bool, option("--json", help="Print the JSON instead of the table.")] = False,
        fail_on: Annotated[
            list[str] | None, option(help="Exit with 1 if a scheme raises this flag; repeatable.")
        ] = None,
        seed: Annotated[int, option(help="Seed of everything random.")] = 0,
    ) -> int:
        try:
            return run_audit(
                _split(scheme), width, depth, activation, data, seeds, inputs, train_steps, out, json,
                _split(fail_on), seed,
            )  # fmt: skip
        except KeyboardInterrupt:  # typer would print an empty line of its own first
            return _refuse("interrupted; nothing was written", EXIT_INTERRUPTED)

    @app.command(help=_HELP_SCHEMES)
    def schemes(
        name: Annotated[
            str | None, typer.Argument(help="A scheme, an initializer, or an alias; all if left out.")
        ] = None,
        spectra: Annotated[
            bool, option("--spectra", help="Measure deep networks that start from each initializer; minutes.")
        ] = False,
        out: Annotated[
            str | None, option(help="Folder for schemes.json, or spectra.json and spectra.png; none if left out.")
        ] = None,
        json: Annotated[bool, option("--json", help="Print the JSON instead of the table.")] = False,
        seed: Annotated[int, option(help="Seed of --spectra; nothing else here is random.")] = 0,
    ) -> int:
        if not spectra:
            return run_schemes(name, out, json)
        try:
            return _cli_spectra.run(name, out, json, seed, _progress)
        except KeyboardInterrupt:
            return _refuse("interrupted; nothing was written", EXIT_INTERRUPTED)

    from isometry import _cli_doctor, _cli_spectra, _cli_theory

    _cli_theory.add(app, typer)
    _cli_doctor.add(app, typer, ours)
    return app


def run_schemes(name: str | None, out: str | None, as_json: bool) -> int:
    """`isometry schemes`: print the catalogue, or the entries of one name; the exit code."""
    from rich.console import Console

    from isometry import _json, schemes, store

    entries = schemes.listing() if name is None else schemes.describe(name, "isometry schemes")
    if out is not None:
        path = store.write_json(store.prepare(out) / "schemes.json", entries)
        print(f"wrote {path}", file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print(_json.dumps(entries), end="")
        return EXIT_CLEAN
    console = Console()
    tables = schemes.rich_tables(console.width) if name is None else map(schemes.rich_entry, entries)
    for table in tables:
        console.print(table)
    if name is None:
        print("isometry schemes NAME shows one in full: law, source, names in other libraries.")
    return EXIT_CLEAN


def _split(values: list[str] | None) -> list[str]:
    return [word.strip() for value in values or [] for word in value.split(",") if word.strip()]


def run_audit(
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

    from isometry import _checks, _json, _provenance, degeneracy, plots, store

    call = "isometry audit"
    for name, value, low in (
        ("--width", width, 1), ("--depth", depth, 1), ("--seeds", seeds, 1), ("--inputs", inputs, 1),
        ("--train-steps", train_steps, 0), ("--seed", seed, 0),
    ):  # fmt: skip
        _checks.integer(call, low=low, **{name: value})
    for flag in fail_on:
        _checks.one_of(call, among=degeneracy.FLAGS, **{"--fail-on": flag})
    key_nets, key_data, key_rest = jax.random.split(jax.random.key(seed), 3)
    xs, targets = _load(call, data, key_data)
    nets, undefined = _networks(call, schemes, width, depth, activation, xs, targets)
    _checks.extra(call, "matplotlib", "plot")
    folder = store.prepare(out)
    with _progress(5 * len(nets)) as tell:
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
    result = {"provenance": _provenance.provenance(), "settings": setting, **reports.as_dict()}
    written = store.write_report(folder / "audit", result, figure)
    _print(reports, result if as_json else None, written, _json)
    return EXIT_RAISED if any(reports.raised(flag) for flag in fail_on) else EXIT_CLEAN


def _load(call: str, name: str, key: Any) -> Any:
    from isometry import _checks, data

    if name == "digits":
        return data.digits()
    if name == "gaussian":
        return data.gaussian(key, 1024, 64)
    if "." not in name and not os.path.exists(name):
        _checks.one_of(call, among=("digits", "gaussian", "FILE.npy", "FILE.npz", "FOLDER"), **{"--data": name})
    return data.load(name)


def _networks(call: str, names: list[str], width: int, depth: int, activation: str, xs: Any, targets: Any) -> Any:
    """The networks by scheme. Of the default schemes those that do not exist here are listed with the reason; of named
    ones they are an error."""
    import jax.numpy as jnp

    from isometry import _checks, networks

    n_in, n_out = xs.shape[1], 10
    if targets is not None:
        n_out = int(targets.max()) + 1 if jnp.issubdtype(targets.dtype, jnp.integer) else targets.shape[1]
    nets, undefined = {}, {}
    for name in dict.fromkeys(names) or SCHEMES:
        hidden = n_in if name == "identity" else width
        label = name if hidden == width or depth == 1 else f"{name} (width {hidden})"
        try:
            nets[label] = networks.mlp([n_in, *[hidden] * (depth - 1), max(n_out, 2)], activation, name)
        except _checks.NotDefined as error:
            if names:
                raise
            undefined[name] = str(error)
    if not nets:
        raise _checks.InputError(f"{call}(): none of the schemes is defined here: {undefined}")
    return nets, undefined


def _progress(total: int) -> Any:
    """A context that yields `tell(stage)`: a bar on stderr, silent where that is not a terminal."""
    import contextlib

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    @contextlib.contextmanager
    def bar() -> Any:
        console = Console(stderr=True)
        columns = (BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("starting", total=total)
            started = [False]

            def tell(stage: str) -> None:
                progress.update(task, description=stage, advance=float(started[0]))
                started[0] = True

            yield tell

    return bar()


def _print(reports: Any, result: Any, written: list[Any], encoder: Any) -> None:
    from rich.console import Console

    from isometry.degeneracy import rich_table

    if result is not None:
        print(encoder.dumps(result), end="")
    else:
        console = Console()
        console = console if console.is_terminal else Console(width=140)
        console.print(rich_table(reports))
    print("wrote " + " and ".join(str(path) for path in written), file=sys.stderr if result is not None else sys.stdout)


if __name__ == "__main__":
    main()
