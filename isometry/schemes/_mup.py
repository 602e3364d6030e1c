"""Maximal update parametrization: variances that fall with width, and the learning rates that go with them."""

from isometry import _checks, initializers
from isometry.schemes._layer import Layer
from isometry.schemes._scheme import Drawn, Init, Scheme

OPTIMIZERS = ("sgd", "adam")


def _kind(layer: Layer) -> str:
    """Which of the widths grow: "input" (only fan_out), "output" (only fan_in), "hidden" (both), "fixed" (neither)."""
    if layer.role in ("stem", "embedding"):
        return "input"
    if layer.role == "head":
        return "output" if layer.depth > 1 else "fixed"
    return "hidden"


def _mup(layer: Layer, sigma_w: float) -> Init:
    if layer.role == "embedding":  # reads one row: its fan_in counts as 1
        return initializers.normal()
    return initializers.normal(std=1 / layer.fan_in if _kind(layer) == "output" else layer.fan_in**-0.5)


def learning_rate(layer: Layer, optimizer: str, base_width: int, *, bias: bool = False) -> float:
    """What muP multiplies a layer's learning rate by, in a network whose rate was tuned at hidden width `base_width`.

    **Arguments**
    - `layer`: a `Layer` of the network to be trained, as in `net.plan`.
    - `optimizer`: "sgd" (with or without momentum), or "adam" for all that normalize the gradient entry by entry.
    - `base_width`: every hidden width of the network in which the rate was tuned; there the multiplier is 1.
    - `bias`: of the layer's biases in place of its weights.

    With r = width/base_width: input weights r ("sgd") and 1 ("adam"), hidden weights 1 and 1/r, output weights 1/r and
    1/r. Biases are input weights of fan_in 1. A hidden layer whose two widths differ has, for "sgd", their ratio.

    **Raises** `ValueError`: an unknown optimizer; a base width below 1.

    Source: Yang et al. (2022), Tensor Programs V, Table 3, arXiv:2203.03466.
    """
    _checks.one_of("learning_rate", among=OPTIMIZERS, optimizer=optimizer)
    _checks.integer("learning_rate", low=1, base_width=base_width)
    kind, wide_in, wide_out = _kind(layer), layer.fan_in / base_width, layer.fan_out / base_width
    if bias:
        kind = "fixed" if kind in ("output", "fixed") else "input"
    sgd = {"input": wide_out, "hidden": wide_out / wide_in, "output": 1 / wide_in, "fixed": 1.0}
    adam = {"input": 1.0, "hidden": 1 / wide_in, "output": 1 / wide_in, "fixed": 1.0}
    return {"sgd": sgd, "adam": adam}[optimizer][kind]


SCHEMES = (
    Scheme(
        "mup",
        _mup,
        "Gaussian weights of variance 1/fan_in, but 1/fan_in² in the head; needs learning rates by layer",
        law="N(0, 1/fan_in) in stem, hidden and attention layers, N(0, 1/fan_in²) in the head, N(0, 1) in embeddings; "
        "a network of one layer has no width: N(0, 1/fan_in); multipliers for SGD and Adam: schemes.learning_rate",
        citation="Yang et al. (2022), Tensor Programs V, Table 3, arXiv:2203.03466",
        ensemble=lambda layer, sigma_w: Drawn("gaussian", layer.fan_in**-0.5 if _kind(layer) == "output" else 1.0),
        differs="the mup package draws the head as at the base width and multiplies its inputs by 1/r instead "
        "(Table 8); that attention logits are divided by d, not √d, is the network's to do",
    ),
)
