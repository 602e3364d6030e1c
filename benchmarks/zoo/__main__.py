"""`python -m benchmarks.zoo calibrate`, `architectures`, `predict`: what they find is DIR/NAME.json; an interrupt costs
one network, and the same command goes on."""

import os

# Before jax: BLAS threads collapse when a core is busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import sys

EXIT_USAGE, EXIT_INTERRUPTED = 2, 130


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 2 bad usage, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description="How far can the flags be trusted?")
    commands = ("calibrate", "architectures", "predict", "readme")
    parser.add_argument("command", choices=commands, help="readme: make README.md anew")
    parser.add_argument("--smoke", action="store_true", help="few networks, few draws: does it run")
    parser.add_argument("--out", metavar="DIR", default="benchmark-results/zoo", help="where results go (%(default)s)")
    chosen = parser.parse_args(argv)
    from benchmarks.zoo import _architectures, _calibrate, _predict, _report
    from isometry import store

    if chosen.command == "readme":
        store.atomically(_report.README, lambda file: file.write(_report.page().encode()))
        return 0
    run = {"calibrate": _calibrate.run, "architectures": _architectures.run, "predict": _predict.run}[chosen.command]
    try:
        out = store.prepare(chosen.out)
        record = run(chosen.smoke, out, lambda text: print(text, file=sys.stderr, flush=True))
        path = store.write_json(out / f"{chosen.command}.json", record)
    except KeyboardInterrupt:
        print("interrupted; finished networks are kept, the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (OSError, ValueError) as error:
        print(f"benchmarks.zoo: {error}", file=sys.stderr)
        return EXIT_USAGE
    print("\n".join(_report.section(record)))
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
