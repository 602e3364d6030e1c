"""The flag dead_branch: a residual branch that never gets a gradient."""

from isometry._internal.types import Key
from isometry.certificates import Certificate
from isometry.structure import Branch
from isometry.verdicts._flag import CLEAR, RAISED, UNDECIDED, Flag
from isometry.verdicts._measured import Measured
from isometry.verdicts._registry import flag

_SOURCE = "no gradient of any of its weights at any step: certificate"
_REMEDY = (
    "one factor of the branch at zero, not two: with the last weight and its scale at "
    "zero, or the first and the last weight, each waits for the other for ever"
)


@flag("dead_branch", rank=38, source=_SOURCE)
def judge(
    measured: Measured,
    key: Key,
) -> Flag:
    """Judge whether no weight of a residual branch ever gets a gradient.

    The network then trains as if the branch were not there. A branch that is zero only
    at initialization (zero-γ, Fixup) gets a gradient at the second step, and is not
    dead.
    """
    del key
    branches = measured.subject.anatomy.branches
    if not branches:
        return Flag("dead_branch", CLEAR, "no residual branches", source=_SOURCE)
    if not measured.certificates:
        reason = "without a certificate it is not known"
        return Flag("dead_branch", UNDECIDED, reason, source=_SOURCE)
    # A dict keeps the order, and holds a branch once that is dead in several seeds.
    dead: dict[str, None] = {}
    for certificate in measured.certificates:
        steps = _first_steps(certificate)
        for branch in branches:
            if _is_dead(branch, steps):
                dead[branch.name] = None
    names = tuple(dead)
    state = CLEAR
    reason = f"all {len(branches)} residual branches can get a gradient"
    # One seed is enough, because a certificate is a fact of that draw.
    if names:
        state = RAISED
        # Three names show the pattern; `where` has all.
        listed = ", ".join(names[:3])
        if len(names) > 3:
            listed += ", …"
        reason = (
            f"{len(names)} of {len(branches)} residual branches never get a gradient: "
            f"{listed}"
        )
    return Flag(
        "dead_branch",
        state,
        reason,
        remedy=_REMEDY,
        value=len(names),
        threshold=0,
        source=_SOURCE,
        evidence={"branches": len(branches), "dead": list(names)},
        where=names,
    )


def _first_steps(certificate: Certificate) -> dict[str, int | None]:
    """Return the first step at which each weight can get a gradient, by its name."""
    return {lock.name: lock.first_gradient for lock in certificate.layers}


def _is_dead(
    branch: Branch,
    steps: dict[str, int | None],
) -> bool:
    """Tell whether no weight of a branch ever gets a gradient."""
    rows = []
    for layer in branch.layers:
        own = f"{layer}[{branch.slice}]"
        # A branch inside a scan has one slice of each stacked weight.
        rows += [row for row in (layer, own) if row in steps]
    # A branch without weights, such as a pooling, is never called dead.
    return bool(rows) and all(steps[row] is None for row in rows)
