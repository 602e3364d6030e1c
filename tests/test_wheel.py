"""What is installed: the wheel alone, in a clean environment, from an empty folder, without and with the extras."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import isometry

ROOT = pathlib.Path(__file__).parent.parent
UV = shutil.which("uv")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UV is None, reason="uv builds and installs, and is not there"),
]
TINY = ["--scheme", "orthogonal", "--width", "8", "--depth", "3", "--seeds", "5", "--inputs", "2"]
WITHOUT_CLI = [["audit"], ["spectrum"], ["theory"], ["schemes"], ["doctor"]]
WITHOUT_THE_REST = [
    (["audit", *TINY], "data"),
    (["audit", *TINY, "--data", "gaussian"], "plot"),
    (["spectrum", *TINY], "data"),
    (["spectrum", *TINY, "--data", "gaussian", "--out", "out"], "plot"),
    (["theory", "--depth", "3", "--out", "out"], "plot"),
]
RUNS = [
    (["audit", *TINY, "--train-steps", "2", "--out", "a"], ["a/audit.json", "a/audit.png"]),
    (["spectrum", *TINY, "--span", "hidden", "--out", "s"], ["s/spectrum.json", "s/spectrum.png"]),
    (["theory", "--depth", "3", "--out", "t"], ["t/theory.json", "t/theory.png"]),
    (["schemes", "orthogonal", "--out", "c"], ["c/schemes.json"]),
    (["doctor", "--out", "d"], ["d/doctor.json"]),
]


def clean():
    """The environment but for what finds this checkout."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "VIRTUAL_ENV"))}


def uv(*words, cwd):
    done = subprocess.run([str(UV), *map(str, words)], capture_output=True, text=True, cwd=cwd, env=clean())
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(wheel, sdist); uv builds the wheel from the sdist, so that is whole as well."""
    out = tmp_path_factory.mktemp("built")
    uv("build", "--quiet", "--out-dir", out, ROOT, cwd=out)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def environments(built, tmp_path_factory):
    """A function from the extras to a folder of programs, in an environment that holds the wheel and them alone."""
    made = {}

    def with_extras(extras):
        if extras not in made:
            home = tmp_path_factory.mktemp("environment")
            uv("venv", "--quiet", "--python", sys.executable, home, cwd=home)
            uv("pip", "install", "--quiet", "--python", home / "bin" / "python", f"{built[0]}{extras}", cwd=home)
            made[extras] = home / "bin"
        return made[extras]

    return with_extras


def run(program, *argv, cwd):
    return subprocess.run([program, *argv], capture_output=True, text=True, cwd=cwd, env=clean(), timeout=300)


def test_the_wheel_holds_the_package_alone(built):
    names = zipfile.ZipFile(built[0]).namelist()
    info = f"isometry-{isometry.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"isometry", info}
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT / "isometry").rglob("*") if p.is_file()}
    assert {n for n in names if n.startswith("isometry/")} == {n for n in here if "__pycache__" not in n}
    assert "isometry/py.typed" in names
    assert f"{info}/licenses/LICENSE" in names


def test_the_sdist_holds_what_builds_and_tests_it(built):
    with tarfile.open(built[1]) as held:
        names = {name.split("/", 1)[1] for name in held.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "isometry/__init__.py", "tests/conftest.py"} <= names
    assert not [n for n in names if n.endswith((".pyc", ".part")) or "__pycache__" in n]


def test_without_extras_it_measures(environments, tmp_path):
    code = (
        "import jax, isometry; net = isometry.networks.mlp([4, 4, 4], 'linear', 'orthogonal');"
        "sp = isometry.spectrum(net, net.init(jax.random.key(0)), jax.numpy.ones(4));"
        "print(isometry.__file__, abs(sp.values - 1).max() < 1e-5)"
    )
    done = run(environments("") / "python", "-c", code, cwd=tmp_path)
    assert done.stderr == ""
    where, isometric = done.stdout.split()
    assert not pathlib.Path(where).is_relative_to(ROOT)
    assert isometric == "True"


def one_line(done, extra):
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("isometry: ")
    assert done.stderr.count("\n") == 1
    assert f"pip install '.[{extra}]'" in done.stderr


@pytest.mark.parametrize("argv", WITHOUT_CLI, ids=" ".join)
def test_without_typer_a_command_says_what_to_install(argv, environments, tmp_path):
    one_line(run(environments("") / "isometry", *argv, cwd=tmp_path), "cli")


@pytest.mark.parametrize(("argv", "extra"), WITHOUT_THE_REST, ids=lambda x: x if isinstance(x, str) else x[0])
def test_without_its_extra_a_command_says_what_to_install(argv, extra, environments, tmp_path):
    one_line(run(environments("[cli]") / "isometry", *argv, cwd=tmp_path), extra)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("argv", "files"), RUNS, ids=lambda x: x[0])
def test_with_all_extras_every_command_works(argv, files, environments, tmp_path):
    done = run(environments("[all]") / "isometry", *argv, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # Progress is plain lines there.
    assert "Warning" not in done.stderr
    written = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert written == files
    for name in files:
        if name.endswith(".json"):
            json.loads((tmp_path / name).read_text(), parse_constant=pytest.fail)


def test_the_commands_with_no_extra_but_their_own(environments, tmp_path):
    for argv in (["theory", "--depth", "3"], ["schemes"], ["doctor"], ["spectrum", *TINY, "--data", "gaussian"]):
        done = run(environments("[cli]") / "isometry", *argv, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    assert not list(tmp_path.iterdir())
