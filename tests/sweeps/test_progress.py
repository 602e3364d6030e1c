"""What a sweep says while it runs."""

import sys

import pytest

from isometry.sweeps import _progress
from isometry.sweeps._progress import reporter


def test_line_has_cells_rate_time_left_and_failures(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    with reporter(progress=False, total=110, num_done=10) as report:
        assert report.line() == "10/110 cells"
        for _ in range(19):
            report.done()
        report.failed()
        now[0] = 10.0
        # 20 cells in 10 seconds; 80 are left.
        assert report.line() == "29/110 cells, 2/s, 0:40 left, 1 failed"
        now[0] = 3600.0
        assert report.line() == "29/110 cells, 0.333/min, 4:00:00 left, 1 failed"


def test_lines_are_written_now_and_then_where_stderr_is_no_terminal(
    monkeypatch, capsys
):
    now = [100.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    with reporter(progress=True, total=3, num_done=0) as report:
        report.done()
        now[0] += 11
        report.done()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "sweep: 0/3 cells",
        "sweep: 2/3 cells",
        "sweep: 2/3 cells",
    ]


def test_bar_on_a_terminal_shows_the_line(monkeypatch, capsys):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with reporter(progress=True, total=2, num_done=0) as report:
        report.done()
        report.failed()
    assert "1/2 cells" in capsys.readouterr().err
