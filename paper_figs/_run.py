"""Running a figure: compute or take from the cache, check, draw, write data, pictures and a record, each atomically."""

import hashlib
import importlib
import inspect
import json
import pathlib
import pkgutil
import shutil
import tempfile
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray

import isometry
import paper_figs
from isometry import InputError, store
from isometry._internal import provenance
from paper_figs import _style
from paper_figs._check import ClaimFailed, Compared

SEED = 0
PRESETS = ("full", "smoke")
SHARED = ("_draws.py", "_ensembles.py", "_times.py", "_zero.py")  # what figures compute with, besides the library


class Outcome(NamedTuple):
    """What running a figure came to. `seconds`: of computing it, whenever that was."""

    name: str
    claim: str
    compared: tuple[Compared, ...]
    holds: bool
    seconds: float


def names() -> list[str]:
    """Every figure file of this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(paper_figs.__path__) if not m.name.startswith("_"))


def figure(name: str) -> Any:
    """The module of a figure."""
    return importlib.import_module(f"paper_figs.{name}")


def claim(module: Any) -> str:
    """The first line of a figure's docstring."""
    return module.__doc__.splitlines()[0]


def run(name: str, preset: str, out: pathlib.Path, *, from_cache: bool = False, data: Any = None) -> Outcome:
    """Everything of one figure into `out`: NAME.zarr.zip, NAME.png, NAME.pdf, NAME.json.

    Data that the same code made of the same preset is taken from `out`, so that a run that was stopped goes on where it
    was. `from_cache` takes what is there whatever made it. `data`: a data set of the user's for the figures that can
    use one.

    **Raises** `ValueError`: nothing cached; a data set for a figure that takes none.
    """
    module = figure(name)
    found = _found(module, name, preset, out, from_cache, data)
    try:
        compared, holds = judge(module, found)
        _draw(module, found, out, name)
    except (AttributeError, KeyError) as error:
        if not from_cache:
            raise
        raise InputError(
            f"paper_figs: what {out} holds of {name} was made by other code ({error}); run it without --from-cache."
        ) from error
    outcome = Outcome(name, claim(module), compared, holds, float(found.attrs["seconds"]))
    store.write_json(out / f"{name}.json", _record(outcome, found))
    return outcome


def judge(module: Any, data: xarray.Dataset) -> tuple[tuple[Compared, ...], bool]:
    """What a figure's check compared, and whether all of it holds."""
    try:
        return tuple(module.check(data)), True
    except ClaimFailed as failed:
        return failed.compared, False


def _found(module: Any, name: str, preset: str, out: pathlib.Path, from_cache: bool, data: Any) -> xarray.Dataset:
    mark = fingerprint(module, preset, data)
    found = cached(out, name, None if from_cache else mark)
    if found is not None:
        return found
    if from_cache:
        raise InputError(f"paper_figs: {out} holds no data of {name}; run it without --from-cache first.")
    started, given = time.monotonic(), {} if data is None else {"data": data}
    found = module.compute(preset, jax.random.key(SEED), **given)
    found = found.assign_attrs(fingerprint=mark, preset=preset, seconds=time.monotonic() - started)
    write_data(out / f"{name}.zarr.zip", found)
    return found


def takes_data(module: Any) -> bool:
    """Whether a figure can be made of a data set of the user's."""
    return "data" in inspect.signature(module.compute).parameters


def fingerprint(module: Any, preset: str, data: Any = None) -> str:
    """What the numbers depend on: the figure's code and what it shares, the library's, the preset, the data set."""
    if data is not None and not takes_data(module):
        raise InputError(f"paper_figs: {module.__name__.split('.')[-1]} takes no data set; leave --data out.")
    library = pathlib.Path(isometry.__file__).parent.rglob("*.py")
    shared = [pathlib.Path(__file__).with_name(name) for name in SHARED]
    parts = [_source(module).encode(), preset.encode(), *(p.read_bytes() for p in sorted([*shared, *library]))]
    parts += [np.asarray(a).tobytes() for a in data or () if a is not None]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _source(module: Any) -> str:
    return inspect.getsource(module)


def cached(out: pathlib.Path, name: str, mark: str | None) -> xarray.Dataset | None:
    """The data in `out`, if it is of this fingerprint, or of any if that is None."""
    path = out / f"{name}.zarr.zip"
    if not path.exists():
        return None
    found = read_data(path)
    return found if mark in (None, found.attrs.get("fingerprint")) else None


def read_data(path: pathlib.Path) -> xarray.Dataset:
    """The data of a figure, in memory."""
    from zarr.storage import ZipStore

    with ZipStore(path, mode="r") as files:
        return xarray.open_zarr(files, consolidated=False).load()


def write_data(path: pathlib.Path, data: xarray.Dataset) -> None:
    """A dataset as a zipped zarr, whole or not at all."""
    with tempfile.TemporaryDirectory() as folder:
        whole = pathlib.Path(folder) / "data"
        data.to_zarr(whole, consolidated=False, zarr_format=2)  # 3 has no settled strings
        with open(shutil.make_archive(str(whole), "zip", whole), "rb") as zipped:
            store.atomically(path, lambda file: shutil.copyfileobj(zipped, file))


def _draw(module: Any, data: xarray.Dataset, out: pathlib.Path, name: str) -> None:
    with _style.drawn():
        picture = module.plot(data)
        for suffix in ("png", "pdf"):
            store.write_figure(out / f"{name}.{suffix}", picture, dpi=200)


def _record(outcome: Outcome, data: xarray.Dataset) -> dict[str, Any]:
    where = provenance.provenance(seed=SEED, preset=data.attrs["preset"], fingerprint=data.attrs["fingerprint"])
    where["command"] = ["python", "-m", "paper_figs", outcome.name, "--preset", data.attrs["preset"]]
    told = {"figure": outcome.name, "claim": outcome.claim, "holds": outcome.holds, "seconds": outcome.seconds}
    return {**told, "compared": [c.row() for c in outcome.compared], "provenance": where}


def records(out: pathlib.Path) -> list[dict[str, Any]]:
    """The records in `out` of figures that there are, by name."""
    paths = [out / f"{name}.json" for name in names()]
    return [json.loads(path.read_text()) for path in paths if path.exists()]
