"""Assignments: what a scheme does with every leaf of the parameters of a network."""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from isometry._internal import checks, texts
from isometry._internal.errors import FromCall, InputError, NotDefined, public
from isometry._internal.types import Initializer as Init
from isometry._internal.types import Key, Params, Shape
from isometry.activations import Activation
from isometry.initializers import Initializer
from isometry.initializers._kernels import is_in_order, lay_out
from isometry.initializers._layout import Parts, size, sizes
from isometry.schemes import (
    _composed,
    _fused,
    _meaning,
    _multipliers,
    _places,
    _scales,
    _windows,
)
from isometry.schemes._layer import Layer
from isometry.schemes._multipliers import Setting
from isometry.schemes._places import Places
from isometry.schemes._registry import SchemeLike, get
from isometry.schemes._scheme import Drawn, Scheme, check_sigmas, draw, is_alike
from isometry.structure import Anatomy, WeightLayer
from isometry.structure._anatomy import PyTreeDef
from isometry.structure._records import stack_sizes
from isometry.structure._usage import Usage, usages

AS_DRAWN = "as drawn"

# Numbers in the arguments of initializers, with more digits than a reader wants.
_LONG = re.compile(r"\d+\.\d{5,}")


class Row(NamedTuple):
    """What a scheme does with one leaf of the parameters, or a stretch of it.

    Attributes:
        path: The key path of the leaf.
        name: The name of its weight layer, or of its branch; "" if it has none.
        role: The role of the layer; "bias", "multiplier", or "" for all other leaves.
        initializer: The initializer as the user would write it, or "as drawn".
        note: What else there is to say: where the scale comes from, slices, uses.

    Example:
        >>> net = networks.mlp([3, 8, 2], "tanh")
        >>> shapes = jax.eval_shape(net.init, jax.random.key(0))
        >>> row = schemes.assign("kaiming", net.anatomy, shapes).rows[0]
        >>> row.name, row.role
        ('layers/0', 'stem')
    """

    path: str
    name: str
    role: str
    initializer: str
    note: str = ""


class _Weight(NamedTuple):
    """One weight layer of the anatomy, and how it is drawn.

    Attributes:
        source: The layer, as the anatomy has it.
        layers: The `Layer` that the scheme was given, for each slice.
        inits: The initializer of each slice.
        parts: For one weight that makes queries, keys and values and is drawn as three:
            the layer of each, by role. Otherwise empty.
        pair: The index of the layer whose key draws this weight: the layer itself, or
            the one with which it shares a random matrix.
        scheme: The scheme with its sigmas for this layer.
        note: As in `Row`.
    """

    source: WeightLayer
    layers: tuple[Layer, ...]
    inits: tuple[Init, ...]
    parts: dict[str, Layer]
    pair: int
    scheme: Scheme
    note: str

    def part(self, role: str) -> Layer:
        """Return the layer that plays a role in an attention: a part, or the whole."""
        return self.parts.get(role, self.layers[0])


class Ensemble(NamedTuple):
    """The distribution of the parameters of one layer, if theory has laws for it.

    Attributes:
        layer: The layer.
        drawn: The distribution of its weights.
        sigma_b: The standard deviation of its biases, if it has some.
    """

    layer: Layer
    drawn: Drawn
    sigma_b: float


class _Bias(NamedTuple):
    """The bias of a layer, and how it is drawn."""

    path: str
    source: WeightLayer
    init: Init

    def row(self) -> Row:
        initializer = repr(self.init)
        return Row(self.path, self.source.name, "bias", initializer=initializer)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Assignment:
    """What a scheme does with every leaf of the parameters of a network.

    Attributes:
        scheme: The scheme.
        rows: One for each leaf, or stretch of a leaf: first those of weight layers in
            the order of the anatomy, then all others.
        notes: What gives the scheme its name, and is not done here: this network has
            no part for it, or it needs inputs.

    Example:
        >>> net = networks.mlp([3, 3, 3], "tanh")
        >>> shapes = jax.eval_shape(net.init, jax.random.key(0))
        >>> schemes.assign("kaiming", net.anatomy, shapes)
        Assignment(Scheme('kaiming'), 4 rows)
        >>> print(schemes.assign("zero_gamma", net.anatomy, shapes).notes[0])
        no residual branch was found, so zero_gamma draws what kaiming does
    """

    scheme: Scheme
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    _weights: tuple[_Weight, ...]
    _biases: tuple[_Bias, ...]
    _settings: tuple[Setting, ...]

    @property
    def layers(self) -> dict[str, tuple[Layer, ...]]:
        """What the scheme is told of the weight layers that it draws, by name.

        Of stacked layers there is one for each slice.

        Example:
            >>> net = networks.mlp([3, 4, 4, 2], "tanh")
            >>> {name: len(of) for name, of in net.assignment.layers.items()}
            {'layers/0': 1, 'layers/1': 1, 'layers/2': 1}
        """
        return {weight.source.name: weight.layers for weight in self._weights}

    @public("Assignment.draw")
    def draw(self, key: Key, params: Params) -> Params:
        """Draw the parameters anew. May be traced.

        Each layer draws from a key of its own, which depends on its place in the
        anatomy alone.

        Args:
            key: A random key.
            params: Parameters of the network. Leaves that the scheme does not touch are
                taken from them.

        Returns:
            Parameters of the same structure, shapes and dtypes.

        Raises:
            InputError: `params` lack a leaf that the anatomy has.

        Example:
            >>> net = networks.mlp([3, 3, 3], "tanh")
            >>> params = net.init(jax.random.key(0))
            >>> assignment = schemes.assign("identity", net.anatomy, params)
            >>> new = assignment.draw(jax.random.key(1), params)
            >>> new["layers"][0]["w"][0]
            Array([[1., 0., 0.],
                   [0., 1., 0.],
                   [0., 0., 1.]], dtype=float32)
        """
        checks.key("key", key)
        paths, leaves, tree = _by_path(params)
        drawn = dict(zip(paths, leaves, strict=True))
        self._check_paths(drawn)
        # Weights fold in even numbers and biases odd ones, so adding a bias to a
        # network does not change the draw of its weights.
        for weight in self._weights:
            leaf = drawn[weight.source.path]
            own_key = jax.random.fold_in(key, 2 * weight.pair)
            drawn[weight.source.path] = _draw_weight(weight, own_key, leaf)
        for bias in self._biases:
            leaf = drawn[bias.path]
            own_key = jax.random.fold_in(key, 2 * bias.source.index + 1)
            drawn[bias.path] = bias.init(own_key, leaf.shape, leaf.dtype)
        # No leaf of multipliers is a weight or a bias, so nothing is overwritten.
        for setting in self._settings:
            drawn[setting.path] = setting.put(drawn[setting.path])
        return jax.tree.unflatten(tree, [drawn[path] for path in paths])

    def drawn(self) -> list[Ensemble]:
        """Return the distribution of the weights of each layer, for theory.

        Returns:
            One for each weight layer that the scheme draws, slice by slice, in the
            order of the anatomy.

        Raises:
            NotDefined: Theory has no laws for the weights of a layer.

        Example:
            >>> net = networks.cnn([3, 8], (6,), sigma_w=1.5)
            >>> net.assignment.drawn()[0].drawn
            Drawn(weights='delta_orthogonal', sigma_w=1.5)
        """
        ensembles = []
        for weight in self._weights:
            for layer in weight.layers:
                ensemble = Ensemble(
                    layer=layer,
                    drawn=weight.scheme.drawn(layer),
                    sigma_b=weight.scheme.sigma_b,
                )
                ensembles.append(ensemble)
        return ensembles

    def _check_paths(self, by_path: Mapping[str, Array]) -> None:
        for row in self.rows:
            if row.path not in by_path:
                raise InputError(
                    f"params have no leaf {row.path}, which the anatomy has; write "
                    "parameters of the network that was read."
                )

    def table(self) -> str:
        """Draw a table of what happens to each leaf.

        Returns:
            The table, a row a leaf, below the notes.

        Example:
            >>> net = networks.mlp([3, 3, 3], "tanh")
            >>> shapes = jax.eval_shape(net.init, jax.random.key(0))
            >>> print(schemes.assign("identity", net.anatomy, shapes).table())
            scheme identity: 4 of 4 leaves drawn
            leaf                layer     role  initializer
            ['layers'][0]['w']  layers/0  stem  identity(gain=1.0)
            ['layers'][1]['w']  layers/1  head  partial_identity(gain=1.0)
            ['layers'][0]['b']  layers/0  bias  zeros()
            ['layers'][1]['b']  layers/1  bias  zeros()
        """
        headings = ("leaf", "layer", "role", "initializer", "note")
        rows = [[_short(cell) for cell in row] for row in self.rows]
        notes = [f"note: {note}" for note in self.notes]
        lines = texts.aligned(texts.without_empty([headings, *rows]))
        return "\n".join([self._heading(), *notes, *lines])

    def _heading(self) -> str:
        paths = {row.path for row in self.rows}
        kept = {row.path for row in self.rows if row.initializer == AS_DRAWN}
        num_drawn = len(paths - kept)
        return f"scheme {self.scheme.name}: {num_drawn} of {len(paths)} leaves drawn"

    def __repr__(self) -> str:
        said = "; ".join((f"{len(self.rows)} rows", *self.notes))
        return f"Assignment({self.scheme!r}, {said})"


def _short(cell: str) -> str:
    """Round long decimal fractions to four digits, for a table that fits a screen."""
    return _LONG.sub(lambda number: f"{float(number[0]):.4g}", cell)


@public("schemes.assign")
def assign(
    scheme: SchemeLike,
    anatomy: Anatomy,
    params: Params,
    *,
    sigma_w: float | None = None,
    sigma_b: float | None = None,
    activations: Mapping[str, Activation] | None = None,
) -> Assignment:
    """Decide what a scheme does with every leaf of the parameters of a network.

    Every weight layer gets what the scheme gives to its role, fans, kind, groups and
    branch. It is drawn as (*window, inputs, outputs), one group after the other, with
    several axes of inputs or outputs (heads) as one, and laid out as the operation
    uses it. Slices of a stacked leaf are layers of their own; axes that weight, signal
    and result share have a draw each.

    The scale of a free scheme is critical for the activation that follows the layer,
    else for the one that it reads, else 1; where an activation has no critical point,
    chi = 1 at unit variance. It is 1 too around a product of two branches, as in a GLU,
    and around a function whose gain is not known; notes say so. Where a
    scheme fills one tap of an even window, it is the one that keeps all pixels under
    the padding of the network. An output of a transposed convolution of stride s meets
    one in s of the taps of an axis, so its weights get a gain with which the mean
    variance is that of the law; numbers of the user's own (`normal(std)`) stay as they
    are. Biases are drawn as the scheme says, which is zero unless there is a sigma_b.
    Embeddings stay as they are drawn unless the scheme has a law for them; so do scales
    of norms, positions, and whatever else params hold. `rows` lists all of it.

    Args:
        scheme: A name, an initializer, or a `Scheme`.
        anatomy: What the network is made of: `net.anatomy`, or `isometry.anatomy(...)`.
        params: Its parameters, or their shapes.
        sigma_w: The scale of a free scheme, for all layers; None chooses as above.
        sigma_b: The standard deviation of the biases of a free scheme.
        activations: For layers by name, the activation for which their scale is
            critical. That of all others is read off the anatomy, which knows an
            activation of the user's own only by what it is made of.

    Returns:
        The assignment.

    Raises:
        InputError: An unknown scheme, a sigma for a scheme that fixes its own scale,
            parameters that are not those of the anatomy, or an activation for what is
            no layer.
        NotDefined: The scheme cannot draw a layer, or set the multiplier of a branch;
            the message names it.

    Example:
        >>> def f(params, x):
        ...     return jnp.tanh(params["first"] @ x) @ params["last"]
        >>> params = {"first": jnp.zeros((8, 3)), "last": jnp.zeros((8, 2))}
        >>> an = isometry.anatomy(f, params, jnp.ones(3))
        >>> assignment = schemes.assign("orthogonal", an, params)
        >>> new = assignment.draw(jax.random.key(0), params)
        >>> bool(jnp.allclose(new["first"].T @ new["first"], jnp.eye(3), atol=1e-5))
        True
    """
    chosen = get(scheme)
    # Everything that can be refused is refused here, before any draw.
    check_sigmas(chosen, sigma_w, sigma_b)
    _check_suitable(chosen, anatomy)
    by_layer = _checked_activations(activations or {}, anatomy)
    shapes = _shapes(params, anatomy)
    places = _places.places(anatomy)
    following: dict[str, Activation] = {}
    read: dict[str, Activation] = {}
    # Other schemes do not ask for the scale of an activation.
    if chosen.free and sigma_w is None:
        following, read = _composed.composed(anatomy, places.by_name)
    scales = _scales.Scales(
        chosen,
        sigma_w,
        sigma_b,
        activations=by_layer,
        following=following,
        read=read,
    )
    used = usages(anatomy)
    weights = []
    rows = []
    for source in _without_repeats(anatomy.layers):
        usage = used[source.name]
        weight, row = _weight(chosen, source, places, scales=scales, usage=usage)
        rows.append(row)
        if weight is not None:
            # The draw is traced on shapes, so the check is fast for a network of any
            # size.
            _check_drawable(weight, chosen, shapes[source.path])
            weights.append(weight)
    # Only weights that the scheme draws can be paired, so this comes after the loop.
    weights = _paired(weights, chosen, anatomy)
    biases = _biases(weights, scales)
    settings = _multipliers.settings(chosen, anatomy, places, shapes=shapes)
    settings += _multipliers.of_attentions(chosen, anatomy)
    rows += [bias.row() for bias in biases]
    rows += [_row_of_setting(setting) for setting in settings]
    # Leaves that the scheme leaves alone are listed too, so that users notice them.
    rows += _others(shapes, rows)
    return Assignment(
        scheme=chosen,
        rows=tuple(rows),
        notes=_meaning.notes(chosen, anatomy),
        _weights=tuple(weights),
        _biases=tuple(biases),
        _settings=tuple(settings),
    )


def _check_suitable(scheme: Scheme, anatomy: Anatomy) -> None:
    """Refuse a scheme that cannot draw a network with this anatomy."""
    if scheme.transform is not None:
        raise NotDefined(
            f"scheme {scheme.name!r} transforms the activation, which this network "
            "does not offer to replace; build the network with the activation and the "
            f"scheme that schemes.transformed({scheme.name!r}, activation, depth) "
            "returns."
        )
    if not anatomy.layers:
        raise NotDefined(
            f"the network has no weight layer, so scheme {scheme.name!r} has nothing "
            "to draw."
        )
    if scheme.suits is not None:
        scheme.suits(anatomy)


def _checked_activations(
    activations: Mapping[str, Activation], anatomy: Anatomy
) -> Mapping[str, Activation]:
    """Require the activations of layers that the anatomy has."""
    activations = checks.instance("activations", activations, Mapping)
    known = dict.fromkeys(layer.name for layer in anatomy.layers)
    for name, activation in activations.items():
        checks.one_of("a name in activations", name, known)
        checks.instance(f"activations[{name!r}]", activation, Activation)
    return activations


def _row_of_setting(setting: Setting) -> Row:
    initializer = setting.written()
    return Row(setting.path, setting.name, "multiplier", initializer=initializer)


def _by_path(params: Params) -> tuple[list[str], list[Array], PyTreeDef]:
    """Return the key path and the value of each leaf, and the structure."""
    with_paths, tree = jax.tree_util.tree_flatten_with_path(params)
    paths = [jax.tree_util.keystr(path) for path, _ in with_paths]
    return paths, [leaf for _, leaf in with_paths], tree


def _shapes(params: Params, anatomy: Anatomy) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the leaves by key path; refuse those of another network."""
    paths, leaves, tree = _by_path(params)
    # Layers are found by key path. In a tree of another structure a path is missing, or
    # leads to the leaf of another layer.
    if tree != anatomy.params_tree:
        raise InputError(
            f"params are a tree of {len(paths)} leaves that is not the one of the "
            "anatomy; write parameters of the network that was read."
        )
    return {
        path: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
        for path, leaf in zip(paths, leaves, strict=True)
    }


def _without_repeats(layers: Sequence[WeightLayer]) -> list[WeightLayer]:
    """Return the layers without those that overlap with an earlier layer of their leaf.

    If the program reads a fixed row of a table of embeddings too, for example, the row
    is a layer of its own, and also part of the table.
    """
    kept: list[WeightLayer] = []
    for layer in layers:
        # If both were drawn, the later draw would overwrite a part of the earlier one.
        earlier = [other for other in kept if other.path == layer.path]
        if all(_are_disjoint(layer, other) for other in earlier):
            kept.append(layer)
    return kept


def _are_disjoint(a: WeightLayer, b: WeightLayer) -> bool:
    """Tell whether two layers of one leaf have no entry of it in common."""
    for axis, start, stop in a.stretches:
        for other_axis, other_start, other_stop in b.stretches:
            overlap = start < other_stop and other_start < stop
            if axis == other_axis and not overlap:
                return True
    return False


def _weight(
    scheme: Scheme,
    source: WeightLayer,
    places: Places,
    *,
    scales: _scales.Scales,
    usage: Usage,
) -> tuple[_Weight | None, Row]:
    """Choose the initializers of one weight layer, and write its row."""
    role = _places.role(source)
    row = Row(source.path, source.name, role, initializer=AS_DRAWN)
    # A token looks up one row of an embedding. Laws of weights are for sums over fan_in
    # inputs, so they do not apply.
    if role == "embedding" and not scheme.embeddings:
        note = "tied with the head" if source.tied else ""
        return None, row._replace(note=note)
    # The fans of such a layer are unknown, and no scheme can draw it. It is listed as
    # drawn and not refused, so that the other layers of the network can be drawn.
    if source.kind == "other":
        note = "how it acts on the signal cannot be read"
        return None, row._replace(note=note)
    layers = _places.layers(source, places)
    scaled = scales.of(layers[0], _scales.doubt(source, places.by_name))
    slices = _slices(scaled.scheme, source, layers, places=places, usage=usage)
    _check_zeros(source, scheme, slices.inits, usage=usage)
    note = _note(source, places, scaled=scaled, slices=slices, usage=usage)
    weight = _Weight(
        source=source,
        layers=layers,
        inits=slices.inits,
        parts=slices.parts,
        pair=source.index,
        scheme=scaled.scheme,
        note=note,
    )
    row = row._replace(initializer=_written(slices.inits), note=note)
    return weight, row


class _Slices(NamedTuple):
    """How the slices of a weight layer are drawn.

    Attributes:
        inits: The initializer of each slice.
        parts: As in `_Weight`.
        note: What was done about the taps of a window; "" for nothing.
    """

    inits: tuple[Init, ...]
    parts: dict[str, Layer]
    note: str


def _slices(
    scheme: Scheme,
    source: WeightLayer,
    layers: Sequence[Layer],
    *,
    places: Places,
    usage: Usage,
) -> _Slices:
    """Choose the initializer of each slice of a weight layer."""
    # `_draw_weight` draws all slices as one batch if they have the same initializer
    # object, so like layers are given the same object.
    chosen: dict[Layer, Init] = {}
    parts: dict[str, Layer] = {}
    inits = []
    note = ""
    are_alike = is_alike(scheme, layers[0])
    for layer in layers:
        kind = _without_index(layer) if are_alike else layer
        if kind not in chosen:
            try:
                init = scheme.initializer(layer)
            except FromCall as error:
                # A scheme may refuse one weight for queries, keys and values, and still
                # have an initializer for each of the three. Then these are drawn.
                parts = _fused.parts(layer, places.shares.get(source.name, {}))
                if not parts:
                    raise NotDefined(_about(source, scheme, error)) from error
                init = _fused.initializer(scheme, parts)
            if source.name in places.uncounted:
                _check_uncounted(scheme, layer, places.uncounted[source.name])
            fit = _windows.fitted(init, source, usage, scheme=scheme.name)
            chosen[kind] = fit.init
            note = fit.note or note
        inits.append(chosen[kind])
    return _Slices(tuple(inits), parts, note)


def _note(
    source: WeightLayer,
    places: Places,
    *,
    scaled: _scales.Scaled,
    slices: _Slices,
    usage: Usage,
) -> str:
    """Return the note of a row: all that is to be said of how a weight is drawn."""
    of_state = ""
    if scaled.note.endswith(_scales.THAT_IT_READS):
        of_state = _rows_of_state(source, places)
    beside = ""
    if _places.gates_branch(source, places):
        beside = "gates its branch"
    together = ""
    if not slices.parts:
        together = _drawn_together(source, has_shares=source.name in places.shares)
    said = (
        scaled.note,
        of_state,
        slices.note,
        _remark(source),
        beside,
        usage.note(),
        together,
    )
    return ", ".join(filter(None, said))


def _written(inits: Sequence[Init]) -> str:
    """Write the initializers of the slices of a weight, as they stand in its row."""
    # The scale may depend on the place of a branch, and differ from slice to slice. The
    # row then shows the first and the last.
    written = list(dict.fromkeys(map(repr, inits)))
    if len(written) > 1:
        return f"{written[0]} … {written[-1]}"
    return written[0]


def _check_uncounted(scheme: Scheme, layer: Layer, reason: str) -> None:
    """Refuse a scale that depends on a place on a branch that is not known."""
    on_stream = dataclasses.replace(layer, branch=None)
    if repr(scheme.initializer(layer)) != repr(scheme.initializer(on_stream)):
        raise NotDefined(f"layer {layer.name!r}: scheme {scheme.name!r}: {reason}")


def _without_index(layer: Layer) -> Layer:
    """Return a layer with its index, and that of its branch, set to 0.

    Layers for which the result is equal get the same initializer from a scheme that is
    `alike`.
    """
    branch = layer.branch
    # The count and the position of the branch stay, because scales depend on them.
    if branch is not None:
        branch = dataclasses.replace(branch, index=0)
    return dataclasses.replace(layer, index=0, branch=branch)


def _about(source: WeightLayer, scheme: Scheme, error: FromCall) -> str:
    # The decorator of the function that the user called puts its name in front, so that
    # of `Scheme.initializer` is left out.
    text = str(error)
    if error.function == "Scheme.initializer":
        text = error.message
    return f"layer {source.name!r}: scheme {scheme.name!r}: {text}"


def _remark(source: WeightLayer) -> str:
    """Return a note on a layer that is drawn or used more than once, or ""."""
    parts = []
    if source.stacked is not None:
        parts.append(f"{source.stacked} slices")
    if source.groups > 1:
        parts.append(f"{source.groups} groups")
    if source.batch_axes:
        parts.append(f"{size(source.shape, source.batch_axes)} copies")
    if source.doubtful_axes:
        # Several outputs of one layer, or several layers: the laws differ in fan_out.
        axes = " and ".join(map(str, source.doubtful_axes))
        parts.append(f"drawn as one layer, although axis {axes} may count copies")
    if source.tied:
        parts.append("tied")
    return ", ".join(parts)


def _rows_of_state(source: WeightLayer, places: Places) -> str:
    """Say that one gain is for the rows of an input and for those of a state."""
    behind = _scales.source(source, places.by_name)
    reads_input = behind is not None and behind.name != source.name
    if source.role == "recurrent" and reads_input:
        return "its rows of the state too"
    return ""


def _drawn_together(source: WeightLayer, *, has_shares: bool) -> str:
    """Say which maps side by side in one weight are drawn as one."""
    if has_shares:
        return "one law for queries, keys and values together"
    # The state of n units is mapped to three or four gates of n units, and what reads
    # them apart is no activation of all.
    is_apart = source.branch is None and _scales.follows(source) is None
    is_wide = source.fan_out in (3 * source.fan_in, 4 * source.fan_in)
    # One weight of input and state has more inputs. Its gates are of several kinds.
    has_gates = any(step.startswith("gates (") and "," in step for step in source.then)
    if source.role == "recurrent" and is_apart and (is_wide or has_gates):
        return "one law for all gates together"
    return ""


def _check_zeros(
    source: WeightLayer, scheme: Scheme, inits: Sequence[Init], *, usage: Usage
) -> None:
    """Refuse zeros for a weight that is divided by its own norm."""
    if not usage.is_normalized or usage.is_zero_safe:
        return
    if any(repr(init).startswith("zeros(") for init in inits):
        raise NotDefined(
            f"layer {source.name!r}: scheme {scheme.name!r} starts it at zero, and the "
            "network divides it by its own norm, which gives NaN; use the weight "
            "without its norm, or another scheme."
        )


def _check_drawable(
    weight: _Weight, scheme: Scheme, leaf: jax.ShapeDtypeStruct
) -> None:
    """Refuse a layer that cannot be drawn."""
    source = weight.source
    taken = [*source.batch_axes, *source.window_axes, *source.in_axes, *source.out_axes]
    has_shared_axis = len(set(taken)) < len(taken)
    lost = [
        axis
        for axis, length in enumerate(source.shape)
        if axis not in taken and length > 1
    ]
    if has_shared_axis or lost:
        raise NotDefined(
            f"layer {source.name!r}: scheme {scheme.name!r} draws inputs and outputs "
            f"as axes of the leaf, and one axis of {source.path} holds both, or its "
            "use cannot be read; store the weight as it is multiplied."
        )
    # All slices have one shape, so each initializer is tried once. A deep stack has few
    # that differ, and equal ones have the same repr.
    distinct = {repr(init): init for init in weight.inits}
    for init in distinct.values():
        try:
            jax.eval_shape(
                lambda key, init=init: _draw_slice(source, init, key, dtype=leaf.dtype),
                jax.random.key(0),
            )
        except FromCall as error:
            raise NotDefined(_about(source, scheme, error)) from error


def _paired(
    weights: Sequence[_Weight], scheme: Scheme, anatomy: Anatomy
) -> list[_Weight]:
    """Give one key to layers whose weights are factors of one random matrix."""
    by_name = {weight.source.name: weight for weight in weights}
    pair_of: dict[str, int] = {}
    for attention in anatomy.attentions:
        for first, second in scheme.pairs:
            left = [by_name[name] for name in getattr(attention, first)]
            right = [by_name[name] for name in getattr(attention, second)]
            if not left or not right:
                raise NotDefined(
                    f"scheme {scheme.name!r} draws the weights of an attention in "
                    "pairs, and an attention reads or returns the stream without a "
                    "weight."
                )
            _check_pair(
                [weight.part(first) for weight in left],
                [weight.part(second) for weight in right],
                scheme,
            )
            indices = [weight.source.index for weight in (*left, *right)]
            for weight in (*left, *right):
                pair_of[weight.source.name] = min(indices)
    return [
        weight._replace(pair=pair_of.get(weight.source.name, weight.source.index))
        for weight in weights
    ]


def _check_pair(left: Sequence[Layer], right: Sequence[Layer], scheme: Scheme) -> None:
    """Raise unless the two layers are factors of one matrix per head.

    Query and key are, and value and output, if heads and sizes agree.
    """
    for a in left:
        for b in right:
            # Each of a and b is (width, channels). Query, key and value map the width
            # to channels, and an output maps channels back to the width.
            channels, width = b.num_outputs, b.num_inputs
            if b.role == "output":
                channels, width = width, channels
            agree = (a.heads, a.num_outputs, a.num_inputs) == (b.heads, channels, width)
            if not agree or len(left) > 1 or len(right) > 1:
                raise NotDefined(
                    f"layer {a.name!r}: scheme {scheme.name!r} draws it as one of two "
                    f"factors of a matrix in each head; it has {a.heads} heads and "
                    f"shape {a.num_inputs}×{a.num_outputs}, and {b.name!r} has "
                    f"{b.heads} heads and shape {b.num_inputs}×{b.num_outputs}."
                )


def _biases(weights: Iterable[_Weight], scales: _scales.Scales) -> list[_Bias]:
    """Return a record for each bias of the weights that are drawn, each leaf once."""
    # By path, because layers may share a bias, as the two products of a recurrence do.
    biases: dict[str, _Bias] = {}
    for weight in weights:
        path = weight.source.bias
        if path is not None and path not in biases:
            layer = weight.layers[0]
            init = scales.of(layer).scheme.bias_initializer(layer)
            biases[path] = _Bias(path, weight.source, init)
    return list(biases.values())


def _others(shapes: Iterable[str], rows: Sequence[Row]) -> list[Row]:
    """Return the rows of all leaves that the scheme leaves alone."""
    treated = {row.path for row in rows}
    return [
        Row(path, name="", role="", initializer=AS_DRAWN)
        for path in shapes
        if path not in treated
    ]


def _draw_weight(weight: _Weight, key: Key, leaf: Array) -> Array:
    """Draw one weight layer, and put it in its place in the leaf."""
    source = weight.source
    stacked = stack_sizes(source, leaf.shape)
    num_slices = math.prod(stacked)
    first, *others = weight.inits
    if num_slices == 1:
        slices = _draw_slice(source, first, key, dtype=leaf.dtype)
    elif all(init is first for init in others):
        keys = jax.random.split(key, num_slices)
        slices = jax.vmap(lambda k: _draw_slice(source, first, k, dtype=leaf.dtype))(
            keys
        )
    else:
        keys = jax.random.split(key, num_slices)
        drawn = [
            _draw_slice(source, init, keys[i], dtype=leaf.dtype)
            for i, init in enumerate(weight.inits)
        ]
        slices = jnp.stack(drawn)
    # Outside of jit every operation is a program of its own for each shape, so those
    # that would change nothing are left out.
    whole = slices
    # Slices are numbered with the last stacked axis fastest, so a reshape unstacks
    # them.
    if whole.shape != stacked + source.shape:
        whole = whole.reshape(stacked + source.shape)
    leading = tuple(range(len(stacked)))
    if source.stacked_axes != leading:
        whole = jnp.moveaxis(whole, leading, source.stacked_axes)
    if not source.stretches:
        return whole.astype(leaf.dtype)
    # A stretch is written into the leaf, whose rest may belong to other layers.
    window = [slice(None)] * leaf.ndim
    for axis, start, stop in source.stretches:
        window[axis] = slice(start, stop)
    return leaf.at[tuple(window)].set(whole.astype(leaf.dtype))


def _draw_slice(
    source: WeightLayer, init: Init, key: Key, *, dtype: jnp.dtype
) -> Array:
    """Draw one slice of a layer's weight, with its axes in the order of the leaf."""
    parts = Parts(
        batch=source.batch_axes,
        window=source.window_axes,
        inputs=source.in_axes,
        outputs=source.out_axes,
    )
    batch = sizes(source.shape, parts.batch)
    window = sizes(source.shape, parts.window)
    num_inputs = size(source.shape, parts.inputs)
    num_outputs = size(source.shape, parts.outputs)
    groups = source.groups
    # An initializer that was made with `groups=` draws all groups at once. Any other
    # draws one group, as if it were a layer of its own.
    knows_groups = isinstance(init, Initializer) and init.layout.groups > 1
    if knows_groups:
        groups = 1
    shape = (*window, num_inputs, num_outputs // groups)
    # Most layers have one kernel, with the axes as the initializer draws them.
    if groups == 1 and is_in_order(parts, source.shape):
        return draw(init, key, shape, dtype=dtype)
    kernels = _draw_stack(init, key, shape, stack=(*batch, groups), dtype=dtype)
    return lay_out(kernels, source.shape, parts)


def _draw_stack(
    init: Init, key: Key, shape: Shape, *, stack: Shape, dtype: jnp.dtype
) -> Array:
    """Draw independent arrays of one shape, stacked in front."""
    num_arrays = math.prod(stack)
    # A single array is drawn from the key itself: the same numbers as if the user had
    # called the initializer with this key.
    if num_arrays == 1:
        return draw(init, key, shape, dtype=dtype).reshape((*stack, *shape))
    keys = jax.random.split(key, num_arrays)
    arrays = jax.vmap(lambda k: draw(init, k, shape, dtype=dtype))(keys)
    return arrays.reshape((*stack, *shape))
