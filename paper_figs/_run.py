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
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray

import paper_figs
from isometry import _checks, _provenance, store
from paper_figs import _style
from paper_figs._check import ClaimFailed, Compared

SEED = 0
PRESETS = ("full", "smoke")


class Outcome(NamedTuple):
    """What running a figure came to. `seconds` is None where the data came from the cache."""

    name: str
    claim: str
    compared: tuple[Compared, ...]
    holds: bool
    seconds: float | None


def names() -> list[str]:
    """Every figure file of this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(paper_figs.__path__) if not m.name.startswith("_"))


def figure(name: str) -> Any:
    """The module of a figure."""
    return importlib.import_module(f"paper_figs.{name}")


def claim(module: Any) -> str:
    """The first line of a figure's docstring."""
    return inspect.getdoc(module).splitlines()[0]  # pyright: ignore[reportOptionalMemberAccess]


def run(name: str, preset: str, out: pathlib.Path, *, from_cache: bool = False, data: Any = None) -> Outcome:
    """Everything of one figure into `out`: NAME.zarr.zip, NAME.png, NAME.pdf, NAME.json.

    Data that the same code made of the same preset is taken from `out`, so that a run that was stopped goes on where it
    was. `from_cache` takes what is there whatever made it. `data`: a data set of the user's for the figures that can
    use one.

    **Raises** `ValueError`: nothing cached; a data set for a figure that takes none.
    """
    module, started = figure(name), time.monotonic()
    print_ = fingerprint(module, preset, data)
    found = cached(out, name, None if from_cache else print_)
    if found is None and from_cache:
        raise _checks.InputError(f"paper_figs: {out} holds no data of {name}; run it without --from-cache first.")
    made = found is None
    if found is None:
        found = _computed(module, preset, data).assign_attrs(fingerprint=print_, preset=preset)
        _write_data(out / f"{name}.zarr.zip", found)
    try:
        compared, holds = tuple(module.check(found)), True
    except ClaimFailed as failed:
        compared, holds = failed.compared, False
    seconds = time.monotonic() - started if made else None
    _draw(module, found, out, name)
    outcome = Outcome(name, claim(module), compared, holds, seconds)
    store.write_json(out / f"{name}.json", _record(outcome, found))
    return outcome


def _computed(module: Any, preset: str, data: Any) -> xarray.Dataset:
    key = jax.random.key(SEED)
    return module.compute(preset, key) if data is None else module.compute(preset, key, data=data)


def takes_data(module: Any) -> bool:
    """Whether a figure can be made of a data set of the user's."""
    return "data" in inspect.signature(module.compute).parameters


def fingerprint(module: Any, preset: str, data: Any) -> str:
    """What the numbers depend on: the figure's code, the preset, the library's version and sources, the data set."""
    if data is not None and not takes_data(module):
        raise _checks.InputError(f"paper_figs: {module.__name__.split('.')[-1]} takes no data set; leave --data out.")
    parts = [inspect.getsource(module), preset, *(p.read_text() for p in sorted(_sources()))]
    parts += (
        [] if data is None else [hashlib.sha256(np.asarray(a).tobytes()).hexdigest() for a in data if a is not None]
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _sources() -> Sequence[pathlib.Path]:
    import isometry

    return list(pathlib.Path(isometry.__file__).parent.rglob("*.py"))


def cached(out: pathlib.Path, name: str, print_: str | None) -> xarray.Dataset | None:
    """The data in `out`, if it is of this fingerprint, or of any if that is None."""
    path = out / f"{name}.zarr.zip"
    if not path.exists():
        return None
    found = read_data(path)
    return found if print_ in (None, found.attrs.get("fingerprint")) else None


def read_data(path: pathlib.Path) -> xarray.Dataset:
    """The data of a figure, in memory."""
    import zarr

    with zarr.storage.ZipStore(path, mode="r") as files:
        return xarray.open_zarr(files, consolidated=False).load()


def _write_data(path: pathlib.Path, data: xarray.Dataset) -> None:
    import zarr

    with tempfile.TemporaryDirectory() as folder:
        whole = pathlib.Path(folder) / "data.zip"
        with zarr.storage.ZipStore(whole, mode="w") as files:
            data.to_zarr(files, consolidated=False)
        store.atomically(path, lambda file: shutil.copyfileobj(whole.open("rb"), file))


def _draw(module: Any, data: xarray.Dataset, out: pathlib.Path, name: str) -> None:
    with _style.drawn():
        picture = module.plot(data)
        for suffix in ("png", "pdf"):
            store.write_figure(out / f"{name}.{suffix}", picture, dpi=200)
        _style.close(picture)


def _record(outcome: Outcome, data: xarray.Dataset) -> dict[str, Any]:
    where = _provenance.provenance(seed=SEED, preset=data.attrs["preset"], fingerprint=data.attrs["fingerprint"])
    where["command"] = ["python", "-m", "paper_figs", outcome.name, "--preset", data.attrs["preset"]]
    rows = [{**c._asdict(), "expected": c.wanted, "holds": c.holds} for c in outcome.compared]
    told = {"figure": outcome.name, "claim": outcome.claim, "holds": outcome.holds, "seconds": outcome.seconds}
    return {**told, "compared": rows, "provenance": where}


def records(out: pathlib.Path) -> list[dict[str, Any]]:
    """The records in `out`, by name."""
    return [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
