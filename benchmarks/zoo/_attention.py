"""The part of the zoo with attention, or with experts."""
from benchmarks.zoo._case import Case
CASES: tuple[Case, ...] = ()
