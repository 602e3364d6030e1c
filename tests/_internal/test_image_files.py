"""MNIST and CIFAR-10 in their own formats, written here byte by byte, and damaged."""

import gzip
import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, data

IMAGES = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4) * 11
LABELS = np.array([7, 0, 9], np.uint8)
PIXELS = 3072


def idx(array):
    """The bytes of an IDX file: magic number, lengths of the axes, entries."""
    magic = bytes([0, 0, 8, array.ndim])
    lengths = [length.to_bytes(4, "big") for length in array.shape]
    return magic + b"".join(lengths) + array.tobytes()


def write_mnist(folder, images=None, labels=None, *, zipped=False, dot="-"):
    """Write the two files of a training set; empty bytes leave one out."""
    contents = {
        f"train-images{dot}idx3-ubyte": idx(IMAGES) if images is None else images,
        f"train-labels{dot}idx1-ubyte": idx(LABELS) if labels is None else labels,
    }
    for name, content in contents.items():
        if content and zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        elif content:
            (folder / name).write_bytes(content)


@pytest.mark.core
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dot", ["-", "."])
def test_mnist_is_read_from_its_folder_or_its_file(tmp_path, zipped, dot):
    write_mnist(tmp_path, zipped=zipped, dot=dot)
    xs, labels = data.load(tmp_path)
    assert (xs.dtype, labels.dtype) == (jnp.float32, jnp.int32)
    pixels = IMAGES.reshape(3, 8).astype(np.float32)
    np.testing.assert_array_equal(xs, pixels / np.float32(255))
    np.testing.assert_array_equal(labels, LABELS)
    (path,) = tmp_path.glob("*images*")
    np.testing.assert_array_equal(data.load(path).xs, xs)


def test_pixels_are_scaled_to_the_unit_interval(tmp_path):
    extremes = np.array([[[0, 255]]] * 3, np.uint8)
    write_mnist(tmp_path, images=idx(extremes))
    xs, _ = data.load(tmp_path)
    np.testing.assert_array_equal(xs, [[0, 1]] * 3)


def test_test_set_of_mnist_is_a_file_of_its_own(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES[:1]))
    labels = gzip.compress(idx(LABELS[:1]))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(labels)
    assert data.load(tmp_path).xs.shape == (3, 8)
    assert data.load(tmp_path / "t10k-images-idx3-ubyte").xs.shape == (1, 8)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("images", "words"),
    [
        (idx(IMAGES)[:-1], "truncated"),
        (idx(IMAGES)[:9], "truncated"),
        (idx(IMAGES) + b"0", r"longer than its header says, \[3, 2, 4\]"),
        (b"\x00\x00\x0d\x03" + idx(IMAGES)[4:], "00000d03; IDX .* 00000803"),
        (b"not IDX", "begins with 6e6f7420"),
        (b"\x00", "begins with 00;"),
    ],
)
def test_damaged_images_are_refused(tmp_path, images, words, zipped):
    write_mnist(tmp_path, images=images, zipped=zipped)
    with pytest.raises(InputError, match=rf"data\.load\(\): .*images.*{words}"):
        data.load(tmp_path)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (b"", "no labels; put train-labels-idx1-ubyte beside it"),
        (idx(LABELS)[:-1], "truncated"),
        (idx(IMAGES), "begins with 00000803; IDX with 1 axes"),
        (idx(LABELS[:2]), "3 images and train-labels-idx1-ubyte 2"),
    ],
)
def test_damaged_labels_are_refused(tmp_path, labels, words):
    write_mnist(tmp_path, labels=labels)
    with pytest.raises(InputError, match=rf"data\.load\(\): .*{words}"):
        data.load(tmp_path)


def test_no_images_are_refused(tmp_path):
    write_mnist(tmp_path, images=idx(IMAGES[:0]), labels=idx(LABELS[:0]))
    with pytest.raises(InputError, match=r"no images \(shape \(0, 2, 4\)\)"):
        data.load(tmp_path)


def test_damaged_compression_is_refused(tmp_path):
    write_mnist(tmp_path, zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    wrong_byte = whole[:15] + b"\xff\xff\xff\xff" + whole[19:]
    for damaged in (whole[:-9], whole[:20], b"no gzip", wrong_byte):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"cannot be read as IDX|truncated|begins"):
            data.load(tmp_path)


def cifar_batch(labels):
    """Random images (n, 3072) with these labels."""
    rng = np.random.default_rng(labels)
    images = rng.integers(0, 256, (len(labels), PIXELS), dtype=np.uint8)
    return images, np.array(labels, np.uint8)


def python2_pickle(images, labels):
    """The bytes that Python 2 wrote of a batch, as the published files have them."""
    shape = b"K" + bytes([len(images)]) + b"M\x00\x0c\x86"
    dtype = (
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    raw = b"T" + images.size.to_bytes(4, "little") + images.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"
    )
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    fields = b"U\x04data" + array + b"U\x06labels](" + numbers + b"e"
    return b"\x80\x02}(" + fields + b"U\x0bbatch_labelU\x04onceu."


def python3_pickle(images, labels):
    return pickle.dumps({"data": images, "labels": labels.tolist()}, protocol=4)


def binary(images, labels):
    return np.concatenate([labels[:, None], images], 1).tobytes()


WRITERS = {
    "python2": ("", python2_pickle),
    "python3": ("", python3_pickle),
    "binary": (".bin", binary),
}


def write_cifar(folder, kind):
    """Write five batches of two images, labelled (0, 9), (1, 9), ...; return images."""
    suffix, as_bytes = WRITERS[kind]
    every = []
    for i in range(5):
        images, labels = cifar_batch([i, 9])
        (folder / f"data_batch_{i + 1}{suffix}").write_bytes(as_bytes(images, labels))
        every.append(images)
    return np.concatenate(every)


@pytest.mark.parametrize("kind", WRITERS)
def test_cifar_is_read_batch_after_batch(tmp_path, kind):
    images = write_cifar(tmp_path, kind)
    xs, labels = data.load(tmp_path)
    assert (xs.dtype, labels.dtype) == (jnp.float32, jnp.int32)
    np.testing.assert_array_equal(labels, [0, 9, 1, 9, 2, 9, 3, 9, 4, 9])
    np.testing.assert_array_equal(np.rint(np.asarray(xs) * 255), images)


@pytest.mark.parametrize("kind", WRITERS)
def test_one_batch_of_cifar_can_be_read(tmp_path, kind):
    images = write_cifar(tmp_path, kind)
    suffix, _ = WRITERS[kind]
    xs, _ = data.load(tmp_path / f"data_batch_2{suffix}")
    np.testing.assert_array_equal(np.rint(np.asarray(xs) * 255), images[2:4])


@pytest.mark.parametrize("suffix", ["", ".bin"])
def test_missing_batch_of_cifar_is_named(tmp_path, suffix):
    write_cifar(tmp_path, "binary" if suffix else "python3")
    (tmp_path / f"data_batch_4{suffix}").unlink()
    with pytest.raises(InputError, match=f"lacks data_batch_4{suffix} of CIFAR-10's"):
        data.load(tmp_path)


IMAGES_2, LABELS_2 = cifar_batch([3, 1])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (binary(IMAGES_2, LABELS_2)[:-1], "6145 bytes, no whole number"),
        (b"", "0 bytes"),
        (binary(IMAGES_2, LABELS_2 + 9), "label 12; CIFAR-10's are 0 to 9"),
    ],
)
def test_damaged_binary_batch_is_refused(tmp_path, content, words):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"data\.load\(\): .*{words}"):
        data.load(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "EOFError"),
        (python2_pickle(IMAGES_2, LABELS_2)[:-50], "cannot be read as a batch"),
        (python2_pickle(IMAGES_2, LABELS_2 + 9), "label 12"),
        (python2_pickle(IMAGES_2, LABELS_2[:1]), r"\(2, 3072\) and labels \(1,\)"),
        (python3_pickle(IMAGES_2[:, :9], LABELS_2), r"data has shape \(2, 9\)"),
        (python3_pickle(IMAGES_2.astype(float), LABELS_2), "no array of bytes"),
        (pickle.dumps([1]), "cannot be read as a batch"),
        (pickle.dumps({"data": 1}), "cannot be read as a batch"),
    ],
)
def test_damaged_pickled_batch_is_refused(tmp_path, content, words):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"data\.load\(\): .*{words}"):
        data.load(path)


NAMES = [b"os\nsystem", b"builtins\neval", b"numpy\nload", b"numpy.core\nscalar"]


@pytest.mark.parametrize("name", NAMES)
def test_pickle_that_names_a_function_is_refused(tmp_path, name):
    """The opcodes ask to import `name` and to call it with "x"."""
    path = tmp_path / "data_batch_1"
    path.write_bytes(b"\x80\x02c" + name + b"\nU\x01x\x85R.")
    with pytest.raises(InputError, match="which no batch does"):
        data.load(path)


def test_pickle_is_not_executed(tmp_path):
    touched = tmp_path / "touched"

    class Evil:
        def __reduce__(self):
            return touched.write_text, ("x",)

    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({"data": Evil(), "labels": []}))
    with pytest.raises(InputError, match="which no batch does"):
        data.load(path)
    assert not touched.exists()


def test_folder_and_files_of_no_known_format_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"folder .* holds none of train-images"):
        data.load(tmp_path)
    with pytest.raises(InputError, match="there is no file or folder"):
        data.load(tmp_path / "mnist")
    (tmp_path / "cifar").touch()
    with pytest.raises(InputError, match=r"ends in ''; write a \.npy or \.npz"):
        data.load(tmp_path / "cifar")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    with pytest.raises(InputError, match="write the file of the images"):
        data.load(tmp_path / "train-labels-idx1-ubyte")
