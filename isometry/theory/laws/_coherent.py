"""The singular value that the means of post-activation branches make.

Where E phi is not zero, what the branches of x' = s x + a phi(W x) add has a mean over
units, and the means add up. A cotangent g = α 1 + β x' + r, of which r is orthogonal to
all that is special, is pulled back in closed form. With h = W x, fresh given x, W is
h xᵀ/(N q) beside a part W~ that is independent of h:

    Jᵀ g = s g + a Wᵀ D g,    Wᵀ D g = x (h · D g)/(N q) + W~ᵀ D g.

So α, β and R = |r|²/N follow from block to block, and |Jᵀ g|² is a quadratic form in
the first α and β. Its largest value at |g| = 1 bounds the largest s² from below.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from isometry.activations import Activation
from isometry.theory.mean_field._gates import nodes
from isometry.theory.mean_field._host import evaluate
from isometry.theory.mean_field._residual import Norm, Passage

# A form in the two coefficients of the last cotangent.
Pair = Float[np.ndarray, "2"]
Form = Float[np.ndarray, "2 2"]

# Norms that take away the direction of what they read.
_SIZELESS = ("layer", "rms")

# The share of the metric below which there is no direction: rounding leaves 1e-16.
_NO_DIRECTION = 1e-12


class Cotangent(NamedTuple):
    """α 1 + β x + r, linear in the coefficients of the last one.

    Attributes:
        ones: α.
        along: β.
        rest: R = |r|²/N, a quadratic form.
    """

    ones: Pair
    along: Pair
    rest: Form

    def square(self, mean: float, q: float) -> Form:
        """Return its mean square, with the mean and the mean square of x."""
        of_ones = np.outer(self.ones, self.ones)
        of_x = np.outer(self.along, self.along)
        crossed = _twice(self.ones, self.along)
        return of_ones + mean * crossed + q * of_x + self.rest


def _twice(first: Pair, second: Pair) -> Form:
    """Return the form of twice the product of two linear forms."""
    crossed = np.outer(first, second)
    return crossed + crossed.T


class _Moments(NamedTuple):
    """Expectations over h of an activation f and its slope d."""

    f: float
    ff: float
    hd: float
    hdf: float
    dd: float
    ddf: float
    ddff: float


def coherent_value(
    phi: Activation,
    passages: Sequence[Passage],
    norm: Norm | None,
) -> float:
    """Return a squared singular value along the means, of post-activation blocks."""
    last = passages[-1].after
    here = Cotangent(
        ones=np.array([1.0, 0.0]),
        along=np.array([0.0, 1.0]),
        rest=np.zeros((2, 2)),
    )
    metric = here.square(last.first_mean, last.first_square)
    is_sizeless = False
    if norm is not None:
        is_sizeless = norm.at == "pre" and norm.kind in _SIZELESS
    for passage in reversed(passages):
        if norm is not None and norm.at == "post":
            here = _behind_norm(here, passage, norm.kind)
        of = _moments(phi, passage)
        here = _before(here, passage, of, is_sizeless=is_sizeless)
    first = passages[0].before
    form = here.square(first.first_mean, first.first_square)
    return _largest_ratio(form, metric)


def _largest_ratio(form: Form, metric: Form) -> float:
    """Return the largest value of one form where the other is 1."""
    squares, vectors = np.linalg.eigh(metric)
    # A stream that is constant over units has one direction only, and its metric no
    # inverse.
    is_there = squares > _NO_DIRECTION * squares[-1]
    lengths = np.sqrt(squares[is_there])
    basis = vectors[:, is_there] / lengths
    # In this basis the metric is the identity.
    values = np.linalg.eigvalsh(basis.T @ form @ basis)
    return float(values[-1])


def _moments(phi: Activation, passage: Passage) -> _Moments:
    """Return the expectations at the pre-activations of a block."""
    variance = passage.stations[0].first_square
    h, weights = nodes(0.0, variance, phi)
    f, d = evaluate(phi, h)
    df = d * f
    return _Moments(
        f=float(weights @ f),
        ff=float(weights @ f**2),
        hd=float(weights @ (h * d)),
        hdf=float(weights @ (h * df)),
        dd=float(weights @ d**2),
        ddf=float(weights @ (d * df)),
        ddff=float(weights @ df**2),
    )


def _behind_norm(here: Cotangent, passage: Passage, kind: str) -> Cotangent:
    """Pull a cotangent at the result of a norm back to the sum that it reads."""
    scale = float(passage.scale[0])
    # x behind the norm is x in front of it over the scale, and so is its Jacobian.
    ones = here.ones / scale
    along = here.along / scale**2
    if kind == "layer":
        # Neither the mean nor the size of the sum is passed on.
        ones, along = 0 * ones, 0 * along
    elif kind == "rms":
        # The part along x is taken away.
        mean = passage.after.first_mean
        q = passage.after.first_square
        part = mean * here.ones + q * here.along
        along = along - part / scale**2
    return Cotangent(
        ones=ones,
        along=along,
        rest=here.rest / scale**2,
    )


def _before(
    here: Cotangent,
    passage: Passage,
    of: _Moments,
    *,
    is_sizeless: bool,
) -> Cotangent:
    """Pull a cotangent at the sum of a block back to the stream in front of it.

    Args:
        here: The cotangent, called g below.
        passage: The block.
        of: Its moments.
        is_sizeless: Whether a norm in front of the branch hides the size of x.
    """
    block = passage.block
    mean = passage.before.first_mean
    q = passage.before.first_square
    # The sum is x' = s x + a f, of the stream x and the branch's f = phi(h), D =
    # phi'(h). So g has these parts along x and f.
    along_x = block.skip * here.along
    along_f = block.branch * here.along
    # g without its part along f: its mean over units, and its mean square.
    constant = here.ones + mean * along_x
    others = Cotangent(here.ones, along_x, here.rest)
    without_f = others.square(mean, q)
    square_along_f = np.outer(along_f, along_f)
    # h · D g/N, and |D g|²/N.
    with_h = of.hd * constant + of.hdf * along_f
    crossed = _twice(constant, along_f)
    of_slopes = of.dd * without_f + of.ddf * crossed
    of_slopes = of_slopes + of.ddff * square_along_f

    # Seen from in front of the block, f is its mean and a part that is independent.
    ones = block.skip * (here.ones + of.f * along_f)
    along = block.skip * along_x
    if not is_sizeless:
        # Biases are a part of h that x does not share.
        variance = passage.stations[0].first_square
        share = 1 - block.bias / variance
        along = along + block.branch * share * with_h / q
    unknown = (of.ff - of.f**2) * square_along_f
    of_skip = block.skip**2 * (here.rest + unknown)
    strength = block.branch / float(passage.read_scale[0])
    of_branch = strength**2 * block.squares[0] * of_slopes
    return Cotangent(
        ones=ones,
        along=along,
        rest=of_skip + of_branch,
    )
