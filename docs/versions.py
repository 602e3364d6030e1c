"""Write docs/versions.md: supported versions, and the licences of dependencies.

`python -m docs.versions`. Oldest versions come from pyproject.toml; a test holds the
page to it, and the licences to what the installed packages say of themselves.
"""

import pathlib
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[1]
PAGE = pathlib.Path(__file__).with_suffix(".md")

HEAD = """# Versions and licences

Made by `python -m docs.versions` from `pyproject.toml`.

## Supported versions

Python {pythons}. `.ci/run` runs a sample of the tests on the oldest Python
with the oldest version of each package, and on the newest Python with the newest of
each; `.ci/nightly` runs all tests on both. The newest that were tested:

| package | oldest | newest |
|---|---|---|
"""

POLICY = """
## What may change

Public is what `tests/public_surface.txt` and the [reference](api/index.rst) list, and
the options and exit codes of the [command line](command_line.md). A name with a leading
underscore is private, and so are `isometry._internal`, `benchmarks`, `paper_figs`,
`docs` and `tests`.

Before version 1.0 a minor version (0.x) may break what is public, and the
[changes](../CHANGELOG.md) say what to write instead; a patch (0.x.y) may not. From
0.2 on, a name that goes still works for one minor version, with a
`DeprecationWarning`. Numbers may change in any version within what
[precision](precision.md) promises. An oldest version of a dependency may rise in a
minor version.

Programs are read through `jax.extend`, which JAX may change in any release. A JAX that
is newer than the table may be refused, or read less well: a certificate then says that
it is evidence.

## Dependencies and their licences

A plain install needs the packages of *core*. The others belong to the extras of their
names, as in `pip install '.[cli]'`; `all` is
{everything}. Licences are those that the packages'
own metadata name; where those say no more than BSD, the clauses are those of the
packages' licence files. None of these packages is copied into this one.

| extra | package | oldest | licence |
|---|---|---|---|
"""

# Where .ci/run last passed on the newest versions. A test of the nightly run asks for
# new numbers here once newer ones are installed.
NEWEST = {
    "jax": "0.12.0.1",
    "jaxlib": "0.12.0.1",
    "numpy": "2.5.5",
    "scipy": "1.18.1",
}

LICENCES = {
    "beartype": "MIT",
    "distributed": "BSD-3-Clause",
    "dm-haiku": "Apache-2.0",
    "equinox": "Apache-2.0",
    "flax": "Apache-2.0",
    "furo": "MIT",
    "hypothesis": "MPL-2.0",
    "ipykernel": "BSD-3-Clause",
    "jax": "Apache-2.0",
    "jaxlib": "Apache-2.0",
    "jaxtyping": "MIT",
    "jinja2": "BSD-3-Clause",
    "latex2mathml": "MIT",
    "lazy_loader": "BSD-3-Clause",
    "cloudpickle": "BSD-3-Clause",
    "loky": "BSD-3-Clause",
    "matfree": "MIT",
    "matplotlib": "PSF-2.0",
    "mpmath": "BSD-3-Clause",
    "myst-nb": "BSD-3-Clause",
    "nbclient": "BSD-3-Clause",
    "numpy": "BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
    "optax": "Apache-2.0",
    "playwright": "Apache-2.0",
    "pyright": "MIT",
    "pytest": "MIT",
    "pytest-xdist": "MIT",
    "rich": "MIT",
    "ruff": "MIT",
    "scikit-learn": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "sphinx": "BSD-2-Clause",
    "sphinx-copybutton": "MIT",
    "sphinxcontrib-bibtex": "BSD-2-Clause",
    "threadpoolctl": "BSD-3-Clause",
    "torch": "Apache-2.0 AND Apache-2.0 WITH LLVM-exception AND BSD-2-Clause AND "
    "BSD-3-Clause AND BSL-1.0 AND MIT",
    "typer": "MIT",
    "xarray": "Apache-2.0",
    "zarr": "MIT",
}

# How metadata name a licence, and the first letters of its SPDX name. Older metadata
# have a classifier or free text, which does not tell one BSD licence from another.
FAMILIES = {
    "0BSD": r"\b0BSD\b",
    "Apache": r"\bApache\b",
    "BSD": r"\bBSD\b",
    "BSL": r"\bBSL\b",
    "CC0": r"\bCC0\b",
    "GPL": r"GPL|General Public",
    "MIT": r"\bMIT\b",
    "MPL": r"\bMPL\b|Mozilla",
    "PSF": r"\bPSF\b|Python Software Foundation",
    "Zlib": r"\bZlib\b",
}


class Needed(NamedTuple):
    """A direct dependency.

    Attributes:
        extra: The extra that needs it, or "core".
        package: Its name.
        oldest: The oldest version that is supported.
    """

    extra: str
    package: str
    oldest: str


def project() -> dict[str, Any]:
    """Return the table `project` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def needed() -> Iterator[Needed]:
    """List the direct dependencies, as pyproject.toml has them."""
    read = project()
    groups = {"core": read["dependencies"], **read["optional-dependencies"]}
    for extra, requirements in groups.items():
        for requirement in requirements:
            # `all` and `test` name extras of this package, which are listed themselves.
            if requirement.startswith("isometry["):
                continue
            found = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", requirement)
            if found is None:
                raise ValueError(f"{requirement!r} is not written NAME>=VERSION")
            yield Needed(extra, package=found[1], oldest=found[2])


def families(text: str) -> set[str]:
    """Return the families of licences that a text names."""
    return {name for name, form in FAMILIES.items() if re.search(form, text)}


def stated(package: str) -> str:
    """Return what the metadata of an installed package say of its licence.

    Raises:
        metadata.PackageNotFoundError: It is not installed.
    """
    read = metadata.metadata(package)

    def every(field: str) -> list[str]:
        # The package importlib_metadata, once imported, raises KeyError for a field
        # that is not there, where the standard library returns None.
        return read.get_all(field) or []

    classifiers = every("Classifier")
    licences = [line for line in classifiers if line.startswith("License ::")]
    # The field License may hold a whole text; classifiers are names.
    found = every("License-Expression") or licences or every("License")
    return ", ".join(found)


def text() -> str:
    """Return the page."""
    read = project()
    form = r"Programming Language :: Python :: (3\.\d+)"
    classifiers = " ".join(read["classifiers"])
    pythons = ", ".join(re.findall(form, classifiers))
    everything = read["optional-dependencies"]["all"][0]
    rows = list(needed())
    core = {row.package: row.oldest for row in rows if row.extra == "core"}
    lines = [
        HEAD.format(pythons=pythons),
        *(f"| {name} | {core[name]} | {NEWEST[name]} |\n" for name in NEWEST),
        POLICY.format(everything=f"`{everything}`"),
        *(
            f"| {extra} | {package} | {oldest} | {LICENCES[package]} |\n"
            for extra, package, oldest in rows
        ),
    ]
    return "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
