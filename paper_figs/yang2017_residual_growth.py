"""Behind skips gradients of tanh networks grow only as e^√L, where plain ones explode.

Yang and Schoenholz (2017), arXiv:1712.08969, section 3: blocks x' = x + F(x) without
any scale. Behind tanh the stream grows as L, so slopes fall as 1/√L, and the mean of s²
is exp((8/3) √(L/2π)) up to a power of L; behind ReLU both grow exponentially.

Left: the mean of s² of networks to depth L: blocks F = W₂ φ(W₁x) of tanh and of ReLU
(σ₁²σ₂² = 2, so 2^L), and a plain tanh network in the chaotic phase, χ^L. Lines are
theory, dotted the leading term of tanh; the mean over draws lies in its t interval.

Middle and right, which the paper does not have: branches a φ(Wx) of ReLU with a² = c/L,
the scale at which residual networks have a limit. It is not small enough for branches
with a mean: the means add up, and the mean square of the stream grows as
cosh²√(cL/π) = e^O(√L), not as the e^c that a² alone would give (dashed). One singular
value grows with it. All others keep the law of blocks free of each other, whose upper
edge the second largest approaches from below, as N^(−2/3). The line of the largest is
its value along the means, a lower bound that is reached far above the edge: at L = 8,
where it is only 1.6 times the edge, networks are 13 ± 4 % above.

Marks: means over draws with two standard errors.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import linalg

import isometry
from isometry import networks, theory
from isometry._internal.types import Key
from isometry.measure._spans import Span
from isometry.networks import Network
from paper_figs import _style
from paper_figs._check import Compared, largest, settled, t_bound, within
from paper_figs._ensembles import (
    Variables,
    largest_excess,
    mean,
    rows_of_gaps,
    squared_values,
    three_panels,
    typical_input,
)

# sigma_w of plain tanh networks: chaotic, and so slowly that draws differ little.
CHAOTIC = 1.3

# Σ a² of ReLU branches at σ_w² = 2.
C = 2.0

# Depths between which growth is held against its limit. Twice as many halve the rest,
# O(1/√L), and take four times as long.
_GREAT = (64, 256)
_GREAT_STREAM = (4096, 16384)

# How many times the upper edge of the law the largest value must be to be that along
# the means: at 1.6 times networks are seen to be above it, at 7 times they are not.
_FAR = 4.0

PLAIN, TANH, RELU = "plain tanh", "tanh blocks", "ReLU blocks"


class Size(NamedTuple):
    """How large the figure is.

    Attributes:
        width: Units of all networks.
        seeds: Networks of each kind.
        depths: Depths of which the mean of s² is measured.
        lengths: Blocks of the networks with branches a φ(Wx).
    """

    width: int
    seeds: int
    depths: tuple[int, ...]
    lengths: tuple[int, ...]


PRESETS = {
    "full": Size(
        width=256,
        seeds=30,
        depths=(4, 8, 16, 32, 64),
        lengths=(8, 16, 32, 64, 128),
    ),
    "smoke": Size(
        width=96,
        seeds=24,
        depths=(4, 16, 32),
        lengths=(16, 64),
    ),
}


class Growing(NamedTuple):
    """A kind of network whose mean of s² is measured at many depths.

    Attributes:
        net: The network, of the largest depth.
        scale: The root mean square of its inputs.
        span: The span that covers so many blocks or layers.
        law: The predicted mean of s² of so many.
    """

    net: Network
    scale: float
    span: Callable[[int], tuple[str, str]]
    law: Callable[[int], float]


def _kinds(width: int, depth: int) -> dict[str, Growing]:
    """Return the kinds of the left picture, by name."""
    q = theory.q_fixed_point("tanh", CHAOTIC, 0.0).value
    chi = theory.chi("tanh", q, CHAOTIC)
    # The first layer and the last are not in the span: their W has no slopes in front.
    widths = [width] * (depth + 3)
    plain = networks.mlp(
        widths,
        "tanh",
        "gaussian",
        sigma_w=CHAOTIC,
        bias=False,
    )
    return {
        PLAIN: Growing(
            net=plain,
            scale=math.sqrt(q) / CHAOTIC,
            span=lambda layers: ("layers/0", f"layers/1[{layers - 1}]"),
            law=lambda layers: chi**layers,
        ),
        TANH: _blocks("tanh", 1.0, width, depth=depth),
        RELU: _blocks("relu", 2**0.25, width, depth=depth),
    }


def _blocks(activation: str, sigma_w: float, width: int, *, depth: int) -> Growing:
    """Return blocks x + W₂ φ(W₁x)."""
    order = "two_layer"
    net = networks.resnet(
        width,
        depth,
        activation,
        scheme="gaussian",
        order=order,
        sigma_w=sigma_w,
        bias=False,
    )

    def law(blocks: int) -> float:
        ones = [1.0] * blocks
        moments = theory.residual_moments(
            activation, ones, order=order, sigma_w=sigma_w
        )
        return moments.mean

    return Growing(
        net=net,
        scale=1.0,
        span=lambda blocks: ("input", f"blocks/second[{blocks - 1}]:sum"),
        law=law,
    )


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure gradients of three kinds of networks, and streams of scaled ReLU ones."""
    size = PRESETS[preset]
    key_kinds, key_lengths = jax.random.split(key)
    kinds = _kinds(size.width, size.depths[-1])
    great = [_log_tanh(depth) for depth in _GREAT]
    return xarray.Dataset(
        {
            **_growth(key_kinds, kinds, size),
            **_all_scaled(key_lengths, size),
            "law_great": ("great", great),
        },
        {
            "kind": list(kinds),
            "depth": list(size.depths),
            "length": list(size.lengths),
            "great": list(_GREAT),
        },
    )


def _growth(key: Key, kinds: dict[str, Growing], size: Size) -> Variables:
    """Measure the mean of s² of every draw, to each depth."""
    keys = jax.random.split(key, len(kinds))
    squares, predicted = [], []
    for key_kind, kind in zip(keys, kinds.values(), strict=True):
        spans: list[Span] = [kind.span(depth) for depth in size.depths]
        spectra = isometry.ensemble(
            kind.net,
            jax.random.split(key_kind, size.seeds),
            typical_input(size.width, kind.scale),
            method="dense",
            span=spans,
        )
        by_span = [spectra[span] for span in spans]
        squares.append([spectrum.moment(1)[:, 0] for spectrum in by_span])
        predicted.append([kind.law(depth) for depth in size.depths])
    return {
        "square": (
            ("kind", "depth", "draw"),
            np.array(squares, np.float64),
        ),
        "law_square": (("kind", "depth"), np.array(predicted)),
    }


def _log_tanh(depth: int) -> float:
    """Return ln E s² of blocks of tanh at a great depth."""
    ones = [1.0] * depth
    moments = theory.residual_moments("tanh", ones, order="two_layer", sigma_w=1.0)
    return math.log(moments.mean)


class Scaled(NamedTuple):
    """What is measured of networks with branches a φ(Wx).

    Attributes:
        q: The mean square of the output of each draw; that of inputs is 1.
        top: The largest s² of each draw.
        second: The second largest.
        outliers: How many lie outside the law, a mean over draws.
        excess: The largest gap of all others from the law, over its band.
        law_q: What q should be.
        law_edge: The largest s² of the law.
    """

    q: Float[np.ndarray, " draw"]
    top: Float[np.ndarray, " draw"]
    second: Float[np.ndarray, " draw"]
    outliers: float
    excess: float
    law_q: float
    law_edge: float


def _all_scaled(key: Key, size: Size) -> Variables:
    """Measure networks with branches a φ(Wx) of all lengths."""
    keys = jax.random.split(key, len(size.lengths))
    measured = []
    for key_length, length in zip(keys, size.lengths, strict=True):
        measured.append(_scaled(length, key_length, size))
    variables: Variables = {}
    columns = zip(*measured, strict=True)
    for name, column in zip(Scaled._fields, columns, strict=True):
        values = np.array(column)
        dims = ("length", "draw")[: values.ndim]
        variables[name] = (dims, values)
    return variables


def _scaled(length: int, key: Key, size: Size) -> Scaled:
    """Measure ReLU networks with branches a φ(Wx), a² = c/L."""
    branch = math.sqrt(C / length)
    # With fan_in · Var W = 2 a branch adds a² q to the mean square but for the means.
    order = "post_activation"
    sigma_w = math.sqrt(2)
    net = networks.resnet(
        size.width,
        length,
        "relu",
        scheme="gaussian",
        order=order,
        branch=branch,
        sigma_w=sigma_w,
        bias=False,
    )
    branches = [branch] * length
    law = theory.residual_law("relu", branches, order=order, sigma_w=sigma_w)
    keys = jax.random.split(key, size.seeds)
    params = jax.vmap(net.init)(keys)
    xs = typical_input(size.width)
    sp = isometry.ensemble(net, params=params, xs=xs, method="dense", span="hidden")
    comparison = isometry.compare(sp, law)
    squares = squared_values(sp)
    # Blocks alone, without a head: the output is the stream behind the last.
    of_draws = jax.vmap(net, in_axes=(0, None))
    outputs = of_draws(params, xs[0])
    output_values = np.asarray(outputs, np.float64)
    last = net.mean_field(xs).at(f"blocks/first[{length - 1}]:sum")
    return Scaled(
        q=np.mean(output_values**2, axis=-1),
        top=squares[:, 0],
        second=squares[:, 1],
        outliers=comparison.outliers,
        excess=largest_excess(comparison),
        law_q=float(last.q[0, 0]),
        law_edge=law.s_max**2,
    )


class Stream(NamedTuple):
    """The stream of ReLU branches a φ(Wx) at σ_w² = 2, from a mean square of 1.

    Attributes:
        means: Its mean over units before each block, and behind the last.
        squares: Its mean squares.
    """

    means: list[float]
    squares: list[float]


def _stream(branch: float, length: int) -> Stream:
    """Follow the stream by its own map, independently of the library.

    E φ = √(q/π) and E φ² = q, and means add up: m' = m + a E φ,
    q' = q + 2 a m E φ + a² E φ².
    """
    means, squares = [0.0], [1.0]
    for _ in range(length):
        m = means[-1]
        q = squares[-1]
        e = math.sqrt(q / math.pi)
        means.append(m + branch * e)
        squares.append(q + 2 * branch * m * e + branch**2 * q)
    return Stream(means, squares)


def _coherent(branch: float, length: int) -> float:
    """Return the largest s², that of cotangents α 1 + β x, without the library.

    Pulled back through a block, a cotangent α 1 + β x' + r with |r|² = RN stays of
    this form. The ratio of its squares in front and behind is largest for a pair α, β.
    """
    stream = _stream(branch, length)

    def square_in_front(alpha: float, beta: float) -> float:
        rest = 0.0
        # From the last block to the first.
        means = stream.means[-2::-1]
        squares = stream.squares[-2::-1]
        for m, q in zip(means, squares, strict=True):
            e = math.sqrt(q / math.pi)
            along = alpha * e + beta * (m * e + branch * q)
            # The mean square of the cotangent over units.
            mixed = 2 * alpha * beta * m
            whole = alpha**2 + mixed + beta**2 * q + rest
            crossed = 2 * beta * branch * e * (alpha + beta * m)
            slopes = whole / 2 + crossed + (beta * branch) ** 2 * q
            unknown = (beta * branch) ** 2 * (q - e**2)
            rest += unknown + 2 * branch**2 * slopes
            alpha, beta = alpha + beta * branch * e, beta + branch * along / q
        # The input has mean 0 and mean square 1.
        return alpha**2 + beta**2 + rest

    one = square_in_front(1.0, 0.0)
    x = square_in_front(0.0, 1.0)
    crossed = (square_in_front(1.0, 1.0) - one - x) / 2
    form = np.array([[one, crossed], [crossed, x]])
    m = stream.means[-1]
    q = stream.squares[-1]
    metric = np.array([[1.0, m], [m, q]])
    ratios = linalg.eigh(form, metric, eigvals_only=True)
    return float(ratios[-1])


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare networks with theory, and theory with its limits."""
    draws = data.sizes["draw"]
    rows = []
    # One bound for all depths of all kinds together.
    bound = t_bound(data.law_square.size, draws)
    gaps = mean(data.square).gap(data.law_square) / bound
    rows += rows_of_gaps(gaps, "kind", "E s²")
    # ReLU blocks double s² whatever the stream: g = σ₁²σ₂²/2 = 1.
    deepest = data.isel(depth=-1)
    square = float(deepest.law_square.sel(kind=RELU))
    per_block = math.log(square) / int(deepest.depth)
    what = "ReLU blocks: ln E s² per block"
    rows.append(within(what, per_block, math.log(2), tolerance=1e-9))
    # Beyond the leading term ln E s² has 8/(9π) ln L: Σ −g²/2 over blocks, and what
    # the stream lacks of L.
    subleading = 8 / (9 * math.pi) * np.log(_GREAT)
    beyond = data.law_great.values - subleading
    slope = _per_root(beyond, _GREAT)
    leading = 8 / 3 / math.sqrt(2 * math.pi)
    what = "tanh blocks: ln E s² over √L, less its power"
    rows.append(within(what, slope, leading, tolerance=0.01 * leading))
    return settled(rows + _scaled_rows(data))


def _per_root(logs: Sequence[float], depths: tuple[int, int]) -> float:
    """Return the growth of a logarithm with √L, between two depths."""
    growth = logs[1] - logs[0]
    distance = math.sqrt(depths[1]) - math.sqrt(depths[0])
    return float(growth / distance)


def _scaled_rows(data: xarray.Dataset) -> list[Compared]:
    """Compare the networks with branches a φ(Wx) with theory."""
    rows = []
    lengths = data.length.values
    branches = [math.sqrt(C / length) for length in lengths]
    pairs = list(zip(branches, lengths, strict=True))
    bound = t_bound(2 * len(lengths), data.sizes["draw"])
    references = {
        "q": [_last_square(*pair) for pair in pairs],
        "top": [_coherent(*pair) for pair in pairs],
    }
    names = {"q": "mean square of the stream", "top": "largest s²"}
    for name, values in references.items():
        predicted = xarray.DataArray(values, dims="length")
        gaps = mean(data[name]).gap(predicted) / bound
        if name == "top":
            is_far = predicted > _FAR * data.law_edge
            gaps = gaps.where(is_far, drop=True)
        gap = largest(gaps)
        what = f"branches a φ(Wx): {names[name]}, largest gap over its interval"
        rows.append(Compared(what, gap, high=1.0))
    last_q = float(data.law_q[-1])
    ratio = last_q / references["q"][-1]
    what = "stream by the library over that by its own map"
    rows.append(within(what, ratio, 1.0, tolerance=1e-5))
    logs = [_log_stream(length) for length in _GREAT_STREAM]
    slope = _per_root(logs, _GREAT_STREAM)
    limit = 2 * math.sqrt(C / math.pi)
    rows.append(within("ln q over √L", slope, limit, tolerance=0.001 * limit))
    # The means, and not a², are what makes the stream grow.
    largest_length = data.q.isel(length=-1)
    naive = math.log(largest_length.mean()) - C
    rows.append(Compared("ln q at the largest L, beyond c", naive, low=2.0))
    # At small L it is not yet far enough outside to be counted in every draw.
    outliers = float(data.outliers[-1])
    what = "singular values outside the law"
    rows.append(within(what, outliers, 1.0, tolerance=0.05))
    excess = largest(data.excess)
    rows.append(Compared("all others: largest gap over its band", excess, high=1.0))
    return rows


def _log_stream(length: int) -> float:
    branch = math.sqrt(C / length)
    return math.log(_last_square(branch, length))


def _last_square(branch: float, length: int) -> float:
    """Return the mean square of the stream behind the last block."""
    stream = _stream(branch, length)
    return stream.squares[-1]


def plot(data: xarray.Dataset) -> Figure:
    """Draw the growth of gradients, of scaled streams, and of singular values."""
    figure, gradients, streams, values = three_panels(height=2.6, width=2.4)
    _draw_gradients(gradients, data)
    for ax in (streams, values):
        lengths = np.sqrt(data.length)
        ax.set_xticks(lengths, [f"√{length}" for length in data.length.values])
        ax.set(xlabel="√L, blocks", yscale="log")
    _draw_streams(streams, data)
    _draw_values(values, data)
    return figure


def _draw_gradients(ax: Axes, data: xarray.Dataset) -> None:
    """Draw the mean of s² against depth."""
    for i, kind in enumerate(data.kind.values):
        here = data.sel(kind=kind)
        log = mean(here.square).log()
        law = np.log(here.law_square)
        log.draw_with_line(ax, data.depth, i, predicted=law, label=kind)
    root = np.sqrt(data.depth / (2 * math.pi))
    leading = 8 / 3 * root
    ax.plot(data.depth, leading, ":", color="black", label="(8/3) √(L/2π)")
    _style.ticks(ax, data.depth.values)
    ax.set(
        xlabel="depth L",
        ylabel="ln E s²",
        title="Without scale: e$^{\\sqrt{L}}$ behind tanh",
        yscale="log",
    )
    ax.legend(loc="upper left")


def _draw_streams(ax: Axes, data: xarray.Dataset) -> None:
    """Draw the mean square of the stream of branches a φ(Wx)."""
    roots = np.sqrt(data.length)
    mean(data.q).draw(ax, roots, 0, label="networks")
    _style.line(ax, roots, data.law_q, i=0, label="theory")
    # For L → ∞ the map of the stream is dq/dm = 2m with dm/dl = a √(q/π).
    closed = np.cosh(roots * math.sqrt(C / math.pi)) ** 2
    ax.plot(roots, closed, ":", color="black", label="cosh² √(cL/π)")
    naive = np.full(roots.shape, math.exp(C))
    ax.plot(roots, naive, "--", color="black", label="without means: e$^c$")
    ax.set(
        ylabel="mean square of the stream",
        title=f"ReLU branches aφ(Wx), a² = {C:g}/L",
    )
    ax.legend(loc="upper left")


def _draw_values(ax: Axes, data: xarray.Dataset) -> None:
    """Draw the two largest singular values of branches a φ(Wx)."""
    roots = np.sqrt(data.length)
    lengths = data.length.values
    branches = np.sqrt(C / lengths)
    coherent = list(map(_coherent, branches, lengths))
    # Above the law by a factor that grows with L.
    mean(data.top).draw(ax, roots, 1, label="largest s²")
    _style.line(ax, roots, coherent, i=1, label="along the means")
    mean(data.second).draw(ax, roots, 2, label="second s²")
    _style.line(ax, roots, data.law_edge, i=2, label="edge of the law")
    ax.set(ylabel="s²", title="One value leaves the law")
    ax.legend(loc="upper left")
