"""`python -m benchmarks` lists the benchmarks; with a name or --all it runs them."""

import argparse
import importlib
import json
import pathlib
import pkgutil
import sys
from typing import Any

import benchmarks
from benchmarks import _report, _run
from isometry._internal import interrupts

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


PROGRAMS = ("device", "zoo")  # run by themselves, as `python -m benchmarks.device`


def names() -> list[str]:
    """Every benchmark file of this folder."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in found if name not in PROGRAMS and not name.startswith("_"))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Our methods against their peers.")
    parser.add_argument("name", nargs="*", metavar="NAME", help="benchmarks to run; none lists them")
    parser.add_argument("--all", action="store_true", help="run every benchmark")
    parser.add_argument("--smoke", action="store_true", help="tiny tasks: does it run, are the results right")
    parser.add_argument("--task", action="append", metavar="TEXT", help="only tasks whose names hold this; repeatable")
    parser.add_argument("--rounds", type=int, help="samples of each method (7; 2 with --smoke)")
    parser.add_argument("--out", metavar="DIR", default="benchmark-results", help="where NAME.json goes (%(default)s)")
    parser.add_argument("--compare", metavar="OLD.json", help="show the change since this record")
    parser.add_argument("--readme", action="store_true", help="make README.md's tables from results/, run nothing")
    chosen = parser.parse_args(argv)
    unknown = sorted(set(chosen.name) - set(names()))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(names())}")
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error(f"--rounds {chosen.rounds} must be at least 1")
    return chosen


def _write_readme() -> None:
    from isometry import store

    text = _report.readme(_report.README.read_text(), _report.committed()).encode()
    store.atomically(_report.README, lambda file: file.write(text))


def measure(module: str, chosen: argparse.Namespace, old: dict[str, Any] | None) -> None:
    """Run one benchmark, write its record, show it."""
    from isometry import store

    name = module.rsplit(".", 1)[-1]
    out = store.prepare(chosen.out)
    rounds = chosen.rounds or (2 if chosen.smoke else 7)
    benchmark = importlib.import_module(module).BENCHMARK
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    record = _run.run(module, benchmark, smoke=chosen.smoke, rounds=rounds, say=say, only=chosen.task or ())
    path = store.write_json(out / f"{name}.json", record)
    _report.show(record, old if old and old["benchmark"] == name else None)
    print(f"wrote {path}")
    failed = _run.failures(record)
    if failed:
        raise _run.BenchmarkFailed("\n".join(failed))


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 a benchmark failed, 2 bad usage, 130 interrupted."""
    chosen = _arguments(argv)
    if chosen.readme:
        _write_readme()
        return 0
    wanted = names() if chosen.all else chosen.name
    if not wanted:
        for name in names():
            print(f"{name}: {importlib.import_module(f'benchmarks.{name}').BENCHMARK.question}")
        return 0
    try:
        old = json.loads(pathlib.Path(chosen.compare).read_text()) if chosen.compare else None
        with interrupts.insistent():
            for name in wanted:
                measure(f"benchmarks.{name}", chosen, old)
    except KeyboardInterrupt:
        print("interrupted; nothing was written for the benchmark that ran", file=sys.stderr)
        return EXIT_INTERRUPTED
    except _run.BenchmarkFailed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return EXIT_FAILED
    except (OSError, ValueError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main())
