"""Looks-linear weights: a ReLU network that is, at initialization, the linear network of half its width.

With (u, -u) before an activation for which phi(u) - phi(-u) = u (ReLU; GELU, SiLU and softplus too), the block
[[B, -B], [-B, B]] makes (u B, -u B) of it. Only the stem has to make the first such pair, and the head to end with one.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp

from isometry import _checks
from isometry.initializers import Initializer, normal, orthogonal
from isometry.schemes._layer import ATTENTION, Layer
from isometry.schemes._scheme import Init, Scheme


def _halves(role: str, shape: tuple[int, ...], reads: bool, writes: bool) -> tuple[int, ...]:
    """The shape of B: half the inputs where the layer reads pairs, half the outputs where it writes them."""
    for axis, halved, what in ((-2, reads, "inputs"), (-1, writes, "outputs")):
        if halved and shape[axis] % 2:
            raise _checks.NotDefined(
                f"the {role} of shape={shape} has {shape[axis]} {what}; hidden widths must be even, for its "
                "units come in pairs."
            )
    return (*shape[:-2], shape[-2] // (1 + reads), shape[-1] // (1 + writes))


def _paired(name: str, base: Callable[[int], Init]) -> Callable[[Layer, float], Init]:
    """Layers [B, -B] (stem), [[B, -B], [-B, B]] (hidden), [B; -B] (head) and B (a network of one layer).

    `base(n)` is the initializer of a B that reads n units.
    """

    def choose(layer: Layer, sigma_w: float) -> Init:
        if layer.role in ATTENTION:
            raise _checks.NotDefined(f"{name}: role={layer.role!r} is no layer between activations; nothing to pair.")
        reads = layer.index > 0 and layer.role not in ("stem", "embedding")
        writes = layer.role != "head"

        def draw(key, shape, dtype):
            half = _halves(layer.role, shape, reads, writes)
            b = base(math.prod(half[:-1]))(key, half, dtype)
            b = jnp.concatenate([b, -b], -1) if writes else b
            return jnp.concatenate([b, -b], -2) if reads else b

        return Initializer(name, repr(layer.role), draw, least_axes=2, why="a mirrored weight has at least two.")

    return choose


SCHEMES = (
    Scheme(
        "looks_linear",
        _paired("looks_linear", lambda n: orthogonal()),
        "ReLU layers paired with their negatives, so that the network is an orthogonal linear one at the start",
        law="stem [B, -B], hidden [[B, -B], [-B, B]], head [B; -B], B Haar orthogonal of half the width; half of the "
        "singular values of hidden weights are 2, half 0, yet the network is the product of the B; for ReLU, GELU, "
        "SiLU and softplus",
        isometric="end to end, even hidden widths whose halves run monotonically from inputs to outputs; between "
        "hidden layers half of the singular values are √2, half 0",
        citation="Balduzzi et al. (2017), arXiv:1702.08591",
    ),
    Scheme(
        "mirrored",
        _paired("mirrored", lambda n: normal(std=n**-0.5)),
        "ReLU layers paired with their negatives, so that the network is a Gaussian linear one at the start",
        law="as looks_linear, but B_ij ~ N(0, 1/rows of B), in hidden layers 2/fan_in: units keep their variance; end "
        "to end a product of Gaussian matrices",
        citation="Burkholz and Dubatovka (2019), arXiv:1806.06362",
        aliases=("GSM",),
    ),
)
