"""Make figures: compute, check, draw, and write the data, pictures and a record."""

import concurrent.futures
import functools
import importlib
import json
import pathlib
import pkgutil
import tempfile
import time
import types
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import xarray

import isometry
import paper_figs
from isometry import InputError, store
from isometry._internal import provenance
from isometry._internal.types import Key
from isometry.data import Data
from paper_figs import _data, _style
from paper_figs._check import ClaimFailed, Compared

SEED = 0
PRESETS = ("full", "smoke")

# What is written of a figure as NAME.json: "figure", "claim", "holds", "seconds",
# "compared" (`Compared.row` of each number) and "provenance".
Record: TypeAlias = dict[str, Any]


def names() -> list[str]:
    """Return the names of all figures: the files of this folder."""
    modules = pkgutil.iter_modules(paper_figs.__path__)
    return sorted(m.name for m in modules if not m.name.startswith("_"))


def figure(name: str) -> types.ModuleType:
    """Return the module of a figure."""
    return importlib.import_module(f"paper_figs.{name}")


def claim(module: types.ModuleType) -> str:
    """Return the claim of a figure, the first line of its docstring."""
    assert module.__doc__ is not None
    return module.__doc__.splitlines()[0]


def run(
    name: str,
    preset: str,
    out: pathlib.Path,
    *,
    from_cache: bool = False,
    data: Data | None = None,
) -> Record:
    """Make one figure: NAME.zarr.zip, NAME.png, NAME.pdf and NAME.json in a folder.

    Data that the same code made with the same preset are taken from the folder.

    Args:
        name: The name of the figure.
        preset: One of `PRESETS`.
        out: The folder, which exists.
        from_cache: Whether to take the data in the folder whatever code made them.
        data: A data set of the user's, for figures that can use one.

    Returns:
        The record.

    Raises:
        InputError: The folder holds no data, or data that the figure cannot read; or
            the figure takes no data set.
    """
    module = figure(name)
    numbers = _numbers(module, name, preset, out=out, from_cache=from_cache, data=data)
    try:
        compared, holds = judge(module, numbers)
        _draw(module, name, numbers, out=out)
    except (AttributeError, KeyError) as error:
        if not from_cache:
            raise
        raise InputError(
            f"paper_figs: what {out} holds of {name} was made by other code "
            f"({error}); run it without --from-cache."
        ) from error
    origin = provenance.provenance(
        seed=SEED,
        preset=numbers.attrs["preset"],
        fingerprint=numbers.attrs["fingerprint"],
    )
    command = f"python -m paper_figs {name} --preset {numbers.attrs['preset']}"
    origin["command"] = command.split()
    record: Record = {
        "figure": name,
        "claim": claim(module),
        "holds": holds,
        "seconds": float(numbers.attrs["seconds"]),
        "compared": [c.row() for c in compared],
        "provenance": origin,
    }
    store.write_json(_record_path(out, name), record)
    return record


def _numbers(
    module: types.ModuleType,
    name: str,
    preset: str,
    out: pathlib.Path,
    *,
    from_cache: bool,
    data: Data | None,
) -> xarray.Dataset:
    """Return the data of a figure, from the folder or computed and written to it."""
    mark = _data.fingerprint(module, preset, data)
    cached = _data.cached(out, name, mark=None if from_cache else mark)
    if cached is not None:
        return cached
    if from_cache:
        raise InputError(
            f"paper_figs: {out} holds no data of {name}; run it without --from-cache "
            "first."
        )
    arguments = {} if data is None else {"data": data}
    started = time.monotonic()
    numbers = module.compute(preset, jax.random.key(SEED), **arguments)
    numbers = numbers.assign_attrs(
        fingerprint=mark, preset=preset, seconds=time.monotonic() - started
    )
    _data.write(_data.path_of(out, name), numbers)
    return numbers


def judge(
    module: types.ModuleType, numbers: xarray.Dataset
) -> tuple[tuple[Compared, ...], bool]:
    """Return what the check of a figure compared, and whether all of it holds."""
    try:
        return tuple(module.check(numbers)), True
    except ClaimFailed as failed:
        return failed.compared, False


def _draw(
    module: types.ModuleType, name: str, numbers: xarray.Dataset, out: pathlib.Path
) -> None:
    with _style.drawn():
        picture = module.plot(numbers)
        for suffix in ("png", "pdf"):
            store.write_figure(out / f"{name}.{suffix}", picture, dpi=200)


def run_many(
    wanted: Sequence[str],
    preset: str,
    out: pathlib.Path,
    *,
    from_cache: bool = False,
    data: Data | None = None,
    executor: concurrent.futures.Executor | int | None = None,
) -> tuple[list[Record], dict[str, str]]:
    """Make several figures as a sweep, each a cell of it.

    One that fails does not stop the others. Stopped or killed, the same call goes on:
    what was computed is taken from the folder.

    Args:
        wanted: The names of the figures.
        preset: One of `PRESETS`.
        out: The folder, which exists.
        from_cache: Whether to take the data in the folder whatever code made them.
        data: A data set of the user's. Figures that cannot use one are made without.
        executor: Where figures are made, as for `isometry.sweep`.

    Returns:
        The records of the figures that were made, and why the others were not.
    """
    cell = functools.partial(
        _cell, preset=preset, out=out, from_cache=from_cache, data=data
    )
    # What is kept from one call to the next are the data of each figure, which know the
    # code that made them. The store of the sweep knows the names only.
    with tempfile.TemporaryDirectory() as folder:
        cells = isometry.sweep(
            cell,
            {"figure": list(wanted)},
            pathlib.Path(folder) / "figures.zarr",
            key=jax.random.key(SEED),
            executor=executor,
            retries=0,
        ).load()
    reasons = {}
    for name in wanted:
        reason = str(cells["error"].sel(figure=name).values)
        if reason:
            reasons[name] = reason
    made = [name for name in wanted if name not in reasons]
    return [_read_record(out, name) for name in made], reasons


def _cell(
    point: dict[str, Any],
    key: Key,
    *,
    preset: str,
    out: pathlib.Path,
    from_cache: bool,
    data: Data | None,
) -> dict[str, float]:
    """Make the figure at a point of the sweep.

    The key is not used: a figure has the same numbers alone and among others.
    """
    name = point["figure"]
    if not _data.takes_data(figure(name)):
        data = None
    record = run(name, preset, out, from_cache=from_cache, data=data)
    return {"seconds": record["seconds"]}


def _record_path(out: pathlib.Path, name: str) -> pathlib.Path:
    return out / f"{name}.json"


def _read_record(out: pathlib.Path, name: str) -> Record:
    return json.loads(_record_path(out, name).read_text(encoding="utf-8"))


def records(out: pathlib.Path) -> list[Record]:
    """Return the records in a folder, by the name of the figure."""
    return [_read_record(out, n) for n in names() if _record_path(out, n).exists()]
