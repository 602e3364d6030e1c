"""`isometry doctor`: everything in one paste, and a self-test that a broken engine fails."""

import dataclasses
import json
import math
import pathlib
import tomllib

import jax
import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

import isometry
from isometry import _doctor, _self_test, cli, linalg, theory
from isometry._self_test import Check

HELD = Check("one is one", 0.0, 1e-6, "exact")


def strict(text):
    return json.loads(text, parse_constant=pytest.fail)


def call(*argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", *argv])
    return stop.value.code


@pytest.fixture
def checks(monkeypatch):
    """The self-test gives these."""

    def put(*found):
        monkeypatch.setattr(_doctor, "self_test", lambda key: list(found))

    put(HELD)
    return put


@pytest.fixture(scope="module")
def tested():
    return {check.name: check for check in _self_test.self_test(jax.random.key(0))}


@pytest.mark.parametrize("name", list(_self_test.TESTS))
def test_the_engine_gives_the_known_answers(name, tested):
    check = tested[name]
    assert check.fault is None
    assert check.holds
    assert 0 <= check.error <= check.allowed < 0.1
    assert check.name.isascii()
    assert check.why.isascii()


@pytest.mark.parametrize(
    ("module", "function", "name"),
    [
        (_self_test, "spectrum", "dense singular values"),
        (linalg, "product_log_singular_values", "product of 64 factors, ln s"),
        (theory, "chi", "theory, chi_1 of erf"),
    ],
)
def test_a_broken_engine_fails(module, function, name, monkeypatch):
    """Off by a thousandth, as by products in TF32; of logarithms, which are 0 at most 57 decades below, by 0.01."""
    real = getattr(module, function)

    def wrong(*args, **kwargs):
        found = real(*args, **kwargs)
        if function == "spectrum":
            return dataclasses.replace(
                found, log_values=found.log_values + math.log(1.001)
            )
        return (
            found + 0.01 if function == "product_log_singular_values" else found * 1.001
        )

    monkeypatch.setattr(module, function, wrong)
    check = _self_test.checked(name, _self_test.TESTS[name], jax.random.key(0))
    assert check.fault is None
    assert not check.holds


def test_an_initializer_off_by_a_thousandth_fails(monkeypatch):
    real = isometry.initializers.orthogonal
    monkeypatch.setattr(_self_test.initializers, "orthogonal", lambda: real(1.001))
    assert not _self_test.checked("w", _self_test._orthogonal, jax.random.key(0)).holds


def test_what_a_check_raises_is_its_outcome():
    def raises(key):
        raise RuntimeError("no such kernel")

    found = _self_test.checked("svd", raises, None)
    assert found == Check("svd", None, None, "", "RuntimeError: no such kernel")
    assert not found.holds


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_no_number_is_no_answer(error):
    found = _self_test.checked("svd", lambda key: (error, 1.0, "exact"), None)
    assert not found.holds
    assert found.error is None
    assert str(error) in found.fault


@pytest.mark.usefixtures("checks")
def test_json_holds_what_a_report_needs(tmp_path, capsys):
    assert call("--json", "--out", str(tmp_path)) == 0
    shown, told = capsys.readouterr()
    found = strict(shown)
    assert found == strict((tmp_path / "doctor.json").read_text())
    assert told.startswith("wrote ")
    assert found["holds"]
    assert found["checks"] == [HELD._asdict() | {"holds": True}]
    assert found["provenance"]["versions"]["isometry"] == isometry.__version__
    assert found["provenance"]["versions"]["jax"] == jax.__version__
    assert found["precision"]["x64"] is (jax.numpy.zeros(()).dtype == np.float64)
    assert (
        0
        < found["precision"]["matmul_error"]
        < (1e-6 if jax.default_backend() == "cpu" else 1e-2)
    )  # TF32, bfloat16
    assert len(found["machine"]["devices"]) == jax.device_count()
    assert found["threads"]["OPENBLAS_NUM_THREADS"] is not None


@pytest.mark.parametrize(
    "bad",
    [
        Check("svd", 0.5, 1e-6, "exact"),
        Check("svd", None, None, "", "RuntimeError: two\nlines"),
    ],
)
def test_a_failed_check_is_an_exit_code_and_a_line(bad, checks, capsys):
    checks(HELD, bad)
    assert call() == 1
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if "FAIL  svd" in line)
    assert "1 of 2 FAIL" in "\n".join(lines)
    assert (
        "RuntimeError: two lines"
        if bad.fault
        else "off by 5.0e-01, may be 1.0e-06: exact"
    ) in line
    assert sum("ok    one is one" in line for line in lines) == 1
    assert "0±0" not in "\n".join(lines)


@pytest.mark.usefixtures("checks")
def test_the_paste(capsys, monkeypatch):
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert call() == 0
    shown = capsys.readouterr().out
    for words in (
        isometry.__version__,
        "x64",
        "matmul",
        "OMP_NUM_THREADS=3,",
        "MKL_NUM_THREADS=1 (set by",
    ):
        assert words in shown
    assert shown.isascii()  # a paste survives any encoding


def test_warnings_where_they_bite(monkeypatch):
    fine = 2e-7
    monkeypatch.setattr(
        jax, "devices", lambda: [type("Device", (), {"platform": "cpu"})]
    )
    assert _doctor.settings_that_bite(fine) == []
    monkeypatch.setattr(
        jax, "devices", lambda: [type("Device", (), {"platform": "gpu"})]
    )
    assert _doctor.settings_that_bite(fine) == []
    (tf32,) = _doctor.settings_that_bite(4e-4)
    assert "TF32" in tf32
    assert "jax_default_matmul_precision" in tf32


def test_the_extras_are_those_of_the_package():
    project = tomllib.loads(
        (pathlib.Path(__file__).parent.parent / "pyproject.toml").read_text()
    )["project"]
    declared = project["optional-dependencies"]
    names = {
        extra: tuple(line.split(">")[0] for line in declared[extra])
        for extra in _doctor.EXTRAS
    }
    assert names == _doctor.EXTRAS
    assert set(declared) - set(names) == {"bench", "test", "lint", "all"}


def test_a_bad_seed_is_one_line(capsys):
    assert call("--seed", "-1") == 2
    shown, complaints = capsys.readouterr()
    assert shown == ""
    assert complaints.startswith("isometry: isometry doctor(): --seed=-1")
    assert complaints.count("\n") == 1
