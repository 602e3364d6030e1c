"""Singular values of diag(2^e) · T to full relative accuracy, however far the rows are apart in scale."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from isometry.linalg._graded import Graded, exponent, power_of_two

_SWEEPS = 30
_BLOCK = 32
"""Rows that are rotated among each other where couplings are local."""


class _Rows(NamedTuple):
    """Rows of unit norm with their lengths, size · 2^exponent and size in [1/2, 1); a zero row has size 0."""

    unit: Float[Array, "r n"]
    size: Float[Array, " r"]
    exponent: Int[Array, " r"]


def log_values(product: Graded) -> Float[Array, " r"]:
    """ln of the singular values, descending, by one-sided Jacobi on rows whose scales are kept apart.

    A rotation works with the ratio of two scales alone, so values differing by any number of decades come out to full
    relative accuracy (Demmel and Veselić, 1992). Sweeps go on until no two rows are nearer than √eps to a common
    direction before they are rotated: after that the error, its square, is rounding. Where only rows of similar size
    are, as after QR iterations on a steep spectrum, a sweep takes rows that are near in order alone.
    """
    rows = _padded(_normalized(product.rows, product.exponents))
    small = jnp.sqrt(jnp.finfo(rows.size.dtype).eps)

    def unfinished(state: Any) -> Any:
        sweep, _, near, far = state
        return (jnp.maximum(near, far) > small) & (sweep < _SWEEPS)

    def once(state: Any) -> Any:
        sweep, rows, _, far = state
        rows = _sweep(rows) if len(rows.size) <= _BLOCK else jax.lax.cond(far > small, _sweep, _near_sweep, rows)
        return sweep + 1, rows, *_couplings(rows)

    rows = jax.lax.while_loop(unfinished, once, (0, rows, *_couplings(rows)))[1]
    zero = rows.size == 0
    logs = jnp.log(jnp.where(zero, 1, rows.size)) + rows.exponent.astype(rows.size.dtype) * math.log(2)
    return -jnp.sort(jnp.where(zero, jnp.inf, -logs))[: len(product.exponents)]


def local(product: Graded) -> Any:
    """Whether only rows near in order are coupled, so that no sweep need take all pairs."""
    rows = _padded(_normalized(product.rows, product.exponents))
    return _couplings(rows)[1] <= jnp.sqrt(jnp.finfo(rows.size.dtype).eps) if len(rows.size) > _BLOCK else True


def _padded(rows: _Rows) -> _Rows:
    """Descending, with zero rows at the end: an even number, or whole blocks where there is more than one."""
    order = jnp.argsort(-rows.exponent)
    lacking = -len(order) % (_BLOCK if len(order) > _BLOCK else 2)
    return jax.tree.map(lambda a: jnp.concatenate([a[order], jnp.zeros_like(a, shape=(lacking, *a.shape[1:]))]), rows)


def _normalized(rows: Any, exponents: Any) -> _Rows:
    norm = jnp.linalg.norm(rows, axis=-1)
    shift = jnp.where(norm == 0, 0, exponent(norm))
    unit = rows / jnp.where(norm == 0, 1, norm)[:, None]
    return _Rows(unit, norm * power_of_two(-shift, norm.dtype), jnp.where(norm == 0, 0, exponents + shift))


def _couplings(rows: _Rows) -> tuple[Any, Any]:
    """The largest cosine between two rows: of those that `_near_sweep` rotates in any case, and of the others."""
    cosines = jnp.abs(rows.unit @ rows.unit.T)
    place = np.arange(len(rows.size))
    apart = np.abs(place[:, None] - place)
    far = apart >= _BLOCK // 2
    return jnp.max(jnp.where(far | (apart == 0), 0, cosines)), jnp.max(jnp.where(far, cosines, 0))


def _near_sweep(rows: _Rows) -> _Rows:
    """Every pair of rows less than half a block apart rotated once or twice: within blocks, and blocks half way on."""
    for shift in (_BLOCK // 2, -(_BLOCK // 2)):
        blocks = jax.tree.map(lambda a: a.reshape(-1, _BLOCK, *a.shape[1:]), rows)
        rows = jax.tree.map(lambda a, s=shift: jnp.roll(a.reshape(-1, *a.shape[2:]), s, 0), jax.vmap(_sweep)(blocks))
    return rows


def _sweep(rows: _Rows) -> _Rows:
    """Every pair of rows rotated once, half of the rows against the other half at a time (round robin)."""
    count = len(rows.size)
    half, turn = count // 2, jnp.asarray(_round_robin(count))

    def step(rows: _Rows, _: Any) -> tuple[_Rows, None]:
        first, second = (jax.tree.map(lambda a, i=i: a[i * half : (i + 1) * half], rows) for i in (0, 1))
        pairs = _rotated(first, second)
        return jax.tree.map(lambda *a: jnp.concatenate(a)[turn], *pairs), None

    return jax.lax.scan(step, rows, None, length=count - 1)[0]


def _round_robin(count: int) -> np.ndarray:
    """Where each row comes from in the next round: the first stays, the others go round."""
    half = count // 2
    if half == 1:
        return np.arange(2)
    first, second = np.arange(half), np.arange(half, count)
    return np.concatenate([[0, second[0]], first[1:-1], second[1:], first[-1:]])


def _rotated(a: _Rows, b: _Rows) -> tuple[_Rows, _Rows]:
    """Both made orthogonal by the rotation in their plane, in terms of the longer one's length."""
    swap = (a.exponent < b.exponent) | ((a.exponent == b.exponent) & (a.size < b.size))
    swap = (swap & (b.size > 0)) | (a.size == 0)
    long, short = _chosen(swap, b, a), _chosen(swap, a, b)
    ratio = power_of_two(short.exponent - long.exponent, a.size.dtype) * short.size
    ratio = ratio / jnp.where(long.size == 0, 1, long.size)
    cosine = jnp.sum(long.unit * short.unit, -1)
    gap = 1 - ratio**2
    # tangent over ratio, the smaller root of the 2×2 problem [[1, r c], [r c, r²]]; 0 where there is nothing to do
    slope = 2 * cosine / jnp.where(cosine == 0, 1, gap + jnp.sqrt(gap**2 + (2 * ratio * cosine) ** 2))
    tangent = ratio * slope
    shrink = 1 / jnp.sqrt(1 + tangent**2)
    longer = _scaled(long, shrink[:, None] * (long.unit + (tangent * ratio)[:, None] * short.unit))
    left = shrink[:, None] * (short.unit - slope[:, None] * long.unit)
    lost = jnp.linalg.norm(left, axis=-1) <= left.shape[-1] * jnp.finfo(left.dtype).eps  # parallel but for rounding
    shorter = _scaled(short, jnp.where(lost[:, None], 0, left))
    return _chosen(swap, shorter, longer), _chosen(swap, longer, shorter)


def _scaled(rows: _Rows, changed: Any) -> _Rows:
    """`rows` with new directions whose norms go into the lengths."""
    new = _normalized(changed, rows.exponent)
    size = rows.size * new.size
    shift = jnp.where(size == 0, 0, exponent(size))
    return _Rows(new.unit, size * power_of_two(-shift, size.dtype), jnp.where(size == 0, 0, new.exponent + shift))


def _chosen(mask: Any, yes: _Rows, no: _Rows) -> _Rows:
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b), yes, no)
