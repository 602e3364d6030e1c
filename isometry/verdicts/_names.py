"""Names of layers as they stand in a sentence."""

from collections.abc import Sequence

# Names that are written out; of more, the first and the last.
_LISTED = 3


def listed(names: Sequence[str]) -> str:
    """Return names in a line: all of a few, else the first and the last.

    Example:
        >>> listed(["a", "b", "c", "d"])
        'a … d (4 weights)'
    """
    if len(names) <= _LISTED:
        return ", ".join(names)
    return f"{names[0]} … {names[-1]} ({len(names)} weights)"
