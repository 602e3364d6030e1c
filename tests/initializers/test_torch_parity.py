"""Our laws against torch's: those in torch_laws.json, and an installed torch."""

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy import integrate, stats

from isometry import InputError, initializers
from tests.initializers.drawing import draw_together

TORCH = json.loads(Path(__file__).with_name("torch_laws.json").read_text())
KEY = jax.random.key(0)
LAYOUT = {"in_axis": 1, "out_axis": 0}
FLOAT32_EPS = float(np.finfo("float32").eps)
FLOAT64_EPS = float(np.finfo("float64").eps)
Z = 5  # a z-score reached by chance once in 2e6
# N draws leave a fraction 17/N of the law beyond their extreme with probability 4e-8.
TAIL = 17


def fans_in_torch_layout(shape):
    """Count inputs and outputs of a weight (out, in, *window), times the window."""
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


@pytest.mark.parametrize("name", TORCH["layers"])
def test_our_fans_are_torchs_for_every_layer(name):
    """Transposed and grouped ones too: without `groups` we count as torch does."""
    layer = TORCH["layers"][name]
    shape = tuple(layer["shape"])
    assert fans_in_torch_layout(shape) == (layer["fan_in"], layer["fan_out"])
    for mode in ("fan_in", "fan_out"):
        init = initializers.kaiming_uniform(mode=mode, **LAYOUT)
        assert init.largest(shape) == pytest.approx(math.sqrt(6 / layer[mode]))


@pytest.mark.parametrize("name", TORCH["layers"])
def test_torch_layers_fill_our_default_intervals(name):
    layer = TORCH["layers"][name]
    bound = initializers.torch_default(**LAYOUT).largest(tuple(layer["shape"]))
    assert bound == pytest.approx(1 / math.sqrt(layer["fan_in"]))
    num_entries = math.prod(layer["shape"])
    num_drawn = 20_000 // num_entries * num_entries
    assert bound * (1 - TAIL / num_drawn) <= layer["weight_max"]
    assert layer["weight_max"] <= bound * (1 + FLOAT32_EPS)
    assert bound * (1 - TAIL / layer["bias_count"]) <= layer["bias_max"]
    assert layer["bias_max"] <= bound * (1 + FLOAT32_EPS)


def case_name(case):
    return f"{case['name']}-{case['arguments']}-{case['shape']}"


@pytest.mark.parametrize("case", TORCH["random"], ids=case_name)
def test_torch_draws_our_law(case, law_of):
    """test_laws.py holds our draws to this law; here torch's are."""
    fans = fans_in_torch_layout(case["shape"])
    law = law_of(case["name"], *fans, **case["arguments"])
    count, mean, std = case["count"], law.mean(), law.std()
    fourth = law.expect(lambda x: ((x - mean) / std) ** 4)
    assert abs(case["mean"] - mean) <= Z * std / math.sqrt(count)
    assert abs((case["std"] / std) ** 2 - 1) <= Z * math.sqrt((fourth - 1) / count)
    assert law.cdf(case["min"]) <= TAIL / count
    assert law.sf(case["max"]) <= TAIL / count
    low, high = law.support()
    assert low <= case["min"] <= case["max"] <= high


# --- gains ----------------------------------------------------------------------------


@pytest.mark.parametrize(("nonlinearity", "param", "gain"), TORCH["gains"])
def test_gain_is_torchs(nonlinearity, param, gain):
    ours = initializers.calculate_gain(nonlinearity, param)
    assert ours == pytest.approx(gain, rel=2 * FLOAT64_EPS)


@pytest.mark.parametrize("param", [True, "0.2", 1j, [1], {"a": 1}])
def test_slope_that_is_no_number_is_refused_for_leaky_relu_alone(param):
    """torch ignores the slope of every other nonlinearity."""
    with pytest.raises(
        InputError, match=r"calculate_gain\(\): param=.* is not a number"
    ):
        initializers.calculate_gain("leaky_relu", param)
    assert initializers.calculate_gain("tanh", param) == 5 / 3


@pytest.mark.parametrize("nonlinearity", ["swish", "xyzzy", ""])
def test_nonlinearity_that_torch_does_not_know_is_refused(nonlinearity):
    with pytest.raises(InputError, match=rf"nonlinearity='{nonlinearity}'.*leaky_relu"):
        initializers.calculate_gain(nonlinearity)


def test_tanh_gain_keeps_the_variance_where_gradients_grow():
    """At q = 1.18, as the docstring says; integrals by SciPy's quadrature."""
    q = 1.1785

    def variance(z):
        return np.tanh(q**0.5 * z) ** 2 * stats.norm.pdf(z)

    def squared_slope(z):
        return np.cosh(q**0.5 * z) ** -4 * stats.norm.pdf(z)

    gain = initializers.calculate_gain("tanh")
    kept = gain**2 * integrate.quad(variance, -10, 10)[0]
    growth = gain**2 * integrate.quad(squared_slope, -10, 10)[0]
    # The digits that are written.
    assert kept == pytest.approx(q, abs=1e-4)
    assert growth == pytest.approx(1.21, abs=0.005)


def test_default_slopes_differ_as_in_torch():
    """a = 0 of kaiming_* and 0.01 of calculate_gain are torch's own inconsistency."""
    gains = {(name, param): gain for name, param, gain in TORCH["gains"]}
    assert gains["leaky_relu", 0] == math.sqrt(2)
    default = math.sqrt(2 / (1 + 0.01**2))
    assert gains["leaky_relu", None] == pytest.approx(default, rel=2 * FLOAT64_EPS)
    assert gains["tanh", 0.2] == gains["tanh", None]


# --- exact arrays ---------------------------------------------------------------------


@pytest.mark.parametrize("case", TORCH["eye"], ids=lambda case: str(case["shape"]))
def test_eye_is_torchs(case):
    """Symmetric under transposition, so that the layout does not matter."""
    array = np.array(case["array"])
    np.testing.assert_array_equal(initializers.eye()(None, case["shape"]), array)
    np.testing.assert_array_equal(
        initializers.eye()(None, case["shape"][::-1]), array.T
    )


def test_dirac_is_torchs_in_every_group():
    """torch's (out, in/groups, *window) arrays, moved to (*window, in/groups, out)."""
    arrays, cases = {}, {}
    for case in TORCH["dirac"]:
        array = np.moveaxis(np.array(case["array"]), (0, 1), (-1, -2))
        name = f"{case['shape']}, {case['groups']}"
        arrays[name] = array
        cases[name] = (initializers.dirac(groups=case["groups"]), array.shape)
    for name, kernel in draw_together(cases, KEY).items():
        np.testing.assert_array_equal(kernel, arrays[name])


# --- sparse and orthogonal ------------------------------------------------------------


@pytest.mark.parametrize(
    "case", TORCH["sparse"], ids=lambda case: str(case["sparsity"])
)
def test_torch_zeroes_the_fraction_of_each_column_that_we_do(case):
    """test_sparse.py holds our draws to this number of zeros."""
    num_outputs = case["shape"][0]
    expected = math.ceil(case["sparsity"] * num_outputs)
    assert case["zeros_per_column"] == [expected]


def test_orthogonal_flattens_as_torch_does():
    """torch flattens all but the first axis; so do we with in_axis=1, out_axis=0."""
    cases = {}
    for case in TORCH["orthogonal"]:
        init = initializers.orthogonal(case["gain"], **LAYOUT)
        cases[str(case["shape"])] = (init, case["shape"])
    drawn = draw_together(cases, KEY)
    for case in TORCH["orthogonal"]:
        weight = drawn[str(case["shape"])].astype(np.float64)
        s = np.linalg.svd(weight.reshape(case["shape"][0], -1), compute_uv=False)
        roundings = 10 * math.sqrt(weight.size)
        np.testing.assert_allclose(s, case["smallest"], rtol=roundings * FLOAT32_EPS)
        largest = pytest.approx(case["largest"], rel=roundings * FLOAT64_EPS)
        assert case["smallest"] == largest


# --- the installed torch still says what the file says --------------------------------


def test_installed_torch_has_the_fans_and_gains_of_the_file():
    torch = pytest.importorskip("torch")
    for layer in TORCH["layers"].values():
        weight = torch.empty(layer["shape"])
        theirs = torch.nn.init._calculate_fan_in_and_fan_out(weight)
        assert theirs == fans_in_torch_layout(layer["shape"])
    for nonlinearity, param, _ in TORCH["gains"]:
        theirs = torch.nn.init.calculate_gain(nonlinearity, param)
        ours = initializers.calculate_gain(nonlinearity, param)
        assert ours == pytest.approx(theirs, rel=1e-15)


@pytest.mark.parametrize("case", TORCH["random"], ids=case_name)
def test_draws_of_installed_torch_and_ours_are_of_one_law(case):
    """Kolmogorov–Smirnov on as many draws of ours as of torch's."""
    torch = pytest.importorskip("torch")
    name, arguments, shape = case["name"], case["arguments"], case["shape"]
    num_copies = 20_000 // math.prod(shape)
    fill = getattr(torch.nn.init, torch_name(name))
    torch.manual_seed(1)
    theirs = [
        fill(torch.empty(shape), **torch_arguments(name, arguments)).flatten()
        for _ in range(num_copies)
    ]
    stacked = {}
    if name not in ("uniform", "normal", "truncated_normal"):
        stacked = {"in_axis": 2, "out_axis": 1, "batch_axis": 0}
    init = getattr(initializers, name)(**arguments, **stacked)
    ours = np.asarray(init(jax.random.key(1), (num_copies, *shape)))
    theirs = torch.cat(theirs).numpy()
    assert stats.ks_2samp(ours.ravel(), theirs).pvalue >= 1e-6


def torch_name(name):
    other = {"truncated_normal": "trunc_normal_", "torch_default": "kaiming_uniform_"}
    return other.get(name, f"{name}_")


def torch_arguments(name, arguments):
    """The arguments by torch's names; a = sqrt(5) is the default of its layers."""
    other = {"low": "a", "high": "b", "lower": "a", "upper": "b"}
    renamed = {other.get(word, word): value for word, value in arguments.items()}
    if name == "torch_default":
        renamed["a"] = math.sqrt(5)
    return renamed


def test_installed_torch_has_the_exact_arrays_of_the_file():
    torch = pytest.importorskip("torch")
    for case in TORCH["eye"]:
        weight = torch.empty(case["shape"])
        assert torch.nn.init.eye_(weight).tolist() == case["array"]
    for case in TORCH["dirac"]:
        weight = torch.empty(case["shape"])
        filled = torch.nn.init.dirac_(weight, case["groups"])
        assert filled.tolist() == case["array"]


def test_installed_torch_refuses_what_we_refuse():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError):  # noqa: PT011 - torch's texts are its own
        torch.nn.init.xavier_uniform_(torch.empty(3))
    with pytest.raises(ValueError):  # noqa: PT011
        torch.nn.init.calculate_gain("gelu")
    with pytest.raises(ValueError):  # noqa: PT011
        torch.nn.init.kaiming_normal_(torch.empty(3, 3), mode="fan_avg")
    with pytest.raises(ValueError):  # noqa: PT011
        torch.nn.init.eye_(torch.empty(3))
