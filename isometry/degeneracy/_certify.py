"""certify: what no training can undo, read off the weights."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isometry import _checks
from isometry.activations import Activation
from isometry.degeneracy._graph import BIT as BIT
from isometry.degeneracy._graph import TOLERANCE as TOLERANCE
from isometry.degeneracy._graph import AtZero, Graph
from isometry.degeneracy._partition import Classes
from isometry.degeneracy._support import Support
from isometry.networks._layered import LayeredNetwork as Network

BIT_FOR_BIT, IN_EXACT_ARITHMETIC = "bit for bit", "in exact arithmetic"

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
      the sum), and nothing is claimed about coarser ones. Weights of several roundings may be undecided.
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
    - `net`: an MLP, or a chain of such; `params`: its parameters, concrete. Where one block of a chain ends and the
      next begins the units are linear.

    **Returns** a `Certificate`. Sums are compared without any rounding first, then up to that of the weights. A lock of
    equal sums holds in exact arithmetic; in floating point its units part by rounding, which training may amplify. A
    lock of zeros holds bit for bit.

    **Raises** `ValueError`: a network whose units are not known (a plain function in a chain); parameters that are not
    one draw of this network's, or are NaN or infinite, with their layer and index; an activation without a forward
    derivative. `TypeError`: traced parameters.

    Cost: a few passes over the weights where they are generic; on the host.

    Source: lumpability (Kemeny and Snell, 1960); Simsek et al. (2021); for partial identity Theorem 1 of Zhao, Schäfer,
    Anandkumar (2022), arXiv:2110.12661.
    """
    _checks.concrete("certify", params=params)
    _checks.not_abstract("certify", params=params)
    _activations(net)
    _expect(net, params)
    return certify_drawn(net, params)


def certify_drawn(net: Network, params: Any) -> Certificate:
    """`certify`, of parameters that are one draw of this network's."""
    phis = _activations(net)
    layers: list[Any] = list(net.layers(jax.tree.map(on_host, params)))
    if wrong := not_finite(layers):
        raise _checks.InputError(f"certify(): {wrong}; nothing follows from weights that are NaN or infinite.")
    kind = jax.dtypes.canonicalize_dtype(layers[0].w.dtype)  # float64 is float32 to JAX unless in 64-bit mode
    at_zero = {phi: _at_zero(phi, kind) for phi in dict.fromkeys(phis)}
    graph = Graph([layer.w for layer in layers], [layer.b for layer in layers], [at_zero[phi] for phi in phis])
    classes, tier, gap, undecided = graph.partition(_unit(params))
    whole = graph.supports()
    small = whole if all(c.full for c in classes) else graph.quotient_supports(classes, tier)
    return _assemble(graph, classes, whole, small, tier, gap, undecided)


def _activations(net: Any) -> tuple[Activation, ...]:
    """Those of the hidden layers."""
    if not isinstance(net, Network):
        raise _checks.InputError(
            f"certify(): net={_checks.show(net)} is not a Network whose units are known; write networks.mlp(...)."
        )
    try:
        return net.hidden_activations
    except _checks.InputError as error:
        raise _checks.InputError(f"certify(): {error.message}") from error


def _expect(net: Network, params: Any) -> None:
    """Refuse parameters that are not one draw of this network's."""
    _checks.same_leaves("certify", _checks.leaf_shapes(jax.eval_shape(net.init, jax.random.key(0))), params)
    joints = itertools.pairwise(net.plan)
    if wrong := next(((a, b) for a, b in joints if a.fan_out != b.fan_in), None):
        raise _checks.InputError(
            f"certify(): layer {wrong[0].index + 1} returns {wrong[0].fan_out} numbers and the next takes "
            f"{wrong[1].fan_in}; give the blocks of a chain widths that fit."
        )


def _at_zero(phi: Activation, dtype: Any) -> AtZero:
    zero = jnp.zeros((), dtype)
    try:
        return AtZero(bool(phi.odd), float(phi(zero)) == 0, float(phi.slope(zero)) != 0)
    except Exception as error:
        raise _checks.InputError(
            f"certify(): activation {phi.name!r} raised {type(error).__name__} at 0, for its value or its slope; "
            "write one that jax.jvp differentiates (jax.custom_jvp, not jax.custom_vjp)."
        ) from error


def on_host(a: Any) -> np.ndarray:
    """As numpy; what numpy has no arithmetic for (bfloat16) as float32, which holds it exactly."""
    a = np.asarray(a)
    return a if a.dtype in (np.float32, np.float64) else a.astype(np.float32)


def _unit(params: Any) -> float:
    """Half the spacing of the coarsest of the parameters' dtypes at 1."""
    return max(float(jnp.finfo(jnp.result_type(a)).eps) for a in jax.tree.leaves(params)) / 2


def not_finite(layers: Iterable[Any]) -> str:
    """The first parameter that is NaN or infinite, with its layer (from 1) and index; empty if there is none."""
    for layer in layers:
        for name, a in (("w", layer.w), ("b", layer.b)):
            if a is not None and not np.isfinite(a).all():
                index = tuple(int(i) for i in np.argwhere(~np.isfinite(a))[0])
                return f"{name} of layer {layer.index + 1} is {a[index]} at {index}"
    return ""


def _assemble(
    graph: Graph,
    classes: list[Classes],
    whole: Support,
    small: Support,
    tier: str,
    gap: float,
    undecided: tuple[int, ...],
) -> Certificate:
    units = tuple(
        Units(
            i,
            graph.sizes[i],
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
        for i, w in enumerate(graph.weights)
    )
    return Certificate(units, bounds, tier, gap, undecided, graph.duplicates(classes))
