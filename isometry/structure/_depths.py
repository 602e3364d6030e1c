"""The number of weight layers on the longest path to a value."""

from collections.abc import Collection

from isometry.structure._reading import Program, Scan


class Depths:
    """The number of weight layers on the longest path to each value, itself included.

    Each iteration of a scan counts, so a recurrent layer counts once for each step.

    Attributes:
        last: For each value, the number in the last iteration of the scans around it.
        all: For each value that is the result of a weight layer, the numbers in all
            iterations, in the order of running.
    """

    def __init__(self, program: Program, layer_values: Collection[int]) -> None:
        """Count the layers up to each value.

        Args:
            program: The program.
            layer_values: Indices of the values that are results of weight layers.
        """
        self.all: dict[int, list[int]] = {index: [] for index in layer_values}
        self.last = [0] * len(program.values)
        self._program = program
        self._layer_values = frozenset(layer_values)
        self._scan_at = {scan.start: scan for scan in program.scans}
        # For each carry, the depth of the state that the iteration before returned.
        self._states: dict[int, int] = {}
        self._count(0, len(program.values), num_scans=0)

    def _count(
        self,
        start: int,
        stop: int,
        num_scans: int,
    ) -> None:
        """Count layers up to the values from `start` to `stop`, inside `num_scans`."""
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
        """Count layers in all iterations of a scan."""
        # Every iteration is run: depth need not grow by the same amount in each.
        for iteration in range(scan.length):
            if iteration == 0:
                for carry in scan.carries:
                    self._states.pop(carry, None)
            else:
                # States may be permuted, so all are read before any is written.
                states = [self.last[index] for index in scan.returned]
                self._states |= dict(zip(scan.carries, states, strict=True))
            self._count(scan.start, scan.stop, num_scans)

    def _count_one(self, index: int) -> None:
        """Count layers up to one value."""
        inputs = self._program.values[index].inputs
        depth = max((self.last[read] for read in inputs), default=0)
        # The state comes from the iteration before, not from the input of the scan.
        depth = self._states.get(index, depth)
        if index in self._layer_values:
            depth += 1
            self.all[index].append(depth)
        self.last[index] = depth

    def of(self, index: int, iteration: int = 0) -> int:
        """Return the depth of a weight layer in one iteration of the scan around it.

        Args:
            index: Index of the value that is the result of the layer.
            iteration: The iteration, counted in the order of running.
        """
        depths = self.all[index]
        # In nested scans the first entries are the iterations of the innermost one.
        return depths[min(iteration, len(depths) - 1)]
