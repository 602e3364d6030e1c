"""Convolutional networks: z_1 = W_1 * x + b_1, z_l = W_l * phi(z_{l-1}) + b_l."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array

from isometry import schemes
from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry._internal.types import DTypeLike, Key, Params
from isometry.activations import Activation
from isometry.linalg._convolution_values import PADDINGS
from isometry.networks import _arguments, _cnn_law, _cnn_signals, _spatial
from isometry.networks._network import Built
from isometry.networks._spatial import Image, Size
from isometry.records import Signals
from isometry.schemes._registry import SchemeLike
from isometry.schemes._shaping import untransformed
from isometry.theory import Law, Moments

_POOLINGS = ("average", "max")
_GLOBAL = "global"

# One number for all spatial axes, or one for each.
Sides: TypeAlias = int | Sequence[int]


@dataclass(frozen=True)
class Convolution:
    """A layer without its weights: pools an image, convolves it and adds a bias.

    Attributes:
        size: The number of pixels of the image along each axis, before pooling.
        pooling: How the image is pooled first, over windows of `_spatial.POOL` pixels
            along each axis: "average", "max" or None.
        window: The number of taps of the kernel along each axis.
        strides: The stride along each axis.
        groups: The number of groups of channels.
        n_in: The channels of the image, of all groups.
        n_out: The channels of the result, of all groups.
        padding: "circular", "same" or "valid".
    """

    size: Size
    pooling: str | None
    window: Size
    strides: Size
    groups: int
    n_in: int
    n_out: int
    padding: str

    @property
    def kernel_shape(self) -> tuple[int, ...]:
        """Shape of the weights, in JAX's layout."""
        return (*self.window, self.n_in // self.groups, self.n_out)

    @property
    def size_read(self) -> Size:
        """The size of the image after pooling."""
        if self.pooling is None:
            return self.size
        return tuple(side // _spatial.POOL for side in self.size)

    @property
    def size_out(self) -> Size:
        """The size of the image that the layer returns."""
        return _spatial.size_after(
            self.size_read, self.window, self.strides, padding=self.padding
        )

    def __call__(self, leaves: dict[str, Array], h: Image) -> Image:
        """Return the pre-activation of an image: pooled, convolved, with the bias.

        Args:
            leaves: "w" of shape `kernel_shape`, and "b" of shape (n_out,) if the layer
                has biases.
            h: The image, of shape (*size, n_in).
        """
        if self.pooling is not None:
            h = _spatial.pool(h, self.pooling)
        z = _spatial.convolve(
            leaves["w"],
            h,
            strides=self.strides,
            padding=self.padding,
            groups=self.groups,
        )
        return _spatial.plus_bias(z, leaves)


@dataclass(frozen=True)
class Run:
    """Equal layers in a row. If there are several, their leaves are stacked.

    Attributes:
        layer: The layer that all of them equal.
        length: The number of layers.
    """

    layer: Convolution
    length: int


@dataclass(frozen=True)
class CnnFunction:
    """The map (params, x) -> output of a convolutional network.

    Equal layers in a row are scanned, so that compile time does not grow with depth.

    Attributes:
        runs: The convolutions, from first to last.
        activation: The activation between two layers.
        head: The number of outputs of the dense layer that reads the mean over pixels.
            None if there is no such layer.
        is_averaged: Whether the output is the mean of the last pre-activation over
            pixels. Only without a head, which reads such a mean itself.
    """

    runs: tuple[Run, ...]
    activation: Activation
    head: int | None
    is_averaged: bool = False

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        first = self.runs[0].layer
        return (*first.size, first.n_in)

    @property
    def num_activations(self) -> int:
        """The number of activations from the input to the output."""
        num_layers = sum(run.length for run in self.runs)
        has_head = self.head is not None
        return num_layers - 1 + has_head

    @public("cnn")
    def __call__(self, params: Params, x: Array) -> Array:
        stacks = params["layers"]
        x = _arguments.one_example(
            x,
            self.input_shape,
            stacks[0]["w"].dtype,
            kind="image",
            layout=", channels last",
        )
        # The first layer reads x itself, without an activation.
        z = self.runs[0].layer(stacks[0], x)
        for run, leaves in zip(self.runs[1:], stacks[1:], strict=True):
            z = self._through(run, leaves, z)
        if self.is_averaged:
            return _spatial.pixel_mean(z)
        if self.head is None:
            return z
        h = _spatial.pixel_mean(self.activation(z))
        return _spatial.plus_bias(h @ params["head"]["w"], params["head"])

    def _through(self, run: Run, leaves: dict[str, Array], z: Image) -> Image:
        """Return the pre-activation behind a run, given the pre-activation before it.

        Args:
            run: The layers.
            leaves: Their weights and biases, stacked if there are several layers.
            z: The pre-activation before the first of them.
        """

        # The scan carries pre-activations. If it carried activations, the last layer,
        # which has no activation behind it, would need a step of its own.
        def step(z: Image, layer: dict[str, Array]) -> tuple[Image, None]:
            return run.layer(layer, self.activation(z)), None

        if run.length == 1:
            z, _ = step(z, leaves)
        else:
            z, _ = jax.lax.scan(step, z, leaves)
        return z


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Cnn(Built):
    """A convolutional network: what `cnn` returns.

    Attributes:
        function: The map (params, x) -> output alone.
        bias: Whether layers have biases.
        dtype: The dtype of the parameters.
    """

    function: CnnFunction
    bias: bool
    dtype: np.dtype

    @public("with_scheme")
    def with_scheme(
        self,
        scheme: SchemeLike,
        sigma_w: float | None = None,
        sigma_b: float | None = None,
    ) -> "Cnn":
        """Return a copy of the network that draws its weights by another scheme.

        Two schemes, dks and tat, transform the activation too. The copy starts from the
        activation that the user gave, whatever the scheme before has made of it.

        Args:
            scheme: A name, an initializer or a `Scheme`, as for `schemes.get`.
            sigma_w: The scale of the weights, if the scheme leaves it to the user. None
                takes the scale that is critical for the activation.
            sigma_b: The standard deviation of the biases, likewise. None is 0.

        Returns:
            The copy.

        Raises:
            InputError: An unknown name; a sigma for a scheme that fixes its own scale.
            NotDefined: The scheme has no meaning for a layer.
        """
        function = self.function
        original = untransformed(function.activation)
        activation, chosen = schemes.transformed(
            scheme, original, function.num_activations
        )
        redrawn = dataclasses.replace(
            self,
            function=dataclasses.replace(function, activation=activation),
            activation=activation,
            scheme=chosen,
            sigma_w=sigma_w,
            sigma_b=sigma_b,
        )
        # Refuse now, and not at the first draw, what the scheme cannot do.
        redrawn.require_assignment()
        return redrawn

    @public("law")
    def law(self, span: str, xs: ArrayLike) -> Law:
        """Predict the law of the singular values over a span, for many channels.

        With circular padding Gaussian and block-orthogonal kernels have the laws of
        dense layers, and kernels that are orthogonal as a flattened matrix a law of
        their own between the two. Strides may divide window and image. For these it is
        the law of the mean square of xs at each position, and there is none where
        positions differ so much that mean or second moment of lam change by a
        hundredth.

        Delta-orthogonal kernels map every position by itself, with any padding and
        strides: where the variance differs between positions and inputs, the law is the
        average over them, and positions that nothing reads are zeros.

        The limit is that of many channels in each group, at any number of positions. A
        window of n inputs leaves an error of order 1/n, which a span from images of few
        channels shows.

        Args:
            span: "hidden": between the first pre-activation and the last before the
                output, or "end_to_end".
            xs: Inputs along a first axis.

        Returns:
            The law.

        Raises:
            NotDefined: No law is known for the scheme; zero padding, or none, with
                kernels of several taps; pooling inside the span, or a mean over
                positions; depthwise layers; strides of kernels of several taps that do
                not divide window and image.
            InputError: An unknown span; "hidden" of fewer than three weight layers; xs
                of another shape.

        Example:
            >>> net = networks.cnn([64] * 6, (8,), scheme="gaussian", sigma_w=1.1)
            >>> xs = jnp.ones((1, 8, 64))
            >>> law = net.law("hidden", xs)
            >>> law.pairs, round(law.moment(1), 4)
            (3, 0.2969)
        """
        checks.on_host("xs", xs)
        checks.examples("xs", xs, self.function.input_shape)
        return _cnn_law.law(self, span, xs)

    @public("moments")
    def moments(self, span: str, xs: ArrayLike) -> Moments:
        """Predict mean and variance of lam = s² over a span, for many channels.

        For Gaussian kernels they follow position by position, with any padding and
        strides, and for others from the law. The mean square of xs at each position
        sets the first variances. Many channels are those of the images too: a span that
        starts at them has an error of order 1/n for windows of n inputs, a third for
        one channel and three taps.

        Args:
            span: "hidden" or "end_to_end".
            xs: Inputs along a first axis.

        Returns:
            `theory.Moments`: the mean and the variance.

        Raises:
            NotDefined: They are not known: what `law` refuses, but for the padding and
                the strides of Gaussian kernels.
            InputError: As `law`.

        Example:
            >>> net = networks.cnn(
            ...     [64] * 5, (6,), activation="relu", scheme="kaiming", padding="same"
            ... )
            >>> mean, variance = net.moments("hidden", jnp.ones((1, 6, 64)))
            >>> round(mean, 4), round(variance / mean**2, 4)
            (0.8148, 4.3678)
        """
        checks.on_host("xs", xs)
        checks.examples("xs", xs, self.function.input_shape)
        return _cnn_law.moments(self, span, xs)

    @public("mean_field")
    def mean_field(self, xs: ArrayLike) -> Signals:
        """Predict what `isometry.signals` measures, for many channels.

        Variances and cosines of two inputs follow position by position, with any
        padding, from xs themselves. apjn is that of the whole network, from each point
        to the output; gradient is its mean over random losses. At the input apjn has an
        error of order 1/n for windows of n inputs: a tenth for three taps and channels.

        Where the network pools, or ends with a mean over positions, the correlations of
        all positions are followed, of all inputs together, for up to 1024 values
        (positions times inputs). Up to 128 they are integrals, and beyond, or behind
        max pooling, 16384 sampled channels: right to 1 %. For more values q and c are
        NaN behind pooling, and before it apjn, unless the derivatives do not depend on
        q (linear, ReLU, leaky ReLU, and no max pooling).

        Args:
            xs: Inputs along a first axis.

        Returns:
            The predicted signals, of shape (1, inputs, points): one row for all seeds.

        Raises:
            NotDefined: The scheme has no law; the activation jumps.
            InputError: xs of another shape.

        Example:
            >>> net = networks.cnn([64] * 4, (8,), scheme="gaussian", sigma_w=1.1)
            >>> sig = net.mean_field(jnp.ones((1, 8, 64)))
            >>> sig.points[1], round(float(sig.at("layers/0").q[0, 0]), 4)
            ('layers/0', 1.21)
        """
        checks.on_host("xs", xs)
        checks.examples("xs", xs, self.function.input_shape)
        return _cnn_signals.mean_field(self, xs)

    @property
    def layer_activations(self) -> Mapping[str, Activation]:
        """The activation behind each layer, or in front of the last, by layer name."""
        layers = self.anatomy.layers
        # A network of one layer is linear: no activation stands next to it.
        if len(layers) == 1:
            return {}
        # All layers share one activation. The last has none behind it, and so its
        # critical scale is that of the activation which it reads.
        return {layer.name: self.function.activation for layer in layers}

    def skeleton(self, key: Key) -> Params:
        """Return the parameters with zeros in all leaves: weights and biases."""
        runs = self.function.runs
        params: dict[str, Params] = {}
        params["layers"] = tuple(map(self._leaves_of, runs))
        if self.function.head is not None:
            params["head"] = self._zeros((runs[-1].layer.n_out, self.function.head))
        return params

    def _leaves_of(self, run: Run) -> dict[str, Array]:
        """Return zeros for the weights and biases of a run."""
        if run.length == 1:
            return self._zeros(run.layer.kernel_shape)
        return self._zeros(run.layer.kernel_shape, stack=(run.length,))

    def _zeros(self, shape: Size, *, stack: Size = ()) -> dict[str, Array]:
        """Return zeros for one layer, or for a stack of layers.

        Args:
            shape: The shape of the weights of one layer.
            stack: (number of layers,); () for one layer.
        """
        leaves = {"w": jnp.zeros((*stack, *shape), self.dtype)}
        if self.bias:
            leaves["b"] = jnp.zeros((*stack, shape[-1]), self.dtype)
        return leaves

    def __repr__(self) -> str:
        layers = [run.layer for run in self.function.runs for _ in range(run.length)]
        channels = [layers[0].n_in, *(layer.n_out for layer in layers)]
        return (
            f"cnn({channels}, {layers[0].size}, "
            f"activation={self.function.activation.name!r}, "
            f"scheme={self.scheme.name!r}, padding={layers[0].padding!r}, "
            f"head={self.function.head}, sigma_w={self.sigma_w})"
        )


@public("networks.cnn")
def cnn(
    channels: Sequence[int],
    size: Sequence[int],
    kernel: int | Sequence[Sides] = 3,
    activation: str | Activation | Callable[[Array], Array] = "tanh",
    scheme: SchemeLike = "delta_orthogonal",
    *,
    padding: str = "circular",
    strides: int | Sequence[Sides] = 1,
    groups: int | Sequence[int] = 1,
    pooling: str | Sequence[str | None] | None = None,
    head: int | None = None,
    sigma_w: float | None = None,
    sigma_b: float | None = None,
    bias: bool = True,
    dtype: DTypeLike | None = None,
) -> Cnn:
    """Build a convolutional network in one or two dimensions.

    The first layer convolves x; every other one convolves the activation of the
    pre-activation before it, z_l = W_l * phi(z_{l-1}) + b_l; the last one is linear. x
    is one image (*size, c_in), channels last. With `head` the last convolution has an
    activation too, and its mean over all pixels goes through a dense layer.

    Equal layers in a row are stacked and scanned. Their points are "layers/1[0]",
    "layers/1[1]", ...; those of a single layer "layers/0"; that of the head "head".

    Args:
        channels: [c_in, hidden ..., c_out], each at least 1.
        size: Size of the image, (n,) or (h, w).
        kernel: The side of all windows; or one entry per layer, each a number or a
            tuple with one number per axis.
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        scheme: A scheme's name, an initializer's that needs no arguments, an
            initializer, or a `Scheme`.
        padding: "circular" continues the image around a circle, with (k - 1)//2 pixels
            in front and k//2 behind; "same" pads zeros as XLA does; "valid" pads
            nothing.
        strides: Pixels from one window to the next, of all layers and axes; or one
            entry per layer, each a number or a tuple with one number per axis.
        groups: The number of groups of channels that do not mix: one number for all
            layers, or one per layer. A depthwise layer has as many groups as channels.
        pooling: "average" or "max": between two convolutions, behind the activation,
            windows of 2 pixels per axis are pooled; a last row that fills no window is
            left out. None does nothing. One entry for all pairs of neighbouring layers,
            or one per pair: one fewer than layers. "global", alone or as one more entry
            at the end, is global average pooling behind the last convolution: the
            output is the mean over all pixels, of shape (c_out,).
        head: The outputs of a dense layer behind the mean over all pixels, so that
            "global" adds nothing. None: the output is the last pre-activation, an
            image; with "global" its mean over all pixels.
        sigma_w: The scale of the weights, if the scheme leaves it to the user. None
            takes the scale that is critical for the activation.
        sigma_b: The standard deviation of the biases, likewise. None is 0.
        bias: Whether layers have biases.
        dtype: The dtype of the parameters and of the arithmetic. None is JAX's default.

    Returns:
        A network whose parameters are {"layers": (layer or stack of layers, ...)},
        each {"w": (*window, in/groups, out), "b": (out,)}, and "head" if there is one.

    Raises:
        InputError: An argument is not of this form; groups do not divide the channels;
            an image becomes smaller than the window that reads it.
        NotDefined: The scheme has no meaning for one of the layers.

    Example:
        >>> net = networks.cnn([3, 8, 8, 8], (6, 6), head=10)
        >>> net.depth, net.anatomy.points[:3]
        (4, ('input', 'layers/0', 'layers/0:out'))
        >>> params = net.init(jax.random.key(0))
        >>> net(params, jnp.ones((6, 6, 3))).shape
        (10,)

        Without a dense layer, ten channels are averaged over the pixels:

        >>> net = networks.cnn([3, 8, 10], (6, 6), pooling="global")
        >>> net(net.init(jax.random.key(0)), jnp.ones((6, 6, 3))).shape
        (10,)

        Layers that do not change the image are scanned:

        >>> net = networks.cnn([4] * 5, (8,), activation="linear", sigma_w=1.0)
        >>> params = net.init(jax.random.key(0))
        >>> [layer["w"].shape for layer in params["layers"]]
        [(3, 4, 4), (2, 3, 4, 4), (3, 4, 4)]
        >>> sp = isometry.spectrum(net, params, jnp.ones((8, 4)))
        >>> bool(jnp.allclose(sp.values, 1.0, atol=1e-5))
        True
    """
    between, is_global = _split_pooling(pooling)
    layers = _layers(
        channels,
        size,
        kernel,
        padding=padding,
        strides=strides,
        groups=groups,
        pooling=between,
    )
    if head is not None:
        checks.integer("head", head, low=1)
    phi = _arguments.elementwise(activation)
    _arguments.require_bias(sigma_b, bias=bias)
    function = CnnFunction(
        _runs(layers, has_head=head is not None),
        phi,
        head=head,
        # A head reads the mean over pixels in any case.
        is_averaged=is_global and head is None,
    )
    # Some schemes put another activation in the place of this one.
    phi, chosen = schemes.transformed(scheme, phi, function.num_activations)
    function = dataclasses.replace(function, activation=phi)
    kind = checks.float_dtype(dtype)
    net = Cnn(
        function=function,
        example=jax.ShapeDtypeStruct(function.input_shape, kind),
        scheme=chosen,
        activation=phi,
        sigma_w=sigma_w,
        sigma_b=sigma_b,
        bias=_arguments.boolean("bias", bias),
        dtype=kind,
    )
    # A scheme that does not fit these layers says so now, and not at the first draw.
    net.require_assignment()
    return net


def _runs(layers: Sequence[Convolution], *, has_head: bool) -> tuple[Run, ...]:
    """Group equal layers in a row. First layer and head are runs of their own."""
    first, *others = layers
    last = []
    # Without a dense head the last convolution is the head. Schemes draw a head by
    # another rule, so it must not be a slice of a stack of hidden layers.
    if others and not has_head:
        last = [others.pop()]
    # The first layer is a run of its own: it reads x itself, others an activation.
    runs = [Run(first, length=1)]
    for layer, equal in itertools.groupby(others):
        runs.append(Run(layer, length=len(list(equal))))
    return (*runs, *(Run(layer, length=1) for layer in last))


def _layers(
    channels: Sequence[int],
    size: Sequence[int],
    kernel: int | Sequence[Sides],
    *,
    padding: str,
    strides: int | Sequence[Sides],
    groups: int | Sequence[int],
    pooling: str | Sequence[str | None] | None,
) -> list[Convolution]:
    """Return the layers that the arguments of `cnn` describe.

    Raises:
        InputError: An argument is not of the form that `cnn` says, groups do not divide
            the channels, or an image is smaller than a window.
    """
    widths = _checked_channels(channels)
    num_layers = len(widths) - 1
    image = _spatial.checked_size(size)
    # Theory holds for "circular", where every pixel sees a full window. With the other
    # two, pixels at the edges see zeros, or are left out.
    checks.one_of("padding", padding, PADDINGS)

    def sides(name: str, entry: Sides) -> Size:
        return _spatial.one_per_axis(name, entry, len(image))

    windows = _spatial.one_each("kernel", kernel, num_layers, of="layer", check=sides)
    steps = _spatial.one_each("strides", strides, num_layers, of="layer", check=sides)
    num_groups = _spatial.one_each(
        "groups", groups, num_layers, of="layer", check=_arguments.positive
    )
    # Nothing stands before the first layer that could be pooled.
    between = _spatial.one_each(
        "pooling",
        pooling,
        num_layers - 1,
        of="place between layers",
        check=_checked_pooling,
    )
    poolings = (None, *between)
    layers = []
    for i in range(num_layers):
        # Sizes of images are computed here, so that a layer whose image is too small is
        # refused before anything runs.
        layer = Convolution(
            size=image,
            pooling=poolings[i],
            window=windows[i],
            strides=steps[i],
            groups=num_groups[i],
            n_in=widths[i],
            n_out=widths[i + 1],
            padding=padding,
        )
        _refuse_impossible(layer, i)
        layers.append(layer)
        image = layer.size_out
    return layers


def _checked_channels(channels: Sequence[int]) -> list[int]:
    """Return the channels; require a sequence of two or more positive whole numbers."""
    if isinstance(channels, str) or not isinstance(channels, Sequence):
        raise InputError(
            f"channels={checks.show(channels)} is not a sequence; write "
            "[c_in, hidden ..., c_out]."
        )
    if len(channels) < 2:
        raise InputError(
            f"channels={list(channels)} has {len(channels)}; write "
            "[c_in, hidden ..., c_out]."
        )
    return [
        checks.integer(f"channels[{i}]", width, low=1)
        for i, width in enumerate(channels)
    ]


def _split_pooling(
    pooling: str | Sequence[str | None] | None,
) -> tuple[str | Sequence[str | None] | None, bool]:
    """Return the pooling between layers, and whether a global one follows the last."""
    if pooling is None or isinstance(pooling, str):
        is_global = pooling == _GLOBAL
        return (None if is_global else pooling), is_global
    # Whatever is no sequence is refused where the entries are counted.
    if isinstance(pooling, Sequence) and [*pooling[-1:]] == [_GLOBAL]:
        return pooling[:-1], True
    return pooling, False


def _checked_pooling(name: str, value: str | None) -> str | None:
    if value is None:
        return None
    # Behind the mean over all pixels nothing is left that could be convolved.
    if value == _GLOBAL:
        raise InputError(
            f"{name}='global' stands between two layers; write it alone, or as one "
            "more entry at the end."
        )
    return checks.one_of(name, value, (*_POOLINGS, _GLOBAL))


def _refuse_impossible(layer: Convolution, index: int) -> None:
    """Refuse a layer whose groups do not divide its channels, or whose image is empty.

    Args:
        layer: The layer.
        index: Its index, for messages.
    """
    # Checked here, because XLA would raise only when the network is run.
    for end, width in (("reads", layer.n_in), ("writes", layer.n_out)):
        if width % layer.groups:
            raise InputError(
                f"groups={layer.groups} does not divide the {width} channels that "
                f"layer {index} {end}; write one number of groups per layer."
            )
    if min(layer.size_read) < 1:
        raise InputError(
            f"pooling={layer.pooling!r} before layer {index} would halve an image of "
            f"size {layer.size}; write pooling one each, None where the image is small."
        )
    if min(layer.size_out) < 1:
        raise InputError(
            f"size={layer.size_read} of the image that layer {index} reads is smaller "
            f"than its window {layer.window}, and padding='valid' leaves nothing."
        )
