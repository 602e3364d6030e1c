"""`isometry doctor`: everything that a report of a fault needs, in one paste."""

import pathlib
import tomllib

import jax
import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

import isometry
from isometry.cli import _environment, _examination
from isometry.cli._self_test import Check
from tests.cli.calling import call, refused_in_one_line, strict

ROOT = pathlib.Path(__file__).parents[2]
HELD = Check("one is one", 0.0, 1e-6, "exact")

# Extras that are no business of a user's report.
OF_DEVELOPERS = {"bench", "browser", "docs", "test", "lint"}


@pytest.fixture
def checks(monkeypatch):
    """A function that makes checks the outcome of the self-test."""

    def put(*outcome):
        monkeypatch.setattr(_examination, "self_test", lambda key: list(outcome))

    put(HELD)
    return put


@pytest.mark.usefixtures("checks")
def test_json_holds_what_a_report_needs(tmp_path, capsys):
    assert call("doctor", "--json", "--out", tmp_path) == 0
    shown, complaints = capsys.readouterr()
    result = strict(shown)
    assert result == strict((tmp_path / "doctor.json").read_text())
    # The first line comes before the test, which takes seconds.
    progress, written, _ = complaints.split("\n")
    assert progress == "testing the engine against known answers"
    assert written.startswith("wrote ")
    assert result["holds"]
    assert result["checks"] == [HELD._asdict() | {"holds": True}]
    versions = result["provenance"]["versions"]
    assert versions["isometry"] == isometry.__version__
    assert versions["jax"] == jax.__version__
    is_x64 = jax.numpy.zeros(()).dtype == np.float64
    assert result["precision"]["x64"] is is_x64
    # GPUs round to TF32, and TPUs to bfloat16.
    limit = 1e-6 if jax.default_backend() == "cpu" else 1e-2
    assert 0 < result["precision"]["matmul_error"] < limit
    assert len(result["machine"]["devices"]) == jax.device_count()
    assert result["threads"]["OPENBLAS_NUM_THREADS"] is not None


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Check("svd", 0.5, 1e-6, "exact"), "off by 5.0e-01, may be 1.0e-06: exact"),
        (
            Check("svd", None, None, "", "RuntimeError: two\nlines"),
            "RuntimeError: two lines",
        ),
    ],
)
def test_failed_check_is_an_exit_code_and_a_line(bad, words, checks, capsys):
    checks(HELD, bad)
    assert call("doctor") == 1
    text = capsys.readouterr().out
    lines = text.splitlines()
    (line,) = (line for line in lines if "FAIL  svd" in line)
    assert words in line
    assert "1 of 2 FAIL" in text
    assert sum("ok    one is one" in line for line in lines) == 1


@pytest.mark.usefixtures("checks")
def test_paste_says_what_is_set_and_by_whom(capsys, monkeypatch):
    monkeypatch.setattr(_environment, "_own", {})
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/programs")
    assert call("doctor") == 0
    text = capsys.readouterr().out
    for words in (
        isometry.__version__,
        "x64",
        "matmul",
        "OMP_NUM_THREADS=3,",
        "MKL_NUM_THREADS=1 (set by this command)",
        "programs  JAX_COMPILATION_CACHE_DIR=/programs\n",
    ):
        assert words in text
    # A paste survives any encoding.
    assert text.isascii()


@pytest.mark.usefixtures("checks")
def test_paste_says_that_the_command_has_no_cache(capsys, monkeypatch):
    """Whatever the user has set."""
    monkeypatch.setattr(_environment, "_own", {})
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "1")
    assert call("doctor", "--no-cache") == 0
    words = "JAX_ENABLE_COMPILATION_CACHE=0 (set by this command)"
    assert words in capsys.readouterr().out


def test_seconds_are_those_of_the_test_alone(monkeypatch):
    """What is gathered besides, such as the commit, takes time too."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

        process_time = perf_counter

    clock = Clock()

    def test(key):
        clock.now += 2
        return [HELD]

    def gather(**_):
        clock.now += 5
        return {}

    monkeypatch.setattr(_examination, "time", clock)
    monkeypatch.setattr(_examination, "self_test", test)
    monkeypatch.setattr(_examination.provenance, "provenance", gather)
    result = _examination.examine(0)
    assert result["seconds"] == 2
    assert result["processor_seconds"] == 2


def test_settings_warn_where_they_bite(monkeypatch):
    def on(platform):
        device = type("Device", (), {"platform": platform})
        monkeypatch.setattr(jax, "devices", lambda: [device])

    rounding = 2e-7
    on("cpu")
    assert _examination.settings_that_bite(rounding) == []
    on("gpu")
    assert _examination.settings_that_bite(rounding) == []
    (warning,) = _examination.settings_that_bite(4e-4)
    assert "TF32" in warning
    assert "jax_default_matmul_precision" in warning
    on("tpu")
    (warning,) = _examination.settings_that_bite(4e-3)
    assert "bfloat16" in warning


def test_extras_are_those_of_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    declared = settings["project"]["optional-dependencies"]
    names = {
        extra: tuple(line.split(">")[0] for line in declared[extra])
        for extra in _examination.EXTRAS
    }
    assert names == _examination.EXTRAS
    assert set(declared) - set(names) - OF_DEVELOPERS == {"all"}


def test_bad_seed_is_one_line(capsys):
    assert call("doctor", "--seed", "-1") == 2
    refused_in_one_line(capsys, "--seed=-1 must be a whole number, between 0 ")
