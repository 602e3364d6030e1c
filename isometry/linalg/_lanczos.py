"""Singular values of an operator from products alone, by guarded Golub-Kahan steps."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from isometry._internal import checks, precision
from isometry._internal.errors import public
from isometry._internal.types import Key
from isometry.linalg._dense import thin_svd
from isometry.linalg._operator import Operator, checked

# Couplings below this many eps of the norm are rounding. With ten times fewer an
# isometry would be bidiagonalized along directions of noise; with ten times more the
# smallest resolved value would rise from 64 to 640 eps.
_BREAKDOWN = 64

# Steps between two looks at what has converged. Each look is a few small SVDs: with ten
# times fewer they would cost more than the products, with ten times more as many steps
# would be taken in vain.
_STRIDE = 8

# The constant of Kuczyński and Woźniakowski (1992), theorem 4.2: of a unit vector drawn
# uniformly, k Lanczos steps miss a share eps of the largest eigenvalue with probability
# at most 1.648 sqrt(n) exp(-sqrt(eps) (2 k - 1)).
_SMALL_BALL = 1.648

# Residual, relative to the value, up to which a direction counts as converged and is
# taken out. Its value is then right to the square of this, 1e-6. With ten times more
# that would be 1e-4; with ten times less few would be taken out within few steps.
_CONVERGED = 1e-3

# Steps of the probe that goes ahead to find what is taken out. With ten times more it
# would take longer than all others where a tolerance stops them early; in ten times
# fewer next to nothing converges.
_MOST_STEPS_AHEAD = 64

# What the bound on the largest value is to hold with while steps are counted. Ten times
# rarer failures would cost a third more steps (n = 1000, one probe); with ten times
# more frequent ones the bound would fail every other time.
_LEVEL = 0.95


class Bidiagonal(NamedTuple):
    """J V = U B and Jᵀ U = V Bᵀ + β v eᵀ after k steps, but for rounding.

    Attributes:
        diagonal: Of B, which is upper bidiagonal.
        above: Beside the diagonal. The last entry is β, the coupling to what lies
            outside of the basis.
        left: U, by rows.
        right: V by rows, and behind them v.
        norm: The largest ‖J v‖ or ‖Jᵀ u‖ met, at most s_max.
        lost: Root of the sum of squares of the couplings that were dropped as rounding.
    """

    diagonal: Float[Array, " k"]
    above: Float[Array, " k"]
    left: Float[Array, "k m"]
    right: Float[Array, "k+1 n"]
    norm: Float[Array, ""]
    lost: Float[Array, ""]

    def scaled(self) -> Float[Array, "k k"]:
        """Return B over `norm`: no scale of J under- or overflows in its SVD."""
        scale = jnp.where(self.norm > 0, self.norm, 1)
        diagonal = jnp.diag(self.diagonal)
        above = jnp.diag(self.above[:-1], 1)
        return (diagonal + above) / scale


class Extremes(NamedTuple):
    """The largest and the smallest singular value, and how far to believe them.

    Attributes:
        values: The largest, the smallest.
        bounds: A singular value lies within this distance of each.
        converged: Whether the error of each is mostly of second order.
        steps: How many were taken.

    Example:
        >>> graded = linalg.Operator.of(jnp.diag(jnp.geomspace(1.0, 1e-4, 100)))
        >>> key = jax.random.key(0)
        >>> ends = linalg.extreme_singular_values(graded, key=key, steps=40)
        >>> ends.converged, int(ends.steps)
        (Array([ True, False], dtype=bool), 40)
        >>> bool(abs(ends.values[0] - 1.0) <= ends.bounds[0])
        True
    """

    values: Float[Array, "2"]
    bounds: Float[Array, "2"]
    converged: Bool[Array, "2"]
    steps: Int[Array, ""]


class Quadrature(NamedTuple):
    """Gauss rules of the measure of JᵀJ that each probe sees, and what bounds them.

    Nodes are not singular values: those of one probe integrate polynomials of degree
    2·steps - 1 in s² exactly, and nothing else. In the example the mean of s is 50.5:
    for each probe the two rules enclose it as that probe sees it, and the spread over
    probes is larger.

    Attributes:
        log_values: ln s of the nodes of each probe, descending; -inf for what is below
            the floor. Behind the steps that were taken there are nodes of no weight.
        weights: Mass of each node, 1 for each probe.
        log_floor: ln of what is resolved, relative to the largest node of all probes.
        radau_log_values: As `log_values`, of the Gauss-Radau rules whose last node is
            fixed at zero. For s^a, a > 0 and no even number, the two rules err to
            opposite sides, and so enclose what the probe sees.
        radau_weights: Mass of each of these nodes.
        steps: How many were taken.

    Example:
        >>> @jax.jit
        ... def bounds_on_the_mean(diagonal, key):
        ...     operator = linalg.Operator.of(jnp.diag(diagonal))
        ...     rules = linalg.spectral_quadrature(operator, key=key, steps=6, probes=2)
        ...     of_gauss = rules.weights * jnp.exp(rules.log_values)
        ...     of_radau = rules.radau_weights * jnp.exp(rules.radau_log_values)
        ...     return of_radau.sum(-1), of_gauss.sum(-1)
        >>> bounds = bounds_on_the_mean(jnp.arange(1.0, 101.0), jax.random.key(0))
        >>> for lower, upper in zip(*bounds):
        ...     print(f"{lower:.1f} to {upper:.1f}")
        45.0 to 45.9
        53.6 to 54.1
    """

    log_values: Float[Array, "*batch probes nodes"]
    weights: Float[Array, "*batch probes nodes"]
    log_floor: Float[Array, "*batch"]
    radau_log_values: Float[Array, "*batch probes nodes"]
    radau_weights: Float[Array, "*batch probes nodes"]
    steps: Int[Array, "*batch"]


def bidiagonalize(
    operator: Operator,
    start: Float[Array, " n"],
    key: Key,
    steps: int,
    *,
    outside: bool = True,
    taken_out: Float[Array, "r n"] | None = None,
) -> Bidiagonal:
    """Bidiagonalize J, m × n with m ≥ n, in `steps` ≤ n steps of Golub-Kahan.

    They give J V = U B and Jᵀ U = V Bᵀ + β v eᵀ: V and U have orthonormal columns, B is
    upper bidiagonal of order `steps`, and e is the last unit vector. Each new column is
    orthogonalized twice against all before it, which is enough (Giraud et al., 2005).

    If only rounding is left of a new column, those before it span an invariant
    subspace, as after one step on an isometry. The recursion then goes on from a random
    direction orthogonal to them, with a zero in B. It works under jit and vmap.

    Args:
        operator: J.
        start: The first column of V, a unit vector orthogonal to `taken_out`.
        key: For the random directions.
        steps: The order of B.
        outside: Whether to take the last product with Jᵀ, from which β and v come.
            Without it both are zero.
        taken_out: Orthonormal rows, to which all columns of V are orthogonal. Rows of
            zeros do nothing.

    Returns:
        B, β and the columns of U and V, v the last of them.
    """
    unread = None if outside else steps - 1
    step = functools.partial(
        _step,
        operator,
        key,
        unread=unread,
        taken_out=taken_out,
    )
    b = _start(start, operator, steps)
    return jax.lax.fori_loop(0, steps, body_fun=step, init_val=b)


def _start(
    start: Float[Array, " n"],
    operator: Operator,
    steps: int,
) -> Bidiagonal:
    m, n = operator.shape
    dtype = operator.dtype
    zero = jnp.zeros((), dtype)
    row = jnp.zeros(steps, dtype)
    left = jnp.zeros((steps, m), dtype)
    right = jnp.zeros((steps + 1, n), dtype)
    return Bidiagonal(
        diagonal=row,
        above=row,
        left=left,
        right=right.at[0].set(start),
        norm=zero,
        lost=zero,
    )


def _step(
    operator: Operator,
    key: Key,
    j: Int[Array, ""] | int,
    b: Bidiagonal,
    *,
    unread: int | None = None,
    taken_out: Float[Array, "r n"] | None = None,
) -> Bidiagonal:
    """Append row j to B; in row `unread` without the product with Jᵀ."""
    keys = jax.random.split(jax.random.fold_in(key, j))
    image = operator.matvec(b.right[j])
    u = _next(image, b.left, b.norm, key=keys[0])
    if unread is None:
        image = operator.rmatvec(u.direction)
    else:
        nothing = jnp.zeros_like(b.right[0])
        image = jax.lax.cond(
            j == unread,
            lambda u: nothing,
            operator.rmatvec,
            u.direction,
        )
    known = b.right
    if taken_out is not None:
        known = jnp.concatenate([taken_out, b.right])
    v = _next(image, known, u.norm, key=keys[1])
    dropped = b.lost**2 + u.dropped**2 + v.dropped**2
    return Bidiagonal(
        diagonal=b.diagonal.at[j].set(u.coupling),
        above=b.above.at[j].set(v.coupling),
        left=b.left.at[j].set(u.direction),
        right=b.right.at[j + 1].set(v.direction),
        norm=v.norm,
        lost=jnp.sqrt(dropped),
    )


class _Direction(NamedTuple):
    """The next vector of a basis.

    Attributes:
        direction: The unit vector.
        coupling: To the basis before, an entry of B. Zero after a restart.
        norm: The largest length of a product so far.
        dropped: The coupling that was taken for rounding, or zero.
    """

    direction: Float[Array, " n"]
    coupling: Float[Array, ""]
    norm: Float[Array, ""]
    dropped: Float[Array, ""]


def _next(
    w: Float[Array, " n"],
    basis: Float[Array, "k n"],
    norm: Float[Array, ""],
    key: Key,
) -> _Direction:
    """Orthogonalize a product `w`, or restart where nothing but rounding is left."""
    size = length(w)
    norm = jnp.maximum(norm, size)
    rest = _outside(basis, w / jnp.where(size > 0, size, 1))
    coupling = size * length(rest)
    eps = float(jnp.finfo(w.dtype).eps)
    # False for NaN, which goes on as NaN.
    is_rounding = coupling <= _BREAKDOWN * eps * norm

    def restart() -> Float[Array, " n"]:
        drawn = jax.random.normal(key, w.shape, w.dtype)
        return _outside(basis, unit(drawn))

    direction = jax.lax.cond(is_rounding, restart, lambda: rest)
    return _Direction(
        direction=unit(direction),
        coupling=jnp.where(is_rounding, 0, coupling),
        norm=norm,
        dropped=jnp.where(is_rounding, coupling, 0),
    )


def _outside(
    basis: Float[Array, "k n"],
    w: Float[Array, " n"],
) -> Float[Array, " n"]:
    """Remove what lies in the span of orthonormal rows."""
    # Twice is enough (Giraud et al., 2005).
    for _ in range(2):
        w = w - (basis @ w) @ basis
    return w


def length(w: Float[Array, " n"]) -> Float[Array, ""]:
    """Return the Euclidean norm of a vector, whatever its scale."""
    peak = jnp.max(jnp.abs(w))
    peak = jnp.where(peak > 0, peak, 1)
    return peak * jnp.linalg.norm(w / peak)


def unit(w: Float[Array, " n"]) -> Float[Array, " n"]:
    """Return `w` over its length; zero stays zero."""
    size = length(w)
    return w / jnp.where(size > 0, size, 1)


@public("extreme_singular_values")
def extreme_singular_values(
    operator: Operator,
    *,
    key: Key,
    steps: int,
) -> Extremes:
    """Find the largest and the smallest singular value, by Golub-Kahan steps.

    From a random direction, until both are converged. Under jit and vmap; no gradient.
    The values approach from inside: the largest from below, the smallest from above, to
    rounding. The smallest converges late, where s_min/s_max is small and its neighbours
    are near: read `converged`. A residual proves that a singular value is near, not
    that none lies beyond.

    The bounds are the residual (the last component of B's left singular vector times
    the last coupling), what restarts dropped, and for rounding of the products 4
    √max(m, n) eps s_max, and as much of what underflows in them, max(m, n) times the
    least normal number. A value is converged where its residual is below √eps of
    itself, or below that rounding.

    Cost a step: one product with J and Jᵀ, 8 (m + n) `steps` FLOP. Memory: `steps`
    vectors of each side. Outside jit each call compiles anew.

    Sources: Golub and Kahan (1965); for the residual Baglama and Reichel (2005),
    section 2.

    Args:
        operator: The matrix.
        key: For the direction.
        steps: At most so many, clamped to min(m, n), where both values are exact to
            rounding.

    Returns:
        Values, bounds, whether they are converged, and the steps taken.

    Raises:
        InputError: `operator` is not an `Operator`, or its products do not fit its
            shape; `key` is not a single key; `steps` is not a positive integer.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> operator = linalg.Operator.of(jnp.diag(jnp.array([3.0, 2.0, 0.5])))
        >>> key = jax.random.key(0)
        >>> ends = linalg.extreme_singular_values(operator, key=key, steps=3)
        >>> ends.values.round(4)
        Array([3. , 0.5], dtype=float32)
        >>> ends.converged
        Array([ True,  True], dtype=bool)
    """
    operator = checked(operator).tall
    key = checks.key("key", key)
    steps = checks.integer("steps", steps, low=1)
    steps = min(steps, operator.shape[1])
    key_start, key_steps = jax.random.split(key)
    step = functools.partial(_step, operator, key_steps)

    def is_unfinished(state: _Search) -> Bool[Array, ""]:
        extremes = state.extremes
        is_missing = ~extremes.converged.all()
        return (extremes.steps < steps) & is_missing

    def more(state: _Search) -> _Search:
        before = state.extremes.steps
        done = jnp.minimum(before + _STRIDE, steps)
        b = jax.lax.fori_loop(before, done, body_fun=step, init_val=state.b)
        return _Search(b, _extremes(b, done))

    with precision.full():
        drawn = jax.random.normal(key_start, operator.shape[1:], operator.dtype)
        b = _start(unit(drawn), operator, steps)
        # Of the start vector, so that both have its type under shard_map too.
        first = b.right[0, :1]
        nothing = first.repeat(2)
        unknown = Extremes(
            values=nothing,
            bounds=nothing,
            converged=jnp.zeros(2, bool),
            steps=jnp.zeros((), int),
        )
        state = _Search(b, unknown)
        return jax.lax.while_loop(is_unfinished, more, state).extremes


class _Search(NamedTuple):
    """The steps that were taken, and the extremes that they found."""

    b: Bidiagonal
    extremes: Extremes


def _extremes(
    b: Bidiagonal,
    done: Int[Array, ""],
) -> Extremes:
    """Find the extremes of the leading `done` rows of B."""
    index = jnp.arange(len(b.diagonal))
    # The rows that are not there yet are filled with B[0, 0], which lies between the
    # extremes.
    filler = b.diagonal[0]
    diagonal = jnp.where(index < done, b.diagonal, filler)
    above = jnp.where(index < done - 1, b.above, 0)
    leading = b._replace(diagonal=diagonal, above=above)
    ends = jnp.array([0, -1])
    left, s, _ = thin_svd(leading.scaled())
    outside = b.above[done - 1]
    residual = outside * jnp.abs(left[done - 1, ends])
    values = b.norm * s[ends]
    limits = jnp.finfo(s.dtype)
    eps = float(limits.eps)
    longest = max(b.left.shape[1], b.right.shape[1])
    # As many terms of a product, each of which is zero where it would be subnormal.
    underflow = longest * float(limits.tiny)
    rounding = 4 * math.sqrt(longest) * (eps * values[0] + underflow)
    # The error of a value is of the order of its residual squared.
    enough = jnp.maximum(math.sqrt(eps) * values, rounding)
    converged = residual <= enough
    return Extremes(
        values=values,
        bounds=residual + b.lost + rounding,
        converged=converged,
        steps=done,
    )


@public("spectral_quadrature")
def spectral_quadrature(
    operator: Operator,
    *,
    key: Key,
    steps: int,
    probes: int,
    tol: float | None = None,
    deflate: int = 0,
) -> Quadrature:
    """Integrate over the min(m, n) singular values, by stochastic Lanczos quadrature.

    Each probe is uniform on the sphere, and its measure has mass 1. The mean over
    probes of ∫ f(s²) estimates (1/n) Σ f(s_i²) without bias for polynomials f of degree
    up to 2·steps - 1. The standard deviation over probes, divided by √probes, is the
    standard error. It is √(2/(n + 2)) times the standard deviation of f over the
    spectrum, so 0 on an isometry.

    Beside each Gauss rule stands the Gauss-Radau rule with a node at zero, from the
    same steps (Golub and Meurant, 2010, chapter 6): B with its last entry set to zero.

    Under jit and vmap; no gradient, as nodes coincide at isometry (`spectral_moments`
    has one). Cost: probes × steps products with J and Jᵀ, and probes × 8 (m + n) steps²
    FLOP. Memory: probes × steps vectors of each side. Outside jit each call compiles
    anew.

    Source: Ubaru, Chen and Saad (2017), algorithm 1, with Golub-Kahan on J in place of
    Lanczos on JᵀJ, whose nodes are blind below √eps.

    Args:
        operator: The matrix.
        key: For the probes.
        steps: Nodes for each probe, clamped to min(m, n); with `tol` at most so many.
        probes: Number of random directions.
        tol: Steps are taken until two things are known to this relative tolerance: the
            mean of s as the probes see it, which both rules enclose, and s_max with
            probability 0.95 (`norm_excess`). The spread over probes is another matter:
            more steps do not lower it. None takes all `steps`.
        deflate: One probe more goes ahead, and of what it finds converged at most so
            many of the largest singular values are taken out: they count with their
            exact mass 1/n, and the other probes see the complement of their vectors.
            What a few large values dominate varies far less between probes then (as in
            Hutch++: Meyer, Musco, Musco and Woodruff, 2021). Clamped to n - steps.

    Returns:
        The rules, (probes, k + deflate) with k = min(steps, m, n). Structural zeros,
        those of a matrix that is not square, are apart from the mass. Nodes below the
        floor, max(64, m, n) eps of the largest node of all probes, are zeros.

    Raises:
        InputError: `operator` is not an `Operator`, or its products do not fit its
            shape; `key` is not a single key; `steps` or `probes` is not a positive
            integer, `deflate` not a whole number, `tol` not a positive number.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> @jax.jit
        ... def quadrature(diagonal, key):
        ...     operator = linalg.Operator.of(jnp.diag(diagonal))
        ...     return linalg.spectral_quadrature(
        ...         operator, key=key, steps=50, probes=4, tol=0.05
        ...     )
        >>> rules = quadrature(jnp.arange(1.0, 101.0), jax.random.key(0))
        >>> int(rules.steps)
        8
        >>> print(f"{jnp.exp(rules.log_values.max()):.1f}")
        99.9
    """
    operator = checked(operator).tall
    key = checks.key("key", key)
    steps = checks.integer("steps", steps, low=1)
    probes = checks.integer("probes", probes, low=1)
    if tol is not None:
        tol = checks.number("tol", tol, above=0.0)
    steps = min(steps, operator.shape[1])
    deflate = checks.integer("deflate", deflate)
    size = operator.shape[1]
    deflate = min(deflate, steps, size - steps)
    with precision.full():
        fixed = _converged(operator, key, steps=steps, deflate=deflate)
        b, done = _probe(
            operator,
            key,
            fixed,
            steps=steps,
            probes=probes,
            tol=tol,
        )
        gauss, radau = _rules(b, done)
    gauss = _joined(gauss, fixed, size)
    radau = _joined(radau, fixed, size)
    longest = max(_BREAKDOWN, *operator.shape)
    eps = float(jnp.finfo(operator.dtype).eps)
    log_floor = math.log(longest * eps)
    least = jnp.max(gauss.log_values) + log_floor
    return Quadrature(
        log_values=_resolved(gauss.log_values, least),
        weights=gauss.weights,
        log_floor=jnp.asarray(log_floor, operator.dtype),
        radau_log_values=_resolved(radau.log_values, least),
        radau_weights=radau.weights,
        steps=jnp.asarray(done),
    )


def _resolved(
    log_values: Float[Array, "probes k"],
    least: Float[Array, ""],
) -> Float[Array, "probes k"]:
    """Make zeros of all nodes below the floor."""
    # A comparison with NaN is false, so NaN stays NaN and never passes for a zero.
    is_noise = log_values < least
    return jnp.where(is_noise, -jnp.inf, log_values)


class _Rules(NamedTuple):
    """Nodes ln s and weights, a rule for each probe."""

    log_values: Float[Array, "probes k"]
    weights: Float[Array, "probes k"]


class _Fixed(NamedTuple):
    """Singular values that are taken out, with their right vectors as rows.

    Where fewer than asked for are converged, the rest are rows of zeros and no value.
    """

    log_values: Float[Array, " r"]
    vectors: Float[Array, "r n"]
    is_found: Bool[Array, " r"]


def _converged(
    operator: Operator,
    key: Key,
    *,
    steps: int,
    deflate: int,
) -> _Fixed:
    """Find the largest singular values that `steps` steps of one probe converge to."""
    n = operator.shape[1]
    dtype = operator.dtype
    if deflate == 0:
        nothing = jnp.zeros(0, dtype)
        no_vectors = jnp.zeros((0, n), dtype)
        return _Fixed(nothing, no_vectors, is_found=nothing > 0)
    # Apart from the keys of the probes, which are the same with and without deflation.
    own_key = jax.random.fold_in(key, deflate)
    key_start, key_steps = jax.random.split(own_key)
    start = unit(jax.random.normal(key_start, (n,), dtype))
    steps = min(steps, max(deflate, _MOST_STEPS_AHEAD))
    b = bidiagonalize(operator, start, key_steps, steps=steps)
    left, s, right = thin_svd(b.scaled())
    scale = jnp.where(b.norm > 0, b.norm, 1)
    residual = b.above[-1] / scale * jnp.abs(left[-1, :deflate])
    values = s[:deflate]
    is_found = residual <= _CONVERGED * values
    vectors = right[:deflate] @ b.right[:-1]
    is_positive = values > 0
    log_values = jnp.log(jnp.where(is_positive, values, 1))
    log_values = log_values + jnp.log(scale)
    return _Fixed(
        log_values=jnp.where(is_positive, log_values, -jnp.inf),
        vectors=jnp.where(is_found[:, None], vectors, 0),
        is_found=is_found,
    )


def _joined(
    rules: _Rules,
    fixed: _Fixed,
    size: int,
) -> _Rules:
    """Add the values that were taken out to the rule of each probe, descending."""
    num_fixed = len(fixed.log_values)
    if num_fixed == 0:
        return rules
    probes = len(rules.weights)
    values = jnp.where(fixed.is_found, fixed.log_values, -jnp.inf)
    mass = jnp.where(fixed.is_found, 1 / size, 0)
    mass = mass.astype(rules.weights.dtype)
    rest = (1 - jnp.sum(mass)) * rules.weights
    every = (probes, num_fixed)
    values = jnp.broadcast_to(values[None], every)
    masses = jnp.broadcast_to(mass[None], every)
    log_values = jnp.concatenate([values, rules.log_values], -1)
    weights = jnp.concatenate([masses, rest], -1)
    order = jnp.argsort(-log_values, -1)
    return _Rules(
        log_values=jnp.take_along_axis(log_values, order, -1),
        weights=jnp.take_along_axis(weights, order, -1),
    )


def _probe(
    operator: Operator,
    key: Key,
    fixed: _Fixed,
    *,
    steps: int,
    probes: int,
    tol: float | None,
) -> tuple[Bidiagonal, Int[Array, ""] | int]:
    """Bidiagonalize from every probe at once; return also how many steps were taken."""
    by_probe = jax.random.split(key, probes)
    keys = jax.vmap(jax.random.split)(by_probe)
    keys_start = keys[:, 0]
    keys_steps = keys[:, 1]
    taken_out = fixed.vectors

    def draw(key: Key) -> Float[Array, " n"]:
        drawn = jax.random.normal(key, operator.shape[1:], operator.dtype)
        return unit(_outside(taken_out, drawn))

    starts = jax.vmap(draw)(keys_start)

    def all_steps(
        start: Float[Array, " n"],
        key: Key,
    ) -> Bidiagonal:
        return bidiagonalize(
            operator,
            start,
            key,
            steps=steps,
            outside=False,
            taken_out=taken_out,
        )

    if tol is None:
        return jax.vmap(all_steps)(starts, keys_steps), steps

    def step(
        j: Int[Array, ""],
        b: Bidiagonal,
    ) -> Bidiagonal:
        def of_one(key: Key, b: Bidiagonal) -> Bidiagonal:
            return _step(operator, key, j, b=b, taken_out=taken_out)

        return jax.vmap(of_one)(keys_steps, b)

    begin = jax.vmap(lambda start: _start(start, operator, steps))
    return _until(tol, step, begin(starts), steps=steps)


class _Progress(NamedTuple):
    """The steps of all probes so far, how many they are, and the error they leave."""

    b: Bidiagonal
    done: Int[Array, ""]
    error: Float[Array, ""]


def _until(
    tol: float,
    step: Callable[[Int[Array, ""], Bidiagonal], Bidiagonal],
    b: Bidiagonal,
    *,
    steps: int,
) -> tuple[Bidiagonal, Int[Array, ""]]:
    """Take steps until the error is at most `tol`, or all; return how many they were.

    Args:
        tol: Relative, of `_error`.
        step: Takes step j of every probe.
        b: What all probes start from.
        steps: At most so many.
    """

    def is_unfinished(state: _Progress) -> Bool[Array, ""]:
        # Written so that NaN, of a matrix that is not finite, goes on to the end.
        is_inexact = ~(state.error <= tol)
        return (state.done < steps) & is_inexact

    def more(state: _Progress) -> _Progress:
        before = state.done
        done = jnp.minimum(before + _STRIDE, steps)
        b = jax.lax.fori_loop(before, done, body_fun=step, init_val=state.b)
        return _Progress(b, done, _error(b, done))

    # Made of the vectors, so that it has their type under shard_map too.
    unknown = jnp.full_like(b.right, jnp.inf, shape=())
    state = _Progress(b, done=jnp.zeros((), int), error=unknown)
    state = jax.lax.while_loop(is_unfinished, more, state)
    return state.b, state.done


def _error(
    b: Bidiagonal,
    done: Int[Array, ""],
) -> Float[Array, ""]:
    """Return the larger relative uncertainty of the mean of s and of s_max."""
    gauss, radau = _rules(b, done)
    upper = _mean_of_s(gauss)
    lower = _mean_of_s(radau)
    of_mean = (upper - lower) / jnp.where(upper > 0, upper, 1)
    probes, _, n = b.right.shape
    excess = norm_excess(n, done, probes=probes, level=_LEVEL)
    of_largest = (excess - 1).astype(of_mean.dtype)
    return jnp.maximum(of_mean, of_largest)


def _mean_of_s(rules: _Rules) -> Float[Array, ""]:
    """Return the mean of s by all rules."""
    parts = rules.weights * jnp.exp(rules.log_values)
    by_probe = jnp.sum(parts, -1)
    return jnp.mean(by_probe)


def _rules(
    b: Bidiagonal,
    done: Int[Array, ""] | int,
) -> tuple[_Rules, _Rules]:
    """Return the Gauss and the Gauss-Radau rule of every probe."""
    # A whole basis leaves nothing to bound: both rules are then the measure itself.
    is_whole = jnp.asarray(done == b.right.shape[-1])

    def matrices(b: Bidiagonal) -> Float[Array, "2 k k"]:
        index = jnp.arange(len(b.diagonal))
        # Rows that were not reached are zero, apart from the rest: nodes of no weight.
        is_inside = index < done - 1
        above = jnp.where(is_inside, b.above, 0)
        num_kept = jnp.where(is_whole, done, done - 1)
        of_gauss = jnp.where(index < done, b.diagonal, 0)
        of_radau = jnp.where(index < num_kept, b.diagonal, 0)
        gauss = b._replace(diagonal=of_gauss, above=above)
        radau = b._replace(diagonal=of_radau, above=above)
        return jnp.stack([gauss.scaled(), radau.scaled()])

    def nodes(
        b: Bidiagonal,
    ) -> tuple[Float[Array, "2 k"], Float[Array, "2 k"]]:
        _, s, right = thin_svd(matrices(b))
        is_positive = s > 0
        logs = jnp.log(jnp.where(is_positive, s, 1))
        # NaN, which is not positive either, stays NaN.
        logs = jnp.where(is_positive, logs, s)
        logs = jnp.where(s == 0, -jnp.inf, logs)
        weights = right[..., 0] ** 2
        total = jnp.sum(weights, -1, keepdims=True)
        norm = jnp.where(b.norm == 0, 1, b.norm)
        return logs + jnp.log(norm), weights / total

    log_values, weights = jax.vmap(nodes)(b)
    gauss = _Rules(log_values[:, 0], weights[:, 0])
    radau = _Rules(log_values[:, 1], weights[:, 1])
    return gauss, radau


def norm_excess(
    size: int,
    steps: Int[Array, "*batch"] | int,
    *,
    probes: int,
    level: float,
) -> Float[Array, "*batch"]:
    """Return how far s_max may exceed the largest node, as a factor.

    The largest node is at most s_max. By Kuczyński and Woźniakowski (1992), theorem
    4.2, a probe misses more than a share eps of s_max² with probability at most
    1.648 √n exp(-√eps (2·steps - 1)), whatever the spectrum; all probes do so with that
    to their number.

    Args:
        size: n = min(m, n).
        steps: Steps taken.
        probes: Number of independent probes.
        level: Probability that s_max is at most the factor times the largest node.

    Returns:
        At least 1; inf where so few steps prove nothing.
    """
    of_one_probe = math.log(_SMALL_BALL) + math.log(size) / 2
    of_all = of_one_probe - math.log1p(-level) / probes
    degree = 2 * jnp.asarray(steps, float) - 1
    missed = (of_all / degree) ** 2
    is_bounded = missed < 1
    left = 1 - jnp.where(is_bounded, missed, 0)
    excess = 1 / jnp.sqrt(left)
    return jnp.where(is_bounded, excess, jnp.inf)
