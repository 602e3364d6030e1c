"""The papers' figures: how they are run, kept, and shown."""

import concurrent.futures
import json
import types

import matplotlib.figure
import matplotlib.image
import numpy as np
import pytest
import xarray

from isometry import InputError
from paper_figs import __main__, _data, _gallery, _run
from paper_figs._check import ClaimFailed, Compared, settled, within


def make_figure(calls, value=1.0):
    """A figure that costs nothing, and appends to `calls` when it is computed.

    Its check holds for a value of 1.
    """

    def compute(preset, key):
        calls.append(preset)
        if value is None:
            raise RuntimeError("no such network")
        numbers = {"value": ("x", [value, 2.0])}
        return xarray.Dataset(numbers, {"x": ["a", "b"]}, {"widths": [1, 2]})

    def plot(data):
        # Small, because most of a test's time would be writing its files.
        figure = matplotlib.figure.Figure(figsize=(0.6, 0.4))
        figure.add_axes((0.1, 0.1, 0.8, 0.8)).plot([0, 1], data.value)
        return figure

    def check(data):
        measured = float(data.value[0])
        said = Compared("not a number is said", 0.0, low=0.0)
        return settled([within("value", measured, 1.0, 0.1), said])

    return types.SimpleNamespace(
        __doc__="One is one.\n\nA test.",
        __name__="paper_figs.fake",
        compute=compute,
        check=check,
        plot=plot,
    )


@pytest.fixture
def put_figures(monkeypatch):
    """A function that replaces all figures by some that cost nothing.

    It takes the value of each by name, and returns the presets that were computed.
    """
    calls = []

    def put(**values):
        modules = {name: make_figure(calls, value) for name, value in values.items()}
        monkeypatch.setattr(_run, "names", lambda: sorted(modules))
        monkeypatch.setattr(_run, "figure", modules.get)
        monkeypatch.setattr(_data, "source", lambda module: repr(values))
        return calls

    return put


def main(*arguments):
    return __main__.main([str(argument) for argument in arguments])


def read_record(folder, name="fake"):
    """The record of a figure, in strict JSON."""
    text = (folder / f"{name}.json").read_text()
    return json.loads(text, parse_constant=pytest.fail)


def test_data_pictures_and_record_are_written(put_figures, tmp_path, capsys):
    put_figures(fake=1.0)
    assert main("fake", "--preset", "smoke", "--out", tmp_path) == 0
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"fake.zarr.zip", "fake.png", "fake.pdf", "fake.json"}
    record = read_record(tmp_path)
    assert record["holds"]
    assert record["compared"][0] == {
        "what": "value",
        "measured": "1",
        "expected": "1 ± 0.1",
        "holds": True,
        "verdict": "holds",
    }
    origin = record["provenance"]
    assert {"versions", "git_commit", "seed", "fingerprint"} <= origin.keys()
    assert " ".join(origin["command"]) == "python -m paper_figs fake --preset smoke"
    kept = _data.read(tmp_path / "fake.zarr.zip")
    assert kept.value.values.tolist() == [1.0, 2.0]
    assert kept.x.values.tolist() == ["a", "b"]
    assert kept.widths == [1, 2]
    assert "holds" in capsys.readouterr().out


def test_what_the_same_code_computed_is_not_computed_again(put_figures, tmp_path):
    calls = put_figures(fake=1.0)
    assert main("fake", "--preset", "smoke", "--out", tmp_path) == 0
    assert main("--all", "--preset", "smoke", "--out", tmp_path) == 0
    assert calls == ["smoke"]
    # Another preset is computed.
    assert main("--all", "--out", tmp_path) == 0
    assert calls == ["smoke", "full"]
    # Other code takes what is there only if it is asked to.
    put_figures(fake=1.05)
    assert main("--all", "--from-cache", "--out", tmp_path) == 0
    assert calls == ["smoke", "full"]
    assert main("--all", "--out", tmp_path) == 0
    assert calls == ["smoke", "full", "full"]


def test_several_figures_are_a_sweep_that_one_failure_does_not_stop(
    put_figures, tmp_path
):
    """Called again, only the figure that failed is computed again."""
    calls = put_figures(broken=None, first=1.0, second=1.05)
    wanted = ["broken", "first", "second"]
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        for _ in range(2):
            records, reasons = _run.run_many(wanted, "smoke", tmp_path, executor=thread)
            assert [record["figure"] for record in records] == ["first", "second"]
            assert list(reasons) == ["broken"]
            assert "no such network" in reasons["broken"]
    assert len(calls) == 4


def test_a_figure_that_was_not_made_is_told(put_figures, tmp_path, monkeypatch, capsys):
    put_figures(broken=None, first=1.0)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:

        def run_many(*arguments, executor, **how):
            return original(*arguments, executor=thread, **how)

        original = _run.run_many
        monkeypatch.setattr(_run, "run_many", run_many)
        assert main("--all", "--out", tmp_path) == 1
    printed = capsys.readouterr().out
    assert "NOT MADE" in printed
    assert "no such network" in printed
    assert "wrote 1 figures" in printed


@pytest.mark.slow
def test_figures_are_made_in_processes(tmp_path):
    """Two real figures: the same numbers as alone, bit for bit."""
    names = ["saxe2013_learning_curves", "zero2021_partial_identity_rank"]
    alone = tmp_path / "alone"
    together = tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    _, reasons = _run.run_many(names, "smoke", together, executor=2)
    assert reasons == {}
    for name in names:
        _run.run(name, "smoke", alone)
        first = _data.read(_data.path_of(alone, name))
        second = _data.read(_data.path_of(together, name))
        assert first.equals(second)


@pytest.mark.parametrize("value", [3.0, np.nan])
def test_a_failed_claim_is_shown(put_figures, tmp_path, capsys, value):
    """In the table, the record and on the page, with the picture all the same."""
    put_figures(fake=value)
    assert main("fake", "--out", tmp_path) == 1
    printed = capsys.readouterr().out
    assert "FAILS" in printed
    assert f"{value:.5g}" in printed
    assert [c["holds"] for c in read_record(tmp_path)["compared"]] == [False, True]
    assert (tmp_path / "fake.png").stat().st_size > 100
    page = _gallery.write(tmp_path, tmp_path / "page").read_text()
    assert "does not hold" in page
    assert f"| value | {value:.5g} | 1 ± 0.1 | **FAILS** |" in page
    assert (tmp_path / "page" / "gallery" / "fake.png").exists()


def test_a_picture_of_all_pictures_is_on_top_of_the_page(put_figures, tmp_path):
    """With five figures, five of its eight places are not white."""
    names = [f"figure{i}" for i in range(5)]
    put_figures(**dict.fromkeys(names, 1.0))
    for name in names:
        _run.run(name, "smoke", tmp_path)
    page = _gallery.write(tmp_path, tmp_path / "page").read_text()
    top = page.partition("- [")[0]
    assert "](gallery/index.png)" in top
    index = matplotlib.image.imread(tmp_path / "page" / "gallery" / "index.png")
    height = index.shape[0] // 2
    width = index.shape[1] // 4
    # Four in the first row and one in the second.
    is_dark = index[..., :3].min(-1) < 0.6
    drawn = [
        is_dark[row * height :, column * width :][:height, :width].any()
        for row in range(2)
        for column in range(4)
    ]
    assert drawn == [True] * 5 + [False] * 3


def test_the_gallery_shows_every_figure():
    """With the numbers of the records beside it, in tables that no |s − 1| cuts."""
    page = (_gallery.HERE / "README.md").read_text(encoding="utf-8")
    gallery = _gallery.HERE / "gallery"
    for name in _run.names():
        section = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
        record = json.loads((gallery / f"{name}.json").read_text())
        assert f"](gallery/{name}.png)" in section
        assert (gallery / f"{name}.png").is_file()
        rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
        assert len(rows) == len(record["compared"])
        for row, compared in zip(rows, record["compared"], strict=True):
            assert row.replace("\\|", "").count("|") == 5
            assert compared["measured"] in row


@pytest.mark.parametrize(
    ("where", "kept"),
    [("shutil.make_archive", []), ("Figure.savefig", ["fake.zarr.zip"])],
)
def test_after_ctrl_c_all_files_are_whole(
    put_figures, tmp_path, monkeypatch, capsys, where, kept
):
    """Half-way through writing the data, or a picture; the same command goes on."""
    calls = put_figures(fake=1.0)

    def write_half(*args, **kwargs):
        for argument in args:
            # The file that a picture goes to.
            if hasattr(argument, "write"):
                argument.write(b"half")
        raise KeyboardInterrupt

    is_data = where.startswith("shutil")
    home = _data.shutil if is_data else matplotlib.figure.Figure
    with monkeypatch.context() as patch:
        patch.setattr(home, where.partition(".")[2], write_half)
        assert main("fake", "--out", tmp_path) == 130
    assert "run the same command" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == kept
    assert main("fake", "--out", tmp_path) == 0
    assert calls == ["full"] * (2 - len(kept))


def test_without_arguments_all_figures_are_listed(capsys):
    assert main() == 0
    printed = capsys.readouterr().out
    assert [name for name in _run.names() if name not in printed] == []


def test_what_cannot_be_made_is_refused(put_figures, tmp_path, capsys):
    put_figures(fake=1.0)
    assert main("fake", "--from-cache", "--out", tmp_path) == 2
    assert "holds no data of fake" in capsys.readouterr().err
    np.save(tmp_path / "x.npy", np.zeros((2, 3)))
    assert main("fake", "--data", tmp_path / "x.npy", "--out", tmp_path) == 2
    assert "takes no data set" in capsys.readouterr().err
    with pytest.raises(SystemExit) as error:
        main("pennington")
    assert error.value.code == 2
    assert "there are: fake" in capsys.readouterr().err


def test_no_comparison_and_nan_are_failures():
    """Else a check could not fail."""
    nan = Compared("nan", np.nan)
    too_large = Compared("high", 2.0, high=1.0)
    for wrong in ([], [nan], [too_large]):
        with pytest.raises(ClaimFailed):
            settled(wrong)
    assert nan.verdict == "FAILS"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (1.0, 1.0, "1"),
        (0.0, np.inf, "at least 0"),
        (-np.inf, 2.0, "at most 2"),
        (0.5, 2.0, "0.5 to 2"),
        (-np.inf, np.inf, "no claim"),
    ],
)
def test_intervals_are_said_in_words(low, high, words):
    assert Compared("a", 1.0, low, high).expected == words


def test_no_data_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="without --from-cache"):
        _run.run(_run.names()[0], "smoke", tmp_path, from_cache=True)


def test_data_of_other_code_is_an_input_error(put_figures, tmp_path, capsys):
    put_figures(fake=1.0)
    origin = {"fingerprint": "old", "preset": "full", "seconds": 1.0}
    old = xarray.Dataset({"other": ("x", [1.0])}, attrs=origin)
    _data.write(tmp_path / "fake.zarr.zip", old)
    assert main("fake", "--from-cache", "--out", tmp_path) == 2
    assert "made by other code" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["fake.zarr.zip"]


def test_all_that_figures_share_counts_for_what_is_computed_again():
    """Modules that a figure imports are hashed with it, but those that only show."""
    shown = {
        "_check.py",
        "_data.py",
        "_densities.py",
        "_gallery.py",
        "_run.py",
        "_style.py",
    }
    files = {path.name for path in _gallery.HERE.glob("_*.py")}
    dunder = {"__init__.py", "__main__.py"}
    assert set(_data.SHARED) == files - shown - dunder
