"""The script for a GPU, on a CPU and small: all parts, right errors, nothing lost."""

import json
import pathlib
import sys
import time

import jax
import numpy as np
import pytest

from benchmarks import _processor, _run, _suite, _worker, device
from tests import fake_benchmark

# What pytest had written when it was killed in the third test.
CUT_SHORT = """\
============================= test session starts ==============================
collecting ... collected 4 items

tests/test_suite.py::test_right[one way] PASSED                          [ 25%]
tests/test_suite.py::test_wrong FAILED                                   [ 50%]
tests/test_suite.py::test_endless[as on a GPU] """


class InThisProcess:
    """A worker without a process of its own: that costs seconds of imports each."""

    def __init__(self, module, method, task, environment, deadline):
        self.name = f"{task.name}, {method}"
        self.session = _worker.Session(module, method, dict(task.parameters))

    def send(self, *request):
        self.request = request

    def receive(self):
        name, *arguments = self.request
        return getattr(self.session, name)(*arguments)

    def ask(self, *request):
        self.send(*request)
        return self.receive()

    def close(self):
        pass


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(_run, "Worker", InThisProcess)
    monkeypatch.setattr(_run, "LEAST_SECONDS", 0.0)  # one call a sample
    yield
    # The methods set it for their process.
    jax.config.update("jax_enable_x64", False)


def plan(*files):
    # Four layers: of three, the middle one's rows could be in any order.
    spectra = [(device.task(6, 4, 64, dtype=dtype), 60) for dtype in device.DTYPES]
    return device.Plan(
        tests=files,
        tests_limit=60.0,
        order=16,
        product_limit=60,
        spectra=tuple(spectra),
        rounds=2,
    )


def run(plan, path):
    return device.run(plan, path, provenance={"time": "now"}, say=lambda text: None)


def race(*names, deadline=60.0, rounds=1):
    methods = [m for m in fake_benchmark.BENCHMARK.methods if m.name in names]
    record = device.race(
        "fake_benchmark",
        methods,
        fake_benchmark.BENCHMARK.smoke[0],
        rounds=rounds,
        deadline=time.monotonic() + deadline,
        say=lambda text: None,
    )
    return {method["name"]: method for method in record["methods"]}


def test_record_has_every_part(in_this_process, tmp_path, monkeypatch):
    # To import torch takes longer than all the rest.
    monkeypatch.setitem(sys.modules, "torch", None)
    suite = tmp_path / "test_suite.py"
    suite.write_text("def test_right(): pass\n")
    path = tmp_path / "device.json"
    record = run(plan(str(suite)), path)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == record
    assert record["scaled_down"]
    assert record["processor"] == _processor.processor()
    parts = record["parts"]
    products = ["GEMM float32", "GEMM float64"]
    spectra = ["T(6, 4, 64) float32", "T(6, 4, 64) float64"]
    assert list(parts) == ["tests", *products, *spectra]
    assert [part.get("failed") for part in parts.values()] == [[], *[None] * 4]
    assert {part["state"] for part in parts.values()} == {"done"}
    assert parts["tests"]["passed"] == 1
    assert parts["tests"]["file_seconds"][str(suite)] <= parts["tests"]["seconds"]
    for name in products:
        (method,) = parts[name]["methods"]
        assert method["accurate"]
        assert method["gflops"] == 2 * 16**3 / method["median"] / 1e9
    for name in spectra:
        methods = {m["name"]: m for m in parts[name]["methods"]}
        assert len(methods.pop("isometry")["seconds"]) == parts[name]["rounds"] == 2
        assert methods.pop("torch.func")["absent"] == "torch"
        assert methods.keys() == {
            "plain JAX",
            "product alone",
            "factorization alone",
        }
        # 64 Jacobians, three products of order 6 each.
        one = methods["product alone"]
        assert one["gflops"] == pytest.approx(64 * 3 * 2 * 6**3 / one["median"] / 1e9)
        ratio = parts[name]["ratios"][0]
        assert (ratio["peer"], ratio["least"]) == ("plain JAX", 0.95)
    # The precision asked for is that of the result: eps differs by 2**29.
    errors = [parts[name]["methods"][0]["error"] for name in spectra]
    assert 1e-8 < errors[0] < 1e-5
    assert errors[1] < 1e-14
    assert device.is_clean(record)


def test_error_is_that_of_the_worst_value():
    """The first two of 16 inputs are compared; one of their 8 spectra is 1 % off."""
    task = device.task(6, 4, 64, dtype="float32")
    right = device.reference(**task.parameters)
    unchecked = np.full((4, 14, 6), np.nan)
    wrong = np.concatenate([right, unchecked], axis=1)
    wrong[2, 1] *= 1.01
    assert device.error(wrong, right) == pytest.approx(0.01, rel=1e-6)
    assert device.BENCHMARK.tolerance(**task.parameters) < 0.01


def test_wrong_result_is_recorded_and_the_others_go_on():
    methods = race("ours", "wrong", "not a number", "dead", "missing")
    assert methods["ours"]["accurate"]
    assert methods["ours"]["median"] > 0.001
    assert not methods["wrong"]["accurate"]
    assert methods["wrong"]["error"] == pytest.approx(0.1, rel=1e-4)
    assert "NaN" in methods["not a number"]["failed"]
    assert "exit code 3" in methods["dead"]["failed"]
    assert methods["missing"]["absent"] == "no_such_distribution"


def test_method_that_hangs_ends_and_the_others_are_measured(monkeypatch):
    """It has a part of the time, so that the rest is left for the others' rounds."""
    given = {}

    class Impatient(_run.Worker):
        """Waits for the method that hangs a second, instead of all its time."""

        def __init__(self, module, method, task, environment, deadline):
            given[method] = deadline
            if method == "hanging":
                deadline = time.monotonic() + 1.0
            super().__init__(module, method, task, environment, deadline)

    monkeypatch.setattr(_run, "Worker", Impatient)
    start = time.monotonic()
    methods = race("hanging", "ours", deadline=60.0)
    assert given["hanging"] == given["ours"]
    assert 0 < given["hanging"] - start < 60.0 - 10.0
    assert "no answer to 'prepare'" in methods["hanging"]["failed"]
    assert methods["ours"]["median"] > 0.001


class Slow:
    """An entrant whose samples take 50 ms."""

    def __init__(self):
        self.record = {}

    def take(self):
        time.sleep(0.05)


def test_rounds_end_with_the_time():
    done = device._take_rounds([Slow()], 10_000, time.monotonic() + 0.5)
    assert 0 < done <= 10


def test_tests_that_are_cut_short_say_where():
    found = _suite._read(CUT_SHORT, "tests/test_suite.py", code=None)
    assert (found["passed"], found["skipped"]) == (1, 0)
    assert found["failed"] == ["tests/test_suite.py::test_wrong"]
    assert found["running"] == "tests/test_suite.py::test_endless[as on a GPU]"


def test_tests_end_with_the_time(tmp_path):
    files = [str(tmp_path / name) for name in ("test_first.py", "test_second.py")]
    for file in files:
        pathlib.Path(file).write_text("import time; time.sleep(60)")
    start = time.monotonic()
    found = _suite.run(files, deadline=start + 1.0, processes=1, environment={})
    assert time.monotonic() - start < 30
    assert found["unfinished"] == {files[0]: None}
    assert found["not_reached"] == [files[1]]
    assert not found["failed"]


def test_file_that_cannot_be_imported_has_failed(tmp_path):
    broken = tmp_path / "test_broken.py"
    broken.write_text("import no_such_distribution\n")
    deadline = time.monotonic() + 60
    found = _suite.run([str(broken)], deadline=deadline, processes=1, environment={})
    assert found["failed"]
    assert "no_such_distribution" in str(found["reasons"])


def test_part_that_breaks_leaves_the_others(monkeypatch, tmp_path):
    written = []

    def nothing(*arguments, **options):
        return {"methods": []}

    def product(order, dtype, **options):
        written.append(json.loads(path.read_text())["parts"])
        if dtype == "float32":
            raise RuntimeError("out of memory")
        return nothing()

    def suite(files, **options):
        return {"passed": 3}

    path = tmp_path / "device.json"
    monkeypatch.setattr(device, "measure_tests", suite)
    monkeypatch.setattr(device, "measure_product", product)
    monkeypatch.setattr(device, "measure_spectra", nothing)
    record = run(plan(), path)
    parts = record["parts"]
    assert parts["GEMM float32"]["failed"] == "RuntimeError: out of memory"
    assert parts["GEMM float64"]["state"] == "done"
    assert not device.is_clean(record)
    # On disk while the first product ran: what was done, and what was not yet.
    assert written[0]["tests"]["passed"] == 3
    assert written[0]["GEMM float32"]["state"] == "not reached"


def test_part_after_the_end_is_not_reached(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "WHOLE", 0.0)
    record = run(plan(), tmp_path / "device.json")
    assert {part["state"] for part in record["parts"].values()} == {"not reached"}


@pytest.mark.parametrize(
    ("platform", "kind", "name", "plan"),
    [
        ("gpu", "NVIDIA H200", "device-nvidia-h200.json", device.ON_GPU),
        ("cpu", "cpu", "device-cpu.json", device.ON_CPU),
    ],
)
def test_device_chooses_the_plan_and_the_name(
    platform, kind, name, plan, in_this_process, monkeypatch, capsys
):
    found = {"device": {"platform": platform, "kind": kind, "count": 1}}
    ran = []

    def run(plan, path, *, provenance, say):
        ran.append((plan, path.name, provenance["command"]))
        return {"scaled_down": True, "parts": {"tests": {"state": "not reached"}}}

    monkeypatch.setattr(_worker.Session, "provenance", lambda self: found)
    monkeypatch.setattr(device, "run", run)
    assert device.main() == 1
    assert ran == [(plan, name, ["python", "-m", "benchmarks.device"])]
    assert ("scaled down" in capsys.readouterr().out) == (platform == "cpu")


@pytest.mark.parametrize(
    ("median", "scaled_down", "code"),
    [(0.9, False, 1), (0.96, False, 0), (0.9, True, 0)],
    ids=["slower", "not slower", "too small to be timed"],
)
def test_run_slower_than_plain_jax_ends_with_code_1(
    median, scaled_down, code, in_this_process, monkeypatch, capsys
):
    """The samples of ours are those of plain JAX over the quotient."""
    ours = {"name": "isometry", "seconds": [1.0 / median] * 3, "clean": [True] * 3}
    plain = ours | {"name": "plain JAX", "seconds": [1.0] * 3}
    ratio = device._ratio(ours, plain)
    tests = {"failed": [], "unfinished": {}, "not_reached": []}
    parts = {
        "tests": {"state": "done", **tests},
        "T(6, 4, 64)": {"state": "done", "ratios": [ratio]},
    }
    record = {"scaled_down": scaled_down, "parts": parts}
    found = {"device": {"platform": "gpu", "kind": "Some GPU", "count": 1}}
    monkeypatch.setattr(_worker.Session, "provenance", lambda self: found)
    monkeypatch.setattr(device, "run", lambda *arguments, **options: record)
    assert device.main() == code
    line = "FAILED: T(6, 4, 64): isometry is 0.9 times as fast as plain JAX"
    assert (line in capsys.readouterr().out) == (code == 1)


def test_plans_name_files_that_exist_and_fit_the_time():
    for chosen in (device.ON_GPU, device.ON_CPU):
        assert [f for f in chosen.tests if not (_suite.ROOT / f).is_file()] == []
        parts = device.parts(chosen, say=print)
        assert sum(limit for limit, _ in parts.values()) <= device.WHOLE < 360
