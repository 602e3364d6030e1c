"""certify: what no training undoes, for any differentiable f(params, x)."""

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Array, PyTree

from isometry._internal import checks, digests, randomness
from isometry._internal.errors import FromCall, NotFinite, public
from isometry._internal.types import Key, Params
from isometry.certificates import _closure, _confine, _layers, _members
from isometry.certificates._assembling import Found, assembled
from isometry.certificates._certificate import Certificate
from isometry.certificates._closure import Closure
from isometry.certificates._confine import Confined, Piece
from isometry.certificates._doubts import doubts_about
from isometry.certificates._gradients import Draw, Gradient, Gradients, Space
from isometry.certificates._observing import Units, observe
from isometry.certificates._partition import Labels, Mask, of_equal, split
from isometry.certificates._programs import (
    REFUSALS,
    Function,
    Program,
    in_a_line,
    program,
)
from isometry.certificates._subject import Subject, check_params, subject

# The number of inputs that are drawn at each random point if kinks are kept. At three
# points that makes 48 inputs, and a healthy rectified unit is off at all of them with
# probability 2^-48. With 9 inputs in all it would be 1/500, so that of 500 healthy
# units one would be called dead.
_INPUTS = 16

# The inputs that show every row of an embedding are drawn at no more points than this;
# if they are more, several share a point.
_MOST_PROBES = 8

# Parameters with at most this many bits of mantissa differ by 6e-8 or not at all, and
# so do sums of them. Parameters in float64 may differ by less than sums are rounded.
_MOST_BITS = 24

# By how much a point is moved off the space of the affine search. Sums that are equal
# only in that space then differ, while saturated units still have no gradient.
_OFF = 1e-3


@public("certify")
def certify(
    f: Function | Sequence[Function],
    params: Params,
    x: PyTree | None = None,
    *,
    draw: Draw | None = None,
    xs: PyTree | None = None,
    loss: Callable[..., Array] | None = None,
    key: Key | None = None,
) -> Certificate:
    """Find what no training undoes, whatever the data, loss and learning rate.

    Parameters of which given entries are zero, equal or opposite form a space. From
    gradients at random points `certify` finds the smallest such space that holds
    `params` and that no gradient of f leaves. The result is exact: the probability of
    a wrong answer is zero, apart from rounding, whose errors are measured. Each
    nonlinearity with a kink, such as ReLU, is replaced by a random smooth function, so
    that a claim does not depend on the inputs that were drawn. Claims that rest on the
    kinks themselves are graded "evidence".

    A network is certified in training mode if it has one, with dropout and statistics
    of batches; `Certificate.mode` says which mode it was.

    Args:
        f: A network, a list of blocks, or any f(params, x) with floating outputs.
        params: The parameters of f, any pytree of concrete arrays. They are passed to f
            in float64, and arithmetic of 16 bits inside f is done in float64. If f
            refuses float64, with a TypeError for example, it is given float32;
            `Certificate.arithmetic` says so.
        x: One example or its shapes. It may be left out for a network, and with `draw`.
        draw: A function of a key that returns a random x. The default draws Gaussian
            numbers at several scales, and integers over all rows that they select.
        xs: Examples along a first axis. If given, only gradients on these count, and
            the result holds for training on them.
        loss: With `xs`, a function of an output, or of an output and a target if xs is
            a pair (inputs, targets). If given, only gradients of the loss count.
        key: A random key. The default is `jax.random.key(0)`.

    Returns:
        The certificate.

    Raises:
        InputError: Parameters that are not those of the network, or NaN, with their
            leaf and index; a function without floating outputs; a draw that returns
            another structure.
        NotDefined: f computes in 16 bits in a place that cannot be evaluated in
            float64, such as a callback.
        NotFinite: Gradients are not finite at random parameters.
        TypeError: Traced arguments.

    Example:
        >>> net = networks.mlp([4, 16, 16, 3], "tanh", "partial_identity", bias=False)
        >>> cert = isometry.certify(net, net.init(jax.random.key(0)))
        >>> [layer.rank_bound for layer in cert.layers]
        [4, 4, 3]
    """
    checks.on_host("key", key)
    if key is None:
        key = jax.random.key(0)
    checks.key("key", key)
    about = subject(f, params, x, draw=draw, xs=xs, loss=loss)
    # The x64 mode is of this thread and this block alone.
    with jax.enable_x64(True):
        return _certified(about, params, key)


def certify_each(
    f: Function,
    draws: Sequence[Params],
    x: PyTree | None,
) -> tuple[Certificate, ...]:
    """Certify several draws of one network, which is read once for all of them.

    Of a deep network the reading alone takes a second. Equal draws, as of the identity,
    are certified once, and share a certificate.

    Args:
        f: A network, or any f(params, x).
        draws: The parameters of each draw.
        x: One example or its shapes, or None of a network that knows its own.
    """
    about = subject(f, draws[0], x, draw=None, xs=None, loss=None)
    certificates: dict[bytes, Certificate] = {}
    identities = []
    for params in draws:
        check_params(params)
        digest = digests.of_arrays(jax.tree.leaves(params))
        identities.append(digest)
        if digest not in certificates:
            with jax.enable_x64(True):
                certificates[digest] = _certified(about, params, jax.random.key(0))
    return tuple(certificates[digest] for digest in identities)


def _certified(
    about: Subject,
    params: Params,
    key: Key,
) -> Certificate:
    space = Space(params)
    # For a large vocabulary, several inputs are drawn at each point, so that a few
    # points show all rows.
    num_inputs = -(-about.period // _MOST_PROBES)
    period = -(-about.period // num_inputs)
    exemplar = space.params(space.arrays(space.theta))
    x = about.draw(jax.random.key(0))
    build = functools.partial(_program, about.f, exemplar, x)
    smooth = _smooth(build, num_inputs, key)
    gradients = Gradients(
        smooth, space, draw=about.draw, rng=randomness.host_generator(key)
    )
    group = _groups(space)
    start = _closure.first_gradient(gradients, group)
    # Only gradients of the exact search are asked for tiny ones, not those at theta.
    gradients.has_tiny = False
    exact = _closure.exact(gradients, group, start, period=period)
    # The exact search again with each leaf a group of its own, as if each array had its
    # own learning rate.
    apart = None
    if _joins_leaves(space, exact):
        apart = _closure.exact(gradients, space.leaf, start, period=period)
    doubts = doubts_about(gradients)
    affine = _closure.affine(gradients, group, start, decays=True, period=period)
    exact = _of_supports(gradients, exact, start, period=period)
    suspect = _suspect(gradients, exact, affine, group=group)
    as_it_is, kinked, on_kinks = gradients, None, np.zeros(space.size, bool)
    if smooth.replaced or smooth.unrelaxed:
        kinks = build(num_inputs=max(num_inputs, _INPUTS), dtype=smooth.dtype)
        as_it_is = Gradients(kinks, space, draw=about.draw, rng=gradients.rng)
        start = _closure.first_gradient(as_it_is, group, decays=False)
        kinked = _closure.affine(as_it_is, group, start, decays=False, period=period)
        on_kinks = _on_kinks(as_it_is, exact, group)
    found = Found(
        exact=exact,
        apart=apart,
        affine=affine,
        kinked=kinked,
        suspect=suspect,
        on_kinks=on_kinks,
        is_coarse=space.bits > _MOST_BITS or smooth.is_coarse,
        doubts=doubts,
        num_draws=as_it_is.num_draws,
        is_sorted="sort" in smooth.replaced,
    )
    confined = _confined_weights(about, as_it_is)
    layers, findings = assembled(about, space, found, confined=confined)
    return Certificate(
        layers=layers,
        findings=findings,
        mode=about.mode,
        arithmetic=smooth.arithmetic,
        num_draws=gradients.num_draws,
        # Equal draws share a certificate, and each asks for the same points.
        _observe=functools.cache(functools.partial(_units, about, params, key, exact)),
    )


def _smooth(
    build: Callable[..., Program],
    num_inputs: int,
    key: Key,
) -> Program:
    """Return the gradient of f with smooth functions in the place of its kinks.

    If some kinks cannot be replaced, it is taken at `_INPUTS` inputs or more.

    Args:
        build: `_program` of f, its parameters and an input.
        num_inputs: How many inputs show all rows of an embedding.
        key: Draws the smooth functions that stand for kinks.
    """
    smooth = build(num_inputs=num_inputs, key=key)
    # A kink that stays may be a choice, such as that of an expert. One input shows only
    # the piece that is chosen for it.
    if smooth.unrelaxed and num_inputs < _INPUTS:
        return build(num_inputs=_INPUTS, dtype=smooth.dtype, key=key)
    return smooth


def _confined_weights(about: Subject, gradients: Gradients) -> dict[Piece, Confined]:
    """Return the subspaces that updates of weights do not leave.

    Returns:
        The subspaces by piece. Empty if the weights are too large to search, or if none
        is zero or has equal singular values: then no subspaces are expected.
    """
    space = gradients.space
    weights = {row.leaf for row in _layers.slices(about.anatomy, space)}
    if not _confine.asks_for(space, weights):
        return {}
    return _confined(gradients, _confine.pieces(about.anatomy, space), weights)


def _confined(
    gradients: Gradients,
    pieces: Sequence[Piece],
    weights: set[int],
) -> dict[Piece, Confined]:
    """Return the subspaces in which the updates of each piece stay.

    The tolerances `_confine.KEEPS` are tried in turn until one separates the subspaces
    clearly from the rest. A subspace does not count if it also confines updates at
    random parameters. It is then a property of f: a norm or a softmax, for example, is
    constant along one direction of the weights before it.
    """
    theta = gradients.space.arrays(gradients.space.theta)
    shapes = {piece: piece.of(theta[piece.leaf]).shape for piece in pieces}
    of_weights = [piece for piece in pieces if piece.leaf in weights]
    found: dict[Piece, Confined] = {}
    is_whole, keep = True, _confine.KEEPS[0]
    for keep in _confine.KEEPS:
        found = _confine.confine(gradients, pieces, keep)
        is_clean = all(confined.is_clean for confined in found.values())
        is_whole = all(found[piece].spans == shapes[piece] for piece in of_weights)
        # With a tolerance that is too small, the rounding of weights in float32 fills
        # all subspaces, so a larger one is tried.
        if is_clean and not is_whole:
            break
    if is_whole:
        return found
    try:
        around = _at_generic_point(gradients)
        generic = _confine.confine(around, pieces, found[pieces[0]].keep)
    # f itself may not be defined at random parameters.
    except NotFinite:
        return found
    for piece, confined in found.items():
        # Random parameters are confined as much, so this says nothing of theta.
        if confined.spans == generic[piece].spans:
            found[piece] = confined._replace(spans=shapes[piece])
    return found


def _at_generic_point(gradients: Gradients) -> Gradients:
    """Return the gradients of the same function around random parameters."""
    rng, space = gradients.rng, copy.copy(gradients.space)
    # No two of these numbers are equal, so every entry is alone in its class.
    numbers = rng.standard_normal(space.size)
    free = of_equal(numbers, space.leaf, np.arange(space.size))
    space.theta = _members.exact_point(space, free, _members.FRESH, rng=rng)
    around = copy.copy(gradients)
    around.space = space
    return around


def _program(
    f: Function,
    params: Params,
    x: PyTree,
    *,
    num_inputs: int,
    dtype: np.dtype | None = None,
    key: Key | None = None,
) -> Program:
    """Return the gradient of f, without kinks if there is a key.

    It is in float64, or in float32 outside of the 64-bit mode where f insists on it: a
    scan, for example, whose state begins in float32, or an array of NumPy that f closes
    over, which JAX may remember in float32 from the trace for the anatomy. Then the
    program says what f raised.
    """
    build = functools.partial(
        program,
        f,
        params,
        x,
        num_inputs=num_inputs,
        key=key,
    )
    if dtype is not None:
        return build(dtype=dtype)
    try:
        return build(dtype=np.dtype(np.float64))
    # Errors of this package would be the same in float32.
    except FromCall:
        raise
    except REFUSALS as refusal:
        coarse = build(dtype=np.dtype(np.float32))
        return coarse._replace(failure=in_a_line(refusal))


def _groups(space: Space) -> Labels:
    """Return the group of each entry: leaves that are equal or opposite share one.

    Experts and branches are often arrays of their own. An optimizer that treats arrays
    alike keeps equal ones equal.
    """
    by_content: dict[bytes, int] = {}
    groups = []
    for i, array in enumerate(space.arrays(space.theta)):
        digest = digests.of_arrays([np.abs(array)])
        groups.append(by_content.setdefault(digest, i))
    has_copies = any(
        group != i and len(space.shapes[i]) >= 2 for i, group in enumerate(groups)
    )
    if not has_copies:
        return space.leaf
    return np.array(groups, np.int32)[space.leaf]


def _joins_leaves(
    space: Space,
    closure: Closure,
) -> bool:
    """Tell whether entries of different leaves stay equal."""
    moves = closure.moves
    if not len(moves.members):
        return False
    leaf = space.leaf[moves.members]
    low = np.minimum.reduceat(leaf, moves.starts)
    high = np.maximum.reduceat(leaf, moves.starts)
    return bool((low != high).any())


def _of_supports(
    gradients: Gradients,
    exact: Closure,
    start: Gradient,
    *,
    period: int,
) -> Closure:
    """Return `exact` with `bitwise` False at zeros that need equal parameters.

    The difference of two equal parameters is 0.0 in every probe. Rounding makes them
    different in training, and the zero is lost. So the search is repeated without
    equal parameters, and `bitwise` is kept only at zeros that it finds too.
    """
    assert exact.equal is not None, "the exact search keeps the classes of theta"
    is_zero = exact.bitwise & (exact.first == 0)
    if not (is_zero.any() and len(exact.equal.members)):
        return exact
    # If each entry is a group by itself, no two entries share a class.
    by_itself = np.arange(gradients.space.size)
    supports = _closure.exact(gradients, by_itself, start, period=period)
    is_zero &= supports.bitwise & (supports.first == 0)
    return dataclasses.replace(exact, bitwise=is_zero)


def _suspect(
    gradients: Gradients,
    exact: Closure,
    affine: Closure,
    *,
    group: Labels,
) -> Mask:
    """Return entries that are equal in `affine` perhaps only by saturation.

    Suspected are entries that the affine search finds equal or zero, and the exact
    search does not. If they are so because sums are equal everywhere in the space, a
    point off the space shows a difference. Entries that stay equal there too are
    returned: a saturated unit has no gradient off the space either.
    """
    shared = _layers.shared_entries(affine.moves)
    shared &= ~_layers.shared_entries(exact.moves)
    if not shared.any():
        return shared
    space, rng = gradients.space, gradients.rng
    tied = affine.moves
    for _ in range(2):
        gammas = np.ones(len(space.shapes))
        point = _members.affine_point(space, affine.moves, gammas, rng=rng)
        point *= 1 + _OFF * rng.standard_normal(space.size)
        gradient = gradients(point)
        tied = split(tied, gradient.values, gradient.tolerance, group=group)
    return shared & _layers.shared_entries(tied)


def _on_kinks(
    gradients: Gradients,
    exact: Closure,
    group: Labels,
) -> Mask:
    """Return entries that stay equal in exact arithmetic, and that rounding separates.

    A rectified unit whose inputs cancel stays on its kink for ever in exact arithmetic,
    so that its weights stay equal, opposite or still. Rounding puts it on one side or
    the other, and then its weights part.
    """
    assert exact.equal is not None, "the exact search keeps the classes of theta"
    shared = _layers.shared_entries(exact.moves)
    if not shared.any():
        return shared
    space, parted, equal = gradients.space, exact.moves, exact.equal
    # A unit that one probe separates may separate further units in the next.
    for kind in (_members.FRESH, _members.NEAR, _members.FRESH):
        point = _members.exact_point(space, equal, kind, rng=gradients.rng)
        try:
            gradient = gradients(point)
        # f itself may not be defined at a point where the relaxed f was.
        except NotFinite:
            break
        values, tolerance = gradient.values, gradient.tolerance
        parted = split(parted, values, tolerance, group=group)
        equal = split(equal, values, tolerance, group=group)
    return shared & ~_layers.shared_entries(parted)


def _units(
    about: Subject,
    params: Params,
    key: Key,
    exact: Closure,
    point: str,
) -> Units:
    """Return the classes of the values at a point: `Certificate.units`."""
    assert exact.equal is not None, "the exact search keeps the classes of theta"
    rng = randomness.host_generator(key)
    with jax.enable_x64(True):
        space = Space(params)
        units = observe(about, point, space, equal=exact.equal, rng=rng)
    # All who ask share them.
    units.ids.setflags(write=False)
    units.signs.setflags(write=False)
    return units
