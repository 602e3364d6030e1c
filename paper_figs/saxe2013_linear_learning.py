"""Linear nets learn as fast at any depth if they start from orthogonal weights.

Saxe, McClelland, Ganguli (2014), arXiv:1312.6120, Figs. 6A and 6B.

Left: a linear network of D matrices with 64 hidden units learns digits by gradient
descent on all examples; inputs are pooled to 4 × 4, centred and whitened. Marks are the
steps until the excess loss is 1e-3 of the target's square, at the fastest of ten rates
c/D, with 95 % of the mean over seeds. From Gaussian weights they grow with D. D begins
at 4: with two matrices the best rate takes two steps, half of what any deeper network
takes. A run that does not end counts as ending at the last step, so that the slope is a
lower bound where such runs are of the deepest networks. "As fast" is a slope within
0.1, or 7 % for twice the depth. The paper learns MNIST, from greedily pretrained
weights, too.

Right: singular values of products of N × N Gaussian matrices against the Fuss-Catalan
law, as means over draws with two standard errors. At finite N the mean of tr (JJᵀ)²
follows an exact recursion. Products of orthogonal matrices keep every value at 1.
"""

import functools
import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float

from isometry import data as datasets
from isometry import theory
from isometry._internal.types import Key
from paper_figs import _draws, _style, _times
from paper_figs._check import Compared, largest, least, settled, t_bound, within
from paper_figs._ensembles import mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Scalar: TypeAlias = Float[Array, ""]
_Batch: TypeAlias = Float[Array, "..."]


class Size(NamedTuple):
    """How large the figure is.

    Attributes:
        depths: Numbers of matrices of the networks that learn.
        steps: Steps after which learning is given up.
        seeds: Networks of each kind.
        n: Rows of the matrices whose products are taken.
        factors: Numbers of matrices in a product.
        draws: Products of each kind.
    """

    depths: tuple[int, ...]
    steps: int
    seeds: int
    n: int
    factors: tuple[int, ...]
    draws: int


PRESETS = {
    "full": Size(
        depths=(4, 8, 16, 32),
        steps=600,
        seeds=5,
        n=200,
        factors=(1, 4, 16),
        draws=40,
    ),
    "smoke": Size(
        depths=(4, 16),
        steps=150,
        seeds=4,
        n=50,
        factors=(1, 4),
        draws=40,
    ),
}

LAWS = ("orthogonal", "gaussian")
NAMES = {"orthogonal": "orthogonal", "gaussian": "Gaussian"}
# Rates times depth, each 1.5 times the last. A coarser grid would miss the fastest
# rate, and a narrower one would end before it, which `check` notices.
RATES = np.geomspace(0.1, 3.2, 10)
# Excess loss over the target's square. The weakest mode of the task holds 1 % of it,
# and need not be learned at ten times this level. At a tenth of it more networks from
# Gaussian weights would not end.
LEVEL = 1e-3
# Singular values are drawn as these quantiles.
SHARES = np.linspace(0.05, 0.95, 19)
WIDTH = 64
INPUTS = 16
CLASSES = 10
# The largest slope that counts as flat. At a tenth of it the error of the slope, which
# is 0.05 for five seeds, would decide; ten times it is growth in proportion to depth.
FLAT = 0.1


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Train networks at all rates, and take products of matrices.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        `steps` over (weights, depth, seed) at the fastest rate, whose index is `rate`;
        `log_s` over (weights, factors, draw, share), quantiles of ln s, and `law`, what
        theory says of Gaussian matrices; `second`, the mean of s⁴ of a product.
    """
    size = PRESETS[preset]
    rng = _draws.generator(key)
    times = np.stack([_learning_times(rng, law, size) for law in LAWS])
    fastest = _times.fastest(times)
    log_s = np.stack([_log_values(rng, law, size) for law in LAWS])
    # Quantiles come first.
    quantiles = np.quantile(log_s, SHARES, axis=-1)
    quantiles = np.moveaxis(quantiles, 0, -1)
    products = ("weights", "factors", "draw")
    return xarray.Dataset(
        {
            "steps": (("weights", "depth", "seed"), _times.at_rate(times, fastest)),
            "rate": (("weights", "depth"), fastest),
            "log_s": ((*products, "share"), quantiles),
            "second": (products, np.exp(4 * log_s).mean(-1)),
            "law": (("factors", "share"), [_law(count) for count in size.factors]),
        },
        {
            "weights": list(LAWS),
            "depth": list(size.depths),
            "share": SHARES,
            "factors": list(size.factors),
        },
        {"last": size.steps, "n": size.n},
    )


def _task() -> Float[np.ndarray, "16 10"]:
    """Return what a linear network learns: the mean of x yᵀ, for whitened inputs."""
    digits = datasets.digits(pooled=True)
    inputs = np.asarray(digits.xs, np.float64)
    labels = np.asarray(digits.targets)
    outputs = np.eye(CLASSES)[labels]
    inputs = inputs - inputs.mean(0)
    outputs = outputs - outputs.mean(0)
    covariance = inputs.T @ inputs / len(inputs)
    variances, basis = np.linalg.eigh(covariance)
    whitened = inputs @ basis / np.sqrt(variances)
    return whitened.T @ outputs / len(inputs)


class _Weights(NamedTuple):
    """The weights of networks, with or without an axis of seeds."""

    first: Float[Array, "*seeds inputs width"]
    hidden: Float[Array, "*seeds layers width width"]
    last: Float[Array, "*seeds width outputs"]


def _learning_times(
    rng: np.random.Generator, law: str, size: Size
) -> Float[np.ndarray, "depth rate seed"]:
    """Return after how many steps networks have learned, at each rate."""
    target = jnp.asarray(_task(), jnp.float32)
    times = []
    for depth in size.depths:
        weights = _networks(rng, law, depth, seeds=size.seeds)
        rates = jnp.asarray(RATES / depth, jnp.float32)
        losses = _losses(weights, rates, target, num_steps=size.steps)
        times.append(_times.crossing(np.asarray(losses), LEVEL))
    return np.stack(times)


def _networks(
    rng: np.random.Generator, law: str, depth: int, *, seeds: int
) -> _Weights:
    """Draw networks whose outer matrices are parts of square ones."""
    square = _draws.square(rng, law, seeds * depth, n=WIDTH)
    square = square.reshape(seeds, depth, WIDTH, WIDTH)
    square = jnp.asarray(square, jnp.float32)
    return _Weights(
        first=square[:, 0, :INPUTS],
        hidden=square[:, 1:-1],
        last=square[:, -1, :, :CLASSES],
    )


@functools.partial(jax.jit, static_argnames="num_steps")
def _losses(
    weights: _Weights,
    rates: Float[Array, " rate"],
    target: Float[Array, "in out"],
    *,
    num_steps: int,
) -> Float[Array, "rate seed step"]:
    """Return the excess loss over the target's square while networks learn."""
    scale = jnp.sum(target**2)

    def loss(weights: _Weights) -> _Scalar:
        def through(h: _Batch, w: _Batch) -> tuple[_Batch, None]:
            return h @ w, None

        behind, _ = jax.lax.scan(through, weights.first, weights.hidden)
        product = behind @ weights.last
        return jnp.sum((product - target) ** 2) / 2

    def learn(rate: _Scalar, weights: _Weights) -> Float[Array, " step"]:
        def step(weights: _Weights, _: None) -> tuple[_Weights, _Scalar]:
            value, gradient = jax.value_and_grad(loss)(weights)
            weights = jax.tree.map(lambda w, g: w - rate * g, weights, gradient)
            return weights, 2 * value / scale

        _, losses = jax.lax.scan(step, weights, length=num_steps)
        return losses

    by_seed = jax.vmap(learn, in_axes=(None, 0))
    return jax.vmap(by_seed, in_axes=(0, None))(rates, weights)


def _log_values(
    rng: np.random.Generator, law: str, size: Size
) -> Float[np.ndarray, "factors draw n"]:
    """Return ln s of products of matrices, for each number of them."""
    log_values = []
    for count in size.factors:
        products = []
        for _ in range(size.draws):
            matrices = _draws.square(rng, law, count, n=size.n)
            products.append(functools.reduce(np.matmul, matrices))
        log_values.append(_draws.log_values(np.stack(products)))
    return np.stack(log_values)


def _law(count: int) -> Float[np.ndarray, " share"]:
    """Return quantiles of ln s of infinitely large Gaussian matrices."""
    law = theory.fuss_catalan(count)
    quantiles = [law.quantile(share, variable="s") for share in SHARES.tolist()]
    return np.log(np.array(quantiles, float))


def _second_moment(n: int, factors: int) -> float:
    """Return E tr[(JJᵀ)²]/n of a product of n × n matrices with entries N(0, 1/n)."""
    # Another factor maps E tr A² and E (tr A)² of A = JJᵀ, for the product J so far, to
    # these combinations of them. At first A is the identity.
    to_trace_of_square = [1 + 1 / n, 1 / n]
    to_square_of_trace = [2 / n, 1.0]
    step = np.array([to_trace_of_square, to_square_of_trace])
    initial = np.array([n, n**2])
    traces = np.linalg.matrix_power(step, factors) @ initial
    return float(traces[0] / n)


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare the growth of learning times with depth, and products with theory.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    return settled([*_learning(data), *_of_products(data)])


def _learning(data: xarray.Dataset) -> list[Compared]:
    """Compare how learning times grow with depth."""
    flat = _growth(data, "orthogonal")
    steep = _growth(data, "gaussian")
    largest_flat = flat.slope + flat.error
    has_ended = np.isfinite(data.steps.sel(weights="orthogonal"))
    # Within the grid, so that no rate beyond it would be faster.
    last_inside = len(RATES) - 2
    return [
        Compared(
            "orthogonal: d ln steps/d ln D, with its error, largest",
            abs(flat.slope) + flat.error,
            low=0,
            high=FLAT,
        ),
        Compared(
            "Gaussian: the same, least",
            steep.slope - steep.error,
            low=largest_flat,
            words="above the orthogonal one",
        ),
        Compared(
            "runs from orthogonal weights that reached the level",
            float(has_ended.mean()),
            low=1,
            high=1,
        ),
        Compared(
            "fastest rate, least index in the grid",
            least(data.rate),
            low=1,
            high=last_inside,
        ),
        Compared(
            "the same, largest",
            largest(data.rate),
            low=1,
            high=last_inside,
        ),
    ]


def _growth(data: xarray.Dataset, weights: str) -> _times.Growth:
    """Return the power of depth with which the learning time grows."""
    steps = data.steps.sel(weights=weights)
    last = data.attrs["last"]
    return _times.growth(data.depth.values, steps.values, last)


def _of_products(data: xarray.Dataset) -> list[Compared]:
    """Compare products of matrices with what theory says of them."""
    n = data.attrs["n"]
    num_draws = data.sizes["draw"]
    exact = [_second_moment(n, count) for count in data.factors.values.tolist()]
    second = mean(data.second.sel(weights="gaussian"))
    gaussian = mean(data.log_s.sel(weights="gaussian"))
    num_quantiles = gaussian.value.size
    # At finite N a product of D matrices differs from the law by less than D/N: by two
    # thirds of it at N = 50, where 5 % off in each matrix are seen.
    correction = data.factors / n
    error = t_bound(num_quantiles, num_draws) * gaussian.error
    excess = abs(gaussian.value - data.law) / (correction + error)
    orthogonal = data.log_s.sel(weights="orthogonal")
    # Each of n entries rounds at each factor.
    epsilon = np.finfo(np.float64).eps
    rounding = n * largest(data.factors) * epsilon
    return [
        Compared(
            "tr (JJᵀ)² from the exact mean, standard errors",
            largest(second.gap(np.array(exact))),
            low=0,
            high=t_bound(data.sizes["factors"], num_draws),
        ),
        Compared(
            "quantiles of ln s from Fuss-Catalan, over D/N and the error, largest",
            largest(excess),
            low=0,
            high=1,
        ),
        within(
            "orthogonal products, largest |ln s|",
            largest(abs(orthogonal)),
            0,
            tolerance=rounding,
        ),
    ]


def plot(data: xarray.Dataset) -> "Figure":
    """Draw steps against depth, and quantiles of singular values of products.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, axes = _style.panels(1, 2, height=2.5)
    left, right = axes[0]
    _draw_steps(left, data)
    _draw_products(right, data)
    return figure


def _draw_steps(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw the geometric mean of learning times against depth, for each law."""
    last = data.attrs["last"]
    # `mean` averages over "draw". Runs that did not reach the level count as `last`.
    steps = data.steps.rename(seed="draw")
    logs = np.log(np.minimum(steps, last))
    t_factor = t_bound(1, data.sizes["seed"])
    for i, law in enumerate(LAWS):
        log = mean(logs.sel(weights=law))
        middle = np.exp(log.value)
        # Bars are symmetric in the logarithm, which is what is averaged.
        factor = np.exp(t_factor * log.error)
        lower_bar = middle - middle / factor
        upper_bar = middle * factor - middle
        style = {"ls": "-", "label": f"{NAMES[law]} weights"}
        _style.dots(ax, data.depth, middle, error=[lower_bar, upper_bar], i=i, **style)
    ax.axhline(last, color="0.4", lw=0.9, ls=":", label="last step")
    ax.set(
        xlabel="number of weight matrices D",
        ylabel="steps to reach the level",
        title="Learning time, fastest rate",
        yscale="log",
    )
    _style.ticks(ax, data.depth)
    # Between the two series.
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.27))


def _draw_products(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw quantiles of the singular values of products."""
    digits = data.log_s / math.log(10)
    for i, count in enumerate(data.factors.values, start=2):
        drawn = mean(digits.sel(weights="gaussian", factors=count))
        drawn.draw(ax, data.share, i, label=f"{count} Gaussian")
        predicted = data.law.sel(factors=count) / math.log(10)
        _style.line(ax, data.share, y=predicted, i=i)
    most = int(data.factors[-1])
    orthogonal = digits.sel(weights="orthogonal", factors=most)
    ax.plot(
        data.share,
        orthogonal.mean("draw"),
        marker="x",
        color=_style.COLOURS[0],
        ls="none",
        label=f"{most} orthogonal",
    )
    ax.set(
        xlabel="share of singular values below",
        ylabel="log$_{10}$ s",
        title="Products of matrices (lines: Fuss-Catalan)",
    )
    ax.legend(loc="lower right")
