"""What theory knows of a residual network: its blocks, their law and its moments.

`theory.mean_field._residual` follows the stream through the blocks, whose multipliers,
scales and norms are read off the network here.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import NotDefined
from isometry.networks import _norms
from isometry.networks._network import SPANS
from isometry.networks._predicted import Gram
from isometry.schemes._assignment import Ensemble
from isometry.theory import Law, Moments
from isometry.theory.laws import _residual_law
from isometry.theory.mean_field._norms import NORMS, norm_zeros
from isometry.theory.mean_field._residual import (
    ORDERS,
    Block,
    Norm,
    Passage,
    Stream,
    follow,
)

if TYPE_CHECKING:
    from isometry.networks._resnet import Resnet


@dataclass(frozen=True)
class Chain:
    """A residual network of dense blocks as theory sees it.

    Attributes:
        blocks: The blocks, from first to last.
        names: What each is called: how the names of its points begin, and end.
        norm: Their norms, or None.
        stem: The linear layer in front of them, or None.
        head: The linear layer behind them, or None.
        ensembles: "gaussian" or "orthogonal", for each that weights of blocks have.
    """

    blocks: list[Block]
    names: list[tuple[str, str]]
    norm: Norm | None
    stem: Ensemble | None
    head: Ensemble | None
    ensembles: frozenset[str]

    def stream(self, xs: ArrayLike) -> Stream:
        """Return the stream in front of the first block."""
        values = np.asarray(xs, np.float64)
        # Without a stem the units of the stream are those of xs, not Gaussian ones.
        if self.stem is None:
            return Stream.of_values(values)
        gram = values @ values.T / values.shape[1]
        return Stream.gaussian(behind(self.stem, gram))


def behind(ensemble: Ensemble, gram: Gram) -> Gram:
    """Return the products behind a linear layer."""
    return square(ensemble) * gram + ensemble.sigma_b**2


def square(ensemble: Ensemble) -> float:
    """Return fan_in · Var W."""
    return ensemble.drawn.gain(ensemble.layer) ** 2


def chain(net: "Resnet") -> Chain:
    """Read the blocks, scales and norms off a network, for theory to follow.

    Raises:
        NotDefined: The blocks are convolutions; the scheme has no law.
    """
    function = net.function
    if function.runs[0].block.size:
        raise NotDefined(
            "blocks of convolutions are not followed: positions differ; isometry."
            "ensemble and isometry.signals measure them."
        )
    if net.scheme.data_driven:
        raise NotDefined(f"{net.scheme.name} adjusts the weights to data.")
    by_name = _ensembles(net)
    blocks, names = [], []
    branch_weights: set[str] = set()
    for number, run in enumerate(function.runs):
        # As the anatomy names layers: a run of equal blocks has a number if there are
        # several runs, and a block has an index if its run has several blocks.
        prefix = "blocks/"
        if len(function.runs) > 1:
            prefix = f"blocks/{number}/"
        for i in range(run.length):
            layers = [by_name[f"{prefix}first"][i]]
            if ORDERS[function.order].num_layers == 2:
                layers.append(by_name[f"{prefix}second"][i])
            # The shortcut is no part of the branch: its ensemble is not asked for.
            branch_weights |= {layer.drawn.weights for layer in layers}
            shortcut = None
            if run.block.projects:
                shortcut = square(by_name[f"{prefix}shortcut"][i])
            block = Block(
                skip=function.skips[run.start + i],
                branch=net.start_of_branch(run.start + i),
                squares=tuple(map(square, layers)),
                bias=layers[0].sigma_b ** 2,
                shortcut=shortcut,
            )
            blocks.append(block)
            index = f"[{i}]" if run.length > 1 else ""
            names.append((prefix, index))
    norm = None
    if function.norm is not None:
        norm = Norm(function.norm, function.norm_at, _norms.EPSILON)
    return Chain(
        blocks=blocks,
        names=names,
        norm=norm,
        stem=by_name.get("stem", [None])[0],
        head=by_name.get("head", [None])[0],
        ensembles=frozenset(branch_weights),
    )


def _ensembles(net: "Resnet") -> dict[str, list[Ensemble]]:
    """Return the ensemble of every layer by its name, one for each block of a run."""
    by_name: dict[str, list[Ensemble]] = {}
    for ensemble in net.require_assignment().drawn():
        # The scheme has a sigma_b, which a network without biases does not use.
        if not net.bias:
            ensemble = ensemble._replace(sigma_b=0.0)
        by_name.setdefault(ensemble.layer.name, []).append(ensemble)
    return by_name


def law(net: "Resnet", span: str, xs: ArrayLike) -> Law:
    """Return the law of the blocks, for `Resnet.law`."""
    seen = chain(net)
    passages, weights = _passed(net, seen, span, xs=xs)
    zeros = 0.0
    # The skip passes on what a norm in front of a branch takes away. In the hidden span
    # the norm of the last block has no part.
    norm = seen.norm
    has_norm = len(passages) > 1 or span == "end_to_end"
    if norm is not None and norm.at == "post" and norm.kind in NORMS and has_norm:
        width = net.function.runs[0].block.n_out
        zeros = norm_zeros(norm.kind, width)
    return _residual_law.law_of(
        net.function.activation,
        passages,
        order=net.function.order,
        weights=weights,
        norm=norm,
        zeros=zeros,
    )


def moments(net: "Resnet", span: str, xs: ArrayLike) -> Moments:
    """Return mean and variance of lam, for `Resnet.moments`."""
    passages, weights = _passed(net, chain(net), span, xs=xs)
    return _residual_law.moments_of(
        net.function.activation,
        passages,
        order=net.function.order,
        weights=weights,
    )


def _passed(
    net: "Resnet",
    seen: Chain,
    span: str,
    *,
    xs: ArrayLike,
) -> tuple[list[Passage], str]:
    """Return what a span does to one input with the mean square of xs, and its weights.

    Raises:
        NotDefined: The span has a stem or a head, blocks of different widths, or
            weights of two ensembles; a batch is normalized by its own statistics.
    """
    checks.one_of("span", span, SPANS)
    function = net.function
    if function.is_training:
        raise NotDefined(
            "batch norm in training makes every example depend on all others of its "
            "batch, and no law is known: net.mean_field predicts the growth of "
            "gradients, and theory.batch_norm_growth that without skips."
        )
    has_ends = function.n_in is not None or function.n_out is not None
    if span == "end_to_end" and has_ends:
        raise NotDefined(
            "no law is implemented for residual blocks with a stem or a head; take "
            'span="hidden", the blocks alone.'
        )
    if any(block.shortcut is not None for block in seen.blocks):
        raise NotDefined(
            "no law is implemented for residual blocks of different widths; isometry."
            "ensemble measures them."
        )
    if len(seen.ensembles) > 1:
        raise NotDefined(
            "no law is implemented for residual blocks with weights of two ensembles."
        )
    # Shortcuts and ends are excluded above, so these are the weights of all branches.
    (weights,) = seen.ensembles
    # The units of all inputs, as if they were those of one.
    values = np.asarray(xs, np.float64).reshape(1, -1)
    passages = follow(
        function.activation,
        seen.blocks,
        order=function.order,
        stream=seen.stream(values),
        norm=seen.norm,
    )
    if span == "hidden":
        # It ends where the last branch joins, in front of a norm behind the sum.
        last = passages[-1]
        ones = np.ones_like(last.scale)
        passages[-1] = replace(last, scale=ones, after=last.sum)
    return passages, weights
