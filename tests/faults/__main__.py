"""Plant the faults of the table one at a time, and count how many the tests catch.

    python -m tests.faults                    # all of them
    python -m tests.faults --only NAME        # one; repeat for more
    python -m tests.faults --sample 8 --seed 1

The exit code is 0 if every fault is caught, else 1. A fault that does not apply, whose
tests do not run, or fail without it as well, is BROKEN, and counts as not caught.
"""

import argparse
import json
import os
import pathlib
import random
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tests.faults._plant import CAUGHT, Outcome, confirmed, run
from tests.faults._table import FAULTS, Fault

_ROOT = pathlib.Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parsed(argv)
    faults = _chosen(options)
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    with tempfile.TemporaryDirectory(prefix="jax-cache-") as own_cache:
        outcomes = _all(faults, options, cache or own_cache)
    if options.json:
        record = json.dumps([outcome.as_dict() for outcome in outcomes], indent=1)
        options.json.write_text(record + "\n")
    count = sum(outcome.verdict == CAUGHT for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    print(f"{count} of {len(outcomes)} caught, in {seconds:.0f} s of CPU")
    return 0 if count == len(outcomes) else 1


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    names = [fault.name for fault in FAULTS]
    parser.add_argument("--only", action="append", metavar="NAME", choices=names)
    parser.add_argument("--sample", type=int, metavar="K", help="K of them, drawn")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="at a time")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="a record")
    help_root = "another checkout, whose package and tests are taken"
    parser.add_argument("--root", type=pathlib.Path, default=_ROOT, help=help_root)
    return parser.parse_args(argv)


def _chosen(options: argparse.Namespace) -> list[Fault]:
    faults = [f for f in FAULTS if not options.only or f.name in options.only]
    if options.sample is None:
        return faults
    drawn = random.Random(options.seed).sample(faults, min(options.sample, len(faults)))
    return sorted(drawn, key=faults.index)


def _all(
    faults: Sequence[Fault], options: argparse.Namespace, cache: str
) -> list[Outcome]:
    root = options.root.resolve()
    outcomes = []
    # Threads only wait: each run is a process of its own.
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(lambda fault: run(fault, root, cache), faults):
            print(outcome, flush=True)
            outcomes.append(outcome)
    checked = confirmed(outcomes, root, cache)
    for before, after in zip(outcomes, checked, strict=True):
        if before != after:
            print(after)
    return checked


if __name__ == "__main__":
    sys.exit(main())
