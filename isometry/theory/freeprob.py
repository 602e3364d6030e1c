"""The calculus of free products behind the laws: S-transforms multiply, and are inverted without broadening.

M(z) = zG(z) − 1 = Σ m_k z^−k, S(ψ) = (1 + ψ)/(ψ M⁻¹(ψ)). Every `Law` carries its S-transform in closed form up to
M⁻¹ of its diagonal factors, so `multiply` is exact and only the final inversion is numerical: Newton with capped steps
on log λ, continued in arg λ from the negative axis, where the solution is unique. Residual at most
1e-9 in log λ, usually 1e-13; else `NotConverged`.

Source: Voiculescu (1987); Pennington, Schoenholz, Ganguli (2017), arXiv:1711.04735, for its use on Jacobians.

Arguments that its functions share:

- `law`: a `Law`, whose measure off the structural zeros has mass 1.
- `psi`, `z`: numbers or arrays, complex ones too: places of S and M⁻¹, and of M.
"""

from typing import Any

import numpy as np

from isometry import _checks
from isometry.theory import _chain, _slope_measure
from isometry.theory._host import record
from isometry.theory._law import Law, numbers
from isometry.theory._measure import Array, discrete
from isometry.theory._moments import differentiable
from isometry.theory._product import NotConverged as NotConverged
from isometry.theory._product import State


def point_masses(values: Any, masses: Any) -> Law:
    """The law Σ mass δ_value, of equally many `values` and `masses`.

    **Raises** `ValueError`: lengths differ, a value or mass negative or not finite, masses that do not sum to 1,
    no mass off zero.
    """
    values = np.atleast_1d(numbers("point_masses", float, values=values))
    masses = np.atleast_1d(numbers("point_masses", float, masses=masses))
    if values.shape != masses.shape or values.ndim != 1:
        raise _checks.InputError(
            f"point_masses(): values of shape {values.shape} and masses of shape {masses.shape}; give one mass a value."
        )
    for v, m in zip(values, masses, strict=True):
        _checks.number("point_masses", low=0.0, value=float(v), mass=float(m))
    if abs(masses.sum() - 1) > 1e-12:
        raise _checks.InputError(f"point_masses(): masses sum to {masses.sum():.15g}, not to 1.")
    if masses[values > 0].sum() == 0:
        raise _checks.InputError("point_masses(): all mass is at zero; its S-transform does not exist.")
    product = _chain.chain([_chain.Pair(discrete(values, masses), 0.0)], False, [1, 1])
    return Law(product, "point masses")


def squared_slope(activation: Any, q: float) -> Law:
    """The law of phi'(√q z)², z ~ N(0, 1): what a layer's D² brings. `activation`, `q`: as all over `theory`.

    **Raises** `ValueError`: unknown activation; q negative or not finite. `NotDefined`: phi jumps, is flat or has
    unbounded slope.
    """
    _checks.number("squared_slope", low=0.0, q=q)
    phi = record("squared_slope", activation)
    differentiable("squared_slope", phi, float(q))
    measure = _slope_measure.steep_measure(phi, float(q))
    return Law(_chain.chain([_chain.Pair(measure, 0.0)], False, [1, 1]), f"phi'² of {phi.name} at q {q:g}")


def multiply(*laws: Law) -> Law:
    """The free multiplicative convolution of `laws`: that of A^½ B A^½ for A, B of equal size in general position.

    It acts on the measures of mass 1; structural zeros are no part of them. Layers of unequal width:
    `jacobian_law(widths=...)`.

    **Raises** `ValueError`: no law given, or something that is not a `Law`.
    """
    if not laws:
        raise _checks.InputError("multiply(): no law given; write multiply(a, b).")
    for law in laws:
        _is_law("multiply", law)
    return Law(_chain.multiplied([law.product for law in laws]), " * ".join(law.name for law in laws))


def S(law: Law, psi: Any) -> Any:  # noqa: N802, the field's name
    """S(ψ) = (1 + ψ)/(ψ M⁻¹(ψ)), for ψ as in `inverse_M`."""
    psi = numbers("S", complex, psi=psi)
    value = (1 + psi) / (psi * inverse_M(law, psi))
    return value if value.ndim else complex(value)


def inverse_M(law: Law, psi: Any) -> Any:  # noqa: N802
    """M⁻¹(ψ), the branch that is real on (−rank, 0), rank = 1 − mass at zero, continued in arg ψ from there.

    **Raises** `ValueError`: ψ = 0 or not finite; `NotConverged`: the branch ends before ψ.
    """
    _is_law("inverse_M", law)
    wanted = numbers("inverse_M", complex, psi=psi)
    if np.any(wanted == 0) or not np.all(np.isfinite(wanted)):
        raise _checks.InputError("inverse_M(): psi must be finite and not 0, where M⁻¹ has a pole.")
    flat: Array = wanted.ravel()
    below = np.where(flat.imag > 0, flat.conj(), flat)
    product = law.product
    w = product.on_negative_axis(np.zeros(flat.shape))
    start = np.log(-product.state(w).psi.real + 0j) - 1j * np.pi
    end = np.log(np.abs(below)) - 1j * np.arctan2(np.abs(below.imag), below.real)
    with np.errstate(all="ignore"):  # beyond the exponents: then the residual is no number, and nothing is returned
        for share in np.linspace(0, 1, 65)[1:]:
            aim = np.exp(start + share * (end - start))
            for _ in range(3 if share < 1 else 8):
                at = product.state(w)
                step = (at.mismatch + aim - at.psi) / at.rates
                w = w + step * np.minimum(1, 0.5 / np.maximum(np.abs(step).max(0), 1e-300))
        at = product.state(w)
        residual = np.maximum(np.abs(at.psi - below) / np.abs(below), np.abs(at.mismatch).max(0))
    _settled("inverse_M", residual, flat)
    value = np.exp(at.log_lam)
    value = np.where(flat.imag > 0, value.conj(), value).reshape(wanted.shape)
    return value if value.ndim else complex(value)


def M(law: Law, z: Any) -> Any:  # noqa: N802
    """M(z) = E x/(z − x) off the support; on it the limit from above.

    **Raises** `ValueError`: z = 0 or not finite; `NotConverged`: at an edge or an atom.
    """
    _is_law("M", law)
    wanted = numbers("M", complex, z=z)
    if np.any(wanted == 0) or not np.all(np.isfinite(wanted)):
        raise _checks.InputError("M(): z must be finite and not 0.")
    flat: Array = wanted.ravel()
    at = _continued(law, np.log(np.abs(flat)), np.abs(np.angle(flat)))
    value = np.where(flat.imag < 0, at.psi.conj(), at.psi).reshape(wanted.shape)
    return value if value.ndim else complex(value)


def _continued(law: Law, t: Array, angle: Array) -> State:
    """The state at λ = exp(t + i angle), from angle π down."""
    product = law.product
    at, before = product.state(product.on_negative_axis(t)), np.full(t.shape, np.pi)
    for share in 1 - np.geomspace(1, 1e-6, 60)[1:]:
        bend = np.pi + share * (angle - np.pi)
        with np.errstate(divide="ignore", invalid="ignore"):  # a slope that underflows: seen in the residual
            step = 1j * (bend - before) / (at.slope * at.rates)
        at = product.newton(at.w + step, t + 1j * bend, 2)
        before = bend
    at = product.newton(at.w, t + 1j * angle, 40, 0.3)
    _settled("M", np.maximum(np.abs(at.log_lam - t - 1j * angle), np.abs(at.mismatch).max(0)), np.exp(t + 1j * angle))
    return at


def _is_law(call: str, law: Any) -> None:
    if not isinstance(law, Law):
        raise _checks.InputError(f"{call}(): {_checks.show(law)} is not a Law.")


def _settled(call: str, residual: Array, at: Array) -> None:
    bad = ~(residual <= 1e-9)
    if bad.any():
        worst = np.nan_to_num(residual[bad], nan=np.inf).max()
        raise NotConverged(f"{call}(): residual {worst:.1e} at {at[bad][0]:.6g}; the branch does not reach it.")
