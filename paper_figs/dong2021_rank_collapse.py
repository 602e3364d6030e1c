"""Attention alone collapses tokens cubically; skips with branches of 1/√L prevent it.

Dong, Cordonnier and Loukas (2021), arXiv:2103.03404: without skips the distance from
rank one falls doubly exponentially, with an exponent of 3 in each layer. Noci et al.
(2022), arXiv:2206.03126: skips slow this to an exponential, and with branches of 1/√L a
share of the distance is left at any depth. At collapse the gradients of queries and
keys vanish.

Left: 1 − cosine of two tokens against depth, a ratio of means over draws; lines are
`theory.attention_gram`. With uniform attention (Q = K = 0, the setting of Noci et al.)
it is (1 − ρ)/(1 + m((1 + a²)^l − 1)) exactly, at any width, for m = ρ + (1 − ρ)/T:
with a = 1 it falls like 2^−l, with a² = 1/L a share of 1/(1 + m(e − 1)) stays.
Middle: one layer, from tokens of any cosine. Random logits differ by √(1 − cosine), so
that two tokens part by its third power without a skip, and in proportion with one. The
papers bound this exponent; the mean over heads has it, with the factor of
`theory.attention_gram`. One head fluctuates from draw to draw: without skips, means
over draws of later layers are means of cubes, and lie above the line at the left, which
averages in each layer, as many heads would. Right: the squared gradients of the weights
fall with the second power of 1 − cosine for Q and K: once for values that are alike,
and once for keys (or queries) that are. Those of V do not fall. No perceptrons, norms
or masks; the papers show trained models and architectures with them, too.
"""

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float

from isometry import networks, theory
from isometry._internal.types import Key, Params
from paper_figs import _style
from paper_figs._check import Compared, largest, settled, t_bound, within
from paper_figs._ensembles import Estimate, log_ratio, mean, three_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PRESETS = {
    "full": {
        "seeds": 1024,
        "width": 48,
        "layers": 8,
    },
    "smoke": {
        "seeds": 512,
        "width": 32,
        "layers": 6,
    },
}

TOKENS = 8
COSINE = 0.3
# One layer is measured from tokens whose 1 − cosine is each of these.
DISTANCES = np.array([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
# Corrections to the powers are of order √(1 − cosine), and slopes are taken between the
# two closest pairs: √1e-5 over ln 10 is 1.4e-3, and a factor of order one is before it.
SLOPE_ERROR = 0.005
WEIGHTS = ("query", "key", "value")
# Without a skip and with one, in front of a single layer.
SKIPS = (0.0, 1.0)
# Predictions of 1 − cosine below this are differences of numbers that are the same but
# for rounding, and are not drawn.
ROUNDING = 1e-14

# Numbers of each draw, over layers or distances.
_Numbers: TypeAlias = Float[np.ndarray, "..."]
_Vector: TypeAlias = Float[Array, "..."]


class _Variant(NamedTuple):
    """A network of the left panel.

    Attributes:
        skip: The multiplier of the skip connection.
        scaled: Whether branches are multiplied by 1/√L, with L blocks.
        uniform: Whether query and key weights are zero, so that attention is uniform.
    """

    skip: float
    scaled: bool
    uniform: bool

    def branch(self, layers: int) -> float:
        """Return the factor of the attention."""
        if self.scaled:
            return layers**-0.5
        return 1.0


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
        says, `law_square` and `law_product`; `separation`, E |x − y|²/2 of two
        tokens, and `length` behind one layer over (skip, distance, seed), with
        `law_separation`; and `gradient` over (weights, distance, draw).
    """
    size = PRESETS[preset]
    layers = size["layers"]
    variants = VARIANTS.values()
    with jax.enable_x64(True):
        through = [_through(variant, size, key=key) for variant in variants]
        outputs = [_one_layer(skip, size, key=key) for skip in SKIPS]
        gradient = _gradients(size, key=key)
    squares, products = zip(*through, strict=True)
    laws = [_law(variant, layers) for variant in variants]
    law_squares, law_products = zip(*laws, strict=True)
    pairs, lengths = zip(*outputs, strict=True)
    law_separation = [_law_separation(skip) for skip in SKIPS]
    moments = ("variant", "seed", "layer")
    law_moments = ("variant", "layer")
    one = ("skip", "distance", "seed")
    return xarray.Dataset(
        {
            "square": (moments, list(squares)),
            "product": (moments, list(products)),
            "law_square": (law_moments, list(law_squares)),
            "law_product": (law_moments, list(law_products)),
            "separation": (one, np.array(pairs)),
            "length": (one, np.array(lengths)),
            "law_separation": (("skip", "distance"), law_separation),
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
    common = math.sqrt(1 - distance) * axes[0]
    return jnp.asarray(own + common)


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
    # In float64: what is left of 1 − cosine is below the rounding of float32.
    in_float32 = net.init(key)
    drawn = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), in_float32)
    blocks = drawn["blocks"]
    attention = dict(blocks["attention"])
    attention["skip"] = jnp.full(1, variant.skip)
    attention["branch"] = variant.branch(layers) * attention["branch"]
    if variant.uniform:
        for name in ("query", "key"):
            attention[name] = jax.tree.map(jnp.zeros_like, attention[name])
    mlp = {**blocks["mlp"], "branch": jnp.zeros(1)}
    # Nothing but attention is left: the perceptron is skipped.
    return {**drawn, "blocks": {"attention": attention, "mlp": mlp}}


def _through(variant: _Variant, size: dict, *, key: Key) -> tuple[_Numbers, _Numbers]:
    """Return the mean square of tokens, and their mean product, behind each layer."""
    layers = size["layers"]
    net = _layer(size["width"])
    start = _tokens(1 - COSINE, size["width"])

    def step(x: Array, key: Key) -> tuple[Array, Array]:
        params = _params(net, key, variant=variant, layers=layers)
        x = net(params, x)
        return x, _moments(x)

    def by_layer(key: Key) -> Float[Array, "layers 2"]:
        keys = jax.random.split(key, layers)
        _, moments = jax.lax.scan(step, start, keys)
        first = _moments(start)
        return jnp.concatenate([first[None], moments])

    of_draws = jax.jit(jax.vmap(by_layer))
    moments = np.asarray(of_draws(_keys(key, size)))
    return moments[..., 0], moments[..., 1]


def _keys(key: Key, size: dict) -> Key:
    """Return a key for each draw."""
    return jax.random.split(key, size["seeds"])


def _moments(x: Float[Array, "tokens width"]) -> Float[Array, " 2"]:
    """Return the mean square of an entry, and the mean product of two tokens."""
    square = jnp.mean(x**2)
    # From differences, which do not cancel where tokens are almost the same.
    centred = x - x.mean(axis=0, keepdims=True)
    separation = jnp.mean(centred**2) * TOKENS / (TOKENS - 1)
    return jnp.stack([square, square - separation])


def _one_layer(skip: float, size: dict, *, key: Key) -> tuple[_Numbers, _Numbers]:
    """Return by how much tokens differ behind one layer, and their mean square."""
    net = _layer(size["width"])
    variant = _Variant(skip=skip, scaled=False, uniform=False)
    draw = functools.partial(_params, net, variant=variant, layers=1)

    def separation(x: Array, key: Key) -> Float[Array, " 2"]:
        y = net(draw(key), x)
        centred = y - y.mean(axis=0, keepdims=True)
        spread = jnp.mean(centred**2)
        return jnp.stack([spread, jnp.mean(y**2)])

    keys = _keys(key, size)
    moments = _over_distances(separation, keys, size=size)
    spread = moments[..., 0]
    squares = moments[..., 1]
    # The mean over tokens takes one of them from the sum of squares.
    return spread * TOKENS / (TOKENS - 1), squares


def _over_distances(
    function: Callable[[Array, Key], _Vector], keys: Key, *, size: dict
) -> _Numbers:
    """Return a function of tokens of every 1 − cosine, for each draw."""
    width = size["width"]
    xs = jnp.stack([_tokens(distance, width) for distance in DISTANCES])
    of_keys = jax.vmap(function, in_axes=(None, 0))
    of_all = jax.vmap(of_keys, in_axes=(0, None))
    return np.asarray(jax.jit(of_all)(xs, keys))


def _gradients(size: dict, *, key: Key) -> _Numbers:
    """Return the squared gradient of a random output, for each weight of a layer."""
    net = _layer(size["width"])
    variant = VARIANTS["no skip"]
    draw = functools.partial(_params, net, variant=variant, layers=1)
    cotangent = jax.random.normal(key, (TOKENS, size["width"]))

    def loss(params: Params, x: Array) -> Float[Array, ""]:
        return jnp.sum(cotangent * net(params, x))

    def squares(x: Array, key: Key) -> Float[Array, " weights"]:
        gradient = jax.grad(loss)(draw(key), x)
        attention = gradient["blocks"]["attention"]
        matrices = [attention[name]["w"] for name in WEIGHTS]
        return jnp.stack([jnp.sum(matrix**2) for matrix in matrices])

    # Slopes are those of every draw, so few will do.
    few = _keys(key, size)[:32]
    gradients = _over_distances(squares, few, size=size)
    return np.moveaxis(gradients, -1, 0)


def _law(variant: _Variant, layers: int) -> tuple[_Numbers, _Numbers]:
    """Return mean squares and products of tokens behind each layer, as predicted."""
    sigma_q = 1.0
    if variant.uniform:
        sigma_q = 0.0
    gram = _gram(1 - COSINE)
    squares = [gram[0, 0]]
    products = [gram[0, 1]]
    # Layer by layer, from the mean Gram matrix behind the one before.
    for _ in range(layers):
        gram = theory.attention_gram(
            gram,
            sigma_q=sigma_q,
            skip=variant.skip,
            branch=variant.branch(layers),
        )
        squares.append(gram[0, 0])
        products.append(gram[0, 1])
    return np.array(squares), np.array(products)


def _law_separation(skip: float) -> list[float]:
    """Return q − p behind one layer, as predicted, for tokens of every 1 − cosine."""
    separation = []
    for distance in DISTANCES:
        gram = theory.attention_gram(_gram(distance), skip=skip)
        square, product = gram[0, :2]
        separation.append(float(square - product))
    return separation


def _uniform(data: xarray.Dataset, variant: str) -> Float[np.ndarray, " layer"]:
    """Return the claim for uniform attention: 1 − cosine behind each layer."""
    layers = data.sizes["layer"] - 1
    strength = VARIANTS[variant].branch(layers) ** 2
    mean_cosine = COSINE + (1 - COSINE) / TOKENS
    grown = (1 + strength) ** data.layer.values - 1
    return (1 - COSINE) / (1 + mean_cosine * grown)


def _slope(values: xarray.DataArray) -> float:
    """Return the power of 1 − cosine between the two closest pairs of tokens."""
    closest = values.isel(distance=0)
    next_closest = values.isel(distance=1)
    growth = np.log(closest) - np.log(next_closest)
    powers = growth / math.log(DISTANCES[0] / DISTANCES[1])
    # The power holds in each draw; the median is that of a usual one.
    return float(np.median(powers))


def _separation_error(data: xarray.Dataset) -> float:
    """Return the largest error of one layer's separations, in standard errors."""
    # At smaller distances the predicted difference is smaller than its own rounding.
    data = data.sel(distance=slice(3e-3, None))
    separation = mean(data.separation, axis="seed")
    gaps = separation.gap(data.law_separation)
    return largest(gaps)


def _log_distance(data: xarray.Dataset) -> Estimate:
    """Return ln(1 − cosine) behind layers, of a ratio of means over draws."""
    of_draws = data.rename(seed="draw")
    return log_ratio(of_draws.square - of_draws["product"], of_draws.square)


def check(data: xarray.Dataset) -> tuple[Compared, ...]:
    """Compare tokens with theory, and the powers with those that are derived.

    Args:
        data: What `compute` returned.

    Returns:
        The comparisons.

    Raises:
        ClaimFailed: A comparison fails.
    """
    seeds = data.sizes["seed"]
    rows = []
    for name, variant in VARIANTS.items():
        rows.append(_depth_row(data, name))
        if variant.uniform:
            rows += _uniform_rows(data, name)
        if variant.scaled:
            rows.append(_share_row(data, name))
    rows.append(_cubic_row(data))
    powers = {"no skip": 3.0, "skip": 1.0}
    for i, (name, power) in enumerate(powers.items()):
        slope = _slope(data.separation.isel(skip=i))
        what = f"{name}: power of 1 − cosine in one layer"
        rows.append(within(what, slope, power, tolerance=SLOPE_ERROR))
    powers = {"query": 2.0, "key": 2.0, "value": 0.0}
    for name, power in powers.items():
        slope = _slope(data.gradient.sel(weights=name))
        what = f"squared gradient of {name}: power of 1 − cosine"
        rows.append(within(what, slope, power, tolerance=SLOPE_ERROR))
    # 1 − cosine of 0.01 and 0.1, without a skip and with one.
    bound = t_bound(4, seeds)
    for i, name in enumerate(("no skip", "skip")):
        error = _separation_error(data.isel(skip=i))
        what = f"{name}: separation of tokens behind one layer, standard errors off"
        rows.append(Compared(what, error, high=bound))
    return settled(rows)


def _depth_row(data: xarray.Dataset, variant: str) -> Compared:
    """Compare 1 − cosine behind every layer with theory."""
    if VARIANTS[variant].skip:
        last = data.sizes["layer"] - 1
        depth = f"{last} layers"
    else:
        # Means of cubes are larger than cubes of means, on which the law is built, so
        # that it holds behind the first layer alone.
        last = 1
        depth = "one layer"
    # With skips, draws of the logits fluctuate too, but all that logits do to the law
    # is 1 % in total.
    behind = data.sel(variant=variant).isel(layer=slice(1, last + 1))
    separation = behind.law_square - behind.law_product
    law = xarray.apply_ufunc(np.log, separation / behind.law_square)
    gaps = _log_distance(behind).gap(law)
    what = f"{variant}: 1 − cosine behind up to {depth}, standard errors off"
    bound = t_bound(last, data.sizes["seed"])
    return Compared(what, largest(gaps), high=bound)


def _share_row(data: xarray.Dataset, variant: str) -> Compared:
    """Compare what is left of 1 − cosine with what is left at any depth."""
    mean_cosine = COSINE + (1 - COSINE) / TOKENS
    # (1 + 1/L)^L is less than e.
    at_any_depth = 1 / (1 + mean_cosine * (math.e - 1))
    last = data.sel(variant=variant).isel(layer=-1)
    left = _log_distance(last).exp().per(1 - COSINE)
    what = f"{variant}: share of 1 − cosine that is left, less two standard errors"
    lower = float(left.value - 2 * left.error)
    return Compared(what, lower, low=at_any_depth)


def _cubic_row(data: xarray.Dataset) -> Compared:
    """Compare how fast tokens collapse without skips, from layer to layer."""
    behind = data.sel(variant="no skip", layer=[1, 2])
    behind_one, behind_two = _log_distance(behind).value.values
    what = "no skip: ln(1 − cosine) behind two layers over that behind one"
    # A cube, times a factor below 1. Later layers of some draws are below rounding.
    return Compared(what, float(behind_two / behind_one), low=3.0)


def _uniform_rows(data: xarray.Dataset, variant: str) -> list[Compared]:
    """Compare uniform attention with theory, and that with the closed form."""
    # All tokens start with the mean square 1.
    behind = data.sel(variant=variant, layer=slice(1, None))
    square = mean(behind.square, axis="seed")
    gaps = square.gap(behind.law_square)
    bound = t_bound(behind.law_square.size, data.sizes["seed"])
    predicted = data.sel(variant=variant)
    distance = 1 - predicted.law_product / predicted.law_square
    difference = abs(distance - _uniform(data, variant))
    return [
        Compared(
            f"{variant}: mean square of tokens, standard errors off",
            largest(gaps),
            high=bound,
        ),
        within(
            f"{variant}: theory against the closed form",
            largest(difference),
            0.0,
            tolerance=1e-12,
        ),
    ]


def plot(data: xarray.Dataset) -> "Figure":
    """Draw 1 − cosine over depth, in one layer, and gradients near collapse.

    Args:
        data: What `compute` returned.

    Returns:
        The figure.
    """
    figure, left, middle, right = three_panels(height=2.5, width=2.7)
    _draw_depth(left, data)
    _draw_layer(middle, data)
    _draw_gradients(right, data)
    return figure


def _draw_depth(ax: "Axes", data: xarray.Dataset) -> None:
    """Draw 1 − cosine against depth."""
    square = data.square.mean("seed")
    product = data["product"].mean("seed")
    distance = (square - product) / square
    law = 1 - data.law_product / data.law_square
    for i, variant in enumerate(VARIANTS):
        style = {"label": variant, "ms": 3}
        # The last two coincide, so that the marks of the third are larger.
        if i == 2:
            style["ms"] = 6
        measured = distance.sel(variant=variant)
        _style.dots(ax, data.layer, measured, error=None, i=i, **style)
        predicted = law.sel(variant=variant)
        shown = predicted.where(predicted > ROUNDING)
        _style.line(ax, data.layer, y=shown, i=i)
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
    for i, label in enumerate(("no skip", "with skip")):
        with_skip = data.isel(skip=i)
        separation = mean(with_skip.separation, axis="seed")
        law = with_skip.law_separation
        separation.draw_with_line(
            ax,
            data.distance,
            i,
            predicted=law.where(law > ROUNDING),
            label=label,
        )
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
    gradient = data.gradient.mean("draw")
    for i, name in enumerate(WEIGHTS):
        style = {"label": name, "ms": 3}
        # Queries and keys coincide, so that the marks of queries are larger.
        if name == "query":
            style["ms"] = 6
        of_name = gradient.sel(weights=name)
        _style.dots(ax, data.distance, of_name, error=None, i=i, **style)
    of_query = gradient.sel(weights="query")
    start = float(of_query.isel(distance=0))
    square = start * (data.distance / DISTANCES[0]) ** 2
    # Through the first mark of queries.
    ax.plot(data.distance, square, color="0.3", lw=0.8, label="power 2")
    ax.set(
        xlabel="1 − cosine in front",
        ylabel="squared gradient of the weight",
        title="Gradients",
        xscale="log",
        yscale="log",
    )
    ax.legend(loc="lower right")
