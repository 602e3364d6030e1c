"""Our laws against torch's: those committed in torch_laws.json, and torch itself where it is installed."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isometry import InputError, initializers
from isometry.initializers._layout import Layout

TORCH = json.loads(Path(__file__).with_name("torch_laws.json").read_text())
LAYOUT = {"in_axis": 1, "out_axis": 0}
EPS = float(np.finfo("float32").eps)
Z = 5  # a z-score reached by chance once in 2e6
TAIL = 17  # N draws leave a fraction 17/N of the law beyond their extreme with probability exp(-17) = 4e-8

DIRAC = pytest.mark.skipif(not hasattr(initializers, "dirac"), reason="initializers.dirac is not there yet")
SPARSE = pytest.mark.skipif(not hasattr(initializers, "sparse"), reason="initializers.sparse is not there yet")


def fans_of(shape):
    return Layout(**LAYOUT).fans(tuple(shape))


@pytest.mark.parametrize("name", TORCH["layers"])
def test_fans_and_layer_defaults(name):
    """torch's fans for every layer, transposed ones too; its default weights and biases fill our intervals."""
    layer = TORCH["layers"][name]
    assert fans_of(layer["shape"]) == (layer["fan_in"], layer["fan_out"])
    bound = 1 / math.sqrt(layer["fan_in"])
    drawn = 20_000 // math.prod(layer["shape"]) * math.prod(layer["shape"])
    assert bound * (1 - TAIL / drawn) <= layer["weight_max"] <= bound * (1 + EPS)
    assert bound * (1 - TAIL / layer["bias_count"]) <= layer["bias_max"] <= bound * (1 + EPS)
    bias = initializers.torch_default_bias(layer["fan_in"])(jax.random.key(0), (20_000,))
    assert bound * (1 - TAIL / 20_000) <= float(jnp.abs(bias).max()) <= bound * (1 + EPS)


@pytest.mark.parametrize(
    "case", TORCH["random"], ids=lambda case: f"{case['name']}-{case['arguments']}-{case['shape']}"
)
def test_torch_draws_our_law(case, law_of):
    """test_laws.py holds our draws to this law; here torch's are."""
    law = law_of(case["name"], *fans_of(case["shape"]), **case["arguments"])
    n, mean, std = case["count"], law.mean(), law.std()
    fourth = law.expect(lambda x: ((x - mean) / std) ** 4)
    assert abs(case["mean"] - mean) <= Z * std / math.sqrt(n)
    assert abs((case["std"] / std) ** 2 - 1) <= Z * math.sqrt((fourth - 1) / n)
    assert law.cdf(case["min"]) <= TAIL / n
    assert law.sf(case["max"]) <= TAIL / n
    low, high = law.support()
    assert low <= case["min"] <= case["max"] <= high


@pytest.mark.parametrize(("nonlinearity", "param", "gain"), TORCH["gains"])
def test_gain(nonlinearity, param, gain):
    assert initializers.calculate_gain(nonlinearity, param) == pytest.approx(gain, rel=2 * np.finfo(float).eps)


@pytest.mark.parametrize("param", [True, "0.2", 1j])
def test_a_slope_is_a_number(param):
    """As in torch: refused for leaky_relu, ignored otherwise."""
    with pytest.raises(InputError, match=r"calculate_gain\(\): param=.* is not a number"):
        initializers.calculate_gain("leaky_relu", param)
    assert initializers.calculate_gain("tanh", param) == 5 / 3


def test_kaiming_scale_is_its_gain():
    """The default a = 0 of kaiming_* and the default slope 0.01 of calculate_gain are torch's own inconsistency."""
    gains = {(name, param): gain for name, param, gain in TORCH["gains"]}
    assert gains["leaky_relu", 0] == math.sqrt(2)
    assert gains["leaky_relu", None] == pytest.approx(math.sqrt(2 / (1 + 0.01**2)), rel=2 * np.finfo(float).eps)
    assert gains["tanh", 0.2] == gains["tanh", None]


@pytest.mark.parametrize("case", TORCH["eye"], ids=lambda case: str(case["shape"]))
def test_eye(case):
    """Symmetric under transposition, so that the layout does not matter."""
    array = np.array(case["array"])
    assert np.array_equal(initializers.eye()(None, case["shape"]), array)
    assert np.array_equal(initializers.eye()(None, case["shape"][::-1]), array.T)


@DIRAC
@pytest.mark.parametrize("case", TORCH["dirac"], ids=lambda case: f"{case['shape']}-{case['groups']}")
def test_dirac(case):
    """torch's (out, in/groups, *window) array, moved to our (*window, in/groups, out)."""
    array = np.moveaxis(np.array(case["array"]), (0, 1), (-1, -2))
    assert np.array_equal(initializers.dirac(groups=case["groups"])(None, array.shape), array)


@SPARSE
@pytest.mark.parametrize("case", TORCH["sparse"], ids=lambda case: f"{case['shape']}-{case['sparsity']}")
def test_sparse(case):
    """torch zeroes ceil(sparsity * out) of each input's connections; in our (in, out) layout these are rows."""
    out, inputs = case["shape"]
    w = np.asarray(initializers.sparse(case["sparsity"], case["std"])(jax.random.key(0), (inputs, out)))
    assert case["zeros_per_column"] == [math.ceil(case["sparsity"] * out)]
    assert {int(n) for n in (w == 0).sum(1)} == set(case["zeros_per_column"])


@pytest.mark.parametrize("case", TORCH["orthogonal"], ids=lambda case: str(case["shape"]))
def test_orthogonal(case):
    """torch flattens all but the first axis; so do we with in_axis=1, out_axis=0. Within 10 eps √n of the gain."""
    shape = case["shape"]
    w = initializers.orthogonal(case["gain"], in_axis=1, out_axis=0)(jax.random.key(0), shape)
    s = np.linalg.svd(np.asarray(w, float).reshape(shape[0], -1), compute_uv=False)
    tolerance = 10 * EPS * math.sqrt(math.prod(shape)) * case["gain"]
    assert np.allclose(s, [case["smallest"]] * s.size, rtol=0, atol=tolerance)
    assert case["smallest"] == pytest.approx(
        case["largest"], rel=10 * np.finfo(float).eps * math.sqrt(math.prod(shape))
    )


class TestLive:
    """The installed torch still says what the committed file says."""

    def test_fans_and_gains(self):
        torch = pytest.importorskip("torch")
        for layer in TORCH["layers"].values():
            assert torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(layer["shape"])) == fans_of(layer["shape"])
        for nonlinearity, param, _ in TORCH["gains"]:
            theirs = torch.nn.init.calculate_gain(nonlinearity, param)
            assert initializers.calculate_gain(nonlinearity, param) == pytest.approx(theirs, rel=1e-15)

    @pytest.mark.parametrize("index", range(len(TORCH["random"])))
    def test_two_samples_are_of_one_law(self, index):
        """Kolmogorov–Smirnov on as many draws of ours as of torch's, at the level 1e-6."""
        torch = pytest.importorskip("torch")
        from scipy import stats

        case = TORCH["random"][index]
        name, arguments, shape = case["name"], case["arguments"], case["shape"]
        names = {"truncated_normal": "trunc_normal_", "torch_default": "kaiming_uniform_"}
        passed = {{"low": "a", "high": "b", "lower": "a", "upper": "b"}.get(k, k): v for k, v in arguments.items()}
        passed |= {"a": math.sqrt(5)} if name == "torch_default" else {}
        fill = getattr(torch.nn.init, names.get(name, f"{name}_"))
        torch.manual_seed(1)
        copies = 20_000 // math.prod(shape)
        theirs = torch.cat([fill(torch.empty(shape), **passed).flatten() for _ in range(copies)]).numpy()
        batched = {"in_axis": 2, "out_axis": 1, "batch_axis": 0} if _takes_axes(name) else {}
        ours = getattr(initializers, name)(**arguments, **batched)(jax.random.key(1), (copies, *shape))
        assert stats.ks_2samp(np.asarray(ours).ravel(), theirs).pvalue >= 1e-6

    def test_exact_arrays(self):
        torch = pytest.importorskip("torch")
        for case in TORCH["eye"]:
            assert torch.nn.init.eye_(torch.empty(case["shape"])).tolist() == case["array"]
        for case in TORCH["dirac"]:
            assert torch.nn.init.dirac_(torch.empty(case["shape"]), case["groups"]).tolist() == case["array"]

    def test_what_torch_refuses_we_refuse(self):
        torch = pytest.importorskip("torch")
        for call, ours in (
            (lambda: torch.nn.init.xavier_uniform_(torch.empty(3)), lambda: initializers.xavier_uniform()(KEY, (3,))),
            (lambda: torch.nn.init.calculate_gain("gelu"), lambda: initializers.calculate_gain("gelu")),
            (
                lambda: torch.nn.init.kaiming_normal_(torch.empty(3, 3), mode="fan_avg"),
                lambda: initializers.kaiming_normal(mode="fan_avg"),
            ),
        ):
            with pytest.raises(ValueError):  # noqa: PT011 - torch's texts are its own
                call()
            with pytest.raises(InputError):
                ours()


KEY = jax.random.key(0)


def _takes_axes(name):
    return name not in ("uniform", "normal", "truncated_normal")
