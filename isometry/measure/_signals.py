"""The function `signals`: sizes of signals and gradients at the points of a network."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from isometry._internal import checks, compilation, memory, precision
from isometry._internal.errors import InputError, public
from isometry._internal.types import DTypeLike, Key, Params
from isometry.linalg._convolution import canonical
from isometry.measure import _plan, _run
from isometry.measure._plan import Function, Plan
from isometry.measure._spans import Span
from isometry.records import Signals
from isometry.structure._tapping import ADD, Tapped

Loss = Callable[[Array], Array]


@public("signals")
def signals(
    f: Function,
    keys: Key | None = None,
    xs: PyTree[Array] | None = None,
    *,
    params: Params | None = None,
    sample: Callable[[Key], Params] | None = None,
    span: Span = "end_to_end",
    loss: Loss | None = None,
    key: Key | None = None,
    dtype: DTypeLike | None = None,
) -> Signals:
    """Measure how large signals and gradients are at every point of a network.

    Everything comes from one program: the values from one evaluation, all gradients
    from one reverse pass, and the averaged partial Jacobian norms from one reverse pass
    for each entry at the end of the span, exactly. If that has very many entries (the
    logits of all tokens), take a part: `span=("embed", ("output", -1))`.

    Args:
        f: A `Network`, any f(params, x) of one example, or a list of such blocks.
        keys: One for each seed. A Network, or f with `sample`, draws its parameters.
        xs: Examples along a first axis. Tokens, if the span starts at an embedding.
        params: Instead of keys, parameters stacked over seeds along a first axis.
        sample: Of a plain f, sample(key) -> params.
        span: Two points, each a name or, for the last, (name, index); the points
            between them are reported. "end_to_end" is ("input", "output"), where
            "input" is all floating leaves of x together; each of several is reported
            as well, "input/image".
        loss: Maps the value at the end of the span to a number. The default is
            <output, g>, with g ~ N(0, I/n) for n entries of the output.
        key: A key to draw g, anew for each seed and input. Without a key, the gradient
            is the mean over all g: apjn divided by the size of the point.
        dtype: The dtype of the measurement. The default is that of params and xs, at
            least float32.

    Returns:
        The fields q, gradient, apjn and chi, of shape (seeds, inputs, points), and c,
        of shape (seeds, inputs, inputs, points).

    Raises:
        InputError: Both or neither of keys and params; not a span; a loss that returns
            no number; a function without a reverse derivative.

    Warns:
        PrecisionWarning: f asks for less than full precision.

    Example:
        >>> net = networks.mlp([32] * 6, "tanh", "orthogonal")
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> xs = data.gaussian(jax.random.key(1), 3, 32).xs
        >>> sig = isometry.signals(net, keys, xs)
        >>> sig.at("output").apjn.round(3)[0]
        Array([1., 1., 1.], dtype=float32)
    """
    if key is not None:
        checks.key("key", key)
    if loss is not None and not callable(loss):
        raise InputError(
            f"loss={checks.show(loss)} is not callable; write loss(output) -> number."
        )
    if loss is not None:
        loss = _run.hashable(loss)
    run = _run.prepare(
        f,
        keys,
        xs,
        params=params,
        sample=sample,
        span=span,
        dtype=dtype,
        choose=_plan.between,
    )
    plan = run.plan
    if plan.first.index:
        raise InputError(
            f"span starts at {plan.first}, and points behind it have no such part; "
            f"write the name alone, {plan.first.name!r}."
        )
    # Keys depend on the numbers of seed and input, so chunks of seeds change nothing.
    keys_of_g = _run.keys_of(key, run.num_seeds, run.num_inputs)
    static = _Static(plan, loss, num_at_once=_cotangents_at_once(run))
    parts = []
    for seeds, params_of_seeds in run.chunks():
        keys_of_seeds = None if keys_of_g is None else keys_of_g[seeds]
        try:
            part = _fields_of_seeds(
                static,
                plan.constants,
                params_of_seeds,
                xs=run.xs,
                keys=keys_of_seeds,
            )
        # Only JAX knows whether a loop lies between the points and the output.
        except ValueError as error:
            if "Reverse-mode differentiation" not in str(error):
                raise
            raise InputError(
                "gradients need a reverse derivative, and f holds a while_loop, which "
                "has none; write a scan, or a fori_loop with constant bounds. "
                'isometry.profile(..., toward="input") needs none.'
            ) from error
        parts.append(part)
    joined = run.joined(parts)
    # Points are in the order of groups, and get that of the computation.
    fields = {name: value[..., plan.order] for name, value in joined.items()}
    # Computed on the host: it is a ratio of a few numbers at each point.
    fields["chi"] = _chi(fields["apjn"], _plan.previous_of_kind(plan))
    return Signals(
        **jax.tree.map(checks.on_device, fields),
        points=plan.names,
        sizes=plan.sizes,
        span=(plan.first.name, plan.last.name),
        reasons=_reasons(fields, plan),
    )


def _cotangents_at_once(run: _run.Run) -> int:
    """Return how many cotangents of each input fit in memory at once."""
    # All inputs of a seed are measured at once, because c compares their values.
    num_bytes = run.num_inputs * run.plan.bytes_of_direction()
    num_cotangents = run.plan.size_at(run.plan.last.name)
    return _run.at_once(memory.budget(None) // num_bytes, num_cotangents)


class _Static(NamedTuple):
    """What the compiled program depends on, besides the shapes of arrays.

    Attributes:
        plan: Which values of f are read.
        loss: The loss, or None.
        num_at_once: The number of cotangents that are pulled back at once.
    """

    plan: Plan
    loss: Loss | None
    num_at_once: int


@functools.partial(compilation.jit, static_argnums=0)
def _fields_of_seeds(
    static: _Static,
    constants: list[Array],
    params_of_seeds: Params,
    xs: PyTree[Array],
    keys: Key | None,
) -> dict[str, Array]:
    """Measure a chunk of seeds, one after another; return fields of `Signals`.

    Args:
        static: What to read, and the loss.
        constants: The arrays that f closes over.
        params_of_seeds: Parameters, stacked over seeds.
        xs: The inputs.
        keys: (seeds, inputs) keys to draw g, or None.

    Returns:
        q, c, gradient and apjn by name. Seeds are the first axis, points the last one,
        in the order of groups.
    """
    # The program computes f, with an array (a bump) added to the value at every point.
    # Derivatives with respect to the bumps are those with respect to the values. One
    # program serves all seeds and inputs, which are its arguments.
    program = static.plan.tapped(constants, ADD)

    def of_seed(seed: tuple[Params, Key | None]) -> dict[str, Array]:
        params, keys_of_inputs = seed
        of_input = functools.partial(_fields_of_input, static, program, params)
        fields, values = jax.vmap(of_input)(xs, keys_of_inputs)
        # Values have one leading axis here, that of inputs.
        rows_of_groups = static.plan.rows(values, num_leading=1)
        cosines = [_cosines(rows) for rows in rows_of_groups]
        fields["c"] = jnp.concatenate(cosines, axis=-1)
        return fields

    with precision.full():
        return jax.lax.map(of_seed, (params_of_seeds, keys))


def _fields_of_input(
    static: _Static,
    program: Tapped,
    params: Params,
    x: PyTree[Array],
    key: Key | None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Measure one example.

    Returns:
        `(fields, values)`: q, apjn and gradient by name, with an axis of points; and
        for each group by label, the values of all iterations.
    """
    plan = static.plan
    arguments = jax.tree.leaves((params, x))

    def forward(bumps: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        _, readings = program(arguments, bumps)
        return plan.part(readings, plan.last), readings

    # One linearization serves the gradient and every row of the Jacobians.
    output, pull, values = jax.vjp(forward, plan.bumps(), has_aux=True)

    def squares(cotangent: Array) -> Array:
        (gradients,) = pull(cotangent)
        return _sums_of_squares(plan, gradients)

    # A unit vector is made for each row: the whole identity matrix of a large output
    # would take more memory than everything else.
    def squares_of_entry(entry: Array) -> Array:
        is_entry = jnp.arange(output.size) == entry
        return squares(is_entry.astype(output.dtype).reshape(output.shape))

    entries = jnp.arange(output.size)
    squares_of_rows = jax.lax.map(
        canonical(squares_of_entry), entries, batch_size=static.num_at_once
    )
    sizes = _sizes(plan)
    fields = {
        "q": _sums_of_squares(plan, values) / sizes,
        "apjn": jnp.sum(squares_of_rows, axis=0) / output.size,
    }
    cotangent = _cotangent(output, static.loss, key)
    # Without a loss and a key the gradient is its mean over g, which follows from apjn.
    fields["gradient"] = fields["apjn"] / sizes
    if cotangent is not None:
        fields["gradient"] = squares(cotangent) / sizes
    return fields, values


def _cotangent(
    output: Array,
    loss: Loss | None,
    key: Key | None,
) -> Array | None:
    """Return the derivative of the loss with respect to the output.

    Without a loss it is the vector g of `signals`, drawn from the key. None without
    both: the gradient is then a mean over all g.
    """
    if loss is not None:
        # JAX would refuse it too, but without the name of the argument.
        returned = jax.tree.leaves(jax.eval_shape(loss, output))
        is_number = len(returned) == 1 and returned[0].shape == ()
        if not is_number or not jnp.issubdtype(returned[0].dtype, np.floating):
            described = ", ".join(f"{a.dtype} of shape {a.shape}" for a in returned)
            raise InputError(
                f"loss returns {described or None}; it must return one floating number."
            )
        return jax.grad(loss)(output)
    if key is None:
        return None
    # Of mean square length 1, like the unit vectors over which apjn averages.
    g = jax.random.normal(key, output.shape, output.dtype)
    return g / np.sqrt(output.size)


def _sums_of_squares(
    plan: Plan,
    values: dict[str, Array],
) -> Float[Array, " points"]:
    """Return the sum of the squared entries at every point, in the order of groups."""
    return jnp.concatenate([jnp.sum(row**2, axis=-1) for row in plan.rows(values)])


def _sizes(plan: Plan) -> Float[Array, " points"]:
    """Return the number of entries at every point, in the order of groups."""
    sizes = [np.full(len(group.names), group.size) for group in plan.groups]
    return jnp.asarray(np.concatenate(sizes), plan.dtype)


def _cosines(
    rows: Float[Array, "inputs points size"],
) -> Float[Array, "inputs inputs points"]:
    """Return the cosine between the values of any two inputs, at each point."""
    # Divided by the largest entry first, so that no square overflows.
    largest = jnp.max(jnp.abs(rows), axis=-1, keepdims=True)
    scaled = rows / largest
    units = scaled / jnp.linalg.norm(scaled, axis=-1, keepdims=True)
    return jnp.einsum("ipn,jpn->ijp", units, units)


def _chi(
    apjn: np.ndarray,
    previous_of_kind: tuple[int | None, ...],
) -> np.ndarray:
    """Return apjn at the previous point of the same kind, divided by apjn here."""
    chi = np.full_like(apjn, np.nan)
    for i, previous in enumerate(previous_of_kind):
        if previous is not None:
            # A gradient of zero gives NaN or infinity, which the field may hold.
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                chi[..., i] = apjn[..., previous] / apjn[..., i]
    return chi


def _reasons(fields: dict[str, np.ndarray], plan: Plan) -> tuple[tuple[str, str], ...]:
    """Return pairs of a field that holds NaN or infinity, and the reason."""
    reasons = []
    for name in ("q", "c", "gradient", "apjn"):
        is_finite = np.isfinite(fields[name])
        at_point = is_finite.all(axis=tuple(range(is_finite.ndim - 1)))
        # Later points are not finite either, so the first one is named.
        if not at_point.all():
            first = plan.names[int(np.argmin(at_point))]
            cause = f"overflows {plan.dtype} or is not defined"
            if name == "c":
                cause = f"of a value that is zero, or overflows {plan.dtype}"
            reasons.append((name, f"not finite from {first!r} on: {cause}."))
    bypassed = [name for name in plan.names[1:-1] if not plan.anatomy.cuts(name)]
    if bypassed:
        reasons.append(
            (
                "chi",
                f"not defined at {len(bypassed)} points, such as {bypassed[0]!r}: some "
                "path leads around them.",
            )
        )
    return tuple(reasons)
