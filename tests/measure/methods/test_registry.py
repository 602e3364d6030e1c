"""A method of one's own is one class, and works wherever a method does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isometry
from isometry import InputError
from isometry.measure import methods

EPS = float(np.finfo(np.float32).eps)
RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((2, 4, 6)).astype(np.float32)
XS = RNG.standard_normal((3, 6)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Gram(methods.Method):
    """The square roots of the eigenvalues of J Jᵀ, which lose half of the digits."""

    ridge: float = 0.0

    def spectrum(self, target, params, x, key):
        jacobian = target.jacobian(params, x)
        gram = jacobian @ jacobian.T + self.ridge * jnp.eye(len(jacobian))
        squares = jnp.linalg.eigvalsh(gram)[::-1]
        return target.record(self, jnp.log(squares) / 2, log_floor=-8.0)


@dataclasses.dataclass(frozen=True)
class Sketch(methods.Method):
    """The singular values of the Jacobian turned by a random rotation."""

    needs_key = True

    def check(self, target, key):
        if min(target.shape) > 5:
            raise InputError(f"method={self} rotates at most 5 rows; write 'dense'.")

    def spectrum(self, target, params, x, key):
        jacobian = target.jacobian(params, x)
        draw = jax.random.normal(key, (len(jacobian), len(jacobian)))
        turn = jnp.linalg.qr(draw)[0]
        values = jnp.linalg.svd(turn @ jacobian, compute_uv=False)
        return target.record(self, jnp.log(values), log_floor=-13.0)


def linear(params, x):
    return params @ x


def close(values, matrices):
    """Eigenvalues of J Jᵀ are right to eps s_max², so s to that over 2 s_min."""
    want = np.linalg.svd(matrices.astype(np.float64), compute_uv=False)
    error = 8 * 6 * EPS * want[..., 0] ** 2 / want[..., -1]
    np.testing.assert_allclose(values, want, rtol=0, atol=error.max())


@pytest.fixture
def registered():
    methods.register("gram", Gram)
    yield
    del methods.METHODS["gram"]


def test_an_instance_is_enough_for_a_spectrum():
    sp = isometry.spectrum(linear, WEIGHTS[0], XS[0], method=Gram())
    close(sp.values, WEIGHTS[0])
    assert (sp.method, sp.size, sp.structural_zeros) == (Gram(), 4, 2)
    assert float(sp.log_floor) == -8.0


def test_its_name_works_in_an_ensemble(registered):
    many = isometry.ensemble(linear, params=WEIGHTS, xs=XS, method="gram")
    close(many.values, np.broadcast_to(WEIGHTS[:, None], (2, 3, 4, 6)))


def test_its_cost_is_known(registered):
    cost = isometry.cost(linear, WEIGHTS[0], XS[0], method="gram")
    dense = isometry.cost(linear, WEIGHTS[0], XS[0])
    # The product J Jᵀ at least, and none of the operations of an SVD.
    assert 2 * 4 * 4 * 6 <= cost.flop < dense.flop
    assert cost.bytes > 0


def test_its_fields_are_part_of_the_program():
    sp = isometry.spectrum(linear, WEIGHTS[0], XS[0], method=Gram(ridge=4.0))
    plain = isometry.spectrum(linear, WEIGHTS[0], XS[0], method=Gram())
    np.testing.assert_allclose(sp.values**2 - plain.values**2, 4.0, rtol=1e-4)


def test_it_draws_with_the_users_key():
    how = {"method": Sketch(), "key": jax.random.key(0)}
    close(isometry.spectrum(linear, WEIGHTS[0], XS[0], **how).values, WEIGHTS[0])
    many = isometry.ensemble(linear, params=WEIGHTS, xs=XS, **how)
    close(many.values, np.broadcast_to(WEIGHTS[:, None], (2, 3, 4, 6)))
    # Each pair has a rotation of its own, and so its own rounding.
    assert len(np.unique(many.log_values[0], axis=0)) > 1


def test_a_nan_is_reported():
    with pytest.raises(InputError, match=r"spectrum\(\): the Jacobian is not finite"):
        isometry.spectrum(linear, WEIGHTS[0] * np.nan, XS[0], method=Gram())


def test_a_method_without_a_spectrum_says_so():
    class Nothing(methods.Method):
        """Measures nothing."""

    with pytest.raises(NotImplementedError, match=r"Nothing has no spectrum\(\)"):
        isometry.spectrum(linear, WEIGHTS[0], XS[0], method=Nothing())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: isometry.spectrum(linear, WEIGHTS[0], XS[0], method=Sketch()),
            r"spectrum\(\): Sketch\(\) draws random probes; write key=",
        ),
        (
            lambda: isometry.spectrum(
                linear,
                np.eye(6, dtype=np.float32),
                XS[0],
                method=Sketch(),
                key=jax.random.key(0),
            ),
            r"spectrum\(\): method=Sketch\(\) rotates at most 5 rows",
        ),
        (
            lambda: methods.register("dense", Gram),
            r"methods\.register\(\): name='dense' is taken; known: auto, dense",
        ),
        (
            lambda: methods.register("mine", dict),
            r"makes no Method; write a class that extends isometry\.methods\.Method",
        ),
        (
            lambda: isometry.spectrum(linear, WEIGHTS[0], XS[0], method=3),
            r"spectrum\(\): method=3 is not known\. Known: auto, dense, product, lanc",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()
