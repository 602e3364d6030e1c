"""What a probe sees of the pre-activations: their rank, equal units, and how certified classes drift apart."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from isometry.degeneracy._certify import Certificate
from isometry.degeneracy._partition import Near, singletons
from isometry.degeneracy._unit_flags import all_layers

INPUTS = 256  # examples of the task that signals are taken at: as many singular values can be told apart
_EQUAL = 8.0  # units of rounding, relative to a unit's norm, within which two count as equal: √64 random-signed ones


@dataclass(frozen=True)
class Signals:
    """Pre-activations along a probe over `inputs` examples, before step 1 and at each record: (seeds, records, …).

    - `steps`: (records,) steps made.
    - `rank`: (…, depth) numerical rank, over inputs × units, of z_1 … z_depth; the last is the network function's.
    - `duplicates`: (…, depth − 1) units of z_l that equal an earlier one at every input, to a few rounding units.
    - `spread`: (seeds, records) largest distance of a unit from the first of its live class, relative to that one's
      norm; certified to be zero in exact arithmetic. 0 where no live class is shared.
    - `least`: (seeds, records) smallest distance |z − k| of a unit in a shared live class from a kink k of phi,
      relative to the root mean square of its layer: units nearer to a kink than rounding can part at once. inf where
      no live class is shared, or phi has no kink.
    """

    inputs: int
    steps: np.ndarray
    rank: np.ndarray
    duplicates: np.ndarray
    spread: np.ndarray
    least: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def growth(self) -> tuple[float, tuple[float, float]] | None:
        """(rate, 95 % interval) of the spread, per step: the slope of ln spread, its seeds having each their own level.

        None where fewer than four values are above zero. The interval is that of least squares, of residuals that are
        independent; a curve that bends widens it.
        """
        from scipy.stats import t

        real = (self.spread > 0) & np.isfinite(self.spread)
        freedom = int(real.sum() - real.any(1).sum()) - 1
        if freedom < 2:
            return None
        mean = lambda a: np.where(real, a, 0).sum(1, keepdims=True) / np.maximum(real.sum(1, keepdims=True), 1)  # noqa: E731
        logs = np.log(np.where(real, self.spread, 1))
        x = np.where(real, self.steps - mean(np.broadcast_to(self.steps, real.shape)), 0)
        y = np.where(real, logs - mean(logs), 0)
        rate = float((x * y).sum() / (x**2).sum())
        error = np.sqrt(((y - rate * x) ** 2).sum() / freedom / (x**2).sum()) * t.ppf(0.975, freedom)
        return rate, (rate - float(error), rate + float(error))


def observe(
    function: Any, params: Any, xs: Any, certificates: Sequence[Certificate], kinks: tuple[float, ...]
) -> tuple[np.ndarray, ...]:
    """(rank, duplicates, spread, least) of one record; see `Signals`. Not finite counts as rank 0 and spread inf."""
    layers = [np.asarray(z) for z in all_layers(function, params, xs[:INPUTS])]
    rank = np.stack([rank_of(z) for z in layers], 1)
    duplicates = np.array([[_duplicates(one) for one in z] for z in layers[:-1]]).reshape(len(layers) - 1, len(rank)).T
    spread, least = np.zeros(len(rank)), np.full(len(rank), np.inf)
    for seed, certificate in enumerate(certificates):
        for units, z in zip(certificate.units, layers[:-1], strict=True):
            apart, near = _of_classes(z[seed].astype(float), units, kinks)
            spread[seed], least[seed] = max(spread[seed], apart), min(least[seed], near)
    return rank, duplicates, spread, least


def rank_of(matrices: np.ndarray, tolerance: np.ndarray | None = None) -> np.ndarray:
    """Singular values above `tolerance`, or max(m, n)·eps of the largest; 0 of a matrix that is not finite."""
    finite = np.isfinite(matrices).all((-2, -1), keepdims=True)
    s = np.linalg.svd(np.where(finite, matrices, 0).astype(float), compute_uv=False)
    rounding = max(matrices.shape[-2:]) * float(jnp.finfo(matrices.dtype).eps) * s[..., 0]
    return (s > (rounding if tolerance is None else tolerance)[..., None]).sum(-1)


def _duplicates(z: np.ndarray) -> int:
    """Units, not zero, that equal an earlier one."""
    if not np.isfinite(z).all():
        return 0
    ids, _ = Near(_EQUAL * float(jnp.finfo(z.dtype).eps) / 2).group([(z.T, singletons(len(z)))], False)
    return int((ids >= 0).sum() - len(np.unique(ids[ids >= 0])))


def _of_classes(z: np.ndarray, units: Any, kinks: tuple[float, ...]) -> tuple[float, float]:
    """(spread, least) of the live classes that are shared, of (inputs, units)."""
    sizes = np.bincount(units.classes[units.classes >= 0], minlength=len(units.live))
    member = (units.classes >= 0) & ((sizes > 1) & units.live)[units.classes] if len(sizes) else units.classes > 0
    if not member.any():
        return 0.0, np.inf
    if not np.isfinite(z).all():
        return np.inf, 0.0 if kinks else np.inf
    first = np.array([np.argmax(units.classes == c) for c in units.classes[member]])
    model, norms = z[:, first], np.linalg.norm(z[:, first], axis=0)
    apart = np.linalg.norm(z[:, member] * units.signs[member] - model, axis=0)
    worst = np.max(apart / np.where(norms > 0, norms, 1))
    near, scale = min((np.abs(z[:, member] - k).min() for k in kinks), default=np.inf), np.sqrt(np.mean(z**2))
    return float(worst), float(near / scale) if scale else near
