"""Rows and findings of a certificate, from what the searches found."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jax.extend import core

from isometry.certificates import _confine, _findings, _layers
from isometry.certificates._closure import Closure
from isometry.certificates._confine import Confined, Piece
from isometry.certificates._findings import Finding, Row
from isometry.certificates._gradients import Space
from isometry.certificates._layers import (
    EVIDENCE,
    IN_EXACT_ARITHMETIC,
    LayerLock,
    Slice,
    View,
)
from isometry.certificates._partition import Mask
from isometry.certificates._subject import Subject
from isometry.structure import Anatomy, Attention
from isometry.structure._names import leaves

# What equal weights have in common: the shape, and the bytes of the classes.
_Content: TypeAlias = tuple[tuple[int, ...], bytes]


class Found(NamedTuple):
    """What the searches found. The relaxed f is f with its kinks made smooth.

    Attributes:
        exact: The result of `_closure.exact` for the relaxed f.
        apart: The same, if equal leaves may be updated by different functions; None if
            no entries of different leaves stay equal.
        affine: The result of `_closure.affine` for the relaxed f.
        kinked: The result of `_closure.affine` for f itself, without weight decay; None
            if f has no kinks.
        suspect: Entries that are equal in `affine` perhaps only because units are
            saturated.
        on_kinks: Entries that stay equal in exact arithmetic, and that the first
            rounding error of f itself makes different.
        is_coarse: Whether parameters may differ by less than the rounding of sums: they
            are float64, or f computes in float32.
        doubts: Why all results are only evidence, in words; empty if they are proofs.
        num_draws: The number of inputs at which f itself was tried.
        is_sorted: Whether f sorts signals.
    """

    exact: Closure
    apart: Closure | None
    affine: Closure
    kinked: Closure | None
    suspect: Mask
    on_kinks: Mask
    is_coarse: bool
    doubts: tuple[str, ...]
    num_draws: int
    is_sorted: bool


class _Views(NamedTuple):
    """The fields of `Found` of the same names, cut into leaves.

    `apart` is `exact` where there is no other result.
    """

    exact: View
    apart: View
    affine: View
    kinked: View | None
    suspect: list[np.ndarray]
    on_kinks: list[np.ndarray]

    def is_suspect(self, slice_: Slice) -> bool:
        """Tell whether entries of a weight are equal perhaps only by saturation."""
        return bool(self.suspect[slice_.leaf][slice_.within].any())

    def is_on_kinks(self, slice_: Slice) -> bool:
        """Tell whether a rounding error of f parts entries of a weight."""
        return bool(self.on_kinks[slice_.leaf][slice_.within].any())

    def first_gradient(self, slice_: Slice) -> int | None:
        """Return the first step at which a weight gets a gradient; None for never."""
        step = self.affine.first_gradient(slice_)
        # A smooth |x| squares small signals, which then need further steps to grow.
        # What f itself shows at theta is true, unless it is the choice of a kink.
        if step is None or self.kinked is None or self.is_on_kinks(slice_):
            return step
        seen = self.kinked.first_gradient(slice_)
        return 1 if seen == 1 else step


def assembled(
    about: Subject,
    space: Space,
    found: Found,
    *,
    confined: Mapping[Piece, Confined],
) -> tuple[tuple[LayerLock, ...], tuple[Finding, ...]]:
    """Return a row for each weight, and all findings, the gravest first.

    Args:
        about: What was certified.
        space: The parameters.
        found: What the searches found.
        confined: The subspaces in which the updates of each piece stay; empty if they
            were not searched for.
    """
    exact = View(space, found.exact)
    views = _Views(
        exact=exact,
        apart=exact,
        affine=View(space, found.affine),
        kinked=None,
        suspect=space.arrays(found.suspect),
        on_kinks=space.arrays(found.on_kinks),
    )
    if found.apart is not None:
        views = views._replace(apart=View(space, found.apart))
    if found.kinked is not None:
        views = views._replace(kinked=View(space, found.kinked))
    attentions = _attentions(about.anatomy)
    layers: list[LayerLock] = []
    findings: list[tuple[int, Finding]] = []
    for slice_ in _layers.slices(about.anatomy, space):
        row = _row(slice_, views, found, doubts=_doubts_of(slice_, about, views))
        row = row._replace(attention=attentions.get(slice_.layer.name))
        if views.is_on_kinks(slice_):
            row = _on_kinks(row, is_sorted=found.is_sorted)
        told = _findings.of_row(row)
        # A weight that is locked already needs no further bound by subspaces.
        if told is None and confined:
            row, told = _confined(row, confined)
        layers.append(row.lock)
        if told is not None:
            findings.append(told)
        waits = _findings.late(row)
        if waits is not None:
            findings.append((0, waits))
    layers = _with_equals(layers, about, space, views=views)
    findings += _of_copies(about, space, views=views, found=found)
    findings += _idle(about, space, views=views, layers=layers)
    return tuple(layers), _findings.sorted_by_gravity(findings)


def _doubts_of(
    slice_: Slice,
    about: Subject,
    views: _Views,
) -> list[str]:
    """Return reasons why the result for one weight is only evidence, in words."""
    doubts = []
    # The default draw shows every row of an embedding; a user's own may not.
    if about.draws_rows and slice_.layer.kind == "embedding":
        doubts.append("rows that draw never drew are not told from dead ones")
    if views.exact.is_fragile(slice_):
        doubts.append("rounding decides at ties")
    return doubts


def _row(
    slice_: Slice,
    views: _Views,
    found: Found,
    *,
    doubts: Sequence[str],
) -> Row:
    """Return the row of a weight, from the search that shows most.

    A result of the affine search replaces that of the exact search if it locks more,
    unless it would replace a proof by evidence. The search of f with its kinks is asked
    only if neither locks the weight.
    """
    row = _of_exact(slice_, views, [*found.doubts, *doubts])
    sums = _of_sums(slice_, views, found, exact=row)
    # `sums.reason` says why the affine result is only evidence; it replaces no lock.
    if sums is not None and not (row.lock.is_locked and sums.reason):
        row = sums
    if not row.lock.is_locked:
        row = _of_kinks(slice_, views, found) or row
    return row


def _of_exact(
    slice_: Slice,
    views: _Views,
    doubts: Sequence[str],
) -> Row:
    """Return the row of a weight that the exact search gives."""
    step = views.first_gradient(slice_)
    grade = EVIDENCE if doubts else None
    holds_for = _findings.ODD
    # If the counts depend on equal leaves, they hold only if all leaves have the same
    # settings.
    if views.apart.counts(slice_) != views.exact.counts(slice_):
        holds_for = _findings.ALIKE
    return Row(
        slice=slice_,
        lock=_layers.lock(slice_, views.exact, step=step, grade=grade),
        view=views.exact,
        attention=None,
        holds_for=holds_for,
        void_for=_findings.NOISE,
        reason="; ".join(doubts[:1]),
        is_seen=False,
    )


def _of_sums(
    slice_: Slice,
    views: _Views,
    found: Found,
    *,
    exact: Row,
) -> Row | None:
    """Return the row that the affine search gives; None if it shows no more.

    That search keeps the numbers of theta, so it sees sums that are equal though their
    terms are not.
    """
    # Counts are compared, because locks may differ in their grades only.
    if views.affine.counts(slice_) == views.exact.counts(slice_):
        return None
    reason = exact.reason
    if found.is_coarse:
        reason = "sums are equal as far as the rounding of f shows"
    if views.is_suspect(slice_):
        reason = "saturated units or underflow look alike"
    grade = EVIDENCE if reason else IN_EXACT_ARITHMETIC
    step = exact.lock.first_gradient
    return exact._replace(
        lock=_layers.lock(slice_, views.affine, step=step, grade=grade),
        view=views.affine,
        holds_for=_findings.ADDITIVE,
        void_for=_findings.L2,
        reason=reason,
    )


def _of_kinks(
    slice_: Slice,
    views: _Views,
    found: Found,
) -> Row | None:
    """Return the row that the search of f itself gives; None if it locks no slice.

    That search shows units that were off, or equal, at every input that was drawn.
    """
    if views.kinked is None:
        return None
    step = views.first_gradient(slice_)
    lock = _layers.lock(slice_, views.kinked, step=step, grade=EVIDENCE)
    # A single entry needs two units that are active at once, which may be rare in a
    # healthy network. So only whole slices count, which are dead or equal units.
    if lock.distinct == lock.shape:
        return None
    return Row(
        slice=slice_,
        lock=lock,
        view=views.kinked,
        attention=None,
        holds_for=_findings.ADDITIVE,
        void_for=_findings.L2,
        reason=f"in all of {found.num_draws} random inputs",
        is_seen=True,
    )


def _on_kinks(
    row: Row,
    *,
    is_sorted: bool,
) -> Row:
    """Lower the grade of a row whose units are on kinks, where rounding parts them."""
    grade = row.lock.grade
    # Sorting is stable: of two equal numbers the first stays first, in exact arithmetic
    # too, and the places behind the sort may have different weights.
    if is_sorted:
        lock = dataclasses.replace(row.lock, grade=EVIDENCE)
        return row._replace(lock=lock, reason="f sorts, and parts equal numbers")
    # The grade "evidence" already speaks of f as it is computed, with rounding.
    if grade is None or grade == EVIDENCE:
        return row
    # Rounding breaks the lock at once, so it cannot hold bit for bit.
    lock = dataclasses.replace(row.lock, grade=IN_EXACT_ARITHMETIC, is_on_kinks=True)
    return row._replace(lock=lock)


def _confined(
    row: Row,
    confined: Mapping[Piece, Confined],
) -> tuple[Row, tuple[int, Finding] | None]:
    """Return the row with its rank bound by subspaces, and the finding about it.

    The row is unchanged, and the finding None, if no subspace confines the updates.
    """
    layer = row.slice.layer
    # A layer that shares its leaf with others has no subspaces of its own.
    if layer.stretches:
        return row, None
    found = confined[row.slice.piece]
    if not _confine.is_claim(found, layer.shape):
        return row, None
    spans = found.spans
    # As a matrix of all axes but the last by the last, the update has at most as many
    # independent rows and columns as the subspaces have dimensions.
    bound = min(math.prod(spans[:-1]), spans[-1])
    lock = dataclasses.replace(
        row.lock,
        rank_bound=min(bound, row.lock.rank_bound),
        grade=EVIDENCE,
    )
    finding = _findings.confined(lock, spans, found.residual)
    return row._replace(lock=lock), (len(_findings.KINDS), finding)


def _with_equals(
    layers: Sequence[LayerLock],
    about: Subject,
    space: Space,
    *,
    views: _Views,
) -> list[LayerLock]:
    """Add to each row the names of the weights that stay equal or opposite to it.

    Equal weights need not be locked: together they may take any value.
    """
    by_code: dict[_Content, list[str]] = {}
    codes: dict[str, _Content] = {}
    for slice_ in _layers.slices(about.anatomy, space):
        # If each entry is alone in its class, no other weight is equal to this one.
        if views.exact.is_free(slice_):
            continue
        code = views.exact.code(slice_)
        moving = code[code != 0]
        if not moving.size:
            continue
        # Equal weights have equal codes, and opposite ones codes of opposite sign.
        normal = code * np.sign(moving.flat[0])
        content = (normal.shape, normal.tobytes())
        codes[slice_.name] = content
        by_code.setdefault(content, []).append(slice_.name)
    rows = []
    for row in layers:
        alike: list[str] = []
        if row.name in codes:
            alike = by_code[codes[row.name]]
        others = tuple(name for name in alike if name != row.name)
        rows.append(dataclasses.replace(row, equal_to=others))
    return rows


def _attentions(anatomy: Anatomy) -> dict[str, Attention]:
    """Return the attention that each layer belongs to, by the layer's name."""
    by_layer: dict[str, Attention] = {}
    for attention in anatomy.attentions:
        for names in attention[:4]:
            by_layer |= dict.fromkeys(names, attention)
    return by_layer


def _of_copies(
    about: Subject,
    space: Space,
    *,
    views: _Views,
    found: Found,
) -> Iterator[tuple[int, Finding]]:
    """Report slices of stacked leaves, and whole leaves, that stay equal."""
    grade = EVIDENCE if found.doubts else IN_EXACT_ARITHMETIC
    by_code: dict[_Content, list[str]] = {}
    for layer in about.anatomy.layers:
        if layer.path not in space.names or layer.stretches:
            continue
        leaf = space.names.index(layer.path)
        code = views.exact.whole(leaf)
        # Equal slices need not be locked: together they may take any value.
        if layer.stacked is not None and layer.stacked > 1:
            axes = layer.stacked_axes
            told = _findings.copies(
                layer.name,
                _findings.by_axes(code, axes),
                grade,
            )
            if told is not None:
                yield 1, told
        moving = code[code != 0]
        # Equal leaves have equal codes, and opposite ones codes of opposite sign.
        if found.apart is not None and moving.size:
            normal = code * np.sign(moving.flat[0])
            content = (normal.shape, normal.tobytes())
            by_code.setdefault(content, []).append(layer.name)
    for names in by_code.values():
        if len(names) > 1:
            yield 1, _findings.equal_leaves(names, grade)


def _idle(
    about: Subject,
    space: Space,
    *,
    views: _Views,
    layers: Sequence[LayerLock],
) -> Iterator[tuple[int, Finding]]:
    """Report leaves, other than weights, that never move although their layer does.

    A bias or a scale is then harmless: it is not used, or the next operation cancels
    it. A matrix, such as one of two whose product is a weight, is not. Nor is a scale
    of zero beside weights that never move: it may be what holds them.
    """
    weights = {layer.path for layer in about.anatomy.layers}
    biases = {layer.bias for layer in about.anatomy.layers}
    locked = {row.name.partition("[")[0] for row in layers if row.is_locked}
    of_locked = {layer.bias for layer in about.anatomy.layers if layer.name in locked}
    stacks = {len(layer.stacked_axes) for layer in about.anatomy.layers}
    # A bias of stacked layers has one axis more for each axis of the stack.
    most_axes = 1 + max(stacks, default=0)
    used = _used(about.anatomy, space)
    factors = _factors(about.anatomy, space)
    still = [row.name for row in layers if row.never_moves == 1]
    values = space.arrays(space.theta)
    # Leaves are shown by the names of layers: "attention/key/bias", without the
    # collection.
    params = space.params(space.arrays(space.theta))
    shown = {leaf.path: "/".join(leaf.steps) for leaf in leaves(params)}
    for i, name in enumerate(space.names):
        num_still = views.exact.num_still(i)
        if name in weights or name in of_locked or name not in used:
            continue
        # A leaf with more axes than a bias is a factor, of a weight for example. It can
        # wait for another factor.
        size, num_axes = math.prod(space.shapes[i]), len(space.shapes[i])
        is_factor = num_axes > most_axes and name not in biases
        step = views.affine.first_of_leaf(i)
        if is_factor and step is not None and step > 1:
            yield 0, _findings.waiting(shown[name], step)
        if not num_still:
            continue
        is_exact = views.exact.is_exact_zero(i)
        is_zero = not np.any(values[i])
        if is_factor and num_still == size:
            yield 0, _findings.never_moving(shown[name], is_exact)
        elif is_zero and still and name in factors:
            yield 0, _findings.zero_scale(shown[name], still, is_exact=is_exact)
        else:
            told = _findings.idle(shown[name], num_still, size=size, is_exact=is_exact)
            yield 1, told


def _used(
    anatomy: Anatomy,
    space: Space,
) -> set[str]:
    """Return the names of the leaves that the output may depend on.

    The running average of a batch norm, for example, is read and updated in training,
    but the output does not depend on it.
    """
    jaxpr = anatomy.closed.jaxpr
    live = {v for v in jaxpr.outvars if isinstance(v, core.Var)}
    for eqn in reversed(jaxpr.eqns):
        if live.isdisjoint(eqn.outvars):
            continue
        live |= {v for v in eqn.invars if isinstance(v, core.Var)}
    # The leaves of x come after those of params.
    pairs = zip(space.paths, jaxpr.invars, strict=False)
    return {path for path, variable in pairs if variable in live}


# What a scale may go through on its way to the product.
_RESHAPING = {"broadcast_in_dim", "convert_element_type", "reshape", "squeeze"}


def _factors(
    anatomy: Anatomy,
    space: Space,
) -> set[str]:
    """Return the names of the leaves that something is multiplied by, as by a scale.

    What happens inside a loop is not looked at.
    """
    jaxpr = anatomy.closed.jaxpr
    leaf_of = dict(zip(jaxpr.invars, space.paths, strict=False))
    found = set()
    for eqn in jaxpr.eqns:
        read = [v for v in eqn.invars if isinstance(v, core.Var) and v in leaf_of]
        name = eqn.primitive.name
        if name == "mul":
            found |= {leaf_of[v] for v in read}
        elif name in _RESHAPING and read:
            leaf_of[eqn.outvars[0]] = leaf_of[read[0]]
    return found
