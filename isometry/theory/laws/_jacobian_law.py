"""The law of J Jᵀ for J = D_L W_L … D_1 W_1."""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, public
from isometry.activations import Activation
from isometry.theory.laws import _closed, _universal
from isometry.theory.laws._diagonal import Diagonal
from isometry.theory.laws._factor import Factor
from isometry.theory.laws._law import Law
from isometry.theory.laws._measure import Measure
from isometry.theory.laws._product import Product, product_of
from isometry.theory.laws._slope_measure import slope_measure, steep_measure
from isometry.theory.mean_field._critical import critical_at, sigma_b_range
from isometry.theory.mean_field._fixed_points import NoFixedPoint, q_fixed_point
from isometry.theory.mean_field._fluctuations import frobenius_fluctuation
from isometry.theory.mean_field._host import ActivationLike, record
from isometry.theory.mean_field._maps import LARGEST, mean_square_slope, scale
from isometry.theory.mean_field._moments import (
    LARGEST_Q,
    SMALLEST_Q,
    differentiable,
    finite,
    moments,
)
from isometry.theory.mean_field._quadrature import gauss_rule

WEIGHTS = ("orthogonal", "gaussian", "orthogonal_kernel")
PADDINGS = ("circular", "same", "valid")

# Variances closer than this, relative to one another, share their mean: on the way to
# the fixed point they crowd, and each costs a factor. The error is the square of this
# over 12 a layer, below 1e-8 at depth 128; ten times more would be seen.
_ALIKE = 3e-5

# Nodes of a Gauss rule over the variances of a path: so many, and so many more for each
# factor of e in their range. It moves quantiles by some 1e-9; with two nodes fewer by
# 1e-7, and with two more a law costs a fifth more.
_NODES = 6.0
_NODES_PER_LOG = 4.0

# The same for residual blocks, whose slopes are seen from farther: quantiles 1e-13 off.
_BLOCK_NODES = 3.0
_BLOCK_NODES_PER_LOG = 2.0

Points = Float[np.ndarray, " points"]

# The distribution of D² of one layer: a mixture in log ζ, with shares that add up to 1.
Shares = tuple[tuple[Measure, float], ...]


class Pair(NamedTuple):
    """One (W, D) pair.

    Attributes:
        log_square: log sigma_w²; None where there is no W.
        slopes: The distribution of D²; empty where there is no D.
        taps: How often a convolution reads every input, if W is an orthogonal matrix
            into which its kernel is flattened.
    """

    log_square: float | None
    slopes: Shares
    taps: float = 1.0


@public("jacobian_law")
def jacobian_law(  # noqa: PLR0917
    activation: ActivationLike,
    depth: int,
    q: float | Sequence[float] | None = None,
    sigma_w: float | Sequence[float] | None = None,
    sigma_b: float | None = None,
    weights: str = "orthogonal",
    *,
    widths: Sequence[float] | None = None,
    head: float | None = None,
    branch_scale: float | None = None,
    padding: str | None = None,
    taps: float | None = None,
) -> Law:
    """Return the law of λ = s² of J = D_L W_L … D_1 W_1 at infinite width.

    D_l is diag phi'(√q_l z), z standard normal (Pennington, Schoenholz and Ganguli,
    2017). A first density takes 0.2 s on one core for ReLU and tanh and 0.4 s for GELU,
    an uneven path of 30 variances 1 s; later calls a fifth of it.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        depth: The number of (W, D) pairs.
        q: The variance of the pre-activations, a number or one per layer. Without
            `sigma_w` each layer is critical, sigma_w² = 1/E phi'².
        sigma_w: √(fan_in · Var W), of orthogonal weights every singular value; with `q`
            a number or one per layer.
        sigma_b: Standard deviation of the biases, without `q`: that is then the fixed
            point which iteration from q = 1 reaches. Linear, ReLU and leaky ReLU need
            none: their law is the same at every q.
        weights: "orthogonal", "gaussian", or "orthogonal_kernel": convolutions on a
            circle whose kernel of k^d taps is flattened into a matrix (taps and inputs)
            × outputs with all singular values sigma_w. Between the other two, S = (1 +
            ψ/k^d)/(1 + ψ) for a square layer.
        widths: (n_0, …, n_depth) of rectangular layers, or anything proportional.
            Orthogonal ones are Haar, with all min(m, n) singular values sigma_w.
        head: sigma_w of one more W behind D_L, without a D: the law end to end;
            `widths` then has depth + 2 entries.
        branch_scale: α of residual blocks x + α phi(Wx + b): the law of great depth at
            fixed Σ α² sigma_w² E phi'² (`resnet_law`), O(1/depth) away at finite depth.
        padding: Of convolutions, "circular", "same" or "valid". Delta-orthogonal
            kernels with circular or same padding, and Gaussian or block-orthogonal ones
            with circular padding, have the dense law where q is the same at all
            positions. For `compare`, state the pixels of the image as well:
            dataclasses.replace(law, positions=64).
        taps: Of "orthogonal_kernel" alone, how often each input is read: k^d, or with a
            stride s that divides k and the image (k/s)^d. The widths are then channels
            times positions.

    Returns:
        The law.

    Raises:
        InputError: A number out of range; both or neither of `q` and the fixed point's
            arguments; an unknown name; an activation that is not elementwise and real,
            or whose E phi'^4 diverges.
        NotDefined: No fixed point or critical point; phi jumps, is flat or has an
            unbounded slope; no formula is known for what was asked.

    Example:
        >>> law = theory.jacobian_law("relu", depth=4, q=1.0)
        >>> round(law.moment(1), 9), round(law.s_max**2, 4)
        (1.0, 9.4815)
        >>> path = theory.jacobian_law("tanh", depth=3, q=[0.9, 0.7, 0.6], sigma_w=1.3)
        >>> round(path.quantile(0.5), 4)
        0.341
    """
    depth = checks.integer("depth", depth, low=1, high=_universal.DEEPEST)
    checks.one_of("weights", weights, WEIGHTS)
    num_taps = _checked_taps(taps, weights)
    phi = record(activation)
    _check_padding(padding, weights, widths)
    is_residual = branch_scale is not None
    if q is None:
        _check_fixed_point_arguments(sigma_w, sigma_b, depth, is_residual=is_residual)
    path, sigmas = _path(phi, depth, q, sigma_w=sigma_w, sigma_b=sigma_b)
    require_law(phi, sorted(set(path)))
    if branch_scale is not None:
        if widths is not None or head is not None:
            raise NotDefined(
                "residual blocks keep their width; leave widths and head out."
            )
        return _residual(phi, path, sigmas, branch_scale=branch_scale)
    # At the ends of the path; and at 4, because around zero any smooth phi is linear.
    extremes = [min(path), 4.0, max(path)]
    is_alike = is_scale_free(phi, *extremes)
    sizes = _sizes(widths, depth, has_head=head is not None)
    # A law that does not depend on q needs one measure for all layers.
    distinct = [1.0] * depth if is_alike else merged(path)
    pairs = [
        Pair(2 * math.log(sigma), slopes, num_taps)
        for slopes, sigma in zip(
            slopes_of(phi, distinct, sizes[1:]), sigmas, strict=True
        )
    ]
    if head is not None:
        head = checks.number("head", head, above=0.0)
        pairs.append(Pair(2 * math.log(head), ()))
    is_gaussian = weights == "gaussian"
    product = chain(pairs, sizes, is_gaussian=is_gaussian)
    zeros = abs(sizes[-1] - sizes[0]) / min(sizes[0], sizes[-1])
    if head is not None:
        name = f"{phi.name}, depth {depth + 1} end to end, {weights}"
        return Law(product, name, structural_zeros=zeros, span="end_to_end")
    # At finite width there are formulas for dense square layers alone, and where the
    # slopes depend on q, which fluctuates too, there is none.
    is_square = all(n == sizes[0] for n in sizes)
    rate = fluctuation = None
    is_dense = padding is None and weights != "orthogonal_kernel"
    if is_alike and is_square and is_dense:
        rate = sum(_width_rate(pair, is_gaussian) for pair in pairs)
        fluctuation = functools.partial(
            frobenius_fluctuation, phi, depth=depth, weights=weights
        )
    name = f"{phi.name}, depth {depth}, {weights}"
    return Law(
        product,
        name,
        structural_zeros=zeros,
        pairs=depth,
        width_rate=rate,
        frobenius_fluctuation=fluctuation,
    )


def chain(
    pairs: Sequence[Pair],
    widths: Sequence[float],
    *,
    is_gaussian: bool,
) -> Product:
    """Return the product of pairs, normalized over min(n_0, n_L) singular values.

    Args:
        pairs: The pairs, first to last.
        widths: (n_0, …, n_L).
        is_gaussian: Whether the weights are Gaussian, else Haar.
    """
    size = min(widths[0], widths[-1])
    counts: Counter[Factor] = Counter()
    # The first weights act on the inputs, of which there may be more than values.
    counts[_closed.input_space(widths[0], size)] += 1
    for pair, (inputs, outputs) in zip(pairs, itertools.pairwise(widths), strict=True):
        if pair.log_square is not None:
            weight = _closed.gaussian
            if not is_gaussian:
                weight = functools.partial(_closed.haar, taps=pair.taps)
            counts[weight(pair.log_square, inputs, outputs, size=size)] += 1
        for measure, share in pair.slopes:
            constant = measure.constant
            if constant is None:
                counts[Diagonal(measure, size / outputs)] += share  # pyright: ignore[reportArgumentType]
            else:
                # A multiple of the identity.
                factor = _closed.Powers(log_scale=math.log(constant))
                counts[factor] += share  # pyright: ignore[reportArgumentType]
    return product_of(counts)


def _check_fixed_point_arguments(
    sigma_w: float | Sequence[float] | None,
    sigma_b: float | None,
    depth: int,
    *,
    is_residual: bool,
) -> None:
    """Require one sigma_w and sigma_b where q is not given: it is their fixed point."""
    if sigma_w is not None and np.ndim(sigma_w) > 0:
        raise InputError(
            f"sigma_w has {np.size(sigma_w)} values for depth={depth}; give a number, "
            "or with q one per layer."
        )
    if sigma_w is None or sigma_b is None:
        raise InputError(
            "neither q nor both of sigma_w and sigma_b are given; write q=0.25 for the "
            "critical law there, or sigma_w=1.5, sigma_b=0.1 for the law at their "
            "fixed point."
        )
    if is_residual:
        raise NotDefined(
            "q grows along residual blocks and has no fixed point; give q, one per "
            "layer."
        )


def _path(
    phi: Activation,
    depth: int,
    q: float | Sequence[float] | None,
    *,
    sigma_w: float | Sequence[float] | None,
    sigma_b: float | None,
) -> tuple[list[float], list[float]]:
    """Return q and sigma_w of each layer."""
    sigmas = None
    if sigma_w is not None:
        sigmas = _one_per_layer(
            "sigma_w",
            sigma_w,
            depth,
            of_path=False,
        )
        sigmas = [scale("sigma_w", sigma) for sigma in sigmas]
    if sigma_b is not None:
        sigma_b = scale("sigma_b", sigma_b)
    if q is None:
        assert sigmas is not None
        assert sigma_b is not None
        return [_fixed_point(phi, sigmas[0], sigma_b)] * depth, sigmas
    if sigma_b is not None:
        raise InputError(
            f"q and sigma_b={checks.show(sigma_b)} are both given, and q already says "
            "what sigma_b would; leave one out."
        )
    path = _one_per_layer(
        "q",
        q,
        depth,
        of_path=True,
    )
    # Each of them, so that the message shows the one that is wrong.
    for value in path:
        checks.number(
            "q",
            value,
            low=0.0,
            high=LARGEST,
        )
    # A converged path is one q, and not one for every rounding.
    path = [float(f"{value:.13g}") for value in path]
    if sigmas is None:
        sigmas = _critical_sigmas(phi, path)
    return path, sigmas


def _one_per_layer(
    name: str,
    value: float | Sequence[float],
    depth: int,
    *,
    of_path: bool,
) -> list[float]:
    """Return one number for each layer; a single number is that of all layers.

    Args:
        name: The name of the argument, for messages.
        value: A number, or a sequence of `depth` numbers.
        depth: The number of layers.
        of_path: Whether the argument is q itself. Others take a sequence only along
            with q, and the message says so.
    """
    checks.on_host(name, value)
    if np.ndim(value) == 0:  # pyright: ignore[reportArgumentType]
        checks.number(name, value)
        return [float(value)] * depth  # pyright: ignore[reportArgumentType]
    values = sequence(name, value)  # pyright: ignore[reportArgumentType]
    if len(values) != depth:
        advice = "give a number or one per layer."
        if not of_path:
            advice = "give a number, or with q one per layer."
        raise InputError(f"{name} has {len(values)} values for depth={depth}; {advice}")
    return values


def _critical_sigmas(phi: Activation, path: list[float]) -> list[float]:
    """Return the sigma_w with chi_1 = 1 at each q of a path."""
    distinct = set(path)
    if len(distinct) == 1:
        # A single q is to be a fixed point as well.
        return [critical_at(phi, path[0]).sigma_w] * len(path)
    sigmas = {}
    for q in distinct:
        slope = mean_square_slope(phi, q)
        if slope == 0:
            raise NotDefined(
                f"{phi.name} is flat at q={q:g}; chi_1 is 0 for every sigma_w."
            )
        sigmas[q] = slope**-0.5
    return [sigmas[q] for q in path]


def _fixed_point(
    phi: Activation,
    sigma_w: float,
    sigma_b: float,
) -> float:
    """Return the q reached from q = 1, or 1 if the law does not depend on q."""
    if is_scale_free(phi, SMALLEST_Q, LARGEST_Q):
        return 1.0
    try:
        return q_fixed_point(phi, sigma_w, sigma_b).value
    except NoFixedPoint as error:
        raise NoFixedPoint(
            f"{error.message} Critical points: {sigma_b_range(phi)}. A law off them "
            "needs q, one per layer."
        ) from error


def require_law(phi: Activation, qs: list[float]) -> None:
    """Refuse a phi that jumps, one without finite E phi'^4, and one that is flat."""
    # At the largest, where the widest range of phi is seen.
    differentiable(phi, qs[-1])
    known = moments(phi, np.array(qs))
    for q, slope, spread in zip(qs, known.slope, known.spread, strict=True):
        if slope == 0:
            raise NotDefined(
                f"{phi.name} is flat at q={q:g}: J is 0, and has no law off zero."
            )
        finite(phi, q, slope + spread)


def slopes_of(
    phi: Activation,
    path: list[float],
    sizes: Sequence[float],
) -> list[Shares]:
    """Return the distribution of D² of each layer.

    Where layers of one size have many q's, they share the few of a Gauss rule: log
    ζ(ψ) is analytic in ln q, so that the sum over them converges geometrically.
    That is for densities only: many q's have as many atoms, at places of their own,
    which a few nodes do not replace.
    """
    shares: list[Shares] = [()] * len(path)
    # Only factors of one size may be exchanged for others, as they share one c.
    for size in set(sizes[: len(path)]):
        layers = [i for i in range(len(path)) if sizes[i] == size]
        of_size = _shared(
            [path[i] for i in layers], phi, nodes=_NODES, nodes_per_log=_NODES_PER_LOG
        )
        for i, layer in zip(layers, of_size, strict=True):
            shares[i] = tuple((steep_measure(phi, q), share) for q, share in layer)
    return shares


def slopes_of_blocks(phi: Activation, path: list[float]) -> list[Shares]:
    """Return the distribution of D² of equal residual blocks at these variances."""
    ends = (min(path), 4.0, max(path))
    if is_scale_free(phi, *ends):
        path = [1.0] * len(path)
    shares = _shared(
        merged(path), phi, nodes=_BLOCK_NODES, nodes_per_log=_BLOCK_NODES_PER_LOG
    )
    return [
        tuple((slope_measure(phi, q), share) for q, share in layer) for layer in shares
    ]


def _shared(
    path: list[float],
    phi: Activation,
    *,
    nodes: float,
    nodes_per_log: float,
) -> list[tuple[tuple[float, float], ...]]:
    """Return variances and their shares for each of some equal layers."""
    qs = np.array(path)
    most = math.inf
    if qs.min() > 0:
        most = nodes + nodes_per_log * math.log(qs.max() / qs.min())
    if len(np.unique(qs)) <= most or slope_measure(phi, qs.min()).atoms.size:
        return [((q, 1.0),) for q in path]
    shares = np.full(len(qs), 1 / len(qs))
    rule = gauss_rule(np.log(qs), shares, math.ceil(most))
    values = np.exp(rule.nodes).tolist()
    shared = tuple(zip(values, rule.weights.tolist(), strict=True))
    return [shared] * len(path)


def merged(path: list[float]) -> list[float]:
    """Replace q's that are all but equal by their mean."""
    groups: list[list[float]] = []
    for q in sorted(path):
        if groups and q <= groups[-1][0] * (1 + _ALIKE):
            groups[-1].append(q)
        else:
            groups.append([q])
    mean_of = {}
    for group in groups:
        mean = math.fsum(group) / len(group)
        mean_of.update(dict.fromkeys(group, mean))
    return [mean_of[q] for q in path]


def sequence(name: str, value: ArrayLike) -> list[float]:
    """Return a sequence of numbers as a list."""
    is_sequence = False
    try:
        values = np.asarray(value)
        is_sequence = values.ndim == 1 and checks.is_real(values.dtype)
    except (TypeError, ValueError):
        values = np.zeros(0)
    if not is_sequence:
        raise InputError(f"{name}={checks.show(value)} is not a sequence of numbers.")
    return [float(number) for number in values]


def is_scale_free(phi: Activation, *qs: float) -> bool:
    """Tell whether phi'(√q z)² has the same law at these q as at 1.

    It has for linear, ReLU and leaky ReLU, whatever their name.
    """
    # Slopes that do not depend on q take one value on either side of zero: two atoms at
    # most, and no continuous part.
    at_one = slope_measure(phi, 1.0)
    if at_one.nodes.size:
        return False
    return all(_has_same_atoms(at_one, slope_measure(phi, q)) for q in qs)


def _has_same_atoms(a: Measure, b: Measure) -> bool:
    return (
        not b.nodes.size
        and a.atoms.shape == b.atoms.shape
        and np.allclose(a.atoms, b.atoms, rtol=1e-12)
        and np.allclose(a.masses, b.masses, rtol=1e-12)
    )


def _width_rate(pair: Pair, is_gaussian: bool) -> float:
    """Return what one layer adds to the variance of ln |Jv|², times the width."""
    ((measure, _),) = pair.slopes
    spread = measure.relative_variance()
    return 3 * spread + 2 if is_gaussian else 3 * spread


def _sizes(
    widths: Sequence[float] | None,
    depth: int,
    *,
    has_head: bool,
) -> list[float]:
    if widths is None:
        return [1.0] * (depth + 1 + has_head)
    checks.on_host("widths", widths)
    sizes = sequence("widths", widths)
    if len(sizes) != depth + 1 + has_head:
        advice = "give n_0, …, n_depth"
        if has_head:
            advice += ", and the head's outputs"
        raise InputError(
            f"widths has {len(sizes)} entries for depth={depth}; {advice}."
        )
    for n in sizes:
        checks.number("widths", n, above=0.0)
    return sizes


def _checked_taps(taps: float | None, weights: str) -> float:
    """Return how often a convolution reads each input; 1 for other weights."""
    if weights != "orthogonal_kernel":
        if taps is not None:
            raise InputError(
                f"taps={checks.show(taps)} is for weights='orthogonal_kernel', not "
                f"{weights!r}, whose law does not depend on them; leave it out."
            )
        return 1.0
    if taps is None:
        raise InputError(
            "taps is missing for weights='orthogonal_kernel'; write taps=9 for a "
            "window of 3×3."
        )
    return float(checks.number("taps", checks.on_host("taps", taps), low=1.0))


def _check_padding(
    padding: str | None,
    weights: str,
    widths: Sequence[float] | None,
) -> None:
    if padding is None:
        return
    checks.one_of("padding", padding, PADDINGS)
    if padding == "valid" or (weights != "orthogonal" and padding == "same"):
        known = "'circular' and 'same'" if weights == "orthogonal" else "'circular'"
        raise NotDefined(
            f"no law is given for {weights} convolutions with padding={padding!r}; "
            f"there is one for {known}."
        )
    if widths is not None:
        raise NotDefined(
            "no law is known for convolutions whose channels vary; leave widths out."
        )


def _residual(
    phi: Activation,
    path: list[float],
    sigmas: list[float],
    *,
    branch_scale: float,
) -> Law:
    """Return the law of great depth of residual blocks."""
    branch_scale = checks.number(
        "branch_scale",
        branch_scale,
        above=0.0,
    )
    # A path often has the same q at many layers, and each takes a quadrature.
    slope_at = {q: mean_square_slope(phi, q) for q in set(path)}
    c = 0.0
    for q, sigma in zip(path, sigmas, strict=True):
        c += branch_scale**2 * sigma**2 * slope_at[q]
    law = _universal.resnet_law(c)
    name = f"{phi.name}, {len(path)} residual blocks, c {c:.6g}"
    return Law(law.product, name, pairs=len(path))
