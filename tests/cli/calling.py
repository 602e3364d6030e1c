"""What the tests of the command line share: a call, strict JSON, a refusal."""

import json

import pytest

from isometry import cli


def call(*argv):
    """Return the exit code of a command."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in argv])
    return stop.value.code


def strict(text):
    """Return JSON that holds no NaN and no infinity."""
    return json.loads(text, parse_constant=pytest.fail)


def refused_in_one_line(capsys, words):
    """Require one line on stderr with these words, and nothing on stdout."""
    shown, complaints = capsys.readouterr()
    assert shown == ""
    assert complaints.startswith("isometry: ")
    assert complaints.count("\n") == 1
    assert complaints.endswith("\n")
    assert "Traceback" not in complaints
    assert words in complaints
