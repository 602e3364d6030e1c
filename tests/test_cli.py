"""The command line: what it writes and prints, its exit codes, and one line on stderr for everything it refuses."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from isometry import cli, verdicts

TINY = ["--width", "24", "--depth", "3", "--seeds", "5", "--inputs", "2", "--train-steps", "5"]


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not strict JSON")

    return json.loads(text, parse_constant=refuse)


def call(*argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(["audit", *map(str, argv)])
    return stop.value.code


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A file of 8 features and 3 classes: small, and the rank flag can be raised (24 > 8)."""
    path = tmp_path_factory.mktemp("data") / "x.npz"
    x = np.random.default_rng(0).normal(size=(128, 8))
    np.savez(path, x=x, y=x[:, :3].argmax(1))
    return path


def small(features, out):
    return [*TINY, "--scheme", "orthogonal,partial_identity", "--data", features, "--out", out]


@pytest.fixture(scope="module")
def reports():
    """The reports of the command of `small`, once they are there."""
    return []


@pytest.fixture
def once(reports, monkeypatch):
    """The audit of `small` is computed once; whoever asks again gets its reports."""
    compute = verdicts.audit

    def audit(*args, **kwargs):
        if not reports:
            reports.append(compute(*args, **kwargs))
        return reports[0]

    monkeypatch.setattr(verdicts, "audit", audit)


@pytest.mark.usefixtures("once")
def test_audit_writes_a_figure_and_strict_json(features, tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert call(*small(features, out)) == 0
    shown, complaints = capsys.readouterr()
    assert sorted(p.name for p in out.iterdir()) == ["audit.json", "audit.png"]
    assert (out / "audit.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    result = strict((out / "audit.json").read_text())
    assert {"versions", "device", "x64", "command", "git_commit"} <= set(result["provenance"])
    assert result["settings"]["width"] == 24
    assert result["settings"]["seed"] == 0
    assert set(result["reports"]) == {"orthogonal", "partial_identity"}
    assert f"wrote {out / 'audit.png'} and {out / 'audit.json'}" in shown
    assert "orthogonal" in shown
    assert complaints.startswith("orthogonal: reading the network\n")  # no terminal: plain lines
    assert "partial_identity: training probe\n" in complaints


@pytest.mark.usefixtures("once")
def test_json_on_stdout_and_exit_code_of_fail_on(features, tmp_path, capsys):
    argv = [*small(features, tmp_path), "--json", "--fail-on"]
    assert call(*argv, "rank_constrained_training") == 1
    shown, complaints = capsys.readouterr()
    result = strict(shown)
    assert result == strict((tmp_path / "audit.json").read_text())
    assert result["reports"]["partial_identity"]["flags"]["rank_constrained_training"]["state"] == "raised"
    assert result["reports"]["orthogonal"]["flags"]["rank_constrained_training"]["state"] == "clear"
    assert complaints.splitlines()[-1].startswith("wrote ")
    assert call(*argv, "exploding") == 0


MODEL = """
import equinox as eqx, flax.linen as nn, jax, jax.numpy as jnp
from isometry import networks

def perceptron():
    return networks.mlp([4, 8, 8, 3], "tanh", "zeros")

def flax_module():
    return nn.Sequential([nn.Dense(8), nn.tanh, nn.Dense(3)]), jnp.ones(4)

def tokens():
    return networks.function(
        lambda p, x: jnp.tanh(p["embed"][x].mean(0)) @ p["w"],
        lambda key: {"embed": jax.random.normal(key, (7, 8)), "w": jax.random.normal(key, (8, 3))},
        jax.ShapeDtypeStruct((5,), jnp.int32),
    )

def wrong():
    return 3

def drawn_already():
    return eqx.nn.Linear(4, 3, key=jax.random.key(0)), jnp.ones(4)

def raising():
    raise RuntimeError("no weights")
"""
QUICK = ["--seeds", "5", "--inputs", "2", "--train-steps", "0"]


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The folder of a module of the user's own, as the current one."""
    (tmp_path / "ours_of_the_user.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield "ours_of_the_user"
    sys.modules.pop("ours_of_the_user", None)


@pytest.mark.parametrize(("function", "flags"), [("perceptron", {"zero_gradient"}), ("tokens", set())])
def test_a_model_of_the_users_own(function, flags, module, tmp_path, capsys):
    assert call("--model", f"{module}:{function}", *QUICK, "--out", tmp_path / "out", "--json") == 0
    result = strict(capsys.readouterr().out)
    assert list(result["reports"]) == [function]
    states = {name: flag["state"] for name, flag in result["reports"][function]["flags"].items()}
    assert flags <= {name for name, state in states.items() if state == "raised"}
    assert result["settings"]["model"] == f"{module}:{function}"


def test_a_model_is_redrawn_by_schemes(module, tmp_path, capsys):
    argv = ["--model", f"{module}:flax_module", "--scheme", "orthogonal,kaiming", *QUICK]
    assert call(*argv, "--out", tmp_path / "out", "--json") == 0
    result = strict(capsys.readouterr().out)
    assert set(result["reports"]) == {"orthogonal", "kaiming"}
    assert sorted(result["ranking"]) == ["kaiming", "orthogonal"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("module", "names no function; write --model package.module:function"),
        ("no_such_module:f", "the module 'no_such_module' cannot be imported, ModuleNotFoundError"),
        ("ours_of_the_user:perceptrom", "has no 'perceptrom'; it has:"),
        ("ours_of_the_user:wrong", "returned 3; return a Network"),
        ("ours_of_the_user:raising", "raised RuntimeError: no weights"),
        ("ours_of_the_user:drawn_already", "return (lambda key: Module(..., key=key), example)"),
    ],
)
@pytest.mark.usefixtures("module")
def test_a_model_that_is_none_is_one_line(model, words, tmp_path, capsys):
    assert call("--model", model, *QUICK, "--out", tmp_path / "out") == 2
    refused_in_one_line(capsys, words)


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("audit", ["--width", "3"], "--width=3 is of perceptrons"),
        ("spectrum", ["--activation", "relu"], "--activation=relu is of perceptrons"),
        ("spectrum", [], "write --span embed,output"),
    ],
)
def test_what_no_model_can_be_asked_is_one_line(command, options, words, module, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([command, "--model", f"{module}:tokens", *options])
    refused_in_one_line(capsys, words)


def test_one_real_target(tmp_path, monkeypatch):
    """A column of numbers has one output, and targets along an axis of their own."""
    asked = {}

    def audit(nets, *args, targets, **settings):
        asked.update(nets=nets, targets=targets)
        raise KeyboardInterrupt

    monkeypatch.setattr(verdicts, "audit", audit)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", x=rng.standard_normal((32, 6)), y=rng.standard_normal(32))
    argv = ["--width", "8", "--depth", "2", "--scheme", "zer_o"]
    assert call(*argv, "--data", tmp_path / "x.npz", "--out", tmp_path) == 130
    assert asked["nets"]["zer_o"].widths == (6, 8, 1)
    assert asked["targets"].shape == (32, 1)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--scheme", "ortogonal"], "orthogonal"),
        (["--activation", "tahn"], "tanh"),
        (["--width", "0"], "--width"),
        (["--width", "abc"], "--width"),
        (["--depth", "0"], "--depth"),
        (["--seeds", "-1"], "--seeds"),
        (["--inputs", "0"], "--inputs"),
        (["--train-steps", "-1"], "--train-steps"),
        (["--seed", "-1"], "--seed"),
        (["--fail-on", "vanishin"], "vanishing"),
        (["--fail-on", ""], "--fail-on='' names nothing; write a name or leave it out"),
        (["--scheme", ","], "--scheme=',' names nothing"),
        (["--data", "gausian"], "gaussian"),
        (["--data", "missing.npy"], "missing.npy"),
        (["--data", "table.csv"], ".npy"),
        (["--scheme", "gaussian", "--activation", "softplus"], "critical"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_bad_usage_is_one_line(argv, words, tmp_path, capsys):
    out = tmp_path / "out"
    assert call(*TINY, "--data", "gaussian", "--out", out, *argv) == 2
    refused_in_one_line(capsys, words)
    assert not out.exists()


def test_without_a_command_the_help_is_shown_and_nothing_else(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([])
    assert stop.value.code == 2
    shown, complaints = capsys.readouterr()
    assert "spectrum" in shown + complaints
    assert "isometry: " not in complaints


def refused_in_one_line(capsys, words):
    shown, complaints = capsys.readouterr()
    assert shown == ""
    assert complaints.startswith("isometry: ")
    assert complaints.count("\n") == 1
    assert complaints.endswith("\n")
    assert "Traceback" not in complaints
    assert words in complaints


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros((0, 8)), "shape"),
        (np.zeros(8), "shape"),
        (np.full((4, 8), np.nan), "NaN"),
        (np.array([["a", "b"]]), "dtype"),
        (b"", "cannot be read"),
        (b"1 2 3\n4 5 6\n", "cannot be read"),
    ],
    ids=["empty", "one axis", "nan", "strings", "no bytes", "text"],
)
def test_bad_files_are_one_line(content, words, tmp_path, capsys):
    path, out = tmp_path / "x.npy", tmp_path / "out"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    assert call(*TINY, "--data", path, "--out", out) == 2
    refused_in_one_line(capsys, words)
    assert not out.exists()


@pytest.fixture
def no_compute(monkeypatch):
    """Whoever starts an audit fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("computed before everything was checked")

    monkeypatch.setattr(verdicts, "audit", refuse)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_or_a_closed_pipe_behind_the_output_is_no_raised_flag(monkeypatch, capsys):
    """Code 1 would say that a flag of --fail-on is raised."""
    ends = {}
    reader, writer = os.pipe()
    os.close(reader)
    for name, target in {"disk": "/dev/full", "pipe": writer}.items():
        with open(target, "w") as output:
            monkeypatch.setattr(sys, "stdout", output)
            with pytest.raises(SystemExit) as stop:
                cli.main(["schemes"])
        ends[name] = stop.value.code
    assert ends == {"disk": 2, "pipe": 141}
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.usefixtures("no_compute")
def test_an_unwritable_folder_is_found_before_computing(tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    assert call(*TINY, "--data", "gaussian", "--out", tmp_path / "file" / "out") == 2
    refused_in_one_line(capsys, "cannot be written")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.usefixtures("no_compute")
@pytest.mark.parametrize("module", ["matplotlib", "rich", "typer"])
def test_a_missing_extra_is_named_before_computing(module, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    for name in [n for n in sys.modules if n.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    assert call(*TINY, "--data", "gaussian", "--out", tmp_path / "out") == 2
    refused_in_one_line(capsys, "pip install 'isometry[")
    assert not (tmp_path / "out").exists()


def test_an_interrupt_leaves_no_files(tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(verdicts, "audit", interrupt)
    assert call(*TINY, "--data", "gaussian", "--out", tmp_path) == 130
    refused_in_one_line(capsys, "interrupted")
    assert not list(tmp_path.iterdir())


def test_schemes_without_a_critical_point_are_listed(features, tmp_path, capsys, monkeypatch):
    """Softplus has none at all: of the default schemes those that need one are rows, the rest are audited."""
    compute, asked = verdicts.audit, []

    def audit(nets, *args, **settings):
        asked.extend(nets)
        return compute({"zer_o": nets["zer_o"]}, *args, **settings)  # one of them tells as much as five

    monkeypatch.setattr(verdicts, "audit", audit)
    argv = ["--activation", "softplus", "--data", features, "--out", tmp_path, "--width", "8", "--depth", "2"]
    assert call(*argv, "--seeds", "1", "--inputs", "1", "--train-steps", "0", "--json") == 0
    result = strict(capsys.readouterr().out)
    assert set(result["undefined"]) == {"orthogonal", "gaussian"}
    assert set(asked) == {"identity", "partial_identity", "zer_o", "xavier", "kaiming"}
    assert set(result["reports"]) == {"zer_o"}
    text = verdicts.Reports({}, result["undefined"]).table(width=160)
    assert text.count("not defined") == 2


@pytest.mark.parametrize("given", [None, "3"])
def test_threads_are_set_before_jax_and_only_if_unset(given):
    code = """
import os, sys
from isometry import cli
assert "jax" not in sys.modules
try:
    cli.main(["--version"])
except SystemExit as stop:
    print(stop.code, os.environ["OPENBLAS_NUM_THREADS"])
"""
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"}
    if given:
        environment["OPENBLAS_NUM_THREADS"] = given
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    version, line = done.stdout.splitlines()
    assert version.count(".") == 2
    assert line == f"0 {given or 1}"
