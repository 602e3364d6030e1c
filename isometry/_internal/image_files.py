"""Readers of the files that MNIST and CIFAR-10 are published in.

The formats are described at http://yann.lecun.com/exdb/mnist (IDX) and at
https://www.cs.toronto.edu/~kriz/cifar.html (binary and pickled batches).
"""

import gzip
import math
import pathlib
import pickle
import re
import zlib

import numpy as np

from isometry._internal.errors import InputError

KNOWN = "train-images-idx3-ubyte (or .gz), data_batch_1.bin, data_batch_1"

_BATCHES = 5
_CLASSES = 10
_PIXELS = 3 * 32 * 32  # the red plane row by row, then green, then blue

# The images, bytes of shape (n, ...), and their labels, (n,).
Images = tuple[np.ndarray, np.ndarray]


def read(path: pathlib.Path) -> Images:
    """Read a file, or the training set in a folder.

    Args:
        path: A folder, an IDX file of images, or a batch of CIFAR-10.

    Returns:
        The images, bytes of shape (n, ...), and their labels, (n,). CIFAR's images are
        of shape (n, 3072).

    Raises:
        InputError: There is nothing of these formats; a file is truncated, too long or
            of another kind; labels are missing, of another number, or not CIFAR's ten.
    """
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise InputError(
            f"there is no file or folder {str(path)!r}; "
            f"write a .npy or .npz file, or one of {KNOWN}."
        )
    if "idx" in path.name:
        return _read_idx_pair(path)
    if path.suffix == ".bin":
        return _read_binary(path)
    if re.fullmatch(r"(data|test)_batch(_\d)?", path.name):
        return _read_pickle(path)
    raise InputError(
        f"{str(path)!r} ends in {path.suffix!r}; "
        f"write a .npy or .npz file, or one of {KNOWN}."
    )


def _read_folder(folder: pathlib.Path) -> Images:
    for path in sorted(folder.iterdir()):
        if re.fullmatch(r"train-images[.-]idx3-ubyte(\.gz)?", path.name):
            return _read_idx_pair(path)
    for suffix, reader in ((".bin", _read_binary), ("", _read_pickle)):
        names = [f"data_batch_{i + 1}{suffix}" for i in range(_BATCHES)]
        missing = [name for name in names if not (folder / name).is_file()]
        if len(missing) == _BATCHES:
            continue
        if missing:
            raise InputError(
                f"{str(folder)!r} lacks {', '.join(missing)} "
                "of CIFAR-10's five batches."
            )
        batches = [reader(folder / name) for name in names]
        images, labels = zip(*batches, strict=True)
        return np.concatenate(images), np.concatenate(labels)
    raise InputError(f"the folder {str(folder)!r} holds none of {KNOWN}.")


def _read_idx_pair(path: pathlib.Path) -> Images:
    """Read the images of an IDX file, and the labels from the file beside it."""
    images_name = path.name.removesuffix(".gz")
    labels_name = images_name.replace("images", "labels").replace("idx3", "idx1")
    if labels_name == images_name:
        raise InputError(
            f"{str(path)!r} has no labels; "
            "write the file of the images, ...-images-idx3-ubyte."
        )
    labels_path = path.with_name(labels_name)
    if not labels_path.is_file():
        labels_path = path.with_name(labels_name + ".gz")
    if not labels_path.is_file():
        raise InputError(f"{str(path)!r} has no labels; put {labels_name} beside it.")
    images = _read_idx(path, num_axes=3)
    labels = _read_idx(labels_path, num_axes=1)
    if len(images) != len(labels):
        raise InputError(
            f"{str(path)!r} has {len(images)} images and {labels_path.name} "
            f"{len(labels)}."
        )
    return images, labels


def _read_idx(path: pathlib.Path, num_axes: int) -> np.ndarray:
    """Return the array of unsigned bytes that a file holds after its header.

    The header is 0, 0, 8 (for unsigned bytes), the number of axes, and the length of
    each axis in four bytes, big-endian.
    """
    magic = bytes([0, 0, 8, num_axes])
    header_bytes = 4 + 4 * num_axes
    open_file = gzip.open if path.suffix == ".gz" else open
    try:
        with open_file(path, "rb") as file:
            header = file.read(header_bytes)
            if header[:4] != magic:
                raise InputError(
                    f"{str(path)!r} begins with {header[:4].hex()}; "
                    f"IDX with {num_axes} axes with {magic.hex()}."
                )
            starts = range(4, header_bytes, 4)
            sizes = [int.from_bytes(header[i : i + 4], "big") for i in starts]
            num_entries = math.prod(sizes)
            # One byte more than there should be shows a file that is too long.
            entries = file.read(num_entries + 1)
    # OverflowError and MemoryError come from absurd sizes in the header.
    except (OSError, EOFError, zlib.error, OverflowError, MemoryError) as error:
        raise InputError(f"{str(path)!r} cannot be read as IDX: {error}.") from None
    if len(header) < header_bytes or len(entries) < num_entries:
        difference = "truncated: shorter"
    elif len(entries) > num_entries:
        difference = "longer"
    else:
        return np.frombuffer(entries, np.uint8).reshape(sizes)
    raise InputError(
        f"{str(path)!r} is {difference} than its header says, {sizes} bytes of entries."
    )


def _read_binary(path: pathlib.Path) -> Images:
    """Read CIFAR-10's binary version: a label, then the pixels, image after image."""
    entries = np.frombuffer(path.read_bytes(), np.uint8)
    record_bytes = 1 + _PIXELS
    if entries.size == 0 or entries.size % record_bytes:
        raise InputError(
            f"{str(path)!r} has {entries.size} bytes, no whole number of CIFAR-10's "
            f"records of {record_bytes}: truncated, or another data set."
        )
    records = entries.reshape(-1, record_bytes)
    labels = _checked_labels(path, records[:, 0])
    return records[:, 1:], labels


def _checked_labels(path: pathlib.Path, labels: np.ndarray) -> np.ndarray:
    """Return labels of CIFAR-10; refuse one that is not 0 to 9."""
    beyond = labels[(labels < 0) | (labels >= _CLASSES)]
    if beyond.size:
        raise InputError(
            f"{str(path)!r} holds the label {beyond[0]}; CIFAR-10's are 0 to 9."
        )
    return labels


class _Inert:
    """A stand-in for what a pickle builds: it keeps its arguments and runs nothing."""

    state: tuple = ()

    def __init__(self, *arguments: object):
        self.arguments = arguments

    def __setstate__(self, state: tuple) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """An unpickler of plain containers and of the bytes of arrays, and of nothing else.

    A pickle can import and call whatever it names, and a downloaded file is not
    trusted. So any other name raises UnpicklingError.
    """

    def find_class(self, module: str, name: str) -> type:
        is_numpy = re.fullmatch(r"numpy(\._?core\.multiarray)?", module)
        if is_numpy and name in ("_reconstruct", "ndarray", "dtype"):
            return _Inert
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no batch does")


def _read_pickle(path: pathlib.Path) -> Images:
    """Read CIFAR-10's python version: a pickled dict of data and labels."""
    try:
        with path.open("rb") as file:
            batch = _Unpickler(file, encoding="bytes").load()
        # Python 2 wrote the keys as bytes.
        fields = {}
        for key, value in batch.items():
            fields[key.decode() if isinstance(key, bytes) else key] = value
        # The state of a pickled array: version, shape, dtype, order in memory, bytes.
        _, shape, dtype, is_fortran, raw = fields["data"].state
        if dtype.arguments[0] not in ("u1", b"u1") or is_fortran:
            raise ValueError("data is no array of bytes, row by row")
        images = np.frombuffer(raw, np.uint8).reshape(shape)
        labels = np.asarray(fields["labels"], np.int32)
        if images.shape != (len(labels), _PIXELS) or labels.ndim != 1:
            raise ValueError(f"data has shape {images.shape} and labels {labels.shape}")
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(
            f"{str(path)!r} cannot be read as a batch of CIFAR-10: "
            f"{type(error).__name__}: {error}."
        ) from None
    return images, _checked_labels(path, labels)
