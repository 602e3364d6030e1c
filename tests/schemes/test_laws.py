"""Variances by formula from the papers."""

import jax
import numpy as np
import pytest

from isometry import schemes
from isometry.schemes import Branch, Layer

KEY = jax.random.key(1)
IN, OUT = 96, 160
XAVIER = 2 / (IN + OUT)

# Standard normals and uniforms, drawn once: laws of one scale are compared by scale.
FOURTH_MOMENT = {"normal": 3.0, "uniform": 1.8}


def holds(name, role, branch, variance, *, index=0):
    """The mean square of a draw is `variance`, within 5 standard errors."""
    layer = Layer(role, 1, 9, IN, OUT, branch)
    init = schemes.get(name).initializer(layer)
    w = np.asarray(init(jax.random.fold_in(KEY, index), (IN, OUT)), float)
    if variance == 0:
        assert (w == 0).all()
        return
    error = ((FOURTH_MOMENT[init.name] - 1) / w.size) ** 0.5
    assert abs((w**2).mean() / variance - 1) < 5 * error
    assert abs(w.mean()) < 5 * (variance / w.size) ** 0.5


@pytest.mark.parametrize(("count", "length"), [(4, 2), (64, 2), (16, 3), (81, 4)])
def test_fixup(count, length):
    """Rules 1 and 2 of arXiv:1901.09321 with fan_out: m = 2 scales by L^(-1/2)."""
    for position in range(length):
        scale = count ** (-1 / (2 * length - 2))
        expected = 0 if position == length - 1 else 2 / OUT * scale**2
        holds("fixup", "hidden", Branch(1, count, position, length), expected)
    holds("fixup", "hidden", None, 2 / OUT)
    holds("fixup", "stem", None, 2 / OUT)
    holds("fixup", "head", None, 0)
    # A branch of one layer is its last layer.
    holds("fixup", "hidden", Branch(0, count, 0, 1), 0)


@pytest.mark.parametrize("name", ["rezero", "skipinit", "zero_gamma"])
def test_closed_branches_are_he(name):
    holds(name, "stem", None, 2 / IN)
    holds(name, "head", None, 2 / IN)
    holds(name, "hidden", Branch(0, 3, 1, 2), 2 / IN)
    holds(name, "value", Branch(0, 3, 0, 2), 2 / IN)


@pytest.mark.parametrize("count", [2, 96])
def test_gpt2(count):
    for role, position in (("query", 0), ("hidden", 0), ("output", 1), ("hidden", 1)):
        expected = 0.02**2 / (count if position else 1)
        holds("gpt2", role, Branch(0, count, position, 2), expected)
    for role in ("embedding", "head", "stem"):
        holds("gpt2", role, None, 0.02**2)
    holds("gpt2", "embedding", Branch(0, count, 0, 1), 0.02**2)


@pytest.mark.parametrize(
    ("stack", "count", "layers", "other"),
    [
        (None, 12, 6, 0),
        ("encoder", 12, 6, 18),
        ("decoder", 18, 6, 12),
        (None, 200, 100, 0),
        ("decoder", 9, 3, 36),
    ],
)
def test_t_fixup(stack, count, layers, other):
    """Section 3.2 of Huang et al. (2020): 0.67 N^(-1/4); decoders (9 N)^(-1/4)."""
    gain = 0.67 * layers**-0.25
    if stack == "decoder":
        gain = (9 * layers) ** -0.25
    for role, position in (("value", 0), ("output", 1), ("hidden", 0), ("hidden", 1)):
        branch = Branch(0, count, position, 2, stack, other)
        holds("t_fixup", role, branch, gain**2 * XAVIER)
    first = Branch(0, count, 0, 2, stack, other)
    for role in ("query", "key"):
        holds("t_fixup", role, first, XAVIER)
    holds("t_fixup", "head", None, XAVIER)
    holds("t_fixup", "embedding", first, (9 * layers) ** -0.5 / OUT)


def test_deep_norm():
    """Fig. 2 of arXiv:2203.00555, row by row, in its own N and M."""
    n, m = 18, 6
    rows = [
        (Branch(0, 2 * n, 0, 2), (2 * n) ** 0.25, (8 * n) ** -0.25),
        (Branch(0, 2 * m, 0, 2, "decoder"), (2 * m) ** 0.25, (8 * m) ** -0.25),
        (
            Branch(0, 2 * n, 0, 2, "encoder", 3 * m),
            0.81 * (n**4 * m) ** (1 / 16),
            0.87 * (n**4 * m) ** (-1 / 16),
        ),
        (
            Branch(0, 3 * m, 0, 2, "decoder", 2 * n),
            (3 * m) ** 0.25,
            (12 * m) ** -0.25,
        ),
    ]
    for branch, alpha, beta in rows:
        residual = schemes.get("deep_norm").residual(branch)
        assert residual == pytest.approx((1, alpha), rel=1e-14)
        for role in ("value", "output", "hidden"):
            holds("deep_norm", role, branch, beta**2 * XAVIER)
        for role in ("query", "key"):
            holds("deep_norm", role, branch, XAVIER)
    for role in ("stem", "hidden", "head"):
        holds("deep_norm", role, None, XAVIER)
    holds("deep_norm", "embedding", None, 1 / OUT)


def test_deep_norm_bounds_the_update():
    """Section 4: the weights of each row make the update of the output O(1).

    For one stack of N layers that is 2 N · 2 β²/α² = 1; for the encoder of two, M
    layers of the decoder pass it on with β²/α each.
    """
    deep_norm = schemes.get("deep_norm")

    def gains(branch):
        init = deep_norm.initializer(Layer("hidden", 0, 9, 96, 96, branch))
        # The repr holds the standard deviation as it is drawn.
        std = float(repr(init).partition("std=")[2].rstrip(")"))
        return deep_norm.residual(branch).skip, std * 96**0.5

    for n, m in ((6, 6), (100, 10)):
        alpha, beta = gains(Branch(0, 2 * n, 0, 2))
        assert 4 * n * beta**2 / alpha**2 == pytest.approx(1, rel=1e-12)
        alpha, beta = gains(Branch(0, 2 * n, 0, 2, "encoder", 3 * m))
        alpha_d, beta_d = gains(Branch(0, 3 * m, 0, 2, "decoder", 2 * n))
        total = m * beta_d**2 / alpha_d * 4 * n * beta**2 / alpha**2
        # 0.81 and 0.87 are given with two digits, which come squared.
        assert total == pytest.approx(1, rel=0.05)


def test_mup():
    holds("mup", "stem", None, 1 / IN)
    holds("mup", "hidden", None, 1 / IN)
    holds("mup", "hidden", Branch(0, 2, 1, 2), 1 / IN)
    holds("mup", "query", Branch(0, 2, 0, 2), 1 / IN)
    holds("mup", "head", None, 1 / IN**2)
    holds("mup", "embedding", None, 1.0)


def test_admin():
    holds("admin", "value", Branch(0, 2, 0, 2), XAVIER)
    holds("admin", "embedding", None, 1 / OUT)
