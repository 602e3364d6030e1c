"""What laws and the calculus behind them refuse, in words."""

import math

import jax
import jax.numpy as jnp
import pytest

from isometry import InputError, theory
from isometry.theory import freeprob


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: theory.jacobian_law("tanh", 0, q=1.0),
            r"jacobian_law\(\): depth=0 must be a whole number, between 1 and 100000",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2),
            r"neither q nor both of sigma_w and sigma_b are given",
        ),
        (lambda: theory.jacobian_law("tanh", 2, sigma_w=1.0), r"neither q nor both"),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, sigma_w=1.0, sigma_b=0.1),
            r"q and sigma_b=0\.1 are both given, and q already says what sigma_b",
        ),
        (
            lambda: theory.jacobian_law(jnp.zeros_like, 2, q=[1.0, 2.0]),
            r"jacobian_law\(\): zeros_like is flat at q=1; chi_1 is 0 for every",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=[1.0]),
            r"q has 1 values for depth=2; give a number or one per layer",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, sigma_w=[1.0] * 3),
            r"jacobian_law\(\): sigma_w has 3 values for depth=2; give a number, or",
        ),
        (
            lambda: theory.jacobian_law(
                "tanh", 2, sigma_w=1.0, sigma_b=0.1, branch_scale=0.1
            ),
            r"q grows along residual blocks and has no fixed point; give q, one per",
        ),
        (
            lambda: theory.jacobian_law(
                "tanh", 2, q=1.0, branch_scale=0.1, widths=[3, 3, 3]
            ),
            r"residual blocks keep their width; leave widths and head out",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, branch_scale=0.1, head=1.0),
            r"residual blocks keep their width; leave widths and head out",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=-1.0),
            r"q=-1\.0 is not a finite number",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, sigma_w=0.0),
            r"sigma_w=0\.0 is not a finite number in \(0, 1e\+100\]",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, sigma_w=math.nan),
            r"sigma_w=nan",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, sigma_w=1.0, sigma_b=-0.1),
            r"sigma_b=-0\.1",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, weights="haar"),
            r"weights='haar' is not known\. Known: orthogonal",
        ),
        (lambda: theory.jacobian_law("tahn", 2, q=1.0), r"Did you mean 'tanh'"),
        (
            lambda: theory.jacobian_law("softplus", 2, q=1.0),
            r"softplus at q=1 has chi_1 = 1 only with sigma_b²",
        ),
        (
            lambda: theory.jacobian_law("softplus", 2, sigma_w=3.0, sigma_b=1.0),
            r"variance of every layer exceeds",
        ),
        (
            lambda: theory.jacobian_law(
                "tanh", 2, q=1.0, weights="gaussian", padding="same"
            ),
            r"no law is given for gaussian convolutions with padding='same'; there is",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, padding="valid"),
            r"no law is given for orthogonal convolutions .*; there is one for",
        ),
        (
            lambda: theory.jacobian_law(
                "tanh", 2, q=1.0, padding="circular", widths=[3, 4, 5]
            ),
            r"no law is known for convolutions whose channels vary; leave widths out",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, widths=[3, 4]),
            r"widths has 2 entries for depth=2; give n_0, …",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, widths=[3, 4, 5], head=1.0),
            r"widths has 3 entries for depth=2; give n_0, …, n_depth, and the head's",
        ),
        (lambda: theory.fuss_catalan(0), r"fuss_catalan\(\): depth=0"),
        (lambda: theory.marchenko_pastur(0.0), r"marchenko_pastur\(\): ratio=0\.0"),
        (lambda: theory.smooth_class(-1.0), r"smooth_class\(\): sigma0_squared=-1\.0"),
        (
            lambda: theory.fuss_catalan(1).moment(7, "log_s"),
            r"Law\.moment\(\): k=7 must be a whole number, between 1 and 6",
        ),
        (lambda: theory.fuss_catalan(1).quantile(1.5), r"Law\.quantile\(\): p=1\.5"),
        (
            lambda: theory.fuss_catalan(1).cdf(math.nan),
            r"Law\.cdf\(\): grid holds 1 values that are NaN",
        ),
        (
            lambda: theory.fuss_catalan(1).density(1.0, "sigma"),
            r"variable='sigma' is not known",
        ),
        (lambda: theory.fuss_catalan(1).moment(0), r"Law\.moment\(\): k=0"),
        (
            lambda: freeprob.point_masses([1.0, 2.0], [0.5, 0.6]),
            r"point_masses\(\): masses sum to 1\.1, not to 1",
        ),
        (
            lambda: freeprob.point_masses([1.0, 2.0], [1.0]),
            r"point_masses\(\): values of shape \(2,\) and masses of shape \(1,\)",
        ),
        (
            lambda: freeprob.point_masses([0.0], [1.0]),
            r"point_masses\(\): all mass is at zero; its S-transform",
        ),
        (
            lambda: freeprob.multiply(),
            r"multiply\(\): no law given; write multiply\(a, b\)",
        ),
        (
            lambda: freeprob.inverse_M(theory.fuss_catalan(1), 0.0),
            r"inverse_M\(\): psi must be finite and not 0, where M⁻¹ has a pole",
        ),
        (
            lambda: freeprob.M(theory.fuss_catalan(1), 0.0),
            r"z must be finite and not 0",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, sigma_w=math.inf),
            r"sigma_w=inf",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=["a", "b"]),
            r"q=\['a', 'b'\] is not a sequence of numbers",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=[1.0, math.nan]),
            r"q=.*nan.* is not a finite number",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=1.0, widths=3),
            r"widths=3 is not a sequence of numbers",
        ),
        (
            lambda: theory.jacobian_law(jax.nn.softmax, 2, q=1.0),
            r"jacobian_law\(\): softmax at a point changes with the other entries",
        ),
        (
            lambda: theory.jacobian_law(jnp.sum, 2, q=1.0),
            r"jacobian_law\(\): sum maps .* to float64 of shape \(\)",
        ),
        (
            lambda: theory.jacobian_law(jnp.log, 2, q=1.0, sigma_w=1.0),
            r"phi of log is NaN at u=-3\.1\d*; it must be a number",
        ),
        (
            lambda: theory.jacobian_law(jnp.sign, 2, q=1.0, sigma_w=1.0),
            r"jacobian_law\(\): sign jumps at u=0",
        ),
        (
            lambda: theory.jacobian_law(lambda x: 0 * x, 2, q=1.0, sigma_w=1.0),
            r"jacobian_law\(\): <lambda> is flat at q=1: J is 0, and has no law off",
        ),
        (
            lambda: theory.jacobian_law(
                lambda x: jax.nn.relu(x - 12), 2, q=1.0, sigma_w=1.0
            ),
            r"<lambda> is flat at q=1: J is 0",
        ),
        (
            lambda: freeprob.squared_slope(lambda x: 0 * x, 1.0),
            r"<lambda> is flat at q=1: J is 0",
        ),
        (
            lambda: theory.jacobian_law(
                lambda x: jnp.exp(x**2 / 8), 2, q=1.0, sigma_w=1.0
            ),
            r"jacobian_law\(\): the expectation over <lambda> at q=1 diverges",
        ),
        (
            lambda: theory.jacobian_law(jnp.exp, 2, q=1.0, sigma_w=1.0),
            r"phi' of exp is unbounded, so its law has no top edge",
        ),
        (
            lambda: theory.jacobian_law("tanh", 2, q=30.0, sigma_w=1.0),
            r"phi' of tanh is lost in the rounding",
        ),
        (
            lambda: theory.jacobian_law("erf", 2, q=30.0, sigma_w=1.0),
            r"its square in underflow.* at a smaller q",
        ),
        (
            lambda: theory.jacobian_law("sin", 2, q=1e8, sigma_w=1.0),
            r"sin cannot be integrated at q=1e\+08",
        ),
        (
            lambda: theory.jacobian_law("gelu", 2, sigma_w=2.0, sigma_b=1.0),
            r"A smaller sigma_w has a fixed point\. Critical points: gelu has them",
        ),
        (
            lambda: theory.fuss_catalan(1).density("a"),
            r"Law\.density\(\): grid='a' is not made of numbers",
        ),
        (
            lambda: theory.fuss_catalan(1).quantile("a"),
            r"Law\.quantile\(\): p='a' is not made of numbers",
        ),
        (
            lambda: freeprob.S(theory.fuss_catalan(1), "a"),
            r"S\(\): psi='a' is not made of numbers",
        ),
        (lambda: freeprob.M(3, 1.0), r"M\(\): 3 is not a Law\."),
        (
            lambda: freeprob.squared_slope(jnp.sign, 1.0),
            r"squared_slope\(\): sign jumps at u=0",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_branch_that_ends_is_said():
    """psi of one Gaussian layer ranges over (−1, 0) below the support.

    At an atom M has a pole.
    """
    with pytest.raises(
        theory.NotConverged,
        match=r"inverse_M\(\): residual .* at -3.*; the branch does not reach it",
    ):
        freeprob.inverse_M(theory.fuss_catalan(1), -3.0)
    with pytest.raises(
        theory.NotConverged,
        match=r"M\(\): residual .* at 1.*; the branch does not reach it",
    ):
        freeprob.M(freeprob.point_masses([1.0, 2.0], [0.5, 0.5]), 1.0)


def test_traced_points_are_refused():
    law = theory.fuss_catalan(1)
    with pytest.raises(
        TypeError, match=r"Law\.cdf\(\): grid is traced; this function runs on the host"
    ):
        jax.jit(lambda x: law.cdf(x))(1.0)
