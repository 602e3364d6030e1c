"""Foreign load: CPU time that others used while a sample was taken.

It is the machine's, from /proc/stat, less what our processes used.
"""

import os
import pathlib

_STAT = pathlib.Path("/proc/stat")


def _ticks_per_second() -> int:
    """Return the unit of the counters of /proc/stat."""
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_CLK_TCK")
    return 100


_TICKS_PER_SECOND = _ticks_per_second()

# A sample is clean if others used less than a tenth of a core meanwhile. With a
# hundredth the services of an idle system would disturb it; with a whole core a
# neighbour that halves the speed would not.
_SHARE = 0.1

# The resolution of the counters, whose two readings are each rounded. With fewer ticks
# short samples on an idle machine would be called disturbed.
_TICKS = 3


def busy() -> float | None:
    """Return the CPU seconds, over all cores since boot, in which something ran.

    Waiting for a disk is no such time. None where nobody counts.
    """
    try:
        first_line = _STAT.read_text().split("\n", 1)[0]
        fields = [int(number) for number in first_line.split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_SECOND


def clean(
    before: float | None, after: float | None, *, own: float, wall: float
) -> bool | None:
    """Tell whether a sample was undisturbed.

    Args:
        before: `busy()` when the sample began.
        after: `busy()` when it ended.
        own: CPU seconds that our processes used for it.
        wall: Seconds that it took.

    Returns:
        None if nobody counts.
    """
    if before is None or after is None:
        return None
    foreign = after - before - own
    return foreign <= max(_SHARE * wall, _TICKS / _TICKS_PER_SECOND)
