"""Where a number came from: versions, device, precision, command, commit."""

import datetime
import importlib.metadata
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

from isometry._internal import checks


def versions() -> dict[str, str]:
    """Versions of Python and of what the numbers depend on."""
    names = ("jax", "jaxlib", "numpy", "scipy", "optax", "scikit-learn")
    # isometry's own from the package that runs: installed or not, and not that of another one that is installed
    found = {"python": platform.python_version(), "isometry": sys.modules["isometry"].__version__}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of the checkout this package lies in, "+dirty" if tracked files differ; None for an installed wheel."""
    root = pathlib.Path(__file__).resolve().parent.parent.parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        if pathlib.Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def provenance(**what: Any) -> dict[str, Any]:
    """A record to store beside every result; `what` adds the seed, dtype and settings of the call."""
    device = jax.devices()[0]
    return {
        "versions": versions(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "x64": checks.x64(),
        "command": [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]],
        "git_commit": git_commit(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **what,
    }
