"""The matrix of a convolution, summed entry by entry in float64 with NumPy."""

import itertools
import math

import numpy as np


def convolution_matrix(kernel, image, padding, groups=1):
    """Build the matrix of a convolution with a kernel (*window, in/groups, out).

    Output pixel t is the sum over taps s of kernel[s] times input pixel t + s - before.
    The offset `before` is (k - 1)//2 for "circular" and "same", where XLA aligns even
    windows; k - 1 for "full", which reaches every pixel with every tap; 0 for "valid".

    Args:
        kernel: Weights in JAX's layout.
        image: Size of the image, one number for each axis of the window.
        padding: "circular", or zeros: "same", "full" or "valid".
        groups: The feature_group_count of the convolution.

    Returns:
        An array (output pixels * out, input pixels * in), channels last.
    """
    window = kernel.shape[:-2]
    taps = all_taps(kernel, groups)
    n_in, n_out = taps.shape[-2:]
    before = [offset(k, padding) for k in window]
    grown = [extent(n, k, padding) for n, k in zip(image, window, strict=True)]
    matrix = np.zeros((*grown, n_out, *image, n_in))
    pixels = itertools.product(*map(range, grown))
    for pixel, tap in itertools.product(pixels, np.ndindex(window)):
        source = np.array(pixel) + tap - before
        if padding == "circular":
            source %= image
        if np.all(source >= 0) and np.all(source < image):
            matrix[(*pixel, slice(None), *source)] += taps[tap].T
    return matrix.reshape(math.prod(grown) * n_out, math.prod(image) * n_in)


def all_taps(kernel, groups):
    """Write the kernel of a grouped convolution as one of all inputs and outputs."""
    *window, per_group, n_out = kernel.shape
    outputs = n_out // groups
    dense = np.zeros((*window, per_group * groups, n_out))
    for group in range(groups):
        rows = slice(group * per_group, (group + 1) * per_group)
        columns = slice(group * outputs, (group + 1) * outputs)
        dense[..., rows, columns] = kernel[..., columns]
    return dense


def offset(k, padding):
    """How many pixels before the output pixel the first tap reads."""
    return {"full": k - 1, "valid": 0}.get(padding, (k - 1) // 2)


def extent(n, k, padding):
    """Pixels of the output on one axis."""
    return {"full": n + k - 1, "valid": n - k + 1}.get(padding, n)


def singular_values(matrix):
    """Compute the singular values of a matrix in float64, in descending order."""
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


def rounding(matrix, factors=1, dtype="float64"):
    """Bound the relative error of singular values after products and factorizations.

    To first order it is a few roundings for each row or column and each of the
    `factors` products or QR factorizations of matrices as large as this one.
    """
    return 8 * factors * max(matrix.shape[-2:]) * float(np.finfo(dtype).eps)
