"""The papers' figures fail when a fault is planted: their checks have teeth."""

import collections
import importlib
import pathlib
import pkgutil

import jax
import pytest

from paper_figs import _run
from paper_figs._check import ClaimFailed

# Each file holds the faults of some figures.
FILES = sorted(pathlib.Path(__file__).parent.glob("paper_faults*.py"))
FAULTS = [
    fault
    for path in FILES
    for fault in importlib.import_module(f"tests.{path.stem}").FAULTS
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", FAULTS, ids=[f"{fault.figure}: {fault.what}" for fault in FAULTS]
)
def test_a_planted_fault_fails_the_check(fault, monkeypatch):
    module = _run.figure(fault.figure)
    planted = fault.replace(pkgutil.resolve_name(fault.target))
    monkeypatch.setattr(fault.target, planted)
    # JAX as `python -m paper_figs` has it.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        data = module.compute("smoke", jax.random.key(_run.SEED))
    with pytest.raises(ClaimFailed):
        module.check(data)


def test_every_figure_has_at_least_three_faults():
    """And all faults are of figures that there are."""
    counts = collections.Counter(fault.figure for fault in FAULTS)
    assert set(counts) == set(_run.names())
    assert min(counts.values()) >= 3
