"""Inputs: the digits that ship with scikit-learn, Gaussian vectors, the user's own files, MNIST and CIFAR-10."""

import pathlib
import zipfile
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _checks
from isometry._internal import image_files


class Data(NamedTuple):
    """`xs`: (examples, features) float32; `targets`: (examples,) integer labels, (examples, k) floats, or None."""

    xs: Any
    targets: Any


def digits(pooled: bool = False) -> Data:
    """The 1797 8×8 digits of scikit-learn (real handwriting, UCI), pixels scaled to [0, 1]: 64 features, 10 classes.

    Three of the 64 pixels are 0 in every image. `pooled` averages 2×2 blocks: 16 features.

    **Raises** `MissingExtra`: scikit-learn is not installed.
    """
    sklearn = _checks.extra("data.digits", "sklearn.datasets", "data")
    images, labels = sklearn.load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8) / 16.0
    if pooled:
        images = images.reshape(-1, 4, 2, 4, 2).mean((2, 4))
    return Data(jnp.asarray(images.reshape(len(images), -1), jnp.float32), jnp.asarray(labels, jnp.int32))


def gaussian(key: Any, examples: int, features: int, classes: int = 10) -> Data:
    """Standard normal vectors, labelled by the largest of `classes` random linear scores: learnable and structureless.

    `key` decides both; xs is (`examples`, `features`).

    **Raises** `ValueError`: a size below 1, fewer than two classes, not a key.
    """
    _checks.key("data.gaussian", key)
    _checks.integer("data.gaussian", low=1, examples=examples, features=features)
    _checks.integer("data.gaussian", low=2, classes=classes)
    key_x, key_w = jax.random.split(key)
    xs = jax.random.normal(key_x, (examples, features), jnp.float32)
    scores = xs @ jax.random.normal(key_w, (features, classes), jnp.float32)
    return Data(xs, jnp.argmax(scores, -1).astype(jnp.int32))


def normalize(xs: Any, q: float) -> Any:
    """Each input rescaled to |x|²/n = q, n its number of features: then every input has the same law.

    q is of the inputs, not of the pre-activations: those of the first layer have q_1 = sigma_w² q + sigma_b²
    (orthogonal weights that widen from n to m: sigma_w² q n/m + sigma_b²). To start at a fixed point q* give
    q = (q* − sigma_b²)/sigma_w². In the dtype of xs.

    **Arguments**: `xs`, (inputs, ...), floating; `q`, positive.

    **Raises** `ValueError`: q not a positive number, or outside the range of the dtype; xs not floating, not finite, or
    of no inputs or no features; an input of zeros.
    """
    call = "data.normalize"
    _checks.number(call, low=0.0, open_low=True, q=q)
    xs = _checks.array(call, xs=xs)
    _checks.examples(call, xs.shape[1:], xs)
    if not xs.size:
        raise _checks.InputError(f"{call}(): xs has shape {xs.shape}: no features; write at least one.")
    range_of = jnp.finfo(xs.dtype)
    _checks.number(call, low=float(range_of.tiny), high=float(range_of.max), q=q)
    axes = tuple(range(1, xs.ndim))
    top = jnp.max(jnp.abs(xs), axis=axes, keepdims=True)  # first, so that no square under- or overflows
    zeros = 0 if _checks.is_traced(top) else int((top == 0).sum())
    if zeros:
        raise _checks.InputError(f"{call}(): {zeros} inputs of xs are zero and have no direction; leave them out.")
    unit = xs / top
    return unit * (jnp.asarray(q, xs.dtype) / jnp.mean(unit**2, axis=axes, keepdims=True)) ** 0.5


def load(path: str | pathlib.Path) -> Data:
    """Inputs from `path`: a .npy file (examples, ...), a .npz file with `x` and, if there are any, targets `y`, or the
    files that MNIST and CIFAR-10 are published in.

    Of the latter a folder gives the training set: train-images-idx3-ubyte and its labels (plain or .gz), or
    data_batch_1 to data_batch_5, with .bin the binary version, else the pickled one, of which nothing is run. One such
    file gives what it holds. Their pixels are scaled to [0, 1]; arrays are kept on their own scale. Examples are
    flattened to vectors, CIFAR's plane by plane.

    **Raises** `ValueError`: a file that is missing, of another kind, unreadable, truncated, empty, of fewer than two
    axes, not numeric, not finite, or whose inputs and targets differ in number.
    """
    path = pathlib.Path(path)
    if path.suffix in (".npy", ".npz"):
        return _arrays(path)
    images, labels = image_files.read(path)
    if not images.size:
        raise _checks.InputError(f"data.load(): {str(path)!r} holds images of shape {images.shape}: none.")
    xs = np.divide(images.reshape(len(images), -1), 255, dtype=np.float32)
    return Data(jnp.asarray(xs), jnp.asarray(labels, jnp.int32))


def _arrays(path: pathlib.Path) -> Data:
    """Of a .npy or .npz file."""
    if not path.is_file():
        raise _checks.InputError(f"data.load(): there is no file {str(path)!r}.")
    try:
        with path.open("rb") as file:
            stored: Any = np.load(file, allow_pickle=False)
            if (path.suffix == ".npz") != isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("the contents are of the other kind")
            arrays = {"x": stored} if path.suffix == ".npy" else {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise _checks.InputError(f"data.load(): {str(path)!r} cannot be read as {path.suffix}: {error}") from None
    if "x" not in arrays:
        raise _checks.InputError(
            f"data.load(): {str(path)!r} holds {sorted(arrays)}; name the inputs x (and targets y)."
        )
    xs = _numeric(path, "x", arrays["x"])
    if xs.ndim < 2 or xs.size == 0:
        raise _checks.InputError(
            f"data.load(): x in {str(path)!r} has shape {xs.shape}; write (examples, features), at least one of each."
        )
    xs = jnp.asarray(xs.reshape(len(xs), -1), jnp.float32)
    return Data(xs, _targets(path, arrays.get("y"), len(xs)))


def _numeric(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise _checks.InputError(
            f"data.load(): {name} in {str(path)!r} has dtype {array.dtype}; it must be real numbers."
        )
    with np.errstate(over="ignore"):
        bad = int((~np.isfinite(array.astype(np.float32))).sum())
    if bad:
        raise _checks.InputError(f"data.load(): {name} in {str(path)!r} holds {bad} values that are NaN or infinite.")
    return array


def _targets(path: pathlib.Path, y: np.ndarray | None, examples: int) -> Any:
    if y is None:
        return None
    y = _numeric(path, "y", y)
    if len(y) != examples if y.ndim else True:
        raise _checks.InputError(f"data.load(): y in {str(path)!r} has shape {y.shape} for {examples} examples.")
    if np.issubdtype(y.dtype, np.integer) and y.ndim == 1:
        if y.min() < 0:
            raise _checks.InputError(f"data.load(): y in {str(path)!r} holds the label {y.min()}; labels start at 0.")
        return jnp.asarray(y, jnp.int32)
    return jnp.asarray(y.reshape(examples, -1), jnp.float32)
