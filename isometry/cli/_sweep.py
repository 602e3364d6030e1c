"""`isometry sweep`: run every cell of a grid that a file describes, or show a store."""

import contextlib
import functools
import logging
import pathlib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from isometry.cli import _cache, _exit_codes, _options, _terminal
from isometry.cli._command import Command

if TYPE_CHECKING:
    import numpy as np
    import xarray

_SUMMARY = "Run a function at every point of a grid, and keep the results."
_TEXT = """In a process for each core, into a folder that xarray reads. Killed or
interrupted, it goes on where it was when it is called again.

plane.toml names the run, the axes of the grid, and what is the same in all cells:

\b
    run = "spectrum"
    grid.sigma_w = {start = 0.5, stop = 2.5, num = 9}
    grid.depth = [4, 16, 64]
    grid.seed = [0, 1]
    settings.width = 64

A run is spectrum, signals, audit, train, or package.module:function, a function of
(point, key). Values of an axis are a list, or start, stop and num, with spacing = "log"
or "linear".

isometry sweep show plane.zarr prints what a store holds.
"""
_EXAMPLE = "isometry sweep plane.toml --out plane.zarr"

# The runs of `isometry.sweeps.runs`, which is not imported for `--help`.
_READY = ("spectrum", "signals", "audit", "train")

# Cells that failed, and variables, of which a line is printed. Ten times as many would
# scroll away what stands above them.
_MOST_LINES = 20

# Values of an axis that a range may have. With ten times more, a slip of a finger fills
# the disk before the first cell; ten times fewer are thinkable.
_MOST_VALUES = 10**6

_SHOW = "show"

# The options of the command by what `isometry.sweep` calls them in its messages.
_OPTIONS = {
    "accept_code=True": "--accept-code",
    "resume=False": "--no-resume",
    "executor=": "--workers=",
    "retries=": "--retries=",
    "store=": "--out=",
}


@dataclass(frozen=True)
class Plan:
    """What the file of a grid says.

    Attributes:
        run: The function, with its settings.
        grid: Values by the names of axes.
    """

    run: Callable[..., Any]
    grid: dict[str, list[object]]


def sweep(  # noqa: PLR0917 (typer reads the options off the signature)
    what: Annotated[
        list[str],
        Argument(metavar="GRID.toml | show STORE", help="A file, or a store."),
    ],
    out: Annotated[str | None, Option(help="Folder of the store.")] = None,
    workers: Annotated[
        int | None,
        Option(help="Worker processes. Default: by cores and memory."),
    ] = None,
    resume: Annotated[bool, Option(help="Go on with a store that is there.")] = True,
    retries: Annotated[
        int, Option(help="How often a cell that fails is tried again.")
    ] = 1,
    accept_code: Annotated[
        bool,
        Option("--accept-code", help="Go on with a store of other code."),
    ] = False,
    json: _options.Json = False,
    seed: _options.Seed = 0,
    no_cache: _options.NoCache = False,
) -> int:
    """Read the options, and run the command."""
    # Workers inherit the environment, and so the cache.
    _cache.prepare(is_off=no_cache)
    # One command has both forms: a group of commands could not take a file.
    if what[0] == _SHOW:
        return show(_store_of(what[1:]), as_json=json)
    plan = _plan_of(what, out)
    # The plan is refused without it.
    assert out is not None
    return run(
        plan,
        out,
        workers=workers,
        resume=resume,
        retries=retries,
        accept_code=accept_code,
        seed=seed,
        as_json=json,
    )


COMMAND = Command(
    name="sweep", function=sweep, summary=_SUMMARY, text=_TEXT, example=_EXAMPLE
)


def run(
    plan: Plan,
    out: str,
    *,
    workers: int | None,
    resume: bool,
    retries: int,
    accept_code: bool,
    seed: int,
    as_json: bool,
) -> int:
    """Run the sweep and print what its store holds then; return the exit code."""
    import jax

    import isometry
    from isometry._internal.errors import InputError

    _options.check_seed(seed)
    try:
        with _logging_options():
            dataset = isometry.sweep(
                plan.run,
                plan.grid,
                out,
                key=jax.random.key(seed),
                executor=workers,
                resume=resume,
                retries=retries,
                accept_code=accept_code,
            )
    except InputError as error:
        raise InputError(_with_options(error.message)) from error
    _print(dataset, out, as_json=as_json)
    # All cells of the store are cells of the plan, which holds all its labels. One that
    # could not be written is absent.
    if (dataset["state"] != _states().DONE).any():
        return _exit_codes.RAISED
    return _exit_codes.CLEAN


def _with_options(message: str) -> str:
    """Return a message about arguments of `isometry.sweep` as one about options."""
    for argument, option in _OPTIONS.items():
        message = re.sub(rf"\b{argument}", option, message)
    return message


@contextlib.contextmanager
def _logging_options() -> Iterator[None]:
    """Have the log of a sweep speak of options, and show labels as they are."""
    log = logging.getLogger("isometry.sweeps")

    def rewrite(record: logging.LogRecord) -> bool:
        record.msg = _terminal.plain(_with_options(record.getMessage()))
        record.args = ()
        return True

    log.addFilter(rewrite)
    try:
        yield
    finally:
        log.removeFilter(rewrite)


def show(store: str, *, as_json: bool) -> int:
    """Print what a store holds."""
    from isometry import sweeps

    _print(sweeps.open(store), store, as_json=as_json)
    return _exit_codes.CLEAN


def _store_of(words: list[str]) -> str:
    """Return the folder behind "show"."""
    from isometry._internal.errors import InputError

    if len(words) != 1:
        raise InputError("show takes one folder; write isometry sweep show STORE.")
    return words[0]


def _plan_of(words: list[str], out: str | None) -> Plan:
    """Read the file of a grid.

    Raises:
        InputError: It cannot be read, or says what cannot be used.
    """
    from isometry._internal.errors import InputError

    if len(words) != 1:
        raise InputError(f"one file is read at a time, and not {words}.")
    if out is None:
        raise InputError("--out is missing; write the folder of the store.")
    file = pathlib.Path(words[0])
    try:
        content = tomllib.loads(file.read_text())
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{str(file)!r} is no TOML: {error}.") from None
    for name in content:
        if name not in ("run", "grid", "settings"):
            raise InputError(
                f"{str(file)!r} holds {name!r}; it may hold run, [grid] and [settings]."
            )
    axes = content.get("grid")
    if not isinstance(axes, dict) or not axes:
        raise InputError(f"{str(file)!r} has no [grid] with its axes.")
    grid = {name: _values(name, given) for name, given in axes.items()}
    settings = content.get("settings", {})
    if not isinstance(settings, dict):
        raise InputError(f"{str(file)!r}: settings is no table; write [settings].")
    function = _function(content.get("run"))
    # A function without settings may take none.
    if settings:
        function = functools.partial(function, **settings)
    return Plan(run=function, grid=grid)


def _values(name: str, given: object) -> list[object]:
    """Return the values of an axis: a list, or start, stop and num of a range.

    Raises:
        InputError: What was given is neither.
    """
    import numpy as np

    from isometry._internal import checks
    from isometry._internal.errors import InputError

    if isinstance(given, list):
        return given
    where = f"grid.{name}"
    # A number alone is a setting, and no axis.
    if not isinstance(given, Mapping):
        raise InputError(f"{where}={checks.show(given)} is no list; write [{given}].")
    given = dict(given)
    spacing = checks.one_of(
        f"{where}.spacing", given.pop("spacing", "linear"), ("linear", "log")
    )
    if set(given) != {"start", "stop", "num"}:
        raise InputError(
            f"{where} has {sorted(given)}; write start, stop and num, or a list."
        )
    start = checks.number(f"{where}.start", given["start"])
    stop = checks.number(f"{where}.stop", given["stop"])
    num = checks.integer(f"{where}.num", given["num"], low=1, high=_MOST_VALUES)
    # Lists of Python's own numbers, as the file might have held them.
    if spacing == "linear":
        return np.linspace(start, stop, num).tolist()
    checks.number(f"{where}.start", start, above=0.0)
    checks.number(f"{where}.stop", stop, above=0.0)
    return np.geomspace(start, stop, num).tolist()


def _function(name: object) -> Callable[..., Any]:
    """Return the run that a file names.

    Raises:
        InputError: There is none.
    """
    from isometry._internal import checks
    from isometry._internal.errors import InputError
    from isometry.cli import _user_code
    from isometry.sweeps import runs

    # Without a colon it can only be a ready run; the error lists both forms.
    if not isinstance(name, str) or ":" not in name:
        known = (*_READY, "package.module:function")
        return getattr(runs, checks.one_of("run", name, known), _missing)
    module_name, _, function_name = name.partition(":")
    module = _user_code.imported(module_name, option="run")
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"run={name!r}: {module_name} has no such function.")
    return function


def _missing(*_: object) -> None:
    """Stand where the form of a name was written for a name."""
    from isometry._internal.errors import InputError

    raise InputError("run names no function; write package.module:function.")


def _states() -> Any:
    from isometry.sweeps import _store

    return _store


def _print(dataset: "xarray.Dataset", store: str, *, as_json: bool) -> None:
    """Print the axes, the states of the cells, the variables and the failures."""
    from isometry._internal import strict_json

    # Both forms print the same.
    summary = _summary(dataset, store)
    if as_json:
        print(strict_json.dumps(summary), end="")
        return
    console = _terminal.console()
    cells = summary["cells"]
    console.print(
        f"{store}: {cells['done']} of {cells['all']} cells are done, "
        f"{cells['failed']} failed, {cells['absent']} are to be run",
    )
    axes = _terminal.table(
        "axes",
        {"axis": "text", "values": "number", "from": "text", "to": "text"},
    )
    for axis in summary["axes"]:
        cells = (axis["name"], str(axis["num"]), axis["first"], axis["last"])
        axes.add_row(*cells)
    console.print(axes)
    variables = _terminal.table(
        "variables: over cells and their own dimensions",
        {
            "variable": "text",
            "mean": "number",
            "least": "number",
            "largest": "number",
        },
    )
    for row in summary["variables"][:_MOST_LINES]:
        numbers = [_number(row[name]) for name in ("mean", "min", "max")]
        name = row["name"]
        if row["dims"]:
            name += f" ({', '.join(row['dims'])})"
        variables.add_row(name, *numbers)
    console.print(variables)
    num_more = len(summary["variables"]) - _MOST_LINES
    if num_more > 0:
        console.print(f"and {num_more} variables more")
    for failure in summary["failures"][:_MOST_LINES]:
        console.print(f"failed: {failure['cell']}: {failure['error']}")
    num_more = len(summary["failures"]) - _MOST_LINES
    if num_more > 0:
        console.print(f"and {num_more} failures more")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.5g}"


def _summary(dataset: "xarray.Dataset", store: str) -> dict[str, Any]:
    """Return the summary of a store that is printed, of types that JSON has."""
    import numpy as np

    states = dataset["state"].values
    names = dataset["state"].dims
    axes = []
    for name in names:
        labels = dataset[name].values
        axes.append(
            {
                "name": str(name),
                "num": len(labels),
                "first": str(labels[0]),
                "last": str(labels[-1]),
            }
        )
    store_states = _states()
    counts = {
        "all": int(states.size),
        "done": int(np.count_nonzero(states == store_states.DONE)),
        "failed": int(np.count_nonzero(states == store_states.FAILED)),
        "absent": int(np.count_nonzero(states == store_states.ABSENT)),
    }
    errors = dataset["error"].values
    failures = []
    # The coordinates of each failed cell, so that it can be selected.
    for index in np.argwhere(states == store_states.FAILED):
        pairs = zip(names, index, strict=True)
        cell = ", ".join(f"{name}={dataset[name].values[i]}" for name, i in pairs)
        failures.append({"cell": cell, "error": str(errors[tuple(index)])})
    variables = []
    for name, array in dataset.data_vars.items():
        # The store adds these two itself; they are summarized above.
        if name not in ("state", "error"):
            dims = [str(dim) for dim in array.dims if dim not in names]
            numbers = _range_of(array.values)
            variables.append({"name": str(name), "dims": dims, **numbers})
    return {
        "store": store,
        "cells": counts,
        "axes": axes,
        "variables": variables,
        "failures": failures,
    }


def _range_of(values: "np.ndarray") -> dict[str, float | None]:
    """Return mean and range of the finite numbers of an array; None without any."""
    import numpy as np

    nothing: dict[str, float | None] = {"mean": None, "min": None, "max": None}
    # Names have no mean.
    if values.dtype.kind not in "fiub":
        return nothing
    finite = values[np.isfinite(values)]
    if not finite.size:
        return nothing
    # In float64: a sum of many float32 loses digits.
    return {
        "mean": float(finite.mean(dtype=np.float64)),
        "min": float(finite.min()),
        "max": float(finite.max()),
    }
