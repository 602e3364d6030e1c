"""Residual networks, dense or convolutional: x' = skip x + branch F(x)."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from isometry import schemes
from isometry._internal import checks
from isometry._internal.errors import InputError, NotDefined, public
from isometry._internal.types import DTypeLike, Key, Params
from isometry.activations import Activation
from isometry.networks import (
    _arguments,
    _norms,
    _resnet_law,
    _resnet_signals,
    _spatial,
)
from isometry.networks._network import Built, Network
from isometry.networks._spatial import Size
from isometry.records import Signals
from isometry.schemes import Scheme
from isometry.schemes._registry import SchemeLike
from isometry.schemes._shaping import untransformed
from isometry.theory import Law, Moments
from isometry.theory.mean_field._residual import ORDERS

# With "valid" the branch would return a smaller image than the skip.
_PADDINGS = ("circular", "same")

# The relative error of skip² + branch² up to which it counts as 1. Ten times less would
# be near the rounding of float32; ten times more would take 0.7071 for √½.
_SAME = 1e-6

# Examples in `net.training.example`, by which the anatomy in training mode is read. Any
# other number can be measured as well. Ten times more would make the anatomy slower;
# below four the Jacobian of batch norm has no variance.
_BATCH = 8


@dataclasses.dataclass(frozen=True)
class Block:
    """The shapes in one block. Those of images are () for a dense block.

    Attributes:
        n_in: The units or channels of the stream before the block.
        n_out: The units or channels of the stream behind the block.
        size: The number of pixels along each axis of the image that the block reads.
        window: The number of taps of its kernels along each axis.
        strides: The strides of its first layer, and of the projection on its skip.
        padding: "circular" or "same".
    """

    n_in: int
    n_out: int
    size: Size
    window: Size
    strides: Size
    padding: str

    @property
    def size_out(self) -> Size:
        """The size of the image that the block returns."""
        return _spatial.size_after(
            self.size, self.window, self.strides, padding=self.padding
        )

    @property
    def projects(self) -> bool:
        """Whether the stream changes its shape, so that the skip is a projection."""
        has_strides = any(stride > 1 for stride in self.strides)
        return has_strides or self.n_in != self.n_out


@dataclasses.dataclass(frozen=True)
class Run:
    """Equal blocks in a row. If there are several, their leaves are stacked.

    Attributes:
        block: The block that all of them equal.
        start: The index of the first block of the run in the network.
        length: The number of blocks in the run.
    """

    block: Block
    start: int
    length: int

    def part_of(self, values: Sequence[float]) -> Sequence[float]:
        """Return the part of `values` that belongs to the blocks of this run.

        Args:
            values: One value for each block of the network.
        """
        return values[self.start : self.start + self.length]


@dataclasses.dataclass(frozen=True)
class ResnetFunction:
    """The map (params, x) -> output of a residual network.

    Equal blocks in a row are scanned, so that compile time does not grow with depth.

    Attributes:
        runs: The blocks, from first to last.
        skips: The multiplier of each skip.
        activation: The activation of all branches.
        order: A key of `ORDERS`.
        norm: "layer", "rms", "batch" or None.
        norm_at: "pre" normalizes the input of each branch, "post" the sum of branch
            and skip.
        n_in: The number of inputs of the stem; None without a stem.
        n_out: The number of outputs of the head; None without a head.
        is_training: Whether x is a whole batch. Batch norm then uses its statistics.
    """

    runs: tuple[Run, ...]
    skips: tuple[float, ...]
    activation: Activation
    order: str
    norm: str | None
    norm_at: str
    n_in: int | None
    n_out: int | None
    is_training: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        first = self.runs[0].block
        channels = self.n_in or first.n_in
        return (*first.size, channels)

    def norm_width(self, block: Block) -> int:
        """Return the number of channels that the norm of a block normalizes."""
        if self.norm_at == "pre":
            return block.n_in
        return block.n_out

    @public("resnet")
    def __call__(self, params: Params, x: Array) -> Array:
        x = self._checked(params, x)
        if not self.is_training:
            return self._one(params, x)
        # vmap with a named axis: batch norm takes its statistics over this axis, and
        # everything else acts on one example.
        every = jax.vmap(self._one, in_axes=(None, 0), axis_name=_norms.BATCH_AXIS)
        return every(params, x)

    def _checked(self, params: Params, x: Array) -> Array:
        """Return x in the dtype of the parameters; refuse x of another shape.

        Raises:
            InputError: x is not one example, or in training mode not a batch.
        """
        dtype = jax.tree.leaves(params)[0].dtype
        if not self.is_training:
            return _arguments.one_example(x, self.input_shape, dtype)
        x = checks.array("x", x)
        shape = x.shape
        if len(shape) == 0 or shape[1:] != self.input_shape:
            raise InputError(
                f"x has shape {shape}; this network takes a batch (examples, ...) of "
                f"examples of shape {self.input_shape}."
            )
        checks.real("x", x)
        return jnp.asarray(x, dtype)

    def _one(self, params: Params, x: Array) -> Array:
        """Return the output of one example."""
        statistics = (None,) * len(self.runs)
        # Statistics are kept beside the parameters, as in Flax, so that no gradient
        # step changes them.
        if self.norm == "batch":
            statistics = _by_run(params["batch_stats"]["blocks"])
            params = params["params"]
        # No norm or activation stands between the stream and either end, only the
        # matrix of the stem or the head.
        if self.n_in is not None:
            x = _layer(params["stem"], x, padding=self.runs[0].block.padding)
        of_runs = zip(self.runs, _by_run(params["blocks"]), statistics, strict=True)
        for run, leaves, state in of_runs:
            x = self._through(run, leaves, x, statistics=state)
        if self.n_out is None:
            return x
        return _layer(params["head"], _spatial.pixel_mean(x))

    def _through(
        self, run: Run, leaves: Params, x: Array, *, statistics: Params | None
    ) -> Array:
        """Return the stream behind a run of blocks.

        Args:
            run: The blocks.
            leaves: Their parameters, stacked if there are several blocks.
            x: The stream before the run.
            statistics: Their batch statistics, likewise; None without batch norm.
        """
        skips = run.part_of(self.skips)
        if run.length == 1:
            return self._block(
                run.block, leaves, x, skip=skips[0], statistics=statistics
            )
        if len(set(skips)) == 1:
            # A factor that all blocks share stays a Python number: `_block` leaves it
            # out if it is 1, which it could not tell of a scanned array.
            stacked = (leaves, statistics, None)
        else:
            stacked = (leaves, statistics, jnp.asarray(skips, x.dtype))

        def step(x: Array, of_block: tuple[Params, ...]) -> tuple[Array, None]:
            leaves, statistics, skip = of_block
            skip = skips[0] if skip is None else skip
            y = self._block(run.block, leaves, x, skip=skip, statistics=statistics)
            return y, None

        x, _ = jax.lax.scan(step, x, stacked)
        return x

    def _block(
        self,
        block: Block,
        leaves: Params,
        x: Array,
        *,
        skip: float | Array,
        statistics: Params | None,
    ) -> Array:
        """Return the stream behind one block: skip x + branch F(x), and its norm.

        Args:
            block: The shapes in the block.
            leaves: Its parameters.
            x: The stream before the block.
            skip: The multiplier of the skip.
            statistics: Its batch statistics; None without batch norm.
        """
        read = x
        if self.norm_at == "pre":
            read = self._normalized(leaves, x, statistics)
        stream = x
        # Where the stream changes its shape, the skip is a convolution with a window of
        # one pixel (He et al., 2016, arXiv:1512.03385, option B).
        if block.projects:
            stream = _layer(leaves["shortcut"], x, strides=block.strides)
        # A product with 1 is left out, because it would make every program larger.
        if not isinstance(skip, float) or skip != 1.0:
            stream = skip * stream
        y = stream + leaves["branch"] * self._branch(block, leaves, read)
        # A norm behind the sum acts on the skip too, as in post-norm transformers.
        if self.norm_at == "post":
            y = self._normalized(leaves, y, statistics)
        return y

    def _normalized(self, leaves: Params, x: Array, statistics: Params | None) -> Array:
        """Apply the norm of a block to x; return x itself if blocks have no norm."""
        if self.norm is None:
            return x
        given = None
        # `normalize` with statistics=None takes those of the batch, which is training.
        if statistics is not None and not self.is_training:
            given = statistics["norm"]
        return _norms.normalize(self.norm, leaves["norm"], x, statistics=given)

    def _branch(self, block: Block, leaves: Params, h: Array) -> Array:
        """Return F(h), the result of a branch without its multiplier.

        Args:
            block: The shapes in the block.
            leaves: The parameters of the block.
            h: The input of the branch: the stream, normalized if norm_at is "pre".
        """
        order = ORDERS[self.order]
        phi = self.activation
        if order.before:
            h = phi(h)
        h = _layer(leaves["first"], h, strides=block.strides, padding=block.padding)
        # Only the first layer has strides: the second sees the smaller image.
        if order.num_layers == 2:
            h = _layer(leaves["second"], phi(h), padding=block.padding)
        if order.behind:
            h = phi(h)
        return h


def _by_run(blocks: Params) -> tuple[Params, ...]:
    """Return the parameters of each run.

    Args:
        blocks: A tuple of them; with a single run, its parameters alone.
    """
    # Most networks have equal blocks, and so a single run. Without a tuple around it,
    # their points are "blocks/first[0]" instead of "blocks/0/first[0]".
    if isinstance(blocks, tuple):
        return blocks
    return (blocks,)


def _joined(of_runs: list[Params]) -> Params:
    """Return the parameters of all runs as they are stored: the inverse of `_by_run`.

    They are a tuple, but those of a single run are stored without one.
    """
    if len(of_runs) == 1:
        return of_runs[0]
    return tuple(of_runs)


def _stacked(leaves: Params, length: int) -> Params:
    """Return leaves repeated along a new first axis, one slice for each of the blocks.

    Args:
        leaves: The parameters of one block.
        length: The number of blocks. With one block no axis is added.
    """
    # A single block is not stacked: the scan would only add "[0]" to its points.
    if length == 1:
        return leaves
    return jax.tree.map(
        lambda leaf: jnp.tile(leaf, (length,) + (1,) * leaf.ndim), leaves
    )


def _layer(
    leaves: dict[str, Array],
    h: Array,
    *,
    strides: Size = (),
    padding: str = "same",
) -> Array:
    """Return the pre-activation of a dense layer at a vector, or of a convolution.

    Args:
        leaves: The weights "w", and the bias "b" if there is one.
        h: The vector or the image.
        strides: The strides of a convolution; () for 1 along each axis.
        padding: The padding of a convolution.
    """
    weights = leaves["w"]
    # A dense weight has two axes; a kernel has those of its window in front.
    if weights.ndim == 2:
        return _spatial.plus_bias(h @ weights, leaves)
    strides = strides or (1,) * (weights.ndim - 2)
    z = _spatial.convolve(weights, h, strides=strides, padding=padding)
    return _spatial.plus_bias(z, leaves)


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Resnet(Built):
    """A residual network: what `resnet` returns.

    Attributes:
        function: The map (params, x) -> output alone.
        branch: The initial multiplier of each branch, unless the scheme sets it.
        skip: The multiplier of each skip as the user gave it. The function multiplies
            it by the factor of the scheme, if it has one.
        bias: Whether layers have biases.
        dtype: The dtype of the parameters.
    """

    function: ResnetFunction
    branch: tuple[float, ...]
    skip: tuple[float, ...]
    bias: bool
    dtype: np.dtype

    @property
    def layer_activations(self) -> Mapping[str, Activation]:
        """The activation in front of or behind each layer of a branch, by its name."""
        names = [name for branch in self.anatomy.branches for name in branch.layers]
        return dict.fromkeys(names, self.function.activation)

    def skeleton(self, key: Key) -> Params:
        """Return the parameters before a scheme draws the weights.

        Weights and biases are 0, scales of norms 1, multipliers of branches as the user
        gave them.
        """
        runs = self.function.runs
        params: dict[str, Params] = {}
        if self.function.n_in is not None:
            first = runs[0].block
            params["stem"] = self._zeros(first.window, self.function.n_in, first.n_in)
        params["blocks"] = _joined([self._leaves_of(run) for run in runs])
        if self.function.n_out is not None:
            params["head"] = self._zeros((), runs[-1].block.n_out, self.function.n_out)
        if self.function.norm != "batch":
            return params
        statistics = _joined([self._statistics_of(run) for run in runs])
        return {"params": params, "batch_stats": {"blocks": statistics}}

    def _leaves_of(self, run: Run) -> Params:
        """Return the parameters of a run before a scheme draws the weights."""
        block = run.block
        function = self.function
        leaves: dict[str, Params] = {}
        leaves["first"] = self._zeros(block.window, block.n_in, block.n_out)
        if ORDERS[function.order].num_layers == 2:
            leaves["second"] = self._zeros(block.window, block.n_out, block.n_out)
        if block.projects:
            one_pixel = (1,) * len(block.window)
            shortcut = self._zeros(one_pixel, block.n_in, block.n_out)
            # The shortcut needs no bias, because the branch adds one to the same sum.
            leaves["shortcut"] = {"w": shortcut["w"]}
        if function.norm is not None:
            width = function.norm_width(block)
            leaves["norm"] = _norms.initial_leaves(function.norm, width, self.dtype)
        # The multiplier is a leaf, so that it is trained, and schemes can set it.
        starts = jnp.asarray(run.part_of(self.branch), self.dtype)
        if run.length == 1:
            starts = starts[0]
        return {**_stacked(leaves, run.length), "branch": starts}

    def _statistics_of(self, run: Run) -> Params:
        width = self.function.norm_width(run.block)
        return _stacked(
            {"norm": _norms.initial_statistics(width, self.dtype)}, run.length
        )

    def _zeros(self, window: Size, n_in: int, n_out: int) -> dict[str, Array]:
        """Return zeros for the weight and the bias of one layer."""
        leaves = {"w": jnp.zeros((*window, n_in, n_out), self.dtype)}
        if self.bias:
            leaves["b"] = jnp.zeros(n_out, self.dtype)
        return leaves

    @public("with_scheme")
    def with_scheme(
        self,
        scheme: SchemeLike,
        sigma_w: float | None = None,
        sigma_b: float | None = None,
    ) -> "Resnet":
        """Return a copy of the network that draws its weights by another scheme.

        Some schemes change the function too: deep_norm multiplies the skips, dks and
        tat transform the activation. The copy starts from the skips and the activation
        that the user gave, whatever the scheme before has made of them.

        Args:
            scheme: A name, an initializer or a `Scheme`, as for `schemes.get`.
            sigma_w: The scale of the weights, if the scheme leaves it to the user. None
                takes the scale that is critical for the activation.
            sigma_b: The standard deviation of the biases, likewise. None is 0.

        Returns:
            The copy.

        Raises:
            InputError: An unknown name; a sigma for a scheme that fixes its own scale.
            NotDefined: The scheme has no meaning for a layer, or for these multipliers.
        """
        phi, chosen = _transformed(
            scheme,
            untransformed(self.function.activation),
            self.function.order,
            branches=self.branch,
            skips=self.skip,
        )
        function = dataclasses.replace(self.function, activation=phi)
        net = dataclasses.replace(
            self,
            function=_with_skips(function, self.skip, chosen),
            activation=phi,
            scheme=chosen,
            sigma_w=sigma_w,
            sigma_b=sigma_b,
        )
        # Refuse now, and not at the first draw, what the scheme cannot do.
        net.require_assignment()
        return net

    @public("law")
    def law(self, span: str, xs: ArrayLike) -> Law:
        """Predict the law of the singular values over a span, at infinite width.

        It is `theory.residual_law` of the blocks, with biases and norms. The mean
        square of the stream in front of the first is that of the stem's output, or
        without a stem of xs.

        A norm acts as a division by the standard deviation of what it reads: norm_at
        "pre" divides the branch, "post" both branch and skip (of batch norm in
        inference, before training, both divide by 1). A norm "post" inside the span
        takes away one or two directions of the width: the law has a mass at zero of
        `theory.norm_zeros(norm, width)`. The norm's epsilon leaves one of them near
        zero, within the resolution of float32.

        Args:
            span: "hidden", from where the first branch leaves to where the last joins;
                or "end_to_end", of networks without stem and head, where a norm behind
                the last sum is part of it.
            xs: Inputs along a first axis, whose mean square is taken.

        Returns:
            The law.

        Raises:
            NotDefined: No law is known or implemented: orders "pre_activation" and
                "v2", convolutions, blocks of different widths, a stem or head in the
                span, batch norm in training, schemes without independent Gaussian or
                orthogonal weights.
            InputError: An unknown span; xs of another shape.

        Example:
            >>> net = networks.resnet(8, 4, "relu", sigma_w=1.0, branch=0.5)
            >>> round(net.law("hidden", jnp.ones((1, 8))).moment(1), 4)
            1.6018
        """
        self._require_inputs(xs)
        return _resnet_law.law(self, span, xs)

    @public("moments")
    def moments(self, span: str, xs: ArrayLike) -> Moments:
        """Predict mean and variance of lam = s² over a span, at infinite width.

        They are `theory.residual_moments` of the blocks, which are known in all orders,
        with biases and norms as in `law`. In "pre_activation" and "v2" without a stem
        they follow from the values of xs, unit by unit, with an error of 1 %. The
        directions that a norm "post" takes away are left out: their share vanishes at
        infinite width, while the mean of `law` is lower by it.

        Args:
            span: As in `law`.
            xs: Inputs along a first axis, whose mean square is taken.

        Returns:
            `theory.Moments`: the mean and the variance.

        Raises:
            NotDefined: As `law`, but for the orders.
            InputError: An unknown span; xs of another shape.

        Example:
            >>> net = networks.resnet(8, 2, sigma_w=1.0, order="pre_activation")
            >>> mean, variance = net.moments("hidden", jnp.ones((1, 8)))
            >>> round(mean, 2)
            3.68
        """
        self._require_inputs(xs)
        return _resnet_law.moments(self, span, xs)

    @public("mean_field")
    def mean_field(self, xs: ArrayLike) -> Signals:
        """Predict what `isometry.signals` measures, at infinite width.

        The products of all pairs of inputs follow from block to block, from xs
        themselves, with biases, norms, stem, head, and widths that differ. In
        "pre_activation" and "v2" without a stem the units keep the values of xs, and
        what a branch adds is right to 0.3 %. apjn is that of the whole network, from
        each point to the output; gradient is its mean over random losses.

        In training mode every x is a batch, (examples, n_in), and batch norm uses its
        statistics. Units are sampled: fields are right to 1 % for a batch of 16, and to
        3 % for one of 64.

        Where branches have a mean (order "post_activation" of ReLU), one singular value
        leaves the others behind, and adds its square over the width to apjn.

        Args:
            xs: Inputs along a first axis.

        Returns:
            The predicted signals, of shape (1, inputs, points): one row for all seeds.

        Raises:
            NotDefined: Convolutions; the scheme has no law; the activation jumps.
            InputError: xs of another shape.

        Example:
            >>> net = networks.resnet(64, 2, "relu", sigma_w=1.0, norm="layer")
            >>> sig = net.mean_field(jnp.tile(jnp.array([-1.0, 1.0]), 32)[None])
            >>> sums = [f"blocks/second[{i}]:sum" for i in range(2)]
            >>> [round(float(sig.at(name).q[0, 0]), 4) for name in sums]
            [1.5, 2.0]
        """
        self._require_inputs(xs)
        return _resnet_signals.mean_field(self, xs)

    def _require_inputs(self, xs: ArrayLike) -> None:
        checks.on_host("xs", xs)
        shape = self.function.input_shape
        # In training mode x is a batch of any size.
        if self.function.is_training and np.ndim(xs) > 1:
            shape = (np.shape(xs)[1], *shape)
        checks.examples("xs", xs, shape)

    def start_of_branch(self, index: int) -> float:
        """Return the multiplier at which the branch of a block starts.

        Args:
            index: The number of the block.

        Example:
            >>> networks.resnet(8, 3, branch=[0.5, 1.0, 2.0]).start_of_branch(2)
            2.0
        """
        # A scheme with multipliers of its own sets the leaf.
        if self.scheme.multipliers is not None:
            return _residuals(self.scheme, self.function)[index].branch
        return self.branch[index]

    @property
    def training(self) -> Network:
        """The network in training mode: batch norm uses the statistics of a batch x.

        Raises:
            NotDefined: The network has no batch norm.
        """
        if self.function.norm != "batch":
            return super().training
        function = dataclasses.replace(self.function, is_training=True)
        batch = (_BATCH, *function.input_shape)
        return dataclasses.replace(
            self,
            function=function,
            example=jax.ShapeDtypeStruct(batch, self.dtype),
            mode="training",
        )

    def __repr__(self) -> str:
        function = self.function
        widths = [run.block.n_out for run in function.runs for _ in range(run.length)]
        width = widths
        if len(set(widths)) == 1:
            width = widths[0]
        return (
            f"resnet({width}, {len(self.skip)}, "
            f"activation={function.activation.name!r}, scheme={self.scheme.name!r}, "
            f"order={function.order!r}, norm={function.norm!r}, "
            f"sigma_w={self.sigma_w}), {self.mode}"
        )


def _residuals(scheme: Scheme, function: ResnetFunction) -> list[schemes.Residual]:
    """Return the multipliers that a scheme gives to each block, first to last."""
    # No scheme uses the position of a layer for its multipliers, so 0 will do.
    count = len(function.skips)
    length = ORDERS[function.order].num_layers
    return [
        scheme.residual(schemes.Branch(index, count, position=0, length=length))
        for index in range(count)
    ]


def _transformed(
    scheme: SchemeLike,
    phi: Activation,
    order: str,
    *,
    branches: Sequence[float],
    skips: Sequence[float],
) -> tuple[Activation, Scheme]:
    """Return the activation that a scheme makes of phi, and the scheme.

    Args:
        scheme: A scheme, or anything that `schemes.get` takes.
        phi: The activation that the user gave. Most schemes return it unchanged.
        order: A key of `ORDERS`.
        branches: The multiplier of each branch.
        skips: The multiplier of each skip.

    Raises:
        NotDefined: The scheme needs skip² + branch² = 1, and a block does not have it.
    """
    chosen = schemes.get(scheme)
    if chosen.transform is None:
        return phi, chosen
    for i, (branch, skip) in enumerate(zip(branches, skips, strict=True)):
        square = branch**2 + skip**2
        # The multipliers of a float32 network are rounded to 1e-7.
        if not math.isclose(square, 1, rel_tol=_SAME):
            raise NotDefined(
                f"block {i}: scheme {chosen.name!r} needs skip² + branch² = 1, and it "
                f"is {square:.6g}; write branch=b, skip=(1 - b**2) ** 0.5."
            )
    num_layers, before, behind = ORDERS[order]
    num_activations = num_layers - 1 + before + behind
    blocks = [(num_activations, abs(branch)) for branch in branches]
    return schemes.transformed(chosen, phi, 0, blocks=blocks)


def _with_skips(
    function: ResnetFunction, skip: Sequence[float], scheme: Scheme
) -> ResnetFunction:
    """Return the function with skips that are the user's times those of a scheme.

    Args:
        function: The function. The skips that it has are replaced.
        skip: The multiplier of each skip, as the user gave it.
        scheme: The scheme.
    """
    residuals = _residuals(scheme, function)
    skips = tuple(
        own * residual.skip for own, residual in zip(skip, residuals, strict=True)
    )
    return dataclasses.replace(function, skips=skips)


@public("networks.resnet")
def resnet(
    width: int | Sequence[int],
    blocks: int,
    activation: str | Activation | Callable[[Array], Array] = "relu",
    scheme: SchemeLike = "gaussian",
    *,
    order: str = "two_layer",
    norm: str | None = None,
    norm_at: str = "pre",
    branch: float | Sequence[float] = 1.0,
    skip: float | Sequence[float] = 1.0,
    n_in: int | None = None,
    n_out: int | None = None,
    size: Sequence[int] | None = None,
    kernel: int | Sequence[int] | None = None,
    strides: int | Sequence[int] = 1,
    padding: str = "same",
    sigma_w: float | None = None,
    sigma_b: float | None = None,
    bias: bool = True,
    dtype: DTypeLike | None = None,
) -> Resnet:
    """Build a residual network of dense or convolutional blocks.

    A block maps the stream x to skip x + branch F(x), where F is, by `order`:

    - "two_layer": W2 phi(W1 x)
    - "post_activation": phi(W x)
    - "pre_activation": W phi(x)
    - "v2": W2 phi(W1 phi(x))

    each weight with its bias. This is not the phi(x + F(x)) of the first ResNet paper.
    Stem and head are linear: the stream starts as W x + b, and the head reads the
    stream itself, of images its mean over pixels.

    The multiplier of a branch is a trained leaf of the parameters, which some schemes
    set (rezero, skipinit). That of a skip is a constant, times that of the scheme, if
    it has one (deep_norm). dks and tat replace the activation, and need skip² + branch²
    = 1 in every block.

    Block i has the points "blocks/first[i]" and "blocks/second[i]", and the sum of
    branch and skip is "blocks/second[i]:sum". If blocks differ, equal blocks in a row
    form a group, and the names have its number: "blocks/0/first[i]", "blocks/1/first".

    Args:
        width: The units or channels of the stream: one number for all blocks, or one
            per block, for the stream behind it. A block that changes the width has a
            linear projection on its skip.
        blocks: The number of blocks.
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        scheme: A scheme's name, an initializer's that needs no arguments, an
            initializer, or a `Scheme`.
        order: The branch, as above.
        norm: One norm a block: "layer" or "rms" over the channels of each position,
            "batch" over examples and positions, or None.
        norm_at: "pre": F(norm(x)). "post": norm(skip x + branch F(x)). Without a
            norm it is not given.
        branch: Multiplier at which branches start, one for all or one per block.
        skip: Multiplier of skips, one for all or one per block.
        n_in: Inputs of a stem before the first block. None: no stem, x is the stream.
        n_out: Outputs of a head behind the last block. None: no head.
        size: Size of the image, (n,) or (h, w). None: x is a vector.
        kernel: The side of all windows, or one per axis. With `size` only, and then 3
            unless given.
        strides: Pixels from one window of a block's first layer to the next, one for
            all or one per block. With more than 1 the skip is a projection, by a kernel
            of one pixel with the same strides. With `size` only.
        padding: "same" or "circular", as in `cnn`. With `size` only.
        sigma_w: The scale of the weights, if the scheme leaves it to the user. None
            takes the scale that is critical for the activation.
        sigma_b: The standard deviation of the biases, likewise. None is 0.
        bias: Whether layers have biases.
        dtype: The dtype of the parameters and of the arithmetic. None is JAX's default.

    Returns:
        A network. With batch norm its parameters are {"params": ..., "batch_stats":
        ...}, the statistics start as mean 0 and variance 1, and `net.training` uses
        those of the batch.

    Raises:
        InputError: An argument is not of this form.
        NotDefined: The scheme has no meaning for one of the layers.

    Example:
        >>> net = networks.resnet(8, 3, n_in=4, n_out=2, bias=False)
        >>> jax.tree.map(jnp.shape, net.init(jax.random.key(0)))["blocks"]["first"]
        {'w': (3, 8, 8)}
        >>> [branch.joins for branch in net.anatomy.branches][-1]
        'blocks/second[2]:sum'

        Two stages of images, of 16 and 8 pixels a side:

        >>> net = networks.resnet(
        ...     [4, 4, 8, 8], 4, n_in=3, size=(16, 16), strides=[1, 1, 2, 1]
        ... )
        >>> net.anatomy.shape("output").shape
        (8, 8, 8)
    """
    num_blocks = checks.integer("blocks", blocks, low=1)
    checks.one_of("order", order, ORDERS)
    if norm is not None:
        checks.one_of("norm", norm, _norms.NORMS)
    checks.one_of("norm_at", norm_at, ("pre", "post"))
    if norm is None and norm_at == "post":
        raise InputError(
            'norm_at="post" without a norm says nothing; write norm="layer", "rms" or '
            '"batch" as well, or leave norm_at out.'
        )
    for name, value in (("n_in", n_in), ("n_out", n_out)):
        if value is not None:
            checks.integer(name, value, low=1)
    phi = _arguments.elementwise(activation)
    _arguments.require_bias(sigma_b, bias=bias)
    branches = _spatial.one_each(
        "branch", branch, num_blocks, of="block", check=_arguments.number
    )
    skips = _spatial.one_each(
        "skip", skip, num_blocks, of="block", check=_arguments.number
    )
    runs = _runs(
        _spatial.one_each(
            "width", width, num_blocks, of="block", check=_arguments.positive
        ),
        size,
        kernel,
        strides=_spatial.one_each(
            "strides", strides, num_blocks, of="block", check=_arguments.positive
        ),
        padding=padding,
    )
    phi, chosen = _transformed(scheme, phi, order, branches=branches, skips=skips)
    function = ResnetFunction(
        runs=runs,
        skips=skips,
        activation=phi,
        order=order,
        norm=norm,
        norm_at=norm_at,
        n_in=n_in,
        n_out=n_out,
    )
    kind = checks.float_dtype(dtype)
    net = Resnet(
        function=_with_skips(function, skips, chosen),
        example=jax.ShapeDtypeStruct(function.input_shape, kind),
        scheme=chosen,
        activation=phi,
        sigma_w=sigma_w,
        sigma_b=sigma_b,
        branch=branches,
        skip=skips,
        bias=bool(bias),
        dtype=kind,
    )
    # A scheme that does not fit these layers says so now, and not at the first draw.
    net.require_assignment()
    return net


def _runs(
    widths: Sequence[int],
    size: Sequence[int] | None,
    kernel: int | Sequence[int] | None,
    *,
    strides: Sequence[int],
    padding: str,
) -> tuple[Run, ...]:
    """Compute the shapes of all blocks, and group equal blocks in a row.

    Args:
        widths: The units or channels of the stream behind each block.
        size: The size of the image, or None for dense blocks.
        kernel: The side of all windows, or one number per axis.
        strides: The stride of each block, the same along all axes.
        padding: "same" or "circular".

    Raises:
        InputError: A kernel or strides without a size, or an unknown padding.
    """
    checks.one_of("padding", padding, _PADDINGS)
    if size is None:
        if kernel is not None or max(strides) > 1:
            raise InputError(
                "size=None with a kernel or strides; write the size of the image, (n,) "
                "or (h, w), or leave them out for dense blocks."
            )
        # A dense layer is treated as a convolution over no axes.
        image: Size = ()
        window: Size = ()
    else:
        image = _spatial.checked_size(size)
        if kernel is None:
            kernel = 3
        window = _spatial.one_per_axis("kernel", kernel, len(image))
    blocks = []
    # The stream starts with the width of the first block, so that this block needs no
    # projection to another width.
    n_in = widths[0]
    for n_out, stride in zip(widths, strides, strict=True):
        steps = (stride,) * len(image)
        block = Block(n_in, n_out, image, window=window, strides=steps, padding=padding)
        blocks.append(block)
        n_in = n_out
        image = block.size_out
    runs = []
    for block, equal in itertools.groupby(blocks):
        start = sum(run.length for run in runs)
        runs.append(Run(block, start, length=len(list(equal))))
    return tuple(runs)
