"""Maximal update parametrization: variances and learning rates that follow width."""

from isometry import initializers
from isometry._internal import checks
from isometry._internal.errors import public
from isometry._internal.types import Initializer as Init
from isometry.schemes._layer import Layer
from isometry.schemes._scheme import Drawn, Scheme

OPTIMIZERS = ("sgd", "adam")


def _kind(layer: Layer) -> str:
    """Return which sides of a layer grow with width: its row in muP's Table 3.

    "input": the outputs alone; "output": the inputs alone; "hidden": both; "fixed":
    neither.
    """
    if layer.role in ("stem", "embedding"):
        return "input"
    if layer.role == "head":
        # A network of one layer has inputs and outputs only, and neither number grows.
        return "output" if layer.depth > 1 else "fixed"
    return "hidden"


def _mup(layer: Layer, sigma_w: float) -> Init:
    """Choose Gaussian weights of the variance in Table 3."""
    # The scheme is not free, so `sigma_w` has nothing to scale.
    del sigma_w
    # A token reads a single row of an embedding, so its fan_in counts as 1.
    if layer.role == "embedding":
        return initializers.normal()
    return initializers.normal(std=_sigma_w(layer) * layer.fan_in**-0.5)


def _sigma_w(layer: Layer) -> float:
    """Return √(fan_in · Var W) of a layer by Table 3."""
    return layer.fan_in**-0.5 if _kind(layer) == "output" else 1.0


@public("schemes.learning_rate")
def learning_rate(
    layer: Layer, optimizer: str, base_width: int, *, bias: bool = False
) -> float:
    """Compute the factor by which muP multiplies the learning rate of a layer.

    The rate was tuned in a network of hidden width `base_width`. With
    r = width/base_width, the factors for "sgd" and "adam" are r and 1 for input
    weights, 1 and 1/r for hidden weights, 1/r and 1/r for output weights. Biases count
    as input weights of fan_in 1. For a hidden layer with two widths, the factor for
    "sgd" is outputs/inputs. The width of a convolution is its number of channels (Yang
    et al., 2022, Table 3, arXiv:2203.03466).

    Args:
        layer: A `Layer` of the network to be trained.
        optimizer: "sgd" (with or without momentum), or "adam" for all that normalize
            the gradient entry by entry.
        base_width: The width of all hidden layers of the network in which the rate was
            tuned. In that network all factors are 1.
        bias: Whether the factor is for the biases of the layer, not its weights.

    Returns:
        The factor.

    Raises:
        InputError: An unknown optimizer, or a base width below 1.

    Example:
        >>> layer = schemes.Layer("hidden", index=1, depth=3, fan_in=256, fan_out=256)
        >>> schemes.learning_rate(layer, "adam", 64)
        0.25
    """
    checks.one_of("optimizer", optimizer, OPTIMIZERS)
    checks.integer("base_width", base_width, low=1)
    kind = _kind(layer)
    wide_in = layer.num_inputs / base_width
    wide_out = layer.num_outputs / base_width
    # A bias counts as an input weight of fan_in 1, unless its outputs do not grow.
    if bias:
        kind = "fixed" if kind in ("output", "fixed") else "input"
    rates = {"input": 1.0, "hidden": 1 / wide_in, "output": 1 / wide_in, "fixed": 1.0}
    # Gradients depend on width. SGD's steps are proportional to them, so its rates have
    # to correct for that; Adam's steps have the same size whatever the gradient.
    if optimizer == "sgd":
        rates |= {"input": wide_out, "hidden": wide_out / wide_in}
    return rates[kind]


SCHEMES = (
    Scheme(
        "mup",
        _mup,
        "Gaussian weights of variance 1/fan_in, but 1/fan_in² in the head; needs "
        "learning rates by layer",
        law="N(0, 1/fan_in) in stem, hidden and attention layers, N(0, 1/fan_in²) in "
        "the head, N(0, 1) in embeddings; a network of one layer has no width: "
        "N(0, 1/fan_in); multipliers for SGD and Adam: schemes.learning_rate",
        citation="Yang et al. (2022), Tensor Programs V, Table 3, arXiv:2203.03466",
        ensemble=lambda layer, sigma_w: Drawn("gaussian", _sigma_w(layer)),
        differs="the mup package draws the head as at the base width and multiplies "
        "its inputs by 1/r instead (Table 8); that attention logits are divided by d, "
        "not √d, is the network's to do",
        embeddings=True,
        made_for="widths",
        otherwise="draws N(0, 1/fan_in)",
    ),
)
