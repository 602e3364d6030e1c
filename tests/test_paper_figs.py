"""The papers' figures: every claim at the smoke preset, pictures a reader can read, and the times of training."""

import inspect

import jax
import numpy as np
import pytest
import xarray

from paper_figs import _run, _style, _times
from paper_figs._check import ClaimFailed

NAMES = _run.names()
QUICK = (
    "hanin2020_fluctuation",
    "poole2016_maps",
    "saxe2013_learning_curves",
    "zero2021_partial_identity_rank",
)
FIGURES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]


@pytest.mark.parametrize("name", FIGURES)
def test_claim_and_picture(name, tmp_path):
    """The claim holds; of data with something else in it, it does not. The picture can be read."""
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
    readable(module, data, tmp_path)


def falsified(data):
    """Every measured number half as large again."""
    wrong = {n: v * 1.5 for n, v in data.items() if np.issubdtype(v.dtype, np.floating) and not n.startswith("law")}
    return data.assign(wrong)


def readable(module, data, tmp_path):
    """Labelled axes, a legend that says something, nothing that matplotlib warns of."""
    with _style.drawn():
        figure = module.plot(data)
        figure.savefig(tmp_path / "picture.png", dpi=50)
    shown = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    for ax in shown:
        assert ax.has_data()
        bottom, left = ax.get_subplotspec().is_last_row(), ax.get_subplotspec().is_first_col()
        assert ax.get_xlabel() or not bottom
        assert ax.get_ylabel() or not left
    assert any(ax.get_title() for ax in shown)
    legends = [*figure.legends, *(ax.get_legend() for ax in shown if ax.get_legend())]
    assert legends
    assert all(text.get_text() for legend in legends for text in legend.get_texts())


@pytest.mark.parametrize("name", NAMES)
def test_layout(name):
    """One layout: a claim in the docstring's first line, two presets, compute, check and plot, and little else."""
    module = _run.figure(name)
    claim, blank, _ = module.__doc__.split("\n", 2)
    assert claim.endswith(".")
    assert not blank
    assert "2 cores" in module.__doc__
    assert set(module.PRESETS) == set(_run.PRESETS)
    own = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
    assert {n for n in own if not n.startswith("_")} == {"compute", "check", "plot"}


TIMED = "pennington2017_training_time"
GROWN = {"tanh, orthogonal": 0.4, "tanh, gaussian": 1.1, "relu, orthogonal": 1.2, "relu, gaussian": 1.3}


def timed(noise=0.15):
    """Times that grow with these powers, at eight rates with the best between two of them."""
    rng, depths, power = np.random.default_rng(3), np.array([4, 12]), np.array(list(GROWN.values()))
    middle = np.log(10) + power[:, None] * np.log(depths / 4)
    logs = middle[:, :, None, None] + 0.1 * (np.arange(8) - 3.5)[:, None] ** 2 + noise * rng.standard_normal(12)
    logs = logs + noise * rng.standard_normal(logs.shape)
    wrong = 0.9 + 0.04 * rng.standard_normal((4, 2, 12))
    variance = 1 + 0.1 * rng.standard_normal((4, 2, 12))
    return xarray.Dataset(
        {
            "steps": (("net", "depth", "rate", "seed"), np.exp(logs)),
            "ended": (("net", "depth"), np.full((4, 2), 400)),
            "wrong": (("net", "depth", "seed"), wrong),
            "variance": (("net", "depth", "seed"), variance),
        },
        {"net": list(GROWN), "depth": depths, "rate": 2.0 ** (np.arange(-4, 4) / 2)},
    )


def failing(data):
    """What fails of the check of training times."""
    return [c.what.split(",")[0] for c in _run.judge(_run.figure(TIMED), data)[0] if not c.holds]


def test_the_check_of_training_times_can_fail():
    """Orthogonal and Gaussian exchanged, both alike, the best rate at an edge, too many runs that were not there."""
    data = timed()
    assert failing(data) == []
    exchanged = data.assign_coords(net=[list(GROWN)[i] for i in (1, 0, 2, 3)])
    assert failing(exchanged) == ["power of L"]
    alike = data.assign(steps=data.steps.copy(data=data.steps.values[[1, 1, 2, 3]]))
    assert failing(alike) == ["power of L"]
    fastest = data.assign(steps=data.steps.where((data.net != "relu, gaussian") | (data.rate < data.rate[-1]), 2.0))
    assert failing(fastest) == ["the same"]
    slowest = data.assign(steps=data.steps.where((data.net != "relu, gaussian") | (data.rate > data.rate[0]), 2.0))
    assert failing(slowest) == ["best rate"]
    late = (data.net == "relu, gaussian") & (data.depth == 12) & (data.seed < 6)
    assert failing(data.assign(steps=data.steps.where(~late, np.inf))) == ["share of runs not there"]


def test_held_out_times_are_unbiased_and_their_error_covers():
    """Rates that do not differ: choosing the luckiest would be 1.4 deviations low; an exact power is found."""
    truth, seeds = 2.0, 12
    logs = truth + np.random.default_rng(4).standard_normal((300, 8, seeds))
    found = _times.held_out(logs, 200)
    spread = found.value.std(ddof=1) / np.sqrt(len(found.value))
    assert abs(found.value.mean() - truth) < 4 * spread
    covered = np.mean(np.abs(found.value - truth) < found.error)
    assert covered > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 300)
    depths = np.array([3, 6, 24])
    exact = _times.power(depths, _times.Middle(np.log(5 * depths**0.7), np.full(3, 0.1)))
    x = np.log(depths) - np.log(depths).mean()
    assert exact.slope == pytest.approx(0.7, rel=1e-12)
    assert exact.error == pytest.approx(0.1 / np.sqrt(x @ x), rel=1e-12)
