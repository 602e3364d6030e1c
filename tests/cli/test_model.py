"""`--model package.module:function`: a network of the user's own."""

import sys

import jax
import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")
pytest.importorskip("equinox")
pytest.importorskip("flax")

from isometry.cli import _model
from tests.cli.calling import call, refused_in_one_line, strict

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
        lambda key: {
            "embed": jax.random.normal(key, (7, 8)),
            "w": jax.random.normal(key, (8, 3)),
        },
        jax.ShapeDtypeStruct((5,), jnp.int32),
    )

def wrong():
    return 3

def drawn_already():
    return eqx.nn.Linear(4, 3, key=jax.random.key(0)), jnp.ones(4)

def raising():
    raise RuntimeError("no weights")

class Broken(nn.Module):
    @nn.compact
    def __call__(self, x):
        raise RuntimeError("no layers")

def raising_module():
    return Broken(), jnp.ones(4)

def raising_network():
    def f(params, x):
        raise RuntimeError("no output")
    return networks.function(f, lambda key: jnp.ones(4), jnp.ones(4))

def leaving():
    raise SystemExit("no more")

def not_a_number():
    return networks.function(
        lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"],
        lambda key: {"in": jnp.full((4, 8), jnp.nan), "out": jnp.ones((8, 3))},
        jax.ShapeDtypeStruct((4,), jnp.float32),
    )

def masked():
    # Tokens select from 7 rows, and their places, which are given too, from 3.
    def f(p, x):
        rows = p["embed"][x["tokens"]] + p["position"][x["places"]]
        return jnp.tanh(jnp.where(x["mask"][:, None], rows, 0).mean(0)) @ p["w"]
    return networks.function(
        f,
        lambda key: {
            "embed": jax.random.normal(key, (7, 8)),
            "position": jax.random.normal(key, (3, 8)),
            "w": jax.random.normal(key, (8, 3)),
        },
        {
            "mask": jax.ShapeDtypeStruct((3,), jnp.bool_),
            "places": jax.ShapeDtypeStruct((3,), jnp.int32),
            "tokens": jax.ShapeDtypeStruct((3,), jnp.int32),
        },
    )
"""
NAME = "ours_of_the_user"
QUICK = ["--seeds", "5", "--inputs", "2", "--train-steps", "0"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder of a module of the user's own, as the current one."""
    (tmp_path / f"{NAME}.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop(NAME, None)


@pytest.mark.parametrize(
    ("function", "flags"), [("perceptron", {"zero_gradient"}), ("tokens", set())]
)
def test_model_of_the_users_own_is_audited(function, flags, folder, capsys):
    model = f"{NAME}:{function}"
    argv = ["audit", "--model", model, *QUICK, "--out", folder / "out", "--json"]
    assert call(*argv) == 0
    result = strict(capsys.readouterr().out)
    assert list(result["reports"]) == [function]
    states = {
        name: flag["state"]
        for name, flag in result["reports"][function]["flags"].items()
    }
    assert flags <= {name for name, state in states.items() if state == "raised"}
    assert result["settings"]["model"] == model


def test_model_is_redrawn_by_schemes(folder, capsys):
    argv = ["audit", "--model", f"{NAME}:flax_module", "--out", folder / "out"]
    assert call(*argv, "--scheme", "orthogonal,kaiming", *QUICK, "--json") == 0
    result = strict(capsys.readouterr().out)
    assert set(result["reports"]) == {"orthogonal", "kaiming"}
    assert sorted(result["ranking"]) == ["kaiming", "orthogonal"]


def test_spectrum_between_two_points_has_no_law(capsys):
    argv = ["spectrum", "--model", f"{NAME}:tokens", "--span", "embed,output"]
    assert call(*argv, "--seeds", "1", "--inputs", "1", "--json") == 0
    row = strict(capsys.readouterr().out)["spectra"]["tokens"]
    assert row["size"] == 3
    assert row["law"] is None
    assert "not between two points" in row["no_law"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("module", "names no function; write --model package.module:function"),
        (
            "no_such_module:f",
            "'no_such_module' cannot be imported, ModuleNotFoundError",
        ),
        (f"{NAME}:perceptrom", "has no 'perceptrom'; it has:"),
        (f"{NAME}:wrong", "returned 3; return a Network"),
        (f"{NAME}:raising", "raised RuntimeError: no weights. It is called without"),
        (f"{NAME}:raising_module", "the module raised RuntimeError: no layers"),
        (f"{NAME}:raising_network", "raised RuntimeError: no output"),
        (f"{NAME}:leaving", "raised SystemExit: no more"),
        (f"{NAME}:drawn_already", "return (lambda key: Module(..., key=key), example)"),
    ],
)
def test_no_model_is_one_line(model, words, folder, capsys):
    assert call("audit", "--model", model, *QUICK, "--out", folder / "out") == 2
    refused_in_one_line(capsys, words)


def test_module_that_leaves_python_is_one_line(folder, capsys):
    """A closed pipe too ends in SystemExit, with another code."""
    (folder / f"{NAME}.py").write_text("raise SystemExit('no more')")
    assert call("audit", "--model", f"{NAME}:f", "--out", folder / "out") == 2
    refused_in_one_line(capsys, "cannot be imported, SystemExit: no more")


def test_library_that_is_not_installed_is_named(folder, capsys):
    (folder / f"{NAME}.py").write_text("import no_such_library.layers")
    assert call("audit", "--model", f"{NAME}:f", "--out", folder / "out") == 2
    refused_in_one_line(capsys, "It needs no_such_library, which is not installed here")


def test_network_that_is_not_a_number_does_not_pass(folder, capsys):
    argv = ["audit", "--model", f"{NAME}:not_a_number", *QUICK]
    fails = ["--fail-on", "vanishing,dead_units"]
    assert call(*argv, "--out", folder / "out", *fails) == 3
    shown, complaints = capsys.readouterr()
    lines = complaints.splitlines()[-2:]
    for line, flag in zip(lines, ("vanishing", "dead_units"), strict=True):
        assert line.startswith(f"isometry: not_a_number: {flag} is undecided: ")
    assert "data: 256 examples drawn at random, as --data names none" in shown


def test_inputs_are_drawn_by_their_kind():
    """Booleans are a fair coin; whole numbers are rows of what they select from."""
    net = _model.network_of(f"{NAME}:masked")
    xs = _model.inputs_of(net, jax.random.key(0))
    assert set(xs["tokens"].ravel().tolist()) == set(range(7))
    assert set(xs["places"].ravel().tolist()) == set(range(3))
    assert xs["mask"].dtype == bool
    # 768 of them: 8 standard deviations.
    assert abs(xs["mask"].mean() - 0.5) < 0.15


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("audit", ["--width", "3"], "--width=3 is of perceptrons"),
        ("spectrum", ["--activation", "relu"], "--activation=relu is of perceptrons"),
        ("spectrum", [], "write --span embed,output"),
    ],
)
def test_what_no_model_can_be_asked_is_one_line(command, options, words, capsys):
    assert call(command, "--model", f"{NAME}:tokens", *options) == 2
    refused_in_one_line(capsys, words)
