"""Findings: what no training undoes, in words, and what to do about it."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from isometry._internal.numerals import percent
from isometry.certificates._doubts import PIECES
from isometry.certificates._layers import (
    BIT_FOR_BIT,
    EVIDENCE,
    IN_EXACT_ARITHMETIC,
    LayerLock,
    Slice,
    View,
    full_rank,
    slice_ids,
)
from isometry.structure import Attention

# The optimizers for which locks hold, by what the lock rests on:
# - ODD, the exact search: updates are odd functions of the gradients, the same for all
#   entries of an array.
# - WHOLE, in addition: updates are functions of whole matrices, and the lock is
#   constant on blocks.
# - ADDITIVE, the affine search: updates are linear in the initial weights.
# - ALIKE, equal leaves: all arrays have the same settings.
# - ROTATIONS, subspaces: updates commute with rotations of the gradients.
ODD = (
    "SGD, momentum, Adam, AdamW, RMSProp, Lion, LAMB, L2 and weight decay, clipping "
    "(one odd function for all entries of an array)"
)
WHOLE = ", Muon, Shampoo, SOAP, Adafactor"
ADDITIVE = (
    "SGD, momentum, Adam, AdamW, RMSProp, Lion, LAMB, weight decay, clipping of "
    "gradients (linear in the initial weights)"
)
ALIKE = (
    "SGD, momentum, Adam, AdamW, RMSProp, Lion, with the same settings for all arrays"
)
ROTATIONS = "SGD, momentum, weight decay, Muon, Shampoo"

# What breaks locks. Adam divides a rounding error by its own size, and the iteration of
# Muon enlarges small singular values, also those of rounding.
NOISE = "parameter noise, stochastic rounding, SAM with noise, masks or rates per entry"
L2 = "L2 inside Adam or RMSProp, clipping of weights, " + NOISE
ROUNDING = "; rounding parts equal slices slowly under Adam and fast under Muon"
ON_KINKS = ", floating point: the first rounding parts units on kinks"
ELEMENTWISE = "Adam, RMSProp, Lion and all that treat entries one by one, " + NOISE


# The share of a weight that never moves from which on units that were off at every
# input count. Chance turns off fewer: of two layers in a row, each half of its units.
_MOST = 3 / 4

# The remedy for units, or experts, that were off at every input that was drawn.
_OF_INPUTS = "Try it on your data (xs=); a smaller bias or a leaky ReLU revives it."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that no training undoes.

    Attributes:
        layer: The name of the layer, or of the leaf.
        what: What was found: "16 channels, 3 distinct".
        grade: "bit for bit"; "in exact arithmetic", if rounding may break it; or
            "evidence", if it is no proof.
        holds_for: The optimizers for which the finding holds.
        void_for: What breaks it.
        remedy: What to do about it.
        is_harmless: Whether it does not hinder training, as a bias that a softmax
            cancels, or a layer that starts late.
        counts: Whether a certificate with this finding is not clear. Harmless findings
            do not count, nor do confined updates, nor some units that were off at every
            input that was drawn: fewer than three in four.

    Example:
        >>> net = networks.mlp([3, 4, 2], "tanh", jax.nn.initializers.ones)
        >>> cert = isometry.certify(net, net.init(jax.random.key(0)))
        >>> print(cert.findings[0])
        layers/0: 4 units, 1 distinct
    """

    layer: str
    what: str
    grade: str
    holds_for: str
    void_for: str
    remedy: str
    is_harmless: bool = False
    counts: bool = True

    def __str__(self) -> str:
        return f"{self.layer}: {self.what}"


class Row(NamedTuple):
    """What the certificate says of one weight, and what its findings are made from.

    Attributes:
        slice: The weight, or the slice of a stacked one.
        lock: What the certificate says of it: its row in `Certificate.layers`.
        view: The result of the search on which the row rests.
        attention: The attention that the weight belongs to, or None.
        holds_for: The optimizers for which the lock holds.
        void_for: What breaks the lock.
        reason: Why the lock is only evidence, in words; or "".
        is_seen: Whether the lock was only seen at the inputs that were drawn.
    """

    slice: Slice
    lock: LayerLock
    view: View
    attention: Attention | None
    holds_for: str
    void_for: str
    reason: str
    is_seen: bool

    @property
    def code(self) -> Int[np.ndarray, "..."]:
        """The class of each entry times its sign."""
        return self.view.code(self.slice)

    @property
    def rests_on_inputs(self) -> bool:
        """Whether inputs that were not drawn may show that the lock does not hold."""
        return self.is_seen or self.reason.startswith(PIECES)

    def finding(
        self,
        what: str,
        remedy: str,
    ) -> Finding:
        """Return a finding about this row."""
        grade = self.lock.grade or EVIDENCE
        holds_for, void_for = self.holds_for, self.void_for
        # Entries whose gradient is 0.0 stay, whatever an optimizer does to the others.
        if grade == BIT_FOR_BIT:
            void_for = NOISE
        # The polar factor and the row means of a matrix that is constant on blocks are
        # constant on these blocks too.
        if self.lock.is_product:
            holds_for += WHOLE
        is_exact = grade not in (BIT_FOR_BIT, EVIDENCE)
        # The lock is true of real numbers, but the first rounding errors break it.
        if self.lock.is_on_kinks:
            what += "; units sit on kinks, and the first rounding parts them"
            void_for += ON_KINKS
        elif is_exact:
            void_for += ROUNDING
        if grade == EVIDENCE:
            what += f" ({self.reason})"
        return Finding(
            layer=self.lock.name,
            what=what,
            grade=grade,
            holds_for=holds_for,
            void_for=void_for,
            remedy=remedy,
            counts=not self.is_seen or self.lock.never_moves >= _MOST,
        )


def never(row: Row) -> Finding | None:
    """Report a weight that never gets a gradient."""
    if row.lock.never_moves < 1:
        return None
    remedy = (
        "Draw at random what it is multiplied with: the layers before and behind it."
    )
    if row.rests_on_inputs:
        remedy = _OF_INPUTS
    # The logits are a product of queries and keys, so each is a factor of the
    # gradient of the other.
    elif row.slice.layer.role in ("query", "key"):
        remedy = "Draw queries and keys at random: each waits for the other's gradient."
    return row.finding("never gets a gradient", remedy)


def heads(row: Row) -> Finding | None:
    """Report heads of an attention that stay equal or opposite."""
    by_head = _by_head(row)
    if by_head is None:
        return None
    ids = slice_ids(by_head, 0)
    if _num_distinct(ids) == len(ids):
        return None
    what = _counted("heads", by_head, ids)
    return row.finding(
        what,
        "Draw query, key, value and output of each head with a key of its own.",
    )


def experts(row: Row) -> Finding | None:
    """Report experts that stay equal or opposite."""
    axes = row.slice.layer.batch_axes
    if not axes:
        return None
    by_expert = by_axes(row.code, axes)
    ids = slice_ids(by_expert, 0)
    if _num_distinct(ids) == len(ids):
        return None
    remedy = "Draw each expert with a key of its own, and a gate that is not zero."
    if row.rests_on_inputs:
        remedy = _OF_INPUTS
    return row.finding(_counted("experts", by_expert, ids), remedy)


def units(row: Row) -> Finding | None:
    """Report units, channels or outputs that stay equal or opposite, or never move."""
    layer = row.slice.layer
    # Units are counted along all axes of outputs: heads may have one of their own.
    axes = (*layer.batch_axes, *layer.out_axes)
    by_unit = by_axes(row.code, axes)
    ids = slice_ids(by_unit, 0)
    if _num_distinct(ids) == len(ids):
        return None
    what = _counted(_noun(row), by_unit, ids)
    all_dead = (ids < 0).sum() == len(ids) - _num_distinct(ids)
    if all_dead:
        remedy = (
            "Give the units that never move a weight that is not zero on both sides, "
            "drawn at random."
        )
    else:
        remedy = (
            "Draw this weight, or the one behind it, at random: orthogonal, Gaussian."
        )
    if row.rests_on_inputs:
        remedy = _OF_INPUTS
    return row.finding(what, remedy)


def inputs(row: Row) -> Finding | None:
    """Report inputs of a weight that stay equal or opposite, or never move."""
    layer = row.slice.layer
    by_input = by_axes(row.code, layer.in_axes)
    ids = slice_ids(by_input, 0)
    if _num_distinct(ids) == len(ids):
        return None
    noun = "rows" if layer.kind == "embedding" else "inputs"
    remedy = (
        "Draw the layers before it at random: these inputs are units of theirs that "
        "stay equal, or never move."
    )
    if row.rests_on_inputs:
        remedy = _OF_INPUTS
    # Inputs of the network itself may be constant: a pixel that is always zero.
    if layer.reads is not None and layer.reads.startswith("input"):
        remedy = "Nothing, if these inputs are constant by nature; else vary them."
    return row.finding(_counted(noun, by_input, ids), remedy)


def rank(row: Row) -> Finding | None:
    """Report an update whose rank is lower than the shape of the weight allows."""
    if row.lock.rank_bound == full_rank(row.lock.shape):
        return None
    what = f"rank of the update at most {row.lock.rank_bound} of "
    what += str(full_rank(row.lock.shape))
    return row.finding(what, "Draw the weights around it at random.")


def window(row: Row) -> Finding | None:
    """Report taps of a convolution's window at which no entry ever moves."""
    by_place = by_axes(row.code, row.slice.layer.window_axes)
    is_still = (by_place == 0).all(axis=1)
    # If entries at other places never move either, the cause is not the window.
    if not is_still.any() or (by_place[~is_still] == 0).any():
        return None
    what = f"{is_still.sum()} of {len(by_place)} places of its window never get a "
    return row.finding(
        what + "gradient",
        "If they read padding alone, larger inputs, a smaller stride before it or a "
        "smaller window. Nothing, if a mask keeps them at zero on purpose.",
    )


def entries(row: Row) -> Finding | None:
    """Report entries that never move, or that stay equal or opposite.

    This function is the last of `KINDS`: here no two slices are equal, and the update
    has full rank.
    """
    if not row.lock.is_locked:
        return None
    if row.lock.never_moves > 0:
        what = f"{percent(row.lock.never_moves)} of the entries never get a gradient"
        return row.finding(what, "Nothing, if a mask keeps them at zero on purpose.")
    return row.finding(
        "entries stay equal or opposite",
        "Nothing, if they are tied on purpose.",
    )


# The first function that returns a finding decides for the row, the gravest first: what
# the later ones would find follows from it.
KINDS: tuple[Callable[[Row], Finding | None], ...] = (
    never,
    experts,
    heads,
    units,
    inputs,
    rank,
    window,
    entries,
)


def of_row(row: Row) -> tuple[int, Finding] | None:
    """Return the first finding about a row, and its place in `KINDS`; or None."""
    if not row.lock.is_locked:
        return None
    for number, kind in enumerate(KINDS):
        finding = kind(row)
        if finding is not None:
            return number, finding
    return None


def late(row: Row) -> Finding | None:
    """Report a layer that waits for others to move first; it is harmless."""
    step = row.lock.first_gradient
    if step is None or step == 1:
        return None
    grade = EVIDENCE if row.reason else IN_EXACT_ARITHMETIC
    return waiting(row.lock.name, step, grade)


def waiting(
    name: str,
    step: int,
    grade: str = IN_EXACT_ARITHMETIC,
) -> Finding:
    """Report an array whose first gradient comes after the first step."""
    return Finding(
        layer=name,
        what=f"first gradient at step {step}",
        grade=grade,
        holds_for=ODD + WHOLE,
        void_for=NOISE,
        remedy="Nothing: it starts when the weight behind it has left zero.",
        is_harmless=True,
        counts=False,
    )


def idle(
    name: str,
    num_still: int,
    *,
    size: int,
    is_exact: bool,
) -> Finding:
    """Report a leaf beside the weights that never moves; it is harmless."""
    grade = BIT_FOR_BIT if is_exact else IN_EXACT_ARITHMETIC
    share = "" if num_still == size else f"{num_still} of {size} entries "
    void_for = NOISE
    if not is_exact:
        void_for += "; rounding moves it under Adam and Muon, without effect"
    return Finding(
        layer=name,
        what=f"{share}never moves" if not share else f"{share}never move",
        grade=grade,
        holds_for=ODD,
        void_for=void_for,
        remedy="Nothing: what follows cancels it, it is not used, or it is part of "
        "what never moves.",
        is_harmless=True,
        counts=False,
    )


def zero_scale(
    name: str,
    still: Sequence[str],
    *,
    is_exact: bool,
) -> Finding:
    """Report a scale that stays zero beside weights that never move."""
    others = ", ".join(still[:3]) + (", ..." if len(still) > 3 else "")
    return Finding(
        layer=name,
        what="is zero and never moves",
        grade=BIT_FOR_BIT if is_exact else IN_EXACT_ARITHMETIC,
        holds_for=ODD + WHOLE,
        void_for=NOISE,
        remedy="Start it away from zero, or what it multiplies: a zero scale and zero "
        f"weights wait for each other. Weights that never move: {others}.",
        counts=False,
    )


def never_moving(
    name: str,
    is_exact: bool,
) -> Finding:
    """Report an array that is no layer of its own, and never gets a gradient."""
    return Finding(
        layer=name,
        what="never gets a gradient",
        grade=BIT_FOR_BIT if is_exact else IN_EXACT_ARITHMETIC,
        holds_for=ODD + WHOLE,
        void_for=NOISE,
        remedy="Draw at random what it is multiplied with.",
    )


def copies(
    name: str,
    by_copy: Int[np.ndarray, "copies entries"],
    grade: str,
) -> Finding | None:
    """Report slices of a stacked weight, as of experts, that stay equal or opposite."""
    ids = slice_ids(by_copy, 0)
    # Slices that never move are left out, because each has a finding of its own.
    moving = ids[ids >= 0]
    if len(set(moving.tolist())) == len(moving):
        return None
    return Finding(
        layer=name,
        what=_counted("slices", by_copy, ids),
        grade=grade,
        holds_for=ODD,
        void_for=NOISE + ROUNDING,
        remedy="Draw each of the slices with a key of its own.",
    )


def equal_leaves(
    names: Sequence[str],
    grade: str,
) -> Finding:
    """Report whole arrays that stay equal or opposite."""
    return Finding(
        layer=", ".join(names),
        what=f"{len(names)} equal weights, 1 distinct",
        grade=grade,
        holds_for=ALIKE,
        void_for="other rates for one of them, " + NOISE + ROUNDING,
        remedy="Draw each with a key of its own.",
    )


def confined(
    lock: LayerLock,
    spans: Sequence[int],
    residual: float,
) -> Finding:
    """Report an update that stays in subspaces, as far as numbers show."""
    within, whole = ("×".join(map(str, sizes)) for sizes in (spans, lock.shape))
    what = f"update within {within} of {whole} directions (residual {residual:.0e})"
    return Finding(
        layer=lock.name,
        what=what,
        grade=EVIDENCE,
        holds_for=ROTATIONS,
        void_for=ELEMENTWISE,
        remedy="Nothing with Adam, which leaves these directions; with SGD or Muon "
        "draw the weights as Gaussian.",
        counts=False,
    )


def sorted_by_gravity(found: Iterable[tuple[int, Finding]]) -> tuple[Finding, ...]:
    """Return findings, the gravest first and the harmless ones last.

    Args:
        found: Pairs of a place in `KINDS`, lower for graver kinds, and a finding.
    """

    def gravity(pair: tuple[int, Finding]) -> tuple[bool, bool, int]:
        number, finding = pair
        return finding.is_harmless, finding.grade == EVIDENCE, number

    # Sorting is stable: within a kind, findings stay in the order of the layers.
    return tuple(finding for _, finding in sorted(found, key=gravity))


def by_axes(
    code: Int[np.ndarray, "..."],
    axes: Sequence[int],
) -> Int[np.ndarray, "slices entries"]:
    """Return an array as a matrix with one row for each index into some axes."""
    rest = [axis for axis in range(code.ndim) if axis not in axes]
    num_rows = math.prod(code.shape[axis] for axis in axes)
    return code.transpose(*axes, *rest).reshape(num_rows, -1)


def _by_head(row: Row) -> Int[np.ndarray, "heads entries"] | None:
    """Return a weight of an attention with a row for each head, if it has several."""
    attention, layer = row.attention, row.slice.layer
    if attention is None or not attention.head_size:
        return None
    # The output layer has heads along its inputs, and the others along their outputs.
    is_output = layer.role == "output"
    axes = layer.in_axes if is_output else layer.out_axes
    if layer.role not in ("query", "key", "value", "output") or not axes:
        return None
    rows = by_axes(row.code, axes)
    num_heads = len(rows) // attention.head_size
    if num_heads < 2 or num_heads * attention.head_size != len(rows):
        return None
    # The channels of a head lie side by side, with an axis of their own or without.
    return rows.reshape(num_heads, -1)


def _num_distinct(ids: Int[np.ndarray, " slices"]) -> int:
    """Count the distinct slices among those that move."""
    return len(set(ids[ids >= 0].tolist()))


def _noun(row: Row) -> str:
    layer = row.slice.layer
    if layer.kind == "conv":
        return "channels"
    if layer.kind == "embedding":
        return "features"
    return "outputs" if layer.role == "head" else "units"


def _counted(
    noun: str,
    code: Int[np.ndarray, "slices entries"],
    ids: Int[np.ndarray, " slices"],
) -> str:
    """Return how many slices differ: "16 channels, 3 distinct, 4 never move"."""
    moving = ids[ids >= 0]
    text = f"{len(ids)} {noun}, {_num_distinct(ids)} distinct"
    if _has_opposite(code, ids):
        text += " up to sign"
    num_dead = len(ids) - len(moving)
    if num_dead:
        text += f", {num_dead} never move" if num_dead > 1 else ", 1 never moves"
    return text


def _has_opposite(
    code: Int[np.ndarray, "slices entries"],
    ids: Int[np.ndarray, " slices"],
) -> bool:
    """Tell whether any two slices are opposite, and not equal."""
    moving = np.flatnonzero(ids >= 0)
    first = np.full(int(ids.max(initial=-1)) + 1, -1)
    for i in moving[::-1]:
        first[ids[i]] = i
    return any((code[i] != code[first[ids[i]]]).any() for i in moving)
