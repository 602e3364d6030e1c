"""The statistics of samples, the comparisons of methods, and what makes a run fail."""

import itertools
import statistics
from collections.abc import Iterator, Sequence

from benchmarks import _ceiling
from benchmarks._declare import (
    LEAST_OF_PLAIN_JAX,
    PLAIN_JAX,
    Record,
    Rival,
    Task,
)

# Statistics are of the clean samples if there are this many, and else of all, which the
# record says. With fewer a median would be one sample's; with ten times as many no run
# of a few rounds on a shared machine would count as undisturbed.
ENOUGH = 3

# Seconds of a peer's call from which on it must be reached. A call of ours costs 1 to 3
# milliseconds of Python, whatever it measures. With a tenth of this, tiny tasks would
# fail runs for that; with ten times as much, most tasks could be slower unnoticed.
LEAST_CALL = 0.01


def quartiles(values: Sequence[float]) -> list[float]:
    """Return lower quartile, median and upper quartile."""
    if len(values) == 1:
        return [*values] * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def _of_clean(values: Sequence[float], marks: Sequence[bool | None]) -> Record:
    """Return statistics of the clean values, or of all if fewer than `ENOUGH` are.

    Args:
        values: One a round.
        marks: Whether nothing disturbed each round. None, where that is not known, does
            not count as clean.

    Returns:
        A record of the median, the quartiles, and whether values that are not clean had
        to be taken too.
    """
    kept = list(itertools.compress(values, marks))
    disturbed = len(kept) < min(ENOUGH, len(values))
    if disturbed:
        kept = values
    low, median, high = quartiles(kept)
    return {"median": median, "quartiles": [low, high], "disturbed": disturbed}


def summary(samples: Sequence[Record], repeats: int) -> Record:
    """Summarize the timing samples of one method for its record.

    Args:
        samples: One a round, all from the process of this method: seconds a call,
            whether nothing disturbed the round, and the peak memory until then.
        repeats: Calls in each sample.

    Returns:
        Seconds and marks by round, their statistics, and the peak memory.
    """
    seconds = [sample["seconds"] for sample in samples]
    marks = [sample["clean"] for sample in samples]
    return {
        "repeats": repeats,
        "seconds": seconds,
        "clean": marks,
        **_of_clean(seconds, marks),
        # The peak of a process only grows, so the last is the largest.
        "peak_memory": samples[-1]["peak_memory"],
    }


def ratio(
    ours: Record,
    peer: Record,
    *,
    goal: float | None = None,
    least: float | None = None,
) -> Record:
    """Compare the two samples of each round.

    Args:
        ours: Record of our method.
        peer: Record of the peer, of the same rounds.
        goal: How many times faster ours should be.
        least: How many times as fast ours must be.

    Returns:
        How many times faster ours is in each round, and the statistics of that.
    """
    pairs = zip(ours["seconds"], peer["seconds"], strict=True)
    rounds = [theirs / own for own, theirs in pairs]
    both = zip(ours["clean"], peer["clean"], strict=True)
    found = _of_clean(rounds, [own and theirs for own, theirs in both])
    goal_met = None
    if goal is not None:
        goal_met = found["median"] >= goal
    return {
        "ours": ours["name"],
        "peer": peer["name"],
        "peer_seconds": statistics.median(peer["seconds"]),
        "rounds": rounds,
        **found,
        "goal": goal,
        "goal_met": goal_met,
        "least": least,
    }


def ratios(task: Task, methods: Sequence[Record]) -> list[Record]:
    """Compare each of our methods with its best peer and with its rivals.

    Args:
        task: What the methods did.
        methods: The records of those that took part.

    Returns:
        A comparison a pair.
    """
    ours = [method for method in methods if method["ours"]]
    peers = {method["name"]: method for method in methods if not method["ours"]}
    names = task.against or tuple(peers)
    candidates = [peers[name] for name in names if name in peers]
    best = min(candidates, key=lambda peer: peer["median"], default=None)
    rivals = [rival for rival in _rivals(task) if rival.name in peers]
    found = []
    for own in ours:
        if best is not None:
            found.append(ratio(own, best, goal=task.goal))
        for rival in rivals:
            peer = peers[rival.name]
            found.append(ratio(own, peer, goal=rival.goal, least=rival.least))
    return found


def _rivals(task: Task) -> Iterator[Rival]:
    """Return the rivals of a task, and plain JAX with the least that holds for all."""
    goal_of_plain_jax = None
    for rival in task.rivals:
        if rival.name == PLAIN_JAX:
            goal_of_plain_jax = rival.goal
        else:
            yield rival
    yield Rival(PLAIN_JAX, goal=goal_of_plain_jax, least=LEAST_OF_PLAIN_JAX)


def failures(record: Record) -> list[str]:
    """Return a line for each failure in a record.

    It is a failure if ours is not as many times as fast as a peer as its task requires
    at least, or if a process of ours held more memory than its task allows. Speed is
    not judged against a peer whose call takes less than `LEAST_CALL`, and nothing of
    a smoke run is judged, as its tasks are too small.
    """
    if record["smoke"]:
        return []
    slow = [
        _failure(task["name"], found)
        for task in record["tasks"]
        for found in task["ratios"]
        if _is_below(found)
    ]
    large = [
        f"{task['name']}: {method['name']} held {method['peak_memory']:,} bytes, and "
        f"may hold {task['memory']:,} at most"
        for task in record["tasks"]
        for method in task["methods"]
        if exceeds(task, method)
    ]
    return slow + large


def _is_below(found: Record) -> bool:
    """Tell whether a comparison is below its least, of a task that can be timed."""
    # Records from before that was noted have none.
    seconds = found.get("peer_seconds", LEAST_CALL)
    if found["least"] is None or seconds < LEAST_CALL:
        return False
    return found["median"] < found["least"]


def exceeds(task: Record, method: Record) -> bool:
    """Tell whether a process of ours held more memory than its task allows."""
    # Records from before there were such limits have none.
    most = task.get("memory")
    if most is None or "absent" in method or not method["ours"]:
        return False
    return method["peak_memory"] > most


def _failure(task: str, found: Record) -> str:
    """Say by how much a comparison is below its least."""
    line = (
        f"{task}: {found['ours']} is {found['median']:.3g} times as fast as "
        f"{found['peer']}, and must be {found['least']:g} times at least"
    )
    if found["disturbed"]:
        line += "; others used the machine meanwhile"
    return line


def ceiling(task: Task, products: Sequence[Record]) -> Record | None:
    """Return the rates of plain matrix products.

    Args:
        task: What they are the ceiling of.
        products: The records of the methods of benchmarks/_ceiling.py.

    Returns:
        The best rate in GFLOP/s, whose it is, and the best of each layout of the
        operands. None for a task without a product.
    """
    if task.gemm is None:
        return None
    order, dtype = task.gemm
    operations = 2 * order**3
    rates = {
        product["name"]: operations / product["median"] / 1e9 for product in products
    }
    layouts = dict.fromkeys(_ceiling.LAYOUTS.values(), 0.0)
    for name, rate in rates.items():
        layout = _ceiling.layout(name)
        layouts[layout] = max(layouts[layout], rate)
    best = max(rates, key=lambda name: rates[name])
    return {
        "gemm": [order, dtype],
        "gflops": rates[best],
        "by": best,
        "layouts": layouts,
    }
