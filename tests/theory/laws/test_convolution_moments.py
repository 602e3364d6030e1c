"""Moments where positions differ: matrices over positions, and drawn convolutions."""

import numpy as np
import pytest

from isometry import InputError, theory
from isometry.theory.laws._convolution_moments import Convolved, Sloped, through
from isometry.theory.mean_field._sites import Averaging

SIZE, CHANNELS = 5, 40


def matrix(averaging):
    """The map over positions as a matrix."""
    columns = [averaging.forward(row) for row in np.eye(SIZE)]
    return np.array(columns).T


def test_moments_are_those_of_the_whole_map_of_vectors():
    """T(b) for every b, a matrix over positions, against the vector carried back."""
    rng = np.random.default_rng(0)
    averaging = Averaging(np.array([0.5, 0.3, 0.2]), (SIZE,), padding="same")
    average = matrix(averaging)
    steps = []
    a, second = np.ones(SIZE), np.eye(SIZE)
    for ratio in (1.0, 2.0, 0.5):
        mean = rng.random(SIZE)
        square = mean**2 * (1 + rng.random(SIZE))
        steps += [Convolved(averaging, 1.7, ratio), Sloped(mean, square)]
        a = 1.7 * average @ a
        second = np.diag(a**2) + 1.7**2 * ratio * average @ second @ average.T
        free = np.diag(mean) @ (second - np.diag(a**2)) @ np.diag(mean)
        second = free + np.diag(square * a**2)
        a = mean * a
    found = through(steps, (SIZE,))
    assert found.mean == pytest.approx(a.mean(), rel=1e-13)
    assert found.second == pytest.approx(second.sum(axis=1).mean(), rel=1e-13)


def test_moments_of_a_drawn_network():
    """tanh with an even window and q growing from the margin; 3 standard errors.

    Channels of finite number change the mean of λ² by a share of order 2/c.
    """
    rng = np.random.default_rng(3)
    depth, taps, sigma = 2, 2, 1.6
    q = np.linspace(0.5, 1.5, SIZE)
    draws = []
    for _ in range(12):
        z = rng.normal(size=(SIZE, CHANNELS)) * np.sqrt(q)[:, None]
        jacobian = np.eye(SIZE * CHANNELS)
        for layer in range(depth):
            scale = sigma / np.sqrt(taps * CHANNELS)
            kernel = scale * rng.normal(size=(taps, CHANNELS, CHANNELS))
            # XLA pads an even window behind alone: position α reads α and α + 1.
            whole = np.zeros((SIZE, CHANNELS, SIZE, CHANNELS))
            for position in range(SIZE):
                for tap in range(min(taps, SIZE - position)):
                    whole[position, :, position + tap] = kernel[tap]
            whole = whole.reshape(SIZE * CHANNELS, -1)
            if layer:
                z = (whole @ np.tanh(z).ravel()).reshape(SIZE, CHANNELS)
            slope = np.cosh(z).ravel() ** -2.0
            jacobian = slope[:, None] * (whole @ jacobian)
        squares = jacobian @ jacobian.T
        draws.append((np.trace(squares), (squares**2).sum()))
    mean, second = np.mean(draws, axis=0) / (SIZE * CHANNELS)
    errors = np.std(draws, axis=0) / len(draws) ** 0.5 / (SIZE * CHANNELS)
    found = theory.same_padding_moments("tanh", depth, taps, (SIZE,), sigma, q)
    assert abs(mean - found.mean) < 3 * errors[0] + found.mean / CHANNELS
    predicted = found.variance + found.mean**2
    assert abs(second - predicted) < 3 * errors[1] + 2 / CHANNELS * predicted


def test_he_weights_with_zero_padding_are_not_critical():
    """E λ = 1ᵀA^L 1/n, falling by (1 + 2 cos(π/(n + 1)))/3 an axis."""
    found = [
        theory.same_padding_moments("relu", depth, 3, (8, 8), 2**0.5).mean
        for depth in (20, 21)
    ]
    slowest = ((1 + 2 * np.cos(np.pi / 9)) / 3) ** 2
    assert found[1] / found[0] == pytest.approx(slowest, rel=1e-3)
    average = np.eye(8) + np.eye(8, k=1) + np.eye(8, k=-1)
    power = np.linalg.matrix_power(average / 3, 20)
    assert found[0] == pytest.approx((power.sum() / 8) ** 2, rel=1e-12)


def test_one_tap_has_the_moments_of_dense_layers():
    found = theory.same_padding_moments("tanh", 3, 1, (4,), 1.3, 0.5, sigma_b=0.2)
    path = theory.q_trajectory("tanh", 0.5, 1.3, 0.2, 2)
    law = theory.jacobian_law("tanh", 3, path.tolist(), 1.3, weights="gaussian")
    assert found.mean == pytest.approx(law.moment(1), rel=1e-11)
    assert found.variance == pytest.approx(law.variance, rel=1e-11)


def test_depthwise_moments_of_draws():
    """|ŵ(f)|² over all frequencies, four standard errors; one tap is χ² of one."""
    variances = np.array([[0.4, 0.1], [0.2, 0.3]])
    rng = np.random.default_rng(0)
    kernels = rng.normal(size=(20_000, 2, 2)) * np.sqrt(variances)
    squares = np.abs(np.fft.fft2(kernels, (4, 3))) ** 2
    fourth = (squares**2).mean(axis=(1, 2))
    found = theory.depthwise_moments(variances, (4, 3))
    assert found.mean == 1
    error = fourth.std() / len(fourth) ** 0.5
    assert abs(fourth.mean() - 1 - found.variance) < 4 * error
    assert theory.depthwise_moments([0, 1, 0], (8,)).variance == pytest.approx(2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": [1.0, 2.0]}, r"q=.* shape \(2,\)"),
        ({"q": -1.0}, "q=-1.0"),
        ({"depth": 0}, "depth=0"),
        ({"sigma_w": 0.0}, "sigma_w=0.0"),
        ({"activation": "sign"}, "activation"),
    ],
)
def test_what_is_refused(changes, message):
    arguments = {
        "activation": "tanh",
        "depth": 2,
        "kernel": 3,
        "size": (4,),
        "sigma_w": 1.0,
    }
    with pytest.raises(InputError, match=message):
        theory.same_padding_moments(**(arguments | changes))


def test_variances_and_moments_beyond_float64_are_refused_without_a_warning():
    with pytest.raises(InputError, match=r"relu: the variance .* exceeds float64"):
        theory.same_padding_moments("relu", 400, 3, (4,), sigma_w=50.0)
    with pytest.raises(InputError, match="or the moments exceed float64"):
        theory.same_padding_moments("tanh", 400, 3, (4,), sigma_w=50.0)
