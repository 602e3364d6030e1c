"""The commands `calibrate`, `architectures`, `predict` and `readme`.

`python -m benchmarks.zoo calibrate --out DIR` writes DIR/calibrate.json. An interrupt
costs one network, and the same command continues with the others.
"""

import os

# Before jax is imported: multi-threaded BLAS becomes many times slower whenever a core
# is busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import sys

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_COMMANDS = ("calibrate", "architectures", "predict", "readme")


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command and its options."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo",
        description="How far can the flags be trusted?",
    )
    parser.add_argument(
        "command", choices=_COMMANDS, help="readme: make README.md anew"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="few networks, few draws: does it run"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="benchmark-results/zoo",
        help="where results go (%(default)s)",
    )
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    """Print a line of progress at once."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: What is written behind `python -m benchmarks.zoo`; None reads it from
            the command line.

    Returns:
        The exit code: 0; 2 for bad usage; 130 after an interrupt.
    """
    chosen = _parsed(arguments)

    # Imported only now, so that help and bad usage need no jax.
    from benchmarks.zoo import _architectures, _calibrate, _predict, _report
    from isometry import store

    if chosen.command == "readme":
        page = _report.page().encode()
        store.atomically(_report.README, lambda file: file.write(page))
        return 0
    run = {
        "calibrate": _calibrate.run,
        "architectures": _architectures.run,
        "predict": _predict.run,
    }[chosen.command]
    try:
        out = store.prepare(chosen.out)
        record = run(chosen.smoke, out, _say)
        path = store.write_json(out / f"{chosen.command}.json", record)
    except KeyboardInterrupt:
        _say("interrupted; finished networks are kept, the same command goes on")
        return EXIT_INTERRUPTED
    except (OSError, ValueError) as error:
        _say(f"benchmarks.zoo: {error}")
        return EXIT_USAGE
    print("\n".join(_report.section(record)))
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
