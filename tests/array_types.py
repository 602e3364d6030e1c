"""The type checker behind `--jaxtyping-packages` in pytest's options.

It checks annotations of jaxtyping alone: shapes and dtypes of our own arrays. What a
user passes wrongly must reach the package's own checks, so no other annotation is
enforced.

The hook of jaxtyping decorates every function, and again whenever an inner one is
defined. That took a fifth of the time of all tests, most of it for functions in which
there is nothing to check. So where this module is imported, by the hook at the first
function, `jaxtyping.jaxtyped` leaves those as they are.
"""

import collections.abc
import dataclasses
import re
import typing

import beartype
import jaxtyping

_jaxtyped = jaxtyping.jaxtyped


def checked(function):
    """Return the function with its annotations of arrays enforced."""
    annotations = function.__annotations__
    arrays = arrays_in(annotations)
    if not arrays:
        return function
    # What is not an array is hidden from beartype alone.
    function.__annotations__ = arrays
    try:
        enforced = beartype.beartype(function)
    finally:
        function.__annotations__ = annotations
    enforced.__annotations__ = annotations
    return enforced


def jaxtyped(*function, typechecker):
    """Decorate as jaxtyping does, but only what has annotations of arrays."""

    def decorated(function):
        # Of classes, jaxtyping decorates the constructors of dataclasses alone.
        if isinstance(function, type):
            is_checked = dataclasses.is_dataclass(function)
            if is_checked and arrays_in(function.__init__.__annotations__):
                return _jaxtyped(function, typechecker=typechecker)
            return function
        if not arrays_in(function.__annotations__):
            return function
        # Given the type checker, jaxtyping makes two functions more of each, and checks
        # arguments twice, for the sake of its messages.
        return _jaxtyped(typechecker(function), typechecker=None)

    return decorated(*function) if function else decorated


jaxtyping.jaxtyped = jaxtyped


def arrays_in(annotations):
    """Return those annotations that name an array."""
    return {
        name: annotation
        for name, annotation in annotations.items()
        if names_an_array(annotation)
    }


def names_an_array(annotation):
    """Tell whether a type is, or contains, one such as Float[Array, "n"]."""
    # A type that is not yet defined is written as a string.
    if isinstance(annotation, str):
        text = re.sub(r"Callable\[\[.*?\].*?\]", "", annotation)
        return "Array" in text or "ndarray" in text
    # What a function returns is seen when it is called, not when it is passed.
    if typing.get_origin(annotation) is collections.abc.Callable:
        return False
    is_class = isinstance(annotation, type)
    if is_class and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(names_an_array(part) for part in typing.get_args(annotation))
