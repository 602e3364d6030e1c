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
        """Return its mean square, with those of x."""
        crossed = np.outer(self.ones, self.along)
        own = np.outer(self.ones, self.ones) + q * np.outer(self.along, self.along)
        return own + mean * (crossed + crossed.T) + self.rest


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
    here = Cotangent(np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.zeros((2, 2)))
    metric = here.square(float(last.mean[0]), float(last.gram[0, 0]))
    for passage in reversed(passages):
        if norm is not None and norm.at == "post":
            here = _behind_norm(here, passage, norm.kind)
        is_sizeless = norm is not None and norm.at == "pre" and norm.kind in _SIZELESS
        here = _before(here, passage, _moments(phi, passage), is_sizeless=is_sizeless)
    first = passages[0].before
    form = here.square(float(first.mean[0]), float(first.gram[0, 0]))
    # The largest of form/metric. A stream that is constant over units has one direction
    # only, and the metric no inverse.
    squares, vectors = np.linalg.eigh(metric)
    is_there = squares > 1e-12 * squares[-1]
    basis = vectors[:, is_there] / np.sqrt(squares[is_there])
    return float(np.linalg.eigvalsh(basis.T @ form @ basis)[-1])


def _moments(phi: Activation, passage: Passage) -> _Moments:
    """Return the expectations at the pre-activations of a block."""
    h, weights = nodes(0.0, float(passage.stations[0].gram[0, 0]), phi)
    f, d = evaluate(phi, h)
    return _Moments(
        f=float(weights @ f),
        ff=float(weights @ f**2),
        hd=float(weights @ (h * d)),
        hdf=float(weights @ (h * d * f)),
        dd=float(weights @ d**2),
        ddf=float(weights @ (d**2 * f)),
        ddff=float(weights @ (d * f) ** 2),
    )


def _behind_norm(here: Cotangent, passage: Passage, kind: str) -> Cotangent:
    """Pull a cotangent at the result of a norm back to the sum that it reads."""
    scale = float(passage.scale[0])
    ones, along = here.ones / scale, here.along / scale**2
    if kind == "layer":
        # Neither the mean nor the size of the sum is passed on.
        ones, along = 0 * ones, 0 * along
    elif kind == "rms":
        mean = float(passage.after.mean[0])
        q = float(passage.after.gram[0, 0])
        along = along - (mean * here.ones + q * here.along) / scale**2
    return Cotangent(ones, along, here.rest / scale**2)


def _before(
    here: Cotangent,
    passage: Passage,
    of: _Moments,
    *,
    is_sizeless: bool,
) -> Cotangent:
    """Pull a cotangent at the sum of a block back to the stream in front of it."""
    skip, branch = passage.block.skip, passage.block.branch
    mean = float(passage.before.mean[0])
    q = float(passage.before.gram[0, 0])
    # x' = s x + a f, so the cotangent has these parts along x and f.
    along_x, along_f = skip * here.along, branch * here.along
    constant = here.ones + mean * along_x
    slope_h = of.hd * constant + of.hdf * along_f
    crossed = of.ddf * np.outer(constant, along_f)
    without_f = Cotangent(here.ones, along_x, here.rest).square(mean, q)
    slopes = of.dd * without_f + crossed + crossed.T
    slopes = slopes + of.ddff * np.outer(along_f, along_f)

    ones = skip * (here.ones + of.f * along_f)
    along = skip * along_x
    square = passage.block.squares[0]
    if not is_sizeless:
        # Biases are a part of h that x does not share.
        total = float(passage.stations[0].gram[0, 0])
        share = 1 - passage.block.bias / total
        along = along + branch * share * slope_h / q
    variance = of.ff - of.f**2
    rest = skip**2 * (here.rest + variance * np.outer(along_f, along_f))
    through = branch**2 * square / float(passage.read_scale[0]) ** 2
    return Cotangent(ones, along, rest + through * slopes)
