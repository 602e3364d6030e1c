"""`python -m benchmarks` lists the benchmarks; with a name or --all it runs them."""

import argparse
import functools
import importlib
import json
import pathlib
import pkgutil
import sys

import benchmarks
from benchmarks import _compare, _report, _run
from benchmarks._declare import Benchmark, Record
from benchmarks._processor import file_name
from isometry._internal import interrupts

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

# They are run by themselves, as `python -m benchmarks.device`.
PROGRAMS = ("device", "zoo")

# Of seven samples three clean ones are left where half are disturbed, as many as the
# statistics need. Every further one takes as long. A smoke run asks only whether
# everything works, and that two rounds show.
ROUNDS = 7
SMOKE_ROUNDS = 2


def names() -> list[str]:
    """Return the name of every benchmark file of this folder."""
    modules = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(
        name for name in modules if name not in PROGRAMS and not name.startswith("_")
    )


def _declared(name: str) -> Benchmark:
    """Import a benchmark file and return what it declares."""
    return importlib.import_module(f"benchmarks.{name}").BENCHMARK


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; a mistake in it ends the program with code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Our methods against their peers."
    )
    parser.add_argument(
        "name", nargs="*", metavar="NAME", help="benchmarks to run; none lists them"
    )
    parser.add_argument("--all", action="store_true", help="run every benchmark")
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="tiny tasks: does it run, are the results right",
    )
    parser.add_argument(
        "--task",
        action="append",
        metavar="TEXT",
        help="only tasks whose names hold this; repeatable",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        help=f"samples of each method ({ROUNDS}; {SMOKE_ROUNDS} with --smoke)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="benchmark-results",
        help="where NAME.json goes (%(default)s)",
    )
    parser.add_argument(
        "--compare", metavar="OLD.json", help="show the change since this record"
    )
    parser.add_argument(
        "--readme",
        action="store_true",
        help="make README.md's tables and figure from results/, run nothing",
    )
    chosen = parser.parse_args(argv)
    unknown = sorted(set(chosen.name) - set(names()))
    if unknown:
        known = ", ".join(names())
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {known}")
    if chosen.rounds is not None and chosen.rounds < 1:
        parser.error(f"--rounds {chosen.rounds} must be at least 1")
    return chosen


def _write_readme() -> None:
    # The list of benchmarks is shown without importing jax, which these do.
    from benchmarks import _curves
    from isometry import store

    for path in sorted(_report.RESULTS.glob("scale*.json")):
        figure = _curves.figure(json.loads(path.read_text()))
        picture = path.with_suffix(".png")
        store.atomically(picture, functools.partial(figure.savefig, format="png"))
    text = _report.readme(_report.README.read_text(), _report.committed())
    store.atomically(_report.README, lambda file: file.write(text.encode()))


def place(folder: pathlib.Path, record: Record) -> pathlib.Path:
    """Find where a record goes, so that those of other machines stay beside it.

    Args:
        folder: Where records are.
        record: The new one.

    Returns:
        NAME.json, unless that is of another kind of processor or GPU; then
        NAME-KIND.json. A record that does not name its processor is replaced by that of
        any.
    """
    name = record["benchmark"]
    first = folder / f"{name}.json"
    if not first.exists():
        return first
    kind = _report.machine(record)
    try:
        kind_of_first = _report.machine(json.loads(first.read_text()))
    except (ValueError, LookupError):
        # It is no record, and what was measured must not be lost for it.
        return first
    on_cpu = record["provenance"]["device"]["platform"] == "cpu"
    if kind_of_first == kind or (on_cpu and kind_of_first == _report.UNNAMED):
        return first
    return folder / f"{name}-{file_name(kind)}.json"


def measure(name: str, chosen: argparse.Namespace, old: Record | None) -> list[str]:
    """Run one benchmark, write its record and show it.

    Args:
        name: The name of its file.
        chosen: The command line.
        old: A record with which to compare, if it is of this benchmark.

    Returns:
        A line for each comparison that is below its least.
    """
    from isometry import store

    folder = store.prepare(chosen.out)
    rounds = chosen.rounds or ROUNDS
    if chosen.smoke and chosen.rounds is None:
        rounds = SMOKE_ROUNDS
    record = _run.run(
        f"benchmarks.{name}",
        _declared(name),
        smoke=chosen.smoke,
        rounds=rounds,
        say=_say,
        only=chosen.task or (),
    )
    path = store.write_json(place(folder, record), record)
    if old is not None and old["benchmark"] != name:
        old = None
    _report.show(record, old)
    print(f"wrote {path}")
    return _compare.failures(record)


def _old(path: str) -> Record:
    """Read the record that --compare names, before minutes of measurements.

    Raises:
        ValueError: The file is no record of a benchmark.
    """
    record = json.loads(pathlib.Path(path).read_text())
    if not isinstance(record, dict) or "benchmark" not in record:
        raise ValueError(f"--compare {path} is no record of a benchmark.")
    return record


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for.

    Args:
        argv: Its words; None takes those of the process.

    Returns:
        The exit code: 0; 1 if a benchmark failed, or ours is slower than it must be;
        2 for bad usage; 130 if interrupted.
    """
    chosen = _arguments(argv)
    if chosen.readme:
        _write_readme()
        return 0
    wanted = chosen.name
    if chosen.all:
        wanted = names()
    if not wanted:
        for name in names():
            print(f"{name}: {_declared(name).question}")
        return 0
    failures = []
    code = 0
    try:
        old = None
        if chosen.compare:
            old = _old(chosen.compare)
        with interrupts.insistent():
            for name in wanted:
                failures += measure(name, chosen, old)
    except KeyboardInterrupt:
        _say("interrupted; nothing was written for the benchmark that ran")
        code = EXIT_INTERRUPTED
    except _run.BenchmarkFailed as error:
        failures.append(str(error))
    except (OSError, ValueError) as error:
        _say(f"benchmarks: {error}")
        code = EXIT_USAGE
    for line in failures:
        _say(f"FAILED: {line}")
    if failures and code == 0:
        code = EXIT_FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
