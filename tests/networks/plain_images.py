"""Convolution, pooling and norms of one image, pixel by pixel in NumPy."""

import math

import numpy as np


def convolution(kernel, x, *, strides, padding, groups=1):
    """Convolve an image (*size, in) with a kernel (*window, in/groups, out).

    Args:
        kernel: Weights in JAX's layout.
        x: The image.
        strides: One an axis.
        padding: "circular", "same" or "valid".
        groups: Groups of channels.
    """
    window = kernel.shape[:-2]
    x = padded(x, window, strides, padding)
    size = [
        (n - k) // s + 1 for n, k, s in zip(x.shape[:-1], window, strides, strict=True)
    ]
    n_out = kernel.shape[-1]
    y = np.zeros((*size, n_out))
    for pixel in np.ndindex(*size):
        corner = np.array(pixel) * strides
        patch = x[tuple(slice(i, i + k) for i, k in zip(corner, window, strict=True))]
        for group in range(groups):
            outputs = slice(group * n_out // groups, (group + 1) * n_out // groups)
            width = kernel.shape[-2]
            inputs = slice(group * width, (group + 1) * width)
            y[(*pixel, outputs)] = np.tensordot(
                patch[..., inputs], kernel[..., outputs], kernel.ndim - 1
            )
    return y


def padded(x, window, strides, padding):
    """Add what the windows read beyond the image."""
    margins = []
    for n, k, s in zip(x.shape[:-1], window, strides, strict=True):
        if padding == "circular":
            margins.append(((k - 1) // 2, k // 2))
        elif padding == "same":
            # Half of what is missing, rounded down, in front (TensorFlow, XLA).
            missing = max((math.ceil(n / s) - 1) * s + k - n, 0)
            margins.append((missing // 2, missing - missing // 2))
        else:
            margins.append((0, 0))
    mode = "wrap" if padding == "circular" else "constant"
    return np.pad(x, [*margins, (0, 0)], mode=mode)


def pooled(x, pooling):
    """Take the mean or maximum of windows of two pixels an axis."""
    size = [n // 2 for n in x.shape[:-1]]
    y = np.zeros((*size, x.shape[-1]))
    for pixel in np.ndindex(*size):
        window = x[tuple(slice(2 * i, 2 * i + 2) for i in pixel)]
        axes = tuple(range(x.ndim - 1))
        y[pixel] = window.max(axes) if pooling == "max" else window.mean(axes)
    return y
