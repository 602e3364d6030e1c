"""The flag locked_symmetry: units, channels, heads or experts that stay equal."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from isometry._internal.types import Key
from isometry.certificates import Certificate, Finding, LayerLock
from isometry.structure import WeightLayer
from isometry.verdicts._flag import CLEAR, NOT_RUN, RAISED, UNDECIDED, Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._names import listed
from isometry.verdicts._registry import flag
from isometry.verdicts._spread import Spread

_NAME = "locked_symmetry"

# Rounding of a pre-activation relative to its layer's: 64 terms of random sign.
_ROUNDING = 8 * float(np.finfo(np.float32).eps)

_REMEDY = (
    'random weights in every layer: net.with_scheme("orthogonal") or "gaussian"; or '
    "noise of std 0.1/√fan_in on the weights: it spreads ln s by 0.1·√(depth/2), and "
    "equal units part as training amplifies it"
)
_SOURCE = "isometry.certify: the smallest signed partition that every gradient keeps"
_EVIDENCE = "evidence"

# What findings of equal slices say: "16 channels, 3 distinct".
_DISTINCT = "distinct"


class _Locked(NamedTuple):
    """A weight with slices that stay equal or zero for ever.

    Attributes:
        layer: The layer.
        lock: What is certified of it.
        width: How many units it makes.
        effective: How many of them can ever differ, up to sign.
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
    """Raise where hidden units stay equal, opposite or dead for ever, in any seed.

    The value is the number of units of the worst layer that can ever differ, and the
    threshold its width. It is a fact of the draw, whatever the number of seeds. What
    holds in exact arithmetic only is followed along the probe: how fast units drift
    apart and, of a nonlinearity with kinks, how near to one of them they come.
    """
    del key
    certificates = measured.certificates
    if not certificates:
        return Flag(_NAME, NOT_RUN, "nothing could be certified", source=_SOURCE)
    layers = {layer.name: layer for layer in measured.subject.anatomy.layers}
    locked = [_locked(certificate, layers) for certificate in certificates]
    sure = [[one for one in rows if one.lock.grade != _EVIDENCE] for rows in locked]
    told = [_told(certificate) for certificate in certificates]
    evidence: dict[str, Any] = {
        "seeds": [
            _plain(certificate, rows)
            for certificate, rows in zip(certificates, locked, strict=True)
        ]
    }
    # Evidence, such as units that were active at no random input, raises nothing.
    seeds_locked = [i for i in range(len(sure)) if sure[i] or told[i]]
    if seeds_locked:
        first = seeds_locked[0]
        evidence["locked_seeds"] = len(seeds_locked)
        result = _raised(
            certificates[first], sure[first], told[first], evidence=evidence
        )
        every = [one for rows in sure for one in rows]
        # Equal blocks have no width of their own.
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
    """Return the weights whose own units are locked, but for those of the output."""
    rows = []
    for lock in certificate.layers:
        # A slice of a stack is named by its layer and its number: "blocks/fc[2]".
        layer = layers.get(lock.name) or layers.get(lock.name.rpartition("[")[0])
        # Outputs differ by their targets, and a softmax may tie them on purpose.
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
    """Tell whether the units that are missed never move, and are not equal."""
    num_missed = one.width - one.effective
    # Each unit that never moves is a slice of the weight.
    return one.lock.never_moves * one.width > num_missed - 0.5


def _told(certificate: Certificate) -> list[Finding]:
    """Return what is certified of whole blocks: slices of a stack, equal weights."""
    # Findings about a single weight are rows of the certificate already.
    names = {layer.name for layer in certificate.layers}
    return [
        finding
        for finding in certificate.findings
        if finding.layer not in names
        and not finding.is_harmless
        and finding.grade != _EVIDENCE
        and _DISTINCT in finding.what
    ]


def _findings_of(
    certificates: Sequence[Certificate],
    names: Sequence[str],
) -> list[str]:
    """Return what is found of some weights, in words."""
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
        # What the certificate itself says, in words: heads, experts, channels.
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
    """Return a certificate as numbers for the report, a list over layers each."""
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
    """Return the flag with what the probe saw of locks of exact arithmetic.

    Args:
        locked: The flag.
        signals: How far units are apart, and how near to a kink, along the probe.
    """
    if not signals.points:
        return locked
    found = signals.growth()
    last, least = float(signals.spread[:, -1].max()), float(signals.least.min())
    num_steps = int(signals.steps[-1])
    evidence: dict[str, Any] = {
        "class_spread": signals.spread,
        "least_distance_from_kink": least,
        # Units that lie that near to a kink may round to different sides of it.
        "may_part_at_once": least < _ROUNDING,
    }
    words = f"; after {num_steps} steps their units differ by {last:.1g}"
    if found is not None:
        rate, bounds = found
        evidence |= {"growth_rate": rate, "growth_interval": bounds}
        low, high = (num_steps * bound for bound in bounds)
        words += (
            f", growing by e^{num_steps * rate:.2g} in as many "
            f"(95 %: {low:.2g} to {high:.2g})"
        )
    if evidence["may_part_at_once"]:
        words += "; some lie within rounding of a kink and can part at once"
    return dataclasses.replace(
        locked, reason=locked.reason + words, evidence=locked.evidence | evidence
    )
