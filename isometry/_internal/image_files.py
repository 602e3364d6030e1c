"""MNIST and CIFAR-10 in the files they are published in: IDX, CIFAR's binary and its pickled batches.

Formats: http://yann.lecun.com/exdb/mnist and https://www.cs.toronto.edu/~kriz/cifar.html.
"""

import gzip
import math
import pathlib
import pickle
import re
import zlib
from typing import Any

import numpy as np

from isometry._internal.errors import InputError

KNOWN = "train-images-idx3-ubyte (or .gz), data_batch_1.bin, data_batch_1"
_BATCHES = 5
_PIXELS, _CLASSES = 3 * 32 * 32, 10


def read(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """(images (n, ...) uint8, labels (n,)) of a file, or of the training set in a folder.

    CIFAR's images are (n, 3072): the red plane row by row, then green, then blue.

    **Raises** `ValueError`: nothing there of these formats; truncated, too long, of another magic number; labels that
    are missing, of another number, or none of CIFAR's ten.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise InputError(
            f"data.load(): there is no file or folder {str(path)!r}; write a .npy or .npz file, or one of {KNOWN}."
        )
    if "idx" in path.name:
        return _idx_pair(path)
    if path.suffix == ".bin":
        return _binary(path)
    if re.fullmatch(r"(data|test)_batch(_\d)?", path.name):
        return _pickled(path)
    raise InputError(
        f"data.load(): {str(path)!r} ends in {path.suffix!r}; write a .npy or .npz file, or one of {KNOWN}."
    )


def _folder(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    images = [p for p in sorted(path.iterdir()) if re.fullmatch(r"train-images[.-]idx3-ubyte(\.gz)?", p.name)]
    if images:
        return _idx_pair(images[0])
    for suffix, reader in ((".bin", _binary), ("", _pickled)):
        batches = [path / f"data_batch_{i + 1}{suffix}" for i in range(_BATCHES)]
        missing = [p.name for p in batches if not p.is_file()]
        if len(missing) < _BATCHES:
            if missing:
                raise InputError(f"data.load(): {str(path)!r} lacks {', '.join(missing)} of CIFAR-10's five batches.")
            xs, labels = zip(*map(reader, batches), strict=True)
            return np.concatenate(xs), np.concatenate(labels)
    raise InputError(f"data.load(): the folder {str(path)!r} holds none of {KNOWN}.")


def _idx_pair(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """The images of an IDX file and the labels of the file beside it, compressed or not."""
    name = path.name.removesuffix(".gz")
    beside = name.replace("images", "labels").replace("idx3", "idx1")
    found = [p for p in (path.with_name(beside), path.with_name(beside + ".gz")) if p.is_file()]
    if beside == name or not found:
        wanted = "write the file of the images, ...-images-idx3-ubyte" if beside == name else f"put {beside} beside it"
        raise InputError(f"data.load(): {str(path)!r} has no labels; {wanted}.")
    images, labels = _idx(path, 3), _idx(found[0], 1)
    if len(images) != len(labels):
        raise InputError(f"data.load(): {str(path)!r} has {len(images)} images and {found[0].name} {len(labels)}.")
    return images, labels


def _idx(path: pathlib.Path, axes: int) -> np.ndarray:
    """An IDX file of unsigned bytes: 0, 0, 8, the number of axes; their sizes, big-endian; the entries."""
    magic = bytes([0, 0, 8, axes])
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * axes)
            if head[:4] != magic:
                raise InputError(
                    f"data.load(): {str(path)!r} begins with {head[:4].hex()}; IDX with {axes} axes with {magic.hex()}."
                )
            shape = [int.from_bytes(head[i : i + 4], "big") for i in range(4, len(head), 4)]
            size = math.prod(shape)
            entries = file.read(size + 1)  # one more than there should be
    except (OSError, EOFError, zlib.error, OverflowError, MemoryError) as error:  # the last two: absurd sizes
        raise InputError(f"data.load(): {str(path)!r} cannot be read as IDX: {error}.") from None
    if len(head) < 4 + 4 * axes or len(entries) != size:
        kind = "longer" if len(entries) > size else "truncated: shorter"
        raise InputError(f"data.load(): {str(path)!r} is {kind} than its header says, {shape} bytes of entries.")
    return np.frombuffer(entries, np.uint8).reshape(shape)


def _binary(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10's binary version: a label, then the pixels, image after image."""
    entries = np.frombuffer(path.read_bytes(), np.uint8)
    if not entries.size or entries.size % (1 + _PIXELS):
        raise InputError(
            f"data.load(): {str(path)!r} has {entries.size} bytes, no whole number of CIFAR-10's records of "
            f"{1 + _PIXELS}: truncated, or another data set."
        )
    records = entries.reshape(-1, 1 + _PIXELS)
    return _checked(path, records[:, 1:], records[:, 0])


def _checked(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if labels.size and not 0 <= labels.min() <= labels.max() < _CLASSES:
        raise InputError(f"data.load(): {str(path)!r} holds the label {labels.max()}; CIFAR-10's are 0 to 9.")
    return images, labels


class _Inert:
    """Stands for whatever a batch's pickle makes of numpy: it keeps what it is given and runs nothing."""

    state: Any = ()

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Knows arrays, whose bytes it keeps, and plain containers; any other name in the file is an error."""

    def find_class(self, module: str, name: str) -> Any:
        if re.fullmatch(r"numpy(\._?core\.multiarray)?", module) and name in ("_reconstruct", "ndarray", "dtype"):
            return _Inert
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no batch does")


def _pickled(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """CIFAR-10's python version: a pickled dict of data, an array (n, 3072) of bytes, and labels, a list."""
    try:
        with path.open("rb") as file:
            batch = _Unpickler(file, encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        _, shape, dtype, fortran, raw = batch["data"].state
        if dtype.arguments[0] not in ("u1", b"u1") or fortran:
            raise ValueError("data is no array of bytes, row by row")
        images = np.frombuffer(raw, np.uint8).reshape(shape)
        labels = np.asarray(batch["labels"], np.int32)
        if images.shape != (len(labels), _PIXELS) or labels.ndim != 1:
            raise ValueError(f"data has shape {images.shape} and labels {labels.shape}")
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(
            f"data.load(): {str(path)!r} cannot be read as a batch of CIFAR-10: {type(error).__name__}: {error}."
        ) from None
    return _checked(path, images, labels)
