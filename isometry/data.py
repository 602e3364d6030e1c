"""Inputs: handwritten digits, Gaussian vectors, images, a user's own files."""

import contextlib
import importlib.util
import os
import pathlib
import zipfile
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from isometry._internal import checks, image_files
from isometry._internal.errors import InputError, public
from isometry._internal.types import Key

# Greyscale levels of the digits: 0 to 16, the count of dark pixels in a block of 4x4.
_DIGITS_WHITE = 16

# Where scikit-learn keeps them, from its own folder.
_DIGITS_FILE = "datasets/data/digits.csv.gz"

_LARGEST_LABEL = np.iinfo(np.int32).max

# What NumPy, zipfile and zlib raise on files that are damaged, of another kind, or
# larger than the memory, if only by their header.
_READ_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)

Targets = Int[Array, "examples"] | Float[Array, "examples outputs"] | None


class Data(NamedTuple):
    """Inputs of a task, and the targets that a network should return for them.

    Attributes:
        xs: The inputs, in float32.
        targets: Integer labels, float outputs, or None where the inputs have none.

    Example:
        >>> xs, targets = data.gaussian(jax.random.key(0), examples=5, features=3)
        >>> xs.shape, targets.shape
        ((5, 3), (5,))
    """

    xs: Float[Array, "examples features"]
    targets: Targets


@public("data.digits")
def digits(pooled: bool = False) -> Data:
    """Load the handwritten digits that ship with scikit-learn.

    There are 1797 images of 8 by 8 pixels in ten classes (UCI, Alpaydin and Kaynak,
    1998), scaled to [0, 1]. Three of the 64 pixels are 0 in every image.

    Args:
        pooled: Whether to average blocks of 2 by 2 pixels, which leaves 16 features.

    Returns:
        The images as vectors, and their labels.

    Raises:
        MissingExtra: scikit-learn is not installed.

    Example:
        >>> data.digits().xs.shape
        (1797, 64)
        >>> data.digits(pooled=True).xs.shape
        (1797, 16)
    """
    table = _read_digits()
    images, labels = table[:, :-1], table[:, -1]
    images = images.reshape(-1, 8, 8) / _DIGITS_WHITE
    # Averages of neighbours keep the classes apart, with a quarter of the features.
    if pooled:
        images = images.reshape(-1, 4, 2, 4, 2).mean((2, 4))
    xs = images.reshape(len(images), -1)
    return Data(
        xs=checks.on_device(xs.astype(np.float32)),
        targets=checks.on_device(labels.astype(np.int32)),
    )


def _read_digits() -> Float[np.ndarray, "examples 65"]:
    """Return the digits of scikit-learn: 64 pixels and a label in each row."""
    # Its file is read in 10 ms, while to import scikit-learn takes a second.
    spec = None
    # A module without a specification may stand in its place.
    with contextlib.suppress(ValueError):
        spec = importlib.util.find_spec("sklearn")
    if spec is not None and spec.origin is not None:
        folder = pathlib.Path(spec.origin).parent
        path = folder / _DIGITS_FILE
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    # Another version may keep it elsewhere.
    datasets = checks.extra("sklearn.datasets", "data")
    both = datasets.load_digits(return_X_y=True)
    return np.column_stack(both)


@public("data.gaussian")
def gaussian(key: Key, examples: int, features: int, classes: int = 10) -> Data:
    """Draw standard normal vectors and label them by random linear scores.

    The label is the class with the largest score, so the task can be learned although
    the inputs have no structure.

    Args:
        key: A random key, which decides inputs and scores.
        examples: Number of inputs.
        features: Entries of each input.
        classes: Number of labels, at least two.

    Returns:
        The inputs and their labels.

    Raises:
        InputError: A number is too small, or `key` is not a key.

    Example:
        >>> data.gaussian(jax.random.key(0), examples=4, features=64, classes=2).targets
        Array([0, 0, 1, 0], dtype=int32)
    """
    checks.key("key", key)
    checks.integer("examples", examples, low=1)
    checks.integer("features", features, low=1)
    checks.shape((examples, features))
    checks.integer("classes", classes, low=2)
    # float32 whatever the mode, so that one key gives the same task in all.
    key_xs, key_scores = jax.random.split(key)
    xs = jax.random.normal(key_xs, (examples, features), jnp.float32)
    directions = jax.random.normal(key_scores, (features, classes), jnp.float32)
    scores = xs @ directions
    labels = jnp.argmax(scores, axis=-1)
    # argmax returns int64 in 64-bit mode; the labels do not depend on the mode.
    return Data(xs, labels.astype(jnp.int32))


@public("data.normalize")
def normalize(xs: ArrayLike, q: float) -> Float[Array, "inputs *axes"]:
    """Rescale each input to mean square q, as theory assumes of all inputs.

    Here q is the mean square of the inputs. The pre-activations of the first layer then
    have variance sigma_w^2 q + sigma_b^2. To start a network at its fixed point q*,
    write q = (q* - sigma_b^2) / sigma_w^2. Orthogonal weights that widen from n to m
    keep the norm of an input, times sigma_w, and spread it over more units. Their
    variance is sigma_w^2 q n/m + sigma_b^2.

    Args:
        xs: Floating inputs along the first axis, each of any shape.
        q: The mean square of each input. Positive.

    Returns:
        The inputs, in the dtype of `xs`.

    Raises:
        InputError: `q` is not a positive number that the dtype can hold; `xs` is not
            floating, not finite or empty; an input is zero.

    Example:
        >>> xs = data.normalize(jnp.array([[1.0, 1.0], [0.0, 4.0]]), q=8.0)
        >>> np.asarray(xs).round(3)
        array([[2.828, 2.828],
               [0.   , 4.   ]], dtype=float32)
    """
    checks.number("q", q, above=0.0)
    xs = checks.array("xs", xs)
    checks.examples("xs", xs, xs.shape[1:])
    if xs.size == 0:
        raise InputError(f"xs has shape {xs.shape}: no features; write at least one.")
    limits = jnp.finfo(xs.dtype)
    # Below `tiny` numbers lose bits, and most processors make them zero.
    checks.number("q", q, low=float(limits.tiny), high=float(limits.max))
    if not checks.is_traced(xs):
        num_zero = int(_num_zero(xs))
        if num_zero:
            raise InputError(
                f"{num_zero} inputs of xs are zero and have no direction; "
                "leave them out."
            )
    return _rescaled(xs, jnp.asarray(q, xs.dtype))


@jax.jit
def _num_zero(xs: Array) -> Int[Array, ""]:
    """Count the inputs that are zero."""
    return jnp.sum(~jnp.any(xs != 0, axis=tuple(range(1, xs.ndim))))


# A dozen tiny operations, which are faster as one program.
@jax.jit
def _rescaled(
    xs: Float[Array, "inputs *axes"], q: Float[Array, ""]
) -> Float[Array, "inputs *axes"]:
    """Return inputs, of which none is zero, rescaled to mean square q."""
    axes = tuple(range(1, xs.ndim))
    # Entries are brought to order 1 first, so that no square leaves the dtype's range.
    # By a power of two: the reciprocals of the largest numbers are flushed to zero.
    largest = jnp.max(jnp.abs(xs), axis=axes, keepdims=True)
    _, exponent = jnp.frexp(largest)
    scaled = jnp.ldexp(xs, -exponent)
    mean_square = jnp.mean(scaled**2, axis=axes, keepdims=True)
    # Root by root: the quotient of the squares may overflow where that of the roots
    # does not.
    target = jnp.sqrt(q)
    return scaled * (target / jnp.sqrt(mean_square))


@public("data.load")
def load(path: str | os.PathLike[str]) -> Data:
    """Load inputs from a file, or from a folder that holds MNIST or CIFAR-10.

    Pixels of MNIST and CIFAR-10 are scaled to [0, 1]; arrays of .npy and .npz files are
    not rescaled. Each example is flattened to a vector, those of CIFAR-10 channel by
    channel. Nothing is unpickled: of a pickled batch only arrays and plain containers
    are read.

    Args:
        path: One of these:

            - a .npy file of shape (examples, ...), without targets
            - a .npz file with inputs `x` and, if there are any, targets `y`
            - a folder that holds the training set: train-images-idx3-ubyte and
              train-labels-idx1-ubyte of MNIST, plain or .gz, or data_batch_1 to
              data_batch_5 of CIFAR-10, binary (.bin) or pickled
            - one file of images from such a folder; MNIST's needs its labels beside it

    Returns:
        The inputs and their targets, which are None if the file has none.

    Raises:
        InputError: The file is missing, of another kind, unreadable, truncated or
            empty; its inputs have fewer than two axes or are not finite real numbers;
            or inputs and targets differ in number.

    Example:
        >>> np.savez("mine.npz", x=np.ones((5, 2, 2)), y=np.arange(5))
        >>> xs, targets = data.load("mine.npz")
        >>> xs.shape, targets
        ((5, 4), Array([0, 1, 2, 3, 4], dtype=int32))
    """
    path = checks.path("path", path)
    if path.suffix in (".npy", ".npz"):
        return _load_arrays(path)
    images, labels = image_files.read(path)
    if images.size == 0:
        raise InputError(f"{str(path)!r} holds no images (shape {images.shape}).")
    pixels = images.reshape(len(images), -1)
    xs = np.divide(pixels, 255, dtype=np.float32)
    return Data(
        xs=checks.on_device(xs),
        targets=checks.on_device(labels.astype(np.int32)),
    )


def _load_arrays(path: pathlib.Path) -> Data:
    """Load the inputs and targets of a .npy or .npz file."""
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}.")
    try:
        arrays = _read_arrays(path)
    except _READ_ERRORS as error:
        message = f"{str(path)!r} cannot be read as {path.suffix}: {error}"
        raise InputError(message) from None
    if "x" not in arrays:
        raise InputError(
            f"{str(path)!r} holds {sorted(arrays)}; name the inputs x (and targets y)."
        )
    xs = _real_numbers(path, "x", arrays["x"])
    if xs.ndim < 2 or xs.size == 0:
        raise InputError(
            f"x in {str(path)!r} has shape {xs.shape}; "
            "write (examples, features), at least one of each."
        )
    targets = None
    if "y" in arrays:
        targets = _as_targets(path, arrays["y"], num_examples=len(xs))
    xs = xs.reshape(len(xs), -1)
    return Data(jnp.asarray(xs, jnp.float32), targets)


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file by name; of a .npy file its array, named x."""
    with path.open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        is_archive = isinstance(stored, np.lib.npyio.NpzFile)
        if is_archive != (path.suffix == ".npz"):
            raise ValueError("the contents are of the other kind")
        if not is_archive:
            return {"x": stored}
        # Members are read when they are asked for, while the file is still open.
        return {name: stored[name] for name in stored.files}


def _real_numbers(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
    """Return an array from a file; refuse what is not finite real numbers or booleans.

    Args:
        path: The file, for the message.
        name: The name of the array in the file, likewise.
        array: The array.
    """
    if not (checks.is_real(array.dtype) or array.dtype == bool):
        raise InputError(
            f"{name} in {str(path)!r} has dtype {array.dtype}; it must be real numbers."
        )
    # Inputs become float32, in which 1e300 is infinite.
    with np.errstate(over="ignore"):
        is_finite = np.isfinite(array.astype(np.float32))
    num_bad = int((~is_finite).sum())
    if num_bad:
        raise InputError(
            f"{name} in {str(path)!r} holds {num_bad} values that are NaN or infinite."
        )
    return array


def _as_targets(path: pathlib.Path, y: np.ndarray, num_examples: int) -> Targets:
    """Return y as targets: whole numbers along one axis are labels, others outputs."""
    y = _real_numbers(path, "y", y)
    if y.ndim == 0 or len(y) != num_examples or y.size == 0:
        raise InputError(
            f"y in {str(path)!r} has shape {y.shape} for {num_examples} examples."
        )
    is_labels = np.issubdtype(y.dtype, np.integer) and y.ndim == 1
    if not is_labels:
        return jnp.asarray(y.reshape(num_examples, -1), jnp.float32)
    lowest = y.min()
    if lowest < 0:
        raise InputError(
            f"y in {str(path)!r} holds the label {lowest}; labels start at 0."
        )
    highest = y.max()
    # Labels are kept as int32, in which a larger one would become another class.
    if highest > _LARGEST_LABEL:
        raise InputError(
            f"y in {str(path)!r} holds the label {highest}; "
            f"labels end at {_LARGEST_LABEL}."
        )
    return jnp.asarray(y, jnp.int32)
