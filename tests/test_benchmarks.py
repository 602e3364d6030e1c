"""The benchmarks' harness: turns, correctness before speed, absent peers, strict records, comparisons. No timing is
asserted."""

import copy
import importlib
import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import Method, Rival, __main__, _load, _report, _run
from isometry import store
from tests.fake_benchmark import BENCHMARK, _task

ROOT = Path(__file__).parent.parent
NAMES = __main__.names()


def run(*methods, rounds=1, goal=None):
    fake = replace(BENCHMARK, smoke=(_task(*methods, goal=goal),))
    return _run.run("fake_benchmark", fake, smoke=True, rounds=rounds, say=lambda text: None)


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """Four methods, one of them absent, over four rounds; the record and the order of the calls."""
    log = tmp_path_factory.mktemp("fake") / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_LOG", str(log))
        patch.setattr(_run, "LEAST_SECONDS", 0.0)  # one call a sample
        record = run("ours", "peer", "slow peer", "missing", rounds=4, goal=1e-9)
    return record, log.read_text().split("\n")[:-1]


def test_everyone_is_called_in_turn_from_another_start_each_round(raced):
    _, calls = raced
    names = ["ours", "peer", "slow peer"]
    admission, rounds = calls[:9], calls[9:]
    assert admission == [name for name in names for _ in range(3)]  # first call, result, how long it takes
    assert rounds == names + names[1:] + names[:1] + names[2:] + names[:2] + names
    assert list(_run.turns(2, 3)) == [[0, 1], [1, 0], [0, 1]]


def test_record(raced, tmp_path):
    """Strict JSON; the statistics are those of the samples."""
    record, _ = raced
    path = store.write_json(tmp_path / "fake.json", record)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == record
    assert {"versions", "device", "git_commit", "time", "command"} <= record["provenance"].keys()
    assert record["samples"]["total"] == 12
    (task,) = record["tasks"]
    for method in task["methods"][:3]:
        samples = method["seconds"]
        kept = [s for s, mark in zip(samples, method["clean"], strict=True) if mark]
        kept = samples if len(kept) < 3 else kept
        assert method["disturbed"] == (method["clean"].count(True) < 3)
        assert method["median"] == pytest.approx(statistics.median(kept), rel=1e-12)
        assert method["quartiles"] == pytest.approx([np.quantile(kept, 0.25), np.quantile(kept, 0.75)], rel=1e-12)
        assert method["error"] <= method["tolerance"] == 100 * 2.0**-24
        assert method["peak_memory"] > 2**20
        assert method["environment"] == {"FAKE_SCALE": "1"}


def test_ratios_are_those_of_each_round_with_the_best_peer(raced):
    (task,) = raced[0]["tasks"]
    ours, peer, slow, _ = task["methods"]
    best = min(peer, slow, key=lambda m: m["median"])
    (found,) = task["ratios"]
    assert (found["ours"], found["peer"]) == ("ours", best["name"])
    assert found["rounds"] == [b / a for a, b in zip(ours["seconds"], best["seconds"], strict=True)]
    assert found["goal_met"] is True
    assert _run.ratio(1e9, ours, peer)["goal_met"] is False
    assert _run.ratio(None, ours, peer)["goal_met"] is None


def test_a_rival_is_compared_beside_the_best_peer(raced):
    """Each has a goal of its own, and below its least the run has failed."""
    methods = raced[0]["tasks"][0]["methods"][:3]
    rivals = (Rival("slow peer", goal=1e9, least=1e8), Rival("missing", least=1.0))
    task = replace(_task(goal=1e-9), against=("peer",), rivals=rivals)
    ratios = _run._ratios(task, methods)
    assert [found["peer"] for found in ratios] == ["peer", "slow peer"]
    assert [found["goal_met"] for found in ratios] == [True, False]
    record = {"tasks": [{"name": "squares", "ratios": ratios}]}
    (failure,) = _run.failures(record)
    assert failure.startswith("squares: ours is ")
    assert failure.endswith("times as fast as slow peer, and must be 1e+08 times at least")
    ratios[1]["least"] = 1e-9
    assert _run.failures(record) == []


def test_a_run_that_falls_behind_a_rival_ends_with_a_failure(
    raced, tmp_path, monkeypatch, capsys
):
    """The record is written all the same."""
    record = copy.deepcopy(raced[0])
    record["tasks"][0]["ratios"][0]["least"] = 1e9
    monkeypatch.setattr(_run, "run", lambda *arguments, **options: record)
    assert __main__.main(["initializers", "--out", str(tmp_path)]) == 1
    assert (tmp_path / "initializers.json").exists()
    assert "must be 1e+09 times at least" in capsys.readouterr().err


def test_workers_do_not_inherit_the_threads_of_the_driver(monkeypatch):
    """The fake method is wrong unless its own environment says otherwise."""
    monkeypatch.setattr(_run, "THREAD_VARIABLES", ("FAKE_SCALE",))
    monkeypatch.setenv("FAKE_SCALE", "1")
    with pytest.raises(_run.BenchmarkFailed, match="wrong, error 1 above"):
        run("without its environment")
    assert run("ours")["tasks"][0]["methods"][0]["environment"] == {"FAKE_SCALE": "1"}


def test_disturbed_rounds_count_only_if_too_few_are_clean():
    ours = {"name": "a", "seconds": [1.0, 1.0, 1.0, 50.0], "clean": [True, True, True, False]}
    peer = {"name": "b", "seconds": [2.0, 2.0, 2.0, 2.0], "clean": [True] * 4}
    found = _run.ratio(None, ours, peer)
    assert (found["median"], found["quartiles"], found["disturbed"]) == (2.0, [2.0, 2.0], False)
    found = _run.ratio(None, ours | {"clean": [True, True, None, False]}, peer)
    assert (found["median"], found["disturbed"]) == (2.0, True)
    assert found["quartiles"][0] < 2


def test_absent_peers_are_named(raced):
    record, _ = raced
    (task,) = record["tasks"]
    assert task["methods"][3]["absent"] == "no_such_distribution"
    assert "absent: no_such_distribution is not installed" in _report.markdown(record)


@pytest.mark.parametrize(
    ("method", "text"),
    [
        ("wrong", r"squares, wrong: wrong, error 0\.1 above its tolerance 5\.96e-06"),
        ("not a number", "wrong, error nan"),
        ("without its environment", "wrong, error 1 above"),
        ("dead", "squares, dead: the worker died, exit code 3"),
        ("raising", "squares, raising: RuntimeError: no squares of 100"),
    ],
)
def test_failures_are_loud(method, text):
    with pytest.raises(_run.BenchmarkFailed, match=text):
        run(method)


def test_only_some_tasks():
    fake = replace(BENCHMARK, smoke=tuple(replace(_task("ours"), name=name) for name in ("small", "large", "huge")))
    ask = {"smoke": True, "rounds": 1, "say": lambda text: None}
    record = _run.run("fake_benchmark", fake, only=["small", "ug"], **ask)
    assert [task["name"] for task in record["tasks"]] == ["small", "huge"]
    assert record["provenance"]["command"][-4:] == ["--task", "small", "--task", "ug"]
    with pytest.raises(ValueError, match="no task holds none or never; there are: small; large; huge"):
        _run.run("fake_benchmark", fake, only=["none", "never"], **ask)


def test_a_device_that_is_no_cpu_is_in_the_heading(raced):
    record = copy.deepcopy(raced[0])
    record["provenance"]["device"]["platform"] = "cpu"
    assert _report.markdown(record).startswith("### fake_benchmark\n")
    record["provenance"]["device"] = {"platform": "gpu", "kind": "Some GPU", "count": 1}
    assert _report.markdown(record).startswith("### fake_benchmark on Some GPU\n")


def test_a_deadlock_ends(monkeypatch):
    monkeypatch.setattr(_run, "TIMEOUT", 2.0)
    with pytest.raises(_run.BenchmarkFailed, match=r"hanging: no answer to 'prepare' within 2 s"):
        run("hanging")


def test_a_module_that_is_missing_for_another_reason_is_an_error():
    fake = replace(BENCHMARK, methods=(Method("missing", lambda n: None),))
    with pytest.raises(_run.BenchmarkFailed, match="ModuleNotFoundError"):
        _run.run("no_such_module", fake, smoke=True, rounds=1, say=print)


def test_compare_shows_the_change_of_every_row(raced, capsys):
    record = raced[0]
    old = copy.deepcopy(record)
    for method in old["tasks"][0]["methods"][:2]:
        method["median"] *= 2
    del old["tasks"][0]["methods"][2]
    rows = list(_report.rows(record, old))
    assert [row[-1] for row in rows] == ["-50 %", "-50 %", "new", ""]
    assert rows[0][-2] == _report.seconds(old["tasks"][0]["methods"][0]["median"])
    _report.show(record, old)
    shown = capsys.readouterr().out
    assert "-50 %" in shown
    assert "; before " in shown


@pytest.mark.parametrize(("value", "text"), [(2.5, "2.5 s"), (0.0123456, "12.3 ms"), (4.2e-5, "42 µs")])
def test_seconds(value, text):
    assert _report.seconds(value) == text


def test_foreign_load():
    assert _load.clean(10.0, 11.0, 1.0, 1.0) is True
    assert _load.clean(10.0, 11.5, 1.0, 1.0) is False  # half a core for a second
    assert _load.clean(10.0, 10.02, 0.0, 0.001) is True  # two ticks: the counters' resolution
    assert _load.clean(None, None, 1.0, 1.0) is None
    now = _load.busy()
    assert now is None or 0 < now <= (_load.busy() or 0)


# --- the command ------------------------------------------------------------------------------------------------------


def test_list(capsys):
    assert __main__.main([]) == 0
    listed = capsys.readouterr().out.split("\n")[:-1]
    assert [line.split(":")[0] for line in listed] == NAMES
    assert all(line.endswith("?") for line in listed)


@pytest.mark.parametrize("argv", [["nonsense"], ["initializers", "--rounds", "0"]])
def test_usage(argv):
    with pytest.raises(SystemExit, match="2"):
        __main__.main(argv)


def test_an_old_record_that_is_not_there(tmp_path, capsys):
    assert __main__.main(["initializers", "--compare", str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("failure", "code"), [(KeyboardInterrupt(), 130), (_run.BenchmarkFailed("wrong"), 1)], ids=["interrupt", "failure"]
)
def test_nothing_half_written_is_left(failure, code, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise failure

    monkeypatch.setattr(_run, "run", fail)
    assert __main__.main(["initializers", "--out", str(tmp_path)]) == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_declaration(name):
    """Names are unique and exist; tasks have one of ours at least; importing costs the driver neither JAX nor torch."""
    declared = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    methods = {m.name: m for m in declared.methods}
    assert len(methods) == len(declared.methods)
    for tasks in (declared.tasks, declared.smoke):
        assert tasks
        assert len({task.name for task in tasks}) == len(tasks)
        for task in tasks:
            assert any(methods[m].ours for m in task.methods or methods)
            assert task.flop is None or task.gemm is not None
    code = f"import sys, benchmarks.{name}; print([m for m in ('jax', 'numpy', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# Of the whole of each, a dozen processes; of one task of the smallest, six.
WHOLE = [pytest.param(name, [], marks=pytest.mark.slow) for name in NAMES]
PART = pytest.param("singular_values", ["--task", "as it comes"], id="one task")


@pytest.mark.parametrize(("name", "more"), [PART, *WHOLE])
def test_smoke(name, more, tmp_path):
    """The whole command, in a process of its own, as a user types it."""
    command = [sys.executable, "-m", "benchmarks", name, "--smoke", "--rounds", "1", "--out", str(tmp_path), *more]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / f"{name}.json").read_text(), parse_constant=pytest.fail)
    assert record["smoke"] is True
    ceilings = [task["ceiling"] for task in record["tasks"] if task["flop"]]
    assert all(ceiling["gflops"] > 0 for ceiling in ceilings)
    assert record["question"][:20] in done.stdout


def test_readme_shows_the_committed_results():
    records = _report.committed()
    assert {record["benchmark"] for record in records} <= set(NAMES)
    assert not any(record["smoke"] for record in records)
    text = _report.README.read_text()
    assert _report.readme(text, records) == text
