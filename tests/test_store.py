"""Results are on disk whole, or not at all."""

import errno
import json
import math
import os
import stat
import threading

import pytest

from isometry import InputError, store


class Figure:
    """What the store asks of a figure."""

    def savefig(self, file, **_):
        file.write(b"picture")


class FigureOnFullDisk:
    def savefig(self, file, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "r.bin"
    assert store.atomically(path, lambda file: file.write(b"one")) == path
    assert path.read_bytes() == b"one"
    store.atomically(str(path), lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["r.bin"]


def test_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "other").touch()
    path = store.atomically(tmp_path / "r.bin", lambda file: None)
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_symbolic_link_stays_and_its_file_is_replaced(tmp_path):
    """As for `open(path, "w")`, of which this is the atomic form."""
    (tmp_path / "runs").mkdir()
    target = tmp_path / "runs" / "target.json"
    target.write_text("old")
    (tmp_path / "link.json").symlink_to("runs/target.json")
    (tmp_path / "link_to_link.json").symlink_to("link.json")
    path = store.write_json(tmp_path / "link_to_link.json", {"a": 1})
    assert path == tmp_path / "link_to_link.json"
    assert (tmp_path / "link.json").is_symlink()
    assert path.is_symlink()
    assert json.loads(target.read_text()) == {"a": 1}
    assert os.listdir(tmp_path / "runs") == ["target.json"]


def test_link_to_a_file_that_is_not_there_makes_it(tmp_path):
    (tmp_path / "link").symlink_to("new")
    store.atomically(tmp_path / "link", lambda file: file.write(b"one"))
    assert (tmp_path / "new").read_bytes() == b"one"
    assert (tmp_path / "link").is_symlink()


def test_link_to_itself_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(InputError, match="cannot be written: Too many levels"):
        store.atomically(tmp_path / "link", lambda file: None)
    assert os.listdir(tmp_path) == ["link"]


def anothers_link(path, target, monkeypatch):
    """Make a link that belongs to neither this user nor the system."""
    path.symlink_to(target)
    if os.getuid() == 0:
        os.lchown(path, 12345, 12345)
    else:
        own = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: own + 1)


def test_link_of_another_user_is_refused(tmp_path, monkeypatch):
    """In a folder that others write to, it could be aimed at any file of ours."""
    target = tmp_path / "ours"
    target.write_bytes(b"old")
    anothers_link(tmp_path / "r.json", target, monkeypatch)
    words = r"r\.json' cannot be written: '.*r\.json' is a link of another user"
    with pytest.raises(InputError, match=words):
        store.write_report(tmp_path / "r", {"a": 1}, Figure())
    assert target.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["ours", "r.json"]


def test_link_of_ours_to_a_link_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "ours").write_bytes(b"old")
    anothers_link(tmp_path / "theirs", tmp_path / "ours", monkeypatch)
    (tmp_path / "r.json").symlink_to("theirs")
    with pytest.raises(InputError, match="a link of another user"):
        store.write_json(tmp_path / "r.json", 1)
    assert (tmp_path / "ours").read_bytes() == b"old"


def test_mask_of_the_process_is_left_alone(tmp_path, monkeypatch):
    """Set to 0 for a moment, it would open the files of all other threads."""
    monkeypatch.setattr(os, "umask", pytest.fail)
    store.atomically(tmp_path / "r.bin", lambda file: None)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_file_has_the_permissions_that_the_mask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        path = store.atomically(tmp_path / "r.bin", lambda file: None)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_failure_leaves_the_file_behind_a_link_as_it_was(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")

    def write_half(file):
        file.write(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.atomically(tmp_path / "link", write_half)
    assert (tmp_path / "target").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["link", "target"]


def test_reader_of_a_pipe_gets_the_result(tmp_path):
    """A named pipe in the place of a file: `jq . pipe` reads what is written."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    # A daemon, so that a failed write does not leave the tests waiting for a reader.
    reader.daemon = True
    reader.start()
    store.write_json(pipe, {"a": 1})
    reader.join(timeout=10)
    assert [json.loads(text) for text in read] == [{"a": 1}]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, b"old"])
def test_failure_leaves_the_folder_as_it_was(tmp_path, error, before):
    path = tmp_path / "r.bin"
    if before is not None:
        path.write_bytes(before)

    def write_half(file):
        file.write(b"half")
        raise error

    with pytest.raises(error):
        store.atomically(path, write_half)
    assert os.listdir(tmp_path) == ([] if before is None else ["r.bin"])
    assert before is None or path.read_bytes() == before


def test_full_disk_leaves_neither_report_nor_figure(tmp_path):
    (tmp_path / "r.json").write_bytes(b"old")
    words = r"store\.write_report\(\): .*r\.json' cannot be written: No space left"
    with pytest.raises(InputError, match=words):
        store.write_report(tmp_path / "r", {"a": 1}, FigureOnFullDisk())
    assert os.listdir(tmp_path) == ["r.json"]
    assert (tmp_path / "r.json").read_bytes() == b"old"


def test_folder_in_the_place_of_the_report_leaves_no_figure(tmp_path):
    (tmp_path / "r.json").mkdir()
    with pytest.raises(InputError, match=r"r\.json' cannot be written: Is a directory"):
        store.write_report(tmp_path / "r", {"a": 1}, Figure())
    assert os.listdir(tmp_path) == ["r.json"]


def test_message_says_which_file_was_replaced_before_the_disk_failed(
    tmp_path, monkeypatch
):
    """No rename of two files is atomic, so the message tells what is where."""
    replace = os.replace

    def replace_figure_alone(source, target):
        if str(target).endswith(".json"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_figure_alone)
    words = r": '[^']*r\.json' cannot be written: .*; '[^']*r\.png' is written\."
    with pytest.raises(InputError, match=words):
        store.write_report(tmp_path / "r", {"a": 1}, Figure())
    assert os.listdir(tmp_path) == ["r.png"]


def test_report_is_json_and_figure(tmp_path):
    paths = store.write_report(tmp_path / "r", {"a": -math.inf}, Figure())
    assert paths == [tmp_path / "r.png", tmp_path / "r.json"]
    assert (tmp_path / "r.png").read_bytes() == b"picture"
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": "-inf"}


def test_dot_in_the_name_of_a_report_is_part_of_it(tmp_path):
    (path,) = store.write_report(f"{tmp_path}/sigma_1.5", {})
    assert path == tmp_path / "sigma_1.5.json"


def test_nan_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "r.json"
    path.write_text("old")
    with pytest.raises(InputError, match=r"store\.write_json\(\): value\['a'\]=nan"):
        store.write_json(path, {"a": math.nan})
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["r.json"]


def test_prepare_makes_an_empty_folder(tmp_path):
    folder = store.prepare(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b"
    assert os.listdir(folder) == []


def test_prepare_refuses_a_file_and_what_is_below_it(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"store\.prepare\(\): .*: File exists"):
        store.prepare(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written to: Not a directory"):
        store.prepare(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_prepare_refuses_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written to: Permission denied"):
        store.prepare(tmp_path)
    tmp_path.chmod(0o700)


def test_figure_takes_its_format_from_the_suffix(tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    path = store.write_figure(tmp_path / "fig.png", figure)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "words"),
    [("fig", "suffix='' is not known"), ("fig.pngg", "Did you mean 'png'")],
)
def test_figure_of_no_format_is_refused(tmp_path, name, words):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    with pytest.raises(InputError, match=rf"store\.write_figure\(\): .*{words}"):
        store.write_figure(tmp_path / name, figure)
    assert os.listdir(tmp_path) == []
