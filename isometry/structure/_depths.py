"""How many weight layers lie on the longest path to a value."""

from collections.abc import Collection

from isometry.structure._reading import Program, Scan


class Depths:
    """Weight layers on the longest path to each value, itself included.

    Each iteration of a scan counts: a recurrent layer once a step.

    Attributes:
        last: For each value, the number in the last iteration of the scans around it.
        all: For the values at which a weight meets the signal, in every iteration.
    """

    def __init__(self, program: Program, met: Collection[int]) -> None:
        self.all: dict[int, list[int]] = {index: [] for index in met}
        self.last = [0] * len(program.values)
        self._program = program
        self._met = frozenset(met)
        self._scan_at = {scan.start: scan for scan in program.scans}
        # The states from which later iterations of scans start.
        self._states: dict[int, int] = {}
        self._count(0, len(program.values), num_scans=0)

    def _count(
        self,
        start: int,
        stop: int,
        num_scans: int,
    ) -> None:
        index = start
        while index < stop:
            value = self._program.values[index]
            scan = self._scan_at.get(index)
            if scan is None or num_scans >= len(value.scans):
                self._count_one(index)
                index += 1
            else:
                self._count_scan(scan, num_scans + 1)
                index = scan.stop

    def _count_scan(self, scan: Scan, num_scans: int) -> None:
        # Every iteration is counted: how depth grows from one to the next may change.
        for turn in range(scan.length):
            if turn == 0:
                for carry in scan.carries:
                    self._states.pop(carry, None)
            else:
                # All states move on at once, so they are read before any is written.
                states = [self.last[index] for index in scan.returned]
                self._states |= dict(zip(scan.carries, states, strict=True))
            self._count(scan.start, scan.stop, num_scans)

    def _count_one(self, index: int) -> None:
        inputs = self._program.values[index].inputs
        depth = max((self.last[read] for read in inputs), default=0)
        # A state is what the iteration before has left, not what the scan began with.
        depth = self._states.get(index, depth)
        if index in self._met:
            depth += 1
            self.all[index].append(depth)
        self.last[index] = depth

    def of(self, index: int, turn: int = 0) -> int:
        """Return the number at a weight's meeting, in one of its iterations."""
        every = self.all[index]
        # Around a scan there may be another.
        return every[min(turn, len(every) - 1)]
