"""Mistakes at initialization lock weights for all of training, as `certify` says.

Our own figure, of kinds of mistakes that public code holds. The facts that it counts on
are derived by hand; no paper's figure is reproduced.

Networks learn digits by Adam in float64, from fresh noise on every pixel, so that
pixels that are always blank move too. Certified from the initial weights alone, and
counted in the updates at the end: how many slices of each weight differ (up to sign),
which share of its entries never moves, and its rank. Equal heads stay equal: of 4 there
are 3. With Q = K = 0 attention is uniform for ever: both gradients carry a factor of
the other matrix. A CNN whose weights are all 0.05 has one channel. Behind two zero
layers in a row no weight moves, and the loss stays above the entropy of the labels, as
that of any output that does not see its input.

Two habits that look alike are certified clear, and counted so: blocks that are copies
of one another (deep copies of one layer, as a common encoder makes them), because they
read different inputs, and one zero layer at the output. Clear means that all entries of
a weight move, in slices that differ and at full rank. It does not mean that the habit
costs nothing: losses are those of one draw and say little, and after 500 steps that of
copied blocks is as high as that of equal heads.

Left: loss against steps, a running mean. Middle: share of the entries whose slices
differ. Right: rank of the updates. Full: 500 steps.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray
from jaxtyping import Array, Float, Int

import isometry
from isometry import data as datasets
from isometry import networks
from isometry._internal.types import Key, Params
from paper_figs import _draws, _style
from paper_figs._check import Compared, largest, settled, within
from paper_figs._ensembles import marked_heights, three_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESETS = {
    "full": {
        "steps": 500,
        "batch": 32,
    },
    "smoke": {
        "steps": 60,
        "batch": 16,
    },
}

SIDE = 8
CLASSES = 10
HEADS = 4
CHANNELS = 8
WIDTH = 16
RATE = 1e-2
CONSTANT = 0.05
# Noise on standardized pixels. Without it, pixels that are blank in all images would
# not move, or as one.
NOISE = 0.3

# Slices closer than this, over the largest entry of the update, are the same. Rounding
# of 500 steps leaves less than 1e-7, and slices that are free differ by more than 1e-2.
SAME = 1e-5
# Singular values below this share of the largest count as zero, likewise.
ZERO = 1e-7

# The most that the loss of an output without inputs lies above the entropy of the
# labels. Under Adam its biases fluctuate by about √RATE, which costs RATE/2 or less;
# in the first steps they are still 0, which costs 1e-3 as classes are almost balanced.
ABOVE_ENTROPY = 0.02

# Weights of each network, without biases and norms, by hand: Q, K, V, the output of the
# attention and two layers behind it in each of two blocks, and a head; two convolutions
# and a head; four layers.
NUM_WEIGHTS = {"transformer": 2 * 6 + 1, "cnn": 2 + 1, "perceptron": 4}

# Steps of the running mean that is drawn.
SMOOTHED = 20

_Function: TypeAlias = Callable[[Params, Array], Array]
_Images: TypeAlias = Float[np.ndarray, "images 64"]
_Pixels: TypeAlias = Float[np.ndarray, "steps batch 64"]
_Batches: TypeAlias = Int[np.ndarray, "steps batch"]
_Labels: TypeAlias = Int[np.ndarray, " images"]
# A weight or its update: all axes but the last are of inputs.
_Weight: TypeAlias = Float[np.ndarray, "..."]
# Parameters and the moments of Adam.
_State: TypeAlias = tuple[Params, optax.OptState]


class _Expected(NamedTuple):
    """What is derived by hand of one weight; of others nothing is predicted.

    Attributes:
        distinct: The number of distinct slices along each axis.
        rank: The rank of its updates.
    """

    distinct: tuple[int, ...]
    rank: int


class _Kind(NamedTuple):
    """A network that is drawn.

    Attributes:
        f: The map (params, x) -> logits.
        shape: The shape of one x.
        params: Its parameters, in float32.
    """

    f: _Function
    shape: tuple[int, ...]
    params: Params


class _Run(NamedTuple):
    """A case: a network with a mistake, or the correct one.

    Attributes:
        kind: The name of the network.
        change: A function from the parameters as drawn to those that are trained. It
            makes the mistake.
        expected: What is predicted, by the ending of a weight's name.
    """

    kind: str
    change: Callable[[Params], Params]
    expected: Mapping[str, _Expected]


class _Measured(NamedTuple):
    """Numbers of one weight: certified, or counted in its update.

    Attributes:
        free: The product over axes of the slices that differ, over all entries.
        never: The share of entries that never move.
        rank: The rank of the update, over that of a generic matrix.
    """

    free: float
    never: float
    rank: float


def _same(params: Params) -> Params:
    """Return the parameters as they are drawn."""
    return params


def _equal_heads(params: Params) -> Params:
    """Return a transformer whose second head is a copy of the first, in each block."""
    attention = params["body"]["blocks"]["attention"]
    changed = dict(attention)
    for name in ("query", "key", "value"):
        layer = attention[name]
        w = layer["w"]
        # Axes are blocks, features, heads, entries of a head.
        first = w[:, :, 0]
        w = w.at[:, :, 1].set(first)
        changed[name] = {**layer, "w": w}
    layer = attention["output"]
    w = layer["w"]
    # Axes are blocks, heads, entries of a head, features.
    first = w[:, 0]
    w = w.at[:, 1].set(first)
    changed["output"] = {**layer, "w": w}
    return _with_attention(params, changed)


def _no_query_and_key(params: Params) -> Params:
    """Return a transformer with Q = K = 0."""
    attention = params["body"]["blocks"]["attention"]
    changed = dict(attention)
    for name in ("query", "key"):
        changed[name] = jax.tree.map(jnp.zeros_like, attention[name])
    return _with_attention(params, changed)


def _with_attention(params: Params, attention: Params) -> Params:
    """Return a transformer with other parameters of its attention."""
    blocks = {**params["body"]["blocks"], "attention": attention}
    return {**params, "body": {**params["body"], "blocks": blocks}}


def _equal_blocks(params: Params) -> Params:
    """Return a transformer all whose blocks are copies of the first."""
    body = params["body"]

    def copied(leaf: Array) -> Array:
        return jnp.broadcast_to(leaf[:1], leaf.shape)

    blocks = jax.tree.map(copied, body["blocks"])
    return {**params, "body": {**body, "blocks": blocks}}


def _constant(params: Params) -> Params:
    """Return parameters that are all the same number."""
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, CONSTANT), params)


def _zero_head(params: Params) -> Params:
    """Return a perceptron whose last layer is zero."""
    *hidden, last = params["layers"]
    zeros = jax.tree.map(jnp.zeros_like, last)
    return {**params, "layers": (*hidden, zeros)}


def _zero_twice(params: Params) -> Params:
    """Return a perceptron whose last two layers are zero."""
    first, stacked, last = _zero_head(params)["layers"]
    # The last of the hidden layers, which are stacked.
    w = stacked["w"].at[-1].set(0.0)
    stacked = {**stacked, "w": w}
    return {**params, "layers": (first, stacked, last)}


def _equal_heads_expected() -> dict[str, _Expected]:
    """Return the claim: one head less is left."""
    size = SIDE // HEADS
    heads = HEADS - 1
    reading = _Expected(distinct=(SIDE, heads, size), rank=size)
    writing = _Expected(distinct=(heads, size, SIDE), rank=heads * size)
    return {r"(query|key|value)\[\d\]": reading, r"attention/output\[\d\]": writing}


def _constant_expected() -> dict[str, _Expected]:
    """Return the claim: one channel is left, whose taps differ."""
    taps = _Expected(distinct=(3, 3, 1, 1), rank=1)
    head = _Expected(distinct=(1, CLASSES), rank=1)
    return {r"layers/.*": taps, r"head": head}


_NOTHING = _Expected(distinct=(0,), rank=0)

RUNS = {
    "transformer": _Run("transformer", _same, {}),
    "copied blocks": _Run("transformer", _equal_blocks, {}),
    "equal heads": _Run("transformer", _equal_heads, _equal_heads_expected()),
    "Q = K = 0": _Run(
        "transformer", _no_query_and_key, {r"(query|key)\[\d\]": _NOTHING}
    ),
    "CNN": _Run("cnn", _same, {}),
    "constant CNN": _Run("cnn", _constant, _constant_expected()),
    "zero head": _Run("perceptron", _zero_head, {}),
    "zero head twice": _Run("perceptron", _zero_twice, {r".*": _NOTHING}),
}


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Certify all networks, train them, and count in their updates.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        `certified`, `counted` and `law_expected` over (run, layer, number), NaN beyond
        the layers of a network; `departure` over run, of slices that are claimed to be
        equal; `loss` over (run, step); `final`, the loss on all images; `entropy`, that
        of the labels.
    """
    size = PRESETS[preset]
    images, labels = _images()
    # One draw of each network: what is locked does not depend on the draw.
    kinds = {
        "transformer": _transformer(jax.random.fold_in(key, 0)),
        "cnn": _cnn(jax.random.fold_in(key, 1)),
        "perceptron": _perceptron(jax.random.fold_in(key, 2)),
    }
    trainers = {name: _trainer(kind, labels) for name, kind in kinds.items()}
    batches = _batches(key, len(images), size)
    # Where blank pixels stay blank there is no gradient; noise mends that.
    noisy = images[batches] + NOISE * _noise(key, batches.shape)
    trained = []
    for run in RUNS.values():
        kind = kinds[run.kind]
        params = run.change(kind.params)
        train = functools.partial(trainers[run.kind], batches=batches, noisy=noisy)
        digits = (images, labels)
        trained.append(_trained(run, kind, params, train=train, digits=digits))
    certified = [one.certified for one in trained]
    counted = [one.counted for one in trained]
    expected = [one.expected for one in trained]
    shares = np.bincount(labels) / len(labels)
    entropy = -np.sum(shares * np.log(shares))
    by_layer = ("run", "layer", "number")
    return xarray.Dataset(
        {
            "certified": (by_layer, _padded(certified)),
            "counted": (by_layer, _padded(counted)),
            "law_expected": (by_layer, _padded(expected)),
            "departure": ("run", [one.departure for one in trained]),
            "loss": (("run", "step"), [one.loss for one in trained]),
            "final": ("run", [one.final for one in trained]),
            "entropy": float(entropy),
        },
        {
            "run": list(RUNS),
            "number": list(_Measured._fields),
            "step": np.arange(1, size["steps"] + 1),
        },
    )


class _Trained(NamedTuple):
    """A network after training.

    Attributes:
        certified: What is certified of each weight.
        counted: What is counted in its update.
        expected: What is claimed of it.
        departure: By how much slices that are claimed to be equal have parted.
        loss: At each step.
        final: The loss on all images.
    """

    certified: list[_Measured]
    counted: list[_Measured]
    expected: list[_Measured]
    departure: float
    loss: Float[np.ndarray, " steps"]
    final: float


def _trained(
    run: _Run,
    kind: _Kind,
    params: Params,
    *,
    train: Callable[[Params], tuple[Params, Array]],
    digits: tuple[_Images, _Labels],
) -> _Trained:
    """Certify a network, train it, and count in its updates."""
    images, labels = digits
    cert = isometry.certify(kind.f, params, jnp.zeros(kind.shape))
    with jax.enable_x64(True):
        start = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        end, loss = train(start)
        xs = jnp.asarray(images.reshape(-1, *kind.shape))
        of_images = jax.vmap(kind.f, in_axes=(None, 0))
        outputs = of_images(end, xs)
        last = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    updates, claims, expected = [], [], []
    for layer in cert.layers:
        updates.append(_weight(end, layer) - _weight(start, layer))
        claim = _claim(run, layer)
        claims.append(claim)
        expected.append(_expected(claim, layer))
    return _Trained(
        certified=[_certified(layer) for layer in cert.layers],
        counted=[_counted(update) for update in updates],
        expected=expected,
        departure=_departure(updates, claims),
        loss=np.asarray(loss),
        # In NumPy, because outside of the 64-bit mode JAX would round to float32.
        final=float(np.asarray(last).mean()),
    )


def _padded(
    table: list[list[_Measured]],
) -> Float[np.ndarray, "run layer number"]:
    """Return one array of all networks, NaN beyond the layers of each."""
    longest = max(len(rows) for rows in table)
    num_fields = len(_Measured._fields)
    padded = np.full((len(table), longest, num_fields), np.nan)
    for i, rows in enumerate(table):
        padded[i, : len(rows)] = rows
    return padded


def _images() -> tuple[_Images, _Labels]:
    """Return digits of mean 0 and variance 1, and their labels."""
    xs, labels = datasets.digits()
    xs = np.asarray(xs, np.float64)
    images = (xs - xs.mean()) / xs.std()
    return images, np.asarray(labels)


def _transformer(key: Key) -> _Kind:
    """Draw a transformer whose tokens are the rows of an image."""
    key_body, key_head = jax.random.split(key)
    net = networks.transformer(
        SIDE,
        blocks=2,
        heads=HEADS,
        mlp=2,
        length=SIDE,
        causal=False,
        positions="learned",
        scheme="xavier",
    )
    head = jax.random.normal(key_head, (SIDE, CLASSES)) / SIDE**0.5

    def f(params: Params, x: Float[Array, "rows columns"]) -> Float[Array, " classes"]:
        rows = net(params["body"], x)
        return rows.mean(axis=0) @ params["head"]

    params = {"body": net.init(key_body), "head": head}
    return _Kind(f, (SIDE, SIDE), params)


def _cnn(key: Key) -> _Kind:
    """Draw a CNN."""
    net = networks.cnn(
        [1, CHANNELS, CHANNELS],
        (SIDE, SIDE),
        activation="tanh",
        scheme="gaussian",
        head=CLASSES,
    )
    return _Kind(net, (SIDE, SIDE, 1), net.init(key))


def _perceptron(key: Key) -> _Kind:
    """Draw a perceptron."""
    widths = [SIDE**2, WIDTH, WIDTH, WIDTH, CLASSES]
    net = networks.mlp(widths, "tanh", "gaussian")
    return _Kind(net, (SIDE**2,), net.init(key))


def _batches(key: Key, num_images: int, size: dict) -> _Batches:
    """Return the images of each step."""
    shape = (size["steps"], size["batch"])
    batches = jax.random.randint(key, shape, 0, maxval=num_images)
    return np.asarray(batches)


def _noise(key: Key, shape: tuple[int, ...]) -> _Pixels:
    """Return the noise of all pixels of all steps."""
    rng = _draws.generator(key)
    return rng.standard_normal((*shape, SIDE**2))


def _trainer(kind: _Kind, labels: _Labels) -> Callable[..., tuple]:
    """Return a compiled function from parameters and batches to the end and losses."""
    adam = optax.adam(RATE)

    def loss(
        params: Params,
        xs: Float[Array, "batch ..."],
        chosen: Int[Array, " batch"],
    ) -> Float[Array, ""]:
        of_batch = jax.vmap(kind.f, in_axes=(None, 0))
        outputs = of_batch(params, xs)
        return optax.softmax_cross_entropy_with_integer_labels(outputs, chosen).mean()

    def step(
        state: _State, batch: tuple[Array, Array]
    ) -> tuple[_State, Float[Array, ""]]:
        params, moments = state
        value, gradient = jax.value_and_grad(loss)(params, *batch)
        change, moments = adam.update(gradient, moments, params)
        return (optax.apply_updates(params, change), moments), value

    @jax.jit
    def train(
        params: Params,
        chosen: Int[Array, "steps batch"],
        xs: Float[Array, "..."],
    ) -> tuple[Params, Float[Array, " steps"]]:
        state = (params, adam.init(params))
        batches = (xs, chosen)
        (last, _), losses = jax.lax.scan(step, state, batches)
        return last, losses

    def on_digits(
        params: Params,
        batches: _Batches,
        noisy: _Pixels,
    ) -> tuple[Params, Float[Array, " steps"]]:
        xs = noisy.reshape(*batches.shape, *kind.shape)
        return train(params, labels[batches], xs)

    return on_digits


def _weight(params: Params, layer: isometry.LayerLock) -> _Weight:
    """Return the weight that a row of a certificate is about."""
    name, _, index = layer.name.removesuffix("]").partition("[")
    leaf = params
    for part in name.split("/"):
        if isinstance(leaf, tuple | list):
            leaf = leaf[int(part)]
        else:
            leaf = leaf[part]
    # A head is a matrix of its own, without biases.
    if isinstance(leaf, dict):
        leaf = leaf["w"]
    w = np.asarray(leaf)
    # Stacked layers have a first axis over layers, also if there is one alone.
    if w.ndim > len(layer.shape):
        return w[int(index or 0)]
    return w


def _full_rank(shape: tuple[int, ...]) -> int:
    """Return the rank of a generic matrix from all axes but the last to the last."""
    num_inputs = int(np.prod(shape[:-1]))
    return min(num_inputs, shape[-1])


def _numbers(
    shape: tuple[int, ...],
    distinct: tuple[int, ...],
    *,
    never: float,
    rank: int,
) -> _Measured:
    """Return the numbers of a weight, as shares of those of a free one."""
    return _Measured(
        free=float(np.prod(distinct) / np.prod(shape)),
        never=never,
        rank=rank / _full_rank(shape),
    )


def _certified(layer: isometry.LayerLock) -> _Measured:
    """Return what the certificate says of a weight."""
    return _numbers(
        layer.shape,
        layer.distinct,
        never=layer.never_moves,
        rank=layer.rank_bound,
    )


def _claim(run: _Run, layer: isometry.LayerLock) -> _Expected:
    """Return what is derived by hand of a weight."""
    for pattern, expected in run.expected.items():
        if re.search(f"(^|/){pattern}$", layer.name):
            return expected
    return _Expected(distinct=layer.shape, rank=_full_rank(layer.shape))


def _expected(claim: _Expected, layer: isometry.LayerLock) -> _Measured:
    """Return the numbers that are claimed of a weight."""
    never = float(claim.rank == 0)
    return _numbers(layer.shape, claim.distinct, never=never, rank=claim.rank)


def _counted(update: _Weight) -> _Measured:
    """Return the numbers of a weight as training has moved it."""
    if not update.any():
        return _numbers(update.shape, (0,), never=1.0, rank=0)
    distinct = []
    for axis, length in enumerate(update.shape):
        along = np.moveaxis(update, axis, 0)
        slices = along.reshape(length, -1)
        distinct.append(len(_classes(slices)))
    matrix = update.reshape(-1, update.shape[-1])
    values = np.linalg.svd(matrix, compute_uv=False)
    is_nonzero = values > ZERO * values[0]
    rank = int(is_nonzero.sum())
    never = float(np.mean(update == 0))
    return _numbers(update.shape, tuple(distinct), never=never, rank=rank)


def _classes(slices: Float[np.ndarray, "slices entries"]) -> list[int]:
    """Return one slice of each class that is equal up to sign and rounding."""
    scale = SAME * np.abs(slices).max()
    members: list[int] = []
    for i, one in enumerate(slices):
        if np.abs(one).max() <= scale:
            continue
        others = slices[members]
        same = np.abs(others - one).max(axis=1, initial=0.0)
        opposite = np.abs(others + one).max(axis=1, initial=0.0)
        nearest = np.minimum(same, opposite)
        if not (nearest <= scale).any():
            members.append(i)
    return members


def _departure(updates: list[_Weight], claims: list[_Expected]) -> float:
    """Return the largest difference of slices that should be equal.

    It is relative to the largest entry of their update, and NaN if an update is.
    """
    worst = [0.0]
    for update, claim in zip(updates, claims, strict=True):
        # An update that is zero has no scale.
        if claim.rank == 0:
            continue
        scale = np.abs(update).max()
        for axis, num_distinct in enumerate(claim.distinct):
            # If slices along an axis repeat, its first two are among them.
            if num_distinct < update.shape[axis]:
                first = np.take(update, 0, axis)
                second = np.take(update, 1, axis)
                difference = np.abs(first - second).max()
                worst.append(float(difference / scale))
    return float(np.max(worst))


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare certificates and updates with what is derived by hand.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    rows = []
    for name, run in RUNS.items():
        rows += _rows_of_run(data.sel(run=name), name, NUM_WEIGHTS[run.kind])
    above = float(data.final.sel(run="zero head twice") - data.entropy)
    parted = largest(data.departure)
    rows += [
        # Counts do not tell which slices are equal. This does: a pair of other heads
        # that are equal leaves all counts as they are.
        Compared(
            "the two heads or channels made equal: parted by, of the largest entry",
            parted,
            high=SAME,
        ),
        # Gibbs: no constant prediction is better than the frequencies.
        Compared(
            "zero head twice: loss above the entropy of the labels",
            above,
            low=0.0,
            high=ABOVE_ENTROPY,
        ),
    ]
    learned = data.final.drop_sel(run="zero head twice")
    rows += [
        Compared(f"{run}: loss at the end", float(learned.sel(run=run)))
        for run in learned.run.values
    ]
    return settled(rows)


def _rows_of_run(of_run: xarray.Dataset, run: str, num_weights: int) -> list[Compared]:
    """Compare what is certified and counted of one network with the claim."""
    is_layer = of_run.law_expected.notnull()
    # A weight that the certificate omits is in none of the other numbers.
    num_certified = int(is_layer.all("number").sum())
    what = f"{run}: weights certified"
    rows = [Compared(what, num_certified, low=num_weights, high=num_weights)]
    for name in ("certified", "counted"):
        off = abs(of_run[name] - of_run.law_expected)
        # Beyond the layers of a network nothing is compared; in them NaN stays NaN.
        worst = largest(off.where(is_layer, 0.0))
        what = f"{run}: {name}, largest difference from the claim"
        # Shares are ratios of whole numbers, so that equal ones are equal.
        rows.append(within(what, worst, 0.0, tolerance=1e-12))
    return rows


def plot(data: xarray.Dataset) -> "Figure":
    """Draw losses, and what is certified and counted of each weight.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, left, middle, right = three_panels(height=2.7, width=2.7)
    _draw_losses(left, data)
    _draw_shares(middle, data, "free")
    _draw_shares(right, data, "rank")
    middle.set(xlabel="share of entries in slices that differ", title="Slices")
    right.set(xlabel="rank of the update, of the full rank", title="Ranks", yticks=[])
    middle.set_yticks(range(len(RUNS)), list(RUNS))
    handles, labels = middle.get_legend_handles_labels()
    # Below the weights of the equal heads nothing is drawn between 0.2 and 0.9.
    right.legend(handles, labels, loc="center left", bbox_to_anchor=(0.15, 0.45))
    _style.legend(figure, left, ncols=len(RUNS))
    return figure


def _colour(i: int) -> str:
    """Return the colour of the i-th network: there is one colour less than networks."""
    return (*_style.COLOURS, "0.55")[i]


def _draw_losses(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the running mean of the loss against the step."""
    weights = np.ones(SMOOTHED) / SMOOTHED
    step = data.step[SMOOTHED - 1 :]
    for i, (name, run) in enumerate(RUNS.items()):
        loss = data.loss.sel(run=name).values
        smooth = np.convolve(weights, loss, mode="valid")
        style = {"label": name, "color": _colour(i), "ls": "-"}
        if run.expected:
            style["ls"] = "--"
        _style.line(ax, step, y=smooth, i=i, **style)
    entropy = float(data.entropy)
    ax.axhline(entropy, color="0.5", lw=0.8, ls=":", zorder=1)
    ax.set(
        xlabel="step of Adam",
        ylabel="loss (dotted: entropy of the labels)",
        title="Digits (dashed: locked)",
        yscale="log",
    )
    marked_heights(ax, (0.1, 0.2, 0.5, 1.0, 2.0))


def _draw_shares(ax: "Axes", data: xarray.Dataset, number: str) -> None:
    """Draw a number of every weight, as certified and as counted."""
    # Rings around the counts: certified from the initial weights alone.
    ring = {"marker": "o", "ls": "none", "mfc": "none", "mew": 0.6}
    for i, run in enumerate(RUNS):
        of_run = data.sel(run=run, number=number).dropna("layer")
        # A line of marks for each network, layers from top to bottom.
        count = of_run.sizes["layer"]
        y = i + np.linspace(-0.32, 0.32, count)
        colour = _colour(i)
        ax.plot(of_run.counted, y, ".", ms=3, color=colour)
        ax.plot(of_run.certified, y, ms=4.5, color=colour, **ring)
    ax.plot([], [], color="0.3", label="certified, a weight", **ring)
    ax.plot([], [], ".", color="0.3", label="counted after Adam")
    # The first network is at the top.
    bottom = len(RUNS) - 0.4
    ax.set(xlim=(-0.06, 1.06), ylim=(bottom, -0.6))
