"""Gradients behind attention, against the Jacobian's shares and closed forms.

Networks of which they are a part are measured in tests/networks.
"""

import numpy as np
import pytest

from isometry import theory
from isometry.theory.mean_field._attention import (
    attention_weights,
    factor_of,
    generator,
)
from isometry.theory.mean_field._attention_gradients import pulled_back

GRAM = np.array([[1.0, 0.2, 0.5], [0.2, 1.5, -0.3], [0.5, -0.3, 0.7]])


@pytest.mark.parametrize("causal", [False, True])
def test_independent_gradients_have_the_shares_of_the_jacobian(causal):
    """With G = 1/tokens the trace is |J|²/rows of each path, for the same draws."""
    part = pulled_back(
        GRAM, np.eye(3) / 3, 1.2, causal=causal, samples=200, rng=generator(None)
    )
    moments = theory.attention_moments(GRAM, sigma_q=1.2, causal=causal, samples=200)
    traces = [np.trace(part.value), 1.44 * np.trace(part.query)]
    traces.append(1.44 * np.trace(part.key))
    shares = [moments.value, moments.query, moments.key]
    assert traces == pytest.approx(shares, rel=1e-12)


def test_all_entries_against_the_covariance_of_the_gradient_of_logits():
    """E c_ts c_t's' = A_ts A_t's' G_tt' (x_s − y_t) · (x_s' − y_t')/d, for one draw.

    c_ts multiplies what belongs to x_s on the way to t, and to x_t on that to s.
    """
    gradient = GRAM[::-1, ::-1] + 0.1
    arguments = {"causal": False, "samples": 1}
    (drawn,) = attention_weights(
        factor_of(GRAM), 0.9, **arguments, length=3, rng=np.random.default_rng(0)
    )
    a = drawn[0, 0]
    seen, means = a @ GRAM, a @ GRAM @ a.T
    # Axes t, s, t', s'.
    centred = GRAM[None, :, None, :] + means[:, None, :, None]
    centred = centred - seen.T[None, :, :, None] - seen[:, None, None, :]
    of_logits = np.einsum("ts,uv,tu,tsuv->tsuv", a, a, gradient, centred)
    part = pulled_back(GRAM, gradient, 0.9, **arguments, rng=np.random.default_rng(0))
    assert part.value == pytest.approx(a.T @ gradient @ a, rel=1e-12)
    by_query = np.einsum("tsuv,sv->tu", of_logits, GRAM)
    assert part.query == pytest.approx(by_query, rel=1e-11, abs=1e-15)
    by_key = np.einsum("tsuv,tu->sv", of_logits, GRAM)
    assert part.key == pytest.approx(by_key, rel=1e-11, abs=1e-15)
