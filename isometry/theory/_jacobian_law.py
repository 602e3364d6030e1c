"""The law of J Jᵀ for J = D_L W_L … D_1 W_1, from the activation, its pre-activation variances and the weights' law."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from isometry import _checks, activations
from isometry.theory import _moments, _universal
from isometry.theory._chain import UNIT, Pair, chain
from isometry.theory._critical import critical_at, sigma_b_range
from isometry.theory._fixed_points import NoFixedPoint, q_fixed_point
from isometry.theory._host import record
from isometry.theory._law import Law
from isometry.theory._mean_field import LARGEST, check, mean_square_slope
from isometry.theory._measure import Measure
from isometry.theory._moments import SMALLEST, differentiable, finite, moments
from isometry.theory._slope_measure import slope_measure, steep_measure

WEIGHTS = ("orthogonal", "gaussian")
_ALIKE = 3e-5  # relative; about their mean the error is its square over 12 a layer, below 1e-8 at depth 128
_NODES = (6.0, 4.0)  # of a rule in ln q, and so many more by its range: moves quantiles by some 1e-9, see `_diagonals`
PADDINGS = ("circular", "same", "valid")


def jacobian_law(
    activation: Any,
    depth: int,
    q: float | Sequence[float] | None = None,
    sigma_w: float | Sequence[float] | None = None,
    sigma_b: float | None = None,
    weights: str = "orthogonal",
    *,
    widths: Sequence[int] | None = None,
    head: float | None = None,
    branch_scale: float | None = None,
    padding: str | None = None,
) -> Law:
    """The law of lam = s² of J = D_L W_L … D_1 W_1, D_l = diag phi'(√q_l z), at infinite width.

    **Arguments**
    - `activation`: a name, an elementwise callable, or an `Activation`.
    - `depth`: number of (W, D) pairs.
    - `q`: variance of the pre-activations, a number or one a layer (the path law). Without sigma_w each layer is
      critical, sigma_w² = 1/E phi'²; with sigma_w, a number or one a layer, that is its scale.
    - `sigma_w`, `sigma_b` without q: q is the fixed point that iteration from q = 1 reaches. Linear, ReLU and leaky
      ReLU need none: their law is the same at every q.
    - `weights`: "orthogonal", every singular value sigma_w, or "gaussian", variance sigma_w²/fan_in.
    - `widths`: (n_0, …, n_depth) for rectangular layers, or anything proportional; orthogonal ones are Haar with all
      min(m, n) singular values sigma_w.
    - `head`: sigma_w of one more W, behind D_L and without a D: the law end to end; `widths` then has depth + 2.
    - `branch_scale`: α of residual blocks x + α phi(Wx + b): the law of great depth at fixed Σ α² sigma_w² E phi'²
      (`resnet_law`), O(1/depth) away at finite depth.
    - `padding`: for convolutions. Delta-orthogonal kernels ("circular", "same") and Gaussian ones with "circular"
      padding have the dense law, where q is the same at all positions.

    **Raises** `ValueError`: sigma_w not positive, negative sigma_b or q, depth 0, q of wrong length, both or neither of
    q and (sigma_w, sigma_b), unknown names, an activation that is not elementwise and real, or with divergent E phi'^4.
    `NotDefined`: no fixed point or critical point, phi jumps, is flat or has unbounded slope, no formula is known for
    what was asked.

    Source: Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735. Cost: milliseconds; see `Law`.
    """
    call = "jacobian_law"
    _checks.integer(call, low=1, high=_universal.DEEPEST, depth=depth)
    depth = int(depth)
    _checks.one_of(call, among=WEIGHTS, weights=weights)
    phi = record(call, activation)
    _check_padding(padding, weights, widths)
    path, sigmas = _path(phi, depth, q, sigma_w, sigma_b, branch_scale is not None)
    _has_law(phi, sorted(set(path)))
    if branch_scale is not None:
        return _residual(phi, path, sigmas, branch_scale, widths, depth, head)
    free = _scale_free(phi, min(path), 4.0, max(path))
    sizes = _sizes(widths, depth, head is not None)
    few = [1.0] * depth if free else _merged(path)
    pairs = [Pair(d[0][0], 2 * math.log(s), d) for d, s in zip(_diagonals(phi, few, sizes[1:]), sigmas, strict=True)]
    if head is not None:
        _checks.number(call, low=0.0, open_low=True, head=head)
        pairs.append(Pair(UNIT, 2 * math.log(head)))
    square = head is None and all(n == sizes[0] for n in sizes)
    rate = sum(_width_rate(p, weights == "gaussian") for p in pairs) if free and square and padding is None else None
    zeros = abs(sizes[-1] - sizes[0]) / min(sizes[0], sizes[-1])
    product = chain(pairs, weights == "gaussian", sizes)
    if head is not None:
        return Law(product, f"{phi.name}, depth {depth + 1} end to end, {weights}", zeros, span="end_to_end")
    return Law(product, f"{phi.name}, depth {depth}, {weights}", zeros, depth, rate)


def _path(
    phi: activations.Activation, depth: int, q: Any, sigma_w: Any, sigma_b: Any, residual: bool
) -> tuple[list, list]:
    """q and sigma_w of each layer."""
    call = "jacobian_law"
    _checks.concrete(call, q=q, sigma_w=sigma_w, sigma_b=sigma_b)
    several = np.ndim(sigma_w) > 0
    if several and (q is None or len(sigma_w) != depth):
        raise _checks.InputError(
            f"{call}(): sigma_w has {len(sigma_w)} values for depth={depth}; give a number, or with q one per layer."
        )
    for value in [] if sigma_w is None else sigma_w if several else [sigma_w]:
        check(call, sigma_w=value)
    if sigma_b is not None:
        check(call, sigma_b=sigma_b)
    if q is None and (sigma_w is None or sigma_b is None):
        raise _checks.InputError(
            f"{call}(): neither q nor both of sigma_w and sigma_b are given; write q=0.25 for the critical law there, "
            "or sigma_w=1.5, sigma_b=0.1 for the law at their fixed point."
        )
    if q is not None and sigma_b is not None:
        raise _checks.InputError(
            f"{call}(): q and sigma_b={_checks.show(sigma_b)} are both given, and q already says what sigma_b would; "
            "leave one out."
        )
    if q is None:
        if residual:
            raise _checks.NotDefined(
                f"{call}(): q grows along residual blocks and has no fixed point; give q, one per layer."
            )
        assert sigma_w is not None
        assert sigma_b is not None
        return [_fixed_point(phi, float(sigma_w), float(sigma_b))] * depth, [float(sigma_w)] * depth
    path = [q] * depth if np.ndim(q) == 0 else _sequence("q", q)
    if len(path) != depth:
        raise _checks.InputError(
            f"{call}(): q has {len(path)} values for depth={depth}; give a number or one per layer."
        )
    for value in path:
        _checks.number(call, low=0.0, high=LARGEST, q=value)
    path = [float(f"{float(v):.13g}") for v in path]  # a converged path is one q, not one per rounding
    if sigma_w is not None:
        return path, [float(s) for s in sigma_w] if several else [float(sigma_w)] * depth
    distinct = set(path)
    scale = (lambda v: critical_at(phi, v).sigma_w) if len(distinct) == 1 else (lambda v: _unit_slope(phi, v))
    critical = {v: scale(v) for v in distinct}
    return path, [critical[v] for v in path]


def _diagonals(phi: activations.Activation, path: list[float], sizes: list[float]) -> list[Any]:
    """The law of D² of each layer, as `Pair.shares`. Where layers of one size have many q's and no atoms, they share
    the few of a Gauss rule: log ζ(ψ) is analytic in ln q, so that the sum over them converges geometrically."""
    found: list[Any] = [((q, 1),) for q in path]
    for size in set(sizes[: len(path)]):
        layers = [i for i in range(len(path)) if sizes[i] == size]
        qs = np.array([path[i] for i in layers])
        most = _NODES[0] + _NODES[1] * math.log(qs.max() / qs.min()) if qs.min() > 0 else math.inf
        if len(np.unique(qs)) > most and not slope_measure(phi, qs.min()).atoms.size:
            nodes, weights = _gauss(np.log(qs), math.ceil(most))
            shares = tuple(zip(np.exp(nodes).tolist(), (weights / len(qs)).tolist(), strict=True))
            for i in layers:
                found[i] = shares
    return [tuple((steep_measure(phi, q), share) for q, share in shares) for shares in found]


def _gauss(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the rule of so many nodes for sums over points x, by Lanczos (Golub and Welsch, 1969)."""
    basis, diagonal, beside = [np.full(len(x), len(x) ** -0.5)], [], []
    for _ in range(count):
        new: Any = x * basis[-1]
        diagonal.append(basis[-1] @ new)
        for _ in range(2):
            new = new - np.array(basis).T @ (np.array(basis) @ new)
        beside.append(np.linalg.norm(new))
        basis.append(new / beside[-1])
    nodes, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1))
    return nodes, len(x) * vectors[0] ** 2


def _merged(path: list[float]) -> list[float]:
    """Of each layer the mean of the q's within `_ALIKE` of its own: on the way to q* they crowd, and each costs a
    factor."""
    groups: list[list[float]] = []
    for q in sorted(path):
        if groups and q <= groups[-1][0] * (1 + _ALIKE):
            groups[-1].append(q)
        else:
            groups.append([q])
    mean = {q: math.fsum(group) / len(group) for group in groups for q in group}
    return [mean[q] for q in path]


def _unit_slope(phi: activations.Activation, q: float) -> float:
    """sigma_w with chi_1 = 1 at q, which need not be a fixed point."""
    slope = mean_square_slope(phi, q)
    if slope == 0:
        raise _checks.NotDefined(f"jacobian_law(): {phi.name} is flat at q={q:g}; chi_1 is 0 for every sigma_w.")
    return slope**-0.5


def _fixed_point(phi: activations.Activation, sigma_w: float, sigma_b: float) -> float:
    """The q reached from q = 1; any, if the law does not depend on it."""
    if _scale_free(phi, SMALLEST, _moments.LARGEST):
        return 1.0
    try:
        return q_fixed_point(phi, sigma_w, sigma_b).value
    except NoFixedPoint as error:
        raise NoFixedPoint(
            f"{error} Critical points: {sigma_b_range(phi)}. A law off them needs q, one per layer."
        ) from error


def _has_law(phi: activations.Activation, qs: list[float]) -> None:
    """Refuse a phi that jumps, one without finite E phi'^4, and one that is flat."""
    call = "jacobian_law"
    differentiable(call, phi, qs[-1])
    known = moments(phi, np.array(qs))
    for q, slope, spread in zip(qs, known.slope, known.spread, strict=True):
        if slope == 0:
            raise _checks.NotDefined(f"{call}(): {phi.name} is flat at q={q:g}: J is 0, and has no law off zero.")
        finite(call, phi, q, slope + spread)


def _sequence(name: str, given: Any) -> list[float]:
    try:
        values = np.asarray(given)
    except (TypeError, ValueError):
        values = np.zeros((0, 0))
    if not _checks.is_real(values.dtype):
        values = np.zeros((0, 0))
    if values.ndim != 1:
        raise _checks.InputError(f"jacobian_law(): {name}={_checks.show(given)} is not a sequence of numbers.")
    return [float(value) for value in values]


def _scale_free(phi: activations.Activation, *qs: float) -> bool:
    """Whether phi'(√q z)² has the same law at these q as at 1: linear, ReLU, leaky ReLU, whatever they are."""
    a = slope_measure(phi, 1.0)
    return not a.nodes.size and all(_same_atoms(a, slope_measure(phi, q)) for q in qs)


def _same_atoms(a: Measure, b: Measure) -> bool:
    return (
        not b.nodes.size
        and a.atoms.shape == b.atoms.shape
        and np.allclose(a.atoms, b.atoms, rtol=1e-12)
        and np.allclose(a.masses, b.masses, rtol=1e-12)
    )


def _width_rate(pair: Pair, gaussian: bool) -> float:
    """Variance that one layer adds to ln |Jv|², times the width."""
    spread = pair.measure.relative_variance()
    return 3 * spread + 2 if gaussian else 3 * spread


def _sizes(widths: Any, depth: int, head: bool) -> list[float]:
    if widths is None:
        return [1.0] * (depth + 1 + head)
    sizes = _sequence("widths", widths)
    if len(sizes) != depth + 1 + head:
        raise _checks.InputError(
            f"jacobian_law(): widths has {len(sizes)} entries for depth={depth}; give n_0, …, n_depth"
            + (", and the head's outputs." if head else ".")
        )
    for n in sizes:
        _checks.number("jacobian_law", low=0.0, open_low=True, widths=n)
    return sizes


def _check_padding(padding: Any, weights: str, widths: Any) -> None:
    if padding is None:
        return
    _checks.one_of("jacobian_law", among=PADDINGS, padding=padding)
    if padding == "valid" or (weights == "gaussian" and padding == "same"):
        known = "'circular' and 'same'" if weights == "orthogonal" else "'circular'"
        raise _checks.NotDefined(
            f"jacobian_law(): no law is given for {weights} convolutions with padding={padding!r}; "
            f"there is one for {known}."
        )
    if widths is not None:
        raise _checks.NotDefined(
            "jacobian_law(): no law is known for convolutions whose channels vary; leave widths out."
        )


def _residual(
    phi: activations.Activation, path: list, sigmas: list, scale: float, widths: Any, depth: int, head: Any
) -> Law:
    _checks.number("jacobian_law", low=0.0, open_low=True, branch_scale=scale)
    if widths is not None or head is not None:
        raise _checks.NotDefined("jacobian_law(): residual blocks keep their width; leave widths and head out.")
    slopes = {at: mean_square_slope(phi, at) for at in set(path)}
    c = sum(scale**2 * s**2 * slopes[at] for at, s in zip(path, sigmas, strict=True))
    law = _universal.resnet_law(c)
    return Law(law.product, f"{phi.name}, {depth} residual blocks, c {c:.6g}", pairs=depth)
