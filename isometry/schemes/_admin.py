"""Admin: multipliers of skips of post-norm transformers, from measured variances."""

import math
from collections.abc import Callable, Sequence

import jax
from jaxtyping import Array, PyTree

from isometry._internal.errors import InputError, NotDefined
from isometry._internal.types import Initializer as Init
from isometry._internal.types import Params
from isometry.schemes import _multipliers, _places
from isometry.schemes._layer import Branch, Layer
from isometry.schemes._measuring import Measured, Readings
from isometry.schemes._multipliers import Setting
from isometry.schemes._scheme import Residual, Scheme
from isometry.schemes._transformer import embedding, xavier_uniform
from isometry.structure import Anatomy, WeightLayer
from isometry.structure._anatomy import gate_uses


def _xavier(layer: Layer, sigma_w: float) -> Init:
    """Choose Xavier weights, and embeddings N(0, 1/d)."""
    # The scheme is not free, so `sigma_w` has nothing to scale.
    del sigma_w
    if layer.role == "embedding":
        return embedding(layer)
    return xavier_uniform(layer, gain=1.0)


def _ones(branch: Branch) -> Residual:
    """Return multipliers of 1, with which `_fit` measures before it sets the skips."""
    # The multipliers do not depend on the branch.
    del branch
    return Residual()


def _check_branches(anatomy: Anatomy) -> None:
    """Require a norm behind every sum, and a leaf that multiplies every skip.

    Raises:
        NotDefined: A branch lacks one of them, has a projection on its skip, or uses
            the same weights as another branch.
    """
    by_name = {layer.name: layer for layer in anatomy.layers}
    for branch in anatomy.branches:
        if not _has_norm_behind_sum(by_name[branch.layers[-1]]):
            raise NotDefined(
                f"branch {branch.name!r}: admin rescales skips in front of a norm, "
                "norm(ω x + F(x)), and no norm is behind this sum."
            )
        # `_fit` computes the result of the branch as the sum minus the skip, so the
        # value of the skip must have a name. It has none if the skip is a projection,
        # or if the branch leaves the stream behind a norm.
        if branch.shortcut:
            raise NotDefined(
                f"branch {branch.name!r}: admin multiplies skips that return x itself, "
                f"as its paper does, and this one is the projection "
                f"{', '.join(branch.shortcut)}; keep the shape of the stream."
            )
        if not branch.skip_gates or branch.leaves is None:
            raise NotDefined(
                f"branch {branch.name!r}: admin multiplies the skip by a number that "
                "it measures, and no parameter multiplies it; write "
                "params['skip'] * x + F(x)."
            )
    placed = _places.places(anatomy).branches
    for record, branch in placed:
        if branch.count + branch.other > len(placed):
            raise NotDefined(
                f"branch {record.name!r}: admin measures another multiplier of the "
                "skip at each depth, and the same weights are used at several; give "
                "each branch a skip of its own."
            )


def _has_norm_behind_sum(layer: WeightLayer) -> bool:
    """Tell whether a norm follows the sum to which the last layer of a branch leads."""
    if "sum" not in layer.then:
        return False
    # A norm in front of the sum belongs to the branch, and does not count.
    behind = layer.then[layer.then.index("sum") :]
    return any("norm" in step for step in behind)


def _fit(net: Callable[[Params, PyTree], PyTree], params: Params, xs: PyTree) -> Params:
    """Return params with ω_i² = 1 + Σ_{j<i} Var F_j / Var x_j in the leaves of skips.

    F_j is the result of branch j, and x_j its skip. Their variances are measured over
    xs with all ω = 1.

    Args:
        net: The network.
        params: Its parameters, with ω = 1.
        xs: The inputs.

    Raises:
        InputError: The input of a branch has variance 0 over xs.
    """
    measured = Measured(net, params, xs)
    anatomy = measured.anatomy
    branches = _places.places(anatomy).branches
    # Without branches there is no variance to measure.
    if not branches:
        return params
    taps = {}
    for record, _ in branches:
        for point in (record.joins, record.leaves):
            # `_check_branches` has refused branches that leave where no point is.
            assert point is not None
            taps[point] = anatomy.place(point)

    def values(readings: Readings) -> list[Array]:
        skips = [readings[record.leaves or ""] for record, _ in branches]
        sums = [readings[record.joins] for record, _ in branches]
        # The result of a branch is the sum minus the skip. Unlike the result of its
        # last layer, it includes a norm or a multiplier at the end of the branch.
        results = [total - skip for total, skip in zip(sums, skips, strict=True)]
        return [*results, *skips]

    # All ω are 1 while branches are measured, so one pass measures all of them.
    variances = measured.variances(taps, values)(params)
    num_branches = len(branches)
    # For each stack, ω² of its next branch. An encoder and a decoder have streams of
    # their own, and so sums of their own.
    squares: dict[str | None, float] = {}
    by_leaf = _multipliers.Values()
    uses = gate_uses(anatomy)
    repeats = _places.repeats(anatomy, [record for record, _ in branches])
    for i, (record, branch) in enumerate(branches):
        square = squares.setdefault(branch.stack, 1.0)
        path = record.skip_gates[0]
        entries = [uses.of_skip[name][path] for name in repeats[record.name]]
        by_leaf.add(path, record.name, entries, value=math.sqrt(square))
        ratio = float(variances[i] / variances[num_branches + i])
        if not math.isfinite(ratio):
            raise InputError(
                f"branch {record.name!r}: its input has variance "
                f"{variances[num_branches + i]} over xs; give inputs that differ."
            )
        squares[branch.stack] = square + ratio
    return _put(params, by_leaf.settings())


def _put(params: Params, settings: Sequence[Setting]) -> Params:
    """Return params with the values of these settings in their leaves."""
    by_path = {setting.path: setting for setting in settings}
    with_paths, tree = jax.tree_util.tree_flatten_with_path(params)
    leaves = []
    for path, leaf in with_paths:
        name = jax.tree_util.keystr(path)
        if name in by_path:
            leaf = by_path[name].put(leaf)
        leaves.append(leaf)
    return jax.tree.unflatten(tree, leaves)


SCHEMES = (
    Scheme(
        "admin",
        _xavier,
        "Xavier weights, and skips scaled up by the variance that the branches before "
        "them add on real inputs, for LayerNorm(ω x + F(x))",
        law="uniform, variance 2/(fan_in + fan_out), embeddings N(0, 1/d); adjusted on "
        "inputs xs: ω_i² = 1 + Σ_{j<i} Var F_j/Var x_j, encoder and decoder apart, "
        "measured with all ω = 1; net.init alone gives ω = 1",
        citation="Liu et al. (2020), arXiv:2004.08249, section 4.3",
        differs="ω is a number a branch, the paper's a vector of equal entries; the "
        "sum starts at 1, as in the authors' code",
        multipliers=_ones,
        embeddings=True,
        fit=_fit,
        suits=_check_branches,
        made_for="branches",
        otherwise="draws what xavier does, and adjust changes nothing",
    ),
)
