"""What theory knows of a residual network: its law, its moments and its signals.

`theory.mean_field._residual` follows the stream through the blocks, whose multipliers,
scales and norms are read off the network here.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jax.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import NotDefined
from isometry.networks import _norms, _predicted
from isometry.networks._network import SPANS
from isometry.networks._predicted import Gram, PerInput
from isometry.records import Signals
from isometry.schemes import Drawn
from isometry.schemes._assignment import Ensemble
from isometry.theory import Law, Moments
from isometry.theory.laws import _residual_law
from isometry.theory.mean_field._norms import NORMS, norm_zeros
from isometry.theory.mean_field._residual import (
    ORDERS,
    Block,
    Gradients,
    Norm,
    Passage,
    Stream,
    follow,
    pull_back,
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
        if self.stem is None:
            return Stream.of_values(values)
        gram = values @ values.T / values.shape[1]
        return Stream.gaussian(_behind(self.stem, gram))


def _behind(ensemble: Ensemble, gram: Gram) -> Gram:
    """Return the products behind a linear layer."""
    return _square(ensemble) * gram + ensemble.sigma_b**2


def _square(ensemble: Ensemble) -> float:
    """Return fan_in · Var W."""
    return ensemble.drawn.gain(ensemble.layer) ** 2


def chain(net: "Resnet") -> Chain:
    """Return what theory must know of a network.

    Raises:
        NotDefined: The blocks are convolutions; a batch is normalized by its own
            statistics; the scheme has no law.
    """
    function = net.function
    if function.runs[0].block.size:
        raise NotDefined(
            "blocks of convolutions are not followed: positions differ; isometry."
            "ensemble and isometry.signals measure them."
        )
    if function.is_training and function.norm == "batch":
        raise NotDefined(
            "batch norm in training makes every example depend on all others of its "
            "batch; theory.batch_norm_growth has the growth of gradients of layers "
            "without skips. The network itself, in inference, has predictions."
        )
    if net.scheme.data_driven:
        raise NotDefined(f"{net.scheme.name} adjusts the weights to data.")
    by_name: dict[str, list[Ensemble]] = {}
    for ensemble in net.require_assignment().drawn():
        if not net.bias:
            ensemble = ensemble._replace(sigma_b=0.0)
        by_name.setdefault(ensemble.layer.name, []).append(ensemble)
    blocks, names = [], []
    drawn: list[Drawn] = []
    for number, run in enumerate(function.runs):
        prefix = "blocks/"
        if len(function.runs) > 1:
            prefix = f"blocks/{number}/"
        for i in range(run.length):
            layers = [by_name[f"{prefix}first"][i]]
            if ORDERS[function.order].num_layers == 2:
                layers.append(by_name[f"{prefix}second"][i])
            shortcut = None
            if run.block.projects:
                shortcut = _square(by_name[f"{prefix}shortcut"][i])
            drawn += [layer.drawn for layer in layers]
            block = Block(
                skip=function.skips[run.start + i],
                branch=net.start_of_branch(run.start + i),
                squares=tuple(map(_square, layers)),
                bias=layers[0].sigma_b ** 2,
                shortcut=shortcut,
            )
            blocks.append(block)
            names.append((prefix, f"[{i}]" if run.length > 1 else ""))
    norm = None
    if function.norm is not None:
        norm = Norm(function.norm, function.norm_at, _norms.EPSILON)
    return Chain(
        blocks=blocks,
        names=names,
        norm=norm,
        stem=by_name.get("stem", [None])[0],
        head=by_name.get("head", [None])[0],
        ensembles=frozenset(one.weights for one in drawn),
    )


def law(net: "Resnet", span: str, xs: ArrayLike) -> Law:
    """Return the law of the blocks, for `Resnet.law`."""
    seen = chain(net)
    passages, weights = _passed(net, seen, span, xs)
    zeros = 0.0
    # Of norms in front of branches the skip passes everything on.
    has_norm = len(passages) > 1 or span == "end_to_end"
    if net.function.norm in NORMS and net.function.norm_at == "post" and has_norm:
        zeros = norm_zeros(net.function.norm, net.function.runs[0].block.n_out)
    return _residual_law.law_of(
        net.function.activation,
        passages,
        order=net.function.order,
        weights=weights,
        norm=seen.norm,
        zeros=zeros,
    )


def moments(net: "Resnet", span: str, xs: ArrayLike) -> Moments:
    """Return mean and variance of lam, for `Resnet.moments`."""
    passages, weights = _passed(net, chain(net), span, xs)
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
    xs: ArrayLike,
) -> tuple[list[Passage], str]:
    """Return what a span does to one input with the mean square of xs, and its weights.

    Raises:
        NotDefined: The span has a stem or a head, blocks of different widths, or
            weights of two ensembles.
    """
    checks.one_of("span", span, SPANS)
    function = net.function
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
        passages[-1] = dataclasses.replace(last, scale=ones, after=last.sum)
    return passages, weights


def mean_field(net: "Resnet", xs: ArrayLike) -> Signals:
    """Return the predicted signals, for `Resnet.mean_field`."""
    function = net.function
    seen = chain(net)
    stream = seen.stream(xs)
    passages = follow(
        function.activation,
        seen.blocks,
        order=function.order,
        stream=stream,
        norm=seen.norm,
    )
    values = np.asarray(xs, np.float64)
    grams = {"input": values @ values.T / values.shape[1]}
    if seen.stem is not None:
        grams["stem"] = stream.gram
    for names, passage in zip(seen.names, passages, strict=True):
        grams |= _grams(names, passage, function.order)
    output = passages[-1].after.gram
    now = np.ones(len(values))
    apjn = {"output": now}
    if seen.head is not None:
        output = _behind(seen.head, output)
        grams["head"] = output
        apjn["head"] = now
        now = _square(seen.head) * now
    grams["output"] = output
    for names, passage in zip(reversed(seen.names), reversed(passages), strict=True):
        found = pull_back(passage, now)
        apjn |= _apjn(names, passage, found, order=function.order, behind=now)
        now = found.before
    if seen.stem is not None:
        apjn["stem"] = now
        now = _square(seen.stem) * now
    apjn["input"] = now
    return _predicted.signals(net.anatomy, grams, apjn)


def _points(names: tuple[str, str], order: str) -> list[str | None]:
    """Return the names of the values on a branch; None of what is no point."""
    prefix, index = names
    first, second = (f"{prefix}{layer}{index}" for layer in ("first", "second"))
    layout = ORDERS[order]
    points: list[str | None] = [None] if layout.before else []
    points.append(first)
    if layout.num_layers == 2:
        points += [f"{first}:out", second]
    # What stands behind the last layer is read behind the multiplier too.
    if layout.behind:
        points.append(None)
    return points


def _last(names: tuple[str, str], order: str) -> str:
    """Return the name of the last layer of a branch."""
    prefix, index = names
    layer = "second" if ORDERS[order].num_layers == 2 else "first"
    return f"{prefix}{layer}{index}"


def _grams(
    names: tuple[str, str],
    passage: Passage,
    order: str,
) -> dict[str, Gram]:
    """Return the products of values at the points of a block."""
    points = _points(names, order)
    grams = {
        name: station.gram
        for name, station in zip(points, passage.stations, strict=True)
        if name is not None
    }
    last = _last(names, order)
    block = passage.block
    grams[f"{last}:out"] = block.branch**2 * passage.stations[-1].gram
    grams[f"{last}:sum"] = passage.sum.gram
    grams[f"{last}:sum:out"] = passage.after.gram
    if block.shortcut is not None:
        prefix, index = names
        grams[f"{prefix}shortcut{index}"] = block.shortcut * passage.before.gram
    return grams


def _apjn(
    names: tuple[str, str],
    passage: Passage,
    found: Gradients,
    *,
    order: str,
    behind: PerInput,
) -> dict[str, PerInput]:
    """Return the squared Jacobians of the output at the points of a block."""
    points = _points(names, order)
    apjn = {
        name: gradient
        for name, gradient in zip(points, found.stations, strict=True)
        if name is not None
    }
    last = _last(names, order)
    apjn[f"{last}:out"] = found.sum
    apjn[f"{last}:sum"] = found.sum
    apjn[f"{last}:sum:out"] = behind
    if passage.block.shortcut is not None:
        prefix, index = names
        apjn[f"{prefix}shortcut{index}"] = passage.block.skip**2 * found.sum
    return apjn
