"""Anatomy: what any f(params, x) is made of, read off its jaxpr."""

import difflib
import functools
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.typing import ArrayLike
from jaxtyping import PyTree

from isometry._internal import checks, kinds, precision
from isometry._internal.errors import InputError, public
from isometry._internal.types import Params
from isometry.structure import _assembling, _names, _table
from isometry.structure._assembling import Assembled, GateUses
from isometry.structure._place import Inputs, Place, common_dtype
from isometry.structure._points import Point
from isometry.structure._records import Attention, Branch, WeightLayer

# Type checkers do not accept jax.tree_util.PyTreeDef as a type.
PyTreeDef: TypeAlias = Any

# Operations that put values side by side. Padding is none: what it adds is constant,
# and read with its neighbours by a pooling or convolution.
_JOINING = frozenset(("concatenate", "dynamic_update_slice", "scatter"))


class Anatomy:
    """What a function f(params, x) is made of.

    Points are named values. `name` is the pre-activation of a weight layer, after its
    bias; `name:out` is the result of the nonlinearity, norm or pooling that follows;
    `name:sum` is the sum in which the residual branch that ends with the layer returns
    to the stream. Slices of a stacked layer are `name[i]`; a second use of a weight is
    `name#2`. Steps of a recurrence are `name@t`, and its state is `carry@t`, or `h@t`
    if a step returns it as `jax.ad_checkpoint.checkpoint_name(state, "h")`. Of two
    states without such names, as in the LSTMs of Flax and Haiku, the one that weights
    multiply is `carry/h@t` and the other `carry/c@t`; otherwise several
    states are numbered, `carry/0@t`, in the order in which a step computes them. The
    ends are "input" and "output". Of a tree x each leaf is a point, "input/image"; if
    several are floating, "input" is the vector of all of them, flattened and joined in
    the order of `jax.tree.leaves`. That vector is not listed among `points`.

    Attributes:
        layers: One record for each weight, in the order of their first use.
        points: The names of the points, in the order in which they are computed.
        branches: The residual branches, in the order of the sums that end them.
        attentions: The attentions, each with its layers.
        unread: What could not be read: loops of unknown length, callbacks, kernels.
        depth: The number of weight layers on the longest path.
        closed: The jaxpr of f, a function of the leaves of params and x.
        params_tree: The structure of params.
        x_tree: The structure of x.
        out_tree: The structure of what f returns.

    Example:
        >>> net = networks.mlp([3, 8, 8, 2], "tanh")
        >>> params = jax.eval_shape(net.init, jax.random.key(0))
        >>> an = isometry.anatomy(net, params, jnp.ones(3))
        >>> an.depth, [layer.name for layer in an.layers]
        (3, ['layers/0', 'layers/1', 'layers/2'])
        >>> an.points[:4]
        ('input', 'layers/0', 'layers/0:out', 'layers/1')
    """

    layers: tuple[WeightLayer, ...]
    branches: tuple[Branch, ...]
    attentions: tuple[Attention, ...]
    unread: tuple[str, ...]
    depth: int
    closed: core.ClosedJaxpr
    params_tree: PyTreeDef
    x_tree: PyTreeDef
    out_tree: PyTreeDef

    def __init__(
        self,
        closed: core.ClosedJaxpr,
        trees: tuple[PyTreeDef, ...],
        assembled: Assembled,
    ) -> None:
        self.closed = closed
        self.params_tree, self.x_tree, self.out_tree = trees
        self.layers = assembled.layers
        self.branches = assembled.branches
        self.attentions = assembled.attentions
        self.unread = assembled.unread
        self.depth = assembled.depth
        self._cells = _table.cells(assembled.layers, assembled.branches)
        self._flow = assembled.flow
        self._points = assembled.points
        self._rows = assembled.rows
        self._gate_uses = assembled.gate_uses
        self._across_loops = assembled.across_loops
        self._reached: dict[int, frozenset[int]] = {}

    def table(self) -> str:
        """Draw a table of the layers, with what precedes and follows each.

        Returns:
            A table with a row for each layer: name, kind, shape, fan_in → fan_out,
            role, what precedes and follows it, and its branch. Empty columns are left
            out. Where lines would be longer than 100 characters, the words of long
            names are cut in the middle, and if need be the names of branches left out;
            `layers` and `points` have all names in full.

        Example:
            >>> net = networks.mlp([3, 8, 8, 2], "tanh")
            >>> params = jax.eval_shape(net.init, jax.random.key(0))
            >>> an = isometry.anatomy(net, params, jnp.ones(3))
            >>> print(an.table())
            3 weight layers, depth 3, 0 branches
            layer     kind   shape  fans   role    then
            layers/0  dense  3×8    3 → 8  stem    tanh
            layers/1  dense  8×8    8 → 8  hidden  tanh
            layers/2  dense  8×2    8 → 2  head
        """
        return _table.table(self, self._cells)

    def __repr__(self) -> str:
        return _table.summary(self, self._cells)

    def _repr_html_(self) -> str:
        return _table.in_notebook(self, self._cells)

    @functools.cached_property
    def points(self) -> tuple[str, ...]:
        """The names of the points, in the order in which they are computed.

        Example:
            >>> net = networks.mlp([3, 8, 2], "tanh")
            >>> net.anatomy.points
            ('input', 'layers/0', 'layers/0:out', 'layers/1', 'output')
        """
        return tuple(self._points.by_name)

    @functools.cached_property
    def inputs(self) -> tuple[str, ...]:
        """The points that are leaves of x: "input", or "input/image" of a tree.

        Example:
            >>> net = networks.mlp([3, 8, 2], "tanh")
            >>> net.anatomy.inputs
            ('input',)
        """
        return tuple(name for name, _ in self._points.inputs())

    @property
    def embeddings(self) -> tuple[WeightLayer, ...]:
        """The layers of which x selects rows, as tokens do.

        Example:
            >>> net = networks.transformer(8, 1, 2, vocabulary=10, length=4)
            >>> [layer.name for layer in net.anatomy.embeddings]
            ['embedding']
        """
        return tuple(layer for layer in self.layers if layer.kind == "embedding")

    def place(self, name: str) -> Place:
        """Return which variable of the program holds the value of a point.

        Args:
            name: One of `points`.

        Returns:
            The path to the variable, the variable, and the iterations of scans.

        Raises:
            InputError: There is no such point.

        Example:
            >>> net = networks.mlp([3, 8, 8, 2], "tanh")
            >>> params = jax.eval_shape(net.init, jax.random.key(0))
            >>> an = isometry.anatomy(net, params, jnp.ones(3))
            >>> an.place("layers/0").path
            ()
        """
        point = self._point(name)
        if name == "output":
            # The output variable of the whole jaxpr, even if a nested call computed it.
            return Place((), self.closed.jaxpr.outvars[0], ())
        return self._place(point)

    def _place(self, point: Point) -> Place:
        """Return which variable of the program holds a value in its iterations."""
        program = self._flow.program
        value = program.values[point.value]
        # Only constants have no variable, and no point is a constant.
        assert value.var is not None
        iterations = [
            program.scans[scan].index_of(iteration)
            for scan, iteration in zip(value.scans, point.iterations, strict=True)
        ]
        return Place(value.path, value.var, tuple(iterations))

    @functools.cached_property
    def _floating_inputs(self) -> tuple[int, ...]:
        """The positions of the floating leaves of x among the arguments."""
        num_params = self.params_tree.num_leaves
        arguments = enumerate(self.closed.in_avals)
        return tuple(
            i
            for i, argument in arguments
            if i >= num_params and kinds.is_floating(argument)
        )

    def _is_joined(self, name: str) -> bool:
        """Tell whether a name stands for several leaves of x together."""
        return name == "input" and len(self._floating_inputs) > 1

    def _points_of(self, name: str) -> list[Point]:
        """Return the point with a name, or those that it stands for together."""
        if not self._is_joined(name):
            return [self._point(name)]
        num_params = self.params_tree.num_leaves
        values = [value for _, value in self._points.inputs()]
        joined = [values[i - num_params] for i in self._floating_inputs]
        return [Point(self._flow.unrolled.find(v), v, ()) for v in joined]

    def _point(self, name: str) -> Point:
        """Return the point with a name; refuse an unknown one, with similar names."""
        by_name = self._points.by_name
        if name not in by_name:
            near = difflib.get_close_matches(str(name), by_name, n=4, cutoff=0.5)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            listed = ", ".join(_abbreviated(tuple(by_name), limit=12))
            raise InputError(
                f"span={checks.show(name)} names no point; there are: {listed}.{hint}"
            )
        return by_name[name]

    def shape(self, name: str) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of a point, in one iteration of a scan.

        Args:
            name: One of `points`, or "input".

        Returns:
            Its shape and dtype.

        Raises:
            InputError: There is no such point.

        Example:
            >>> net = networks.mlp([3, 8, 8, 2], "tanh")
            >>> params = jax.eval_shape(net.init, jax.random.key(0))
            >>> an = isometry.anatomy(net, params, jnp.ones(3))
            >>> an.shape("layers/1")
            ShapeDtypeStruct(shape=(8,), dtype=float32)
        """
        shapes = []
        for point in self._points_of(name):
            aval = self._flow.program.values[point.value].aval
            shapes.append(jax.ShapeDtypeStruct(aval.shape, aval.dtype))
        if self._is_joined(name):
            num_entries = sum(shape.size for shape in shapes)
            return jax.ShapeDtypeStruct((num_entries,), common_dtype(shapes))
        (shape,) = shapes
        return shape

    def upstream(self, a: str, b: str) -> bool:
        """Tell whether the value at `b` depends on the value at `a`.

        Args:
            a: One of `points`, or "input".
            b: One of `points`.

        Returns:
            Whether it does. A point is upstream of itself.

        Raises:
            InputError: There is no such point.

        Example:
            >>> net = networks.mlp([3, 8, 8, 2], "tanh")
            >>> params = jax.eval_shape(net.init, jax.random.key(0))
            >>> an = isometry.anatomy(net, params, jnp.ones(3))
            >>> an.upstream("input", "layers/1"), an.upstream("output", "input")
            (True, False)
        """
        end = self._point(b)
        return any(self._reaches(start, end) for start in self._points_of(a))

    def _reaches(self, a: Point, b: Point) -> bool:
        """Tell whether the value at one point depends on that at another."""
        start, end = _assembling.laid_out_pair(self._flow.unrolled, a, b)
        # `b` is in an earlier iteration of a scan than `a`.
        if start is None:
            return False
        # Cached, because spans ask for many values of `b` with one `a`.
        if start not in self._reached:
            self._reached[start] = self._flow.unrolled.after({start})
        return end in self._reached[start]

    def cuts(self, name: str) -> bool:
        """Tell whether every path from x to the output runs through a point.

        If so, the Jacobian is the product of the Jacobian from the point to the output
        and that from x to the point. Only paths that have a derivative count.

        Args:
            name: One of `points`, or "input".

        Returns:
            Whether the point is on every such path.

        Raises:
            InputError: There is no such point.

        Example:
            >>> def block(params, x):
            ...     return x + params["w"] @ jnp.tanh(params["v"] @ x)
            >>> params = {"v": jnp.eye(3), "w": jnp.eye(3)}
            >>> an = isometry.anatomy(block, params, jnp.ones(3))
            >>> an.cuts("v"), an.cuts("w:sum")
            (False, True)
        """
        # All paths start at the leaves of x.
        if self._is_joined(name):
            return True
        return self._point(name).node in self._flow.cuts


def tap_of(anatomy: Anatomy, name: str) -> Place | Inputs:
    """Return where the value at a point, or at "input", is read and perturbed."""
    if anatomy._is_joined(name):
        return Inputs(anatomy._floating_inputs)
    return anatomy.place(name)


def in_order(anatomy: Anatomy, names: Collection[str]) -> list[str]:
    """Return names of points, and maybe "input", in the order of the computation."""
    ordered = [name for name in anatomy.points if name in names]
    # The leaves of x together are no point, and come before all points.
    if "input" in names and "input" not in ordered:
        ordered.insert(0, "input")
    return ordered


def gate_uses(anatomy: Anatomy) -> GateUses:
    """Return which entries of leaves multiply the branches and skips of an anatomy."""
    return anatomy._gate_uses


def branches_across_loops(anatomy: Anatomy) -> frozenset[str]:
    """Return the branches whose layers are more than one slice of their stacks."""
    return anatomy._across_loops


def is_joined_behind(anatomy: Anatomy, name: str) -> bool:
    """Tell whether values that no input reaches are joined behind a layer.

    A class token is: a row of the result is a parameter, and no function of the layer.

    Args:
        anatomy: The anatomy.
        name: A weight layer whose `name:out` is a point too.
    """
    flow = anatomy._flow
    start = anatomy._point(name).node
    end = anatomy._point(f"{name}:out").node
    between, _ = flow.back_to(end, {start})
    for node in between - {start}:
        if flow.operation(node) not in _JOINING:
            continue
        # Indices come from elsewhere too, and are no values.
        if any(flow.value(other).is_floating for other in flow.from_elsewhere(node)):
            return True
    return False


def _abbreviated(
    names: tuple[str, ...],
    limit: int,
) -> list[str]:
    """Return at most `limit` names, with "…" for those left out in the middle."""
    if len(names) <= limit:
        return list(names)
    half = limit // 2
    return [*names[:half], "…", *names[-half:]]


@public("anatomy")
def anatomy(
    f: Callable[[Params, PyTree], PyTree],
    params: Params,
    x: PyTree,
) -> Anatomy:
    """Read what f(params, x) is made of, without running it.

    Args:
        f: Any function of parameters and one input, or a `Network`.
        params: Its parameters: arrays, or `jax.ShapeDtypeStruct`, in any tree.
        x: Its input: arrays or shapes, in any tree.

    Returns:
        Its weight layers, points and branches.

    Raises:
        InputError: A leaf of params or x is not an array, or f returns no array.

    Example:
        >>> net = networks.mlp([32] * 6, "tanh", "orthogonal")
        >>> params = net.init(jax.random.key(0))
        >>> an = isometry.anatomy(net, params, jnp.ones(32))
        >>> an.points[:3]
        ('input', 'layers/0', 'layers/0:out')
    """
    if not callable(f):
        raise InputError(
            f"f={checks.show(f)} is not callable; write f(params, x) for one example x."
        )
    checks.real("params", params)
    checks.real("x", x)
    # Shapes alone are traced, so nothing can be run by accident.
    shapes = jax.tree.map(_shape_of, (params, x))
    # The program is measured as it is traced here, so products ask for full precision.
    with precision.full():
        # JAX remembers traces by function, and what f closes over may have changed.
        closed, out = jax.make_jaxpr(lambda *a: f(*a), return_shape=True)(*shapes)
    out_tree = jax.tree.structure(out)
    # The point "output" needs a value.
    if out_tree.num_leaves == 0:
        raise InputError("f returns no array; write f(params, x) that returns one.")
    trees = (jax.tree.structure(params), jax.tree.structure(x), out_tree)
    leaves = _names.leaves(params)
    x_paths = [leaf.steps for leaf in _names.leaves(x)]
    return Anatomy(closed, trees, _assembling.assemble(closed, leaves, x_paths))


def _shape_of(leaf: ArrayLike) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
