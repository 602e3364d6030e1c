"""`isometry doctor`: what a report of a fault needs, in one paste."""

from typing import Annotated, Any

from typer import Option

from isometry import _cli_common as common

_HELP = """Versions, devices, settings that bite, memory, extras, and a self-test of the engine against known answers
(about 5 s): paste it into a report of a fault. Exits with 1 if a known answer is not met.

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
    found = _doctor.examine(seed)
    result = {**found.as_dict(), "set_by_this_command": ours}
    written = [] if folder is None else [store.write_json(folder / "doctor.json", result)]
    if as_json:
        print(strict_json.dumps(result), end="")
    else:
        print("\n".join(lines(found, ours)))
    common.told(written, as_json)
    return common.EXIT_CLEAN if found.holds else common.EXIT_RAISED


def lines(found: Any, ours: dict[str, str]) -> list[str]:
    """Plain text, so that it survives being pasted."""
    rows = [*_software(found), *_hardware(found, ours), ("extras", _extras(found.extras))]
    rows += [("warning", text) for text in found.warnings]
    failed = sum(not check.holds for check in found.checks)
    verdict = f"{failed} of {len(found.checks)} FAIL" if failed else f"all {len(found.checks)} hold"
    rows.append(("self-test", f"{verdict}, {found.seconds:.1f} s ({found.processor_seconds:.1f} s of processor)"))
    return [f"{name:<10}{text}" for name, text in rows] + [_check_line(check) for check in found.checks]


def _software(found: Any) -> list[tuple[str, str]]:
    versions = dict(found.provenance["versions"])
    commit = found.provenance["git_commit"]
    own = versions.pop("isometry") + (f", commit {commit}" if commit else "")
    return [
        ("isometry", own),
        ("with", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("system", f"{found.machine['system']}, {found.machine['usable_processors']} processors"),
    ]


def _hardware(found: Any, ours: dict[str, str]) -> list[tuple[str, str]]:
    precision, memory, threads = found.precision, found.memory, found.threads
    kinds = [f"{d['platform']}:{d['id']} {d['kind']}" for d in found.machine["devices"]]
    bits = "on: float64" if precision["x64"] else "off: float32 unless JAX_ENABLE_X64=1"
    chosen = precision["default_matmul_precision"] or "the platform's default"
    known = {name: value for name, value in threads["environment"].items() if value is not None}
    named = [f"{name}={value}" + " (set by this command)" * (name in ours) for name, value in known.items()]
    return [
        ("devices", ", ".join(kinds)),
        ("x64", bits),
        ("matmul", f"{chosen}; float32 products err by {precision['matmul_error']:.1g}"),
        ("threads", ", ".join(named) or "nothing set"),
        ("", ", ".join(f"{pool['internal_api']}: {pool['num_threads']}" for pool in threads["libraries"] or []))
        if threads["libraries"] is not None
        else ("", "of the libraries unknown: threadpoolctl is not installed"),
        ("memory", f"{_gib(memory['free_bytes'])} free, of which a measurement takes {_gib(memory['budget_bytes'])}"),
    ]


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


def _extras(extras: dict[str, dict[str, str | None]]) -> str:
    words = []
    for extra, modules in extras.items():
        held = [f"{name} {version}" for name, version in modules.items() if version is not None]
        missing = [name for name, version in modules.items() if version is None]
        words.append(f"{extra} ({', '.join(held + [f'no {name}' for name in missing])})")
    return ", ".join(words)


def _check_line(check: Any) -> str:
    verdict = "ok  " if check.holds else "FAIL"
    if check.fault is not None:
        return f"  {verdict}  {check.name:<34}{' '.join(check.fault.split())}"
    return f"  {verdict}  {check.name:<34}off by {check.error:.1e}, may be {check.allowed:.1e}: {check.why}"
