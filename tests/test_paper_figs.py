"""The papers' figures: every claim at the smoke preset, pictures a reader can read, and how they are run and kept."""

import inspect
import json
import types

import jax
import matplotlib.figure
import numpy as np
import pytest
import xarray

from isometry import InputError
from paper_figs import __main__, _gallery, _run, _style, _times
from paper_figs._check import ClaimFailed, Compared, settled, within

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


def fake(calls, value=1.0):
    """A figure that costs nothing, and remembers when it was computed."""

    def compute(preset, key):
        calls.append(preset)
        return xarray.Dataset({"value": ("x", [value, 2.0])}, {"x": ["a", "b"]}, {"widths": [1, 2]})

    def plot(data):
        figure, axes = _style.panels()
        axes[0, 0].plot([0, 1], data.value)
        return figure

    def check(data):
        return settled([within("value", float(data.value[0]), 1.0, 0.1), Compared("not a number is said", 0.0, 0.0)])

    return types.SimpleNamespace(
        __doc__="One is one.\n\nA test.", __name__="paper_figs.fake", compute=compute, check=check, plot=plot
    )


@pytest.fixture
def faked(monkeypatch):
    """`fake` as the only figure; its list of calls."""
    calls = []

    def put(**changes):
        module = fake(calls, **changes)
        monkeypatch.setattr(_run, "names", lambda: ["fake"])
        monkeypatch.setattr(_run, "figure", lambda name: module)
        monkeypatch.setattr(_run, "_source", lambda module: repr(changes))
        return calls

    return put


def test_run_and_resume(faked, tmp_path, capsys):
    """Everything is written; the same code does not compute again, another preset or other code does."""
    calls = faked()
    assert __main__.main(["fake", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"fake.zarr.zip", "fake.png", "fake.pdf", "fake.json"}
    record = json.loads((tmp_path / "fake.json").read_text(), parse_constant=pytest.fail)
    assert record["holds"]
    assert record["compared"][0] == {
        "what": "value",
        "measured": "1",
        "expected": "1 ± 0.1",
        "holds": True,
        "verdict": "holds",
    }
    assert {"versions", "git_commit", "seed", "preset", "fingerprint", "command"} <= record["provenance"].keys()
    kept = _run.read_data(tmp_path / "fake.zarr.zip")
    assert kept.value.values.tolist() == [1.0, 2.0]
    assert kept.x.values.tolist() == ["a", "b"]
    assert kept.widths == [1, 2]
    assert "holds" in capsys.readouterr().out
    assert __main__.main(["--all", "--preset", "smoke", "--out", str(tmp_path)]) == 0
    assert calls == ["smoke"]
    assert __main__.main(["--all", "--out", str(tmp_path)]) == 0
    assert calls == ["smoke", "full"]
    faked(value=1.05)
    assert __main__.main(["--all", "--from-cache", "--out", str(tmp_path)]) == 0
    assert calls == ["smoke", "full"]
    assert __main__.main(["--all", "--out", str(tmp_path)]) == 0
    assert calls == ["smoke", "full", "full"]


@pytest.mark.parametrize("value", [3.0, np.nan])
def test_a_failed_claim_is_shown(faked, tmp_path, capsys, value):
    """Exit code 1, the number beside what was expected, in the table, the record and on the page; pictures all the
    same."""
    faked(value=value)
    assert __main__.main(["fake", "--out", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "FAILS" in out
    assert f"{value:.5g}" in out
    record = json.loads((tmp_path / "fake.json").read_text(), parse_constant=pytest.fail)
    assert [c["holds"] for c in record["compared"]] == [False, True]
    assert (tmp_path / "fake.png").stat().st_size > 1000
    page = _gallery.write(tmp_path, tmp_path / "page").read_text()
    assert "does not hold" in page
    assert "| value | " + f"{value:.5g} | 1 ± 0.1 | **FAILS** |" in page
    assert (tmp_path / "page" / "gallery" / "fake.png").exists()


def test_the_gallery_shows_every_figure():
    """With the numbers of the records beside it, in tables that no |s − 1| cuts."""
    page = (_gallery.HERE / "README.md").read_text(encoding="utf-8")
    for name in _run.names():
        section = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        record = json.loads((_gallery.HERE / "gallery" / f"{name}.json").read_text())
        assert f"](gallery/{name}.png)" in section
        assert (_gallery.HERE / "gallery" / f"{name}.png").is_file()
        rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
        assert len(rows) == len(record["compared"])
        for row, compared in zip(rows, record["compared"], strict=True):
            assert row.replace("\\|", "").count("|") == 5
            assert compared["measured"] in row


@pytest.mark.parametrize(("where", "kept"), [("shutil.make_archive", []), ("Figure.savefig", ["fake.zarr.zip"])])
def test_interrupted(faked, tmp_path, monkeypatch, capsys, where, kept):
    """Half-way through writing the data, or a picture: what is there is whole, and going on takes it from there."""
    calls = faked()

    def interrupted(*args, **kwargs):
        for half in args:
            if hasattr(half, "write"):  # the file that a picture goes to
                half.write(b"half")
        raise KeyboardInterrupt

    home = _run.shutil if where.startswith("shutil") else matplotlib.figure.Figure
    with monkeypatch.context() as patch:
        patch.setattr(home, where.split(".")[1], interrupted)
        assert __main__.main(["fake", "--out", str(tmp_path)]) == 130
    assert "run the same command" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == kept
    assert __main__.main(["fake", "--out", str(tmp_path)]) == 0
    assert calls == ["full"] * (2 - len(kept))


def test_usage(faked, tmp_path, capsys):
    assert __main__.main([]) == 0
    listed = capsys.readouterr().out
    assert [name for name in NAMES if name not in listed] == []
    faked()
    assert __main__.main(["fake", "--from-cache", "--out", str(tmp_path)]) == 2
    assert "holds no data of fake" in capsys.readouterr().err
    np.save(tmp_path / "x.npy", np.zeros((2, 3)))
    assert __main__.main(["fake", "--data", str(tmp_path / "x.npy"), "--out", str(tmp_path)]) == 2
    assert "takes no data set" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        __main__.main(["pennington"])
    assert error.value.code == 2
    assert "there are: fake" in capsys.readouterr().err


def test_what_a_check_may_be():
    """No comparison, or one that is not a number, is a failure."""
    for wrong in ([], [Compared("nan", np.nan)], [Compared("high", 2.0, high=1.0)]):
        with pytest.raises(ClaimFailed):
            settled(wrong)
    assert Compared("a", 1.0, 1.0, 1.0).expected == "1"
    assert Compared("a", 1.0, 0.0).expected == "at least 0"
    assert Compared("a", 1.0, high=2.0).expected == "at most 2"
    assert Compared("a", 1.0, 0.5, 2.0).expected == "0.5 to 2"


def test_no_data_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="without --from-cache"):
        _run.run(NAMES[0], "smoke", tmp_path, from_cache=True)


def test_data_of_other_code_is_an_input_error(faked, tmp_path, capsys):
    faked()
    old = xarray.Dataset({"other": ("x", [1.0])}, attrs={"fingerprint": "old", "preset": "full", "seconds": 1.0})
    _run.write_data(tmp_path / "fake.zarr.zip", old)
    assert __main__.main(["fake", "--from-cache", "--out", str(tmp_path)]) == 2
    assert "made by other code" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["fake.zarr.zip"]


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
