"""Schemes of transformers.

N counts layers of the encoder (or of the only stack), M those of the decoder. Layers of
the stream, and those of a network without branches, get the law that the paper gives
all others.
"""

from isometry import initializers
from isometry._internal.errors import NotDefined
from isometry._internal.types import Initializer as Init
from isometry.schemes._layer import Branch, Layer
from isometry.schemes._scheme import Drawn, Residual, Scheme

# What T-Fixup and DeepNorm scale on a branch: all but query and key.
_SCALED = ("hidden", "value", "output")


def xavier_uniform(layer: Layer, gain: float) -> Init:
    """Choose uniform weights of variance gain²·2/(fan_in + fan_out)."""
    bound = gain * (6 / (layer.fan_in + layer.fan_out)) ** 0.5
    return initializers.uniform(low=-bound, high=bound)


def embedding(layer: Layer, gain: float = 1.0) -> Init:
    """Choose embeddings N(0, gain²/d), with d the length of a row."""
    return initializers.normal(std=gain * layer.fan_out**-0.5)


def refuse_fused(layer: Layer, name: str) -> None:
    """Refuse a layer with one weight for values and for queries or keys.

    Schemes that draw values otherwise than queries and keys call it.

    Args:
        layer: The layer.
        name: The name of the scheme, for the message.

    Raises:
        NotDefined: It is such a layer.
    """
    if layer.role == "qkv":
        raise NotDefined(
            f"{name} treats values otherwise than queries and keys, and one weight "
            "makes them all; write three weights, or three leaves that the network "
            "concatenates."
        )


def _t_fixup(layer: Layer, sigma_w: float) -> Init:
    """Choose Xavier weights, scaled down with the depth of the stack."""
    # The scheme is not free, so `sigma_w` has nothing to scale.
    del sigma_w
    branch = layer.branch
    if layer.role == "embedding":
        if branch is None:
            raise NotDefined(
                "an embedding is scaled by the number of layers; write its Layer with "
                "branch= the first branch that reads it."
            )
        return embedding(layer, (9 * branch.layers) ** -0.25)
    # Values are scaled and queries and keys are not (section 3.2, step 3).
    refuse_fused(layer, "t_fixup")
    if branch is None or layer.role not in _SCALED:
        return xavier_uniform(layer, gain=1.0)
    # The paper has another factor for a decoder that attends to an encoder.
    if branch.crosses:
        return xavier_uniform(layer, gain=(9 * branch.layers) ** -0.25)
    return xavier_uniform(layer, gain=0.67 * branch.layers**-0.25)


def _is_attended(branch: Branch) -> bool:
    """Tell whether the branch lies in an encoder that a decoder attends to."""
    return branch.stack == "encoder" and branch.other > 0


def _both_depths(branch: Branch) -> float:
    """Return (N⁴ M)^(1/16) for an encoder of N layers and a decoder of M.

    `branch` is one of the encoder, which has two a layer; the decoder has three.
    """
    num_encoder = branch.count / 2
    num_decoder = branch.other / 3
    return (num_encoder**4 * num_decoder) ** (1 / 16)


def _deep_norm(layer: Layer, sigma_w: float) -> Init:
    """Choose Xavier weights times β = (4 L)^(-1/4), as in column β of DeepNet, Fig. 2.

    L is the number of residual branches of the stack: 2N for N layers, 3M for a decoder
    of M layers that attends to an encoder. Such an encoder has another β.
    """
    # The scheme is not free, so `sigma_w` has nothing to scale.
    del sigma_w
    if layer.role == "embedding":
        return embedding(layer)
    return initializers.normal(std=_deep_norm_std(layer))


def _deep_norm_std(layer: Layer) -> float:
    branch = layer.on_branch
    refuse_fused(layer, "deep_norm")
    xavier = (2 / (layer.fan_in + layer.fan_out)) ** 0.5
    if branch is None or layer.role not in _SCALED:
        return xavier
    # Fig. 2, encoder of an encoder and decoder.
    if _is_attended(branch):
        beta = 0.87 / _both_depths(branch)
    else:
        beta = (4 * branch.count) ** -0.25
    return beta * xavier


def _deep_norm_drawn(layer: Layer, sigma_w: float) -> Drawn:
    """Return the distribution of what `deep_norm` draws."""
    del sigma_w
    std = _deep_norm_std(layer)
    if layer.role == "embedding":
        std = layer.fan_out**-0.5
    return Drawn("gaussian", std * layer.fan_in**0.5)


def _deep_norm_block(branch: Branch) -> Residual:
    """Return the multiplier α = L^(1/4) of the skip, as in column α of DeepNet, Fig. 2.

    L is the number of residual branches of the stack. An encoder that a decoder attends
    to has α = 0.81 (N⁴ M)^(1/16).
    """
    if _is_attended(branch):
        return Residual(skip=0.81 * _both_depths(branch))
    return Residual(skip=branch.count**0.25)


def _gpt2(layer: Layer, sigma_w: float) -> Init:
    """Choose weights N(0, 0.02²), divided by √L at the end of each of L branches."""
    # The scheme is not free, so `sigma_w` has nothing to scale.
    del sigma_w
    return initializers.normal(std=_gpt2_std(layer))


def _gpt2_std(layer: Layer) -> float:
    branch = layer.on_branch
    # The factor counters the growth of the stream. Only the last layer of a branch adds
    # to the stream, so only that one is scaled.
    if branch is None or not branch.last:
        return 0.02
    return 0.02 * branch.count**-0.5


def _gpt2_drawn(layer: Layer, sigma_w: float) -> Drawn:
    """Return the distribution of what `gpt2` draws."""
    del sigma_w
    return Drawn("gaussian", _gpt2_std(layer) * layer.fan_in**0.5)


SCHEMES = (
    Scheme(
        "t_fixup",
        _t_fixup,
        "Xavier weights scaled down with depth, for transformers without layer "
        "normalization or warm-up",
        law="uniform, variance g²·2/(fan_in + fan_out); g = 0.67 N^(-1/4) for values, "
        "outputs and feed-forward layers, (9 M)^(-1/4) in a decoder that attends to an "
        "encoder; g = 1 for queries, keys and the trunk; embeddings "
        "N(0, (9 N)^(-1/2)/d), N (M in a decoder) layers",
        citation="Huang et al. (2020), ICML, Improving Transformer Optimization "
        "Through Better Initialization",
        differs="the authors' fairseq code has queries and keys at a gain of 1/√2, "
        "that library's own",
        embeddings=True,
        made_for="branches",
        otherwise="draws what xavier does",
    ),
    Scheme(
        "deep_norm",
        _deep_norm,
        "Xavier weights scaled down and skips scaled up with depth, for "
        "LayerNorm(α x + F(x))",
        law="N(0, β²·2/(fan_in + fan_out)) for values, outputs and feed-forward "
        "layers, β = 1 for all others; one stack: α = (2 N)^(1/4), β = (8 N)^(-1/4); "
        "encoder of two: α = 0.81 (N⁴ M)^(1/16), β = 0.87 (N⁴ M)^(-1/16); decoder of "
        "two: α = (3 M)^(1/4), β = (12 M)^(-1/4); embeddings N(0, 1/d)",
        citation="Wang et al. (2022), arXiv:2203.00555",
        differs="torchscale divides by (N⁴ M)^(1/16)/1.15 in the encoder of two: its β "
        "has 1.15 where the paper has 0.87 = 1/1.15; its weights are uniform, and its "
        "queries, keys and values have another 1/√2; a projection on the skip, of "
        "which the paper says nothing, needs a leaf for its α",
        ensemble=_deep_norm_drawn,
        multipliers=_deep_norm_block,
        embeddings=True,
        made_for="branches",
        otherwise="draws N(0, 2/(fan_in + fan_out))",
    ),
    Scheme(
        "gpt2",
        _gpt2,
        "Gaussian weights of one small scale, smaller at the end of each residual "
        "branch",
        law="N(0, 0.02²); the last layer of each branch N(0, 0.02²/L), L residual "
        "branches (2 a transformer layer); embeddings too",
        citation="Radford et al. (2019), Language Models are Unsupervised Multitask "
        "Learners, section 2.3",
        ensemble=_gpt2_drawn,
        embeddings=True,
        made_for="branches",
        otherwise="draws N(0, 0.02²) everywhere",
    ),
)
