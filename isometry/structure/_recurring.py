"""Scans: which of them read a new part of x in each iteration."""

from isometry.structure._anatomy import Anatomy
from isometry.structure._flow import PICKING
from isometry.structure._reading import Program, Scan


def is_fed(anatomy: Anatomy, point: str) -> bool:
    """Tell whether a point lies in a scan whose iterations each read a part of x.

    Such iterations are the steps of a recurrence, or examples that are mapped over. A
    scan that reads nothing new applies the same layers again, one after the other.

    Args:
        anatomy: The anatomy.
        point: The name of the point.
    """
    program = anatomy._flow.program
    value = anatomy._points.by_name[point].value
    scans = [program.scans[scan] for scan in program.values[value].scans]
    return any(_takes_signal(program, scan) for scan in scans)


def _takes_signal(program: Program, scan: Scan) -> bool:
    """Tell whether each iteration of a scan takes its own part of the signal."""
    body = [program.values[index] for index in range(scan.start, scan.stop)]
    taking = [value for value in body if value.operation in PICKING]
    return any(value.inputs[0] in program.of_x for value in taking)
