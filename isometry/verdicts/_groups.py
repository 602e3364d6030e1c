"""What one evaluation of a network reads: points and nonlinearities, by variable.

A site is a place where a nonlinearity is applied to a value.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, PyTree

from isometry import activations, structure
from isometry._internal import kinds, precision
from isometry._internal.types import Params
from isometry.activations import Activation
from isometry.measure import _arguments, _draws
from isometry.measure._function import Reference, version
from isometry.structure import Anatomy
from isometry.structure._place import Place
from isometry.structure._sites import Site, sites
from isometry.structure._tapping import ADD, reading_shape, tapped
from isometry.verdicts import _nulls
from isometry.verdicts._subject import Subject


class Group(NamedTuple):
    """The values that one variable of the program holds, in all iterations of scans.

    Attributes:
        place: The variable, in all iterations.
        lengths: The number of iterations of each of the scans around it.
        shape: The shape in one iteration.
        dtype: The dtype.
        points: The names of the points that this variable holds, each with the number
            of its iteration.
        is_stream: Whether any of these points is in `Plan.stream`.
        token_axis: Which axis counts tokens; None if none does.
        sites: The nonlinearities that take the value, each with the number of its
            iteration.
    """

    place: Place
    lengths: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    points: dict[str, int]
    is_stream: bool
    token_axis: int | None
    sites: tuple[tuple[Site, int], ...]

    @property
    def num_iterations(self) -> int:
        """The number of all iterations together."""
        return math.prod(self.lengths)


@dataclass(frozen=True)
class Plan:
    """What is read. Equal plans share a compiled program.

    Attributes:
        f: The function.
        shapes: Shapes and dtypes of params and x, and their trees.
        program: A key of the jaxpr of f and of what it closes over.
        flat_share: The share of the largest slope below which a unit is saturated.
        anatomy: The anatomy of f.
        stream: The points on all paths, without activations and what the head returns.
        groups: The variables to read, by the label under which `run` returns them.
        single: The one activation of the network, if it has only one.
        is_batch: Whether the program takes all inputs at once, as in training mode.
    """

    f: Reference
    shapes: Hashable
    program: Hashable
    flat_share: float
    anatomy: Anatomy = field(compare=False)
    stream: tuple[str, ...] = field(compare=False)
    groups: dict[str, Group] = field(compare=False)
    single: Activation | None = field(compare=False)
    is_batch: bool = False

    def run(
        self,
        arguments: Sequence[Array],
        constants: Sequence[Array],
    ) -> dict[str, Array]:
        """Return the values of all groups at one input, or of a batch, by label."""
        # Constants are arguments, because XLA copies what a function closes over into
        # the compiled program.
        closed = core.ClosedJaxpr(self.anatomy.closed.jaxpr, list(constants))
        places = {label: group.place for label, group in self.groups.items()}
        return tapped(closed, places, ADD)(arguments, {})[1]


def planned(
    subject: Subject,
    params: Params,
    xs: PyTree,
    flat_share: float,
) -> Plan:
    """Read the anatomy in the dtype of the evaluation, and choose what to read."""
    function = _arguments.function_of(subject.f)
    shapes = (_draws.row_shapes(params), _draws.row_shapes(xs))
    with precision.full():
        anatomy = structure.anatomy(function, *shapes)
    leaves, tree = jax.tree.flatten(shapes)
    reference = Reference(function)
    stream = _stream(anatomy)
    network = subject.network
    return Plan(
        f=reference,
        shapes=(tree, *((leaf.shape, leaf.dtype) for leaf in leaves)),
        program=version(anatomy.closed, reference),
        flat_share=flat_share,
        anatomy=anatomy,
        stream=stream,
        groups=_groups(anatomy, stream),
        single=None if network is None else network.activation,
    )


def planned_in_training(
    subject: Subject,
    params: Params,
    x: PyTree,
    flat_share: float,
) -> Plan | None:
    """Choose which nonlinearities to read in training mode.

    Args:
        subject: The network.
        params: The parameters, stacked over seeds.
        x: What its training mode takes: a batch of inputs, perhaps with a key.
        flat_share: As in `Plan`.

    Returns:
        The plan, without points; None if the network has no training mode of its own.
    """
    if subject.training is None:
        return None
    function = subject.training.function
    shapes = (_draws.row_shapes(params), jax.eval_shape(lambda: x))
    with precision.full():
        anatomy = structure.anatomy(function, *shapes)
    # Left out are values without the axis of the batch: they are the same for all
    # examples.
    groups = {
        label: group._replace(points={}, is_stream=False)
        for label, group in _groups(anatomy, ()).items()
        if group.sites and group.shape[:1] == (subject.num_inputs,)
    }
    leaves, tree = jax.tree.flatten(shapes)
    reference = Reference(function)
    return Plan(
        f=reference,
        shapes=(tree, *((leaf.shape, leaf.dtype) for leaf in leaves)),
        program=version(anatomy.closed, reference),
        flat_share=flat_share,
        anatomy=anatomy,
        stream=(),
        groups=groups,
        single=subject.training.activation,
        is_batch=True,
    )


def _stream(anatomy: Anatomy) -> tuple[str, ...]:
    """Return the points at which the signal is followed through the network.

    These are the pre-activations and sums that lie on all paths, without the output and
    what the head returns. If none lies on all paths, all of them are returned.
    """
    output = anatomy.place("output")
    # A head is linear and has few outputs: what it projects away is no effect of depth.
    heads = [layer.name for layer in anatomy.layers if layer.role == "head"]
    names = []
    for name in anatomy.points:
        is_end = name in anatomy.inputs or anatomy.place(name) == output
        is_end |= any(_is_of(name, head) for head in heads)
        is_floating = kinds.is_floating(anatomy.shape(name))
        if is_floating and not is_end and not name.endswith(":out"):
            names.append(name)
    cuts = [name for name in names if anatomy.cuts(name)]
    return tuple(cuts or names)


def _is_of(
    point: str,
    layer: str,
) -> bool:
    """Tell whether a point belongs to a layer: "conv[2]" and "conv:sum" to "conv"."""
    rest = point.removeprefix(layer)
    return rest != point and rest[:1] in ("", "[", "@", "#", ":")


def _num_tokens(anatomy: Anatomy) -> int:
    """Return the number of tokens that the first attention compares; 0 without one."""
    for attention in anatomy.attentions:
        for name in attention.query:
            shapes = [
                anatomy.shape(point).shape
                for point in anatomy.points
                if _is_of(point, name)
            ]
            # The axis of the batch has length 1, because x is one example.
            sizes = [size for size in shapes[0] if size > 1] if shapes else []
            if len(sizes) >= 2:
                return sizes[0]
    return 0


def _token_axis(
    shape: tuple[int, ...],
    num_tokens: int,
) -> int | None:
    """Return the axis of tokens of a value of tokens × channels."""
    axis = len(shape) - 2
    if axis < 0 or num_tokens < 2 or shape[axis] != num_tokens:
        return None
    # Axes in front of it must be of length 1, as that of a batch of one example is.
    return axis if math.prod(shape[:axis]) == 1 else None


def _groups(
    anatomy: Anatomy,
    stream: Sequence[str],
) -> dict[str, Group]:
    """Collect points and sites by the variable that holds them."""
    # The keys are pairs of a variable and the path to it. All iterations of a scan
    # share them.
    places: dict[tuple, Place] = {}
    points: dict[tuple, dict[str, int]] = {}
    sites_at: dict[tuple, list[tuple[Site, int]]] = {}
    for name in anatomy.points:
        shape = anatomy.shape(name)
        if not kinds.is_floating(shape):
            continue
        place = anatomy.place(name)
        identity = (place.path, place.var)
        places[identity] = place
        number = _number(anatomy, place)
        points.setdefault(identity, {})[name] = number
    for site in sites(anatomy):
        # The slope of such a site is not known: it is inside a cond, or its function
        # could not be cut out of the calls around it.
        if site.function is None and not site.known:
            continue
        identity = (site.place.path, site.place.var)
        places[identity] = site.place
        number = _number(anatomy, site.place)
        sites_at.setdefault(identity, []).append((site, number))
    num_tokens = _num_tokens(anatomy)
    groups = {}
    for i, (identity, place) in enumerate(places.items()):
        held = points.get(identity, {})
        aval: Any = place.var.aval
        shape = tuple(aval.shape)
        groups[str(i)] = Group(
            place=place._replace(iterations=()),
            lengths=_lengths(anatomy, place),
            shape=shape,
            dtype=np.dtype(aval.dtype),
            points=held,
            is_stream=not set(stream).isdisjoint(held),
            token_axis=_token_axis(shape, num_tokens),
            sites=tuple(sites_at.get(identity, ())),
        )
    return groups


def _lengths(
    anatomy: Anatomy,
    place: Place,
) -> tuple[int, ...]:
    """Return the lengths of the scans around a place, the outermost first."""
    stacked = reading_shape([anatomy.closed], place._replace(iterations=())).shape
    aval: Any = place.var.aval
    return stacked[: len(stacked) - len(aval.shape)]


def _number(
    anatomy: Anatomy,
    place: Place,
) -> int:
    """Return the number of the iteration that a place is in, of all iterations.

    The innermost scan counts fastest.
    """
    lengths = _lengths(anatomy, place)
    if not lengths:
        return 0
    return int(np.ravel_multi_index(place.iterations, lengths))


def unit_axes(
    site: Site,
    anatomy: Anatomy,
) -> tuple[int, ...]:
    """Return the axes of a value that count units; the others count positions.

    Units are counted by the axis of channels, and by the axis of experts, as each
    expert has units of its own. If two axes are as long as there are experts, neither
    is taken for the axis of experts.

    Args:
        site: The nonlinearity that takes the value.
        anatomy: The anatomy that holds the site.
    """
    channels = site.channel_axis
    rest = {axis: n for axis, n in enumerate(site.shape) if axis != channels}
    for layer in anatomy.layers:
        is_before = site.point == layer.name or _is_of(site.point, layer.name)
        axes = {*layer.batch_axes, *layer.out_axes}
        # The last axis of what a layer returns is that of its channels.
        sizes = [layer.shape[axis] for axis in sorted(axes)[:-1]]
        if not is_before or layer.kind == "conv" or len(sizes) != 1:
            continue
        of_experts = [axis for axis, n in rest.items() if n == sizes[0]]
        if len(of_experts) == 1:
            return (of_experts[0], channels)
    return (channels,)


def activation_of(
    site: Site,
    single: Activation | None,
) -> Activation:
    """Return the nonlinearity of a site as an activation of arrays of any shape.

    Args:
        site: The site.
        single: The one activation of a network, if it has only one.
    """
    if site.known:
        return activations.get(site.known)
    if single is not None:
        return single
    return Activation(_Anywhere(site), name=site.nonlinearity)


class _Anywhere:
    """The nonlinearity of a site, applied to an array of any shape."""

    def __init__(self, site: Site) -> None:
        assert site.function is not None
        self._function, self._shape = site.function, site.shape

    def __call__(self, z: Array) -> Array:
        size = math.prod(self._shape)
        # The function was cut out of a program, and takes arrays of one shape.
        num_copies = -(-z.size // size)
        flat = jnp.pad(z.ravel(), (0, num_copies * size - z.size))
        results = jax.vmap(self._function)(flat.reshape(num_copies, *self._shape))
        return results.ravel()[: z.size].reshape(z.shape)


def largest_slope(
    site: Site,
    plan: Plan,
) -> float | None:
    """Return the largest slope of a bounded nonlinearity; None for any other."""
    # This may be called while a program is traced, so the slope is computed at once.
    with jax.ensure_compile_time_eval():
        return _nulls.largest_slope(activation_of(site, plan.single))
