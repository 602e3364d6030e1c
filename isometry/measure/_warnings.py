"""Warnings that name the public function and point to the line of the user."""

import sys
import warnings
from pathlib import Path

import jaxtyping

_PACKAGE = str(Path(__file__).parents[1])
# In tests, jaxtyping and beartype call the functions whose types they check.
_INSIDE = (_PACKAGE, str(Path(jaxtyping.__file__).parent), "<@beartype(isometry.")
_DECORATORS = str(Path(_PACKAGE, "_internal", "errors.py"))


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the first line outside this package.

    The message begins with the name of the function that is called there.
    """
    # `skip_file_prefixes` of warnings.warn does this from Python 3.12 on.
    frame = sys._getframe(1)
    level = 2
    name = ""
    while frame is not None and frame.f_code.co_filename.startswith(_INSIDE):
        path = frame.f_code.co_filename
        if path.startswith(_PACKAGE) and path != _DECORATORS:
            # A user calls the outer one of nested functions by name, as for the init of
            # a monitor.
            qualified = frame.f_code.co_qualname.partition(".<locals>")[0]
            # Without the class of a method: errors name it so too.
            name = qualified.rpartition(".")[2]
        frame = frame.f_back
        level += 1
    warnings.warn(f"{name}(): {message}", category, stacklevel=level)
