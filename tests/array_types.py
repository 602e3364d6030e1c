"""The type checker behind `--jaxtyping-packages` in pytest's options.

It checks annotations of jaxtyping alone: shapes and dtypes of our own arrays. What a
user passes wrongly must reach the package's own checks, so no other annotation is
enforced.
"""

import typing

import beartype
import jaxtyping


def checked(function):
    """Return the function with its annotations of arrays enforced."""
    arrays = {
        name: annotation
        for name, annotation in function.__annotations__.items()
        if names_an_array(annotation)
    }
    if not arrays:
        return function
    # jaxtyping passes functions made for this purpose, so nobody else sees the change.
    function.__annotations__ = arrays
    return beartype.beartype(function)


def names_an_array(annotation):
    """Tell whether a type is, or contains, one such as Float[Array, "n"]."""
    is_class = isinstance(annotation, type)
    if is_class and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(names_an_array(part) for part in typing.get_args(annotation))
