"""Variances by formula from the papers, and the residual networks that they make, written out here."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, networks, schemes
from isometry.schemes import Branch, Layer

KEY = jax.random.key(1)
IN, OUT = 96, 160


def holds(name, role, branch, variance, fourth=3.0, seed=0):
    """The mean square of a draw is `variance`, within 5 standard errors; `fourth` is E w⁴/(E w²)² of the law."""
    layer = Layer(role, 1, 9, IN, OUT, branch)
    w = np.asarray(schemes.get(name).initializer(layer)(jax.random.fold_in(KEY, seed), (IN, OUT)), float)
    if variance == 0:
        assert (w == 0).all()
        return
    error = ((fourth - 1) / w.size) ** 0.5
    assert abs((w**2).mean() / variance - 1) < 5 * error
    assert abs(w.mean()) < 5 * (variance / w.size) ** 0.5


@pytest.mark.parametrize(("count", "length"), [(4, 2), (64, 2), (16, 3), (81, 4)])
def test_fixup(count, length):
    """Rule 1 and 2 of arXiv:1901.09321, with fan_out: m = 2 scales by L^(-1/2), m = 3 by L^(-1/4)."""
    for position in range(length):
        scale = count ** (-1 / (2 * length - 2))
        expected = 0 if position == length - 1 else 2 / OUT * scale**2
        holds("fixup", "hidden", Branch(1, count, position, length), expected)
    holds("fixup", "hidden", None, 2 / OUT)
    holds("fixup", "stem", None, 2 / OUT)
    holds("fixup", "head", None, 0)
    holds("fixup", "hidden", Branch(0, count, 0, 1), 0)  # one layer is the last layer
    holds("fixup", "embedding", Branch(0, count, 0, 1), 2 / OUT)


@pytest.mark.parametrize("name", ["rezero", "skipinit"])
def test_gated_branches_are_he(name):
    for role, branch in (("stem", None), ("head", None), ("hidden", Branch(0, 3, 1, 2)), ("value", Branch(0, 3, 0, 2))):
        holds(name, role, branch, 2 / IN)


@pytest.mark.parametrize("count", [2, 24, 96])
def test_gpt2(count):
    for role, position in (("query", 0), ("value", 0), ("hidden", 0), ("output", 1), ("hidden", 1)):
        holds("gpt2", role, Branch(0, count, position, 2), 0.02**2 / (count if position else 1))
    for role in ("embedding", "head", "stem"):
        holds("gpt2", role, None, 0.02**2)
    holds("gpt2", "embedding", Branch(0, count, 0, 1), 0.02**2)


XAVIER = 2 / (IN + OUT)
SETTINGS = [("encoder alone", None, 12, 6, 0), ("pair", "encoder", 12, 6, 18), ("pair", "decoder", 18, 6, 12)]
SETTINGS += [("deep", None, 200, 100, 0), ("unequal", "encoder", 36, 18, 9), ("unequal", "decoder", 9, 3, 36)]


@pytest.mark.parametrize(("_", "stack", "count", "layers", "other"), SETTINGS)
def test_t_fixup(_, stack, count, layers, other):
    """Section 3.2 of Huang et al. (2020): 0.67 N^(-1/4) in encoders, (9 N)^(-1/4) in decoders and embeddings."""
    gain = (9 * layers) ** -0.25 if stack == "decoder" else 0.67 * layers**-0.25
    for role, position in (("value", 0), ("output", 1), ("hidden", 0), ("hidden", 1)):
        holds("t_fixup", role, Branch(0, count, position, 2, stack, other), gain**2 * XAVIER, fourth=1.8)
    for role in ("query", "key"):
        holds("t_fixup", role, Branch(0, count, 0, 2, stack, other), XAVIER, fourth=1.8)
    holds("t_fixup", "head", None, XAVIER, fourth=1.8)
    holds("t_fixup", "embedding", Branch(0, count, 0, 2, stack, other), (9 * layers) ** -0.5 / OUT)


def test_deep_norm():
    """Fig. 2 of arXiv:2203.00555, row by row, in its own N and M."""
    n, m = 18, 6
    rows = [
        (Branch(0, 2 * n, 0, 2), (2 * n) ** 0.25, (8 * n) ** -0.25),
        (Branch(0, 2 * m, 0, 2, "decoder"), (2 * m) ** 0.25, (8 * m) ** -0.25),
        (Branch(0, 2 * n, 0, 2, "encoder", 3 * m), 0.81 * (n**4 * m) ** (1 / 16), 0.87 * (n**4 * m) ** (-1 / 16)),
        (Branch(0, 3 * m, 0, 2, "decoder", 2 * n), (3 * m) ** 0.25, (12 * m) ** -0.25),
    ]
    for branch, alpha, beta in rows:
        assert schemes.get("deep_norm").residual(branch) == pytest.approx((1, alpha), rel=1e-14)
        for role in ("value", "output", "hidden"):
            holds("deep_norm", role, branch, beta**2 * XAVIER)
        for role in ("query", "key"):
            holds("deep_norm", role, branch, XAVIER)
    for role in ("stem", "hidden", "head"):
        holds("deep_norm", role, None, XAVIER)
    holds("deep_norm", "embedding", None, 1 / OUT)


def test_deep_norm_bounds_the_update():
    """Section 4: the weights of each row make the update of the output O(1). For one stack of N layers that is
    2 N · 2 β²/α² = 1; for the encoder of two, M layers of the decoder pass it on with β²/α each."""
    deep_norm = schemes.get("deep_norm")

    def gains(branch):
        init = deep_norm.initializer(Layer("hidden", 0, 9, 200, 200, branch))
        beta = float(np.asarray(init(KEY, (200, 200)), float).std() * 200**0.5)
        return deep_norm.residual(branch).skip, beta

    for n, m in ((6, 6), (100, 10)):
        alpha, beta = gains(Branch(0, 2 * n, 0, 2))
        assert 4 * n * beta**2 / alpha**2 == pytest.approx(1, rel=0.03)  # 4·10⁴ entries: 0.35 % on beta, twice
        alpha, beta = gains(Branch(0, 2 * n, 0, 2, "encoder", 3 * m))
        alpha_d, beta_d = gains(Branch(0, 3 * m, 0, 2, "decoder", 2 * n))
        assert m * beta_d**2 / alpha_d * 4 * n * beta**2 / alpha**2 == pytest.approx(
            1, rel=0.05
        )  # 0.81, 0.87: 2 digits


@pytest.mark.parametrize("name", ["fixup", "rezero", "skipinit"])
@pytest.mark.parametrize("length", [2, 3])
def test_residual_network_starts_at_the_identity(name, length):
    """A residual MLP written here: its trunk's Jacobian is exactly I; with Fixup's head the whole is exactly 0."""
    scheme, width, blocks = schemes.get(name), 12, 5
    block = scheme.residual(Branch(0, blocks, 0, length))

    def draw(role, i, branch=None, shape=(width, width)):
        layer = Layer(role, i, blocks * length + 2, *shape, branch)
        return scheme.initializer(layer)(jax.random.fold_in(KEY, i), shape)

    places = list(itertools.product(range(blocks), range(length)))
    ws = [draw("hidden", 1 + i, Branch(b, blocks, p, length)) for i, (b, p) in enumerate(places)]
    stem, head = draw("stem", 0), draw("head", blocks * length + 1, None, (width, 7))

    def trunk(x):
        for b in range(blocks):
            f = x
            for w in ws[b * length : (b + 1) * length]:
                f = jax.nn.relu(f) @ w
            x = block.skip * x + block.branch * f
        return x

    x = jax.random.normal(KEY, (width,))
    jacobian = jax.jacobian(trunk)(x)
    np.testing.assert_array_equal(jacobian, np.eye(width))
    whole = jax.jacobian(lambda x: trunk(x @ stem) @ head)(x)
    if name == "fixup":
        np.testing.assert_array_equal(whole, 0)
    else:
        assert np.abs(whole).max() > 0.1
    # the branches move as soon as training starts: the gradient of what closes them is not zero
    slope = jax.grad(lambda a: jnp.sum((jax.nn.relu(x) @ ws[0]) * a))(1.0)
    assert slope != 0


def test_mup_variances():
    for role, branch in (
        ("stem", None),
        ("hidden", None),
        ("hidden", Branch(0, 2, 1, 2)),
        ("query", Branch(0, 2, 0, 2)),
    ):
        holds("mup", role, branch, 1 / IN)
    holds("mup", "head", None, 1 / IN**2)
    holds("mup", "embedding", None, 1.0)


def test_mup_exponents_in_width():
    """Of networks as wide as their inputs and outputs: 1/width, of the head 1/width². A single layer is no head."""
    for width in (32, 96):
        net, single = (networks.mlp([width] * (1 + depth), "tanh", "mup") for depth in (3, 1))
        drawn = [np.asarray(layer.w, float) for layer in net.layers(net.init(KEY))]
        (only,) = single.layers(single.init(KEY))
        error = (2 / width**2) ** 0.5
        for w, power in zip([*drawn, np.asarray(only.w, float)], (1, 1, 2, 1), strict=True):
            assert (w**2).mean() * width**power == pytest.approx(1, abs=5 * error)


@pytest.mark.parametrize(("optimizer", "rates"), [("sgd", (4, 1, 0.25)), ("adam", (1, 0.25, 0.25))])
def test_mup_learning_rates(optimizer, rates):
    """Table 3 of arXiv:2203.03466, at four times the base width; at the base width all are 1."""
    for width, expected in ((256, rates), (64, (1, 1, 1))):
        plan = networks.mlp([8, width, width, 10], "tanh", "mup").plan
        assert [schemes.learning_rate(layer, optimizer, 64) for layer in plan] == pytest.approx(expected)
        biases = [schemes.learning_rate(layer, optimizer, 64, bias=True) for layer in plan]
        assert biases == pytest.approx([expected[0], expected[0], 1])
    assert schemes.learning_rate(networks.mlp([8, 10]).plan[0], optimizer, 64) == 1


def test_mup_updates_keep_their_size_in_width():
    """What the rates are for: after one step of SGD the change of the output is as large at width 512 as at 64, while
    with one rate for all layers and Gaussian weights it grows with width."""

    def outputs(ws, x):
        first = np.tanh(x @ ws[0])
        second = np.tanh(first @ ws[1])
        return first, second, (second @ ws[2])[0]

    def change(width, head_variance, rates):
        """Root mean square over 32 draws; the derivatives of (f(x) - 1)²/2 are written out."""
        rng, x, changes = np.random.default_rng(0), np.ones(8), []
        for _ in range(32):
            shapes = [(8, width, 1 / 8), (width, width, 1 / width), (width, 1, head_variance)]
            ws = [rng.standard_normal((n, m)) * variance**0.5 for n, m, variance in shapes]
            first, second, before = outputs(ws, x)
            head = (before - 1) * second[:, None]
            back = (before - 1) * ws[2][:, 0] * (1 - second**2)
            hidden = np.outer(first, back)
            stem = np.outer(x, (ws[1] @ back) * (1 - first**2))
            moved = [w - 0.01 * r * g for w, r, g in zip(ws, rates, (stem, hidden, head), strict=True)]
            changes.append(outputs(moved, x)[2] - before)
        return float(np.sqrt(np.mean(np.square(changes))))

    def of_mup(width):
        plan = networks.mlp([8, width, width, 1], "tanh", "mup", bias=False).plan
        return change(width, 1 / width**2, [schemes.learning_rate(layer, "sgd", 64) for layer in plan])

    assert of_mup(512) / of_mup(64) == pytest.approx(1, abs=0.35)
    assert change(512, 1 / 512, (1, 1, 1)) / change(64, 1 / 64, (1, 1, 1)) > 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda layer: schemes.learning_rate(layer, "adm", 64), r"learning_rate\(\): optimizer='adm'.*'adam'"),
        (lambda layer: schemes.learning_rate(layer, "sgd", 0), r"base_width=0 must be"),
    ],
)
def test_learning_rate_refuses(call, message):
    with pytest.raises(InputError, match=message):
        call(networks.mlp([4, 3]).plan[0])
