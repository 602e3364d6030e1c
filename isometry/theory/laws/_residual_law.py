"""The law of J Jᵀ for a chain of residual blocks x' = s x + a F(x), and its moments."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, public
from isometry.activations import Activation
from isometry.theory.laws import _closed, _jacobian_law, _universal
from isometry.theory.laws._coherent import coherent_value
from isometry.theory.laws._diagonal import Diagonal
from isometry.theory.laws._factor import Factor
from isometry.theory.laws._law import Law
from isometry.theory.laws._measure import Measure
from isometry.theory.laws._moments import Moments
from isometry.theory.laws._product import NotConverged, product_of
from isometry.theory.laws._residual_block import ResidualBlock
from isometry.theory.mean_field._host import ActivationLike, record
from isometry.theory.mean_field._maps import LARGEST, scale
from isometry.theory.mean_field._moments import finite, moments
from isometry.theory.mean_field._pair import slope_squares
from isometry.theory.mean_field._residual import (
    ORDERS,
    Block,
    Norm,
    Passage,
    Stream,
    follow,
    sampled_slopes,
)

# The law of a flattened kernel needs the number of its taps, and a block has none.
_WEIGHTS = ("gaussian", "orthogonal")

# E phi of odd activations is zero but for rounding, some 1e-17. A thousand times more
# would take means of activations at small variances for none.
_NO_MEAN = 1e-12

# Levels and width of the contour of an arcsine law, as in `_slope_measure`.
_LEVELS = 30
_SEGMENT = 0.5
_HEIGHT = 0.4
_ORDER = 18


class Link(NamedTuple):
    """What one block does to a perturbation. A norm divides the parts that it scales.

    Attributes:
        skip: s, over what a norm behind the sum divides by.
        branch: a, over what norms in front of the branch and behind the sum divide by.
        scales: sigma_w of each weight layer of the branch.
        q: The mean square of the stream in front of the block.
        read: The variance that the branch reads.
        inner: The variance at the slopes between (or behind) the weight layers; with
            slopes on the stream alone, theirs.
    """

    skip: float
    branch: float
    scales: tuple[float, ...]
    q: float
    read: float
    inner: float

    @classmethod
    def of(cls, passage: Passage, order: str) -> "Link":
        """Return what a block does to a perturbation of its first input."""
        scale = float(passage.scale[0])
        read_scale = float(passage.read_scale[0])
        read = passage.read.first_square
        inner = read
        if order == "v2":
            # Behind the slopes on the stream and the first layer.
            inner = passage.stations[1].first_square
        elif order != "pre_activation":
            inner = passage.stations[0].first_square
        block = passage.block
        return cls(
            skip=block.skip / scale,
            branch=block.branch / (scale * read_scale),
            scales=tuple(map(math.sqrt, block.squares)),
            q=passage.before.first_square,
            read=read,
            inner=inner,
        )


@public("residual_law")
def residual_law(
    activation: ActivationLike,
    branch: Sequence[float],
    *,
    order: str = "two_layer",
    skip: float | Sequence[float] = 1.0,
    sigma_w: float | Sequence[float],
    weights: str = "gaussian",
    q: float = 1.0,
) -> Law:
    """Return the law of λ = s² of a chain of residual blocks at infinite width.

    J is the derivative from the stream in front of the first block to that behind the
    last, x' = skip x + branch F(x), of any finite depth. With order "two_layer", F = W2
    phi(W1 x), the law is exact: blocks are free of each other, and the cumulants of
    R-diagonal elements add (Haagerup and Larsen, 2000). With "post_activation", F =
    phi(W x), it is exact for one block; for more, moments 1 to 3 are, and the
    distribution function is off by less than 0.01 where phi' vanishes for at most half
    of the units.

    There are no biases. The mean square q_l of the stream follows from the first by its
    own map. In "post_activation" the means E phi of the branches add up coherently if
    they are not zero (ReLU): q grows as e^(O(√depth)) at fixed Σ branch², and with many
    blocks J has one singular value outside the law. Its s² is 2 times the growth of q
    where branches are weak, and 4 times at branch 1. `law.outliers` says whether it
    has, and `compare` counts it.

    A first density takes 0.2 s on one core, of 20 blocks with different q_l 1 s.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        branch: The multiplier of each branch, one number a block.
        order: "two_layer" or "post_activation", as in `networks.resnet`.
        skip: The multiplier of the skips, not zero; a number or one a block.
        sigma_w: √(fan_in · Var W), of orthogonal weights every singular value; a
            number, or one a weight layer of the branch.
        weights: "gaussian" or "orthogonal".
        q: The mean square of the first input.

    Returns:
        The law.

    Raises:
        InputError: A number out of range; an unknown name; an activation that is not
            elementwise and real.
        NotDefined: "pre_activation" and "v2", of which only `residual_moments` are
            known; "post_activation" where phi' vanishes for more than half of the
            units; phi jumps or has an unbounded slope.

    Example:
        >>> law = theory.residual_law("relu", [0.5] * 8, sigma_w=1.0)
        >>> round(law.moment(1), 6), round(law.s_max, 4)
        (2.565785, 4.4624)
    """
    checks.one_of("order", order, tuple(ORDERS))
    phi, passages = _arguments(
        activation,
        branch,
        order=order,
        skip=skip,
        sigma_w=sigma_w,
        weights=weights,
        q=q,
    )
    return law_of(phi, passages, order=order, weights=weights)


def law_of(
    phi: Activation,
    passages: Sequence[Passage],
    *,
    order: str,
    weights: str,
    norm: Norm | None = None,
    zeros: float = 0.0,
) -> Law:
    """Return the law of blocks that a stream has passed.

    Args:
        phi: The activation.
        passages: What happens in each block.
        order: A key of `ORDERS`.
        weights: "gaussian" or "orthogonal".
        norm: The norms of the blocks.
        zeros: The share of directions that a norm behind a sum takes away.

    Raises:
        NotDefined: No law is known of blocks of this order.
    """
    if ORDERS[order].before:
        raise NotDefined(
            f"no law is known for order={order!r}: the derivatives of the activation "
            "sit on the stream, so that those of two blocks are correlated and the "
            "blocks are not free. Use theory.residual_moments, which are known; there "
            "is a law for order='two_layer'."
        )
    links = _links(passages, order)
    num_gaussian = _num_gaussian(order, weights)
    # Of a single block whose branch is not zero the law is exact, however sparse.
    num_active = sum(link.branch != 0 for link in links)
    counts: Counter[Factor] = Counter()
    for link, shares in zip(links, _slopes(phi, links), strict=True):
        for measure, share in shares:
            # ReLU's half is allowed, and may exceed a half by rounding.
            if order == "post_activation" and measure.zero_mass > 0.5 + 1e-9:
                _refuse_sparse(phi, measure, num_active)
            factor = _factor(link, measure, num_gaussian)
            counts[factor] += share  # pyright: ignore[reportArgumentType]
    if zeros:
        # Norms of several blocks take away as many as one, in general position.
        counts[_closed.haar(0.0, inputs=1.0, outputs=1 - zeros, size=1.0)] += 1
    name = f"{phi.name}, {len(links)} residual blocks, {order}, {weights}"
    law = Law(product_of(counts), name, pairs=len(links))
    has_means = any(abs(passage.mean[0]) > _NO_MEAN for passage in passages)
    if has_means and _is_beyond(law, coherent_value(phi, passages, norm)):
        law = dataclasses.replace(law, outliers=1)
    return law


def _is_beyond(law: Law, value: float) -> bool:
    """Tell whether λ lies beyond the upper edge of a law."""
    # Where the edge is not found, nothing that asks for it gets an answer, and so
    # nothing can be compared.
    try:
        return value > law.s_max**2
    except NotConverged:
        return False


def _links(passages: Sequence[Passage], order: str) -> list[Link]:
    """Return what each block does to a perturbation.

    Raises:
        NotDefined: A skip is zero, or what an activation reads.
    """
    links = [Link.of(passage, order) for passage in passages]
    # Units that keep the values of an input have their own slopes, at zero too.
    is_sampled = ORDERS[order].before and passages[0].before.start is not None
    for index, link in enumerate(links):
        if link.skip == 0:
            raise NotDefined(
                f"skip is 0 in block {index}, which then is no residual block; "
                "theory.jacobian_law has the law of layers without skips."
            )
        variances = [link.inner]
        if ORDERS[order].before:
            variances.append(link.read)
        if min(variances) == 0 and not is_sampled:
            raise NotDefined(
                f"what an activation of block {index} reads is zero, where a slope may "
                "be another than at small values; write inputs that are not zero."
            )
    return links


def _num_gaussian(order: str, weights: str) -> int:
    """Return how many matrices of a branch are Gaussian."""
    return ORDERS[order].num_layers if weights == "gaussian" else 0


def _refuse_sparse(phi: Activation, measure: Measure, num_active: int) -> None:
    """Refuse several blocks of which most units have slope zero.

    The law of several blocks is an approximation, which is bad there. That of one block
    is exact.
    """
    if num_active < 2:
        return
    raise NotDefined(
        f"phi' of {phi.name} vanishes for {measure.zero_mass:.3g} of the units. Of "
        "several blocks of order='post_activation' the law is only known where at most "
        "half of them do; theory.residual_moments are right, and there is a law for "
        "order='two_layer'."
    )


@public("residual_moments")
def residual_moments(
    activation: ActivationLike,
    branch: Sequence[float],
    *,
    order: str,
    skip: float | Sequence[float] = 1.0,
    sigma_w: float | Sequence[float],
    weights: str = "gaussian",
    q: float = 1.0,
) -> Moments:
    """Compute mean and variance of λ = s² of a chain of residual blocks.

    J is that of `residual_law`, at infinite width and any finite depth. The mean is
    Π(skip² + g) with g = branch² E|F'|². The variance is exact in all four orders. In
    "pre_activation", F = W phi(x), and "v2", F = W2 phi(W1 phi(x)), the derivatives of
    blocks are correlated, because the stream changes little from one to the next; the
    stream is taken to be Gaussian over units, as behind a Gaussian or orthogonal stem.
    With many blocks these two take seconds.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        branch: The multiplier of each branch, one number a block.
        order: "two_layer", "post_activation", "pre_activation" or "v2", as in
            `networks.resnet`.
        skip: The multiplier of the skips, not zero; a number or one a block.
        sigma_w: √(fan_in · Var W), of orthogonal weights every singular value; a
            number, or one a weight layer of the branch.
        weights: "gaussian" or "orthogonal".
        q: The mean square of the first input.

    Returns:
        Mean and variance of λ. In "post_activation" they are of the bulk: one singular
        value of the width lies outside where E phi is not zero.

    Raises:
        InputError: As `residual_law`.
        NotDefined: phi jumps.

    Example:
        >>> found = theory.residual_moments(
        ...     "relu", [1.0, 1.0], order="pre_activation", sigma_w=2**0.5
        ... )
        >>> round(found.mean, 9), round(found.variance, 9)
        (4.0, 34.0)
    """
    checks.one_of("order", order, tuple(ORDERS))
    phi, passages = _arguments(
        activation,
        branch,
        order=order,
        skip=skip,
        sigma_w=sigma_w,
        weights=weights,
        q=q,
    )
    return moments_of(phi, passages, order=order, weights=weights)


def moments_of(
    phi: Activation,
    passages: Sequence[Passage],
    *,
    order: str,
    weights: str,
) -> Moments:
    """Return mean and variance of λ of blocks that a stream has passed."""
    links = _links(passages, order)
    num_gaussian = _num_gaussian(order, weights)
    if ORDERS[order].before:
        on_stream = _on_stream(phi, passages, links)
        return _correlated(
            phi,
            links,
            on_stream,
            has_inner=order == "v2",
            num_gaussian=num_gaussian,
        )
    # Free factors: means multiply, and relative variances add.
    log_mean, relative = 0.0, 0.0
    for link in links:
        g, spread = _strength(phi, link)
        s = link.skip**2
        log_mean += math.log(s + g)
        # 2sg is the cross term of skip and branch; each Gaussian matrix adds g².
        variance = 2 * s * g + g**2 * (spread + num_gaussian)
        relative += variance / (s + g) ** 2
    mean = math.exp(log_mean)
    return Moments(mean=mean, variance=float(mean**2 * relative))


def _strength(phi: Activation, link: Link) -> tuple[float, float]:
    """Return g = branch² Π sigma_w² E phi'² and the spread μ_2/μ_1² − 1 of phi'²."""
    known = moments(phi, link.inner)
    slope = finite(phi, link.inner, known.slope[0])
    g = link.branch**2 * math.prod(link.scales) ** 2 * slope
    # The spread of a slope that vanishes is 0/0, and counts g² times.
    if g == 0:
        return 0.0, 0.0
    return g, finite(phi, link.inner, known.spread[0])


class OnStream(NamedTuple):
    """Slopes of the stream itself, of every block.

    Attributes:
        means: E D² of each block.
        correlations: E D_l² D_j²/(E D_l² E D_j²) of any two blocks, at one unit.
    """

    means: Float[np.ndarray, " blocks"]
    correlations: Float[np.ndarray, "blocks blocks"]


def _on_stream(
    phi: Activation, passages: Sequence[Passage], links: Sequence[Link]
) -> OnStream:
    """Return the moments of the slopes of the stream."""
    if passages[0].before.start is not None:
        squares = sampled_slopes(phi, passages)
        means = squares.mean(axis=1)
        products = squares @ squares.T / squares.shape[1]
        scale = np.outer(means, means)
        # Where all slopes vanish, the branch adds nothing.
        one = np.ones_like(products)
        return OnStream(means, np.divide(products, scale, out=one, where=scale > 0))
    depth = len(links)
    means, own = np.zeros(depth), np.zeros(depth)
    for i, link in enumerate(links):
        known = moments(phi, link.read)
        means[i] = finite(phi, link.read, known.slope[0])
        own[i] = 1 + finite(phi, link.read, known.spread[0])
    correlations = np.diag(own)
    for i, here in enumerate(links):
        for j, there in enumerate(links[:i]):
            skips = math.prod(link.skip for link in links[j:i])
            # What is added to the stream is independent of it, so the covariance is
            # that of the part that the skips pass on.
            correlation = skips * math.sqrt(there.q / here.q)
            cross = slope_squares(phi, here.read, there.read, correlation=correlation)
            known = cross / (means[i] * means[j])
            correlations[i, j] = correlations[j, i] = known
    return OnStream(means, correlations)


def _correlated(
    phi: Activation,
    links: Sequence[Link],
    on_stream: OnStream,
    *,
    has_inner: bool,
    num_gaussian: int,
) -> Moments:
    """Compute the moments where the first slopes of a branch sit on the stream.

    With m_1 = p and words of site-wise moments: A the coefficient that multiplies no
    slopes, B_j that of the slopes of block j, C the rest; blocks are divided by their
    skip.
    """
    p, a, c = 1.0, 1.0, 0.0
    b = np.zeros(len(links))
    factor = 1.0
    for index, link in enumerate(links):
        strength = (link.branch * math.prod(link.scales) / link.skip) ** 2
        # v of the matrix behind the slopes on the stream.
        v = float(num_gaussian)
        if has_inner:
            inner = moments(phi, link.inner)
            strength *= finite(phi, link.inner, inner.slope[0])
            v += finite(phi, link.inner, inner.spread[0])
        g = strength * on_stream.means[index]
        correlations = on_stream.correlations[index]
        kappa = float(correlations[:index] @ b[:index])
        # The site-wise moment in which the slopes of this block stand twice.
        tau = a * correlations[index] + 2 * kappa + c
        c += 2 * g * (kappa + c) + g**2 * tau + (v - 1) * g**2 * p**2
        b[:index] *= 1 + g
        b[index] = g * a
        a += (2 * g + g**2) * p**2
        p *= 1 + g
        factor *= link.skip**2
    # Blocks were divided by their skips; here these come back.
    mean = factor * p
    second = factor**2 * (a + 2 * b.sum() + c)
    return Moments(mean=float(mean), variance=float(second - mean**2))


def _arguments(
    activation: ActivationLike,
    branch: Sequence[float],
    *,
    order: str,
    skip: float | Sequence[float],
    sigma_w: float | Sequence[float],
    weights: str,
    q: float,
) -> tuple[Activation, list[Passage]]:
    """Check the arguments of both functions; return phi and what blocks do."""
    checks.one_of("weights", weights, _WEIGHTS)
    phi = record(activation)
    branches = _numbers("branch", branch)
    depth = len(branches)
    if not 1 <= depth <= _universal.DEEPEST:
        raise InputError(f"branch has {depth} values; write one number a block.")
    skips = _one_each("skip", skip, depth, what="block")
    if not all(skips):
        raise InputError(
            "skip is 0 in a block, which then is no residual block; "
            "theory.jacobian_law has the law of layers without skips."
        )
    num_layers = ORDERS[order].num_layers
    scales = _one_each("sigma_w", sigma_w, num_layers, what="weight layer")
    squares = tuple(scale("sigma_w", sigma) ** 2 for sigma in scales)
    q = float(checks.number("q", checks.on_host("q", q), above=0.0, high=LARGEST))
    blocks = [
        Block(one, other, squares) for one, other in zip(skips, branches, strict=True)
    ]
    stream = Stream.gaussian(np.full((1, 1), q))
    return phi, follow(phi, blocks, order=order, stream=stream)


def _slopes(phi: Activation, links: Sequence[Link]) -> list[_jacobian_law.Shares]:
    """Return the distribution of D² of each block.

    Equal blocks at many variances share the few of a Gauss rule, as layers of a dense
    network do, because log S of a block is analytic in ln q.
    """
    shares: list[_jacobian_law.Shares] = [()] * len(links)
    kinds = {_kind(link) for link in links}
    for kind in kinds:
        alike = [i for i, link in enumerate(links) if _kind(link) == kind]
        path = [links[i].inner for i in alike]
        slopes = _jacobian_law.slopes_of_blocks(phi, path)
        for i, share in zip(alike, slopes, strict=True):
            shares[i] = share
    return shares


def _kind(link: Link) -> tuple[float, ...]:
    """Return what equal blocks share."""
    return (abs(link.skip), abs(link.branch), *link.scales)


def _factor(
    link: Link,
    measure: Measure,
    num_gaussian: int,
) -> Factor:
    """Return the factor of one block."""
    log_skip = 2 * math.log(abs(link.skip))
    # Without a branch the block is its skip, a number.
    if link.branch == 0 or measure.moment(1) == 0:
        return _closed.Powers(log_scale=log_skip)
    log_branch = 2 * math.log(abs(link.branch) * math.prod(link.scales))
    # A linear branch with Haar weights is normal, and its law known in closed form.
    if num_gaussian == 0 and measure.constant is not None:
        log_branch += math.log(measure.constant)
        return Diagonal(arcsine(log_skip, log_branch))
    return ResidualBlock(
        measure,
        log_skip=log_skip,
        log_branch=log_branch,
        num_gaussian=num_gaussian,
    )


def arcsine(log_skip: float, log_branch: float) -> Measure:
    """Return the law of |s + a e^iθ|² at uniform θ: a linear block with Haar weights.

    Args:
        log_skip: log s².
        log_branch: log a².
    """
    s, a = math.exp(log_skip / 2), math.exp(log_branch / 2)
    # Segments are graded towards both ends, where the density is infinite.
    steps = 2.0 ** np.arange(-_LEVELS, 0)
    near = np.pi / 2 * steps[steps < _SEGMENT / np.pi * 2]
    inner = np.linspace(near[-1], np.pi / 2, 4)
    lower = np.concatenate([[0.0], near, inner[1:]])
    x = np.concatenate([lower, np.pi - lower[-2::-1]])
    # Where Im θ > 0, λ lies below the real axis.
    height = np.minimum(0.5 * np.minimum(x, np.pi - x), _HEIGHT)
    height[[0, -1]] = 0.0
    vertices = x + 1j * height
    nodes, mass = np.polynomial.legendre.leggauss(_ORDER)
    half = np.diff(vertices)[:, None] / 2
    theta = (vertices[1:] + vertices[:-1])[:, None] / 2 + half * nodes
    weights = (half * mass / np.pi).ravel()
    # (s − a)² + 4sa cos²(θ/2), without cancellation at either end where s is near a.
    low = (s - a) ** 2
    values = low + 4 * s * a * np.cos(theta.ravel() / 2) ** 2
    none = np.zeros(0)
    return Measure(
        none,
        none,
        nodes=values,
        weights=weights / weights.sum(),
        pieces=((low, (s + a) ** 2),),
    )


def _numbers(name: str, value: Sequence[float]) -> list[float]:
    """Return a sequence of finite numbers as a list."""
    values = _jacobian_law.sequence(name, checks.on_host(name, value))
    for number in values:
        checks.number(name, number)
    return values


def _one_each(
    name: str,
    value: float | Sequence[float],
    count: int,
    *,
    what: str,
) -> list[float]:
    """Return one number for each: the one that is given, or as many as there are."""
    if np.ndim(checks.on_host(name, value)) == 0:  # pyright: ignore[reportArgumentType]
        return [float(checks.number(name, value))] * count  # pyright: ignore[reportArgumentType]
    values = _numbers(name, value)  # pyright: ignore[reportArgumentType]
    if len(values) != count:
        raise InputError(
            f"{name} has {len(values)} values; give a number, or one a {what}, of "
            f"which there are {count}."
        )
    return values
