"""The calculus of free products behind the laws.

S-transforms multiply, and are inverted without broadening. M(z) = zG(z) − 1 = Σ m_k
z^−k, S(ψ) = (1 + ψ)/(ψ M⁻¹(ψ)). Every `Law` carries its S-transform in closed form, up
to M⁻¹ of its diagonal factors, so `multiply` is exact and only the final inversion is
numerical: Newton with capped steps on log λ, continued in arg λ from the negative axis,
where the solution is unique. Its residual is at most 1e-9 in log λ, usually 1e-13; else
`NotConverged` is raised (Voiculescu, 1987; Pennington, Schoenholz and Ganguli, 2017,
for its use on Jacobians).

Arguments that its functions share:

- `law`: a `Law`, whose measure off the structural zeros has mass 1.
- `psi`, `z`: numbers or arrays, complex ones too: places of S and M⁻¹, and of M.
"""

import numpy as np
from jaxtyping import Complex, Float
from numpy.typing import ArrayLike

from isometry._internal import checks
from isometry._internal.errors import InputError, public
from isometry.theory.laws import _inversion
from isometry.theory.laws._arguments import numbers
from isometry.theory.laws._diagonal import Diagonal
from isometry.theory.laws._law import Law
from isometry.theory.laws._measure import discrete
from isometry.theory.laws._product import NotConverged as NotConverged
from isometry.theory.laws._product import multiplied, product_of
from isometry.theory.laws._slope_measure import steep_measure
from isometry.theory.laws._types import Numbers
from isometry.theory.mean_field._host import ActivationLike, record
from isometry.theory.mean_field._moments import differentiable

_ComplexArray = Complex[Numbers, "..."]
_ComplexPoints = Complex[Numbers, " points"]

# Masses may miss 1 by this much, the rounding of a thousand of them.
_ROUNDING = 1e-12

# A relative residual of log λ, or of ψ, up to this is that of a solution.
_SOLVED = 1e-9

# The relative error in ψ with which a stop on the way is reached.
_FOLLOWED = 1e-3


@public("point_masses")
def point_masses(values: ArrayLike, masses: ArrayLike) -> Law:
    """Return the law Σ mass δ_value.

    Args:
        values: Places, not negative.
        masses: As many masses, which sum to 1.

    Returns:
        The law.

    Raises:
        InputError: The lengths differ; a value or mass is negative or not finite; the
            masses do not sum to 1, or all are at zero.

    Example:
        >>> theory.freeprob.point_masses([1.0, 2.0], [0.25, 0.75]).moment(1)
        1.75
    """
    checks.on_host("values", values)
    checks.on_host("masses", masses)
    values = numbers("values", values)
    masses = numbers("masses", masses)
    # One number is a law of one point.
    values = np.atleast_1d(values)
    masses = np.atleast_1d(masses)
    is_one_axis = values.ndim == 1
    if values.shape != masses.shape or not is_one_axis:
        raise InputError(
            f"values of shape {values.shape} and masses of shape {masses.shape}; give "
            "one mass a value."
        )
    pairs = zip(values, masses, strict=True)
    for value, mass in pairs:
        checks.number("value", float(value), low=0.0)
        checks.number("mass", float(mass), low=0.0)
    total = masses.sum()
    missing = abs(total - 1)
    if missing > _ROUNDING:
        raise InputError(f"masses sum to {total:.15g}, not to 1.")
    is_positive = values > 0
    if masses[is_positive].sum() == 0:
        raise InputError("all mass is at zero; its S-transform does not exist.")
    factor = Diagonal(discrete(values, masses))
    return Law(product_of({factor: 1}), "point masses")


@public("squared_slope")
def squared_slope(activation: ActivationLike, q: float) -> Law:
    """Return the law of phi'(√q z)², z standard normal: what a layer's D² brings.

    Args:
        activation: A name (`activations.names()`), an elementwise callable, or an
            `Activation`.
        q: Variance of the pre-activations. Finite and not negative.

    Returns:
        The law.

    Raises:
        InputError: The activation is not known; q is negative or not finite.
        NotDefined: phi jumps, is flat or has an unbounded slope.

    Example:
        >>> law = theory.freeprob.squared_slope("tanh", 0.25)
        >>> round(law.moment(1), 6), round(theory.chi("tanh", 0.25, 1.0), 6)
        (0.71738, 0.71738)
    """
    checks.on_host("q", q)
    q = float(checks.number("q", q, low=0.0))
    phi = record(activation)
    differentiable(phi, q)
    measure = steep_measure(phi, q)
    # All that is left of a constant slope is its value, which is then exact.
    constant = measure.constant
    if constant is not None:
        measure = discrete([constant], [1.0])
    factor = Diagonal(measure)
    name = f"phi'² of {phi.name} at q {q:g}"
    return Law(product_of({factor: 1}), name)


@public("multiply")
def multiply(*laws: Law) -> Law:
    """Return the free multiplicative convolution of laws.

    It is the law of A^½ B A^½ for A, B of equal size in general position. It acts on
    the measures of mass 1; structural zeros are no part of them. For layers of unequal
    width there is `jacobian_law(widths=...)`.

    Args:
        *laws: At least one.

    Returns:
        Their product.

    Raises:
        InputError: No law is given, or something that is not a law.

    Example:
        >>> law = theory.freeprob.multiply(
        ...     theory.marchenko_pastur(1.0), theory.marchenko_pastur(1.0)
        ... )
        >>> round(law.s_max**2, 9)
        6.75
    """
    if not laws:
        raise InputError("no law given; write multiply(a, b).")
    for law in laws:
        _require_law(law)
    products = [law.product for law in laws]
    names = [law.name for law in laws]
    product = multiplied(*products)
    return Law(product, " * ".join(names))


@public("S")
def S(law: Law, psi: ArrayLike) -> Complex[Numbers, "..."] | complex:  # noqa: N802
    """Evaluate the S-transform (1 + ψ)/(ψ M⁻¹(ψ)).

    Args:
        law: The law.
        psi: Places, as of `inverse_M`.

    Returns:
        S, complex, of the shape of `psi`.

    Raises:
        InputError: As `inverse_M`.
        NotConverged: As `inverse_M`.

    Example:
        >>> value = theory.freeprob.S(theory.fuss_catalan(1), -0.5)
        >>> round(value.real, 9)
        2.0
    """
    places = numbers(
        "psi",
        checks.on_host("psi", psi),
        are_complex=True,
    )
    inverse = np.asarray(inverse_M(law, places))
    value = (1 + places) / (places * inverse)
    return _as_given(value)


@public("inverse_M")
def inverse_M(law: Law, psi: ArrayLike) -> Complex[Numbers, "..."] | complex:  # noqa: N802
    """Evaluate M⁻¹(ψ).

    It is the branch that is real on (−rank, 0), where rank = 1 − mass at zero,
    continued in arg ψ from there.

    Args:
        law: The law.
        psi: Places, finite and not 0, where M⁻¹ has a pole.

    Returns:
        M⁻¹, complex, of the shape of `psi`.

    Raises:
        InputError: A place is 0 or not finite.
        NotConverged: The branch ends before `psi`.

    Example:
        >>> value = theory.freeprob.inverse_M(theory.fuss_catalan(1), -0.5)
        >>> round(value.real, 9)
        -0.5
    """
    _require_law(law)
    wanted = numbers(
        "psi",
        checks.on_host("psi", psi),
        are_complex=True,
    )
    if not _are_finite_and_nonzero(wanted):
        raise InputError("psi must be finite and not 0, where M⁻¹ has a pole.")
    flat = wanted.ravel()
    # M⁻¹ of a conjugate is the conjugate: only lower places are computed, because ψ is
    # lower where λ is upper.
    is_upper = flat.imag > 0
    lower = np.where(is_upper, flat.conj(), flat)
    product = law.product
    # At λ = −1, from which log ψ is led along a straight line.
    log_size = np.zeros(flat.shape)
    w = product.on_negative_axis(log_size)
    at = product.state(w)
    # ψ is negative there, and its logarithm is taken from below the axis.
    minus_psi = -at.psi.real
    start = np.log(minus_psi + 0j) - 1j * np.pi
    size = np.abs(lower)
    height = np.abs(lower.imag)
    angle = np.arctan2(height, lower.real)
    end = np.log(size) - 1j * angle
    way = end - start
    # In 64 stops; where Newton does not follow, the branch ends.
    is_lost = np.zeros(flat.shape, bool)
    stops = np.linspace(0, 1, 65)
    for share in stops[1:]:
        log_aim = start + share * way
        aim = np.exp(log_aim)
        at = product.follow(w, aim, rounds=4)
        w = at.w
        error = np.abs(at.psi - aim)
        is_near = error <= _FOLLOWED * np.abs(aim)
        is_lost |= ~is_near
    at = product.follow(w, lower, rounds=8)
    error = np.abs(at.psi - lower) / size
    residual = np.maximum(error, at.mismatch)
    residual[is_lost] = np.inf
    _require_solved(residual, flat)
    value = np.exp(at.log_lam)
    value = np.where(is_upper, value.conj(), value)
    return _as_given(value.reshape(wanted.shape))


@public("M")
def M(law: Law, z: ArrayLike) -> Complex[Numbers, "..."] | complex:  # noqa: N802
    """Evaluate the moment transform E x/(z − x), on the support from above.

    Args:
        law: The law.
        z: Places, finite and not 0.

    Returns:
        M, complex, of the shape of `z`.

    Raises:
        InputError: A place is 0 or not finite.
        NotConverged: At an edge or an atom.

    Example:
        >>> value = theory.freeprob.M(theory.fuss_catalan(1), -0.5)
        >>> round(value.real, 9)
        -0.5
    """
    _require_law(law)
    wanted = numbers(
        "z",
        checks.on_host("z", z),
        are_complex=True,
    )
    if not _are_finite_and_nonzero(wanted):
        raise InputError("z must be finite and not 0.")
    flat = wanted.ravel()
    t = np.log(np.abs(flat))
    # M of a conjugate is the conjugate: z is taken from the upper half-plane.
    angle = np.abs(np.angle(flat))
    at = _inversion.at_angle(law.product, t, angle)
    wanted_log = t + 1j * angle
    error = np.abs(at.log_lam - wanted_log)
    residual = np.maximum(error, at.mismatch)
    _require_solved(residual, flat)
    is_lower = flat.imag < 0
    value = np.where(is_lower, at.psi.conj(), at.psi)
    return _as_given(value.reshape(wanted.shape))


def _are_finite_and_nonzero(places: _ComplexArray) -> bool:
    is_finite = np.isfinite(places)
    return bool(np.all(is_finite & (places != 0)))


def _as_given(value: ArrayLike) -> _ComplexArray | complex:
    """Return a complex number where a single one was given, else the array."""
    array = np.asarray(value)
    return array if array.ndim else complex(array)


def _require_law(law: Law) -> None:
    if not isinstance(law, Law):
        raise InputError(f"{checks.show(law)} is not a Law.")


def _require_solved(residual: Float[np.ndarray, " points"], at: _ComplexPoints) -> None:
    is_bad = ~(residual <= _SOLVED)
    if is_bad.any():
        # NaN is no solution either.
        bad = np.nan_to_num(residual[is_bad], nan=np.inf)
        first = at[is_bad][0]
        raise NotConverged(
            f"residual {bad.max():.1e} at {first:.6g}; the branch does not reach it."
        )
