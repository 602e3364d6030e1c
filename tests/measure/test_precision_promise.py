"""Every promise of docs/precision.md is measured.

And the page says what the code promises.
"""

import importlib.util
import pathlib

import pytest

PATH = pathlib.Path(__file__).parent.parent.parent / "docs" / "precision.py"
SPEC = importlib.util.spec_from_file_location("docs_precision", PATH)
precision = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(precision)


SECONDS_TO_COMPILE = (
    "extreme singular values, Lanczos",
    "log singular values, product",
    "theory.traced: chi, q*",
)


def _cases():
    """float32 with x64 off, float64 with it on, the host with both.

    Float32 with it on is slow.
    """
    for promise in precision.PROMISES:
        for x64 in precision.modes(promise):
            again = x64 and promise.dtype not in ("float64", "host")
            marks = (
                [pytest.mark.slow]
                if again or promise.quantity in SECONDS_TO_COMPILE
                else []
            )
            yield pytest.param(
                promise,
                x64,
                id=f"{promise.quantity}-{promise.dtype}-{x64}",
                marks=marks,
            )


@pytest.mark.parametrize(("promise", "x64"), list(_cases()))
def test_promise(promise, x64):
    assert precision.measured(promise, x64) <= promise.promised


def test_the_page_says_so():
    rows = [
        line.split("|")[1:-1]
        for line in precision.PAGE.read_text(encoding="utf-8").splitlines()
        if line[:2] == "| "
    ]
    said = [[cell.strip() for cell in row] for row in rows[1:]]
    wanted = [
        [p.quantity, p.dtype, f"{p.promised:g} {p.unit}", p.reference, p.cases]
        for p in precision.PROMISES
    ]
    assert [[*row[:3], *row[4:]] for row in said] == wanted
    assert all(
        float(row[3]) <= p.promised
        for row, p in zip(said, precision.PROMISES, strict=True)
    )
