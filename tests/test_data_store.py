"""Inputs from files, and results that are either wholly written or not at all."""

import errno
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, data, store
from isometry._internal import strict_json

XS = np.arange(12.0).reshape(3, 4)


def test_digits():
    pytest.importorskip("sklearn")
    xs, targets = data.digits()
    assert xs.shape == (1797, 64)
    assert targets.shape == (1797,)
    assert (xs.dtype, targets.dtype) == (jnp.float32, jnp.int32)
    assert (xs.min(), xs.max()) == (0, 1)
    assert sorted(set(np.asarray(targets).tolist())) == list(range(10))
    spread = np.asarray(xs).max(0) - np.asarray(xs).min(0)
    assert np.flatnonzero(spread == 0).tolist() == [0, 32, 39]
    assert (np.asarray(xs)[:, spread == 0] == 0).all()
    pooled = data.digits(pooled=True)
    assert pooled.xs.shape == (1797, 16)
    images = np.asarray(xs, np.float64).reshape(-1, 8, 8)
    want = (images[:, ::2, ::2] + images[:, 1::2, ::2] + images[:, ::2, 1::2] + images[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(pooled.xs, want.reshape(-1, 16), atol=1e-7)


def test_gaussian():
    xs, targets = data.gaussian(jax.random.key(0), 500, 8, classes=4)
    assert xs.shape == (500, 8)
    assert set(np.asarray(targets).tolist()) == {0, 1, 2, 3}
    z = float(((np.asarray(xs) ** 2).mean() - 1) / (2 / xs.size) ** 0.5)
    assert abs(z) < 5
    again = data.gaussian(jax.random.key(0), 500, 8, classes=4)
    np.testing.assert_array_equal(again.xs, xs)
    for arguments, message in [
        ((0, 3, 4), r"key is 0"),
        ((jax.random.key(0), 0, 4), r"examples=0"),
        ((jax.random.key(0), 3, 0), r"features=0"),
        ((jax.random.key(0), 3, 4, 1), r"classes=1"),
    ]:
        with pytest.raises(InputError, match=r"data\.gaussian\(\): " + message):
            data.gaussian(*arguments)


def test_load_npy(tmp_path):
    np.save(tmp_path / "x.npy", XS.reshape(3, 2, 2))
    xs, targets = data.load(tmp_path / "x.npy")
    np.testing.assert_array_equal(xs, XS)
    assert xs.dtype == jnp.float32
    assert targets is None
    assert data.load(str(tmp_path / "x.npy")).xs.shape == (3, 4)


@pytest.mark.parametrize(
    ("y", "want", "dtype"),
    [
        (np.array([2, 0, 1], np.int64), [2, 0, 1], jnp.int32),
        (np.array([2, 0, 1], np.uint8), [2, 0, 1], jnp.int32),
        (np.array([0.5, 1, 2]), [[0.5], [1], [2]], jnp.float32),
        (np.ones((3, 2)), np.ones((3, 2)), jnp.float32),
        (np.array([True, False, True]), [[1], [0], [1]], jnp.float32),
    ],
)
def test_load_npz(tmp_path, y, want, dtype):
    np.savez(tmp_path / "d.npz", x=XS, y=y)
    xs, targets = data.load(tmp_path / "d.npz")
    np.testing.assert_array_equal(xs, XS)
    np.testing.assert_array_equal(targets, want)
    assert targets.dtype == dtype


def test_load_integers_and_booleans(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(3, dtype=bool))
    np.testing.assert_array_equal(data.load(tmp_path / "x.npy").xs, np.eye(3))


def bad(value, name="x.npy", **arrays):
    def write(folder):
        path = folder / name
        if isinstance(value, bytes):
            path.write_bytes(value)
        elif arrays:
            np.savez(path, **arrays)
        elif value is not None:
            np.save(path, value)
        return path

    return write


NAN = np.where(XS == 5, np.nan, XS)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (bad(None), r"there is no file '.*x\.npy'"),
        (bad(b""), r"'.*x\.npy' cannot be read as \.npy"),
        (bad(b"", "x.npz"), r"'.*x\.npz' cannot be read as \.npz"),
        (bad(b"not an array at all"), r"cannot be read as \.npy"),
        (bad(b"not an archive at all", "x.npz"), r"cannot be read as \.npz"),
        (bad(b"PK\x03\x04 cut short", "x.npz"), r"cannot be read as \.npz"),
        (bad(b"1,2", "x.csv"), r"ends in '\.csv'; write a \.npy or \.npz file"),
        (bad(np.ones(3)), r"x in .* has shape \(3,\); write \(examples, features\)"),
        (bad(np.ones(())), r"has shape \(\)"),
        (bad(np.ones((0, 4))), r"has shape \(0, 4\)"),
        (bad(np.ones((4, 0))), r"has shape \(4, 0\)"),
        (bad(np.array([["a", "b"]])), r"has dtype <U1; it must be real numbers"),
        (bad(np.ones((2, 2), complex)), r"has dtype complex128; it must be real numbers"),
        (bad(NAN), r"x in .* holds 1 values that are NaN or infinite"),
        (bad(XS * 1e300), r"holds 11 values that are NaN or infinite"),
        (bad(0, "x.npz", inputs=XS), r"holds \['inputs'\]; name the inputs x \(and targets y\)"),
        (bad(0, "x.npz", x=XS, y=np.zeros(2, int)), r"data\.load\(\): y in .* has shape \(2,\) for 3 examples"),
        (bad(0, "x.npz", x=XS, y=np.zeros((), int)), r"data\.load\(\): y in .* has shape \(\) for 3 examples"),
        (bad(0, "x.npz", x=XS, y=np.array([0, -1, 1])), r"holds the label -1; labels start at 0"),
        (bad(0, "x.npz", x=XS, y=np.array(["a", "b", "c"])), r"y in .* has dtype <U1"),
        (bad(0, "x.npz", x=XS, y=np.array([0, np.nan, 1])), r"y in .* holds 1 values that are NaN"),
    ],
)
def test_bad_files(tmp_path, write, message):
    with pytest.raises(InputError, match="(?s)" + message) as error:
        data.load(write(tmp_path))
    assert str(error.value).startswith("data.load(): ")


def test_object_arrays_are_not_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1, None]], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"cannot be read as \.npy: .*allow_pickle"):
        data.load(tmp_path / "x.npy")


def test_the_suffix_must_be_true(tmp_path):
    np.savez(tmp_path / "d.npz", x=XS)
    (tmp_path / "d.npz").rename(tmp_path / "d.npy")
    np.save(tmp_path / "x.npy", XS)
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    for name in ("d.npy", "x.npz"):
        with pytest.raises(InputError, match=r"cannot be read as \.np[yz]: the contents are of the other kind"):
            data.load(tmp_path / name)


def test_a_directory_is_no_file(tmp_path):
    (tmp_path / "x.npy").mkdir()
    with pytest.raises(InputError, match="there is no file"):
        data.load(tmp_path / "x.npy")


def test_atomically(tmp_path):
    path = tmp_path / "r.bin"
    assert store.atomically(path, lambda file: file.write(b"one")) == path
    assert path.read_bytes() == b"one"
    store.atomically(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert os.listdir(tmp_path) == ["r.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_and_keeps_the_old(tmp_path, error):
    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(error):
        store.atomically(tmp_path / "r.bin", write)
    assert os.listdir(tmp_path) == []
    (tmp_path / "r.bin").write_bytes(b"old")
    with pytest.raises(error):
        store.atomically(tmp_path / "r.bin", write)
    assert os.listdir(tmp_path) == ["r.bin"]
    assert (tmp_path / "r.bin").read_bytes() == b"old"


def test_a_full_disk_leaves_neither_file(tmp_path):
    class Figure:
        def savefig(self, file, **_):
            file.write(b"picture")

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "r.json").write_bytes(b"old")
    broken = Figure()
    broken.savefig = lambda file, **_: full(file)
    with pytest.raises(InputError, match=r"r\.json' cannot be written: No space left"):
        store.write_report(tmp_path / "r", {"a": 1}, broken)
    assert os.listdir(tmp_path) == ["r.json"]
    assert (tmp_path / "r.json").read_bytes() == b"old"
    assert store.write_report(tmp_path / "r", {"a": 1}, Figure()) == [tmp_path / "r.png", tmp_path / "r.json"]
    assert (tmp_path / "r.png").read_bytes() == b"picture"


def refuse(constant):
    raise AssertionError(f"{constant} is not strict JSON")


def test_json_is_strict(tmp_path):
    value = {
        "inf": [math.inf, -math.inf, np.float32(-np.inf)],
        "array": np.array([[1.0, -np.inf]]),
        "jax": jnp.arange(3),
        "number": np.float64(0.1),
        "whole": np.int32(7),
        "none": None,
        "flag": np.bool_(True),
        3: (1, "text"),
    }
    path = store.write_json(tmp_path / "r.json", value)
    assert json.loads(path.read_text(), parse_constant=refuse) == {
        "inf": ["inf", "-inf", "-inf"],
        "array": [[1.0, "-inf"]],
        "jax": [0, 1, 2],
        "number": 0.1,
        "whole": 7,
        "none": None,
        "flag": True,
        "3": [1, "text"],
    }


@pytest.mark.parametrize("nan", [math.nan, np.float32(np.nan), np.array([1.0, np.nan]), {"deep": [math.nan]}])
def test_json_refuses_nan(tmp_path, nan):
    path = tmp_path / "r.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="is nothing that strict JSON knows"):
        store.write_json(path, {"value": nan})
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["r.json"]


def test_prepare(tmp_path):
    assert store.prepare(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"store\.prepare\(\): '.*file' cannot be written to: File exists\."):
        store.prepare(tmp_path / "file")
    with pytest.raises(InputError, match=r"cannot be written to: Not a directory\."):
        store.prepare(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_prepare_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"cannot be written to: Permission denied\."):
        store.prepare(tmp_path)
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 2)])
def test_normalized_inputs_have_one_variance(shape):
    xs = jax.random.normal(jax.random.key(0), shape) * jnp.asarray([1e-30, 1.0, 1e25, 3.0, 1e3][: shape[0]]).reshape(
        -1, *[1] * (len(shape) - 1)
    )
    ys = np.asarray(data.normalize(xs, 0.7), np.float64)
    np.testing.assert_allclose((ys**2).reshape(len(ys), -1).mean(1), 0.7, rtol=1e-6)
    flat, rows = np.asarray(xs, np.float64).reshape(len(ys), -1), ys.reshape(len(ys), -1)
    cosine = np.sum(flat * rows, 1) / np.linalg.norm(flat, axis=1) / np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(cosine, 1, rtol=1e-6)
    assert data.normalize(xs.astype(jnp.bfloat16), 0.7).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("xs", "q", "words"),
    [
        (jnp.ones((2, 3)), 0.0, "q=0.0"),
        (jnp.ones((2, 3)), math.nan, "q=nan"),
        (jnp.ones((2, 3), jnp.int32), 1.0, "floating"),
        (jnp.zeros((0, 3)), 1.0, "at least one"),
        ("abc", 1.0, "data.normalize(): xs is 'abc', not an array of numbers."),
        (jnp.zeros((2, 0)), 1.0, "xs has shape (2, 0): no features; write at least one."),
        (jnp.ones((2, 3)).at[1].set(0), 1.0, "1 inputs of xs are zero"),
        (jnp.full((2, 3), jnp.inf), 1.0, "infinite"),
    ],
)
def test_what_cannot_be_normalized(xs, q, words):
    with pytest.raises(InputError, match=r"data\.normalize\(\)") as refused:
        data.normalize(xs, q)
    assert words in str(refused.value)


def test_paths_are_strings_too(tmp_path):
    found = [store.atomically(f"{tmp_path}/a", lambda file: file.write(b"b")), *store.write_report(f"{tmp_path}/c", 1)]
    assert [path.name for path in found] == ["a", "c.json"]


def test_a_dot_in_the_name_of_a_report_is_part_of_it(tmp_path):
    assert store.write_report(tmp_path / "sigma_1.5", {}) == [tmp_path / "sigma_1.5.json"]


def test_two_keys_of_one_text_are_refused():
    with pytest.raises(ValueError, match=r"two keys of value\[2\]=.* are the same text in JSON"):
        strict_json.plain({2: {1: "a", "1": "b"}})


def test_a_figure_of_no_format_is_refused(tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    for name, came in (("fig", "''"), ("fig.pngg", r"'pngg' is not known.*Did you mean 'png'")):
        with pytest.raises(ValueError, match=rf"write_figure\(\): suffix={came}"):
            store.write_figure(tmp_path / name, figure)
    assert list(tmp_path.iterdir()) == []
    assert store.write_figure(tmp_path / "fig.png", figure).read_bytes().startswith(b"\x89PNG")
