"""BatchNorm makes gradients explode; behind a skip the factor becomes a power of depth.

Yang et al. (2019), arXiv:1902.08129: in layers φ(BN(Wx)) in training, here with W last,
squared gradients grow by χ_B > 1 from layer to layer, whatever the scale of the
weights. For an infinite batch χ = E φ'²/Var φ: π/(π − 1) for ReLU, and 1 for linear
layers alone. At B examples it is larger, and infinite for three of them.

Left: squared gradients of plain networks against depth. Middle: the factor against the
batch; marks are networks of two widths N extrapolated, 2 ln χ(2N) − ln χ(N), as tanh
layers are off by 1 % at the widths here. Lines are theory.

Right, which the paper does not have: blocks x' = x + W φ(BN(x)). Behind l blocks the
variance of the stream over the batch is 1 + l σ_w² v with v = E φ(u)² − E φ(u) φ(u′) of
two examples, so a block multiplies squared gradients by 1 + χ_B/(l + l₀) with
l₀ = 1/(σ_w² v): they grow as L^χ instead of χ^L, and π/(π − 1) is a power.

The examples of the input are orthogonal to each other, which is the fixed point that
the theory is about: tanh networks would come to it only after many layers. Marks: means
over draws with two standard errors.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from isometry import networks, theory
from isometry._internal.types import Key
from paper_figs import _draws, _style
from paper_figs._check import Compared, settled, t_bound, within
from paper_figs._ensembles import (
    Estimate,
    behind_blocks,
    log_ratio,
    mean,
    rows_of_gaps,
    squared_gradients,
    three_panels,
)

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda u: np.maximum(u, 0.0),
    "tanh": np.tanh,
}
NAMES = {"relu": "ReLU", "tanh": "tanh"}
SIGMA_W = math.sqrt(2)
# χ of ReLU layers for an infinite batch.
RELU_LIMIT = math.pi / (math.pi - 1)
# Tolerance against closed forms. The library's quadrature is more exact than this.
EXACT = 1e-9

# The growth is that between layers at these distances from the two ends: at the output
# the gradient is that of one example, and needs a layer to spread over the batch.
_BEHIND_INPUT = 2
_BEFORE_OUTPUT = 3

# Blocks that are drawn: denser at first, where a power of depth changes most.
SHOWN_BLOCKS = (0, 1, 2, 3, 5, 7, 11, 15, 21, 29)

# Batches drawn for v: its error is 0.1 %, ten times below that of networks.
_BATCHES = 20_000


class Size(NamedTuple):
    """How large the figure is.

    Attributes:
        width: Units of half of the networks; the others have twice as many.
        seeds: Networks of each kind.
        batches: Numbers of examples.
        depth: Layers without skips.
        blocks: Blocks with skips, of the largest batch.
    """

    width: int
    seeds: int
    batches: tuple[int, ...]
    depth: int
    blocks: int


PRESETS = {
    "full": Size(
        width=96,
        seeds=32,
        batches=(6, 8, 16, 32),
        depth=20,
        blocks=32,
    ),
    "smoke": Size(
        width=48,
        seeds=32,
        batches=(12,),
        depth=14,
        blocks=16,
    ),
}


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Measure squared gradients at every layer, with and without skips."""
    size = PRESETS[preset]
    key_plain, key_skip, key_theory = jax.random.split(key, 3)
    rng = _draws.generator(key_theory)
    largest = size.batches[-1]
    plain, skip, kept = [], [], []
    for index, activation in enumerate(ACTIVATIONS):
        key_here = jax.random.fold_in(key_plain, index)
        by_batch = []
        for batch in size.batches:
            key_batch = jax.random.fold_in(key_here, batch)
            by_batch.append(_gradients(key_batch, activation, batch, size=size))
        plain.append(by_batch)
        key_here = jax.random.fold_in(key_skip, index)
        behind = _gradients(key_here, activation, largest, size=size, has_skips=True)
        skip.append(behind)
        kept.append(_kept(rng, activation, largest))
    of_plain = ("activation", "batch", "scale", "draw", "layer")
    of_skip = ("activation", "scale", "draw", "block")
    laws, limits = [], []
    for name in ACTIVATIONS:
        laws.append([_chi(name, batch) for batch in size.batches])
        limits.append(theory.batch_norm_growth(name))
    return xarray.Dataset(
        {
            "plain": (of_plain, np.array(plain)),
            "skip": (of_skip, np.array(skip)),
            "law_kept": ("activation", kept),
            "law_chi": (("activation", "batch"), laws),
            "law_limit": ("activation", limits),
        },
        {
            "activation": list(ACTIVATIONS),
            "batch": list(size.batches),
        },
    )


def _chi(activation: str, batch: int) -> float:
    return theory.batch_norm_growth(activation, batch)


def _gradients(
    key: Key,
    activation: str,
    batch: int,
    *,
    size: Size,
    has_skips: bool = False,
) -> Float[np.ndarray, "scale draw layer"]:
    """Measure squared gradients of an output at every layer, summed over the batch."""
    depth = size.blocks if has_skips else size.depth
    by_width = []
    for scale in (1, 2):
        key, key_input, key_weights = jax.random.split(key, 3)
        width = scale * size.width
        # Without skips a block is a plain layer behind a norm.
        net = networks.resnet(
            width,
            depth,
            activation,
            scheme="gaussian",
            order="pre_activation",
            norm="batch",
            skip=float(has_skips),
            sigma_w=SIGMA_W,
            bias=False,
            n_out=1,
        )
        keys = jax.random.split(key_weights, size.seeds)
        xs = _orthogonal(key_input, batch, width)
        # In training mode x is the whole batch, and its statistics are differentiated.
        # The output is then one of each example, of which this is the mean.
        gradients = squared_gradients(
            net.training,
            keys,
            xs,
            names=behind_blocks(depth),
        )
        by_width.append(gradients)
    return np.array(by_width)


def _orthogonal(key: Key, batch: int, width: int) -> Float[np.ndarray, "1 batch width"]:
    """Return one batch of orthogonal examples with mean square 1."""
    drawn = _draws.generator(key).standard_normal((width, batch))
    basis, _ = np.linalg.qr(drawn)
    examples = math.sqrt(width) * basis.T
    return examples[None].astype(np.float32)


def _kept(rng: np.random.Generator, activation: str, batch: int) -> float:
    """Return E φ(u)² − E φ(u) φ(u′) of two examples of a batch, from draws."""
    phi = ACTIVATIONS[activation]
    # Pre-activations of wide layers are Gaussian, and isotropic over the batch.
    drawn = rng.standard_normal((_BATCHES, batch))
    centred = drawn - drawn.mean(axis=1, keepdims=True)
    normalized = centred / centred.std(axis=1, keepdims=True)
    activations = phi(normalized)
    # The unbiased variance over a batch is that of one less the products of two.
    variances = activations.var(axis=1, ddof=1)
    return float(variances.mean())


def _log_growth(apjn: xarray.DataArray, layers: str) -> Estimate:
    """Return ln of the growth between the inner layers at infinite width."""
    last = apjn.sizes[layers] - _BEFORE_OUTPUT
    near_input = apjn.isel({layers: _BEHIND_INPUT})
    near_output = apjn.isel({layers: last})
    return log_ratio(near_input, near_output).extrapolated()


def _inner(count: int) -> range:
    """Return the blocks that `_log_growth` counts, by how many are in front."""
    return range(_BEHIND_INPUT + 1, count - _BEFORE_OUTPUT + 1)


def _factors(data: xarray.Dataset, activation: str) -> Float[np.ndarray, " block"]:
    """Return what every block with a skip multiplies squared gradients by."""
    here = data.sel(activation=activation)
    chi = float(here.law_chi[-1])
    blocks = np.arange(data.sizes["block"])
    return 1 + chi / (blocks + _start(here))


def _start(data: xarray.Dataset) -> float:
    """Return l₀ of one activation: what the input counts for, in blocks."""
    return 1 / (SIGMA_W**2 * float(data.law_kept))


def _relu_chi(batch: int) -> float:
    """Return χ_B of ReLU in closed form, independently of the library.

    χ_B = B/(B − 3) E tr[(P − ûûᵀ) D P D]/E |Pφ(u)|², with P = I − 11ᵀ/B, u uniform on
    the sphere of radius √B in the range of P, û = u/√B and D = diag φ′(u). For ReLU
    both means are known from the correlation c of two entries of u.
    """
    others = batch - 1
    c = -1 / others
    # The arc-cosine kernels of order 1 and 0 at this correlation.
    angle = math.pi - math.acos(c)
    kappa = (math.sqrt(1 - c**2) + angle * c) / math.pi
    both = 0.25 + math.asin(c) / (2 * math.pi)
    centred = 0.5 - 1 / (2 * batch) - others * both / batch
    along = 0.5 - (1 + others * kappa) / (2 * batch)
    kept = others * (1 - kappa) / 2
    trace = others / 2 - centred - along
    return batch / (batch - 3) * trace / kept


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare networks with theory, and theory with closed forms."""
    rows = []
    growth = _log_growth(data.plain, "layer")
    layers = len(_inner(data.sizes["layer"]))
    bound = t_bound(data.law_chi.size, data.sizes["draw"])
    predicted = layers * np.log(data.law_chi)
    gaps = growth.gap(predicted) / bound
    rows += rows_of_gaps(gaps, "activation", "ln χ_B")
    relu = data.sel(activation="relu")
    for batch in data.batch.values.tolist():
        chi = float(relu.law_chi.sel(batch=batch))
        what = f"relu: χ_B in theory, B = {batch}"
        rows.append(within(what, chi, _relu_chi(batch), tolerance=EXACT))
    # Behind the last layer only the head is left, of which |w|² is σ_w² in the mean.
    behind = relu.plain.isel(layer=-1, scale=1, batch=-1)
    head = mean(behind)
    num_errors = t_bound(1, data.sizes["draw"])
    rows.append(
        within(
            "squared gradient behind the last layer",
            float(head.value),
            SIGMA_W**2,
            tolerance=num_errors * float(head.error),
        )
    )
    rows.append(
        within(
            "relu: χ in theory, B → ∞",
            float(relu.law_limit),
            RELU_LIMIT,
            tolerance=EXACT,
        )
    )
    return settled(rows + _skip_rows(data))


def _skip_rows(data: xarray.Dataset) -> list[Compared]:
    """Compare the blocks with skips with the power of depth."""
    rows = []
    growth = _log_growth(data.skip, "block")
    bound = t_bound(len(ACTIVATIONS), data.sizes["draw"])
    counted = _inner(data.sizes["block"])
    for activation in ACTIVATIONS:
        here = growth.at(activation=activation)
        measured = float(here.value)
        logs = np.log(_factors(data, activation))
        predicted = float(logs[counted].sum())
        # Skips pass on the mean of a gradient over the batch, one direction in B.
        one_direction = 1 / int(data.batch[-1])
        slack = bound * float(here.error) + one_direction
        what = f"{activation} behind skips: ln growth over {len(counted)} blocks"
        rows.append(within(what, measured, predicted, tolerance=slack))
        # A power of depth is less than an exponential, at this depth already.
        chi = float(data.law_chi.sel(activation=activation)[-1])
        without = len(counted) * math.log(chi)
        what = f"{activation}: the same with skips, over that without"
        rows.append(Compared(what, measured / without, high=0.75))
    return rows


def plot(data: xarray.Dataset) -> Figure:
    """Draw gradients of plain networks, the factor, and gradients behind skips."""
    figure, plain, factor, skip = three_panels(height=2.6, width=2.4)
    _draw_plain(plain, data)
    _draw_factor(factor, data)
    _draw_skip(skip, data)
    return figure


def _relative(apjn: xarray.DataArray, layers: str) -> Estimate:
    """Return means of the wider networks over that at the last inner layer."""
    wide = apjn.isel(scale=1)
    last = wide.sizes[layers] - _BEFORE_OUTPUT
    near_output = wide.isel({layers: last})
    return mean(wide / near_output.mean("draw"))


def _draw_plain(ax: Axes, data: xarray.Dataset) -> None:
    """Draw squared gradients of plain networks, of the largest batch."""
    batch = int(data.batch[-1])
    depth = data.sizes["layer"]
    layers = np.arange(1, depth + 1)
    for i, activation in enumerate(ACTIVATIONS):
        here = data.sel(activation=activation).isel(batch=-1)
        measured = _relative(here.plain, "layer")
        measured.draw(ax, layers, i, label=NAMES[activation])
        chi = float(here.law_chi)
        # Layers that are left up to the last inner one.
        num_left = depth - _BEFORE_OUTPUT + 1.0 - layers
        _style.line(ax, layers, chi**num_left, i=i, label=f"χ = {chi:.3f}")
    ax.set(
        xlabel="layer",
        ylabel="squared gradient (relative)",
        title=f"Without skips, B = {batch}",
        yscale="log",
    )
    ax.legend(loc="upper right")


def _draw_factor(ax: Axes, data: xarray.Dataset) -> None:
    """Draw the growth from layer to layer against the batch."""
    growth = _log_growth(data.plain, "layer")
    layers = len(_inner(data.sizes["layer"]))
    # From 5 on: for 4 examples the factor would be off the picture.
    grid = np.geomspace(5, 64, 14).astype(int)
    grid = np.unique(grid)
    for i, activation in enumerate(ACTIVATIONS):
        here = growth.at(activation=activation)
        chi = here.per(layers).exp()
        chi.draw(ax, data.batch, i, label=NAMES[activation])
        predicted = [_chi(activation, int(batch)) for batch in grid]
        _style.line(ax, grid, predicted, i=i)
        limit = float(data.law_limit.sel(activation=activation))
        colour = _style.COLOURS[i]
        ax.axhline(limit, color=colour, ls=":", lw=0.8)
    linear = (grid - 2) / (grid - 3)
    ax.plot(grid, linear, "--", color="black", label="linear")
    ax.text(64, RELU_LIMIT, "π/(π − 1)", ha="right", va="top")
    _style.ticks(ax, [4, 8, 16, 32, 64])
    ax.set(
        xlabel="batch B",
        ylabel="χ",
        title="Factor of a layer (dotted: B → ∞)",
        ylim=(0.95, 2.3),
    )
    ax.legend(loc="upper right")


def _draw_skip(ax: Axes, data: xarray.Dataset) -> None:
    """Draw squared gradients behind skips against depth, both logarithmic."""
    blocks = np.arange(1, data.sizes["block"] + 1)
    last = data.sizes["block"] - _BEFORE_OUTPUT
    for i, activation in enumerate(ACTIVATIONS):
        here = data.sel(activation=activation)
        x = blocks + _start(here)
        measured = _relative(here.skip, "block")
        # Marks of later blocks would run into each other.
        shown = [block for block in SHOWN_BLOCKS if block < last]
        some = measured.part(block=shown)
        some.draw(ax, x[shown], i, label=NAMES[activation])
        logs = np.log(_factors(data, activation))
        # From block to block up to the last inner one, where both are 1.
        passed = np.cumsum(logs) - logs[0]
        line = np.exp(passed[last] - passed)
        chi = float(here.law_chi[-1])
        label = f"∝ (l + l₀)$^{{-{chi:.2f}}}$"
        _style.line(ax, x, line, i=i, label=label)
    _style.ticks(ax, [2, 4, 8, 16, 32])
    ax.set(
        xlabel="l + l₀ (l: blocks in front)",
        ylabel="squared gradient (relative)",
        title=f"Behind skips, B = {int(data.batch[-1])}",
        yscale="log",
    )
    ax.legend(loc="upper right")
