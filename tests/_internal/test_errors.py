"""Errors name the function that the user called, once."""

import pickle

import pytest

from isometry._internal.errors import InputError, MissingExtra, TracedError, public


@public("outer")
def outer(error):
    inner(error)


@public("inner")
def inner(error):
    raise error


@pytest.mark.parametrize("kind", [InputError, MissingExtra, TracedError])
def test_outermost_public_function_is_named(kind):
    with pytest.raises(kind) as refused:
        outer(kind("x=1 is odd."))
    assert str(refused.value) == "outer(): x=1 is odd."
    assert (refused.value.function, refused.value.message) == ("outer", "x=1 is odd.")


def test_name_that_is_in_the_message_is_replaced():
    """Rooms that are not yet rewritten write the name themselves."""
    assert str(InputError("mlp(): x=1 is odd.")) == "mlp(): x=1 is odd."
    with pytest.raises(InputError) as refused:
        outer(InputError("mlp(): x=1 is odd."))
    assert str(refused.value) == "outer(): x=1 is odd."


def test_other_errors_pass_unchanged():
    with pytest.raises(KeyError, match="x"):
        outer(KeyError("x"))


def test_errors_are_what_python_calls_them():
    assert issubclass(InputError, ValueError)
    assert issubclass(TracedError, TypeError)
    assert issubclass(MissingExtra, ImportError)


def test_error_survives_a_process_boundary():
    error = InputError("x=1 is odd.")
    error.function = "mlp"
    assert str(pickle.loads(pickle.dumps(error))) == "mlp(): x=1 is odd."


def test_public_function_keeps_its_name_and_docstring():
    @public("shown")
    def function():
        """Do something."""

    assert (function.__name__, function.__doc__) == ("function", "Do something.")
