"""Names of layers, written out for a sentence."""

from collections.abc import Sequence

# Of more names than these, only the first and the last are written out.
_LISTED = 3


def listed(names: Sequence[str]) -> str:
    """Return names in words: all if they are few, else the first and the last.

    Example:
        >>> listed(["a", "b", "c", "d"])
        'a … d (4 weights)'
    """
    if len(names) <= _LISTED:
        return ", ".join(names)
    return f"{names[0]} … {names[-1]} ({len(names)} weights)"
