"""Warnings that name the public function, and point at the line of the user."""

import sys
import warnings
from pathlib import Path

_PACKAGE = str(Path(__file__).parents[1])
_DECORATORS = str(Path(_PACKAGE, "_internal", "errors.py"))


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the first line outside this package.

    The function of this package that is called there stands before the message.
    """
    frame = sys._getframe(1)
    level = 2
    name = ""
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        if frame.f_code.co_filename != _DECORATORS:
            name = frame.f_code.co_name
        frame = frame.f_back
        level += 1
    warnings.warn(f"{name}(): {message}", category, stacklevel=level)
