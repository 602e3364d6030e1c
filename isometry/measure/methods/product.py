"""Method "product": multiply the layers, and never form the Jacobian."""

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

# Arrays of the widest layer's size that a graded product keeps, its finish by Jacobi
# included.
_GRADED = 12


@dataclass(frozen=True)
class Product(Method):
    """Multiply the layers, right at every index and at any depth, without a floor.

    For networks of `isometry.networks`, whose layers are known; and for any f that is a
    chain, with points that every path from the start of the span to its end runs
    through. Each block between two of them is one factor: a layer of a convolutional
    network, a block of a residual one.

    Attributes:
        every: How many layers are multiplied before they are factorized again. As in
            `linalg.product_log_singular_values`, more than 1 is for layers that are
            nearly isometric.

    Raises:
        InputError: `every` is not a positive whole number.

    Example:
        >>> net = networks.mlp([4] * 200, "linear", "gaussian", 0.01)
        >>> sp = isometry.spectrum(net, net.init(jax.random.key(0)), jnp.ones(4),
        ...                        method=isometry.Product())
        >>> bool(jnp.isfinite(sp.log_values).all())
        True
    """

    every: int = 1

    needs_factors = True

    @public("Product")
    def __post_init__(self):
        # A method is a static argument of programs, so its count is made Python's own.
        every = checks.integer("every", self.every, low=1)
        object.__setattr__(self, "every", every)

    def check(self, target: "Target", key: Key | None) -> None:
        """Require known layers, or a chain of blocks."""
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
        """Multiply the layers at one example; every value is resolved."""
        stacks = target.factors(params, x)
        log_values = linalg.log_values(stacks, self.every)
        # In ln s a NaN may pass for a zero: the derivative of relu at NaN is 0.
        leaves = jax.tree.leaves(stacks)
        is_finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
        log_values = jnp.where(is_finite, log_values, jnp.nan)
        return target.record(self, log_values, log_floor=-jnp.inf)

    def spectra(
        self,
        target: "Target",
        params: Params,
        xs: Array,
        keys: Key | None,
    ) -> "Spectrum":
        """Measure one Jacobian after another.

        Under vmap the choice between a plain and a graded finish would make both.
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
        """Bound the bytes of one product; of the others only the results stay."""
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
