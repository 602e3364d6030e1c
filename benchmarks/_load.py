"""Foreign load: how much CPU time others used while a sample was taken, from /proc/stat less what our process used."""

import os
import pathlib

_STAT = pathlib.Path("/proc/stat")
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
# Below a tenth of a core for the time of the sample, or the resolution of the counters, a sample is clean.
_SHARE, _TICKS = 0.1, 3


def busy() -> float | None:
    """CPU seconds, over all cores since boot, that were neither idle nor waiting for a disk; None if nobody counts."""
    try:
        fields = [int(n) for n in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / _TICK


def clean(before: float | None, after: float | None, own: float, wall: float) -> bool | None:
    """Whether a sample of `wall` seconds, for which we used `own` CPU seconds, was undisturbed; None if unknown."""
    if before is None or after is None:
        return None
    return after - before - own <= max(_SHARE * wall, _TICKS / _TICK)
