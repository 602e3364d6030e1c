"""`isometry doctor`: what a report of a fault needs, in one paste."""

from collections.abc import Mapping
from typing import Annotated, Any

from typer import Option

from isometry.cli import _cache, _environment, _exit_codes, _options, _terminal
from isometry.cli._command import Command

_SUMMARY = "Versions, devices, settings, and a self-test, in one paste."
_TEXT = """Everything that a report of a fault needs: versions, devices, settings that
bite, extras, and a self-test of the engine against known answers, about 3 s. Exits with
1 if a known answer is not met.
"""
_EXAMPLE = "isometry doctor"


def doctor(
    out: Annotated[
        str | None, Option(help="Folder for doctor.json; none if left out.")
    ] = None,
    json: Annotated[
        bool, Option("--json", help="Print the JSON instead of the text.")
    ] = False,
    seed: Annotated[int, Option(help="Seed of what the self-test draws.")] = 0,
    no_cache: _options.NoCache = False,
) -> int:
    """Read the options, and run the command."""
    _cache.prepare(is_off=no_cache)
    return run(out, seed, as_json=json)


COMMAND = Command(
    name="doctor", function=doctor, summary=_SUMMARY, text=_TEXT, example=_EXAMPLE
)


def run(out: str | None, seed: int, *, as_json: bool) -> int:
    """Examine, write, print; return the exit code."""
    from isometry import store
    from isometry._internal import strict_json
    from isometry.cli import _examination

    _options.check_seed(seed)
    folder = None if out is None else store.prepare(out)
    with _terminal.progress(1) as tell:
        tell("testing the engine against known answers")
        result = _examination.examine(seed)
    result["set_by_this_command"] = _environment.own()
    written = []
    if folder is not None:
        written = [store.write_json(folder / "doctor.json", result)]
    if as_json:
        print(strict_json.dumps(result), end="")
    else:
        _terminal.show("\n".join(lines(result)))
    _terminal.report_files(written, as_json=as_json)
    return _exit_codes.CLEAN if result["holds"] else _exit_codes.RAISED


def lines(result: Mapping[str, Any]) -> list[str]:
    """Return plain text, which survives being pasted."""
    own = result["set_by_this_command"]
    precision = result["precision"]
    rows = [
        *_versions(result["provenance"]),
        *_machine(result["machine"]),
        ("x64", "on: float64" if precision["x64"] else _X64_IS_OFF),
        ("matmul", _matmul(precision)),
        ("threads", _settings(result["threads"], own)),
        ("programs", _settings(result["cache"], own)),
        ("extras", _extras(result["extras"])),
        *[("warning", text) for text in result["warnings"]],
        ("self-test", _verdict(result)),
    ]
    text = [f"{name:<10}{value}" for name, value in rows]
    return text + [_check_line(check) for check in result["checks"]]


_X64_IS_OFF = "off: float32 unless JAX_ENABLE_X64=1"


def _versions(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the versions."""
    # A copy: the result is written as JSON too.
    versions = dict(provenance["versions"])
    isometry = versions.pop("isometry")
    if provenance["git_commit"]:
        isometry = f"{isometry}, commit {provenance['git_commit']}"
    others = [f"{name} {version}" for name, version in versions.items()]
    return [("isometry", isometry), ("with", ", ".join(others))]


def _machine(machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the system and its devices."""
    system = f"{machine['system']}, {machine['usable_processors']} processors"
    devices = [f"{d['platform']}:{d['id']} {d['kind']}" for d in machine["devices"]]
    return [("system", system), ("devices", ", ".join(devices))]


def _matmul(precision: Mapping[str, Any]) -> str:
    """Return the default precision of products, and what they lose by it."""
    chosen = precision["default_matmul_precision"] or "the platform's default"
    return f"{chosen}; float32 products err by {precision['matmul_error']:.1g}"


def _verdict(result: Mapping[str, Any]) -> str:
    """Say how many known answers hold, and how long that took."""
    num_checks = len(result["checks"])
    num_failed = sum(not check["holds"] for check in result["checks"])
    verdict = f"all {num_checks} hold"
    if num_failed:
        verdict = f"{num_failed} of {num_checks} FAIL"
    return (
        f"{verdict}, {result['seconds']:.1f} s "
        f"({result['processor_seconds']:.1f} s of processor)"
    )


def _settings(environment: Mapping[str, str | None], own: Mapping[str, str]) -> str:
    """Return variables of the environment, and who has set them."""
    named = []
    for name, value in environment.items():
        # What is unset is no setting, and would only lengthen the paste.
        if value is not None:
            whose = " (set by this command)" if name in own else ""
            named.append(f"{name}={value}{whose}")
    return ", ".join(named) or "nothing set"


def _extras(extras: Mapping[str, Mapping[str, str | None]]) -> str:
    """Return the optional dependencies of each extra, with their versions."""
    described = []
    for extra, versions in extras.items():
        present = [f"{name} {version}" for name, version in versions.items() if version]
        missing = [f"no {name}" for name, version in versions.items() if not version]
        described.append(f"{extra} ({', '.join(present + missing)})")
    return ", ".join(described)


def _check_line(check: Mapping[str, Any]) -> str:
    """Return the line of a known answer."""
    # In capitals, so that it is found in a long paste.
    verdict = "ok  " if check["holds"] else "FAIL"
    if check["fault"] is not None:
        # What was raised may have several lines.
        outcome = " ".join(check["fault"].split())
    else:
        outcome = (
            f"off by {check['error']:.1e}, may be {check['allowed']:.1e}: "
            f"{check['why']}"
        )
    return f"  {verdict}  {check['name']:<34}{outcome}"
