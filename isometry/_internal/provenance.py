"""Where a number came from: versions, device, precision, command, commit."""

import datetime
import importlib.metadata
import pathlib
import platform
import subprocess
import sys

import jax

from isometry._internal import checks

# Every package whose release can change a number.
_PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "optax", "scikit-learn")

_ROOT = pathlib.Path(__file__).resolve().parents[2]

# Git answers in milliseconds. On a network disk that hangs, a result without its commit
# is better than no result.
_GIT_SECONDS = 10


def versions() -> dict[str, str]:
    """Return the versions of Python and of all packages that a number depends on.

    A package that is not installed is missing.
    """
    # The version of the code that runs. Another version of this package may be
    # installed, or none.
    found = {
        "python": platform.python_version(),
        "isometry": sys.modules["isometry"].__version__,
    }
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the Git commit of the checkout that contains this package.

    "+dirty" is appended if tracked files are modified. None outside a checkout, as for
    an installed wheel.
    """
    try:
        # A wheel may be installed inside some other project's checkout.
        if pathlib.Path(_git("rev-parse", "--show-toplevel")) != _ROOT:
            return None
        commit = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    if changes:
        return commit + "+dirty"
    return commit


def _git(*words: str) -> str:
    """Run a git command in the checkout and return what it prints."""
    done = subprocess.run(
        ["git", "-C", str(_ROOT), *words],
        capture_output=True,
        text=True,
        timeout=_GIT_SECONDS,
        check=True,
    )
    return done.stdout.strip()


def provenance(**what: object) -> dict[str, object]:
    """Return a record of where a result came from, to store beside it.

    Args:
        **what: Further entries, such as a seed or a dtype.

    Returns:
        A dictionary that `strict_json` can write, with `versions`, `device`, `x64`,
        `command`, `git_commit`, `time` and the further entries.
    """
    device = jax.devices()[0]
    now = datetime.datetime.now(datetime.UTC)
    return {
        "versions": versions(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
        "x64": checks.x64(),
        "command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]],
        "git_commit": git_commit(),
        "time": now.isoformat(timespec="seconds"),
        **what,
    }
