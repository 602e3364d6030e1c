"""Schemes of transformers. N counts layers of the encoder (or of the only stack), M those of the decoder.

The layers of the trunk, and those of a network without branches, get the law that the paper gives all others.
"""

from isometry import _checks, initializers
from isometry.schemes._layer import Branch, Layer
from isometry.schemes._scheme import Init, Residual, Scheme

_SCALED = ("hidden", "value", "output")  # what T-Fixup and DeepNorm scale on a branch: all but query and key


def _xavier_uniform(layer: Layer, gain: float) -> Init:
    bound = gain * (6 / (layer.fan_in + layer.fan_out)) ** 0.5
    return initializers.uniform(low=-bound, high=bound)


def _embedding(layer: Layer, gain: float = 1.0) -> Init:
    return initializers.normal(std=gain * layer.fan_out**-0.5)


def _t_fixup(layer: Layer, sigma_w: float) -> Init:
    branch = layer.branch
    if layer.role == "embedding":
        if branch is None:
            raise _checks.InputError(
                "t_fixup: an embedding is scaled by the number of layers; write its Layer with branch= the first "
                "branch that reads it."
            )
        return _embedding(layer, (9 * branch.layers) ** -0.25)
    if branch is None or layer.role not in _SCALED:
        return _xavier_uniform(layer, 1.0)
    gain = (9 * branch.layers) ** -0.25 if branch.crosses else 0.67 * branch.layers**-0.25
    return _xavier_uniform(layer, gain)


def _paired(branch: Branch) -> bool:
    """Whether the branch lies in an encoder that a decoder attends to."""
    return branch.stack == "encoder" and branch.other > 0


def _both_depths(branch: Branch) -> float:
    """(N⁴ M)^(1/16) of an encoder with `branch.count` = 2 N and a decoder with `branch.other` = 3 M branches."""
    return ((branch.count / 2) ** 4 * branch.other / 3) ** (1 / 16)


def _deep_norm(layer: Layer, sigma_w: float) -> Init:
    """Table of DeepNet, Fig. 2. With L branches in the stack (2 N, or 3 M where it crosses) β is (4 L)^(-1/4)."""
    branch = layer.on_branch
    if layer.role == "embedding":
        return _embedding(layer)
    beta = 1.0
    if branch is not None and layer.role in _SCALED:
        beta = 0.87 / _both_depths(branch) if _paired(branch) else (4 * branch.count) ** -0.25
    return initializers.normal(std=beta * (2 / (layer.fan_in + layer.fan_out)) ** 0.5)


def _deep_norm_block(branch: Branch) -> Residual:
    """The skip is multiplied by α, which is L^(1/4) with L branches in the stack."""
    return Residual(skip=0.81 * _both_depths(branch) if _paired(branch) else branch.count**0.25)


def _gpt2(layer: Layer, sigma_w: float) -> Init:
    branch = layer.on_branch
    return initializers.normal(std=0.02 if branch is None or not branch.last else 0.02 * branch.count**-0.5)


SCHEMES = (
    Scheme(
        "t_fixup",
        _t_fixup,
        "Xavier weights scaled down with depth, for transformers without layer normalization or warm-up",
        law="uniform, variance g²·2/(fan_in + fan_out); g = 0.67 N^(-1/4) for values, outputs and feed-forward layers, "
        "(9 M)^(-1/4) in a decoder that attends to an encoder; g = 1 for queries, keys and the trunk; embeddings "
        "N(0, (9 N)^(-1/2)/d), N (M in a decoder) layers",
        citation="Huang et al. (2020), ICML, Improving Transformer Optimization Through Better Initialization",
        differs="the authors' fairseq code has queries and keys at a gain of 1/√2, that library's own",
    ),
    Scheme(
        "deep_norm",
        _deep_norm,
        "Xavier weights scaled down and skips scaled up with depth, for LayerNorm(α x + F(x))",
        law="N(0, β²·2/(fan_in + fan_out)) for values, outputs and feed-forward layers, β = 1 for all others; one "
        "stack: α = (2 N)^(1/4), β = (8 N)^(-1/4); encoder of two: α = 0.81 (N⁴ M)^(1/16), β = 0.87 (N⁴ M)^(-1/16); "
        "decoder of two: α = (3 M)^(1/4), β = (12 M)^(-1/4); embeddings N(0, 1/d)",
        citation="Wang et al. (2022), arXiv:2203.00555",
        differs="torchscale divides by (N⁴ M)^(1/16)/1.15 in the encoder of two: its β has 1.15 where the paper has "
        "0.87 = 1/1.15; its weights are uniform, and its queries, keys and values have another 1/√2",
        multipliers=_deep_norm_block,
    ),
    Scheme(
        "gpt2",
        _gpt2,
        "Gaussian weights of one small scale, smaller at the end of each residual branch",
        law="N(0, 0.02²); the last layer of each branch N(0, 0.02²/L), L residual branches (2 a transformer layer)",
        citation="Radford et al. (2019), Language Models are Unsupervised Multitask Learners, section 2.3",
    ),
)
