"""The flag locked_symmetry: units, channels, heads or experts that stay equal."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from isometry._internal.types import Key
from isometry.certificates import Certificate, Finding, LayerLock
from isometry.certificates._layers import EVIDENCE
from isometry.structure import WeightLayer
from isometry.verdicts._flag import CLEAR, NOT_RUN, RAISED, UNDECIDED, Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._names import listed
from isometry.verdicts._registry import flag
from isometry.verdicts._spread import Spread

_NAME = "locked_symmetry"

# The rounding error of a sum of 64 terms of random sign, relative to the root mean
# square of the layer. Units nearer than this to a kink may round to different sides.
_ROUNDING = 8 * float(np.finfo(np.float32).eps)

_REMEDY = (
    'random weights in every layer: net.with_scheme("orthogonal") or "gaussian"; or '
    "noise of std 0.1/√fan_in on the weights: it spreads ln s by 0.1·√(depth/2), and "
    "equal units part as training amplifies it"
)
_SOURCE = "isometry.certify: the smallest signed partition that every gradient keeps"

# A word in every finding of equal slices: "16 channels, 3 distinct".
_DISTINCT = "distinct"


class _Locked(NamedTuple):
    """A weight whose output units stay equal, opposite or zero for ever.

    Attributes:
        layer: The layer.
        lock: What the certificate says of the layer.
        width: The number of units that the layer makes.
        effective: How many of these units can ever differ, up to sign.
    """

    layer: WeightLayer
    lock: LayerLock
    width: int
    effective: int


@flag(_NAME, rank=30, source=_SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether hidden units stay equal, opposite or dead for ever, in any seed.

    The value is the number of units of the worst layer that can ever differ, and the
    threshold is the width of that layer. A lock is a fact of the draw, so one seed is
    enough. If units are equal only in exact arithmetic, the probe shows how fast
    rounding makes them drift apart, and how near they come to a kink of the
    nonlinearity.
    """
    del key
    certificates = measured.certificates
    if not certificates:
        return Flag(_NAME, NOT_RUN, "nothing could be certified", source=_SOURCE)
    layers = {layer.name: layer for layer in measured.subject.anatomy.layers}
    locked = [_locked(certificate, layers) for certificate in certificates]
    sure = [[one for one in rows if one.lock.grade != EVIDENCE] for rows in locked]
    told = [_told(certificate) for certificate in certificates]
    evidence: dict[str, Any] = {
        "seeds": [
            _plain(certificate, rows)
            for certificate, rows in zip(certificates, locked, strict=True)
        ]
    }
    # A lock of grade "evidence", such as units that were active at no random input, is
    # no proof and does not raise the flag.
    seeds_locked = [i for i in range(len(sure)) if sure[i] or told[i]]
    if seeds_locked:
        first = seeds_locked[0]
        evidence["locked_seeds"] = len(seeds_locked)
        result = _raised(
            certificates[first], sure[first], told[first], evidence=evidence
        )
        every = [one for rows in sure for one in rows]
        # If only whole blocks are equal, there is no layer whose width could be given.
        worst = min(every, key=_share, default=None)
        if worst is not None:
            result = dataclasses.replace(
                result, value=worst.effective, threshold=worst.width
            )
        probe = measured.probe
        if probe is None or probe.signals is None:
            return result
        return with_growth(result, probe.signals)
    unproven = [one for rows in locked for one in rows]
    return _without_proof(certificates, unproven, evidence)


def _without_proof(
    certificates: Sequence[Certificate],
    unproven: Sequence[_Locked],
    evidence: dict[str, Any],
) -> Flag:
    """Return the flag where no lock is proved: undecided or clear.

    Args:
        certificates: A certificate for each seed.
        unproven: The locks that are evidence, and no proof, of all seeds.
        evidence: That of the flag.
    """
    open_ = [one for one in unproven if not _is_dead_alone(one)]
    if open_:
        names = tuple(dict.fromkeys(one.lock.name for one in open_))
        grades = _findings_of(certificates, names)
        return Flag(
            _NAME,
            UNDECIDED,
            f"{grades[0] if grades else listed(names)}: evidence, and no proof",
            remedy=_REMEDY,
            source=_SOURCE,
            evidence=evidence,
            where=names,
        )
    reason = "no equal units found"
    if unproven:
        names = tuple(dict.fromkeys(one.lock.name for one in unproven))
        reason += f"; units of {listed(names)} may never be active: see dead_units"
    return Flag(
        _NAME,
        CLEAR,
        reason,
        remedy=_REMEDY,
        source=_SOURCE,
        evidence=evidence,
    )


def _locked(
    certificate: Certificate,
    layers: dict[str, WeightLayer],
) -> list[_Locked]:
    """Return the weights whose output units are locked, without the head."""
    rows = []
    for lock in certificate.layers:
        # A slice of a stack is named by its layer and its number: "blocks/fc[2]".
        layer = layers.get(lock.name) or layers.get(lock.name.rpartition("[")[0])
        # A head is left out: its targets make the outputs differ, and a softmax may
        # make some of them equal by design.
        if layer is None or layer.role == "head":
            continue
        axes = (*layer.batch_axes, *layer.out_axes)
        width = math.prod(lock.shape[axis] for axis in axes)
        effective = math.prod(lock.distinct[axis] for axis in axes)
        if effective < width:
            row = _Locked(layer, lock, width=width, effective=effective)
            rows.append(row)
    return rows


def _is_dead_alone(one: _Locked) -> bool:
    """Tell whether all locked units never move, so that none is locked by equality."""
    num_missed = one.width - one.effective
    # A unit that never moves has a share of 1/width in the entries of the weight. The
    # share is exact, so half a unit allows for rounding.
    return one.lock.never_moves * one.width > num_missed - 0.5


def _told(certificate: Certificate) -> list[Finding]:
    """Return findings of equal blocks: slices of a stack, or whole weights.

    Only proofs are returned, and findings that do harm.
    """
    # Findings about a single weight are left out, as its row in the certificate says
    # the same.
    names = {layer.name for layer in certificate.layers}
    return [
        finding
        for finding in certificate.findings
        if finding.layer not in names
        and not finding.is_harmless
        and finding.grade != EVIDENCE
        and _DISTINCT in finding.what
    ]


def _findings_of(
    certificates: Sequence[Certificate],
    names: Sequence[str],
) -> list[str]:
    """Return the findings about some weights, in words."""
    return [
        str(finding)
        for certificate in certificates
        for finding in certificate.findings
        if finding.layer in names and not finding.is_harmless
    ]


def _share(one: _Locked) -> float:
    return one.effective / max(one.width, 1)


def _raised(
    certificate: Certificate,
    locked: Sequence[_Locked],
    told: Sequence[Finding],
    evidence: dict[str, Any],
) -> Flag:
    """Return the flag for the first seed with a lock."""
    names = tuple(dict.fromkeys(one.lock.name for one in locked))
    where = (*names, *(finding.layer for finding in told))
    reasons = []
    if locked:
        worst = min(locked, key=_share)
        verb = "trains" if len(names) == 1 else "train"
        # The words of the certificate, which name heads, experts or channels.
        what = [
            finding.what
            for finding in certificate.findings
            if finding.layer == worst.lock.name
        ]
        reasons.append(
            f"{listed(names)} {verb} like {worst.effective} of {worst.width} "
            f"{_noun(worst)} ({', '.join([*what[:1], worst.lock.grade or ''])})"
        )
    reasons += [f"{finding}; {finding.grade}" for finding in told[:1]]
    numbers = {lock.name: i + 1 for i, lock in enumerate(certificate.layers)}
    evidence["locked_layers"] = [numbers[one.lock.name] for one in locked]
    return Flag(
        _NAME,
        RAISED,
        "; ".join(reasons),
        remedy=_REMEDY,
        source=_SOURCE,
        evidence=evidence,
        where=where,
    )


def _noun(one: _Locked) -> str:
    """Return what the units of a layer are called."""
    if one.layer.kind == "conv":
        return "channels"
    return "features" if one.layer.kind == "embedding" else "units"


def _plain(
    certificate: Certificate,
    rows: Sequence[_Locked],
) -> dict[str, Any]:
    """Return a certificate as plain data for the report, as lists over layers."""
    layers = certificate.layers
    grades = [layer.grade for layer in layers if layer.grade is not None]
    return {
        "clear": certificate.clear,
        "mode": certificate.mode,
        "arithmetic": certificate.arithmetic,
        "num_draws": certificate.num_draws,
        "grades": sorted(set(grades)),
        "layers": [layer.name for layer in layers],
        "distinct": [list(layer.distinct) for layer in layers],
        "effective_width": {one.lock.name: one.effective for one in rows},
        "never_moves": [layer.never_moves for layer in layers],
        "rank_bound": [layer.rank_bound for layer in layers],
        "first_gradient": [layer.first_gradient for layer in layers],
        "findings": [str(finding) for finding in certificate.findings],
        "void_for": sorted({finding.void_for for finding in certificate.findings}),
    }


def with_growth(
    locked: Flag,
    signals: Spread,
) -> Flag:
    """Return the flag with how far locked units drifted apart in the probe.

    Args:
        locked: The flag.
        signals: The record of the probe, of units that are equal in exact arithmetic
            only.
    """
    if not signals.points:
        return locked
    found = signals.growth()
    last, least = float(signals.spread[:, -1].max()), float(signals.least.min())
    num_steps = int(signals.steps[-1])
    evidence: dict[str, Any] = {
        "class_spread": signals.spread,
        "least_distance_from_kink": least,
        # Two equal units so near to a kink may round to different sides of it.
        "may_part_at_once": least < _ROUNDING,
    }
    words = f"; after {num_steps} steps their units differ by {last:.1g}"
    if found is not None:
        rate, bounds = found
        evidence |= {"growth_rate": rate, "growth_interval": bounds}
        low, high = (num_steps * bound for bound in bounds)
        words += (
            f", growing by e^{num_steps * rate:.2g} over these steps "
            f"(95 % interval of the exponent: {low:.2g} to {high:.2g})"
        )
    if evidence["may_part_at_once"]:
        words += "; some lie within rounding of a kink and can part at once"
    return dataclasses.replace(
        locked, reason=locked.reason + words, evidence=locked.evidence | evidence
    )
