"""The laws that the catalogue claims, as scipy distributions: what we draw and what torch drew are held to the same."""

import math

import pytest
from scipy import stats

STD_WITHIN_TWO = stats.truncnorm(-2, 2).std()


def _uniform(std):
    bound = math.sqrt(3) * std
    return stats.uniform(-bound, 2 * bound)


def _normal(std):
    return stats.norm(0, std)


def _cut(std):
    return stats.truncnorm(-2, 2, scale=std / STD_WITHIN_TWO)


def _truncated(mean=0.0, std=1.0, lower=-2.0, upper=2.0):
    return stats.truncnorm((lower - mean) / std, (upper - mean) / std, mean, std)


def _kaiming_std(n, m, a=0.0, mode="fan_in", nonlinearity="leaky_relu"):
    gain = {"leaky_relu": math.sqrt(2 / (1 + a**2)), "tanh": 5 / 3, "linear": 1.0}[nonlinearity]
    return gain / math.sqrt({"fan_in": n, "fan_out": m}[mode])


def _scaling(n, m, scale, mode, distribution):
    fan = {"fan_in": n, "fan_out": m, "fan_avg": (n + m) / 2, "fan_geo_avg": math.sqrt(n * m)}[mode]
    return {"uniform": _uniform, "normal": _normal, "truncated_normal": _cut}[distribution](math.sqrt(scale / fan))


LAWS = {
    "uniform": lambda n, m, low=0.0, high=1.0: stats.uniform(low, high - low),
    "normal": lambda n, m, mean=0.0, std=1.0: stats.norm(mean, std),
    "truncated_normal": lambda n, m, **arguments: _truncated(**arguments),
    "xavier_uniform": lambda n, m, gain=1.0: _uniform(gain * math.sqrt(2 / (n + m))),
    "xavier_normal": lambda n, m, gain=1.0: _normal(gain * math.sqrt(2 / (n + m))),
    "kaiming_uniform": lambda n, m, **arguments: _uniform(_kaiming_std(n, m, **arguments)),
    "kaiming_normal": lambda n, m, **arguments: _normal(_kaiming_std(n, m, **arguments)),
    "torch_default": lambda n, m: stats.uniform(-1 / math.sqrt(n), 2 / math.sqrt(n)),
    "torch_default_bias": lambda n, m, fan_in: stats.uniform(-1 / math.sqrt(fan_in), 2 / math.sqrt(fan_in)),
    "variance_scaling": _scaling,
    "glorot_uniform": lambda n, m: _uniform(math.sqrt(2 / (n + m))),
    "glorot_normal": lambda n, m: _cut(math.sqrt(2 / (n + m))),
    "he_uniform": lambda n, m: _uniform(math.sqrt(2 / n)),
    "he_normal": lambda n, m: _cut(math.sqrt(2 / n)),
    "lecun_uniform": lambda n, m: _uniform(math.sqrt(1 / n)),
    "lecun_normal": lambda n, m: _cut(math.sqrt(1 / n)),
}


@pytest.fixture(scope="session")
def law_of():
    """law_of(name, fan_in, fan_out, **arguments): the scipy distribution of one entry."""

    def law(name, n, m, /, **arguments):
        return LAWS[name](n, m, **arguments)

    return law
