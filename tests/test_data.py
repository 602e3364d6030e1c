"""Inputs that are drawn, normalized, or read from arrays on disk."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, MissingExtra, data

XS = np.arange(12.0).reshape(3, 4)


def test_digits_are_scaled_to_the_unit_interval():
    pytest.importorskip("sklearn")
    xs, labels = data.digits()
    assert xs.shape == (1797, 64)
    assert (xs.dtype, labels.dtype) == (jnp.float32, jnp.int32)
    assert (xs.min(), xs.max()) == (0, 1)
    assert np.unique(labels).tolist() == list(range(10))


@pytest.mark.parametrize("name", ["digits.csv.gz", "of another version"])
def test_digits_are_those_that_scikit_learn_loads(name, monkeypatch):
    """From its file, and by its function where the file has another name."""
    datasets = pytest.importorskip("sklearn.datasets")
    is_file = pathlib.Path.is_file
    monkeypatch.setattr(
        pathlib.Path, "is_file", lambda path: path.name == name and is_file(path)
    )
    images, labels = datasets.load_digits(return_X_y=True)
    xs, targets = data.digits()
    assert (np.asarray(xs) == images.astype(np.float32) / 16).all()
    assert (np.asarray(targets) == labels).all()


def test_digits_say_what_to_install(monkeypatch):
    for module in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"pip install '\.\[data\]'"):
        data.digits()


def test_three_pixels_of_the_digits_are_always_zero():
    pytest.importorskip("sklearn")
    xs, _ = data.digits()
    assert np.flatnonzero((np.asarray(xs) == 0).all(0)).tolist() == [0, 32, 39]


def test_pooled_digits_average_blocks_of_pixels():
    pytest.importorskip("sklearn")
    images = np.asarray(data.digits().xs, np.float64).reshape(-1, 8, 8)
    upper = images[:, ::2, ::2] + images[:, ::2, 1::2]
    lower = images[:, 1::2, ::2] + images[:, 1::2, 1::2]
    pooled = data.digits(pooled=True).xs
    # Sixteenths and their quarters are exact in float32.
    np.testing.assert_array_equal(pooled, (upper + lower).reshape(-1, 16) / 4)


def test_gaussian_inputs_are_standard_normal_and_reproducible():
    key = jax.random.key(0)
    xs, labels = data.gaussian(key, 500, 8, classes=4)
    assert xs.shape == (500, 8)
    assert np.unique(labels).tolist() == [0, 1, 2, 3]
    # The mean of n squares has standard error sqrt(2 / n).
    standard_error = np.sqrt(2 / xs.size)
    assert abs(float(jnp.mean(xs**2)) - 1) < 5 * standard_error
    np.testing.assert_array_equal(data.gaussian(key, 500, 8, classes=4).xs, xs)


def test_gaussian_labels_can_be_learned_by_a_linear_map():
    """Least squares to one-hot labels finds a direction for each class."""
    xs, labels = data.gaussian(jax.random.key(0), 500, 8, classes=4)
    weights, *_ = np.linalg.lstsq(np.asarray(xs), np.eye(4)[np.asarray(labels)])
    accuracy = np.mean(np.argmax(np.asarray(xs) @ weights, 1) == np.asarray(labels))
    assert accuracy > 0.8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"key": 0}, "key is 0"),
        ({"examples": 0}, "examples=0"),
        ({"features": 0}, "features=0"),
        ({"classes": 1}, "classes=1"),
    ],
)
def test_gaussian_refuses(arguments, words):
    valid = {"key": jax.random.key(0), "examples": 3, "features": 4}
    with pytest.raises(InputError, match=rf"data\.gaussian\(\): {words}"):
        data.gaussian(**{**valid, **arguments})


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 2)])
def test_normalized_inputs_have_mean_square_q(shape):
    """Also where a square would under- or overflow; the direction stays."""
    scales = jnp.asarray([1e-30, 1.0, 1e25, 3.0, 1e3])[: shape[0]]
    draws = jax.random.normal(jax.random.key(0), shape)
    xs = draws * jnp.expand_dims(scales, range(1, len(shape)))
    rows = np.asarray(data.normalize(xs, 0.7), np.float64).reshape(shape[0], -1)
    np.testing.assert_allclose(np.mean(rows**2, 1), 0.7, rtol=1e-6)
    given = np.asarray(xs, np.float64).reshape(shape[0], -1)
    unit = given / np.linalg.norm(given, axis=1, keepdims=True)
    length = np.sqrt(0.7 * rows.shape[1])
    np.testing.assert_allclose(rows, unit * length, rtol=1e-6)


def test_normalize_keeps_the_dtype():
    xs = jnp.ones((2, 3), jnp.bfloat16)
    assert data.normalize(xs, 0.7).dtype == jnp.bfloat16


def test_normalize_can_be_traced():
    xs = jax.random.normal(jax.random.key(0), (4, 3))
    jitted = jax.jit(data.normalize)(xs, 0.7)
    # The two programs may round each of five operations differently.
    np.testing.assert_allclose(jitted, data.normalize(xs, 0.7), rtol=5 * 2**-24)


@pytest.mark.parametrize(
    ("xs", "q", "words"),
    [
        (jnp.ones((2, 3)), 0.0, "q=0.0"),
        (jnp.ones((2, 3)), np.nan, "q=nan"),
        (jnp.ones((2, 3)), 1e39, "q=1e[+]39"),
        (jnp.ones((2, 3), jnp.int32), 1.0, "floating"),
        (jnp.zeros((0, 3)), 1.0, "at least one"),
        (jnp.zeros((2, 0)), 1.0, "no features"),
        (jnp.ones((2, 3)).at[1].set(0), 1.0, "1 inputs of xs are zero"),
        (jnp.full((2, 3), jnp.inf), 1.0, "infinite"),
        ("abc", 1.0, "not an array of numbers"),
    ],
)
def test_normalize_refuses(xs, q, words):
    with pytest.raises(InputError, match=rf"data\.normalize\(\): .*{words}"):
        data.normalize(xs, q)


def test_npy_file_holds_inputs_alone(tmp_path):
    np.save(tmp_path / "x.npy", XS.reshape(3, 2, 2))
    xs, targets = data.load(str(tmp_path / "x.npy"))
    np.testing.assert_array_equal(xs, XS)
    assert xs.dtype == jnp.float32
    assert targets is None


def test_booleans_are_numbers(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(3, dtype=bool))
    np.testing.assert_array_equal(data.load(tmp_path / "x.npy").xs, np.eye(3))


@pytest.mark.parametrize(
    ("y", "expected", "dtype"),
    [
        (np.array([2, 0, 1], np.int64), [2, 0, 1], jnp.int32),
        (np.array([2, 0, 1], np.uint8), [2, 0, 1], jnp.int32),
        (np.array([0.5, 1, 2]), [[0.5], [1], [2]], jnp.float32),
        (np.ones((3, 2)), np.ones((3, 2)), jnp.float32),
        (np.array([True, False, True]), [[1], [0], [1]], jnp.float32),
    ],
)
def test_npz_file_holds_labels_or_outputs(tmp_path, y, expected, dtype):
    np.savez(tmp_path / "d.npz", x=XS, y=y)
    xs, targets = data.load(tmp_path / "d.npz")
    np.testing.assert_array_equal(xs, XS)
    np.testing.assert_array_equal(targets, expected)
    assert targets.dtype == dtype


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.ones(3), r"shape \(3,\); write \(examples, features\)"),
        (np.ones(()), r"shape \(\)"),
        (np.ones((0, 4)), r"shape \(0, 4\)"),
        (np.ones((4, 0)), r"shape \(4, 0\)"),
        (np.array([["a", "b"]]), "<U1; it must be real numbers"),
        (np.ones((2, 2), complex), "complex128; it must be real numbers"),
        (np.where(XS == 5, np.nan, XS), "1 values that are NaN or infinite"),
        # 1e300 is infinite in float32; only the zero is not.
        (XS * 1e300, "11 values that are NaN or infinite"),
    ],
)
def test_bad_inputs_on_disk_are_refused(tmp_path, x, words):
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(InputError, match=rf"data\.load\(\): x in .*{words}"):
        data.load(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.zeros(2, int), r"shape \(2,\) for 3 examples"),
        (np.zeros(4, int), r"shape \(4,\) for 3 examples"),
        (np.zeros((), int), r"shape \(\) for 3 examples"),
        (np.array([0, -1, 1]), "label -1; labels start at 0"),
        (np.array(["a", "b", "c"]), "<U1"),
        (np.array([0, np.nan, 1]), "1 values that are NaN"),
    ],
)
def test_bad_targets_on_disk_are_refused(tmp_path, y, words):
    np.savez(tmp_path / "d.npz", x=XS, y=y)
    with pytest.raises(InputError, match=rf"data\.load\(\): y in .*{words}"):
        data.load(tmp_path / "d.npz")


def test_npz_file_without_x_is_refused(tmp_path):
    np.savez(tmp_path / "d.npz", inputs=XS)
    with pytest.raises(InputError, match=r"\['inputs'\]; name the inputs x"):
        data.load(tmp_path / "d.npz")


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04 cut short"])
def test_damaged_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"(?s)x\.np[yz]' cannot be read as \.np[yz]"):
        data.load(tmp_path / name)


def test_header_of_more_than_the_memory_is_refused(tmp_path):
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**13, 3)}
    with open(tmp_path / "x.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(InputError, match=r"x\.npy' cannot be read as \.npy"):
        data.load(tmp_path / "x.npy")


def test_suffix_must_be_that_of_the_contents(tmp_path):
    np.savez(tmp_path / "d.npz", x=XS)
    (tmp_path / "d.npz").rename(tmp_path / "d.npy")
    np.save(tmp_path / "x.npy", XS)
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    for name in ("d.npy", "x.npz"):
        with pytest.raises(InputError, match="of the other kind"):
            data.load(tmp_path / name)


def test_objects_are_not_unpickled(tmp_path):
    objects = np.array([[1, None]], dtype=object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    with pytest.raises(InputError, match="allow_pickle"):
        data.load(tmp_path / "x.npy")


def test_missing_file_and_unknown_suffix_are_refused(tmp_path):
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "x.csv").write_bytes(b"1,2")
    for name in ("none.npy", "folder.npy"):
        with pytest.raises(InputError, match="there is no file"):
            data.load(tmp_path / name)
    with pytest.raises(InputError, match=r"ends in '\.csv'; write a \.npy"):
        data.load(tmp_path / "x.csv")


def test_numbers_at_the_ends_of_the_dtype_are_normalized():
    """1/9e37 is subnormal, and 3e38/0.25 overflows; the results do not."""
    large = data.normalize(jnp.array([[9e37, 4.5e37]]), 1.0)
    np.testing.assert_allclose(large, [[1.6**0.5, 0.4**0.5]], rtol=1e-6)
    single = jnp.array([[1.0, 0.0, 0.0, 0.0]])
    far = data.normalize(single, 3e38)
    np.testing.assert_allclose(far, [[(4 * 3e38) ** 0.5, 0, 0, 0]], rtol=1e-6)
    half = data.normalize(single.astype(jnp.float16), 60000.0)
    np.testing.assert_allclose(half, [[240000**0.5, 0, 0, 0]], rtol=2e-3)


@pytest.mark.parametrize("label", [2**33, 2**31])
def test_labels_beyond_int32_are_refused(label, tmp_path):
    """They would wrap around, and two classes become one."""
    np.savez(tmp_path / "far.npz", x=np.ones((2, 3)), y=np.array([label, 1]))
    with pytest.raises(InputError, match=f"label {label}"):
        data.load(tmp_path / "far.npz")


def test_times_and_targets_of_no_width_are_refused(tmp_path):
    np.savez(tmp_path / "times.npz", x=np.ones((2, 3)).astype("m8[s]"))
    with pytest.raises(InputError, match="real numbers"):
        data.load(tmp_path / "times.npz")
    np.savez(tmp_path / "none.npz", x=np.ones((2, 3)), y=np.ones((2, 0)))
    with pytest.raises(InputError, match=r"shape \(2, 0\)"):
        data.load(tmp_path / "none.npz")
