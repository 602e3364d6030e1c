"""Method "product": singular values of a product of layers, without forming it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array

from isometry import linalg
from isometry._internal import checks, memory
from isometry._internal.errors import InputError, public
from isometry._internal.types import Key, Params
from isometry.measure.methods._method import COPIES, SMALL, Footprint, Method

if TYPE_CHECKING:
    from isometry.measure._record import Spectrum
    from isometry.measure._target import Target

# Square arrays of the order of the widest layer that a graded product keeps, its final
# Jacobi iteration included.
_GRADED = 12


@dataclass(frozen=True)
class Product(Method):
    """Multiply the layers: every ln s, also the smallest, at any depth.

    This is for a `Network`, whose layers are known, and for any f that is a chain: with
    points inside the span that lie on every path from its start to its end. Each block
    between two such points is one factor: a layer of a convolutional network, a block
    of a residual one.

    Attributes:
        every: The most layers that are multiplied between factorizations. More than 1
            saves time where layers are well conditioned, as in
            `linalg.product_log_singular_values`.

    Raises:
        InputError: `every` is not a positive whole number.

    Example:
        >>> net = networks.mlp([32] * 200, "linear", "gaussian", 0.01)
        >>> sp = isometry.spectrum(net, net.init(jax.random.key(0)), jnp.ones(32),
        ...                        method=isometry.Product())
        >>> bool(jnp.isfinite(sp.log_values).all())
        True
    """

    every: int = 1

    needs_factors = True

    @public("Product")
    def __post_init__(self):
        # A method is a static argument of compiled programs, so its count must be a
        # hashable Python number.
        every = checks.integer("every", self.every, low=1)
        object.__setattr__(self, "every", every)

    def check(self, target: "Target", key: Key | None) -> None:
        """Refuse a function without known layers that is no chain of blocks."""
        if target.has_factors:
            return
        raise InputError(
            'method="product" multiplies blocks, and this f shows none: no point '
            "between the ends of the span lies on every path from one to the other. "
            'Write method="dense", or networks.chain([f1, f2, ...]) for its parts.'
        )

    def spectrum(
        self,
        target: "Target",
        params: Params,
        x: Array,
        key: Key | None,
    ) -> "Spectrum":
        """Multiply the layers at one example. Every value is above the floor, -inf."""
        stacks = target.factors(params, x)
        log_values = linalg.log_values(stacks, self.every)
        # A NaN may look like a zero in ln s: the derivative of relu at NaN is 0.
        leaves = jax.tree.leaves(stacks)
        is_finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
        # Added, not selected: see `measure._nodes.exp`.
        log_values = log_values + jnp.where(is_finite, 0, jnp.nan)
        return target.record(self, log_values, log_floor=-jnp.inf)

    def spectra(
        self,
        target: "Target",
        params: Params,
        xs: Array,
        keys: Key | None,
    ) -> "Spectrum":
        """Measure one Jacobian after another.

        Under vmap both branches of the last factorization would be computed.
        """

        def of_seed(p: Params) -> "Spectrum":
            return jax.lax.map(lambda x: self.spectrum(target, p, x, key=None), xs)

        return jax.lax.map(of_seed, params)

    def footprint(
        self,
        target: "Target",
        params: Params,
        x: Array,
    ) -> Footprint:
        """Bound the bytes of one product, and of the results of the others."""
        itemsize = target.dtype.itemsize
        weights = memory.tree_bytes(params) + SMALL
        values = COPIES * target.held.in_all
        working = _GRADED * target.widest(params, x) ** 2 * itemsize
        result = 4 * min(target.shape) * itemsize
        return Footprint(COPIES * weights + values + working, result)

    def operations(
        self,
        target: "Target",
        params: Params,
        x: Array,
    ) -> int:
        """Count a QR of the narrowest layer's order for each factorization.

        R and Q are 4/3 n³ each; the rest is what pivoting and scaling add.
        """
        stacks = target.factor_shapes(params, x)
        narrowest = min(min(stack.size[1:]) for stack in stacks)
        rounds = sum(-(-stack.size[0] // self.every) for stack in stacks)
        return rounds * 10 * narrowest**3 // 3
