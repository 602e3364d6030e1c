"""MNIST and CIFAR-10 in their own formats: tiny files written here byte by byte, read back, and damaged."""

import gzip
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, data

IMAGES = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4) * 11
LABELS = np.array([7, 0, 9], np.uint8)
PIXELS = 3072


def idx(array, magic=None):
    head = bytes([0, 0, 8, array.ndim]) if magic is None else magic
    return head + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def mnist(folder, images=None, labels=None, zipped=False, dot="-"):
    """The training set's two files; None writes the good one, b"" none."""
    for name, content, good in (("images{}idx3", images, IMAGES), ("labels{}idx1", labels, LABELS)):
        path = folder / f"train-{name.format(dot)}-ubyte{'.gz' if zipped else ''}"
        content = idx(good) if content is None else content
        if content:
            path.write_bytes(gzip.compress(content) if zipped else content)
    return folder


@pytest.mark.core
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
def test_mnist(tmp_path, zipped, dot):
    xs, targets = data.load(mnist(tmp_path, zipped=zipped, dot=dot))
    assert (xs.dtype, targets.dtype) == (jnp.float32, jnp.int32)
    np.testing.assert_array_equal(xs, (IMAGES.reshape(3, 8) / np.float32(255)).astype(np.float32))
    np.testing.assert_array_equal(targets, LABELS)
    one = data.load(next(tmp_path.glob("*images*")))
    np.testing.assert_array_equal(one.xs, xs)


def test_the_test_set_is_a_file_of_its_own(tmp_path):
    mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES[:1]))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[:1])))
    assert data.load(tmp_path).xs.shape == (3, 8)
    assert data.load(tmp_path / "t10k-images-idx3-ubyte").xs.shape == (1, 8)


def test_scale_is_that_of_the_digits(tmp_path):
    xs, _ = data.load(mnist(tmp_path, images=idx(np.array([[[0, 255]]] * 3, np.uint8))))
    assert (float(xs.min()), float(xs.max())) == (0, 1)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (idx(IMAGES)[:-1], None, r"images.* is truncated: shorter than its header says"),
        (idx(IMAGES)[:9], None, r"images.* is truncated"),
        (idx(IMAGES) + b"0", None, r"images.* is longer than its header says, \[3, 2, 4\]"),
        (idx(IMAGES, b"\x00\x00\x0d\x03"), None, r"begins with 00000d03; IDX with 3 axes with 00000803"),
        (b"not IDX", None, r"begins with 6e6f7420"),
        (b"\x00", None, r"begins with 00;"),
        (None, b"", r" has no labels; put train-labels-idx1-ubyte(\.gz)? beside it"),
        (None, idx(LABELS)[:-1], r"labels.* is truncated"),
        (None, idx(IMAGES), r"labels.* begins with 00000803; IDX with 1 axes"),
        (None, idx(LABELS[:2]), r"has 3 images and train-labels-idx1-ubyte(\.gz)? 2"),
        (idx(IMAGES[:0]), idx(LABELS[:0]), r"holds images of shape \(0, 2, 4\): none"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_mnist(tmp_path, images, labels, words, zipped):
    with pytest.raises(InputError, match=r"data\.load\(\): .*" + words):
        data.load(mnist(tmp_path, images, labels, zipped))


def test_damaged_compression(tmp_path):
    path = next(mnist(tmp_path, zipped=True).glob("*images*"))
    whole = path.read_bytes()
    for part in (whole[:-9], whole[:20], b"no gzip", whole[:15] + b"\xff\xff\xff\xff" + whole[19:]):
        path.write_bytes(part)
        with pytest.raises(InputError, match=r"cannot be read as IDX|truncated|begins with"):
            data.load(tmp_path)


RNG = np.random.default_rng(0)


def batch(labels):
    return RNG.integers(0, 256, (len(labels), PIXELS), dtype=np.uint8), np.array(labels, np.uint8)


def python2(images, labels):
    """The stream that Python 2 wrote of such a dict, opcode by opcode: the published files are of this kind."""
    shape = b"K" + bytes([len(images)]) + b"M\x00\x0c\x86"
    raw = b"T" + images.size.to_bytes(4, "little") + images.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + shape
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + raw + b"tb"
    )  # fmt: skip
    listed = b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + listed + b"U\x0bbatch_labelU\x04onceu."


def python3(images, labels):
    return pickle.dumps({"data": images, "labels": labels.tolist()}, protocol=4)


def binary(images, labels):
    return np.concatenate([labels[:, None], images], 1).tobytes()


WRITERS = {"python2": ("", python2), "python3": ("", python3), "binary": (".bin", binary)}


@pytest.mark.parametrize("kind", WRITERS)
def test_cifar(tmp_path, kind):
    """All five in order; one alone."""
    suffix, write = WRITERS[kind]
    batches = [batch([i, 9]) for i in range(5)]
    for i, (images, labels) in enumerate(batches):
        (tmp_path / f"data_batch_{i + 1}{suffix}").write_bytes(write(images, labels))
    xs, targets = data.load(tmp_path)
    assert (xs.dtype, targets.dtype) == (jnp.float32, jnp.int32)
    np.testing.assert_array_equal(targets, [0, 9, 1, 9, 2, 9, 3, 9, 4, 9])
    np.testing.assert_array_equal(np.rint(np.asarray(xs) * 255), np.concatenate([b[0] for b in batches]))
    second = data.load(tmp_path / f"data_batch_2{suffix}")
    np.testing.assert_array_equal(second.xs, xs[2:4])
    (tmp_path / f"data_batch_4{suffix}").unlink()
    with pytest.raises(InputError, match=rf"lacks data_batch_4{suffix} of CIFAR-10's five batches"):
        data.load(tmp_path)


IMAGES_2, LABELS_2 = batch([3, 1])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data_batch_1.bin", binary(IMAGES_2, LABELS_2)[:-1], r"has 6145 bytes, no whole number .* of 3073"),
        ("data_batch_1.bin", b"", r"has 0 bytes"),
        ("data_batch_1.bin", binary(IMAGES_2, LABELS_2 + 9), r"holds the label 12; CIFAR-10's are 0 to 9"),
        ("data_batch_1", python2(IMAGES_2, LABELS_2)[:-50], r"cannot be read as a batch"),
        ("data_batch_1", python2(IMAGES_2, LABELS_2 + 9), r"holds the label 12"),
        ("data_batch_1", python2(IMAGES_2, LABELS_2[:1]), r"data has shape \(2, 3072\) and labels \(1,\)"),
        ("data_batch_1", python3(IMAGES_2[:, :9], LABELS_2), r"data has shape \(2, 9\)"),
        ("data_batch_1", python3(IMAGES_2.astype(float), LABELS_2), r"no array of bytes"),
        ("data_batch_1", pickle.dumps([1]), r"cannot be read as a batch"),
        ("data_batch_1", pickle.dumps({"data": 1}), r"cannot be read as a batch"),
        ("data_batch_1", b"", r"cannot be read as a batch.*EOFError"),
        ("cifar", b"1", r"ends in ''; write a \.npy or \.npz file, or one of train-images"),
        ("train-labels-idx1-ubyte", idx(LABELS), r"has no labels; write the file of the images"),
    ],
)  # fmt: skip
def test_damaged_files(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"data\.load\(\): .*" + words):
        data.load(tmp_path / name)


def test_nothing_there(tmp_path):
    with pytest.raises(
        InputError,
        match=r"data\.load\(\): the folder .* holds none of train-images-idx3-ubyte \(or",
    ):
        data.load(tmp_path)
    with pytest.raises(InputError, match="there is no file or folder"):
        data.load(tmp_path / "mnist")


@pytest.mark.parametrize("name", [b"os\nsystem", b"builtins\neval", b"numpy\nload", b"numpy.core.multiarray\nscalar"])
def test_a_pickle_runs_nothing(tmp_path, name):
    """A batch that names anything but an array's parts is refused before it is called."""
    touched = tmp_path / "touched"
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02c" + name + b"\nU\x01" + b"x\x85R.")
    with pytest.raises(InputError, match="which no batch does"):
        data.load(tmp_path / "data_batch_1")

    class Evil:
        def __reduce__(self):
            return touched.write_text, ("x",)

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": Evil(), "labels": []}))
    with pytest.raises(InputError, match="which no batch does"):
        data.load(tmp_path / "data_batch_1")
    assert not touched.exists()
