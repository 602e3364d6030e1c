"""The papers' figures: every claim at the smoke preset, and pictures one can read."""

import inspect

import jax
import numpy as np
import pytest

from paper_figs import _run, _style
from paper_figs._check import ClaimFailed

NAMES = _run.names()

# The gate has one figure of signals, of learning and of ranks. The others are slow.
QUICK = (
    "hanin2020_fluctuation",
    "poole2016_maps",
    "saxe2013_learning_curves",
    "zero2021_partial_identity_rank",
)
SLOW = tuple(name for name in NAMES if name not in QUICK)


@pytest.mark.parametrize("name", QUICK)
def test_a_claim_holds_and_its_picture_can_be_read(name, tmp_path):
    require_claim_and_picture(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_costly_claim_holds_and_its_picture_can_be_read(name, tmp_path):
    require_claim_and_picture(name, tmp_path)


def require_claim_and_picture(name, folder):
    """Of numbers that are half as large again, the claim must not hold."""
    module = _run.figure(name)
    # JAX as `python -m paper_figs` has it.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        data = module.compute("smoke", jax.random.key(_run.SEED))
    compared = module.check(data)
    assert compared
    assert all(c.holds for c in compared)
    with pytest.raises(ClaimFailed) as failed:
        module.check(falsified(data))
    assert len(failed.value.compared) == len(compared)
    require_readable(module, data, folder)


def falsified(data):
    """Every measured number half as large again."""
    wrong = {
        name: values * 1.5
        for name, values in data.items()
        if np.issubdtype(values.dtype, np.floating) and not name.startswith("law")
    }
    return data.assign(wrong)


def require_readable(module, data, folder):
    """Labelled axes, a legend that says something, nothing matplotlib warns of."""
    with _style.drawn():
        figure = module.plot(data)
        figure.savefig(folder / "picture.png", dpi=50)
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    for ax in panels:
        assert ax.has_data()
        place = ax.get_subplotspec()
        assert ax.get_xlabel() or not place.is_last_row()
        assert ax.get_ylabel() or not place.is_first_col()
    assert any(ax.get_title() for ax in panels)
    legends = [ax.get_legend() for ax in panels if ax.get_legend()]
    legends.extend(figure.legends)
    assert legends
    labels = [text.get_text() for legend in legends for text in legend.get_texts()]
    assert all(labels)


@pytest.mark.parametrize("name", NAMES)
def test_figures_have_one_layout(name):
    """A claim in the first line, two presets, compute, check and plot, little else."""
    module = _run.figure(name)
    claim, blank, _ = module.__doc__.split("\n", 2)
    assert claim.endswith(".")
    assert not blank
    assert set(module.PRESETS) == set(_run.PRESETS)
    functions = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    public = {name for name in functions if not name.startswith("_")}
    assert public == {"compute", "check", "plot"}
