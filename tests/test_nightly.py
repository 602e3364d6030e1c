"""The nightly runs: where there is no browser, what looks at pages fails."""

import os
import pathlib
import shutil
import subprocess

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / ".ci" / "nightly"
# Programs that the script calls; no other is found, and so no browser.
NEEDED = ("bash", "dirname", "mkdir", "tail")


class Machine:
    """A machine with a copy of the script and programs that stand in for others."""

    def __init__(self, folder):
        self.folder = folder
        self.programs = folder / "bin"
        for created in (folder / ".ci", self.programs):
            created.mkdir()
        shutil.copy(SCRIPT, folder / ".ci" / "nightly")
        for name in NEEDED:
            (self.programs / name).symlink_to(shutil.which(name))
        self.install("id", "echo 1000")
        self.pytest_says("3 passed in 1.00s")

    def install(self, name, script):
        """Write a program."""
        path = self.programs / name
        path.write_text(f"#!{self.programs / 'bash'}\n{script}\n")
        path.chmod(0o755)

    def pytest_says(self, line, code=0):
        """Choose how Python ends, whatever it is told to run."""
        self.install("python", f"echo '{line}'; exit {code}")

    def run(self):
        """Run the part `browser`; return the exit code and what is printed."""
        done = subprocess.run(
            [self.programs / "bash", self.folder / ".ci" / "nightly", "browser"],
            env={"PATH": str(self.programs), "PYTHON": str(self.programs / "python")},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture
def machine(tmp_path):
    if os.name != "posix" or shutil.which("bash") is None:
        pytest.skip("the script needs bash")
    return Machine(tmp_path)


def test_without_a_browser_it_fails(machine):
    code, printed = machine.run()
    assert code == 1
    assert "FAILED" in printed
    assert "only root can install one" in printed


def test_root_installs_one(machine):
    machine.install("id", "echo 0")
    machine.install("chmod", f'{shutil.which("chmod")} "$@"')
    browser = machine.programs / "chromium"
    script = f'[ "$1" = install ] || exit 0\necho > {browser}\nchmod 755 {browser}'
    machine.install("apt-get", script)
    code, printed = machine.run()
    assert browser.exists()
    assert code == 0
    assert "passed" in printed


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome"])
def test_with_a_browser_it_passes(machine, name):
    machine.install(name, "")
    assert machine.run()[0] == 0


def test_skipped_tests_fail(machine):
    machine.install("chromium", "")
    machine.pytest_says("1 passed, 2 skipped in 1.00s")
    code, printed = machine.run()
    assert code == 1
    assert "tests skipped: 1 passed, 2 skipped" in printed


def test_failed_tests_fail(machine):
    machine.install("chromium", "")
    # Installing its dependencies works, or nothing would be tested.
    machine.install("python", 'echo "1 failed"; [ "$2" = pip ]')
    code, printed = machine.run()
    assert code == 1
    assert "1 failed" in printed
