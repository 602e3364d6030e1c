"""A line for stderr is no reason to stop."""

import io

from isometry._internal import stderr


def test_line_is_written_where_there_is_a_stream(capsys):
    stderr.tell("a line")
    assert capsys.readouterr().err == "a line\n"


def test_without_an_open_stream_nothing_is_written(monkeypatch, capsys):
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr("sys.stderr", stream)
        stderr.tell("a line")
    assert capsys.readouterr().out == ""
