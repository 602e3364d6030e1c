"""`isometry doctor`: what a report of a fault needs, in one paste."""

from collections.abc import Mapping
from typing import Annotated, Any

from typer import Option

from isometry import _cli_common as common

_HELP = """Versions, devices, settings that bite, extras, and a self-test of the engine against known answers (about
3 s): paste it into a report of a fault. Exits with 1 if a known answer is not met.

Example: isometry doctor
"""


def add(app: Any, ours: dict[str, str]) -> None:
    """Register the command; `ours`: what the command line set in the environment because it was unset."""

    @common.command(app, "doctor", _HELP)
    def doctor(
        out: Annotated[str | None, Option(help="Folder for doctor.json; none if left out.")] = None,
        json: Annotated[bool, Option("--json", help="Print the JSON instead of the text.")] = False,
        seed: Annotated[int, Option(help="Seed of what the self-test draws.")] = 0,
    ) -> int:
        return run(out, json, seed, ours)


def run(out: str | None, as_json: bool, seed: int, ours: dict[str, str]) -> int:
    """Examine, write, print; the exit code."""
    from isometry import _checks, _doctor, store
    from isometry._internal import strict_json

    _checks.integer("isometry doctor", low=0, **{"--seed": seed})
    folder = None if out is None else store.prepare(out)
    result = _doctor.examine(seed) | {"set_by_this_command": ours}
    written = [] if folder is None else [store.write_json(folder / "doctor.json", result)]
    if as_json:
        print(strict_json.dumps(result), end="")
    else:
        print("\n".join(lines(result)))
    common.told(written, as_json)
    return common.EXIT_CLEAN if result["holds"] else common.EXIT_RAISED


def lines(result: Mapping[str, Any]) -> list[str]:
    """Write plain text, so that it survives being pasted."""
    versions = dict(result["provenance"]["versions"])
    commit = result["provenance"]["git_commit"]
    own = versions.pop("isometry")
    machine, precision, checks = result["machine"], result["precision"], result["checks"]
    failed = sum(not check["holds"] for check in checks)
    verdict = f"{failed} of {len(checks)} FAIL" if failed else f"all {len(checks)} hold"
    chosen = precision["default_matmul_precision"] or "the platform's default"
    rows = [
        ("isometry", f"{own}, commit {commit}" if commit else own),
        ("with", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("system", f"{machine['system']}, {machine['usable_processors']} processors"),
        ("devices", ", ".join(f"{d['platform']}:{d['id']} {d['kind']}" for d in machine["devices"])),
        ("x64", "on: float64" if precision["x64"] else "off: float32 unless JAX_ENABLE_X64=1"),
        ("matmul", f"{chosen}; float32 products err by {precision['matmul_error']:.1g}"),
        ("threads", _threads(result["threads"], result["set_by_this_command"])),
        ("extras", ", ".join(_extra(name, held) for name, held in result["extras"].items())),
        *(("warning", text) for text in result["warnings"]),
        ("self-test", f"{verdict}, {result['seconds']:.1f} s ({result['processor_seconds']:.1f} s of processor)"),
    ]
    return [f"{name:<10}{text}" for name, text in rows] + [_check_line(check) for check in checks]


def _threads(environment: Mapping[str, str | None], ours: Mapping[str, str]) -> str:
    is_set = {name: value for name, value in environment.items() if value is not None}
    named = [f"{name}={value}" + " (set by this command)" * (name in ours) for name, value in is_set.items()]
    return ", ".join(named) or "nothing set"


def _extra(name: str, versions: Mapping[str, str | None]) -> str:
    held = [f"{module} {version}" for module, version in versions.items() if version is not None]
    missing = [f"no {module}" for module, version in versions.items() if version is None]
    return f"{name} ({', '.join(held + missing)})"


def _check_line(check: Mapping[str, Any]) -> str:
    verdict = "ok  " if check["holds"] else "FAIL"
    if check["fault"] is not None:
        return f"  {verdict}  {check['name']:<34}{' '.join(check['fault'].split())}"
    return f"  {verdict}  {check['name']:<34}off by {check['error']:.1e}, may be {check['allowed']:.1e}: {check['why']}"
