"""What is installed: the wheel alone, in a clean environment, from an empty folder.

Once without extras, once with the command line alone, and once with all of them.
"""

import email
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import isometry

ROOT = pathlib.Path(__file__).parent.parent
# Also where the environment of this interpreter is not activated.
UV = shutil.which("uv") or shutil.which("uv", path=pathlib.Path(sys.executable).parent)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(UV is None, reason="uv builds and installs, and is not there"),
]

# A network that is measured in seconds.
NETWORK = ["--scheme", "orthogonal", "--width", "8", "--depth", "3"]
DRAWS = ["--seeds", "5", "--inputs", "2"]
TINY = [*NETWORK, *DRAWS]
TINY_GAUSSIAN = [*TINY, "--data", "gaussian"]

COMMANDS = ("audit", "spectrum", "theory", "schemes", "doctor")

# Arguments, and the extra that they need beside the command line.
NEED_AN_EXTRA = [
    (["audit", *TINY], "data"),
    (["audit", *TINY_GAUSSIAN], "plot"),
    (["spectrum", *TINY], "data"),
    (["spectrum", *TINY_GAUSSIAN, "--out", "out"], "plot"),
    (["theory", "--depth", "3", "--out", "out"], "plot"),
]

# Arguments that need no extra but the command line.
NEED_NO_EXTRA = [
    ["theory", "--depth", "3"],
    ["schemes"],
    ["doctor"],
    ["spectrum", *TINY_GAUSSIAN],
]

# Arguments, and the files that are written.
RUNS = [
    (
        ["audit", *TINY, "--train-steps", "2", "--out", "a"],
        ["a/audit.json", "a/audit.png"],
    ),
    (
        ["spectrum", *TINY, "--span", "hidden", "--out", "s"],
        ["s/spectrum.json", "s/spectrum.png"],
    ),
    (["theory", "--depth", "3", "--out", "t"], ["t/theory.json", "t/theory.png"]),
    (["schemes", "orthogonal", "--out", "c"], ["c/schemes.json"]),
    (["doctor", "--out", "d"], ["d/doctor.json"]),
]

MEASURE = """\
import jax, isometry
net = isometry.networks.mlp([4, 4, 4], "linear", "orthogonal")
sp = isometry.spectrum(net, net.init(jax.random.key(0)), jax.numpy.ones(4))
print(isometry.__file__, abs(sp.values - 1).max() < 1e-5)
"""

# What lets a process find this checkout.
OF_THIS_CHECKOUT = ("PYTHON", "PYTEST", "VIRTUAL_ENV")


def first_word(value):
    """The name of a case: its command, extra or file."""
    return value if isinstance(value, str) else value[0]


def clean_environment():
    """The environment without what finds this checkout."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(OF_THIS_CHECKOUT)
    }


def uv(*words, cwd):
    done = subprocess.run(
        [str(UV), *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=clean_environment(),
    )
    assert done.returncode == 0, done.stderr


def run(program, *arguments, cwd):
    return subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=clean_environment(),
        timeout=300,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist; uv builds the one from the other, which is so tried."""
    out = tmp_path_factory.mktemp("built")
    uv("build", "--quiet", "--out-dir", out, ROOT, cwd=out)
    (wheel,) = out.glob("*.whl")
    (sdist,) = out.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def programs(built, tmp_path_factory):
    """A function from extras to a folder of programs.

    They are in an environment that holds the wheel and these extras alone.
    """
    folders = {}

    def with_extras(extras):
        if extras in folders:
            return folders[extras]
        wheel, _ = built
        home = tmp_path_factory.mktemp("environment")
        folder = home / "bin"
        uv("venv", "--quiet", "--python", sys.executable, home, cwd=home)
        python = folder / "python"
        package = f"{wheel}{extras}"
        uv("pip", "install", "--quiet", "--python", python, package, cwd=home)
        folders[extras] = folder
        return folder

    return with_extras


def files_below(folder):
    """All files below a folder, by their paths from there."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in files)


def test_the_wheel_holds_the_package_alone(built):
    wheel, _ = built
    names = zipfile.ZipFile(wheel).namelist()
    info = f"isometry-{isometry.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"isometry", info}
    packed = {name for name in names if name.startswith("isometry/")}
    sources = {
        f"isometry/{name}"
        for name in files_below(ROOT / "isometry")
        if "__pycache__" not in name
    }
    assert packed == sources
    assert "isometry/py.typed" in names
    assert f"{info}/licenses/LICENSE" in names


def test_the_metadata_are_complete(built):
    """As PEP 639 writes licences, without classifiers for them."""
    wheel, _ = built
    info = f"isometry-{isometry.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        read = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    assert read["Version"] == isometry.__version__
    assert read["License-Expression"] == "Apache-2.0"
    assert read.get_all("License-File") == ["LICENSE"]
    assert read["Description-Content-Type"] == "text/markdown"
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.encode() == read.get_payload(decode=True)
    assert read["Summary"]
    assert read["Keywords"]
    classifiers = read.get_all("Classifier") or []
    assert not [line for line in classifiers if line.startswith("License ::")]
    assert "Typing :: Typed" in classifiers


def test_the_sdist_holds_what_builds_and_tests_it(built):
    _, sdist = built
    with tarfile.open(sdist) as archive:
        paths = [name.partition("/")[2] for name in archive.getnames()]
    needed = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "isometry/__init__.py",
        "tests/conftest.py",
    }
    assert needed <= set(paths)
    # Outputs, of whatever name, are no part of it.
    folders = {path.split("/")[0] for path in paths if "/" in path}
    sources = {".ci", "benchmarks", "docs", "examples", "isometry", "paper_figs"}
    assert folders == {*sources, "tests"}
    assert not [path for path in paths if path.endswith((".pyc", ".part"))]
    assert not [path for path in paths if "__pycache__" in path]


def test_without_extras_it_measures(programs, tmp_path):
    """An orthogonal linear network has singular values of 1."""
    done = run(programs("") / "python", "-c", MEASURE, cwd=tmp_path)
    assert done.stderr == ""
    file, is_isometric = done.stdout.split()
    assert not pathlib.Path(file).is_relative_to(ROOT)
    assert is_isometric == "True"


def require_refusal(done, extra):
    """One line that says what to install, at most behind one of progress."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    *progress, refusal = done.stderr.splitlines()
    assert progress in ([], ["reading digits"])
    assert refusal.startswith("isometry: ")
    assert f"pip install '.[{extra}]'" in refusal


@pytest.mark.parametrize("command", [*COMMANDS, "--help"])
def test_without_typer_a_command_says_what_to_install(command, programs, tmp_path):
    done = run(programs("") / "isometry", command, cwd=tmp_path)
    require_refusal(done, "cli")


@pytest.mark.parametrize(("arguments", "extra"), NEED_AN_EXTRA, ids=first_word)
def test_without_its_extra_a_command_says_what_to_install(
    arguments, extra, programs, tmp_path
):
    done = run(programs("[cli]") / "isometry", *arguments, cwd=tmp_path)
    require_refusal(done, extra)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "files"), RUNS, ids=first_word)
def test_with_all_extras_every_command_works(arguments, files, programs, tmp_path):
    done = run(programs("[all]") / "isometry", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # Progress is plain lines there.
    assert "Warning" not in done.stderr
    assert files_below(tmp_path) == files
    for name in files:
        if name.endswith(".json"):
            text = (tmp_path / name).read_text()
            json.loads(text, parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("place", "extras"), [(0, "[all]"), (1, "[all,flax]")], ids=["perceptron", "flax"]
)
def test_the_examples_of_the_readme_run(place, extras, programs, tmp_path):
    """From an empty folder; what they print is held by tests/test_docs.py."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", readme, re.DOTALL)
    code, shown = found[place]
    done = run(programs(extras) / "python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == shown.splitlines()[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", NEED_NO_EXTRA, ids=first_word)
def test_with_no_extra_but_their_own_commands_print(arguments, programs, tmp_path):
    done = run(programs("[cli]") / "isometry", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not list(tmp_path.iterdir())
