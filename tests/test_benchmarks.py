"""The benchmarks' harness.

Turns, correctness before speed, absent peers, strict records, comparisons, and what
makes a run fail. No time is asserted, but which of two sleeps is the longer.
"""

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

from benchmarks import (
    Method,
    Rival,
    Task,
    __main__,
    _ceiling,
    _compare,
    _curves,
    _load,
    _processor,
    _report,
    _run,
    _worker,
    starts,
)
from benchmarks._declare import PLAIN_JAX
from isometry import store
from tests.fake_benchmark import BENCHMARK, ENVIRONMENT, task

ROOT = Path(__file__).parent.parent
NAMES = __main__.names()


def silent(text):
    """Say nothing of the progress."""


def run(*methods, rounds=1, goal=None):
    fake = replace(BENCHMARK, smoke=(task(*methods, goal=goal),))
    return _run.run("fake_benchmark", fake, smoke=True, rounds=rounds, say=silent)


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """The record of five methods, one of them absent, and the order of the calls."""
    log = tmp_path_factory.mktemp("fake") / "log"
    methods = ("ours", "slow ours", "peer", "plain JAX", "missing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_LOG", str(log))
        # One call a sample.
        patch.setattr(_run, "LEAST_SECONDS", 0.0)
        record = run(*methods, rounds=4, goal=1e-9)
    return record, log.read_text().split("\n")[:-1]


def full(record):
    """A copy of a record, as of a run without --smoke."""
    return copy.deepcopy(record) | {"smoke": False}


# ---- a run and its record ----


def test_every_method_is_called_in_turn_from_another_start_each_round(raced):
    """The turns are written out; admission is the first call, the result, its time."""
    _, calls = raced
    names = ["ours", "slow ours", "peer", "plain JAX"]
    admission = [name for name in names for _ in range(3)]
    rounds = [*names, *names[1:], *names[:1], *names[2:], *names[:2], *names[3:]]
    assert calls == [*admission, *rounds, *names[:3]]
    assert list(_run.turns(2, 3)) == [[0, 1], [1, 0], [0, 1]]


def test_record_is_strict_json_and_holds_the_statistics_of_its_samples(raced, tmp_path):
    """Medians by `statistics`, quartiles by NumPy."""
    record, _ = raced
    path = store.write_json(tmp_path / "fake.json", record)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == record
    origin = {"versions", "device", "git_commit", "time", "command"}
    assert origin <= record["provenance"].keys()
    assert record["processor"] == _processor.processor()
    assert record["samples"]["total"] == 16
    for method in record["tasks"][0]["methods"][:4]:
        samples = method["seconds"]
        pairs = zip(samples, method["clean"], strict=True)
        kept = [seconds for seconds, mark in pairs if mark]
        if len(kept) < 3:
            kept = samples
        assert method["disturbed"] == (method["clean"].count(True) < 3)
        assert method["median"] == pytest.approx(statistics.median(kept), rel=1e-12)
        quartiles = [np.quantile(kept, 0.25), np.quantile(kept, 0.75)]
        assert method["quartiles"] == pytest.approx(quartiles, rel=1e-12)
        assert method["error"] <= method["tolerance"] == 100 * 2.0**-24
        assert method["peak_memory"] > 2**20
        assert method["environment"] == ENVIRONMENT


def test_workers_do_not_inherit_the_threads_of_the_driver(monkeypatch):
    """The fake method is wrong unless its own environment says otherwise."""
    monkeypatch.setattr(_run, "THREAD_VARIABLES", ("FAKE_SCALE",))
    monkeypatch.setenv("FAKE_SCALE", "1")
    with pytest.raises(_run.BenchmarkFailed, match="wrong, error 1 above"):
        run("without its environment")
    assert run("ours")["tasks"][0]["methods"][0]["environment"] == ENVIRONMENT


def test_absent_peers_are_named(raced):
    record, _ = raced
    assert record["tasks"][0]["methods"][4]["absent"] == "no_such_distribution"
    text = _report.markdown(record)
    assert "absent: no_such_distribution is not installed" in text


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
def test_failure_of_a_method_ends_the_run(method, text):
    with pytest.raises(_run.BenchmarkFailed, match=text):
        run(method)


def test_deadlock_ends(monkeypatch):
    monkeypatch.setattr(_run, "TIMEOUT", 1.0)
    text = r"hanging: no answer to 'prepare' within 1 s"
    with pytest.raises(_run.BenchmarkFailed, match=text):
        run("hanging")


def test_module_that_is_missing_for_another_reason_is_an_error():
    fake = replace(BENCHMARK, methods=(Method("missing", lambda n: None),))
    with pytest.raises(_run.BenchmarkFailed, match="ModuleNotFoundError"):
        _run.run("no_such_module", fake, smoke=True, rounds=1, say=silent)


def test_only_tasks_that_are_asked_for_run():
    names = ("small", "large", "huge")
    tasks = tuple(replace(task("ours"), name=name) for name in names)
    fake = replace(BENCHMARK, smoke=tasks)
    how = {"smoke": True, "rounds": 1, "say": silent}
    record = _run.run("fake_benchmark", fake, only=["small", "ug"], **how)
    assert [done["name"] for done in record["tasks"]] == ["small", "huge"]
    command = record["provenance"]["command"]
    assert command[-4:] == ["--task", "small", "--task", "ug"]
    text = "no task holds none or never; there are: small; large; huge"
    with pytest.raises(ValueError, match=text):
        _run.run("fake_benchmark", fake, only=["none", "never"], **how)


def test_foreign_load_disturbs_a_sample():
    """Half a core for a second does; two ticks, the counters' resolution, do not."""
    assert _load.clean(10.0, 11.0, own=1.0, wall=1.0) is True
    assert _load.clean(10.0, 11.5, own=1.0, wall=1.0) is False
    assert _load.clean(10.0, 10.02, own=0.0, wall=0.001) is True
    assert _load.clean(None, None, own=1.0, wall=1.0) is None
    now = _load.busy()
    assert now is None or 0 < now <= (_load.busy() or 0)


# ---- comparisons ----


def test_ratios_are_those_of_each_round_with_the_best_peer(raced):
    """The quotients are taken again from the samples of both."""
    record = raced[0]["tasks"][0]
    ours, slow, peer, plain, _ = record["methods"]
    best = min(peer, plain, key=lambda method: method["median"])
    pairs = [(found["ours"], found["peer"]) for found in record["ratios"]]
    assert pairs == [
        ("ours", best["name"]),
        ("ours", "plain JAX"),
        ("slow ours", best["name"]),
        ("slow ours", "plain JAX"),
    ]
    samples = zip(best["seconds"], ours["seconds"], strict=True)
    first = record["ratios"][0]
    assert first["rounds"] == [theirs / own for theirs, own in samples]
    assert first["goal_met"] is True
    assert _compare.ratio(ours, peer, goal=1e9)["goal_met"] is False
    assert _compare.ratio(slow, peer)["goal_met"] is None


def test_disturbed_rounds_count_only_if_too_few_are_clean():
    """The fourth round, in which ours took fifty times as long, is no clean one."""
    ours = {
        "name": "a",
        "seconds": [1.0, 1.0, 1.0, 50.0],
        "clean": [True, True, True, False],
    }
    peer = {"name": "b", "seconds": [2.0] * 4, "clean": [True] * 4}
    found = _compare.ratio(ours, peer)
    assert (found["median"], found["quartiles"]) == (2.0, [2.0, 2.0])
    assert not found["disturbed"]
    unknown = ours | {"clean": [True, True, None, False]}
    found = _compare.ratio(unknown, peer)
    assert (found["median"], found["disturbed"]) == (2.0, True)
    assert found["quartiles"][0] < 2


def test_rival_is_compared_beside_the_best_peer(raced):
    """Each has a goal of its own; a rival that is absent is left out."""
    methods = raced[0]["tasks"][0]["methods"]
    ours, _, peer, plain, _ = methods
    rivals = (Rival("plain JAX", goal=1e9), Rival("peer", least=1e8), Rival("missing"))
    rivalry = replace(task(goal=1e-9), against=("peer",), rivals=rivals)
    best, second, third = _compare.ratios(rivalry, [ours, peer, plain])
    assert (best["peer"], best["goal_met"], best["least"]) == ("peer", True, None)
    assert (second["peer"], second["goal"], second["least"]) == ("peer", None, 1e8)
    assert (third["peer"], third["goal_met"]) == ("plain JAX", False)
    # What is declared of plain JAX does not lift the least that holds for all.
    assert third["least"] == 0.95


def test_ours_must_reach_095_of_plain_jax_where_that_takes_part(raced):
    """Nothing of it is declared: ours sleeps 1 ms, slow ours 100, plain JAX 50."""
    record = full(raced[0])
    held = [found for found in record["tasks"][0]["ratios"] if found["least"]]
    assert [found["peer"] for found in held] == ["plain JAX", "plain JAX"]
    assert [found["least"] for found in held] == [0.95, 0.95]
    (line,) = _compare.failures(record)
    slow = held[1]["median"]
    assert slow < 0.95 < held[0]["median"]
    assert line.startswith(
        f"squares: slow ours is {slow:.3g} times as fast as plain JAX, and must be "
        "0.95 times at least"
    )


@pytest.mark.parametrize(
    ("median", "fails"), [(0.949, True), (0.95, False), (1.3, False)]
)
def test_failure_begins_below_the_least(median, fails, raced):
    record = full(raced[0])
    held = [found for found in record["tasks"][0]["ratios"] if found["least"]]
    for found in held:
        found["median"] = median
    assert len(_compare.failures(record)) == (2 if fails else 0)


def test_failure_says_whether_others_disturbed_it(raced):
    record = full(raced[0])
    slow = record["tasks"][0]["ratios"][-1]
    for disturbed in (True, False):
        slow["disturbed"] = disturbed
        (line,) = _compare.failures(record)
        assert line.endswith("others used the machine meanwhile") == disturbed


@pytest.mark.parametrize(("seconds", "fails"), [(0.0099, False), (0.01, True)])
def test_peer_of_milliseconds_may_be_faster(seconds, fails, raced):
    """A call of ours has a cost of its own, whatever it measures."""
    record = full(raced[0])
    for found in record["tasks"][0]["ratios"]:
        found["peer_seconds"] = seconds
    assert (_compare.failures(record) != []) == fails


def test_smoke_tasks_are_not_held_to_their_speed(raced):
    """They are of microseconds: slow ours has not failed."""
    assert raced[0]["smoke"]
    assert _compare.failures(raced[0]) == []


def test_every_task_of_spectra_is_compared_with_plain_jax():
    from benchmarks import spectra

    declared = spectra.BENCHMARK
    assert PLAIN_JAX in [method.name for method in declared.methods]
    assert [one.name for one in declared.tasks if one.methods] == []


# ---- goals in seconds, and limits of memory ----


def test_goals_in_seconds_are_beside_what_a_call_took(raced):
    record = full(raced[0])
    ours, slow, *_ = record["tasks"][0]["methods"]
    ours |= {"seconds_goal": 2.0, "median": 1.5, "disturbed": False}
    slow |= {"seconds_goal": 2.0, "median": 2.5, "disturbed": False}
    text = _report.markdown(record)
    assert "squares: ours takes 1.5 s; goal at most 2 s: met" in text
    assert "squares: slow ours takes 2.5 s; goal at most 2 s: missed" in text
    slow["disturbed"] = True
    assert "2.5 s*; goal at most 2 s: undecided, disturbed" in _report.markdown(record)


def test_more_memory_than_is_allowed_fails_the_run(raced):
    """The limit is for ours alone."""
    record = full(raced[0])
    one = record["tasks"][0]
    one["ratios"] = []
    for method in one["methods"][:4]:
        method["peak_memory"] = 2_000_000_000
    one["memory"] = 2_000_000_000
    assert _compare.failures(record) == []
    assert "ours held 2 GB; at most 2 GB: kept" in _report.markdown(record)
    one["memory"] -= 1
    first, second = _compare.failures(record)
    assert first == (
        "squares: ours held 2,000,000,000 bytes, and may hold 1,999,999,999 at most"
    )
    assert second.startswith("squares: slow ours held")
    assert _report.markdown(record).count("exceeded") == 2


def test_time_and_memory_of_children_are_those_of_the_method():
    """A command is timed in a process of its own: of 0.3 s of work, and 200 MB."""
    work = (
        "import time; data = bytearray(200_000_000); end = time.process_time() + 0.3\n"
        "while time.process_time() < end: pass"
    )
    before = _worker.cpu_seconds()
    subprocess.run([sys.executable, "-c", work], check=True)
    assert _worker.cpu_seconds() - before >= 0.3
    assert _worker.peak_memory() >= 200_000_000


def test_starts_are_compared_with_a_command_without_a_cache(tmp_path):
    arguments = ("theory", "--activation", "relu")
    printed = starts.run(arguments, caches=str(tmp_path), folder=str(tmp_path))
    assert "relu" in printed
    assert starts.error(printed, printed, arguments) == 0
    assert starts.error(printed + "more\n", printed, arguments) == 1
    assert starts.error(printed.replace("relu", "tanh"), printed, arguments) >= 1
    with pytest.raises(RuntimeError, match=r"(?s)exit code 2: .*no such"):
        starts.run(("no such",), caches=str(tmp_path), folder=str(tmp_path))


def test_exponents_are_those_of_the_last_points():
    """A cubic law above an overhead that the small sizes show."""
    sizes = [1.0, 2.0, 100.0, 200.0, 400.0]
    values = [5.0, 5.0, 1e6, 8e6, 64e6]
    assert _curves.exponent(sizes, values) == pytest.approx(3, abs=1e-12)


# ---- the ceiling ----


def test_ceiling_is_the_best_product_and_the_best_of_each_layout():
    """2 · 10³ operations in 1 µs are 2 GFLOP/s."""
    microseconds = {
        "GEMM numpy": 4.0,
        "GEMM jax": 2.0,
        "GEMM numpy, b transposed": 1.0,
        "GEMM jax, b transposed": 10.0,
        "GEMM numpy, a transposed": 8.0,
        "GEMM jax, a transposed": 8.0,
    }
    products = [
        {"name": name, "median": median * 1e-6} for name, median in microseconds.items()
    ]
    of_order_ten = Task("any", {}, gemm=(10, "float32"))
    ceiling = _compare.ceiling(of_order_ten, products)
    assert ceiling is not None
    assert ceiling["gemm"] == [10, "float32"]
    assert ceiling["by"] == "GEMM numpy, b transposed"
    assert ceiling["gflops"] == pytest.approx(2.0)
    assert list(ceiling["layouts"]) == ["a b", "a bᵀ", "aᵀ b"]
    assert [*ceiling["layouts"].values()] == pytest.approx([1.0, 2.0, 0.25])
    assert _compare.ceiling(Task("any", {}), []) is None


def test_every_layout_holds_its_operands_as_it_says():
    """Each has the bytes of a and b, or of their transposes, row by row."""
    a, b = _ceiling._factors(5, "float32")
    expected = {"a b": (a, b), "a bᵀ": (a, b.T), "aᵀ b": (a.T, b)}
    assert list(expected) == list(_ceiling.LAYOUTS.values())
    for layout, operands in expected.items():
        stored = _ceiling._stored(layout, 5, "float32")
        for operand, factor in zip(stored, operands, strict=True):
            assert operand.flags.c_contiguous
            assert np.array_equal(operand, factor)


def test_every_layout_gives_the_same_product():
    """By both libraries; the reference is NumPy's in float64."""
    sizes = {"order": 5, "dtype": "float32"}
    right = _ceiling.BENCHMARK.reference(**sizes)
    for method in _ceiling.BENCHMARK.methods:
        result = np.asarray(method.make(**sizes)())
        error = _ceiling.BENCHMARK.error(result, right, **sizes)
        assert error <= _ceiling.BENCHMARK.tolerance(**sizes)


def test_readme_names_the_rate_of_each_layout(raced):
    record = copy.deepcopy(raced[0])
    record["tasks"][0]["ceiling"] = {
        "gemm": [64, "float32"],
        "gflops": 98.2,
        "by": "GEMM numpy",
        "layouts": {"a b": 98.2, "a bᵀ": 91.4, "aᵀ b": 60.0},
    }
    text = _report.markdown(record)
    assert "(GEMM numpy); by layout of the operands: a b 98, a bᵀ 91, aᵀ b 60" in text
    del record["tasks"][0]["ceiling"]["layouts"]
    assert "by layout" not in _report.markdown(record)


# ---- the processor ----

AMD = """\
processor\t: 0
model name\t: AMD EPYC 7B13
flags\t\t: fpu sse2 avx avx2

processor\t: 1
model name\t: something else
"""
INTEL = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu avx avx2 avx512f amx_tile
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd sve\n"


@pytest.mark.parametrize(
    ("cpuinfo", "kind", "name"),
    [
        (AMD, "AMD EPYC 7B13, AVX2", "amd-epyc-7b13-avx2"),
        (
            INTEL,
            "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz, AVX-512",
            "intel-xeon-platinum-8481c-cpu-avx-512",
        ),
        (ARM, "aarch64, SVE", "aarch64-sve"),
        (None, "aarch64", "aarch64"),
    ],
    ids=["amd", "intel", "arm", "no Linux"],
)
def test_processor_is_named_with_its_widest_vectors(
    cpuinfo, kind, name, tmp_path, monkeypatch
):
    """Texts as Linux writes them."""
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(_processor, "_CPUINFO", path)
    monkeypatch.setattr(_processor.platform, "processor", lambda: "")
    monkeypatch.setattr(_processor.platform, "machine", lambda: "aarch64")
    assert _processor.processor() == kind
    assert _processor.file_name(kind) == name


def of_machine(record, kind, platform="cpu"):
    """A copy of a record, as of a processor or a GPU; None does not name it."""
    changed = copy.deepcopy(record)
    device = {"platform": platform, "kind": "cpu", "count": 1}
    del changed["processor"]
    if platform != "cpu":
        device["kind"] = kind
    elif kind is not None:
        changed["processor"] = kind
    changed["provenance"]["device"] = device
    return changed


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        ("Some CPU, AVX2", "Some CPU, AVX2", "fake_benchmark.json"),
        ("Some CPU, AVX2", "Some CPU, AVX-512", "fake_benchmark-some-cpu-avx-512.json"),
        (None, "Some CPU, AVX2", "fake_benchmark.json"),
    ],
    ids=["the same", "another", "unnamed"],
)
def test_records_of_two_kinds_of_processor_lie_beside_each_other(
    first, second, name, raced, tmp_path
):
    """The first is NAME.json; the same kind, or one that is not named, is replaced."""
    path = tmp_path / "fake_benchmark.json"
    new = of_machine(raced[0], second)
    assert __main__.place(tmp_path, new) == path
    store.write_json(path, of_machine(raced[0], first))
    assert __main__.place(tmp_path, new).name == name


def test_record_of_a_gpu_does_not_replace_one_of_a_processor(raced, tmp_path):
    path = tmp_path / "fake_benchmark.json"
    store.write_json(path, of_machine(raced[0], None))
    new = of_machine(raced[0], "Some GPU", platform="gpu")
    assert __main__.place(tmp_path, new).name == "fake_benchmark-some-gpu.json"


def test_file_that_is_no_record_does_not_cost_the_new_one(raced, tmp_path):
    path = tmp_path / "fake_benchmark.json"
    for text in ("", "{}"):
        path.write_text(text)
        assert __main__.place(tmp_path, raced[0]) == path


def test_machine_is_in_the_heading(raced):
    """Of a record that does not name its processor it is left out."""
    record = raced[0]
    unnamed = _report.markdown(of_machine(record, None))
    assert unnamed.startswith("### fake_benchmark\n")
    named = _report.markdown(of_machine(record, "Some CPU, AVX2"))
    assert named.startswith("### fake_benchmark on Some CPU, AVX2\n")
    assert "cores of Some CPU, AVX2" in named
    gpu = _report.markdown(of_machine(record, "Some GPU", platform="gpu"))
    assert gpu.startswith("### fake_benchmark on Some GPU\n")


# ---- what is shown ----


def test_compare_shows_the_change_of_every_row(raced, capsys):
    """The old record has twice the median of the first two, and no third."""
    record = raced[0]
    old = copy.deepcopy(record)
    methods = old["tasks"][0]["methods"]
    for method in methods[:2]:
        method["median"] *= 2
    del methods[2:4]
    rows = list(_report.rows(record, old))
    assert [row[-1] for row in rows] == ["-50 %", "-50 %", "new", "new", ""]
    assert rows[0][-2] == _report.seconds(methods[0]["median"])
    _report.show(record, old)
    shown = capsys.readouterr().out
    assert "-50 %" in shown
    assert "; before " in shown


@pytest.mark.parametrize(
    ("value", "text"), [(2.5, "2.5 s"), (0.0123456, "12.3 ms"), (4.2e-5, "42 µs")]
)
def test_seconds_are_shown_by_three_digits(value, text):
    assert _report.seconds(value) == text


def test_readme_shows_the_committed_results():
    records = _report.committed()
    assert {record["benchmark"] for record in records} <= set(NAMES)
    assert not any(record["smoke"] for record in records)
    text = _report.README.read_text()
    assert _report.readme(text, records) == text


# ---- the command ----


def test_without_a_name_the_questions_are_listed(capsys):
    assert __main__.main([]) == 0
    listed = capsys.readouterr().out.split("\n")[:-1]
    assert [line.split(":")[0] for line in listed] == NAMES
    assert all(line.endswith("?") for line in listed)


@pytest.mark.parametrize("argv", [["nonsense"], ["initializers", "--rounds", "0"]])
def test_bad_usage_ends_with_code_2(argv):
    with pytest.raises(SystemExit, match="2"):
        __main__.main(argv)


def test_old_record_that_is_not_there_ends_with_code_2(tmp_path, capsys):
    argv = ["initializers", "--compare", str(tmp_path / "none.json")]
    assert __main__.main(argv) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", "{}", "not JSON"])
def test_old_record_that_is_none_ends_with_code_2(text, tmp_path, monkeypatch):
    """Before anything is measured."""
    monkeypatch.setattr(_run, "run", pytest.fail)
    path = tmp_path / "old.json"
    path.write_text(text)
    assert __main__.main(["initializers", "--compare", str(path)]) == 2


def answer_with(record, monkeypatch):
    """Let every run of a benchmark return this record, under that benchmark's name."""

    def run(module, *arguments, **options):
        return record | {"benchmark": module.rpartition(".")[2]}

    monkeypatch.setattr(_run, "run", run)


def test_run_slower_than_plain_jax_ends_with_code_1(
    raced, tmp_path, monkeypatch, capsys
):
    """Each says so in a line of its own, and all records are written all the same."""
    answer_with(full(raced[0]), monkeypatch)
    argv = ["compile", "initializers", "--out", str(tmp_path)]
    assert __main__.main(argv) == 1
    lines = capsys.readouterr().err.split("\n")[:-1]
    assert len(lines) == 2
    assert all(line.startswith("FAILED: squares: slow ours is ") for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "compile.json",
        "initializers.json",
    ]


def test_run_faster_than_plain_jax_ends_with_code_0(raced, tmp_path, monkeypatch):
    """The same run without slow ours."""
    record = full(raced[0])
    only = record["tasks"][0]
    only["ratios"] = [ratio for ratio in only["ratios"] if ratio["ours"] == "ours"]
    answer_with(record, monkeypatch)
    assert __main__.main(["compile", "--out", str(tmp_path)]) == 0


def test_second_machine_writes_beside_the_first(raced, tmp_path, monkeypatch):
    for kind in ("Some CPU, AVX2", "Some CPU, AVX-512", "Some CPU, AVX2"):
        answer_with(of_machine(raced[0], kind), monkeypatch)
        assert __main__.main(["compile", "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "compile-some-cpu-avx-512.json",
        "compile.json",
    ]


@pytest.mark.parametrize(
    ("failure", "code"),
    [(KeyboardInterrupt(), 130), (_run.BenchmarkFailed("wrong"), 1)],
    ids=["interrupt", "failure"],
)
def test_nothing_half_written_is_left(failure, code, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise failure

    monkeypatch.setattr(_run, "run", fail)
    assert __main__.main(["initializers", "--out", str(tmp_path)]) == code
    assert list(tmp_path.iterdir()) == []


# ---- the benchmarks themselves ----


@pytest.mark.parametrize("name", NAMES)
def test_declaration_is_sound(name):
    """Names are unique and exist; every task has one of ours at least.

    To import it costs the driver neither JAX nor torch.
    """
    declared = importlib.import_module(f"benchmarks.{name}").BENCHMARK
    methods = {method.name: method for method in declared.methods}
    assert len(methods) == len(declared.methods)
    for tasks in (declared.tasks, declared.smoke):
        assert tasks
        assert len({one.name for one in tasks}) == len(tasks)
        for one in tasks:
            assert any(methods[method].ours for method in one.methods or methods)
            assert one.flop is None or one.gemm is not None
    code = (
        f"import sys, benchmarks.{name}\n"
        "print([name for name in ('jax', 'numpy', 'torch') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Of the whole of each, a dozen processes; of one task of the smallest, three.
WHOLE = [pytest.param(name, [], marks=pytest.mark.slow) for name in NAMES]
PART = pytest.param("initializers", ["--task", "zer_o"], id="one task")


@pytest.mark.parametrize(("name", "more"), [PART, *WHOLE])
def test_smoke_run_measures_and_ends_with_code_0(name, more, tmp_path):
    """The whole command, in a process of its own, as a user types it."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", name),
            *("--smoke", "--rounds", "1", "--out", str(tmp_path)),
            *more,
        ],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / f"{name}.json").read_text()
    record = json.loads(text, parse_constant=pytest.fail)
    assert record["smoke"] is True
    for one in record["tasks"]:
        if one["flop"]:
            rates = one["ceiling"]["layouts"]
            assert list(rates) == list(_ceiling.LAYOUTS.values())
            assert max(rates.values()) == one["ceiling"]["gflops"]
            assert min(rates.values()) > 0
    assert record["question"][:20] in done.stdout
