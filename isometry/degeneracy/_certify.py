"""certify: what no training can undo, read off the weights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _checks
from isometry.degeneracy import _support
from isometry.degeneracy._partition import Classes, Edge, Exact, Near, exact_sums, near_sums, refine, signed_columns
from isometry.degeneracy._settle import Tolerance, discrepancy, settle
from isometry.networks import Network

BIT, TOLERANCE = "bit", "tolerance"
BIT_FOR_BIT, IN_EXACT_ARITHMETIC = "bit for bit", "in exact arithmetic"
_TIGHT, _WIDE = 8.0, 1000.0  # rounding units within which sums are taken for equal, and for possibly equal
_COARSE = 2.0**-10  # where the wider of them is above, nothing is told apart: only the bit tier is offered

HOLDS = (
    "updates linear in W(0) and, in the loss gradient, permutation-equivariant or one odd function for all entries: "
    "SGD, momentum, Adam, AdamW, Lion, LAMB, Adafactor, SGD or momentum with L2"
)
VOID = (
    "L2 or L1 coupled into Adam or RMSProp, weight clipping, weight or spectral norm, orthogonality penalties, "
    "sharpness-aware perturbation, parameter noise, dropout, stochastic rounding"
)
"""Which updates keep a lock of equal sums, and which break it; a lock of zeros survives all but noise."""


@dataclass(frozen=True, eq=False)
class Units:
    """The units of one hidden layer.

    - `layer`: 1 is the first hidden layer; `width`: units.
    - `classes`: (width,) class of each unit, in order of appearance; −1 for units without activation and signal.
    - `signs`: (width,) ±1: the unit's activation is that of the first of its class times this.
    - `live`: (classes,) whether a class can ever carry both activation and signal.
    - `dead`: (width,) units that neither activation nor signal ever reaches, bit for bit.
    """

    layer: int
    width: int
    classes: np.ndarray = field(repr=False)
    signs: np.ndarray = field(repr=False)
    live: np.ndarray = field(repr=False)
    dead: np.ndarray = field(repr=False)

    @property
    def effective_width(self) -> int:
        """Live classes: the layer trains like one of so many units."""
        return int(self.live.sum())

    @property
    def locked(self) -> int:
        """Units that share a class with another: duplicates, and units without activation and signal if several."""
        return self.locked_live + self.locked_dead

    @property
    def locked_live(self) -> int:
        """Of `locked`, those of live classes."""
        sizes = self._sizes
        return int(sizes[(sizes > 1) & self.live].sum())

    @property
    def locked_dead(self) -> int:
        """Of `locked`, those of dead classes; units without activation and signal are such a class."""
        sizes, null = self._sizes, int((self.classes < 0).sum())
        return int(sizes[(sizes > 1) & ~self.live].sum()) + (null if null > 1 else 0)

    @property
    def _sizes(self) -> np.ndarray:
        return np.bincount(self.classes[self.classes >= 0], minlength=len(self.live))

    def __repr__(self) -> str:
        found = f"{len(self.live)} classes, effective width {self.effective_width} of {self.width}"
        return f"Units(layer {self.layer}: {found}, {int(self.dead.sum())} dead)"


@dataclass(frozen=True)
class Bound:
    """rank(W_layer(t) − γ_t W_layer(0)), and of the summed loss gradient, is at most `rank` at every step t.

    γ_t is what weight decay alone leaves of W(0), 1 without: W(t) − W(0) itself has full rank under decay.

    - `layer`: 1 is the first; `shape`: (fan_in, fan_out).
    - `exact_rank`: what zeros alone, without equal sums, allow: that bound holds bit for bit.
    - `first_gradient`: no gradient arrives before this step (1 is the first); None: never. `exact_first_gradient`: what
      zeros alone say of it: bit for bit none arrives before.
    """

    layer: int
    shape: tuple[int, int]
    rank: int
    exact_rank: int
    first_gradient: int | None
    exact_first_gradient: int | None

    @property
    def holds(self) -> str:
        """ "bit for bit", or "in exact arithmetic": rounding may then break it."""
        return BIT_FOR_BIT if self.rank == self.exact_rank else IN_EXACT_ARITHMETIC

    @property
    def binding(self) -> bool:
        """Whether it is below what the shape allows."""
        return self.rank < min(self.shape)


@dataclass(frozen=True, eq=False)
class Certificate:
    """What `certify` found.

    - `units`: of each hidden layer, `Units`; `bounds`: of each weight layer, `Bound`.
    - `tier`: "bit", sums equal without any rounding: no coarser partition exists; "tolerance", sums equal to within
      `discrepancy` (≤ 1) of what rounding explains, u·Σ|w| for weights each rounded once (and n·2⁻⁵³·Σ|w| for forming
      the sum), and nothing is claimed about coarser ones. Weights that were computed in several roundings may be undecided.
    - `undecided`: hidden layers where a coarser partition is neither verified nor refuted: its sums agree to between 1
      and 1000 times that.
    - `true_duplicates`: whether units of a class agree weight by weight, not only in their sums; then coupled L2 and
      clipping keep the locks as well.
    """

    units: tuple[Units, ...]
    bounds: tuple[Bound, ...]
    tier: str
    discrepancy: float
    undecided: tuple[int, ...]
    true_duplicates: bool

    @property
    def locked(self) -> tuple[Units, ...]:
        """Hidden layers with a class of two or more units."""
        return tuple(u for u in self.units if u.locked)

    @property
    def clear(self) -> bool:
        """Whether no lock of this kind was found: neither equal nor dead units, nor an undecided layer."""
        return not (self.locked or self.undecided or any(u.dead.any() for u in self.units))

    @property
    def holds_for(self) -> str:
        """Updates under which everything here holds."""
        return HOLDS

    @property
    def void_for(self) -> str:
        """Updates that break locks of equal sums."""
        exempt = (
            " (coupled L2, L1 and clipping excepted: the classes are true duplicates)" if self.true_duplicates else ""
        )
        return VOID + exempt

    def __repr__(self) -> str:
        lines = [f"Certificate({self.tier} tier, {'no lock found' if self.clear else 'locked'}"]
        lines += [f"  {unit!r}" for unit in self.units]
        for b in self.bounds:
            start = _start(b.first_gradient)
            if b.first_gradient != b.exact_first_gradient:
                start += f", {IN_EXACT_ARITHMETIC} ({BIT_FOR_BIT}: {_start(b.exact_first_gradient)})"
            limit = f"rank of the change ≤ {b.rank} of {min(b.shape)}, {b.holds}" if b.binding else "no bound"
            lines.append(f"  W_{b.layer} {b.shape[0]}×{b.shape[1]}: {limit}; {start}")
        if self.undecided:
            lines.append(f"  undecided: hidden layers {', '.join(map(str, self.undecided))}")
        return "\n".join(lines) + ")"


def _start(step: int | None) -> str:
    return "never a gradient" if step is None else f"gradient from step {step}"


def certify(net: Network, params: Any) -> Certificate:
    """What holds at every step of training, whatever the data, the loss and the learning rate, from the weights alone.

    Finds the coarsest equitable partition of the units: units of a class have equal activations (up to a sign if the
    activation is odd) and equal back-propagated signals for every input, now and after every step, so that the loss
    gradient of W_l is constant on blocks and

        rank(W_l(t) − γ_t W_l(0)) ≤ min(signal-live classes of layer l, activation-live classes of layer l − 1),

    where γ_t is what weight decay alone leaves of W(0); it is 1 without.

    What is live is a fixed point over all steps of training, not a fact of the first. Only locks of this kind are
    looked for: linear networks lock under rotations too, and few examples or steps bound the rank as well.

    **Arguments**
    - `net`: an MLP; `params`: its parameters, concrete.

    **Returns** a `Certificate`. Sums are compared without any rounding first, then up to that of the weights. A lock of
    equal sums holds in exact arithmetic; in floating point its units part by rounding, which training may amplify. A
    lock of zeros holds bit for bit.

    **Raises** `ValueError`: a network whose units are not known (a chain); parameters that are NaN or infinite, with
    their layer and index. `TypeError`: traced parameters.

    Cost: a few passes over the weights where they are generic; on the host.

    Source: lumpability (Kemeny and Snell, 1960); Simsek et al. (2021); for partial identity Theorem 1 of Zhao, Schäfer,
    Anandkumar (2022), arXiv:2110.12661.
    """
    _checks.concrete("certify", params=params)
    if not isinstance(net, Network) or not hasattr(net, "activation"):
        raise _checks.InputError(
            f"certify(): net={_checks.show(net)} is not a Network whose units are known; write networks.mlp(...)."
        )
    layers = list(net.layers(jax.tree.map(on_host, params)))
    if wrong := not_finite(layers):
        raise _checks.InputError(f"certify(): {wrong}; nothing follows from weights that are NaN or infinite.")
    weights, biases = [layer.w for layer in layers], [layer.b for layer in layers]
    zero, unit = jnp.zeros((), layers[0].w.dtype), _unit(params)
    at_zero, slope = float(net.activation(zero)) == 0, float(net.activation.slope(zero)) != 0
    chain = _Chain(weights, biases, bool(net.activation.odd) and at_zero, at_zero)
    classes, tier, gap, undecided = chain.partition(unit)
    whole = chain.supports(slope)
    full = all(c.full for c in classes)
    small = whole if full else _support.propagate(*chain.quotient(classes, tier), at_zero, slope)
    return _assemble(chain, classes, whole, small, tier, gap, undecided)


def on_host(a: Any) -> np.ndarray:
    """As numpy; what numpy has no arithmetic for (bfloat16) as float32, which holds it exactly."""
    a = np.asarray(a)
    return a if a.dtype in (np.float32, np.float64) else a.astype(np.float32)


def _unit(params: Any) -> float:
    """Half the spacing of the parameters' dtype at 1."""
    return float(jnp.finfo(jax.tree.leaves(params)[0].dtype).eps) / 2


def not_finite(layers: Iterable[Any]) -> str:
    """The first parameter that is NaN or infinite, with its layer (from 1) and index; empty if there is none."""
    for layer in layers:
        for name, a in (("w", layer.w), ("b", layer.b)):
            if a is not None and not np.isfinite(a).all():
                index = tuple(int(i) for i in np.argwhere(~np.isfinite(a))[0])
                return f"{name} of layer {layer.index + 1} is {a[index]} at {index}"
    return ""


@dataclass(frozen=True)
class _Chain:
    """A chain of layers as a graph of nodes: node 0 is the input, node l the units of layer l."""

    weights: Sequence[np.ndarray]
    biases: Sequence[np.ndarray | None]
    signed: bool
    zero_at_zero: bool

    @property
    def sizes(self) -> list[int]:
        return [w.shape[0] for w in self.weights] + [self.weights[-1].shape[1]]

    @property
    def edges(self) -> list[Edge]:
        return [Edge(i, i + 1, w) for i, w in enumerate(self.weights)]

    @property
    def hidden_biases(self) -> dict[int, np.ndarray]:
        return {i + 1: b for i, b in enumerate(self.biases[:-1]) if b is not None}

    def refined(self, rule: Exact | Near, start: list[Classes] | None = None) -> list[Classes]:
        options = {"signed": self.signed, "null": self.zero_at_zero, "start": start}
        return refine(self.sizes, self.edges, self.hidden_biases, rule, **options)

    def partition(self, unit: float) -> tuple[list[Classes], str, float, tuple[int, ...]]:
        """(classes, tier, discrepancy, undecided layers): the coarsest of the exact and the verified near partition."""
        if _WIDE * unit > _COARSE:
            return self.refined(Exact()), BIT, 0.0, ()
        wide = self.refined(Near(_WIDE * unit))  # never finer than the exact one: equal sums are near
        exact = self.refined(Exact(), start=wide)
        if not _coarser(wide, exact):
            return exact, BIT, 0.0, ()
        possible = self.settled(wide, Tolerance(unit, _WIDE))
        near = self.settled(self.refined(Near(_TIGHT * unit), start=possible), Tolerance(unit))
        verified = _coarser(near, exact) and not _coarser(exact, near)
        best = near if verified else exact
        gap = discrepancy(self.edges, self.hidden_biases, near, unit) if verified else 0.0
        return best, TOLERANCE if verified else BIT, gap, _coarser(possible, best)

    def settled(self, classes: list[Classes], tolerance: Tolerance) -> list[Classes]:
        return settle(self.edges, self.hidden_biases, classes, tolerance)

    def quotient(self, classes: list[Classes], tier: str) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        """Supports of the network of classes: its weights are the block sums, its biases those of the classes."""
        weights, biases = [], []
        for w, b, below, above in zip(self.weights, self.biases, classes[:-1], classes[1:], strict=True):
            rows = w.T if above.full else w.T[above.first]
            weights.append(_nonzero(rows, below, tier).T)
            biases.append(None if b is None else b[above.first] != 0)
        return weights, biases

    def supports(self, slope: bool) -> _support.Support:
        biases = [None if b is None else b != 0 for b in self.biases]
        return _support.propagate([w != 0 for w in self.weights], biases, self.zero_at_zero, slope)

    def duplicates(self, classes: list[Classes]) -> bool:
        """Whether weights are constant on blocks, up to signs, and zero where a unit is null."""
        return all(
            _constant_on_blocks(w, below, above)
            for w, below, above in zip(self.weights, classes[:-1], classes[1:], strict=True)
        )


def _coarser(found: list[Classes], than: list[Classes]) -> tuple[int, ...]:
    """Nodes where there are fewer classes."""
    return tuple(i for i, (a, b) in enumerate(zip(found, than, strict=True)) if a.count < b.count)


def _nonzero(rows: np.ndarray, classes: Classes, tier: str) -> np.ndarray:
    """Where block sums are not zero; in the tolerance tier, where rounding could not make them so."""
    if tier == BIT:
        return exact_sums(rows, classes)[:, : classes.count] != 0  # a sum that is rounded once is zero if exactly so
    sums, scale = near_sums(rows, classes)
    slack = Tolerance(float(np.finfo(rows.dtype).eps) / 2).of(scale, classes.sizes)
    return np.abs(sums) > np.where(classes.sizes > 1, slack, 0)


def _constant_on_blocks(w: np.ndarray, below: Classes, above: Classes) -> bool:
    if below.full and above.full:
        return True
    used, heads = below.ids >= 0, above.ids >= 0
    if w[~used].any() or w[:, ~heads].any():
        return False
    w = signed_columns(signed_columns(w, above.signs).T, below.signs).T
    model = w[below.first][:, above.first]
    return np.array_equal(w[np.ix_(used, heads)], model.take(below.ids[used], 0).take(above.ids[heads], 1))


def _assemble(
    chain: _Chain,
    classes: list[Classes],
    whole: _support.Support,
    small: _support.Support,
    tier: str,
    gap: float,
    undecided: tuple[int, ...],
) -> Certificate:
    units = tuple(
        Units(
            i,
            chain.sizes[i],
            classes[i].ids,
            classes[i].signs.astype(int),
            small.activation[i] & small.signal[i],
            ~(whole.activation[i] | whole.signal[i]),
        )
        for i in range(1, len(classes) - 1)
    )
    bounds = tuple(
        Bound(
            i + 1,
            w.shape,
            small.rank_bound(i + 1),
            whole.rank_bound(i + 1),
            small.first_gradient[i],
            whole.first_gradient[i],
        )
        for i, w in enumerate(chain.weights)
    )
    return Certificate(units, bounds, tier, gap, undecided, chain.duplicates(classes))
