"""The laws that the catalogue claims, as scipy distributions.

Our draws and torch's are held to the same.
"""

import math

import pytest
from scipy import stats

# Of a standard normal conditioned on (-2, 2).
STD_WITHIN_TWO = stats.truncnorm(-2, 2).std()
GAINS = {"tanh": 5 / 3, "linear": 1.0}


def uniform_of_std(std):
    bound = math.sqrt(3) * std
    return stats.uniform(-bound, 2 * bound)


def normal_cut_at_two(std):
    """A normal cut at two of its standard deviations, of standard deviation `std`."""
    return stats.truncnorm(-2, 2, scale=std / STD_WITHIN_TWO)


DISTRIBUTIONS = {
    "uniform": uniform_of_std,
    "normal": lambda std: stats.norm(0, std),
    "truncated_normal": normal_cut_at_two,
}


def uniform(n, m, low=0.0, high=1.0):
    return stats.uniform(low, high - low)


def normal(n, m, mean=0.0, std=1.0):
    return stats.norm(mean, std)


def truncated_normal(n, m, mean=0.0, std=1.0, lower=-2.0, upper=2.0):
    return stats.truncnorm((lower - mean) / std, (upper - mean) / std, mean, std)


def xavier_std(n, m, gain=1.0):
    return gain * math.sqrt(2 / (n + m))


def kaiming_std(n, m, a=0.0, mode="fan_in", nonlinearity="leaky_relu"):
    gain = GAINS.get(nonlinearity, math.sqrt(2 / (1 + a**2)))
    fan = {"fan_in": n, "fan_out": m}[mode]
    return gain / math.sqrt(fan)


def scaled(n, m, scale, mode, distribution):
    fans = {
        "fan_in": n,
        "fan_out": m,
        "fan_avg": (n + m) / 2,
        "fan_geo_avg": math.sqrt(n * m),
    }
    return DISTRIBUTIONS[distribution](math.sqrt(scale / fans[mode]))


def interval_of_torch_layers(fan_in):
    return stats.uniform(-1 / math.sqrt(fan_in), 2 / math.sqrt(fan_in))


LAWS = {
    "uniform": uniform,
    "normal": normal,
    "truncated_normal": truncated_normal,
    "xavier_uniform": lambda n, m, **a: uniform_of_std(xavier_std(n, m, **a)),
    "xavier_normal": lambda n, m, **a: stats.norm(0, xavier_std(n, m, **a)),
    "kaiming_uniform": lambda n, m, **a: uniform_of_std(kaiming_std(n, m, **a)),
    "kaiming_normal": lambda n, m, **a: stats.norm(0, kaiming_std(n, m, **a)),
    "torch_default": lambda n, m: interval_of_torch_layers(n),
    "torch_default_bias": lambda n, m, fan_in: interval_of_torch_layers(fan_in),
    "variance_scaling": scaled,
    "glorot_uniform": lambda n, m: uniform_of_std(math.sqrt(2 / (n + m))),
    "glorot_normal": lambda n, m: normal_cut_at_two(math.sqrt(2 / (n + m))),
    "he_uniform": lambda n, m: uniform_of_std(math.sqrt(2 / n)),
    "he_normal": lambda n, m: normal_cut_at_two(math.sqrt(2 / n)),
    "lecun_uniform": lambda n, m: uniform_of_std(math.sqrt(1 / n)),
    "lecun_normal": lambda n, m: normal_cut_at_two(math.sqrt(1 / n)),
}


@pytest.fixture(scope="session")
def law_of():
    """law_of(name, fan_in, fan_out, **arguments): the distribution of one entry."""

    def law(name, n, m, /, **arguments):
        return LAWS[name](n, m, **arguments)

    return law
