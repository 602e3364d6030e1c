"""Sites: where a program applies a nonlinearity to the units of a layer, and which."""

from collections.abc import Callable, Container, Iterator, Sequence
from typing import NamedTuple

from jaxtyping import Array

from isometry.structure import _following, _nonlinearity
from isometry.structure._anatomy import Anatomy
from isometry.structure._flow import Flow
from isometry.structure._place import Place
from isometry.structure._reading import Indices
from isometry.structure._segments import segment


class Site(NamedTuple):
    """A nonlinearity behind a point: the value that it takes, and what it does.

    Norms and pooling may come between the point and the nonlinearity.

    Attributes:
        point: The name of the point: "conv_1", "block_0/fc2:sum".
        nonlinearity: Its name: "relu", or "leaky relu variant".
        known: The name of the activation of the package that it is, or "".
        place: Where the value in front of the nonlinearity is, in one iteration of the
            scans around it.
        shape: The shape of that value.
        channel_axis: Its axis of channels: the last, unless a convolution before it
            has another.
        function: Maps a value of that shape to what the nonlinearity makes of it, with
            the derivative that the program has; None if it cannot be cut out.
        is_cut: Whether every path from x to the output runs through the value.
        is_bypassed: Whether the value is read by more than the nonlinearity, as the
            stream of a residual network is.
        is_gate: Whether the result is multiplied with another branch.
    """

    point: str
    nonlinearity: str
    known: str
    place: Place
    shape: tuple[int, ...]
    channel_axis: int
    function: Callable[[Array], Array] | None
    is_cut: bool
    is_bypassed: bool
    is_gate: bool


# Elementwise operations that alone are no activation of units: parts of a softmax, of a
# norm or of a loss.
_NO_ACTIVATIONS = frozenset(
    (
        "exp",
        "exp2",
        "expm1",
        "log",
        "log1p",
        "sqrt",
        "rsqrt",
        "square",
        "integer_pow",
        "pow",
        "div",
        "add",
        "sub",
        "mul",
        "neg",
        "stop_gradient",
    )
)


class _Step(NamedTuple):
    """A nonlinearity between two nodes of the flow, behind a third."""

    start: int
    before: int
    after: int
    known: str


def sites(anatomy: Anatomy) -> tuple[Site, ...]:
    """Find the nonlinearities that a program applies to the units of its layers.

    The softmax of an attention is none, nor is anything inside of a norm.

    Args:
        anatomy: The anatomy of the program.

    Returns:
        A record for each nonlinearity and each iteration of the scans around it, in the
        order of the points in front of them.

    Example:
        >>> net = networks.mlp([3, 8, 8, 2], "tanh")
        >>> params = jax.eval_shape(net.init, jax.random.key(0))
        >>> an = isometry.anatomy(net, params, jnp.ones(3))
        >>> [(site.point, site.nonlinearity) for site in sites(an)]
        [('layers/0', 'tanh'), ('layers/1', 'tanh')]
    """
    flow = anatomy._flow
    points = anatomy._points
    by_place: dict[tuple[Indices, int, Indices], Site] = {}
    for step in _steps(flow, points.nodes):
        title = _following.words(flow, step.before, step.after, names={})
        # All iterations of a scan have one function.
        function = None
        for name, shift in points.of_node(step.start):
            before = points._point(step.before, shift)
            after = points._point(step.after, shift)
            place = anatomy._place(before)
            end = anatomy._place(after)
            value = flow.program.values[before.value]
            identity = (value.path, before.value, before.iterations)
            # A value in several iterations may have been reached on several ways.
            if identity in by_place or place.iterations != end.iterations:
                continue
            if function is None:
                function = segment(anatomy.closed, place, end)
            by_place[identity] = Site(
                point=name,
                nonlinearity=" → ".join(title) or step.known,
                known=step.known,
                place=place,
                shape=tuple(value.shape),
                channel_axis=_channel_axis(flow, step.start, len(value.shape)),
                function=function,
                is_cut=step.before in flow.cuts,
                is_bypassed=_is_bypassed(flow, step),
                is_gate=_following.is_multiplied(flow, step.after),
            )
    order = {name: i for i, name in enumerate(anatomy.points)}
    return tuple(sorted(by_place.values(), key=lambda site: order[site.point]))


def _steps(flow: Flow, named: Container[int]) -> Iterator[_Step]:
    """Yield the nonlinearities behind each point, and those in front of each layer."""
    for start in flow.nodes:
        if start in named:
            yield from _along(flow, start, flow.passage(start))
    # The norm and the activation at the head of a residual branch: the stream in front
    # of them goes on without them, so they are found from the layer that reads them.
    for layer in flow.layer_at:
        if layer not in flow.inside or len(flow.inputs[layer]) != 1:
            continue
        (operand,) = flow.inputs[layer]
        within, sources = flow.back_to(operand, named)
        if len(sources) == 1:
            (start,) = sources
            yield from _along(flow, start, flow.passage(start, within))


def _along(flow: Flow, start: int, passage: Sequence[int]) -> Iterator[_Step]:
    """Yield the nonlinearities along a passage.

    Several in a row, entry by entry, are one: jnp.clip is a maximum and a minimum, and
    neither of them alone is bounded.
    """
    parts: list[_Step] = []
    before = start
    for after in _following.ends(flow, start, passage):
        known = _nonlinearity.name(flow, before, after)
        if known is None:
            yield from _joined(flow, parts)
            parts = []
        elif not _nonlinearity.is_affine(flow, before, after):
            parts.append(_Step(start, before, after, known))
        before = after
    yield from _joined(flow, parts)


def _joined(flow: Flow, parts: Sequence[_Step]) -> Iterator[_Step]:
    """Yield the nonlinearity that several in a row are together, if it is one."""
    is_activation = [_is_activation(flow, *part[1:]) for part in parts]
    if not any(is_activation):
        return
    first, last = parts[0], parts[-1]
    known = first.known
    if len(parts) > 1:
        known = _nonlinearity.name(flow, first.before, last.after) or ""
    yield _Step(first.start, first.before, last.after, known)


def _is_activation(flow: Flow, before: int, after: int, known: str) -> bool:
    """Tell whether an elementwise function is an activation, by what it is made of."""
    if known:
        return True
    between = _following.between(flow, before, after)
    operations = {flow.operation(node) for node in between}
    return not operations <= _NO_ACTIVATIONS | _nonlinearity.SHAPING


def _channel_axis(flow: Flow, node: int, num_axes: int) -> int:
    """Return the axis of channels of a value behind a layer, by the layer before it.

    Args:
        flow: The flow.
        node: The node of the point in front of the nonlinearity.
        num_axes: The number of axes of the value.
    """
    last = max(num_axes - 1, 0)
    _, layers = flow.back_to(node, flow.layer_at)
    values = [flow.value(layer) for layer in sorted(layers)]
    # The latest is meant: a stream has many.
    if not values or values[-1].operation != "conv_general_dilated":
        return last
    batch, channels, *window = values[-1].params["dimension_numbers"].out_spec
    if num_axes == len(window) + 2:
        return channels
    # Of one example the axis of the batch has been dropped.
    if num_axes == len(window) + 1:
        return channels - int(batch < channels)
    return last


def _is_bypassed(flow: Flow, step: _Step) -> bool:
    """Tell whether the value in front of a nonlinearity is read by others too."""
    inside = set(_following.between(flow, step.before, step.after))
    return any(reader not in inside for reader in flow.readers[step.before])
