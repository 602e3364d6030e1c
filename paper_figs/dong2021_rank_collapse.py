"""Attention alone collapses tokens cubically in each layer, and skips prevent it.

Dong, Cordonnier and Loukas (2021), arXiv:2103.03404: without skips the distance from
rank one falls doubly exponentially, with an exponent of 3 in each layer. Noci et al.
(2022), arXiv:2206.03126: skips with branches of 1/√L keep it, and at collapse the
gradients of queries and keys vanish.

Left: 1 − cosine of two tokens against depth, a ratio of means over draws; lines are
`theory.attention_gram`. With uniform attention (Q = K = 0, the setting of Noci et al.)
it is (1 − ρ)/(1 + m((1 + a²)^l − 1)) exactly, at any width, for m = ρ + (1 − ρ)/T.
Middle: one layer, from tokens of any cosine. Random logits differ by √(1 − cosine), so
that two tokens part by its third power without a skip, and in proportion with one. The
papers bound this exponent; the mean over heads has it, with the factor of
`theory.attention_gram`. One head fluctuates from draw to draw: without skips, means
over draws of later layers are means of cubes, and lie above the line at the left, which
averages in each layer, as many heads would. Right: the squared gradients of the weights
fall with the second power of 1 − cosine for Q and K: once for values that are alike,
and once for keys (or queries) that are. Those of V do not fall. No perceptrons, norms
or masks; the papers show trained models and architectures with them, too. Full: 1
minute on 2 cores.
"""

import functools
import math
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float

from isometry import networks, theory
from isometry._internal.types import Key, Params
from paper_figs import _style
from paper_figs._check import Compared, settled, t_bound, within

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESETS = {
    "full": {"seeds": 1024, "width": 48, "layers": 8},
    "smoke": {"seeds": 512, "width": 32, "layers": 6},
}

TOKENS = 8
COSINE = 0.3
# One layer is measured from tokens whose 1 − cosine is each of these.
DISTANCES = np.array([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
# Corrections to the powers are of order √(1 − cosine), and slopes are taken between the
# two closest pairs: √1e-5 over ln 10 is 1.4e-3, and a factor of order one is before it.
SLOPE_ERROR = 0.005
WEIGHTS = ("query", "key", "value")


class _Variant(NamedTuple):
    """A network of the left panel.

    Attributes:
        skip: The factor of the stream.
        scaled: Whether branches have the factor 1/√L.
        uniform: Whether Q = K = 0.
    """

    skip: float
    scaled: bool
    uniform: bool

    def branch(self, layers: int) -> float:
        """Return the factor of the attention."""
        return layers**-0.5 if self.scaled else 1.0


VARIANTS = {
    "no skip": _Variant(skip=0.0, scaled=False, uniform=False),
    "skip, Q = K = 0": _Variant(skip=1.0, scaled=False, uniform=True),
    "skip, Q = K = 0, 1/√L": _Variant(skip=1.0, scaled=True, uniform=True),
    "skip, 1/√L": _Variant(skip=1.0, scaled=True, uniform=False),
}


def compute(preset: str, key: Key) -> xarray.Dataset:
    """Follow tokens through layers, and measure one layer near collapse.

    Args:
        preset: "full" or "smoke".
        key: The key of all draws.

    Returns:
        `square` and `product` of tokens over (variant, seed, layer), and what theory
        says, `law_square` and `law_product`; `parted`, E |x − y|²/2 of two tokens, and
        `length` behind one layer over (skip, distance, seed), with `law_parted`; and
        `gradient` over (weights, distance, draw).
    """
    size = PRESETS[preset]
    layers = size["layers"]
    with jax.enable_x64(True):
        grams = [_through(v, size, key=key) for v in VARIANTS.values()]
        outputs = [_one_layer(skip, size, key=key) for skip in (0.0, 1.0)]
        gradient = _gradients(size, key=key)
    law = [_law(variant, layers) for variant in VARIANTS.values()]
    pairs, lengths = zip(*outputs, strict=True)
    law_parted = [[_law_parted(skip, d) for d in DISTANCES] for skip in (0.0, 1.0)]
    moments = ("variant", "seed", "layer")
    one = ("skip", "distance", "seed")
    return xarray.Dataset(
        {
            "square": (moments, [g[0] for g in grams]),
            "product": (moments, [g[1] for g in grams]),
            "law_square": (("variant", "layer"), [g[0] for g in law]),
            "law_product": (("variant", "layer"), [g[1] for g in law]),
            "parted": (one, np.array(pairs)),
            "length": (one, np.array(lengths)),
            "law_parted": (("skip", "distance"), law_parted),
            "gradient": (("weights", "distance", "draw"), gradient),
        },
        {
            "variant": list(VARIANTS),
            "layer": np.arange(layers + 1),
            "skip": [0, 1],
            "distance": DISTANCES,
            "weights": list(WEIGHTS),
        },
    )


def _gram(distance: float) -> Float[np.ndarray, "tokens tokens"]:
    """Return the Gram matrix of tokens of length 1 with this 1 − cosine."""
    return distance * np.eye(TOKENS) + (1 - distance)


def _tokens(distance: float, width: int) -> Float[Array, "tokens width"]:
    """Return tokens with exactly this Gram matrix."""
    # One common direction, and one for each token.
    axes = width**0.5 * np.eye(TOKENS + 1, width)
    own = math.sqrt(distance) * axes[1:]
    return jnp.asarray(own + math.sqrt(1 - distance) * axes[0])


def _layer(width: int) -> networks.Network:
    """Return one block, whose perceptron `_params` turns off."""
    return networks.transformer(
        width,
        blocks=1,
        heads=1,
        mlp=1,
        norm=None,
        causal=False,
        length=TOKENS,
        scheme="gaussian",
    )


def _params(
    net: networks.Network, key: Key, *, variant: _Variant, layers: int
) -> Params:
    """Draw the parameters of one layer of attention."""
    drawn = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), net.init(key))
    blocks = drawn["blocks"]
    # In float64: what is left of 1 − cosine is below the rounding of float32.
    attention = dict(blocks["attention"])
    attention["skip"] = jnp.full(1, variant.skip)
    attention["branch"] = variant.branch(layers) * attention["branch"]
    if variant.uniform:
        for name in ("query", "key"):
            attention[name] = jax.tree.map(jnp.zeros_like, attention[name])
    mlp = {**blocks["mlp"], "branch": jnp.zeros(1)}
    # Nothing but attention is left: the perceptron is skipped.
    return {**drawn, "blocks": {"attention": attention, "mlp": mlp}}


def _through(
    variant: _Variant, size: dict, *, key: Key
) -> tuple[Float[np.ndarray, "seeds layers"], Float[np.ndarray, "seeds layers"]]:
    """Return the mean square of tokens, and their mean product, behind each layer."""
    net, layers = _layer(size["width"]), size["layers"]
    start = _tokens(1 - COSINE, size["width"])

    def step(x: Array, key: Key) -> tuple[Array, Array]:
        x = net(_params(net, key, variant=variant, layers=layers), x)
        return x, _moments(x)

    def by_layer(key: Key) -> Float[Array, "layers 2"]:
        _, moments = jax.lax.scan(step, start, jax.random.split(key, layers))
        return jnp.concatenate([_moments(start)[None], moments])

    moments = np.asarray(jax.jit(jax.vmap(by_layer))(_keys(key, size)))
    return moments[..., 0], moments[..., 1]


def _keys(key: Key, size: dict) -> Key:
    """Return a key for each draw."""
    return jax.random.split(key, size["seeds"])


def _moments(x: Float[Array, "tokens width"]) -> Float[Array, " 2"]:
    """Return the mean square of an entry, and the mean product of two tokens."""
    square = jnp.mean(x**2)
    # From differences, which do not cancel where tokens are almost the same.
    centred = x - x.mean(axis=0, keepdims=True)
    parted = jnp.mean(centred**2) * TOKENS / (TOKENS - 1)
    return jnp.stack([square, square - parted])


def _one_layer(
    skip: float, size: dict, *, key: Key
) -> tuple[Float[np.ndarray, "distance seeds"], Float[np.ndarray, "distance seeds"]]:
    """Return by how much tokens differ behind one layer, and their mean square."""
    net = _layer(size["width"])
    variant = _Variant(skip=skip, scaled=False, uniform=False)
    draw = functools.partial(_params, net, variant=variant, layers=1)

    def parted(x: Array, key: Key) -> Float[Array, " 2"]:
        y = net(draw(key), x)
        centred = y - y.mean(axis=0, keepdims=True)
        return jnp.stack([jnp.mean(centred**2), jnp.mean(y**2)])

    xs = jnp.stack([_tokens(d, size["width"]) for d in DISTANCES])
    of_keys = jax.vmap(parted, in_axes=(None, 0))
    found = np.asarray(jax.jit(jax.vmap(of_keys, (0, None)))(xs, _keys(key, size)))
    return found[..., 0] * TOKENS / (TOKENS - 1), found[..., 1]


def _gradients(size: dict, *, key: Key) -> Float[np.ndarray, "weights distance seeds"]:
    """Return the squared gradient of a random output, for each weight of a layer."""
    net = _layer(size["width"])
    variant = VARIANTS["no skip"]
    draw = functools.partial(_params, net, variant=variant, layers=1)
    cotangent = jax.random.normal(key, (TOKENS, size["width"]))

    def loss(params: Params, x: Array) -> Float[Array, ""]:
        return jnp.sum(cotangent * net(params, x))

    def squares(x: Array, key: Key) -> Float[Array, " weights"]:
        attention = jax.grad(loss)(draw(key), x)["blocks"]["attention"]
        return jnp.stack([jnp.sum(attention[name]["w"] ** 2) for name in WEIGHTS])

    xs = jnp.stack([_tokens(d, size["width"]) for d in DISTANCES])
    of_keys = jax.vmap(squares, in_axes=(None, 0))
    # Slopes are those of every draw, so few will do.
    few = _keys(key, size)[:32]
    found = jax.jit(jax.vmap(of_keys, (0, None)))(xs, few)
    return np.moveaxis(np.asarray(found), -1, 0)


def _law(variant: _Variant, layers: int) -> tuple[list[float], list[float]]:
    """Return mean squares and products of tokens behind each layer, as predicted."""
    # Layer by layer, from the mean Gram matrix behind the one before.
    gram = _gram(1 - COSINE)
    squares, products = [gram[0, 0]], [gram[0, 1]]
    for _ in range(layers):
        gram = theory.attention_gram(
            gram,
            sigma_q=0.0 if variant.uniform else 1.0,
            skip=variant.skip,
            branch=variant.branch(layers),
        )
        squares.append(gram[0, 0])
        products.append(gram[0, 1])
    return squares, products


def _law_parted(skip: float, distance: float) -> float:
    """Return q − p behind one layer, as predicted."""
    gram = theory.attention_gram(_gram(distance), skip=skip)
    return float(gram[0, 0] - gram[0, 1])


def _uniform(data: xarray.Dataset, variant: str) -> Float[np.ndarray, " layer"]:
    """Return the claim for uniform attention: 1 − cosine behind each layer."""
    strength = VARIANTS[variant].branch(data.sizes["layer"] - 1) ** 2
    mean = COSINE + (1 - COSINE) / TOKENS
    grown = (1 + strength) ** data.layer.values - 1
    return (1 - COSINE) / (1 + mean * grown)


def _slope(values: xarray.DataArray) -> float:
    """Return the power of 1 − cosine between the two closest pairs of tokens."""
    closest = np.log(values.isel(distance=0)) - np.log(values.isel(distance=1))
    powers = closest / math.log(DISTANCES[0] / DISTANCES[1])
    # The power holds in each draw; the median is that of a usual one.
    return float(np.median(powers))


def _parted_off(data: xarray.Dataset) -> float:
    """Return how many standard errors one layer is off theory."""
    # At closer tokens the prediction is a difference below its own rounding.
    data = data.isel(skip=0).sel(distance=slice(3e-3, None))
    error = data.parted.std("seed", ddof=1) / math.sqrt(data.sizes["seed"])
    off = abs(data.parted.mean("seed") - data.law_parted) / error
    return float(off.max())


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Hold tokens against theory, and the powers against those that are derived.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: One of them does not hold.
    """
    seeds = data.sizes["seed"]
    rows = []
    for variant in VARIANTS:
        if not VARIANTS[variant].uniform:
            continue
        square = data.square.sel(variant=variant, layer=slice(1, None))
        law = data.law_square.sel(variant=variant, layer=slice(1, None))
        error = square.std("seed", ddof=1) / math.sqrt(seeds)
        off = float((abs(square.mean("seed") - law) / error).max())
        high = t_bound(law.size, seeds)
        what = f"{variant}: mean square of tokens, standard errors off"
        rows.append(Compared(what, off, high=high))
        exact = 1 - data.law_product / data.law_square
        difference = abs(exact.sel(variant=variant) - _uniform(data, variant))
        what = f"{variant}: theory against the closed form"
        rows.append(within(what, float(difference.max()), 0.0, tolerance=1e-12))
    powers = {"no skip": 3.0, "skip": 1.0}
    for i, (name, power) in enumerate(powers.items()):
        slope = _slope(data.parted.isel(skip=i))
        what = f"{name}: power of 1 − cosine in one layer"
        rows.append(within(what, slope, power, tolerance=SLOPE_ERROR))
    for name, power in zip(WEIGHTS, (2.0, 2.0, 0.0), strict=True):
        slope = _slope(data.gradient.sel(weights=name))
        what = f"squared gradient of {name}: power of 1 − cosine"
        rows.append(within(what, slope, power, tolerance=SLOPE_ERROR))
    what = "no skip: tokens parted by one layer, standard errors off"
    # 1 − cosine of 0.01 and 0.1.
    rows.append(Compared(what, _parted_off(data), high=t_bound(2, seeds)))
    return settled(rows)


def plot(data: xarray.Dataset) -> "Figure":
    """Draw 1 − cosine over depth, in one layer, and gradients near collapse.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    # Three panels are as wide as a page.
    figure, axes = _style.panels(1, 3, height=2.5, width=2.7)
    left, middle, right = axes[0]
    _draw_depth(left, data)
    _draw_layer(middle, data)
    _draw_gradients(right, data)
    return figure


def _draw_depth(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw 1 − cosine against depth."""
    square, product = data.square.mean("seed"), data["product"].mean("seed")
    distance = (square - product) / square
    law = 1 - data.law_product / data.law_square
    for i, variant in enumerate(VARIANTS):
        of_variant = distance.sel(variant=variant)
        # The last two coincide, so that the marks of the third are larger.
        large = 6 if i == 2 else 3
        _style.dots(
            ax, data.layer, of_variant, error=None, i=i, label=variant, ms=large
        )
        # Beyond this the difference of two predicted numbers is rounding.
        predicted = law.sel(variant=variant)
        _style.line(ax, data.layer, y=predicted.where(predicted > 1e-14), i=i)
    ax.set(
        xlabel="layers",
        ylabel="1 − cosine of two tokens",
        title="Depth (lines: theory)",
        yscale="log",
        ylim=(1e-14, 2),
    )
    ax.legend(loc="lower right")


def _draw_layer(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw how far tokens part behind one layer."""
    root = math.sqrt(data.sizes["seed"])
    for i, label in enumerate(("no skip", "with skip")):
        parted = data.parted.isel(skip=i)
        error = 2 * parted.std("seed", ddof=1) / root
        mean = parted.mean("seed")
        _style.dots(ax, data.distance, mean, error=error, i=i, label=label)
        law = data.law_parted.isel(skip=i)
        _style.line(ax, data.distance, y=law.where(law > 1e-14), i=i)
    ax.set(
        xlabel="1 − cosine in front",
        ylabel="squared difference / 2, behind",
        title="One layer (lines: theory)",
        xscale="log",
        yscale="log",
    )
    ax.legend(loc="upper left")


def _draw_gradients(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw squared gradients of the weights against 1 − cosine."""
    mean = data.gradient.mean("draw")
    for i, name in enumerate(WEIGHTS):
        # Queries and keys coincide, so that the marks of queries are larger.
        large = 6 if name == "query" else 3
        of_name = mean.sel(weights=name)
        _style.dots(ax, data.distance, of_name, error=None, i=i, label=name, ms=large)
    start = float(mean.sel(weights="query").isel(distance=0))
    power = (data.distance / DISTANCES[0]) ** 2
    ax.plot(data.distance, start * power, color="0.3", lw=0.8, label="power 2")
    ax.set(
        xlabel="1 − cosine in front",
        ylabel="squared gradient of the weight",
        title="Gradients",
        xscale="log",
        yscale="log",
    )
    ax.legend(loc="lower right")
